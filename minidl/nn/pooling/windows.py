"""Layers that pool sliding windows or groups of channels: `functional` does the work."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from minidl import functional as F
from minidl.backends import Array
from minidl.checks import Pair, check_whole, pair
from minidl.functional.geometry import pool_geometry
from minidl.functional.pooling.kinds import check_p
from minidl.functional.pooling.sized import check_mode
from minidl.nn.convolution import Conv2d
from minidl.nn.module import Module
from minidl.nn.pooling.basic import MaxPool2d, WindowPool
from minidl.random import generator
from minidl.tensor import Tensor


class MaxPool1d(MaxPool2d):
    """The largest value of each window of sequences: see `functional.max_pool1d`."""

    _axes = 1

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.max_pool1d`."""
        geometry: Any = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        if self.return_indices:
            return F.max_pool1d(x, *geometry, return_indices=True)  # type: ignore[return-value]
        return F.max_pool1d(x, *geometry)


class MinPool2d(WindowPool):
    """The smallest pixel of each window: see `functional.min_pool2d` for the arguments."""

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        dilation: Pair = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation)
        self.dilation, self.ceil_mode = dilation, ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.min_pool2d`."""
        geometry = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        return F.min_pool2d(x, *geometry)


class MinPool1d(MinPool2d):
    """The smallest value of each window of sequences: see `functional.min_pool1d`."""

    _axes = 1

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.min_pool1d`."""
        geometry: Any = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        return F.min_pool1d(x, *geometry)


class AvgPool1d(Module):
    """The mean of each window of sequences: see `functional.avg_pool1d` for the arguments."""

    def __init__(
        self,
        kernel_size: int,
        stride: int | None = None,
        padding: int = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        pool_geometry("AvgPool1d", kernel_size, stride, padding, axes=1)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.avg_pool1d`."""
        geometry = (self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return F.avg_pool1d(x, *geometry, self.count_include_pad)


class LPPool2d(WindowPool):
    """The p-norm of each window: see `functional.lp_pool2d` for the arguments."""

    def __init__(
        self,
        norm_type: float,
        kernel_size: Pair,
        stride: Pair | None = None,
        ceil_mode: bool = False,
    ) -> None:
        check_p(type(self).__name__, norm_type)
        super().__init__(kernel_size, stride)
        self.norm_type, self.ceil_mode = norm_type, ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.lp_pool2d`."""
        return F.lp_pool2d(x, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)


class LPPool1d(LPPool2d):
    """The p-norm of each window of sequences: see `functional.lp_pool1d`."""

    _axes = 1

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.lp_pool1d`."""
        geometry: Any = (self.norm_type, self.kernel_size, self.stride, self.ceil_mode)
        return F.lp_pool1d(x, *geometry)


class StochasticPool2d(WindowPool):
    """A random pixel of each window in training, its expected value in evaluation.

    See `functional.stochastic_pool2d` for the arguments.
    """

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        ceil_mode: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        generator(rng)  # fail at construction
        self.ceil_mode, self._rng = ceil_mode, rng

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.stochastic_pool2d`."""
        geometry = (self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return F.stochastic_pool2d(x, *geometry, self.training, self._rng)


class StochasticPool1d(StochasticPool2d):
    """A random value of each window of sequences in training, its expected value in evaluation."""

    _axes = 1

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.stochastic_pool1d`."""
        arguments: Any = (
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.training,
            self._rng,
        )
        return F.stochastic_pool1d(x, *arguments)


class ChannelMaxPool(Module):
    """The largest of every `size` neighbouring channels: see `functional.channel_max_pool`."""

    def __init__(self, size: int) -> None:
        check_whole(type(self).__name__, 1, size=size)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.channel_max_pool`."""
        return F.channel_max_pool(x, self.size)


class ChannelAvgPool(ChannelMaxPool):
    """The mean of every `size` neighbouring channels: see `functional.channel_avg_pool`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.channel_avg_pool`."""
        return F.channel_avg_pool(x, self.size)


class BlurPool2d(Module):
    """Blur, then keep every `stride`-th pixel: see `functional.blur_pool2d` for the arguments."""

    def __init__(self, stride: Pair = 2, filter_size: int = 4) -> None:
        pair("BlurPool2d", "stride", stride, 1)
        check_whole("BlurPool2d", 1, filter_size=filter_size)
        self.stride, self.filter_size = stride, filter_size

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.blur_pool2d`."""
        return F.blur_pool2d(x, self.stride, self.filter_size)


class MaxBlurPool2d(Module):
    """Anti-aliased max pooling: see `functional.max_blur_pool2d` for the arguments."""

    def __init__(self, kernel_size: Pair = 2, stride: Pair = 2, filter_size: int = 4) -> None:
        pool_geometry("MaxBlurPool2d", kernel_size, stride)
        check_whole("MaxBlurPool2d", 1, filter_size=filter_size)
        self.kernel_size, self.stride, self.filter_size = kernel_size, stride, filter_size

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.max_blur_pool2d`."""
        return F.max_blur_pool2d(x, self.kernel_size, self.stride, self.filter_size)


class MaxUnpool2d(WindowPool):
    """Winners put back at their indices: see `functional.max_unpool2d` for the arguments.

    Call it with values, indices and, unless it is the smallest possible, the `output_size`.
    """

    def __init__(self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> None:
        super().__init__(kernel_size, stride, padding)

    def forward(
        self, x: Tensor, indices: Tensor | Array, output_size: int | tuple[int, ...] | None = None
    ) -> Tensor:
        """Apply `functional.max_unpool2d`."""
        geometry = (self.kernel_size, self.stride, self.padding)
        return F.max_unpool2d(x, indices, *geometry, output_size)


class MaxUnpool1d(MaxUnpool2d):
    """Winners of sequences put back at their indices: see `functional.max_unpool1d`."""

    _axes = 1

    def forward(
        self, x: Tensor, indices: Tensor | Array, output_size: int | tuple[int, ...] | None = None
    ) -> Tensor:
        """Apply `functional.max_unpool1d`."""
        arguments: Any = (self.kernel_size, self.stride, self.padding, output_size)
        return F.max_unpool1d(x, indices, *arguments)


class ConvPool2d(Conv2d):
    """Convolution, then pooling, in one layer: see `Conv2d` and `functional.conv_pool2d`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, one per kernel.
        kernel_size: size of the convolution's kernels, in pixels.
        pool_size: size of the pooling window, in pixels.
        pool_stride: pixels from one pooling window to the next; default `pool_size`.
        mode: `"max"` or `"avg"`.
        stride: see `functional.conv2d`.
        padding: of the convolution: an integer, a pair, `"same"` or `"valid"`.
        dilation: see `functional.conv2d`.
        groups: see `functional.conv2d`.
        bias: whether to add one value per output channel.
        rng: generator for the initial weights; default the seeded stream.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        pool_size: Pair = 2,
        pool_stride: Pair | None = None,
        mode: Literal["max", "avg"] = "max",
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        pair("ConvPool2d", "pool_size", pool_size, 1)
        if pool_stride is not None:
            pair("ConvPool2d", "pool_stride", pool_stride, 1)
        check_mode("ConvPool2d", mode)
        convolution = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        super().__init__(*convolution, bias, rng)
        self.pool_size, self.pool_stride, self.mode = pool_size, pool_stride, mode

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.conv_pool2d`."""
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        return F.conv_pool2d(
            x, self.weight, self.bias, self.pool_size, self.pool_stride, self.mode, *geometry
        )
