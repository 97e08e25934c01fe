"""ONNX's file format: the small part of protocol buffers that writing needs.

A message is a sequence of fields. Each field is a key (its number, and how its value is encoded)
and a value: an integer in groups of 7 bits, a float, or a number of bytes that hold a string, an
array or another message. Messages are lists of chunks, which are joined only in the file, so that
weights are not copied.

Source: Protocol Buffers, Encoding (protobuf.dev); field numbers are those of `onnx.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

Chunks: TypeAlias = list[Any]
"""A message: bytes-like objects that follow one another in the file."""

OPSET, IR_VERSION = 18, 8  # ONNX 1.13 (2022), which most programs now read
_DTYPES = "float32 uint8 int8 uint16 int16 int32 int64 str bool float16 float64 uint32 uint64"
DTYPES = {name: number for number, name in enumerate(_DTYPES.split(), start=1)}


def message(*fields: tuple[int, Any]) -> Chunks:
    """Encode fields, each a number and a value: an int, float, str, memoryview or message."""
    chunks: Chunks = []
    for number, value in fields:
        if isinstance(value, float):
            chunks.append(_varint(number << 3 | 5) + struct.pack("<f", value))
        elif isinstance(value, (str, list, memoryview)):
            inside = value if isinstance(value, list) else [value]
            inside = [x.encode() if isinstance(x, str) else x for x in inside]
            chunks += [_varint(number << 3 | 2) + _varint(size_of(inside)), *inside]
        else:
            chunks.append(_varint(number << 3) + _varint(value))
    return chunks


def size_of(chunks: Chunks) -> int:
    """Return the number of bytes."""
    return sum(map(len, chunks))


def _varint(value: int) -> bytes:
    value = int(value) % (1 << 64)  # a negative one as its two's complement
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


# Parts of an ONNX file ------------------------------------------------------------------------


def tensor(name: str, array: np.ndarray[Any, Any]) -> Chunks:
    """Encode a constant or a weight."""
    flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
    dims, kind = ((1, size) for size in array.shape), DTYPES[array.dtype.name]
    return message(*dims, (2, kind), (8, name), (9, flat.view(np.uint8).data))


def node(
    op: str, name: str, inputs: Sequence[str], outputs: Sequence[str], options: dict[str, Any]
) -> Chunks:
    """Encode an operation; its options are ints, floats, strings, or sequences of ints."""
    ends = [*((1, x) for x in inputs), *((2, y) for y in outputs)]
    return message(*ends, (3, name), (4, op), *((5, _option(*item)) for item in options.items()))


def _option(name: str, value: Any) -> Chunks:
    if isinstance(value, (tuple, list)):
        return message((1, name), *((8, v) for v in value), (20, 7))
    field, kind = {float: (2, 1), str: (4, 3)}.get(type(value), (3, 2))
    return message((1, name), (field, value), (20, kind))


def value_info(name: str, dtype: Any, shape: Iterable[int | str | None]) -> Chunks:
    """Encode an input or output; a size is a number, a name for a variable size, or None."""
    dims = [[(2 if isinstance(s, str) else 1, s)] if s is not None else [] for s in shape]
    sizes = message(*((1, message(*dim)) for dim in dims))
    return message((1, name), (2, message((1, message((1, DTYPES[dtype.name]), (2, sizes))))))


def model(
    name: str, nodes: list[Chunks], tensors: list[Chunks], inputs: list[Chunks], outs: list[Chunks]
) -> Chunks:
    """Encode the whole file."""
    parts = ((1, nodes), (5, tensors), (11, inputs), (12, outs))
    graph = message((2, name), *((number, part) for number, many in parts for part in many))
    opset = message((1, ""), (2, OPSET))
    return message((1, IR_VERSION), (2, "minidl"), (7, graph), (8, opset))
