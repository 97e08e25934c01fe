"""Run a network once, and trace its operations as ONNX nodes.

`forward` is Python: it mixes layers, functions such as `F.relu` and operators such as `+`. Layers
alone do not show what happens between them, and the recorded graph does not store options such as
a stride. But Python can report each call in a thread to a function (`sys.setprofile`). When an
operation with a converter is called, its arguments are noted; when it returns, its converter
appends nodes (see `operations` and `layers`). Other functions are composed of these operations,
whose calls are then reported. Nothing is patched, and the operations are not aware of tracing.

The engine's watcher sees operations without a converter, and raises. While it is set, no layers are
fused.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Sequence
from types import CodeType, FrameType, SimpleNamespace
from typing import Any, NoReturn

from minidl import functional as F
from minidl import nn
from minidl.autograd import Found, no_grad, set_watcher
from minidl.autograd import Node as Recorded
from minidl.nn.modes import evaluating
from minidl.onnx.graph import Graph
from minidl.onnx.layers import LAYERS, REFUSED
from minidl.onnx.operations import FUNCTIONS, METHODS
from minidl.tensor import Tensor, edges, functions, ordering, running, scatter, special


def traced(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Graph, Any]:
    """Run a model on named inputs; return the graph and the model's output.

    Raises:
        ValueError: an operation cannot be exported, or the model refuses the inputs.
    """
    graph = Graph()
    graph.bind_state(model)
    for name, x in inputs.items():
        graph.bind(x, name)
    tracer, before = _Tracer(graph, model), sys.getprofile()
    with evaluating(model), no_grad(), set_watcher(tracer):
        sys.setprofile(tracer.called)
        try:
            output = model(*inputs.values())
        finally:
            sys.setprofile(before if callable(before) else None)  # cProfile's cannot be restored
    if tracer.failure is not None:  # the network may have caught it
        raise tracer.failure
    return graph, output


def _operations() -> dict[CodeType, str]:
    """Return the names of the operations to trace, by their code objects."""
    of_arrays = (edges, functions, ordering, running, scatter, special)
    homes: list[tuple[object, Iterable[str]]] = [(Tensor, METHODS), (F, LAYERS | REFUSED)]
    homes += [(home, FUNCTIONS) for home in of_arrays]
    return {
        inspect.unwrap(getattr(home, name)).__code__: name
        for home, names in homes
        for name in names
        if hasattr(home, name)
    }


class _Tracer:
    """Appends nodes to a graph: Python's profile function, and the engine's watcher."""

    def __init__(self, graph: Graph, model: nn.Module) -> None:
        self.failure: ValueError | None = None
        self._graph, self._operations = graph, _operations()
        self._names = {id(module): name for name, module in model.named_modules()}
        self._layers = [model]
        self._frame: FrameType | None = None  # of the operation that is running
        self._call = SimpleNamespace()  # its arguments

    def called(self, frame: FrameType, event: str, result: Any) -> None:
        """Handle the call or return of a Python function."""
        if frame.f_code is nn.Module.__call__.__code__:
            if event == "call":
                self._layers.append(frame.f_locals["self"])
            elif event == "return":
                self._layers.pop()
            self._graph.layer = self._names.get(id(self._layers[-1]), "")
        elif event == "call" and self._frame is None and frame.f_code in self._operations:
            self._begin(self._operations[frame.f_code], frame)
        elif event == "return" and frame is self._frame:
            self._frame = None
            if result is not None:  # None if it raised
                self._end(self._operations[frame.f_code], result)

    def _begin(self, op: str, frame: FrameType) -> None:
        self._call = SimpleNamespace(**frame.f_locals)
        reason = REFUSED[op](self._call) if op in REFUSED else None
        if reason:
            self._fail(op, reason)
        if op in METHODS or op in FUNCTIONS or op in LAYERS:
            self._frame = frame

    def _end(self, op: str, result: Any) -> None:
        results = result if isinstance(result, tuple) else (result,)
        if self._graph.knows(results[0]):  # it returned its argument
            return
        self._call.out, self._graph.dtype = results[0], results[0].dtype
        convert = METHODS.get(op) or FUNCTIONS.get(op) or LAYERS[op]
        try:
            names = convert(self._graph, self._call)
        except ValueError as error:
            self._fail(op, str(error))
        for value, name in zip(results, [names] if isinstance(names, str) else names, strict=True):
            self._graph.bind(value, name)

    def _fail(self, op: str, reason: str) -> NoReturn:
        layer, kind = self._graph.layer, type(self._layers[-1]).__name__
        where = f"layer {layer!r} ({kind})" if layer else kind
        self.failure = ValueError(f"export_onnx: {where}: {op} cannot be exported: {reason}")
        raise self.failure from None

    def made(self, op: str, result: Tensor, inputs: Sequence[Tensor | None]) -> None:
        """Refuse an operation without a converter."""
        if self._frame is None:
            self._fail(op, "there is no converter for it")

    def arrived(self, tensor: Tensor, gradient: Tensor) -> None:
        """Do nothing."""

    def differentiated(self, node: Recorded, found: Found) -> None:
        """Do nothing."""
