"""The geometry of the windows of a convolution or pooling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""An array of any backend. NumPy's and CuPy's arrays behave alike but share no common type."""


@dataclass(frozen=True, slots=True)
class Windows:
    """The geometry of sliding windows over images of one size, in pixels.

    Output pixel `(y, x)` reads the padded image through `k_h * k_w` *taps*: tap `(i, j)` is at row
    `y * stride_h + i * dilation_h` and column `x * stride_w + j * dilation_w`. Taps are numbered
    row by row: `i * k_w + j`.

    Padding is given per side, because `"same"` padding of an even kernel and `ceil_mode` are not
    symmetric. Fields are integers; `functional` checks them before it creates this object.

    Example:
        >>> w = Windows(in_h=5, in_w=5, k_h=3, k_w=3, stride_h=2, stride_w=2)
        >>> w.out_h, w.out_w
        (2, 2)
    """

    in_h: int
    in_w: int
    k_h: int
    k_w: int
    stride_h: int = 1
    stride_w: int = 1
    dilation_h: int = 1
    dilation_w: int = 1
    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    padded_h: int = field(init=False, repr=False, compare=False)
    """Height of the padded image."""

    padded_w: int = field(init=False, repr=False, compare=False)
    """Width of the padded image."""

    out_h: int = field(init=False, repr=False, compare=False)
    """Number of windows down the image: `(padded_h - span) // stride + 1`."""

    out_w: int = field(init=False, repr=False, compare=False)
    """Number of windows across the image."""

    def __post_init__(self) -> None:
        # Once, not at each of the 9,000 uses in a step of ResNet-20.
        h, w = self.top + self.in_h + self.bottom, self.left + self.in_w + self.right
        put = object.__setattr__  # the only way to set a field of a frozen object
        put(self, "padded_h", h)
        put(self, "padded_w", w)
        put(self, "out_h", (h - self.dilation_h * (self.k_h - 1) - 1) // self.stride_h + 1)
        put(self, "out_w", (w - self.dilation_w * (self.k_w - 1) - 1) // self.stride_w + 1)

    @property
    def is_padded(self) -> bool:
        """Whether any side has padding."""
        return bool(self.top or self.bottom or self.left or self.right)

    @property
    def is_tiling(self) -> bool:
        """Whether windows tile the image: no padding, overlap or gap; a remainder is left out."""
        steps = (self.stride_h, self.stride_w, self.dilation_h, self.dilation_w)
        return not self.is_padded and steps == (self.k_h, self.k_w, 1, 1)

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the padded image that hold the image itself."""
        return slice(self.top, self.top + self.in_h), slice(self.left, self.left + self.in_w)

    def taps(self) -> Iterator[tuple[int, slice, slice]]:
        """Yield each tap's number and the rows and columns of the padded image that it reads.

        `padded[:, :, rows, columns]` has shape `(n, c, out_h, out_w)`: the pixel that every window
        sees through this tap. A loop over the few taps replaces a loop over the many windows, and
        each step is one array operation.
        """
        for i in range(self.k_h):
            first = i * self.dilation_h
            rows = slice(first, first + (self.out_h - 1) * self.stride_h + 1, self.stride_h)
            for j in range(self.k_w):
                first = j * self.dilation_w
                columns = slice(first, first + (self.out_w - 1) * self.stride_w + 1, self.stride_w)
                yield i * self.k_w + j, rows, columns

    def places(self, xp: Any, winners: Array) -> tuple[Array, Array]:
        """Return the image's row and column of each window's winning tap."""
        taps = winners.astype(np.int64)
        rows = taps // self.k_w * self.dilation_h - self.top
        rows += xp.arange(self.out_h)[:, None] * self.stride_h
        columns = taps % self.k_w * self.dilation_w - self.left
        columns += xp.arange(self.out_w) * self.stride_w
        return rows, columns
