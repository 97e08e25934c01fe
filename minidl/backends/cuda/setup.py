"""What can be wrong with CuPy, its driver or its memory, what was found, and what mends it."""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

OLDEST = 6  # major compute capability that kernels.cu compiles for

FITS = (
    "install the CuPy that fits the driver's CUDA version (`nvidia-smi` shows it): "
    "pip install cupy-cuda13x for CUDA 13, cupy-cuda12x for CUDA 12"
)


def installed() -> list[str]:
    """Return the installed packages that bring a `cupy` module."""
    names = {str(found.metadata["Name"]).lower() for found in importlib.metadata.distributions()}
    return sorted(name for name in names if re.fullmatch(r"cupy(-cuda\w+|-rocm[\w-]+)?", name))


def check_driver(cupy: Any, packages: Sequence[str]) -> None:
    """Raise RuntimeError if there is no driver, one too old for this CuPy, or no fitting GPU."""
    runtime = cupy.cuda.runtime
    driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    name = packages[0] if packages else f"CuPy {cupy.__version__}"
    if driver == 0:
        raise RuntimeError(
            f"device 'cuda': {name} finds no NVIDIA driver; install the driver of the GPU, or, in "
            "a container, pass the GPU on (docker run --gpus all); `nvidia-smi` must show it"
        )
    if driver // 1000 < built // 1000:
        fitting = f"cupy-cuda{driver // 1000}x"
        raise RuntimeError(
            f"device 'cuda': {name} is made for CUDA {version(built)}, but the driver knows CUDA "
            f"up to {version(driver)}; run: pip uninstall -y {name} && pip install {fitting}; or "
            "install a newer driver"
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
    gpu = runtime.getDeviceProperties(cupy.cuda.Device().id)
    if gpu["major"] < OLDEST:
        raise RuntimeError(
            f"device 'cuda': the GPU, {gpu['name'].decode()}, has compute capability "
            f"{gpu['major']}.{gpu['minor']}, expected {OLDEST}.0 or more (Pascal, 2016): older "
            f"ones "
            "cannot add float64 numbers atomically"
        )


def version(number: int) -> str:
    """Return CUDA's number of a version, such as 12040, as people write it: 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"


def explain_lack_of_memory(cupy: Any) -> None:
    """Have CuPy say, when the GPU is full, how full it is and what can be done."""
    allocate, full = cupy.cuda.get_allocator(), cupy.cuda.memory.OutOfMemoryError

    def explained(size: int) -> Any:
        try:
            return allocate(size)
        except full as error:
            free, total = cupy.cuda.runtime.memGetInfo()
            used = cupy.get_default_memory_pool().used_bytes()
            raise MemoryError(
                f"the GPU is out of memory: {size / 2**20:,.0f} MiB more are wanted, "
                f"{free / 2**20:,.0f} of {total / 2**20:,.0f} MiB are free, and this program's "
                f"arrays hold {used / 2**20:,.0f}; take a smaller batch, evaluate under "
                "minidl.no_grad(), or stop other programs that `nvidia-smi` shows"
            ) from error

    cupy.cuda.set_allocator(explained)


class _Choices:
    tf32 = False
    deterministic = False


choices = _Choices()


def set_tf32(on: bool) -> None:
    """Let a GPU round float32 numbers to TF32 before multiplying matrices, or forbid it.

    TF32 keeps float32's range and 10 of its 23 binary digits: products are several times as fast on
    GPUs since the A100, and have errors of about 1e-3. Off at first, whatever `CUPY_TF32` says, so
    that results are those of the CPU. It concerns all products of matrices, and with them all
    convolutions; nothing on the CPU. Compare with PyTorch under equal settings:
    `torch.backends.cuda.matmul.allow_tf32`, and `torch.backends.cudnn.allow_tf32`, which is on
    there at first.
    """
    choices.tf32 = bool(on)
    if _started():
        tell_cupy(load_cupy())


def get_tf32() -> bool:
    """Return what `set_tf32` was last told."""
    return choices.tf32


def set_deterministic(on: bool) -> None:
    """Add gradients of repeated indices in a fixed order on a GPU, or in any order.

    Everything else minidl does on a GPU gives the same bits in every run. Where several gradients
    meet in one row of an embedding, or one element of what was indexed, the order of their sum is
    left to chance at first, and the last bits with it. A fixed order takes a sort in each backward
    pass, which makes the host wait, and which `capture` cannot record.
    """
    choices.deterministic = bool(on)


def get_deterministic() -> bool:
    """Return what `set_deterministic` was last told."""
    return choices.deterministic


# Starting CuPy --------------------------------------------------------------------------------


@functools.cache
def load_cupy() -> Any:
    """Import CuPy and run one kernel: it can import well and still fail at its first kernel."""
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
    """Have CuPy's own products, such as einsum's, follow `set_tf32`."""
    linalg = cupy._core._routines_linalg
    kind = linalg.COMPUTE_TYPE_TF32 if choices.tf32 else linalg.COMPUTE_TYPE_DEFAULT
    linalg.set_compute_type(np.float32, kind)


def ndarray_type() -> type:
    """Return CuPy's array type."""
    kind: type = load_cupy().ndarray
    return kind
