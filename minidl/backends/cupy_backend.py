"""CuPy on an NVIDIA GPU. The only file that imports cupy."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from minidl.backends.base import Array, Backend

_INSTALL = (
    "install the CuPy that fits the driver's CUDA version (`nvidia-smi` shows it): "
    "pip install cupy-cuda13x for CUDA 13, cupy-cuda12x for CUDA 12"
)


@functools.cache
def _cupy() -> Any:
    """Import CuPy and run one kernel: it can import well and still fail at its first kernel."""
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            f"device 'cuda' needs CuPy, which does not import: {error}; {_INSTALL}"
        ) from error
    try:
        (cupy.arange(3, dtype=np.float32) + 1).sum().item()
    except Exception as error:
        raise RuntimeError(
            f"CuPy {cupy.__version__} is installed but cannot run a kernel: {error}; if `pip list` "
            f"shows more than one cupy package, remove all of them first; then {_INSTALL}"
        ) from error
    return cupy


def ndarray_type() -> type:
    """Return CuPy's array type."""
    kind: type = _cupy().ndarray
    return kind


class CupyBackend(Backend):
    """Kernels run in their generic form, on the whole batch at once."""

    device = "cuda"

    def __init__(self) -> None:
        self.xp = _cupy()

    def from_numpy(self, array: np.ndarray[Any, Any]) -> Array:
        """Copy a NumPy array to the GPU."""
        return self.xp.asarray(array)

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """Copy an array from the GPU, waiting for the work that makes it."""
        copy: np.ndarray[Any, Any] = self.xp.asnumpy(array)
        return copy

    def index_add(self, target: Array, index: Any, values: Array) -> None:
        """Do `target[index] += values` with atomic additions, whose order is not fixed."""
        self.xp.add.at(target, index, values)
