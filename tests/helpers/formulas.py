"""What operations mean, in NumPy: the references of the op table that NumPy itself does not have.

Arguments are minidl's own, on plain float64 arrays; nothing here is shared with minidl.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import loops

# Arrays ---------------------------------------------------------------------------------------


def sort(
    x: np.ndarray, axis: int = -1, descending: bool = False, stable: bool = False
) -> np.ndarray:
    return -np.sort(-x, axis) if descending else np.sort(x, axis)


def topk(x: np.ndarray, k: int, axis: int = -1, largest: bool = True) -> np.ndarray:
    return np.moveaxis(np.moveaxis(sort(x, axis, largest), axis, 0)[:k], 0, axis)


def index_add(x: np.ndarray, source: np.ndarray, axis: int, index: np.ndarray) -> np.ndarray:
    out = np.moveaxis(x.copy(), axis, 0)
    for place, part in zip(index, np.moveaxis(source, axis, 0), strict=True):
        out[place] += part
    return np.moveaxis(out, 0, axis)


def scatter_add(x: np.ndarray, source: np.ndarray, axis: int, index: np.ndarray) -> np.ndarray:
    out = x.copy()
    for place in np.ndindex(index.shape):
        to = list(place)
        to[axis] = index[place]
        out[tuple(to)] += source[place]
    return out


def pad(
    x: np.ndarray, widths: list[tuple[int, int]], value: float = 0.0, mode: str = "constant"
) -> np.ndarray:
    if mode == "constant":
        return np.pad(x, widths or 0, constant_values=value)
    return np.pad(x, widths, mode)


# Activations ----------------------------------------------------------------------------------

erfc = np.vectorize(math.erfc, otypes=[float])
erf = np.vectorize(math.erf, otypes=[float])


def sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def softplus(x: np.ndarray, beta: float = 1.0) -> np.ndarray:
    return np.logaddexp(0, beta * x) / beta


def elu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def norm(
    x: np.ndarray, p: float = 2, axis: int | tuple[int, ...] | None = None, keepdims: bool = False
) -> np.ndarray:
    if p == math.inf:
        return np.abs(x).max(axis, keepdims=keepdims)
    return (np.abs(x) ** p).sum(axis, keepdims=keepdims) ** (1 / p)


def leaky_relu(x: np.ndarray, negative_slope: float = 0.01) -> np.ndarray:
    return np.where(x > 0, x, negative_slope * x)


def gelu(x: np.ndarray, approximate: str = "none") -> np.ndarray:
    if approximate == "tanh":
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / 2 * erfc(-x / math.sqrt(2))


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    powers = np.exp(x)
    return powers / powers.sum(axis, keepdims=True)


def log_softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return x - np.logaddexp.reduce(x, axis, keepdims=True)


# Normalisation: the definition, one mean and variance after the other -------------------------


def normalized(x: np.ndarray, mean: float, var: float, eps: float) -> np.ndarray:
    return (x - mean) / math.sqrt(var + eps)


def spread_of(x: np.ndarray) -> tuple[float, float]:
    """Return mean and biased variance, in the words of their definition."""
    mean = math.fsum(x.ravel()) / x.size
    return mean, math.fsum((x.ravel() - mean) ** 2) / x.size


def batch_norm(
    x: np.ndarray,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    added: np.ndarray | None = None,
    running_mean: np.ndarray | None = None,
    running_var: np.ndarray | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = False,
) -> np.ndarray:
    out = np.empty_like(x)
    for c in range(x.shape[1] if x.size else 0):
        mean, var = spread_of(x[:, c]) if training else (running_mean[c], running_var[c])
        out[:, c] = normalized(x[:, c], mean, var, eps)
        out[:, c] *= 1 if weight is None else weight[c]
        out[:, c] += 0 if bias is None else bias[c]
    out += 0 if added is None else added
    return np.where(out > 0, out, 0) if relu else out


def layer_norm(
    x: np.ndarray,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    *,
    normalized_shape: int | tuple[int, ...],
    eps: float = 1e-5,
) -> np.ndarray:
    rows = x.reshape(-1, np.prod(normalized_shape, dtype=int))
    out = [normalized(row, *spread_of(row), eps) for row in rows]
    scale = 1 if weight is None else weight
    return np.reshape(out, x.shape) * scale + (0 if bias is None else bias)


def group_norm(
    x: np.ndarray,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    *,
    num_groups: int,
    eps: float = 1e-5,
) -> np.ndarray:
    out = np.empty_like(x)
    size = x.shape[1] // num_groups
    for i in range(len(x)):
        for first in range(0, x.shape[1], size):
            group = x[i, first : first + size]
            out[i, first : first + size] = normalized(group, *spread_of(group), eps)
    for c in range(x.shape[1]):
        out[:, c] *= 1 if weight is None else weight[c]
        out[:, c] += 0 if bias is None else bias[c]
    return out


# Windows: the literal loops, in the words of minidl's arguments -------------------------------


def as_pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> np.ndarray:
    if padding == "same":  # the odd pixel at the bottom and right
        totals = [d * (k - 1) for k, d in zip(weight.shape[2:], as_pair(dilation), strict=True)]
        sides = [side for total in totals for side in (total // 2, total - total // 2)]
    else:
        pads = (0, 0) if padding == "valid" else as_pair(padding)
        sides = [side for pad in pads for side in (pad, pad)]
    return loops.conv2d(x, weight, bias, as_pair(stride), sides, as_pair(dilation), groups)


def conv1d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: int = 1,
    padding: int | str = 0,
    dilation: int = 1,
    groups: int = 1,
) -> np.ndarray:
    sides = padding if isinstance(padding, str) else (0, padding)
    tall = conv2d(
        x[:, :, None], weight[:, :, None], bias, (1, stride), sides, (1, dilation), groups
    )
    return tall[:, :, 0]


def conv_transpose2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> np.ndarray:
    pairs = (as_pair(v) for v in (stride, padding, output_padding))
    return loops.conv_transpose2d(x, weight, bias, *pairs, groups, as_pair(dilation))


def winners(
    x: np.ndarray,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest pixel of each window, and its place `row * w + column`."""
    pairs = (as_pair(v) for v in (kernel_size, stride or kernel_size, padding, dilation))
    return loops.max_pool2d(x, *pairs, ceil_mode)


def max_pool2d(x: np.ndarray, **geometry: Any) -> np.ndarray:
    return winners(x, **geometry)[0]


def conv2d_relu(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, **geometry: Any
) -> np.ndarray:
    return np.maximum(conv2d(x, weight, bias, **geometry), 0)


def joined_conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    added: np.ndarray | None = None,
    relu: bool = False,
    **geometry: Any,
) -> np.ndarray:
    total = conv2d(x, weight, bias, **geometry) + (0 if added is None else added)
    return np.maximum(total, 0) if relu else total


def conv2d_relu_max_pool2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    pool_size: Any = 2,
    pool_stride: Any = None,
    pool_padding: Any = 0,
    pool_dilation: Any = 1,
    ceil_mode: bool = False,
    **geometry: Any,
) -> np.ndarray:
    passed = conv2d_relu(x, weight, bias, **geometry)
    return winners(passed, pool_size, pool_stride, pool_padding, pool_dilation, ceil_mode)[0]


def avg_pool2d(
    x: np.ndarray,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> np.ndarray:
    pairs = (as_pair(v) for v in (kernel_size, stride or kernel_size, padding))
    return loops.avg_pool2d(x, *pairs, ceil_mode, count_include_pad, divisor_override)


# Losses: the definition, one example after the other ------------------------------------------


def reduced(terms: np.ndarray, reduction: str, count: float | None = None) -> np.ndarray:
    if reduction == "none":
        return terms
    return terms.sum() / (1 if reduction == "sum" else terms.size if count is None else count)


def cross_entropy(
    logits: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> np.ndarray:
    if np.shape(target) != logits.shape:
        return nll_loss(
            log_softmax(logits, 1), target, weight, ignore_index, reduction, label_smoothing
        )
    classes = logits.shape[1]
    terms = np.zeros(logits.shape[:1] + logits.shape[2:])
    for n, *rest in np.ndindex(terms.shape):
        place = (n, slice(None), *rest)
        soft = (1 - label_smoothing) * target[place] + label_smoothing / classes
        scores = log_softmax(logits[place])
        terms[n, *rest] = -(soft * scores * (1 if weight is None else weight)).sum()
    return reduced(terms, reduction)


def nll_loss(
    log_probabilities: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    smoothing: float = 0.0,
) -> np.ndarray:
    classes = log_probabilities.shape[1]
    weight = np.ones(classes) if weight is None else weight
    terms, total = np.zeros(np.shape(target)), 0.0
    for n, *rest in np.ndindex(terms.shape):
        label = int(target[n, *rest])
        if label != ignore_index:
            one_hot = np.arange(classes) == label
            soft = (1 - smoothing) * one_hot + smoothing / classes
            terms[n, *rest] = -(soft * log_probabilities[n, :, *rest] * weight).sum()
            total += weight[label]
    return reduced(terms, reduction, total)


def mse_loss(x: np.ndarray, target: np.ndarray, reduction: str = "mean") -> np.ndarray:
    return reduced((x - target) ** 2, reduction)


def l1_loss(x: np.ndarray, target: np.ndarray, reduction: str = "mean") -> np.ndarray:
    return reduced(np.abs(x - target), reduction)


def smooth_l1_loss(
    x: np.ndarray, target: np.ndarray, reduction: str = "mean", beta: float = 1.0
) -> np.ndarray:
    d = np.abs(x - target)
    return reduced(np.where(d < beta, d * d / (2 * beta), d - beta / 2), reduction)


def huber_loss(
    x: np.ndarray, target: np.ndarray, reduction: str = "mean", delta: float = 1.0
) -> np.ndarray:
    d = np.abs(x - target)
    return reduced(np.where(d < delta, d * d / 2, delta * (d - delta / 2)), reduction)


def sigmoid_focal_loss(
    logits: np.ndarray,
    target: np.ndarray,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
) -> np.ndarray:
    y = 1 / (1 + np.exp(-logits))
    terms = -(target * np.log(y) + (1 - target) * np.log(1 - y))
    terms = terms * (1 - (y * target + (1 - y) * (1 - target))) ** gamma
    if alpha >= 0:
        terms = terms * (alpha * target + (1 - alpha) * (1 - target))
    return reduced(terms, reduction)


def focal_loss(
    logits: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    gamma: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> np.ndarray:
    weight = np.ones(logits.shape[1]) if weight is None else weight
    terms, total = np.zeros(np.shape(target)), 0.0
    for n, *rest in np.ndindex(terms.shape):
        label = int(target[n, *rest])
        if label != ignore_index:
            p = np.exp(log_softmax(logits[n, :, *rest])[label])
            terms[n, *rest] = -weight[label] * (1 - p) ** gamma * np.log(p)
            total += weight[label]
    return reduced(terms, reduction, total)


def dice_loss(
    logits: np.ndarray,
    target: np.ndarray,
    ignore_index: int = -100,
    smooth: float = 1.0,
    reduction: str = "mean",
) -> np.ndarray:
    terms = np.zeros(logits.shape[:2])
    for n, c in np.ndindex(terms.shape):
        overlap = predicted = there = 0.0
        for place in np.ndindex(logits.shape[2:]):
            label = int(target[n, *place])
            if label != ignore_index:
                p = np.exp(log_softmax(logits[n, :, *place])[c])
                overlap += p * (label == c)
                predicted += p
                there += label == c
        terms[n, c] = 1 - (2 * overlap + smooth) / (predicted + there + smooth)
    return reduced(terms, reduction)


def binary_cross_entropy_with_logits(
    logits: np.ndarray,
    target: np.ndarray,
    weight: Any = None,
    pos_weight: Any = None,
    reduction: str = "mean",
) -> np.ndarray:
    y = 1 / (1 + np.exp(-logits))
    positive = 1 if pos_weight is None else pos_weight
    terms = -(positive * target * np.log(y) + (1 - target) * np.log(1 - y))
    return reduced(terms if weight is None else terms * weight, reduction)


# Dropout --------------------------------------------------------------------------------------


def dropout(x: np.ndarray, p: float, seed: int) -> np.ndarray:
    kept = np.random.default_rng(seed).random(x.shape, np.float32) >= p
    return x * kept / (1 - p)
