"""Converters of `Tensor`'s methods and of functions such as `where` to ONNX.

A converter is called with the graph, and with an object that holds a call's arguments by name and
its result as `out`. It appends nodes and returns the name of their result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.onnx.graph import Graph, host, ints
from minidl.tensor.operands import normal_axes, unpacked

Converter = Callable[[Graph, Any], Any]
FIRST, LAST = -(2**63) + 1, 2**63 - 1  # for slices without start or stop


def _binary(op: str, swapped: bool = False) -> Converter:
    def convert(g: Graph, c: Any) -> str:
        if c.out.dtype.kind == "b":
            raise ValueError("got bools, expected numbers")
        return g.add(op, *map(g.cast, (c.other, c.self) if swapped else (c.self, c.other)))

    return convert


def _compare(op: str, negated: bool = False) -> Converter:
    def convert(g: Graph, c: Any) -> str:
        g.dtype = np.result_type(c.self.dtype, getattr(c.other, "dtype", c.other))
        name = g.add(op, g.cast(c.self), g.cast(c.other))
        return g.add("Not", name) if negated else name

    return convert


def _function(op: str) -> Converter:
    return lambda g, c: g.add(op, g.cast(c.self))


def _reduce(op: str) -> Converter:
    def convert(g: Graph, c: Any) -> str:
        axes, x = normal_axes(op, c.self.shape, c.axis), g.cast(c.self)
        return g.add(op, x, ints(axes), keepdims=int(c.keepdims)) if axes else x

    return convert


def _norm(g: Graph, c: Any) -> str:
    axes, keep = ints(normal_axes("norm", c.self.shape, c.axis)), {"keepdims": int(c.keepdims)}
    if c.p in (1, 2) and axes.size:
        return g.add(f"ReduceL{int(c.p)}", g.cast(c.self), axes, **keep)
    sizes = g.add("Abs", g.cast(c.self))
    if c.p == np.inf or not axes.size:
        return g.add("ReduceMax", sizes, axes, noop_with_empty_axes=1, **keep)
    total = g.add("ReduceSum", g.add("Pow", sizes, float(c.p)), axes, **keep)
    return g.add("Pow", total, 1 / c.p)


def _clip(g: Graph, c: Any) -> str:
    limits = ["" if v is None else np.asarray(v, g.dtype) for v in (c.low, c.high)]
    return g.add("Clip", g.cast(c.self), *limits)


def _reshape(g: Graph, c: Any) -> str:
    return g.reshape(c.self, c.out.shape)


def _flatten(g: Graph, c: Any) -> str:
    plain = c.start_axis == 1 and c.self.ndim > 1
    return g.add("Flatten", c.self, axis=1) if plain else _reshape(g, c)


def _transpose(g: Graph, c: Any) -> str:
    order = tuple(unpacked(c.axes)) or tuple(reversed(range(c.self.ndim)))
    return g.add("Transpose", c.self, perm=normal_axes("transpose", c.self.shape, order))


def _broadcast_to(g: Graph, c: Any) -> str:
    old = (1,) * (c.out.ndim - c.self.ndim) + c.self.shape  # Expand keeps an axis for a size of 1
    sizes = [1 if a == b else b for a, b in zip(old, c.out.shape, strict=True)]
    return g.add("Expand", c.self, ints(sizes))


# Indices --------------------------------------------------------------------------------------


def _getitem(g: Graph, c: Any) -> str:
    parts: list[Any] = []
    for part in c.index if isinstance(c.index, tuple) else (c.index,):
        if part is None or part is Ellipsis or isinstance(part, (int, slice)):
            parts.append(part)
        elif host(part).dtype.kind != "b":
            parts.append(part if g.knows(part) else host(part))
        elif g.knows(part):
            raise ValueError("the number of elements that bools select depends on the input")
        else:
            parts += host(part).nonzero()
    place = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
    parts[place : place + 1] = []
    used = sum(part is not None for part in parts)
    parts[place:place] = [slice(None)] * (c.self.ndim - used)
    if all(part is None or isinstance(part, (int, slice)) for part in parts):
        return _sliced(g, c, parts)
    return _gathered(g, c, parts)


def _sliced(g: Graph, c: Any, parts: list[Any]) -> str:
    """Select by slices and integers; None inserts an axis."""
    found = []
    for axis, part in enumerate(part for part in parts if part is not None):
        if isinstance(part, int):
            part = slice(part, None if part == -1 else part + 1)
        step = 1 if part.step is None else part.step
        start = (0 if step > 0 else LAST) if part.start is None else part.start
        stop = (LAST if step > 0 else FIRST) if part.stop is None else part.stop
        if (start, stop, step) != (0, LAST, 1):
            found.append((start, stop, axis, step))
    name = g.add("Slice", c.self, *ints(found).T) if found else g.read(c.self)
    return name if all(isinstance(part, slice) for part in parts) else g.reshape(name, c.out.shape)


def _gathered(g: Graph, c: Any, parts: list[Any]) -> str:
    """Select by arrays of indices: one, or several constant ones along the first axes."""
    arrays = [axis for axis, part in enumerate(parts) if not isinstance(part, slice)]
    if len(arrays) == 1:
        (axis,) = arrays
        index, parts[axis] = g.cast(parts[axis], np.int64), slice(None)
        return g.add("Gather", _sliced(g, c, parts), index, axis=axis)
    first, rest = parts[: len(arrays)], parts[len(arrays) :]
    known = any(part is None or isinstance(part, slice) or g.knows(part) for part in first)
    if known or any(part != slice(None) for part in rest):
        raise ValueError(
            "expected slices and integers, slices and one array of indices, or constant arrays "
            "along the first axes; index in several steps"
        )
    columns = np.broadcast_arrays(*map(host, first))
    return g.add("GatherND", c.self, ints(np.stack(columns, -1)))


# Functions ------------------------------------------------------------------------------------


def _pad(g: Graph, c: Any) -> str:
    sides = [before for before, _ in c.widths] + [after for _, after in c.widths]
    mode = getattr(c, "mode", "constant")  # `functions.pad` has no mode
    if not sides or mode == "wrap":
        return _wrapped(g, c)
    if mode == "constant":
        return g.add("Pad", c.x, ints(sides), float(c.value))
    return g.add("Pad", c.x, ints(sides), mode=mode)


def _wrapped(g: Graph, c: Any) -> str:
    """Join each axis with pieces of its ends: Pad has no wrap before version 19."""
    name = g.read(c.x)
    for axis, (before, after) in enumerate(c.widths):
        ends = [(-before, LAST)] * (before > 0) + [None] + [(0, after)] * (after > 0)
        at = [end and g.add("Slice", name, *map(ints, (*end, axis))) for end in ends]
        name = g.add("Concat", *(part or name for part in at), axis=axis) if len(at) > 1 else name
    return name


def _prod(g: Graph, c: Any) -> str:
    axes, x = normal_axes("prod", c.x.shape, c.axis), g.cast(c.x)
    return g.add("ReduceProd", x, ints(axes), keepdims=int(c.keepdims)) if axes else x


def _cumsum(g: Graph, c: Any) -> str:
    axis = normal_axes("cumsum", c.x.shape, c.axis)[0]
    return g.add("CumSum", g.cast(c.x), np.asarray(axis, np.int64))


def _largest(g: Graph, c: Any, k: int, largest: bool) -> tuple[str, ...]:
    axis = normal_axes("topk", c.x.shape, c.axis)[0]
    return g.add_many(2, "TopK", c.x, ints(k), axis=axis, largest=int(largest), sorted=1)


def _index_add(g: Graph, c: Any) -> str:
    axis = normal_axes("index_add", c.x.shape, c.axis)[0]
    row = (1,) * axis + (-1,) + (1,) * (c.x.ndim - axis - 1)
    index = g.add("Reshape", g.cast(c.index, np.int64), ints(row))
    places = g.add("Expand", index, g.add("Shape", c.source))
    return g.add("ScatterElements", c.x, places, c.source, axis=axis, reduction="add")


def _scatter_add(g: Graph, c: Any) -> str:
    axis, used = normal_axes("scatter_add", c.x.shape, c.axis)[0], g.read(c.source)
    if (sizes := np.shape(host(c.index))) != c.source.shape:
        used = g.add("Slice", used, ints([0] * len(sizes)), ints(sizes))
    places = g.cast(c.index, np.int64)
    return g.add("ScatterElements", c.x, places, used, axis=axis, reduction="add")


def _einsum(g: Graph, c: Any) -> str:
    terms = c.subscripts.replace(" ", "").partition("->")[0].split(",")
    pairs = list(zip(c.operands, terms, strict=True))
    ranks = [x.ndim - len(term.replace("...", "")) for x, term in pairs]
    names = []
    for (x, term), rank in zip(pairs, ranks, strict=True):
        missing = max(ranks) - rank if "..." in term else 0  # all ellipses have one rank in ONNX
        names.append(g.reshape(g.cast(x), (1,) * missing + x.shape) if missing else g.cast(x))
    return g.add("Einsum", *names, equation=c.subscripts.replace(" ", ""))


def _of_x(op: str) -> Converter:
    return lambda g, c: g.add(op, g.cast(c.x))


def _pair(op: str) -> Converter:
    return lambda g, c: g.add(op, g.cast(c.a), g.cast(c.b))


_BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "truediv": "Div", "pow": "Pow"}
_BINARY["matmul"] = "MatMul"
_COMPARE = {"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater"}
_COMPARE["ge"] = "GreaterOrEqual"
METHODS: dict[str, Converter] = {
    **{f"__r{name}__": _binary(op, swapped=True) for name, op in _BINARY.items()},
    **{f"__{name}__": _binary(op) for name, op in _BINARY.items()},  # `__radd__` is `__add__`
    **{f"__{name}__": _compare(op) for name, op in _COMPARE.items()},
    "__ne__": _compare("Equal", negated=True),
    "__neg__": _function("Neg"),
    **{name: _function(name.title()) for name in ("exp", "log", "sqrt", "tanh", "abs")},
    **{name: _reduce(f"Reduce{name.title()}") for name in ("sum", "mean", "max", "min")},
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), _reshape),
    "norm": _norm,
    "clip": _clip,
    "flatten": _flatten,
    "transpose": _transpose,
    "broadcast_to": _broadcast_to,
    "__getitem__": _getitem,
    "to": lambda g, c: g.cast(c.self),
    "copy": lambda g, c: g.read(c.self),
}
FUNCTIONS: dict[str, Converter] = {
    "where": lambda g, c: g.add("Where", c.condition, g.cast(c.a), g.cast(c.b)),
    "maximum": _pair("Max"),
    "minimum": _pair("Min"),
    "concatenate": lambda g, c: g.add("Concat", *map(g.cast, c.tensors), axis=c.axis),
    "pad": _pad,
    **{name: _of_x(name.title()) for name in ("sin", "cos", "erf")},
    "prod": _prod,
    "cumsum": _cumsum,
    "sort": lambda g, c: _largest(g, c, c.x.shape[c.axis], c.descending),
    "topk": lambda g, c: _largest(g, c, c.k, c.largest),
    "index_add": _index_add,
    "scatter_add": _scatter_add,
    "einsum": _einsum,
}
