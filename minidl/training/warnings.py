"""Warn of common mistakes in training: each check is a function of what it inspects."""

from __future__ import annotations

import contextlib
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
from minidl.functional.loss import IGNORED
from minidl.random import generator, restore, state_of, streams, streams_kept
from minidl.tensor import Tensor
from minidl.training.evaluation import Loss, classes_of
from minidl.training.run import Run, Watch

FAR, NEAR, STUCK = 2.0, 0.1, 0.02  # relative to ln(classes)
FEWEST_STEPS = 20  # in an epoch, for its losses to show that nothing is learned


class TrainingWarning(UserWarning):
    """A usual sign that training will not work; the run continues."""


def warn(message: str) -> None:
    """Warn, pointing at the line outside minidl that led here."""
    level, frame = 2, sys._getframe(1)
    ours = ("minidl.", "contextlib")  # through which a `with` statement of ours begins
    while frame.f_back and str(frame.f_globals.get("__name__")).startswith(ours):
        frame, level = frame.f_back, level + 1
    with contextlib.suppress(OSError, ValueError, AttributeError):  # standard error may be closed
        warnings.warn(message, TrainingWarning, stacklevel=level)


class Diagnosis(Watch):
    """Warns of usual signs that training will not work; explains NaN.

    Args:
        run: the run to inspect.
    """

    def __init__(self, run: Run) -> None:
        check_streams(run.train, run.model, run.loss)
        check_optimizer(run.optimizer, run.model, run.loss)
        self._drawn = streams(generator(), run.model, run.loss)  # those that a step draws from
        self._states: list[Any] = []
        self._is_first, self._classes = True, 0

    def before_batch(self, run: Run) -> None:
        """Save the random state, so that the step can be repeated."""
        self._states = [state_of(stream) for stream in self._drawn]

    def after_forward(self, run: Run, batch: tuple[Tensor, ...], outputs: Any) -> None:
        """Check the first batch's inputs, and all labels."""
        if self._is_first:
            self._classes = classes_of(outputs, batch[-1])
            check_inputs(batch[0])
            for loader in (run.train, run.validation):
                check_labels(loader, self._classes, run.ignored)

    def extra_values(self, run: Run) -> list[Any]:
        """Return the sum of all gradients."""
        return gradient_total(run.model)

    def after_backward(
        self, run: Run, batch: tuple[Tensor, ...], loss: Tensor, found: list[float]
    ) -> None:
        """Raise if a value is not finite; check the first loss."""
        if not np.isfinite(found).all() and not all_finite(loss, run.model):
            self._explain(run, batch, loss)
        self._check_first(run, found[0])

    def _check_first(self, run: Run, loss: float) -> None:
        """Check the loss of the first step, and note which parameters have gradients."""
        if self._is_first and not run.history.step_losses and run.totals.labels:
            check_first_loss(loss, self._classes, run.totals.right / run.totals.labels)
        self._is_first = False
        if run.missed:
            run.missed -= {name for name, g in run.model.named_gradients() if g is not None}

    def after_epoch(self, run: Run) -> None:
        """Check that parameters got gradients, and that the loss fell."""
        if run.history.epochs == 1:
            check_gradients(sorted(run.missed))
        steps = -(-len(run.train) // run.accumulate)
        check_learning(run.history.step_losses[-steps:], self._classes)

    def _explain(self, run: Run, batch: tuple[Tensor, ...], loss: Tensor) -> None:
        """Repeat a step that gave NaN or infinity, and raise with its first bad operation."""
        *inputs, labels = batch

        def again() -> None:
            restore(self._drawn, self._states)
            run.model.zero_grad()
            run.loss(run.model(*inputs), labels).backward()

        where = f"epoch {run.history.epochs + 1}, batch {run.batch + 1}"
        raise FloatingPointError(
            f"fit: the loss is {loss.item():.4g} in {where}, or a gradient is not finite; a "
            f"smaller learning rate or clip_norm may help. {first_bad_operation(again)}"
        )


def check_inputs(inputs: Tensor) -> None:
    """Warn if a batch of floats is far from mean 0 and standard deviation 1, or constant."""
    if inputs.dtype.kind != "f" or not inputs.size:
        return
    numbers = inputs.numpy().astype(np.float64)
    mean, std = float(numbers.mean()), float(numbers.std())
    if max(abs(mean), std) > 10 or std < 0.01:
        warn(
            f"the inputs are not normalised: the first batch has mean {mean:.4g} and standard "
            f"deviation {std:.4g}, but networks train best with mean 0 and standard deviation 1; "
            "for uint8 images, pass transform=Normalize.fit(train.images) to the DataLoader"
        )


def check_labels(batches: DataLoader | None, classes: int, ignored: int = IGNORED) -> None:
    """Warn if a loader's class indices do not fit a network's number of outputs."""
    labels = batches.arrays[-1].ravel() if isinstance(batches, DataLoader) else np.arange(0)
    wrong = np.flatnonzero(((labels < 0) | (labels >= classes)) & (labels != ignored))
    if classes and len(wrong):
        warn(
            f"{len(wrong):,} of {len(labels):,} labels are not from 0 to {classes - 1}, but the "
            f"network has {classes} outputs: they are {np.unique(labels[wrong])[:10].tolist()}, "
            f"the first at index {wrong[0]}; do labels start at 1, or has the last layer too few "
            "outputs?"
        )


def check_streams(batches: DataLoader, *others: Any) -> None:
    """Warn if a prefetching thread shares its random stream with the network."""
    if isinstance(batches, DataLoader) and batches.prefetch:
        own = {id(stream) for stream in streams(batches.transform)}
        if any(id(stream) in own for stream in streams(*others)):
            warn(
                "the transform of a loader with prefetch draws from the same stream as the "
                "network, so the order of draws is nondeterministic, and runs are not "
                "reproducible; give the transform its own rng"
            )


def check_optimizer(optimizer: optim.Optimizer, model: nn.Module, loss: Any) -> None:
    """Warn if an optimiser was created for layers that have since been replaced."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    ours = {
        id(p) for part in (model, loss) if isinstance(part, nn.Module) for p in part.parameters()
    }
    lacks = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if lacks and held - ours:
        warn(
            f"the optimiser holds {len(held - ours)} tensor(s) that are not parameters of this "
            f"network, and lacks {', '.join(lacks[:10])}, which are not trained: was a layer "
            "replaced, or the network copied, after the optimiser was created? Create it last"
        )


def check_first_loss(loss: float, classes: int, accuracy: float) -> None:
    """Warn if a classifier's first loss is far from ln(classes), the loss of guessing.

    A small one is expected of a network that is already trained, whose answers are mostly right.
    """
    if not classes:
        return
    expected = math.log(classes)
    words = (
        f"the first loss is {loss:.4g}, but guessing among {classes} classes gives "
        f"ln({classes}) = {expected:.4g}"
    )
    if loss > FAR * expected:
        warn(
            f"{words}: inputs not normalised, initial weights too large, or a loss that sums over "
            'the batch (reduction="sum")?'
        )
    elif loss < NEAR * expected and accuracy < 0.5:
        warn(f"{words}, yet only {accuracy:.0%} are right: is the loss divided once too often?")


def check_learning(step_losses: Sequence[float], classes: int) -> None:
    """Warn if the second half of an epoch's losses is still no better than guessing."""
    if not classes or len(step_losses) < FEWEST_STEPS:
        return
    mean, expected = float(np.mean(step_losses[len(step_losses) // 2 :])), math.log(classes)
    if abs(mean / expected - 1) < STUCK:
        warn(
            f"after an epoch the loss is {mean:.4g}, still that of guessing, ln({classes}) = "
            f"{expected:.4g}. Usual causes: a learning rate too large (try a tenth) or too small "
            "(try ten times), inputs not normalised, labels that do not belong to their inputs "
            "(shuffled separately?), softmax before cross_entropy, dead ReLUs or vanishing "
            "gradients (see inspect.gradient_flow), an optimiser that holds other parameters. "
            "First check whether overfit_one_batch works"
        )


def check_gradients(names: Iterable[str]) -> None:
    """Warn if parameters, given by name, never got a gradient in an epoch."""
    names = list(names)
    if names:
        warn(
            f"{len(names)} parameter(s) never got a gradient, and are not trained: "
            f"{', '.join(names[:10])}; is the layer unused in forward, or something between it "
            "and the loss detached (numpy(), item(), no_grad)? If they are to stay fixed, freeze "
            "them with requires_grad_(False)"
        )


def gradient_total(model: nn.Module) -> list[Any]:
    """Return the sum of all gradients, on the device, in a list; an empty one if there are none.

    It is finite only if all gradients are, but huge ones may overflow: see `all_finite`.
    """
    with np.errstate(all="ignore"):
        sums = [g.sum() for g in _gradients(model)]
        return [sum(sums[1:], sums[0])] if sums else []


def all_finite(loss: Tensor, model: nn.Module) -> bool:
    """Return whether the loss and all gradients are finite, checking each."""
    numbers = [loss.array, *_gradients(model)]
    return all(loss.backend.number(loss.backend.xp.isfinite(array).all()) for array in numbers)


def _gradients(model: nn.Module) -> list[Any]:
    return [p.grad.stored.array for p in model.parameters() if p.grad is not None]


def first_bad_operation(step: Callable[[], object]) -> str:
    """Repeat a step; return a message that names the first operation to make NaN or inf."""
    try:
        with detect_anomaly(), np.errstate(all="ignore"):
            step()
    except FloatingPointError as error:
        return f"When repeated, {error}"
    return "The repeated step produced none; is it nondeterministic?"


def overfit_one_batch(
    model: nn.Module,
    batch: Sequence[Tensor],
    loss: Loss = cross_entropy,
    steps: int = 100,
    lr: float = 1e-3,
) -> list[float]:
    """Train on one batch only, then restore everything: the first check of a new network.

    A network that cannot memorise a few examples will not learn from many. Use 8 to 64 examples or
    so, and no dropout.

    Args:
        model: its weights, gradients, mode and random streams are left as they were.
        batch: inputs and labels, as a loader yields them.
        loss: of the outputs and the labels.
        steps: number of Adam steps, >= 1.
        lr: Adam's learning rate.

    Returns:
        The loss of each step. A `TrainingWarning` is given if the last is more than a tenth of
        the first.

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
            f"one batch of {len(labels)} could not be memorised: the loss went from "
            f"{losses[0]:.4g} to {losses[-1]:.4g} in {steps} steps. Either the network, its loss "
            f"or its gradients are wrong, or it needs a rate other than {lr:g}, more steps, or no "
            "dropout"
        )
    return losses
