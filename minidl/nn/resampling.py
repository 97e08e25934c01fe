"""Layers that change the size of images: `functional.resampling` does the work."""

from __future__ import annotations

from minidl import functional as F
from minidl.checks import Pair
from minidl.functional.resampling import Mode, Scale, check_resampling
from minidl.nn.module import Module
from minidl.tensor import Tensor


class Upsample(Module):
    """Images at another size, usually a larger one: see `functional.interpolate`.

    Example:
        >>> Upsample(scale_factor=2, mode="bilinear")
        Upsample(scale_factor=2, mode='bilinear')
    """

    def __init__(
        self,
        size: Pair | None = None,
        scale_factor: Scale | None = None,
        mode: Mode = "nearest",
        align_corners: bool | None = None,
    ) -> None:
        check_resampling("Upsample", size, scale_factor, mode, align_corners)
        self.size, self.scale_factor = size, scale_factor
        self.mode, self.align_corners = mode, align_corners

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.interpolate`."""
        options = (self.size, self.scale_factor, self.mode, self.align_corners)
        return F.interpolate(x, *options)
