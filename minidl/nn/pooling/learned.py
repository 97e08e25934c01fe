"""Pooling layers with learned parameters, and fixed mixes: `functional` does the work."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import functional as F
from minidl.backends import Array
from minidl.checks import Pair, check_fraction, check_whole, pair
from minidl.functional.geometry import pool_geometry
from minidl.functional.pooling.kinds import check_p
from minidl.nn import init
from minidl.nn.linear import weight_and_bias
from minidl.nn.module import Module, Parameter
from minidl.nn.pooling.basic import WindowPool
from minidl.tensor import Tensor
from minidl.tensor.functions import full, zeros


class MixedPool2d(WindowPool):
    """A fixed mix of maximum and mean: see `functional.mixed_pool2d` for the arguments."""

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        ceil_mode: bool = False,
        alpha: float = 0.5,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        check_fraction(type(self).__name__, "alpha", alpha)
        self.ceil_mode, self.alpha = ceil_mode, alpha

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.mixed_pool2d`."""
        geometry = (self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return F.mixed_pool2d(x, *geometry, self.alpha)


class MixedPool1d(MixedPool2d):
    """A fixed mix of maximum and mean for sequences: see `functional.mixed_pool1d`."""

    _axes = 1

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.mixed_pool1d`."""
        arguments: Any = (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.alpha)
        return F.mixed_pool1d(x, *arguments)


class GatedPool2d(WindowPool):
    """A mix of maximum and mean, set for each window by a learned gate.

    Args:
        kernel_size: size of the window and of the gate's weight, in pixels.
        stride: see `functional.gated_pool2d`.
        padding: see `functional.gated_pool2d`.
        channels: 1 for one shared gate, or the input's channels for one gate each.
        rng: generator for the initial weight; default the seeded stream.

    Attributes:
        weight: `(channels, 1, k_h, k_w)`.
    """

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        channels: int = 1,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        check_whole("GatedPool2d", 1, channels=channels)
        self.channels = channels
        shape = (channels, 1, *pair("GatedPool2d", "kernel_size", kernel_size, 1))
        self.weight, _ = weight_and_bias(shape, channels, False, rng)

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.gated_pool2d`."""
        return F.gated_pool2d(x, self.weight, self.stride, self.padding)


class GeMPool2d(Module):
    """The generalised mean with a learned power: see `functional.gem_pool2d`.

    Args:
        p: initial power, `p > 0`.
        kernel_size: size of the window, in pixels; default the whole image.
        stride: see `functional.gem_pool2d`.
        padding: see `functional.gem_pool2d`.
        eps: see `functional.gem_pool2d`.
        channels: 1 for one shared power, or the input's channels for one power each.

    Attributes:
        p: `(channels,)`.
    """

    _axes = 2

    def __init__(
        self,
        p: float = 3.0,
        kernel_size: Pair | None = None,
        stride: Pair | None = None,
        padding: Pair = 0,
        eps: float = 1e-6,
        channels: int = 1,
    ) -> None:
        name = type(self).__name__
        check_p(name, p)
        check_whole(name, 1, channels=channels)
        if kernel_size is not None:
            pool_geometry(name, kernel_size, stride, padding, axes=self._axes)
        if not eps > 0:
            raise ValueError(f"{name}: got eps={eps!r}, expected a positive number")
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.eps, self.channels = eps, channels
        self.p = Parameter(full(channels, float(p)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.gem_pool2d`."""
        return F.gem_pool2d(x, self.p, self.kernel_size, self.stride, self.padding, self.eps)


class GeMPool1d(GeMPool2d):
    """The generalised mean of sequences with a learned power: see `functional.gem_pool1d`."""

    _axes = 1

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.gem_pool1d`."""
        geometry: Any = (self.p, self.kernel_size, self.stride, self.padding, self.eps)
        return F.gem_pool1d(x, *geometry)


class SoftmaxPool2d(WindowPool):
    """A mean weighted by a softmax of the pixels times a learned factor `beta`.

    Args:
        kernel_size: size of the window, in pixels.
        stride: see `functional.softmax_pool2d`.
        padding: see `functional.softmax_pool2d`.
        ceil_mode: see `functional.softmax_pool2d`.
        beta: initial factor; 0 gives the mean.
        channels: 1 for one shared factor, or the input's channels for one factor each.

    Attributes:
        beta: `(channels,)`.
    """

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        ceil_mode: bool = False,
        beta: float = 1.0,
        channels: int = 1,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        check_whole(type(self).__name__, 1, channels=channels)
        self.ceil_mode, self.channels = ceil_mode, channels
        self.beta = Parameter(full(channels, float(beta)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.softmax_pool2d`."""
        geometry = (self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return F.softmax_pool2d(x, *geometry, self.beta)


class SoftmaxPool1d(SoftmaxPool2d):
    """A mean of each window of sequences, weighted by softmax: see `functional.softmax_pool1d`."""

    _axes = 1

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.softmax_pool1d`."""
        arguments: Any = (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.beta)
        return F.softmax_pool1d(x, *arguments)


class AttentionPool(Module):
    """A mean of all pixels with attention weights: `(n, c, h, w)` or `(n, c, length)` to `(n, c)`.

    See `functional.attention_pool2d`.

    Args:
        channels: c, the channels of the input.
        rng: generator for the initial weight; default the seeded stream.

    Attributes:
        weight: `(channels,)`.
    """

    def __init__(self, channels: int, rng: np.random.Generator | None = None) -> None:
        check_whole("AttentionPool", 1, channels=channels)
        self.channels = channels
        bound = channels**-0.5
        self.weight = Parameter(init.uniform_(zeros(channels), -bound, bound, rng))

    def forward(self, x: Tensor, mask: Tensor | Array | None = None) -> Tensor:
        """Apply `functional.attention_pool2d`, or `1d` to sequences.

        Args:
            x: images or sequences.
            mask: for sequences, bools `(n, length)`: True where a step counts.
        """
        if mask is not None:
            return F.masked_attention_pool1d(x, self.weight, mask)
        pool = F.attention_pool1d if x.ndim == 3 else F.attention_pool2d
        return pool(x, self.weight)
