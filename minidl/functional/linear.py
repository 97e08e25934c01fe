"""The linear map, and dropout, which is usually applied before it."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.checks import check_fraction
from minidl.functional.geometry import check_floats, check_together
from minidl.random import drawn
from minidl.tensor import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `x @ weight.T + bias`.

    Args:
        x: `(..., in_features)`.
        weight: `(out_features, in_features)`.
        bias: `(out_features,)`, or None.

    Returns:
        `(..., out_features)`.

    Raises:
        ValueError: the shapes do not fit each other.
        TypeError: dtypes or devices differ.

    Example:
        >>> import minidl
        >>> linear(minidl.ones((2, 3)), minidl.ones((1, 3)), minidl.zeros(1))
        Tensor([[3.],
                [3.]], dtype=float32)
    """
    check_floats("linear", x)
    check_together("linear", input=x, weight=weight, bias=bias)
    if weight.ndim != 2 or not x.ndim or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear: got an input of {x.shape[-1] if x.ndim else 'no'} features, shape {x.shape}, "
            f"and a weight of shape {weight.shape}, expected (..., in_features) and (out_features, "
            "in_features); images must be flattened first, with Flatten or flatten(1)"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: got a bias of shape {bias.shape}, expected {weight.shape[:1]}")
    # Flatten to rows: a stacked product would compute one weight gradient per leading index.
    out = (x.reshape(-1, weight.shape[1]) if x.ndim > 2 else x) @ weight.T
    out = out if bias is None else out + bias
    return out.reshape(*x.shape[:-1], len(weight)) if x.ndim > 2 else out


def dropout(
    x: Tensor, p: float = 0.5, training: bool = True, rng: np.random.Generator | None = None
) -> Tensor:
    """In training, set each element to 0 with probability `p` and scale the others by 1 / (1 - p).

    This preserves every element's expected value, so evaluation needs no scaling.

    Args:
        x: any shape.
        p: `0 <= p <= 1`.
        training: if False, return `x` unchanged.
        rng: the generator of the mask, on the host; if None, the seeded stream.

    Returns:
        A tensor of the shape of `x`.

    Raises:
        ValueError: not `0 <= p <= 1`.
        TypeError: `x` is not a tensor of floats.

    Source: N. Srivastava et al., Dropout (2014), section 10, "inverted".
    """
    check_floats("dropout", x)
    check_fraction("dropout", "p", p)
    if not training or p == 0:
        return x
    shape, scale = x.shape, x.dtype.type(0 if p == 1 else 1 / (1 - p))

    def mask(stream: np.random.Generator) -> np.ndarray[Any, Any]:
        return np.asarray((stream.random(shape, np.float32) >= p) * scale)

    return x * Tensor.wrap(drawn(x.backend, rng, mask))
