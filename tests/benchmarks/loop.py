"""Time what `fit` costs over the bare steps of the same network, and what augmentation costs.

    python -m tests.benchmarks.loop

The CIFAR-10 CNN of chapter 7, batch 64, Adam, on random images. "bare" is a loop of forward, loss,
backward, update and `loss.item()` over batches made before; "fit" runs over the same batches. The
augmented ones flip and crop each image; "made ahead" does so on a thread (`prefetch=2`).
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np

from minidl import Tensor, models, optim
from minidl.data import DataLoader
from minidl.functional import cross_entropy
from minidl.training import TrainingWarning, fit

BATCH = 64


class Ready:
    """Batches that are there already, as a loader yields them."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        parts = [slice(i, i + BATCH) for i in range(0, len(labels), BATCH)]
        self._batches = [(Tensor(images[part]), Tensor(labels[part])) for part in parts]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return iter(self._batches)

    def state_dict(self) -> dict[str, int]:
        return {}


class FlipAndCrop:
    """Flip half of the images, and move each by up to 4 pixels."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        padded = np.pad(images, ((0, 0), (0, 0), (4, 4), (4, 4)))
        places = self.rng.integers(0, 9, (len(images), 2))
        flips = self.rng.random(len(images)) < 0.5
        moved = np.empty_like(images)
        for i, ((y, x), flip) in enumerate(zip(places, flips, strict=True)):
            tile = padded[i, :, y : y + 32, x : x + 32]
            moved[i] = tile[..., ::-1] if flip else tile
        return moved


def run_bare(batches: Ready) -> None:
    model = models.cifar10_cnn(rng=np.random.default_rng(0))
    adam = optim.Adam(model.parameters())
    for images, labels in batches:
        loss = cross_entropy(model(images), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        loss.item()


def run_fit(batches: Ready | DataLoader) -> None:
    model = models.cifar10_cnn(rng=np.random.default_rng(0))
    fit(model, cross_entropy, optim.Adam(model.parameters()), batches, progress=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    n = BATCH * args.steps
    images, labels = rng.standard_normal((n, 3, 32, 32), np.float32), rng.integers(0, 10, n)
    ready = Ready(images, labels)
    augmented = {
        ahead: DataLoader(
            *(images, labels), batch_size=BATCH, transform=FlipAndCrop(), prefetch=ahead
        )
        for ahead in (0, 2)
    }
    contestants: dict[str, Callable[[], None]] = {
        "bare": lambda: run_bare(ready),
        "fit": lambda: run_fit(ready),
        "bare again": lambda: run_bare(ready),
        "fit, augmented": lambda: run_fit(augmented[0]),
        "fit, augmented, made ahead": lambda: run_fit(augmented[2]),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    warnings.simplefilter("ignore", TrainingWarning)  # random labels cannot be learned
    run_fit(ready)
    for _ in range(args.rounds):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - started) / args.steps)
    started = time.perf_counter()
    made = sum(1 for _ in augmented[0])
    alone = 1000 * (time.perf_counter() - started) / made
    print(f"{'augmented batches alone':28}{alone:7.2f} ms a batch")
    for name, values in times.items():
        parts = [a / b - 1 for a, b in zip(values, times["bare"], strict=True)]
        print(
            f"{name:28}{statistics.median(values):7.2f} ms a step ({min(values):.2f} to "
            f"{max(values):.2f}); over bare, round by round: {statistics.median(parts):+.1%}"
        )


if __name__ == "__main__":
    main()
