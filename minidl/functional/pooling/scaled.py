"""Sums over windows of powers and exponentials, which would leave the range of floats.

In float32, `x**8` overflows for x >= 65,536 and underflows to 0 up to 1e-6, where
`mean(x**8) ** (1 / 8)` is still representable. So each window w has a scale `r[w]`, the largest
exponent of its terms, and each pixel p a scale `l[p]`, the smallest of the windows that contain it.
Both are constants. A pixel's term is `a[p] * exp(l[p])`, where `a[p]` is at most 1 and carries the
gradient, and a window's sum, divided by `exp(r[w])`, is

    sum over p of a[p] * exp(l[p] - r[w])

in which no factor exceeds 1, and one term is 1. If windows do not overlap, `l[p]` is `r[w]`. Scales
are not used if the backend knows that all terms are well within the range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.autograd import Gradients
from minidl.backends import Array, Backend, Windows
from minidl.backends.large import Line, Parts, join_runs, lines
from minidl.functional.pooling.basic import mean_over
from minidl.tensor import Tensor, record

Total = Callable[[Tensor], Tensor]
"""Sums the pixels' scaled terms in each window."""

LIMIT = 60.0
"""Terms between exp(-60) and exp(60) are not scaled."""

LEAST = -1e37
"""The exponent of terms that do not count: finite, because inf - inf is NaN."""


def powers(op: str, x: Tensor, p: float | Tensor, windows: Windows) -> tuple[Tensor, Total, Tensor]:
    """Return a, a `Total`, and c, such that `total(a) * c**p` is the sum of `x**p` in each window.

    c is 1, or each window's largest `abs(x)`, which counts as 1 if it is 0 or not finite.
    """
    xp = x.backend.xp
    most = x.backend.magnitudes(p.array)[1] if isinstance(p, Tensor) else p
    low, high = x.backend.magnitudes(x.array)
    if low > 0 and most * math.log(low) > -LIMIT and most * math.log(high) < LIMIT:
        return x**p, _sum(op, windows), Tensor.wrap(xp.ones((), x.dtype))

    def valid(size: Array) -> Array:
        return (size > 0) & (size < np.inf)

    s, c = _scales(x.backend, abs(x.array), windows, valid, 1)
    terms = (x / Tensor.wrap(s)) ** p
    if not isinstance(p, Tensor) or windows.is_tiling:
        return terms, _total(op, windows, lambda: (p * xp.log(s), p * xp.log(c))), Tensor.wrap(c)
    log_s, log_c = xp.log(s), xp.log(c)
    total = _total(op, windows, lambda: (p.array * log_s, p.array * log_c))
    change = p - p.detach()  # 0, but its gradient is that of p in s**p and c**p
    terms = terms * (change * Tensor.wrap(log_s)).exp()
    return terms, lambda a: total(a) * (-change * Tensor.wrap(log_c)).exp(), Tensor.wrap(c)


def exponentials(op: str, x: Tensor, windows: Windows) -> tuple[Tensor, Total]:
    """Return a and a `Total`: `total(a)` is each window's sum of `exp(x)`, up to a factor."""
    if x.backend.magnitudes(x.array)[1] < LIMIT / 2:
        return x.exp(), _sum(op, windows)
    scales = _scales(x.backend, x.array, windows, x.backend.xp.isfinite, 0)
    return (x - Tensor.wrap(scales[0])).exp(), _total(op, windows, lambda: scales)


def _sum(op: str, windows: Windows) -> Total:
    return lambda a: mean_over(op, a, windows, divisor_override=1)


def _total(op: str, windows: Windows, scales: Callable[[], tuple[Array, Array]]) -> Total:
    if windows.is_tiling:
        return _sum(op, windows)
    exponents, largest = scales()
    return lambda a: _weigh(a, exponents, largest, windows)


def _scales(
    backend: Backend, x: Array, windows: Windows, valid: Callable[[Array], Array], neutral: float
) -> tuple[Array, Array]:
    """Return the scales of pixels and of windows.

    A window's scale is its largest x, or `neutral` if that is not valid. A pixel's scale is the
    smallest valid one of its windows; if there is none, its own value, or `neutral` if not valid.
    """
    xp, none, kept = backend.xp, x.dtype.type(np.inf), x.dtype.type(neutral)
    found = backend.max_windows(x, windows)[0]
    largest = xp.where(valid(found), found, none)
    if not windows.is_tiling:
        least = _turn_and_join(backend, (largest,), windows, (none,), _least(xp))[0]
        least = xp.where(least < none, least, xp.where(valid(x), x, kept))
        return least, xp.where(largest < none, largest, kept)
    largest = xp.where(largest < none, largest, kept)
    least = backend.spread_windows(largest, windows)
    down, across = windows.out_h * windows.k_h, windows.out_w * windows.k_w
    for rest in ((..., slice(down, None), slice(None)), (..., slice(across, None))):
        least[rest] = xp.where(valid(x[rest]), x[rest], kept)
    return least, largest


# Linear maps, each the gradient of the other --------------------------------------------------


def _weigh(a: Tensor, exponents: Array, largest: Array, windows: Windows) -> Tensor:
    """Return, for each window, the sum of `a * exp(exponents - largest)` over its pixels."""

    def backward(outer: Tensor) -> Gradients:
        return (_weigh_back(outer, exponents, largest, windows),)

    backend = a.backend
    sums = backend.empty_images(largest.shape, a.dtype, a.array)

    def work(part: slice) -> None:
        padded = backend.pad_images(a.array[part], windows, 0, a.array)
        scale = backend.pad_images(exponents[part], windows, LEAST, a.array)
        total, scale = _join((padded, scale), lines(windows), _adder(backend.xp))
        sums[part] = total * backend.xp.exp(scale - largest[part])

    shape = (4, a.shape[1], windows.padded_h, windows.padded_w)
    backend.over_batch(len(a), shape, a.dtype, work)
    return record("weigh", sums, (a,), backward)


def _weigh_back(values: Tensor, exponents: Array, largest: Array, windows: Windows) -> Tensor:
    """Return, for each pixel, the sum of `values * exp(exponents - largest)` over its windows."""

    def backward(outer: Tensor) -> Gradients:
        return (_weigh(outer, exponents, largest, windows),)

    backend = values.backend
    join, fills = _adder(backend.xp), (0.0, LEAST)
    parts = (values.array, -largest)
    sums, scale = _turn_and_join(backend, parts, windows, fills, join)
    return record("weigh", sums * backend.xp.exp(scale + exponents), (values,), backward)


# Along both axes ------------------------------------------------------------------------------

Join = Callable[[Parts, Parts], Parts]


def _adder(xp: Any) -> Join:
    """Return the sum of pairs (a, l), which stand for `a * exp(l)`."""

    def add(a: Parts, b: Parts) -> Parts:
        scale = xp.maximum(a[1], b[1])
        return a[0] * xp.exp(a[1] - scale) + b[0] * xp.exp(b[1] - scale), scale

    return add


def _least(xp: Any) -> Join:
    return lambda a, b: (xp.minimum(a[0], b[0]),)


def _turn_and_join(
    backend: Backend, parts: Parts, w: Windows, fills: Sequence[float], join: Join
) -> Parts:
    """Join, for each pixel, the values of the windows that contain it: `(n, c, in_h, in_w)`."""
    n, c = parts[0].shape[:2]
    results = tuple(backend.empty_images((n, c, w.in_h, w.in_w), x.dtype, parts[0]) for x in parts)

    def work(part: slice) -> None:
        turned = (_turn(backend, x[part], w, fill) for x, fill in zip(parts, fills, strict=True))
        for result, x in zip(results, _join(tuple(turned), _turned(w), join), strict=True):
            result[part] = x[:, :, *w.inside]

    backend.over_batch(n, (4, c, w.padded_h, w.padded_w), parts[0].dtype, work)
    return results


def _join(parts: Parts, axes: tuple[Line, Line], join: Join) -> Parts:
    """Join the pixels of each window, along rows, then along columns."""
    for line in axes:
        parts = tuple(x.swapaxes(2, 3) for x in join_runs(join, parts, line))
    return parts


def _turn(backend: Backend, values: Array, w: Windows, fill: float) -> Array:
    """Lay out windows' values such that window p of `_turned` reads those that contain pixel p."""
    reach_h, reach_w = w.dilation_h * (w.k_h - 1), w.dilation_w * (w.k_w - 1)
    shape = (*values.shape[:2], w.padded_h + reach_h, w.padded_w + reach_w)
    turned = backend.xp.full(shape, fill, values.dtype)
    inner = turned[:, :, reach_h :: w.stride_h, reach_w :: w.stride_w]
    inner[:, :, : w.out_h, : w.out_w] = values
    return turned


def _turned(w: Windows) -> tuple[Line, Line]:
    return Line(w.k_w, 1, w.dilation_w, w.padded_w), Line(w.k_h, 1, w.dilation_h, w.padded_h)
