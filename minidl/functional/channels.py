"""Per-channel sums and affine maps of a batch of images, in the images' memory order.

A normalisation makes these two passes over the data, forward as well as backward: one reads and
sums, the other reads and writes. Both view the images as a table in which a channel is either a
row or a set of columns, whichever matches their memory order, so that nothing is reordered.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.backends import Array, Backend

ROW = 2048
"""Values per row of channels-last images, if their pixels divide into such rows. The four passes
over 64x64x32x32 take 10.2 ms instead of 13.1 with one pixel of 64 channels per row (2 cores)."""

SHORT, LONG = 512, 4096
"""The longest rows that BLAS sums, and multiplies by other rows. It uses only a few partial sums
per row: in float32, sums of 65,536 equal values are 4e-6 off, sums of their products 1e-5."""


class Channels:
    """View images `(n, c, ...)` of m pixels each as a table, without reordering them.

    If channels are contiguous, a row is one channel of one image: `(n * c, m)`. In channels-last
    images, a row is k pixels: `(n * m / k, k * c)`. One pixel per row would also work, but NumPy
    is slow on short rows.

    Attributes:
        by_row: whether a channel is a row. Other memory orders are copied into this one.
        rows: the number of rows.
        columns: the number of columns.
        repeats: how often each channel occurs, down the rows or across the columns.
        like: the images.
    """

    def __init__(self, images: Array) -> None:
        n, c = images.shape[:2]
        m = math.prod(images.shape[2:])
        self.like, self.sizes = images, (n, c, m)
        self.by_row = images.strides[1] != images.dtype.itemsize
        beside = math.gcd(n * m, 2 ** int(math.log2(max(ROW // max(c, 1), 1))))
        self.rows, self.columns = (n * c, m) if self.by_row else (n * m // beside, beside * c)
        self.repeats = n if self.by_row else beside

    def table(self, images: Array) -> Array:
        """Return images of this shape as a table: a view if they have the same memory order."""
        if not self.by_row:
            images = images.reshape(self.sizes).transpose(0, 2, 1)  # (n, m, c)
        return images.reshape(self.rows, self.columns)

    def images(self, table: Array) -> Array:
        """Return a table as images."""
        if not self.by_row:
            n, c, m = self.sizes
            table = table.reshape(n, m, c).transpose(0, 2, 1)
        return table.reshape(self.like.shape)

    def spread(self, values: Array | None, backend: Backend) -> Array | None:
        """Repeat `(c,)` values along the table, in the images' dtype."""
        if values is None:
            return None
        repeated = backend.xp.tile(values.astype(self.like.dtype), self.repeats)
        return repeated[:, None] if self.by_row else repeated

    def at(self, values: Array, part: slice) -> Array:
        """Return the part of `spread` values that belongs to some rows."""
        return values[part] if self.by_row else values


def channel_sums(
    backend: Backend,
    images: Array,
    centre: Array | None,
    gradient: Array | None = None,
    gate: Array | None = None,
) -> tuple[Array, Array, Array | None]:
    """Sum y and y * (images - centre) over each channel, where y is the gradient.

    Args:
        backend: whose arrays they are.
        images: `(n, c, ...)`.
        centre: `(c,)`, or None for 0.
        gradient: of the images' shape; None for `images - centre`, so that it is squared.
        gate: of the images' shape: where it is not > 0, the gradient counts as 0.

    Returns:
        Two float64 arrays `(c,)`, and the gradient after the gate. Sums within a slice of the
        batch have the images' precision; the slices' sums are added in float64.
    """
    xp, order = backend.xp, Channels(images)
    table, around = order.table(images), order.spread(centre, backend)
    other = None if gradient is None else order.table(gradient)
    gates = None if gate is None else order.table(gate)
    passed: Any = other if gates is None else xp.empty(table.shape, images.dtype)

    def parts(part: slice) -> tuple[Array, Array]:
        x = table[part]
        if around is not None:
            with backend.rows(order.columns):
                x = x - order.at(around, part)
        if other is None:
            return x, x
        if gates is not None:
            backend.gated(other[part], gates[part], out=passed[part])
        return passed[part], x

    sums = _row_sums if order.by_row else _column_sums
    totals = sums(backend, order, parts)
    first, second = totals.reshape(2, order.repeats, order.sizes[1]).sum(1)
    return first, second, gradient if gates is None else order.images(passed)


def _row_sums(backend: Backend, order: Channels, parts: Callable[[slice], Any]) -> Array:
    """Return the sums of y and y * x over each row; `parts(slice)` returns rows of both tables."""
    totals = backend.xp.empty((2, order.rows), np.float64)
    ones = backend.xp.ones((order.columns, 1), order.like.dtype)

    def work(part: slice) -> None:
        y, x = parts(part)
        short = order.columns <= SHORT
        totals[0, part] = backend.product(y, ones)[:, 0] if short else backend.sum(y, (1,))
        if order.columns <= LONG:
            totals[1, part] = backend.product(y[:, None], x[:, :, None])[:, 0, 0]
        else:
            totals[1, part] = backend.sum(y * x, (1,))

    backend.over_batch(order.rows, (order.columns,), order.like.dtype, work)
    return totals


def _column_sums(backend: Backend, order: Channels, parts: Callable[[slice], Any]) -> Array:
    """Return the sums of y and y * x over each column."""

    def work(part: slice) -> Array:
        y, x = parts(part)
        sums = [backend.column_sums(y), backend.column_sums(y, x)]
        return backend.xp.stack(sums).astype(np.float64)

    return backend.sum_over_batch(order.rows, (order.columns,), order.like.dtype, work)


def channel_lines(
    backend: Backend,
    images: Array,
    centre: Array | None,
    slope: Array,
    offset: Array,
    gradient: Array | None = None,
    scale: Array | None = None,
    relu: bool = False,
) -> Array:
    """Return `(images - centre) * slope + offset`, or `scale * (that + gradient)`.

    Args:
        backend: whose arrays they are.
        images: `(n, c, ...)`.
        centre: `(c,)`, or None for 0.
        slope: `(c,)`.
        offset: `(c,)`.
        gradient: of the images' shape, or None.
        scale: `(c,)`, given with the gradient; None for 1.
        relu: whether to set negative values to 0.

    Returns:
        An array of the images' shape, dtype and memory order.
    """
    order = Channels(images)
    table = order.table(images)
    around, slopes, offsets, scales = (
        order.spread(values, backend) for values in (centre, slope, offset, scale)
    )
    other = None if gradient is None else order.table(gradient)
    out = backend.xp.empty((order.rows, order.columns), images.dtype)
    zeros = backend.xp.zeros(order.columns, images.dtype)  # a row is faster than a number

    def work(part: slice) -> None:
        x, line = table[part], out[part]
        with backend.rows(order.columns):
            if around is not None:
                x = backend.xp.subtract(x, order.at(around, part), out=line)
            backend.xp.multiply(x, order.at(slopes, part), out=line)
            line += order.at(offsets, part)
            if other is not None:
                line += other[part]
            if scales is not None:
                line *= order.at(scales, part)
            if relu:
                backend.xp.maximum(line, zeros, out=line)

    backend.over_batch(order.rows, (order.columns,), images.dtype, work)
    return order.images(out)
