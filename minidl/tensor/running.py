"""Products over axes, and sums that run along an axis."""

from __future__ import annotations

import math

import numpy as np

from minidl.autograd import Gradients
from minidl.backends import without_underflow
from minidl.tensor.functions import concatenate
from minidl.tensor.operands import Axis, kind_of, normal_axes, reduction
from minidl.tensor.operations import Tensor, record


@without_underflow
def cumsum(x: Tensor, axis: int) -> Tensor:
    """Return the sums of all elements up to each one along an axis.

    `y[i] = x[0] + ... + x[i]`; the gradient is `g[i] + g[i + 1] + ...`. As in PyTorch, sums of
    float32 are computed in float64 and rounded once, so that errors do not grow along the axis.

    Args:
        x: any shape with at least one axis; integers and bools give int64.
        axis: the axis to add along.

    Returns:
        A tensor of the shape of `x`.

    Raises:
        ValueError: there is no such axis.
        TypeError: `x` is not a tensor, or `axis` not an integer.

    Example:
        >>> cumsum(Tensor([1.0, 2.0, 3.0]), axis=0)
        Tensor([1., 3., 6.], dtype=float32)
    """
    place = axis_of("cumsum", x, axis)
    wide = np.float64 if x.dtype.kind == "f" else np.int64
    array = x.backend.xp.cumsum(x.array, axis=place, dtype=wide)
    backwards = (slice(None),) * place + (slice(None, None, -1),)

    def backward(gradient: Tensor) -> Gradients:
        return (cumsum(gradient[backwards], place)[backwards],)

    kind = x.dtype if x.dtype.kind == "f" else wide
    return record("cumsum", array.astype(kind, copy=False), (x,), backward)


def prod(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Multiply the elements over `axis` (all axes if None); a product of none is 1.

    Each element gets `g` times the product of the others, which is right with zeros among them: the
    product is a tree of multiplications, whose gradients divide by nothing.

    Args:
        x: any shape.
        axis: one axis or several.
        keepdims: keep the axes multiplied over, with length 1.

    Returns:
        The products, without `axis`, or with `keepdims` with length 1 there.

    Raises:
        ValueError: there is no such axis.
        TypeError: `x` is not a tensor.

    Example:
        >>> prod(Tensor([[1.0, 2.0], [3.0, 4.0]]), axis=1)
        Tensor([ 2., 12.], dtype=float32)
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"prod: got a {kind_of(x)}, expected a Tensor")
    axes, kept = reduction("prod", x.shape, axis)
    others = [i for i in range(x.ndim) if i not in axes]
    sizes = [x.shape[i] for i in others]
    count = math.prod(x.shape[i] for i in axes)
    factors = x.transpose(*axes, *others).reshape(count, *sizes) if x.ndim else x.reshape(1)
    if not count:
        return (factors.sum(0) + 1).reshape(kept if keepdims else sizes)
    while len(factors) > 1:
        half, odd = divmod(len(factors), 2)
        pairs = factors[:half] * factors[half : 2 * half]
        factors = concatenate([pairs, factors[2 * half :]]) if odd else pairs
    return factors.reshape(kept if keepdims else sizes)


def axis_of(op: str, x: Tensor, axis: int) -> int:
    """Return a single axis as an index >= 0.

    Raises:
        ValueError: there is no such axis.
        TypeError: `x` is not a tensor, or `axis` not an integer.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: got a {kind_of(x)}, expected a Tensor")
    if not isinstance(axis, (int, np.integer)):
        raise TypeError(f"{op}: got axis={axis!r}, expected one integer")
    return normal_axes(op, x.shape, int(axis))[0]
