"""Convolution of images or groups with few channels, with pixel-last columns.

For each window, `convolution.py` copies the contiguous channels of each tap; copying three floats
at a time is slow. Here the columns are transposed: for each channel and tap, one row of all pixels
that it reads, so that every copy is as long as a row of the image. For each image, with the weights
as a matrix `(d, c * taps)`:

    output    columns.T @ weights.T      (pixels, d), which is channels-last
    images    weights.T @ gradient       (c * taps, pixels), each row added to its tap's pixels
    weights   columns @ gradient.T       summed over the images

An extra row of ones adds the bias in the same product.
"""

from __future__ import annotations

import numpy as np

from minidl.backends.base import Array, Backend
from minidl.backends.cpu.runs import overlapping
from minidl.backends.windows import Windows

CHANNELS = 4
"""This form is used for images of up to this many channels."""

GROUPED = 16
"""It is also used for groups of up to this many channels if the stride is 1."""

STRIDED = 6
"""The same for larger strides: with 8, the gradient's additions to pixels take too long."""


def suits(windows: Windows, groups: int, channels: int) -> bool:
    """Tell whether a convolution from this many channels per group is faster in this form."""
    grouped = GROUPED if windows.stride_h * windows.stride_w == 1 else STRIDED
    most = CHANNELS if groups == 1 else grouped
    return channels <= most and windows.k_h * windows.k_w > 1


def convolve(
    backend: Backend,
    images: Array,
    weight: Array,
    bias: Array | None,
    windows: Windows,
    relu: bool = False,
    groups: int = 1,
) -> Array:
    """Multiply every window of `(n, c, h, w)` images by weights `(d, c/g, k_h, k_w)`."""
    n, d = images.shape[0], weight.shape[0]
    out = backend.empty_images((n, d, windows.out_h, windows.out_w), images.dtype)
    matrix = _matrix(weight, groups)
    if bias is not None:
        matrix = np.concatenate((matrix, bias.reshape(groups, -1, 1)), 2)

    def work(part: slice) -> None:
        columns = _columns(backend, images[part], windows, groups, bias is not None)
        pixels = _pixels(out[part], groups)
        if groups == 1:
            np.matmul(columns.swapaxes(2, 3), matrix.swapaxes(1, 2), out=pixels.swapaxes(2, 3))
        else:  # products with few columns are slow: 1.6 ms instead of 2.9 (16x64x32x32, 8 groups)
            space = np.empty((*pixels.shape[:3], pixels.shape[3] + 16), out.dtype)
            pixels[...] = np.matmul(matrix, columns, out=space[..., :-16])
        backend.finish(out[part], None, relu)

    backend.over_batch(n, _scratch(weight, windows, groups), weight.dtype, work)
    return out


def transpose_convolve(
    backend: Backend, gradient: Array, weight: Array, windows: Windows, groups: int = 1
) -> Array:
    """Add every output pixel's gradient, times the weights, back to its window.

    In groups, at stride 1, this is computed as a convolution with flipped kernels: 4 ms instead of
    7 for additions to a few pixels at a time (16x64x32x32 in 8 groups).
    """
    n, (d, c, k_h, k_w) = gradient.shape[0], weight.shape
    turned = _turned(windows)
    if groups > 1 and turned is not None:
        split = weight.reshape(groups, d // groups, c, k_h, k_w)[..., ::-1, ::-1].swapaxes(1, 2)
        flipped = split.reshape(groups * c, d // groups, k_h, k_w)
        return convolve(backend, gradient, flipped, None, turned, groups=groups)
    images = np.empty((n, groups * c, windows.in_h, windows.in_w), gradient.dtype)
    matrix = _matrix(weight, groups).swapaxes(1, 2)

    def work(part: slice) -> None:
        columns = matrix @ _pixels(gradient[part], groups)  # (n, g, c/g·taps, pixels)
        shape = (len(columns), groups * c, k_h * k_w, windows.out_h, windows.out_w)
        split = columns.reshape(shape).transpose(0, 3, 4, 2, 1)
        images[part] = backend.scatter_windows(split, windows)

    backend.over_batch(n, _scratch(weight, windows, groups), weight.dtype, work)
    return images


def weight_gradient(
    backend: Backend, images: Array, gradient: Array, windows: Windows, groups: int = 1
) -> Array:
    """Sum, over all windows, their pixels times the gradient of their output."""
    c, d = images.shape[1] // groups, gradient.shape[1]
    weight = np.empty((d, c, windows.k_h, windows.k_w), images.dtype)

    def work(part: slice) -> Array:
        columns = _columns(backend, images[part], windows, groups, False)
        pixels = _pixels(gradient[part], groups)
        return (columns @ pixels.swapaxes(2, 3)).sum(0)  # (g, c/g·taps, d/g)

    scratch = _scratch(weight, windows, groups)
    total = backend.sum_over_batch(len(images), scratch, weight.dtype, work)
    return total.swapaxes(1, 2).copy().reshape(weight.shape)


def _turned(w: Windows) -> Windows | None:
    """Return the windows through which an image's pixels see the output; None if there are none."""
    span_h, span_w = w.dilation_h * (w.k_h - 1), w.dilation_w * (w.k_w - 1)
    around = (span_h - w.top, span_h - w.bottom, span_w - w.left, span_w - w.right)
    if w.stride_h * w.stride_w > 1 or min(around) < 0:
        return None
    return Windows(w.out_h, w.out_w, w.k_h, w.k_w, 1, 1, w.dilation_h, w.dilation_w, *around)


def _columns(backend: Backend, images: Array, windows: Windows, groups: int, ones: bool) -> Array:
    """Return, for each image and group, a row per channel and tap: `(n, g, c/g * taps, pixels)`."""
    n, c = images.shape[0], images.shape[1] // groups
    padded = backend.pad_images(images, windows, 0, like=np.empty((1, 2, 2, 2)))
    step_n, step_c, step_h, step_w = padded.strides
    shape = (n, groups, c, windows.k_h, windows.k_w, windows.out_h, windows.out_w)
    taps = (step_h * windows.dilation_h, step_w * windows.dilation_w)
    steps = (step_h * windows.stride_h, step_w * windows.stride_w)
    rows, pixels = c * windows.k_h * windows.k_w, windows.out_h * windows.out_w
    columns = np.empty((n, groups, rows + ones, pixels), images.dtype)
    strides = (step_n, c * step_c, step_c, *taps, *steps)
    overlapping(padded, shape, strides, out=columns[:, :, :rows].reshape(shape))
    columns[:, :, rows:] = 1
    return columns


def _pixels(images: Array, groups: int) -> Array:
    """Return images as `(n, g, c/g, pixels)`: a view if its rows, or its pixels, are contiguous."""
    n, c, h, w = images.shape
    return images.reshape(n, groups, c // groups, h * w)


def _matrix(weight: Array, groups: int) -> Array:
    """Return weights as a matrix per group: `(g, d/g, c/g * taps)`."""
    return weight.reshape(groups, len(weight) // groups, -1)


def _scratch(weight: Array, windows: Windows, groups: int) -> tuple[int, ...]:
    """Return the shape of one image's columns."""
    return groups, weight.size // len(weight), windows.out_h, windows.out_w
