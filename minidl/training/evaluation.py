"""Evaluate a network, and collect its predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from minidl import nn
from minidl.autograd import no_grad
from minidl.backends import Array, backend_of
from minidl.data import DataLoader
from minidl.nn.modes import evaluating
from minidl.tensor import Tensor

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps the outputs and a batch's last array to a single number."""

IGNORED = -100  # losses ignore examples with this label


@dataclasses.dataclass
class Totals:
    """Sums over the examples of a pass: losses, examples seen, right answers, labels, time."""

    loss: float = 0.0
    seen: int = 0
    right: int = 0
    labels: int = 0
    seconds: float = 0.0

    def add(self, examples: int, loss: float, right: float = 0, labels: float = 0) -> None:
        """Add a batch: its mean loss and, for a classifier, its right answers and labels."""
        self.loss += loss * examples
        self.seen += examples
        self.right += int(right)
        self.labels += int(labels)

    def means(self, part: str) -> dict[str, float]:
        """Return the mean loss, and accuracy if labels were counted, under the history's names."""
        found = {f"{part}_loss": self.loss / self.seen}
        return found | ({f"{part}_accuracy": self.right / self.labels} if self.labels else {})

    def __str__(self) -> str:
        accuracy = f", accuracy {self.right / self.labels:.1%}" if self.labels else ""
        return f"loss {self.loss / self.seen:.3f}{accuracy}"


def measures(loss: Tensor, outputs: Any, labels: Tensor) -> list[Array]:
    """Return a batch's arguments for `Totals.add`, left on the device until they are read."""
    if not classes_of(outputs, labels):
        return [loss.data]
    right = outputs.data.argmax(1) == labels.data
    return [loss.data, right.sum(), (labels.data != IGNORED).sum()]


def read(numbers: Sequence[Array]) -> list[float]:
    """Return arrays of one element each as floats, waiting for the device once."""
    if not numbers:
        return []
    backend = backend_of(numbers[0])
    together = backend.xp.stack([number.astype(np.float64).reshape(()) for number in numbers])
    return [float(number) for number in backend.to_numpy(together)]


def evaluate(model: nn.Module, loss: Loss, batches: DataLoader) -> Totals:
    """Run one pass in evaluation mode, without recording a graph, and return its totals.

    Afterwards each module is in the mode that it was in before.
    """
    totals, passed = Totals(), []
    for outputs, labels in _outputs("evaluate", model, batches):
        found = loss(outputs, labels)
        found = found if isinstance(found, Tensor) else Tensor(found, device=labels.device)
        if found.size != 1:
            raise ValueError(
                f"evaluate: got a loss of shape {found.shape}, expected a single number"
            )
        passed.append((len(labels), measures(found, outputs, labels)))
    numbers_read = iter(read([number for _, numbers in passed for number in numbers]))
    for examples, numbers in passed:
        totals.add(examples, *(next(numbers_read) for _ in numbers))
    return totals


def predict(model: nn.Module, batches: DataLoader) -> np.ndarray[Any, Any]:
    """Return the outputs for all examples of a loader, in evaluation mode: `(n, ...)`.

    The last array of each batch, the labels, is ignored.

    Example:
        >>> from minidl import nn
        >>> batches = DataLoader(np.zeros((5, 3), np.float32), np.zeros(5, int), batch_size=2)
        >>> predict(nn.Linear(3, 10), batches).argmax(1).shape
        (5,)
    """
    return np.concatenate([outputs.numpy() for outputs, _ in _outputs("predict", model, batches)])


def _outputs(op: str, model: nn.Module, batches: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    check_loader(op, batches)
    with evaluating(model):
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
