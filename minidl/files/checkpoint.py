"""Checkpoints: all that is needed to resume a run, in one `.npz` file with a checksum."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from minidl.files.budget import Budget
from minidl.files.jsons import parse_json
from minidl.files.pickles import is_key
from minidl.files.regular import open_regular
from minidl.files.whole import whole_file
from minidl.files.zips import GROWTH, PLAIN, open_zip, read_arrays

FORMAT = "minidl checkpoint 1"
DIGEST = 64  # hexadecimal characters of SHA-256: the zip comment that ends the file


def save_checkpoint(state: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write nested state to a file atomically: on any failure, an older file stays as it was.

    Arrays become members of an `.npz` file, named by their path in the state; the rest is JSON in a
    further member. The file ends with a SHA-256 of everything before it. It is written under a new
    name, flushed to disk, then renamed.

    Args:
        state: dicts (with string or integer keys), lists and tuples of arrays, NumPy scalars,
            numbers, strings and None.
        path: a file name ending in `.npz`; its folder is created if needed.

    Returns:
        The path.

    Raises:
        TypeError: the state holds something else; the message says where.
        ValueError: the name has another ending.
        OSError: the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"save_checkpoint: got {path}, expected a name ending in .npz")
    arrays: dict[str, NDArray[Any]] = {}
    tree = {"format": FORMAT, "state": packed(state, "state", arrays, "save_checkpoint")}
    arrays["json"] = np.frombuffer(json.dumps(tree).encode(), np.uint8)
    with whole_file(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        with zipfile.ZipFile(file, "a") as archive:
            archive.comment = b"0" * DIGEST
        file.seek(0)
        digest, _ = _digests(file)
        file.seek(-DIGEST, os.SEEK_END)
        file.write(digest)
    return path


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file that `save_checkpoint` wrote, bit for bit, refusing pickles.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint, even one bit has changed, or it has another format.
    """
    path = Path(path)
    with open_regular(path) as file:
        digest, ending = _digests(file)
        if digest != ending:
            raise ValueError(
                f"load_checkpoint: {path} ({file.tell():,} bytes) is damaged, or not a checkpoint: "
                "its SHA-256 does not match; delete it, or start again with resume=False"
            )
        budget = Budget(file.tell(), GROWTH)
        try:
            with open_zip(file, budget) as archive:
                arrays = dict(read_arrays(archive))
            text = arrays.pop("json")
            budget.make(6 * text.nbytes, f"JSON of {text.nbytes:,} bytes")  # with text of 4 bytes
            tree = parse_json(text.tobytes(), budget)
            if tree["format"] != FORMAT:
                raise ValueError(f"its format is {tree['format']!r:.80}, expected {FORMAT!r}")
            loaded: dict[str, Any] = unpacked(tree["state"], arrays)
            if arrays or not isinstance(loaded, dict):
                raise ValueError(f"it is a {type(loaded).__name__}, without {len(arrays)} arrays")
            return loaded
        except Exception as error:  # a signature does not mean that save_checkpoint wrote it
            raise ValueError(
                f"load_checkpoint: {path} was not written by this version of minidl "
                f"({error!r:.300})"
            ) from error


def _digests(file: BinaryIO) -> tuple[bytes, bytes]:
    """Read a file; return the SHA-256 of all but its ending, and the ending, which should match."""
    digest, ending = hashlib.sha256(), b""
    while chunk := file.read(1 << 20):
        digest.update((ending + chunk)[:-DIGEST])
        ending = (ending + chunk)[-DIGEST:]
    return digest.hexdigest().encode(), ending


def packed(value: Any, place: str, arrays: dict[str, NDArray[Any]], who: str) -> Any:
    """Return `value` in a form that JSON can hold, and collect its arrays by their path.

    Raises:
        TypeError: it holds something else than `save_checkpoint` takes; the message begins with
            `who` and says where.
    """
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in PLAIN:
        while place in arrays:  # the keys 1 and "1" lead to the same path
            place += "'"
        arrays[place] = np.asarray(value)
        return {"array" if isinstance(value, np.ndarray) else "scalar": place}
    if isinstance(value, Mapping) and all(isinstance(k, (str, int)) and is_key(k) for k in value):
        items = [[key, packed(v, f"{place}/{key}", arrays, who)] for key, v in value.items()]
        return {"dict": items}  # as pairs, since JSON turns every key into a string
    if isinstance(value, (list, tuple)):
        items = [packed(v, f"{place}/{i}", arrays, who) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"{who}: got a {type(value).__name__} at {place}, expected arrays, numbers, "
        "strings, None, and dicts, lists and tuples of them"
    )


def unpacked(tree: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """Return the value of a packed form; remove its arrays from `arrays`: each has one place."""
    if isinstance(tree, list):
        return [unpacked(item, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "dict":
        if len({key for key, _ in content if is_key(key)}) != len(content):
            raise ValueError("a dict has a key twice, or one that is no string or small integer")
        return {key: unpacked(value, arrays) for key, value in content}
    if kind == "tuple" and isinstance(content, list):
        return tuple(unpacked(item, arrays) for item in content)
    if kind not in ("array", "scalar"):
        raise ValueError(f"it holds a {kind:.80}, expected a dict, tuple, array or scalar")
    array = arrays.pop(content)
    return array if kind == "array" else array[()]
