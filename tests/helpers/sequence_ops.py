"""The rows of attention, recurrent networks and pooling over time, for `op_table`."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import functional as F

from . import sequences
from .op_table import Constant, Draw, Op, case, distinct, numbers

MASK = np.array([[True, True, False, True], [False] * 4])
STEPS = np.array([[True, True], [True, False], [False, False]])


def negative(*shape: int) -> Draw:
    """As `distinct`, but below 0."""
    return Draw(lambda rng, shape: -0.1 - distinct().domain(rng, shape), shape)


def qkv(*leading: int, length: int = 2, keys: int = 3) -> dict[str, Draw]:
    shapes = {"query": (length, 2), "key": (keys, 2), "value": (keys, 1)}
    return {name: numbers(*leading, *shape) for name, shape in shapes.items()}


def cell(gates: int, length: int = 3, n: int = 2, bias: bool = True) -> dict[str, Any]:
    found = {"x": numbers(length, n, 2), "h0": numbers(n, 2)}
    found |= {"c0": numbers(n, 2)} if gates == 4 else {}
    found |= {"weight_ih": numbers(gates * 2, 2), "weight_hh": numbers(gates * 2, 2)}
    names = ("bias_ih", "bias_hh") if bias else ()
    return found | {name: numbers(gates * 2) for name in names}


SEQUENCES = [
    Op(
        "functional.scaled_dot_product_attention",
        F.scaled_dot_product_attention,
        sequences.attention,
        [
            case(**qkv()),
            case(**qkv(2), is_causal=True),
            case(**qkv(1, 2), scale=0.3, attn_mask=np.array([[True, False, True], [False] * 3])),
            case(**qkv(2), attn_mask=Constant([[0.5, -1, 0], [2, -np.inf, 1]])),
            case(query=numbers(2, 1, 2, 2), key=numbers(2, 3, 2), value=numbers(3, 1)),
            case(query=np.full((1, 2, 2), 9.0), key=numbers(1, 3, 2), value=numbers(1, 3, 2)),
            case(**qkv(0)),
            case(**qkv(2, keys=0)),
            case(**qkv(2, length=0)),
        ],
    ),
    Op(
        "functional.gru",
        F.gru,
        sequences.gru,
        [
            case(**cell(3)),
            case(**cell(3), reverse=True),
            case(**cell(3, bias=False), mask=STEPS),
            case(**cell(3), mask=STEPS, reverse=True),
            case(**cell(3, length=1)),
            case(**cell(3, n=0)),
        ],
    ),
    Op(
        "functional.lstm",
        F.lstm,
        sequences.lstm,
        [
            case(**cell(4, 2)),
            case(**cell(4, 2), reverse=True),
            case(**cell(4, bias=False), mask=STEPS),
            case(**cell(4, n=0)),
        ],
    ),
    Op(
        "functional.masked_avg_pool1d",
        F.masked_avg_pool1d,
        sequences.masked_avg_pool1d,
        [case(x=numbers(2, 3, 4), mask=MASK), case(x=numbers(0, 3, 4), mask=MASK[:0])],
    ),
    Op(
        "functional.masked_max_pool1d",
        F.masked_max_pool1d,
        sequences.masked_max_pool1d,
        [
            case(x=distinct(2, 3, 4), mask=MASK),
            case(x=negative(2, 3, 4), mask=MASK),
            case(x=distinct(0, 3, 4), mask=MASK[:0]),
        ],
    ),
    Op(
        "functional.masked_attention_pool1d",
        F.masked_attention_pool1d,
        sequences.masked_attention_pool1d,
        [
            case(x=numbers(2, 3, 4), weight=numbers(3), mask=MASK),
            case(x=numbers(0, 3, 4), weight=numbers(3), mask=MASK[:0]),
        ],
    ),
]
