"""Layers that pool to a given output size, global ones included: `functional` does the work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from minidl import functional as F
from minidl.checks import Pair
from minidl.functional.pooling.drawn import Ratio, check_fractional
from minidl.functional.pooling.sized import Size, check_levels, check_output_size
from minidl.nn.module import Module
from minidl.nn.pooling.basic import GlobalAvgPool
from minidl.random import generator
from minidl.tensor import Tensor


class GlobalMaxPool(GlobalAvgPool):
    """The largest of each channel: `(n, c, h, w)` to `(n, c)`; otherwise as `GlobalAvgPool`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.global_max_pool2d`, or `1d` to sequences."""
        pool = F.global_max_pool1d if x.ndim == 3 else F.global_max_pool2d
        return pool(x, self.keepdims)


class AdaptiveAvgPool2d(Module):
    """The means of windows that cover an image: see `functional.adaptive_avg_pool2d`."""

    def __init__(self, output_size: Size) -> None:
        check_output_size("AdaptiveAvgPool2d", output_size)
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.adaptive_avg_pool2d`."""
        return F.adaptive_avg_pool2d(x, self.output_size)


class AdaptiveAvgPool1d(Module):
    """The means of windows that cover a sequence: see `functional.adaptive_avg_pool1d`."""

    def __init__(self, output_size: int) -> None:
        check_output_size("AdaptiveAvgPool1d", output_size, axes=1)
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.adaptive_avg_pool1d`."""
        return F.adaptive_avg_pool1d(x, self.output_size)


class AdaptiveMaxPool2d(Module):
    """The maxima of windows that cover an image: see `functional.adaptive_max_pool2d`.

    With `return_indices` the output is a pair: the values and the indices of the winners.
    """

    def __init__(self, output_size: Size, return_indices: bool = False) -> None:
        check_output_size("AdaptiveMaxPool2d", output_size)
        self.output_size, self.return_indices = output_size, return_indices

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.adaptive_max_pool2d`."""
        if self.return_indices:
            return F.adaptive_max_pool2d(x, self.output_size, return_indices=True)  # type: ignore[return-value]
        return F.adaptive_max_pool2d(x, self.output_size)


class AdaptiveMaxPool1d(Module):
    """The maxima of windows that cover a sequence: see `functional.adaptive_max_pool1d`.

    With `return_indices` the output is a pair: the values and the indices of the winners.
    """

    def __init__(self, output_size: int, return_indices: bool = False) -> None:
        check_output_size("AdaptiveMaxPool1d", output_size, axes=1)
        self.output_size, self.return_indices = output_size, return_indices

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.adaptive_max_pool1d`."""
        if self.return_indices:
            return F.adaptive_max_pool1d(x, self.output_size, return_indices=True)  # type: ignore[return-value]
        return F.adaptive_max_pool1d(x, self.output_size)


class SpatialPyramidPool2d(Module):
    """Pooling to several sizes, concatenated: see `functional.spatial_pyramid_pool2d`."""

    def __init__(
        self, levels: Sequence[int] = (1, 2, 4), mode: Literal["max", "avg"] = "max"
    ) -> None:
        check_levels("SpatialPyramidPool2d", levels, mode)
        self.levels, self.mode = levels, mode

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.spatial_pyramid_pool2d`."""
        return F.spatial_pyramid_pool2d(x, self.levels, self.mode)


class FractionalMaxPool2d(Module):
    """The maxima of windows at random distances, in training and in evaluation.

    See `functional.fractional_max_pool2d` for the arguments. With `return_indices` the output is a
    pair: the values and the indices of the winners.
    """

    def __init__(
        self,
        kernel_size: Pair | None = None,
        output_size: Pair | None = None,
        output_ratio: Ratio | None = None,
        return_indices: bool = False,
        mode: Literal["pseudorandom", "random"] = "pseudorandom",
        overlapping: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        check_fractional("FractionalMaxPool2d", kernel_size, output_size, output_ratio, mode)
        generator(rng)  # fail at construction
        self.kernel_size, self.output_size = kernel_size, output_size
        self.output_ratio, self.return_indices = output_ratio, return_indices
        self.mode, self.overlapping, self._rng = mode, overlapping, rng

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.fractional_max_pool2d`."""
        out, places = F.fractional_max_pool2d(
            x,
            self.kernel_size,
            self.output_size,
            self.output_ratio,
            return_indices=True,
            mode=self.mode,
            overlapping=self.overlapping,
            rng=self._rng,
        )
        return (out, places) if self.return_indices else out  # type: ignore[return-value]
