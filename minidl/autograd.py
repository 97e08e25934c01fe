"""Reverse-mode automatic differentiation: recording, order, accumulation.

Every operation attaches a `Node` to its result: the inputs, and the *rule* that turns the gradient
of the output into gradients of the inputs. `backward` walks these nodes from the outputs to the
leaves, visits each after everything that used it, and adds up the gradients that arrive. It knows
nothing about what the operations compute.

Rules are written with tensor operations. When they run with recording on (`create_graph=True`),
the gradients have nodes too, which is all it takes to differentiate them again.

Source: the chain rule; for the method, A. Griewank and A. Walther, Evaluating Derivatives (2008),
chapter 3.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias, TypeVar

from minidl import handover
from minidl.backends import without_underflow
from minidl.context import Block, Scoped


class Value(Protocol):
    """The part of a tensor's interface that this module uses.

    Attributes:
        node: how it was computed; None for a leaf.
        version: its `count` increases whenever the array is changed.
        grad: the gradient that `backward` has accumulated so far.
        retains_grad: whether `backward` stores the gradient even if this is not a leaf.
    """

    node: Node | None
    version: Any
    grad: Any
    retains_grad: bool

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient is computed for it, or through it."""

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""

    @property
    def dtype(self) -> Any:
        """The type of its elements."""

    @property
    def backend(self) -> Any:
        """The backend that holds it; gradients must be there too."""

    def sum(self, axis: Any, keepdims: bool) -> Any:
        """Sum over axes."""

    def reshape(self, *shape: Any) -> Any:
        """Return the elements in another shape."""

    def copy(self) -> Any:
        """Return a copy with its own memory."""

    def hooked(self, gradient: Any, recording: bool) -> Any:
        """Run the hooks, with recording on or off, and return the resulting gradient."""

    def __add__(self, other: Any) -> Any:
        """Add two gradients."""


Gradients: TypeAlias = Sequence[Value | None]
"""One gradient per input of an operation; None where the input needs none."""

Rule: TypeAlias = Callable[..., Gradients]
"""Maps the gradient of an output (and the output, if `takes_output`) to `Gradients`."""

Found: TypeAlias = list[tuple[Any, Any]]
"""Inputs of an operation that need a gradient, each paired with it."""

V = TypeVar("V", bound=Value)


class Watcher(Protocol):
    """Sees every operation as it is recorded, and every rule as it is applied."""

    def made(self, op: str, result: Any, inputs: Sequence[Any]) -> None:
        """Inspect the result of an operation."""

    def arrived(self, tensor: Any, gradient: Any) -> None:
        """Inspect a tensor's complete gradient."""

    def differentiated(self, node: Node, found: Found) -> None:
        """Inspect the gradients that a rule returned."""


_recording = Scoped(True)
watchers: Scoped[Watcher | None] = Scoped(None)
_endings: Scoped[list[Callable[[], None]] | None] = Scoped(None)
line: ContextVar[str] = ContextVar("line", default="")
"""What new nodes note as `line`: that of the user's code whose gradient is being computed."""
recomputing: Scoped[bool] = Scoped(False)
"""Whether `checkpointed` runs a forward pass again: layers then leave their state unchanged."""

_adding = threading.RLock()  # held while adding to a gradient that other threads may add to
if hasattr(os, "register_at_fork"):  # a child has no other thread to release it
    os.register_at_fork(
        before=_adding.acquire, after_in_parent=_adding.release, after_in_child=_adding.release
    )


def is_recording() -> bool:
    """Return whether operations are being recorded in this thread or task."""
    return not _recording.blocks.get() or _recording.get()  # fast, since every operation asks


def set_recording(recording: bool) -> Block[bool]:
    """Turn recording on or off inside a `with` block or a decorated function."""
    return _recording.set(recording)


def no_grad() -> Block[bool]:
    """Stop recording inside a `with` block: results require no gradient and keep no graph alive.

    Other threads and asyncio tasks are not affected. A thread started inside the block records; a
    task or `asyncio.to_thread` started there does not, because it copies the context. (In
    free-threaded Python, threads copy it too.)

    `@no_grad()` does the same for each call of a function. For a generator or coroutine, it covers
    only the body's own code. By contrast, a `with` block around a `yield` also covers the code that
    the caller runs before it resumes the generator.

    Example:
        >>> import minidl
        >>> x = minidl.Tensor([1.0, 2.0], requires_grad=True)
        >>> with minidl.no_grad():
        ...     print((x * 2).requires_grad)
        False
    """
    return _recording.set(False)


def watcher() -> Watcher | None:
    """Return the watcher of this thread's or task's operations, or None."""
    return watchers.get()


def state() -> tuple[bool, Watcher | None]:
    """Return whether operations are being recorded, and their watcher."""
    return is_recording(), watcher()


def set_watcher(watcher: Watcher | None) -> Block[Watcher | None]:
    """Replace the watcher inside a `with` block."""
    return watchers.set(watcher)


class Node:
    """How a tensor was computed: the operation's name, its inputs, and the rule for gradients.

    It holds no reference to its own tensor: the two would keep each other alive. If a rule needs
    the output, the engine passes it in. `line` is the line of the user's code that ran the
    operation, noted under `detect_anomaly`.
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
        self.line = line.get()
        self.inputs: tuple[Any, ...] = tuple(inputs)
        self.rule: Rule | None = rule
        self.takes_output = takes_output
        # Rules read arrays later. If a version has changed by then, the array was modified in
        # between, and the gradient would be silently wrong.
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
        """Release everything that the rule kept alive."""
        self.inputs, self.rule = (), None

    def _input_versions(self) -> tuple[int, ...]:
        return tuple([0 if x is None else x.version.count for x in self.inputs])

    def _check_unchanged(self, output: Value) -> None:
        changed = (
            "was changed in place after the operation ran, so its gradient would be wrong; change "
            "a copy() instead, or call backward before changing it"
        )
        now = self._input_versions()
        if now != self.versions:
            place = next(i for i, version in enumerate(self.versions) if now[i] != version)
            shape = getattr(self.inputs[place], "shape", None)
            raise RuntimeError(f"input {place} of {self.op!r}, of shape {shape}, {changed}")
        if self.takes_output and output.version.count != self.output_version:
            raise RuntimeError(f"the output of {self.op!r}, of shape {output.shape}, {changed}")

    def _checked(self, x: Value, gradient: Value, place: int) -> Value:
        """Undo broadcasting, then check that the gradient matches its input."""
        rule = f"the gradient rule of {self.op!r} returned"
        if not hasattr(gradient, "backend"):  # the rule computed with arrays
            kind = type(gradient).__name__
            raise TypeError(f"{rule} {kind} for input {place}, expected a Tensor")
        gradient = sum_to(gradient, x.shape)
        if (gradient.shape, gradient.dtype) == (x.shape, x.dtype) and gradient.backend is x.backend:
            return gradient
        for what in ("shape", "dtype", "device"):
            got, wanted = getattr(gradient, what), getattr(x, what)
            if got != wanted:
                raise RuntimeError(
                    f"{rule} {what} {got} for input {place}, whose {what} is {wanted}"
                )
        return gradient


def sum_to(gradient: V, shape: tuple[int, ...]) -> V:
    """Undo broadcasting: sum over the axes along which `shape` was repeated.

    Returns the gradient unchanged if its shape cannot result from broadcasting `shape`.
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


@without_underflow
def backward(
    outputs: Sequence[Value],
    gradients: Sequence[Value],
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> None:
    """Add the gradient of `outputs`, weighted by `gradients`, to the `.grad` of every leaf.

    Each `.grad` has its own memory: a gradient that is referenced elsewhere is copied. Existing
    gradients are added to, not overwritten.

    Args:
        outputs: the tensors to differentiate.
        gradients: one for each output, of its shape and dtype.
        create_graph: record the computation of the gradients, to differentiate them again.
        retain_graph: keep the graph for another backward; defaults to `create_graph`.

    Raises:
        RuntimeError: the graph was freed, or an array it needs was changed.
    """
    before = _, seen_by = state()
    with set_recording(create_graph), set_watcher(None), _endings.set([]) as actions:
        for tensor, gradient in propagate(outputs, gradients, retain_graph, create_graph, before):
            if tensor.is_leaf or tensor.retains_grad:
                with _adding:
                    if tensor.grad is not None:
                        tensor.grad = tensor.grad + gradient
                    elif tensor.is_leaf and not create_graph and handover.is_free(gradient):
                        tensor.grad = gradient  # only this function and `propagate` refer to it
                    else:
                        tensor.grad = gradient.copy()
                if seen_by is not None:
                    seen_by.arrived(tensor, tensor.grad)
        for action in actions or ():
            action()


def endings() -> list[Callable[[], None]] | None:
    """Return what the running `backward` will call once all gradients are in place: append to it.

    None if no `backward` is running in this thread or task.
    """
    return _endings.get()


def propagate(
    outputs: Sequence[Value],
    gradients: Sequence[Value],
    retain_graph: bool | None,
    create_graph: bool,
    caller: tuple[bool, Watcher | None],
    wanted: Sequence[Value] | None = None,
) -> Iterator[tuple[Value, Value]]:
    """Yield every tensor that needs a gradient with its complete gradient, outputs first.

    With `wanted`, visit only tensors that were computed from one of these. The caller turns
    recording on or off and replaces the watcher by None, because the operations inside rules are
    not the user's: the watcher sees only gradients. `caller` is the `state` before that. Hooks,
    which may run another backward, record if operations were recorded then.
    """
    recording, watcher = caller
    retain = create_graph if retain_graph is None else retain_graph
    order = inputs_first(outputs, _differentiable_inputs)
    needed = _leading_to(wanted, order)
    arrived: dict[int, Value] = {}
    for output, gradient in zip(outputs, gradients, strict=True):
        accumulate(arrived, output, gradient)
    while order:
        tensor = order.pop()  # popped, so that each tensor is freed after its use
        if id(tensor) not in needed or id(tensor) not in arrived:
            continue
        gradient = tensor.hooked(arrived.pop(id(tensor)), recording or create_graph)
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
    """Add the gradients of a node's inputs to `arrived`."""
    for x, dx in apply_rule(node, gradient, output, watcher):
        if id(x) in needed:
            accumulate(arrived, x, dx)


def apply_rule(node: Node, gradient: Value, output: Value, watcher: Watcher | None) -> Found:
    """Apply a node's rule to the gradient of its output; `watcher`, if any, sees the results."""
    token = line.set(node.line)
    try:
        found = node.gradients(gradient, output)
    finally:
        line.reset(token)
    if watcher is not None:
        watcher.differentiated(node, found)
    return found


def _leading_to(wanted: Sequence[Value] | None, order: Sequence[Value]) -> set[int]:
    """Return the ids of the tensors in `order` that were computed from a wanted one."""
    if wanted is None:
        return {id(tensor) for tensor in order}
    needed = {id(tensor) for tensor in wanted}
    for tensor in order:
        node = tensor.node
        if node is not None and (node.rule is None or any(id(x) in needed for x in node.inputs)):
            needed.add(id(tensor))
    return needed


def accumulate(arrived: dict[int, Value], tensor: Value, gradient: Value) -> None:
    """Add a gradient to that of a tensor in `arrived`, which holds them by the tensor's id."""
    before = arrived.get(id(tensor))
    arrived[id(tensor)] = gradient if before is None else before + gradient


def inputs_first(outputs: Iterable[V], inputs: Callable[[V], Iterable[V]]) -> list[V]:
    """Return `outputs` and all they were computed from, each after all of its `inputs(tensor)`.

    Depth-first search with an explicit stack: recursion would overflow on a long graph.
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
