"""Sums over each channel of a batch of images, and a straight line through each, as memory has it.

These are the two passes over the data that a normalisation makes, forward as well as backward: one
reads everything and adds up, one reads everything and writes. Both take images as a table with a
channel to each row or to some columns, whichever their memory is, so that nothing is reordered.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.backends import Array, Backend

ROW = 2048
"""Numbers in a row of channels-last images, if their pixels can be split so. With one pixel of 64
channels to a row, the four passes over 64x64x32x32 take 13.1 ms for 10.2 (2 cores)."""


class Channels:
    """How images `(n, c, ...)` of m pixels each are laid out as a table, without reordering them.

    Of whole channels one after the other, a row is one channel of one image: `(n * c, m)`. Of
    channels-last images, a row is k pixels: `(n * m / k, k * c)`. One pixel would do, but NumPy
    is slow at short rows.

    Attributes:
        by_row: whether it is the former. Other memory orders are copied into it.
        rows: their number.
        columns: likewise.
        repeats: how often each channel comes, down the rows or across the columns.
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
        """Return images of this shape as a table: a view if their memory is in this order too."""
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
        """Return what belongs to some rows, of values that were `spread`."""
        return values[part] if self.by_row else values


def channel_sums(
    backend: Backend,
    images: Array,
    centre: Array | None,
    gradient: Array | None = None,
    gate: Array | None = None,
) -> tuple[Array, Array, Array | None]:
    """Add up, over each channel, y and y * (images - centre), for y the gradient.

    Args:
        backend: whose arrays they are.
        images: `(n, c, ...)`.
        centre: `(c,)`, or None for 0.
        gradient: of the images' shape; None for `images - centre`, which is then squared.
        gate: of the images' shape: where it is not above 0, the gradient is taken to be 0.

    Returns:
        Two float64 `(c,)`, and the gradient, of which the gate let some through. Sums within a
        slice of the batch have the images' precision, those of slices are added up in float64.
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

    shape = (order.columns,)
    if order.by_row:
        totals = xp.empty((2, order.rows), np.float64)
        ones = xp.ones((order.columns, 1), images.dtype)

        def rows(part: slice) -> None:
            y, x = parts(part)
            totals[0, part] = backend.product(y, ones)[:, 0]
            totals[1, part] = backend.product(y[:, None], x[:, :, None])[:, 0, 0]

        backend.over_batch(order.rows, shape, images.dtype, rows)
    else:

        def columns(part: slice) -> Array:
            y, x = parts(part)
            ones = xp.ones((1, len(x)), images.dtype)
            sums = backend.product(ones, y)[0]
            return xp.stack([sums, backend.column_products(y, x)]).astype(np.float64)

        totals = backend.sum_over_batch(order.rows, shape, images.dtype, columns)
    first, second = totals.reshape(2, order.repeats, order.sizes[1]).sum(1)
    return first, second, gradient if gates is None else order.images(passed)


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
        centre: `(c,)`, or None for 0; likewise `slope`, `offset` and `scale`.
        slope: see above.
        offset: see above.
        gradient: of the images' shape, or None.
        scale: given with the gradient; None for 1.
        relu: whether negative numbers become 0.

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
                backend.xp.maximum(line, 0, out=line)

    backend.over_batch(order.rows, (order.columns,), images.dtype, work)
    return order.images(out)
