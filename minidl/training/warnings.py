"""What is wrong with a run, said in words: each check is a function of what it looks at."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from minidl import nn, optim
from minidl.anomaly import detect_anomaly
from minidl.checks import check_whole
from minidl.data import DataLoader
from minidl.functional import cross_entropy
from minidl.random import generator, streams, streams_kept
from minidl.tensor import Tensor
from minidl.training.evaluation import IGNORED, Loss, classes_of
from minidl.training.run import Run, Watch

FAR, NEAR, STUCK = 2.0, 0.1, 0.02  # parts of ln(classes)
FEWEST_STEPS = 20  # in an epoch, for its end to say that nothing is learnt


class TrainingWarning(UserWarning):
    """Something that usually means that training will not work; the run goes on."""


def warn(message: str) -> None:
    """Warn, pointing at the line outside of minidl that led here."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("minidl."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, TrainingWarning, stacklevel=level)


class Diagnosis(Watch):
    """Warns of what usually means that training will not work; explains NaN.

    Args:
        run: the run that it will look at.
    """

    def __init__(self, run: Run) -> None:
        check_streams(run.train, run.model, run.loss)
        self._drawn = streams(generator(), run.model, run.loss)  # what one step draws from
        self._states: list[Any] = []
        self._is_first, self._classes = True, 0

    def begins(self, run: Run) -> None:
        """Note the random numbers, so that the step can be done again."""
        self._states = [stream.bit_generator.state for stream in self._drawn]

    def went_forward(self, run: Run, batch: tuple[Tensor, ...], outputs: Any) -> None:
        """Check the first batch's inputs, and all labels."""
        if self._is_first:
            self._classes = classes_of(outputs, batch[-1])
            check_inputs(batch[0])
            for loader in (run.train, run.validation):
                check_labels(loader, self._classes)

    def asks(self, run: Run) -> list[Any]:
        """Ask for the sum of all gradients."""
        return gradient_total(run.model)

    def went_back(
        self, run: Run, batch: tuple[Tensor, ...], loss: Tensor, found: list[float]
    ) -> None:
        """Raise where a number is not finite; check the first loss."""
        if not np.isfinite(found).all() and not all_finite(loss, run.model):
            self._explain(run, batch, loss)
        if self._is_first and not run.history.step_losses:
            check_first_loss(found[0], self._classes, run.totals.right / max(1, run.totals.labels))
        self._is_first = False

    def ended_epoch(self, run: Run) -> None:
        """Check that parameters got gradients, and that the loss fell."""
        if run.history.epochs == 1:
            check_gradients(sorted(run.missed))
        steps = -(-len(run.train) // run.accumulate)
        check_learning(run.history.step_losses[-steps:], self._classes)

    def _explain(self, run: Run, batch: tuple[Tensor, ...], loss: Tensor) -> None:
        """Do a step again that gave NaN or infinity, and raise with what is found."""
        *inputs, labels = batch

        def again() -> None:
            for stream, state in zip(self._drawn, self._states, strict=True):
                stream.bit_generator.state = state
            run.model.zero_grad()
            run.loss(run.model(*inputs), labels).backward()

        where = f"epoch {run.history.epochs + 1}, batch {run.batch + 1}"
        raise FloatingPointError(
            f"fit: the loss is {loss.item():.4g} in {where}, or a gradient is not finite; a "
            f"smaller learning rate or clip_norm may help. {first_bad_operation(again)}"
        )


def check_inputs(inputs: Tensor) -> None:
    """Warn where a batch of floats is far from mean 0 and standard deviation 1, or constant."""
    if inputs.dtype.kind != "f" or not inputs.size:
        return
    numbers = inputs.numpy().astype(np.float64)
    mean, std = float(numbers.mean()), float(numbers.std())
    if max(abs(mean), std) > 10 or std < 0.01:
        warn(
            f"the inputs are not normalised: the first batch has mean {mean:.4g} and standard "
            f"deviation {std:.4g}, where networks like 0 and 1; for images of uint8, pass "
            "transform=Normalize.fit(train.images) to the DataLoader"
        )


def check_labels(batches: DataLoader | None, classes: int) -> None:
    """Warn where class indices that a loader holds do not fit a network's number of outputs."""
    labels = batches.arrays[-1].ravel() if isinstance(batches, DataLoader) else np.arange(0)
    wrong = np.flatnonzero(((labels < 0) | (labels >= classes)) & (labels != IGNORED))
    if classes and len(wrong):
        warn(
            f"{len(wrong):,} of {len(labels):,} labels are not from 0 to {classes - 1}, the "
            f"network having {classes} outputs: they are {np.unique(labels[wrong])[:10].tolist()}, "
            f"the first at {wrong[0]}; do labels count from 1, or has the last layer too few "
            "outputs?"
        )


def check_streams(batches: DataLoader, *others: Any) -> None:
    """Warn where a thread that makes batches ahead shares its random numbers with the network."""
    if isinstance(batches, DataLoader) and batches.prefetch:
        own = {id(stream) for stream in streams(batches.transform)}
        if any(id(stream) in own for stream in streams(*others)):
            warn(
                "the transform of a loader with prefetch draws from the same stream as the "
                "network, so who draws first is left to chance, and no run repeats; give the "
                "transform an rng of its own"
            )


def check_first_loss(loss: float, classes: int, accuracy: float) -> None:
    """Warn where a classifier's first loss is far from ln(classes), that of guessing.

    A small one is as it should be for a network that is trained already, which is mostly right.
    """
    if not classes:
        return
    expected = math.log(classes)
    words = (
        f"the first loss is {loss:.4g}, where guessing among {classes} classes gives "
        f"ln({classes}) = {expected:.4g}"
    )
    if loss > FAR * expected:
        warn(
            f"{words}: inputs not normalised, initial weights too large, or a loss that sums over "
            'the batch (reduction="sum")?'
        )
    elif loss < NEAR * expected and accuracy < 0.5:
        warn(f"{words}, and {accuracy:.0%} is right: a loss that is divided once too often?")


def check_learning(step_losses: Sequence[float], classes: int) -> None:
    """Warn where the second half of an epoch's losses is still that of guessing."""
    if not classes or len(step_losses) < FEWEST_STEPS:
        return
    mean, expected = float(np.mean(step_losses[len(step_losses) // 2 :])), math.log(classes)
    if abs(mean / expected - 1) < STUCK:
        warn(
            f"after an epoch the loss is {mean:.4g}, still that of guessing, ln({classes}) = "
            f"{expected:.4g}. Usual causes: a learning rate too large (try a tenth) or too small "
            "(try ten times), inputs not normalised, labels that do not belong to their inputs "
            "(shuffled apart?), softmax before cross_entropy, dead ReLUs or vanishing gradients "
            "(see inspect.gradient_flow), an optimiser that holds other parameters. First of all "
            "see whether overfit_one_batch works"
        )


def check_gradients(names: Iterable[str]) -> None:
    """Warn where parameters, given by name, never got a gradient in an epoch."""
    names = list(names)
    if names:
        warn(
            f"{len(names)} parameter(s) never got a gradient, and are not trained: "
            f"{', '.join(names[:10])}; is the layer used in forward, and nothing between it and "
            "the loss detached (numpy(), item(), no_grad)? Freeze what is not to be trained with "
            "requires_grad_(False)"
        )


def gradient_total(model: nn.Module) -> list[Any]:
    """Return the sum of all gradients, on the device, in a list; an empty one if there are none.

    It is finite only if all of them are; that of huge ones may overflow: see `all_finite`.
    """
    with np.errstate(all="ignore"):
        sums = [g.sum() for g in _gradients(model)]
        return [sum(sums[1:], sums[0])] if sums else []


def all_finite(loss: Tensor, model: nn.Module) -> bool:
    """Tell whether the loss and all gradients are finite, looking at each."""
    numbers = [loss.data, *_gradients(model)]
    return all(loss.backend.number(loss.backend.xp.isfinite(array).all()) for array in numbers)


def _gradients(model: nn.Module) -> list[Any]:
    return [p.grad.stored.data for p in model.parameters() if p.grad is not None]


def first_bad_operation(step: Callable[[], object]) -> str:
    """Return in words which operation of a step, done again, is the first to make NaN or inf."""
    try:
        with detect_anomaly(), np.errstate(all="ignore"):
            step()
    except FloatingPointError as error:
        return f"done again, {error}"
    return "done again under detect_anomaly, the step makes none: does it not repeat exactly?"


def overfit_one_batch(
    model: nn.Module,
    batch: Sequence[Tensor],
    loss: Loss = cross_entropy,
    steps: int = 100,
    lr: float = 1e-3,
) -> list[float]:
    """Train on one batch alone, then put everything back: the first check of a new network.

    What cannot learn a few examples by heart will not learn from many. Wants about 8 to 64 examples
    and dropout off.

    Args:
        model: left with the weights, gradients and mode that it had; so are its random streams.
        batch: inputs and labels, as a loader yields them.
        loss: of the outputs and the labels.
        steps: of Adam, from 1.
        lr: its learning rate.

    Returns:
        The loss of each step. There is a `TrainingWarning` if the last is more than a tenth of the
        first.

    Example:
        >>> import minidl
        >>> from minidl import nn
        >>> rng = minidl.manual_seed(0)
        >>> x, y = minidl.randn((8, 5)), minidl.Tensor([0, 1] * 4)
        >>> model = nn.Sequential(nn.Linear(5, 99), nn.ReLU(), nn.Linear(99, 2))
        >>> losses = overfit_one_batch(model, (x, y), lr=0.01)
        >>> losses[-1] < 0.1 * losses[0]
        True
    """
    check_whole("overfit_one_batch", 1, steps=steps)
    *inputs, labels = batch
    state, gradients = model.state_dict(), [(p, p.grad) for p in model.parameters()]
    adam = optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    with streams_kept(model):
        try:
            for _ in range(steps):
                value = loss(model(*inputs), labels)
                adam.zero_grad()
                value.backward()
                adam.step()
                losses.append(value.item())
        finally:
            model.load_state_dict(state)
            for parameter, gradient in gradients:
                parameter.grad = gradient
    if not losses[-1] <= 0.1 * losses[0]:
        warn(
            f"one batch of {len(labels)} cannot be learnt by heart: the loss went from "
            f"{losses[0]:.4g} to {losses[-1]:.4g} in {steps} steps. Either the network, its loss "
            f"or its gradients are wrong, or it needs another rate than {lr:g}, more steps, or no "
            "dropout"
        )
    return losses
