"""Read a protocol buffer's fields: the inverse of `minidl.onnx.protobuf`, written separately."""

from __future__ import annotations

import struct
from typing import Any


def fields(data: bytes) -> dict[int, list[Any]]:
    """Return the values of a message by field number, in order: ints, floats or bytes."""
    found: dict[int, list[Any]] = {}
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value - (1 << 64) if value >= 1 << 63 else value

    while place < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            value: Any = varint()
        elif kind == 5:
            (value,) = struct.unpack_from("<f", data, place)
            place += 4
        else:
            assert kind == 2, kind
            size = varint()
            value = data[place : place + size]
            assert len(value) == size
            place += size
        found.setdefault(number, []).append(value)
    return found
