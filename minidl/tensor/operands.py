"""Argument handling for tensor operations: data, operands, indices, axes and shapes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from minidl.backends import Array, Backend, asarray, backend_for, backend_of, without_underflow

Axis: TypeAlias = int | Sequence[int] | None


class Stored(Protocol):
    """The part of a tensor's interface that this module uses."""

    @property
    def array(self) -> Array:
        """The array."""

    @property
    def backend(self) -> Backend:
        """The backend that holds the array."""

    @property
    def dtype(self) -> Any:
        """The type of its elements."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""


# Data -----------------------------------------------------------------------------------------


def own_array(data: Any, dtype: Any, device: str | None) -> Array:
    """Copy the `data` of a new `Tensor` into an array; Python floats become float32.

    Raises:
        ValueError: the data are a ragged list, or the device is unknown.
        TypeError: the data are not real numbers, or are floats other than float32 and float64.
    """
    array = asarray("Tensor", data)
    if dtype is None:  # an array with a base views a buffer, which has a dtype of its own
        is_array = hasattr(data, "__array__") or getattr(array, "base", None) is not None
        dtype = np.float32 if array.dtype.kind == "f" and not is_array else array.dtype
    dtype = tensor_dtype("Tensor", dtype)
    source = backend_of(array)
    backend = source if device is None else backend_for(device)
    if backend is not source:
        array = backend.from_numpy(source.to_numpy(array))
    return array.astype(dtype, order="C", copy=True)


def tensor_dtype(op: str, dtype: Any) -> Any:
    """Return NumPy's form of a dtype; raise TypeError for an unsupported dtype."""
    found = np.dtype(dtype).newbyteorder("=")
    if found.kind not in "iub" and found not in (np.float32, np.float64):
        raise TypeError(f"{op}: got dtype {found}, expected float32 or float64, integers or bools")
    return found


def device_given(op: str, device: Any) -> Backend:
    """Return a device's backend; the error for an unknown one says how to pass a dtype."""
    try:
        return backend_for(device)
    except ValueError as error:
        raise ValueError(f"{op}: {error}; pass a dtype by name: {op}(dtype=...)") from None


# Operands -------------------------------------------------------------------------------------


def operand_array(op: str, value: Any, like: Stored, copy: bool = False) -> Array:
    """Return a number or array as an array to combine with `like`.

    Numbers, even NumPy's, take the dtype of `like`: float32 times `np.float64(2)` stays float32.

    Args:
        op: the operation's name, for messages.
        value: the number or array.
        like: the other operand.
        copy: copy arrays, because a gradient rule may read them after their owner changed them.

    Raises:
        TypeError: the value is neither, is not real, or is on another device.
    """
    if isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
        number = value.item() if isinstance(value, np.generic) else value
        kind = like.dtype
        if kind.kind != "f" and isinstance(number, float):
            kind = np.dtype(np.float32)
        elif kind.kind == "b":
            kind = np.dtype(type(number))
        return like.backend.scalar(number, kind)
    if not hasattr(getattr(value, "dtype", None), "kind"):
        raise TypeError(f"{op}: got a {kind_of(value)}, expected a tensor, an array or a number")
    array = asarray(op, value)
    check_device(op, backend_of(array), like.backend)
    return array.copy(order="K") if copy else array[...]


def array_beside(op: str, value: Any, like: Stored) -> Array:
    """Return an index, target or weight as an array; numbers and lists go to `like`'s device.

    Raises:
        TypeError: it is an array or a tensor on another device, or not of real numbers.
    """
    array = asarray(op, value.array if hasattr(value, "backend") else value)
    if not hasattr(value, "dtype"):
        return like.backend.from_numpy(array)
    check_device(op, backend_of(array), like.backend)
    return array


def kind_of(value: Any) -> str:
    """Return the name of a value's type, for an error; PyTorch's tensors have the same as ours."""
    if type(value).__module__.partition(".")[0] == "torch":
        return "PyTorch tensor: wrap it in minidl.Tensor(...)"
    return type(value).__name__


def check_device(op: str, got: Backend, wanted: Backend) -> None:
    """Raise TypeError unless two operands are on one device."""
    if got is not wanted:
        if got.device == wanted.device:
            raise TypeError(
                f"{op}: got tensors made before and after set_kernels; call it before creating any"
            )
        raise TypeError(
            f"{op}: got tensors on {wanted.device!r} and {got.device!r}; "
            f"move one with .to({wanted.device!r})"
        )


def common_dtype(a: Stored, b: Stored) -> Any:
    """Return the dtype to convert two operands to; None if they can be combined as they are.

    Floats win over integers, then arrays with axes over 0-d ones, then NumPy's rule holds. So a 0-d
    float64 array does not widen float32 data, nor do integers of any size.
    """
    if a.dtype == b.dtype or "b" in (a.dtype.kind, b.dtype.kind):
        return None
    rank_a, rank_b = ((x.dtype.kind == "f", len(x.shape) > 0) for x in (a, b))
    if rank_a == rank_b:
        return np.promote_types(a.dtype, b.dtype)
    return a.dtype if rank_a > rank_b else b.dtype


def check_broadcast(op: str, a: Sequence[int], b: Sequence[int]) -> None:
    """Raise ValueError unless arrays of shapes `a` and `b` broadcast together."""
    if any(m != n and 1 not in (m, n) for m, n in zip(reversed(a), reversed(b), strict=False)):
        raise ValueError(
            f"{op}: got shapes {tuple(a)} and {tuple(b)}; expected sizes that are equal or 1, "
            "counted from the last axis"
        )


def check_broadcast_to(old: Sequence[int], new: Sequence[int]) -> None:
    """Raise ValueError unless shape `old` can be broadcast to shape `new`."""
    pairs = zip(reversed(old), reversed(new), strict=False)
    if len(old) > len(new) or any(m not in (1, n) for m, n in pairs):
        raise ValueError(
            f"broadcast_to: got shapes {tuple(old)} and {tuple(new)}; expected each size of "
            "the first to be 1 or equal to the second's, counted from the last axis"
        )


def check_matmul(a: Sequence[int], b: Sequence[int]) -> None:
    """Raise ValueError unless vectors or stacks of matrices of these shapes can be multiplied."""
    if not a or not b or a[-1] != b[-2 if len(b) > 1 else 0]:
        raise ValueError(
            f"matmul: got shapes {a} and {b}; expected the first's last axis to be as long "
            "as the second's second-to-last (should one be transposed?)"
        )
    check_broadcast("matmul", a[:-2], b[:-2])


def refuse_bools(op: str, a: Stored, b: Stored) -> None:
    """Raise TypeError if both operands are bools, which NumPy does not subtract."""
    if a.dtype.kind == b.dtype.kind == "b":
        raise TypeError(f"{op}: got bools, expected numbers; convert with .to(dtype=...)")


# Indices --------------------------------------------------------------------------------------


def select(index: Any, x: Stored) -> tuple[tuple[Any, ...], Array]:
    """Return an index of `x` as a tuple of copied parts, and the array it selects.

    Lists and NumPy arrays are moved to the device of `x`.

    Raises:
        IndexError: an index is out of range, or there are more parts than axes.
        TypeError: a part is not an index, or is an array on another device.
    """
    parts = [_index_part(part, x) for part in (index if isinstance(index, tuple) else (index,))]
    try:
        if any(isinstance(p, np.ndarray) and backend_of(p) is not x.backend for p in parts):
            _check_range(parts, x)
            parts = [x.backend.from_numpy(p) if isinstance(p, np.ndarray) else p for p in parts]
        return tuple(parts), x.array[tuple(parts)]
    except IndexError as error:
        raise IndexError(f"getitem: got index {index!r:.80} for shape {x.shape}: {error}") from None


def _index_part(part: Any, x: Stored) -> Any:
    if part is None or part is Ellipsis or isinstance(part, (int, slice)):
        return part
    if isinstance(part, np.generic):
        return part.item()
    if isinstance(part, (list, tuple)):
        return np.array(part, None if len(part) else np.intp)
    if isinstance(part, np.ndarray):
        return asarray("getitem", part).copy()
    return operand_array("getitem", part.array if hasattr(part, "backend") else part, x).copy()


def _check_range(parts: Sequence[Any], x: Stored) -> None:
    """Let NumPy reject what CuPy would wrap around: try the extremes of each index array."""
    stand_in = np.broadcast_to(np.False_, x.shape)  # takes no memory
    # Reading arrays that are on the device would make the host wait: use zeros instead.
    here = [np.zeros(p.shape, p.dtype) if type(p) is type(x.array) else p for p in parts]
    for end in (np.min, np.max):
        ends = [
            end(p) if isinstance(p, np.ndarray) and p.size and p.dtype.kind in "iu" else p
            for p in here
        ]
        stand_in[tuple(ends)]


# Axes and shapes ------------------------------------------------------------------------------


def normal_axes(op: str, shape: Sequence[int], axis: Axis) -> tuple[int, ...]:
    """Return axes as indices >= 0; raise ValueError for one out of range or repeated."""
    if axis is None:
        return tuple(range(len(shape)))
    wanted = axis if isinstance(axis, (tuple, list)) else (axis,)
    try:
        found = tuple(operator.index(a) + len(shape) * (a < 0) for a in wanted)
    except TypeError:
        raise TypeError(f"{op}: got axis={axis!r}, expected integers") from None
    if any(not 0 <= a < len(shape) for a in found) or len(set(found)) != len(found):
        raise ValueError(f"{op}: got axis {axis} for shape {tuple(shape)}")
    return found


def reduction(op: str, shape: Sequence[int], axis: Axis) -> tuple[tuple[int, ...], list[int]]:
    """Return the axes of a reduction, and its shape with `keepdims=True`."""
    axes = normal_axes(op, shape, axis)
    return axes, [1 if i in axes else size for i, size in enumerate(shape)]


def expanded_shape(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """Return `shape` with axes of length 1 inserted, at indices `axis` of the result."""
    ndim = len(shape) + (len(axis) if isinstance(axis, (tuple, list)) else 1)
    try:
        places = normal_axes("expand_dims", (1,) * ndim, axis)
    except ValueError:
        raise ValueError(f"expand_dims: got axis {axis} for shape {shape}") from None
    sizes = iter(shape)
    return tuple(1 if i in places else next(sizes) for i in range(ndim))


def unpacked(sizes: Sequence[Any]) -> Sequence[Any]:
    """Return sizes that were given as one tuple or list, or as separate arguments."""
    return sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes


# Functions of one element ---------------------------------------------------------------------


def each(name: str, x: Stored, *others: Stored) -> Array:
    """Apply a NumPy or CuPy function to each element."""
    function = getattr(x.backend.xp, name)
    arrays = [x.array, *(other.array for other in others)]
    try:
        return x.backend.elementwise(function, *arrays)
    except (FloatingPointError, RuntimeWarning):  # NumPy is set to raise: allow underflow
        return without_underflow(x.backend.elementwise)(function, *arrays)
