"""Layers that pad images and sequences, to put in front of a convolution or pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from minidl.checks import is_whole
from minidl.functional.geometry import check_images
from minidl.nn.module import Module
from minidl.tensor import Tensor
from minidl.tensor.edges import Mode, pad


class ZeroPad2d(Module):
    """Pad images with zeros: `(n, c, h, w)` to `(n, c, top + h + bottom, left + w + right)`.

    Args:
        padding: pixels on every side, or `(left, right, top, bottom)`, each `>= 0`.

    Raises:
        ValueError: the padding is negative or of another length.

    Example:
        >>> import minidl
        >>> ZeroPad2d((1, 0, 0, 0))(minidl.ones(1, 1, 1, 2))
        Tensor([[[[0., 1., 1.]]]], dtype=float32)
    """

    _axes: ClassVar[int] = 2
    _mode: ClassVar[Mode] = "constant"

    def __init__(self, padding: int | Sequence[int]) -> None:
        self.padding = padding
        names = ("left", "right", "top", "bottom")[: 2 * self._axes]
        sides = padding if isinstance(padding, (tuple, list)) else (padding,) * len(names)
        if len(sides) != len(names) or not all(is_whole(side, 0) for side in sides):
            raise ValueError(
                f"{type(self).__name__}: got padding={padding!r}, expected an integer >= 0, or "
                f"one for each of ({', '.join(names)})"
            )
        pairs = list(zip(sides[::2], sides[1::2], strict=True))
        self._widths = ((0, 0), (0, 0), *reversed(pairs))

    def forward(self, x: Tensor) -> Tensor:
        """Apply `minidl.pad`."""
        check_images(type(self).__name__, x, self._axes)
        return pad(x, self._widths, mode=self._mode)


class ZeroPad1d(ZeroPad2d):
    """Pad sequences with zeros: `(n, c, length)`; `padding` is an integer or `(left, right)`."""

    _axes = 1


class ReflectionPad2d(ZeroPad2d):
    """Pad images by reflecting them at their outermost pixels, which are not repeated.

    Args:
        padding: as for `ZeroPad2d`, each less than the image's size along its axis.
    """

    _mode = "reflect"


class ReflectionPad1d(ReflectionPad2d):
    """Pad sequences by reflection; `padding` is an integer or `(left, right)`."""

    _axes = 1


class ReplicationPad2d(ZeroPad2d):
    """Pad images by repeating their outermost pixels; `padding` as for `ZeroPad2d`."""

    _mode = "edge"


class ReplicationPad1d(ReplicationPad2d):
    """Pad sequences by repeating their ends; `padding` is an integer or `(left, right)`."""

    _axes = 1


class CircularPad2d(ZeroPad2d):
    """Pad images as if they were repeated in all directions, like tiles.

    Args:
        padding: as for `ZeroPad2d`, each at most the image's size along its axis.
    """

    _mode = "wrap"


class CircularPad1d(CircularPad2d):
    """Pad sequences as if they were repeated; `padding` is an integer or `(left, right)`."""

    _axes = 1
