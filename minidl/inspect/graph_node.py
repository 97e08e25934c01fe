"""One tensor of a graph, and a digest of its values."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 24  # of a histogram
MOST_COUNTED = 65_536  # elements of a histogram: it shows a shape, and must not take long


@dataclass(frozen=True)
class Digest:
    """What a page shows of an array: its first elements, and statistics of all.

    Attributes:
        first: the first elements in the order of the indices, in one axis.
        size: how many elements the array has.
        least: the smallest finite element; None if there is none.
        mean: of the finite elements.
        largest: the largest finite element.
        strange: how many elements are NaN or infinite.
        counts: elements in each of 24 equal intervals from least to largest; empty for up to 24
            elements, and if all are equal.
        counted: how many finite elements were counted; larger arrays are sampled at equal steps.
    """

    first: NDArray[Any]
    size: int
    least: float | None = None
    mean: float | None = None
    largest: float | None = None
    strange: int = 0
    counts: tuple[int, ...] = ()
    counted: int = 0

    @classmethod
    @np.errstate(over="ignore", invalid="ignore")  # of sums and differences, in float64
    def of(cls, values: NDArray[Any], most: int) -> Digest:
        """Return the digest of an array.

        Args:
            values: of any shape and dtype.
            most: how many of the first elements to keep.

        Example:
            >>> found = Digest.of(np.array([[1.0, 4.0], [np.nan, 1.0]]), most=3)
            >>> found.first, found.least, found.mean, found.largest, found.strange
            (array([ 1.,  4., nan]), 1.0, 2.0, 4.0, 1)
        """
        first = np.array(values.flat[:most])
        flat = values.ravel(order="K")  # in memory's order: no copy
        if not math.isfinite(float(flat.sum(dtype=np.float64))):
            flat = flat[np.isfinite(flat)]
        if not flat.size:
            return cls(first, values.size, strange=values.size)
        low, high = float(flat.min()), float(flat.max())
        mean = float(flat.mean(dtype=np.float64))
        # An odd step does not meet the same column of an image each time.
        sample = flat[:: flat.size // MOST_COUNTED | 1]
        counts: tuple[int, ...] = ()
        if flat.size > BINS and low < high:
            with contextlib.suppress(ValueError):  # the interval is too wide, or too narrow
                found, _ = np.histogram(sample.astype(np.float64), BINS, (low, high))
                counts = tuple(found.tolist())
        strange = values.size - flat.size
        return cls(first, values.size, low, mean, high, strange, counts, sum(counts))


@dataclass(frozen=True)
class GraphNode:
    """One tensor of a graph.

    Attributes:
        number: its index in `Graph.nodes`.
        op: the operation that made it; empty for a leaf.
        name: of the parameter, or as given; empty if it has none.
        inputs: indices of the tensors it was computed from, in the operation's order.
        shape: sizes of the axes.
        dtype: of its elements.
        requires_grad: whether gradients flow to it.
        value: the element if there is only one, else None.
        gradient: of the graph's output with respect to it: the value if there is only one, else
            the largest absolute value; None if there is no gradient.
        slopes: the derivative with respect to each input, where that and this are single numbers
            and the input requires a gradient; None elsewhere. Their products along the paths to
            the output add up to the gradient.
        line: of the code that ran the operation, as in a traceback; empty if it was not recorded
            (see `record_lines`).
        values: what a page shows of the elements.
        gradients: what it shows of their gradients; None if there are none.
    """

    number: int
    op: str
    name: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: Any
    requires_grad: bool
    value: float | None
    gradient: float | None
    slopes: tuple[float | None, ...] = ()
    line: str = field(default="", repr=False)  # it may name a temporary file
    values: Digest | None = field(default=None, compare=False, repr=False)
    gradients: Digest | None = field(default=None, compare=False, repr=False)

    @property
    def made_by(self) -> str:
        """The operation with the indices of its inputs, as in `mul(#0, #1)`; leaf or constant."""
        if self.op:
            return f"{self.op}({', '.join(f'#{i}' for i in self.inputs)})"
        return "leaf" if self.requires_grad else "constant"

    @property
    def label(self) -> str:
        """Text of a box: name or operation, shape or value, gradient; one line each."""
        title = " = ".join(filter(None, (self.name, self.op))) or self.made_by
        shape = f"shape {self.shape} " if self.shape or self.value is None else ""
        value = "" if self.value is None else f"value {self.value:.4g}"
        lines = [f"#{self.number} {title}", (shape + value).rstrip()]
        if self.gradient is not None:
            lines.append(f"{'gradient' if value else 'max |g|'} {self.gradient:.4g}")
        return "\n".join(lines)
