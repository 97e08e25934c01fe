"""The reference network of chapter 7."""

from __future__ import annotations

import numpy as np

from minidl import nn


def cifar10_cnn(classes: int = 10, rng: np.random.Generator | None = None) -> nn.Sequential:
    """Build the CIFAR-10 CNN: three convolutions, two max pools, two linear layers.

    It maps images `(n, 3, 32, 32)` to logits `(n, classes)`, with 122,570 parameters for ten
    classes.

    Args:
        classes: number of classes.
        rng: generator for the initial weights; the seeded stream if None.
    """
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, rng=rng),  # (n, 32, 30, 30)
        nn.ReLU(),
        nn.MaxPool2d(2),  # (n, 32, 15, 15)
        nn.Conv2d(32, 64, 3, rng=rng),  # (n, 64, 13, 13)
        nn.ReLU(),
        nn.MaxPool2d(2),  # (n, 64, 6, 6)
        nn.Conv2d(64, 64, 3, rng=rng),  # (n, 64, 4, 4)
        nn.ReLU(),
        nn.Flatten(),  # (n, 1024)
        nn.Linear(1024, 64, rng=rng),
        nn.ReLU(),
        nn.Linear(64, classes, rng=rng),
    )
