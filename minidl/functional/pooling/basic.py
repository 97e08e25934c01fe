"""Pooling: reduce each window of an image to one value, channel by channel.

Let w be the m pixels of a window, `best = max(w)`, `hit = w == best` (the first, if several are
equal), `mean = sum(w) / m`, `mix = a * hit + (1 - a) / m`, out the result and g the gradient with
respect to out:

| kind | formula | gradient with respect to w | layer | source |
| --- | --- | --- | --- | --- |
| max_pool2d | `best` | `g * hit` | MaxPool2d | 1 |
| avg_pool2d | `mean` | `g / m` | AvgPool2d | 2 |
| min_pool2d | `-max(-w)` | `g * (w == out)` | MinPool2d | own |
| lp_pool2d | `sum(w**p) ** (1 / p)` | `g * (w / out) ** (p - 1)` | LPPool2d | 3 |
| global_max_pool2d | `best` | `g * hit` | GlobalMaxPool | 4 |
| global_avg_pool2d | `mean` | `g / m` | GlobalAvgPool | 5 |
| adaptive_max_pool2d | `best` | `g * hit` | AdaptiveMaxPool2d | 6 |
| adaptive_avg_pool2d | `mean` | `g / m` | AdaptiveAvgPool2d | 6 |
| spatial_pyramid_pool2d | `[pool(x, k) for k in levels]` | chain rule | SpatialPyramidPool2d | 7 |
| fractional_max_pool2d | `best` | `g * hit` | FractionalMaxPool2d | 8 |
| stochastic_pool2d, training | `w[i]` | `g * (index == i)` | StochasticPool2d | 9 |
| stochastic_pool2d, evaluation | `sum(w * w) / sum(w)` | `g * (2 * w - out) / sum(w)` |  | 9 |
| channel_max_pool | `best` | `g * hit` | ChannelMaxPool | 10 |
| channel_avg_pool | `mean` | `g / m` | ChannelAvgPool | own |
| mixed_pool2d | `a * best + (1 - a) * mean` | `g * mix` | MixedPool2d | 11 |
| gated_pool2d | `a * best + (1 - a) * mean` | `g * (mix + q * v)` | GatedPool2d | 11 |
| gem_pool2d | `(sum(w**p) / m) ** (1 / p)` | `g / m * (w / out) ** (p - 1)` | GeMPool2d | 12 |
| softmax_pool2d | `sum(s * w)` | `g * s * (1 + b * (w - out))` | SoftmaxPool2d | 13 |
| attention_pool2d | `sum(t * w)` | `g * t * (1 + v * (w - out))` | AttentionPool | 14 |
| blur_pool2d | `sum(f * w)` | `g * f` | BlurPool2d | 15 |
| max_blur_pool2d | `blur_pool2d(max_pool2d(x, k, 1), stride)` | chain rule | MaxBlurPool2d | 15 |
| conv_pool2d | `max_pool2d(conv2d(x, v), k)` | chain rule | ConvPool2d | own |
| conv2d_relu_max_pool2d | `max_pool2d(relu(conv2d(x, v)), k)` | chain rule |  | own |
| max_unpool2d | `image[index] = w` | `g[index]` | MaxUnpool2d | 16 |

Further symbols:
    p, a, b, v  arguments
    i           a random index, drawn with probabilities `w / sum(w)`
    a, q        of a gate: `a = sigmoid(sum(v * w))`, `q = a * (1 - a) * (best - mean)`
    s, t        `s = softmax(b * w)`; `t = softmax(v * w)`, for images with one channel
    f           outer product of two rows of Pascal's triangle, normalised to sum 1
    x, k        the image; the size of a window, or of the output at one level of a pyramid
    pool        adaptive max or average pooling

The global kinds have one window, the whole image. A window of the channel kinds is a group of
channels at one pixel. All but the pyramid, fractional, gated, channel, blur and convolution kinds
have a 1d form for sequences.

A window of k pixels moved by `stride` over `size` pixels gives `(size - k) // stride + 1` outputs.

Files:
    basic       maximum and mean of sliding windows; global mean
    kinds       1d forms of these; minimum, p-norm, channels, blur, convolution, unpooling
    sized       to a given output size: adaptive, global, pyramid
    drawn       random: stochastic, fractional
    learned     learnable: mixed, gated, generalised mean, softmax, attention
    regions     kernels for the windows of `sized` and `drawn`, which vary in size
    ../fused    convolution, ReLU and max pooling in one pass

Sources:
    1   M. Ranzato et al., Unsupervised Learning of Invariant Feature Hierarchies (2007)
    2   Y. LeCun et al., Handwritten Digit Recognition with a Back-Propagation Network (1990)
    3   P. Sermanet et al., Convolutional Neural Networks Applied to House Numbers (2012)
    4   M. Oquab et al., Is object localization for free? (2015)
    5   M. Lin et al., Network In Network (2013)
    6   PyTorch, for the position of the windows
    7   K. He et al., Spatial Pyramid Pooling in Deep Convolutional Networks (2014)
    8   B. Graham, Fractional Max-Pooling (2014)
    9   M. Zeiler and R. Fergus, Stochastic Pooling for Regularization (2013)
    10  I. Goodfellow et al., Maxout Networks (2013)
    11  C.-Y. Lee et al., Generalizing Pooling Functions: Mixed, Gated, and Tree (2016)
    12  F. Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation (2018)
    13  Y.-L. Boureau et al., A Theoretical Analysis of Feature Pooling (2010)
    14  D. Bahdanau et al., Neural Machine Translation by Jointly Learning to Align (2015)
    15  R. Zhang, Making Convolutional Networks Shift-Invariant Again (2019)
    16  M. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks (2014)
"""

from __future__ import annotations

import functools
from typing import Any, Literal, overload

import numpy as np

from minidl.autograd import Gradients
from minidl.backends import Array, Backend, Windows, without_underflow
from minidl.checks import Pair, check_whole
from minidl.functional.geometry import check_images, pool_windows
from minidl.tensor import Tensor, record


@overload
def max_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> Tensor: ...
@overload
def max_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def max_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the largest pixel of each window; its gradient goes to that pixel only.

    Padding is -inf, so it never wins. Among equal pixels the first, row by row, wins. NaN
    propagates; among several NaNs the last one's index is reported. All this is as in PyTorch.

    Args:
        x: `(n, c, h, w)`, float32 or float64.
        kernel_size: size of the window, in pixels.
        stride: pixels from one window to the next; default `kernel_size`.
        padding: pixels on each side, at most half the window.
        dilation: pixels from one tap of the window to the next.
        ceil_mode: let the last window overhang the edge instead of dropping the remaining pixels.
        return_indices: also return the index of each winner.

    Returns:
        `(n, c, out_h, out_w)`; with `return_indices` also the winners' indices `row * w + column`
        in the input image, int64, of the same shape.

    Raises:
        ValueError: a size is not an integer in its range, or a window is larger than the image.
        TypeError: x is not a tensor of floats.

    Example:
        >>> import minidl
        >>> x = minidl.arange(1, 17, dtype="float32").reshape(1, 1, 4, 4)
        >>> max_pool2d(x, 2).reshape(2, 2)
        Tensor([[ 6.,  8.],
                [14., 16.]], dtype=float32)
    """
    windows = pool_windows("max_pool2d", x, kernel_size, stride, padding, dilation, ceil_mode)
    out, places = max_over("max_pool2d", x, windows, return_indices)
    return out if places is None else (out, places)


def avg_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the mean of each window; each of its pixels gets an equal share of the gradient.

    Args:
        x: `(n, c, h, w)`, float32 or float64.
        kernel_size: size of the window, in pixels.
        stride: pixels from one window to the next; default `kernel_size`.
        padding: zeros on each side, at most half the window.
        ceil_mode: let the last window overhang the edge instead of dropping the remaining pixels.
            Pixels beyond the padding are not counted.
        count_include_pad: count padding among the pixels that the sum is divided by.
        divisor_override: divide every sum by this instead.

    Returns:
        `(n, c, out_h, out_w)`.

    Raises:
        ValueError: a size is not an integer in its range, or a window is larger than the image.
        TypeError: x is not a tensor of floats.

    Example:
        >>> import minidl
        >>> x = minidl.arange(1, 17, dtype="float32").reshape(1, 1, 4, 4)
        >>> avg_pool2d(x, 2).reshape(2, 2)
        Tensor([[ 3.5,  5.5],
                [11.5, 13.5]], dtype=float32)
    """
    windows = pool_windows("avg_pool2d", x, kernel_size, stride, padding, 1, ceil_mode)
    return mean_over("avg_pool2d", x, windows, count_include_pad, divisor_override)


def global_avg_pool2d(x: Tensor, keepdims: bool = False) -> Tensor:
    """Return the mean of each channel over the whole image, of any size.

    Args:
        x: `(n, c, h, w)`, float32 or float64.
        keepdims: keep height and width, with size 1.

    Returns:
        `(n, c)`, ready for `linear`; or `(n, c, 1, 1)`.

    Raises:
        ValueError: x is not a batch of images.
        TypeError: x is not a tensor of floats.

    Source: M. Lin et al., Network In Network (2013), section 3.2.
    """
    check_images("global_avg_pool2d", x)
    return x.mean((2, 3), keepdims)


# Maximum and mean, for all operations ---------------------------------------------------------


def max_over(
    op: str, x: Tensor, windows: Windows, return_places: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return the largest pixel of each window, and its index if `return_places`, else None."""
    best, winners = x.backend.max_windows(x.array, windows)

    def backward(gradient: Tensor) -> Gradients:
        return (scatter_winners(gradient, winners, windows),)

    out = record(op, best, (x,), backward)
    if not return_places:
        return out, None
    rows, columns = windows.places(x.backend.xp, winners)
    return out, Tensor.wrap(rows * windows.in_w + columns)


@without_underflow
def mean_over(
    op: str,
    x: Tensor,
    windows: Windows,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the sum of each window, divided by its number of pixels or by `divisor_override`."""
    if divisor_override is not None:
        check_whole(op, 1, divisor_override=divisor_override)
        divisors: Any = divisor_override
    else:
        divisors = divisors_of(x.backend, windows, count_include_pad, x.dtype)

    def backward(gradient: Tensor) -> Gradients:
        return (_spread(gradient / divisors, windows),)

    means = x.backend.sum_windows(x.array, windows)
    means /= divisors
    return record(op, means, (x,), backward)


# Linear maps, in pairs that are each other's gradients ----------------------------------------


def scatter_winners(values: Tensor, winners: Array, windows: Windows) -> Tensor:
    """Add each window's value to its winning pixel."""

    def backward(outer: Tensor) -> Gradients:
        return (gather_winners(outer, winners, windows),)

    images = values.backend.scatter_winners(values.array, winners, windows)
    return record("scatter_winners", images, (values,), backward)


def gather_winners(images: Tensor, winners: Array, windows: Windows) -> Tensor:
    """Return each window's winning pixel."""

    def backward(outer: Tensor) -> Gradients:
        return (scatter_winners(outer, winners, windows),)

    values = images.backend.gather_winners(images.array, winners, windows)
    return record("gather_winners", values, (images,), backward)


def _spread(values: Tensor, windows: Windows) -> Tensor:
    """Add each window's value to all its pixels."""

    def backward(outer: Tensor) -> Gradients:
        return (_sum(outer, windows),)

    images = values.backend.spread_windows(values.array, windows)
    return record("spread_windows", images, (values,), backward)


def _sum(images: Tensor, windows: Windows) -> Tensor:
    """Return the sum of each window."""

    def backward(outer: Tensor) -> Gradients:
        return (_spread(outer, windows),)

    sums = images.backend.sum_windows(images.array, windows)
    return record("sum_windows", sums, (images,), backward)


# Counts and indices ---------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def divisors_of(backend: Backend, windows: Windows, count_include_pad: bool, dtype: Any) -> Any:
    """Return `_pixel_counts` as a read-only array on a device, cached; as an int if all equal."""
    counts = _pixel_counts(windows, count_include_pad)
    if counts.size == 1:
        return int(counts.item())
    array = backend.from_numpy(counts.astype(dtype))
    backend.set_writeable(array, False)
    return array


def _pixel_counts(windows: Windows, count_include_pad: bool) -> Array:
    """Return how many pixels each window averages: `(out_h, out_w)`, or `(1, 1)` if all equal.

    `ceil_mode` can make the bottom and right padding larger than `padding`, the size of the top and
    left; the excess is never counted.
    """
    counts = []
    for out, k, s, pad, size in (
        (windows.out_h, windows.k_h, windows.stride_h, windows.top, windows.in_h),
        (windows.out_w, windows.k_w, windows.stride_w, windows.left, windows.in_w),
    ):
        start = np.arange(out) * s - pad
        around = pad if count_include_pad else 0
        counts.append(np.minimum(start + k, size + around) - np.maximum(start, -around))
    table = np.outer(*counts)
    return table[:1, :1] if (table == table[0, 0]).all() else table
