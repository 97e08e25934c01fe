"""Convolution layers: they hold weights and arguments; `functional` does the work."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import functional as F
from minidl.autograd import is_recording
from minidl.checks import Pair, check_whole, pair
from minidl.functional.geometry import conv_geometry, transpose_geometry
from minidl.nn.linear import weight_and_bias
from minidl.nn.module import Module, pending_results
from minidl.tensor import Tensor


class Conv2d(Module):
    """Convolution of images: `(n, in_channels, h, w)` to `(n, out_channels, out_h, out_w)`.

    On a CPU, 3x3 float32 kernels may share intermediate values between pixels, with errors of up to
    1e-5 of the largest result: see `functional.conv2d`. `minidl.set_kernels("exact")` prevents it.

    Args:
        in_channels: channels of the input.
        out_channels: number of kernels.
        kernel_size: in pixels.
        stride: see `functional.conv2d`.
        padding: an integer, a pair, `"same"` or `"valid"`.
        dilation: see `functional.conv2d`.
        groups: see `functional.conv2d`.
        bias: whether to add one value per output channel.
        rng: generator for the initial weights; the seeded stream if None.

    Attributes:
        weight: `(out_channels, in_channels // groups, k_h, k_w)`.
        bias: `(out_channels,)`, or None.

    Raises:
        ValueError: an argument is out of range, or `groups` does not divide the channels.

    Example:
        >>> Conv2d(3, 32, 3, padding="same")
        Conv2d(3, 32, 3, padding='same')
    """

    _axes = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        who = type(self).__name__
        _check_channels(who, in_channels, out_channels, groups)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.groups = dilation, groups
        kernel = pair(who, "kernel_size", kernel_size, 1, self._axes)[-self._axes :]
        conv_geometry(who, kernel, stride, padding, dilation)  # fail at construction
        shape = (out_channels, in_channels // groups, *kernel)
        self.weight, self.bias = weight_and_bias(shape, out_channels, bias, rng)

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.conv2d`."""
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        pending = None if self.training or is_recording() else pending_results(x)
        if pending is None:
            return F.conv2d(x, self.weight, self.bias, *geometry)
        return F.pending_conv2d(x, self.weight, self.bias, *geometry).wait_in(pending)


class Conv1d(Conv2d):
    """Convolution of sequences: `(n, in_channels, length)` to `(n, out_channels, out_length)`.

    Arguments as for `Conv2d`; `kernel_size`, `stride`, `padding` and `dilation` are single values.

    Attributes:
        weight: `(out_channels, in_channels // groups, k)`.
        bias: `(out_channels,)`, or None.
    """

    _axes = 1

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.conv1d`."""
        geometry: Any = (self.stride, self.padding, self.dilation, self.groups)
        return F.conv1d(x, self.weight, self.bias, *geometry)


class ConvTranspose2d(Module):
    """Transposed convolution, which enlarges images: see `functional.conv_transpose2d`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: in pixels.
        stride: the factor by which it enlarges.
        padding: pixels cut from each side of the output.
        output_padding: pixels added at the bottom and right.
        groups: see `functional.conv2d`.
        bias: whether to add one value per output channel.
        dilation: see `functional.conv2d`.
        rng: generator for the initial weights; the seeded stream if None.

    Attributes:
        weight: `(in_channels, out_channels // groups, k_h, k_w)`.
        bias: `(out_channels,)`, or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        output_padding: Pair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Pair = 1,
        rng: np.random.Generator | None = None,
    ) -> None:
        _check_channels("ConvTranspose2d", in_channels, out_channels, groups)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.output_padding, self.groups, self.dilation = output_padding, groups, dilation
        kernel = pair("ConvTranspose2d", "kernel_size", kernel_size, 1)
        transpose_geometry("ConvTranspose2d", stride, padding, output_padding, dilation)
        shape = (in_channels, out_channels // groups, *kernel)
        self.weight, self.bias = weight_and_bias(shape, out_channels, bias, rng)

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.conv_transpose2d`."""
        geometry = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return F.conv_transpose2d(x, self.weight, self.bias, *geometry)


def _check_channels(layer: str, inputs: int, outputs: int, groups: int) -> None:
    check_whole(layer, 1, in_channels=inputs, out_channels=outputs, groups=groups)
    if inputs % groups or outputs % groups:
        raise ValueError(
            f"{layer}: got {inputs} input and {outputs} output channels in {groups} groups, "
            "expected both to be divisible by groups"
        )
