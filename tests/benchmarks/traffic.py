"""List where a training step's kernels lose time: bytes moved, products, and the time they take.

    python -m tests.benchmarks.traffic --only R20 W1

Each kernel's calls in a step are recorded with their arrays' shapes and memory orders (on one
thread), then repeated alone. Printed for each:

- uses: calls in a step;
- lost: uses times what a call takes beyond `least` or `products`, whichever is longer, in ms, on
  one thread and on several; the list is sorted by the former;
- in step, 1 thread, n threads: ms that a call takes within the step (one thread), and alone; those
  on one thread are processor time, which other programs affect less;
- MiB, least: bytes that it reads and writes as implemented (see `passes`), and the least possible,
  which is all inputs and outputs once;
- copy, least: ms that these take at the measured copy rate (in the cache that holds them);
- products: ms that its multiply-adds take at the measured rate of 1024 x 1024 matrices.

Two more lists add up the passes of kernels over a step: all kernels' together, and each kernel's.
Copy rates count bytes read plus bytes written. Figures are medians of `--rounds` rounds, in which
everything is run in turn.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from threading import Barrier, Thread

import numpy as np

import minidl
from minidl.backends import backend_for
from minidl.backends.cpu.numpy_backend import CACHE_BYTES

from . import recorded, step
from .contest import processor
from .passes import Work, least, work_of
from .recorded import Call

LEVELS = ("L2", "L3", "memory")
SIDE = 1024  # of the matrices that measure the rate of products
CONTESTS = ("W1", "W2", "W3", "R20")


def cache_sizes() -> tuple[int, int]:
    """Return the bytes of one core's second-level and of the third-level cache."""
    found = {2: 2**20, 3: 2**25}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        level, size = ((index / name).read_text().strip() for name in ("level", "size"))
        if int(level) in found:
            found[int(level)] = int(size.removesuffix("K")) * 1024
    return found[2], found[3]


@dataclass
class Rates:
    """Copy rates and product rates of a number of threads together, in one sample for each round.

    Attributes:
        threads: how many.
        copies: bytes read and written a second, by level.
        products: multiply-adds a second.
    """

    threads: int
    copies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    products: list[float] = field(default_factory=list)

    def sample(self) -> None:
        """Measure each rate once."""
        for level, size in zip(LEVELS, working_sets(), strict=True):
            part = size if level == "L2" else size // self.threads
            self.copies[level].append(copy_rate(part, self.threads))
        a = np.ones((SIDE, SIDE), np.float32)
        seconds = timed(lambda: backend_for("cpu").matmul(a, a), self.threads)
        self.products.append(SIDE**3 / seconds)

    def copying(self, nbytes: int, within: int) -> float:
        """Return the seconds to copy bytes in an array, or a slice, of so many bytes."""
        second, third = cache_sizes()
        level = "L2" if within <= second else "L3" if within <= third // 4 else "memory"
        return nbytes / median(self.copies[level])

    def multiplying(self, multiply_adds: int) -> float:
        """Return the seconds of products."""
        return multiply_adds / median(self.products)

    def __str__(self) -> str:
        copies = ", ".join(f"{n} {median(r) / 1e9:.1f}" for n, r in self.copies.items())
        rate = median(self.products) / 1e9
        return f"{self.threads} thread(s): copies {copies} GB/s; {rate:.1f} multiply-adds a ns"


def working_sets() -> tuple[int, int, int]:
    """Return bytes that fill half of the second-level cache, an eighth of the third, and no cache.

    Other cores, and other machines on the same processor, use the third-level cache too; C
    libraries write copies of several MiB past it.
    """
    second, third = cache_sizes()
    return second // 2, max(third // 8, 2 * second), min(2 * third, 2**29)


def copy_rate(size: int, threads: int) -> float:
    """Return bytes read and written a second by threads that each copy `size // 2` bytes."""
    count = max(1, 2**24 // size)
    half = size // 2
    together = Barrier(threads)
    seconds = [0.0] * threads

    def work(number: int) -> None:
        memory = np.ones(size + 8192, np.uint8)
        # Some C libraries copy ten times slower if addresses are equal but for less than 64 bytes
        # modulo 4096.
        skip = (2048 - half) % 4096
        source, target = memory[:half], memory[half + skip :][:half]
        target[...] = source
        together.wait()
        seconds[number] = timed(lambda: [np.copyto(target, source) for _ in range(count)], threads)

    helpers = [Thread(target=work, args=(number,)) for number in range(threads)]
    for helper in helpers:
        helper.start()
    for helper in helpers:
        helper.join()
    return threads * 2 * half * count / max(seconds)


def timed(work: Callable[[], object], threads: int) -> float:
    """Return the seconds that work takes: of this thread's processor time if it is the only one."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


@dataclass
class Row:
    """One kernel's call: what it does, and what it takes.

    Attributes:
        call: the recorded call.
        uses: calls in a step.
        work: its passes.
        least: the least bytes.
        seconds: times of the call alone, by number of threads.
        passes: processor time of its passes, by name, one number for each round.
    """

    call: Call
    uses: float
    work: Work
    least: int
    seconds: dict[int, list[float]]
    passes: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def floor(self, rates: Rates) -> float:
        """Return the least seconds possible at the measured rates."""
        moving = rates.copying(self.least, self.least)
        return max(moving, rates.multiplying(self.work.multiply_adds))

    def lost(self, rates: Rates) -> float:
        """Return the seconds that are lost in a step."""
        taken = self.call.seconds if rates.threads == 1 else self.seconds[rates.threads]
        return self.uses * (median(taken) - self.floor(rates))

    def copying(self, rates: Rates) -> float:
        """Return the seconds to move the bytes as implemented, in slices that fit in a cache."""
        return rates.copying(self.work.total, min(self.least, CACHE_BYTES))

    @property
    def name(self) -> str:
        """The kernel and its form."""
        return f"{self.call.kernel.strip('_')} {self.work.form}".strip()

    def __str__(self) -> str:
        shapes = [a.shape for a in recorded.arrays(self.call.operands)]
        images = [s for s in shapes if len(s) == 4][:2]
        return f"{self.name} {', '.join('x'.join(map(str, s)) for s in images or shapes[:2])}"


def rows_of(key: str, rounds: int, threads: int) -> tuple[list[Row], list[Rates], float]:
    """Record a contest's step and repeat its kernels in turn; return the seconds of a step too."""
    minidl.set_num_threads(1)
    run = step.CONTESTS[key].contestants["minidl"]()
    for _ in range(2):
        run()
    calls, seconds = recorded.record(run, rounds)
    counts = sorted({1, threads})
    rows = []
    for call in calls:
        uses = len(call.seconds) / rounds
        rows.append(Row(call, uses, work_of(call), least(call), {n: [] for n in counts}))
    rates = [Rates(n) for n in counts]
    for _ in range(rounds):
        for rate in rates:
            minidl.set_num_threads(rate.threads)
            rate.sample()
            for row in rows:
                row.seconds[rate.threads].append(timed(row.call, rate.threads))
        minidl.set_num_threads(1)
        for row in rows:
            for name, found in recorded.passes(row.call).items():
                row.passes[name].append(found)
    return rows, rates, seconds


def print_rows(rows: list[Row], rates: list[Rates], most: int) -> None:
    """Print the kernels that lose the most time on one thread."""
    one, several = rates[0], rates[-1]
    count = f"{several.threads} threads"
    print(f"{'lost, ms':>15}{'':6}{'ms of one call':>29}{'MiB':>15}{'ms at measured rates':>24}")
    print(
        f"{'1':>7}{several.threads:>8}{'uses':>6}{'in step':>9}{'1 thread':>10}{count:>10}", end=""
    )
    print(f"{'':>8}{'least':>7}{'copy':>8}{'least':>7}{'products':>9}")
    for row in sorted(rows, key=lambda row: -row.lost(one))[:most]:
        times = [
            median(row.call.seconds),
            *(median(row.seconds[r.threads]) for r in (one, several)),
        ]
        at_rates = (row.copying(one), one.copying(row.least, row.least))
        products = one.multiplying(row.work.multiply_adds)
        print(f"{1e3 * row.lost(one):7.1f}{1e3 * row.lost(several):8.1f}{row.uses:6.0f}", end="")
        print(f"{1e3 * times[0]:9.2f}{1e3 * times[1]:10.2f}{1e3 * times[2]:10.2f}", end="")
        print(f"{row.work.total / 2**20:8.1f}{row.least / 2**20:7.1f}", end="")
        print(f"{1e3 * at_rates[0]:8.2f}{1e3 * at_rates[1]:7.2f}{1e3 * products:9.2f}  {row}")


def print_passes(rows: list[Row], one: Rates, most: int) -> None:
    """Print the passes that take the most time in a step, over all shapes of a kernel's form."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for row in rows:
        nbytes: dict[str, int] = defaultdict(int)
        for name, count in row.work.passes.items():  # those that are not timed are in the rest
            nbytes[name if name in row.passes else "rest"] += count
        for name, seconds in row.passes.items():
            copying = one.copying(nbytes[name], min(row.least, CACHE_BYTES))
            place = found[f"{name} in {row.name}"]
            for i, value in enumerate((median(seconds), nbytes[name], copying)):
                place[i] += row.uses * value
    everywhere: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for name, place in found.items():
        for i, value in enumerate(place):
            everywhere[f"{name.split()[0]} in all kernels"][i] += value
    for passes in (everywhere, found):
        print(f"\n{'ms':>7}{'MiB':>8}{'copy, ms':>10}  in a step, on one thread")
        for name, (seconds, count, copying) in sorted(passes.items(), key=_longest)[:most]:
            print(f"{1e3 * seconds:7.1f}{count / 2**20:8.0f}{1e3 * copying:10.1f}  {name}")


def _longest(item: tuple[str, list[float]]) -> float:
    return -item[1][0]


def main() -> None:
    """Print the lists of the contests that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=list(step.CONTESTS), default=CONTESTS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=30, help="the longest lists printed")
    args = parser.parse_args()
    second, third = cache_sizes()
    print(f"{processor()}, L2 {second // 2**10} KiB, L3 {third // 2**20} MiB")
    print(f"NumPy {np.__version__}, float32, medians of {args.rounds} rounds")
    for key in args.only:
        rows, rates, seconds = rows_of(key, args.rounds, args.threads)
        print(f"\n{step.CONTESTS[key].title}", *rates, sep="\n")
        inside = sum(row.uses * median(row.call.seconds) for row in rows)
        print(f"one thread: {1e3 * seconds:.1f} ms a step, {1e3 * inside:.1f} in these kernels\n")
        print_rows(rows, rates, args.rows)
        print_passes(rows, rates[0], args.rows)


if __name__ == "__main__":
    main()
