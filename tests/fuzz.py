"""Fuzz the file readers: each must return the right content or raise ValueError, in 2 s and 500 MB.

    python -m tests.fuzz [--count 1000] [--only NAME ...] [--first 0] [--jobs 2] [--keep FOLDER]

mutates a small valid file of each format (`tests/helpers/seeds.py`): it flips bits, and cuts,
repeats, moves, inserts and overwrites bytes, also with numbers that readers trip over. In every
second file, it repairs the checksums. Mutation N is always the same; `--first N --count 1` repeats
it. It is a fault if reading

- ends in any other way than with content or a ValueError: another error, a warning, a signal;
- takes more than 2 s of processor time, or 500 MB of additional address space;
- returns other content, although the format has checksums and they were not repaired.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .helpers.seeds import SEEDS, Seed

_SECONDS, _BYTES = 2.0, 500 << 20
_BATCH = 500  # files per process

# Lengths, counts and characters that readers trip over.
_NUMBERS = [
    *(n.to_bytes(size, order) for order in ("little", "big") for size, numbers in {
        1: (0, 1, 0x7F, 0x80, 0xFF), 2: (0x7FFF, 0x8000, 0xFFFF),
        4: (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 20, 1 << 28),
        8: (0, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF, 1 << 32, 1 << 40),
    }.items() for n in numbers),
    *(b"\x00", b"\xff", b"\n", b'"', b"'", b"(", b"[" * 50, b"{" * 50, b"(" * 2000, b"," * 100),
    *(b"9" * 20, b"-1", b"1e999", b"NaN", b"None", b"..", b"/", b"\x80\x04", b"PK\x03\x04"),
    b"0" * 5000,
]  # fmt: skip


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the content after one to four mutations."""
    out = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        size = len(out)
        if not size:
            break
        # Headers decide more than pixels: half of all mutations hit the first or last bytes.
        reach = min(size, 600)
        at = int(
            rng.choice([rng.integers(size), rng.integers(reach), size - 1 - rng.integers(reach)])
        )
        length = int(rng.integers(1, max(2, min(size, 1 << int(rng.integers(1, 12))))))
        other = int(rng.integers(size))
        match int(rng.integers(9)):
            case 0 | 1:
                out[at] ^= 1 << int(rng.integers(8))
            case 2:
                out[at] = int(rng.integers(256))
            case 3:
                del out[at:]
            case 4:
                del out[at : at + length]
            case 5:
                out[at:at] = out[other : other + length] * int(rng.choice([1, 1, 2, 300]))
            case 6:
                out[at : at + length] = out[other : other + length]
            case 7:
                number = _NUMBERS[rng.integers(len(_NUMBERS))]
                out[at : at + len(number)] = number
            case 8:
                number = _NUMBERS[rng.integers(len(_NUMBERS))]
                out[at:at] = number
    return bytes(out)


def attack(seed: Seed, name: str, number: int) -> tuple[bytes, bool]:
    """Return mutated file `number` of a format, and whether its checksums were repaired."""
    rng = np.random.default_rng([sum(name.encode()), number])
    content = mutated(seed.content, rng)
    if seed.repair is not None and number % 2:
        return seed.repair(content), True
    return content, False


def same(a: Any, b: Any) -> bool:
    """Return whether two results are equal, arrays bit for bit."""
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and (a.dtype, a.shape) == (b.dtype, b.shape)
            and a.tobytes() == b.tobytes()
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    words = getattr(a, "words", None)
    return same(words, b.words) if words is not None else bool(type(a) is type(b) and a == b)


# One process reads many files --------------------------------------------------------------------


class _TooSlowError(BaseException):
    """Not an Exception: readers may turn any of those into a ValueError."""


def _too_slow(*_: object) -> None:
    raise _TooSlowError(f"more than {_SECONDS} s of processor time")


def judged(seed: Seed, path: Path, expected: Any, repaired: bool = False) -> tuple[str, str]:
    """Read a file; return what came of it, and its fault, if any.

    A reader that hangs in C, or waits, ends this process.
    """
    signal.signal(signal.SIGVTALRM, _too_slow)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS)
        signal.setitimer(signal.ITIMER_PROF, 3 * _SECONDS)
        signal.alarm(60)
        try:
            right, kind, fault = same(seed.read(path), expected), "same", ""
            if not right:
                kind = "other content"
                fault = "accepted damage" if seed.is_checked and not repaired else ""
        except ValueError as error:
            kind, fault = "refused", _hidden(error)
        except BaseException as error:
            kind, fault = "fault", f"{type(error).__name__}: {error!s:.150}"
        finally:
            signal.alarm(0)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return kind, fault or (f"warned: {heard[0].message!s:.150}" if heard else "")


def _hidden(error: BaseException | None) -> str:
    """Return the MemoryError that a reader turned into a ValueError, if it did."""
    while error is not None:
        if isinstance(error, MemoryError):
            return f"MemoryError: {error!s:.150}"
        error = error.__cause__ or error.__context__
    return ""


def _limit_memory() -> None:
    import resource  # not on Windows

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _BYTES, used + _BYTES))


def run_batch(name: str, first: int, count: int, folder: Path) -> Counter[str]:
    """Read mutated files in this process and print each fault; the caller notices if it dies."""
    seed = SEEDS[name]
    place = folder / "class"
    place.mkdir(exist_ok=True)
    path = place / seed.file
    path.write_bytes(seed.content)
    seed.write_others(path)
    expected = seed.read(path)
    _limit_memory()
    found: Counter[str] = Counter()
    for number in range(first, first + count):
        content, repaired = attack(seed, name, number)
        for old in place.iterdir():
            old.unlink()
        path.write_bytes(content)
        seed.write_others(path)
        print(f"at {number}", flush=True)
        kind, fault = judged(seed, path, expected, repaired)
        found[kind] += 1
        if fault:
            print(f"fault {number} {fault}".replace("\n", " "), flush=True)
    return found


# Many processes ----------------------------------------------------------------------------------


def run(name: str, first: int, count: int) -> tuple[Counter[str], list[tuple[int, str]]]:
    """Read mutated files of a format in processes of their own; return counts and faults."""
    found: Counter[str] = Counter()
    faults: list[tuple[int, str]] = []
    while count > 0:
        size = min(count, _BATCH)
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "tests.fuzz",
                    "--batch",
                    name,
                    str(first),
                    str(size),
                    folder,
                ],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            )
        lines = done.stdout.splitlines()
        reached = [int(line.split()[1]) for line in lines if line.startswith("at ")]
        for line in lines:
            if line.startswith("fault "):
                _, number, what = line.split(" ", 2)
                faults.append((int(number), what))
            elif line.startswith("counts "):
                found.update(
                    {k: int(v) for k, v in (p.split("=") for p in line[7:].split(";") if p)}
                )
        if done.returncode:  # it died: continue after the file that killed it
            if not reached:
                raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
            faults.append((reached[-1], f"exit status {done.returncode}: {done.stderr[-300:]}"))
            size = reached[-1] + 1 - first
        first, count = first + size, count - size
    return found, faults


def main() -> int:
    """Print a line for each format, then the faults; return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="files of each format")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument(
        "--only", nargs="+", default=list(SEEDS), choices=list(SEEDS), metavar="NAME"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--keep", type=Path, help="a folder for the files that led to faults")
    parser.add_argument("--batch", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.batch:
        faulthandler.enable()
        name, first, count, folder = options.batch
        found = run_batch(name, int(first), int(count), Path(folder))
        print("counts " + ";".join(f"{kind}={n}" for kind, n in found.items()))
        return 0
    every: list[tuple[str, int, str]] = []
    print(f"{'format':26} {'files':>7} {'refused':>8} {'same':>6} {'other':>6} {'faults':>6}")
    with ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda name: run(name, options.first, options.count), options.only)
        for name, (found, faults) in zip(options.only, results, strict=True):
            kinds = (found["refused"], found["same"], found["other content"], len(faults))
            print(
                f"{name:26} {options.count:7} {kinds[0]:8} {kinds[1]:6} {kinds[2]:6} {kinds[3]:6}"
            )
            every += [(name, number, what) for number, what in faults]
    for name, number, what in every:
        print(f"{name} {number}: {what}")
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            content, _ = attack(SEEDS[name], name, number)
            (options.keep / f"{number}-{SEEDS[name].file}").write_bytes(content)
    return 1 if every else 0


if __name__ == "__main__":
    sys.exit(main())
