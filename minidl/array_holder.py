"""What a tensor is before it has gradients: an array on one device whose changes are counted."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from minidl.backends import Array, Backend, asarray, backend_for, backend_of

Axis: TypeAlias = int | tuple[int, ...] | None


class Version:
    """Counts in-place changes of an array; every view of the array shares its counter."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class ArrayHolder:
    """Holds an array: read-only unless asked, every change counted.

    Attributes:
        backend: the backend that the array belongs to.
        version: the counter of its changes, shared by all views of the same memory.
    """

    __slots__ = ("__weakref__", "_data", "backend", "version")

    _data: Array
    backend: Backend
    version: Version

    def _hold(self, array: Array) -> None:
        # NumPy makes a number, not an array, of a result without axes.
        self._data = np.asarray(array) if isinstance(array, np.generic) else array
        self.backend = backend_of(self._data)
        self.backend.set_writeable(self._data, False)
        self.version = Version()

    @property
    def data(self) -> Array:
        """The array, read-only. Assigning one of its shape copies the values into it."""
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        new = value.data if isinstance(value, ArrayHolder) else asarray(value)
        if new.shape != self.shape:
            raise ValueError(f"Tensor.data: got shape {new.shape}, wants {self.shape}")
        if not np.can_cast(new.dtype, self.dtype, "same_kind"):
            raise TypeError(f"Tensor.data: got dtype {new.dtype}, wants {self.dtype}")
        if backend_of(new) is not self.backend:
            new = self.backend.from_numpy(backend_of(new).to_numpy(new))
        with self.mutable() as array:
            array[...] = new

    @contextlib.contextmanager
    def mutable(self) -> Iterator[Array]:
        """Give write access to the array inside a `with` block.

        A pending backward that needs the old values, of this tensor or a view of it, raises.

        Raises:
            ValueError: the array is a view of another tensor's; change that one.

        Example:
            >>> import minidl
            >>> x = minidl.Tensor([1.0, 2.0])
            >>> with x.mutable() as array:
            ...     array += 1
            >>> x
            Tensor([2., 3.], dtype=float32)
        """
        try:
            self.backend.set_writeable(self._data, True)
        except ValueError:
            raise ValueError(
                f"Tensor.mutable: this tensor of shape {self.shape} is a view of another one; "
                "change that one, or a copy()"
            ) from None
        self.version.count += 1
        try:
            yield self._data
        finally:
            self.version.count += 1  # for what was computed inside the block
            self.backend.set_writeable(self._data, False)

    @property
    def device(self) -> str:
        """`"cpu"` or `"cuda"`."""
        return self.backend.device

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        shape: tuple[int, ...] = self._data.shape
        return shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> Any:
        """NumPy's name for the kind of number."""
        return self._data.dtype

    # Comparisons give plain arrays of bools; `==` goes element by element, so tensors do not hash.

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> Array:
        return self._compare("eq", other)

    def __ne__(self, other: object) -> Array:
        return self._compare("ne", other)

    def __lt__(self, other: Any) -> Array:
        return self._compare("lt", other)

    def __le__(self, other: Any) -> Array:
        return self._compare("le", other)

    def __gt__(self, other: Any) -> Array:
        return self._compare("gt", other)

    def __ge__(self, other: Any) -> Array:
        return self._compare("ge", other)

    def _compare(self, op: str, other: Any) -> Array:
        if not isinstance(other, (bool, int, float)):  # those keep their value: uint8 beside -1
            other = operand_array(op, other, self)
            check_broadcast(op, self.shape, other.shape)
        return getattr(operator, op)(self._data, other)

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a tensor without axes")
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self._data)

    def __float__(self) -> float:
        return float(self.item())

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return the values in a new NumPy array, which may be changed freely."""
        return self.backend.to_numpy(self._data)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse to become an array unasked: it would copy, and lose the graph, in silence."""
        raise TypeError("a Tensor does not turn into an array by itself; call .numpy()")

    def item(self) -> Any:
        """Return the only element as a Python number; ValueError if there are more or none."""
        if self.size != 1:
            raise ValueError(f"Tensor.item: got shape {self.shape}, wants a single element")
        return self._data.item()


def own_array(data: Any, dtype: Any, device: str | None) -> Array:
    """Return a new array of `data`, as `Tensor` takes it; Python floats become float32.

    Raises:
        TypeError: the data are not real numbers, or are of a float type other than two.
    """
    is_array = hasattr(data, "dtype")
    array = asarray(data)
    if dtype is None:
        dtype = np.float32 if array.dtype.kind == "f" and not is_array else array.dtype
    for kind in (array.dtype, np.dtype(dtype)):
        if kind.kind not in "fiub":
            raise TypeError(f"Tensor: got data of dtype {kind}, wants real numbers")
    if np.dtype(dtype).kind == "f" and np.dtype(dtype).itemsize not in (4, 8):
        raise TypeError(f"Tensor: got dtype {np.dtype(dtype)}, wants float32 or float64")
    source = backend_of(array)
    backend = source if device is None else backend_for(device)
    if backend is not source:
        array = backend.from_numpy(source.to_numpy(array))
    return array.astype(dtype, order="C", copy=True)


def operand_array(op: str, value: Any, like: ArrayHolder, copy: bool = False) -> Array:
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
    if isinstance(value, ArrayHolder):
        value, copy = value.data, False
    elif isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
        number = value.item() if isinstance(value, np.generic) else value
        kind = like.dtype
        if kind.kind != "f" and isinstance(number, float):
            kind = np.dtype(np.float32)
        elif kind.kind == "b":
            kind = np.dtype(type(number))
        return like.backend.xp.asarray(number, kind)
    elif getattr(getattr(value, "dtype", None), "kind", "") not in ("f", "i", "u", "b"):
        kind = getattr(value, "dtype", type(value).__name__)
        raise TypeError(f"{op}: got a {kind}, wants a tensor, an array or number, of real numbers")
    array = asarray(value)
    check_device(op, backend_of(array), like.backend)
    return array.copy(order="K") if copy else array[...]


def check_device(op: str, got: Backend, wanted: Backend) -> None:
    """Raise TypeError unless two operands are on one device."""
    if got is not wanted:
        raise TypeError(
            f"{op}: got tensors on {wanted.device!r} and {got.device!r}; "
            f"move one with .to({wanted.device!r})"
        )


def common_dtype(a: ArrayHolder, b: ArrayHolder) -> Any:
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


def index_part(part: Any, x: ArrayHolder) -> Any:
    """Return one part of an index of `x`: arrays as copies, lists and NumPy arrays moved to it."""
    if part is None or part is Ellipsis or isinstance(part, (int, slice)):
        return part
    if isinstance(part, np.generic):
        return part.item()
    if isinstance(part, (list, tuple)):
        part = np.array(part, None if len(part) else np.intp)
    if isinstance(part, np.ndarray):
        return x.backend.from_numpy(part)
    return operand_array("getitem", part, x).copy()


def normal_axes(op: str, shape: Sequence[int], axis: Axis | Sequence[int]) -> tuple[int, ...]:
    """Return axes as numbers from 0; ValueError for one that is not there or comes twice."""
    if axis is None:
        return tuple(range(len(shape)))
    wanted = axis if isinstance(axis, (tuple, list)) else (axis,)
    found = tuple(operator.index(a) + len(shape) * (a < 0) for a in wanted)
    if any(not 0 <= a < len(shape) for a in found) or len(set(found)) != len(found):
        raise ValueError(f"{op}: got axis {axis} for shape {tuple(shape)}")
    return found


def kept_shape(op: str, shape: Sequence[int], axis: Axis) -> tuple[int, ...]:
    """Return the shape that a reduction over `axis` has with `keepdims=True`."""
    reduced = normal_axes(op, shape, axis)
    return tuple(1 if i in reduced else size for i, size in enumerate(shape))


def check_broadcast(op: str, a: Sequence[int], b: Sequence[int]) -> None:
    """Raise ValueError unless arrays of shapes `a` and `b` can be combined element by element."""
    if any(m != n and 1 not in (m, n) for m, n in zip(reversed(a), reversed(b), strict=False)):
        raise ValueError(
            f"{op}: got shapes {tuple(a)} and {tuple(b)}; wants sizes that are equal or 1, "
            "counted from the last axis"
        )
