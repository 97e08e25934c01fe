"""Array libraries behind one interface; the type of the data selects the library."""

from __future__ import annotations

import functools
import os
import threading
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from minidl.backends.base import Array as Array
from minidl.backends.base import Backend as Backend
from minidl.backends.base import Update as Update
from minidl.backends.base import without_underflow as without_underflow
from minidl.backends.cpu import threads as threads
from minidl.backends.cuda.setup import share_gpus as share_gpus
from minidl.backends.windows import Windows as Windows

_by_type: dict[type, Backend] = {}
_by_device: dict[str, Backend] = {}
_making = threading.RLock()  # or two threads could create a backend each, whose tensors do not mix


def register(array_type: type, backend: Backend) -> None:
    """Use `backend` for arrays of this type and for its device's name."""
    _by_type[array_type] = backend
    _by_device[backend.device] = backend


Kernels: TypeAlias = Literal["fast", "exact", "plain"]
_KERNELS = "'fast', 'exact' or 'plain'"


def set_kernels(kernels: Kernels) -> None:
    """Choose the CPU kernels: the fast ones, the same without Winograd, or the simplest to read.

    `"exact"` is `"fast"` without Winograd, the algorithm for 3x3 float32 convolutions that shares
    intermediate values between neighbouring pixels: see `functional.conv2d`. Each output is then
    summed from its own window only, which is about five times as accurate; a CNN's training step
    takes up to twice as long.

    `"plain"` runs the generic code of `backends/base.py` and `backends/convolution.py` on the whole
    batch at once and fuses no layers: a breakpoint in `functional.max_pool2d` stops there. Results
    are equal up to rounding. The environment variable `MINIDL_KERNELS` sets the choice at import.

    Call this before creating tensors: existing tensors keep their kernels and cannot be mixed with
    new ones.

    Args:
        kernels: `"fast"`, the default, `"exact"` or `"plain"`.

    Raises:
        ValueError: any other name.

    Example:
        >>> import minidl
        >>> minidl.set_kernels("plain")
        >>> minidl.get_kernels()
        'plain'
        >>> minidl.set_kernels("fast")
    """
    if kernels not in get_args(Kernels):
        raise ValueError(f"set_kernels: got {kernels!r}, expected {_KERNELS}")
    with _making:
        register(np.ndarray, _cpu_backend(kernels))


@functools.cache  # after switching back, earlier tensors can be used again
def _cpu_backend(kernels: str) -> Backend:
    if kernels == "plain":
        return Backend()
    from minidl.backends.cpu.numpy_backend import NumpyBackend

    return NumpyBackend(kernels)


def get_kernels() -> Kernels:
    """Return the name of the kernels that new CPU tensors use."""
    return _by_type[np.ndarray].kernels  # type: ignore[return-value]


def backend_of(array: Array) -> Backend:
    """Return the backend of an array, from its type only.

    Raises:
        TypeError: no backend handles this type.
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
    """Return the backend of a device; the first `"cuda"` imports CuPy.

    Raises:
        ValueError: no device has this name.
        RuntimeError: CuPy is missing or does not work; the message says how to fix it.
    """
    if device == "cuda" and device not in _by_device:
        from minidl.backends.cuda import cupy_backend, setup

        with _making:
            if device not in _by_device:
                register(setup.ndarray_type(), cupy_backend.CupyBackend())
    try:
        return _by_device[device]
    except (KeyError, TypeError):
        raise ValueError(f"device={device!r}, expected 'cpu' or 'cuda'") from None


def asarray(op: str, value: Any) -> Array:
    """Return real numbers of any kind as an array on their device, copied only if necessary.

    Args:
        op: the caller, for messages.
        value: an array, a number or a nested list; a PyTorch tensor, whose 8-bit and 16-bit floats
            become float32; or any object with `__array__`, `__dlpack__` or the buffer protocol.

    Raises:
        ValueError: a list is ragged, or `__array__` raised one.
        TypeError: the values are not real numbers, or may be masked.
    """
    array = value
    if type(value) not in _by_type and type(value).__module__.partition(".")[0] != "cupy":
        try:
            array = _on_host(value)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            got = (
                f"{op}: got a {type(value).__name__}, expected real numbers in rows of equal length"
            )
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(f"{got}: {error}") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"{op}: got a {type(value).__name__} of dtype {array.dtype}, expected real numbers"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _on_host(value: Any) -> Array:
    kinds = {type(value), *(map(type, value) if isinstance(value, (list, tuple)) else ())}
    if any(hasattr(kind, "filled") for kind in kinds):
        raise TypeError("masked values would count like the rest; replace them: x.filled(value)")
    if hasattr(value, "resolve_neg"):  # PyTorch's, which exports only dtypes that NumPy has
        value = value.detach().cpu().resolve_conj().resolve_neg()
        value = value.float() if value.is_floating_point() and value.itemsize < 4 else value
    elif hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        value = np.from_dlpack(value)
    return np.asarray(value)


def _kernels_at_import() -> None:
    asked = os.environ.get("MINIDL_KERNELS") or "fast"  # set but empty counts as not set
    if asked not in get_args(Kernels):
        raise ValueError(f"MINIDL_KERNELS={asked!r}, expected {_KERNELS}")
    set_kernels(asked)  # type: ignore[arg-type]


_kernels_at_import()
