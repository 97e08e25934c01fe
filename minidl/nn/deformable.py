"""Deformable convolution as a layer: `functional.deformable` does the work."""

from __future__ import annotations

from minidl import functional as F
from minidl.nn.convolution import Conv2d
from minidl.tensor import Tensor


class DeformConv2d(Conv2d):
    """Convolution whose taps are moved by offsets: see `functional.deform_conv2d`.

    Arguments, weights and their initial values are those of `Conv2d`. Offsets and masks are inputs:
    compute them by a `Conv2d` whose weights start at 0, and masks by a sigmoid of it, so that
    training starts with an ordinary convolution.

    Attributes:
        weight: `(out_channels, in_channels // groups, k_h, k_w)`.
        bias: `(out_channels,)`, or None.
    """

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Apply `functional.deform_conv2d`."""
        geometry = (self.stride, self.padding, self.dilation)
        return F.deform_conv2d(x, offset, self.weight, self.bias, *geometry, mask)
