"""Tensor: an array that knows how it was computed, with NumPy's operations and their gradients.

Each operation is one method: it computes the output array, defines `backward` (the rule from the
output's gradient to the inputs'), and hands both to `record`. Read forward and gradient
together, top to bottom. In formulas, `g` is the gradient of the loss with respect to the output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from minidl import autograd
from minidl.autograd import Gradients, Node, Rule
from minidl.backends import Array, without_underflow
from minidl.tensor.operands import (
    Axis,
    check_broadcast,
    check_broadcast_to,
    check_device,
    check_matmul,
    common_dtype,
    device_given,
    each,
    expanded_shape,
    normal_axes,
    operand_array,
    own_array,
    reduction,
    refuse_bools,
    select,
    tensor_dtype,
    unpacked,
)
from minidl.tensor.storage import TensorBase

Operand: TypeAlias = Any
"""A Tensor, an array on the same device, or a number."""


class Tensor(TensorBase):
    """An array of numbers on one device, and its place in the graph of operations.

    Args:
        data: a number, nested list, array or tensor; copied. Python floats become float32.
        dtype: float32, float64, or any integer or bool type; that of `data` by default.
        device: `"cpu"` or `"cuda"`; by default where `data` already is, or the CPU.
        requires_grad: whether `backward` computes a gradient for it; floats only.

    Operations compute with `array`, which is read-only to NumPy: what a pending backward needs
    cannot be changed by accident. To change a tensor, assign to `data` or use its in-place
    operators, or write inside `with x.mutable() as array`; a backward that needed the old values
    then raises.

    Comparisons return plain arrays. `==` is elementwise, so tensors are not hashable.

    Raises:
        TypeError: the data are not real numbers, or `requires_grad` is set for non-floats.
        ValueError: the device is unknown, or the data are a ragged list.

    Example:
        >>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> (x * x).sum().backward()
        >>> x.grad
        Tensor([2., 4., 6.], dtype=float32)
    """

    __slots__ = ()

    def __init__(
        self, data: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False
    ) -> None:
        self._hold(own_array(data.array if isinstance(data, Tensor) else data, dtype, device))
        if requires_grad:
            self.requires_grad = True

    @classmethod
    def wrap(cls, array: Array) -> Tensor:
        """Wrap an array in a tensor without copying it; nothing else may write to it."""
        tensor = object.__new__(Tensor)
        tensor._hold(array)
        return tensor

    def __reduce__(self) -> tuple[Any, ...]:
        """Let `copy` and `pickle` rebuild a leaf, including its gradient."""
        if self.node is not None:
            raise TypeError(
                f"copy or pickle: got the result of {self.node.op!r}, which belongs to a graph; "
                "detach() it first"
            )
        gradient = None if self._grad is None else self._grad.numpy()
        return _rebuild, (type(self), self.numpy(), self.device, self._requires_grad, gradient)

    # Its place in the graph -------------------------------------------------------------------

    def detach(self) -> Tensor:
        """Return a tensor with the same array, through which no gradient flows."""
        result = Tensor.wrap(self._data)
        result.version = self.version
        return result

    def seed_gradient(self, gradient: Operand = None) -> Tensor:
        """Return the gradient that `backward` starts from: the given one, or 1."""
        if not self.requires_grad:
            off = "" if autograd.is_recording() else "; recording is off (no_grad)"
            raise RuntimeError(
                "backward: this tensor was not computed from any tensor that requires a gradient, "
                f"or was computed under no_grad{off}"
            )
        if gradient is None:
            if self.size != 1:
                raise ValueError(
                    f"backward: got an output of shape {self.shape}, expected a single number "
                    "such as a mean loss, or a gradient of the output's shape as an argument"
                )
            return Tensor.wrap(self.backend.xp.ones(self.shape, self.dtype))
        start = _operand("backward", gradient, self)
        if start.shape != self.shape:
            raise ValueError(
                f"backward: got a gradient of shape {start.shape}, expected {self.shape}"
            )
        return start.to(dtype=self.dtype)

    def backward(
        self,
        gradient: Operand = None,
        *,
        create_graph: bool = False,
        retain_graph: bool | None = None,
    ) -> None:
        """Add the gradient of this tensor to the `.grad` of every leaf it was computed from.

        Args:
            gradient: what to start from, of this tensor's shape; by default 1, for a single number.
            create_graph: record the computation, so that gradients can be differentiated again.
                `.grad` then refers to the graph and the graph to its leaves; set `.grad = None`
                when done, or use `minidl.grad`, which makes no such cycle.
            retain_graph: keep the graph for another backward; defaults to `create_graph`.

        Raises:
            ValueError: a gradient is missing, as this is not a single number, or has another shape.
            RuntimeError: this tensor requires no gradient, its graph was freed, or an array
                was changed after it was used.
        """
        gradient = self.seed_gradient(gradient)
        autograd.backward([self], [gradient], create_graph=create_graph, retain_graph=retain_graph)

    # Copies and casts -------------------------------------------------------------------------

    def to(self, device: str | None = None, dtype: Any = None) -> Tensor:
        """Return the tensor on a device and in a dtype: itself if nothing changes, else a copy."""
        array, source, before = self._data, self.backend, self.dtype
        dtype = before if dtype is None else tensor_dtype("to", dtype)
        backend = source if device is None else device_given("to", device)
        if backend is source and dtype == before:
            return self
        if backend is not source:
            array = backend.from_numpy(source.to_numpy(array))
        if dtype != before:
            array = array.astype(dtype)

        def backward(gradient: Tensor) -> Gradients:
            return (gradient.to(source.device, before),)

        return record("to", array, (self,), backward)

    def to_(self, device: str | None = None, dtype: Any = None) -> Tensor:
        """Move this leaf and its gradient in place; return it. Optimisers that hold it stay valid.

        Raises:
            RuntimeError: this is the result of an operation.
        """
        if not self.is_leaf:
            raise RuntimeError("to_: this is an operation's result; use to()")
        with autograd.no_grad():
            moved = self.to(device, dtype)
            self._grad = None if self._grad is None else self._grad.to(device, dtype)
        if moved is not self:
            self._data, self.backend = moved._data, moved.backend
            self.version.count += 1
        return self

    def copy(self) -> Tensor:
        """Return a copy with its own row-major memory; gradients flow through."""

        def backward(gradient: Tensor) -> Gradients:
            return (gradient,)

        return record("copy", self._data.copy(order="C"), (self,), backward)

    # Arithmetic -------------------------------------------------------------------------------

    def __neg__(self) -> Tensor:
        refuse_bools("neg", self, self)

        def backward(gradient: Tensor) -> Gradients:
            return (-gradient,)

        return record("neg", -self._data, (self,), backward)

    def __add__(self, other: Operand) -> Tensor:
        a, b = _pair("add", self, other)

        def backward(gradient: Tensor) -> Gradients:
            return gradient, gradient

        return record("add", each("add", a, b), (a, b), backward)

    __radd__ = __add__

    def __sub__(self, other: Operand) -> Tensor:
        a, b = _pair("sub", self, other)
        refuse_bools("sub", a, b)

        def backward(gradient: Tensor) -> Gradients:
            return gradient, -gradient if b.requires_grad else None

        return record("sub", each("subtract", a, b), (a, b), backward)

    def __rsub__(self, other: Operand) -> Tensor:
        return _operand("sub", other, self) - self

    def __mul__(self, other: Operand) -> Tensor:
        a, b = _pair("mul", self, other)

        def backward(gradient: Tensor) -> Gradients:
            return (
                gradient * b if a.requires_grad else None,
                gradient * a if b.requires_grad else None,
            )

        return record("mul", each("multiply", a, b), (a, b), backward)

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> Tensor:
        a, b = _pair("div", self, other, floats=True)

        def backward(gradient: Tensor) -> Gradients:
            return (
                gradient / b if a.requires_grad else None,
                -gradient * (a / b / b) if b.requires_grad else None,
            )

        return record("div", each("divide", a, b), (a, b), backward)

    def __rtruediv__(self, other: Operand) -> Tensor:
        return _operand("div", other, self) / self

    @without_underflow
    def __pow__(self, other: Operand) -> Tensor:
        """Raise to a power: `a**b` has gradients `g * b * a**(b - 1)` and `g * a**b * log(a)`.

        As in PyTorch, both are 0 where they would be 0 times infinity: the first at `a**0` if a is
        0 or so small that `1 / a` is infinite, the second at `0**b` for `b >= 0`.
        """
        if type(other) is int and other == 2 and self.dtype.kind == "f":
            return self * self  # half the time, forward and backward
        a, b = _pair("pow", self, other)

        def backward(gradient: Tensor, output: Tensor) -> Gradients:
            da = db = None
            if a.requires_grad:  # at 0**0, 1**-1 instead of the infinite 0**-1
                base = a + ((abs(a.array) < np.finfo(a.dtype).tiny) & (b.array == 0))
                da = gradient * (b * base ** (b - 1))
            if b.requires_grad:  # at 0**b, log(1) instead of the infinite log(0)
                base = a + ((a.array == 0) & (b.array >= 0))
                db = gradient * (output * base.log())
            return da, db

        return record("pow", a.array**b.array, (a, b), backward, takes_output=True)

    def __rpow__(self, other: Operand) -> Tensor:
        return _operand("pow", other, self) ** self

    def __matmul__(self, other: Operand) -> Tensor:
        """Multiply vectors, or matrices stacked over leading axes, as NumPy does."""
        a, b = _one_dtype(self, _operand("matmul", other, self))
        check_matmul(a.shape, b.shape)
        if a.ndim == 1:
            return (a.expand_dims(0) @ b).squeeze(-1 if b.ndim == 1 else -2)
        if b.ndim == 1:
            return (a @ b.expand_dims(1)).squeeze(-1)

        def backward(gradient: Tensor) -> Gradients:
            da = gradient @ b.swapped() if a.requires_grad else None
            if not b.requires_grad:
                return da, None
            # In the memory order of b, because a layer's weight is transposed: an optimiser reads
            # the gradient with the weight. SGD on 20 million values takes 28 ms instead of 131.
            if b.ndim == 2 and b.array.strides[0] < b.array.strides[1]:
                return da, (gradient.swapped() @ a).swapped()
            return da, a.swapped() @ gradient

        return record("matmul", a.backend.matmul(a.array, b.array), (a, b), backward)

    def __rmatmul__(self, other: Operand) -> Tensor:
        return _operand("matmul", other, self) @ self

    def __iadd__(self, other: Operand) -> Tensor:
        """Refuse `weight -= step` on a leaf: it would make a new tensor that is never trained."""
        if self.is_leaf and self.requires_grad:
            raise TypeError(
                "in-place update of a leaf that requires a gradient, which would make a new "
                "tensor and not change this one; write `p.data -= ...` or "
                "`with p.mutable() as array: array -= ...`, or use an optimiser"
            )
        return NotImplemented  # Python then computes `x = x + other`

    __isub__ = __imul__ = __itruediv__ = __ipow__ = __imatmul__ = __iadd__

    # Functions of one element -----------------------------------------------------------------

    def exp(self) -> Tensor:
        """Return exponentials y; the gradient is `g * y`."""
        x = _floats(self)

        def backward(gradient: Tensor, output: Tensor) -> Gradients:
            return (gradient * output,)

        return record("exp", each("exp", x), (x,), backward, takes_output=True)

    def log(self) -> Tensor:
        """Return natural logarithms; the gradient is `g / x`."""
        x = _floats(self)

        def backward(gradient: Tensor) -> Gradients:
            return (gradient / x,)

        return record("log", each("log", x), (x,), backward)

    def sqrt(self) -> Tensor:
        """Return square roots y; the gradient is `g / (2 * y)`, infinite at 0."""
        x = _floats(self)

        def backward(gradient: Tensor, output: Tensor) -> Gradients:
            return (gradient / (output * 2),)

        return record("sqrt", each("sqrt", x), (x,), backward, takes_output=True)

    def tanh(self) -> Tensor:
        """Return hyperbolic tangents y; the gradient is `g * (1 - y**2)`."""
        x = _floats(self)

        def backward(gradient: Tensor, output: Tensor) -> Gradients:
            return (gradient * (1 - output * output),)

        return record("tanh", each("tanh", x), (x,), backward, takes_output=True)

    def abs(self) -> Tensor:
        """Return absolute values; the gradient is `g * sign(x)`, which is 0 at 0."""

        def backward(gradient: Tensor) -> Gradients:
            return (gradient * self.backend.xp.sign(self.array),)

        return record("abs", self.backend.xp.abs(self._data), (self,), backward)

    __abs__ = abs

    def clip(self, low: float | None = None, high: float | None = None) -> Tensor:
        """Limit elements to `low <= x <= high`; the gradient passes inside, ends included.

        Raises:
            ValueError: neither limit is given, or `low > high`.
        """
        low, high = (v.item() if isinstance(v, np.generic) else v for v in (low, high))
        if low is None and high is None:
            raise ValueError("clip: got no limit, expected low, high, or both")
        if low is not None and high is not None and low > high:
            raise ValueError(f"clip: got low={low} > high={high}")
        x = _floats(self) if isinstance(low, float) or isinstance(high, float) else self
        xp = x.backend.xp

        def backward(gradient: Tensor) -> Gradients:
            return (gradient * (x.array == xp.clip(x.array, low, high)),)

        return record("clip", xp.clip(x.array, low, high), (x,), backward)

    # Reductions -------------------------------------------------------------------------------

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Sum over `axis` (all axes if None); each element gets the sum's gradient."""
        axes, kept = reduction("sum", self.shape, axis)

        def backward(gradient: Tensor) -> Gradients:
            return (gradient.reshape(kept).broadcast_to(self.shape),)

        return record("sum", self.backend.sum(self._data, axes, keepdims), (self,), backward)

    @without_underflow
    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Average over `axis` (all axes if None); each of m elements gets `g / m`."""
        x = _floats(self)
        axes, kept = reduction("mean", x.shape, axis)
        count = math.prod(x.shape[i] for i in axes)
        if count == 0:
            raise ValueError(f"mean: got no elements to average, shape {x.shape} over axis {axis}")

        def backward(gradient: Tensor) -> Gradients:
            return ((gradient / count).reshape(kept).broadcast_to(x.shape),)

        return record("mean", x.backend.sum(x.array, axes, keepdims) / count, (x,), backward)

    def var(self, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
        """Return the variance over `axis`: `sum((x - mean)**2) / (m - ddof)` of m elements.

        `ddof=0`, NumPy's default, is the variance of the elements themselves; `ddof=1`, PyTorch's
        default, estimates that of the population they were drawn from.
        """
        centred, count = _centred("var", self, axis, ddof)
        return (centred * centred).sum(axis, keepdims) / count

    def std(self, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
        """Return the standard deviation `sqrt(var)` over `axis`; its gradient is 0 where it is 0.

        The gradient of `var().sqrt()` would be infinite or NaN there. See `var` for `ddof`.
        """
        centred, count = _centred("std", self, axis, ddof)
        return centred.norm(2, axis, keepdims) / math.sqrt(count)

    def norm(self, p: float = 2, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Return the p-norm `sum(abs(x)**p)**(1 / p)` over `axis`; its gradient is 0 where it is 0.

        `math.inf` gives the largest absolute value. Elements are divided by this value before they
        are raised to the power p, so that neither 1e30 nor 1e-30 leaves float32's range.

        Raises:
            ValueError: `p` is not positive, or there are no elements and `p` is `math.inf`.
        """
        if not p > 0:
            raise ValueError(f"norm: got p={p!r}, expected a number > 0, or math.inf")
        x, xp = _floats(self), self.backend.xp
        axes, sizes = normal_axes("norm", x.shape, axis), x.abs()
        if p in (1, math.inf) or not x.size:
            return sizes.max(axis, keepdims) if p == math.inf else sizes.sum(axis, keepdims)
        top = sizes.array.max(axes, keepdims=True)
        zero = top == 0  # replaced by 1, then by 0 again: roots of 0 have infinite derivatives
        unit = xp.where(zero | (top == math.inf), x.dtype.type(1), top)
        ratio = (sizes + zero) / unit
        root = (ratio * ratio if p == 2 else ratio**p).sum(axis, keepdims) ** (1 / p)
        norm: Tensor = root * (unit * ~zero).reshape(root.shape)
        return norm

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Return the largest elements over `axis`; equal ones share the gradient evenly.

        Ties are handled as in PyTorch's `amax`, and its `max()` of a whole tensor. NaN propagates;
        several NaNs share the gradient, as in its `max()`.
        """
        return _extreme("max", self, axis, keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Return the smallest elements over `axis`; equal ones share the gradient evenly."""
        return _extreme("min", self, axis, keepdims)

    # Shape and selection ----------------------------------------------------------------------

    def reshape(self, *shape: Any) -> Tensor:
        """Return the elements in another shape, in row-major order; one size may be -1."""
        sizes = unpacked(shape)

        def backward(gradient: Tensor) -> Gradients:
            return (gradient.reshape(self.shape),)

        try:
            array = self._data.reshape(sizes)
        except ValueError:
            raise ValueError(
                f"reshape: got {self.size} elements of shape {self.shape}, "
                f"which do not fill shape {tuple(int(size) for size in sizes)}"
            ) from None
        return record("reshape", array, (self,), backward)

    def flatten(self, start_axis: int = 0) -> Tensor:
        """Merge the axes from `start_axis` on into one."""
        if not self.ndim:
            return self.reshape(1)
        start = normal_axes("flatten", self.shape, start_axis)[0]
        return self.reshape(*self.shape[:start], math.prod(self.shape[start:]))

    def transpose(self, *axes: Any) -> Tensor:
        """Reorder the axes; reverse them if none are given."""
        order = tuple(unpacked(axes)) or tuple(reversed(range(self.ndim)))
        if sorted(normal_axes("transpose", self.shape, order)) != list(range(self.ndim)):
            raise ValueError(f"transpose: got axes {order}, expected each of {self.ndim} axes once")
        inverse = tuple(int(i) for i in np.argsort(normal_axes("transpose", self.shape, order)))

        def backward(gradient: Tensor) -> Gradients:
            return (gradient.transpose(inverse),)

        return record("transpose", self._data.transpose(order), (self,), backward)

    @property
    def T(self) -> Tensor:  # noqa: N802 - NumPy's name
        """The tensor with its axes reversed."""
        return self.transpose()

    def swapped(self) -> Tensor:
        """Return the tensor with its last two axes exchanged: every matrix transposed."""
        return self.transpose(*range(self.ndim - 2), self.ndim - 1, self.ndim - 2)

    def squeeze(self, axis: Axis = None) -> Tensor:
        """Drop axes of length 1: those given, or all."""
        if axis is None:
            axis = tuple(i for i, size in enumerate(self.shape) if size == 1)
        dropped = normal_axes("squeeze", self.shape, axis)
        if any(self.shape[i] != 1 for i in dropped):
            raise ValueError(f"squeeze: got shape {self.shape}, expected length 1 at axis {axis}")
        return self.reshape(tuple(s for i, s in enumerate(self.shape) if i not in dropped))

    def expand_dims(self, axis: Axis) -> Tensor:
        """Insert an axis of length 1, or several, at index `axis` of the result."""
        return self.reshape(expanded_shape(self.shape, axis))

    def broadcast_to(self, shape: Sequence[int]) -> Tensor:
        """Repeat the elements along axes of length 1, and new leading axes, up to `shape`."""

        def backward(gradient: Tensor) -> Gradients:
            return (gradient,)  # the engine sums it back to this tensor's shape

        check_broadcast_to(self.shape, shape)
        array = self.backend.xp.broadcast_to(self._data, tuple(shape))
        return record("broadcast_to", array, (self,), backward)

    def __getitem__(self, index: Any) -> Tensor:
        """Select by slices, integers, None, Ellipsis, and integer or boolean arrays, as NumPy does.

        The gradient is added into zeros; an element selected several times gets the sum.
        Lists and NumPy arrays are moved to the tensor's device; an index tensor must be on it.
        """
        plain, array = select(index, self)

        def backward(gradient: Tensor) -> Gradients:
            return (_put(gradient, self.shape, plain),)

        return record("getitem", array, (self,), backward)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))


def _rebuild(
    kind: type[Tensor], array: Array, device: str, requires_grad: bool, gradient: Array | None
) -> Tensor:
    """Rebuild the tensor that `__reduce__` described."""
    tensor = object.__new__(kind)
    tensor._hold(own_array(array, None, device))
    tensor.requires_grad = requires_grad
    if gradient is not None:
        tensor.grad = tensor.wrap(own_array(gradient, None, device))
    return tensor


# How operations are recorded ------------------------------------------------------------------


def record(
    op: str,
    array: Array,
    inputs: Sequence[Tensor | None],
    backward: Rule,
    takes_output: bool = False,
) -> Tensor:
    """Wrap `array` as an operation's result; record how it was computed if it needs a gradient.

    Args:
        op: the operation's name, for messages and drawings.
        array: its result, which nothing else may write to; a view of an input is fine.
        inputs: the tensors it was computed from; None for an optional one that is absent.
        backward: takes the result's gradient and returns one gradient, or None, per input.
        takes_output: whether `backward` takes the result as its second argument. It must not
            capture it: the two would keep each other alive.
    """
    result = Tensor.wrap(array)
    base, differentiable = array.base, False
    for x in inputs:
        if x is not None:
            own = x._data
            if array is own or (base is not None and (base is own or base is own.base)):
                result.version = x.version  # a view: a change of one changes the other
            differentiable = differentiable or x._requires_grad
    if differentiable and autograd.is_recording() and array.dtype.kind == "f":
        result._requires_grad = True
        result.node = Node(op, inputs, backward, takes_output, result.version.count)
    watcher = autograd.watcher()
    if watcher is not None:
        watcher.made(op, result, inputs)
    return result


def _operand(op: str, value: Operand, like: Tensor) -> Tensor:
    """Return `value` as a tensor to combine with `like`; an array must be on the same device."""
    if not isinstance(value, Tensor):
        return Tensor.wrap(operand_array(op, value, like, copy=autograd.is_recording()))
    check_device(op, value.backend, like.backend)
    return value


def as_operands(op: str, a: Operand, b: Operand) -> tuple[Tensor, Tensor]:
    """Return two operands, at least one of them a tensor, as tensors of one dtype and device."""
    if isinstance(a, Tensor):
        return _pair(op, a, b)
    if not isinstance(b, Tensor):
        raise TypeError(f"{op}: got {type(a).__name__} and {type(b).__name__}, expected a tensor")
    b, a = _pair(op, b, a)
    return a, b


def _pair(op: str, a: Tensor, other: Operand, floats: bool = False) -> tuple[Tensor, Tensor]:
    """Return two operands that broadcast together, in one dtype."""
    b = _operand(op, other, a)
    if b.shape and a.shape != b.shape:
        check_broadcast(op, a.shape, b.shape)
    if floats and a.dtype.kind != "f" and b.dtype.kind != "f":
        a, b = _floats(a), _floats(b)
    return _one_dtype(a, b)


def _one_dtype(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    dtype = common_dtype(a, b)
    return (a, b) if dtype is None else (a.to(dtype=dtype), b.to(dtype=dtype))


def _floats(x: Tensor) -> Tensor:
    """Return integers and bools as float32, floats as they are."""
    return x if x.dtype.kind == "f" else x.to(dtype=np.float32)


def _centred(op: str, x: Tensor, axis: Axis, ddof: int) -> tuple[Tensor, int]:
    """Return the elements minus their mean, and the divisor of the sum of their squares."""
    count = math.prod(x.shape[i] for i in normal_axes(op, x.shape, axis))
    if count <= ddof:
        raise ValueError(f"{op}: got {count} elements with ddof={ddof}, expected more than ddof")
    return x - x.mean(axis, keepdims=True), count - ddof


def _extreme(op: str, x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    axes, kept = reduction(op, x.shape, axis)
    if 0 in (x.shape[i] for i in axes):
        raise ValueError(f"{op}: got no elements, shape {x.shape} over axis {axis}")

    def backward(gradient: Tensor, output: Tensor) -> Gradients:
        # NaN differs from itself, but it is the winner here: count it as equal.
        winners = (x.array == output.array.reshape(kept)) | (x.array != x.array)
        shares = winners / winners.sum(axes, keepdims=True)
        return (gradient.reshape(kept) * Tensor.wrap(shares.astype(x.dtype)),)

    result = getattr(x.array, op)(axes, keepdims=keepdims)
    return record(op, result, (x,), backward, takes_output=True)


def _put(gradient: Tensor, shape: tuple[int, ...], index: tuple[Any, ...]) -> Tensor:
    """Add `gradient` into zeros of `shape` at `index`: the transpose of `getitem`."""
    array = gradient.backend.xp.zeros_like(gradient.array, shape=shape)  # in its memory order
    if all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in index):
        array[index] = gradient.array  # no element occurs twice
    else:
        gradient.backend.index_add(array, index, gradient.array)

    def backward(outer: Tensor) -> Gradients:
        return (outer[index],)

    return record("put", array, (gradient,), backward)
