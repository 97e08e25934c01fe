"""The basic pooling layers: maximum, average and global average."""

from __future__ import annotations

from minidl import functional as F
from minidl.checks import Pair, check_whole
from minidl.functional.geometry import pool_geometry
from minidl.nn.module import Module
from minidl.tensor import Tensor


class WindowPool(Module):
    """Base class of layers that pool windows; sequences have windows with one axis."""

    _axes = 2

    def __init__(
        self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, dilation: Pair = 1
    ) -> None:
        pool_geometry(type(self).__name__, kernel_size, stride, padding, dilation, self._axes)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding


class MaxPool2d(WindowPool):
    """The largest pixel of each window: see `functional.max_pool2d` for the arguments.

    With `return_indices` the output is a pair: the values and the indices of the winners.
    """

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        dilation: Pair = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation)
        self.dilation, self.return_indices, self.ceil_mode = dilation, return_indices, ceil_mode

    # Typed for the usual case, so that `F.relu(pool(x))` passes type checkers. They also accept
    # `values, indices = pool(x)`, since iterating over a tensor yields tensors.
    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.max_pool2d`."""
        geometry = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        if self.return_indices:
            return F.max_pool2d(x, *geometry, return_indices=True)  # type: ignore[return-value]
        return F.max_pool2d(x, *geometry)


class AvgPool2d(WindowPool):
    """The mean of each window: see `functional.avg_pool2d` for the arguments."""

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        if divisor_override is not None:
            check_whole("AvgPool2d", 1, divisor_override=divisor_override)
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.avg_pool2d`."""
        geometry = (self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return F.avg_pool2d(x, *geometry, self.count_include_pad, self.divisor_override)


class GlobalAvgPool(Module):
    """The mean of each channel: `(n, c, h, w)` to `(n, c)`, or `(n, c, 1, 1)` with `keepdims`.

    Sequences `(n, c, length)` give `(n, c)` or `(n, c, 1)`.
    """

    def __init__(self, keepdims: bool = False) -> None:
        self.keepdims = keepdims

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.global_avg_pool2d`, or `1d` to sequences."""
        pool = F.global_avg_pool1d if x.ndim == 3 else F.global_avg_pool2d
        return pool(x, self.keepdims)
