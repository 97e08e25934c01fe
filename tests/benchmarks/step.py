"""Time whole training steps, minidl against its peers.

    python -m tests.benchmarks.step --peers torch

Every round runs each contestant in a fresh process of its own, one after the other, so that a
machine whose speed drifts slows all of them alike. Ratios are taken round by round. The losses of
the first steps are compared, so that a fast but wrong kernel shows.
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
from typing import Any

import numpy as np

THREADS = 2
BATCH, WARM_UP, STEPS = 64, 10, 40


def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((BATCH, 3, 32, 32), np.float32), rng.integers(0, 10, BATCH)


def initial_weights() -> dict[str, np.ndarray]:
    from minidl import models

    return models.cifar10_cnn(rng=np.random.default_rng(1)).state_dict()


def minidl_step() -> Callable[[], float]:
    from minidl import Tensor, models, optim
    from minidl.functional import cross_entropy

    model = models.cifar10_cnn()
    model.load_state_dict(initial_weights())
    adam = optim.Adam(model.parameters(), lr=1e-3)
    images, labels = batch()

    def step() -> float:
        loss = cross_entropy(model(Tensor(images)), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        return float(loss.item())

    return step


def torch_net() -> Any:
    """Build the network of chapter 6 with PyTorch, layer for layer."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def torch_step() -> Callable[[], float]:
    import torch

    torch.set_num_threads(THREADS)
    model = torch_net()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in initial_weights().items()})
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    images, labels = (torch.from_numpy(array) for array in batch())

    def step() -> float:
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        return float(loss.item())

    return step


CONTESTANTS = {"minidl": minidl_step, "torch": torch_step}


def measure(name: str) -> None:
    """Time one contestant in this process and print what was found as JSON."""
    step = CONTESTANTS[name]()
    losses = [step() for _ in range(WARM_UP)]
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - start))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"ms": statistics.median(times), "peak_mb": peak, "losses": losses}))


def run(name: str) -> dict:
    """Measure one contestant in a fresh process."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(THREADS),
        "OPENBLAS_NUM_THREADS": str(THREADS),
    }
    command = [sys.executable, "-m", "tests.benchmarks.step", "--measure", name]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", nargs="*", choices=["torch"], default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    names = ["minidl", *args.peers]
    rounds = [{name: run(name) for name in names} for _ in range(args.rounds)]
    print(f"{platform.machine()}, {THREADS} threads, NumPy {np.__version__}, {args.rounds} rounds")
    print("W1: the CIFAR-10 CNN of chapter 6, batch 64, Adam; one training step\n")
    print(f"{'':8}{'ms':>8}{'least':>8}{'most':>8}{'peak MB':>10}{'ratio':>8}")
    for name in names:
        found = [r[name]["ms"] for r in rounds]
        peak = max(r[name]["peak_mb"] for r in rounds)
        ratio = statistics.median(r["minidl"]["ms"] / r[name]["ms"] for r in rounds)
        middle = statistics.median(found)
        print(f"{name:8}{middle:8.1f}{min(found):8.1f}{max(found):8.1f}{peak:10.0f}{ratio:8.2f}")
    for name in args.peers:
        pairs = zip(rounds[0]["minidl"]["losses"], rounds[0][name]["losses"], strict=True)
        apart = max(abs(a - b) for a, b in pairs)
        print(f"\nlosses of the first {WARM_UP} steps: within {apart:.1e} of {name}'s")


if __name__ == "__main__":
    main()
