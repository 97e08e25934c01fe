"""Describe a machine: its processor, its caches, how fast it copies and how fast it multiplies.

    python -m tests.benchmarks.machine --threads 1 2

The rates are the best of several timings, each thread number in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

KIB, MIB = 2**10, 2**20
PAGE = 4096
SIDE = 2048  # of the square matrices that are multiplied


def processor() -> str:
    """Return the processor's name, as Linux knows it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    model = f"family {fields.get('cpu family', '?')}, model {fields.get('model', '?')}"
    return f"{fields.get('model name', platform.machine())} ({model})"


def cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@dataclass(frozen=True)
class Cache:
    """A data cache: its level, its size in bytes, and the cores that share it, such as "0-1"."""

    level: int
    size: int
    cores: str


def caches(core: Path) -> list[Cache]:
    """Return a core's data caches, the first level first; `core` is its folder in sysfs."""
    found = []
    for index in core.glob("cache/index*"):
        with contextlib.suppress(OSError, ValueError):  # virtual machines may hide some
            names = ("type", "level", "size", "shared_cpu_list")
            kind, level, size, shared = ((index / name).read_text().strip() for name in names)
            if kind != "Instruction":
                found.append(Cache(int(level), _bytes(size), shared))
    return sorted(found, key=lambda cache: cache.level)


def _bytes(size: str) -> int:
    units = {"K": KIB, "M": MIB, "G": 2**30}
    return int(size.rstrip("KMG")) * units.get(size[-1:], 1)


def describe(found: list[Cache]) -> str:
    """Return caches as text: those that cores share differ from the first level in their cores."""
    if not found:
        return "caches: unknown"
    texts = []
    for cache in found:
        large = cache.size >= MIB
        size = f"{cache.size / (MIB if large else KIB):g} {'MiB' if large else 'KiB'}"
        is_shared = cache.cores != found[0].cores
        owner = f"shared by cores {cache.cores}" if is_shared else "per core"
        texts.append(f"L{cache.level} {size} {owner}")
    return "caches: " + ", ".join(texts)


def array_sizes(found: list[Cache]) -> dict[str, int]:
    """Return by name how large the arrays are that each thread copies from and to, in bytes.

    Both together take half of the second level, or a quarter of the third. In memory, each is as
    large as the third level, but at least 128 and at most 512 MiB.
    """
    sizes = {cache.level: cache.size for cache in found}
    arrays = {}
    if 2 in sizes:
        arrays["half of L2"] = sizes[2] // 4
    if 3 in sizes:
        arrays["L3"] = sizes[3] // 8
    return arrays | {"memory": min(max(sizes.get(3, 0), 128 * MIB), 512 * MIB)}


def _seconds(run: Callable[[], Any], timings: int) -> float:
    times = []
    for _ in range(timings):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def copy_rate(size: int, threads: int) -> float:
    """Return how many bytes threads read and write in a second, each between two arrays."""
    repeats = max(1, 2**28 // size)
    copies = [copier(*arrays(size), repeats) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        seconds = _seconds(lambda: list(pool.map(lambda copy: copy(), copies)), 7)
    return 2 * size * repeats * threads / seconds


def arrays(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two arrays of `size` bytes, half a page apart.

    If the addresses within pages differ by a few bytes, a copy can be ten times slower (Zen 3).
    """
    memory = np.ones(2 * size + 3 * PAGE, np.uint8)
    first = -memory.ctypes.data % PAGE
    second = first + size + -size % PAGE + PAGE // 2
    return memory[first : first + size], memory[second : second + size]


def copier(source: np.ndarray, target: np.ndarray, repeats: int) -> Callable[[], None]:
    """Return a function that copies one array to the other, `repeats` times."""
    if source.nbytes < MIB:
        # Each as one element, repeated without moving: a single call, without the interpreter.
        whole = np.dtype((np.void, source.nbytes))
        source, target = (
            np.lib.stride_tricks.as_strided(array.view(whole), (repeats,), (0,))
            for array in (source, target)
        )
        repeats = 1

    def copy() -> None:
        for _ in range(repeats):
            np.copyto(target, source)

    return copy


def measure(threads: int) -> None:
    """Print this process's rates as JSON: multiply-adds, and bytes by the size of the arrays."""
    a = np.ones((SIDE, SIDE), np.float32)
    rates = {"multiply-adds": SIDE**3 / _seconds(lambda: a @ a, 10)}
    for name, size in array_sizes(_own_caches()).items():
        rates[name] = copy_rate(size, threads)
    print(json.dumps(rates))


def _own_caches() -> list[Cache]:
    return caches(Path(f"/sys/devices/system/cpu/cpu{cores()[0]}"))


def limits(threads: int) -> dict[str, str]:
    """Return an environment in which libraries start with a number of threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return os.environ | dict.fromkeys(names, str(threads))


def rates(threads: int) -> dict[str, float]:
    """Measure the rates in a process of its own: per second, the best of several timings."""
    command = [sys.executable, "-m", __spec__.name, "--measure", str(threads)]
    done = subprocess.run(
        command, env=limits(threads), check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def rates_text(threads: int, found: dict[str, float]) -> str:
    """Return rates as a line of text."""
    copies = [f"{found[name] / 1e9:.1f} in {name}" for name in found if name != "multiply-adds"]
    products = 2 * found["multiply-adds"] / 1e9
    return (
        f"{threads} thread{'s' * (threads > 1)}: {products:.0f} GFLOP/s in products of matrices "
        f"(sgemm); copies read and write, GB/s: {', '.join(copies)}"
    )


def peak_mb() -> float:
    """Return the most memory that this process has had, in MB (2**20 bytes).

    `getrusage` may count what its parent had when it started this process; Linux's status does not.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / KIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else KIB)


def import_mb(package: str) -> float:
    """Return what a process takes that imports a package, these benchmarks and nothing else."""
    code = f"import {package}; from {__spec__.name} import peak_mb; print(peak_mb())"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    return float(done.stdout)


def versions() -> str:
    """Return the versions of NumPy, of its BLAS with the kernels chosen, and of PyTorch, if any."""
    text = f"NumPy {np.__version__}"
    if importlib.util.find_spec("threadpoolctl"):
        import threadpoolctl

        for library in threadpoolctl.threadpool_info():
            if library["user_api"] == "blas":
                kernels = library.get("architecture", "kernels unknown")
                text += f" with {library['internal_api']} {library['version']} ({kernels})"
    if importlib.util.find_spec("torch"):
        text += f", PyTorch {importlib.metadata.version('torch')}"
    return text


def print_header(threads: Iterable[int], packages: Iterable[str]) -> dict[int, float]:
    """Print what is known of the machine; return multiply-adds per millisecond by threads."""
    print(f"{len(cores())} cores of {processor()}; {describe(_own_caches())}")
    found = {number: rates(number) for number in threads}
    for number, its in found.items():
        print(rates_text(number, its))
    print(versions())
    taken = ", ".join(f"{package} {import_mb(package):.0f} MB" for package in packages)
    print(f"peak memory of a process that only imports: {taken}", flush=True)
    return {number: its["multiply-adds"] / 1000 for number, its in found.items()}


def main() -> None:
    """Print the description of this machine."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    has_torch = importlib.util.find_spec("torch") is not None
    print_header(args.threads, ["minidl", *["torch"] * has_torch])


if __name__ == "__main__":
    main()
