"""Time training steps over batch sizes and image sizes: is their cost linear?

python -m tests.benchmarks.scaling --rounds 3
"""

from __future__ import annotations

import functools

import numpy as np

from .contest import Contest, main
from .step import cifar10_cnn, minidl_step, torch_step, wide_cnn

BATCHES = (16, 64, 128, 256, 512)
SIZES = (32, 64, 96, 128)
SGD = ("SGD", {"lr": 0.01, "momentum": 0.9})
ADAM = ("Adam", {"lr": 1e-3})


def pictures(n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 3, size, size), np.float32), rng.integers(0, 10, n)


def contest(title, build, rule, n: int, size: int = 32) -> Contest:
    arguments = (build, functools.partial(pictures, n, size), *rule)
    steps = {"minidl": minidl_step, "torch": torch_step}
    contestants = {name: functools.partial(step, *arguments) for name, step in steps.items()}
    return Contest(title, contestants, repeats=max(3, 1000 // n), warm_up=2)


CONTESTS = {
    **{f"W1-{n}": contest(f"W1, batch {n}", cifar10_cnn, ADAM, n) for n in BATCHES},
    **{f"W2-{n}": contest(f"W2, batch {n}", wide_cnn, SGD, n) for n in BATCHES},
    **{f"W2-{s}px": contest(f"W2, batch 16, {s} x {s}", wide_cnn, SGD, 16, s) for s in SIZES},
}

if __name__ == "__main__":
    main("tests.benchmarks.scaling", __doc__.split("\n")[0], CONTESTS)
