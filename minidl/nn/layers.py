"""Layers: thin modules that hold parameters and arguments and call `functional`."""

from __future__ import annotations

import math

import numpy as np

from minidl import functional as F
from minidl.array_functions import zeros
from minidl.functional.geometry import Pair, pair
from minidl.nn import init
from minidl.nn.module import Module, Parameter
from minidl.tensor import Tensor


def _weight_and_bias(
    shape: tuple[int, ...], outputs: int, bias: bool, rng: np.random.Generator | None
) -> tuple[Parameter, Parameter | None]:
    """Draw weights and bias evenly within `1 / sqrt(fan_in)` of 0, PyTorch's default.

    It is Kaiming's uniform distribution with a gain of `sqrt(1 / 3)`, written there as `a=sqrt(5)`.
    """
    weight = Parameter(zeros(shape))
    init.kaiming_uniform_(weight, a=math.sqrt(5), rng=rng)
    if not bias:
        return weight, None
    bound = 1 / math.sqrt(init.fans(weight)[0])
    return weight, Parameter(init.uniform_(zeros(outputs), -bound, bound, rng))


def _positive(layer: str, **sizes: int) -> None:
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{layer}: got {name}={value!r}, wants a whole number from 1")


class Linear(Module):
    """`x @ weight.T + bias`: `(..., in_features)` to `(..., out_features)`.

    Args:
        in_features: numbers that go in.
        out_features: numbers that come out.
        bias: whether to add one.
        rng: where to draw initial weights from; the seeded stream where None.

    Attributes:
        weight: `(out_features, in_features)`.
        bias: `(out_features,)`, or None.

    Example:
        >>> Linear(3, 2)
        Linear(3, 2)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        _positive("Linear", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        shape = (out_features, in_features)
        self.weight, self.bias = _weight_and_bias(shape, out_features, bias, rng)

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.linear`."""
        return F.linear(x, self.weight, self.bias)


class Conv2d(Module):
    """Convolution of images: `(n, in_channels, h, w)` to `(n, out_channels, out_h, out_w)`.

    Args:
        in_channels: of the input.
        out_channels: number of kernels.
        kernel_size: in pixels.
        stride: see `functional.conv2d`.
        padding: a number, a pair, `"same"` or `"valid"`.
        dilation: see `functional.conv2d`.
        groups: see `functional.conv2d`.
        bias: whether to add one number per output channel.
        rng: where to draw initial weights from; the seeded stream where None.

    Attributes:
        weight: `(out_channels, in_channels // groups, k_h, k_w)`.
        bias: `(out_channels,)`, or None.

    Example:
        >>> Conv2d(3, 32, 3, padding="same")
        Conv2d(3, 32, 3, padding='same')
    """

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
        _positive("Conv2d", in_channels=in_channels, out_channels=out_channels, groups=groups)
        _check_groups("Conv2d", in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.kernel_size = (
            in_channels,
            out_channels,
            kernel_size,
        )
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        shape = (
            out_channels,
            in_channels // groups,
            *pair("Conv2d", "kernel_size", kernel_size, 1),
        )
        self.weight, self.bias = _weight_and_bias(shape, out_channels, bias, rng)

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.conv2d`."""
        return F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class Conv1d(Module):
    """Convolution of sequences: `(n, in_channels, length)` to `(n, out_channels, out_length)`.

    Arguments as `Conv2d`, each a single number.

    Attributes:
        weight: `(out_channels, in_channels // groups, k)`.
        bias: `(out_channels,)`, or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        _positive("Conv1d", in_channels=in_channels, out_channels=out_channels, groups=groups)
        _positive("Conv1d", kernel_size=kernel_size)
        _check_groups("Conv1d", in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.kernel_size = (
            in_channels,
            out_channels,
            kernel_size,
        )
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        shape = (out_channels, in_channels // groups, kernel_size)
        self.weight, self.bias = _weight_and_bias(shape, out_channels, bias, rng)

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.conv1d`."""
        return F.conv1d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class ConvTranspose2d(Module):
    """The transpose of a convolution, which enlarges images: see `functional.conv_transpose2d`.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: in pixels.
        stride: by how much it enlarges.
        padding: pixels cut from each side of the output.
        output_padding: pixels added at the bottom and right.
        groups: see `functional.conv2d`.
        bias: whether to add one number per output channel.
        dilation: see `functional.conv2d`.
        rng: where to draw initial weights from; the seeded stream where None.

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
        name = "ConvTranspose2d"
        _positive(name, in_channels=in_channels, out_channels=out_channels, groups=groups)
        _check_groups(name, in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.kernel_size = (
            in_channels,
            out_channels,
            kernel_size,
        )
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.groups, self.dilation = groups, dilation
        shape = (in_channels, out_channels // groups, *pair(name, "kernel_size", kernel_size, 1))
        self.weight, self.bias = _weight_and_bias(shape, out_channels, bias, rng)

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.conv_transpose2d`."""
        return F.conv_transpose2d(
            x,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )


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
        _check_pool("MaxPool2d", kernel_size, stride, padding, dilation)
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
        _check_pool("AvgPool2d", kernel_size, stride, padding, 1)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.avg_pool2d`."""
        return F.avg_pool2d(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class GlobalAvgPool(Module):
    """The mean of each channel: `(n, c, h, w)` to `(n, c)`, or `(n, c, 1, 1)` with `keepdims`."""

    def __init__(self, keepdims: bool = False) -> None:
        self.keepdims = keepdims

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.global_avg_pool2d`."""
        return F.global_avg_pool2d(x, self.keepdims)


class Flatten(Module):
    """Join the axes from `start_axis` on into one: images `(n, c, h, w)` to `(n, c * h * w)`."""

    def __init__(self, start_axis: int = 1) -> None:
        self.start_axis = start_axis

    def forward(self, x: Tensor) -> Tensor:
        """Apply `Tensor.flatten`."""
        return x.flatten(self.start_axis)


class Dropout(Module):
    """In training, set elements to 0 with probability `p`: see `functional.dropout`.

    Args:
        p: from 0 to 1.
        rng: where to draw masks from; the seeded stream where None.
    """

    def __init__(self, p: float = 0.5, rng: np.random.Generator | None = None) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: got p={p}, wants a probability from 0 to 1")
        self.p = p
        self._rng = rng

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.dropout`, in training."""
        return F.dropout(x, self.p, self.training, self._rng)


def _check_groups(layer: str, inputs: int, outputs: int, groups: int) -> None:
    if inputs % groups or outputs % groups:
        raise ValueError(
            f"{layer}: got {inputs} input and {outputs} output channels in {groups} groups, "
            "wants both divisible by groups"
        )


def _check_pool(
    layer: str, kernel_size: Pair, stride: Pair | None, padding: Pair, dilation: Pair
) -> None:
    """Raise where the layer is made, not only where it first runs."""
    pair(layer, "kernel_size", kernel_size, 1)
    pair(layer, "stride", 1 if stride is None else stride, 1)
    pair(layer, "padding", padding, 0)
    pair(layer, "dilation", dilation, 1)
