"""Array libraries behind one interface; the data decide which one runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backends.base import Array, Backend
from minidl.backends.cpu.numpy_backend import NumpyBackend
from minidl.backends.update import Update
from minidl.backends.windows import Windows

__all__ = ["Array", "Backend", "Update", "Windows", "backend_for", "backend_of", "register"]

_by_type: dict[type, Backend] = {}
_by_device: dict[str, Backend] = {}


def register(array_type: type, backend: Backend) -> None:
    """Make `backend` the one for arrays of this type and for its device's name."""
    _by_type[array_type] = backend
    _by_device[backend.device] = backend


register(np.ndarray, NumpyBackend())


def backend_of(array: Array) -> Backend:
    """Return the backend that an array belongs to, found from its type alone.

    Raises:
        TypeError: the type belongs to no backend.
    """
    found = _by_type.get(type(array))
    if found is not None:
        return found
    if type(array).__module__.partition(".")[0] == "cupy":
        return backend_for("cuda")
    for array_type, backend in _by_type.items():
        if isinstance(array, array_type):
            return backend
    raise TypeError(
        f"minidl has no backend for a {type(array).__name__}; it works on NumPy and CuPy arrays"
    )


def backend_for(device: str) -> Backend:
    """Return the backend of a device, starting CuPy the first time `"cuda"` is asked for.

    Raises:
        ValueError: no device has this name.
        RuntimeError: CuPy is missing or does not work; the message says how to mend it.
    """
    if device == "cuda" and device not in _by_device:
        from minidl.backends.cuda import cupy_backend

        register(cupy_backend.ndarray_type(), cupy_backend.CupyBackend())
    try:
        return _by_device[device]
    except (KeyError, TypeError):
        raise ValueError(f"device={device!r}: minidl knows 'cpu' and 'cuda'") from None


def asarray(value: Any, dtype: Any = None) -> Array:
    """Return `value` as an array, leaving arrays of a known backend on their device."""
    if type(value) in _by_type or type(value).__module__.partition(".")[0] == "cupy":
        return value if dtype is None else value.astype(dtype, copy=False)
    return np.asarray(value, dtype)
