"""`python -m minidl` prints what minidl finds on this machine, for bug reports and for yourself."""

from __future__ import annotations

import platform

import numpy as np
import threadpoolctl

import minidl
from minidl.backends.cuda import cupy_backend


def found() -> list[tuple[str, str]]:
    """Return what there is, in words: names and values."""
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
        ("threads", f"{minidl.get_num_threads()}, minidl's own"),
        *cupy_backend.describe(),
    ]


def main() -> None:
    """Print a line for each."""
    rows = found()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


if __name__ == "__main__":
    main()
