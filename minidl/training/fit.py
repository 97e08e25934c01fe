"""The training loop that chapters 2 to 4 spell out, and what a long run needs around it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from tqdm import tqdm

from minidl import nn
from minidl.checks import check_whole
from minidl.data import DataLoader
from minidl.optim import Optimizer, clip_grad_norm_
from minidl.random import generator, streams
from minidl.tensor import Tensor
from minidl.training import warnings as diagnosis
from minidl.training.evaluation import Totals, evaluate, measures, read
from minidl.training.history import History
from minidl.training.keeper import Keeper


class Schedule(Protocol):
    """What changes learning rates: `minidl.optim` has some."""

    def step(self) -> None:
        """Set the next rate."""

    def state_dict(self) -> dict[str, Any]:
        """Return what it keeps."""

    def load_state_dict(self, saved: Any) -> None:
        """Go on from there."""


def fit(
    model: nn.Module,
    loss: diagnosis.Loss,
    optimizer: Optimizer,
    train: DataLoader,
    validation: DataLoader | None = None,
    epochs: int = 1,
    *,
    schedule: Schedule | None = None,
    schedule_every: Literal["step", "epoch"] = "step",
    clip_norm: float | None = None,
    accumulate: int = 1,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    save_seconds: float = 60.0,
    resume: bool = True,
    callbacks: Sequence[Callable[[Run], object]] = (),
    progress: bool | None = None,
) -> History:
    """Train a network, measure it after each epoch, and keep it safe on disk.

    With a `checkpoint` folder, `last.npz` holds all that a run needs to go on: weights, optimiser,
    schedule, random streams, the place in the loader's order. Called again after a crash or Ctrl-C,
    an unfinished run goes on from there, and gives bit for bit what it would have given. A finished
    run starts anew; so does one that was stopped by `patience` or a callback, but one that has had
    its epochs goes on if `epochs` is now larger. `best.npz` holds the weights of the best epoch
    (see `History.best_epoch`), for `load_weights`; `history.csv` the numbers. A full disk is a
    warning. The first Ctrl-C ends the step, saves, and raises KeyboardInterrupt; a second does not
    wait.

    What usually means that training will not work is a `TrainingWarning`.

    Args:
        model: called with a batch's arrays but the last; ends with the weights of the last epoch.
        loss: of the outputs and the last array; where that is whole numbers and the outputs are
            `(n, classes, ...)`, accuracy is measured, over the labels that are not -100.
        optimizer: over the model's parameters.
        train: batches to learn from.
        validation: batches to measure with: `test_loss` and `test_accuracy` in the history.
        epochs: passes over `train`, from 1, in all.
        schedule: its `step` is called after every step or epoch.
        schedule_every: which of the two.
        clip_norm: the most that the common norm of all gradients may be.
        accumulate: batches whose gradients make up one step: their mean.
        patience: stop after so many epochs that are no better than the best.
        checkpoint: a folder, made if need be.
        save_seconds: how often to save within an epoch, besides its end.
        resume: False starts anew whatever the folder holds.
        callbacks: functions called with the `Run` after each epoch; one that returns True ends it.
        progress: False prints nothing; None prints a line per epoch, and where standard error is a
            terminal, shows a bar; True always does.

    Returns:
        The history, from the first epoch on.

    Raises:
        FloatingPointError: the loss or a gradient is NaN or infinite; it names the first operation
            that made one, and the last checkpoint stays as it was.
        ValueError: an argument is out of range, or the checkpoint is damaged or of another run.
        KeyboardInterrupt: after Ctrl-C.

    Example:
        >>> import minidl
        >>> from minidl import data, functional, nn, optim
        >>> rng = minidl.manual_seed(0)
        >>> x = rng.normal(size=(64, 2)).astype("float32")
        >>> batches = data.DataLoader(x, (x[:, 0] > 0).astype(int), batch_size=8)
        >>> model = nn.Linear(2, 2)
        >>> adam = optim.Adam(model.parameters(), lr=0.1)
        >>> history = fit(model, functional.cross_entropy, adam, batches, epochs=3, progress=False)
        >>> history["train_accuracy"][-1] > 0.9
        True
    """
    check_whole("fit", 1, epochs=epochs, accumulate=accumulate)
    if patience is not None:
        check_whole("fit", 1, patience=patience)
    if schedule_every not in ("step", "epoch"):
        raise ValueError(f'fit: got schedule_every={schedule_every!r}, wants "step" or "epoch"')
    run = Run(model, loss, optimizer, train, validation, schedule)
    run.every_step, run.clip_norm, run.accumulate = schedule_every == "step", clip_norm, accumulate
    run.progress = progress
    run.keeper = Keeper(None if checkpoint is None else Path(checkpoint), save_seconds)
    if resume:
        run.say(run.keeper.resume(run, epochs))
    with run.keeper.ctrl_c_waits():
        while run.history.epochs < epochs and not run.is_finished:
            run.train_epoch(f"epoch {run.history.epochs + 1}/{epochs}")
            run.end_epoch(epochs, patience, callbacks)
    return run.history


class Run:
    """A training run: what `fit` works on, and callbacks may look at and change.

    Attributes:
        model: the network.
        optimizer: what trains it.
        history: what was measured so far; `history.epochs` says how many epochs are complete.
        batch: how many batches of the current epoch are done.
        is_finished: set by early stopping and by callbacks that return True.
        missed: parameters that have not got a gradient so far.
        streams: of random numbers, all that the run draws from.
        totals: sums over the current epoch.
    """

    every_step, accumulate = True, 1
    clip_norm: float | None = None
    progress: bool | None = None

    def __init__(
        self,
        model: nn.Module,
        loss: diagnosis.Loss,
        optimizer: Optimizer,
        train: DataLoader,
        validation: DataLoader | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.train, self.validation, self.schedule = train, validation, schedule
        self.history, self.totals, self.keeper = History(), Totals(), Keeper()
        self.batch, self.is_finished = 0, False
        self.streams = streams(generator(), model, loss, train, validation)
        self._drawn = streams(generator(), model, loss)  # from by a step
        self.missed = {name for name, p in model.named_parameters() if p.requires_grad}
        self._is_first, self._classes = True, 0
        diagnosis.check_streams(train, model, loss)
        for loader in (train, validation):
            diagnosis.check_loader("fit", loader)

    def train_epoch(self, title: str = "") -> None:
        """Take the steps of an epoch that are left."""
        if not self.model.training:
            self.model.train()
        started = time.perf_counter() - self.totals.seconds
        batches = iter(self.train)
        with self._bar(title) as bar:
            while self.batch < len(self.train):
                count = min(self.accumulate, len(self.train) - self.batch)
                self._step([next(batches) for _ in range(count)], bar)
                self.totals.seconds = time.perf_counter() - started
                self.keeper.save_if_due(self)
        next(batches, None)  # a thread that made batches ahead can end

    def _step(self, batches: list[tuple[Tensor, ...]], bar: tqdm[Any]) -> None:
        """Change the weights once, by the mean gradient of some batches."""
        self.optimizer.zero_grad()
        losses = []
        for batch in batches:
            losses.append(self._backward(batch, 1 / len(batches)))
            self.batch += 1
            bar.update(len(batch[-1]))
        if self.clip_norm is not None:
            clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        if self.schedule is not None and self.every_step:
            self.schedule.step()
        self.history.step_losses.append(sum(losses) / len(losses))
        bar.set_postfix_str(str(self.totals), refresh=False)

    def _backward(self, batch: tuple[Tensor, ...], share: float) -> float:
        """Add a share of a batch's gradients to those there are; return its loss."""
        *inputs, labels = batch
        states = [stream.bit_generator.state for stream in self._drawn]
        outputs = self.model(*inputs)
        if self._is_first:
            self._classes = diagnosis.classes_of(outputs, labels)
            diagnosis.check_inputs(inputs[0])
            for loader in (self.train, self.validation):
                diagnosis.check_labels(loader, self._classes)
        loss = self.loss(outputs, labels)
        diagnosis.check_loss(loss)
        (loss * share if share < 1 else loss).backward()
        numbers = measures(loss, outputs, labels)
        found = read([*numbers, *diagnosis.gradient_total(self.model)])
        if not np.isfinite(found).all() and not diagnosis.all_finite(loss, self.model):
            self._explain(batch, loss, states)
        value = found[0]
        self.totals.add(len(labels), *found[: len(numbers)])
        if self._is_first and not self.history.step_losses:
            accuracy = self.totals.right / max(1, self.totals.labels)
            diagnosis.check_first_loss(value, self._classes, accuracy)
        self._is_first = False
        if self.missed:
            self.missed -= {name for name, g in self.model.named_gradients() if g is not None}
        return value

    def _explain(self, batch: tuple[Tensor, ...], loss: Tensor, states: list[Any]) -> None:
        """Do a step again that gave NaN or infinity, and raise with what is found."""
        *inputs, labels = batch

        def again() -> None:
            for stream, state in zip(self._drawn, states, strict=True):
                stream.bit_generator.state = state
            self.model.zero_grad()
            self.loss(self.model(*inputs), labels).backward()

        where = f"epoch {self.history.epochs + 1}, batch {self.batch + 1}"
        raise FloatingPointError(
            f"fit: the loss is {loss.item():.4g} in {where}, or a gradient is not finite; a "
            f"smaller learning rate or clip_norm may help. {diagnosis.first_bad_operation(again)}"
        )

    def end_epoch(
        self, epochs: int, patience: int | None, callbacks: Sequence[Callable[[Run], object]]
    ) -> None:
        """Measure, record, say and save."""
        rate, seconds = self.optimizer.param_groups[0]["lr"], self.totals.seconds
        steps = -(-len(self.train) // self.accumulate)
        trained, self.totals = self.totals, Totals()
        words, numbers = str(trained), trained.means("train")
        if self.validation is not None:
            tested = evaluate(self.model, self.loss, self.validation)
            words, numbers = f"{words}; validation {tested}", numbers | tested.means("test")
        self.history.append(**numbers, lr=rate, seconds=seconds)
        self.batch, epoch = 0, self.history.epochs
        speed = f"{trained.seen / max(seconds, 1e-9):,.0f} examples/s"
        self.say(f"epoch {epoch}: {words}; {speed}, {seconds:.0f} s")
        if epoch == 1:
            diagnosis.check_gradients(sorted(self.missed))
        diagnosis.check_learning(self.history.step_losses[-steps:], self._classes)
        if self.schedule is not None and not self.every_step:
            self.schedule.step()
        waited = epoch - self.history.best_epoch()
        self.is_finished |= patience is not None and waited >= patience
        for callback in callbacks:
            self.is_finished |= callback(self) is True
        self.keeper.save_epoch(self, is_last=self.is_finished or epoch >= epochs)

    def _bar(self, title: str) -> tqdm[Any]:
        """Show examples, examples/s and time left of an epoch, where somebody looks."""
        examples = len(self.train.arrays[0]) if isinstance(self.train, DataLoader) else None
        shown = sys.stderr.isatty() if self.progress is None else self.progress
        look: dict[str, Any] = {"unit": " examples", "leave": False, "disable": not shown}
        return tqdm(desc=title, total=examples, initial=self.totals.seen, **look)

    def say(self, words: str) -> None:
        """Print a line, unless progress is False."""
        if words and self.progress is not False:
            print(words, flush=True)
