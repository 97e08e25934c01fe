"""What the sections of `gpu.py` share: a clock that waits for the device, and rows on disk."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minidl.backends import backend_for


@dataclass
class Lab:
    """Where a section measures, and for how long.

    Attributes:
        device: "cuda", or "cpu" in a dry run, whose sizes are tiny.
        seconds: the section's share.
        path: the file that gets a line of JSON for each row.
        data_dir: the folder of CIFAR-10, or None.
        clock: returns seconds.
    """

    device: str
    seconds: float
    path: Path
    data_dir: Path | None = None
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def is_dry(self) -> bool:
        """Whether this only shows that the code runs."""
        return self.device == "cpu"

    @property
    def left(self) -> float:
        """Seconds of the share that are left."""
        return self.seconds - (self.clock() - self.started)

    def emit(self, **row: Any) -> None:
        """Write a row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, default=float) + "\n")

    def skip(self, reason: str) -> None:
        """Note why something is left out."""
        self.emit(skipped=reason)

    def in_time(self, names: list[str]) -> Iterator[str]:
        """Yield names while there is time; note those that were left out.

        The next is not started if the longest so far would not fit.
        """
        longest = 0.0
        for name in names:
            if self.left <= longest:
                self.emit(late=name)
                continue
            begun = self.clock()
            yield name
            longest = max(longest, self.clock() - begun)

    def wait(self) -> None:
        """Wait until the device has done everything, minidl's and PyTorch's."""
        if not self.is_dry:
            backend_for("cuda").xp.cuda.Device().synchronize()

    def seconds_of(self, work: Callable[[], Any], least: float = 0.02) -> float:
        """Return the median seconds of five timings, each of so many calls that they take long."""
        work()
        count, taken = 1, self._timed(work, 1)
        if not self.is_dry:
            count = max(1, min(1000, round(least / max(taken, 1e-7))))
        return statistics.median(self._timed(work, count) for _ in range(2 if self.is_dry else 5))

    def _timed(self, work: Callable[[], Any], count: int) -> float:
        self.wait()
        started = self.clock()
        for _ in range(count):
            work()
        self.wait()
        return (self.clock() - started) / count


def in_turn(
    lab: Lab, runs: dict[str, Callable[[], Any]], rounds: int, steps: int
) -> dict[str, list[float]]:
    """Return milliseconds per step of each contestant in each round; they run in turn."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(1e3 * lab._timed(run, steps))
    return found


def compared(found: dict[str, list[float]]) -> dict[str, float]:
    """Return medians in milliseconds, and medians of the rounds' ratios to the best PyTorch."""
    row: dict[str, float] = {f"{name} ms": statistics.median(found[name]) for name in found}
    eager = [name for name in found if name.startswith("torch") and "compile" not in name]
    for title, group in (
        ("eager", eager),
        ("compiled", [name for name in found if name.startswith("torch compile")]),
    ):
        if not group:
            continue
        best = min(group, key=lambda name: statistics.median(found[name]))
        for name in (name for name in found if name.startswith("minidl")):
            pairs = zip(found[name], found[best], strict=True)
            row[f"{name} / {title}"] = statistics.median(mine / its for mine, its in pairs)
    return row
