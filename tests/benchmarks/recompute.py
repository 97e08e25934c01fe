"""Measure a training step of ResNet-50 with and without computing its activations again.

    python -m tests.benchmarks.recompute --batch 16 --size 224

The two forms run in turn, `--rounds` times, each in a process of its own; the best figures are
printed. Memory is the peak of the process, and the peak of arrays that a step allocates (NumPy
reports them to tracemalloc), which leaves out parameters and the optimiser's state. Times are those
of the fastest step; processor time, summed over threads, is less affected by other programs.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import tracemalloc

import numpy as np

import minidl
from minidl import functional as F
from minidl import models, optim

from .contest import processor

MIB = 2**20


def measured(depth: int, batch: int, size: int, again: bool, steps: int) -> dict[str, float]:
    """Return the fastest step's seconds and processor seconds, memory in MiB, and the last loss."""
    minidl.manual_seed(0)
    net = getattr(models, f"resnet{depth}")()
    net.checkpointed = again
    rng = np.random.default_rng(0)
    images = minidl.Tensor(rng.standard_normal((batch, 3, size, size), np.float32))
    labels = rng.integers(0, 1000 if depth in (18, 34, 50) else 10, batch)
    sgd = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def step() -> float:
        loss = F.cross_entropy(net(images), labels)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        return loss.item()

    seconds, busy = [], []
    for _ in range(steps):
        start, cpu = time.perf_counter(), time.process_time()
        loss = step()
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - cpu)
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tracemalloc.start()
    step()
    arrays = tracemalloc.get_traced_memory()[1] / MIB
    times = {"seconds": min(seconds), "busy": min(busy)}
    return {**times, "process": process, "arrays": arrays, "loss": loss}


def main() -> None:
    """Measure both forms in processes of their own, and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--depth", type=int, default=50, choices=(18, 20, 32, 34, 44, 50, 56))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--form", choices=("kept", "again"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape = (args.depth, args.batch, args.size)
    if args.form:
        print(json.dumps(measured(*shape, args.form == "again", args.steps)))
        return
    command = [sys.executable, "-m", "tests.benchmarks.recompute"]
    for name in ("depth", "batch", "size", "steps"):
        command += [f"--{name}", str(getattr(args, name))]
    found: dict[str, list[dict[str, float]]] = {"kept": [], "again": []}
    for _ in range(args.rounds):
        for form, runs in found.items():
            done = subprocess.run([*command, "--form", form], capture_output=True, check=True)
            runs.append(json.loads(done.stdout))
    threads = minidl.get_num_threads()
    print(f"{processor()}, {threads} threads, NumPy {np.__version__}, float32")
    print(f"ResNet-{args.depth}, batch {args.batch}, {args.size} x {args.size}, SGD with momentum")
    best = {
        form: {name: min(run[name] for run in runs) for name in runs[0]}
        for form, runs in found.items()
    }
    for form, text in (("kept", "activations kept"), ("again", "computed again")):
        b = best[form]
        print(
            f"  {text:<17} {b['seconds']:6.2f} s ({b['busy']:6.2f} s of processor time)  "
            f"{b['process']:7,.0f} MiB in the process {b['arrays']:7,.0f} MiB for new arrays"
        )
    kept, again = best["kept"], best["again"]
    for name, text in (("process", "in the process"), ("arrays", "for new arrays")):
        saved = kept[name] - again[name]
        print(f"saved: {saved * MIB:,.0f} bytes ({saved / kept[name]:.0%}) {text}")
    for name, text in (("seconds", "time"), ("busy", "processor time")):
        print(f"{text}: {again[name] / kept[name]:.2f} of that with activations kept")
    print(f"losses equal to the bit: {kept['loss'] == again['loss']}")


if __name__ == "__main__":
    main()
