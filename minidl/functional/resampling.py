"""Resampling: images at another height and width.

An output pixel at position `s` of the input, in pixels, is a weighted mean of the pixels near `s`:

    nearest   the pixel that contains s
    bilinear  the 2 nearest in each direction, weighted by 1 - distance
    bicubic   the 4 nearest in each direction, weighted by a cubic of the distance

Pixels beyond the edge repeat the edge's. Rows and columns are independent, so the whole map is
`rows @ image @ columns.T` with two matrices that have few non-zeros per row. Its gradient is the
same map with both matrices transposed.

Source: R. Keys, Cubic Convolution Interpolation for Digital Image Processing (1981), with
a = -0.75; PyTorch for positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from minidl.autograd import Gradients
from minidl.backends import Array, Backend
from minidl.checks import Pair, is_number, pair
from minidl.functional.geometry import check_images
from minidl.tensor import Tensor, record

Mode: TypeAlias = Literal["nearest", "bilinear", "bicubic"]
Scale: TypeAlias = float | tuple[float, float]
Host: TypeAlias = np.ndarray[Any, Any]

CUBIC = -0.75
"""The parameter of the cubic kernel: PyTorch's and OpenCV's choice."""

LONGEST = 2**24
"""Pixels in a row of the output: beyond, float32 does not tell positions apart."""

BLOCK = 64
"""Rows of a band that are multiplied as one dense matrix. Resizing 16 x 64 channels from 8x8 to
64x64 pixels takes 5.2 ms with 64 rows, 6.5 with 16; 4 x 16 channels from 128x128 to 256x256 take
10.6, 13.8 with 16, and 14.1 with 128 (2 cores, Zen 3)."""


def interpolate(
    x: Tensor,
    size: Pair | None = None,
    scale_factor: Scale | None = None,
    mode: Mode = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """Resample images to another size.

    Output pixel i lies at `(i + 0.5) / scale - 0.5` of the input, where scale is `scale_factor` if
    given, else `out / in`; with `align_corners` at `i * (in - 1) / (out - 1)`. For `"nearest"` it
    is the pixel `floor(i / scale)`.

    Args:
        x: images `(n, c, h, w)`, float32 or float64.
        size: `(out_h, out_w)`, or one integer for both. Give either this or `scale_factor`.
        scale_factor: factor for height and width, or one for both: `out_h = floor(h * factor)`.
        mode: `"nearest"`, `"bilinear"` or `"bicubic"`. Bicubic results can exceed the range of x.
        align_corners: whether the centres of the corner pixels stay where they are; not for
            `"nearest"`. None is False.

    On a CPU, a NaN or an infinity gives NaN or infinity to exactly those outputs whose weight of it
    is not 0; PyTorch also gives NaN where the weight is 0.

    Returns:
        `(n, c, out_h, out_w)`.

    Raises:
        ValueError: both or neither of size and scale_factor are given, one of them is out of range,
            an image has no pixel, the mode is unknown, or nearest is given align_corners.
        TypeError: x is not a tensor of floats.

    Example:
        >>> x = Tensor([[[[0.0, 4.0]]]])
        >>> interpolate(x, scale_factor=(1, 2), mode="bilinear").reshape(4)
        Tensor([0., 1., 3., 4.], dtype=float32)
    """
    check_images("interpolate", x)
    check_resampling("interpolate", size, scale_factor, mode, align_corners)
    factors = (None, None) if scale_factor is None else _both(scale_factor)
    sizes = _output_sizes(x.shape[2:], size, factors)
    bands = [
        _axis(length, out, factor, mode, bool(align_corners))
        for length, out, factor in zip(x.shape[2:], sizes, factors, strict=True)
    ]
    return _resample("interpolate", x, bands[0], bands[1])


def check_resampling(
    op: str,
    size: Pair | None,
    scale_factor: Scale | None,
    mode: str,
    align_corners: bool | None,
) -> None:
    """Raise ValueError unless these are valid arguments of `interpolate`."""
    if (size is None) == (scale_factor is None):
        raise ValueError(
            f"{op}: got size={size!r} and scale_factor={scale_factor!r}, expected exactly one of "
            "them"
        )
    if size is not None:
        pair(op, "size", size, 1)
    elif not _is_scale(scale_factor):
        raise ValueError(
            f"{op}: got scale_factor={scale_factor!r}, expected a finite number > 0, or a pair of "
            "them (height, width)"
        )
    if not isinstance(mode, str) or mode not in ("nearest", "bilinear", "bicubic"):
        raise ValueError(f"{op}: got mode={mode!r}, expected 'nearest', 'bilinear' or 'bicubic'")
    if align_corners is not None and mode == "nearest":
        raise ValueError(
            f"{op}: got align_corners={align_corners!r} with mode='nearest', expected None: only "
            "'bilinear' and 'bicubic' have it"
        )


def _both(scale: Any) -> tuple[Any, Any]:
    return tuple(scale) if isinstance(scale, (tuple, list)) else (scale, scale)


def _is_scale(scale: Any) -> bool:
    both = _both(scale)
    return len(both) == 2 and all(is_number(s) and 0 < s < math.inf for s in both)


def _output_sizes(
    shape: Sequence[int], size: Pair | None, factors: tuple[float | None, float | None]
) -> tuple[int, int]:
    """Return out_h and out_w; ValueError if either size has no pixel."""
    if size is None:
        sizes = tuple(int(n * float(f or 0)) for n, f in zip(shape, factors, strict=True))
    else:
        sizes = pair("interpolate", "size", size, 1)
    if min(*shape, *sizes) < 1 or max(sizes) > LONGEST:
        raise ValueError(
            f"interpolate: got images of {shape[0]} by {shape[1]} and an output of {sizes[0]} by "
            f"{sizes[1]}, expected at least one pixel in both, and at most {LONGEST} in a row"
        )
    return sizes[0], sizes[1]


# Bands ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """A matrix whose rows have their non-zeros side by side.

    Row i is 0 but for `weights[i]`, `(rows, taps)`, in the columns from `first[i]` on.
    """

    columns: int
    first: Host
    weights: Host

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.first)

    def transposed(self) -> Band:
        """Return the transposed matrix."""
        rows, taps = np.nonzero(self.weights)
        return _band(
            self.first[rows] + taps, rows, self.weights[rows, taps], self.columns, self.rows
        )

    def blocks(self, length: int, dtype: Any) -> list[tuple[slice, slice, Host]]:
        """Cut into dense blocks of `length` rows: their rows, their columns, their values."""
        found = []
        for start in range(0, self.rows, length):
            rows = slice(start, min(start + length, self.rows))
            first, weights = self.first[rows], self.weights[rows]
            low = int(first.min())
            high = int(first.max()) + weights.shape[1]
            block = np.zeros((len(first), high - low), dtype)
            at = (first - low)[:, None] + np.arange(weights.shape[1])
            np.put_along_axis(block, at, weights, 1)
            found.append((rows, slice(low, high), block))
        return found


def _band(rows: Host, columns: Host, values: Host, height: int, width: int) -> Band:
    """Return a matrix of the sums of `values` at their rows and columns."""
    first, last = np.full(height, width), np.full(height, -1)
    np.minimum.at(first, rows, columns)
    np.maximum.at(last, rows, columns)
    taps = max(1, int((last - first).max()) + 1)
    first = np.minimum(first, width - taps)
    weights = np.zeros((height, taps))
    np.add.at(weights, (rows, columns - first[rows]), values)
    return Band(width, first, weights)


def _axis(length: int, out: int, factor: float | None, mode: str, corners: bool) -> Band:
    """Return the matrix that resamples along one axis."""
    i = np.arange(out)
    if mode == "nearest":  # in float32, as in PyTorch: rounding decides which pixel is nearest
        step = np.float32(1 / factor) if factor else np.float32(length) / np.float32(out)
        pixels = np.minimum(np.floor(i.astype(np.float32) * step).astype(int), length - 1)
        pixels = {length: i, 2 * length: i // 2}.get(out, pixels)  # whatever the factor
        return _band(i, pixels, np.ones(out), out, length)
    if corners:
        positions = i * ((length - 1) / (out - 1) if out > 1 else 0.0)
    else:
        positions = (i + 0.5) * (1 / factor if factor else length / out) - 0.5
    if mode == "bilinear":
        positions = np.clip(positions, 0, length - 1)
    low = np.floor(positions.astype(np.float32))  # as in PyTorch, which keeps t in [0, 1]
    t = np.clip(positions - low, 0, 1)
    if mode == "bilinear":
        weights = [1 - t, t]
    else:
        weights = [_cubic(distance) for distance in (1 + t, t, 1 - t, 2 - t)]
        low = low - 1
    taps = low.astype(int)[:, None] + np.arange(len(weights))
    rows = np.broadcast_to(i[:, None], taps.shape)
    found = np.stack(weights, 1)
    used = found != 0
    return _band(rows[used], taps.clip(0, length - 1)[used], found[used], out, length)


def _cubic(distance: Host) -> Host:
    """Return the weight of a pixel at a distance of `0 <= distance <= 2`."""
    a, d = CUBIC, distance
    near: Host = ((a + 2) * d - (a + 3)) * d * d + 1
    far: Host = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, far)


# The map --------------------------------------------------------------------------------------


def _resample(op: str, x: Tensor, rows: Band, columns: Band) -> Tensor:
    """Return `rows @ image @ columns.T` for each channel of each image."""

    def backward(gradient: Tensor) -> Gradients:
        return (_resample("resample", gradient, rows.transposed(), columns.transposed()),)

    return record(op, _resampled(x.backend, x.array, rows, columns), (x,), backward)


def _resampled(backend: Backend, images: Array, rows: Band, columns: Band) -> Array:
    n, c, h, w = images.shape
    out = backend.empty_images((n, c, rows.rows, columns.rows), images.dtype, images)
    is_planar = images.strides[1] > images.strides[3]
    order = (0, 1, 2, 3) if is_planar else (0, 2, 3, 1)
    maps = [_Along(backend, band, images.dtype) for band in (rows, columns)]

    def work(part: slice) -> None:
        own = backend.xp.ascontiguousarray(images[part].transpose(order))
        before, beside = (len(own) * c, 1) if is_planar else (len(own), c)
        is_dense = any(along.blocks for along in maps) and bool(backend.xp.isfinite(own.sum()))
        low = backend.xp.empty((before, rows.rows, w * beside), own.dtype)
        maps[0].apply(own.reshape(before, h, w * beside), low, is_dense)
        lines = before * rows.rows
        target = out[part].transpose(order).reshape(lines, columns.rows, beside)
        maps[1].apply(low.reshape(lines, w, beside), target, is_dense)

    backend.over_batch(n, (c, rows.rows, w + columns.rows), images.dtype, work)
    return out


class _Along:
    """Multiplies a band with the middle axis of arrays `(before, columns, after)`."""

    def __init__(self, backend: Backend, band: Band, dtype: Any) -> None:
        self.backend = backend
        count, ones = band.weights.shape[1], bool((band.weights == 1).all())
        starts = np.arange(0, band.columns, count)
        self.is_copy = ones and count == 1
        self.is_sum = ones and count > 1 and np.array_equal(band.first, starts)
        self.first = backend.fresh(lambda: band.first)
        self.weights = backend.fresh(lambda: band.weights.T[:, :, None].astype(dtype))
        is_fast = backend.kernels == "fast" and not (self.is_copy or self.is_sum)
        self.blocks = band.blocks(BLOCK, dtype) if is_fast else []

    def apply(self, x: Array, out: Array, is_dense: bool) -> None:
        """Write the product into `out`; `is_dense` allows to multiply values by 0."""
        xp = self.backend.xp
        if self.is_copy:  # no index is out of range: "clip" saves NumPy a buffer
            mode = {"mode": "clip"} if self.backend.kernels == "fast" else {}
            xp.take(x, self.first, 1, out=out, **mode)
        elif self.is_sum:
            taps = x.reshape(*out.shape[:2], len(self.weights), x.shape[2]).transpose(2, 0, 1, 3)
            xp.add(taps[0], taps[1], out=out)
            for tap in taps[2:]:
                out += tap
        elif not is_dense:
            out[...] = 0
            for tap, weights in enumerate(self.weights):
                out += xp.take(x, self.first + tap, 1) * weights
        else:
            for rows, columns, block in self.blocks:
                if x.shape[2] == 1:
                    self.backend.product(x[:, columns, 0], block.T, out=out[:, rows, 0])
                else:
                    self.backend.product(block, x[:, columns], out=out[:, rows])
