"""Contests between minidl and a peer: fresh processes, in turn, medians and ratios by round.

Every round runs each contestant in a process of its own, one after the other, so that a machine
whose speed drifts slows all of them alike. Ratios are taken round by round. What both compute is
compared, so that a fast but wrong kernel shows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Run = Callable[[], float]
"""Does the work once; returns a number that both contestants must agree on, such as the loss."""


@dataclass(frozen=True)
class Contest:
    """One row of the table.

    Attributes:
        title: what is done.
        contestants: by name, what prepares the work in a fresh process.
        floor: multiply-adds of one run; 0 if they say nothing about the time it takes.
        repeats: how often the work is timed in one process, after a few runs to warm up.
        tol: how far the returned numbers may lie apart, relative to 1 plus the peer's.
    """

    title: str
    contestants: dict[str, Callable[[], Run]]
    multiply_adds: int = 0
    repeats: int = 30
    warm_up: int = 5
    tol: float = 1e-3


def measure(contest: Contest, name: str) -> None:
    """Time one contestant in this process and print what was found as JSON."""
    threads = int(os.environ["OMP_NUM_THREADS"])
    if name == "torch":
        import torch

        torch.set_num_threads(threads)
    else:
        import minidl

        minidl.set_num_threads(threads)
    run = contest.contestants[name]()
    results = [run() for _ in range(contest.warm_up)]
    times = []
    for _ in range(contest.repeats):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"ms": statistics.median(times), "peak_mb": peak, "results": results}))


def fresh(module: str, key: str, name: str, threads: int, checkout: Path | None = None) -> dict:
    """Measure one contestant in a fresh process; `"before"` is minidl of another checkout."""
    number = str(threads)
    environment = os.environ | {"OMP_NUM_THREADS": number, "OPENBLAS_NUM_THREADS": number}
    if name == "before":
        name, environment["PYTHONPATH"] = "minidl", str(checkout)
    else:
        checkout = None
    command = [sys.executable, "-m", module, "--measure", key, name]
    done = subprocess.run(
        command, env=environment, cwd=checkout, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


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


def gemm_rate(threads: int) -> float:
    """Return how many float32 multiply-adds a millisecond this machine's BLAS does at most."""
    code = """
import numpy as np, time
a, times = np.ones((2048, 2048), np.float32), []
for _ in range(10):
    start = time.perf_counter()
    a @ a
    times.append(time.perf_counter() - start)
print(2048**3 / min(times) / 1000)
"""
    limits = {"OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=os.environ | limits, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout)


def main(module: str, about: str, contests: dict[str, Contest]) -> None:
    """Run contests as the command line says, and print the table."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--peers", nargs="*", choices=["torch"], default=[])
    parser.add_argument("--against", type=Path, help="a checkout of another version of minidl")
    parser.add_argument("--only", nargs="*", choices=list(contests), default=list(contests))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(contests[args.measure[0]], args.measure[1])
        return
    peers = [*(["before"] if args.against else []), *args.peers]
    names = ["minidl", *peers]
    rate = gemm_rate(args.threads)
    print(f"{processor()}, {args.threads} threads, NumPy {np.__version__}, float32")
    print(f"medians of {args.rounds} rounds of fresh processes in turn; BLAS does at most")
    print(f"{rate / 1e6:.1f} thousand million multiply-adds a second ('floor' below)\n")
    width = max(len(contests[key].title) for key in args.only) + 2
    head = f"{'':{width}}{'ms':>8}{'least':>8}{'most':>8}{'peak MB':>9}"
    for peer in peers:
        head += f"{peer + ' ms':>10}{'peak MB':>9}{'ratio':>7}{'apart':>9}"
    print(head + f"{'floor':>8}")
    for key in args.only:
        contest = contests[key]
        rounds = [
            {name: fresh(module, key, name, args.threads, args.against) for name in names}
            for _ in range(args.rounds)
        ]
        print(f"{contest.title:{width}}{_row(contest, rounds, peers, rate)}", flush=True)


def _row(contest: Contest, rounds: list[dict[str, dict]], peers: list[str], rate: float) -> str:
    own = [r["minidl"]["ms"] for r in rounds]
    peak = max(r["minidl"]["peak_mb"] for r in rounds)
    row = f"{statistics.median(own):8.1f}{min(own):8.1f}{max(own):8.1f}{peak:9.0f}"
    for peer in peers:
        ms = statistics.median(r[peer]["ms"] for r in rounds)
        ratio = statistics.median(r["minidl"]["ms"] / r[peer]["ms"] for r in rounds)
        mine, theirs = (np.array(rounds[0][name]["results"]) for name in ("minidl", peer))
        apart = float(np.max(np.abs(mine - theirs) / (1 + np.abs(theirs))))
        wrong = "!" if not apart <= contest.tol else ""
        peak = max(r[peer]["peak_mb"] for r in rounds)
        row += f"{ms:10.1f}{peak:9.0f}{ratio:7.2f}{wrong + format(apart, '.0e'):>9}"
    return row + (f"{contest.multiply_adds / rate:8.1f}" if contest.multiply_adds else "")
