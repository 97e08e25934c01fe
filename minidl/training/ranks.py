"""A training run on several ranks: each has its share of every batch; rank 0 prints and saves.

All ranks take the same steps, so they must agree on every decision, such as to stop or to save. The
requests of the ranks are added up together with their losses, once per step.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from minidl.data import DataLoader
from minidl.distributed import DataParallel, RanksDifferError, World
from minidl.functional.loss import Reduced, noted
from minidl.random import generator, restore, state_of, streams
from minidl.tensor import Tensor
from minidl.training.evaluation import Totals
from minidl.training.keeper import Keeper, naming, state_of_run
from minidl.training.run import Run
from minidl.training.warnings import Diagnosis, all_finite, first_bad_operation

T = TypeVar("T")
ALIKE = 1e-4  # ranks may round differently; relative
ERRORS = {kind.__name__: kind for kind in (BlockingIOError, OSError, TypeError, ValueError)}


def check_world(world: World | None, train: DataLoader, validation: DataLoader | None) -> None:
    """Raise ValueError unless the loaders share their batches among the ranks of `fit`."""
    for loader, is_needed in ((train, True), (validation, False)):
        given = getattr(loader, "world", None)
        size = 1 if world is None else world.size
        if given is not None and given.size != size:
            raise ValueError(
                f"fit: got a DataLoader for {given.size} ranks, but world={world}; expected the "
                "same: fit(..., world=world)"
            )
        if given is None and size > 1 and is_needed and isinstance(loader, DataLoader):
            raise ValueError(
                f"fit: got {size} ranks, and a DataLoader that gives each of them all examples; "
                "expected DataLoader(..., world=world)"
            )


class RankRun(Run):
    """A `Run` in which this rank trains on its shares; totals and losses are over all ranks.

    Args:
        world: the ranks.
        parts: the arguments of `Run`.

    Attributes:
        parallel: adds up gradients, while `connected`.
        asks: returns this rank's requests: the signal to stop for, or 0, and whether to save.
        decided: the same two, as all ranks have decided after the last step or epoch.
    """

    watch: RankDiagnosis
    parallel: DataParallel

    def __init__(self, world: World, *parts: Any) -> None:
        super().__init__(*parts)
        self.world, self._has_sums = world, False
        self.asks: Callable[[], tuple[int, bool]] = lambda: (0, False)
        self.decided = (0, False)
        self.watch = RankDiagnosis(self)

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Add up the gradients of all ranks in a `with` block."""
        given = [one for one in self.world.listeners if one.model is self.model]
        self.parallel = given[0] if given else DataParallel(self.trained, self.world)
        try:
            yield
        finally:
            if not given:
                self.parallel.close()

    def average_buffers(self) -> None:
        """Give all ranks the same running statistics; see `DataParallel.average_buffers`."""
        if any(True for _ in self.parallel.model.named_buffers()):
            self.parallel.average_buffers()

    # A step ---------------------------------------------------------------------------------------

    def _add_gradients(self, batches: Sequence[tuple[Tensor, ...]]) -> tuple[Totals, bool]:
        whole, self.totals, self._has_sums = self.totals, Totals(), False
        try:
            for batch in batches:
                is_last = batch is batches[-1]
                with contextlib.nullcontext() if is_last else self.parallel.no_sync():
                    self._backward(batch, Totals(), True)
                self.batch += 1
            own = self.totals
        finally:
            self.totals = whole
        return self._of_all_ranks(own, batches), True

    def _backward(self, batch: tuple[Tensor, ...], step: Totals, is_part: bool) -> None:
        """Add the gradients of a share. With an empty one, too, layers exchange their values."""
        if len(batch[-1]):
            super()._backward(batch, step, is_part)
            return
        self.watch.before_batch(self)
        self.world.part(zero_of(self.model(*batch[:-1]))).backward()

    def _part(self, reduced: Reduced, is_part: bool) -> Tensor:
        self._has_sums |= reduced.divisor is None
        return self.world.part(super()._part(reduced, is_part))

    def repeat(self, batches: Sequence[tuple[Tensor, ...]]) -> None:
        """Compute gradients of this rank's shares again, without adding those of other ranks."""
        self.parallel.model.zero_grad()
        for *inputs, labels in batches:
            outputs = self.model(*inputs)
            with noted(), self.parallel.no_sync():
                loss = self.loss(outputs, labels) if len(labels) else zero_of(outputs)
                self.world.part(loss).backward()

    def _of_all_ranks(self, own: Totals, batches: Sequence[tuple[Tensor, ...]]) -> Totals:
        """Return the totals of a step over all ranks, and set `decided`.

        Raises:
            FloatingPointError: a rank's loss or gradient is not finite; raised on every rank.
        """
        stop, is_due = self.asks()
        asked = [stop == signal.SIGINT, stop == signal.SIGTERM, is_due, self.watch.is_bad]
        numbers = [own.loss, own.weight, own.seen, own.right, own.labels, self._has_sums]
        note = np.array([*numbers, *asked], np.float64)
        notes = self.world.agree("a step of fit", note.tobytes()).tobytes()
        sums = np.frombuffer(notes).reshape(-1, note.size).sum(0).tolist()
        loss, weight, seen, right, labels, has_sums, *decided, bad = sums
        if bad:
            self.watch.explain(self, batches, own.loss)
        self.decided = _decided(*decided)
        step, mean = Totals(), loss / weight if weight and not has_sums else loss
        for totals in (self.totals, step):
            totals.add(int(seen), mean, None if has_sums else weight, right, labels)
        self.watch.after_step(self, step.mean_loss())
        return step

    # An epoch -------------------------------------------------------------------------------------

    def end_epoch(
        self, patience: int | None = None, callbacks: Sequence[Callable[[Run], object]] = ()
    ) -> None:
        """As in `Run`; any rank may end the run.

        Raises:
            ValueError: the ranks' weights, or options of their optimisers, no longer agree.
        """
        self.average_buffers()
        super().end_epoch(patience, callbacks)
        stop, is_due = self.asks()
        asked = [stop == signal.SIGINT, stop == signal.SIGTERM, is_due, self.is_finished]
        *decided, finished = self.world.all_reduce([int(one) for one in asked])
        self.decided, self.is_finished = _decided(*decided), finished > 0
        _check_replicas(self.world.all_gather(_replica(self)))


def zero_of(outputs: Any) -> Tensor:
    """Return 0, computed from all outputs of a network, so that `backward` reaches all layers."""
    if isinstance(outputs, Tensor):
        return outputs.sum() * 0
    inner = outputs.values() if isinstance(outputs, Mapping) else outputs
    first, *others = (zero_of(output) for output in inner)
    return sum(others, first)


def _decided(interrupted: float, ended: float, is_due: float) -> tuple[int, bool]:
    stop = signal.SIGTERM if ended else signal.SIGINT if interrupted else 0
    return int(stop), is_due > 0


def _replica(run: RankRun) -> dict[str, Any]:
    """Return, by name, options and sums of weights, which must agree on all ranks."""
    found: dict[str, Any] = {}
    for i, group in enumerate(run.optimizer.param_groups):
        found |= {f"{n} of group {i}": str(v) for n, v in group.items() if n != "params"}
    for name, p in run.parallel.model.named_parameters():
        array = p.array.astype(np.float64)
        number = p.backend.number
        found[name] = [number(array.sum()), number(abs(array).sum())]
    return found


def _check_replicas(replicas: Sequence[Mapping[str, Any]]) -> None:
    """Raise the same ValueError on every rank if replicas differ by more than rounding."""
    for rank, replica in enumerate(replicas):
        for name, value in replicas[0].items():
            if not _alike(value, replica.get(name)):
                raise RanksDifferError(
                    f"fit: after the epoch, {name} is {_shown(replica.get(name))} on rank {rank}, "
                    f"but {_shown(value)} on rank 0; expected the same. Has a callback changed it "
                    "on some ranks only, or do custom layers or updates draw random numbers?"
                )


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, str) or not isinstance(b, list):
        return bool(a == b)
    scale = ALIKE * a[1]
    close = [math.isclose(x, y, rel_tol=ALIKE, abs_tol=scale) for x, y in zip(a, b, strict=True)]
    return all(close) or not math.isfinite(sum(a) + sum(b))


def _shown(value: Any) -> str:
    return f"an array of sum {value[0]:.6g}" if isinstance(value, list) else str(value)


class RankDiagnosis(Diagnosis):
    """A `Diagnosis` of the losses of all ranks: rank 0 warns, and all raise the same error.

    Attributes:
        is_bad: whether a loss or a gradient of this rank was not finite in the current step.
    """

    def __init__(self, run: RankRun) -> None:
        self._is_looking, self._is_first, self._classes = run.world.rank == 0, False, 0
        if self._is_looking:
            super().__init__(run)
        self._drawn = streams(generator(), run.model, run.loss)
        self._states: list[Any] = []  # before the step
        self.is_bad = False

    def before_batch(self, run: Run) -> None:
        """Save the random state, so that the step can be repeated."""
        if not self._states:
            super().before_batch(run)

    def after_forward(self, run: Run, batch: tuple[Tensor, ...], outputs: Any) -> None:
        """On rank 0, check its share of the first batch, and all labels."""
        if self._is_looking:
            super().after_forward(run, batch, outputs)
        self._is_looking = False

    def after_backward(
        self, run: Run, batch: tuple[Tensor, ...], loss: Tensor, found: list[float]
    ) -> None:
        """Record whether all values are finite."""
        self.is_bad |= not (np.isfinite(found).all() or all_finite(loss, run.model))

    def after_step(self, run: Run, loss: float) -> None:
        """Check the first loss, that of the whole batch; record which weights have gradients."""
        self._states, self.is_bad = [], False
        self._check_first(run, loss)

    def after_epoch(self, run: Run) -> None:
        """On rank 0, check that parameters got gradients, and that the loss fell."""
        if isinstance(run, RankRun) and run.world.rank == 0:
            super().after_epoch(run)

    def explain(self, run: RankRun, batches: Sequence[tuple[Tensor, ...]], loss: float) -> None:
        """Repeat a step on all ranks; raise an error that names the rank and operation at fault."""

        def again() -> None:
            restore(self._drawn, self._states)
            run.repeat(batches)

        text = ""
        with contextlib.suppress(RanksDifferError):  # a rank that failed no longer takes part
            text = first_bad_operation(again)
        own: dict[str, Any] = {"loss": loss, "text": text}
        try:
            ranks = run.world.all_gather(own)
        except RanksDifferError:  # others were still repeating the step; now none is
            ranks = run.world.all_gather(own)
        told = [f"On rank {r}: {one['text']}" for r, one in enumerate(ranks) if one["text"]]
        told.sort(key=lambda text: "When repeated" not in text)
        losses = {r: one["loss"] for r, one in enumerate(ranks)}
        bad = [f"{loss} on rank {r}" for r, loss in losses.items() if not math.isfinite(loss)]
        what = f"the loss is {', '.join(bad)}" if bad else "a gradient is not finite"
        raise FloatingPointError(
            f"fit: {what} in epoch {run.history.epochs + 1}, batch {run.batch}; a smaller learning "
            f"rate or clip_norm may help. {''.join(told[:1])}"
        )


class RankKeeper(Keeper):
    """A `Keeper` whose folder is used by rank 0 only; all ranks resume, save and stop together.

    Args:
        world: the ranks.
        folder: the one of rank 0 counts; those of other ranks are ignored.
        save_seconds: as for `Keeper`, by rank 0's clock.
    """

    def __init__(self, world: World, folder: Path | None, save_seconds: float) -> None:
        super().__init__(folder if world.rank == 0 else None, save_seconds)
        self._world, self._has_folder = world, world.broadcast(folder is not None)

    @contextlib.contextmanager
    def running(self, run: Run, epochs: int, resume: bool) -> Iterator[None]:
        """Resume a run, on any number of ranks; see `Keeper.running`."""
        if not isinstance(run, RankRun):
            raise TypeError(f"RankKeeper: got a {type(run).__name__}, expected a RankRun")
        self._world.agree(
            f"fit of {len(run.train)} batches, epochs={epochs}, accumulate={run.accumulate}, "
            f"clip_norm={run.clip_norm}, validation={run.validation is not None}, resume={resume}"
        )
        run.asks = self.asks
        with run.connected(), super().running(run, epochs, resume):
            yield

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            held = super()._held()
            on_first(self._world, lambda: stack.enter_context(held))
            yield

    def _find(self, run: Run, epochs: int, resume: bool) -> tuple[dict[str, Any], str]:
        find = super()._find
        saved, words = on_first(self._world, lambda: find(run, epochs, resume))
        if saved:
            with naming(self._last):
                every = [saved["streams"], *saved.get("ranks", ())]
                saved["streams"] = _streams_of(self._world.rank, every, run.streams)
            self._world.is_warned = True  # their streams have moved apart
        return saved, words

    def _decided(self, run: Run) -> tuple[int, bool]:
        return run.decided if isinstance(run, RankRun) else super()._decided(run)

    def _save(self, run: Run) -> None:
        self._saved = time.monotonic()
        if self._has_folder and isinstance(run, RankRun):
            run.average_buffers()
            state = state_of_run(run)  # on every rank: a sharded optimiser gathers its parts
            state["ranks"] = self._world.all_gather(state["streams"])[1:]
            if self._folder is not None:
                self._write_all(run, state)


def on_first(world: World, function: Callable[[], T]) -> T:
    """Call a function on rank 0 only; return its result, or raise its error, on every rank."""
    result: Any = None
    error: Exception | None = None
    if world.rank == 0:
        try:
            result = function()
        except Exception as raised:
            error = raised
    text = None if error is None else [type(error).__name__, str(error)]
    found: Any
    found, told = world.broadcast([result, text])
    if error is not None:
        raise error
    if told is not None:
        raise ERRORS.get(told[0], RuntimeError)(told[1])
    return found  # type: ignore[no-any-return]


def _streams_of(rank: int, saved: Sequence[Any], own: Sequence[Any]) -> Any:
    """Return the states for a rank's streams: its own saved ones, or else new ones."""
    if rank < len(saved):
        return saved[rank]
    return [_new_state(stream, state, rank) for stream, state in zip(own, saved[0], strict=False)]


def _new_state(stream: Any, state: Any, rank: int) -> Any:
    """Return a state for a stream, derived from rank 0's, but with other random numbers."""
    seed = zlib.crc32(repr((state, rank)).encode())
    if isinstance(stream, np.random.Generator):
        return type(stream.bit_generator)(seed).state
    return state_of(type(stream)(seed))
