"""Cases of activations, of the linear map, and of normalisations."""

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


def _batch_norm() -> list[Case]:
    def running() -> dict[str, np.ndarray]:
        return {"running_mean": np.array([0.5, -1, 2]), "running_var": np.array([2, 0.25, 1])}

    batch = [(4, 3), (3,), (3,)]
    images = [(2, 3, 2, 3), (3,), (3,)]
    grid: list[tuple[list[tuple[int, ...]], dict[str, Any]]] = [
        (batch, {}),
        (batch[:1], {}),
        (images, {}),
        (images[:2], {"eps": 0.1}),
        ([(2, 3, 4), (3,), (3,)], {}),
        ([(2, 3, 2, 1, 2)], {"eps": 0.01}),  # of any number of axes
    ]
    cases = [Case("batch_norm", shapes, {"training": True} | o, second=True) for shapes, o in grid]
    cases += [Case("batch_norm", shapes, o, running(), second=True) for shapes, o in grid]
    for momentum in (0.1, 0.0, 1.0, 0.3):
        options = {"training": True, "momentum": momentum}
        cases.append(Case("batch_norm", images, options, running()))
    # Far from 0, where the mean of squares less the square of the mean would be nothing but error.
    options = {"training": True, "momentum": 0.5}
    cases += [Case("batch_norm", x, options, running(), domain="far") for x in (batch[:1], images)]
    block = [*images, images[0]]  # which is added
    cases.append(Case("batch_norm", block, {"training": True}, second=True))
    cases.append(Case("batch_norm", block, {"training": True, "relu": True}, second=True))
    cases.append(Case("batch_norm", block, {"relu": True}, running(), second=True))
    return [*cases, Case("batch_norm", [(2, 3)], {"training": True}, domain="whole")]


def _layer_norm() -> list[Case]:
    grid: list[tuple[list[tuple[int, ...]], dict[str, Any]]] = [
        ([(4, 3), (3,), (3,)], {"normalized_shape": (3,)}),
        ([(4, 3), (3,)], {"normalized_shape": (3,), "eps": 0.1}),
        ([(4, 3)], {"normalized_shape": (4, 3)}),
        ([(2, 2, 3), (2, 3), (2, 3)], {"normalized_shape": (2, 3)}),
        ([(2, 2, 3), (3,), (3,)], {"normalized_shape": (3,)}),
        ([(5,), (5,), (5,)], {"normalized_shape": (5,)}),
    ]
    cases = [Case("layer_norm", shapes, o, second=len(shapes) != 2) for shapes, o in grid]
    return [*cases, Case("layer_norm", [(2, 4)], {"normalized_shape": (4,)}, domain="far")]


def _group_norm() -> list[Case]:
    grid: list[tuple[list[tuple[int, ...]], dict[str, Any]]] = [
        ([(2, 4, 2, 3), (4,), (4,)], {"num_groups": 2}),
        ([(2, 4, 2, 3), (4,)], {"num_groups": 1, "eps": 0.1}),
        ([(2, 4, 2, 3), (4,), (4,)], {"num_groups": 4}),
        ([(3, 6, 2)], {"num_groups": 3}),
        ([(3, 6), (6,), (6,)], {"num_groups": 2}),
    ]
    cases = [Case("group_norm", shapes, o, second=len(shapes) == 3) for shapes, o in grid]
    return [*cases, Case("group_norm", [(2, 4, 3)], {"num_groups": 2}, domain="far")]


ACTIVATION = _element_by_element() + _along_an_axis()
LINEAR = _linear() + _embedding()
NORMALIZATION = _batch_norm() + _layer_norm() + _group_norm()
