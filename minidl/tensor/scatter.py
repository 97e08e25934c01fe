"""Sums scattered to indices: the transposes of selecting by indices."""

from __future__ import annotations

from typing import Any

from minidl.autograd import Gradients
from minidl.backends import Array
from minidl.tensor.edges import pad
from minidl.tensor.operands import array_beside, check_device, kind_of
from minidl.tensor.operations import Tensor, record
from minidl.tensor.running import axis_of


def index_add(x: Tensor, axis: int, index: Tensor | Array, source: Tensor) -> Tensor:
    """Return `x` with slices of `source` added at indices along an axis; repeated ones add up.

    `y = x; y[index[i]] += source[i]` for `axis=0`. The gradient of x is `g`, that of the source
    `g[index]`.

    Args:
        x: any shape with at least one axis; it is not changed.
        axis: the axis that `index` counts along.
        index: `(n,)` integers, `0 <= index < x.shape[axis]`; as in PyTorch, none is negative.
        source: the shape of `x`, but with size n at `axis`; the dtype of `x`.

    Returns:
        A tensor of the shape of `x`.

    Raises:
        ValueError: shapes do not fit, an index is out of range, or there is no such axis.
        TypeError: the indices are not integers, or dtypes or devices differ.

    Example:
        >>> index_add(Tensor([1.0, 1.0, 1.0]), 0, [2, 0, 2], Tensor([1.0, 2.0, 3.0]))
        Tensor([3., 1., 5.], dtype=float32)
    """
    place = axis_of("index_add", x, axis)
    rows = _indices("index_add", x, place, index, source)
    wanted = (*x.shape[:place], rows.size, *x.shape[place + 1 :])
    if rows.ndim != 1 or source.shape != wanted:
        raise ValueError(
            f"index_add: got an index of shape {rows.shape} and a source of shape {source.shape} "
            f"for shape {x.shape}, expected (n,) and the same shape, with n at axis {axis}"
        )
    xp = x.backend.xp
    table = xp.moveaxis(x.array, place, 0).copy(order="C")
    x.backend.index_add(table, rows, xp.moveaxis(source.array, place, 0))

    def backward(gradient: Tensor) -> Gradients:
        selected = gradient[(*(slice(None),) * place, rows)] if source.requires_grad else None
        return gradient, selected

    return record("index_add", xp.moveaxis(table, 0, place), (x, source), backward)


def scatter_add(x: Tensor, axis: int, index: Tensor | Array, source: Tensor) -> Tensor:
    """Return `x` with each element of `source` added at its own index along an axis.

    `y = x; y[index[i, j], j] += source[i, j]` for `axis=0` and two axes; indices that occur several
    times add up. The gradient of x is `g`, that of the source `g` at the same indices.

    Args:
        x: any shape with at least one axis; it is not changed.
        axis: the axis that `index` counts along.
        index: integers, `0 <= index < x.shape[axis]`, with as many axes as `x`, none longer than
            that of `source`, nor, except `axis`, than that of `x`; as in PyTorch, none is negative.
        source: the dtype of `x`, with as many axes; elements beyond the index are not used.

    Returns:
        A tensor of the shape of `x`.

    Raises:
        ValueError: shapes do not fit, an index is out of range, or there is no such axis.
        TypeError: the indices are not integers, or dtypes or devices differ.

    Example:
        >>> scatter_add(Tensor([[1.0], [1.0]]), 0, [[1], [1]], Tensor([[2.0], [3.0]]))
        Tensor([[1.],
                [6.]], dtype=float32)
    """
    place = axis_of("scatter_add", x, axis)
    rows = _indices("scatter_add", x, place, index, source)
    same = x.ndim == rows.ndim == source.ndim
    most = [*x.shape[:place], *rows.shape[place : place + 1], *x.shape[place + 1 :]]
    limits = (*zip(rows.shape, source.shape, strict=False), *zip(rows.shape, most, strict=False))
    if not same or any(n > limit for n, limit in limits):
        raise ValueError(
            f"scatter_add: got an index of shape {rows.shape} and a source of shape {source.shape} "
            f"for shape {x.shape}, expected as many axes, and an index no longer than the source, "
            f"nor than the input except at axis {axis}"
        )
    used = tuple(slice(0, n) for n in rows.shape)
    places = grid(x.backend.xp, rows, place)
    table = x.array.copy(order="C")
    x.backend.index_add(table, places, source.array[used])

    def backward(gradient: Tensor) -> Gradients:
        if not source.requires_grad:
            return gradient, None
        rest = [(0, s - n) for s, n in zip(source.shape, rows.shape, strict=True)]
        return gradient, pad(gradient[places], rest)

    return record("scatter_add", table, (x, source), backward)


def grid(xp: Any, index: Array, axis: int) -> tuple[Array, ...]:
    """Return the index arrays that select, at each place, `index` along an axis and the place."""
    parts = []
    for i, size in enumerate(index.shape):
        shape = [size if i == other else 1 for other in range(index.ndim)]
        parts.append(index if i == axis else xp.arange(size).reshape(shape))
    return tuple(parts)


def _indices(op: str, x: Tensor, axis: int, index: Tensor | Array, source: Tensor) -> Array:
    """Return a copy of the indices, on the device of `x`; raise unless all is as expected."""
    if not isinstance(source, Tensor):
        raise TypeError(f"{op}: got a {kind_of(source)} as source, expected a Tensor")
    check_device(op, source.backend, x.backend)
    if source.dtype != x.dtype:
        raise TypeError(f"{op}: got dtypes {x.dtype} and {source.dtype}, expected one for both")
    array = array_beside(op, index, x)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{op}: got indices of dtype {array.dtype}, expected integers")
    backend, size = x.backend, x.shape[axis]

    def error() -> ValueError:
        found = backend.to_numpy(array)
        return ValueError(
            f"{op}: got indices from {found.min()} to {found.max()}, expected 0 to {size - 1}, as "
            f"axis {axis} has size {size}; negative ones do not count from the end"
        )

    backend.raise_if((array < 0) | (array >= size), error)
    return array.copy()
