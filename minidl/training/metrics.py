"""Metrics of a classifier's predictions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


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
    if k < 1:
        raise ValueError(f"{who}: got k={k}, expected a number >= 1")
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


def _count_pairs(
    name: str, predicted: NDArray[Any], labels: NDArray[Any], classes: int
) -> NDArray[Any]:
    _check(name, predicted, labels)
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
    if not (isinstance(predicted, np.ndarray) and isinstance(labels, np.ndarray)):
        raise TypeError(
            f"{name}: got {type(predicted).__name__} and {type(labels).__name__}, expected NumPy "
            "arrays; for a tensor, pass tensor.numpy()"
        )
    if predicted.shape != labels.shape or predicted.ndim != 1 or predicted.size == 0:
        raise ValueError(
            f"{name}: got shapes {predicted.shape} and {labels.shape}, expected two of "
            "shape (n,), n > 0"
        )
