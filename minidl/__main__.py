"""`python -m minidl` prints the versions and devices that minidl finds, for bug reports."""

from __future__ import annotations

import platform

import numpy as np
import threadpoolctl

import minidl
from minidl.backends.cuda import cupy_backend
from minidl.distributed import mpi


def found() -> list[tuple[str, str]]:
    """Return the names and descriptions of what was found."""
    blas = [
        f"{info['internal_api']} {info['version']}, {info['num_threads']} thread(s)"
        for info in threadpoolctl.threadpool_info()
        if info["user_api"] == "blas"
    ]
    return [
        ("minidl", minidl.__version__),
        ("Python", f"{platform.python_version()} on {platform.platform()}"),
        ("NumPy", np.__version__),
        ("BLAS", "; ".join(blas) or "unknown to threadpoolctl"),
        ("threads", f"{minidl.get_num_threads()} (minidl's own)"),
        *cupy_backend.describe(),
        *mpi.describe(),
    ]


def main() -> None:
    """Print one line per entry of `found`."""
    rows = found()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


if __name__ == "__main__":
    main()
