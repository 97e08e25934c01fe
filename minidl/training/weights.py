"""Weights on disk: NumPy's own `.npz` files, without pickles."""

from __future__ import annotations

import os
import uuid
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def save_weights(state: Mapping[str, Array], path: str | os.PathLike[str]) -> Path:
    """Write a state dict to an `.npz` file; a crash or a full disk leaves an older file as it was.

    It is written under a temporary name beside `path`, flushed to disk, then renamed.

    Args:
        state: arrays by name, as `Module.state_dict` returns them.
        path: a file name ending in `.npz`; its folder is made if need be.

    Returns:
        The path.

    Raises:
        ValueError: the name ends otherwise, or there is nothing to save.
        TypeError: not a state dict.
        OSError: the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    if not isinstance(state, Mapping):
        raise TypeError(
            f"save_weights: got a {type(state).__name__}, wants arrays by name: model.state_dict()"
        )
    if path.suffix != ".npz" or not state:
        raise ValueError(f"save_weights: got {path} and {len(state)} arrays, wants .npz and some")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            np.savez(file, **dict(state))  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:  # Ctrl-C too: never leave the temporary file behind
        part.unlink(missing_ok=True)
        raise
    return path


def load_weights(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Read a state dict from an `.npz` file, refusing pickles.

    Returns:
        Arrays by name, for `Module.load_state_dict`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no `.npz` file, is damaged, or holds anything but plain arrays.
    """
    with open(path, "rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
            problem: object = "it holds a single array"
            if isinstance(archive, np.lib.npyio.NpzFile):
                state = {name: archive[name] for name in archive.files}
                if all(isinstance(value, np.ndarray) for value in state.values()):
                    return state
                problem = "it holds something else"  # NumPy hands over other members as bytes
        except (ValueError, EOFError, OSError, zipfile.BadZipFile, KeyError, zlib.error) as error:
            problem = error
    raise ValueError(
        f"load_weights: {path} is no .npz file of plain arrays, or is damaged ({problem}); "
        "save it again with save_weights"
    )
