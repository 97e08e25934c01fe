"""Activation checkpointing: backward computes a segment's activations again, to save memory.

A network keeps every layer's activations until backward has used them, so memory grows with the
number of layers. A segment that runs under `checkpointed` keeps only its inputs; backward runs it a
second time, after the activations of later segments have been freed. With one segment per sqrt(n)
of n layers, memory grows with sqrt(n), at the cost of one more forward pass. A training step of
ResNet-50 (16 images, 224x224) with one segment per block needs 652 MiB for new arrays instead of
1,486, which saves 875,155,067 bytes. It takes 1.34 times the processor time (with 4 images; AMD
EPYC, family 25; `python -m tests.benchmarks.recompute`).

The first run is recorded as usual. Its graph is searched for the outside tensors that the segment
used, such as parameters, and then discarded. One node that has these tensors as inputs is recorded
in its place. So the engine sees the segment as one operation: hooks, frozen parameters,
`minidl.grad` and the check for tensors changed in place work as for any other. The node's rule runs
the function again and differentiates the new graph down to the same tensors. If recording is on,
this is recorded too, so the rule itself can be differentiated.

Source: T. Chen et al., Training Deep Nets with Sublinear Memory Cost (2016).
"""

from __future__ import annotations

import contextlib
import functools
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, Self, TypeVar

import numpy as np

from minidl.autograd import (
    Gradients,
    Watcher,
    accumulate,
    apply_rule,
    inputs_first,
    is_recording,
    line,
    recomputing,
    set_recording,
    watcher,
    watchers,
)
from minidl.backends import Array, Backend, backend_for
from minidl.functional.fused import Pending
from minidl.nn.module import Parameter, observers
from minidl.random import generator, restore, state_of, streams
from minidl.tensor import Tensor, record
from minidl.tensor.storage import forwards

P = ParamSpec("P")
R = TypeVar("R")
Arrived = dict[int, tuple[Tensor, Tensor]]
"""Maps the index of a result to its gradient, and to that result of the first run."""


def checkpointed(fn: Callable[P, R], /, *inputs: P.args, **options: P.kwargs) -> R:
    """Return `fn(*inputs, **options)` without keeping its activations: backward runs `fn` again.

    Results and gradients are those of a plain call, to any order. Backward takes one more forward
    pass. Under `no_grad`, this is a plain call; so it is under `nn.observe` and `detect_anomaly`,
    which look inside the segment.

    Use it for parts of a network, such as residual blocks, not for the whole: while backward is in
    a part, all activations of that part are in memory. Checkpointed parts may be nested.

    The second run draws the same random numbers: it rewinds every generator that the first run drew
    from, if it is the global one or `minidl.random.streams` finds it in `fn` or its arguments.
    Threads that draw at the same time each need a generator of their own, because rewinding a
    shared one would affect the others. Pass a block itself, not a function that refers to the whole
    network, so that the search for generators is short.

    The layers of minidl update their state (running statistics, rows shortened by `max_norm`) in
    the first run only; your own layers can test `minidl.autograd.recomputing.get()`. Anything else
    that `fn` changes, such as a list that it appends to, is changed twice. Gradients through
    tensors stored in such a list are correct, but those of the first run keep its activations in
    memory.

    Args:
        fn: a module or function that returns a tensor or a tuple of tensors. It may use tensors
            other than its arguments; those that require a gradient must exist before it runs.
        inputs: its arguments, of any type.
        options: its keyword arguments.

    Returns:
        What `fn` returns.

    Raises:
        TypeError: `fn` returned something else, or computed on a GPU although the first tensor
            among its arguments is on another device.
        RuntimeError: in backward: the second run differs from the first in its results (by more
            than rounding) or in the tensors that it used.

    Source: T. Chen et al., Training Deep Nets with Sublinear Memory Cost (2016).

    Example:
        >>> import minidl
        >>> from minidl import nn
        >>> block = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 4))
        >>> y = checkpointed(block, minidl.ones((2, 4)))
        >>> y.sum().backward()  # runs the block again
    """
    if not is_recording() or observers.get() is not None or watcher() is not None:
        return fn(*inputs, **options)
    for waiting in forwards.values():  # so that outside tensors already have their nodes
        for reference in waiting:
            if (pending := reference()) is not None:
                pending.settle()
    given = {id(x): _settled(x) for x in (*inputs, *options.values()) if isinstance(x, Tensor)}
    backend = next((x.backend for x in given.values()), backend_for("cpu"))
    drawn = _Streams(backend, fn, inputs, options)
    result: R = _Segment(functools.partial(fn, *inputs, **options), drawn).first(given)
    return result


class _Segment:
    """A function with its arguments, and the tensors that its first run used; it can run again."""

    def __init__(self, call: Callable[[], Any], drawn: _Streams) -> None:
        self.call, self.drawn = call, drawn
        # Inside a module's forward, batch norm is fused with the next layer: it rounds differently.
        self.is_inside = bool(forwards.values())
        self.held: list[Tensor] = []  # the node's inputs, at which the second graph ends
        self.used: list[Tensor] = []  # those of them that the results depend on
        self.places: list[int] = []  # indices of the results that need a gradient

    def first(self, given: dict[int, Tensor]) -> Any:
        """Run the function; return its results as outputs of one node.

        Args:
            given: the tensors among the arguments, by id.
        """
        segment = object()
        token = line.set(_Line.of(segment, line.get()))
        try:
            found = self.call()
            results = _results(found)
        finally:
            line.reset(token)
        made = {id(x): x for x in results if _is_made(x, segment)}
        if not made:
            return found
        self.drawn.forget_unused()
        self.places = [place for place, x in enumerate(results) if id(x) in made]
        order = inputs_first(list(made.values()), functools.partial(_inputs, segment))
        outer = {id(x): x for x in order if not _is_made(x, segment)}
        self.used = [x for x in outer.values() if x.requires_grad]
        self.held = list((given | outer).values())
        recorded = self._recorded(results, made)
        results = [recorded.get(id(x), x) for x in results]
        is_tuple = isinstance(found, tuple)
        return getattr(type(found), "_make", tuple)(results) if is_tuple else results[0]

    def _recorded(self, results: list[Tensor], made: dict[int, Tensor]) -> dict[int, Tensor]:
        """Return a recorded tensor for each result in `made`, by its id, with the same array."""
        place, x = self.places[0], results[self.places[0]]
        if x.backend.records and x.backend is not self.drawn.backend:
            raise TypeError(
                f"checkpointed: fn computed on {x.device!r}, but the first tensor among its "
                f"arguments is on {self.drawn.backend.device!r}; pass one on {x.device!r} first"
            )
        if len(made) == 1:

            def backward(gradient: Tensor, output: Tensor) -> Gradients:
                return self.gradients({place: (gradient, output)})

            return {id(x): record("checkpointed", x.array, self.held, backward, takes_output=True)}

        def all_at_once(parts: _Parts) -> Gradients:
            return self.gradients(parts.arrived)

        nothing = x.backend.xp.zeros(0, x.dtype)
        joint = record("checkpointed", nothing, self.held, all_at_once)
        places = {id(results[place]): place for place in self.places}
        return {key: _part(joint, place, made[key]) for key, place in places.items()}

    def gradients(self, arrived: Arrived) -> Gradients:
        """Run the function again; return the gradient of each tensor in `held`, or None."""
        # The engine hides the user's watcher from rules, but this rule's operations should be seen.
        seen = next((w for w in reversed(watchers.values()) if w is not None), None)
        results = self._second()
        for place, (_, before) in arrived.items():
            _check_result(before, results[place] if place < len(results) else None)
        ends = {id(x) for x in self.held}

        def inputs(x: Tensor) -> list[Tensor]:
            return [] if id(x) in ends else _differentiable(x)

        order = inputs_first([results[place] for place in self.places], inputs)
        self._check_used(order, ends)
        sums: dict[int, Any] = {}
        for place, (gradient, _) in arrived.items():
            accumulate(sums, results[place], gradient)
        del results  # so that each tensor is freed after its use
        found = _propagated(order, ends, sums, seen)
        return [found.get(id(x)) for x in self.held]

    def _second(self) -> list[Tensor]:
        """Run the function again as in its first run: unobserved, inside a forward if it was."""
        with contextlib.ExitStack() as blocks:
            blocks.callback(observers.blocks.reset, observers.blocks.set(()))
            blocks.enter_context(recomputing.set(True))
            blocks.enter_context(set_recording(True))
            if self.is_inside:
                blocks.enter_context(forwards.set([]))
            blocks.enter_context(self.drawn.set_back())
            return _results(self.call())

    def _check_used(self, order: Sequence[Tensor], ends: set[int]) -> None:
        """Raise RuntimeError unless the second run's results depend on the same tensors."""
        reached = {id(x) for x in order}
        new = [x.shape for x in order if x.is_leaf and id(x) not in ends]
        gone = [x.shape for x in self.used if x.requires_grad and id(x) not in reached]
        for shapes, times in ((new, "second"), (gone, "first")):
            if shapes:
                raise RuntimeError(
                    f"checkpointed: in its {times} run only, fn used a tensor of shape {shapes[0]} "
                    "that requires a gradient, expected the same tensors in both; did its weights "
                    "change, does it make such tensors itself, or compute in other threads?"
                )


# Random streams -------------------------------------------------------------------------------


class _Streams:
    """The random streams that a segment may draw from, and their states before its first run.

    Whenever a recorded step is replayed (see `minidl.capture`), the backend calls the functions
    passed to `fresh` again. So each replay saves and restores the states in order with its draws.
    """

    def __init__(self, backend: Backend, *things: Any) -> None:
        self.backend, found = backend, streams(generator(), *things)
        # None stands for the global stream, which `manual_seed` replaces.
        self.found = [None if stream is generator() else stream for stream in found]
        self.states: list[Any] = []
        self._do(lambda: self._note(self.states))

    def forget_unused(self) -> None:
        """Keep only streams that the first run drew from: other threads may use the others."""
        now: list[Any] = []
        self._note(now)
        drawn = [i for i, a in enumerate(now) if pickle.dumps(a) != pickle.dumps(self.states[i])]
        self.found, self.states = [self.found[i] for i in drawn], [self.states[i] for i in drawn]

    @contextlib.contextmanager
    def set_back(self) -> Iterator[None]:
        """Rewind the streams for a `with` block, and restore them when it ends."""
        now: list[Any] = []

        def rewind() -> None:
            self._note(now)
            restore(self._current(), self.states)

        self._do(rewind)
        try:
            yield
        finally:
            self._do(lambda: restore(self._current(), now))

    def _current(self) -> list[Any]:
        return [generator() if stream is None else stream for stream in self.found]

    def _note(self, states: list[Any]) -> None:
        states[:] = map(state_of, self._current())

    def _do(self, work: Callable[[], None]) -> None:
        def make() -> np.ndarray[Any, Any]:
            work()
            return np.zeros(1)

        self.backend.fresh(make)


# The first run's graph ------------------------------------------------------------------------


class _Line(str):
    """The `line` of a segment's nodes: the usual text, which also identifies the segment."""

    segment: object

    @classmethod
    def of(cls, segment: object, text: str) -> Self:
        """Return a line of this text for a segment's nodes."""
        result = cls(text)
        result.segment = segment
        return result


def _results(found: Any) -> list[Tensor]:
    """Return the results of a function as a list of tensors that have their nodes."""
    results = list(found) if isinstance(found, tuple) else [found]
    for x in results:
        if not isinstance(x, Tensor):
            among = " in a tuple" if isinstance(found, tuple) else ""
            raise TypeError(
                f"checkpointed: fn returned a {type(x).__name__}{among}, expected a Tensor or a "
                "tuple of Tensors"
            )
    return [_settled(x) for x in results]


def _settled(x: Tensor) -> Tensor:
    if isinstance(x, Pending):
        x.settle()
    return x


def _is_made(x: Tensor, segment: object) -> bool:
    """Return whether a tensor needs a gradient and was made by a segment's operation."""
    return x.node is not None and getattr(x.node.line, "segment", None) is segment


def _inputs(segment: object, x: Tensor) -> list[Tensor]:
    """Return the inputs of the operation that made a tensor; none if it came from outside.

    Frozen parameters are included, so that the engine notices if they are changed in place.
    """
    given = x.node.inputs if x.node is not None and _is_made(x, segment) else ()
    return [y for y in given if y is not None and (y.requires_grad or isinstance(y, Parameter))]


# The second run's graph -----------------------------------------------------------------------


class _Parts(Tensor):
    """The gradient of a node with several results: the gradients that have arrived so far."""

    __slots__ = ("arrived",)

    arrived: Arrived

    @classmethod
    def of(cls, array: Array, arrived: Arrived) -> Self:
        """Return a gradient whose array is empty."""
        result = object.__new__(cls)
        result._hold(array)
        result.arrived = arrived
        return result

    def __add__(self, other: Any) -> Tensor:
        return self.of(self.array, self.arrived | other.arrived)


def _part(joint: Tensor, place: int, x: Tensor) -> Tensor:
    """Record one of several results."""

    def backward(gradient: Tensor, output: Tensor) -> Gradients:
        return (_Parts.of(joint.array, {place: (gradient, output)}),)

    return record("checkpointed", x.array, (joint,), backward, takes_output=True)


def _differentiable(x: Tensor) -> list[Tensor]:
    return [] if x.node is None else [y for y in x.node.inputs if y is not None and y.requires_grad]


def _propagated(
    order: list[Tensor], ends: set[int], sums: dict[int, Any], seen: Watcher | None
) -> dict[int, Tensor]:
    """Return the complete gradients of the tensors at the ends of a graph, by id.

    The engine goes on from there: it runs the hooks of these tensors, not this function.

    Args:
        order: the graph's tensors, inputs first; emptied.
        ends: the ids of tensors that are not differentiated further.
        sums: the gradients of the graph's results, by id.
        seen: a watcher of the other tensors' gradients, or None.
    """
    found = {}
    while order:
        x = order.pop()
        gradient, node = sums.pop(id(x), None), x.node
        if gradient is None:
            continue
        if id(x) in ends or node is None:
            found[id(x)] = gradient
            continue
        gradient = x.hooked(gradient, True)
        if seen is not None:
            seen.arrived(x, gradient)
        for y, dy in apply_rule(node, gradient, x, seen):
            accumulate(sums, y, dy)
    return found


def _check_result(before: Tensor, now: Any) -> None:
    """Raise RuntimeError unless a result of the second run equals that of the first."""
    hint = (
        "; did its weights, the model's mode, or data that it reads change, or does it draw from a "
        "generator that minidl.random.streams does not find?"
    )
    for what in ("shape", "dtype", "device"):
        first, second = getattr(before, what), getattr(now, what, None)
        if first != second:
            raise RuntimeError(
                f"checkpointed: fn returned {what} {second} the second time, expected {first} as "
                f"the first time{hint}"
            )
    a, b, backend = before.array, now.array, before.backend
    if not before.size or not (backend.records or (a != b).any()):
        return
    xp, limit = backend.xp, float(np.finfo(a.dtype).eps) ** 0.5
    with np.errstate(invalid="ignore", over="ignore"):
        largest = xp.where(xp.isfinite(a), abs(a), 0).max()
        near = (a == b) | (abs(a - b) <= limit * largest) | (xp.isnan(a) & xp.isnan(b))

    def error() -> RuntimeError:
        return RuntimeError(
            f"checkpointed: fn returned other values the second time, in a result of shape "
            f"{before.shape}, expected the same as the first time{hint}"
        )

    backend.raise_if(~near, error)
