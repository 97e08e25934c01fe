"""Convolution with windows of 3 x 3 pixels by Winograd's F(4, 3), in one direction or in both.

Two polynomials can be multiplied by evaluating both at as many points as the product has
coefficients, multiplying the values, and interpolating the coefficients. F(4, 3), which computes
four outputs from six pixels and three weights, is the transpose of such a product: 6
multiplications for each pair of channels instead of the 12 of the direct sums.

    V = B x        six pixels to six values
    U = G w        three weights to six values
    y = A (U V)    six values to four outputs; in F(3, 4), to the three weights of a gradient

The two directions are transformed one after the other. Rows are always transformed: their six
values become one more axis of a stack of matrix products over channels. Columns are handled in one
of two ways:

- *strips*: directly. A strip holds three adjacent values, those that one row of the kernel covers.
  The stack has 6 matrices of (3 c, d); four by four outputs take 72 multiplications for each pair
  of channels instead of the 144 of `convolution.py`.
- *tiles*: like the rows. The stack has 36 matrices of (c, d); the same outputs take 36
  multiplications. The transforms cost more, which pays off from about 32 channels.

Transforms read the array in place: a small matrix product turns six rows of a view of overlapping
tiles into six rows of values. Copies of the tiles would be 2.25 times as large as the image.
128x64x8x8 to values takes 1.2 ms instead of 2.3, and the inverse 0.5 instead of 1.1 (one core).

All points cost the same. The points 0, 2/3, -2/3, 3/2, -3/2 and infinity keep the float32 error
below 4e-6 of the largest output in tiles (64 channels), and below 3e-6 in strips; the usual 0, 1,
-1, 2, -2 are four times worse, columns about five times better. Float64 is meant to be exact, so it
always uses columns.

Because a tile mixes its pixels, a NaN would reach all of its outputs, and a large pixel would
change them by 1e-7 of its size. A sum of numbers >= 0 could come out negative, and a count might
not be an integer. Columns are therefore used for

- *uneven* images, in which a block is not finite, or far larger than over a quarter of the blocks.
  One pass before the transforms finds them. Results for other images of the batch do not change;
- weights with a kernel whose values are all >= 0, all <= 0 or all integers, with a tap far larger
  than the others, or with a value that is not finite. A sample of each kernel usually rules out the
  first three, because trained kernels have values of all kinds.

Source: A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks (2015); the points
were found by trial, after B. Barabasz et al., Error Analysis and Improving the Accuracy of Winograd
Convolution (2018).
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np

from minidl.backends import convolution
from minidl.backends.base import Array, Backend
from minidl.backends.cpu.runs import overlapping, spread
from minidl.backends.cpu.threads import blas, prepared
from minidl.backends.windows import Windows

TILE, OUT = 6, 4  # pixels in, and out, in one direction
POINTS = (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)  # and infinity

MOST = 128
"""The most channels and kernels for strips; tiles have no limit."""

PAIRS = 24
"""Up to this many channels and kernels, each strip covers two output pixels. A third of the
multiplications is wasted on zeros, but matrices are wider and less is copied: 128x16x32x32 to 16
takes 3.8 ms instead of 4.1; from 8 to 8, 1.6 instead of 2.1; from 24 to 24, 7.0 instead of 7.7 (one
core)."""

KERNELS, CALLS = 1500, 3.5e6
"""What a batch costs, whatever its size, in multiplications: for each kernel and channel, as the
weights are transformed; and in any case, as columns take fewer calls. One image by columns and in
tiles, ms on one core (AVX2): 512x7x7 to 512, 13.1, 29.0; 256x14x14, 4.7, 6.2; 128x28x28, 3.4, 2.2;
16x32x32 in strips, 0.29, 0.46."""

SMALL = 10**6
"""The most multiplications in a product for which OpenBLAS copies nothing. In strips, the weight
gradient of 128x32x16x16 to 32 takes 3.2 ms instead of 4.0 with one product for all images of a
slice (one core)."""

LARGE = 1000
"""A block is large if it changes outputs as much as a pixel of this many times the typical size,
which changes outputs that do not see it by 1e-4 of their typical size. With 300 instead, 8 % of the
gradients in ResNet-20's first stage would be uneven; with 1000, 1 in 2,500."""

BLOCK = 128
"""The smallest number of values in a block of an image. Smaller blocks cost more: a sum of squares
takes 5 ns plus 0.02 ns for each value."""

MAX = float(np.finfo(np.float32).max)


def is_plain(w: Windows) -> bool:
    """Tell whether windows are 3 x 3 pixels, with stride 1 and padding <= 2.

    Images and outputs need at least three pixels: with one or two, no block can be compared with
    the rest of its image.
    """
    geometry = (w.k_h, w.k_w, w.stride_h, w.stride_w, w.dilation_h, w.dilation_w)
    fits = geometry == (3, 3, 1, 1, 1, 1) and max(w.top, w.bottom, w.left, w.right) <= 2
    return fits and min(w.in_h * w.in_w, w.out_h * w.out_w) > 2


def suits(
    windows: Windows, groups: int, c: int, d: int, dtype: Any, n: float, pixels: float
) -> bool:
    """Tell whether a convolution of n images is faster this way than by columns.

    If the output's size is not a multiple of 4, part of the result is computed and thrown away.

    Args:
        windows: the geometry.
        groups: only 1 is.
        c: channels.
        d: kernels.
        dtype: only float32 is.
        n: images; few do not make up for the transform of the weights, nor for more calls.
        pixels: the number of pixels of an image for which columns do as much work as for an output.
    """
    if not is_plain(windows) or groups != 1 or dtype != np.float32:
        return False
    once = (KERNELS * c * d + CALLS) / max(n, 1)
    return min(_costs(windows, c, d)) + once <= 6 * pixels * c * d


def in_tiles(windows: Windows, c: int, d: int) -> bool:
    """Tell whether tiles are faster than strips."""
    strips, tiles = _costs(windows, c, d)
    return tiles < strips


def _costs(windows: Windows, c: int, d: int) -> tuple[float, float]:
    """Return the cost of an image in strips, and in tiles, in multiplications of matrix products.

    Constants found by trial, with 8 to 512 channels of 4x4 to 32x32 pixels. Forward in strips,
    tiles and columns, ms on one core with AVX-512: 84x16x32x32 to 16, 7.0, 8.0, 10.6; 84x32x16x16
    to 32, 4.2, 3.9, 6.5; 84x64x8x8 to 64, 3.1, 2.4, 4.5. With AVX2, small products are slower:
    128x16x32x32, 13.6, 25.6, 17.2; 128x32x16x16, 9.0, 10.2, 11.5; 128x64x8x8, 8.2, 6.1, 9.6.
    """
    down, across = _grid(windows)
    strips = 18 * windows.out_w * c * d if max(c, d) <= MOST else math.inf
    tiles = across * (36 * c * d + 200 * c + 800 * d)
    slow_strips, slow_tiles = (1.1, 1.25) if blas().is_narrow else (1, 1)
    return slow_strips * down * strips, slow_tiles * down * tiles


@functools.cache
def transforms(outputs: int, taps: int) -> tuple[Array, Array, Array]:
    """Return A, G and B of F(outputs, taps).

    B maps pixels to values at the points (each row is the polynomial that is zero at all points
    but one), G maps taps to values, and A maps values to outputs.
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
    groups: int = 1,
) -> Array:
    """Compute `convolution.convolve` in tiles or strips."""
    back, _, _ = transforms(OUT, 3)
    (d, c), (down, across) = weight.shape[:2], _grid(windows)
    height, width = windows.out_h, windows.out_w
    tiles = in_tiles(windows, c, d)
    side = 2 if not tiles and max(c, d) <= PAIRS and width % 2 == 0 else 1
    matrices = _matrices(backend, weight, tiles, side)
    if matrices is None:
        return convolution.convolve(backend, images, weight, bias, windows, 1, relu)
    out = backend.empty_images((len(images), d, height, width), images.dtype)
    sums = _empty_sums(images)

    def work(part: slice) -> None:
        pixels = out[part].transpose(0, 2, 3, 1)
        n = len(pixels)
        given = _measured(images[part], sums[part])
        rows = _products(given, windows, tiles, side, matrices)
        if tiles:
            rows = _outputs(back, rows.reshape(TILE, TILE * n * down, across, d))[:, :width]
        rows = rows.reshape(TILE, n, down, width * d)
        if height % OUT:
            pixels[...] = _outputs(back, rows).reshape(n, down * OUT, width, d)[:, :height]
        else:
            _outputs(back, rows, pixels.reshape(n, height, width * d))
        backend.finish(out[part], bias, relu)

    with np.errstate(all="ignore"):  # images that overflow are computed again
        backend.over_batch(len(images), scratch(windows, c, d), images.dtype, work)
        uneven = _uneven(sums, images)
    if uneven.any():
        out[uneven] = convolution.convolve(backend, images[uneven], weight, bias, windows, 1, relu)
    return out


def transpose_convolve(
    backend: Backend, gradient: Array, weight: Array, windows: Windows, groups: int = 1
) -> Array:
    """Compute `convolution.transpose_convolve` as `convolve` with flipped weights."""
    flipped = weight[:, :, ::-1, ::-1].swapaxes(0, 1)
    return convolve(backend, gradient, flipped, None, turned(windows))


@functools.cache
def turned(w: Windows) -> Windows:
    """Return the windows through which an input pixel sees the output pixels that it affects.

    Only for windows that `is_plain` accepts.
    """
    around = {"top": 2 - w.top, "bottom": 2 - w.bottom, "left": 2 - w.left, "right": 2 - w.right}
    return Windows(w.out_h, w.out_w, 3, 3, **around)


def weight_gradient(
    backend: Backend, images: Array, gradient: Array, windows: Windows, groups: int = 1
) -> Array:
    """Compute `convolution.weight_gradient` by F(3, 4), with the gradient's pixels as weights.

    With many channels, a slice's result is larger than its input, so there are fewer slices:
    64x256x8x8 to 256 takes 23 ms instead of 60 (two threads).
    """
    few = gradient[:: 1 + len(gradient) // 4, :, ::4, ::4].reshape(-1, 1)
    if not (_is_mixed(few) or _is_mixed(gradient.reshape(-1, 1))):
        return convolution.weight_gradient(backend, images, gradient, windows, 1)
    back, from_taps, _ = transforms(3, OUT)
    c, d = images.shape[1], gradient.shape[1]
    tiles = in_tiles(windows, c, d)
    whole = _covered(Windows(windows.out_h, windows.out_w, 1, 1), windows, tiles)
    sums, slope_sums = _empty_sums(images), _empty_sums(gradient)

    def work(part: slice) -> Array:
        values = _image_values(_measured(images[part], sums[part]), windows, tiles)
        slopes = _rows(from_taps, _measured(gradient[part], slope_sums[part]), whole)
        if tiles:
            slopes = _values(from_taps, slopes.reshape(-1, whole.padded_w, d))
            return np.matmul(values.swapaxes(2, 3), slopes.reshape(TILE, TILE, -1, d))
        n, rows = values.shape[1:3]
        together = _together(n, rows * 3 * c * d)
        shape = (TILE, n // together, together * rows)
        values, slopes = values.reshape(*shape, 3 * c), slopes.reshape(*shape, d)
        return np.matmul(values.swapaxes(2, 3), slopes).sum(1)  # (6, 3 c, d)

    shape = scratch(windows, c, d, part=1 + c * d // 2**13)
    with np.errstate(all="ignore"):
        total = backend.sum_over_batch(len(images), shape, images.dtype, work)
        uneven = _uneven(sums, images) | _uneven(slope_sums, gradient)
    if uneven.any():
        found = convolution.weight_gradient(backend, images[uneven], gradient[uneven], windows, 1)
        if not uneven.all():
            found += weight_gradient(backend, images[~uneven], gradient[~uneven], windows)
        return found
    if tiles:  # (6 across, 6 down, c, d)
        total = backend.matmul(back, total.reshape(TILE, -1)).reshape(3, TILE, c * d).swapaxes(0, 1)
    found = backend.matmul(back, total.reshape(TILE, 3 * c * d)).reshape(3, 3, c, d)
    return found.transpose(3, 2, 0, 1).copy()


# Inputs that need columns instead -------------------------------------------------------------


def _empty_sums(images: Array) -> Array:
    """Allocate a sum of squares for each block of pixels of `(n, c, h, w)` images: `(n, k)`."""
    n, c, h, w = images.shape
    return np.empty((n, _blocks(h * w, c)), images.dtype)


@functools.cache
def _blocks(pixels: int, c: int) -> int:
    """Return how many equal blocks to split an image into.

    The most that have at least `BLOCK` values each; if there are none, the fewest, but >= 3.
    """
    counts = [k for k in range(pixels, 2, -1) if pixels % k == 0] or [1]
    return next((k for k in counts if pixels // k * c >= BLOCK), counts[-1])


def _measured(images: Array, sums: Array) -> Array:
    """Write each block's sum of squares to `sums`; return the images, channels-last in memory."""
    pixels = np.ascontiguousarray(spread(images).transpose(0, 2, 3, 1))
    blocks = pixels.reshape(*sums.shape, images[:1].size // sums.shape[1])
    np.vecdot(blocks, blocks, out=sums)
    return pixels.transpose(0, 3, 1, 2)


def _uneven(sums: Array, images: Array) -> Array:
    """Tell which images have a block that is not finite, or over a quarter far below the largest.

    Blocks of zeros count half, because the gradient of pooling has zeros at its edges.
    """
    count = sums.shape[1]
    ratio = LARGE**2 * count / max(1, images[:1].size)
    if sums.size and sums.max() <= min(ratio * sums.min(), MAX):  # the usual case, in two calls
        return np.zeros(len(sums), np.bool_)
    largest = sums.max(1, keepdims=True)
    near = (sums * ratio >= largest).sum(1) + (sums == 0).sum(1) / 2  # NaN is never near
    uneven: Array = (near < 0.75 * count) | (largest[:, 0] > MAX)
    return uneven


def _is_special(taps: Array) -> bool:
    """Tell whether weights `(3, 3, c, d)` need columns: see the top of this file."""
    by_tap = taps.reshape(9, -1)
    with np.errstate(all="ignore"):
        sums = np.vecdot(by_tap, by_tap).tolist()
    largest = max(sums)
    if not largest <= LARGE * (sum(sums) - largest):  # or one is not finite
        return True
    kernels = taps.reshape(-1, taps.shape[-1])
    few = kernels[:: 1 + len(kernels) // 32]
    return not (_is_mixed(few) or _is_mixed(kernels[:, kernels.any(0)]))


def _is_mixed(columns: Array) -> bool:
    """Tell whether each column has a value > 0, a value < 0, and a value that is no integer."""
    if not columns.size:
        return False
    low, high = columns.min(0), columns.max(0)
    if not low.max() < 0 < high.min():
        return False
    return bool(high.max() < 1 or (columns != np.rint(columns)).any(0).all())


# Transforms ----------------------------------------------------------------------------------


def _matrices(backend: Backend, weight: Array, tiles: bool, side: int) -> Array | None:
    """Return `_weight_values`, or None if the weights need columns: once for all slices of a batch.

    A fused layer convolves each slice with the same weights. They are kept with the result, so that
    no other array can take their memory.
    """
    known = prepared.get()
    key = weight.__array_interface__["data"], weight.shape, weight.strides, tiles, side
    if known is None or key not in known:
        taps = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
        values = None if _is_special(taps) else _weight_values(backend, taps, tiles, side)
        if known is None:
            return values
        known[key] = weight, values
    return known[key][1]


def _weight_values(backend: Backend, taps: Array, tiles: bool, side: int) -> Array:
    """Return the matrices of weights: `(6, 6, c, d)`; for strips `(6, 1, (2+side) c, side d)`.

    If a strip covers two pixels, each of them ignores one of its four columns.
    """
    c, d = taps.shape[2:]
    _, from_taps, _ = transforms(OUT, 3)
    rows = backend.matmul(from_taps, taps.reshape(3, 3 * c * d))
    if tiles:
        both = backend.matmul(from_taps, rows.reshape(TILE, 3, c * d))
        return both.reshape(TILE, TILE, c, d).swapaxes(0, 1)
    values = rows.reshape(TILE, 1, 3 * c, d)
    if side == 1:
        return values
    beside = np.zeros((TILE, 1, (2 + side) * c, side, d), taps.dtype)
    for pixel in range(side):
        beside[:, :, pixel * c : (pixel + 3) * c, pixel] = values
    return beside.reshape(TILE, 1, (2 + side) * c, side * d)


def _products(images: Array, windows: Windows, tiles: bool, side: int, matrices: Array) -> Array:
    """Multiply the values of images by those of the weights: `(6, 6, tiles, d)`.

    For strips, `(6, n, pixels, d)`. Those of two pixels are not copied: in memory,
    every other strip of four values follows the one before without a gap, in two sequences. At the
    end of a line, a strip that reaches into the next one is computed and ignored.
    """
    if side == 1:
        return np.matmul(_image_values(images, windows, tiles), matrices)
    rows = _rows(transforms(OUT, 3)[2], images, _covered(windows, windows, tiles))
    n, down, width, c = rows.shape[1:]
    pairs = rows.reshape(TILE, n * down * width // 2, 2 * c)
    products = np.empty((*pairs.shape[:2], matrices.shape[3]), rows.dtype)
    for first in (0, 1):
        count = (pairs.shape[1] - first) // 2
        stop = first + 2 * count
        strips = pairs[:, first:stop].reshape(TILE, count, 4 * c)
        np.matmul(strips, matrices[:, 0], out=products[:, first:stop:2])
    return products.reshape(TILE, n, down, width // 2, -1)[:, :, :, : windows.out_w // 2]


def _image_values(images: Array, windows: Windows, tiles: bool) -> Array:
    """Return the matrices of images: `(6, 6, tiles, c)`, the first axis for columns.

    For strips, `(6, n, pixels, 3 c)`.
    """
    _, _, to_values = transforms(OUT, 3)
    (n, c), (down, across) = images.shape[:2], _grid(windows)
    rows = _rows(to_values, images, _covered(windows, windows, tiles))
    if tiles:
        values = _values(to_values, rows.reshape(TILE * n * down, -1, c))
        return values.reshape(TILE, TILE, n * down * across, c)
    steps = (*rows.strides[:4], rows.itemsize)
    strips = overlapping(rows, (TILE, n, down, windows.out_w, 3 * c), steps)
    return strips.reshape(TILE, n, down * windows.out_w, 3 * c)


def _rows(matrix: Array, images: Array, w: Windows) -> Array:
    """Return the values of the rows of padded images: `(6, n, down, padded_w, c)`.

    Images are channels-last. They are not padded first, which would copy them: a tile at an edge
    leaves out the columns of the matrix that padding would be multiplied by.
    """
    n, c, height, width = images.shape
    size, length = matrix.shape[1], width * c
    down = (w.padded_h - size) // OUT + 1
    values = np.empty((TILE, n, down, w.padded_w, c), images.dtype)
    values[:, :, :, : w.left] = values[:, :, :, w.left + width :] = 0
    targets = values[:, :, :, w.left : w.left + width].reshape(TILE, n, down, length)
    targets = targets.transpose(1, 2, 0, 3)
    pixels = images.transpose(0, 2, 3, 1).reshape(n, height, length)
    first = -(-w.top // OUT)
    stop = max(first, (w.top + height - size) // OUT + 1)
    if first < stop:
        _values(matrix, pixels, targets[:, first:stop], first * OUT - w.top)
    for tile in (*range(first), *range(stop, down)):
        start = tile * OUT - w.top
        rows = range(height)[max(0, start) : max(0, start + size)]
        inside = matrix[:, rows.start - start : rows.stop - start]
        np.matmul(inside, pixels[:, rows.start : rows.stop], out=targets[:, tile])
    return values


def _values(matrix: Array, array: Array, out: Array | None = None, start: int = 0) -> Array:
    """Transform the middle axis of a contiguous `(k, length, m)` to values: `(6, k, tiles, m)`.

    A tile is as long as the matrix has columns, and the next one starts four later; `start` is
    where the first one starts. `out` is `(k, tiles, 6, m)`.
    """
    (k, length, m), size = array.shape, matrix.shape[1]
    step = m * array.itemsize
    if out is None:
        count = (length - size) // OUT + 1
        out = np.empty((TILE, k, count, m), array.dtype).transpose(1, 2, 0, 3)
    shape, steps = (k, out.shape[1], size, m), (length * step, OUT * step, step, array.itemsize)
    # Not as_strided, whose Python code takes 4 microseconds; .strides can be any for one pixel.
    view = np.ndarray(shape, array.dtype, array, start * step, steps)
    np.matmul(matrix, view, out=out)
    return out.transpose(2, 0, 1, 3)


def _outputs(matrix: Array, values: Array, out: Array | None = None) -> Array:
    """Transform values `(6, k, tiles, m)` to outputs: `(k, tiles * 4, m)`."""
    _, k, count, m = values.shape
    outputs: Array = np.empty((k, count * OUT, m), values.dtype) if out is None else out
    np.matmul(matrix, values.transpose(1, 2, 0, 3), out=outputs.reshape(k, count, OUT, m))
    return outputs


def _together(n: int, multiplications: int) -> int:
    """Return how many of n images to add up in one product, from the multiplications of each."""
    most = max(1, min(n, SMALL // multiplications))
    return next(count for count in range(most, 0, -1) if n % count == 0)


def _grid(windows: Windows) -> tuple[int, int]:
    """Return how many tiles cover the output, down and across."""
    return -(-windows.out_h // OUT), -(-windows.out_w // OUT)


@functools.cache
def _covered(padding: Windows, windows: Windows, tiles: bool) -> Windows:
    """Return `padding`, extended to whole tiles down, and across too if `tiles`."""
    down, across = _grid(windows)
    right = padding.right + (across * OUT - windows.out_w if tiles else 0)
    return replace(padding, bottom=padding.bottom + down * OUT - windows.out_h, right=right)


def scratch(windows: Windows, c: int, d: int, part: int = 1) -> tuple[int, ...]:
    """Return a shape of about half the size of one image's values and products, divided by `part`.

    Found by trial, with two threads: slices of twice or half this size are 2 % slower.
    """
    return (TILE * _grid(windows)[0] * windows.out_w * (c + d) // part,)
