"""Losses: one number that measures how wrong the outputs are.

Every loss takes `reduction`: `"mean"` (each loss says over what), `"sum"` or `"none"`. The mean
over several batches is not the mean of their means: `noted` returns the divisor of each.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from minidl.autograd import is_recording
from minidl.backends import Array
from minidl.checks import check_fraction, check_whole
from minidl.context import Block, Scoped
from minidl.functional.activation import log_softmax, softplus
from minidl.functional.geometry import check_floats
from minidl.tensor import Operand, Tensor
from minidl.tensor.functions import where
from minidl.tensor.operands import array_beside, check_device

Reduction: TypeAlias = Literal["mean", "sum", "none"]

IGNORED = -100  # by default, examples with this label are ignored


class Reduced(NamedTuple):
    """The loss of a batch, and what is needed to average it with the losses of other batches.

    Attributes:
        loss: a single number.
        divisor: of the sum, for a mean: a number, or an array on the device; None for a sum.
        ignored: examples with this label are ignored.
        target: the labels, if the loss was computed from class indices.
    """

    loss: Tensor
    divisor: Any
    ignored: int = IGNORED
    target: Any = None


notes: Scoped[Any] = Scoped(None)


def noted() -> Block[list[Reduced]]:
    """Collect the means and sums that losses compute in a `with` block.

    Each batch is then part of a larger whole, so one without terms, such as one with only ignored
    labels, raises no error: its mean and its divisor are 0.

    Example:
        >>> with noted() as found:
        ...     loss = cross_entropy(Tensor([[1.0, 1.0], [0.0, 9.0]]), [0, -100])
        >>> found[0].loss is loss, found[0].divisor.item()
        (True, 1.0)
    """
    return notes.set([])


def cross_entropy(
    logits: Tensor,
    target: Operand,
    weight: Operand = None,
    ignore_index: int = IGNORED,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross-entropy `-sum over c of t[c] * log_softmax(logits)[c]`.

    A class index y means the probabilities `t = (1 - s) * one_hot(y) + s / classes`, where s
    is `label_smoothing`; probabilities are smoothed in the same way.

    Args:
        logits: `(n, classes)` or `(n, classes, ...)`: scores before any softmax.
        target: integer class indices `(n, ...)` with `0 <= y < classes`, or probabilities in the
            shape and dtype of `logits`.
        weight: `(classes,)`: multiplies each class's term.
        ignore_index: examples with this label are ignored.
        reduction: `"mean"` divides by the sum of the weights of the labels not ignored (by their
            number if weight is None), or for probabilities by the number of examples.
        label_smoothing: s, `0 <= s <= 1`.

    Returns:
        A single number, or for `"none"` `(n, ...)`.

    Raises:
        ValueError: shapes do not fit, a label is out of range (the message gives its value and
            index), there is nothing to average, probabilities are of a single class (the loss
            would always be 0), or an argument is out of range.
        TypeError: logits are not floats, or labels are neither integers nor probabilities, or on
            another device.

    Source: label smoothing: C. Szegedy et al., Rethinking the Inception Architecture (2015), 7.

    Example:
        >>> import numpy as np
        >>> round(cross_entropy(Tensor(np.zeros((1, 10))), np.array([3])).item(), 4)  # ln 10
        2.3026
    """
    op = "cross_entropy"
    check_fraction(op, "label_smoothing", label_smoothing)
    check_scores(op, logits)
    labels = beside(op, logits, target)
    if labels.dtype.kind != "f":
        return _likelihood(op, logits, labels, weight, ignore_index, reduction, label_smoothing)
    if labels.shape != logits.shape:
        raise ValueError(
            f"{op}: got logits of shape {logits.shape} and float targets of shape "
            f"{labels.shape}; expected probabilities of the logits' shape, or integer labels"
        )
    if logits.shape[1] == 1:
        raise ValueError(
            f"{op}: got probabilities of a single class, shape {labels.shape}: its softmax is "
            "always 1, and the loss 0; use binary_cross_entropy_with_logits"
        )
    soft = labels * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    terms = _weighted(log_softmax(logits, 1), soft * weights_of_classes(op, logits, weight))
    return reduce_terms(op, -terms.sum(1), reduction)


def nll_loss(
    log_probabilities: Tensor,
    target: Operand,
    weight: Operand = None,
    ignore_index: int = IGNORED,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the negative log-likelihood `-weight[y] * log_probabilities[y]` of the labels y.

    Args:
        log_probabilities: `(n, classes)` or `(n, classes, ...)`, as from `log_softmax(x, 1)`.
        target: integer class indices `(n, ...)`.
        weight: `(classes,)`, or None.
        ignore_index: examples with this label are ignored.
        reduction: `"mean"` divides by the sum of the labels' weights.

    Returns:
        A single number, or for `"none"` `(n, ...)`.

    Raises:
        ValueError: shapes do not fit, a label is out of range, or there is nothing to average.
        TypeError: log-probabilities are not floats, or labels are not integers, or on another
            device.
    """
    return _likelihood("nll_loss", log_probabilities, target, weight, ignore_index, reduction)


def _likelihood(
    op: str,
    scores: Tensor,
    target: Operand,
    weight: Operand,
    ignore_index: int,
    reduction: str,
    smoothing: float = 0.0,
) -> Tensor:
    """Return `-((1 - s) * weight[y] * log_p[y] + s / classes * sum of weight * log_p)`."""
    check_scores(op, scores)
    labels = beside(op, scores, target).array
    counted = check_labels(op, scores, labels, ignore_index)
    class_weights, xp = weights_of_classes(op, scores, weight), scores.backend.xp
    safe = xp.where(counted, labels, 0)
    weights = class_weights.array.reshape(-1)[safe] * counted  # 0 for ignored labels
    if op == "cross_entropy" and scores.ndim > 2 and scores.backend.fuses:
        from minidl import functional as F  # not imported above: it imports this file

        terms = F.pixel_cross_entropy(scores, safe, weights, counted, class_weights, smoothing)
    else:
        log_p = log_softmax(scores, 1) if op == "cross_entropy" else scores
        classes, order = scores.shape[1], (0, *range(2, scores.ndim), 1)
        rows = log_p.transpose(order).reshape(safe.size, classes)
        picked = rows[xp.arange(safe.size), safe.reshape(-1)].reshape(safe.shape)
        # A weight of 0 is not enough: 0 * log(0) would be NaN.
        terms = -where(weights != 0, picked, 0) * Tensor.wrap(weights)
        if smoothing:
            spread = -where(counted, _weighted(log_p, class_weights).sum(1), 0)
            terms = terms * (1 - smoothing) + spread * (smoothing / classes)
    if reduction != "mean":
        return reduce_terms(op, terms, reduction, ignore_index)
    total, divisor = terms.sum(), weights.sum()
    if notes.get() is not None:
        mean = total / Tensor.wrap(divisor + (divisor == 0))
        return note(Reduced(mean, divisor, ignore_index, target))
    words = f"{op}: got an empty batch, or only ignored labels: nothing to average"
    scores.backend.raise_if(~counted.any(), lambda: ValueError(words))
    return total / Tensor.wrap(divisor)


def mse_loss(x: Tensor, target: Operand, reduction: Reduction = "mean") -> Tensor:
    """Return the squared error `(x - target)**2`, by default its mean over all elements.

    Raises:
        ValueError: the shapes differ (they are not broadcast, which is nearly always a mistake).
        TypeError: `x` is not a tensor of floats: in uint8, 0 - 1 is 255.
    """
    difference = x - of_same_shape("mse_loss", x, target)
    return reduce_terms("mse_loss", difference * difference, reduction)


def l1_loss(x: Tensor, target: Operand, reduction: Reduction = "mean") -> Tensor:
    """Return the absolute error `abs(x - target)`, by default its mean over all elements.

    Raises:
        ValueError: the shapes differ.
        TypeError: `x` is not a tensor of floats.
    """
    return reduce_terms("l1_loss", (x - of_same_shape("l1_loss", x, target)).abs(), reduction)


def binary_cross_entropy_with_logits(
    logits: Tensor,
    target: Operand,
    weight: Operand = None,
    pos_weight: Operand = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return `-(p * t * log(y) + (1 - t) * log(1 - y))` for `y = sigmoid(logits)`.

    Computed as `(1 - t) * softplus(x) + p * t * softplus(-x)`, which never takes log(0) and is
    accurate even if the loss is near 0, unlike `softplus(x) - t * x`.

    Args:
        logits: any shape.
        target: t, of the same shape, `0 <= t <= 1`.
        weight: multiplies the terms; broadcast.
        pos_weight: p, multiplies the terms of t = 1; broadcast; None for 1.
        reduction: `"mean"` divides by the number of elements.

    Returns:
        A single number, or for `"none"` a tensor of the shape of `logits`.

    Raises:
        ValueError: the shapes differ, or a target is not `0 <= t <= 1`.
    """
    op = "binary_cross_entropy_with_logits"
    t = checked_targets(op, of_same_shape(op, logits, target), logits)
    positive = t if pos_weight is None else t * beside(op, logits, pos_weight)
    terms = (1 - t) * softplus(logits) + positive * softplus(-logits)
    return reduce_terms(
        op, terms if weight is None else terms * beside(op, logits, weight), reduction
    )


def check_reduction(op: str, reduction: str) -> None:
    """Raise ValueError for an unknown reduction."""
    if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{op}: got reduction={reduction!r}, expected 'mean', 'sum' or 'none'")


def reduce_terms(op: str, terms: Tensor, reduction: str, ignored: int = IGNORED) -> Tensor:
    """Return the mean or sum of terms, noted, or the terms themselves."""
    check_reduction(op, reduction)
    if reduction == "none":
        return terms
    if reduction == "sum":
        return note(Reduced(terms.sum(), None, ignored))
    if terms.size == 0 and notes.get() is None:
        raise ValueError(f"{op}: got an empty batch, shape {terms.shape}, which has no mean")
    return note(Reduced(terms.mean() if terms.size else terms.sum(), terms.size))


def note(reduced: Reduced) -> Tensor:
    """Return a batch's loss, and add it to what `noted` collects."""
    if (found := notes.get()) is not None:
        found.append(reduced)
    return reduced.loss


def beside(op: str, x: Tensor, value: Any) -> Tensor:
    """Return a target or weight as a tensor, on the device of `x`."""
    other: Tensor = value
    if not isinstance(value, Tensor):  # copied: its owner may change it before backward
        array = array_beside(op, value, x)
        other = Tensor.wrap(array.copy() if is_recording() else array[...])
    check_device(op, other.backend, x.backend)
    if other.dtype.kind == "f" and other.dtype != x.dtype:
        other = other.to(dtype=x.dtype)
    return other


def _weighted(log_p: Tensor, weight: Tensor) -> Tensor:
    """Return `log_p * weight`: 0 where the weight is 0, even if a masked class has log(0)."""
    masked = log_p.array == -np.inf
    if log_p.backend.records or masked.any():  # not checked on a GPU: the host would wait
        log_p = where(masked & (weight.array == 0), 0, log_p)
    return log_p * weight


def checked_targets(op: str, t: Tensor, x: Tensor) -> Tensor:
    """Return targets in the dtype of `x`; raise ValueError unless `0 <= t <= 1`."""
    array, backend = t.array, x.backend

    def error() -> ValueError:
        found = backend.to_numpy(array)
        return ValueError(
            f"{op}: got targets from {found.min()} to {found.max()}, expected 0 <= t <= 1, outside "
            "which the loss has no minimum; divide masks of 0 and 255 by 255"
        )

    backend.raise_if(~((array >= 0) & (array <= 1)), error)
    return t.to(dtype=x.dtype)


def of_same_shape(op: str, x: Tensor, target: Any) -> Tensor:
    """Return a target as a tensor; raise unless `x` holds floats, in the target's shape."""
    check_floats(op, x)
    other = beside(op, x, target)
    if other.shape != x.shape:
        raise ValueError(
            f"{op}: got an input of shape {x.shape} and a target of shape {other.shape}, "
            "expected equal shapes; reshape one of them"
        )
    return other


def check_scores(op: str, x: Tensor) -> None:
    """Raise unless `x` holds floats and has an axis of classes."""
    check_floats(op, x)
    if x.ndim < 2 or x.shape[1] < 1:
        raise ValueError(f"{op}: got scores of shape {x.shape}, expected (n, classes) or more axes")


def check_labels(op: str, x: Tensor, labels: Array, ignore_index: int) -> Array:
    """Return a mask of the labels not ignored; raise unless they are integers in range."""
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{op}: got labels of dtype {labels.dtype}, expected integers")
    expected = x.shape[:1] + x.shape[2:]
    if labels.shape != expected:
        raise ValueError(
            f"{op}: got scores of shape {x.shape} and labels of shape {labels.shape}, "
            f"expected labels of shape {expected}: one class index each, not one-hot rows"
        )
    check_whole(op, -(2**63), ignore_index=ignore_index)
    counted = labels != ignore_index
    classes, backend = x.shape[1], x.backend
    wrong = counted & ((labels < 0) | (labels >= classes))

    def error() -> ValueError:
        bad = backend.to_numpy(wrong)
        place = tuple(int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
        return ValueError(
            f"{op}: got label {int(backend.to_numpy(labels)[place])} at {place}, expected "
            f"0 to {classes - 1} for {classes} classes (are labels counted from 1?)"
        )

    backend.raise_if(wrong, error)
    return counted


def weights_of_classes(op: str, x: Tensor, weight: Any) -> Tensor:
    """Return class weights (1 if None) in a shape that broadcasts with scores."""
    weights = beside(op, x, x.backend.xp.ones(x.shape[1], x.dtype) if weight is None else weight)
    if weights.shape != (x.shape[1],):
        raise ValueError(f"{op}: got weights of shape {weights.shape}, expected ({x.shape[1]},)")
    return weights.reshape(-1, *(1,) * (x.ndim - 2))
