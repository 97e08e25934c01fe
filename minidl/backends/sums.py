"""Sums in blocks, so that rounding errors grow with the logarithm of the number of terms.

NumPy adds pairwise along the innermost axis in memory, but one term after the other along all other
axes: there, the mean of a million rows of 0.1 in float32 is 1 % off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.backends.windows import Array

BLOCK = 16
"""Number of terms added one after the other; the blocks' sums are then added in the same way."""

WIDE = 1024
"""Values per row of a block. Short rows are joined up to this length, because NumPy is slow on
short rows. Compared with NumPy, the sum of (1000000, 4) over its first axis takes 0.6 ms instead of
14; of (64, 32, 30, 30), channels-last, over all axes but channels, 0.24 instead of 0.94; of
(5000, 1000) over its first axis, 0.78 instead of 0.5."""


def blocked_sum(xp: Any, array: Array, axes: Sequence[int]) -> Array:
    """Return `array.sum(axes)`, with axes counted from 0."""
    count = math.prod([array.shape[i] for i in axes])
    inner = array.flags.c_contiguous and min(axes, default=0) == array.ndim - len(axes)
    if count <= 2 * BLOCK or inner or not array.size or array.dtype.kind != "f":
        return array.sum(tuple(axes))
    order = sorted(range(array.ndim), key=lambda i: -abs(array.strides[i]))  # as in memory
    x, summed = array.transpose(order), [i in axes for i in order]
    while any(summed):  # from the innermost axis outwards
        stop = len(summed) - summed[::-1].index(True)
        start = stop - 1
        while start and summed[start - 1] and x.flags.c_contiguous:
            start -= 1
        x = x.reshape(*x.shape[:start], -1, *x.shape[stop:])
        x = x.sum(start) if stop == len(summed) else _sum_rows(xp, x, start)
        del summed[start:stop]
    kept = [i for i in order if i not in axes]
    return x.transpose([kept.index(i) for i in sorted(kept)]) if kept != sorted(kept) else x


def _sum_rows(xp: Any, x: Array, axis: int) -> Array:
    """Sum over an axis that is not the last."""
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    while (n := x.shape[axis]) > 2 * BLOCK:
        joined = max(1, min(WIDE // math.prod(after), n // (4 * BLOCK)))
        whole = n - n % (BLOCK * joined)
        rows, rest = (x[(slice(None),) * axis + (p,)] for p in (slice(whole), slice(whole, None)))
        sums = rows.reshape(*before, -1, BLOCK, joined, *after).sum(axis + 1)
        x = sums.reshape(*before, -1, *after)
        x = xp.concatenate([x, rest], axis) if whole < n else x
    return x.sum(axis)


def add_rows(table: Array, rows: Array, values: Array) -> None:
    """Do `table[rows] += values`; values of duplicate rows are first added pairwise.

    So the gradient of a word that occurs a million times keeps its digits. 2,800 words of a text,
    128 values each, take 0.6 ms instead of 5 with `add.at`.
    """
    at = np.arange(len(rows))  # where the values of `rows` are
    if (rows[1:] <= rows[:-1]).any():
        at = np.argsort(rows, kind="stable")
        rows, values = rows[at], values.copy()
    while (rows[1:] == rows[:-1]).any():
        is_second = (np.arange(len(rows)) - np.searchsorted(rows, rows)) % 2 == 1
        second = np.flatnonzero(is_second)
        values[at[second - 1]] += values[at[second]]
        rows, at = rows[~is_second], at[~is_second]
    table[rows] += values[at]
