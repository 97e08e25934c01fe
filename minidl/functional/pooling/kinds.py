"""More pooling of sliding windows: sequences, minimum, p-norm, channels, blur; and unpooling.

Each pooling is composed of the maxima and means of `basic`, which provide the gradients.
"""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import numpy as np

from minidl.autograd import Gradients
from minidl.backends import Array
from minidl.checks import Pair, check_whole, pair
from minidl.functional.convolution import conv2d
from minidl.functional.geometry import (
    check_floats,
    check_images,
    check_indices,
    pool_geometry,
    pool_windows,
)
from minidl.functional.pooling import regions
from minidl.functional.pooling.basic import avg_pool2d, divisors_of, max_over, max_pool2d, mean_over
from minidl.functional.pooling.scaled import powers
from minidl.functional.pooling.sized import check_mode, gather_places
from minidl.tensor import Tensor, record
from minidl.tensor.functions import concatenate

# Sequences ------------------------------------------------------------------------------------


@overload
def max_pool1d(
    x: Tensor,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> Tensor: ...
@overload
def max_pool1d(
    x: Tensor,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def max_pool1d(
    x: Tensor,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Apply `max_pool2d` to sequences: `(n, c, length)` to `(n, c, out_length)`.

    Sizes are single integers; `return_indices` returns indices into the sequence.

    Example:
        >>> import minidl
        >>> max_pool1d(minidl.arange(6, dtype="float32").reshape(1, 1, 6), 2).reshape(3)
        Tensor([1., 3., 5.], dtype=float32)
    """
    op = "max_pool1d"
    windows = pool_windows(op, x, kernel_size, stride, padding, dilation, ceil_mode, axes=1)
    out, places = max_over(op, x.expand_dims(2), windows, return_indices)
    return out.squeeze(2) if places is None else (out.squeeze(2), places.squeeze(2))


def avg_pool1d(
    x: Tensor,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Apply `avg_pool2d` to sequences: `(n, c, length)` to `(n, c, out_length)`."""
    windows = pool_windows("avg_pool1d", x, kernel_size, stride, padding, 1, ceil_mode, axes=1)
    return mean_over("avg_pool1d", x.expand_dims(2), windows, count_include_pad).squeeze(2)


# Minimum and p-norm ---------------------------------------------------------------------------


def min_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Return the smallest pixel of each window: `-max_pool2d(-x)`, with the same arguments.

    Source: own derivation; in image processing, the erosion of a greyscale image.
    """
    windows = pool_windows("min_pool2d", x, kernel_size, stride, padding, dilation, ceil_mode)
    return -max_over("min_pool2d", -x, windows)[0]


def min_pool1d(
    x: Tensor,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Apply `min_pool2d` to sequences: `(n, c, length)` to `(n, c, out_length)`."""
    op = "min_pool1d"
    windows = pool_windows(op, x, kernel_size, stride, padding, dilation, ceil_mode, axes=1)
    return -max_over(op, -x.expand_dims(2), windows)[0].squeeze(2)


def lp_pool2d(
    x: Tensor,
    norm_type: float,
    kernel_size: Pair,
    stride: Pair | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Return the p-norm of each window: `sum(x**p) ** (1 / p)`.

    p = 1 is the sum, p = 2 the Euclidean norm, p = infinity the largest `abs(x)`. As in PyTorch,
    other p take no `abs`: for odd or fractional p the inputs must be non-negative, or the result
    may be NaN. The gradient of a window of norm 0 is 0. A window that overhangs the edge is
    rescaled as if the missing pixels equalled the mean of the others.

    Args:
        x: `(n, c, h, w)`, float32 or float64.
        norm_type: p > 0.
        kernel_size: size of the window, in pixels.
        stride: pixels from one window to the next; default `kernel_size`.
        ceil_mode: see `max_pool2d`.

    Returns:
        `(n, c, out_h, out_w)`.

    Raises:
        ValueError: p is not > 0, or a size is out of range.
        TypeError: x is not a tensor of floats.

    Source: P. Sermanet et al., Convolutional Neural Networks Applied to House Numbers Digit
    Classification (2012), section 2.2.

    Example:
        >>> lp_pool2d(Tensor([[[[3.0, 4.0]]]]), 2, (1, 2)).item()
        5.0
    """
    check_p("lp_pool2d", norm_type)
    windows = pool_windows("lp_pool2d", x, kernel_size, stride, ceil_mode=ceil_mode)
    return _norm("lp_pool2d", x, norm_type, windows)


def lp_pool1d(
    x: Tensor,
    norm_type: float,
    kernel_size: int,
    stride: int | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Apply `lp_pool2d` to sequences: `(n, c, length)` to `(n, c, out_length)`."""
    check_p("lp_pool1d", norm_type)
    windows = pool_windows("lp_pool1d", x, kernel_size, stride, ceil_mode=ceil_mode, axes=1)
    return _norm("lp_pool1d", x.expand_dims(2), norm_type, windows).squeeze(2)


def check_p(op: str, p: Any) -> None:
    """Raise ValueError unless p is a number > 0."""
    number = isinstance(p, (int, float, np.integer, np.floating)) and not isinstance(p, bool)
    if not number or not p > 0:
        raise ValueError(f"{op}: got p={p!r}, expected a positive number")


def _norm(op: str, x: Tensor, p: float, windows: Any) -> Tensor:
    if math.isinf(p):
        return max_over(op, x.abs(), windows)[0]
    p = int(p) if p == int(p) else float(p)
    taps = windows.k_h * windows.k_w
    if p == 1:
        return mean_over(op, x, windows) * float(taps)
    terms, total, largest = powers(op, x, p, windows)
    mean = total(terms) * (taps / divisors_of(x.backend, windows, True, x.dtype))
    zero = mean == 0  # there the slope of the root is infinite
    # In float64: rounded to float32, 1 / p changes roots of 1e20 by 6 units in the last place.
    root = (mean + zero).to(dtype=np.float64) ** (1 / p)
    found: Tensor = root.to(dtype=x.dtype) * ~zero * largest
    return found


# Channels -------------------------------------------------------------------------------------


def channel_max_pool(x: Tensor, size: int) -> Tensor:
    """Return the largest of every `size` neighbouring channels, pixel by pixel ("maxout").

    Args:
        x: `(n, c, ...)`: vectors, sequences or images, float32 or float64.
        size: channels per group, a divisor of c.

    Returns:
        `(n, c // size, ...)`.

    Raises:
        ValueError: `size` does not divide c, or is not an integer >= 1.
        TypeError: x is not a tensor of floats.

    Source: I. Goodfellow et al., Maxout Networks (2013), section 2.

    Example:
        >>> channel_max_pool(Tensor([[1.0, 5.0, 2.0, 0.0]]), 2)
        Tensor([[5., 2.]], dtype=float32)
    """
    return _from_rows(max_pool2d(_channels_as_columns("channel_max_pool", x, size), (1, size)), x)


def channel_avg_pool(x: Tensor, size: int) -> Tensor:
    """Return the mean of every `size` neighbouring channels; see `channel_max_pool`."""
    return _from_rows(avg_pool2d(_channels_as_columns("channel_avg_pool", x, size), (1, size)), x)


def _channels_as_columns(op: str, x: Tensor, size: int) -> Tensor:
    """Reshape `(n, c, ...)` to images `(n, 1, pixels, c)`, without a copy."""
    check_floats(op, x)
    check_whole(op, 1, size=size)
    if x.ndim < 2 or x.shape[1] % size:
        raise ValueError(
            f"{op}: got shape {x.shape} and size={size}, expected (n, c, ...) with c divisible "
            "by size"
        )
    n, c, *rest = x.shape
    return x.transpose(0, *range(2, x.ndim), 1).reshape(n, 1, math.prod(rest), c)


def _from_rows(pooled: Tensor, x: Tensor) -> Tensor:
    """Move pooled columns back to the channel axis, and restore the other axes of x."""
    groups = pooled.shape[3]
    back = pooled.reshape(len(x), *x.shape[2:], groups)
    return back.transpose(0, x.ndim - 1, *range(1, x.ndim - 1))


# Blur -----------------------------------------------------------------------------------------


def blur_pool2d(x: Tensor, stride: Pair = 2, filter_size: int = 4) -> Tensor:
    """Blur images, then subsample: removes frequencies that the stride would alias.

    The filter is row `filter_size - 1` of Pascal's triangle, divided by its sum, along rows and
    columns: the same as repeated averages of 2 by 2 pixels. Images are mirrored at their edges.

    Args:
        x: `(n, c, h, w)`, float32 or float64.
        stride: pixels from one output pixel to the next.
        filter_size: size of the filter, in pixels; 1 does not blur.

    Returns:
        `(n, c, ceil(h / stride), ceil(w / stride))`.

    Raises:
        ValueError: a size is not an integer >= 1, or the images are too small to be mirrored.
        TypeError: x is not a tensor of floats.

    Source: R. Zhang, Making Convolutional Networks Shift-Invariant Again (2019), section 3.2.
    """
    op = "blur_pool2d"
    check_images(op, x)
    check_whole(op, 1, filter_size=filter_size)
    strides = pair(op, "stride", stride, 1)
    before, after = (filter_size - 1) // 2, filter_size // 2
    if min(x.shape[2:]) <= after:
        raise ValueError(
            f"{op}: got input shape {x.shape}, expected height and width > {after}, "
            f"half of filter_size={filter_size}, to mirror the edges"
        )
    for axis in (2, 3):
        inner = (slice(None),) * axis
        left = x[(*inner, slice(before, 0, -1))]
        right = x[(*inner, slice(-2, -2 - after, -1))]
        x = concatenate([left, x, right], axis) if filter_size > 1 else x
    for _ in range(filter_size - 2):
        x = avg_pool2d(x, 2, 1)
    return avg_pool2d(x, min(filter_size, 2), strides)


def max_blur_pool2d(
    x: Tensor, kernel_size: Pair = 2, stride: Pair = 2, filter_size: int = 4
) -> Tensor:
    """Return an anti-aliased max pooling: `max_pool2d` with stride 1, then `blur_pool2d`."""
    pool_windows("max_blur_pool2d", x, kernel_size, 1)  # check here so that errors name this op
    return blur_pool2d(max_pool2d(x, kernel_size, 1), stride, filter_size)


# After a convolution --------------------------------------------------------------------------


def conv_pool2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pool_size: Pair = 2,
    pool_stride: Pair | None = None,
    mode: Literal["max", "avg"] = "max",
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve images with weights, then pool: `conv2d`, then `max_pool2d` or `avg_pool2d`.

    Args:
        x: images `(n, c, h, w)`, float32 or float64.
        weight: `(d, c // groups, k_h, k_w)`.
        bias: `(d,)`, or None.
        pool_size: size of the pooling window, in pixels.
        pool_stride: pixels from one window to the next; default `pool_size`.
        mode: `"max"` or `"avg"`.
        stride: see `conv2d`.
        padding: see `conv2d`.
        dilation: see `conv2d`.
        groups: see `conv2d`.

    Returns:
        `(n, d, out_h, out_w)`.

    Raises:
        ValueError: shapes do not match, a size is out of range, or the mode is unknown.
        TypeError: dtypes or devices differ.
    """
    check_mode("conv_pool2d", mode)
    pool = max_pool2d if mode == "max" else avg_pool2d
    return pool(conv2d(x, weight, bias, stride, padding, dilation, groups), pool_size, pool_stride)


# Unpooling ------------------------------------------------------------------------------------


def max_unpool2d(
    x: Tensor,
    indices: Tensor | Array,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    output_size: int | tuple[int, ...] | None = None,
) -> Tensor:
    """Put the values that max pooling returned back at their indices; all other pixels are 0.

    If windows overlapped, one pixel may have won several of them, and its index occurs several
    times. If an index occurs twice with different values, the last one wins (on a GPU, any), while
    both get the gradient, as in PyTorch.

    Args:
        x: the pooled values, `(n, c, h, w)`, float32 or float64.
        indices: `row * out_w + column` in the output, integers of the shape of x, as
            `return_indices` returns them.
        kernel_size: window size of the pooling.
        stride: stride of the pooling; default `kernel_size`.
        padding: padding of the pooling.
        output_size: height and width of the image that was pooled, or its whole shape; default the
            smallest: `(h - 1) * stride - 2 * padding + kernel_size`.

    Returns:
        `(n, c, out_h, out_w)`.

    Raises:
        ValueError: an index is out of range, the shapes of x and indices differ, or an image of
            `output_size` does not pool to the size of x.
        TypeError: x is not a tensor of floats, or the indices are not integers.

    Source: M. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks (2014),
    section 2.1.

    Example:
        >>> max_unpool2d(Tensor([[[[7.0]]]]), [[[[2]]]], 2).reshape(2, 2)
        Tensor([[0., 0.],
                [7., 0.]], dtype=float32)
    """
    check_images("max_unpool2d", x)
    geometry = pool_geometry("max_unpool2d", kernel_size, stride, padding)
    size = _unpooled_size("max_unpool2d", x.shape[2:], geometry, output_size)
    return _unpool("max_unpool2d", x, _checked_places("max_unpool2d", x, indices, size), size)


def max_unpool1d(
    x: Tensor,
    indices: Tensor | Array,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    output_size: int | tuple[int, ...] | None = None,
) -> Tensor:
    """Apply `max_unpool2d` to sequences: `(n, c, length)` to `(n, c, out_length)`."""
    op = "max_unpool1d"
    check_images(op, x, axes=1)
    geometry = pool_geometry(op, kernel_size, stride, padding, axes=1)
    size = _unpooled_size(op, x.shape[2:], geometry, output_size)
    places = _checked_places(op, x, indices, size)[:, :, None]
    return _unpool(op, x.expand_dims(2), places, size).squeeze(2)


def _unpooled_size(
    op: str,
    sizes: tuple[int, ...],
    geometry: tuple[tuple[int, int], ...],
    output_size: int | tuple[int, ...] | None,
) -> tuple[int, int]:
    """Return the size of the image that was pooled: as given, or the smallest possible."""
    kernel, strides, pads, _ = geometry
    axes = list(zip((1, *sizes)[-2:], kernel, strides, pads, strict=True))[-len(sizes) :]
    least = [(size - 1) * s - 2 * p + k for size, k, s, p in axes]
    if isinstance(output_size, (int, np.integer)):
        output_size = (int(output_size),) * len(least)
    wanted = least if output_size is None else list(output_size)
    wanted = wanted[2:] if len(wanted) == len(sizes) + 2 else wanted
    whole = all(isinstance(size, (int, np.integer)) for size in wanted)
    if (
        len(wanted) != len(least)
        or not whole
        or any(abs(w - m) >= s for w, m, (_, _, s, _) in zip(wanted, least, axes, strict=True))
        or min(wanted) < 1
    ):
        raise ValueError(
            f"{op}: got output_size={output_size!r} for an input of {sizes}, expected a size "
            f">= 1 that pools to the input's, less than a stride from {tuple(least)}"
        )
    out_h, out_w = (1, *(int(size) for size in wanted))[-2:]
    return out_h, out_w


def _checked_places(op: str, x: Tensor, indices: Tensor | Array, size: tuple[int, int]) -> Array:
    """Return the indices as a new array on the device of x; raise if one is out of range."""
    array = check_indices(op, indices, x)
    if array.shape != x.shape:
        raise ValueError(
            f"{op}: got indices of shape {array.shape}, expected {x.shape}, the shape of the input"
        )
    places, pixels = array.astype(np.int64), size[0] * size[1]

    def error() -> ValueError:
        least, most = (x.backend.number(found) for found in (places.min(), places.max()))
        return ValueError(
            f"{op}: got indices from {least} to {most} for an output of {size[0]} by {size[1]}, "
            f"expected 0 to {pixels - 1}; was the pooled image larger? then give output_size"
        )

    x.backend.raise_if((places < 0) | (places >= pixels), error)
    return places


def _unpool(op: str, x: Tensor, places: Array, size: tuple[int, int]) -> Tensor:
    def backward(gradient: Tensor) -> Gradients:
        return (gather_places(gradient, places, None),)

    images = regions.scatter_places(x.backend, x.array, places, size, (1, 1))
    return record(op, images, (x,), backward)
