"""Measure how long Python's interpreter lock is held in a training step, and what that allows.

    python -m tests.benchmarks.lock
    python -m tests.benchmarks.lock --only W1 --rounds 3
    python -m tests.benchmarks.lock --check

The networks are those of `tests.benchmarks.step`. A process with one thread and a process with two
take turns of several steps. Meanwhile this process reads their memory: in CPython 3.11 to 3.13, a
word tells whether any thread holds the lock. It is read about 500 times a second, at random times,
so that the samples do not follow the rhythm of the work. The columns, for each step:

- wall, processor: milliseconds that pass, and that all threads compute;
- locked: milliseconds in which a thread holds the lock, and their share of the step, with the
  standard error of the sampling. NumPy's loops over large arrays release the lock, so this is the
  time of Python itself, of NumPy's calls before and after their loops, and of small arrays;
- waiting: milliseconds in which threads do not compute: threads x wall - processor. On a machine
  that others use too, this includes the time in which threads could run but others do;
- switches: how often a thread gave up its core because it had to wait;
- speed-up: what the lock allows with 2, 4, 8, 16 and any number of cores, by Amdahl's law, if all
  other work is divided evenly: `1 / (s + (1 - s) / cores)`. The serial part s is the locked time,
  as measured with one thread and with two, divided by one thread's step. At the end, the speed-up
  measured with two threads.

`--check` tests the instrument on a Python loop, which holds the lock all the time, on a product of
large matrices, which holds it hardly ever, and on both in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import math
import os
import platform
import random
import resource
import select
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .contest import processor
from .step import CONTESTS

THREADS = (1, 2)
CORES = (2, 4, 8, 16)
WARM_UP = 2  # untimed steps at the start of a turn, in which caches fill
INTERVAL = 2e-3  # seconds between two samples, on average
ERROR = 0.003  # the largest standard error of a share
MOST = 4  # times as many rounds as asked for, if the error is too large

Work = Callable[[], Any]

# The process that works ------------------------------------------------------------------------


def lock_address() -> int:
    """Return where in this process's memory CPython keeps whether its lock is held.

    The lock's state begins with the interval after which threads take turns (unsigned long, in
    microseconds), the thread that holds the lock or held it last (a pointer), and whether it is
    held (int). In CPython 3.11 it lies in `_PyRuntime`; in 3.12 and 3.13 too, in the first
    interpreter's part. An unusual interval finds it. Source: CPython, `pycore_gil.h`.

    Raises:
        RuntimeError: this Python has no such state, or its state does not follow the lock.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise RuntimeError("this Python has no interpreter lock")
    if not os.access("/proc/self/mem", os.R_OK) or sys.implementation.name != "cpython":
        raise RuntimeError("found only in CPython on Linux")
    start = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    this_thread = ctypes.pythonapi.PyThreadState_Get
    this_thread.restype = ctypes.c_void_p
    before, unusual = sys.getswitchinterval(), 123_457
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        sys.setswitchinterval(unusual / 1e6)
        around = os.pread(memory, 2**20, start)  # ends where the mapped memory does
        place = around.find(struct.pack("LP", unusual, this_thread()))
        address = start + place + struct.calcsize("LP")
        # ctypes.string_at keeps the lock while it reads, and os.pread releases it.
        kept = [held(ctypes.string_at(address, 4)) for _ in range(100)] if place >= 0 else []
        freed = [held(os.pread(memory, 4, address)) for _ in range(100)] if place >= 0 else []
    finally:
        sys.setswitchinterval(before)
        os.close(memory)
    if not all(kept) or sum(freed) > 50 or not kept:
        version = platform.python_version()
        raise RuntimeError(f"Python {version} is not supported: its lock was not found in memory")
    return address


def held(word: bytes) -> bool:
    """Tell from the four bytes of the lock's state whether a thread holds the lock."""
    return word != bytes(4)


def python_loop() -> None:
    """Hold the lock for about 10 ms."""
    for _ in range(200_000):
        pass


def product() -> Work:
    """Return a function that multiplies matrices for about 10 ms without the lock."""
    a = np.ones((1024, 1024), np.float32)
    out = np.empty_like(a)

    def work() -> None:
        np.matmul(a, a, out=out)

    return work


def both() -> Work:
    """Return a function that holds the lock, then does not, each for the time that it returns."""
    multiply = product()

    def work() -> tuple[float, float]:
        start = time.perf_counter()
        python_loop()
        middle = time.perf_counter()
        multiply()
        return middle - start, time.perf_counter() - middle

    return work


CHECKS: dict[str, Callable[[], Work]] = {
    "loop": lambda: python_loop,
    "product": product,
    "both": both,
}


def serve(key: str, threads: int) -> None:
    """Do as many steps as each line of the input asks for, and print what one of them cost."""
    import minidl

    minidl.set_num_threads(threads)
    work = CHECKS[key]() if key in CHECKS else CONTESTS[key].contestants["minidl"]()
    try:
        say(address=lock_address())
    except RuntimeError as error:
        say(reason=str(error))
    for line in sys.stdin:
        for _ in range(WARM_UP):
            work()
        say()
        results, count = [], int(line)
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        for _ in range(count):
            results.append(work())
        wall = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF)
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        switches = (after.ru_nvcsw - before.ru_nvcsw) / count
        costs = {"wall": 1000 * wall / count, "processor": 1000 * busy / count}
        say(**costs, switches=switches, results=results)


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


# The process that watches ----------------------------------------------------------------------


class Worker:
    """A process that does steps when asked to, and is watched while it does."""

    def __init__(self, key: str, threads: int) -> None:
        self.threads, number = threads, str(threads)
        limits = {"OMP_NUM_THREADS": number, "OPENBLAS_NUM_THREADS": number}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.lock", "--serve", key, number],
            env=os.environ | limits,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # an answer in a buffer would not wake up select
        )
        found = self._answer()
        self.reason, self.address = found.get("reason", ""), found.get("address")
        self.memory = None if self.reason else self._opened()
        self.held = self.samples = 0
        self.turns: list[dict[str, Any]] = []
        self.busy = self.watched = 0.0

    def _opened(self) -> int | None:
        try:
            return os.open(f"/proc/{self.process.pid}/mem", os.O_RDONLY)
        except OSError as error:
            self.reason = f"cannot read another process's memory: {error}"
            return None

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"a process ended with status {self.process.wait()}: see above")
        found: dict[str, Any] = json.loads(line)
        return found

    def turn(self, steps: int) -> float:
        """Let the process do steps, sampling its lock; return the milliseconds of one."""
        self.process.stdin.write(f"{steps}\n".encode())  # type: ignore[union-attr]
        self._answer()  # warm
        start, busy = time.perf_counter(), time.process_time()
        # Waiting for the answer is also how this process sleeps.
        while not select.select([self.process.stdout], [], [], random.uniform(0, 2 * INTERVAL))[0]:
            if self.memory is not None:
                self.held += held(os.pread(self.memory, 4, self.address))  # type: ignore[arg-type]
                self.samples += 1
        self.watched += time.perf_counter() - start
        self.busy += time.process_time() - busy
        self.turns.append(self._answer())
        return float(self.turns[-1]["wall"])

    @property
    def share(self) -> float:
        """The part of the time in which the lock was held; NaN if it cannot be read."""
        return self.held / self.samples if self.samples else math.nan

    @property
    def error(self) -> float:
        """The standard error of `share`, of samples at independent times."""
        share = min(max(self.share, 1 / max(1, self.samples)), 1 - 1 / max(1, self.samples))
        return math.sqrt(share * (1 - share) / self.samples) if self.samples else math.nan

    def middle(self, what: str) -> float:
        """Return the median over all turns."""
        return statistics.median(turn[what] for turn in self.turns)

    def end(self) -> None:
        self.process.communicate()
        if self.memory is not None:
            os.close(self.memory)


def watched(key: str, threads: tuple[int, ...], rounds: int, seconds: float) -> list[Worker]:
    """Let a process for each number of threads work in turn, until the errors are small."""
    workers = [Worker(key, number) for number in threads]
    try:
        for worker in workers:
            worker.turn(5)  # a first impression of a step's time
        walls = [worker.turns.pop()["wall"] for worker in workers]
        for done in range(MOST * rounds):
            if done >= rounds and not any(worker.error > ERROR for worker in workers):
                break
            for number in range(len(workers))[:: 1 if done % 2 == 0 else -1]:
                walls[number] = workers[number].turn(max(2, round(1000 * seconds / walls[number])))
    finally:
        for worker in workers:
            worker.end()
    return workers


def hurry() -> None:
    """Let this process run at once when it wakes up, where it may: late samples are few.

    It computes for a hundredth of the time. The processes that it starts run as usual.
    """
    with contextlib.suppress(AttributeError, OSError):  # not on Linux; not permitted
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def speed_up(share: float, cores: float) -> float:
    """Return how much faster work gets on more cores if a share of it is serial."""
    return 1 / (share + (1 - share) / cores)


def row(worker: Worker, workers: list[Worker]) -> str:
    wall, busy, alone = worker.middle("wall"), worker.middle("processor"), workers[0].middle("wall")
    locked = worker.share * wall
    text = f"{worker.threads:3}{wall:8.1f}{busy:10.1f}{locked:8.1f}"
    text += f"{100 * worker.share:8.1f} %{100 * worker.error:6.2f}"
    text += f"{worker.threads * wall - busy:9.1f}{worker.middle('switches'):9.0f} "
    text += "".join(f"{speed_up(locked / alone, cores):6.2f}" for cores in (*CORES, math.inf))
    if worker is workers[0]:
        return text
    both = zip(workers[0].turns, worker.turns, strict=True)
    return text + f"{statistics.median(a['wall'] / b['wall'] for a, b in both):9.2f}"


def check() -> bool:
    """Print the shares that the instrument finds, and those it should; tell if they agree."""
    right = True
    for key, expected in (("loop", 1.0), ("product", 0.0), ("both", math.nan)):
        (worker,) = watched(key, (1,), rounds=1, seconds=2.0)
        if worker.reason:
            print(worker.reason)
            return False
        if key == "both":
            times = [pair for turn in worker.turns for pair in turn["results"]]
            locked, free = np.sum(times, 0)
            expected = locked / (locked + free)
        print(f"{key:9}expected {100 * expected:5.1f} %, found {100 * worker.share:5.1f} %", end="")
        print(f" +- {100 * worker.error:.2f}")
        right = right and abs(worker.share - expected) < 0.03
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=list(CONTESTS), default=["W1", "R20"])
    parser.add_argument("--rounds", type=int, default=5, help="at least; more if errors are large")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long a turn takes")
    parser.add_argument("--check", action="store_true", help="test the instrument")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve[0], int(args.serve[1]))
        return
    hurry()
    if args.check:
        sys.exit(not check())
    print(f"{processor()}, Python {platform.python_version()}, NumPy {np.__version__}, float32")
    print(
        "milliseconds per step, medians of rounds in turn; locked: the interpreter lock is held\n"
    )
    width = max(len(CONTESTS[key].title) for key in args.only)
    columns = f"{'threads':>3}{'wall':>6}{'processor':>10}{'locked':>8}{'share':>8}{'+-':>8}"
    columns += f"{'waiting':>9}{'switches':>9} {'speed-up allowed by the lock':^30}{'measured':>9}"
    print(f"{'':{width - 2}}{columns}")
    print(f"{'':{width + 61}}" + "".join(f"{cores:>6}" for cores in CORES) + f"{'any':>6}")
    for key in args.only:
        workers = watched(key, THREADS, args.rounds, args.seconds)
        for worker in workers:
            title = CONTESTS[key].title if worker is workers[0] else ""
            print(f"{title:{width}}{row(worker, workers)}", flush=True)
    watching = sum(w.busy for w in workers) / sum(w.watched for w in workers)
    rate = sum(w.samples for w in workers) / sum(w.watched for w in workers)
    print(f"\n{rate:.0f} samples a second, which took {100 * watching:.1f} % of a core")
    if reason := next((worker.reason for worker in workers if worker.reason), ""):
        print(f"no locked time: {reason}")


if __name__ == "__main__":
    main()
