"""Winograd's convolution, F(4 x 4, 3 x 3): a quarter of the multiplications.

Two polynomials can be multiplied by evaluating both at as many points as the product has
coefficients, multiplying value by value, and going back from values to coefficients. A 3 x 3
convolution of a 6 x 6 tile, which gives 4 x 4 outputs, is the transpose of such a product in each
direction: 36 multiplications for each pair of channels, where the sums themselves take 144. Each of
the 36 is a matrix product over channels:

    V = B x        tiles of the image, 36 pixels to 36 values
    U = G w        the weights, 9 to 36
    Y = A (U V)    36 values back to 16 outputs, or to the 9 weights of a gradient

All three transforms are matrix products too, so any points cost the same. Those here, 0, 2/3,
-2/3, 3/2, -3/2 and infinity, keep the error of float32 below 4e-6 of the largest output (64
channels); the usual 0, 1, -1, 2, -2 are four times worse, columns about five times better. A value
that is no number, or out of all proportion, reaches every output of its tiles.

Source: A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks (2015); the points
by trial, after B. Barabasz et al., Error Analysis and Improving the Accuracy of Winograd
Convolution (2018).
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np

from minidl.backends.base import Array, Backend
from minidl.backends.cpu.runs import overlapping
from minidl.backends.windows import Windows

TILE, OUT = 6, 4  # pixels in, and out, in each direction
POINTS = (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)  # and infinity


def is_plain(w: Windows) -> bool:
    """Tell whether windows are of 3 x 3 pixels, one apart, within 2 pixels of the image."""
    geometry = (w.k_h, w.k_w, w.stride_h, w.stride_w, w.dilation_h, w.dilation_w)
    return geometry == (3, 3, 1, 1, 1, 1) and max(w.top, w.bottom, w.left, w.right) <= 2


def suits(
    windows: Windows, groups: int, channels: int, kernels: int, dtype: Any, weights: bool = False
) -> bool:
    """Tell whether a convolution can be done this way, and is the faster for it.

    With fewer channels the tiles cost too much, to copy and to transform: `strips.py` has fewer.
    From 64 channels to 64, tiles are the faster for the gradient of the weights alone.
    """
    if not is_plain(windows) or groups != 1 or dtype != np.float32 or min(channels, kernels) < 64:
        return False
    tiles = math.prod(_grid(windows))
    # By trial, with 64 to 256 channels of 4x4 to 32x32 pixels: what tiles cost, in multiplications.
    here = tiles * (TILE**2 * channels * kernels + 2000 * channels + 1000 * kernels)
    many = weights or channels * kernels > 64 * 64
    return many and tiles >= 4 and here < 8.1 * windows.out_h * windows.out_w * channels * kernels


@functools.cache
def transforms(outputs: int, taps: int) -> tuple[Array, Array, Array]:
    """Return A, G and B of F(outputs, taps), for one direction.

    B goes from pixels to values at the points (its rows are the polynomials that are zero at all
    points but one), G from taps to values, A from values to outputs.
    """
    points, count = np.array(POINTS), len(POINTS)
    a, g, b = np.zeros((outputs, TILE)), np.zeros((TILE, taps)), np.zeros((TILE, TILE))
    for j, point in enumerate(points):
        others = np.delete(points, j)
        a[:, j] = point ** np.arange(outputs)
        g[j] = point ** np.arange(taps) / np.prod(point - others)
        b[j, :count] = np.poly(others)[::-1]
    a[-1, -1] = g[-1, -1] = 1  # infinity: the highest coefficient
    b[-1] = np.poly(points)[::-1]
    return a.astype(np.float32), g.astype(np.float32), b.astype(np.float32)


def convolve(
    backend: Backend,
    images: Array,
    weight: Array,
    bias: Array | None,
    windows: Windows,
    relu: bool = False,
) -> Array:
    """Do `convolution.convolve` in tiles."""
    back, from_taps, _ = transforms(OUT, 3)
    n, (d, c) = len(images), weight.shape[:2]
    taps = weight.transpose(2, 3, 1, 0).reshape(3, 3, c * d)
    values = _both_ways(backend, from_taps, taps).reshape(TILE**2, c, d)
    out = backend.empty_images((n, d, windows.out_h, windows.out_w), images.dtype)

    def work(part: slice) -> None:
        tiles = _tile_values(backend, images[part], windows)
        products = np.matmul(tiles, values)  # (36, tiles, d)
        outputs = _both_ways(backend, back, products.reshape(TILE, TILE, -1))  # (4, 4, tiles·d)
        _untile(outputs, out[part])
        backend.finish(out[part], bias, relu)

    backend.over_batch(n, _tile_bytes(windows, c, d), work)
    return out


def transpose_convolve(backend: Backend, gradient: Array, weight: Array, windows: Windows) -> Array:
    """Do `convolution.transpose_convolve`: convolve with turned weights, channels exchanged."""
    flipped = weight[:, :, ::-1, ::-1].swapaxes(0, 1)
    return convolve(backend, gradient, flipped, None, turned(windows))


def turned(w: Windows) -> Windows:
    """Return the windows through which an input pixel sees the output pixels that it took part in.

    For plain windows.
    """
    around = {"top": 2 - w.top, "bottom": 2 - w.bottom, "left": 2 - w.left, "right": 2 - w.right}
    return Windows(w.out_h, w.out_w, 3, 3, **around)


def weight_gradient(backend: Backend, images: Array, gradient: Array, windows: Windows) -> Array:
    """Do `convolution.weight_gradient`: F(3 x 3, 4 x 4), the gradient's tiles being the weights."""
    back, from_taps, _ = transforms(3, OUT)
    n, c, d = len(images), images.shape[1], gradient.shape[1]
    alone = Windows(windows.out_h, windows.out_w, 1, 1)  # without padding

    def work(part: slice) -> Array:
        tiles = _tile_values(backend, images[part], windows)
        pixels = _tiles(backend, gradient[part], alone, OUT, _grid(windows))
        slopes = _both_ways(backend, from_taps, pixels).reshape(TILE**2, -1, d)
        return np.matmul(slopes.swapaxes(1, 2), tiles)  # (36, d, c)

    total = backend.sum_over_batch(n, _tile_bytes(windows, c, d), work)
    found = _both_ways(backend, back, total.reshape(TILE, TILE, -1)).reshape(3, 3, d, c)
    return found.transpose(2, 3, 0, 1).copy()


def _both_ways(backend: Backend, matrix: Array, tiles: Array) -> Array:
    """Transform `(p, p, m)` tiles down, then across: `(q, q, m)`.

    As one product with 36 rows, both at once are three times the multiplications: 0.8 ms for 0.4
    (128x64x8x8, to values, one core).
    """
    down = backend.matmul(matrix, tiles.reshape(len(tiles), -1))
    return backend.matmul(matrix, down.reshape(len(matrix), len(tiles), -1))


# Tiles ----------------------------------------------------------------------------------------


def _tile_values(backend: Backend, images: Array, windows: Windows) -> Array:
    """Return the values of 6 x 6 tiles, which overlap by 2: `(36, tiles, c)`."""
    _, _, to_values = transforms(OUT, 3)
    tiles = _tiles(backend, images, windows, TILE, _grid(windows))
    return _both_ways(backend, to_values, tiles).reshape(TILE**2, -1, images.shape[1])


def _grid(windows: Windows) -> tuple[int, int]:
    """Return how many tiles cover the output, down and across."""
    return -(-windows.out_h // OUT), -(-windows.out_w // OUT)


def _tiles(
    backend: Backend, images: Array, windows: Windows, size: int, grid: tuple[int, int]
) -> Array:
    """Return tiles 4 pixels apart, zeros beyond the image: `(size, size, tiles·c)`."""
    down, across = grid
    whole = replace(
        windows,
        bottom=windows.bottom + (down - 1) * OUT + size - windows.padded_h,
        right=windows.right + (across - 1) * OUT + size - windows.padded_w,
    )
    n, c = images.shape[:2]
    padded = backend.pad_images(images, whole, 0).transpose(0, 2, 3, 1)
    padded = np.ascontiguousarray(padded)
    step_n, step_h, step_w, step_c = padded.strides
    steps = (step_h, step_w, step_n, step_h * OUT, step_w * OUT, step_c)
    tiles = overlapping(padded, (size, size, n, down, across, c), steps)
    return tiles.reshape(size, size, n * down * across * c)


def _untile(outputs: Array, images: Array) -> None:
    """Write `(4, 4, tiles·d)` outputs into images `(n, d, h, w)`, leaving out what is beyond."""
    n, d, h, w = images.shape
    down, across = -(-h // OUT), -(-w // OUT)
    tiles = outputs.reshape(OUT, OUT, n, down, across, d).transpose(2, 3, 0, 4, 1, 5)
    last = images.transpose(0, 2, 3, 1)
    if (h, w) == (down * OUT, across * OUT):
        last.reshape(n, down, OUT, across, OUT, d)[...] = tiles
    else:
        last[...] = tiles.reshape(n, down * OUT, across * OUT, d)[:, :h, :w]


def _tile_bytes(windows: Windows, c: int, d: int) -> int:
    """Return half the size of one image's tiles, their values and their products.

    Half, because tiles are no longer used when products are; by trial, slices of twice this size
    are slower by a tenth, and so are those of half.
    """
    return 2 * math.prod(_grid(windows)) * TILE**2 * (2 * c + d)
