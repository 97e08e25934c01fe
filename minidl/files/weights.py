"""Weights on disk: NumPy's `.npz`, `.safetensors` and PyTorch's files, without unpickling."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minidl.files.budget import Budget
from minidl.files.regular import open_regular
from minidl.files.safetensors import native, read_safetensors, write_safetensors
from minidl.files.shards import read_shards
from minidl.files.torch_files import ContentError, read_torch, write_torch
from minidl.files.whole import whole_file
from minidl.files.zips import GROWTH, open_zip, read_arrays


def save_weights(state: Mapping[str, NDArray[Any]], path: str | os.PathLike[str]) -> Path:
    """Write a state dict to a file atomically: on any failure, an older file stays as it was.

    It is written under a temporary name next to `path`, flushed to disk, then renamed.

    Args:
        state: arrays by name, as `Module.state_dict` returns them: float32, float64, integers or
            bool. PyTorch's files hold no unsigned integers except uint8.
        path: a file name ending in `.npz`; in `.safetensors`; or in `.pt` or `.pth`, which
            `torch.load` reads. Its folder is created if needed.

    Returns:
        The path.

    Raises:
        ValueError: the name has another ending, there is nothing to save, the format has no such
            dtype, or an array's name contains a zero byte or is `__metadata__`.
        TypeError: `state` is not a state dict.
        OSError: the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    if not isinstance(state, Mapping):
        raise TypeError(
            f"save_weights: got a {type(state).__name__}, expected arrays by name: "
            "model.state_dict()"
        )
    if path.suffix not in _FORMATS or not state:
        raise ValueError(
            f"save_weights: got {path} and {len(state)} arrays, expected a non-empty state dict "
            f"and a file name ending in {_ENDINGS}"
        )
    for name, array in state.items():
        if not (isinstance(name, str) and isinstance(array, np.ndarray)):
            raise TypeError(
                f"save_weights: got a {type(array).__name__} as {name!r}, expected NumPy arrays by "
                "name: model.state_dict()"
            )
        if "\0" in name or name == "__metadata__":  # would be read as another name, or none
            raise ValueError(f"save_weights: got an array named {name!r}; rename it")
        lacking = path.suffix in (".pt", ".pth") and array.dtype in _UNSIGNED
        if array.dtype.newbyteorder("=") not in _PLAIN or lacking:
            raise ValueError(
                f"save_weights: got {name} of dtype {array.dtype}, which {path.suffix} files of "
                "minidl cannot hold; convert it, for example to float32"
            )
    with whole_file(path) as file:
        _FORMATS[path.suffix][1](file, state)
    return path


def load_weights(path: str | os.PathLike[str], key: str | None = None) -> dict[str, NDArray[Any]]:
    """Read a state dict from a file, which need not be trusted: nothing in it is run.

    minidl computes in float32 and float64. Half precision, float16 or bfloat16, is read as float32,
    which holds each of its values exactly.

    PyTorch's checkpoints may also hold other objects, such as optimisers, NumPy's numbers and
    instances of any class, all of which are skipped. If several entries hold tensors, the first of
    these names is read: `state_dict`, `model_state_dict`, `model`, `net`, `network`, `module`,
    `params`, `weights`, `model_state`, `net_state_dict`, `state`.

    Args:
        path: a file of NumPy (`.npz`), of safetensors (`.safetensors`), or one written by
            any version of `torch.save`, under any name (`.pt`, `.pth`, `.bin`, `.ckpt`, `.th`,
            `.pth.tar`); or the index of a sharded checkpoint (`model.safetensors.index.json`,
            `pytorch_model.bin.index.json`); or a folder with one index or one file of weights.
        key: the entry of a PyTorch checkpoint to read, such as `"model_ema"`; dotted if nested.

    Returns:
        Arrays by name, for `Module.load_state_dict`. Tensors that shared memory in PyTorch share
        it here too, unless they are expanded or lazily negated.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has another format, is damaged, or holds anything but plain arrays
            as weights; the message says what was found.
    """
    path = Path(path)
    if path.is_dir() or path.suffix == ".json":
        return read_shards(path, lambda file: load_weights(file, key))
    with open_regular(path) as file:
        kind = path.suffix
        try:
            kind = _kind(file, path.suffix)
            read = _FORMATS[kind][0]
            if key is not None and read is not read_torch:
                raise ContentError(f"it has no entries to choose from with key={key!r:.80}")
            state = read_torch(file, key) if read is read_torch else read(file)
            for name, array in state.items():
                if array.dtype.newbyteorder("=") not in _PLAIN:
                    raise ContentError(f"{name:.80} has dtype {array.dtype}, expected real numbers")
            return state
        except ContentError as error:
            raise ValueError(f"load_weights: {path}: {error}") from error
        except Exception as error:  # NumPy and zipfile do not document what damage may raise
            raise ValueError(
                f"load_weights: {path} is not a {kind} file of plain arrays, or is damaged "
                f"({error}); save it again with save_weights"
            ) from error


def _kind(file: BinaryIO, suffix: str) -> str:
    """Return a file's format, from its ending or, if that is no format's own, from its content."""
    head = file.read(99)
    file.seek(0)
    safe = head[8:9] == b"{"
    for start, what in _FOREIGN.items():
        if head.lstrip().lower().startswith(start) and not safe:
            raise ContentError(f"it is {what}")
    if suffix in _FORMATS:
        return suffix
    is_npz = head.startswith(b"PK") and b".npy" in head
    return ".safetensors" if safe else ".npz" if is_npz else ".pt"


def _write_npz(file: BinaryIO, state: Mapping[str, NDArray[Any]]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in state.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _read_npz(file: BinaryIO) -> dict[str, NDArray[Any]]:
    budget = Budget(os.fstat(file.fileno()).st_size, GROWTH)
    with open_zip(file, budget) as archive:
        return {name: native(array) for name, array in read_arrays(archive)}


_PLAIN = {np.dtype(code) for code in "?bBhHiIqQfd"}
_UNSIGNED = {np.dtype(code) for code in ("u2", "u4", "u8")}
_FOREIGN = {
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself: git lfs pull",
    b"<!doctype": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
    b"\x89hdf": "an HDF5 file, as Keras writes; load it there, and save the arrays with np.savez",
    b"\x93numpy": "a single array of NumPy; save arrays by name with np.savez",
    b"\x80\x04\x95": "a pickle, which may run anything; save its arrays with np.savez",
    b"\x80\x05\x95": "a pickle, which may run anything; save its arrays with np.savez",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
}
_Read: TypeAlias = Callable[[BinaryIO], dict[str, NDArray[Any]]]
_Write: TypeAlias = Callable[[BinaryIO, Mapping[str, NDArray[Any]]], None]
_FORMATS: dict[str, tuple[_Read, _Write]] = {
    ".npz": (_read_npz, _write_npz),
    ".safetensors": (read_safetensors, write_safetensors),
    ".pt": (read_torch, write_torch),
    ".pth": (read_torch, write_torch),
}
_ENDINGS = ".npz, .safetensors, .pt or .pth"
