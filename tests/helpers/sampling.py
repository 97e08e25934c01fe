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
