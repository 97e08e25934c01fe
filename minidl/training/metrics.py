"""Metrics of a classifier's predictions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minidl.checks import check_whole, is_number


class Scores(NamedTuple):
    """Three scores of a prediction, each `0 <= x <= 1`.

    Attributes:
        precision: share of the examples predicted as a class that belong to it.
        recall: share of the examples of a class that were predicted as it.
        f1: the harmonic mean of the two.
    """

    precision: float
    recall: float
    f1: float


def accuracy(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the share of predicted classes that are right, `0 <= x <= 1`.

    Args:
        predicted: class indices `(n,)`.
        labels: class indices `(n,)`.

    Raises:
        ValueError: shapes differ, or there are no examples.
        TypeError: an argument is not a NumPy array.

    Example:
        >>> import numpy as np
        >>> accuracy(np.array([1, 2, 2, 0]), np.array([1, 2, 0, 0]))
        0.75
    """
    _check("accuracy", predicted, labels)
    return float((predicted == labels).mean())


def confusion_matrix(predicted: NDArray[Any], labels: NDArray[Any], classes: int) -> NDArray[Any]:
    """Count how often examples of each class (rows) were predicted as each class (columns).

    Args:
        predicted: class indices `(n,)`, `0 <= x < classes`.
        labels: class indices `(n,)`, `0 <= x < classes`.
        classes: number of classes.

    Returns:
        int64 `(classes, classes)`; right predictions are on the diagonal.

    Raises:
        ValueError: shapes differ, or an index is out of range.
        TypeError: an argument is not a NumPy array of integers.
    """
    return _count_pairs("confusion_matrix", predicted, labels, classes)


def top_k_accuracy(scores: NDArray[Any], labels: NDArray[Any], k: int = 5) -> float:
    """Return the share of examples whose right class is among the `k` highest scores.

    Among equal scores, the one with the smaller index counts as higher, as in `argmax`.

    Args:
        scores: `(n, classes)`.
        labels: class indices `(n,)`, `0 <= x < classes`.
        k: >= 1.

    Raises:
        ValueError: shapes do not fit, a label is out of range, or `k < 1`.
        TypeError: an argument is not a NumPy array of integers.

    Example:
        >>> import numpy as np
        >>> scores = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
        >>> top_k_accuracy(scores, np.array([1, 2]), k=2)
        0.5
    """
    who = "top_k_accuracy"
    first = scores[:, 0] if isinstance(scores, np.ndarray) and scores.ndim == 2 else scores
    _check(who, first, labels)
    _check_range(who, "labels", labels, scores.shape[1])
    check_whole(who, 1, k=k)
    own = scores[np.arange(len(labels)), labels.astype(np.int64)][:, None]  # (n, 1)
    before = (scores == own) & (np.arange(scores.shape[1]) < labels[:, None])
    higher = ~(scores <= own) | before  # (n, classes); NaN is never among the highest
    return float((higher.sum(1) < k).mean())


def class_scores(
    predicted: NDArray[Any], labels: NDArray[Any], classes: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return precision, recall and F1 of each class, as three float64 arrays `(classes,)`.

    For a class with `right` of its examples found: `precision = right / predicted as it`,
    `recall = right / examples of it`, `f1 = 2 * right / (predicted as it + examples of it)`; 0 / 0
    counts as 0.

    Args:
        predicted: class indices `(n,)`, `0 <= x < classes`.
        labels: class indices `(n,)`, `0 <= x < classes`.
        classes: number of classes.

    Raises:
        ValueError: shapes differ, or an index is out of range.
        TypeError: an argument is not a NumPy array of integers.

    Example:
        >>> import numpy as np
        >>> class_scores(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), classes=2)[1]
        array([1. , 0.5])
    """
    matrix = _count_pairs("class_scores", predicted, labels, classes)
    right, given, there = np.diag(matrix), matrix.sum(0), matrix.sum(1)
    parts = ((right, given), (right, there), (2 * right, given + there))
    precision, recall, f1 = (above / np.maximum(below, 1) for above, below in parts)
    return precision, recall, f1


def macro_scores(predicted: NDArray[Any], labels: NDArray[Any], classes: int) -> Scores:
    """Return precision, recall and F1, averaged over classes, so that rare ones count equally.

    A class that is neither in `labels` nor in `predicted` is left out; see `class_scores` for
    formulas and arguments. The mean of the classes' F1 is not the F1 of the means.

    Raises:
        ValueError: shapes differ, or an index is out of range.
        TypeError: an argument is not a NumPy array of integers.

    Example:
        >>> import numpy as np
        >>> scores = macro_scores(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), classes=2)
        >>> print(f"{scores.precision:.3f} {scores.recall:.3f} {scores.f1:.3f}")
        0.833 0.750 0.733
    """
    found = class_scores(predicted, labels, classes)
    met = np.union1d(predicted, labels).astype(np.int64)
    return Scores(*(float(values[met].mean()) for values in found))


def micro_scores(predicted: NDArray[Any], labels: NDArray[Any], classes: int) -> Scores:
    """Return precision, recall and F1 of all classes together: each example counts the same.

    With one label and one prediction per example, a false positive of one class is a false negative
    of another, so all three equal the accuracy, as in any report. Arguments as in `class_scores`.

    Raises:
        ValueError: shapes differ, or an index is out of range.
        TypeError: an argument is not a NumPy array of integers.
    """
    matrix = _count_pairs("micro_scores", predicted, labels, classes)
    share = float(matrix.trace() / matrix.sum())
    return Scores(share, share, share)


def class_iou(
    predicted: NDArray[Any], labels: NDArray[Any], classes: int, ignore_index: int = 255
) -> NDArray[Any]:
    """Return the intersection over union of each class, as float64 `(classes,)`.

    Of all pixels together: `right / (predicted as it + pixels of it - right)`; 0 / 0 counts as 0.

    Args:
        predicted: class indices of any shape, such as masks `(n, h, w)`, `0 <= x < classes`.
        labels: class indices of the same shape, `0 <= x < classes`, or `ignore_index`.
        classes: number of classes, the background among them.
        ignore_index: pixels with this label are ignored.

    Raises:
        ValueError: shapes differ, an index is out of range, or all pixels are ignored.
        TypeError: an argument is not a NumPy array of integers.

    Source: M. Everingham et al., The PASCAL visual object classes challenge (2010), 4.2.

    Example:
        >>> import numpy as np
        >>> class_iou(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 255]]), classes=2)
        array([0.5, 0.5])
    """
    matrix = _count_pixels("class_iou", predicted, labels, classes, ignore_index)
    right = np.diag(matrix)
    return np.asarray(right / np.maximum(matrix.sum(0) + matrix.sum(1) - right, 1))


def mean_iou(
    predicted: NDArray[Any], labels: NDArray[Any], classes: int, ignore_index: int = 255
) -> float:
    """Return the mean intersection over union (mIoU), `0 <= x <= 1`: see `class_iou`.

    A class that is neither in `labels` nor in `predicted` is left out.

    Raises:
        ValueError: shapes differ, an index is out of range, or all pixels are ignored.
        TypeError: an argument is not a NumPy array of integers.

    Example:
        >>> import numpy as np
        >>> mean_iou(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]]), classes=9)  # 1/2 and 2/3
        0.5833333333333333
    """
    matrix = _count_pixels("mean_iou", predicted, labels, classes, ignore_index)
    right, union = np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return float((right[union > 0] / union[union > 0]).mean())


def boundary_f1(
    predicted: NDArray[Any],
    labels: NDArray[Any],
    classes: int,
    tolerance: float = 1.0,
    ignore_index: int = 255,
) -> float:
    """Return how well predicted outlines follow the true ones, `0 <= x <= 1`.

    A pixel is on the boundary of its class if a pixel above, below, left or right of it has another
    class. A boundary pixel is right if the other mask has one of the same class at most `tolerance`
    pixels away. Precision is the share of a class's predicted boundary pixels that are right,
    recall that of its true ones, both over all images; the result is the mean of their harmonic
    means over the classes that have a boundary in either set of masks.

    Args:
        predicted: masks `(n, h, w)`, `0 <= x < classes`.
        labels: masks of the same shape, `0 <= x < classes`, or `ignore_index`.
        classes: number of classes, the background among them.
        tolerance: in pixels, Euclidean, >= 0; at 0, the outlines must agree exactly.
        ignore_index: pixels with this label are ignored: they have no boundary, nor are they
            another class.

    Returns:
        1 if no class has a boundary in either set.

    Raises:
        ValueError: shapes differ or are not `(n, h, w)`, an index is out of range, all pixels are
            ignored, or `tolerance < 0`.
        TypeError: an argument is not a NumPy array of integers.

    Source: G. Csurka et al., What is a good evaluation measure for semantic segmentation? (2013),
        2.2; summed over the images, so that an image without a class needs no rule of its own.

    Example:
        >>> import numpy as np
        >>> square = np.zeros((1, 9, 9), int)
        >>> square[:, 2:6, 2:6] = 1
        >>> beside = np.roll(square, 1, axis=2)
        >>> boundary_f1(beside, square, 2), round(boundary_f1(beside, square, 2, tolerance=0), 2)
        (1.0, 0.44)
    """
    name = "boundary_f1"
    _count_pixels(name, predicted, labels, classes, ignore_index)  # checks
    if labels.ndim != 3 or not is_number(tolerance) or not tolerance >= 0:
        raise ValueError(
            f"{name}: got masks of shape {labels.shape} and tolerance={tolerance!r}, "
            "expected (n, h, w) and a number >= 0"
        )
    counted, scores = labels != ignore_index, []
    for kind in range(classes):
        ours, theirs = (_boundary(masks == kind, counted) for masks in (predicted, labels))
        if ours.any() or theirs.any():
            right = (ours & _widened(theirs, tolerance)).sum()
            found = (theirs & _widened(ours, tolerance)).sum()
            precision, recall = right / max(1, ours.sum()), found / max(1, theirs.sum())
            scores.append(2 * precision * recall / max(precision + recall, 1e-300))
    return float(np.mean(scores)) if scores else 1.0


def _boundary(inside: NDArray[Any], counted: NDArray[Any]) -> NDArray[Any]:
    """Return which pixels of a region (n, h, w) touch a counted pixel outside of it."""
    edge: NDArray[Any] = np.zeros_like(inside)
    for ahead in ((slice(None), slice(1, None)), (slice(None), slice(None), slice(1, None))):
        back = tuple(slice(None, -1) if part.start else part for part in ahead)
        differs = (inside[ahead] != inside[back]) & counted[ahead] & counted[back]
        edge[ahead] |= differs
        edge[back] |= differs
    return np.asarray(edge & inside)


def _widened(edge: NDArray[Any], radius: float) -> NDArray[Any]:
    """Return which pixels (n, h, w) are at most `radius` away from an edge's."""
    out, (_, h, w) = edge.copy(), edge.shape
    reach = int(min(radius, h + w))
    for y in range(-min(reach, h - 1), min(reach, h - 1) + 1):
        for x in range(-min(reach, w - 1), min(reach, w - 1) + 1):
            if y * y + x * x <= radius * radius:
                to = (slice(max(0, y), h + min(0, y)), slice(max(0, x), w + min(0, x)))
                start = (slice(max(0, -y), h - max(0, y)), slice(max(0, -x), w - max(0, x)))
                out[:, *to] |= edge[:, *start]
    return out


def _count_pixels(
    name: str, predicted: NDArray[Any], labels: NDArray[Any], classes: int, ignored: int
) -> NDArray[Any]:
    """Count pairs as `confusion_matrix` does, of arrays of any shape, without ignored labels."""
    _check_arrays(name, predicted, labels)
    if predicted.shape != labels.shape:
        raise ValueError(
            f"{name}: got shapes {predicted.shape} and {labels.shape}, expected equal ones"
        )
    check_whole(name, -(2**63), ignore_index=ignored)
    counted = labels != ignored
    if not counted.any():
        raise ValueError(f"{name}: got no pixel whose label is not {ignored}, the ignored one")
    return _count_pairs(name, predicted[counted], labels[counted], classes)


def _count_pairs(
    name: str, predicted: NDArray[Any], labels: NDArray[Any], classes: int
) -> NDArray[Any]:
    _check(name, predicted, labels)
    check_whole(name, 1, classes=classes)
    _check_range(name, "predicted", predicted, classes)
    _check_range(name, "labels", labels, classes)
    pairs = labels.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _check_range(name: str, what: str, indices: NDArray[Any], classes: int) -> None:
    if indices.dtype.kind not in "biu":
        raise TypeError(f"{name}: got {what} of dtype {indices.dtype}, expected integers")
    if indices.min() < 0 or indices.max() >= classes:
        raise ValueError(
            f"{name}: got {what} from {indices.min()} to {indices.max()}, expected 0 to "
            f"{classes - 1}"
        )


def _check(name: str, predicted: NDArray[Any], labels: NDArray[Any]) -> None:
    _check_arrays(name, predicted, labels)
    if predicted.shape != labels.shape or predicted.ndim != 1 or predicted.size == 0:
        raise ValueError(
            f"{name}: got shapes {predicted.shape} and {labels.shape}, expected two of "
            "shape (n,), n > 0"
        )


def _check_arrays(name: str, *arrays: Any) -> None:
    if not all(isinstance(array, np.ndarray) for array in arrays):
        kinds = " and ".join(type(array).__name__ for array in arrays)
        raise TypeError(
            f"{name}: got {kinds}, expected NumPy arrays; for a tensor, pass tensor.numpy()"
        )
