"""What attention, recurrent networks and pooling over time mean, in loops of NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np


def attention(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    attn_mask: Any = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """Average the values for each query; zeros where all keys are masked."""
    leading = np.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    q, k, v = (np.broadcast_to(x, (*leading, *x.shape[-2:])) for x in (query, key, value))
    shape = (*q.shape[:-1], k.shape[-2])
    mask = np.zeros(shape) if attn_mask is None else np.broadcast_to(attn_mask, shape)
    added = np.where(mask, 0, -np.inf) if mask.dtype == bool else mask
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    out = np.zeros((*q.shape[:-1], v.shape[-1]))
    for index in np.ndindex(*q.shape[:-1]):
        row, total = index[:-1], 0.0
        for j in range(k.shape[-2]):
            if is_causal and j > index[-1]:
                continue
            weight = np.exp(q[index] @ k[(*row, j)] * factor + added[(*index, j)])
            out[index] += weight * v[(*row, j)]
            total += weight
        out[index] /= total or 1.0
    return out


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gru(
    x: np.ndarray,
    h0: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias_ih: Any = 0.0,
    bias_hh: Any = 0.0,
    mask: Any = None,
    reverse: bool = False,
) -> np.ndarray:
    """Run one sequence and one step at a time."""
    length, n, size = len(x), x.shape[1], h0.shape[1]
    out = np.zeros((length, n, size))
    for row in range(n):
        h = h0[row]
        for t in range(length)[:: -1 if reverse else 1]:
            if mask is None or mask[t, row]:
                a, b = weight_ih @ x[t, row] + bias_ih, weight_hh @ h + bias_hh
                r = sigmoid(a[:size] + b[:size])
                z = sigmoid(a[size : 2 * size] + b[size : 2 * size])
                new = np.tanh(a[2 * size :] + r * b[2 * size :])
                h = (1 - z) * new + z * h
            out[t, row] = h
    return out


def lstm(
    x: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias_ih: Any = 0.0,
    bias_hh: Any = 0.0,
    mask: Any = None,
    reverse: bool = False,
) -> np.ndarray:
    """Run one sequence and one step at a time."""
    length, n, size = len(x), x.shape[1], h0.shape[1]
    out = np.zeros((2, length, n, size))
    for row in range(n):
        h, c = h0[row], c0[row]
        for t in range(length)[:: -1 if reverse else 1]:
            if mask is None or mask[t, row]:
                sums = weight_ih @ x[t, row] + bias_ih + weight_hh @ h + bias_hh
                i, f, g, o = sums.reshape(4, size)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
            out[:, t, row] = h, c
    return out


def pooled(x: np.ndarray, mask: np.ndarray, pool: Any) -> np.ndarray:
    """Pool the steps that count of each sequence on its own; 0 where there are none."""
    out = np.zeros(x.shape[:2])
    for row, (sequence, on) in enumerate(zip(x, mask, strict=True)):
        if on.any():
            out[row] = pool(sequence[:, on])
    return out


def masked_avg_pool1d(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return pooled(x, mask, lambda steps: steps.mean(1))


def masked_max_pool1d(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return pooled(x, mask, lambda steps: steps.max(1))


def masked_attention_pool1d(x: np.ndarray, weight: np.ndarray, mask: np.ndarray) -> np.ndarray:
    def pool(steps: np.ndarray) -> np.ndarray:
        shares = np.exp(weight @ steps)
        return steps @ (shares / shares.sum())

    return pooled(x, mask, pool)
