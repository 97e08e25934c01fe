"""Cases of losses. Targets that PyTorch differentiates are among the inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from .case import Case

LABELS = np.array([0, 3, 1, -100, 2])  # of four classes, for five examples
PLACES = np.array([[0, 3], [1, 1], [2, 0], [-100, 3], [3, 2]])  # two labels per example
PIXELS = np.array([[[2, 0, -100], [1, 2, 2]]])  # an image of three classes, two pixels tall
COUNTED = np.maximum(PIXELS, 0)
WEIGHT = np.array([1.0, 0.5, 2.0, 0.25])


def _of_labels(reduction: str) -> list[Case]:
    cases = []
    options: dict[str, Any] = {"reduction": reduction}
    smoothed = {**options, "label_smoothing": 0.1}
    for shape, indices in (((5, 4), LABELS), ((5, 4, 2), PLACES)):
        plain = {"target": indices}
        weighted = {"target": indices, "weight": WEIGHT}
        for constants in (plain, weighted):
            cases.append(Case("nll_loss", [shape], options, constants))
            cases.append(Case("cross_entropy", [shape], options, constants))
            second = shape == (5, 4) and reduction == "mean"
            cases.append(Case("cross_entropy", [shape], smoothed, constants, second=second))
    counted = np.maximum(LABELS, 0)
    ignoring = {**options, "ignore_index": 3}
    constants = {"target": counted, "weight": WEIGHT}
    cases.append(Case("nll_loss", [(5, 4)], ignoring, constants))
    cases.append(Case("cross_entropy", [(5, 4)], ignoring, {"target": counted}))
    cases.append(Case("cross_entropy", [(5, 4)], {**ignoring, "label_smoothing": 0.3}, constants))
    return cases


def _of_probabilities(reduction: str) -> list[Case]:
    options: dict[str, Any] = {"reduction": reduction}
    smoothed = {**options, "label_smoothing": 0.2}
    weight = {"weight": WEIGHT}
    return [
        Case("cross_entropy", [(3, 4), (3, 4)], options),
        Case("cross_entropy", [(3, 4), (3, 4)], smoothed, weight, second=reduction == "mean"),
        Case("cross_entropy", [(2, 4, 3), (2, 4, 3)], smoothed, weight),
    ]


def _of_numbers(reduction: str) -> list[Case]:
    options: dict[str, Any] = {"reduction": reduction}
    shapes = [(3, 2), (3, 2)]
    binary = "binary_cross_entropy_with_logits"
    pos_weight = {"pos_weight": np.array([3.0, 0.5])}
    weight = {"weight": np.array([[1.0], [2.0], [0.5]])}
    return [
        Case("mse_loss", shapes, options, second=reduction == "mean"),
        Case("mse_loss", [(2, 1, 3, 2), (2, 1, 3, 2)], options),
        *(
            Case(op, shapes, {**options, name: 0.7}, second=reduction == "mean")
            for op, name in (("smooth_l1_loss", "beta"), ("huber_loss", "delta"))
        ),
        Case("smooth_l1_loss", shapes, options, domain="whole"),  # at the end of the parabola
        Case("huber_loss", shapes, options, domain="whole"),
        Case("l1_loss", shapes, options),
        Case("l1_loss", shapes, options, domain="whole"),  # the slope at 0 is 0
        *(
            Case(binary, shapes, options, constants, domain="shares", second=second)
            for constants, second in (
                ({}, False),
                (weight, False),
                (pos_weight, reduction == "mean"),
                (weight | pos_weight, False),
            )
        ),
    ]


def _once() -> list[Case]:
    """What does not depend on the reduction."""
    two = {"target": np.array([1, 0, 1])}
    target = {"target": np.array([0.0, 1.0, 0.3, 0.0, 1.0, 0.8])}
    ignored = {"target": np.full(2, -100)}
    return [
        Case("cross_entropy", [(1, 4)], {}, {"target": np.array([2])}),
        Case("cross_entropy", [(3, 2)], {}, two),
        Case("cross_entropy", [(3, 1)], {}, {"target": np.zeros(3, np.int64)}),  # loss 0
        Case("cross_entropy", [(3, 2)], {"label_smoothing": 1.0}, two),  # no label left
        Case("cross_entropy", [(2, 4)], {"reduction": "sum"}, ignored),
        Case("cross_entropy", [(1, 3, 2, 3)], {}, {"target": PIXELS}),
        Case("cross_entropy", [(1, 3, 2, 3), (1, 3, 2, 3)], {"label_smoothing": 0.1}),
        *(
            Case("cross_entropy", [(1, 3, 2, 3)], {"reduction": r, **more}, by_pixel, second=True)
            for r in ("mean", "sum", "none")
            for more in ({}, {"label_smoothing": 0.1}, {"ignore_index": 2})
            for by_pixel in ({"target": COUNTED}, {"target": COUNTED, "weight": WEIGHT[:3]})
        ),
        Case("smooth_l1_loss", [(4,), (4,)], {"beta": 0.0}),
        Case("nll_loss", [(1, 3, 2, 3)], {}, {"target": PIXELS}),
        Case("nll_loss", [(1, 4)], {}, {"target": np.array([3]), "weight": WEIGHT}),
        Case("cross_entropy", [(5, 4)], {"reduction": "none"}, {"target": LABELS}, domain="wide"),
        Case("cross_entropy", [(5, 4)], {}, {"target": LABELS, "weight": WEIGHT}, domain="far"),
        Case(
            "binary_cross_entropy_with_logits",
            [(6,)],
            {"reduction": "none"},
            target,
            domain="wide",
        ),
        Case("mse_loss", [(4,), (4,)], domain="wide"),
        Case("mse_loss", [(1,), (1,)]),
    ]


LOSS = [
    case
    for reduction in ("mean", "sum", "none")
    for make in (_of_labels, _of_probabilities, _of_numbers)
    for case in make(reduction)
] + _once()
