"""Run Python with CUDA on a CPU: `python -m tests.helpers.cuda_on_cpu -m pytest -m gpu`."""

from __future__ import annotations

import os
import sys

from . import HERE, built, compiler, package


def main() -> None:
    """Replace this process by one that finds the stand-in where NVIDIA's libraries would be."""
    if package() is None or compiler() is None:
        sys.exit("cuda_on_cpu: needs CuPy (pip install cupy-cuda12x) and a C++ compiler")
    folder = built()

    def before(name: str, *paths: object) -> str:
        return os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get(name)])])

    os.environ |= {
        "CUDA_ON_CPU": str(folder),
        "LD_LIBRARY_PATH": before("LD_LIBRARY_PATH", folder),
        "PYTHONPATH": before("PYTHONPATH", HERE / "startup", HERE.parents[2]),
        "CUPY_CACHE_DIR": str(folder / "kernels"),
        "CUDA_PATH": str(HERE),  # else CuPy searches for a toolkit, whose headers are for nvcc
        "CUDA_HOME": str(HERE),
        "CUPY_ACCELERATORS": "",  # CUB's kernels are in CuPy, compiled for GPUs
    }
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])


if __name__ == "__main__":
    main()
