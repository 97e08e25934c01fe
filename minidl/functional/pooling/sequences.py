"""Pooling over time, of sequences of different lengths: a mask says which steps count."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backends import Array
from minidl.functional.attention import mask_bias, masked_softmax
from minidl.functional.geometry import check_given, check_images, check_together
from minidl.tensor import Tensor
from minidl.tensor.functions import where
from minidl.tensor.operands import array_beside


def masked_avg_pool1d(x: Tensor, mask: Tensor | Array) -> Tensor:
    """Return the mean of the steps that count, for each channel; 0 if none does.

    Args:
        x: `(n, c, length)`, float32 or float64.
        mask: bools `(n, length)`: True where a step counts.

    Returns:
        `(n, c)`.

    Raises:
        ValueError: the shapes do not match.
        TypeError: x is not a tensor of floats, or the mask not of bools.

    Source: own derivation.

    Example:
        >>> x = Tensor([[[1.0, 3.0, 99.0]]])
        >>> masked_avg_pool1d(x, [[True, True, False]])
        Tensor([[2.]], dtype=float32)
    """
    counts = _mask("masked_avg_pool1d", x, mask)
    total = x.backend.xp.maximum(counts.sum(-1, keepdims=True), 1).astype(x.dtype)
    means: Tensor = where(counts[:, None], x, 0).sum(2) / total
    return means


def masked_max_pool1d(x: Tensor, mask: Tensor | Array) -> Tensor:
    """Return the largest of the steps that count, for each channel; 0 if none does.

    Args:
        x: `(n, c, length)`, float32 or float64.
        mask: bools `(n, length)`: True where a step counts.

    Returns:
        `(n, c)`.

    Raises:
        ValueError: the shapes do not match, or the length is 0.
        TypeError: x is not a tensor of floats, or the mask not of bools.

    Source: R. Collobert et al., Natural Language Processing (Almost) from Scratch (2011), section
    3.2.2.

    Example:
        >>> x = Tensor([[[1.0, 3.0, 99.0]]])
        >>> masked_max_pool1d(x, [[True, True, False]])
        Tensor([[3.]], dtype=float32)
    """
    counts = _mask("masked_max_pool1d", x, mask)
    best = where(counts[:, None], x, -np.inf).max(2)
    return where(counts.any(-1, keepdims=True), best, 0)


def masked_attention_pool1d(x: Tensor, weight: Tensor, mask: Tensor | Array) -> Tensor:
    """Return the mean of the steps that count, with weights `softmax(weight . step)`.

    With a mask that is True everywhere, this is `attention_pool1d`; 0 if no step counts.

    Args:
        x: `(n, c, length)`, float32 or float64.
        weight: `(c,)`; the score of a step is its dot product with this.
        mask: bools `(n, length)`: True where a step counts.

    Returns:
        `(n, c)`.

    Raises:
        ValueError: the shapes do not match.
        TypeError: x is not a tensor of floats, dtypes or devices differ, or the mask is not of
            bools.

    Source: as `attention_pool2d`.

    Example:
        >>> x = Tensor([[[1.0, 3.0, 99.0]]])
        >>> masked_attention_pool1d(x, Tensor([0.0]), [[True, True, False]])
        Tensor([[2.]], dtype=float32)
    """
    op = "masked_attention_pool1d"
    counts = _mask(op, x, mask)
    check_given(op, weight=weight)
    check_together(op, input=x, weight=weight)
    if weight.shape != x.shape[1:2]:
        raise ValueError(f"{op}: got a weight of shape {weight.shape}, expected ({x.shape[1]},)")
    steps = where(counts[:, None], x, 0)
    shares = masked_softmax(weight @ steps, mask_bias(op, counts, x))  # (n, length)
    return (steps * shares.expand_dims(1)).sum(2)


def _mask(op: str, x: Tensor, mask: Any) -> Array:
    """Return the mask as an array beside `x`."""
    check_images(op, x, axes=1)
    array = array_beside(op, mask, x)
    if array.dtype != np.bool_:
        raise TypeError(f"{op}: got a mask of dtype {array.dtype}, expected bools")
    if array.shape != (len(x), x.shape[2]):
        raise ValueError(
            f"{op}: got a mask of shape {array.shape} for an input of shape {x.shape}, expected "
            f"{(len(x), x.shape[2])}: (n, length)"
        )
    return array
