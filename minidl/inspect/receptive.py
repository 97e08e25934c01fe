"""Receptive fields: how much of the input one value of a feature map can depend on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from minidl import nn
from minidl.tensor import Tensor

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Field:
    """The receptive field of a feature map's pixel along each axis of the image, in pixels.

    Attributes:
        size: of the part of the input that it depends on, padding included.
        jump: distance between the fields of neighbouring pixels.
    """

    size: tuple[float, ...]
    jump: tuple[float, ...]

    def through(self, windows: Sizes, strides: Sizes, dilations: Sizes) -> Field:
        """Return the field after a layer of windows: `size + (window - 1) * jump`."""
        steps = zip(self.size, self.jump, windows, dilations, strict=True)
        size = tuple(s + (k - 1) * d * j for s, j, k, d in steps)
        return Field(size, tuple(j * s for j, s in zip(self.jump, strides, strict=True)))


class Fields:
    """Tracks the field from the input through the layers of a network, as they run.

    Source: D. Araujo et al., Computing Receptive Fields of Convolutional Neural Networks (2019).
    """

    def __init__(self, x: Tensor, image: Sizes) -> None:
        ones = tuple(1.0 for _ in image)
        self._known: dict[int, tuple[Tensor, Field | None]] = {
            id(x): (x, Field(ones, ones) if image else None)
        }

    def of(self, x: Tensor) -> Field | None:
        """Return a tensor's field; None if unknown.

        A tensor that no layer made, such as a sum of branches, has its branches' largest field.
        """
        ahead, found, seen = [x], [], set()
        while ahead:
            tensor = ahead.pop()
            if not isinstance(tensor, Tensor):  # word indices, which may be plain arrays
                return None
            if id(tensor) in self._known:
                found.append(self._known[id(tensor)][1])
            elif tensor.node is not None and id(tensor) not in seen:
                if any(word in tensor.node.op for word in ("conv", "pool")):
                    return None
                ahead += [t for t in tensor.node.inputs if t is not None]
            seen.add(id(tensor))
        if not found or None in found:
            return None
        return max(found, key=lambda field: field.size if field else ())

    def pass_layer(self, module: nn.Module, x: Tensor, out: Tensor) -> Field | None:
        """Record that a layer computed `out` from `x`; return the field of `out`."""
        field = self.of(x)
        if field is not None:
            field = _after(module, field, x, out)
        self._known[id(out)] = (out, field)
        return field


def _after(module: nn.Module, field: Field, x: Tensor, out: Tensor) -> Field | None:
    axes = len(field.size)
    image, kernel = x.shape[2:], getattr(module, "kernel_size", None)
    ones = (1,) * axes
    if isinstance(module, nn.ConvTranspose2d):  # output pixels share input pixels
        strides = _each(module.stride, axes)
        windows = tuple(math.ceil(k / s) for k, s in zip(_each(kernel, axes), strides, strict=True))
        wider = field.through(windows, ones, ones)
        return Field(wider.size, tuple(j / s for j, s in zip(field.jump, strides, strict=True)))
    if isinstance(module, (nn.BlurPool2d, nn.MaxBlurPool2d)):
        field = field.through(_each(kernel or 1, axes), ones, ones)
        return field.through((module.filter_size,) * axes, _each(module.stride, axes), ones)
    if kernel is not None and len(image) == axes:
        stride: Any = getattr(module, "stride", None)
        stride = kernel if stride is None else stride
        dilation = getattr(module, "dilation", 1)
        field = field.through(*(_each(value, axes) for value in (kernel, stride, dilation)))
        if isinstance(module, nn.ConvPool2d):
            pool = module.pool_size
            jump = pool if module.pool_stride is None else module.pool_stride
            field = field.through(_each(pool, axes), _each(jump, axes), ones)
        return field
    if len(image) != axes or out.shape[2:] == image:
        return field  # pixel by pixel, or no pixels left
    if out.size == out.shape[0] * out.shape[1]:  # all pixels in one: global pools, Flatten
        return field.through(image, ones, ones)
    return None


def _each(value: Any, axes: int) -> Sizes:
    return tuple(value) if isinstance(value, (tuple, list)) else (int(value),) * axes
