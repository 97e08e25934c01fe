"""Score a detector: how many objects its boxes find, and how well they fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.checks import is_number

Array = NDArray[Any]
RECALLS = np.linspace(0, 1, 101)


def box_iou(a: Array, b: Array) -> Array:
    """Return the intersection over union of each pair of boxes, `0 <= x <= 1`.

    Args:
        a: boxes `(m, 4)`: x1, y1, x2, y2.
        b: boxes `(k, 4)`.

    Returns:
        float64 `(m, k)`; 0 where both boxes are empty.

    Raises:
        ValueError: an argument is not `(m, 4)`, or not finite.
        TypeError: an argument is not a NumPy array of numbers.

    Example:
        >>> box_iou(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 2, 1], [1, 1, 3, 3]])).round(3)
        array([[0.5  , 0.143]])
    """
    for boxes in (a, b):
        _check("box_iou", "boxes", boxes)
    a, b = a.astype(np.float64), b.astype(np.float64)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = (high - low).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    either = areas[0][:, None] + areas[1] - both
    iou: Array = both / np.where(either > 0, either, 1)
    return iou


def mean_average_precision(
    found: Sequence[tuple[Array, Array, Array]],
    objects: Sequence[tuple[Array, Array]],
    threshold: float = 0.5,
) -> float:
    """Return the mean over the classes of their average precision, as COCO defines it.

    For each class, detections of all images are taken in the order of their scores. One is right
    if its IoU with an object of its image that no earlier one has taken is >= `threshold`; it takes
    the object with the largest IoU. After each, precision is the share of right ones so far, and
    recall the share of objects found. Average precision is the mean, over the recalls 0, 0.01, ...,
    1, of the largest precision at that recall or a higher one. An image's first 100 detections of a
    class count. Classes without objects are left out.

    Args:
        found: for each image, boxes `(m, 4)`, classes `(m,)` and scores `(m,)`.
        objects: for each image, boxes `(k, 4)` and classes `(k,)`.
        threshold: the least IoU, `0 < threshold <= 1`.

    Raises:
        ValueError: the numbers of images differ, no image has an object, shapes do not pair, values
            are not finite, or the threshold is out of range.
        TypeError: an image is no tuple of as many NumPy arrays of numbers.

    Source: T.-Y. Lin et al., Microsoft COCO (2014), and pycocotools, whose numbers it gives.

    Example:
        >>> box, other = np.array([[0, 0, 4, 4]]), np.array([[9, 9, 12, 12]])
        >>> one, scores = np.array([1]), np.array([0.9])
        >>> mean_average_precision([(box, one, scores)] * 2, [(box, one), (other, one)])
        0.504950495049505
    """
    for what, images, count in (("detections", found, 3), ("objects", objects, 2)):
        _check_images(what, images, count)
    if len(found) != len(objects):
        raise ValueError(
            f"mean_average_precision: got detections of {len(found)} images and objects of "
            f"{len(objects)}, expected as many"
        )
    if not is_number(threshold) or not 0 < threshold <= 1:
        raise ValueError(
            f"mean_average_precision: got threshold={threshold!r}, expected 0 < threshold <= 1"
        )
    classes = np.unique(np.concatenate([np.zeros(0), *(labels for _, labels in objects)]))
    if not len(classes):
        raise ValueError("mean_average_precision: got no object in any image, expected at least 1")
    return float(np.mean([_average(found, objects, k, threshold) for k in classes]))


def _check_images(what: str, images: Any, count: int) -> None:
    """Raise unless each image has `count` arrays that pair: boxes, classes and perhaps scores."""
    op, kinds = "mean_average_precision", (tuple, list)
    if not isinstance(images, kinds) or not all(isinstance(x, kinds) for x in images):
        raise TypeError(f"{op}: got {images!r:.80} as {what}, expected a list of tuples of arrays")
    for arrays in images:
        if len(arrays) != count:
            raise ValueError(f"{op}: got {len(arrays)} arrays as {what}, expected {count}")
        for name, array in zip(("boxes", "classes", "scores"), arrays, strict=False):
            _check(op, name, array, None if name == "boxes" else len(arrays[0]))


def _check(op: str, name: str, array: Any, length: int | None = None) -> None:
    """Raise unless `array` holds finite numbers: boxes `(m, 4)`, or as many values as `length`."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{op}: got {name} of {kind}, expected a NumPy array of numbers")
    shape = (*array.shape[:1], 4) if length is None else (length,)
    if array.shape != shape or array.ndim != len(shape):
        expected = "(m, 4)" if length is None else shape
        raise ValueError(f"{op}: got {name} of shape {array.shape}, expected {expected}")
    if not np.isfinite(array).all():
        raise ValueError(f"{op}: got {name} with NaN or infinity, expected finite numbers")


def _average(
    found: Sequence[tuple[Array, Array, Array]],
    objects: Sequence[tuple[Array, Array]],
    label: int,
    threshold: float,
) -> float:
    """Return the average precision of one class."""
    scores, right, count = [np.zeros(0)], [np.zeros(0, bool)], 0
    for (boxes, labels, values), (others, kinds) in zip(found, objects, strict=True):
        own = np.flatnonzero(labels == label)
        own = own[np.argsort(-values[own], kind="stable")][:100]
        wanted = others[kinds == label]
        scores.append(values[own])
        right.append(_taken(box_iou(boxes[own].reshape(-1, 4), wanted.reshape(-1, 4)), threshold))
        count += len(wanted)
    hits = np.concatenate(right)[np.argsort(-np.concatenate(scores), kind="stable")]
    totals = np.cumsum(hits)
    precision = totals / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(totals / count, RECALLS, side="left")
    return float(np.append(best, 0)[places].mean())


def _taken(iou: Array, threshold: float) -> Array:
    """Return which detections, the best first, take an object: (m,)."""
    free, right = np.ones(iou.shape[1], bool), np.zeros(len(iou), bool)
    for i, row in enumerate(iou):
        values = np.where(free, row, -1)
        if values.max(initial=-1) >= min(threshold, 1 - 1e-10):
            right[i] = True
            free[len(values) - 1 - values[::-1].argmax()] = False  # the last of equals
    return right
