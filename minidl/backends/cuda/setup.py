"""Find what is wrong with CuPy, its driver or its memory, and say how to fix it."""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

OLDEST = 6  # major compute capability for which kernels.cu compiles

FITS = (
    "install the CuPy that fits the driver's CUDA version (`nvidia-smi` shows it): "
    "pip install cupy-cuda13x for CUDA 13, cupy-cuda12x for CUDA 12"
)


def installed() -> list[str]:
    """Return the installed packages that provide a `cupy` module."""
    import importlib.metadata  # imported on use: it imports email

    names = {str(found.metadata["Name"]).lower() for found in importlib.metadata.distributions()}
    return sorted(name for name in names if re.fullmatch(r"cupy(-cuda\w+|-rocm[\w-]+)?", name))


def check_driver(cupy: Any, packages: Sequence[str]) -> None:
    """Raise RuntimeError if the driver is missing or too old, or if no GPU is suitable."""
    runtime = cupy.cuda.runtime
    driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    name = packages[0] if packages else f"CuPy {cupy.__version__}"
    if driver == 0:
        raise RuntimeError(
            f"device 'cuda': {name} finds no NVIDIA driver; install the GPU's driver, or, in "
            "a container, pass the GPU through (docker run --gpus all); `nvidia-smi` must show it"
        )
    if driver // 1000 < built // 1000:
        fitting = f"cupy-cuda{driver // 1000}x"
        raise RuntimeError(
            f"device 'cuda': {name} is built for CUDA {version(built)}, but the driver supports "
            f"CUDA up to {version(driver)}; run: pip uninstall -y {name} && pip install {fitting}; "
            "or install a newer driver"
        )
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise RuntimeError(f"device 'cuda': {name} finds no GPU: {error}") from error
    if count == 0:
        raise RuntimeError(
            f"device 'cuda': {name} and the driver work, but there is no GPU; does "
            "CUDA_VISIBLE_DEVICES hide it? `nvidia-smi` must show it"
        )
    if choices.local_rank is not None:
        own_gpu(cupy.cuda).use()
    gpu = runtime.getDeviceProperties(cupy.cuda.Device().id)
    if gpu["major"] < OLDEST:
        raise RuntimeError(
            f"device 'cuda': the GPU, {gpu['name'].decode()}, has compute capability "
            f"{gpu['major']}.{gpu['minor']}, expected >= {OLDEST}.0 (Pascal, 2016): older GPUs "
            "cannot add float64 values atomically"
        )


def version(number: int) -> str:
    """Format CUDA's version number, such as 12040, in the usual way: 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"


def explain_lack_of_memory(cupy: Any) -> None:
    """Make CuPy's out-of-memory error say how full the GPU is and what to do."""
    allocate, full = cupy.cuda.get_allocator(), cupy.cuda.memory.OutOfMemoryError

    def explained(size: int) -> Any:
        try:
            return allocate(size)
        except full as error:
            free, total = cupy.cuda.runtime.memGetInfo()
            used = cupy.get_default_memory_pool().used_bytes()
            raise MemoryError(
                f"the GPU is out of memory: {size / 2**20:,.0f} MiB were requested, "
                f"{free / 2**20:,.0f} of {total / 2**20:,.0f} MiB are free, and this program's "
                f"arrays hold {used / 2**20:,.0f}; use a smaller batch, evaluate under "
                "minidl.no_grad(), or stop other programs shown by `nvidia-smi`"
            ) from error

    cupy.cuda.set_allocator(explained)


class _Choices:
    tf32 = False
    deterministic = False
    local_rank: int | None = None


choices = _Choices()


def set_tf32(on: bool) -> None:
    """Allow or forbid a GPU to round float32 values to TF32 before multiplying matrices.

    TF32 keeps float32's range and 10 of its 23 mantissa bits: products are several times as fast on
    GPUs since the A100, with errors of about 1e-3. It is off by default, even if `CUPY_TF32` is
    set, so that results match the CPU. It applies to all matrix products, and so to all
    convolutions, but not on the CPU. Compare with PyTorch under equal settings:
    `torch.backends.cuda.matmul.allow_tf32`, and `torch.backends.cudnn.allow_tf32`, which is on by
    default.
    """
    choices.tf32 = bool(on)
    if _started():
        tell_cupy(load_cupy())


def get_tf32() -> bool:
    """Return the setting of `set_tf32`."""
    return choices.tf32


def set_deterministic(on: bool) -> None:
    """On a GPU, add gradients of repeated indices in a fixed order, or in any order.

    Everything else that minidl does on a GPU gives the same bits in every run. By default, if
    several gradients are added to one row of an embedding, or to one indexed element, the order of
    the sum is random, and so are its last bits: each addition rounds to the gradient's dtype. A
    fixed order adds in float64 and rounds once. It takes a sort in each backward pass, which makes
    the host wait, and which `capture` cannot record.
    """
    choices.deterministic = bool(on)


def get_deterministic() -> bool:
    """Return the setting of `set_deterministic`."""
    return choices.deterministic


def share_gpus(local_rank: int) -> None:
    """Let this process use the GPU of its number, modulo the number of GPUs that it sees.

    It does not import CuPy, and has no effect if that has started: arrays may be on another GPU.
    """
    if not _started():
        choices.local_rank = local_rank


def own_gpu(cuda: Any) -> Any:
    """Return the GPU of this process, for `with`: a new thread would use the first one."""
    if choices.local_rank is None:
        return contextlib.nullcontext()
    return cuda.Device(choices.local_rank % cuda.runtime.getDeviceCount())


# Starting CuPy --------------------------------------------------------------------------------


@functools.cache
def load_cupy() -> Any:
    """Import CuPy and run one kernel: the import can succeed and the first kernel still fail."""
    packages = installed()
    if len(packages) > 1:
        raise RuntimeError(
            f"device 'cuda': {' and '.join(packages)} are installed, which overwrite each other's "
            f"files; remove them all with: pip uninstall -y {' '.join(packages)}; then {FITS}"
        )
    try:
        import cupy
    except ImportError as error:
        found = f"; {packages[0]} is installed but damaged" if packages else ""
        raise RuntimeError(
            f"device 'cuda' needs CuPy, which does not import: {error}{found}; {FITS}"
        ) from error
    check_driver(cupy, packages)
    try:
        (cupy.arange(3, dtype=np.float32) + 1).sum().item()
    except Exception as error:
        remove = " ".join(packages) or "cupy"
        raise RuntimeError(
            f"CuPy {cupy.__version__} is installed but cannot run a kernel: {error}; remove it "
            f"with: pip uninstall -y {remove}; then {FITS}"
        ) from error
    return cupy


def _started() -> bool:
    return load_cupy.cache_info().currsize > 0


def tell_cupy(cupy: Any) -> None:
    """Make CuPy's own products, such as einsum's, follow `set_tf32`."""
    linalg = cupy._core._routines_linalg
    kind = linalg.COMPUTE_TYPE_TF32 if choices.tf32 else linalg.COMPUTE_TYPE_DEFAULT
    linalg.set_compute_type(np.float32, kind)


def load_nccl() -> Any:
    """Return CuPy's module for NCCL, whose `available` says whether it has found the library."""
    with warnings.catch_warnings(action="ignore"):
        import cupy.cuda.nccl
    return cupy.cuda.nccl


def ndarray_type() -> type:
    """Return CuPy's array type."""
    kind: type = load_cupy().ndarray
    return kind
