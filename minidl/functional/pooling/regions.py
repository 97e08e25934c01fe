"""Pooling windows of varying size and distance: their geometry and their kernels.

Sliding windows are all alike, and `Windows` describes them by a few integers. Adaptive and
fractional pooling have windows of several sizes, which can differ from channel to channel: here
tables list their positions. The kernels use only array functions that NumPy and CuPy share; no
result depends on the order in which threads write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.backends import Array, Backend
from minidl.backends.windows import Windows


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Windows along one axis: pixels `starts <= i < stops`, both `(planes, out)`.

    A plane is one channel of one image, with index `image * c + channel`; a single row is shared by
    all planes. Starts and stops increase from each window to the next, and no window is empty.
    """

    starts: np.ndarray[Any, Any]
    stops: np.ndarray[Any, Any]

    @property
    def out(self) -> int:
        """Number of windows."""
        return int(self.starts.shape[1])

    @property
    def apart(self) -> int:
        """The least m such that windows i and i + m never share a pixel."""
        m = 1
        while (self.stops[:, :-m] > self.starts[:, m:]).any():
            m += 1
        return m

    def taps(self) -> np.ndarray[Any, Any]:
        """Return each window's pixels, `(planes, out, longest)`; short ones repeat the last."""
        steps = np.arange((self.stops - self.starts).max(initial=0))
        taps: np.ndarray[Any, Any] = self.starts[..., None] + steps
        np.minimum(taps, self.stops[..., None] - 1, out=taps)
        return taps

    def ranges(self) -> list[range]:
        """Return the pixels of each window of the first plane."""
        return [range(a, b) for a, b in zip(self.starts[0], self.stops[0], strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Windows on images of one size: every span of rows with every span of columns."""

    in_h: int
    in_w: int
    rows: Spans
    columns: Spans

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
    rows, columns = (_on_device(backend, spans) for spans in (regions.rows, regions.columns))
    shared = len(rows[0]) == 1

    def work(part: slice) -> None:
        planes = images[part].reshape(-1, regions.in_h * regions.in_w)
        if shared and shape[2] * shape[3] < rows[0].shape[2] * columns[0].shape[2]:
            value, place = _winners_of_each(xp, planes, regions)
        else:
            own = slice(part.start * c, part.stop * c)  # one-row tables are shared
            tables = [[t if len(t) == 1 else t[own] for t in spans] for spans in (rows, columns)]
            value, place = _winners(xp, planes, regions.in_w, *tables)
        best[part] = value.reshape(best[part].shape)
        places[part] = place.reshape(best[part].shape)

    backend.over_batch(n, _scratch(images, best), images.dtype, work)
    return best, places


def _on_device(backend: Backend, spans: Spans) -> list[Array]:
    """Return the taps of spans, their starts, and the last pixels, on the backend's device."""
    return [backend.from_numpy(t) for t in (spans.taps(), spans.starts, spans.stops - 1)]


def _winners(
    xp: Any, planes: Array, in_w: int, rows: list[Array], columns: list[Array]
) -> tuple[Array, Array]:
    """Compare windows' pixels tap by tap; return values and indices, `(planes, out_h, out_w)`.

    Tap indices increase, so the winner is the largest index of a tap that beat all before it:
    a running `maximum` of indices is faster than a `where` for each tap.
    """
    tall, wide = rows[0].shape[2], columns[0].shape[2]
    lines = rows[0] * in_w
    if len(lines) > 1:  # each plane has its own table: make its indices count from the first plane
        lines = lines + xp.arange(len(planes))[:, None, None] * planes.shape[1]

    def pixels(tap: int) -> Array:
        place = lines[:, :, tap // wide, None] + columns[0][:, None, :, tap % wide]
        return xp.take(planes, place) if len(lines) > 1 else xp.take(planes, place[0], 1)

    best = pixels(0)
    number = np.uint8 if tall * wide < 256 else np.int32
    winner = xp.zeros(best.shape, number)
    for tap in range(1, tall * wide):
        value = pixels(tap)
        better = (value > best) | xp.isnan(value)
        xp.maximum(best, value, out=best)
        xp.maximum(winner, better * number(tap), out=winner)
    (_, top, bottom), (_, left, right) = rows, columns
    row = xp.minimum(top[:, :, None] + winner // wide, bottom[:, :, None])
    column = xp.minimum(left[:, None] + winner % wide, right[:, None])
    return best, row * in_w + column


def _winners_of_each(xp: Any, planes: Array, regions: Regions) -> tuple[Array, Array]:
    """Return the winners window by window; as `argmax` takes the first NaN, look for the last.

    For large windows, of which there are few: 7 ms instead of 27 for 16 by 16 pixels (64x64x32x32,
    one core).
    """
    images, numbers = planes.reshape(-1, regions.in_h, regions.in_w), xp.arange(len(planes))
    shape = (len(planes), regions.rows.out, regions.columns.out)
    best, places = xp.empty(shape, planes.dtype), xp.empty(shape, np.int64)
    for y, rows in enumerate(regions.rows.ranges()):
        for x, columns in enumerate(regions.columns.ranges()):
            window = images[:, rows.start : rows.stop, columns.start : columns.stop]
            pixels = window.reshape(len(planes), -1)
            tap = pixels.argmax(1)
            value = pixels[numbers, tap]
            last_nan = pixels.shape[1] - 1 - xp.isnan(pixels[:, ::-1]).argmax(1)
            tap = xp.where(xp.isnan(value), last_nan, tap)
            row, column = rows.start + tap // len(columns), columns.start + tap % len(columns)
            best[:, y, x], places[:, y, x] = value, row * regions.in_w + column
    return best, places


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
    n, c = images.shape[:2]
    rows, columns = regions.rows.ranges(), regions.columns.ranges()
    total = backend.empty_images((n, c, len(rows), len(columns)), images.dtype, images)

    def work(part: slice) -> None:
        own = images[part]
        low = backend.empty_images((len(own), c, len(rows), regions.in_w), own.dtype, images)
        for y, inside in enumerate(rows):
            _add_up(low[:, :, y], [own[:, :, row] for row in inside])
        for x, inside in enumerate(columns):
            _add_up(total[part][..., x], [low[..., column] for column in inside])

    backend.over_batch(n, _scratch(images, total), images.dtype, work)
    return total


def spread_regions(backend: Backend, values: Array, regions: Regions) -> Array:
    """Add each window's value to all its pixels: the transpose of `sum_regions`."""
    n, c = values.shape[:2]
    rows, columns = regions.rows.ranges(), regions.columns.ranges()
    images = backend.empty_images((n, c, regions.in_h, regions.in_w), values.dtype, values)

    def work(part: slice) -> None:
        own = values[part]
        low = backend.empty_images((len(own), c, len(rows), regions.in_w), own.dtype, values)
        for column in range(regions.in_w):
            _add_up(low[..., column], [own[..., x] for x, r in enumerate(columns) if column in r])
        for row in range(regions.in_h):
            _add_up(images[part][:, :, row], [low[:, :, y] for y, r in enumerate(rows) if row in r])

    backend.over_batch(n, _scratch(images, values), images.dtype, work)
    return images


def _add_up(out: Array, parts: Sequence[Array]) -> None:
    """Write the sum of the arrays into `out`, added in order."""
    out[...] = parts[0] if parts else 0
    for part in parts[1:]:
        out += part


def _scratch(images: Array, values: Array) -> tuple[int, ...]:
    """Return a shape as large as one image's pixels, and its windows' values and indices."""
    pixels, windows = images.shape[2] * images.shape[3], values.shape[2] * values.shape[3]
    return images.shape[1], pixels + 8 * windows
