"""Weights and images drawn by seed, for networks too large to store; their logits are stored."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np

SIZES = {"resnet20": (4, 3, 32, 32), "resnet50": (2, 3, 64, 64)}


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Draw a state dict; each array depends on its name and shape alone, whatever comes before."""
    found: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            found[name] = np.zeros(shape, np.int64)
            continue
        if name.endswith("running_var"):
            array = rng.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            array = rng.normal(size=shape) * math.sqrt(2 / math.prod(shape[1:]))
        else:
            array = rng.normal(size=shape) * 0.1 + (0.8 if name.endswith("weight") else 0)
        found[name] = array.astype(np.float32)
    return found


def images(name: str) -> np.ndarray:
    """Draw a network's input."""
    return np.random.default_rng(7).standard_normal(SIZES[name], np.float32)
