"""Checkpoints in several files: an index, in JSON, says which file holds each array.

Source: huggingface/huggingface_hub, `serialization/_torch.py`, which writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from minidl.files.jsons import parse_json

_LARGEST_INDEX = 64 << 20  # bytes; one of a thousand arrays takes 100,000
_NAMES = ("*.safetensors.index*.json", "*.bin.index*.json", "*.safetensors", "*.bin", "*.pt*")


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
        found = next(filter(None, (sorted(path.glob(name)) for name in _NAMES)), [])
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
    files = {name: load(path.parent / name) for name in dict.fromkeys(shards.values())}
    for name, file in shards.items():
        if name not in files[file]:
            raise ValueError(f"load_weights: {path} lists {name:.80}, which {file} does not hold")
    return {name: files[file][name] for name, file in shards.items()}


def _index(path: Path) -> dict[str, str]:
    """Return the file of each array."""
    try:
        if path.stat().st_size > _LARGEST_INDEX:
            raise ValueError(f"it has more than {_LARGEST_INDEX} bytes")
        shards: dict[str, str] = parse_json(path.read_bytes())["weight_map"]
        if any(
            Path(file).name != file or file.endswith((".json", "..")) for file in shards.values()
        ):
            raise ValueError("it names files that are not in its own folder")
        return shards
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"load_weights: {path} is not an index of weights, or is damaged ({error!r:.200})"
        ) from error
