"""The safetensors format: a length, a JSON header of that length, then the arrays' bytes.

The header gives each array's dtype, shape and position among those bytes; nothing in a file can
cause code to run. Source: huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from minidl.files.budget import Budget
from minidl.files.jsons import parse_json

# The dtype of each name in a file. Half precision becomes float32 in memory, exactly.
# A file holds its arrays in the reverse of this order.
_DTYPES = {
    "BOOL": "?", "U8": "<u1", "I8": "<i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "BF16": "<u2",
    "I32": "<i4", "U32": "<u4", "F32": "<f4", "F64": "<f8", "I64": "<i8", "U64": "<u8",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items() if name not in ("F16", "BF16")}
_LARGEST_TABLE = 16 << 20  # bytes; 40,000 arrays take 5 million
_MOST_VALUES = 1 << 19  # enough for 47,000 arrays; longer tables hold longer names, or text


def write_safetensors(file: BinaryIO, state: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name, byte for byte as the safetensors library does."""
    names = [_NAMES[array.dtype.newbyteorder("<")] for array in state.values()]
    rank = list(_DTYPES).index
    order = sorted(zip(state, names, strict=True), key=lambda pair: (-rank(pair[1]), pair[0]))
    header, begin = {}, 0
    for name, dtype in order:
        end = begin + state[name].nbytes
        header[name] = {"dtype": dtype, "shape": state[name].shape, "data_offsets": (begin, end)}
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays begin at a multiple of 8
    file.write(len(text).to_bytes(8, "little") + text)
    for name, dtype in order:
        # This copies only arrays that are not contiguous.
        file.write(np.ascontiguousarray(state[name], _DTYPES[dtype]).data)


def read_safetensors(file: BinaryIO) -> dict[str, NDArray[Any]]:
    """Read arrays by name from an open file on disk.

    Raises:
        ValueError: the header is malformed, or does not fit the file; no array is allocated then.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    room = size - 8 - length  # for the arrays
    if room < 0:
        raise ValueError(f"its header claims {length} bytes in a file of {size}")
    entries = _entries(read_table(file, length))
    places = sorted((*entry["data_offsets"], name) for name, entry in entries.items())
    reached = 0
    for begin, end, name in places:
        if begin != reached:
            what = "a gap" if begin > reached else "an overlap"
            raise ValueError(f"{what} before {name:.80}: it begins at {begin}, expected {reached}")
        reached = end
    if reached != room:
        raise ValueError(f"its arrays take {reached} bytes, expected the {room} after the header")
    found = {name: _read(file, **entries[name]) for *_, name in places}
    return {name: found[name] for name in entries}


def native(array: NDArray[Any], brain: bool = False) -> NDArray[Any]:
    """Return stored values in a dtype to compute with, changing `array` itself if possible.

    Half precision becomes float32, which holds each value exactly; bytes of a bool become 0 or 1.

    Args:
        array: in any byte order; bfloat16 is given as uint16, the upper half of a float32.
        brain: whether the values are bfloat16.
    """
    if brain:
        wide = array.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    if array.dtype == np.bool_:
        np.not_equal(array.view(np.uint8), 0, out=array)
        return array
    half = array.dtype.kind == "f" and array.itemsize == 2
    return array.astype(np.float32 if half else array.dtype.newbyteorder("="), copy=False)


def read_table(file: BinaryIO, length: int) -> Any:
    """Read the JSON that describes arrays.

    Raises:
        ValueError: it is damaged, or describes more arrays than any network has.
    """
    if length > _LARGEST_TABLE:
        raise ValueError(f"its JSON claims {length} bytes, expected at most {_LARGEST_TABLE}")
    budget = Budget(length)
    budget.most_objects = _MOST_VALUES
    return parse_json(file.read(length).decode(), budget)


def _entries(header: Any) -> dict[str, Any]:
    """Return the header's entries, after checking each one."""
    if not isinstance(header, dict):
        raise ValueError(f"its header is a {type(header).__name__}, expected an object")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        _check_entry(name, entry)
    return header


def _check_entry(name: str, entry: Any) -> None:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name:.80} needs dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(
            f"{name:.80} has dtype {dtype!r:.20}, expected one of {', '.join(_DTYPES)}"
        )
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        whole = isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)
        if not whole or len(numbers) > 64:
            raise ValueError(f"{name:.80} has {what} {numbers!r:.80}, expected integers >= 0")
    if len(offsets) != 2:
        raise ValueError(f"{name:.80} has data_offsets {offsets}, expected two")
    wanted = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    if offsets[1] - offsets[0] != wanted:
        raise ValueError(
            f"{name:.80} takes bytes {offsets[0]} to {offsets[1]}, expected {wanted} for "
            f"{dtype} of "
            f"shape {shape}"
        )


def _read(file: BinaryIO, dtype: str, shape: list[int], data_offsets: list[int]) -> NDArray[Any]:
    """Read the array at the file's position."""
    array = np.fromfile(file, _DTYPES[dtype], math.prod(shape))
    return native(array, brain=dtype == "BF16").reshape(shape)
