"""What can be wrong with CuPy, its driver or its memory, what was found, and what mends it."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from typing import Any

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
            f"{gpu['major']}.{gpu['minor']}, wants {OLDEST}.0 or more (Pascal, 2016): older ones "
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
