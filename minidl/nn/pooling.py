"""Pooling layers: they hold arguments, `functional` does the work."""

from __future__ import annotations

from minidl import functional as F
from minidl.functional.geometry import Pair, check_whole, pool_geometry
from minidl.nn.module import Module
from minidl.tensor import Tensor


class MaxPool2d(Module):
    """The largest pixel of each window: see `functional.max_pool2d` for the arguments.

    With `return_indices` the output is a pair: values, and places of the winners.
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
        pool_geometry("MaxPool2d", kernel_size, stride, padding, dilation)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.return_indices, self.ceil_mode = dilation, return_indices, ceil_mode

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Apply `functional.max_pool2d`."""
        geometry = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        if self.return_indices:
            return F.max_pool2d(x, *geometry, return_indices=True)
        return F.max_pool2d(x, *geometry)


class AvgPool2d(Module):
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
        pool_geometry("AvgPool2d", kernel_size, stride, padding, 1)
        if divisor_override is not None:
            check_whole("AvgPool2d", 1, divisor_override=divisor_override)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.avg_pool2d`."""
        geometry = (self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return F.avg_pool2d(x, *geometry, self.count_include_pad, self.divisor_override)


class GlobalAvgPool(Module):
    """The mean of each channel: `(n, c, h, w)` to `(n, c)`, or `(n, c, 1, 1)` with `keepdims`."""

    def __init__(self, keepdims: bool = False) -> None:
        self.keepdims = keepdims

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.global_avg_pool2d`."""
        return F.global_avg_pool2d(x, self.keepdims)
