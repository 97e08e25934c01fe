"""Activations as modules, each named after the function of `functional` that it calls."""

from __future__ import annotations

from typing import Literal

from minidl import functional as F
from minidl.nn.module import Module
from minidl.tensor import Tensor


class ReLU(Module):
    """`max(x, 0)`: see `functional.relu`.

    Args:
        inplace: ignored; accepted for compatibility with PyTorch, because results are the same.
    """

    def __init__(self, inplace: bool = False) -> None:
        del inplace

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        # The result of a batch norm that is not computed yet.
        if isinstance(x, Tensor) and hasattr(type(x), "joined_relu"):
            result: Tensor = x.joined_relu()  # type: ignore[attr-defined]
            return result
        return F.relu(x)


class LeakyReLU(Module):
    """`x` where `x > 0`, else `negative_slope * x`: see `functional.leaky_relu`.

    Args:
        negative_slope: slope for x < 0.
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        return F.leaky_relu(x, self.negative_slope)


class GELU(Module):
    """`x * P(Z <= x)` for a standard normal Z: see `functional.gelu`.

    Args:
        approximate: `"none"`, or `"tanh"` for a formula without erf.
    """

    def __init__(self, approximate: Literal["none", "tanh"] = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        return F.gelu(x, self.approximate)


class SiLU(Module):
    """`x * sigmoid(x)`: see `functional.silu`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        return F.silu(x)


class ELU(Module):
    """`x` where `x > 0`, else `alpha * (exp(x) - 1)`: see `functional.elu`.

    Args:
        alpha: the output tends to -alpha for very negative x.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        return F.elu(x, self.alpha)


class Softplus(Module):
    """`log(1 + exp(beta * x)) / beta`: see `functional.softplus`.

    Args:
        beta: `> 0`; the larger, the closer to ReLU.
    """

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        return F.softplus(x, self.beta)


class Sigmoid(Module):
    """`1 / (1 + exp(-x))`: see `functional.sigmoid`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        return F.sigmoid(x)


class Softmax(Module):
    """`exp(x) / sum(exp(x))`: see `functional.softmax`.

    Args:
        axis: the axis along which results sum to 1.
    """

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        return F.softmax(x, self.axis)


class LogSoftmax(Module):
    """`x - log(sum(exp(x)))`: see `functional.log_softmax`.

    Args:
        axis: the axis along which the exponentials of the results sum to 1.
    """

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        return F.log_softmax(x, self.axis)


class Tanh(Module):
    """`(exp(x) - exp(-x)) / (exp(x) + exp(-x))`, between -1 and 1: see `Tensor.tanh`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        return x.tanh()
