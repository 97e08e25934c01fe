"""Attention: weighted averages whose weights are computed from the data.

Each query is compared with all keys; the softmax of these scores weights the values.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.autograd import Gradients, is_recording
from minidl.backends import Array, Backend, without_underflow
from minidl.checks import check_fraction, is_number
from minidl.functional.activation import softmax
from minidl.functional.composed import composed_gradients, may_use_kernel
from minidl.functional.geometry import check_floats, check_given, check_together
from minidl.functional.linear import dropout
from minidl.tensor import Tensor, record
from minidl.tensor.functions import where
from minidl.tensor.operands import array_beside, check_device

SMALL = 30.0
"""Scores up to this size need no shift before `exp`: neither it nor a sum over them overflows."""


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Return `softmax(query @ key.T * scale + mask) @ value`: a weighted mean of values per query.

    A query whose keys are all masked gets zeros, as in PyTorch.

    Args:
        query: `(..., l, e)`; leading axes of all three broadcast.
        key: `(..., s, e)`.
        value: `(..., s, d)`.
        attn_mask: broadcasts to `(..., l, s)`. Bools: True where a query may attend to a key.
            Floats are added to the scores; a tensor of floats may require a gradient.
        dropout_p: set weights to 0 with this probability, always: pass 0 in evaluation.
        is_causal: query i attends only to keys j <= i; combined with `attn_mask`.
        scale: factor of the scores; default `1 / sqrt(e)`.
        rng: the generator for dropout; if None, the seeded stream.

    Returns:
        `(..., l, d)`.

    Raises:
        ValueError: shapes do not fit each other, `dropout_p` is not in `0 <= p <= 1`, or the scale
            is no number.
        TypeError: a tensor is not of floats, dtypes or devices differ, or the mask is of integers.

    Source: A. Vaswani et al., Attention Is All You Need (2017), equation 1.

    Example:
        >>> import minidl
        >>> q, k = minidl.zeros(1, 2), minidl.ones(2, 2)
        >>> scaled_dot_product_attention(q, k, minidl.Tensor([[1.0], [3.0]]))
        Tensor([[2.]], dtype=float32)
    """
    op = "scaled_dot_product_attention"
    _check(op, query, key, value)
    check_fraction(op, "dropout_p", dropout_p)
    if scale is not None and not is_number(scale):
        raise ValueError(f"{op}: got scale={scale!r}, expected a number, or None for 1 / sqrt(e)")
    factor = query.shape[-1] ** -0.5 if scale is None and query.shape[-1] else float(scale or 0.0)
    query, key, value = _same_leading(op, query, key, value)
    bias = _bias(op, query, key, attn_mask, is_causal)
    is_plain = not may_use_kernel(query) or not query.size * key.size * value.size
    if dropout_p or is_plain or (bias is not None and bias.requires_grad):
        weights = dropout(attention_weights(query, key, bias, factor), dropout_p, rng=rng)
        return weights @ value
    if query.ndim == 2:
        whole = [x.expand_dims(0) for x in (query, key, value)]
        return _fused(whole[0], whole[1], whole[2], bias, factor).squeeze(0)
    return _fused(query, key, value, bias, factor)


def attention_weights(query: Tensor, key: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Return the weights of attention, `softmax(query @ key.T * scale + bias)`: `(..., l, s)`."""
    scores = (query * scale) @ key.swapped()
    if bias is None or not scores.size:
        return softmax(scores)
    return masked_softmax(scores, bias)


def masked_softmax(scores: Tensor, bias: Tensor) -> Tensor:
    """Return `softmax(scores + bias)` along the last axis; 0 where all of the bias is -inf."""
    alive = (bias.array > -np.inf).any(-1, keepdims=True)
    if not bias.shape[-1]:
        return softmax(scores + bias)
    return softmax(scores + where(alive, bias, 0)) * Tensor.wrap(alive.astype(scores.dtype))


def mask_bias(op: str, mask: Any, like: Tensor) -> Tensor:
    """Return a mask as what is added to scores: 0 where a bool is True, -inf where it is False."""
    if isinstance(mask, Tensor) and mask.dtype.kind == "f":
        check_device(op, mask.backend, like.backend)
        return mask.to(dtype=like.dtype)
    array = array_beside(op, mask, like)
    if array.dtype.kind not in "bf":
        raise TypeError(f"{op}: got a mask of dtype {array.dtype}, expected bools or floats")
    if array.dtype.kind == "f":
        return Tensor.wrap(array.astype(like.dtype))
    zero, low = like.dtype.type(0), like.dtype.type(-np.inf)
    return Tensor.wrap(like.backend.xp.where(array, zero, low))


def _check(op: str, query: Tensor, key: Tensor, value: Tensor) -> None:
    check_given(op, key=key, value=value)
    check_together(op, query=query, key=key, value=value)
    check_floats(op, query)
    fits = min(query.ndim, key.ndim, value.ndim) >= 2
    if not fits or query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"{op}: got query {query.shape}, key {key.shape} and value {value.shape}, expected "
            "(..., l, e), (..., s, e) and (..., s, d)"
        )


def _same_leading(op: str, *tensors: Tensor) -> list[Tensor]:
    """Broadcast all axes but the last two."""
    leading = [x.shape[:-2] for x in tensors]
    if leading[0] == leading[1] == leading[2]:
        return list(tensors)
    try:
        shape = np.broadcast_shapes(*leading)
    except ValueError:
        raise ValueError(
            f"{op}: got leading axes {leading} of query, key and value, expected axes that "
            "broadcast"
        ) from None
    return [x.broadcast_to((*shape, *x.shape[-2:])) for x in tensors]


def _bias(op: str, query: Tensor, key: Tensor, mask: Any, is_causal: bool) -> Tensor | None:
    """Return what masks add to the scores, or None."""
    xp, shape = query.backend.xp, (*query.shape[:-1], key.shape[-2])
    bias = None if mask is None else mask_bias(op, mask, query)
    if bias is not None:
        try:
            fits = np.broadcast_shapes(bias.shape, shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"{op}: got a mask of shape {bias.shape}, expected one that broadcasts to {shape}"
            )
    if is_causal:
        past = mask_bias(op, xp.tri(*shape[-2:], dtype=bool), query)
        bias = past if bias is None else bias + past
    return bias


# The fused kernel -----------------------------------------------------------------------------


@without_underflow
def _fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Compute attention slice by slice, each in cache; leading axes are equal, at least one."""
    backend, q, k, v = query.backend, query.array, key.array, value.array
    added = None if bias is None else bias.array.reshape((1,) * (q.ndim - bias.ndim) + bias.shape)
    keeps = is_recording() and (query.requires_grad or key.requires_grad or value.requires_grad)
    out, powers, sums = _forward(backend, q, k, v, added, scale, keeps)

    def again(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attention_weights(query, key, bias, scale) @ value

    def backward(gradient: Tensor) -> Gradients:
        if is_recording():
            return composed_gradients(again, (query, key, value), gradient)
        needs = (query.requires_grad, key.requires_grad, value.requires_grad)
        found = _backward(backend, gradient.array, q, k, v, powers, sums, scale, needs)
        return [None if slope is None else Tensor.wrap(slope) for slope in found]

    return record("scaled_dot_product_attention", out, (query, key, value), backward)


def _forward(
    backend: Backend, q: Array, k: Array, v: Array, bias: Array | None, scale: float, keeps: bool
) -> tuple[Array, Array | None, Array]:
    """Return the weighted means, `exp(scores)` if it is to be kept, and its sums.

    The sums divide the means, which are smaller than the weights.
    """
    xp, shape = backend.xp, (*q.shape[:-1], k.shape[-2])
    out = xp.empty((*q.shape[:-1], v.shape[-1]), q.dtype)
    sums = xp.empty((*q.shape[:-1], 1), q.dtype)
    powers = xp.empty(shape, q.dtype) if keeps else None
    ones = xp.ones((shape[-1], 1), q.dtype)
    is_shifted = bias is not None and not _is_of_zeros(backend, bias)

    def work(part: slice) -> None:
        place = None if powers is None else powers[part]
        shifts = is_shifted or not _are_small(backend, q[part], k[part], scale)
        scores = backend.product(q[part] * q.dtype.type(scale), k[part].swapaxes(-1, -2), place)
        if bias is not None:
            scores += bias[part] if len(bias) > 1 else bias
        if shifts:
            largest = scores.max(-1, keepdims=True)
            scores -= xp.where(largest == -np.inf, largest.dtype.type(0), largest)
        xp.exp(scores, out=scores)
        total = backend.product(scores, ones)
        sums[part] = xp.where(total == 0, total.dtype.type(np.inf), total)
        backend.product(scores, v[part], out[part])
        out[part] /= sums[part]

    backend.over_batch(len(q), (2, *shape[1:]), q.dtype, work)
    return out, powers, sums


def _is_of_zeros(backend: Backend, bias: Array) -> bool:
    """Return whether what is added to scores is 0 or -inf, as far as the host knows."""
    return backend.magnitudes(backend.xp.where(bias == -np.inf, 0, bias))[1] == 0


def _are_small(backend: Backend, q: Array, k: Array, scale: float) -> bool:
    """Return whether no score can exceed `SMALL`, by the Cauchy-Schwarz inequality."""
    squares = [backend.xp.einsum("...e,...e->...", x, x) for x in (q, k)]
    queries, keys = (math.sqrt(backend.magnitudes(square)[1]) for square in squares)
    return queries * keys * abs(scale) <= SMALL


def _backward(
    backend: Backend,
    g: Array,
    q: Array,
    k: Array,
    v: Array,
    powers: Array,
    sums: Array,
    scale: float,
    needs: tuple[bool, bool, bool],
) -> list[Array | None]:
    """Return the gradients of query, key and value that are needed.

    With weights `p` and their gradient `s = g @ v.T`, that of the scores is `p * (s - sum(p * s))`.
    The sum is also that of `g * out`, but then its difference from `s` would not be exactly 0
    where one weight is 1, or where all of `s` are equal.
    """
    xp, factor = backend.xp, q.dtype.type(scale)
    dq, dk, dv = (
        xp.empty(x.shape, x.dtype) if needed else None
        for x, needed in zip((q, k, v), needs, strict=True)
    )

    def work(part: slice) -> None:
        weights = powers[part] / sums[part]  # times 1 / sums, none would be exactly 1
        if dv is not None:
            backend.product(weights.swapaxes(-1, -2), g[part], dv[part])
        if dq is None and dk is None:
            return
        slopes = backend.product(g[part], v[part].swapaxes(-1, -2))
        for _ in range(2):  # the sum of weights is not exactly 1
            slopes -= xp.einsum("...s,...s->...", weights, slopes)[..., None]
        slopes *= weights
        if dq is not None:
            backend.product(slopes, k[part], dq[part])
            dq[part] *= factor
        if dk is not None:
            backend.product(slopes.swapaxes(-1, -2), q[part] * factor, dk[part])

    backend.over_batch(len(q), (2, *powers.shape[1:]), q.dtype, work)
    return [dq, dk, dv]
