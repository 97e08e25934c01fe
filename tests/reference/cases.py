"""What was asked of PyTorch: the cases whose answers are stored beside this file.

The answers are in one `.npz` per family, made by `make.py` with PyTorch 2.13 in float64, so that
comparing with PyTorch does not take having it. Names of arguments are minidl's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """One call: `op(*inputs, **constants, **options)`.

    Attributes:
        op: a function of minidl.functional.
        inputs: shapes of the arrays that are differentiated.
        options: other arguments.
        constants: arrays that are not differentiated, such as labels.
    """

    op: str
    inputs: list[tuple[int, ...]]
    options: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the case is called, in tests and in the file."""
        words = [f"{name}={value}" for name, value in self.options.items()]
        words += [f"{name}{list(value.shape)}" for name, value in self.constants.items()]
        shapes = " ".join("x".join(map(str, shape)) for shape in self.inputs)
        return " ".join([self.op, shapes, *words])


def _convolution() -> list[Case]:
    images, kernels = (2, 4, 6, 5), (4, 4, 3, 2)
    grid: list[dict[str, Any]] = [
        {},
        {"stride": 2},
        {"stride": (1, 3), "padding": (2, 1)},
        {"padding": "same"},
        {"padding": "same", "dilation": (2, 3)},
        {"padding": "valid", "dilation": (1, 2)},
    ]
    cases = [Case("conv2d", [images, kernels, (4,)], options) for options in grid]
    cases.append(Case("conv2d", [images, kernels]))
    cases.append(Case("conv2d", [images, (4, 2, 3, 2), (4,)], {"groups": 2, "stride": 2}))
    cases.append(Case("conv2d", [images, (8, 1, 2, 2), (8,)], {"groups": 4, "padding": 1}))
    cases.append(Case("conv1d", [(2, 4, 9), (3, 4, 3), (3,)], {"stride": 2, "padding": 3}))
    cases.append(Case("conv1d", [(2, 4, 9), (4, 2, 4), (4,)], {"groups": 2, "padding": "same"}))
    transposed: list[dict[str, Any]] = [
        {},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": (3, 2), "output_padding": (2, 0), "dilation": (1, 2)},
    ]
    small = (2, 4, 3, 4)
    cases += [Case("conv_transpose2d", [small, (4, 2, 3, 2), (2,)], o) for o in transposed]
    options = {"groups": 2, "stride": 2}
    return [*cases, Case("conv_transpose2d", [small, (4, 2, 2, 2), (4,)], options)]


def _pooling() -> list[Case]:
    images = [(2, 2, 7, 6)]
    largest: list[dict[str, Any]] = [
        {"kernel_size": 2},
        {"kernel_size": (3, 2), "stride": (2, 3)},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 1, "dilation": 2},
        {"kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": True},
        {"kernel_size": 4, "stride": 4, "ceil_mode": True},
    ]
    means: list[dict[str, Any]] = [
        {"kernel_size": 2},
        {"kernel_size": (3, 2), "stride": (2, 3)},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
        {"kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": True},
        {"kernel_size": 4, "stride": 3, "ceil_mode": True, "count_include_pad": False},
        {"kernel_size": 2, "padding": 1, "divisor_override": 3},
    ]
    cases = [Case("max_pool2d", images, options) for options in largest]
    cases += [Case("avg_pool2d", images, options) for options in means]
    cases.append(
        Case("max_pool2d", [(1, 1, 2, 3)], {"kernel_size": 3, "stride": 2, "ceil_mode": True})
    )
    return [*cases, Case("global_avg_pool2d", images)]


def _activation() -> list[Case]:
    grid: list[tuple[str, dict[str, Any]]] = [
        ("relu", {}),
        ("leaky_relu", {}),
        ("leaky_relu", {"negative_slope": 0.3}),
        ("elu", {}),
        ("elu", {"alpha": 0.5}),
        ("sigmoid", {}),
        ("softplus", {}),
        ("softplus", {"beta": 2.0}),
        ("silu", {}),
        ("gelu", {}),
        ("gelu", {"approximate": "tanh"}),
        ("softmax", {"axis": 0}),
        ("softmax", {"axis": -1}),
        ("log_softmax", {"axis": 1}),
    ]
    return [Case(op, [(4, 6)], options) for op, options in grid]


def _linear() -> list[Case]:
    grid = [
        [(4, 3), (2, 3), (2,)],
        [(4, 3), (2, 3)],
        [(2, 4, 3), (2, 3), (2,)],
        [(3,), (2, 3), (2,)],
    ]
    return [Case("linear", shapes) for shapes in grid]


def _loss() -> list[Case]:
    labels = np.array([0, 3, 1, -100, 2])
    places = np.array([[0, 3], [1, 1], [2, 0], [-100, 3], [3, 2]])
    weight = np.array([1.0, 0.5, 2.0, 0.25])
    soft = np.array([[0.7, 0.1, 0.1, 0.1], [0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    target = np.linspace(0, 1, 6).reshape(3, 2)
    cases = []
    for reduction in ("mean", "sum", "none"):
        options: dict[str, Any] = {"reduction": reduction}
        for shape, indices in (((5, 4), labels), ((5, 4, 2), places)):
            with_weight = {"target": indices, "weight": weight}
            cases.append(Case("nll_loss", [shape], options, with_weight))
            for smoothing in (0.0, 0.1):
                smoothed = {**options, "label_smoothing": smoothing}
                cases.append(Case("cross_entropy", [shape], smoothed, {"target": indices}))
                cases.append(Case("cross_entropy", [shape], smoothed, with_weight))
        smoothed = {**options, "label_smoothing": 0.2}
        with_weight = {"target": soft, "weight": weight}
        cases.append(Case("cross_entropy", [(3, 4)], smoothed, with_weight))
        cases += [Case(op, [(3, 2)], options, {"target": target}) for op in ("mse_loss", "l1_loss")]
        weights = {"target": target, "weight": np.array([1.0, 2.0])}
        weights["pos_weight"] = np.array([3.0, 0.5])
        cases.append(Case("binary_cross_entropy_with_logits", [(3, 2)], options, weights))
    options = {"ignore_index": 3}
    return [*cases, Case("cross_entropy", [(5, 4)], options, {"target": np.maximum(labels, 0)})]


FAMILIES = {
    "convolution": _convolution(),
    "pooling": _pooling(),
    "activation": _activation(),
    "linear": _linear(),
    "loss": _loss(),
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
