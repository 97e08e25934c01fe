"""Layers that `Sequential` fuses: they run as one operation, in one pass over memory.

Batch norm, an addition and ReLU are fused wherever they follow each other: see
`functional.fused.Pending`.
"""

from __future__ import annotations

from typing import Any

from minidl import functional as F
from minidl.nn.activation import ReLU
from minidl.nn.convolution import Conv2d
from minidl.nn.module import Module, may_fuse
from minidl.nn.pooling.basic import MaxPool2d


def fused_length(layers: list[Module], x: Any) -> int:
    """Return how many of the first layers can run in one pass over `x`: 1, 2 or 3."""
    if not may_fuse(x):
        return 1
    count = 0
    for layer, kind in zip(layers, (Conv2d, ReLU, MaxPool2d), strict=False):
        own = vars(layer)
        if type(layer) is not kind or "forward" in own or own.get("return_indices"):
            break  # `forward` is an attribute where the user replaced it
        count += 1
    return max(1, count)


def in_one_pass(x: Any, conv: Any, relu: Module, pool: Any = None) -> Any:
    """Return the output of the two or three layers for `x`."""
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    if pool is None:
        return F.conv2d_relu(x, conv.weight, conv.bias, *geometry)
    pooling = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    return F.conv2d_relu_max_pool2d(x, conv.weight, conv.bias, *geometry, *pooling)
