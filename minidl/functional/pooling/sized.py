"""Pooling to a given output size: adaptive, global, pyramid.

To pool h rows to `out_h`, window y covers the rows
`y * h // out_h <= row < ceil((y + 1) * h / out_h)`: PyTorch's rule. If `out_h` does not divide h,
windows differ in height by at most one, and may share a row; if it is larger than h, they repeat
rows. The same holds for columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np

from minidl.autograd import Gradients
from minidl.backends import Array
from minidl.checks import check_whole, pair
from minidl.functional.geometry import check_images
from minidl.functional.pooling import regions
from minidl.functional.pooling.basic import max_over, mean_over
from minidl.functional.pooling.regions import Regions, Spans
from minidl.tensor import Tensor, record
from minidl.tensor.functions import concatenate

Size = int | None | tuple[int | None, int | None]
"""Height and width of an output, or one integer for both; None keeps the input's."""


# To any size ----------------------------------------------------------------------------------


@overload
def adaptive_max_pool2d(
    x: Tensor, output_size: Size, return_indices: Literal[False] = False
) -> Tensor: ...
@overload
def adaptive_max_pool2d(
    x: Tensor, output_size: Size, return_indices: Literal[True]
) -> tuple[Tensor, Tensor]: ...
def adaptive_max_pool2d(
    x: Tensor, output_size: Size, return_indices: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the largest pixel of each of `out_h` by `out_w` windows that cover the image.

    Args:
        x: `(n, c, h, w)`, float32 or float64.
        output_size: `(out_h, out_w)`; None keeps the image's. Larger ones repeat pixels.
        return_indices: also return the index `row * w + column` of each winner, int64.

    Returns:
        `(n, c, out_h, out_w)`; with `return_indices` also the indices, of the same shape.

    Raises:
        ValueError: x is not a batch of images of >= 1 pixel, or a size is not an integer >= 1.
        TypeError: x is not a tensor of floats.

    Source: PyTorch, for the position of the windows.

    Example:
        >>> import minidl
        >>> x = minidl.arange(1, 6, dtype="float32").reshape(1, 1, 1, 5)
        >>> adaptive_max_pool2d(x, (1, 2)).reshape(2)
        Tensor([3., 5.], dtype=float32)
    """
    windows = _adaptive("max", x, output_size)
    out, places = max_of_regions("adaptive_max_pool2d", x, windows, return_indices)
    return out if places is None else (out, places)


def adaptive_avg_pool2d(x: Tensor, output_size: Size) -> Tensor:
    """Return the mean of each of `out_h` by `out_w` windows that cover the image.

    Args:
        x: `(n, c, h, w)`, float32 or float64.
        output_size: `(out_h, out_w)`; None keeps the image's. Larger ones repeat pixels.

    Returns:
        `(n, c, out_h, out_w)`.

    Raises:
        ValueError: x is not a batch of images of >= 1 pixel, or a size is not an integer >= 1.
        TypeError: x is not a tensor of floats.

    Example:
        >>> import minidl
        >>> x = minidl.arange(1, 6, dtype="float32").reshape(1, 1, 1, 5)
        >>> adaptive_avg_pool2d(x, (1, 2)).reshape(2)
        Tensor([2., 4.], dtype=float32)
    """
    windows = _adaptive("avg", x, output_size)
    if windows.rows.out == windows.columns.out == 1:
        return x.mean((2, 3), keepdims=True)
    sliding = windows.sliding
    if sliding is not None:
        return mean_over("adaptive_avg_pool2d", x, sliding)
    heights, widths = (s.stops[0] - s.starts[0] for s in (windows.rows, windows.columns))
    counts = np.outer(heights, widths).astype(x.dtype)
    return _sum(x, windows) / Tensor.wrap(x.backend.fresh(lambda: counts))


@overload
def adaptive_max_pool1d(
    x: Tensor, output_size: int, return_indices: Literal[False] = False
) -> Tensor: ...
@overload
def adaptive_max_pool1d(
    x: Tensor, output_size: int, return_indices: Literal[True]
) -> tuple[Tensor, Tensor]: ...
def adaptive_max_pool1d(
    x: Tensor, output_size: int, return_indices: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Apply `adaptive_max_pool2d` to sequences: `(n, c, length)` to `(n, c, output_size)`."""
    windows = _adaptive("max", x, output_size, axes=1)
    op = "adaptive_max_pool1d"
    out, places = max_of_regions(op, x.expand_dims(2), windows, return_indices)
    return out.squeeze(2) if places is None else (out.squeeze(2), places.squeeze(2))


def adaptive_avg_pool1d(x: Tensor, output_size: int) -> Tensor:
    """Apply `adaptive_avg_pool2d` to sequences: `(n, c, length)` to `(n, c, output_size)`."""
    _adaptive("avg", x, output_size, axes=1)
    return adaptive_avg_pool2d(x.expand_dims(2), (1, output_size)).squeeze(2)


# To one value ---------------------------------------------------------------------------------


def global_max_pool2d(x: Tensor, keepdims: bool = False) -> Tensor:
    """Return the largest pixel of each channel, for images of any size.

    Args:
        x: `(n, c, h, w)`, float32 or float64.
        keepdims: keep height and width, with size 1.

    Returns:
        `(n, c)`, ready for `linear`; or `(n, c, 1, 1)`.

    Raises:
        ValueError: x is not a batch of images.
        TypeError: x is not a tensor of floats.

    Source: M. Oquab et al., Is object localization for free? (2015), section 3.
    """
    check_images("global_max_pool2d", x)
    out = adaptive_max_pool2d(x, 1)
    return out if keepdims else out.squeeze((2, 3))


def global_max_pool1d(x: Tensor, keepdims: bool = False) -> Tensor:
    """Return the largest value of each channel of sequences: `(n, c, length)` to `(n, c)`."""
    check_images("global_max_pool1d", x, axes=1)
    out = adaptive_max_pool1d(x, 1)
    return out if keepdims else out.squeeze(2)


def global_avg_pool1d(x: Tensor, keepdims: bool = False) -> Tensor:
    """Return the mean of each channel of sequences: `(n, c, length)` to `(n, c)`."""
    check_images("global_avg_pool1d", x, axes=1)
    return x.mean(2, keepdims)


# To several sizes -----------------------------------------------------------------------------


def spatial_pyramid_pool2d(
    x: Tensor, levels: Sequence[int] = (1, 2, 4), mode: Literal["max", "avg"] = "max"
) -> Tensor:
    """Pool to several sizes and concatenate: a fixed length for any image size, for `linear`.

    Args:
        x: `(n, c, h, w)`, float32 or float64.
        levels: output sizes; those larger than the image repeat pixels.
        mode: `"max"` or `"avg"`.

    Returns:
        `(n, c * sum(level**2))`: level by level, and within a level channel by channel.

    Raises:
        ValueError: x is not a batch of images, there are no levels, a level is not an integer
            >= 1, or the mode is unknown.
        TypeError: x is not a tensor of floats.

    Source: K. He et al., Spatial Pyramid Pooling in Deep Convolutional Networks (2014).
    """
    check_levels("spatial_pyramid_pool2d", levels, mode)
    for level in levels:
        output_size_of("spatial_pyramid_pool2d", x, level)  # check here so that errors name this op
    pool = adaptive_max_pool2d if mode == "max" else adaptive_avg_pool2d
    return concatenate([pool(x, level).flatten(1) for level in levels], axis=1)


def check_mode(op: str, mode: str) -> None:
    """Raise ValueError unless a pooling's mode is "max" or "avg"."""
    if mode not in ("max", "avg"):
        raise ValueError(f"{op}: got mode={mode!r}, expected 'max' or 'avg'")


def check_levels(op: str, levels: Sequence[int], mode: str) -> None:
    """Raise ValueError unless levels and mode are valid for a pyramid."""
    if not isinstance(levels, (tuple, list)) or not levels:
        raise ValueError(f"{op}: got levels={levels!r}, expected sizes such as (1, 2, 4)")
    for level in levels:
        check_whole(op, 1, level=level)
    check_mode(op, mode)


# Over windows listed in tables ----------------------------------------------------------------


def max_of_regions(
    op: str, x: Tensor, windows: Regions, return_places: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return the largest pixel of each window, and its index if `return_places`, else None."""
    sliding = windows.sliding
    if sliding is not None:
        return max_over(op, x, sliding, return_places)
    best, places = regions.max_regions(x.backend, x.array, windows)
    size, apart = (windows.in_h, windows.in_w), windows.apart

    def backward(gradient: Tensor) -> Gradients:
        return (_scatter(gradient, places, size, apart),)

    out = record(op, best, (x,), backward)
    return out, Tensor.wrap(places) if return_places else None


def output_size_of(
    op: str, x: Tensor, output_size: Size, axes: int = 2
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the sizes of input and output, (height, width); raise if there is no pixel."""
    check_images(op, x, axes)
    in_h, in_w = (1, *x.shape[2:])[-2:]
    check_output_size(op, output_size, axes)
    wanted = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * 2
    out_h, out_w = (
        size if out is None else int(out) for out, size in zip(wanted, (in_h, in_w), strict=True)
    )
    if axes == 1:
        out_h = 1
    if min(in_h, in_w) < 1:
        raise ValueError(f"{op}: got input shape {x.shape}, expected images of at least one pixel")
    return (in_h, in_w), (out_h, out_w)


def check_output_size(op: str, output_size: Any, axes: int = 2) -> None:
    """Raise ValueError unless `output_size` consists of integers >= 1 or None."""
    if axes == 1:
        check_whole(op, 1, output_size=output_size)
        return
    both = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * 2
    given: Any = tuple(1 if size is None else size for size in both)
    try:
        pair(op, "output_size", given, 1)
    except ValueError:
        raise ValueError(
            f"{op}: got output_size={output_size!r}, expected an integer >= 1, or a pair of "
            "them (height, width); None keeps the input's"
        ) from None


def _adaptive(kind: str, x: Tensor, output_size: Size, axes: int = 2) -> Regions:
    """Lay the windows of adaptive pooling over a batch of images or sequences."""
    sizes, outs = output_size_of(f"adaptive_{kind}_pool{axes}d", x, output_size, axes)
    spans = []
    for size, out in zip(sizes, outs, strict=True):
        i = np.arange(out)[None]
        spans.append(Spans(i * size // out, -(-(i + 1) * size // out)))  # rounded down and up
    return Regions(*sizes, *spans)


def _scatter(
    values: Tensor, places: Array, size: tuple[int, int], apart: tuple[int, int] | None
) -> Tensor:
    """Add each window's value to its winning pixel."""

    def backward(outer: Tensor) -> Gradients:
        return (gather_places(outer, places, apart),)

    images = regions.scatter_places(values.backend, values.array, places, size, apart)
    return record("scatter_places", images, (values,), backward)


def gather_places(images: Tensor, places: Array, apart: tuple[int, int] | None) -> Tensor:
    """Return the pixel at each index; windows `apart` steps apart never share one (None: may)."""
    size = (images.shape[2], images.shape[3])

    def backward(outer: Tensor) -> Gradients:
        return (_scatter(outer, places, size, apart),)

    values = regions.gather_places(images.backend, images.array, places)
    return record("gather_places", values, (images,), backward)


def _sum(images: Tensor, windows: Regions) -> Tensor:
    """Return the sum of each window."""

    def backward(outer: Tensor) -> Gradients:
        return (_spread(outer, windows),)

    total = regions.sum_regions(images.backend, images.array, windows)
    return record("sum_regions", total, (images,), backward)


def _spread(values: Tensor, windows: Regions) -> Tensor:
    """Add each window's value to all its pixels."""

    def backward(outer: Tensor) -> Gradients:
        return (_sum(outer, windows),)

    images = regions.spread_regions(values.backend, values.array, windows)
    return record("spread_regions", images, (values,), backward)
