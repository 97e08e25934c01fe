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
"""The same for larger strides, where columns copy whole groups of channels as fast from 8 on."""


def suits(windows: Windows, groups: int, channels: int) -> bool:
    """Tell whether a convolution from this many channels per group is faster in this form."""
    grouped = GROUPED if windows.stride_h * windows.stride_w == 1 else STRIDED
    return channels <= (CHANNELS if groups == 1 else grouped) and windows.k_h * windows.k_w > 1


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

    In groups, this is computed as convolutions with flipped kernels, one for the pixels that are a
    stride apart: 4 ms instead of 7 for additions to a few pixels at a time (16x64x32x32 in 8
    groups; 16x128x28x28 in groups of 4, stride 2).
    """
    n, (d, c, k_h, k_w) = gradient.shape[0], weight.shape
    w = windows
    if groups > 1 and 1 in (w.stride_h * w.stride_w, w.dilation_h * w.dilation_w):
        split = weight.reshape(groups, d // groups, c, k_h, k_w).swapaxes(1, 2)
        kernels = split.reshape(groups * c, d // groups, k_h, k_w)
        return _turned(backend, gradient, kernels, windows, groups)
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


def _turned(backend: Backend, gradient: Array, kernels: Array, w: Windows, groups: int) -> Array:
    """Convolve the gradient with the taps, of kernels `(c, d/g, k_h, k_w)`, that reach a pixel."""
    images = backend.empty_images((len(gradient), len(kernels), w.in_h, w.in_w), gradient.dtype)
    if w.stride_h > w.k_h or w.stride_w > w.k_w:
        images[...] = 0
    for y, x in np.ndindex(min(w.stride_h, w.k_h), min(w.stride_w, w.k_w)):
        own_y, rows, *down = _seen(y, w.in_h, w.out_h, w.k_h, w.stride_h, w.dilation_h, w.top)
        own_x, columns, *across = _seen(x, w.in_w, w.out_w, w.k_w, w.stride_w, w.dilation_w, w.left)
        if (own := images[:, :, own_y, own_x]).size:
            seen = gradient[:, :, rows, columns]
            taps = kernels[:, :, y :: w.stride_h, x :: w.stride_w][:, :, ::-1, ::-1]
            sizes = [*seen.shape[2:], *taps.shape[2:], 1, 1, w.dilation_h, w.dilation_w]
            turned = Windows(*[*sizes, *down, *across])
            part = convolve(backend, seen, taps, None, turned, groups=groups)
            if part.shape == images.shape:
                return part
            own[...] = part
    return images


def _seen(
    tap: int, size: int, out: int, k: int, stride: int, dilation: int, before: int
) -> tuple[slice, slice, int, int]:
    """Return pixels of the image, the outputs that they see, and the padding before and after.

    The pixels are a stride apart. They see outputs through `tap` and those a stride further.
    """
    pixels = slice((tap - before) % stride, size, stride)
    reach = dilation * ((k - 1 - tap) // stride)
    first = (pixels.start + before - tap) // stride - reach
    end = first + len(range(size)[pixels]) + reach
    start, stop = min(max(first, 0), out), min(max(end, 0), out)
    padding = max(0, min(-first, end - first))
    return pixels, slice(start, stop), padding, end - first - padding - (stop - start)


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
