"""Replay the steps of `fit` as CUDA graphs where shapes repeat and the device gains by it.

A step is recorded in two parts, as `capture` records one: gradients and measurements, and then
clipping and the update. In between, the host reads the loss, so that a NaN ends the run before it
reaches the weights, as in an ordinary step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidl.functional.loss import noted
from minidl.optim import Optimizer, clip_grad_norm_
from minidl.random import generator, restore, state_of, streams
from minidl.tensor import Tensor
from minidl.tensor.rows import RowGradient
from minidl.training.capture import MOST, RUNS_BEFORE, Key, _kind, _own
from minidl.training.evaluation import Totals, measures, with_divisor
from minidl.training.run import Run
from minidl.training.warnings import warn

TIMED = 5  # ordinary steps, and then replayed ones, whose median times are compared
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


@dataclass
class Trial:
    """What is known of the steps with batches of one shape.

    Attributes:
        count: ordinary steps so far that were not the last of an epoch.
        ordinary: seconds of such steps, once kernels are compiled.
        replayed: seconds of replayed steps.
        replay: the recording, if there is one.
        is_over: whether it is decided which steps follow.
    """

    count: int = 0
    ordinary: list[float] = field(default_factory=list)
    replayed: list[float] = field(default_factory=list)
    replay: Replay | None = None
    is_over: bool = False


class ReplayingRun(Run):
    """A `Run` on one device that can record: it replays steps whose shapes repeat.

    After two steps with batches of the same shapes, five are timed. The next one is recorded; then
    five replayed steps are timed, and the faster way stays. The last batch of an epoch, which may
    be smaller, is not counted. A recording assumes that layers, their attributes and the arrays of
    all tensors stay: these are compared at the start of each epoch, since callbacks may change
    them, and recorded anew if they have changed. Steps that change them are not recorded.

    Args:
        parts: the arguments of `Run`.

    Attributes:
        is_timed: False replays without comparing times.
        why_not: why no step is replayed, or "".
        step_ms: by shapes, the median milliseconds of an ordinary step and of a replayed one.
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.is_timed, self.why_not = True, _cannot(self.optimizer)
        self.step_ms: dict[str, tuple[float, float]] = {}
        self._trials: dict[Key, Trial] = {}
        self._is_at_start = True  # of an epoch
        self._assumed: dict[str, Any] = {}
        self._notes: list[str] = []

    def refuse(self, reason: str) -> None:
        """Replay nothing from now on, and warn."""
        self.why_not, self._trials = reason, {}
        warn(
            f"fit: steps are not replayed as CUDA graphs but run in Python, because {reason}; "
            "capture=False does not try, and does not warn"
        )

    def steps(self) -> Iterator[None]:
        """Take the remaining steps of an epoch; yield after each."""
        self._is_at_start = True
        yield from super().steps()

    def end_epoch(
        self, patience: int | None = None, callbacks: Sequence[Callable[[Run], object]] = ()
    ) -> None:
        """As in `Run`; say first which steps were faster."""
        notes, self._notes = self._notes, []
        self.say("\n".join(notes))
        super().end_epoch(patience, callbacks)

    def _step(self, batches: list[tuple[Tensor, ...]]) -> None:
        trial = None if self.why_not or len(batches) > 1 else self._trial(batches[0])
        if trial is None:
            super()._step(batches)
            return
        is_counted = self.batch + 1 < len(self.train) or len(self.train) == 1
        started, was_replayed = time.perf_counter(), trial.replay is not None
        if trial.replay is not None:
            self._replayed(trial.replay.gradients, trial.replay.update, batches[0])
        elif not trial.is_over and is_counted and self._is_due(trial):
            self._recorded(trial, batches[0])
            return
        else:
            super()._step(batches)
        seconds = time.perf_counter() - started
        if not trial.is_over and is_counted:
            self._count(trial, was_replayed, seconds, batches[0])

    def _trial(self, batch: tuple[Tensor, ...]) -> Trial | None:
        """Return what is known of these shapes, unless they cannot be recorded."""
        if self._is_at_start:
            self._is_at_start, now = False, _assumed(self)
            if self._assumed and _differing(self._assumed, now):
                self._trials = {}
            self._assumed = now
        if len({x.backend for x in batch}) > 1 or not batch[0].backend.records:
            return None
        key = tuple(map(_kind, batch))
        if key not in self._trials and len(self._trials) >= MOST:
            return None
        return self._trials.setdefault(key, Trial())

    def _is_due(self, trial: Trial) -> bool:
        return trial.count >= RUNS_BEFORE + (TIMED if self.is_timed else 0)

    def _count(
        self, trial: Trial, was_replayed: bool, seconds: float, batch: tuple[Tensor, ...]
    ) -> None:
        """Note the time of a step; after the last timed one, keep the faster way."""
        if not was_replayed:
            trial.count += 1
            trial.ordinary += [seconds] * (trial.count > RUNS_BEFORE)
            return
        trial.replayed.append(seconds)
        if len(trial.replayed) < TIMED:
            return
        shapes = ", ".join(str(x.shape) for x in batch)
        ms = [1e3 * statistics.median(times) for times in (trial.ordinary, trial.replayed)]
        self.step_ms[shapes], trial.is_over = (ms[0], ms[1]), True
        if ms[1] >= ms[0]:
            trial.replay = None
        kept = "replayed" if trial.replay else "ordinary"
        self._notes.append(
            f"a step with batches {shapes} takes {ms[0]:.2f} ms, replayed as a CUDA graph "
            f"{ms[1]:.2f} ms: {kept} steps from now on"
        )

    def _recorded(self, trial: Trial, batch: tuple[Tensor, ...]) -> None:
        """Do a step while recording it; if that fails, do it in Python, from now on too."""
        reason = _reason(self, self._assumed)
        replay = Replay(self, batch)
        states = [state_of(stream) for stream in replay.streams]
        if not reason:
            try:
                replay.record_gradients()
            except Exception as error:
                reason = str(error)
                restore(replay.streams, states)
        if reason:
            self.refuse(reason)
            super()._step([batch])
            return
        self._replayed(replay.read, lambda: self._recorded_update(replay), batch)
        if not self.why_not:
            trial.replay, trial.is_over = replay, not self.is_timed

    def _recorded_update(self, replay: Replay) -> None:
        try:
            replay.record_update()
        except Exception as error:
            self.refuse(str(error))
            replay.plain_update()

    def _replayed(
        self,
        gradients: Callable[[tuple[Tensor, ...]], tuple[list[Any], list[Any], Tensor]],
        update: Callable[[], None],
        batch: tuple[Tensor, ...],
    ) -> None:
        """Do what `Run._step` does with one batch, by means of recordings."""
        step = Totals()
        self.watch.before_batch(self)
        measured, extra, loss = gradients(batch)
        for totals in (self.totals, step):
            totals.add(len(batch[-1]), *measured)
        self.watch.after_backward(self, batch, loss, [measured[0], *extra])
        self.batch += 1
        update()
        if self.schedule is not None and self.every_step:
            self.schedule.step()
        self.history.step_losses.append(step.mean_loss())


class Replay:
    """A recorded step, with its own batch.

    Args:
        run: the run.
        batch: gives the shapes.

    Attributes:
        streams: the random streams that a step may draw from.
    """

    def __init__(self, run: Run, batch: tuple[Tensor, ...]) -> None:
        self._run, self._own = run, [_own(x) for x in batch]
        self._backend: Any = batch[0].backend
        self.streams = streams(generator(), run.model, run.loss)
        self._numbers: list[Any] = []
        self._measures = 0  # how many of the numbers are arguments of `Totals.add`
        self._makes: list[Callable[[], Any]] = []
        self._grads: list[tuple[Tensor, Tensor | None]] = []
        self.update: Callable[[], None] = self.plain_update  # a replay, once recorded

    def record_gradients(self) -> None:
        """Record the first part, and do it once.

        Raises:
            RuntimeError: it cannot be repeated without Python. Nothing was done on the device,
                unless it draws random numbers on the host that a repetition would not draw.
        """
        before = [state_of(stream) for stream in self.streams]
        self._again = self._backend.record(self._gradients)
        after = [state_of(stream) for stream in self.streams]
        restore(self.streams, before)
        for make in self._makes:
            make()
        drawn = [state_of(stream) for stream in self.streams]
        if str(drawn) != str(after):
            raise RuntimeError(
                "the step draws random numbers in Python, such as those that decide which layers "
                "run, and a replay would repeat the decision"
            )
        self._grads = [(p, p.grad) for p in self._run.trained.parameters()]

    def _gradients(self) -> None:
        run, (*inputs, labels) = self._run, self._own
        self._makes = self._backend._recording.makes
        run.optimizer.zero_grad()
        outputs = run.model(*inputs)
        with noted() as found:
            loss = run.loss(outputs, labels)
        reduced = with_divisor(loss, found, labels)
        loss.backward()
        numbers = measures(reduced, outputs, labels)
        self._loss, self._measures = loss.detach(), len(numbers)
        self._numbers = [*numbers, *run.watch.extra_values(run)]
        arrays = [x.astype(np.float64).reshape(()) for x in self._numbers if hasattr(x, "astype")]
        self._together = self._backend.xp.stack(arrays)

    def gradients(self, batch: tuple[Tensor, ...]) -> tuple[list[Any], list[Any], Tensor]:
        """Compute the gradients of a batch; return the arguments of `Totals.add`, and others."""
        for place, value in zip(self._own, batch, strict=True):
            with place.mutable() as array:
                array[...] = value.array
        self._again()
        for parameter, gradient in self._grads:
            if parameter.grad is not gradient:  # after an ordinary step
                parameter.grad = gradient
        return self.read(batch)

    def read(self, batch: tuple[Tensor, ...]) -> tuple[list[Any], list[Any], Tensor]:
        """Return the last results, as `gradients` does."""
        values = iter(self._backend.to_numpy(self._together).tolist())
        found = [next(values) if hasattr(x, "astype") else x for x in self._numbers]
        return found[: self._measures], found[self._measures :], self._loss

    def record_update(self) -> None:
        """Record the second part, and do it once."""
        self.update = self._backend.record(self.plain_update)

    def plain_update(self) -> None:
        """Clip the gradients and update the weights, in Python."""
        if self._run.clip_norm is not None:
            clip_grad_norm_(self._run.trained.parameters(), self._run.clip_norm)
        self._run.optimizer.step()


# What a recording assumes ---------------------------------------------------------------------


def _cannot(optimizer: Optimizer) -> str:
    """Return why an optimiser's steps cannot be recorded on any device, or ""."""
    if type(optimizer).step is not Optimizer.step:
        return f"{type(optimizer).__name__} defines step itself"
    if optimizer._kernel is None:
        return f"there is no kernel for {type(optimizer).__name__}"
    return ""


def _reason(run: Run, assumed: dict[str, Any]) -> str:
    """Return why the steps so far cannot be repeated without Python, or ""."""
    rows = [n for n, g in run.model.named_gradients() if isinstance(g, RowGradient)]
    if rows:
        return f"the gradient of {rows[0]} has rows, whose updates a replay would not count"
    changed = _differing(assumed, _assumed(run))
    return f"a step changes {changed}, which a replay would not do" if changed else ""


def _assumed(run: Run) -> dict[str, Any]:
    """Return, by name, all that a recording assumes to stay as it is."""
    found: dict[str, Any] = {"clip_norm": run.clip_norm}
    for i, group in enumerate(run.optimizer.param_groups):
        flags = [value for value in group.values() if isinstance(value, bool)]
        _flatten(f"option group {i}", [*run.optimizer.keeps(group), *flags], found)
    for name, module in run.trained.named_modules():
        for key, value in vars(module).items():
            _flatten(f"{name}.{key}".strip("."), value, found)
    for name, tensor in (*run.trained.named_parameters(), *run.trained.named_buffers()):
        found |= {f"{name}'s array": tensor.array, f"{name}'s flag": tensor.requires_grad}
    return found


def _flatten(name: str, value: Any, found: dict[str, Any]) -> None:
    """Note plain values and the identity of other objects, within containers too."""
    if type(value) in (list, tuple):
        value = dict(enumerate(value))
    if type(value) is not dict:
        found[name] = value
        return
    found[f"the length of {name}"] = len(value)
    for key, item in value.items():
        _flatten(f"{name}[{key!r}]", item, found)


def _differing(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return the name of something that has changed, or ""."""
    for name in before.keys() | now.keys():
        one, other = (found.get(name, ...) for found in (before, now))
        alike = type(one) is type(other) and type(one) in _PLAIN and one == other
        if one is not other and not alike:
            return name
    return ""
