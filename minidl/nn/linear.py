"""Linear, and the layers used around it: Flatten and Dropout."""

from __future__ import annotations

import math

import numpy as np

from minidl import functional as F
from minidl.checks import check_fraction, check_whole
from minidl.nn import init
from minidl.nn.module import Module, Parameter
from minidl.tensor import Tensor
from minidl.tensor.functions import zeros


def weight_and_bias(
    shape: tuple[int, ...], outputs: int, bias: bool, rng: np.random.Generator | None
) -> tuple[Parameter, Parameter | None]:
    """Draw weights and bias uniformly within `1 / sqrt(fan_in)` of 0, PyTorch's default.

    It is Kaiming's uniform distribution with gain `sqrt(1 / 3)`, which is that of `a=sqrt(5)`.
    """
    weight = Parameter(zeros(shape))
    init.kaiming_uniform_(weight, a=math.sqrt(5), rng=rng)
    if not bias:
        return weight, None
    bound = 1 / math.sqrt(init.fans(weight)[0])
    return weight, Parameter(init.uniform_(zeros(outputs), -bound, bound, rng))


class Linear(Module):
    """`x @ weight.T + bias`: `(..., in_features)` to `(..., out_features)`.

    Args:
        in_features: size of the input's last axis.
        out_features: size of the output's last axis.
        bias: whether to add a bias.
        rng: generator for the initial weights; the seeded stream if None.

    Attributes:
        weight: `(out_features, in_features)`.
        bias: `(out_features,)`, or None.

    Example:
        >>> Linear(3, 2)
        Linear(3, 2)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        check_whole("Linear", 1, in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        shape = (out_features, in_features)
        self.weight, self.bias = weight_and_bias(shape, out_features, bias, rng)

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.linear`."""
        return F.linear(x, self.weight, self.bias)


class Flatten(Module):
    """Merge the axes from `start_axis` on into one: images `(n, c, h, w)` to `(n, c * h * w)`."""

    def __init__(self, start_axis: int = 1) -> None:
        self.start_axis = start_axis

    def forward(self, x: Tensor) -> Tensor:
        """Apply `Tensor.flatten`."""
        return x.flatten(self.start_axis)


class Dropout(Module):
    """In training, set elements to 0 with probability `p`: see `functional.dropout`.

    Args:
        p: `0 <= p <= 1`.
        rng: generator for the masks; the seeded stream if None.
    """

    def __init__(self, p: float = 0.5, rng: np.random.Generator | None = None) -> None:
        check_fraction("Dropout", "p", p)
        self.p = p
        self._rng = rng

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.dropout` in training."""
        return F.dropout(x, self.p, self.training, self._rng)
