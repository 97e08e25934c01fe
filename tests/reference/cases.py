"""What was asked of PyTorch: the cases whose answers are stored beside this file.

The answers are in one `.npz` per family, made by `make.py` with PyTorch 2.13 in float64, so that
comparing with PyTorch does not take having it. Names of arguments are minidl's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .case import Case
from .layers import ACTIVATION, LINEAR, NORMALIZATION
from .losses import LOSS
from .sampling import SAMPLING
from .sequences import SEQUENCES
from .tensors import TENSOR
from .windows import CONVOLUTION, MORE_POOLING, POOLING

HERE = Path(__file__).parent

FAMILIES: dict[str, list[Case]] = {
    "convolution": CONVOLUTION,
    "pooling": POOLING,
    "more_pooling": MORE_POOLING,
    "activation": ACTIVATION,
    "linear": LINEAR,
    "normalization": NORMALIZATION,
    "loss": LOSS,
    "sampling": SAMPLING,
    "sequences": SEQUENCES,
    "tensor": TENSOR,
}

STEPS = 20
PARAMETERS = [(3, 2), (4,), ()]

# Name: the rule, and its options. Two groups: the second one has its own learning rate.
OPTIMISERS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {"lr": 0.1}),
    "SGD momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "SGD dampening": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    "SGD Nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "SGD weight decay": ("SGD", {"lr": 0.1, "weight_decay": 0.05}),
    "SGD all": (
        "SGD",
        {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.05, "nesterov": True},
    ),
    "Adam": ("Adam", {}),
    "Adam options": (
        "Adam",
        {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "AdamW": ("AdamW", {}),
    "AdamW options": (
        "AdamW",
        {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "Adam amsgrad": ("Adam", {"lr": 0.05, "weight_decay": 0.1, "amsgrad": True}),
    "AdamW amsgrad": ("AdamW", {"lr": 0.05, "betas": (0.8, 0.7), "amsgrad": True}),
    "RMSprop": ("RMSprop", {}),
    "RMSprop options": ("RMSprop", {"lr": 0.05, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    "RMSprop momentum": ("RMSprop", {"momentum": 0.9}),
    "RMSprop centred": ("RMSprop", {"centered": True}),
    "RMSprop all": ("RMSprop", {"momentum": 0.9, "centered": True, "weight_decay": 0.1}),
}
GROUP_LR = 0.03
CLIPPING = {"2": 2.0, "1": 1.0, "3": 3.0, "inf": float("inf")}
MAX_NORM = 0.7


def slope(p: Any, step: int) -> Any:
    """The gradient that a parameter of either library gets: it depends on where it is."""
    return p * 0.3 + (step % 5 - 2) * 0.4


def load(family: str) -> dict[str, np.ndarray]:
    """Return the stored answers of one family."""
    with np.load(HERE / f"{family}.npz", allow_pickle=False) as stored:
        return dict(stored)
