"""Cases of convolutions and poolings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .case import Case


def _conv2d() -> list[Case]:
    images, kernels, bias = (2, 2, 5, 4), (3, 2, 3, 2), (3,)
    grid: list[dict[str, Any]] = [
        {},
        {"stride": 2},
        {"stride": (1, 3)},
        {"stride": 4},  # more than the kernel: pixels that no window sees
        {"padding": 1},
        {"padding": (2, 0)},
        {"padding": (3, 2)},  # windows that see nothing but zeros
        {"padding": "same"},
        {"padding": "same", "dilation": (2, 3)},
        {"padding": "valid", "dilation": (1, 2)},
        {"dilation": (2, 1)},
        {"stride": (1, 3), "padding": (2, 1)},
        {"stride": 2, "padding": 2, "dilation": (3, 2)},
    ]
    second = ({}, {"stride": 2, "padding": 2, "dilation": (3, 2)})
    cases = [Case("conv2d", [images, kernels, bias], o, second=o in second) for o in grid]
    four, grouped, depthwise = (2, 4, 4, 3), (6, 2, 2, 3), (4, 1, 3, 2)
    rest: list[tuple[list[tuple[int, ...]], dict[str, Any]]] = [
        ([images, kernels], {}),
        ([four, grouped, (6,)], {"groups": 2}),
        ([four, grouped], {"groups": 2, "stride": (2, 1), "padding": 1, "dilation": (1, 2)}),
        ([four, depthwise, (4,)], {"groups": 4, "padding": 1}),
        ([four, (8, 1, 2, 2), (8,)], {"groups": 4, "stride": 2}),  # two kernels per channel
        ([four, depthwise], {"groups": 4, "padding": "same"}),
        ([images, (3, 2, 1, 1), bias], {}),
        ([images, (3, 2, 1, 1), bias], {"stride": 2}),
        ([images, (3, 2, 2, 2), bias], {"padding": "same"}),  # the odd zero: bottom and right
        ([images, (3, 2, 5, 4), bias], {}),  # one window, the whole image
        ([images, (1, 2, 7, 5), (1,)], {"padding": 1}),  # larger than the image before padding
        ([(1, 2, 5, 4), kernels, bias], {}),
        ([(3, 2, 1, 1), (2, 2, 1, 1), (2,)], {}),
        ([(2, 2, 1, 1), (2, 2, 3, 3), (2,)], {"padding": 1}),
        ([(2, 2, 1, 6), (2, 2, 1, 3), (2,)], {"stride": (1, 2)}),
        ([(2, 1, 6, 3), (2, 1, 4, 1), (2,)], {"dilation": (1, 2), "padding": (1, 0)}),
    ]
    double = [rest[2], rest[8]]
    return cases + [Case("conv2d", shapes, o, second=(shapes, o) in double) for shapes, o in rest]


def _conv1d() -> list[Case]:
    sequences, kernels, bias = (2, 2, 8), (3, 2, 3), (3,)
    grid: list[tuple[list[tuple[int, ...]], dict[str, Any]]] = [
        ([sequences, kernels, bias], {}),
        ([sequences, kernels], {"stride": 2}),
        ([sequences, kernels, bias], {"stride": 5}),
        ([sequences, kernels, bias], {"stride": 2, "padding": 3}),
        ([sequences, kernels, bias], {"padding": "same", "dilation": 2}),
        ([sequences, (3, 2, 4), bias], {"padding": "same"}),
        ([sequences, kernels, bias], {"padding": "valid", "dilation": 3}),
        ([(2, 4, 7), (4, 2, 4), (4,)], {"groups": 2, "padding": 1}),
        ([(2, 3, 7), (6, 1, 2)], {"groups": 3, "stride": 2}),
        ([sequences, (3, 2, 1), bias], {}),
        ([sequences, (3, 2, 8), bias], {}),
        ([(1, 2, 1), kernels, bias], {"padding": 2}),
    ]
    return [Case("conv1d", shapes, o, second="dilation" in o) for shapes, o in grid]


def _conv_transpose2d() -> list[Case]:
    images, kernels, bias = (2, 3, 2, 3), (3, 2, 3, 2), (2,)
    grid: list[dict[str, Any]] = [
        {},
        {"stride": 2},
        {"stride": 4},  # more than the kernel: gaps that get nothing but the bias
        {"padding": 1},
        {"padding": (2, 0), "stride": (3, 1)},
        {"dilation": (1, 3)},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": (3, 2), "output_padding": (2, 0), "dilation": (1, 2)},
    ]
    cases = [
        Case("conv_transpose2d", [images, kernels, bias], o, second=o in (grid[0], grid[7]))
        for o in grid
    ]
    rest: list[tuple[list[tuple[int, ...]], dict[str, Any]]] = [
        ([images, kernels], {}),
        ([(2, 4, 2, 3), (4, 2, 2, 2), (4,)], {"groups": 2, "stride": 2}),
        ([(2, 3, 2, 3), (3, 1, 3, 2), (3,)], {"groups": 3, "padding": 1}),
        ([images, (3, 2, 1, 1), bias], {"stride": 2, "output_padding": (1, 0)}),
        ([(1, 3, 1, 1), kernels, bias], {}),
        ([(1, 3, 1, 4), (3, 2, 1, 3), bias], {"stride": (1, 2), "padding": (0, 1)}),
    ]
    return cases + [Case("conv_transpose2d", shapes, o) for shapes, o in rest]


def _max_pool2d() -> list[Case]:
    images = (2, 2, 5, 6)
    grid: list[dict[str, Any]] = [
        {"kernel_size": 2},
        {"kernel_size": (3, 2)},
        {"kernel_size": (1, 3)},
        {"kernel_size": 3, "stride": 1},
        {"kernel_size": 2, "stride": 1, "padding": 1},
        {"kernel_size": 2, "stride": 3},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": (3, 2), "stride": (2, 3)},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (2, 3), "stride": 2, "padding": (0, 1)},
        {"kernel_size": (2, 3), "stride": 1, "dilation": 2},
        {"kernel_size": 2, "stride": (1, 2), "padding": 1, "dilation": (3, 2)},
        {"kernel_size": 2, "ceil_mode": True},
        {"kernel_size": 4, "ceil_mode": True},
        {"kernel_size": 3, "padding": 1, "ceil_mode": True},
        {"kernel_size": 2, "stride": 3, "ceil_mode": True},
        {"kernel_size": 2, "stride": 2, "dilation": 3, "ceil_mode": True},
        {"kernel_size": (5, 6)},
    ]
    cases = [
        Case("max_pool2d", [images], o, domain="distinct", second="dilation" in o or i in (0, 8))
        for i, o in enumerate(grid)
    ]
    rest: list[tuple[tuple[int, ...], dict[str, Any], str]] = [
        (images, {"kernel_size": 3, "stride": 2, "padding": 1}, "negative"),
        (images, {"kernel_size": 3, "stride": 1}, "whole"),  # of equal pixels the first wins
        (images, {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, "whole"),
        ((1, 1, 2, 3), {"kernel_size": 3, "stride": 2, "ceil_mode": True}, "distinct"),
        ((1, 3, 1, 1), {"kernel_size": 1}, "distinct"),
        ((2, 3, 1, 1), {"kernel_size": 2, "padding": 1}, "negative"),
        ((3, 1, 1, 7), {"kernel_size": (1, 2)}, "distinct"),
    ]
    return cases + [Case("max_pool2d", [shape], o, domain=domain) for shape, o, domain in rest]


def _avg_pool2d() -> list[Case]:
    images = (2, 2, 5, 6)
    grid: list[dict[str, Any]] = [
        {"kernel_size": 2},
        {"kernel_size": (3, 2)},
        {"kernel_size": 3, "stride": 1},
        {"kernel_size": 2, "stride": 3},
        {"kernel_size": (3, 2), "stride": (2, 3)},
        {"kernel_size": (5, 6)},
        {"kernel_size": 1, "stride": (2, 1)},
        {"kernel_size": 2, "padding": 1, "divisor_override": 3},
        {"kernel_size": 4, "stride": 3, "ceil_mode": True, "divisor_override": 1},
    ]
    for include in (True, False):
        for ceil in (True, False):
            counting = {"count_include_pad": include, "ceil_mode": ceil}
            grid.append({"kernel_size": 3, "stride": 2, "padding": 1, **counting})
            grid.append({"kernel_size": (4, 2), "stride": 3, "padding": (2, 1), **counting})
    grid.append({"kernel_size": 4, "ceil_mode": True})
    second = (grid[0], grid[7], grid[9], grid[11])
    cases = [Case("avg_pool2d", [images], o, second=o in second) for o in grid]
    one = {"kernel_size": 2, "padding": 1}
    return [
        *cases,
        Case("avg_pool2d", [(1, 1, 2, 3)], {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
        Case("avg_pool2d", [(1, 3, 1, 1)], one),
        Case("avg_pool2d", [(1, 3, 1, 1)], {**one, "count_include_pad": False}),
        Case("avg_pool2d", [(3, 1, 1, 7)], {"kernel_size": (1, 2)}),
    ]


def _global_avg_pool2d() -> list[Case]:
    grid: list[tuple[tuple[int, ...], dict[str, Any]]] = [
        ((2, 3, 4, 5), {}),
        ((2, 3, 4, 5), {"keepdims": True}),
        ((3, 2, 1, 1), {}),
        ((1, 1, 1, 6), {}),
    ]
    return [Case("global_avg_pool2d", [shape], options) for shape, options in grid]


def _conv2d_relu() -> list[Case]:
    grid: list[tuple[list[tuple[int, ...]], dict[str, Any]]] = [
        ([(2, 2, 5, 4), (3, 2, 2, 3), (3,)], {}),
        ([(2, 2, 5, 4), (3, 2, 2, 3)], {"padding": "same"}),
        ([(1, 4, 5, 6), (4, 2, 3, 3), (4,)], {"groups": 2, "stride": 2, "padding": (2, 1)}),
        ([(1, 1, 6, 6), (2, 1, 2, 2), (2,)], {"dilation": 3, "padding": "valid"}),
    ]
    return [Case("conv2d_relu", shapes, options, second=True) for shapes, options in grid]


def _conv2d_relu_max_pool2d() -> list[Case]:
    images, kernels, bias = (2, 2, 6, 7), (3, 2, 2, 3), (3,)
    grid: list[tuple[list[tuple[int, ...]], dict[str, Any]]] = [
        ([images, kernels, bias], {}),
        ([images, kernels], {"pool_size": (2, 1), "pool_stride": 1}),
        ([images, kernels, bias], {"padding": 1, "pool_size": 3, "pool_stride": 2}),
        ([images, (4, 1, 3, 3), (4,)], {"groups": 2, "pool_padding": 1, "ceil_mode": True}),
        ([images, kernels], {"stride": 2, "padding": "valid", "pool_size": 1}),
        ([images, kernels, bias], {"dilation": 2, "pool_stride": 1, "pool_dilation": 2}),
    ]
    return [
        Case("conv2d_relu_max_pool2d", shapes, o, second=i < 3)
        for i, (shapes, o) in enumerate(grid)
    ]


def _adaptive() -> list[Case]:
    grid: list[tuple[tuple[int, ...], Any]] = [
        ((2, 2, 7, 5), (3, 4)),
        ((2, 2, 7, 5), 1),
        ((1, 2, 7, 5), (7, 5)),
        ((1, 2, 8, 6), (4, 3)),
        ((1, 2, 5, 6), (None, 4)),
        ((3, 1, 1, 7), (1, 3)),
        ((1, 1, 11, 3), (10, 2)),
    ]
    cases = []
    for shape, size in grid:
        options, second = {"output_size": size}, size == (3, 4)
        cases.append(Case("adaptive_avg_pool2d", [shape], options, second=second))
        cases.append(
            Case("adaptive_max_pool2d", [shape], options, domain="distinct", second=second)
        )
    cases.append(
        Case("adaptive_max_pool2d", [(2, 2, 7, 5)], {"output_size": (3, 4)}, domain="whole")
    )
    for size in (1, 3, 4, 8):
        cases.append(Case("adaptive_avg_pool1d", [(2, 2, 8)], {"output_size": size}))
        cases.append(
            Case("adaptive_max_pool1d", [(2, 2, 8)], {"output_size": size}, domain="distinct")
        )
    return cases


def _lp_pool() -> list[Case]:
    cases = []
    for p in (1, 2, 2.5, 3, math.inf):
        domain = "distinct" if p == math.inf else "positive"
        for options in (
            {"kernel_size": 2},
            {"kernel_size": (3, 2), "stride": 1, "ceil_mode": True},
        ):
            options = {"norm_type": p, **options}
            second = p == 3
            cases.append(Case("lp_pool2d", [(2, 2, 5, 4)], options, domain=domain, second=second))
        one = {"norm_type": p, "kernel_size": 3, "stride": 2}
        cases.append(Case("lp_pool1d", [(2, 2, 8)], one, domain=domain))
    ceil = {"norm_type": 2, "kernel_size": 3, "stride": 2, "ceil_mode": True}
    cases.append(Case("lp_pool2d", [(1, 2, 4, 6)], ceil))
    cases.append(Case("lp_pool1d", [(1, 2, 6)], ceil))
    # Windows whose norm is 0 get no gradient.
    cases.append(
        Case("lp_pool2d", [(2, 3, 4, 4)], {"norm_type": 2, "kernel_size": 1}, domain="whole")
    )
    return cases


def _sequences() -> list[Case]:
    grid: list[dict[str, Any]] = [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        {"kernel_size": 4, "stride": 1, "ceil_mode": True},
    ]
    cases = [Case("max_pool1d", [(2, 2, 9)], o, domain="distinct") for o in grid]
    cases += [Case("avg_pool1d", [(2, 2, 9)], o) for o in grid]
    dilated = {"kernel_size": 3, "padding": 1, "dilation": 2}
    cases.append(Case("max_pool1d", [(2, 2, 9)], dilated, domain="negative", second=True))
    cases.append(Case("avg_pool1d", [(2, 2, 9)], {**grid[1], "count_include_pad": False}))
    return cases


def _global() -> list[Case]:
    return [
        Case("global_max_pool2d", [(2, 3, 4, 5)], domain="distinct", second=True),
        Case("global_max_pool2d", [(2, 3, 4, 5)], {"keepdims": True}, domain="whole"),
        Case("global_max_pool1d", [(2, 3, 5)], domain="distinct"),
        Case("global_avg_pool1d", [(2, 3, 5)], {"keepdims": True}),
    ]


def _max_unpool() -> list[Case]:
    two = {"indices": np.array([[[[5, 2], [8, 15]], [[0, 3], [13, 10]]]])}
    three = {"indices": np.array([[[[7, 3, 19]]], [[[1, 14, 0]]]])}
    wide = {"kernel_size": 2, "stride": (2, 3), "padding": (0, 1), "output_size": (3, 7)}
    one = {"indices": np.array([[[0, 3, 6], [1, 2, 5]]])}
    return [
        Case("max_unpool2d", [(1, 2, 2, 2)], {"kernel_size": 2}, two, second=True),
        Case("max_unpool2d", [(2, 1, 1, 3)], wide, three),
        Case("max_unpool1d", [(1, 2, 3)], {"kernel_size": 2, "output_size": (7,)}, one),
    ]


def _fractional() -> list[Case]:
    rng = np.random.default_rng(0)
    grid: list[tuple[tuple[int, ...], dict[str, Any]]] = [
        ((2, 2, 7, 9), {"kernel_size": 2, "output_size": (4, 6)}),
        ((2, 2, 7, 9), {"kernel_size": (3, 1), "output_size": (5, 1)}),
        ((1, 3, 8, 6), {"kernel_size": 2, "output_ratio": (0.5, 0.7)}),
        ((1, 2, 5, 5), {"kernel_size": 3, "output_size": 3}),
    ]
    cases = []
    for shape, options in grid:
        samples = {"_random_samples": np.round(rng.random((*shape[:2], 2)) * 64) / 64 * 0.98}
        cases.append(
            Case("fractional_max_pool2d", [shape], options, samples, domain="distinct", second=True)
        )
    return cases


CONVOLUTION = (
    _conv2d() + _conv1d() + _conv_transpose2d() + _conv2d_relu() + _conv2d_relu_max_pool2d()
)
POOLING = _max_pool2d() + _avg_pool2d() + _global_avg_pool2d()
MORE_POOLING = _adaptive() + _lp_pool() + _sequences() + _global() + _max_unpool() + _fractional()
