"""Cases of Tensor's methods and of the functions of arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .case import Case


def _arithmetic() -> list[Case]:
    pairs: list[list[tuple[int, ...]]] = [
        [(3, 4), (3, 4)],
        [(3, 4), (4,)],
        [(3, 1), (1, 4)],
        [(2, 1, 3), (4, 1)],
        [(), (2, 3)],
    ]
    cases = []
    for op in ("__add__", "__sub__", "__mul__"):
        cases += [Case(op, shapes, second=shapes == pairs[2]) for shapes in pairs]
    cases += [Case("__truediv__", s, domain="positive", second=s in pairs[:3]) for s in pairs]
    of_numbers: list[tuple[str, float]] = [
        ("__add__", 2.0),
        ("__sub__", 0.5),
        ("__rsub__", 2.0),
        ("__mul__", -3.0),
        ("__truediv__", 4.0),
        ("__rtruediv__", 3.0),
    ]
    cases += [Case(op, [(5,)], arguments=(n,), domain="positive") for op, n in of_numbers]
    return [*cases, Case("__neg__", [(2, 3)])]


def _powers() -> list[Case]:
    shapes: list[list[tuple[int, ...]]] = [[(3, 4), (3, 4)], [(3, 1), (4,)], [(), (3,)]]
    cases = [Case("__pow__", s, domain="positive", second=True) for s in shapes]
    cases.append(Case("__pow__", [(4, 5), (4, 5)], domain="counts"))  # 0**0, 0**1, 0**2
    # A whole 2 is a product inside; negative bases have whole powers only.
    cases += [Case("__pow__", [(5,)], arguments=(n,), second=True) for n in (2, 2.0, 3, 1, -1)]
    cases += [Case("__pow__", [(5,)], arguments=(n,), domain="positive") for n in (0.5, -1.5)]
    cases += [Case("__pow__", [(5,)], arguments=(n,), domain="whole") for n in (0, 1, 4.0)]
    return [*cases, Case("__rpow__", [(5,)], arguments=(2.5,), second=True)]


def _products() -> list[Case]:
    pairs: list[list[tuple[int, ...]]] = [
        [(2, 3), (3, 4)],
        [(3,), (3,)],
        [(2, 3), (3,)],
        [(3,), (3, 4)],
        [(1, 3), (3, 1)],
        [(2, 3, 4), (2, 4, 2)],
        [(2, 3, 4), (4, 2)],
        [(2, 3), (4, 3, 2)],
        [(2, 3, 4), (4,)],
        [(4,), (2, 4, 3)],
        [(2, 1, 2, 3), (3, 3, 2)],  # stacks that broadcast both ways
        [(1, 2, 3), (2, 3, 1)],
    ]
    second = (0, 2, 3, 5, 10)
    cases = [Case("__matmul__", shapes, second=i in second) for i, shapes in enumerate(pairs)]
    return [*cases, Case("__rmatmul__", [(3, 2), (2, 3)])]  # the second times the first


def _of_one_element() -> list[Case]:
    smooth = [("exp", "normal"), ("log", "positive"), ("sqrt", "positive"), ("tanh", "normal")]
    smooth += [("sin", "normal"), ("cos", "normal"), ("erf", "normal"), ("erf", "wide")]
    cases = [Case(op, [(3, 4)], domain=domain, second=True) for op, domain in smooth]
    cases += [Case("tanh", [(3, 4)], domain="wide"), Case("abs", [(3, 4)])]
    cases.append(Case("abs", [(3, 4)], domain="whole"))  # the slope at 0 is 0
    limits: list[dict[str, float]] = [{"low": -0.5}, {"high": 0.5}, {"low": -0.5, "high": 1.0}]
    cases += [Case("clip", [(3, 4)], options) for options in limits]
    # Elements that are at a limit pass their gradient.
    return [*cases, Case("clip", [(3, 4)], {"low": -1.0, "high": 1.0}, domain="whole")]


def _reductions() -> list[Case]:
    axes: list[dict[str, Any]] = [
        {},
        {"axis": 0},
        {"axis": -1},
        {"axis": (0, 2)},
        {"axis": (-1, 1), "keepdims": True},
        {"axis": 1, "keepdims": True},
        {"keepdims": True},
    ]
    shape = [(2, 3, 4)]
    cases = [Case(op, shape, options) for op in ("sum", "mean") for options in axes]
    cases += [Case("var", shape, options, second=True) for options in axes]
    cases += [Case("var", shape, {"ddof": 1}, second=True)]
    cases += [Case("var", shape, {"axis": (0, 2), "ddof": 1, "keepdims": True})]
    cases += [Case("var", [(3, 4)], {"axis": 1}, domain="far")]  # where E[x**2] - E[x]**2 cancels
    cases += [Case("std", shape, options, second=True) for options in axes[2:5]]
    cases.append(Case("std", shape, {"axis": 1, "ddof": 1}))
    cases += [Case("norm", shape, options, second=True) for options in axes[:5]]
    cases += [Case("norm", shape, {"p": p, "axis": (0, 2)}) for p in (1, 1.5, 3, math.inf)]
    cases += [Case("norm", shape, {"p": p}, domain="whole") for p in (1, 3, math.inf)]
    cases.append(Case("norm", [(2, 0)]))
    for op in ("max", "min"):
        cases += [Case(op, shape, options, domain="distinct") for options in axes]
        # Equal ones share the gradient evenly, as with torch.amax.
        cases += [Case(op, shape, options, domain="whole") for options in axes[:4]]
    return cases


def _shapes() -> list[Case]:
    grid: list[tuple[str, tuple[int, ...], tuple[Any, ...]]] = [
        ("reshape", (4, 6), (-1,)),
        ("reshape", (4, 6), (3, -1, 2)),
        ("reshape", (1,), ((),)),
        ("flatten", (2, 3, 2), ()),
        ("flatten", (2, 3, 2), (1,)),
        ("flatten", (2, 3, 2), (-2,)),
        ("transpose", (2, 3, 4), ()),
        ("transpose", (2, 3, 4), (2, 0, 1)),  # its inverse is another one
        ("transpose", (2, 3, 4), (0, -1, 1)),
        ("swapped", (2, 3, 4), ()),
        ("squeeze", (1, 3, 1, 2), ()),
        ("squeeze", (1, 3, 1, 2), (2,)),
        ("squeeze", (1, 3, 2, 1), ((0, -1),)),
        ("expand_dims", (2, 3), (0,)),
        ("expand_dims", (2, 3), (-1,)),
        ("expand_dims", (2, 3), ((0, 2),)),
        ("broadcast_to", (3, 1), ((2, 3, 4),)),
        ("broadcast_to", (4,), ((3, 4),)),
        ("broadcast_to", (), ((2, 3),)),
        ("copy", (2, 3), ()),
    ]
    return [Case(op, [shape], arguments=arguments) for op, shape, arguments in grid]


def _selections() -> list[Case]:
    every, mask = slice(None), [[True, False, True], [False, False, True]]
    vector: list[Any] = [1, slice(1, 4), slice(None, None, 2), slice(None, None, -2), [0, 3, 3, -1]]
    cases = [Case("__getitem__", [(5,)], arguments=(index,)) for index in vector]
    box: list[Any] = [
        1,
        (0, 2, 1),
        (every, slice(0, 2), slice(None, None, -1)),
        (Ellipsis, 1),
        (slice(1, None), None, Ellipsis),
        [1, 1, 0],
        ([0, 1, 1], [2, 0, 0]),
        ([[0], [1]], [2, 0, 2]),  # arrays that broadcast
        (every, [2, 0, 2]),
        (every, [1, 2], [3, 0]),
        ([1, 0], every, [3, 3]),  # apart: the picked axis goes first
        ([1, 0], 2, slice(1, 3)),
        mask,
        (every, [True, False, True]),
        (Ellipsis, [False, True, True, False]),
    ]
    repeated = box[5:8]  # elements picked several times get the sum of their gradients
    cases += [Case("__getitem__", [(2, 3, 4)], arguments=(i,), second=i in repeated) for i in box]
    grid = np.array([[True, False, True, False], [False, False, True, True]])
    return [
        *cases,
        Case("where", [(2, 4), (2, 4)], constants={"condition": grid}),
        Case("where", [(2, 1), (4,)], constants={"condition": grid}),
        Case("where", [(3, 2, 4), ()], constants={"condition": grid}),
        Case("where", [(4,)], constants={"condition": grid}, arguments=(0.5,)),
    ]


def _larger_ones() -> list[Case]:
    cases = []
    for op in ("maximum", "minimum"):
        cases += [
            Case(op, [(3, 4), (3, 4)]),
            Case(op, [(3, 1), (2, 1, 4)]),
            Case(op, [(3, 4), (3, 4)], domain="whole"),  # equal ones get half each
            Case(op, [(3, 4)], arguments=(0.25,)),
        ]
    return cases


def _joining() -> list[Case]:
    some = [(2, 1, 3), (2, 2, 3), (2, 3, 3)]
    pads: list[tuple[tuple[int, ...], dict[str, Any]]] = [
        ((3,), {"widths": [(2, 1)]}),
        ((2, 3), {"widths": [(0, 1), (2, 0)]}),
        ((2, 1, 3), {"widths": [(1, 0), (0, 2), (1, 1)], "value": -1.5}),
    ]
    return [
        Case("concatenate", [(2, 3), (1, 3)]),
        Case("concatenate", some, {"axis": 1}),
        Case("concatenate", [(2, 3), (2, 1)], {"axis": -1}),
        *[Case("stack", [(2, 3)] * 3, {"axis": axis}) for axis in (0, 1, -1)],
        *[Case("pad", [shape], options) for shape, options in pads],
    ]


def _running() -> list[Case]:
    axes: list[dict[str, Any]] = [{}, {"axis": 1}, {"axis": (0, -1), "keepdims": True}]
    cases = [Case("prod", [(2, 3, 4)], options, domain="positive", second=True) for options in axes]
    # Zeros among the factors: one, several or none of them.
    cases += [Case("prod", [(6, 4)], {"axis": 1}, domain="whole", second=True)]
    cases += [Case("cumsum", [(2, 3, 4)], {"axis": axis}, second=True) for axis in (0, 1, -1)]
    return cases


def _ordering() -> list[Case]:
    order: list[dict[str, Any]] = [{"descending": True}, {"axis": 0, "stable": True}, {"axis": 1}]
    some: list[dict[str, Any]] = [
        {"k": 2},
        {"k": 1, "axis": 0, "largest": False},
        {"k": 3, "axis": 1},
        {"k": 2, "axis": 1, "largest": False},
    ]
    cases = [Case("sort", [(2, 3, 4)], o, domain="distinct", second=True) for o in order]
    # Equal ones: whose gradient is whose follows from their order.
    ties: list[dict[str, Any]] = [{"stable": True}, {"stable": True, "descending": True}]
    cases += [Case("sort", [(3, 8)], options, domain="whole") for options in ties]
    return [*cases, *[Case("topk", [(2, 3, 4)], o, domain="distinct", second=True) for o in some]]


def _scattering() -> list[Case]:
    rows = np.array([2, 0, 2, 2])
    grid = np.array([[2, 2, 0], [1, 2, 1]])
    return [
        Case("index_add", [(3, 2), (4, 2)], {"axis": 0}, {"index": rows}, second=True),
        Case("index_add", [(2, 3, 2), (2, 4, 2)], {"axis": 1}, {"index": rows}, second=True),
        Case("index_add", [(2, 3), (2, 4)], {"axis": -1}, {"index": rows}),
        Case("scatter_add", [(2, 3), (2, 3)], {"axis": 1}, {"index": grid}, second=True),
        Case("scatter_add", [(3, 4), (2, 3)], {"axis": 0}, {"index": grid}, second=True),
        Case("scatter_add", [(3, 4), (2, 3)], {"axis": -1}, {"index": grid}),
    ]


def _edges() -> list[Case]:
    sides: list[tuple[tuple[int, ...], list[tuple[int, int]]]] = [
        ((2, 1, 4), [(0, 0), (0, 0), (3, 2)]),
        ((1, 2, 3, 4), [(0, 0), (0, 0), (2, 1), (0, 3)]),
    ]
    return [
        Case("pad", [shape], {"widths": widths, "mode": mode}, second=True)
        for mode in ("reflect", "edge", "wrap")
        for shape, widths in sides
    ]


def _einsum() -> list[Case]:
    grid: list[tuple[str, list[tuple[int, ...]]]] = [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("ij,jk", [(2, 3), (3, 4)]),
        ("bij,bkj->bik", [(2, 3, 4), (2, 2, 4)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 2)]),
        ("i,ij,j->", [(3,), (3, 4), (4,)]),
        ("i,j->ij", [(3,), (4,)]),
        ("ij,ij->ij", [(2, 3), (2, 3)]),
        ("ij,ij->", [(2, 3), (2, 3)]),
        ("ba", [(2, 3)]),  # alphabetical order: the transpose
        ("ijk->ki", [(2, 3, 4)]),
        ("ij,k->k", [(2, 3), (4,)]),  # letters that nothing else has
        ("ii->", [(3, 3)]),
        ("ii->i", [(3, 3)]),
        ("iji,j->i", [(3, 2, 3), (2,)]),
        ("...ij,...jk->...ik", [(2, 1, 2, 3), (3, 3, 2)]),
        ("...i->...", [(2, 3, 4)]),
        ("i...,...i->...", [(3, 2), (2, 3)]),
    ]
    return [Case("einsum", shapes, {"subscripts": s}, second=len(shapes) > 1) for s, shapes in grid]


TENSOR = [
    *_arithmetic(),
    *_powers(),
    *_products(),
    *_of_one_element(),
    *_reductions(),
    *_shapes(),
    *_selections(),
    *_larger_ones(),
    *_joining(),
    *_edges(),
    *_running(),
    *_ordering(),
    *_scattering(),
    *_einsum(),
]
