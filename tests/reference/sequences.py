"""Cases of attention and recurrent networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from .case import Case

Shapes = list[tuple[int, ...]]


def _attention() -> list[Case]:
    op, some = (
        "scaled_dot_product_attention",
        np.array([[True, False, True, True]] * 2 + [[False] * 4]),
    )
    grid: list[tuple[Shapes, dict[str, Any], dict[str, np.ndarray]]] = [
        ([(2, 3, 2), (2, 4, 2), (2, 4, 3)], {}, {}),
        ([(2, 2, 3, 2), (2, 2, 4, 2), (2, 2, 4, 3)], {"scale": 0.3}, {}),
        ([(1, 3, 2), (1, 3, 2), (1, 3, 1)], {"is_causal": True}, {}),
        ([(1, 3, 2), (1, 4, 2), (1, 4, 3)], {}, {"attn_mask": some}),
        ([(1, 2, 2), (1, 3, 2), (1, 3, 2)], {}, {"attn_mask": np.array([[0.5, -1, 0], [2, 0, 1]])}),
        ([(3, 2), (4, 2), (4, 3)], {}, {}),
    ]
    return [Case(op, shapes, options, masks, second=True) for shapes, options, masks in grid]


def _recurrent(op: str, gates: int) -> list[Case]:
    def shapes(length: int, n: int, features: int, size: int, bias: bool) -> Shapes:
        rows, state = gates * size, [(n, size)] * (2 if gates == 4 else 1)
        weights: Shapes = [(rows, features), (rows, size)]
        return [(length, n, features), *state, *weights, *([(rows,)] * 2 if bias else [])]

    grid = [
        (shapes(4, 3, 2, 3, True), {}),
        (shapes(3, 2, 1, 2, True), {"reverse": True}),
        (shapes(3, 1, 2, 2, False), {}),
        (shapes(1, 2, 2, 1, True), {}),
    ]
    return [Case(op, inputs, options, second=True) for inputs, options in grid]


SEQUENCES = _attention() + _recurrent("gru", 3) + _recurrent("lstm", 4)
