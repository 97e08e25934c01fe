"""The CuPy backend on the CPU: its own text, with `kernels.cu` built by a host C++ compiler.

`HostedBackend` is `CupyBackend` on guarded arrays. Its launches go to the kernels as a C++ compiler
built them (`host_cuda.h`), its products to a cuBLAS written as a loop (`host_cublas.h`), called
through the same `ctypes` signatures. So kernels, their arguments, strides and grids are all tested
where there is no GPU; what CuPy itself does is not.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl import backends
from minidl.backends.cuda import cublas, cupy_backend
from minidl.backends.cuda.cupy_backend import EXPRESSIONS, THREADS, CupyBackend
from minidl.backends.cuda.deferred import DeferringBackend

from . import guarded
from .guarded import GuardedArray, GuardedBackend

HERE = Path(__file__).parent
KERNELS = Path(cupy_backend.__file__).with_name("kernels.cu")


def compiler() -> str | None:
    """Return a host C++ compiler, if there is one."""
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@functools.cache
def library() -> ctypes.CDLL:
    """Build the kernels and the cuBLAS for the host."""
    lines = ['#include "host_cuda.h"', '#include "host_cublas.h"', '#include "kernels.cu"']
    for number, expression in enumerate(EXPRESSIONS):
        lines += [
            f'extern "C" void launch_{number}(unsigned x, unsigned y, unsigned b, void** a) '
            f"{{ launch(&{expression}, x, y, b, a); }}",
            f'extern "C" int sizes_{number}(int* s) {{ return sizes(&{expression}, s); }}',
        ]
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
        source.write_text("\n".join(lines))
        subprocess.run(
            [
                *[str(compiler()), "-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra"],
                *["-Werror", "-shared", "-fPIC", f"-I{HERE}", f"-I{KERNELS.parent}"],
                *[str(source), "-o", str(built)],
            ],
            check=True,
        )
        return ctypes.CDLL(str(built))


def launch(expression: str, blocks: tuple[int, int], arguments: Sequence[Any]) -> None:
    """Launch a kernel as CUDA does: by an array of pointers to its arguments."""
    number = EXPRESSIONS.index(expression)
    sizes = (ctypes.c_int * 64)()
    wanted = list(sizes[: getattr(library(), f"sizes_{number}")(sizes)])
    values = []
    for value in arguments:
        if isinstance(value, GuardedArray):
            values.append(ctypes.c_void_p(value._array.ctypes.data))
        else:
            values.append(np.ctypeslib.as_ctypes_type(value.dtype)(value.item()))
    assert [ctypes.sizeof(value) for value in values] == wanted, f"{expression}: arguments' sizes"
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    alive = (values, arguments)

    def work(_: Any = alive) -> None:
        getattr(library(), f"launch_{number}")(*blocks, THREADS, pointers)

    guarded._do(work, [])


class _Blas(cublas.Blas):
    def multiply(self, *arguments: Any) -> None:
        guarded._do(lambda: super(_Blas, self).multiply(*arguments), [])


class _Add:
    """CuPy's `add`, a function that has a function."""

    __call__ = staticmethod(guarded._guarded_call("add", np.add))

    @staticmethod
    def at(target: GuardedArray, index: Any, values: GuardedArray) -> None:
        GuardedBackend().index_add(target, index, values)


class _Namespace(guarded._Namespace):
    add = _Add()


class HostedBackend(CupyBackend, GuardedBackend):
    """CuPy's backend on guarded arrays, with kernels and cuBLAS of the host."""

    device = "guarded"
    _moved_here = GuardedBackend._moved_here
    _moved_to_host = GuardedBackend._moved_to_host
    _captured = GuardedBackend._captured
    _renewable = DeferringBackend._renewable  # likewise, outside the memory of a graph
    send = DeferringBackend.send  # which the CuPy backend does by streams

    def __init__(self) -> None:
        def address(array: GuardedArray) -> int:
            return int(array._array.ctypes.data)

        blas = _Blas(library(), lambda: 0, lambda: 0, address)
        super().__init__(_Namespace(), launch, blas)
        self._address = address

    @contextlib.contextmanager
    def in_place_of_guarded(self) -> Iterator[HostedBackend]:
        """Let guarded arrays belong to this backend for a while."""
        before = backends.backend_for("guarded")
        backends.register(GuardedArray, self)
        try:
            yield self
        finally:
            backends.register(GuardedArray, before)
