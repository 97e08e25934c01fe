"""Cases of activations and of the linear map."""

from __future__ import annotations

from typing import Any

import numpy as np

from .case import Case


def _element_by_element() -> list[Case]:
    grid: list[tuple[str, dict[str, Any]]] = [
        ("relu", {}),
        ("leaky_relu", {}),
        ("leaky_relu", {"negative_slope": 0.3}),
        ("leaky_relu", {"negative_slope": -0.5}),
        ("elu", {}),
        ("elu", {"alpha": 0.5}),
        ("elu", {"alpha": 2.5}),
        ("sigmoid", {}),
        ("softplus", {}),
        ("softplus", {"beta": 2.0}),
        ("softplus", {"beta": 0.25}),
        ("silu", {}),
        ("gelu", {}),
        ("gelu", {"approximate": "tanh"}),
    ]
    cases = [Case(op, [(3, 4)], options, second=True) for op, options in grid]
    cases += [Case(op, [(3, 4)], options, domain="wide") for op, options in grid]
    # The slope at 0 is a choice, where there is a corner.
    corners = [(op, o) for op, o in grid if op in ("relu", "leaky_relu", "elu")]
    return cases + [Case(op, [(2, 4)], options, domain="whole") for op, options in corners]


def _along_an_axis() -> list[Case]:
    grid: list[tuple[tuple[int, ...], int]] = [
        ((5,), 0),
        ((3, 4), 0),
        ((3, 4), -1),
        ((2, 3, 4), 1),
        ((2, 3, 4), -3),
        ((2, 3, 2, 2), 1),
        ((2, 3, 2, 2), -1),
        ((4, 1), 1),  # of one score, which is certain
    ]
    cases = []
    for op in ("softmax", "log_softmax"):
        for shape, axis in grid:
            second = (shape, axis) in (((3, 4), 0), ((2, 3, 4), 1))
            cases.append(Case(op, [shape], {"axis": axis}, second=second))
        cases += [Case(op, [(3, 4)], {"axis": 1}, domain=domain) for domain in ("wide", "far")]
        cases.append(Case(op, [(3, 4)], domain="whole"))  # without axis: the last
    return cases


def _embedding() -> list[Case]:
    words = {"indices": np.array([[3, 0, 3], [1, 3, 0]])}
    cases = [Case("embedding", [(4, 3)], {}, words, second=True)]
    cases += [Case("embedding", [(4, 3)], {"padding_idx": i}, words) for i in (0, 3, -1)]
    return [*cases, Case("embedding", [(4, 3)], {}, {"indices": np.array(2)})]


def _linear() -> list[Case]:
    grid = [
        [(4, 3), (2, 3), (2,)],
        [(4, 3), (2, 3)],
        [(2, 4, 3), (2, 3), (2,)],
        [(2, 1, 2, 3), (2, 3)],
        [(3,), (2, 3), (2,)],
        [(3,), (2, 3)],
        [(1, 3), (2, 3), (2,)],
        [(4, 1), (1, 1), (1,)],
    ]
    return [Case("linear", shapes, second=len(shapes[0]) == 3) for shapes in grid]


ACTIVATION = _element_by_element() + _along_an_axis()
LINEAR = _linear() + _embedding()
