"""Pooling windows of varying size and distance: their geometry and their kernels.

Sliding windows are all alike, and `Windows` describes them by a few integers. Adaptive and
fractional pooling have windows of several sizes, which can differ from channel to channel: here
tables list their positions. The kernels use only array functions that NumPy and CuPy share; no
result depends on the order in which threads write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.backends import Array, Backend
from minidl.backends.large import FEW, sum_taps
from minidl.backends.windows import Windows

MOST_APART = 4
"""The largest `Spans.apart` that is computed."""

FEW_WINDOWS = 64
"""Up to this many windows along an axis are summed one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Windows along one axis: pixels `starts <= i < stops`, both `(planes, out)`.

    A plane is one channel of one image, with index `image * c + channel`; a single row is shared by
    all planes. Starts and stops never decrease from one window to the next, and no window is empty.
    """

    starts: np.ndarray[Any, Any]
    stops: np.ndarray[Any, Any]

    @property
    def out(self) -> int:
        """Number of windows."""
        return int(self.starts.shape[1])

    @property
    def apart(self) -> int:
        """The least m such that windows i and i + m never share a pixel, up to `MOST_APART` + 1."""
        m = 1
        while m <= MOST_APART and (self.stops[:, :-m] > self.starts[:, m:]).any():
            m += 1
        return m

    def tables(self, backend: Backend) -> tuple[Array, Array]:
        """Return the pixels of each window, `(planes, out, longest)`, and which of them count.

        Shorter windows repeat their last pixel; the repetitions do not count.
        """
        steps = np.arange((self.stops - self.starts).max(initial=0))
        taps = np.minimum(self.starts[..., None] + steps, self.stops[..., None] - 1)
        counts = self.starts[..., None] + steps < self.stops[..., None]
        np.maximum(taps, 0, out=taps)
        return backend.fresh(lambda: taps), backend.fresh(lambda: counts)

    def transposed(self, length: int) -> Spans:
        """Return, per pixel, the windows of the first plane that contain it."""
        pixels = np.arange(length)
        first = np.searchsorted(self.stops[0], pixels, side="right")
        return Spans(first[None], np.searchsorted(self.starts[0], pixels, side="right")[None])


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Windows on images of one size: every span of rows with every span of columns."""

    in_h: int
    in_w: int
    rows: Spans
    columns: Spans

    @property
    def apart(self) -> tuple[int, int] | None:
        """The `apart` of rows and of columns; None if one exceeds `MOST_APART`."""
        both = self.rows.apart, self.columns.apart
        return both if max(both) <= MOST_APART else None

    @property
    def sliding(self) -> Windows | None:
        """The same windows as `Windows` if they are adjacent and of equal size, else None."""
        sizes = []
        for spans, length in ((self.rows, self.in_h), (self.columns, self.in_w)):
            size = length // spans.out
            side_by_side = (spans.starts == np.arange(spans.out) * size).all()
            one_size = (spans.stops == spans.starts + size).all()
            if not (len(spans.starts) and side_by_side and one_size):
                return None
            sizes.append(size)
        return Windows(self.in_h, self.in_w, *sizes, *sizes)


# Maximum --------------------------------------------------------------------------------------


def max_regions(backend: Backend, images: Array, regions: Regions) -> tuple[Array, Array]:
    """Return each window's largest pixel and its index `row * w + column`.

    Among equal values the first wins. NaN propagates; among several NaNs the last one wins.

    Returns:
        Values and indices (int64), both `(n, c, out_h, out_w)`.
    """
    n, c = images.shape[:2]
    xp, shape = backend.xp, (n, c, regions.rows.out, regions.columns.out)
    best, places = xp.empty(shape, images.dtype), xp.empty(shape, np.int64)
    if not best.size:  # tables without planes have no windows
        return best, places
    rows, columns = (spans.tables(backend)[0] for spans in (regions.rows, regions.columns))

    def work(part: slice) -> None:
        own = slice(part.start * c, part.stop * c)  # one-row tables are shared
        down, across = (t if len(t) == 1 else t[own] for t in (rows, columns))
        planes = images[part].reshape(-1, regions.in_h, regions.in_w)
        line, column = _winners(backend, planes, across)
        value, row = _winners(backend, line.swapaxes(1, 2), down)
        place = row * regions.in_w + xp.take_along_axis(column.swapaxes(1, 2), row, -1)
        for target, found in ((best, value), (places, place)):
            target[part] = found.swapaxes(1, 2).reshape(target[part].shape)

    backend.over_batch(n, _scratch(images, best), images.dtype, work)
    return best, places


def _winners(backend: Backend, planes: Array, table: Array) -> tuple[Array, Array]:
    """Return the largest pixels of windows along the last axis, and their indices.

    A few taps are compared one after the other: 33 ms instead of 170 for windows of 2 and 3 pixels.
    The winner is the last tap that is larger than all before it, or NaN.
    """
    xp, longest = backend.xp, table.shape[2]
    if longest > FEW:
        best, tap = backend.largest(_take(xp, planes, table))
    else:
        best = _take(xp, planes, table[..., 0])
        tap = xp.zeros(best.shape, np.uint8)
        for t in range(1, longest):
            value = _take(xp, planes, table[..., t])
            better = (value > best) | xp.isnan(value)
            xp.maximum(best, value, out=best)
            xp.maximum(tap, better * np.uint8(t), out=tap)
    index = xp.minimum(table[:, None, :, 0] + tap, table[:, None, :, -1])
    return best, index


def _take(xp: Any, x: Array, table: Array) -> Array:
    """Return the pixels of x, `(planes, h, w)`, at a table's indices along the last axis."""
    if len(table) == 1:
        return xp.take(x, table[0], -1)
    lines = xp.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * (table.ndim - 1))
    return xp.take(x.reshape(-1), lines * x.shape[2] + table[:, None])


def scatter_places(
    backend: Backend,
    values: Array,
    places: Array,
    size: tuple[int, int],
    apart: tuple[int, int] | None,
) -> Array:
    """Add each value to the pixel at its index in an image of zeros: `(n, c, *size)`.

    No two windows that are `apart` steps apart have the same index: these are added together, in a
    fixed order. With `apart` 1 in both directions the pixels are simply set; None allows any
    indices.
    """
    n, c = values.shape[:2]
    images = backend.xp.empty((n, c, *size), values.dtype)

    def work(part: slice) -> None:
        pixels = images[part].reshape(-1)  # a view
        pixels[...] = 0
        flat = places[part] + _first_pixels(backend, values[part], size[0] * size[1])
        if apart == (1, 1):
            pixels[flat] = values[part]
            return
        if apart is None:
            backend.index_add(pixels, flat, values[part])
            return
        for i in range(apart[0]):
            for j in range(apart[1]):
                these = (..., slice(i, None, apart[0]), slice(j, None, apart[1]))
                pixels[flat[these]] += values[part][these]

    backend.over_batch(n, _scratch(images, values), images.dtype, work)
    return images


def gather_places(backend: Backend, images: Array, places: Array) -> Array:
    """Return the pixel at each index: the transpose of `scatter_places`."""
    values = backend.xp.empty(places.shape, images.dtype)

    def work(part: slice) -> None:
        pixels = images.shape[2] * images.shape[3]
        flat = places[part] + _first_pixels(backend, values[part], pixels)
        values[part] = backend.xp.take(images[part].reshape(-1), flat)

    backend.over_batch(len(images), _scratch(images, values), images.dtype, work)
    return values


def _first_pixels(backend: Backend, values: Array, pixels: int) -> Array:
    """Return the index of each plane's first pixel: `(n, c, 1, 1)`."""
    n, c = values.shape[:2]
    return backend.xp.arange(n * c).reshape(n, c, 1, 1) * pixels


# Sum ------------------------------------------------------------------------------------------


def sum_regions(backend: Backend, images: Array, regions: Regions) -> Array:
    """Return the sum of each window, rows first, then columns; all planes must share the tables."""
    return _sum(backend, images, regions.rows, regions.columns)


def spread_regions(backend: Backend, values: Array, regions: Regions) -> Array:
    """Add each window's value to all its pixels: the transpose of `sum_regions`."""
    rows, columns = regions.rows.transposed(regions.in_h), regions.columns.transposed(regions.in_w)
    return _sum(backend, values, rows, columns)


def _sum(backend: Backend, images: Array, rows: Spans, columns: Spans) -> Array:
    n, c = images.shape[:2]
    total = backend.empty_images((n, c, rows.out, columns.out), images.dtype, images)
    tables = [spans.tables(backend) for spans in (rows, columns)]

    def work(part: slice) -> None:
        own = images[part]
        shape = (len(own), c, rows.out, images.shape[3])
        low = backend.empty_images(shape, images.dtype, images)
        for x, spans, axis, out in ((own, rows, 2, low), (low, columns, 3, total[part])):
            lines, sums = (backend.xp.moveaxis(array, axis, -1) for array in (x, out))
            _sum_along(backend.xp, lines, sums, spans, *tables[axis - 2])

    backend.over_batch(n, _scratch(images, total), images.dtype, work)
    return total


def _sum_along(xp: Any, x: Array, out: Array, spans: Spans, table: Array, counts: Array) -> None:
    """Write the sums of windows along the last axis into `out`."""
    zero, longest = x.dtype.type(0), table.shape[2]
    if spans.out <= FEW_WINDOWS:
        pairs = zip(spans.starts[0].tolist(), spans.stops[0].tolist(), strict=True)
        for i, inside in enumerate(range(a, b) for a, b in pairs):
            out[..., i] = x[..., inside.start] if inside else 0
            if len(inside) > FEW:
                out[..., i] = sum_taps(x[..., inside.start : inside.stop])
                continue
            for tap in inside[1:]:
                out[..., i] += x[..., tap]
    elif longest > FEW:
        out[...] = sum_taps(xp.where(counts[0], xp.take(x, table[0], -1), zero))
    else:
        out[...] = 0
        for t in range(longest):
            out += xp.where(counts[0, :, t], xp.take(x, table[0, :, t], -1), zero)


def _scratch(images: Array, values: Array) -> tuple[int, ...]:
    """Return a shape as large as one image's pixels, and its windows' values and indices."""
    pixels, windows = images.shape[2] * images.shape[3], values.shape[2] * values.shape[3]
    return images.shape[1], pixels + 8 * windows
