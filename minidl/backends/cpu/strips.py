"""Convolution of images with some dozen channels: Winograd's F(4, 3) down the rows, strips across.

Winograd's tiles are transformed in both directions, which costs more than it saves where channels
are few. In one direction it pays: six rows of the image become six rows of values, and those, with
six products for each column of the kernel, four rows of the output; sums of products take twelve.
Across, a *strip* holds the three values side by side that a kernel row meets: a third of what
`convolution.py` copies.

    V = strips of B x       six rows of the image to six rows of strips, (w, 3 c) each
    U = G w                 three kernel rows to six matrices (3 c, d)
    Y = A (V U)             six rows of products to four rows of the output
    dw = A (dV.T V)         of F(3, 4): with dV = G dy, sums over all rows and images

The products are made image by image: up to a million multiplications or so, OpenBLAS has kernels
that need no copies of the matrices. The error of float32 stays below 3e-6 of the largest output. A
value that is no number, or out of all proportion, reaches every output of its six rows; float64,
which is there to be exact, is left to columns.

Source: that of `winograd.py`, which has the transforms too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from minidl.backends.base import Array, Backend
from minidl.backends.cpu import winograd
from minidl.backends.cpu.runs import overlapping
from minidl.backends.cpu.winograd import OUT, TILE, transforms
from minidl.backends.windows import Windows

MOST = 128
"""At most so many channels and kernels. 128x16x32x32 to 16, one core, ms: forward 3.8 for 6.7 of
columns, images 3.8 for 10.9, weights 4.2 for 8.9; 64x32x15x15 to 64: 2.0 for 3.1, 2.1 for 4.3, 2.3
for 3.6."""

PAIRS = 24
"""Up to so many channels and kernels, pixels of the output are made in pairs. A third of the
multiplications is in vain, but matrices are less narrow, and less is copied: 128x16x32x32 to 16,
3.8 ms for 4.1; from 8 to 8, 1.6 for 2.1; from 24 to 24, 7.0 for 7.7 (one core)."""

SMALL = 10**6
"""Multiplications of a product for which OpenBLAS copies nothing. The weights' gradient of
128x32x16x16 to 32 takes 3.2 ms for the 4.0 of one product for all images of a slice (one core)."""


def suits(windows: Windows, groups: int, channels: int, kernels: int, dtype: Any) -> bool:
    """Tell whether a convolution is the faster this way than by columns.

    Of rows of the output beyond a multiple of four, some have to be computed for nothing.
    """
    few = groups == 1 and max(channels, kernels) <= MOST and dtype == np.float32
    rows = windows.out_h
    return (
        few and winograd.is_plain(windows) and rows >= OUT and 3 * _tiles(windows) * OUT <= 4 * rows
    )


def convolve(
    backend: Backend,
    images: Array,
    weight: Array,
    bias: Array | None,
    windows: Windows,
    relu: bool = False,
) -> Array:
    """Do `convolution.convolve` in strips."""
    back, _, _ = transforms(OUT, 3)
    n, (d, c), width = len(images), weight.shape[:2], windows.out_w
    side = 2 if max(c, d) <= PAIRS and width % 2 == 0 else 1
    values = _weight_values(backend, weight, side)
    out = backend.empty_images((n, d, windows.out_h, width), images.dtype)

    def work(part: slice) -> None:
        strips = _strips(backend, images[part], windows, side)
        pixels = out[part].transpose(0, 2, 3, 1)
        shape = (len(pixels), _tiles(windows), OUT, width * d)
        products = np.matmul(strips, values).reshape(TILE, *shape[:2], width * d)
        products = products.transpose(1, 2, 0, 3)
        if windows.out_h % OUT:
            rows = np.matmul(back, products).reshape(len(pixels), shape[1] * OUT, width, d)
            pixels[...] = rows[:, : windows.out_h]
        else:
            np.matmul(back, products, out=pixels.reshape(shape))
        backend.finish(out[part], bias, relu)

    backend.over_batch(n, scratch_bytes(windows, c, d), work)
    return out


def transpose_convolve(backend: Backend, gradient: Array, weight: Array, windows: Windows) -> Array:
    """Do `convolution.transpose_convolve`: convolve with turned weights, channels exchanged."""
    flipped = weight[:, :, ::-1, ::-1].swapaxes(0, 1)
    return convolve(backend, gradient, flipped, None, winograd.turned(windows))


def weight_gradient(backend: Backend, images: Array, gradient: Array, windows: Windows) -> Array:
    """Do `convolution.weight_gradient`: F(3, 4), the gradient's rows being the weights."""
    back, from_taps, _ = transforms(3, OUT)
    n, c, d = len(images), images.shape[1], gradient.shape[1]
    height, width = _tiles(windows) * OUT, windows.out_w
    below = Windows(windows.out_h, width, 1, 1, bottom=height - windows.out_h)

    def work(part: slice) -> Array:
        strips = _strips(backend, images[part], windows)
        slopes = _values(from_taps, backend.pad_images(gradient[part], below, 0))
        images_here, rows = strips.shape[1:3]
        together = _together(images_here, rows * 3 * c * d)
        shape = (TILE, images_here // together, together * rows)
        slopes, strips = slopes.reshape(*shape, d), strips.reshape(*shape, 3 * c)
        return np.matmul(slopes.swapaxes(2, 3), strips).sum(1)  # (6, d, 3·c)

    total = backend.sum_over_batch(n, scratch_bytes(windows, c, d), work)
    found = backend.matmul(back, total.reshape(TILE, d * 3 * c)).reshape(3, d, 3, c)
    return found.transpose(1, 3, 0, 2).copy()  # (d, c, k_h, k_w)


def _weight_values(backend: Backend, weight: Array, side: int) -> Array:
    """Return the values of weights, for so many pixels side by side: `(6, 1, (2+side) c, side d)`.

    For a pair, a strip has four pixels; each output has no use for one of them.
    """
    d, c = weight.shape[:2]
    _, from_taps, _ = transforms(OUT, 3)
    taps = weight.transpose(2, 3, 1, 0).reshape(3, 3 * c * d)
    values = backend.matmul(from_taps, taps).reshape(TILE, 1, 3 * c, d)
    if side == 1:
        return values
    beside = np.zeros((TILE, 1, (2 + side) * c, side, d), weight.dtype)
    for pixel in range(side):
        beside[:, :, pixel * c : (pixel + 3) * c, pixel] = values
    return beside.reshape(TILE, 1, (2 + side) * c, side * d)


def _strips(backend: Backend, images: Array, windows: Windows, side: int = 1) -> Array:
    """Return strips of the values of images: `(6, n, tiles * out_w / side, (2 + side) * c)`."""
    (n, c), tiles = images.shape[:2], _tiles(windows)
    whole = replace(windows, bottom=windows.bottom + tiles * OUT - windows.out_h)
    _, _, to_values = transforms(OUT, 3)
    values = _values(to_values, backend.pad_images(images, whole, 0))
    across, length = windows.out_w // side, (2 + side) * c
    steps = (*values.strides[:3], side * c * values.itemsize, values.itemsize)
    strips = overlapping(values, (TILE, n, tiles, across, length), steps)
    return strips.reshape(TILE, n, tiles * across, length)


def _values(matrix: Array, images: Array) -> Array:
    """Return the values of images' rows: `(6, n, tiles, w * c)`.

    The matrix makes six values of as many rows as it has columns; each tile begins four rows
    further down. Rows are read where they are.
    """
    pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    n, h, w, c = pixels.shape
    size, item = matrix.shape[1], pixels.itemsize
    tiles, row = (h - size) // OUT + 1, w * c * item  # not .strides: those of one pixel can be any
    steps = (h * row, OUT * row, row, item)
    rows = np.lib.stride_tricks.as_strided(pixels, (n, tiles, size, w * c), steps, writeable=False)
    values = np.empty((TILE, n, tiles, w * c), images.dtype)
    np.matmul(matrix, rows, out=values.transpose(1, 2, 0, 3))
    return values


def _together(n: int, multiplications: int) -> int:
    """Return how many of n images, of so many multiplications each, to add up in one product."""
    most = max(1, min(n, SMALL // multiplications))
    return next(count for count in range(most, 0, -1) if n % count == 0)


def _tiles(windows: Windows) -> int:
    """Return how many times four rows cover the output."""
    return -(-windows.out_h // OUT)


def scratch_bytes(windows: Windows, c: int, d: int) -> int:
    """Return about half the size of one image's strips and of their products.

    By trial, with two threads: slices of twice this size, or of half, are slower by 2 in a hundred.
    """
    pixels = TILE * _tiles(windows) * windows.out_w
    return pixels * (c + d) * 4
