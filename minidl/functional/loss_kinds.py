"""More losses: of boxes, of masks, of rare classes; and the cross-entropy of maps in one pass."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from minidl.autograd import Gradients, is_recording
from minidl.backends import Array, without_underflow
from minidl.checks import is_number
from minidl.functional.activation import sigmoid, softmax
from minidl.functional.geometry import check_floats
from minidl.functional.loss import (
    IGNORED,
    Reduced,
    Reduction,
    beside,
    binary_cross_entropy_with_logits,
    check_labels,
    check_reduction,
    check_scores,
    cross_entropy,
    note,
    notes,
    of_same_shape,
    reduce_terms,
    weights_of_classes,
)
from minidl.tensor import Operand, Tensor, record


def smooth_l1_loss(
    x: Tensor, target: Operand, reduction: Reduction = "mean", beta: float = 1.0
) -> Tensor:
    """Return `d**2 / (2 * beta)` where `d = abs(x - target) < beta`, else `d - beta / 2`.

    Like `l1_loss`, a large error pulls with slope 1, so that outliers do not decide; like
    `mse_loss`, the slope goes to 0 with the error.

    Args:
        x: any shape, float32 or float64.
        target: of the same shape.
        reduction: `"mean"` divides by the number of elements.
        beta: where the parabola ends, `>= 0`; 0 for `l1_loss`.

    Returns:
        A single number, or for `"none"` a tensor of the shape of `x`.

    Raises:
        ValueError: the shapes differ, or `beta < 0`.
        TypeError: `x` is not a tensor of floats.

    Source: R. Girshick, Fast R-CNN (2015), 2.3.

    Example:
        >>> smooth_l1_loss(Tensor([0.0, 0.0]), [0.5, 3.0], "none").numpy()
        array([0.125, 2.5  ], dtype=float32)
    """
    op = "smooth_l1_loss"
    _check_at_least_0(op, beta=beta)
    difference = x - of_same_shape(op, x, target)
    terms = _huber(difference, beta, 1 / beta) if beta else difference.abs()
    return reduce_terms(op, terms, reduction)


def huber_loss(
    x: Tensor, target: Operand, reduction: Reduction = "mean", delta: float = 1.0
) -> Tensor:
    """Return `d**2 / 2` where `d = abs(x - target) < delta`, else `delta * (d - delta / 2)`.

    It is `delta` times `smooth_l1_loss` with `beta = delta`.

    Args:
        x: any shape, float32 or float64.
        target: of the same shape.
        reduction: `"mean"` divides by the number of elements.
        delta: where the parabola ends, `> 0`.

    Returns:
        A single number, or for `"none"` a tensor of the shape of `x`.

    Raises:
        ValueError: the shapes differ, or `delta <= 0`.
        TypeError: `x` is not a tensor of floats.

    Source: P. J. Huber, Robust estimation of a location parameter (1964).

    Example:
        >>> huber_loss(Tensor([0.0, 0.0]), [0.5, 3.0], "none", delta=2).numpy()
        array([0.125, 4.   ], dtype=float32)
    """
    _check_more_than_0("huber_loss", delta=delta)
    terms = _huber(x - of_same_shape("huber_loss", x, target), delta, 1.0)
    return reduce_terms("huber_loss", terms, reduction)


@without_underflow
def _huber(d: Tensor, limit: float, scale: float) -> Tensor:
    """Return `scale * c * (d - c / 2)` for `c = clip(d, -limit, limit)`; its slope is c."""
    limit, scale = float(limit), float(scale)  # NumPy's float64 would turn float32 into float64
    clipped = d.backend.xp.clip(d.array, -limit, limit)
    out = clipped * (scale * (d.array - 0.5 * clipped))

    def backward(gradient: Tensor) -> Gradients:
        return (gradient * (d.clip(-limit, limit) * scale),)

    return record("huber", out, (d,), backward)


def sigmoid_focal_loss(
    logits: Tensor,
    target: Operand,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: Reduction = "none",
) -> Tensor:
    """Return the binary cross-entropy times `a * (1 - p)**gamma`, with little for easy examples.

    p is the probability given to the right answer: `y * t + (1 - y) * (1 - t)` for
    `y = sigmoid(logits)`; and `a = alpha * t + (1 - alpha) * (1 - t)` balances the two answers. Of
    the many boxes or pixels that show background, most are right early; without the factor they
    outweigh the few others.

    Args:
        logits: any shape.
        target: t, of the same shape, `0 <= t <= 1`.
        alpha: `0 <= alpha <= 1`, or < 0 for `a = 1`.
        gamma: `>= 0`; 0 for the cross-entropy.
        reduction: `"none"` by default, as in torchvision; `"mean"` divides by the number of
            elements.

    Returns:
        A tensor of the shape of `logits`, or for `"mean"` and `"sum"` a single number.

    Raises:
        ValueError: the shapes differ, a target or argument is out of range.
        TypeError: `logits` is not a tensor of floats.

    Source: T.-Y. Lin et al., Focal loss for dense object detection (2017), 3.

    Example:
        >>> sigmoid_focal_loss(Tensor([0.0, 9.0]), [1.0, 1.0], alpha=-1).numpy().round(4)
        array([0.1733, 0.    ], dtype=float32)
    """
    op = "sigmoid_focal_loss"
    _check_at_least_0(op, gamma=gamma)
    if not is_number(alpha) or not alpha <= 1:
        raise ValueError(f"{op}: got alpha={alpha!r}, expected <= 1; or < 0 to use none")
    alpha = float(alpha)  # NumPy's float64 would turn float32 into float64
    t = of_same_shape(op, logits, target)
    t = t.to(dtype=logits.dtype)
    terms = binary_cross_entropy_with_logits(logits, t, reduction="none")
    y = sigmoid(logits)
    terms = terms * _power(y * (1 - t) + (1 - y) * t, gamma)  # 1 - p
    if alpha >= 0:
        terms = terms * (alpha * t + (1 - alpha) * (1 - t))
    return reduce_terms(op, terms, reduction)


def focal_loss(
    logits: Tensor,
    target: Operand,
    weight: Operand = None,
    gamma: float = 2.0,
    ignore_index: int = IGNORED,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return `-weight[y] * (1 - p)**gamma * log(p)` for `p = softmax(logits)[y]` of the label y.

    With `gamma=0` it is `cross_entropy`, whose arguments these are.

    Args:
        logits: `(n, classes)` or `(n, classes, ...)`: scores before any softmax.
        target: integer class indices `(n, ...)`.
        weight: `(classes,)`, or None.
        gamma: `>= 0`.
        ignore_index: examples with this label are ignored.
        reduction: `"mean"` divides by the sum of the labels' weights.

    Returns:
        A single number, or for `"none"` `(n, ...)`.

    Raises:
        ValueError: shapes do not fit, a label is out of range, there is nothing to average, or
            `gamma < 0`.
        TypeError: logits are not floats, or labels are not integers, or on another device.

    Source: T.-Y. Lin et al., Focal loss for dense object detection (2017), 3; with softmax.

    Example:
        >>> round(focal_loss(Tensor([[0.0, 0.0]]), [1]).item(), 4)  # ln 2 / 4
        0.1733
    """
    op = "focal_loss"
    _check_at_least_0(op, gamma=gamma)
    check_reduction(op, reduction)
    check_scores(op, logits)
    labels = beside(op, logits, target)
    counted = check_labels(op, logits, labels.array, ignore_index)
    terms = cross_entropy(logits, labels, None, ignore_index, "none")
    terms = terms * _power(1 - (-terms).exp(), gamma)
    safe = logits.backend.xp.where(counted, labels.array, 0)
    weights = weights_of_classes(op, logits, weight).array.reshape(-1)[safe] * counted
    terms = terms * Tensor.wrap(weights)
    if reduction != "mean":
        return reduce_terms(op, terms, reduction, ignore_index)
    divisor = weights.sum()
    if notes.get() is not None:
        mean = terms.sum() / Tensor.wrap(divisor + (divisor == 0))
        return note(Reduced(mean, divisor, ignore_index, labels))
    words = f"{op}: got an empty batch, or only ignored labels: nothing to average"
    logits.backend.raise_if(~counted.any(), lambda: ValueError(words))
    return terms.sum() / Tensor.wrap(divisor)


def _check_more_than_0(op: str, **values: float) -> None:
    """Raise ValueError unless each value is > 0."""
    for name, value in values.items():
        if not is_number(value) or not value > 0:
            raise ValueError(f"{op}: got {name}={value!r}, expected a number > 0")


def _check_at_least_0(op: str, **values: float) -> None:
    """Raise ValueError unless each value is >= 0."""
    for name, value in values.items():
        if not is_number(value) or not value >= 0:
            raise ValueError(f"{op}: got {name}={value!r}, expected a number >= 0")


def _power(x: Tensor, gamma: float) -> Tensor:
    """Return `x**gamma` for `0 <= x <= 1`, whose slope at 0 is 0 for any gamma."""
    return x.clip(float(np.finfo(x.dtype).tiny), None) ** float(gamma) if gamma else x * 0 + 1


def dice_loss(
    logits: Tensor,
    target: Operand,
    ignore_index: int = IGNORED,
    smooth: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return `1 - (2 * sum(p * t) + smooth) / (sum(p) + sum(t) + smooth)` of each class.

    The sums are over the pixels of one image; p is `softmax(logits)`, and t is 1 where the pixel
    has the class, else 0. The fraction is a soft form of Dice's coefficient, twice the overlap of
    two areas over their sum: a class counts the same whether its area is small or large.

    Args:
        logits: `(n, classes, ...)` with at least 2 classes: scores before any softmax.
        target: integer class indices `(n, ...)`.
        ignore_index: pixels with this label are ignored.
        smooth: `> 0`; added above and below the line, so that a class that neither occurs nor is
            predicted has the loss 0.
        reduction: `"mean"` divides by `n * classes`.

    Returns:
        A single number, or for `"none"` `(n, classes)`.

    Raises:
        ValueError: shapes do not fit, a label is out of range, there is a single class, the batch
            is empty, or `smooth <= 0`.
        TypeError: logits are not floats, or labels are not integers, or on another device.

    Source: F. Milletari et al., V-Net (2016), 3, with p and t in the denominator instead of their
        squares, as in C. Sudre et al., Generalised Dice overlap (2017).

    Example:
        >>> scores = Tensor([[[0.0, 0.0], [0.0, 0.0]]])  # one image, two classes, two pixels
        >>> dice_loss(scores, [[0, 0]], reduction="none").numpy()
        array([[0.25, 0.5 ]], dtype=float32)
    """
    op = "dice_loss"
    _check_more_than_0(op, smooth=smooth)
    smooth = float(smooth)  # NumPy's float64 would turn float32 into float64
    check_scores(op, logits)
    if logits.ndim < 3 or logits.shape[1] < 2:
        raise ValueError(
            f"{op}: got scores of shape {logits.shape}, expected (n, classes, ...) with at least 2 "
            "classes and an axis of pixels; for one score per pixel, concatenate it with zeros"
        )
    labels = beside(op, logits, target).array
    counted = check_labels(op, logits, labels, ignore_index)
    xp, pixels = logits.backend.xp, tuple(range(2, logits.ndim))
    classes = xp.arange(logits.shape[1]).reshape(-1, *(1,) * len(pixels))
    t = ((labels[:, None] == classes) & counted[:, None]).astype(logits.dtype)  # (n, classes, ...)
    p = softmax(logits, 1) * Tensor.wrap(counted[:, None].astype(logits.dtype))
    overlap = (p * Tensor.wrap(t)).sum(pixels)  # (n, classes)
    total = p.sum(pixels) + Tensor.wrap(t.sum(pixels))
    return reduce_terms(op, 1 - (2 * overlap + smooth) / (total + smooth), reduction)


def pixel_cross_entropy(
    logits: Tensor,
    target: Any,
    weights: Any,
    counted: Any = True,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the terms of `cross_entropy`, computed for each pixel of a map in one pass.

    `-(1 - s) * weights * log_p[target] - s / classes * counted * sum(class_weights * log_p)` for
    `log_p = log_softmax(logits, 1)` and s the label smoothing. `cross_entropy` calls this for maps;
    it checks nothing. One pass over each image computes the loss and saves the softmax; the
    gradient is a multiple of it, less the target's share.

    Args:
        logits: `(n, classes, ...)`.
        target: array of class indices `(n, ...)`, `0 <= y < classes`.
        weights: array of floats `(n, ...)`, 0 for ignored pixels.
        counted: array of bools `(n, ...)`, False for ignored pixels.
        class_weights: `classes` floats in any shape; None for 1. Used for smoothing only.
        label_smoothing: s.

    Returns:
        `(n, ...)`.

    Source: own derivation.

    Example:
        >>> scores = Tensor(np.zeros((1, 2, 1)))
        >>> pixel_cross_entropy(scores, np.array([[1]]), np.array([[3.0]])).numpy().round(4)
        array([[2.0794]])
    """
    check_floats("pixel_cross_entropy", logits)
    goal = _goal(logits, target, weights, counted, class_weights, label_smoothing)
    out, p = _terms(logits, goal, is_recording() and logits.requires_grad)

    def backward(gradient: Tensor) -> Gradients:
        n, pixels = goal.labels.shape
        if is_recording():
            shares = goal.shares(logits.shape[1])
            slope = softmax(logits, 1).reshape(shares.shape) * Tensor.wrap(goal.whole[:, None])
            slope = gradient.reshape(n, 1, pixels) * (slope - Tensor.wrap(shares))
            return (slope.reshape(logits.shape),)
        return (Tensor.wrap(_slope(logits, p, gradient.array.reshape(n, pixels), goal)),)

    return record("pixel_cross_entropy", out.reshape(target.shape), (logits,), backward)


class _Goal(NamedTuple):
    """What the softmax is compared with: a share for the target, and some for every class.

    Attributes:
        xp: the array module.
        labels: `(n, pixels)`.
        factors: the target's share, `(n, pixels)`.
        whole: the sum of all shares, `(n, pixels)`.
        kept: whether a pixel counts, `(n, pixels)`; None without smoothing.
        parts: the share of each class, `(classes, 1)`; None without smoothing.
    """

    xp: Any
    labels: Array
    factors: Array
    whole: Array
    kept: Any
    parts: Any

    def shares(self, classes: int) -> Array:
        """Return all shares, `(n, classes, pixels)`."""
        is_target = self.labels[:, None] == self.xp.arange(classes)[:, None]
        shares = is_target * self.factors[:, None]
        return shares if self.parts is None else shares + self.kept[:, None] * self.parts


def _goal(
    logits: Tensor,
    target: Array,
    weights: Array,
    counted: Any,
    class_weights: Tensor | None,
    smoothing: float,
) -> _Goal:
    xp, (n, classes) = logits.backend.xp, logits.shape[:2]
    shape = n, math.prod(logits.shape[2:])
    labels, factors = target.reshape(shape), weights.reshape(shape)
    if not smoothing:
        return _Goal(xp, labels, factors, factors, None, None)
    kept = xp.broadcast_to(xp.asarray(counted), target.shape).reshape(shape)
    parts = xp.ones((classes, 1), logits.dtype)
    if class_weights is not None:
        parts = class_weights.array.reshape(classes, 1)
    parts, factors = parts * (smoothing / classes), factors * (1 - smoothing)
    return _Goal(xp, labels, factors, factors + kept * parts.sum(), kept, parts)


def _terms(logits: Tensor, goal: _Goal, saves: bool) -> tuple[Array, Any]:
    """Return the loss of each pixel, `(n, pixels)`, and the softmax if `saves`."""
    backend, classes, dtype = logits.backend, logits.shape[1], logits.dtype
    xp, labels, factors, _, kept, parts = goal
    n, pixels = labels.shape
    p = xp.empty((n, classes, pixels), dtype) if saves else None
    out, column = xp.empty((n, pixels), dtype), xp.arange(pixels)

    def work(part: slice) -> None:
        scores = logits.array[part]
        shifted = scores - scores.max(1, keepdims=True)
        shifted = xp.ascontiguousarray(shifted).reshape(-1, classes, pixels)
        row = xp.arange(len(shifted))[:, None]
        picked = shifted[row, labels[part], column]
        spread = None if parts is None else (xp.where(parts == 0, 0, shifted) * parts).sum(1)
        powers = xp.exp(shifted, out=shifted)
        sums = powers.sum(1)
        log_sums = xp.log(sums)
        # A weight of 0 is not enough: 0 * log(0) would be NaN.
        out[part] = xp.where(factors[part] != 0, log_sums - picked, 0) * factors[part]
        if parts is not None:
            out[part] += xp.where(kept[part], log_sums * parts.sum() - spread, 0)
        if p is not None:
            xp.divide(powers, sums[:, None], out=p[part])

    backend.over_batch(n, (5 * classes, pixels), dtype, work)
    return out, p


def _slope(logits: Tensor, p: Any, gradient: Array, goal: _Goal) -> Array:
    """Return `gradient * (p * whole - shares)` in the memory order of the logits."""
    xp, labels, factors, whole, kept, parts = goal
    n, classes, pixels = p.shape
    out, column = xp.empty_like(logits.array), xp.arange(pixels)

    def work(part: slice) -> None:
        slope = p[part] * (gradient[part] * whole[part])[:, None]
        row = xp.arange(len(slope))[:, None]
        slope[row, labels[part], column] -= gradient[part] * factors[part]
        if parts is not None:
            slope -= (gradient[part] * kept[part])[:, None] * parts
        out[part] = slope.reshape(out[part].shape)

    logits.backend.over_batch(n, (5 * classes, pixels), p.dtype, work)
    return out
