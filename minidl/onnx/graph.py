"""The ONNX graph of a network, built while its operations are traced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidl import nn
from minidl.backends import Array, backend_of
from minidl.onnx.protobuf import DTYPES
from minidl.tensor import Tensor


@dataclass
class Node:
    """An ONNX operation: its kind, its name, the names of its inputs and outputs, its options."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: dict[str, Any]


@dataclass
class Shape:
    """A shape for Reshape, in which one size may depend on the batch."""

    sizes: tuple[int, ...]


@dataclass
class Graph:
    """Nodes in the order in which they ran, and the constants and weights that they read.

    Attributes:
        nodes: the operations.
        constants: NumPy arrays by name, and `Shape`s until graphs are joined.
        weights: those parameters and buffers that are read, by their names in the state dict.
        layer: dotted name of the module that is running.
        dtype: the result's dtype in the operation that is being converted; numbers take it.
    """

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    layer: str = ""
    dtype: Any = None
    _known: dict[int, tuple[Any, int, str]] = field(default_factory=dict)
    _state: dict[str, Tensor] = field(default_factory=dict)
    _taken: dict[str, int] = field(default_factory=dict)

    def bind_state(self, model: nn.Module) -> None:
        """Give parameters and buffers their names in the state dict."""
        for prefix, module in model.named_modules():
            for name, tensor in vars(module).items():
                if isinstance(tensor, (nn.Parameter, nn.Buffer)) and not self.knows(tensor):
                    full = f"{prefix}.{name}" if prefix else name
                    if full.startswith(("input", "output")) and not prefix:
                        full = f"state.{full}"  # such names are reserved for inputs and outputs
                    self._state[full] = tensor
                    self.bind(tensor, full)

    def bind(self, value: Any, name: str) -> None:
        """Give a tensor and its array a name."""
        self._taken.setdefault(name, 0)
        if isinstance(value, Tensor):  # the entry keeps it alive, so that its id is not reused
            self._known[id(value)] = entry = (value, value.version.count, name)
            self._known[id(value.array)] = entry
        else:
            self._known[id(value)] = (value, 0, name)

    def _entry(self, value: Any) -> tuple[Any, int, str] | None:
        found = self._known.get(id(value))
        return self._known.get(id(value.array)) if isinstance(value, Tensor) else found

    def knows(self, value: Any) -> bool:
        """Return whether a tensor or array depends on the inputs, or is a weight."""
        return self._entry(value) is not None

    def read(self, value: Any) -> str:
        """Return the name of a tensor, array or number; one without a name becomes a constant.

        Raises:
            ValueError: it was changed in place, which ONNX cannot express.
        """
        if isinstance(value, str):
            return value
        entry = self._entry(value)
        if entry is None:
            name = self._unique("constant")
            if isinstance(value, (bool, int, float)):
                value = np.asarray(value, self.dtype)
            self.constants[name] = value if isinstance(value, Shape) else host(value)
            return name
        tensor, count, name = entry
        if isinstance(tensor, Tensor) and tensor.version.count != count:
            raise ValueError(f"{name} is changed in place while the network runs")
        if name in self._state:
            self.weights[name] = tensor
        return name

    def cast(self, value: Any, dtype: Any = None) -> str:
        """Return the name of a value cast to a dtype; None means that of the operation's result."""
        dtype = np.dtype(self.dtype if dtype is None else dtype)
        if not self.knows(value) and not isinstance(value, (str, bool, int, float)):
            value = host(value).astype(dtype)
        same = getattr(value, "dtype", dtype) == dtype
        return self.read(value) if same else self.add("Cast", value, to=DTYPES[dtype.name])

    def add(self, op: str, *inputs: Any, **options: Any) -> str:
        """Append a node; return the name of its result."""
        return self.add_many(1, op, *inputs, **options)[0]

    def add_many(self, count: int, op: str, *inputs: Any, **options: Any) -> tuple[str, ...]:
        """Append a node with several results; return their names."""
        names = tuple([self.read(x) for x in inputs])
        name = self._unique(op)
        outputs = (name, *(f"{name}:{i}" for i in range(1, count)))
        self.nodes.append(Node(op, name, names, outputs, options))
        return outputs

    def reshape(self, x: Any, sizes: Sequence[int]) -> str:
        """Append a Reshape; one size may depend on the batch."""
        return self.add("Reshape", x, Shape(tuple(sizes)), allowzero=int(0 in sizes))

    def _unique(self, kind: str) -> str:
        name = f"{self.layer}/{kind}" if self.layer else kind
        count = self._taken[name] = self._taken.get(name, -1) + 1
        return f"{name}_{count}" if count else name

    def joined(self, other: Graph) -> Graph:
        """Return this graph with sizes left variable where a graph of another batch differs.

        Raises:
            ValueError: the graphs differ in more than one size per Reshape.
        """
        for a, b in zip(self.nodes, other.nodes, strict=False):
            if a != b:
                raise _differs(a.name, f"{a.op} {a.options} and {b.op} {b.options}")
        if len(self.nodes) != len(other.nodes):
            raise _differs("the end", f"{len(self.nodes)} and {len(other.nodes)} operations")
        readers = {name: node.name for node in reversed(self.nodes) for name in node.inputs}
        constants = {
            name: _joined(readers[name], value, other.constants[name])
            for name, value in self.constants.items()
            if name in readers
        }
        return Graph(self.nodes, constants, self.weights)


def _joined(reader: str, a: Any, b: Any) -> np.ndarray[Any, Any]:
    """Return a constant's value in both graphs; a size that differs becomes -1."""
    if isinstance(a, Shape):
        sizes = [x if x == y else -1 for x, y in zip(a.sizes, b.sizes, strict=True)]
        if sizes.count(-1) <= 1:
            return ints(sizes).reshape(-1)
        a, b = ints(a.sizes), ints(b.sizes)
    if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
        raise _differs(reader, f"{str(a)[:60]} and {str(b)[:60]}")
    value: np.ndarray[Any, Any] = a
    return value


def _differs(where: str, what: str) -> ValueError:
    return ValueError(
        f"export_onnx: at {where}, two inputs gave {what}; expected the same operations and "
        "constants for all inputs: the network must not compute with NumPy, item() or numpy(), nor "
        "draw random numbers (TextCNN pads with NumPy: give a longer sentence)"
    )


def host(value: Any) -> np.ndarray[Any, Any]:
    """Return a tensor, array, number or list as a NumPy array."""
    array: Array = value.array if isinstance(value, Tensor) else value
    if isinstance(array, (np.ndarray, np.generic)) or not hasattr(array, "dtype"):
        return np.asarray(array)
    found: np.ndarray[Any, Any] = backend_of(array).to_numpy(array)
    return found


def ints(values: Any) -> np.ndarray[Any, Any]:
    """Return integers in ONNX's form of axes, sizes and indices: int64, at least one axis."""
    return np.atleast_1d(np.asarray(values, np.int64))
