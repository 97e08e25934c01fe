"""Copies of overlapping views, by which the kernels on the CPU gather windows, tiles and strips."""

from __future__ import annotations

import numpy as np

from minidl.backends.windows import Array


def overlapping(
    array: Array, shape: tuple[int, ...], strides: tuple[int, ...], out: Array | None = None
) -> Array:
    """Copy `as_strided(array, shape, strides)`, strides in bytes, into `out` if it is given.

    Where numbers along the last axis lie side by side, all of them are moved as one element: NumPy
    takes as long to begin with the next dozen as to copy it. Strips of 48, 128x32x48 of them: 0.57
    ms for 1.03; windows of 3x3 pixels, 64x3x32x32: 0.3 for 0.6 (one core).
    """
    view = np.lib.stride_tricks.as_strided(array, shape, strides, writeable=False)
    copy: Array = np.empty(shape, array.dtype) if out is None else out
    if shape[-1] and view.strides[-1] == copy.strides[-1] == array.itemsize:
        run = f"V{shape[-1] * array.itemsize}"
        copy.view(run)[...] = view.view(run)
    else:
        copy[...] = view
    return copy
