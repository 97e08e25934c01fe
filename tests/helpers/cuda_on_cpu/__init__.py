"""CUDA on a CPU: CuPy's compiled package runs where there is no GPU, so `pytest -m gpu` does too.

    python -m tests.helpers.cuda_on_cpu -m pytest -m gpu

runs Python with these arguments. Only there, and in processes that it starts, does CuPy find this
in place of NVIDIA's libraries: see `__main__.py`. It needs Linux on x86-64, g++, and the wheels of
NumPy and of CuPy 14 for CUDA 12.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import mmap
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
NAMES = ("libcuda.so.1", "libnvrtc.so.12", "libcublas.so.12", "libcublasLt.so.12")
BLAS = "cupy_backends/cuda/libs/cublas"
KERNELS = "-std=c++17 -O2 -ffp-contract=off -fno-math-errno -w -fPIC -fvisibility=hidden"
KERNELS += " -fno-gnu-unique -U_FORTIFY_SOURCE"  # with the latter, longjmp refuses another stack
LIBRARY = "-std=c++17 -O3 -march=native -ffp-contract=off -Wall -Wextra -shared -fPIC"
HEADERS = ("complex.cuh", "carray.cuh", "atomics.cuh", "math_constants.h")  # compiled in advance
Symbols = dict[str, tuple[int, int]]


def package() -> Path | None:
    """Return the folder that CuPy's packages are in, or None; without importing them."""
    found = importlib.util.find_spec("cupy_backends")
    return Path(str(found.origin)).parent.parent if found and found.origin else None


def extension(name: str) -> Path:
    """Return the path of one of CuPy's extension modules, such as `cupy/cuda/thrust`."""
    parent = package()
    assert parent is not None, "CuPy is not installed"
    (path,) = parent.glob(f"{name}.cpython-*.so")
    return path


def symbols(path: Path, wanted: str) -> Symbols:
    """Return what an ELF file defines or needs that matches a pattern: address and size, or 0."""
    command = ["nm", "--print-size", str(path)]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    pattern = rf"^(?:(\w+) (\w+))? +\w ({wanted})(?:@.*)?$"
    found = re.findall(pattern, listed, re.MULTILINE)
    return {name: (int(start or "0", 16), int(size or "0", 16)) for start, size, name in found}


# Building ---------------------------------------------------------------------------------------


def compiler() -> str | None:
    """Return the path of g++, whose own options are used, if there is one."""
    return shutil.which("g++")


def openblas() -> Path:
    """Return the library by which NumPy multiplies matrices."""
    (path,) = (Path(np.__file__).parents[1] / "numpy.libs").glob("*openblas64_*")
    return path


def built() -> Path:
    """Build the stand-in once; return the folder with a link to it for each of NVIDIA's names."""
    sources = (*sorted(HERE.glob("*.[ch]*")), extension(BLAS))
    used = (compiler(), KERNELS, LIBRARY, NAMES, sources, openblas())
    contents = b"".join(path.read_bytes() for path in sources) + str(used).encode()
    stamp = hashlib.sha256(contents).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"cuda_on_cpu-{os.getuid()}" / stamp
    if not folder.is_dir():
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as place:
            _build(Path(place), folder)
            with contextlib.suppress(OSError):  # another process was faster
                Path(place).rename(folder)
                Path(place).mkdir()
    return folder


def _build(place: Path, folder: Path) -> None:
    """Build in one place for use in another."""
    include = extension("cupy/_core/core").parent / "include"
    cccl = [include / "cupy/_cccl" / name for name in ("cub", "thrust", "libcudacxx")]
    kernels = f"{compiler()} {KERNELS}"
    headers = ["device.h", *(f"cupy/{name}" for name in HEADERS)]
    (place / "kernels.h").write_text("".join(f"#include <{name}>\n" for name in headers))
    folders = [f"-I{path}" for path in (HERE, include, *cccl)]
    command = [*kernels.split(), *folders, "-x", "c++-header", str(place / "kernels.h")]
    subprocess.run(command, check=True)

    text = "".join((HERE / name).read_text() for name in ("libraries.h", "cuda.cpp"))
    text = text.replace("##letter##", "S") + text.replace("##letter##", "D")  # by PRODUCTS
    needed = symbols(extension(BLAS), r"cublas[A-Z]\w*")
    absent = (name for name in needed if f" {name}(" not in text)
    lines = [f'extern "C" int {name}() {{ return missing("{name}"), 15; }}' for name in absent]
    (place / "absent.cpp").write_text("\n".join(['extern "C" int missing(const char*);', *lines]))
    (place / "versions").write_text(f"{NAMES[2]} {{ global: cublas*; }};")
    double, single = sorted(symbols(openblas(), r"\w*cblas_[ds]gemm64_"))
    command = [str(compiler()), *LIBRARY.split(), f"-Wl,--version-script={place / 'versions'}"]
    command += [f'-DCOMPILE="{kernels}"', f'-DFOLDER="{folder}"', f'-DSTAMP="{folder.name}"']
    command += [f"-DDGEMM={double}", f"-DSGEMM={single}", str(HERE / "cuda.cpp")]
    command += [str(place / "absent.cpp"), "-o", str(place / NAMES[0]), str(openblas()), "-ldl"]
    subprocess.run([*command, f"-Wl,-rpath,{openblas().parent}"], check=True)
    for name in NAMES[1:]:
        (place / name).symlink_to(NAMES[0])


# Putting it in place ----------------------------------------------------------------------------


def _jump(to: int, first: int | None = None) -> bytes:
    """Return machine code that jumps somewhere, after putting a first argument in place."""
    argument = b"" if first is None else b"\x48\xbf" + first.to_bytes(8, "little")  # mov rdi
    return argument + b"\x48\xb8" + to.to_bytes(8, "little") + b"\xff\xe0"  # mov rax; jmp rax


def _write(address: int, code: bytes) -> None:
    libc, page = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE
    start = address // page * page
    length = address + len(code) - start
    if libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(length), 7):
        raise OSError(ctypes.get_errno(), "mprotect: CuPy's code cannot be changed")
    ctypes.memmove(address, code, len(code))
    libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(length), 5)


def _redirect(library: ctypes.CDLL, name: str, pattern: str) -> None:
    """Let the functions of an extension module jump to those of the same name in a library.

    Those that the library lacks jump to `missing`, with their name as its argument.
    """
    path = extension(name)
    found, module = symbols(path, pattern), ctypes.PyDLL(str(path))
    known = f"PyInit_{path.name.split('.')[0]}"
    base = ctypes.cast(module[known], ctypes.c_void_p).value - symbols(path, known)[known][0]
    missing = ctypes.cast(library.missing, ctypes.c_void_p).value
    for function, (place, size) in found.items():
        try:
            code = _jump(ctypes.cast(library[function], ctypes.c_void_p).value)
        except AttributeError:
            text = _kept(function)
            code = _jump(missing, ctypes.cast(text, ctypes.c_void_p).value)
        assert len(code) <= size, f"{function} is too short to be replaced"
        _write(base + place, code)


@functools.cache
def _kept(text: str) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(text.encode())


def install(folder: Path) -> None:
    """Put the stand-in in place in this process."""
    library = ctypes.CDLL(str(folder / NAMES[0]))
    _redirect(library, "cupy_backends/cuda/api/runtime", r"cuda[A-Z]\w*")
    _redirect(library, "cupy/cuda/thrust", r"_Z[0-9]+thrust_[a-z]*sort\w*")
