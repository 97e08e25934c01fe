"""The sections of `gpu.py`, each in a process of its own.

    python -m tests.benchmarks.gpu_sections NAME FILE --device cuda --seconds 60

writes a line of JSON to FILE for each row, as soon as it is known.
"""

from __future__ import annotations

import argparse
import functools
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import minidl
from minidl import Tensor, functional, optim
from minidl.backends import backend_for
from minidl.backends.cuda import nccl as sums
from minidl.backends.cuda import setup
from minidl.data import DataLoader, Normalize, load_toy10
from minidl.training import Run, fit

from . import step as steps
from .gpu_kernels import copies, kernels
from .gpu_timing import Lab, compared, in_turn

ROOT = Path(__file__).parents[2]
KEYS = ("W1", "W3", "W2", "R20", "R50")
SIZES, DRY_SIZES = (64, 512), (2,)
TOL = 1e-2  # of losses, relative: other orders of sums
Step = Callable[[], float]


# Training steps ---------------------------------------------------------------------------------


def batch_of(key: str, size: int, is_dry: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch of a workload's inputs and labels."""
    rng = np.random.default_rng(0)
    if key == "W3":
        words = rng.integers(0, steps.WORDS, (size, steps.LENGTH))
        return words, rng.integers(0, 2, size)
    side = 32 if is_dry or key != "R50" else 224
    return rng.standard_normal((size, 3, side, side), np.float32), rng.integers(0, 10, size)


def minidl_step(lab: Lab, key: str, size: int, wrapped: Any = lambda step: step) -> Any:
    """Return a step of a workload on the device; it returns the loss, not read."""
    batch = batch_of(key, size, lab.is_dry)
    work = steps.NETWORKS.get(key)
    made = steps.minidl_residual(key) if work is None else _made(steps.minidl_work, work, batch)
    model, optimiser = made[0].to(lab.device), made[1]
    x, y = (Tensor(array, device=lab.device) for array in batch)

    @wrapped
    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = functional.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    return functools.partial(step, x, y)


def _made(make: Any, work: Any, batch: Any) -> steps.Work:
    build, _, rule, options = work
    return make(build, lambda: batch, rule, options)  # type: ignore[no-any-return]


def torch_step(lab: Lab, key: str, size: int, *, fast: bool, compiled: bool = False) -> Any:
    """Do the same with PyTorch; `fast`: its fused optimiser, and images as channels_last."""
    import torch
    from torch.nn import functional as F

    batch = batch_of(key, size, lab.is_dry)
    work = steps.NETWORKS.get(key)
    made = steps.torch_residual(key) if work is None else _made(steps.torch_work, work, batch)
    model = made[0].to(lab.device)
    made = steps.fused((model, *made[1:])) if fast else made
    x, y = (torch.from_numpy(array).to(lab.device) for array in batch)
    if fast and key != "W3":
        model, x = (one.to(memory_format=torch.channels_last) for one in (model, x))
    if compiled:
        model = torch.compile(model, backend="eager" if lab.is_dry else "inductor")
    optimiser = made[1]

    def step() -> Any:
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    return step


def set_tf32(on: bool) -> None:
    """Set TF32 on both sides."""
    minidl.set_tf32(on)
    if "torch" in sys.modules:
        torch: Any = sys.modules["torch"]
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on


def contestants(lab: Lab, key: str, size: int, is_compiled: bool) -> dict[str, Any]:
    """Return the steps that take part."""
    found = {"minidl capture": minidl_step(lab, key, size, minidl.capture)}
    if not is_compiled:
        found["minidl"] = minidl_step(lab, key, size)
    try:
        import torch  # noqa: F401
    except ImportError:
        return found
    make = functools.partial(torch_step, lab, key, size)
    found["torch fused"] = make(fast=True)
    if is_compiled:
        found["torch compile fused"] = make(fast=True, compiled=True)
    else:
        found["torch"] = make(fast=False)
    return found


def training(lab: Lab, is_compiled: bool = False) -> None:
    """Time workloads in turn: first all with batches of 64 without TF32."""
    sizes = DRY_SIZES if lab.is_dry else SIZES
    rows = [f"{key} {size} {tf}" for tf in ("off", "on") for size in sizes for key in KEYS]
    for name in lab.in_time(rows):
        key, size, tf32 = name.split()
        row = {"net": key, "batch": int(size), "TF32": tf32}
        try:
            lab.emit(**row, **measured(lab, key, int(size), is_compiled, tf32 == "on"))
        except Exception as error:  # such as a full GPU; other rows go on
            lab.emit(**row, problem=f"{type(error).__name__}: {error!s:.200}")


def measured(lab: Lab, key: str, size: int, is_compiled: bool, tf32: bool) -> dict[str, Any]:
    """Return a row: medians, ratios, and how far the first losses lie apart."""
    runs = contestants(lab, key, size, is_compiled)
    set_tf32(tf32)
    started, losses = lab.clock(), {}
    try:
        for name, run in runs.items():
            losses[name] = [float(run().item()) for _ in range(4)]
        warmed = lab.clock() - started
        rounds, count = (2, 1) if lab.is_dry else (9, 10 if key != "R50" else 3)
        row: dict[str, Any] = dict(compared(in_turn(lab, runs, rounds, count)))
    finally:
        set_tf32(False)
    first = np.array(losses["minidl capture"])
    apart = max(float(np.max(abs(np.array(x) - first) / (1 + abs(first)))) for x in losses.values())
    row |= {"apart": ("" if apart <= TOL else "!") + f"{apart:.0e}", "warm-up s": warmed}
    return row


# Launches and waits -------------------------------------------------------------------------------


def launches(lab: Lab) -> None:
    """Count in one step: kernels on the device, minidl's own launches, products, and waits."""
    for key in lab.in_time(list(KEYS)):
        run, backend = minidl_step(lab, key, 2 if lab.is_dry else 64), backend_for(lab.device)
        for _ in range(2):
            run().item()
        own = _own_launches(backend, run)
        waits = getattr(backend, "to_host", 0), getattr(backend, "to_device", 0)
        run().item()
        moved = (
            getattr(backend, "to_host", 0) - waits[0],
            getattr(backend, "to_device", 0) - waits[1],
        )
        lab.emit(
            net=key,
            **{"kernels and copies": _all_launches(lab, run), "of kernels.cu": own},
            **{"waits": moved[0], "copies to the device": moved[1]},
        )


def _own_launches(backend: Any, run: Step) -> int:
    """Return how many kernels of kernels.cu a step launches."""
    given = getattr(backend, "_launch", None)
    if given is None:
        return 0
    counted = mock.Mock(side_effect=given)
    with mock.patch.object(backend, "_launch", counted):
        run()
    return counted.call_count


def _all_launches(lab: Lab, run: Step) -> int | str:
    """Return how much work a step gives to the device, as PyTorch's profiler sees it (CUPTI)."""
    try:
        from torch import profiler
    except ImportError:
        return "unknown: PyTorch is not installed"
    kinds = profiler.ProfilerActivity
    with profiler.profile(activities=[kinds.CPU if lab.is_dry else kinds.CUDA]) as found:
        run()
        lab.wait()
    return len(found.events())


# fit, NCCL ----------------------------------------------------------------------------------------


def fitting(lab: Lab) -> None:
    """Train chapter 7's network by `fit`, in three ways; are the losses equal to the last bit?"""
    pictures = load_toy10()[0].first(64 if lab.is_dry else 4096)
    normalize = Normalize.fit(pictures.images)
    losses: dict[str, list[float]] = {}
    for name, capture in {"ordinary": False, "always": True, "auto": "auto"}.items():
        rng = minidl.manual_seed(0)
        model = minidl.models.cifar10_cnn(rng=rng).to(lab.device)
        train = DataLoader(
            *(pictures.images, pictures.labels),
            **{"batch_size": 4 if lab.is_dry else 64, "shuffle": True, "rng": rng},
            **{"transform": normalize, "device": lab.device, "prefetch": 2},
        )
        runs: list[Run] = []
        adam = optim.Adam(model.parameters())
        history = fit(
            *(model, functional.cross_entropy, adam, train),
            **{"epochs": 1 if lab.is_dry else 3, "progress": False},
            **{"capture": capture, "callbacks": [runs.append]},
        )
        losses[name] = history.step_losses
        steps_each = len(train)
        seconds = list(history["seconds"])
        apart = np.abs(np.subtract(losses[name], losses["ordinary"])).max()
        lab.emit(
            **{"capture": name, "ms per step": 1e3 * seconds[-1] / steps_each},
            **{"equal bits": losses[name] == losses["ordinary"], "apart": float(apart)},
            chosen=str(getattr(runs[-1], "step_ms", "")),
        )


class Alone:
    """A world of one rank."""

    rank, size = 0, 1

    def all_gather(self, value: Any) -> list[Any]:
        return [value]


def one_nccl(lab: Lab) -> None:
    """Sum and broadcast over one rank, with NCCL: the values stay, and the rates."""
    if lab.is_dry:
        lab.skip("NCCL needs a GPU")
        return
    backend: Any = backend_for("cuda")
    connected = sums.connected(backend, setup.load_nccl(), Alone())
    if connected is None:
        lab.skip(sums.MISSING)
        return
    for size in (2**10, 2**20, 2**26):
        array = backend.from_numpy(np.arange(size // 4, dtype=np.float32))
        for what, start in {
            "sum": functools.partial(connected.start_sum, array),
            "broadcast": functools.partial(connected.start_broadcast, array, 0),
        }.items():
            _waited(start)
            is_right = bool((backend.to_numpy(array) == np.arange(size // 4)).all())
            seconds = lab.seconds_of(functools.partial(_waited, start))
            row = {"KiB": size / 1024, "ms": 1e3 * seconds, "GB_per_s": size / seconds / 1e9}
            lab.emit(what=what, right=is_right, **row)


def _waited(start: Callable[[], Any]) -> None:
    start().wait("here")


# Programs -----------------------------------------------------------------------------------------


def program(lab: Lab, *command: str) -> tuple[int, str, float]:
    """Run Python on something, for as long as there is time; return status, text and seconds."""
    started = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, *command],
            **{"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
            **{"text": True, "timeout": max(lab.left, 1)},
        )
    except subprocess.TimeoutExpired as error:
        text = error.stdout or b""
        lab.emit(late=" ".join(command[:3]))
        return -1, text.decode() if isinstance(text, bytes) else text, lab.seconds
    return done.returncode, done.stdout, time.perf_counter() - started


def tests(lab: Lab) -> None:
    """Run the tests that only a GPU can run; the summary, and the lines of those that fail."""
    chosen = ("tests/test_replay.py", "-k", "keeps_its_name") if lab.is_dry else ("-m", "gpu")
    options = ("-q", "-n0", "-p", "no:cacheprovider", "--tb=line", "--maxfail=50")
    status, text, seconds = program(lab, "-m", "pytest", *options, *chosen)
    lab.emit(status=status, seconds=seconds, **summary(text))
    failed = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if failed:
        lab.emit(text="\n".join(failed))


def summary(text: str) -> dict[str, int]:
    """Return the numbers of pytest's summary; if it was stopped, count its dots and letters."""
    ends = re.findall(r"^.*\b\d+ (?:passed|failed|skipped|error).*$", text, re.MULTILINE)
    if ends:
        found = re.findall(r"(\d+) (passed|failed|skipped|deselected|errors?)", ends[-1])
        return {name: int(number) for number, name in found}
    marks = "".join(re.findall(r"^([.FEsx]+)(?: +\[ *\d+%\])?$", text, re.MULTILINE))
    letters = {"passed": ".", "failed": "F", "errors": "E", "skipped": "s"}
    return {name: marks.count(letter) for name, letter in letters.items() if letter in marks}


def chapter12(lab: Lab) -> None:
    """Run chapter 12; keep what it prints."""
    chapter(lab, "chapters/ch12_gpu.py", *["--quick"] * lab.is_dry)


def chapter7(lab: Lab) -> None:
    """Train chapter 7's network on the real images, in seconds."""
    if lab.is_dry:
        chapter(lab, "chapters/ch07_cifar10_cnn.py", "--quick")
    elif lab.data_dir is None:
        lab.skip("no --data-dir was given")
    else:
        data = ("--data", "cifar10", "--data-dir", str(lab.data_dir))
        chapter(lab, "chapters/ch07_cifar10_cnn.py", *data)


def chapter(lab: Lab, path: str, *options: str) -> None:
    with tempfile.TemporaryDirectory() as out:
        command = (path, "--device", lab.device, "--out", out, *options)
        status, text, seconds = program(lab, *command)
    lab.emit(status=status, seconds=seconds)
    lab.emit(text=text[-8000:])
    if status > 0:
        sys.exit(f"{path} ended with status {status}: {text.strip().splitlines()[-1:]}")


SECTIONS: dict[str, Callable[[Lab], None]] = {
    "copies": copies,
    "kernels": kernels,
    "steps": training,
    "compiled": functools.partial(training, is_compiled=True),
    "launches": launches,
    "fit": fitting,
    "nccl": one_nccl,
    "tests": tests,
    "chapter12": chapter12,
    "chapter7": chapter7,
}


def main() -> None:
    """Run one section."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=list(SECTIONS))
    parser.add_argument("file", type=Path)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--data-dir", type=Path)
    args = parser.parse_args()
    SECTIONS[args.name](Lab(args.device, args.seconds, args.file, args.data_dir))


if __name__ == "__main__":
    main()
