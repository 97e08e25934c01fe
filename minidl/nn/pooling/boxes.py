"""Layers that pool regions of interest: `functional.pooling.boxes` does the work."""

from __future__ import annotations

from minidl import functional as F
from minidl.backends import Array
from minidl.checks import Pair
from minidl.functional.pooling.boxes import check_regions
from minidl.nn.module import Module
from minidl.tensor import Tensor


class RoIPool2d(Module):
    """The maxima of the bins of boxes, rounded to pixels: see `functional.roi_pool2d`."""

    def __init__(self, output_size: Pair, spatial_scale: float = 1.0) -> None:
        check_regions("RoIPool2d", output_size, spatial_scale)
        self.output_size, self.spatial_scale = output_size, spatial_scale

    def forward(self, x: Tensor, boxes: Tensor | Array) -> Tensor:
        """Apply `functional.roi_pool2d`."""
        return F.roi_pool2d(x, boxes, self.output_size, self.spatial_scale)


class RoIAlign2d(Module):
    """The means of bilinear samples in the bins of boxes: see `functional.roi_align2d`."""

    def __init__(
        self,
        output_size: Pair,
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        aligned: bool = False,
    ) -> None:
        check_regions("RoIAlign2d", output_size, spatial_scale)
        self.output_size, self.spatial_scale = output_size, spatial_scale
        self.sampling_ratio, self.aligned = sampling_ratio, aligned

    def forward(self, x: Tensor, boxes: Tensor | Array) -> Tensor:
        """Apply `functional.roi_align2d`."""
        options = (self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)
        return F.roi_align2d(x, boxes, *options)
