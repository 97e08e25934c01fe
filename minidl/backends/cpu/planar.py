"""Convolution of images with few channels, such as photographs, with pixel-last columns.

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
"""The most channels for which this form is used."""


def suits(windows: Windows, groups: int, channels: int) -> bool:
    """Tell whether a convolution is faster this way."""
    return groups == 1 and channels <= CHANNELS and windows.k_h * windows.k_w > 1


def convolve(
    backend: Backend,
    images: Array,
    weight: Array,
    bias: Array | None,
    windows: Windows,
    relu: bool = False,
) -> Array:
    """Multiply every window of `(n, c, h, w)` images by weights `(d, c, k_h, k_w)`."""
    n, d = images.shape[0], weight.shape[0]
    out = backend.empty_images((n, d, windows.out_h, windows.out_w), images.dtype)
    matrix = weight.reshape(d, -1)
    if bias is not None:
        matrix = np.concatenate((matrix, bias[:, None]), 1)

    def work(part: slice) -> None:
        columns = _columns(backend, images[part], windows, bias is not None)
        np.matmul(columns.transpose(0, 2, 1), matrix.T, out=_pixels(out[part]).transpose(0, 2, 1))
        backend.finish(out[part], None, relu)

    backend.over_batch(n, _scratch(weight, windows), weight.dtype, work)
    return out


def transpose_convolve(backend: Backend, gradient: Array, weight: Array, windows: Windows) -> Array:
    """Add every output pixel's gradient, times the weights, back to its window."""
    n, (d, c, k_h, k_w) = gradient.shape[0], weight.shape
    images = np.empty((n, c, windows.in_h, windows.in_w), gradient.dtype)
    matrix = weight.reshape(d, -1).T

    def work(part: slice) -> None:
        columns = matrix @ _pixels(gradient[part])  # (n, c·taps, pixels)
        split = columns.reshape(len(columns), c, k_h * k_w, windows.out_h, windows.out_w)
        images[part] = backend.scatter_windows(split.transpose(0, 3, 4, 2, 1), windows)

    backend.over_batch(n, _scratch(weight, windows), weight.dtype, work)
    return images


def weight_gradient(backend: Backend, images: Array, gradient: Array, windows: Windows) -> Array:
    """Sum, over all windows, their pixels times the gradient of their output."""
    c, d = images.shape[1], gradient.shape[1]
    shape = (d, c, windows.k_h, windows.k_w)

    def work(part: slice) -> Array:
        columns = _columns(backend, images[part], windows, False)
        return (columns @ _pixels(gradient[part]).transpose(0, 2, 1)).sum(0)  # (c·taps, d)

    weight = np.empty(shape, images.dtype)
    total = backend.sum_over_batch(len(images), _scratch(weight, windows), weight.dtype, work)
    return total.T.copy().reshape(shape)


def _columns(backend: Backend, images: Array, windows: Windows, ones: bool) -> Array:
    """Return, for each image, a row per channel and tap: `(n, c * taps, pixels)`."""
    n, c = images.shape[:2]
    padded = backend.pad_images(images, windows, 0, like=np.empty((1, c, 2, 2)))
    step_n, step_c, step_h, step_w = padded.strides
    shape = (n, c, windows.k_h, windows.k_w, windows.out_h, windows.out_w)
    taps = (step_h * windows.dilation_h, step_w * windows.dilation_w)
    steps = (step_h * windows.stride_h, step_w * windows.stride_w)
    rows, pixels = c * windows.k_h * windows.k_w, windows.out_h * windows.out_w
    columns = np.empty((n, rows + ones, pixels), images.dtype)
    strides = (step_n, step_c, *taps, *steps)
    overlapping(padded, shape, strides, out=columns[:, :rows].reshape(shape))
    columns[:, rows:] = 1
    return columns


def _pixels(images: Array) -> Array:
    """Return images as `(n, c, pixels)`: a view if its rows, or its pixels, are contiguous."""
    n, c, h, w = images.shape
    return images.reshape(n, c, h * w)


def _scratch(weight: Array, windows: Windows) -> tuple[int, ...]:
    """Return the shape of one image's columns."""
    return weight.size // len(weight), windows.out_h, windows.out_w
