"""Convolution and pooling as literal loops in float64: obviously right, not fast.

Nothing but NumPy indexing; nothing here is shared with minidl. `oracles.py` has the loops of the
backends' kernels.
"""

from __future__ import annotations

import numpy as np

Pair = tuple[int, int]


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Pair = (1, 1),
    sides: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> np.ndarray:
    """Convolve; `sides` are the zeros at the top, bottom, left and right."""
    top, bottom, left, right = sides
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    n, _, h, w = padded.shape
    d, channels, k_h, k_w = weight.shape
    out_h = (h - dilation[0] * (k_h - 1) - 1) // stride[0] + 1
    out_w = (w - dilation[1] * (k_w - 1) - 1) // stride[1] + 1
    out = np.zeros((n, d, out_h, out_w))
    for image, kernel, y, column in np.ndindex(out.shape):
        first_channel = kernel // (d // groups) * channels
        for c, i, j in np.ndindex(channels, k_h, k_w):
            row_in = y * stride[0] + i * dilation[0]
            column_in = column * stride[1] + j * dilation[1]
            pixel = padded[image, first_channel + c, row_in, column_in]
            out[image, kernel, y, column] += pixel * weight[kernel, c, i, j]
        if bias is not None:
            out[image, kernel, y, column] += bias[kernel]
    return out


def conv_transpose2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    output_padding: Pair = (0, 0),
    groups: int = 1,
    dilation: Pair = (1, 1),
) -> np.ndarray:
    """Stamp the kernel, times each pixel, onto a canvas; then cut the padding off the canvas."""
    n, d, h, w = x.shape
    _, channels, k_h, k_w = weight.shape
    canvas_h = (h - 1) * stride[0] + dilation[0] * (k_h - 1) + 1 + output_padding[0]
    canvas_w = (w - 1) * stride[1] + dilation[1] * (k_w - 1) + 1 + output_padding[1]
    canvas = np.zeros((n, channels * groups, canvas_h, canvas_w))
    for image, kernel, y, column in np.ndindex(x.shape):
        first_channel = kernel // (d // groups) * channels
        for c, i, j in np.ndindex(channels, k_h, k_w):
            row_out = y * stride[0] + i * dilation[0]
            column_out = column * stride[1] + j * dilation[1]
            stamped = float(x[image, kernel, y, column]) * float(weight[kernel, c, i, j])
            canvas[image, first_channel + c, row_out, column_out] += stamped
    out = canvas[:, :, padding[0] : canvas_h - padding[0], padding[1] : canvas_w - padding[1]]
    return out if bias is None else out + np.reshape(bias, (1, -1, 1, 1))


def window_starts(size: int, span: int, stride: int, padding: int, ceil_mode: bool) -> list[int]:
    """Return where pooling windows start along one axis; pixel 0 is the image's first.

    With `ceil_mode`, one more hangs over the end if pixels would else be left out and it starts
    inside the image.
    """
    starts = list(range(-padding, size + padding - span + 1, stride))
    last_end = starts[-1] + span if starts else -padding
    following = starts[-1] + stride if starts else -padding
    if ceil_mode and last_end < size + padding and following < size:
        starts.append(following)
    return starts


def max_pool2d(
    x: np.ndarray,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest pixel of each window and its place `row * w + column`.

    The first of equals wins, and the last NaN; a window of -inf alone has its first pixel win.
    """
    n, channels, h, w = x.shape
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    rows = window_starts(h, spans[0], stride[0], padding[0], ceil_mode)
    columns = window_starts(w, spans[1], stride[1], padding[1], ceil_mode)
    values = np.empty((n, channels, len(rows), len(columns)))
    places = np.empty(values.shape, np.int64)
    for image, c, y, column in np.ndindex(values.shape):
        best, place = -np.inf, None
        for i, j in np.ndindex(*kernel):
            row_in, column_in = rows[y] + i * dilation[0], columns[column] + j * dilation[1]
            if 0 <= row_in < h and 0 <= column_in < w:
                pixel = x[image, c, row_in, column_in]
                if place is None or pixel > best or np.isnan(pixel):
                    best, place = pixel, row_in * w + column_in
        values[image, c, y, column], places[image, c, y, column] = best, place
    return values, places


def avg_pool2d(
    x: np.ndarray,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> np.ndarray:
    """Average the pixels of each window; what hangs over beyond the padding never counts."""
    n, channels, h, w = x.shape
    rows = window_starts(h, kernel[0], stride[0], padding[0], ceil_mode)
    columns = window_starts(w, kernel[1], stride[1], padding[1], ceil_mode)
    out = np.zeros((n, channels, len(rows), len(columns)))
    for image, c, y, column in np.ndindex(out.shape):
        total, count = 0.0, 0
        for i, j in np.ndindex(*kernel):
            row_in, column_in = rows[y] + i, columns[column] + j
            inside = 0 <= row_in < h and 0 <= column_in < w
            if inside:
                total += float(x[image, c, row_in, column_in])
            in_padding = row_in < h + padding[0] and column_in < w + padding[1]
            count += inside or (count_include_pad and in_padding)
        out[image, c, y, column] = total / (divisor_override or count)
    return out
