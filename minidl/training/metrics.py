"""How good a classifier's predictions are."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


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
    for name, indices in (("predicted", predicted), ("labels", labels)):
        if indices.min() < 0 or indices.max() >= classes:
            raise ValueError(
                f"confusion_matrix: got {name} from {indices.min()} to {indices.max()}, "
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
