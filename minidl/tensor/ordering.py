"""Elements in order, and where they were."""

from __future__ import annotations

from collections.abc import Sequence

from minidl.autograd import Gradients
from minidl.backends import Array
from minidl.checks import is_whole
from minidl.tensor.operations import Tensor, record
from minidl.tensor.running import axis_of
from minidl.tensor.scatter import grid


def sort(
    x: Tensor, axis: int = -1, descending: bool = False, stable: bool = False
) -> tuple[Tensor, Tensor]:
    """Sort along an axis; return the values and the indices at which they were.

    The gradient of each value goes back to the element that it was. As in PyTorch, NaN counts as
    larger than every number: it comes last in ascending order, first in descending order.

    Args:
        x: any shape with at least one axis.
        axis: the axis to sort along.
        descending: the largest first.
        stable: keep equal elements in the order in which they were. Otherwise it is not specified
            in which order they come, and so which of them gets which gradient; that may be faster.

    Returns:
        The sorted values, and their int64 indices along `axis`, both of the shape of `x`.

    Raises:
        ValueError: there is no such axis.
        TypeError: `x` is not a tensor, or `axis` not an integer.

    Example:
        >>> values, indices = sort(Tensor([3.0, 1.0, 2.0]), descending=True)
        >>> values, indices.numpy().tolist()
        (Tensor([3., 2., 1.], dtype=float32), [0, 2, 1])
    """
    place = axis_of("sort", x, axis)
    index = _order(x, x.array, place, descending, "stable" if stable else None)
    return _taken(x, index, place), Tensor.wrap(index)


def topk(
    x: Tensor, k: int, axis: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the k largest or smallest elements along an axis, and the indices at which they were.

    The gradient of each value goes back to the element that it was; the others get 0. As in
    PyTorch, NaN counts as larger than every number, and which of equal elements are chosen, and in
    which order, is not specified.

    Args:
        x: any shape with at least one axis.
        k: how many, `0 <= k <= x.shape[axis]`.
        axis: the axis to choose along.
        largest: False for the smallest.
        sorted: put them in order, the largest (or smallest) first; otherwise in any order.

    Returns:
        The values, and their int64 indices along `axis`: the shape of `x` with size k there.

    Raises:
        ValueError: there is no such axis, or k is out of range.
        TypeError: `x` is not a tensor, or `axis` not an integer.

    Example:
        >>> values, indices = topk(Tensor([3.0, 1.0, 2.0]), 2)
        >>> values, indices.numpy().tolist()
        (Tensor([3., 2.], dtype=float32), [0, 2])
    """
    place = axis_of("topk", x, axis)
    count = x.shape[place]
    if not is_whole(k, 0) or k > count:
        raise ValueError(f"topk: got k={k!r}, expected 0 <= k <= {count}, the size of axis {axis}")
    before, xp = (slice(None),) * place, x.backend.xp
    if k in (0, count):
        index = _order(x, x.array, place, largest, None)[(*before, slice(0, k))]
    else:
        index = xp.argpartition(x.array, count - k if largest else k - 1, place)
        index = index[(*before, slice(count - k, None) if largest else slice(0, k))]
        if sorted:
            chosen = xp.take_along_axis(x.array, index, place)
            index = xp.take_along_axis(index, _order(x, chosen, place, largest, None), place)
    index = index.astype("int64")
    return _taken(x, index, place), Tensor.wrap(index)


def _order(x: Tensor, array: Array, axis: int, descending: bool, kind: str | None) -> Array:
    """Return the int64 indices that sort an array, on the device of `x`; NaN is the largest."""
    if not descending:
        return array.argsort(axis, kind=kind).astype("int64", copy=False)
    # Backwards twice, so that equal elements keep their order.
    backwards = (slice(None),) * axis + (slice(None, None, -1),)
    found = array[backwards].argsort(axis, kind=kind)[backwards]
    return (array.shape[axis] - 1 - found).astype("int64", copy=False)


def _taken(x: Tensor, index: Array, axis: int) -> Tensor:
    """Return the elements of `x` at indices along an axis; no element twice."""

    def backward(gradient: Tensor) -> Gradients:
        return (_placed(gradient, index, axis, x.shape),)

    array = x.backend.xp.take_along_axis(x.array, index, axis)
    return record("taken", array, (x,), backward)


def _placed(values: Tensor, index: Array, axis: int, shape: Sequence[int]) -> Tensor:
    """Put values at indices along an axis into zeros: the transpose of `_taken`."""

    def backward(outer: Tensor) -> Gradients:
        return (_taken(outer, index, axis),)

    array = values.backend.xp.zeros(shape, values.dtype)
    array[grid(values.backend.xp, index, axis)] = values.array
    return record("placed", array, (values,), backward)
