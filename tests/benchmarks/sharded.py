"""Measure the memory of optimisers for 20 M parameters, whole on each rank and sharded.

    python -m tests.benchmarks.sharded

For each rule and number of ranks, it trains the same model for five steps on the same data, once
with the whole optimiser on every rank and once with `ShardedOptimizer`. It prints the largest
figures over ranks (bytes of state, resident memory after the steps, and its peak during them), and
whether the weights are bit-identical.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from ..helpers.ranks import command, environment

RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "Adam": ("Adam", {}),
    "AdamW": ("AdamW", {}),
    "SGD, momentum": ("SGD", {"lr": 0.01, "momentum": 0.9}),
    "RMSprop, centred": ("RMSprop", {"lr": 1e-3, "centered": True}),
}
SIZES = (2000, 4000, 2500, 800)  # 20.0 M parameters
STEPS, BATCH = 5, 16
MB = 1e6


def train(rule: str, is_sharded: bool) -> None:
    """Train on this rank, and print what all ranks measured on rank 0."""
    from minidl import Tensor, distributed, manual_seed, nn, optim
    from minidl import functional as F

    world = distributed.world()
    manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(SIZES)]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    parallel = distributed.DataParallel(model, world)
    name, options = RULES[rule]
    optimizer = getattr(optim, name)(model.parameters(), **options)
    if is_sharded:
        optimizer = distributed.ShardedOptimizer(optimizer, world)
    rng = np.random.default_rng(0)
    part = np.array_split(np.arange(BATCH), world.size)[world.rank]
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    for _ in range(STEPS):
        x = rng.normal(size=(BATCH, SIZES[0])).astype(np.float32)
        labels = rng.integers(0, SIZES[-1], BATCH)
        loss = world.mean(F.cross_entropy(model(Tensor(x[part])), labels[part]), len(part))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = sum(a.nbytes for s in optimizer.state for n, a in s.items() if n != "step")
    status = Path("/proc/self/status").read_text()
    resident, peak = (
        int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) * 1024 for name in ("VmRSS", "VmHWM")
    )
    digest = hashlib.sha256(b"".join(p.numpy().tobytes() for p in model.parameters()))
    found = world.all_gather([state, resident, peak, digest.hexdigest()])
    if world.rank == 0:
        print(json.dumps(found))
    del parallel


def measured(ranks: int, rule: str, is_sharded: bool) -> tuple[list[float], set[str]]:
    """Return the largest of each number over ranks, in MB, and the digests of the weights."""
    program = ["-m", "tests.benchmarks.sharded", "--rule", rule, *["--sharded"] * is_sharded]
    done = subprocess.run(
        command(ranks, *program), env=environment(), capture_output=True, text=True, check=True
    )
    rows = json.loads(done.stdout)
    return [max(row[i] for row in rows) / MB for i in range(3)], {row[3] for row in rows}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rule", choices=RULES, help="train on this rank (internal)")
    parser.add_argument("--sharded", action="store_true", help="with --rule")
    options = parser.parse_args()
    if options.rule:
        train(options.rule, options.sharded)
        return
    print("MB per rank: on each rank -> sharded\n")
    print("| rule | ranks | state | resident | peak | weights |\n" + "| --- " * 6 + "|")
    for rule in RULES:
        for ranks in options.ranks:
            (whole, one), (sharded, other) = (measured(ranks, rule, is_s) for is_s in (False, True))
            cells = [f"{a:.0f} -> {b:.0f}" for a, b in zip(whole, sharded, strict=True)]
            equal = "equal" if len(one | other) == 1 else "DIFFERENT"
            print(f"| {rule} | {ranks} | {' | '.join(cells)} | {equal} |", flush=True)


if __name__ == "__main__":
    main()
