"""How good a classifier's predictions are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Scores(NamedTuple):
    """Three views of one prediction, each from 0 to 1.

    Attributes:
        precision: which part of the examples that were given a class belong to it.
        recall: which part of the examples of a class were given it.
        f1: the harmonic mean of the two.
    """

    precision: float
    recall: float
    f1: float


def accuracy(predicted: Array, labels: Array) -> float:
    """Return which part of the predicted classes is right, from 0 to 1.

    Args:
        predicted: class indices `(n,)`.
        labels: class indices `(n,)`.

    Raises:
        ValueError: shapes differ, or there is nothing to count.
        TypeError: not NumPy arrays.

    Example:
        >>> import numpy as np
        >>> accuracy(np.array([1, 2, 2, 0]), np.array([1, 2, 0, 0]))
        0.75
    """
    _check("accuracy", predicted, labels)
    return float((predicted == labels).mean())


def confusion_matrix(predicted: Array, labels: Array, classes: int) -> Array:
    """Count how often examples of each class (rows) were predicted as each class (columns).

    Args:
        predicted: class indices `(n,)`, from 0 to below `classes`.
        labels: class indices `(n,)`, likewise.
        classes: how many there are.

    Returns:
        int64 `(classes, classes)`; its diagonal holds the right predictions.

    Raises:
        ValueError: shapes differ, or an index is out of range.
    """
    _check("confusion_matrix", predicted, labels)
    return _count_pairs("confusion_matrix", predicted, labels, classes)


def macro_scores(predicted: Array, labels: Array, classes: int) -> Scores:
    """Return precision, recall and F1, each the mean over classes, so that rare ones count alike.

    For one class, with `right` of its examples found: `precision = right / predicted as it`,
    `recall = right / examples of it`, `f1 = 2 * right / (predicted as it + examples of it)`; where
    that is 0 / 0, it is 0. A class that is neither in `labels` nor in `predicted` is left out.
    The mean of the classes' F1 is not the F1 of the means.

    Args:
        predicted: class indices `(n,)`, from 0 to below `classes`.
        labels: class indices `(n,)`, likewise.
        classes: how many there are.

    Raises:
        ValueError: shapes differ, or an index is out of range.
        TypeError: not NumPy arrays.

    Example:
        >>> import numpy as np
        >>> scores = macro_scores(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), classes=2)
        >>> print(f"{scores.precision:.3f} {scores.recall:.3f} {scores.f1:.3f}")
        0.833 0.750 0.733
    """
    _check("macro_scores", predicted, labels)
    matrix = _count_pairs("macro_scores", predicted, labels, classes)
    right, given, there = np.diag(matrix), matrix.sum(0), matrix.sum(1)
    met = given + there > 0
    parts = ((right, given), (right, there), (2 * right, given + there))
    means = ((above / np.maximum(below, 1))[met].mean() for above, below in parts)
    return Scores(*map(float, means))


def _count_pairs(name: str, predicted: Array, labels: Array, classes: int) -> Array:
    for what, indices in (("predicted", predicted), ("labels", labels)):
        if indices.min() < 0 or indices.max() >= classes:
            raise ValueError(
                f"{name}: got {what} from {indices.min()} to {indices.max()}, "
                f"wants 0 to {classes - 1}"
            )
    pairs = labels.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _check(name: str, predicted: Array, labels: Array) -> None:
    if not (isinstance(predicted, np.ndarray) and isinstance(labels, np.ndarray)):
        raise TypeError(
            f"{name}: got {type(predicted).__name__} and {type(labels).__name__}, wants NumPy "
            "arrays; a tensor's is tensor.numpy()"
        )
    if predicted.shape != labels.shape or predicted.ndim != 1 or predicted.size == 0:
        raise ValueError(
            f"{name}: got shapes {predicted.shape} and {labels.shape}, wants two of (n,), n > 0"
        )
