"""A training run: the loop that chapters 2 and 3 write out, and its measurements."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from minidl import nn
from minidl.data import DataLoader
from minidl.functional.loss import IGNORED, Reduced, noted
from minidl.optim import Optimizer, clip_grad_norm_
from minidl.random import generator, streams
from minidl.tensor import Tensor
from minidl.training.evaluation import Loss, Totals, evaluate, measures, read, with_divisor
from minidl.training.history import History


class Schedule(Protocol):
    """Changes learning rates; `minidl.optim` has some schedules."""

    def step(self) -> None:
        """Set the next learning rate."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the schedule."""

    def load_state_dict(self, saved: Any) -> None:
        """Restore that state."""


class Watch:
    """Inspects each step of a run; this one does nothing, `warnings.Diagnosis` warns."""

    def before_batch(self, run: Run) -> None:
        """Inspect a run before a batch."""

    def after_forward(self, run: Run, batch: tuple[Tensor, ...], outputs: Any) -> None:
        """Inspect the network's outputs, once the loss is computed or has failed."""

    def extra_values(self, run: Run) -> list[Any]:
        """Return values on the device, to be read together with the loss."""
        return []

    def after_backward(
        self, run: Run, batch: tuple[Tensor, ...], loss: Tensor, found: list[float]
    ) -> None:
        """Inspect loss and gradients; `found` is the loss's value and `extra_values`."""

    def after_epoch(self, run: Run) -> None:
        """Inspect a run after an epoch."""


class Run:
    """A training run, which `fit` drives, and callbacks may read and change.

    Attributes:
        model: the network.
        optimizer: updates its parameters.
        history: measurements so far; `history.epochs` is the number of complete epochs.
        batch: number of batches of the current epoch that are done.
        is_finished: set by early stopping and by callbacks that return True.
        trained: the network, with the loss if that is a module, whose gradients a step computes.
        missed: parameters that have not received a gradient so far.
        streams: all random streams that the run draws from.
        totals: sums over the current epoch.
        ignored: the label whose examples the loss ignores.
        watch: inspects each step.
        out: where lines are printed; `fit` sets an `Output`, which never fails.
    """

    every_step, accumulate, ignored = True, 1, IGNORED
    clip_norm: float | None = None
    progress: bool | None = None
    out: Any = None

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: Optimizer,
        train: DataLoader,
        validation: DataLoader | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.train, self.validation, self.schedule = train, validation, schedule
        self.trained = nn.Sequential(model, loss) if isinstance(loss, nn.Module) else model
        self.history, self.totals, self.watch = History(), Totals(), Watch()
        self.batch, self.is_finished = 0, False
        self.streams = streams(generator(), model, loss, train, validation)
        self.missed = {name for name, p in model.named_parameters() if p.requires_grad}

    def steps(self) -> Iterator[None]:
        """Take the remaining steps of an epoch; yield after each."""
        if not self.model.training:
            self.model.train()
        started = time.perf_counter() - self.totals.seconds
        batches = iter(self.train)
        while self.batch < len(self.train):
            count = min(self.accumulate, len(self.train) - self.batch)
            self._step([next(batches) for _ in range(count)])
            self.totals.seconds = time.perf_counter() - started
            yield
        next(batches, None)  # lets a prefetching thread end

    def _step(self, batches: list[tuple[Tensor, ...]]) -> None:
        """Update the weights once, with the gradient of all these batches as if they were one."""
        self.optimizer.zero_grad()
        step, is_part = self._add_gradients(batches)
        if is_part and step.weight:
            trained = self.trained.parameters()
            for gradient in (p.grad.stored for p in trained if p.grad is not None):
                with gradient.mutable() as array:
                    array /= step.weight
        if self.clip_norm is not None:
            clip_grad_norm_(self.trained.parameters(), self.clip_norm)
        self.optimizer.step()
        if self.schedule is not None and self.every_step:
            self.schedule.step()
        self.history.step_losses.append(step.mean_loss())

    def _add_gradients(self, batches: Sequence[tuple[Tensor, ...]]) -> tuple[Totals, bool]:
        """Add up the gradients of batches; return their totals, and whether to divide by those."""
        step, is_part = Totals(), len(batches) > 1
        for batch in batches:
            self._backward(batch, step, is_part)
            self.batch += 1
        return step, is_part

    def _backward(self, batch: tuple[Tensor, ...], step: Totals, is_part: bool) -> None:
        """Measure a batch and add its gradients, times its weight if it is only part of a step."""
        *inputs, labels = batch
        self.watch.before_batch(self)
        outputs = self.model(*inputs)
        with noted() as found:
            try:
                loss = self.loss(outputs, labels)
            finally:
                self.ignored = found[0].ignored if found else IGNORED
                self.watch.after_forward(self, batch, outputs)
        _check_loss(loss)
        reduced = with_divisor(loss, found, labels)
        self._part(reduced, is_part).backward()
        numbers = measures(reduced, outputs, labels)
        values = read([*numbers, *self.watch.extra_values(self)])  # together: this waits for a GPU
        measured, extra = values[: len(numbers)], values[len(numbers) :]
        for totals in (self.totals, step):
            totals.add(len(labels), *measured)
        self.watch.after_backward(self, batch, loss, [measured[0], *extra])

    def _part(self, reduced: Reduced, is_part: bool) -> Tensor:
        """Return the loss to differentiate: a mean is turned into a sum in a part of a step."""
        loss, divisor = reduced.loss, reduced.divisor
        is_mean = is_part and divisor is not None
        return loss * Tensor(divisor, loss.dtype, loss.device) if is_mean else loss

    def end_epoch(
        self, patience: int | None = None, callbacks: Sequence[Callable[[Run], object]] = ()
    ) -> None:
        """Measure, record and print an epoch; decide whether it was the last."""
        rate, trained, self.totals = self.optimizer.param_groups[0]["lr"], self.totals, Totals()
        words, numbers, seconds = str(trained), trained.means("train"), trained.seconds
        if self.validation is not None:
            other = evaluate(self.model, self.loss, self.validation)
            words, numbers = f"{words}; validation {other}", numbers | other.means("validation")
        self.history.append(**numbers, lr=rate, seconds=seconds)
        self.batch, epoch = 0, self.history.epochs
        speed = trained.seen / max(seconds, 1e-9)
        self.say(f"epoch {epoch}: {words}; {speed:,.0f} examples/s, {seconds:.0f} s")
        self.watch.after_epoch(self)
        if self.schedule is not None and not self.every_step:
            self.schedule.step()
        self.is_finished |= patience is not None and epoch - self.history.best_epoch() >= patience
        for callback in callbacks:
            self.is_finished |= callback(self) is True

    def say(self, words: str) -> None:
        """Print a line, unless progress is False."""
        if words and self.progress is not False:
            print(words, file=self.out, flush=True)


def _check_loss(loss: Any) -> None:
    """Raise TypeError unless a loss is a tensor, which is connected to the weights."""
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"fit: the loss function returned a {type(loss).__name__}, expected a tensor with a "
            "single value; does it call item() or numpy()?"
        )
