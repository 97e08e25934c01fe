"""Contests between minidl and a peer: fresh processes, in turn, medians and ratios by round.

Every round runs each contestant in a process of its own, one after the other, so that a machine
whose speed drifts slows all of them alike. Ratios are taken round by round. What all compute is
compared, so that a fast but wrong kernel shows.

Contestants are `minidl`, `before` (`--against`: minidl of another checkout, measured by this code)
and variants of PyTorch: `torch`, `torch fused` and so on. Of these, the one with the least median
counts, and is named. Variants that `torch.compile` compiles (`torch compile ...`) have columns of
their own, with the best of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .machine import limits, peak_mb, print_header, processor

__all__ = ["Contest", "Run", "fresh", "main", "measure", "processor"]

COMPILED = "torch compile"
CHECKOUT = "BENCHMARKS_CHECKOUT"
"""The environment variable that names the checkout whose minidl a process measures."""

Run = Callable[[], float]
"""Does the work once; returns a number that all contestants must agree on, such as the loss."""

Result = dict[str, Any]
"""What one process found: "ms", "first_ms", "peak_mb" and "results"."""

Round = dict[str, Result]
"""What each contestant found in one round."""


@dataclass(frozen=True)
class Contest:
    """One row of the table, for each number of threads.

    Attributes:
        title: what is done.
        contestants: by name, what prepares the work in a fresh process.
        multiply_adds: of one run; 0 if they say nothing about the time it takes.
        repeats: how often the work is timed in one process, after a few runs to warm up.
        warm_up: the number of these runs, whose results are compared.
        tol: how far the results may lie apart, relative to 1 plus the peer's.
    """

    title: str
    contestants: dict[str, Callable[[], Run]]
    multiply_adds: int = 0
    repeats: int = 30
    warm_up: int = 5
    tol: float = 1e-3

    def names(self, is_before: bool, is_torch: bool, is_compiled: bool) -> list[str]:
        """Return the contestants that take part."""
        variants = [name for name in self.contestants if name.startswith("torch")]
        if not is_compiled:
            variants = [name for name in variants if not name.startswith(COMPILED)]
        return ["minidl", *["before"] * is_before, *(variants if is_torch else [])]


# One process ------------------------------------------------------------------------------------


def measure(contest: Contest, name: str) -> None:
    """Time one contestant in this process and print what was found as JSON."""
    threads = int(os.environ["OMP_NUM_THREADS"])
    if name.startswith("torch"):
        import torch

        torch.set_num_threads(threads)
    else:
        _import_minidl(os.environ.get(CHECKOUT)).set_num_threads(threads)
    run = contest.contestants[name]()
    times, results = [], []
    for _ in range(contest.warm_up + contest.repeats):
        start = time.perf_counter()
        results.append(run())
        times.append(1000 * (time.perf_counter() - start))
    found = {"ms": statistics.median(times[contest.warm_up :]), "first_ms": times[0]}
    print(json.dumps({**found, "peak_mb": peak_mb(), "results": results[: contest.warm_up]}))


def _import_minidl(checkout: str | None) -> Any:
    if checkout:
        sys.path.insert(0, checkout)
    import minidl

    if checkout and not Path(str(minidl.__file__)).is_relative_to(checkout):
        raise RuntimeError(f"contest: got minidl of {minidl.__file__}, expected that of {checkout}")
    return minidl


def fresh(module: str, key: str, name: str, threads: int, checkout: Path | None = None) -> Result:
    """Measure one contestant in a fresh process; `"before"` is minidl of another checkout."""
    environment = limits(threads)
    if name == "before":
        name, environment[CHECKOUT] = "minidl", str(Path(str(checkout)).resolve())
    command = [sys.executable, "-m", module, "--measure", key, name]
    errors = subprocess.PIPE if name.startswith(COMPILED) else None
    done = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, stderr=errors, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


# All rounds -------------------------------------------------------------------------------------


def play(args: argparse.Namespace, module: str, key: str, names: list[str], n: int) -> list[Round]:
    """Run all rounds of one row with `n` threads."""
    rounds: list[Round] = [{} for _ in range(args.rounds)]
    failed = set()
    with tempfile.TemporaryDirectory() as folder:
        for results, name in itertools.product(rounds, names):
            # The first round alone compiles, and no variant finds what another compiled.
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(folder, name.replace(" ", "-"))
            try:
                is_out = name in failed
                results[name] = {} if is_out else fresh(module, key, name, n, args.against)
            except subprocess.CalledProcessError as error:
                if not name.startswith(COMPILED):
                    raise
                reason = (error.stderr.strip() or str(error)).splitlines()[-1]
                print(f"{key}: {name} is left out: {reason}", file=sys.stderr)
                results[name] = {}
                failed.add(name)
    return rounds


def medians(rounds: list[Round]) -> dict[str, float]:
    """Return the median time of each contestant that was measured in all rounds."""
    names = [name for name in rounds[0] if all(results[name] for results in rounds)]
    return {name: statistics.median(results[name]["ms"] for results in rounds) for name in names}


def variants(times: dict[str, float], is_compiled: bool = False) -> dict[str, float]:
    """Return the times of PyTorch's variants, compiled ones or others, the fastest first."""
    found = [n for n in times if n.startswith("torch") and n.startswith(COMPILED) == is_compiled]
    return {name: times[name] for name in sorted(found, key=times.__getitem__)}


def apart(rounds: list[Round], name: str) -> float:
    """Return how far a contestant's results lie from minidl's at most, relative to 1 plus them."""
    mine, theirs = (np.array([r[who]["results"] for r in rounds]) for who in ("minidl", name))
    return float(np.max(np.abs(mine - theirs) / (1 + np.abs(theirs))))


# The table --------------------------------------------------------------------------------------

Cells = dict[str, str]
"""The texts of a row's cells by their heads."""

WIDTHS = {"fastest - slowest": 18, "best variant": 20}
CHECKS = ("apart", "floor")
"""Heads of the columns that help to judge a run, and are left out of published tables."""


def cells(contest: Contest, threads: int, rounds: list[Round], rate: float) -> Cells:
    """Return one row; `rate` is how many multiply-adds a millisecond BLAS does."""
    times = medians(rounds)
    own = [results["minidl"]["ms"] for results in rounds]
    row = {
        "threads": str(threads),
        "minidl ms": _ms(times["minidl"]),
        "fastest - slowest": f"{_ms(min(own))} - {_ms(max(own))}",
        "MB": f"{_peak(rounds, 'minidl'):.0f}",
    }
    if "before" in times:
        row |= _peer(rounds, times, "before", "before")
    if best := next(iter(variants(times)), None):
        row |= _peer(rounds, times, best, "PyTorch")
        row["MB / PyTorch"] = f"{_peak(rounds, 'minidl') / _peak(rounds, best):.2f}"
        row["best variant"] = _variant(best)
    if any(name.startswith(COMPILED) for name in rounds[0]):
        row |= _compiled(rounds, times)
    if len(times) > 1:
        most = np.max([apart(rounds, name) for name in times if name != "minidl"])  # or NaN
        row["apart"] = ("" if most <= contest.tol else "!") + f"{most:.0e}"
    if contest.multiply_adds:
        row["floor"] = _ms(contest.multiply_adds / rate)
    return row


def _ms(time: float) -> str:
    return f"{time:.2f}" if time < 10 else f"{time:.1f}"


def _peak(rounds: list[Round], name: str) -> float:
    return max(results[name]["peak_mb"] for results in rounds)


def _ratio(rounds: list[Round], name: str) -> str:
    return f"{statistics.median(r['minidl']['ms'] / r[name]['ms'] for r in rounds):.2f}"


def _variant(name: str) -> str:
    return name.removeprefix("torch").strip() or "plain"


def _peer(rounds: list[Round], times: dict[str, float], name: str, title: str) -> Cells:
    return {
        f"{title} ms": _ms(times[name]),
        f"{title} MB": f"{_peak(rounds, name):.0f}",
        f"/ {title}": _ratio(rounds, name),
    }


def _compiled(rounds: list[Round], times: dict[str, float]) -> Cells:
    heads = ("compiled ms", "/ compiled", "compiling s")
    best = next(iter(variants(times, is_compiled=True)), None)
    if best is None:
        return dict.fromkeys(heads, "-")
    first = max(results[best]["first_ms"] for results in rounds)
    found = (_ms(times[best]), _ratio(rounds, best), f"{(first - times[best]) / 1000:.0f}")
    return dict(zip(heads, found, strict=True))


def text_line(title: str, texts: Iterable[str], heads: Iterable[str], width: int) -> str:
    """Return a line of the table as it is printed during the run."""
    pairs = zip(texts, heads, strict=True)
    return f"{title:{width}}" + "".join(
        f"{text:>{WIDTHS.get(head, max(len(head), 6)) + 2}}" for text, head in pairs
    )


def markdown(table: list[tuple[str, Cells]]) -> list[str]:
    """Return titles and rows as the lines of a Markdown table, without the checks."""
    heads = [head for head in table[0][1] if head not in CHECKS]
    lines = [["", *heads], ["---"] * (1 + len(heads))]
    lines += [[title, *(row[head] for head in heads)] for title, row in table]
    return [f"| {' | '.join(line)} |" for line in lines]


def main(module: str, about: str, contests: dict[str, Contest]) -> None:
    """Run contests as the command line says, and print the table."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--peers", nargs="*", choices=["torch"], default=[])
    parser.add_argument("--against", type=Path, help="a checkout of another version of minidl")
    parser.add_argument("--only", nargs="*", choices=list(contests), default=list(contests))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--compile", action="store_true", help="add torch.compile; takes long")
    parser.add_argument("--markdown", action="store_true", help="print Markdown too, at the end")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(contests[args.measure[0]], args.measure[1])
        return
    rates = print_header(args.threads, ["minidl", *args.peers])
    print(f"float32; medians of {args.rounds} rounds of fresh processes in turn; MB: peak memory;")
    print("'/ PyTorch': minidl's time divided by PyTorch's, the median of the rounds' own ratios;")
    print("'apart': how far results differ at most; 'floor': ms that BLAS takes for the products\n")
    table = _table(args, module, contests, rates)
    if args.markdown:
        print("\n" + "\n".join(markdown(table)))


def _table(
    args: argparse.Namespace, module: str, contests: dict[str, Contest], rates: dict[int, float]
) -> list[tuple[str, Cells]]:
    """Measure all rows, and print each as soon as it is known."""
    width = max(len(contests[key].title) for key in args.only)
    table: list[tuple[str, Cells]] = []
    for n, key in itertools.product(args.threads, args.only):
        contest = contests[key]
        names = contest.names(bool(args.against), "torch" in args.peers, args.compile)
        rounds = play(args, module, key, names, n)
        row = cells(contest, n, rounds, rates[n])
        if not table:
            print(text_line("", row, row, width))
        table.append((contest.title, row))
        print(text_line(contest.title, row.values(), row, width), flush=True)
        times = medians(rounds)
        if len(found := variants(times) | variants(times, is_compiled=True)) > 1:
            texts = [f"{_variant(name)} {_ms(time)}" for name, time in found.items()]
            print(f"    PyTorch, ms: {', '.join(texts)}", flush=True)
    return table
