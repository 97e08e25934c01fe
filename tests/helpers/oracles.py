"""What the kernels mean, as literal loops over pixels: slow, and plain enough to be right."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minidl.backends import Windows


def windows_of(w: Windows) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
    """Yield each window's output row and column, and its taps that lie on the image.

    A tap is its number and the row and column of the image that it looks at.
    """
    for y in range(w.out_h):
        for x in range(w.out_w):
            taps = []
            for i in range(w.k_h):
                for j in range(w.k_w):
                    row = y * w.stride_h + i * w.dilation_h - w.top
                    column = x * w.stride_w + j * w.dilation_w - w.left
                    if 0 <= row < w.in_h and 0 <= column < w.in_w:
                        taps.append((i * w.k_w + j, row, column))
            yield y, x, taps


def gather_windows(images: np.ndarray, w: Windows) -> np.ndarray:
    n, c = images.shape[:2]
    gathered = np.zeros((n, w.out_h, w.out_w, w.k_h * w.k_w, c), images.dtype)
    for y, x, taps in windows_of(w):
        for tap, row, column in taps:
            gathered[:, y, x, tap] = images[:, :, row, column]
    return gathered


def scatter_windows(gathered: np.ndarray, w: Windows) -> np.ndarray:
    images = np.zeros((len(gathered), gathered.shape[-1], w.in_h, w.in_w), gathered.dtype)
    for y, x, taps in windows_of(w):
        for tap, row, column in taps:
            images[:, :, row, column] += gathered[:, y, x, tap]
    return images


def sum_windows(images: np.ndarray, w: Windows) -> np.ndarray:
    total = np.zeros((*images.shape[:2], w.out_h, w.out_w), images.dtype)
    for y, x, taps in windows_of(w):
        for _, row, column in taps:
            total[:, :, y, x] += images[:, :, row, column]
    return total


def spread_windows(values: np.ndarray, w: Windows) -> np.ndarray:
    images = np.zeros((*values.shape[:2], w.in_h, w.in_w), values.dtype)
    for y, x, taps in windows_of(w):
        for _, row, column in taps:
            images[:, :, row, column] += values[:, :, y, x]
    return images


def max_windows(images: np.ndarray, w: Windows) -> tuple[np.ndarray, np.ndarray]:
    """The largest values and their taps: the first of equal ones, the last NaN, -1 where a window
    sees nothing of the image."""
    shape = (*images.shape[:2], w.out_h, w.out_w)
    best = np.full(shape, -np.inf, images.dtype)
    winners = np.full(shape, -1)
    for n, c in np.ndindex(shape[:2]):
        for y, x, taps in windows_of(w):
            for place, (tap, row, column) in enumerate(taps):
                value = images[n, c, row, column]
                if place == 0 or value > best[n, c, y, x] or np.isnan(value):
                    best[n, c, y, x], winners[n, c, y, x] = value, tap
    return best, winners


def scatter_winners(values: np.ndarray, winners: np.ndarray, w: Windows) -> np.ndarray:
    images = np.zeros((*values.shape[:2], w.in_h, w.in_w), values.dtype)
    for n, c in np.ndindex(values.shape[:2]):
        for y, x, taps in windows_of(w):
            for tap, row, column in taps:
                if tap == winners[n, c, y, x]:
                    images[n, c, row, column] += values[n, c, y, x]
    return images


def gather_winners(images: np.ndarray, winners: np.ndarray, w: Windows) -> np.ndarray:
    values = np.zeros(winners.shape, images.dtype)
    for n, c in np.ndindex(winners.shape[:2]):
        for y, x, taps in windows_of(w):
            for tap, row, column in taps:
                if tap == winners[n, c, y, x]:
                    values[n, c, y, x] = images[n, c, row, column]
    return values
