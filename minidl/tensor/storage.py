"""A tensor's storage: its array, version counter and gradient.

The array is on one device, and read-only outside `mutable()`; `Tensor` adds the operations.
"""

from __future__ import annotations

import contextlib
import math
import operator
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from minidl.autograd import Node, is_recording, set_recording
from minidl.backends import Array, Backend, asarray, backend_of
from minidl.context import Scoped
from minidl.idioms import unknown
from minidl.tensor.operands import check_broadcast, check_device, operand_array

forwards: Scoped[list[weakref.ref[Any]]] = Scoped([])
"""The modules' running forwards in this thread or task, each with its children's pending results,
which are computed later, by `Pending.settle`, but from the values that there are now."""


class Version:
    """Counts in-place changes of an array; every view of the array shares its counter.

    Attributes:
        count: how often the array was changed.
        open: the arrays that open `mutable` blocks may write to, innermost last.
    """

    __slots__ = ("count", "open")

    def __init__(self) -> None:
        self.count = 0
        self.open: tuple[Array, ...] = ()


class Hook:
    """A function that sees a tensor's gradient until `remove()`, or until a `with` block ends."""

    def __init__(self, tensor: TensorBase, function: Callable[[Any], Any]) -> None:
        self.function = function
        self._tensor = weakref.ref(tensor)  # a hook must not keep the graph alive

    def remove(self) -> None:
        """Stop calling the function."""
        tensor = self._tensor()
        if tensor is not None:
            tensor.hooks = tuple(hook for hook in tensor.hooks if hook is not self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


# What calls of NumPy's functions mean for `array * tensor` and its kind.
_REFLECTED = {
    "add": "__radd__", "subtract": "__rsub__", "multiply": "__rmul__", "divide": "__rtruediv__",
    "power": "__rpow__", "matmul": "__rmatmul__", "equal": "__eq__", "not_equal": "__ne__",
    "less": "__gt__", "less_equal": "__ge__", "greater": "__lt__", "greater_equal": "__le__",
}  # fmt: skip


def _refusal(name: str) -> TypeError:
    return TypeError(
        f"np.{name}: got a Tensor, expected arrays; write an operation of minidl, such as x + 1, "
        f"x.exp() or x.mean(0), whose gradient is known, or np.{name}(x.numpy()), which has none"
    )


class _Functions:
    """Leaves an array's operators to tensors, and refuses NumPy's functions in minidl's words.

    NumPy looks at the class. CuPy looks at the tensor, and leaves operators to it where it finds
    None.
    """

    def __get__(self, tensor: TensorBase | None, kind: type) -> Any:
        return self.call if tensor is None else None

    @staticmethod
    def call(tensor: Any, function: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Compute `array * tensor` and similar operators; refuse anything else."""
        given, name = inputs[0], function.__name__
        if name in _REFLECTED and options.get("out") is None and not isinstance(given, TensorBase):
            return getattr(tensor, _REFLECTED[name])(given)
        raise _refusal(name)


class TensorBase:
    """An array that is read-only by default, the count of its changes, and its gradient.

    Attributes:
        backend: the backend that holds the array.
        version: the counter of its changes, shared by all views of the same memory.
        node: how it was computed; None for a leaf.
        hooks: functions that see its gradient first.
        retains_grad: whether `backward` stores the gradient even if this is not a leaf.
    """

    __slots__ = (
        "__weakref__",
        "_data",
        "_grad",
        "_requires_grad",
        "backend",
        "hooks",
        "node",
        "retains_grad",
        "version",
    )

    def _hold(self, array: Array) -> None:
        # NumPy returns 0-d results as numbers, not arrays.
        plain = not isinstance(array, np.generic | Shown)
        self._data: Array = array if plain else np.asarray(array)
        self._begin(backend_of(self._data))
        self.backend.set_writeable(self._data, False)

    def _begin(self, backend: Backend) -> None:
        """Initialise everything except the array."""
        self.backend = backend
        self.version = Version()
        self._grad: Any = None
        self.node: Node | None = None
        self._requires_grad = False
        self.retains_grad = False
        self.hooks: tuple[Hook, ...] = ()

    if not TYPE_CHECKING:  # type checkers know the attributes that there are

        def __getattr__(self, name: str) -> Any:
            """Say how PyTorch's name for something is written here."""
            raise unknown(self, name)

    __array_ufunc__ = _Functions()

    # Its array --------------------------------------------------------------------------------

    @property
    def array(self) -> Array:
        """The array that operations compute with: NumPy's or CuPy's own, read-only."""
        return self._data

    @property
    def data(self) -> Array:
        """The array, as PyTorch's users know it: `w.data -= 0.1 * w.grad.data` changes the tensor.

        Assigning an array of its shape copies the values. Every change is counted: see `mutable`.
        Single elements are read-only. On a GPU, this is `array`.
        """
        array = self.array
        if type(array) is not np.ndarray:
            return array
        shown = array.view(Shown)
        shown.tensor = weakref.ref(self)  # an array must not keep the graph alive
        return shown

    @data.setter
    def data(self, value: Any) -> None:
        if isinstance(value, Shown) and value.tensor() is self:
            return  # the last step of `w.data -= x`
        new = value.array if isinstance(value, TensorBase) else asarray("Tensor.data", value)
        if new.shape != self.shape:
            raise ValueError(f"Tensor.data: got shape {new.shape}, expected {self.shape}")
        if not np.can_cast(new.dtype, self.dtype, "same_kind"):
            raise TypeError(f"Tensor.data: got dtype {new.dtype}, expected {self.dtype}")
        if backend_of(new) is not self.backend:
            new = self.backend.from_numpy(backend_of(new).to_numpy(new))
        with self.mutable() as array:
            array[...] = new

    @contextlib.contextmanager
    def mutable(self) -> Iterator[Array]:
        """Give write access to the array inside a `with` block.

        A pending backward that needs the old values, of this tensor or a view of it, raises.
        Views taken inside the block must not outlive it: NumPy leaves them writeable, and later
        writes are not counted. CuPy's arrays have no write flag at all: on a GPU, writing to
        `.data[...]` outside such a block is not caught.

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
        for reference in (r for pending in forwards.values() for r in pending):
            if (result := reference()) is not None:
                result.settle_before(self.version)
        try:
            self.backend.set_writeable(self._data, True)
        except ValueError:
            raise ValueError(
                f"Tensor.mutable: this tensor of shape {self.shape} is a view of another one; "
                "change that one, or a copy()"
            ) from None
        array, version = self._data, self.version
        version.open += (array,)
        version.count += 1
        try:
            yield array
        finally:
            version.count += 1  # to invalidate what was computed inside the block
            version.open = version.open[:-1]
            if not any(array is outer for outer in version.open):
                self.backend.set_writeable(array, False)

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError(
            "a Tensor does not support item assignment: a gradient may need the old values; write "
            "`with x.mutable() as array: array[...] = ...`, or choose values with where()"
        )

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
        """The NumPy dtype of the elements."""
        return self._data.dtype

    @property
    def stored(self) -> TensorBase:
        """The tensor that is stored: this one; for a `RowGradient`, its non-zero rows."""
        return self

    # Its gradient -----------------------------------------------------------------------------

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made it."""
        return self.node is None

    @property
    def requires_grad(self) -> bool:
        """Whether `backward` computes a gradient for it, or through it."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, requires_grad: bool) -> None:
        if requires_grad and self.dtype.kind != "f":
            raise TypeError(f"requires_grad: got dtype {self.dtype}, only floats have gradients")
        if not requires_grad and not self.is_leaf:
            raise RuntimeError("requires_grad_(False): this is an operation's result; use detach()")
        self._requires_grad = bool(requires_grad)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set whether `backward` computes a gradient for this leaf; return the tensor."""
        self.requires_grad = requires_grad
        return self

    def retain_grad(self) -> Self:
        """Make `backward` store the gradient of this operation's result; return the tensor."""
        self.retains_grad = True
        return self

    @property
    def grad(self) -> Self | None:
        """The gradient that `backward` has accumulated, or None."""
        if self._grad is None and not self.is_leaf and not self.retains_grad:
            warnings.warn(
                "this tensor is the result of an operation, so backward does not store its .grad; "
                "call retain_grad() on it before backward to store it",
                stacklevel=2,
            )
        found: Self | None = self._grad
        return found

    @grad.setter
    def grad(self, value: TensorBase | None) -> None:
        if value is not None:
            self._check_gradient("Tensor.grad", value)
        self._grad = value

    def reset_grad(self, set_to_none: bool = True) -> None:
        """Set the gradient to None; otherwise to zeros, if there is one."""
        if set_to_none or self._grad is None:
            self._grad = None
            return
        self._grad = self._grad.detach().copy()
        with self._grad.mutable() as array:
            array[...] = 0

    def register_hook(self, function: Callable[[Any], Any]) -> Hook:
        """Have `backward` call `function(gradient)` with this tensor's complete gradient.

        It is called before the gradient is stored in `.grad` or passed on to this tensor's inputs.
        It may return a replacement, but must not modify the gradient in place. Hooks run in the
        order they were registered, each on the result of the one before; copies of the tensor
        have none.

        Args:
            function: takes the gradient, of this tensor's shape and dtype; returns one, or None.

        Returns:
            A handle: `remove()` it, or use it in a `with` block.

        Raises:
            RuntimeError: the tensor requires no gradient, so the function would never be called.
            TypeError: not a function; or, in backward, its result is neither a tensor nor None.
            ValueError: in backward, its result has another shape or dtype.

        Example:
            >>> import minidl
            >>> x = minidl.Tensor([1.0, 2.0], requires_grad=True)
            >>> y = x * 3
            >>> with y.register_hook(lambda gradient: gradient * 10):
            ...     y.sum().backward()
            >>> x.grad
            Tensor([30., 30.], dtype=float32)
        """
        if not callable(function):
            raise TypeError(
                f"Tensor.register_hook: got a {type(function).__name__}, expected a function"
            )
        if not self.requires_grad:
            raise RuntimeError(
                "Tensor.register_hook: this tensor does not require a gradient, so the function "
                "would never be called"
            )
        hook = Hook(self, function)
        self.hooks += (hook,)
        return hook

    def hooked(self, gradient: Any, recording: bool) -> Any:
        """Run this tensor's hooks, with recording on or off, and return the resulting gradient."""
        for hook in self.hooks:
            given = gradient.copy()  # other tensors may get the same gradient
            with set_recording(recording):
                changed = hook.function(given)
            if given.version.count:
                raise RuntimeError(
                    "Tensor.register_hook: the function modified the gradient in place, which "
                    "has no effect; return a new one"
                )
            if changed is not None:
                self._check_gradient("Tensor.register_hook: the function's result", changed)
                gradient = changed.detach() if changed.node and not is_recording() else changed
        return gradient

    def _check_gradient(self, who: str, value: Any) -> None:
        if not isinstance(value, TensorBase):
            raise TypeError(f"{who}: got a {type(value).__name__}, expected a Tensor or None")
        check_device(who, value.backend, self.backend)
        if value.shape != self.shape or value.dtype != self.dtype:
            raise ValueError(
                f"{who}: got shape {value.shape} and {value.dtype}, "
                f"expected {self.shape} and {self.dtype}"
            )

    # Comparisons return plain bool arrays; `==` is elementwise, so tensors are not hashable.

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
        if not isinstance(other, (bool, int, float)):  # these keep their value: uint8 against -1
            other = operand_array(op, other.array if isinstance(other, TensorBase) else other, self)
            check_broadcast(op, self.shape, other.shape)
        return getattr(operator, op)(self._data, other)

    # Conversion to Python and NumPy ---------------------------------------------------------------

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a tensor without axes")
        return self.shape[0]

    def __bool__(self) -> bool:
        if self.size != 1:
            return bool(self._data)  # raises, and says why
        return bool(self.backend.number(self._data))

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return operator.index(self.item())

    def item(self) -> Any:
        """Return the only element as a Python number; raise ValueError for more or none."""
        if self.size != 1:
            raise ValueError(f"Tensor.item: got shape {self.shape}, expected a single element")
        return self.backend.number(self._data)

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return the values in a new NumPy array, which may be changed freely."""
        return self.backend.to_numpy(self._data)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse implicit conversion, which would silently copy and lose the graph."""
        raise TypeError(
            "a Tensor is not converted to an array implicitly; call .numpy(), or join a list of "
            "tensors with stack()"
        )

    def __dlpack__(self, **options: Any) -> Any:
        """Lend the array, read-only and without a copy, to `np.from_dlpack` or `torch.from_dlpack`.

        PyTorch 2.13 ignores that it is read-only, in `torch.tensor(x)` too: writing there changes
        this tensor, and `backward` cannot notice. To write, use `torch.from_dlpack(x, copy=True)`.

        Raises:
            BufferError: this tensor requires a gradient, which no other library would compute; or
                the other library's DLPack is older than 1.0, which has no read-only arrays.
        """
        if self.requires_grad:
            raise BufferError("a Tensor that requires a gradient cannot be shared; pass x.detach()")
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        """Return the numbers that the DLPack protocol gives the device's kind and index."""
        return self.array.__dlpack_device__()

    def __array_function__(self, function: Any, kinds: Any, inputs: Any, options: Any) -> Any:
        """Compute `np.shape(x)` and its kind; refuse functions that need an array, as `np.sum`."""
        try:
            return function._implementation(*inputs, **options)
        except TypeError as error:
            raise _refusal(function.__name__) from error

    def __repr__(self) -> str:
        values = np.array2string(self.numpy(), separator=", ", prefix="Tensor(", threshold=100)
        device = "" if self.device == "cpu" else f", device={self.device!r}"
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({values}, dtype={self.dtype}{device}{grad})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)


class Shown(np.ndarray[Any, Any]):
    """A tensor's `data`: its array, whose in-place operators change the tensor, and are counted.

    Attributes:
        tensor: returns the tensor; None for a part of its array, and when the tensor is gone.
    """

    tensor: Callable[[], TensorBase | None] = staticmethod(lambda: None)

    def __array_wrap__(
        self, array: Any, context: Any = None, return_scalar: bool = False
    ) -> np.ndarray[Any, Any]:
        """Let functions of it return plain arrays."""
        plain: np.ndarray[Any, Any] = array[()] if return_scalar else np.asarray(array)
        return plain

    def __setitem__(self, index: Any, value: Any) -> None:
        if not self.flags.writeable:
            raise ValueError(READ_ONLY)
        super().__setitem__(index, value)

    def __repr__(self) -> str:
        return repr(np.asarray(self))

    def __reduce__(self) -> Any:
        """Let `copy` and `pickle` make a plain array."""
        return np.asarray(self).__reduce__()


READ_ONLY = (
    "Tensor.data: single elements are read-only, because a gradient may need the old values; write "
    "`with w.mutable() as array: array[...] = ...`, `w.data = new_array`, or use an optimiser"
)


def _in_place(name: str) -> Callable[[Shown, Any], Any]:
    change = getattr(operator, name)

    def method(self: Shown, other: Any) -> Any:
        other = other.array if isinstance(other, TensorBase) else other
        tensor = self.tensor()
        if tensor is None:
            if not self.flags.writeable:
                raise ValueError(READ_ONLY)
            return change(np.asarray(self), other)
        with tensor.mutable() as array:
            change(array, other)
        return self

    return method


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior"):
    setattr(Shown, f"__{_name}__", _in_place(_name))
