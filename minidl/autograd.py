"""Reverse-mode automatic differentiation: recording, order, accumulation.

Every operation that makes a tensor leaves a `Node` on it: the inputs, and the *rule* that turns the
gradient of the output into gradients of the inputs. `backward` walks these nodes from the outputs
to the leaves, each after everything that used it, and adds up what arrives. It knows nothing of
what the operations mean.

Rules are written with tensor operations. When they run with recording on (`create_graph=True`),
gradients are tensors with nodes of their own, which is all it takes to differentiate them again.

Source: the chain rule; for the method, A. Griewank and A. Walther, Evaluating Derivatives (2008),
chapter 3.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from minidl import handover


class Value(Protocol):
    """What this module asks of a tensor; it knows nothing else about tensors.

    Attributes:
        node: how it was computed; None for a leaf.
        version: its `count` goes up whenever the array is changed.
        grad: the gradient that `backward` has added up so far.
        retains_grad: whether `backward` keeps the gradient though this is no leaf.
    """

    node: Node | None
    version: Any
    grad: Any
    retains_grad: bool

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient is to be computed for it, or through it."""

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""

    @property
    def dtype(self) -> Any:
        """The kind of number."""

    @property
    def backend(self) -> Any:
        """Where it lies: gradients have to be there too."""

    def sum(self, axis: Any, keepdims: bool) -> Any:
        """Add up over axes."""

    def reshape(self, *shape: Any) -> Any:
        """Return the elements in another shape."""

    def copy(self) -> Any:
        """Return a tensor with memory of its own."""

    def hooked(self, gradient: Any) -> Any:
        """Return what hooks make of its gradient."""

    def __add__(self, other: Any) -> Any:
        """Add two gradients."""


Gradients: TypeAlias = Sequence[Value | None]
"""One gradient per input of an operation; None where the input needs none."""

Rule: TypeAlias = Callable[..., Gradients]
"""Maps the gradient of an output (and the output, if it was asked for) to `Gradients`."""

Found: TypeAlias = list[tuple[Any, Any]]
"""Inputs of an operation that need a gradient, each with its own."""

V = TypeVar("V", bound=Value)


class Watcher(Protocol):
    """Sees every operation as it is recorded, and every rule as it is applied."""

    def made(self, op: str, result: Any, inputs: Sequence[Any]) -> None:
        """Look at the result of an operation."""

    def arrived(self, tensor: Any, gradient: Any) -> None:
        """Look at a tensor's complete gradient, added up."""

    def differentiated(self, node: Node, found: Found) -> None:
        """Look at what a rule made of the gradient of its output."""


class _State(threading.local):
    recording = True
    watcher: Watcher | None = None
    line = ""  # of the user's code whose gradient is being computed


_state = _State()


def is_recording() -> bool:
    """Return whether operations are being recorded in this thread."""
    return _state.recording


@contextlib.contextmanager
def set_recording(recording: bool) -> Iterator[None]:
    """Record operations, or do not, inside a `with` block; restored when it ends."""
    before = _state.recording
    _state.recording = recording
    try:
        yield
    finally:
        _state.recording = before


def no_grad() -> contextlib.AbstractContextManager[None]:
    """Stop recording inside a `with` block: results need no gradient and keep no memory alive.

    Example:
        >>> import minidl
        >>> x = minidl.Tensor([1.0, 2.0], requires_grad=True)
        >>> with minidl.no_grad():
        ...     print((x * 2).requires_grad)
        False
    """
    return set_recording(False)


def watcher() -> Watcher | None:
    """Return what watches the operations of this thread, if anything does."""
    return _state.watcher


@contextlib.contextmanager
def set_watcher(watcher: Watcher | None) -> Iterator[Watcher | None]:
    """Show operations to `watcher` inside a `with` block, instead of to the one that it yields."""
    before = _state.watcher
    _state.watcher = watcher
    try:
        yield before
    finally:
        _state.watcher = before


class Node:
    """How one tensor was made: the operation's name, its inputs, and the rule for gradients.

    It never refers to the tensor it belongs to: the two would keep each other alive. Where a rule
    wants the output, the engine passes it in. `line` is where the user's code asked for it, noted
    under `detect_anomaly`.
    """

    __slots__ = ("inputs", "line", "op", "output_version", "rule", "takes_output", "versions")

    def __init__(
        self,
        op: str,
        inputs: Sequence[Value | None],
        rule: Rule,
        takes_output: bool,
        output_version: int,
    ) -> None:
        self.op = op
        self.line = _state.line
        self.inputs: tuple[Any, ...] = tuple(inputs)
        self.rule: Rule | None = rule
        self.takes_output = takes_output
        # Rules read arrays later. A version that has moved on by then means that the array was
        # changed in between, and that the gradient would be silently wrong.
        self.versions = self._input_versions()
        self.output_version = output_version

    def gradients(self, gradient: Value, output: Value) -> Found:
        """Apply the rule; return pairs of an input that needs a gradient and its gradient."""
        if self.rule is None:
            raise RuntimeError(
                f"backward through {self.op!r} a second time: its graph was freed by the first "
                "backward; pass retain_graph=True to the first one to keep it"
            )
        self._check_unchanged(output)
        found = self.rule(gradient, output) if self.takes_output else self.rule(gradient)
        if len(found) != len(self.inputs):
            raise RuntimeError(
                f"the gradient rule of {self.op!r} returned {len(found)} gradients "
                f"for {len(self.inputs)} inputs"
            )
        pairs = zip(self.inputs, found, strict=True)
        return [
            (x, self._checked(x, dx, place))
            for place, (x, dx) in enumerate(pairs)
            if x is not None and dx is not None and x.requires_grad
        ]

    def release(self) -> None:
        """Let go of everything the rule kept alive."""
        self.inputs, self.rule = (), None

    def _input_versions(self) -> tuple[int, ...]:
        return tuple([0 if x is None else x.version.count for x in self.inputs])

    def _check_unchanged(self, output: Value) -> None:
        now = self._input_versions()
        if now != self.versions:
            place = next(i for i, version in enumerate(self.versions) if now[i] != version)
            shape = getattr(self.inputs[place], "shape", None)
            raise RuntimeError(
                f"input {place} of {self.op!r}, of shape {shape}, was changed in "
                "place after the operation ran, so its gradient would be wrong; change a copy() "
                "instead, or call backward before changing it"
            )
        if self.takes_output and output.version.count != self.output_version:
            raise RuntimeError(
                f"the output of {self.op!r}, of shape {output.shape}, was changed in place after "
                "the operation ran, so its gradient would be wrong; change a copy() instead"
            )

    def _checked(self, x: Value, gradient: Value, place: int) -> Value:
        """Undo broadcasting, then insist that the gradient fits its input."""
        gradient = sum_to(gradient, x.shape)
        if (gradient.shape, gradient.dtype) == (x.shape, x.dtype) and gradient.backend is x.backend:
            return gradient
        for what in ("shape", "dtype", "device"):
            got, wanted = getattr(gradient, what), getattr(x, what)
            if got != wanted:
                raise RuntimeError(
                    f"the gradient rule of {self.op!r} returned {what} {got} for input {place}, "
                    f"whose {what} is {wanted}"
                )
        return gradient


def sum_to(gradient: V, shape: tuple[int, ...]) -> V:
    """Undo broadcasting: sum over the axes along which `shape` was repeated.

    Returns the gradient as it is when its shape could not have come from broadcasting `shape`.
    """
    if gradient.shape == shape:
        return gradient
    extra = len(gradient.shape) - len(shape)
    if extra < 0:
        return gradient
    repeated = [extra + i for i, size in enumerate(shape) if size == 1]
    summed = gradient.sum(tuple(range(extra)) + tuple(repeated), keepdims=True)
    if summed.shape[extra:] != shape:
        return gradient
    result: V = summed.reshape(shape)
    return result


def backward(
    outputs: Sequence[Value],
    gradients: Sequence[Value],
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> None:
    """Add the gradient of `outputs`, weighted by `gradients`, to the `.grad` of every leaf.

    Each `.grad` has memory of its own: a gradient that anybody else holds is copied. Gradients that
    were there are added to, not overwritten.

    Args:
        outputs: tensors to differentiate.
        gradients: one for each output, of its shape and dtype.
        create_graph: record the computation of the gradients, to differentiate them again.
        retain_graph: keep the graph for another backward; `create_graph` where not given.

    Raises:
        RuntimeError: the graph was freed, or an array it needs was changed.
    """
    with set_recording(create_graph), set_watcher(None) as watcher:
        for tensor, gradient in propagate(outputs, gradients, retain_graph, create_graph, watcher):
            if tensor.is_leaf or tensor.retains_grad:
                if tensor.grad is not None:
                    tensor.grad = tensor.grad + gradient
                elif tensor.is_leaf and not create_graph and handover.is_free(gradient, holders=2):
                    tensor.grad = gradient  # held here and in `propagate`: nobody else needs it
                else:
                    tensor.grad = gradient.copy()
                if watcher is not None:
                    watcher.arrived(tensor, tensor.grad)


def propagate(
    outputs: Sequence[Value],
    gradients: Sequence[Value],
    retain_graph: bool | None,
    create_graph: bool,
    watcher: Watcher | None,
    wanted: Sequence[Value] | None = None,
) -> Iterator[tuple[Value, Value]]:
    """Yield every tensor that needs a gradient with its complete gradient, outputs first.

    With `wanted`, go only where it leads to one of these. The caller decides, around it, whether to
    record, and that nothing watches but `watcher`: what rules compute are not the user's
    operations.
    """
    retain = create_graph if retain_graph is None else retain_graph
    order = inputs_first(outputs, _differentiable_inputs)
    needed = _leading_to(wanted, order)
    arrived: dict[int, Value] = {}
    for output, gradient in zip(outputs, gradients, strict=True):
        _accumulate(arrived, output, gradient)
    while order:
        tensor = order.pop()  # popped, not iterated over: what was used is freed on the way
        if id(tensor) not in needed or id(tensor) not in arrived:
            continue
        gradient = tensor.hooked(arrived.pop(id(tensor)))
        if watcher is not None:
            watcher.arrived(tensor, gradient)
        yield tensor, gradient
        node = tensor.node
        if node is None or not (node.rule is None or any(id(x) in needed for x in node.inputs)):
            continue
        _pass_on(node, gradient, tensor, watcher, needed, arrived)
        if not retain:
            node.release()


def _pass_on(
    node: Node,
    gradient: Value,
    output: Value,
    watcher: Watcher | None,
    needed: set[int],
    arrived: dict[int, Value],
) -> None:
    """Apply a node's rule to the gradient of its output; add what it gives to what has arrived."""
    _state.line = node.line
    try:
        found = node.gradients(gradient, output)
    finally:
        _state.line = ""
    if watcher is not None:
        watcher.differentiated(node, found)
    for x, dx in found:
        if id(x) in needed:
            _accumulate(arrived, x, dx)


def _leading_to(wanted: Sequence[Value] | None, order: Sequence[Value]) -> set[int]:
    """Return the ids of the tensors, of those in order, that were computed from a wanted one."""
    if wanted is None:
        return {id(tensor) for tensor in order}
    needed = {id(tensor) for tensor in wanted}
    for tensor in order:
        node = tensor.node
        if node is not None and (node.rule is None or any(id(x) in needed for x in node.inputs)):
            needed.add(id(tensor))
    return needed


def _accumulate(arrived: dict[int, Value], tensor: Value, gradient: Value) -> None:
    before = arrived.get(id(tensor))
    arrived[id(tensor)] = gradient if before is None else before + gradient


def inputs_first(outputs: Iterable[V], inputs: Callable[[V], Iterable[V]]) -> list[V]:
    """Return the tensors below `outputs`, each after all of its `inputs(tensor)`.

    Depth-first search with a stack of its own: Python's would overflow on a long graph.
    """
    order: list[V] = []
    seen: set[int] = set()
    stack = [(output, False) for output in outputs]
    while stack:
        tensor, inputs_are_done = stack.pop()
        if inputs_are_done:
            order.append(tensor)
        elif id(tensor) not in seen:
            seen.add(id(tensor))
            stack.append((tensor, True))
            stack.extend((x, False) for x in inputs(tensor))
    return order


def _differentiable_inputs(tensor: Value) -> list[Value]:
    node = tensor.node
    return [] if node is None else [x for x in node.inputs if x is not None and x.requires_grad]
