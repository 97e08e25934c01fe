"""Evaluate a network, and collect its predictions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from minidl import nn
from minidl.autograd import no_grad
from minidl.backends import backend_of
from minidl.data import DataLoader
from minidl.functional.loss import IGNORED, Reduced, noted
from minidl.nn.modes import evaluating
from minidl.tensor import Tensor

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps the outputs and a batch's last array to a single number."""


@dataclasses.dataclass
class Totals:
    """Sums over a pass: losses, their weights, examples, right answers, labels and seconds."""

    loss: float = 0.0
    seen: int = 0
    right: int = 0
    labels: int = 0
    seconds: float = 0.0
    weight: float = 0.0

    def add(
        self, examples: int, loss: float, weight: float | None, right: float = 0, labels: float = 0
    ) -> None:
        """Add a batch: its loss and, for a classifier, its right answers and labels.

        The weight is the divisor of a mean loss, so that all batches together have the loss of one
        large batch. It is None if the loss is a sum; the losses are then added.
        """
        self.loss += loss if weight is None else loss * weight
        self.weight = 1.0 if weight is None else self.weight + weight
        self.seen += examples
        self.right += int(right)
        self.labels += int(labels)

    def mean_loss(self) -> float:
        """Return the loss of all batches as if they were one; NaN if all labels are ignored."""
        return self.loss / self.weight if self.weight else math.nan

    def means(self, part: str) -> dict[str, float]:
        """Return the mean loss, and accuracy if labels were counted, under the history's names."""
        found = {f"{part}_loss": self.mean_loss()}
        return found | ({f"{part}_accuracy": self.right / self.labels} if self.labels else {})

    def __str__(self) -> str:
        accuracy = f", accuracy {self.right / self.labels:.1%}" if self.labels else ""
        return f"loss {self.mean_loss():.3f}{accuracy}"


def with_divisor(loss: Tensor, found: Sequence[Reduced], labels: Tensor) -> Reduced:
    """Return a batch's loss with the number by which to weight it in a mean over several batches.

    If `minidl.functional` computed this loss, the number is its divisor. If it is part of the loss,
    the number is the divisor of its only mean; of several, that of the first over the batch's
    labels. Otherwise, it is the number of examples in the batch.

    Args:
        loss: of the batch.
        found: the means and sums that were `noted` while it was computed.
        labels: of the batch.
    """
    same = [reduced for reduced in found if reduced.loss is loss]
    means = [reduced for reduced in found if reduced.divisor is not None]
    if len(means) > 1:  # such as those of two heads, but not those of each example
        means = [reduced for reduced in means if reduced.target is labels]
    examples = Reduced(loss, len(labels), found[0].ignored if found else IGNORED)
    return [*same, *means, examples][0]._replace(loss=loss)


def measures(reduced: Reduced, outputs: Any, labels: Tensor) -> list[Any]:
    """Return a batch's arguments for `Totals.add`, left on the device until they are read."""
    loss = [reduced.loss.array, reduced.divisor]
    if not classes_of(outputs, labels):
        return loss
    counted = labels.array != reduced.ignored
    right = (outputs.array.argmax(1) == labels.array) & counted
    return [*loss, right.sum(), counted.sum()]


def read(numbers: Sequence[Any]) -> list[Any]:
    """Return numbers; arrays of one element as floats, waiting for the device once."""
    arrays = [number for number in numbers if hasattr(number, "astype")]
    if not arrays:
        return list(numbers)
    backend = backend_of(arrays[0])
    together = backend.xp.stack([array.astype(np.float64).reshape(()) for array in arrays])
    values = iter(backend.to_numpy(together).tolist())
    return [next(values) if hasattr(number, "astype") else number for number in numbers]


def evaluate(model: nn.Module, loss: Loss, batches: DataLoader) -> Totals:
    """Run one pass in evaluation mode, without recording a graph, and return its totals.

    The loss equals that of one batch of all examples, however they are split: see `fit`. The
    modules are in evaluation mode for this thread or task only, so others can train or evaluate the
    same model meanwhile. With a loader over ranks, every rank runs its shares, and gets the totals
    of all.

    Args:
        model: called with all of a batch's arrays but the last.
        loss: of the outputs and the last array.
        batches: the batches to measure on.

    Returns:
        `Totals`: `mean_loss()` is the loss. If the labels are integers and the outputs are
        `(n, classes, ...)`, `right / labels` is the accuracy.

    Raises:
        ValueError: the loader yields no batches or has no labels, or a loss is not a single number.
    """
    totals, passed = Totals(), []
    with evaluating(model):
        pairs = _outputs("evaluate", model, batches)
        for outputs, labels in (pair for pair in pairs if len(pair[1])):
            with noted() as reduced:
                found = loss(outputs, labels)
            found = found if isinstance(found, Tensor) else Tensor(found, device=labels.device)
            if found.size != 1:
                raise ValueError(
                    f"evaluate: got a loss of shape {found.shape}, expected a single number"
                )
            passed.append(
                (len(labels), measures(with_divisor(found, reduced, labels), outputs, labels))
            )
    numbers_read = iter(read([number for _, numbers in passed for number in numbers]))
    measured = [(examples, *(next(numbers_read) for _ in numbers)) for examples, numbers in passed]
    world = getattr(batches, "world", None)
    for batch in measured if world is None else world.combined(measured):
        totals.add(*batch)
    return totals


def predict(model: nn.Module, batches: DataLoader) -> np.ndarray[Any, Any]:
    """Return the outputs for all examples of a loader, in evaluation mode: `(n, ...)`.

    The modules are in evaluation mode for this thread or task only. With a loader over ranks, every
    rank computes its shares, and gets the outputs for all examples.

    Args:
        model: called with all of a batch's arrays but the last; returns one tensor.
        batches: the examples, in the order of the outputs; their last array, the labels, is
            ignored.

    Raises:
        ValueError: the loader yields no batches, or has no labels.

    Example:
        >>> from minidl import nn
        >>> batches = DataLoader(np.zeros((5, 3), np.float32), np.zeros(5, int), batch_size=2)
        >>> predict(nn.Linear(3, 10), batches).argmax(1).shape
        (5,)
    """
    with evaluating(model):
        found = [outputs.numpy() for outputs, _ in _outputs("predict", model, batches)]
    world = getattr(batches, "world", None)
    return np.concatenate(found if world is None else world.interleaved(found))


def _outputs(op: str, model: nn.Module, batches: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    check_loader(op, batches)
    for *inputs, labels in batches:
        with no_grad():
            outputs = model(*inputs)
        yield outputs, labels


def check_loader(op: str, batches: DataLoader | None) -> None:
    """Raise ValueError if a loader yields no batches, or has no labels next to the inputs."""
    if not isinstance(batches, DataLoader):
        return
    if not len(batches):
        raise ValueError(
            f"{op}: got a DataLoader without any batch: it drops incomplete ones, and has "
            f"{len(batches.arrays[0])} examples for a batch_size of {batches.batch_size}"
        )
    if len(batches.arrays) < 2:
        raise ValueError(
            f"{op}: got a DataLoader of a single array, expected inputs and then labels; if "
            "the network is to reconstruct its inputs, they are the labels: DataLoader(x, x)"
        )


def classes_of(outputs: Any, labels: Tensor) -> int:
    """Return the number of classes of a classifier's outputs; 0 if they are not class scores."""
    if not isinstance(outputs, Tensor):  # a tuple of several
        return 0
    scores = outputs.dtype.kind == "f" and outputs.ndim > 1
    fits = scores and outputs.shape[:1] + outputs.shape[2:] == labels.shape
    return outputs.shape[1] if fits and labels.dtype.kind in "iu" and outputs.shape[1] > 1 else 0
