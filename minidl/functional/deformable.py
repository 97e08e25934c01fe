"""Deformable convolution: every tap of the kernel looks up its pixel at a position of its own.

Where tap (i, j) of a convolution reads the pixel `p = (y * stride + i * dilation - padding, ...)`,
here it reads the image at `p + offset`, interpolated between the four nearest pixels:

    sample = sum over four corners k of share[k] * pixel[k]
    share  = (1 - |distance in y|) * (1 - |distance in x|) * mask

Pixels outside of the image are 0. Offsets, one per tap and output pixel, come from a convolution
over the same image; version 2 adds a mask, a factor for each sample. Then samples times weights is
a matrix product as in any convolution.

`_mix` computes samples from pixels and shares, and is linear in either. Its two gradients,
`_spread` and `_agree`, and theirs, are again one of the three, so that they can be differentiated
any number of times; shares are computed by differentiable operations from offsets and mask.

Source: J. Dai et al., Deformable Convolutional Networks (2017); X. Zhu et al., Deformable ConvNets
v2: More Deformable, Better Results (2019).
"""

from __future__ import annotations

import numpy as np

from minidl.autograd import Gradients
from minidl.backends import Array, Windows
from minidl.checks import Pair
from minidl.functional.geometry import check_given, check_images, check_together, conv_windows
from minidl.tensor import Tensor, record
from minidl.tensor.functions import stack

CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Convolve images with weights whose taps are moved by offsets.

    Args:
        x: images `(n, c, h, w)`, float32 or float64.
        offset: `(n, 2 * g * k_h * k_w, out_h, out_w)`: for each of g equal groups of channels and
            for each tap, how far down and how far to the right it is moved, in pixels.
        weight: `(d, c // groups, k_h, k_w)`; its shape tells the number of groups.
        bias: `(d,)`, or None.
        stride: pixels from one window to the next, >= 1.
        padding: see `conv2d`.
        dilation: pixels from one tap of the kernel to the next, >= 1.
        mask: `(n, g * k_h * k_w, out_h, out_w)`: a factor for each sample (version 2), or None.

    Returns:
        `(n, d, out_h, out_w)`, of the size that `conv2d` would return. With offsets of 0 and
        without a mask it is `conv2d`. All five tensors get gradients; that of a position on a
        pixel's centre is the one from its right and from below.

    Raises:
        ValueError: shapes, groups or geometry do not fit each other.
        TypeError: dtypes or devices differ.

    Example:
        >>> import minidl
        >>> x = minidl.arange(4, dtype="float32").reshape(1, 1, 1, 4)
        >>> half_right = Tensor([[[[0.0] * 4], [[0.5] * 4]]])
        >>> deform_conv2d(x, half_right, minidl.ones((1, 1, 1, 1))).reshape(4)
        Tensor([0.5, 1.5, 2.5, 1.5], dtype=float32)
    """
    op = "deform_conv2d"
    check_images(op, x)
    check_given(op, offset=offset, weight=weight)
    check_together(op, input=x, offset=offset, weight=weight, bias=bias, mask=mask)
    groups = x.shape[1] // weight.shape[1] if weight.ndim == 4 and weight.shape[1] else 1
    windows = conv_windows(op, x, weight, bias, stride, padding, dilation, max(groups, 1))
    offset_groups = _offset_groups(op, x, offset, mask, windows)
    shares, pixels = _shares(x, offset, mask, windows, offset_groups)
    table = x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1] // offset_groups)
    columns = _mix(table, shares, pixels)  # (n·out_h·out_w·taps·g, c / g)
    return _multiply(columns, weight, bias, windows, (x.shape[0], x.shape[1], groups))


def _offset_groups(
    op: str, x: Tensor, offset: Tensor, mask: Tensor | None, windows: Windows
) -> int:
    """Return the number of groups of channels that share offsets; ValueError if shapes differ."""
    n, c = x.shape[:2]
    taps, size = windows.k_h * windows.k_w, (windows.out_h, windows.out_w)
    channels = offset.shape[1] if offset.ndim == 4 else 0
    groups = channels // (2 * taps)
    if offset.shape != (n, 2 * groups * taps, *size) or not groups or c % groups:
        raise ValueError(
            f"{op}: got offset of shape {offset.shape} for images {x.shape} and {taps} taps, "
            f"expected ({n}, {2 * taps} * g, {size[0]}, {size[1]}), where g divides {c} channels"
        )
    if mask is not None and mask.shape != (n, groups * taps, *size):
        raise ValueError(
            f"{op}: got mask of shape {mask.shape}, expected {(n, groups * taps, *size)}: one "
            "factor for each pair of offsets"
        )
    return groups


def _multiply(
    columns: Tensor, weight: Tensor, bias: Tensor | None, w: Windows, sizes: tuple[int, int, int]
) -> Tensor:
    """Multiply samples with weights: `(n, d, out_h, out_w)`."""
    (n, c, groups), taps, d = sizes, w.k_h * w.k_w, weight.shape[0]
    rows = n * w.out_h * w.out_w
    if groups == 1:
        matrix = weight.reshape(d, c, taps).transpose(2, 1, 0).reshape(taps * c, d)
        out = columns.reshape(rows, taps * c) @ matrix
    else:
        matrix = weight.reshape(groups, d // groups, c // groups, taps).transpose(0, 3, 2, 1)
        parts = columns.reshape(rows, taps, groups, c // groups).transpose(2, 0, 1, 3)
        length = taps * (c // groups)
        matrix = matrix.reshape(groups, length, d // groups)
        out = parts.reshape(groups, rows, length) @ matrix
        out = out.transpose(1, 0, 2)
    out = out.reshape(rows, d) if bias is None else out.reshape(rows, d) + bias
    return out.reshape(n, w.out_h, w.out_w, d).transpose(0, 3, 1, 2)


def _shares(
    x: Tensor, offset: Tensor, mask: Tensor | None, w: Windows, groups: int
) -> tuple[Tensor, Array]:
    """Return each sample's share of its four pixels, and the index of each: `(samples, 4)`.

    Samples are ordered as `(n, out_h, out_w, tap, group)`, pixels as `(n, h, w, group)`.
    """
    n, taps, xp = x.shape[0], w.k_h * w.k_w, x.backend.xp
    shape = (n, groups, taps, 2, w.out_h, w.out_w)
    moved = offset.reshape(shape).transpose(3, 0, 4, 5, 2, 1)  # (2, n, out_h, out_w, taps, groups)
    places = moved + Tensor.wrap(x.backend.fresh(lambda: _grid(w).astype(x.dtype)))
    low = xp.floor(places.array)
    part = places - Tensor.wrap(low)  # 0 <= part < 1
    rest = 1 - part
    shares, pixels = [], []
    image = xp.arange(n).reshape(n, 1, 1, 1, 1)
    for down, right in CORNERS:
        row, column = low[0] + down, low[1] + right
        inside = (row >= 0) & (row < w.in_h) & (column >= 0) & (column < w.in_w)
        share = (part if down else rest)[0] * (part if right else rest)[1]
        shares.append(share * Tensor.wrap(inside.astype(x.dtype)))
        row, column = xp.clip(row, 0, w.in_h - 1), xp.clip(column, 0, w.in_w - 1)
        pixel = (image * w.in_h + row.astype(np.int64)) * w.in_w + column.astype(np.int64)
        pixels.append(pixel * groups + xp.arange(groups))
    total = stack(shares, -1)
    if mask is not None:
        factors = mask.reshape(n, groups, taps, w.out_h, w.out_w).transpose(0, 3, 4, 2, 1)
        total = total * factors.expand_dims(-1)
    return total.reshape(-1, 4), xp.stack(pixels, -1).reshape(-1, 4)


def _grid(w: Windows) -> np.ndarray:
    """Return where taps are without offsets: `(2, 1, out_h, out_w, taps, 1)`."""
    rows = np.arange(w.out_h)[:, None] * w.stride_h - w.top + np.arange(w.k_h) * w.dilation_h
    columns = np.arange(w.out_w)[:, None] * w.stride_w - w.left + np.arange(w.k_w) * w.dilation_w
    shape = (w.out_h, w.out_w, w.k_h, w.k_w)
    down = np.broadcast_to(rows[:, None, :, None], shape)
    right = np.broadcast_to(columns[None, :, None, :], shape)
    return np.stack([down, right]).reshape(2, 1, w.out_h, w.out_w, -1, 1)


# Three maps: each one's gradients are the other two -----------------------------------------------


def _mix(table: Tensor, shares: Tensor, pixels: Array) -> Tensor:
    """Return sums of rows, `sum over k of shares[s, k] * table[pixels[s, k]]`: (samples, c)."""

    def backward(gradient: Tensor) -> Gradients:
        return (
            _spread(gradient, shares, pixels, len(table)) if table.requires_grad else None,
            _agree(table, gradient, pixels) if shares.requires_grad else None,
        )

    backend, xp = table.backend, table.backend.xp
    rows, weights = xp.ascontiguousarray(table.array), shares.array
    out = xp.empty((len(pixels), rows.shape[1]), rows.dtype)

    def work(part: slice) -> None:
        total = out[part]
        for k in range(4):
            found = xp.take(rows, pixels[part, k], 0)
            found *= weights[part, k, None]
            if k:
                total += found
            else:
                total[...] = found

    backend.over_batch(len(pixels), (3 * rows.shape[1] + 1,), rows.dtype, work)
    return record("deform_mix", out, (table, shares), backward)


def _spread(samples: Tensor, shares: Tensor, pixels: Array, length: int) -> Tensor:
    """Add `shares[s, k] * samples[s]` to row `pixels[s, k]` of a table of `length` rows."""

    def backward(outer: Tensor) -> Gradients:
        return (
            _mix(outer, shares, pixels) if samples.requires_grad else None,
            _agree(outer, samples, pixels) if shares.requires_grad else None,
        )

    backend, xp = samples.backend, samples.backend.xp
    columns, weights = (xp.ascontiguousarray(x.array.T) for x in (samples, shares))
    table = xp.zeros((length, len(columns)), columns.dtype)
    given = (columns[:, None] * weights).reshape(len(columns), -1)  # long rows: NumPy is fast
    backend.index_add(table, pixels.T.reshape(-1), given.T)
    return record("deform_spread", table, (samples, shares), backward)


def _agree(table: Tensor, samples: Tensor, pixels: Array) -> Tensor:
    """Return products of rows, `table[pixels[s, k]] @ samples[s]`: (samples, 4)."""

    def backward(outer: Tensor) -> Gradients:
        return (
            _spread(samples, outer, pixels, len(table)) if table.requires_grad else None,
            _mix(table, outer, pixels) if samples.requires_grad else None,
        )

    backend, xp = table.backend, table.backend.xp
    rows, others = xp.ascontiguousarray(table.array), xp.ascontiguousarray(samples.array)
    out = xp.empty(pixels.shape, rows.dtype)

    def work(part: slice) -> None:
        for k in range(4):
            found = xp.take(rows, pixels[part, k], 0)
            out[part, k] = xp.einsum("sc,sc->s", found, others[part])

    backend.over_batch(len(pixels), (2 * rows.shape[1] + 1,), rows.dtype, work)
    return record("deform_agree", out, (table, samples), backward)
