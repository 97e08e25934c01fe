"""Depthwise convolution, with one kernel per channel, as sums of shifted products.

A matrix product for each channel would have a single column, and need copies of all windows.
Instead, one `einsum` sums rows of images times rows of weights over the kernel's taps:

    output    out[y] = sum over taps i, j of images[y + i, j:] * weights[i, j]
    images    the same sum over the gradient, with flipped kernels
    weights   weights[i, j] = sum over y of images[y + i, j:] * gradient[y]

A row holds all channels of neighbouring pixels, contiguous in memory, and its sum stays in the
first-level cache until all taps are added. The weights are therefore repeated for each pixel of a
row. With stride s, columns of the images that are s apart are first copied next to each other, then
convolved with the taps that see them, which are also s apart.

16x64x32x32, channels-last, forward and both gradients: 5.8 ms instead of 58 (one core).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minidl.backends.base import Array, Backend
from minidl.backends.cpu.runs import spread
from minidl.backends.windows import Windows

WEIGHTS = 2**16
"""The largest number of repeated weights: 256 KiB of float32 stay in the second-level cache."""


def suits(windows: Windows, groups: int, c: int, d: int) -> bool:
    """Tell whether a convolution from c to d channels per group can be computed this way."""
    stride, dilation = windows.stride_h * windows.stride_w, windows.dilation_h * windows.dilation_w
    return groups > 1 and c == d == 1 and 1 in (stride, dilation)


def convolve(
    backend: Backend,
    images: Array,
    weight: Array,
    bias: Array | None,
    windows: Windows,
    relu: bool = False,
    groups: int = 1,
) -> Array:
    """Multiply every window of `(n, c, h, w)` images by weights `(c, 1, k_h, k_w)`."""
    (n, c), w = images.shape[:2], windows
    out = backend.empty_images((n, c, w.out_h, w.out_w), images.dtype)

    def work(part: slice) -> None:
        rows = out[part].transpose(0, 2, 3, 1)
        padded = backend.pad_images(spread(images[part]), w, 0).transpose(0, 2, 3, 1)
        for x in range(min(w.stride_w, w.k_w)):
            sums = np.empty_like(rows) if x else rows
            pixels = np.ascontiguousarray(padded[:, :, x :: w.stride_w])
            _add_up(pixels, (0, 0), weight[:, 0, :, x :: w.stride_w], w, w.stride_h, sums)
            if x:
                rows += sums
        backend.finish(out[part], bias, relu)

    backend.over_batch(n, (c, w.padded_h, w.padded_w), images.dtype, work)
    return out


def transpose_convolve(
    backend: Backend, gradient: Array, weight: Array, windows: Windows, groups: int = 1
) -> Array:
    """Add every output pixel's gradient, times the weights, back to its window.

    Pixels of an image that are a stride apart receive the gradient through the same taps.
    """
    (n, c), w = gradient.shape[:2], windows
    images = backend.empty_images((n, c, w.in_h, w.in_w), gradient.dtype)
    down = w.in_h, w.k_h, w.stride_h, w.dilation_h, w.top
    across = w.in_w, w.k_w, w.stride_w, w.dilation_w, w.left
    top, bottom = _padding(w.out_h, *down)
    left, right = _padding(w.out_w, *across)
    around = Windows(w.out_h, w.out_w, 1, 1, top=top, bottom=bottom, left=left, right=right)

    def work(part: slice) -> None:
        rows = images[part].transpose(0, 2, 3, 1)
        padded = backend.pad_images(spread(gradient[part]), around, 0)
        pixels = np.ascontiguousarray(padded.transpose(0, 2, 3, 1))
        if w.stride_h > w.k_h or w.stride_w > w.k_w:
            rows[...] = 0
        for y, x in np.ndindex(min(w.stride_h, w.k_h), min(w.stride_w, w.k_w)):
            (first_y, own_y), (first_x, own_x) = _seen(y, *down), _seen(x, *across)
            target = rows[:, own_y, own_x]
            sums = np.empty(target.shape, target.dtype) if w.stride_w > 1 else target
            taps = weight[:, 0, y :: w.stride_h, x :: w.stride_w][:, ::-1, ::-1]
            _add_up(pixels, (first_y, first_x), taps, w, 1, sums)
            if sums is not target:
                target[...] = sums

    backend.over_batch(n, (c, w.padded_h, w.padded_w), gradient.dtype, work)
    return images


def weight_gradient(
    backend: Backend, images: Array, gradient: Array, windows: Windows, groups: int = 1
) -> Array:
    """Sum, over all windows, their pixels times the gradient of their output."""
    (n, c), w = images.shape[:2], windows

    def work(part: slice) -> Array:
        total = np.zeros((w.k_h, w.k_w, c), images.dtype)
        padded = backend.pad_images(spread(images[part]), w, 0).transpose(0, 2, 3, 1)
        rows = np.ascontiguousarray(spread(gradient[part]).transpose(0, 2, 3, 1))
        for x in range(min(w.stride_w, w.k_w)):
            pixels = np.ascontiguousarray(padded[:, :, x :: w.stride_w])
            found = total[:, x :: w.stride_w]
            for own, view in _views(pixels, (0, 0), found.shape, w, w.stride_h, rows):
                for j in range(found.shape[1]):  # the sums of all taps do not fit into the cache
                    sums = np.einsum("nhil,nhl->il", view[:, :, :, j], own)
                    found[:, j] += sums.reshape(w.k_h, -1, c).sum(1)
        return total

    total = backend.sum_over_batch(n, (c, w.padded_h, w.padded_w), images.dtype, work)
    return total.transpose(2, 0, 1)[:, None].copy()


def _add_up(
    pixels: Array, corner: tuple[int, int], taps: Array, w: Windows, stride: int, out: Array
) -> None:
    """Write pixels `(n, h, w, c)` times taps `(c, k_h, k_w)`, summed over the taps, to `out`."""
    last = np.ascontiguousarray(taps.transpose(1, 2, 0))
    repeated = np.tile(last, max(1, min(WEIGHTS // last.size, out.shape[2])))
    for row, view in _views(pixels, corner, last.shape, w, stride, out):
        np.einsum("nhijl,ijl->nhl", view, repeated[..., : row.shape[2]], out=row)


def _views(
    pixels: Array,
    corner: tuple[int, int],
    taps: tuple[int, ...],
    w: Windows,
    stride: int,
    out: Array,
) -> Iterator[tuple[Array, Array]]:
    """Yield slices of `out`, each `(n, h, values)`, with the pixels that they see.

    The pixels are views `(n, h, k_h, k_w, values)`. `corner` is the pixel that the first tap of the
    first window sees.
    """
    (_, h, width, c), (n, out_h, out_w, _) = pixels.shape, out.shape
    down, across = width * c * pixels.itemsize, c * pixels.itemsize
    steps = (h * down, stride * down, w.dilation_h * down, w.dilation_w * across, pixels.itemsize)
    count = max(1, WEIGHTS // (taps[0] * taps[1] * c))
    for x in range(0, out_w, count):
        row = out[:, :, x : x + count]
        values = row.shape[2] * c
        first = pixels[:, corner[0] :, corner[1] + x :]
        shape = (n, out_h, *taps[:2], values)
        view = np.lib.stride_tricks.as_strided(first, shape, steps, writeable=False)
        yield row.reshape(n, out_h, values), view


def _padding(
    out: int, size: int, k: int, stride: int, dilation: int, before: int
) -> tuple[int, int]:
    """Return the padding that the gradient needs along one axis, before and after."""
    return dilation * ((k - 1) // stride), max(0, (size - 1 + before) // stride + 1 - out)


def _seen(
    tap: int, size: int, k: int, stride: int, dilation: int, before: int
) -> tuple[int, slice]:
    """Return the first pixel of the padded gradient, and the image's pixels that `tap` reaches."""
    start = (tap - before) % stride
    last = dilation * ((k - 1) // stride - (k - 1 - tap) // stride)
    return (start + before) // stride + last, slice(start, size, stride)
