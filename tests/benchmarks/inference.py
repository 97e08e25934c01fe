"""Time inference in evaluation mode, without gradients, minidl against a peer.

    python -m tests.benchmarks.inference --peers torch --threads 1 2

W1 is the CIFAR-10 CNN of chapter 7, R20 the ResNet-20 of chapter 10, R50 torchvision's ResNet-50 on
images of 224 x 224 pixels, W3 the TextCNN of `step`; `-1` and `-64` are the sizes of a batch. For
each, the time from a batch to its logits, and the peak memory of the process. minidl runs under
`no_grad()`, PyTorch under `inference_mode()`, both after `eval()`. PyTorch is measured with
channels first and with `channels_last`; the faster one counts, and is named.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import step
from .contest import Contest, Run, fresh, measure, processor

LAYOUTS = {"": "first", "-last": "channels_last"}
"""What is added to a contest's name for each memory order of PyTorch's, and how it is printed."""


def images(count: int, side: int) -> np.ndarray:
    return step.drawn(count, side)[0]


def sentences(count: int, _: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, step.WORDS, (count, step.LENGTH))


def _mixture(logits: np.ndarray) -> float:
    """Return one number that depends on all logits."""
    signs = np.random.default_rng(2).choice([-1, 1], logits.shape)
    return float((logits.astype(np.float64) * signs).mean())


def minidl_run(which: str, inputs: np.ndarray) -> Run:
    import minidl
    from minidl import functional as F
    from minidl import models, nn

    from ..reference.resnet import weights as seeded

    if which in ("R20", "R50"):
        model: Any = models.resnet20() if which == "R20" else models.resnet50()
        model.load_state_dict(seeded({name: a.shape for name, a in model.state_dict().items()}))
    else:
        model = step.cifar10_cnn(nn)
        if which == "W3":
            model = step.text_cnn(nn, F, minidl.concatenate)
        model.load_state_dict(step.weights(model))
    model.eval()
    batch = minidl.Tensor(inputs)

    def run() -> float:
        with minidl.no_grad():
            return _mixture(model(batch).numpy())

    return run


def torch_run(which: str, inputs: np.ndarray, last: bool) -> Run:
    import torch
    from torch.nn import functional as F

    from ..reference import torch_resnet
    from ..reference.resnet import weights as seeded

    if which in ("R20", "R50"):
        model: Any = getattr(torch_resnet, f"ResNet{which[1:]}")()
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        torch_resnet.load(model, seeded(shapes))
    else:
        model = step.cifar10_cnn(torch.nn)
        if which == "W3":
            model = step.text_cnn(torch.nn, F, torch.cat)
        state = {name: torch.from_numpy(w) for name, w in step.weights(model).items()}
        model.load_state_dict(state)
    model.eval()
    batch = torch.from_numpy(inputs)
    if last:
        model.to(memory_format=torch.channels_last)
        if batch.ndim == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)

    def run() -> float:
        with torch.inference_mode():
            return _mixture(model(batch).numpy())

    return run


NETWORKS: dict[str, tuple[str, Callable[[int, int], np.ndarray], int, dict[int, int]]] = {
    "W1": ("CIFAR-10 CNN", images, 32, {1: 100, 64: 20}),
    "R20": ("ResNet-20", images, 32, {1: 50, 64: 10}),
    "R50": ("ResNet-50", images, 224, {1: 10, 64: 2}),
    "W3": ("TextCNN", sentences, 0, {1: 100, 64: 20}),
}
"""By name: a title, how inputs are drawn, their side, and by batch how often a process repeats."""


def _contests() -> dict[str, Contest]:
    found = {}
    for which, (title, drawn, side, sizes) in NETWORKS.items():
        for count, repeats in sizes.items():
            inputs = functools.partial(drawn, count, side)
            for suffix in LAYOUTS:
                found[f"{which}-{count}{suffix}"] = _contest(
                    f"{which} {title}, {count}", which, inputs, bool(suffix), repeats
                )
    return found


def _contest(
    title: str, which: str, inputs: Callable[[], np.ndarray], last: bool, repeats: int
) -> Contest:
    contestants = {
        "minidl": lambda: minidl_run(which, inputs()),
        "torch": lambda: torch_run(which, inputs(), last),
    }
    warm_up = 5 if repeats > 10 else 2
    return Contest(title, contestants, repeats=repeats, warm_up=warm_up, tol=1e-4)


CONTESTS = _contests()
Result = dict[str, Any]


def play(key: str, threads: int, peers: list[str], before: Path | None) -> dict[str, Result]:
    """Run one round: every contestant once, each in a fresh process."""
    module = "tests.benchmarks.inference"
    found = {"minidl": fresh(module, key, "minidl", threads)}
    if before:
        found["before"] = fresh(module, key, "before", threads, before)
    for suffix, layout in LAYOUTS.items():
        if "torch" in peers:
            found[layout] = fresh(module, key + suffix, "torch", threads)
    return found


def row(contest: Contest, rounds: list[dict[str, Result]]) -> str:
    """Return the medians of all rounds, and of their ratios, as text."""

    def middle(name: str) -> float:
        return statistics.median(r[name]["ms"] for r in rounds)

    def peak(name: str) -> float:
        return max(r[name]["peak_mb"] for r in rounds)

    text = f"{middle('minidl'):9.2f}{peak('minidl'):9.0f}"
    layouts = [name for name in LAYOUTS.values() if name in rounds[0]]
    best = min(layouts, key=middle, default=None)
    for name in ["before"] * ("before" in rounds[0]) + ([best] if best else []):
        ratio = statistics.median(r["minidl"]["ms"] / r[name]["ms"] for r in rounds)
        mine, theirs = (np.array(rounds[0][who]["results"]) for who in ("minidl", name))
        apart = float(np.max(np.abs(mine - theirs) / (1 + np.abs(theirs))))
        wrong = "!" if not apart <= contest.tol else ""
        text += f"{middle(name):9.2f}{peak(name):9.0f}{ratio:7.2f}"
        text += f"{peak('minidl') / peak(name):8.2f}{wrong + format(apart, '.0e'):>8}"
    return text + (f"  {best}" if best else "")


def main() -> None:
    """Run the contests that the command line names, and print a table for each thread number."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    keys = [key for key in CONTESTS if not key.endswith("-last")]
    parser.add_argument("--peers", nargs="*", choices=["torch"], default=[])
    parser.add_argument("--against", type=Path, help="a checkout of another version of minidl")
    parser.add_argument("--only", nargs="*", choices=keys, default=keys)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="*", default=[2])
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(CONTESTS[args.measure[0]], args.measure[1])
        return
    print(f"{processor()}, NumPy {np.__version__}, float32, no gradients, evaluation mode")
    print(f"medians of {args.rounds} rounds of fresh processes in turn\n")
    for threads in args.threads:
        others = [*(["before"] if args.against else []), *args.peers]
        head = f"{f'{threads} threads':28}{'ms':>9}{'MB':>9}"
        for name in others:
            head += f"{name + ' ms':>9}{'MB':>9}{'ratio':>7}{'memory':>8}{'apart':>8}"
        print(head + ("  faster order" if args.peers else ""))
        for key in args.only:
            rounds = [play(key, threads, args.peers, args.against) for _ in range(args.rounds)]
            print(f"{CONTESTS[key].title:28}{row(CONTESTS[key], rounds)}", flush=True)
        print()


if __name__ == "__main__":
    main()
