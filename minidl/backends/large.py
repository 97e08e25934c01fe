"""Pooling of windows of many taps: first along rows, then along columns, in few array operations.

The kernels in `base` do an array operation for each of `k_h * k_w` taps, which is the fastest way
for few taps, but needs 50,176 operations for one window of 224 x 224. Here, a window's pixels in
each row are reduced first, then the results of its rows. Along one axis,

- windows that overlap little are copied next to each other, and reduced in one operation;
- windows that overlap much are joined from runs of 1, 2, 4, ... neighbours: a window of 13 taps
  from runs of 1, 4 and 8. All windows share the runs, so a pixel costs `log2(k)` steps, not k.

Both sum in a tree, so float32 loses few digits. Differences of running sums would be faster, but
one huge value or NaN would corrupt every window after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from minidl.backends.base import Array, first_tap_inside, winner_type
from minidl.backends.blocks import BlockedBackend
from minidl.backends.windows import Windows

MOST_TAPS = 24
"""For up to this many taps, `base` loops over them: see `tests.benchmarks.pooling`."""

FEW = 16
"""Along one axis, windows of up to this many taps are reduced tap by tap."""

Parts: TypeAlias = tuple[Array, ...]


def suits(windows: Windows) -> bool:
    """Tell whether windows have so many taps that these forms are faster than a loop over them."""
    return windows.k_h * windows.k_w > MOST_TAPS


def is_full_width(w: Windows) -> bool:
    """Tell whether windows reach from edge to edge: their pixels are neighbours in memory."""
    return w.k_w == w.padded_w and w.dilation_w == w.dilation_h == 1


class Line(NamedTuple):
    """Windows along the last axis of an array: `out` windows of k taps."""

    k: int
    stride: int
    dilation: int
    out: int

    def at(self, tap: int) -> tuple[Any, slice]:
        """Return the index of the pixels that all windows see through one tap."""
        first = tap * self.dilation
        return ..., slice(first, first + (self.out - 1) * self.stride + 1, self.stride)

    def of(self, window: int) -> tuple[Any, slice]:
        """Return the index of the pixels that one window sees."""
        first = window * self.stride
        return ..., slice(first, first + (self.k - 1) * self.dilation + 1, self.dilation)

    def overlaps(self, length: int) -> bool:
        """Tell whether joining runs is less work than reducing each window by itself."""
        return 2 * self.k * self.out > self.k.bit_length() * length


def lines(w: Windows) -> tuple[Line, Line]:
    """Return windows along rows of pixels, and along columns."""
    return (
        Line(w.k_w, w.stride_w, w.dilation_w, w.out_w),
        Line(w.k_h, w.stride_h, w.dilation_h, w.out_h),
    )


def side_by_side(xp: Any, x: Array, line: Line) -> Array:
    """Return the taps of each window, `(..., out, k)`: a view if windows tile the axis."""
    shape = (*x.shape[:-1], line.out, line.k)
    if line.dilation == 1 and (line.stride == line.k or line.out == 1):
        return x[..., : line.out * line.k].reshape(shape)
    taps = xp.empty(shape, x.dtype)
    if line.k < line.out:
        for tap in range(line.k):
            taps[..., tap] = x[line.at(tap)]
    else:
        for i in range(line.out):
            taps[..., i, :] = x[line.of(i)]
    return taps


def join_runs(join: Callable[[Parts, Parts], Parts], runs: Parts, line: Line) -> Parts:
    """Join the taps of each window in order, from runs whose length doubles."""
    total, done, size = None, 0, 1
    while True:
        if line.k & size:
            part = tuple(x[line.at(done)] for x in runs)
            total = part if total is None else join(total, part)
            done += size
        if done == line.k:
            assert total is not None
            return total
        step = size * line.dilation
        runs = join(tuple(x[..., :-step] for x in runs), tuple(x[..., step:] for x in runs))
        size *= 2


# Sums -----------------------------------------------------------------------------------------


def sum_along(xp: Any, x: Array, line: Line) -> Array:
    """Add up the windows along the last axis."""
    if line.overlaps(x.shape[-1]):
        return join_runs(lambda a, b: (a[0] + b[0],), (x,), line)[0]
    if line.k <= FEW:
        total = x[line.at(0)]
        for tap in range(1, line.k):
            total = total + x[line.at(tap)]
        return total
    return sum_taps(side_by_side(xp, x, line))


def sum_taps(taps: Array) -> Array:
    """Sum the last axis by adding its halves: fast and accurate in any memory order."""
    while (size := taps.shape[-1]) > 1:
        half = size // 2
        sums = taps[..., :half] + taps[..., half : 2 * half]
        if size % 2:
            sums[..., 0] += taps[..., -1]
        taps = sums
    return taps[..., 0]


def spread_along(xp: Any, values: Array, line: Line, length: int) -> Array:
    """Add each window's value to all its pixels: the transpose of `sum_along`."""
    reach = line.dilation * (line.k - 1)
    if line.overlaps(length):
        apart = xp.zeros((*values.shape[:-1], length + reach), values.dtype)
        apart[..., reach :: line.stride][..., : line.out] = values
        return sum_along(xp, apart, Line(line.k, 1, line.dilation, length))
    x = xp.zeros((*values.shape[:-1], length), values.dtype)
    if line.k < line.out:
        for tap in range(line.k):
            x[line.at(tap)] += values
    else:
        for i in range(line.out):
            x[line.of(i)] += values[..., i : i + 1]
    return x


# Maxima ---------------------------------------------------------------------------------------


def max_along(backend: LargeBackend, x: Array, line: Line) -> Parts:
    """Return the largest value of each window along the last axis, and its tap, 0 to k - 1."""
    xp = backend.xp
    if line.k <= FEW:
        best = xp.empty_like(x[line.at(0)])
        taps = xp.empty_like(best, np.uint8)
        h, w = x.shape[2:]
        windows = Windows(h, w, 1, line.k, 1, line.stride, 1, line.dilation)
        backend.find_winners(x, windows, best, taps)
        return best, taps
    if not line.overlaps(x.shape[-1]):
        return backend.largest(side_by_side(xp, x, line))

    def join(a: Parts, b: Parts) -> Parts:  # where b wins, its index is the larger one
        better = (b[0] > a[0]) | (b[0] != b[0])
        return xp.maximum(a[0], b[0]), xp.maximum(a[1], backend.masked(b[1], better))

    best, index = join_runs(join, (x, xp.arange(x.shape[-1], dtype=np.int32)), line)
    return best, (index - xp.arange(line.out, dtype=np.int32) * line.stride) // line.dilation


# Both axes ------------------------------------------------------------------------------------


def sum_windows(xp: Any, padded: Array, windows: Windows) -> Array:
    """Add up each window of padded images: `(n, c, out_h, out_w)`."""
    if is_full_width(windows):
        return sum_along(xp, as_line(padded), one_line(windows)).swapaxes(2, 3)
    across, down = lines(windows)
    return sum_along(xp, sum_along(xp, padded, across).swapaxes(2, 3), down).swapaxes(2, 3)


def spread_windows(xp: Any, values: Array, windows: Windows) -> Array:
    """Add each window's value to all its pixels: `(n, c, padded_h, padded_w)`."""
    across, down = lines(windows)
    columns = spread_along(xp, values.swapaxes(2, 3), down, windows.padded_h).swapaxes(2, 3)
    return spread_along(xp, columns, across, windows.padded_w)


def max_windows(backend: LargeBackend, padded: Array, windows: Windows) -> Parts:
    """Return each window's largest value, and the tap that holds it."""
    if is_full_width(windows):
        best, taps = max_along(backend, as_line(padded), one_line(windows))
        return best.swapaxes(2, 3), taps.swapaxes(2, 3)
    xp, (across, down) = backend.xp, lines(windows)
    rows, j = max_along(backend, padded, across)
    best, i = max_along(backend, rows.swapaxes(2, 3), down)
    row = i * np.int64(down.dilation) + xp.arange(down.out) * down.stride
    taps = i * np.int32(windows.k_w) + xp.take_along_axis(j.swapaxes(2, 3), row, -1)
    return best.swapaxes(2, 3), taps.swapaxes(2, 3)


def as_line(images: Array) -> Array:
    """Return the rows of images one after the other: `(n, c, 1, h * w)`."""
    n, c, h, w = images.shape
    return images.reshape(n, c, 1, h * w)


def one_line(w: Windows) -> Line:
    """Return windows of full width as windows along the line that `as_line` returns."""
    return Line(w.k_h * w.k_w, w.stride_h * w.k_w, 1, w.out_h)


def tiles(images: Array, w: Windows) -> Array:
    """Return tiling windows as a view of images: `(n, c, out_h, k_h, out_w, k_w)`."""
    covered = images[:, :, : w.out_h * w.k_h, : w.out_w * w.k_w]
    return covered.reshape(*images.shape[:2], w.out_h, w.k_h, w.out_w, w.k_w)


# The backend ----------------------------------------------------------------------------------


class LargeBackend(BlockedBackend):
    """A backend that pools windows of many taps by axis, and windows of few taps tap by tap.

    `CupyBackend` overrides these methods: its kernels take windows of any size.
    """

    def sum_windows(self, images: Array, windows: Windows) -> Array:
        """Add up each window."""
        if not suits(windows):
            return super().sum_windows(images, windows)
        n, c = images.shape[:2]
        total = self.empty_images((n, c, windows.out_h, windows.out_w), images.dtype, images)

        def work(part: slice) -> None:
            padded = self.pad_images(images[part], windows, 0, images)
            total[part] = sum_windows(self.xp, padded, windows)

        self.over_batch(n, (c, windows.padded_h, windows.padded_w), images.dtype, work)
        return total

    def spread_windows(self, values: Array, windows: Windows) -> Array:
        """Add each window's value to all its pixels."""
        if not suits(windows):
            return super().spread_windows(values, windows)
        n, c = values.shape[:2]
        images = self.empty_images((n, c, windows.in_h, windows.in_w), values.dtype, values)

        def work(part: slice) -> None:
            if windows.is_tiling:
                self.clear_rest(images[part], windows)
                tiles(images[part], windows)[...] = values[part][:, :, :, None, :, None]
                return
            spread = spread_windows(self.xp, values[part], windows)
            images[part] = spread[:, :, *windows.inside]

        self.over_batch(n, (c, windows.padded_h, windows.padded_w), values.dtype, work)
        return images

    def max_windows(self, images: Array, windows: Windows) -> tuple[Array, Array]:
        """Find each window's largest value and the tap that holds it."""
        if not suits(windows):
            return super().max_windows(images, windows)
        n, c = images.shape[:2]
        shape = (n, c, windows.out_h, windows.out_w)
        best = self.empty_images(shape, images.dtype, images)
        winners = self.empty_images(shape, winner_type(windows), images)

        def work(part: slice) -> None:
            padded = self.pad_images(images[part], windows, -np.inf, images)
            value, tap = max_windows(self, padded, windows)
            first = first_tap_inside(self.xp, windows)
            best[part], winners[part] = value, self.xp.where(value == -np.inf, first, tap)

        self.over_batch(n, (c, windows.padded_h, windows.padded_w), images.dtype, work)
        return best, winners

    def scatter_winners(self, values: Array, winners: Array, windows: Windows) -> Array:
        """Add each window's value to the pixel that won it."""
        if not suits(windows):
            return super().scatter_winners(values, winners, windows)
        n, c = values.shape[:2]
        pixels = windows.in_h * windows.in_w
        images = self.xp.zeros((n, c, pixels), values.dtype)

        def work(part: slice) -> None:
            at, inside = _pixels(self.xp, winners[part], windows)
            self.index_add(images[part].reshape(-1), at, self.masked(values[part], inside))

        self.over_batch(n, (c, pixels), values.dtype, work)
        return images.reshape(n, c, windows.in_h, windows.in_w)

    def gather_winners(self, images: Array, winners: Array, windows: Windows) -> Array:
        """Look up the pixel that won each window."""
        if not suits(windows):
            return super().gather_winners(images, winners, windows)
        values = self.xp.empty(winners.shape, images.dtype)

        def work(part: slice) -> None:
            at, inside = _pixels(self.xp, winners[part], windows)
            values[part] = self.masked(self.xp.take(images[part].reshape(-1), at), inside)

        self.over_batch(len(winners), images.shape[1:], images.dtype, work)
        return values

    def gather_windows(self, images: Array, windows: Windows) -> Array:
        """Copy every window into its own row, one window at a time if they are few."""
        if not _are_few(windows):
            return super().gather_windows(images, windows)
        (n, c), taps = images.shape[:2], windows.k_h * windows.k_w
        padded = self.pad_images(images, windows, 0)
        gathered = self.xp.empty((n, windows.out_h, windows.out_w, taps, c), images.dtype)
        for y, x, rows, columns in _each(windows):
            pixels = padded[:, :, rows, columns].transpose(0, 2, 3, 1)
            gathered[:, y, x] = pixels.reshape(n, taps, c)
        return gathered

    def scatter_windows(self, gathered: Array, windows: Windows) -> Array:
        """Add every window's row to the image, one window at a time if they are few."""
        if not _are_few(windows):
            return super().scatter_windows(gathered, windows)
        taps_last = gathered.transpose(0, 4, 1, 2, 3)  # (n, c, out_h, out_w, k_h·k_w)
        padded, images = self.zero_images(taps_last, windows, taps_last)
        for y, x, rows, columns in _each(windows):
            window = taps_last[:, :, y, x]
            padded[:, :, rows, columns] += window.reshape(
                *window.shape[:2], windows.k_h, windows.k_w
            )
        return images


def _are_few(windows: Windows) -> bool:
    """Tell whether there are fewer windows than taps, so that looping over windows is faster."""
    return windows.out_h * windows.out_w < windows.k_h * windows.k_w


def _each(w: Windows) -> Iterator[tuple[int, int, slice, slice]]:
    """Yield each window's indices, and the rows and columns of the padded image that it reads."""
    across, down = lines(w)
    for y in range(w.out_h):
        for x in range(w.out_w):
            yield y, x, down.of(y)[-1], across.of(x)[-1]


def _pixels(xp: Any, winners: Array, windows: Windows) -> tuple[Array, Array]:
    """Return winners as flat indices into the images, 0 in the padding, and which are not in it."""
    n, c = winners.shape[:2]
    rows, columns = windows.places(xp, winners)
    inside = (rows >= 0) & (rows < windows.in_h) & (columns >= 0) & (columns < windows.in_w)
    first = xp.arange(n * c).reshape(n, c, 1, 1) * (windows.in_h * windows.in_w)
    return xp.where(inside, rows * windows.in_w + columns + first, 0), inside
