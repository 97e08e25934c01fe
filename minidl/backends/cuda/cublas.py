"""Matrix products with NVIDIA's cuBLAS, called directly.

CuPy has these products too, but refuses them while a CUDA graph is recorded, copies stacks of
transposed matrices, and decides by itself whether to round to TF32.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.backends.windows import Array

AS_IT_IS, TRANSPOSED, COPY = 0, 1, -1
FULL_PRECISION, TF32 = 0, 3  # cublasMath_t
WORKSPACE = 2**25  # bytes; cuBLAS's own default on the newest GPUs

_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong


def load(major: int) -> Any:
    """Return the cuBLAS that CuPy has loaded for a major CUDA version; None if not found."""
    for name in (f"libcublas.so.{major}", f"cublas64_{major}.dll"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


class Blas:
    """Products of matrices, or stacks of matrices, of one float dtype.

    Args:
        library: cuBLAS, as `load` returns it.
        handle: returns the cuBLAS handle of this device and thread.
        stream: returns the address of the current stream.
        address: returns the address of an array's first element.
    """

    def __init__(
        self,
        library: Any,
        handle: Callable[[], int],
        stream: Callable[[], int],
        address: Callable[[Array], int],
    ) -> None:
        self._handle, self._stream, self._address = handle, stream, address
        self._set_stream = library.cublasSetStream_v2
        self._set_stream.argtypes = [_POINTER, _POINTER]
        self._set_mode = library.cublasSetMathMode
        self._set_mode.argtypes = [_POINTER, _INT]
        self._set_workspace = library.cublasSetWorkspace_v2
        self._set_workspace.argtypes = [_POINTER, _POINTER, ctypes.c_size_t]
        matrix = [_POINTER, _INT, _LONG]  # address, leading dimension, step to the next matrix
        sizes = [_INT] * 5
        self._products: dict[Any, tuple[Any, Any]] = {}
        for dtype, name, number in (
            (np.float32, "cublasSgemmStridedBatched", ctypes.c_float),
            (np.float64, "cublasDgemmStridedBatched", ctypes.c_double),
        ):
            function = getattr(library, name)
            function.argtypes = [
                *[_POINTER, *sizes, ctypes.POINTER(number), *matrix, *matrix],
                *[ctypes.POINTER(number), *matrix, _INT],
            ]
            self._products[np.dtype(dtype)] = function, number

    def takes(self, a: Array, b: Array) -> bool:
        """Tell whether these are two matrices or two equally long stacks, with one float dtype."""
        alike = a.dtype == b.dtype and a.ndim == b.ndim and a.shape[:-2] == b.shape[:-2]
        return alike and a.dtype in self._products and a.ndim in (2, 3) and a.size * b.size > 0

    def multiply(
        self, a: Array, b: Array, out: Array, tf32: bool, workspace: Array | None = None
    ) -> None:
        """Write `a @ b` into `out`. No `layout` of the three may be `COPY`.

        Args:
            a: `(m, k)`, or `(count, m, k)`.
            b: `(k, n)`, or `(count, k, n)`.
            out: `(m, n)`, or `(count, m, n)`; its layout is `AS_IT_IS`.
            tf32: whether float32 may be rounded to 10 binary digits before multiplying.
            workspace: memory for cuBLAS, which must not allocate while work is recorded.

        Raises:
            RuntimeError: cuBLAS reports an error.
        """
        (m, n), k = out.shape[-2:], a.shape[-1]
        function, number = self._products[out.dtype]
        one, zero = number(1), number(0)
        handle = self._handle()
        status = self._set_stream(handle, self._stream())
        status = status or self._set_mode(handle, TF32 if tf32 else FULL_PRECISION)
        if workspace is not None:  # after the stream, which resets it
            where = self._address(workspace)
            status = status or self._set_workspace(handle, where, workspace.nbytes)
        # cuBLAS is column-major: it sees the transpose of a row-major matrix. So ask it for the
        # transpose of the product: out.T = b.T @ a.T.
        (op_a, ld_a, step_a), (op_b, ld_b, step_b) = layout(a), layout(b)
        _, ld_out, step_out = layout(out)
        status = status or function(
            *[handle, op_b, op_a, n, m, k, ctypes.byref(one)],
            *[self._address(b), ld_b, step_b, self._address(a), ld_a, step_a],
            *[ctypes.byref(zero), self._address(out), ld_out, step_out],
            out.shape[0] if out.ndim == 3 else 1,
        )
        if status:
            raise RuntimeError(
                f"matmul: cuBLAS reports error {status} for shapes {a.shape} and {b.shape}, "
                f"{out.dtype}; is the GPU out of memory, or did an earlier kernel fail?"
            )


def layout(x: Array) -> tuple[int, int, int]:
    """Return how cuBLAS reads a matrix or stack: form, leading dimension, step to the next.

    The form is `COPY` if neither its rows nor its columns are contiguous.
    """
    rows, columns = x.shape[-2:]
    step = x.strides[0] // x.itemsize if x.ndim == 3 and len(x) > 1 else 0
    down, across = x.strides[-2] // x.itemsize, x.strides[-1] // x.itemsize
    if (columns == 1 or across == 1) and (rows == 1 or down >= columns):
        return AS_IT_IS, columns if rows == 1 else down, step
    if (rows == 1 or down == 1) and (columns == 1 or across >= rows):
        return TRANSPOSED, rows if columns == 1 else across, step
    return COPY, 0, 0
