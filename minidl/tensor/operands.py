"""Plumbing of the tensor operations: what data, operands, indices, axes and shapes may be."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from minidl.backends import Array, Backend, asarray, backend_for, backend_of

Axis: TypeAlias = int | Sequence[int] | None


class Stored(Protocol):
    """What this module asks of a tensor."""

    @property
    def data(self) -> Array:
        """The array."""

    @property
    def backend(self) -> Backend:
        """What the array belongs to."""

    @property
    def dtype(self) -> Any:
        """The kind of number."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""

    @property
    def ndim(self) -> int:
        """Number of axes."""


# Data -----------------------------------------------------------------------------------------


def own_array(data: Any, dtype: Any, device: str | None) -> Array:
    """Return a new array of `data`, as `Tensor` takes it; Python floats become float32.

    Raises:
        ValueError: a ragged list, or no such device.
        TypeError: the data are not real numbers, or are of a float type other than two.
    """
    is_array = hasattr(data, "dtype")
    try:
        array = asarray(data)
    except ValueError:
        raise ValueError("Tensor: got a ragged list, expected rows of one length") from None
    except TypeError as error:
        raise TypeError(f"Tensor: got a list ({error}); tensors are joined by stack()") from None
    if array.dtype.kind not in "fiub":
        raise TypeError(f"Tensor: got data of dtype {array.dtype}, expected real numbers")
    if dtype is None:
        dtype = np.float32 if array.dtype.kind == "f" and not is_array else array.dtype
    dtype = tensor_dtype("Tensor", dtype)
    source = backend_of(array)
    backend = source if device is None else backend_for(device)
    if backend is not source:
        array = backend.from_numpy(source.to_numpy(array))
    return array.astype(dtype, order="C", copy=True)


def tensor_dtype(op: str, dtype: Any) -> Any:
    """Return NumPy's form of a dtype; TypeError if it is none that tensors have."""
    found = np.dtype(dtype)
    if found.kind not in "iub" and found not in (np.float32, np.float64):
        raise TypeError(f"{op}: got dtype {found}, expected float32 or float64, integers or bools")
    return found


def device_given(op: str, device: Any) -> Backend:
    """Return a device's backend; where there is none, say how a dtype would be given."""
    try:
        return backend_for(device)
    except ValueError as error:
        raise ValueError(f"{op}: {error}; a dtype goes by name, as {op}(dtype=...)") from None


# Operands -------------------------------------------------------------------------------------


def operand_array(op: str, value: Any, like: Stored, copy: bool = False) -> Array:
    """Return a number or array as an array to combine with `like`.

    Numbers take the dtype of `like`, NumPy's too: float32 data times `np.float64(2)` stay float32.

    Args:
        op: the operation's name, for messages.
        value: what it got.
        like: the other operand.
        copy: copy arrays, because a gradient rule may read them when their owner has changed them.

    Raises:
        TypeError: it is neither, holds no real numbers, or is on another device.
    """
    if isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
        number = value.item() if isinstance(value, np.generic) else value
        kind = like.dtype
        if kind.kind != "f" and isinstance(number, float):
            kind = np.dtype(np.float32)
        elif kind.kind == "b":
            kind = np.dtype(type(number))
        return like.backend.scalar(number, kind)
    if getattr(getattr(value, "dtype", None), "kind", "") not in ("f", "i", "u", "b"):
        kind = getattr(value, "dtype", type(value).__name__)
        raise TypeError(
            f"{op}: got a {kind}, expected a tensor, an array or number, of real numbers"
        )
    array = asarray(value)
    check_device(op, backend_of(array), like.backend)
    return array.copy(order="K") if copy else array[...]


def check_device(op: str, got: Backend, wanted: Backend) -> None:
    """Raise TypeError unless two operands are on one device."""
    if got is not wanted:
        if got.device == wanted.device:
            raise TypeError(
                f"{op}: got tensors made before and after set_kernels; call it before making any"
            )
        raise TypeError(
            f"{op}: got tensors on {wanted.device!r} and {got.device!r}; "
            f"move one with .to({wanted.device!r})"
        )


def common_dtype(a: Stored, b: Stored) -> Any:
    """Return the dtype to convert two operands to; None where they can be combined as they are.

    Floats win over integers, then axes over none, then NumPy's rule holds. So a float64 number
    without axes does not widen float32 data, nor do integers of any size.
    """
    if a.dtype == b.dtype or "b" in (a.dtype.kind, b.dtype.kind):
        return None
    rank_a, rank_b = ((x.dtype.kind == "f", x.ndim > 0) for x in (a, b))
    if rank_a == rank_b:
        return np.promote_types(a.dtype, b.dtype)
    return a.dtype if rank_a > rank_b else b.dtype


def check_broadcast(op: str, a: Sequence[int], b: Sequence[int]) -> None:
    """Raise ValueError unless arrays of shapes `a` and `b` can be combined element by element."""
    if any(m != n and 1 not in (m, n) for m, n in zip(reversed(a), reversed(b), strict=False)):
        raise ValueError(
            f"{op}: got shapes {tuple(a)} and {tuple(b)}; expected sizes that are equal or 1, "
            "counted from the last axis"
        )


def check_broadcast_to(old: Sequence[int], new: Sequence[int]) -> None:
    """Raise ValueError unless shape `old` can be repeated to fill shape `new`."""
    pairs = zip(reversed(old), reversed(new), strict=False)
    if len(old) > len(new) or any(m not in (1, n) for m, n in pairs):
        raise ValueError(
            f"broadcast_to: got shapes {tuple(old)} and {tuple(new)}; expected each of the first's "
            "sizes equal to the second's or 1, counted from the last axis"
        )


def check_matmul(a: Sequence[int], b: Sequence[int]) -> None:
    """Raise ValueError unless stacks of matrices, or vectors, of these shapes can be multiplied."""
    if not a or not b or a[-1] != b[-2 if len(b) > 1 else 0]:
        raise ValueError(
            f"matmul: got shapes {a} and {b}; expected the first's last axis as long "
            "as the second's last but one (is one to be transposed?)"
        )
    check_broadcast("matmul", a[:-2], b[:-2])


def refuse_bools(op: str, a: Stored, b: Stored) -> None:
    """Raise TypeError for two operands of bools, which NumPy does not subtract."""
    if a.dtype.kind == b.dtype.kind == "b":
        raise TypeError(f"{op}: got bools, expected numbers; convert with .to(dtype=...)")


# Indices --------------------------------------------------------------------------------------


def select(index: Any, x: Stored) -> tuple[tuple[Any, ...], Array]:
    """Return an index of `x` in parts that nobody else will change, and what it selects.

    Lists and NumPy arrays are moved to the device of `x`.

    Raises:
        IndexError: a number is out of range, or there are more parts than axes.
        TypeError: a part is no index, or an array on another device.
    """
    parts = [_index_part(part, x) for part in (index if isinstance(index, tuple) else (index,))]
    try:
        if any(isinstance(p, np.ndarray) and backend_of(p) is not x.backend for p in parts):
            _check_range(parts, x)
            parts = [x.backend.from_numpy(p) if isinstance(p, np.ndarray) else p for p in parts]
        return tuple(parts), x.data[tuple(parts)]
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
        return part.copy()
    return operand_array("getitem", getattr(part, "_data", part), x).copy()


def _check_range(parts: Sequence[Any], x: Stored) -> None:
    """Let NumPy refuse what CuPy would wrap around: try the ends of each array as numbers."""
    stand_in = np.broadcast_to(np.False_, x.shape)  # no memory of its own
    # What is on the device already is not waited for: zeros in its place.
    here = [np.zeros(p.shape, p.dtype) if type(p) is type(x.data) else p for p in parts]
    for end in (np.min, np.max):
        stand_in[
            tuple(
                end(p) if isinstance(p, np.ndarray) and p.size and p.dtype.kind in "iu" else p
                for p in here
            )
        ]


# Axes and shapes ------------------------------------------------------------------------------


def normal_axes(op: str, shape: Sequence[int], axis: Axis) -> tuple[int, ...]:
    """Return axes as numbers from 0; ValueError for one that is not there or comes twice."""
    if axis is None:
        return tuple(range(len(shape)))
    wanted = axis if isinstance(axis, (tuple, list)) else (axis,)
    found = tuple(operator.index(a) + len(shape) * (a < 0) for a in wanted)
    if any(not 0 <= a < len(shape) for a in found) or len(set(found)) != len(found):
        raise ValueError(f"{op}: got axis {axis} for shape {tuple(shape)}")
    return found


def reduction(op: str, shape: Sequence[int], axis: Axis) -> tuple[tuple[int, ...], list[int]]:
    """Return the axes that a reduction is over, and the shape it has with `keepdims=True`."""
    axes = normal_axes(op, shape, axis)
    return axes, [1 if i in axes else size for i, size in enumerate(shape)]


def expanded_shape(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """Return `shape` with axes of length 1 put in, at places `axis` of the result."""
    ndim = len(shape) + (len(axis) if isinstance(axis, (tuple, list)) else 1)
    try:
        places = normal_axes("expand_dims", (1,) * ndim, axis)
    except ValueError:
        raise ValueError(f"expand_dims: got axis {axis} for shape {shape}") from None
    sizes = iter(shape)
    return tuple(1 if i in places else next(sizes) for i in range(ndim))


def unpacked(sizes: Sequence[Any]) -> Sequence[Any]:
    """Return what was given as one tuple or list, or as separate arguments."""
    return sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
