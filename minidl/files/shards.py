"""Checkpoints in several files: an index, in JSON, says which file holds each array.

Source: huggingface/huggingface_hub, `serialization/_torch.py`, which writes them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minidl.files.regular import open_regular
from minidl.files.safetensors import read_table

_NAMES = ("*.safetensors.index*.json", "*.bin.index*.json", "*.safetensors", "*.bin", "*.pt*")
_LONGEST_NAME = 255  # bytes, in most file systems


def read_shards(path: Path, load: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Read the arrays that an index lists.

    Args:
        path: the index, or a folder that holds one index or, without an index, one weights file.
        load: reads one file of weights.

    Raises:
        ValueError: the folder does not have exactly one such file, or the index is damaged, names a
            file outside its folder, or lists an array that its file does not hold.
    """
    if path.is_dir():
        every = ([f for f in sorted(path.glob(name)) if f.is_file()] for name in _NAMES)
        found = next(filter(None, every), [])
        if len(found) != 1:
            names = ", ".join(file.name for file in found[:9]) or "none"
            raise ValueError(
                f"load_weights: {path} is a folder, expected one with an index such as "
                f"model.safetensors.index.json, or with one file of weights; found {names}"
            )
        path = found[0]
    if path.suffix != ".json":
        return load(path)
    shards = _index(path)
    files: dict[tuple[int, int], tuple[str, list[str]]] = {}  # each once, whatever its names
    for name, shard in shards.items():
        status = (path.parent / shard).stat()
        files.setdefault((status.st_dev, status.st_ino), (shard, []))[1].append(name)
    state: dict[str, Any] = {}
    for file, listed in files.values():
        if (path.parent / file).is_dir():
            raise ValueError(f"load_weights: {path} names {file!r}, which is a folder")
        arrays = load(path.parent / file)
        lacking = next((name for name in listed if name not in arrays), None)
        if lacking is not None:
            raise ValueError(
                f"load_weights: {path} lists {lacking:.80}, which {file} does not hold"
            )
        state |= {name: arrays[name] for name in listed}
    return {name: state[name] for name in shards}


def _index(path: Path) -> dict[str, str]:
    """Return the file of each array."""
    with open_regular(path) as index:
        try:
            table = read_table(index, os.fstat(index.fileno()).st_size)
            shards: dict[str, str] = table["weight_map"]
            if not all(map(_is_beside, shards.values())):
                raise ValueError("it names files that are not in its own folder")
            return shards
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"load_weights: {path} is not an index of weights, or is damaged ({error!r:.200})"
            ) from error


def _is_beside(file: str) -> bool:
    """Return whether a name is that of a file of weights in the same folder."""
    short = len(file.encode("utf-8", "surrogatepass")) <= _LONGEST_NAME
    plain = not file.endswith((".json", "..")) and "\0" not in file
    return short and plain and Path(file).name == file != ""
