"""Resampling, pooling of regions and deformable convolution as literal loops, in float64.

Arguments are minidl's own, on plain arrays; nothing here is shared with minidl.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def both(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


# Resampling -----------------------------------------------------------------------------------


def interpolate(
    x: np.ndarray,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> np.ndarray:
    factors = both(scale_factor)
    sizes = both(size)
    if size is None:
        sizes = tuple(math.floor(n * f) for n, f in zip(x.shape[2:], factors, strict=True))
    rows, columns = (
        [taps(i, length, out, factor, mode, bool(align_corners)) for i in range(out)]
        for length, out, factor in zip(x.shape[2:], sizes, factors, strict=True)
    )
    result = np.zeros((*x.shape[:2], *sizes))
    for n, c, i, j in np.ndindex(result.shape):
        for row, down in rows[i]:
            for column, across in columns[j]:
                result[n, c, i, j] += down * across * x[n, c, row, column]
    return result


def taps(
    i: int, length: int, out: int, factor: float | None, mode: str, corners: bool
) -> list[tuple[int, float]]:
    """Return the pixels, and their weights, of output i along one axis."""
    step = 1 / factor if factor else length / out
    if mode == "nearest":
        return [(min(math.floor(i * step), length - 1), 1.0)]
    if corners:
        position = i * (length - 1) / (out - 1) if out > 1 else 0.0
    else:
        position = (i + 0.5) * step - 0.5
    if mode == "bilinear":
        position = min(max(position, 0), length - 1)
    low = math.floor(position)
    reach = range(low, low + 2) if mode == "bilinear" else range(low - 1, low + 3)
    weigh = triangle if mode == "bilinear" else cubic
    return [(min(max(k, 0), length - 1), weigh(abs(position - k))) for k in reach]


def triangle(distance: float) -> float:
    return max(0.0, 1 - distance)


def cubic(distance: float, a: float = -0.75) -> float:
    """Return Keys' kernel, as it is written in the paper."""
    s = distance
    if s <= 1:
        return (a + 2) * s**3 - (a + 3) * s**2 + 1
    return a * s**3 - 5 * a * s**2 + 8 * a * s - 4 * a if s < 2 else 0.0


# Regions --------------------------------------------------------------------------------------


def nearest(value: float) -> int:
    """Round to the nearest integer, halves away from 0."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def roi_pool2d(
    x: np.ndarray, boxes: np.ndarray, output_size: Any, spatial_scale: float = 1.0
) -> np.ndarray:
    outs = both(output_size)
    result = np.zeros((len(boxes), x.shape[1], *outs))
    for k, box in enumerate(boxes):
        left, top, right, bottom = (nearest(value * spatial_scale) for value in box[1:])
        rows = spans(top, bottom, outs[0], x.shape[2])
        columns = spans(left, right, outs[1], x.shape[3])
        for c, i, j in np.ndindex(result.shape[1:]):
            pixels = [x[int(box[0]), c, row, column] for row in rows[i] for column in columns[j]]
            result[k, c, i, j] = max(pixels, default=0)
    return result


def spans(low: int, high: int, out: int, length: int) -> list[list[int]]:
    """Return the pixels of each bin along one axis that lie on the image."""
    side = max(high - low + 1, 1)
    bounds = [(i * side // out, -(-(i + 1) * side // out)) for i in range(out)]
    return [[p for p in range(low + a, low + b) if 0 <= p < length] for a, b in bounds]


def roi_align2d(
    x: np.ndarray,
    boxes: np.ndarray,
    output_size: Any,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> np.ndarray:
    outs = both(output_size)
    result = np.zeros((len(boxes), x.shape[1], *outs))
    for k, box in enumerate(boxes):
        left, top, right, bottom = box[1:] * spatial_scale - (0.5 if aligned else 0)
        sides = [bottom - top, right - left]
        if not aligned:
            sides = [max(side, 1.0) for side in sides]
        bins = [side / out for side, out in zip(sides, outs, strict=True)]
        counts = [sampling_ratio if sampling_ratio > 0 else math.ceil(size) for size in bins]
        for c, i, j in np.ndindex(result.shape[1:]):
            samples = [
                sampled(
                    x[int(box[0]), c],
                    top + (i + (a + 0.5) / counts[0]) * bins[0],
                    left + (j + (b + 0.5) / counts[1]) * bins[1],
                )
                for a in range(counts[0])
                for b in range(counts[1])
            ]
            result[k, c, i, j] = sum(samples) / max(len(samples), 1)
    return result


def sampled(image: np.ndarray, y: float, x: float) -> float:
    """Return the value at a position, that of the edge up to a pixel beyond it; 0 further out."""
    h, w = image.shape
    if not (-1 <= y <= h and -1 <= x <= w):
        return 0.0
    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
    return sum(
        triangle(abs(y - row)) * triangle(abs(x - column)) * image[row, column]
        for row in range(h)
        for column in range(w)
    )


# Deformable convolution -----------------------------------------------------------------------


def deform_conv2d(
    x: np.ndarray,
    offset: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
) -> np.ndarray:
    (n, c, h, w), (d, per_group, k_h, k_w) = x.shape, weight.shape
    steps, pads, gaps = both(stride), both(padding), both(dilation)
    offset_groups = offset.shape[1] // (2 * k_h * k_w)
    result = np.zeros((n, d, *offset.shape[2:]))
    for image, out, i, j in np.ndindex(result.shape):
        total = 0.0 if bias is None else bias[out]
        for channel, a, b in np.ndindex(weight.shape[1:]):
            source = out // (d // (c // per_group)) * per_group + channel
            group = source // (c // offset_groups)
            tap = (group * k_h + a) * k_w + b
            down, right = offset[image, 2 * tap : 2 * tap + 2, i, j]
            y = i * steps[0] - pads[0] + a * gaps[0] + down
            z = j * steps[1] - pads[1] + b * gaps[1] + right
            value = sum(
                triangle(abs(y - row)) * triangle(abs(z - column)) * x[image, source, row, column]
                for row in range(h)
                for column in range(w)
            )
            factor = 1.0 if mask is None else mask[image, tap, i, j]
            total += weight[out, channel, a, b] * factor * value
        result[image, out, i, j] = total
    return result
