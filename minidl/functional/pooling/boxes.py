"""Pooling of regions of interest: windows that are boxes, one per object, over shared images.

A box is `(image, x1, y1, x2, y2)` in the pixels of the original picture; `spatial_scale` converts
these to pixels of the feature maps that are pooled. Every box is cut into `out_h` by `out_w` bins:

    roi_pool2d   rounds box and bins to whole pixels, and takes each bin's maximum
    roi_align2d  rounds nothing, and takes each bin's mean of bilinear samples

Boxes get no gradient, as in torchvision: where a box should be is learned by regressing it.

The samples of a box form a grid, so the mean over its bins is `down @ image @ across.T`, where the
rows of both matrices are mean weights of pixels. Its gradient is the transposed map. Multiplying
them as dense matrices is faster than looking up four pixels for each sample, up to a few hundred
pixels in height.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from minidl.autograd import Gradients
from minidl.backends import Array, Backend
from minidl.checks import Pair, is_number, pair
from minidl.functional.geometry import check_images
from minidl.tensor import Tensor, record
from minidl.tensor.operands import array_beside

Host: TypeAlias = np.ndarray[Any, Any]

SCRATCH = 2**17
"""Values that the boxes of one matrix product may need in between: half a megabyte of float32."""

MOST = 2**14
"""Bins along a box, and samples along a bin: with more, one box would take minutes."""

PIECES = 4
"""The least number of pieces that images' gradients are computed in, image by image, or fewer
channels at a time: as many threads can share the work."""


def roi_pool2d(
    images: Tensor, boxes: Tensor | Array, output_size: Pair, spatial_scale: float = 1.0
) -> Tensor:
    """Return the largest pixel of each bin of each box, after rounding boxes and bins to pixels.

    Box edges are rounded to the nearest pixel and both belong to the box; a box of negative size
    counts as one pixel. Bin i of a side of L pixels covers `floor(i * L / out) <= pixel
    < ceil((i + 1) * L / out)`, clipped to the image; the maximum of no pixel is 0. Among equal
    pixels the first wins. NaN propagates, which in torchvision it does not.

    Args:
        images: feature maps `(n, c, h, w)`, float32 or float64.
        boxes: `(k, 5)`: index of the image, x1, y1, x2, y2, computed in the images' dtype. They
            are copied to the host, and get no gradient.
        output_size: `(out_h, out_w)`, or one integer for both.
        spatial_scale: pixels of the feature maps per pixel of the boxes, for example 1 / 8.

    Returns:
        `(k, c, out_h, out_w)`.

    Raises:
        ValueError: boxes are not `(k, 5)`, are not finite or name an image that there is not, or a
            size or the scale is out of range.
        TypeError: images are not a tensor of floats, or boxes not numbers on its device.

    Source: R. Girshick, Fast R-CNN (2015), section 2.1.

    Example:
        >>> import minidl
        >>> x = minidl.arange(16, dtype="float32").reshape(1, 1, 4, 4)
        >>> roi_pool2d(x, Tensor([[0.0, 0, 0, 2, 3]]), (2, 1)).reshape(2)
        Tensor([ 6., 14.], dtype=float32)
    """
    rois, (out_h, out_w) = _checked("roi_pool2d", images, boxes, output_size, spatial_scale)
    edges = rois[:, 1:] * images.dtype.type(spatial_scale)
    whole = np.trunc(edges)
    edges = whole + np.trunc(2 * (edges - whole))  # halves away from 0, as in C
    bounds = [
        _bins(edges[:, axis], edges[:, axis + 2], out, length, images.dtype)
        for axis, out, length in ((1, out_h, images.shape[2]), (0, out_w, images.shape[3]))
    ]
    places = _winners(images.backend, images.array, rois[:, 0].astype(int), bounds[0], bounds[1])
    return _pick("roi_pool2d", images, places)


def roi_align2d(
    images: Tensor,
    boxes: Tensor | Array,
    output_size: Pair,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Return the mean of bilinear samples in each bin of each box; nothing is rounded.

    A sample up to a pixel outside of the image takes the value at the edge, others are 0.

    Args:
        images: feature maps `(n, c, h, w)`, float32 or float64. If one of an image's values is NaN
            or infinite, so can be all of that channel's results for boxes on the image.
        boxes: `(k, 5)`: index of the image, x1, y1, x2, y2, computed in the images' dtype. They
            are copied to the host, and get no gradient.
        output_size: `(out_h, out_w)`, or one integer for both.
        spatial_scale: pixels of the feature maps per pixel of the boxes, for example 1 / 8.
        sampling_ratio: samples per bin and direction; if it is not > 0, `ceil(size of the bin)`.
        aligned: whether coordinate 0 is the left edge of the first pixel, whose centre is then at
            0.5, as in Detectron2. If not, it is the pixel's centre, as in the paper's code, and
            boxes are at least one pixel of the feature maps in size.

    Returns:
        `(k, c, out_h, out_w)`.

    Raises:
        ValueError: boxes are not `(k, 5)`, are not finite or name an image that there is not, or a
            size, the scale or the ratio is out of range, or a bin is longer than 16,384 pixels.
        TypeError: images are not a tensor of floats, or boxes not numbers on its device.

    Source: K. He et al., Mask R-CNN (2017), section 3.

    Example:
        >>> import minidl
        >>> x = minidl.arange(16, dtype="float32").reshape(1, 1, 4, 4)
        >>> roi_align2d(x, Tensor([[0.0, 0, 0, 2, 3]]), (2, 1), aligned=True).reshape(2)
        Tensor([1.75, 7.5 ], dtype=float32)
    """
    rois, (out_h, out_w) = _checked("roi_align2d", images, boxes, output_size, spatial_scale)
    if not isinstance(sampling_ratio, (int, np.integer)) or isinstance(sampling_ratio, bool):
        raise ValueError(f"roi_align2d: got sampling_ratio={sampling_ratio!r}, expected an integer")
    edges = rois[:, 1:].astype(np.float64) * spatial_scale - (0.5 if aligned else 0.0)
    start, size = edges[:, :2], edges[:, 2:] - edges[:, :2]
    if not aligned:
        size = np.maximum(size, 1)
    down, across = (
        _mean_weights(start[:, axis], size[:, axis], out, length, int(sampling_ratio))
        for axis, out, length in ((1, out_h, images.shape[2]), (0, out_w, images.shape[3]))
    )
    grids = Grids(images.shape, rois[:, 0].astype(int), down, across)
    return _align("roi_align2d", images, grids)


def check_regions(op: str, output_size: Pair, spatial_scale: float) -> tuple[int, int]:
    """Return the output's size; ValueError unless both are valid for pooling regions."""
    if not is_number(spatial_scale) or not 0 < spatial_scale < np.inf:
        raise ValueError(
            f"{op}: got spatial_scale={spatial_scale!r}, expected a finite number > 0, such as "
            "1 / 8 for maps of an eighth of the picture's size"
        )
    size = pair(op, "output_size", output_size, 1)
    if max(size) > MOST:
        raise ValueError(f"{op}: got output_size={output_size!r}, expected at most {MOST} bins")
    return size


def _checked(
    op: str, images: Tensor, boxes: Tensor | Array, output_size: Pair, spatial_scale: float
) -> tuple[Host, tuple[int, int]]:
    """Return the boxes on the host, in the images' dtype, and the output's size."""
    check_images(op, images)
    size = check_regions(op, output_size, spatial_scale)
    array = array_beside(op, boxes, images)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{op}: got boxes of dtype {array.dtype}, expected numbers")
    if array.ndim != 2 or array.shape[1] != 5:
        raise ValueError(
            f"{op}: got boxes of shape {array.shape}, expected (k, 5): index of the image, x1, y1, "
            "x2, y2"
        )
    rois: Host = images.backend.to_numpy(array).astype(images.dtype)
    index, n = rois[:, 0], images.shape[0]
    if not np.isfinite(rois).all():
        raise ValueError(f"{op}: got boxes with NaN or infinity, expected finite numbers")
    if ((index < 0) | (index >= n) | (index != np.trunc(index))).any():
        raise ValueError(
            f"{op}: got boxes with image indices from {index.min():g} to {index.max():g} for {n} "
            f"images, expected integers from 0 to {n - 1} in column 0"
        )
    if len(rois) and min(images.shape[2:]) < 1:
        raise ValueError(f"{op}: got images of shape {images.shape}, expected at least one pixel")
    return rois, size


# Samples --------------------------------------------------------------------------------------


def _mean_weights(start: Host, size: Host, out: int, length: int, ratio: int) -> Host:
    """Return the weights of the pixels along one axis in the mean of each bin: (k, out, length)."""
    bins = size / out
    counts = np.full(len(size), float(ratio)) if ratio > 0 else np.ceil(bins)
    if counts.max(initial=0) > MOST:
        raise ValueError(
            f"roi_align2d: got {counts.max():g} samples along a bin, expected at most "
            f"{MOST}; is spatial_scale right, and does sampling_ratio fit?"
        )
    firsts = start[:, None] + np.arange(out) * bins[:, None]  # (k, out)
    weights = np.zeros((len(size), out, length))
    for i in range(int(counts.max(initial=0))):
        at = firsts + ((i + 0.5) * bins / np.maximum(counts, 1))[:, None]
        inside = (at >= -1) & (at <= length) & (i < counts)[:, None]
        near = np.clip(at, 0, length - 1)[..., None] - np.arange(length)
        weights += np.maximum(1 - abs(near), 0) * inside[..., None]
    weights /= np.maximum(counts, 1)[:, None, None]
    return weights


@dataclass(frozen=True, slots=True, eq=False)
class Grids:
    """The samples of boxes on images: weights of rows, `(k, out_h, h)`, and of columns.

    Attributes:
        shape: of the images.
        image: index of each box's image, `(k,)`.
        down: `(k, out_h, h)`.
        across: `(k, out_w, w)`.
    """

    shape: tuple[int, ...]
    image: Host
    down: Host
    across: Host

    def groups(self, channels: int) -> list[tuple[int, Host, slice]]:
        """Split the boxes into groups on one image: the image, the boxes, the rows they see.

        The boxes of a group are neighbours from top to bottom, so that they see few rows.
        """
        used = np.asarray(self.down.any(1))  # (k, h)
        low, high = used.argmax(1), used.shape[1] - used[:, ::-1].argmax(1)
        most = max(1, SCRATCH // max(1, self.down.shape[1] * self.shape[3] * channels))
        found = []
        for image in np.unique(self.image):
            own = np.flatnonzero(self.image == image)
            own = own[np.argsort(low[own] + high[own], kind="stable")]
            for start in range(0, len(own), most):
                boxes = own[start : start + most]
                rows = slice(int(low[boxes].min()), int(high[boxes].max()))
                found.append((int(image), boxes, rows))
        return found


def _align(op: str, images: Tensor, grids: Grids) -> Tensor:
    """Return `down @ image @ across.T` for each box and channel."""

    def backward(gradient: Tensor) -> Gradients:
        return (_unalign(gradient, grids),)

    return record(op, _sample_means(images.backend, images.array, grids), (images,), backward)


def _unalign(values: Tensor, grids: Grids) -> Tensor:
    """Add up `down.T @ values @ across` of the boxes on each image."""

    def backward(outer: Tensor) -> Gradients:
        return (_align("roi_align2d", outer, grids),)

    images = _spread_means(values.backend, values.array, grids)
    return record("roi_align2d_transposed", images, (values,), backward)


def _weights(backend: Backend, grids: Grids, dtype: Any) -> tuple[Array, Array]:
    return _sent(backend, grids.down.astype(dtype)), _sent(backend, grids.across.astype(dtype))


def _sent(backend: Backend, array: Host) -> Array:
    return backend.fresh(lambda: array)


def _sample_means(backend: Backend, images: Array, grids: Grids) -> Array:
    _, c, _, w = images.shape
    k, out_h = grids.down.shape[:2]
    out_w = grids.across.shape[1]
    out = backend.empty_images((k, c, out_h, out_w), images.dtype)
    down, across = _weights(backend, grids, images.dtype)
    groups, pixels = grids.groups(c), backend.xp.ascontiguousarray(images.transpose(0, 2, 3, 1))

    def work(part: slice) -> None:
        for image, boxes, rows in groups[part]:
            seen = rows.stop - rows.start
            lines = pixels[image, rows].reshape(seen, w * c)
            turned = down[boxes][:, :, rows].reshape(len(boxes) * out_h, seen)
            low = backend.product(turned, lines)
            low = low.reshape(len(boxes), out_h, w, c)
            out.transpose(0, 2, 3, 1)[boxes] = backend.product(across[boxes][:, None], low)

    if groups:
        backend.over_batch(len(groups), (SCRATCH,), images.dtype, work)
    return out


def _spread_means(backend: Backend, values: Array, grids: Grids) -> Array:
    n, c, h, w = grids.shape
    images = backend.xp.zeros((n, h, w, c), values.dtype)
    down, across = _weights(backend, grids, values.dtype)
    across = backend.xp.ascontiguousarray(across.swapaxes(1, 2))[:, None]  # (k, 1, w, out_w)
    least = max(1, min(c, c * n // PIECES))
    size = next(s for s in range(least, max(c, 1) + 1) if c % s == 0)
    pieces = [(i, slice(a, a + size)) for i in range(n) for a in range(0, c, size)]
    groups, bins = grids.groups(size), values.transpose(0, 2, 3, 1)

    def work(part: slice) -> None:
        for image, channels in pieces[part]:
            total = backend.xp.zeros((h, w * size), values.dtype)
            for own, boxes, rows in groups:
                if own == image:
                    low = backend.product(across[boxes], bins[boxes][..., channels])
                    turned = down[boxes][:, :, rows].reshape(-1, rows.stop - rows.start)
                    low = low.reshape(len(turned), total.shape[1])
                    total[rows] += backend.product(turned.T, low)
            images[image, :, :, channels] = total.reshape(h, w, size)

    if groups and pieces:
        backend.over_batch(len(pieces), (SCRATCH,), values.dtype, work)
    return images.transpose(0, 3, 1, 2)


# Maxima ---------------------------------------------------------------------------------------


def _bins(low: Host, high: Host, out: int, length: int, dtype: Any) -> tuple[Host, Host]:
    """Return the first pixel of each bin along one axis, and the one after its last: (k, out)."""
    sides = np.maximum(high - low + 1, 1).astype(dtype) / dtype.type(out)
    i = np.arange(out + 1, dtype=dtype)
    starts = np.floor(i[:-1] * sides[:, None]) + low[:, None]
    stops = np.ceil(i[1:] * sides[:, None]) + low[:, None]
    return starts.clip(0, length).astype(int), stops.clip(0, length).astype(int)


def _winners(
    backend: Backend,
    images: Array,
    image: Host,
    rows: tuple[Host, Host],
    columns: tuple[Host, Host],
) -> Array:
    """Return the index of each bin's largest pixel: (k, out_h, out_w, c); n * h * w * c for none.

    Indices are those of `(n, h, w, c)` images. Squares of pixels of any size are the largest of
    four that overlap, whose sides are powers of 2: these are computed once for all boxes. Pixels
    are compared by keys, whose high half is the rank of the value and whose low half prefers the
    first pixel, so that one maximum finds value and place: 0.6 ns per value instead of 7 for
    complex numbers, which compare likewise. Where a side is a power of 2, one square covers it.
    """
    xp, (n, c, h, w) = backend.xp, images.shape
    table = _ranks(xp, xp.ascontiguousarray(images.transpose(0, 2, 3, 1))) << 32
    table |= xp.arange(h * w * c, 0, -1).reshape(h, w, c)  # (n, h, w, c)
    shape = (len(image), rows[0].shape[1], columns[0].shape[1], c)
    places = xp.full((shape[0] * shape[1] * shape[2], c), n * h * w * c)
    codes = _codes(*rows), _codes(*columns)
    for y in range(codes[0].max(initial=-1) // 2 + 1):
        step = 1 << y >> 1
        table = xp.maximum(table[:, :-step], table[:, step:]) if step else table
        wide = table
        for x in range(codes[1].max(initial=-1) // 2 + 1):
            step = 1 << x >> 1
            wide = xp.maximum(wide[:, :, :-step], wide[:, :, step:]) if step else wide
            for a, b in itertools.product((2 * y, 2 * y + 1), (2 * x, 2 * x + 1)):
                bins = np.nonzero((codes[0] == a)[:, :, None] & (codes[1] == b)[:, None])
                tops = [rows[0], rows[1] - (1 << y)][: 1 + a % 2]
                lefts = [columns[0], columns[1] - (1 << x)][: 1 + b % 2]
                _largest(backend, wide, h * w * c, image, (tops, lefts), bins, places)
    return places.reshape(shape)


def _codes(starts: Host, stops: Host) -> Host:
    """Return `2 * k` for a side of `2 ** k` pixels, `2 * k + 1` if longer, -2 for no pixel."""
    side = np.maximum(stops - starts, 0)
    return np.asarray(2 * np.frexp(side)[1] - 2 + (side & (side - 1) > 0))


def _ranks(xp: Any, images: Array) -> Array:
    """Return integers of 32 bits, as int64, in the order of the values; NaN is above all."""
    if images.dtype == np.float32:
        plain = xp.where(xp.isnan(images), np.float32(np.nan), images + np.float32(0))  # no -0
        bits = plain.view(np.int32)
        return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    flat = images.reshape(-1)
    order = xp.argsort(flat)
    ordered = flat[order]
    ranks = xp.zeros(flat.shape, np.int64)
    ranks[order[1:]] = xp.cumsum(ordered[1:] != ordered[:-1])
    return ranks.reshape(images.shape)


def _largest(
    backend: Backend,
    table: Array,
    size: int,
    image: Host,
    sides: tuple[list[Host], list[Host]],
    bins: tuple[Host, ...],
    places: Array,
) -> None:
    """Write the indices of the largest pixels of some bins into `places`.

    `table` holds the largest keys of windows on images of `size` values, by the window's first
    pixel; `sides` are the rows and columns of the windows that cover each bin.
    """
    box, i, j = bins
    n, high, wide, c = table.shape
    keys = table.reshape(n * high * wide, c)
    outs = (box * sides[0][0].shape[1] + i) * sides[1][0].shape[1] + j
    corners = [
        _sent(backend, (image[box] * high + row[box, i]) * wide + column[box, j])
        for row, column in itertools.product(*sides)
    ]
    ends = _sent(backend, (image[box][:, None] + 1) * size)

    def work(part: slice) -> None:
        best, *others = [backend.xp.take(keys, corner[part], 0) for corner in corners]
        for other in others:
            backend.xp.maximum(best, other, out=best)
        best &= 0xFFFFFFFF  # the values from this one to the image's last
        places[outs[part]] = backend.xp.subtract(ends[part], best, out=best)

    if len(box):
        backend.over_batch(len(box), (5 * c,), np.int64, work)


def _pick(op: str, images: Tensor, places: Array) -> Tensor:
    """Return pixels by their indices in `(n, h, w, c)` images; 0 for an index after the last."""
    shape = images.shape

    def backward(gradient: Tensor) -> Gradients:
        return (_put(gradient, places, shape),)

    xp, backend = images.backend.xp, images.backend
    out = xp.empty(places.shape, images.dtype)
    pixels = xp.zeros(images.size + 1, images.dtype)
    n, c, h, w = shape
    pixels[:-1].reshape(n, h, w, c)[...] = images.array.transpose(0, 2, 3, 1)

    def work(part: slice) -> None:
        out[part] = xp.take(pixels, places[part])

    backend.over_batch(len(places), places.shape[1:], np.int64, work)
    return record(op, out.transpose(0, 3, 1, 2), (images,), backward)


def _put(values: Tensor, places: Array, shape: tuple[int, ...]) -> Tensor:
    """Add each value to the pixel at its index; the transpose of `_pick`."""

    def backward(outer: Tensor) -> Gradients:
        return (_pick("roi_pool2d", outer, places),)

    n, c, h, w = shape
    backend, xp = values.backend, values.backend.xp
    flat, given = places.reshape(-1), values.array.transpose(0, 2, 3, 1).reshape(-1)
    if backend.kernels == "fast":  # 3 ns per value instead of 60 for sorting the indices first
        pixels = xp.bincount(flat, given, n * h * w * c + 1).astype(given.dtype)
    else:
        pixels = xp.zeros(n * h * w * c + 1, given.dtype)
        backend.index_add(pixels, flat, given)
    images = pixels[:-1].reshape(n, h, w, c).transpose(0, 3, 1, 2)
    return record("roi_pool2d_transposed", images, (values,), backward)
