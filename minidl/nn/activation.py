"""Activations as modules: each calls the function of `functional` that it is named after."""

from __future__ import annotations

from typing import Literal

from minidl import functional as F
from minidl.nn.module import Module
from minidl.tensor import Tensor


class ReLU(Module):
    """Apply `functional.relu`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return F.relu(x)


class LeakyReLU(Module):
    """Apply `functional.leaky_relu`."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return F.leaky_relu(x, self.negative_slope)


class GELU(Module):
    """Apply `functional.gelu`."""

    def __init__(self, approximate: Literal["none", "tanh"] = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return F.gelu(x, self.approximate)


class SiLU(Module):
    """Apply `functional.silu`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return F.silu(x)


class ELU(Module):
    """Apply `functional.elu`."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return F.elu(x, self.alpha)


class Softplus(Module):
    """Apply `functional.softplus`."""

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return F.softplus(x, self.beta)


class Sigmoid(Module):
    """Apply `functional.sigmoid`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return F.sigmoid(x)


class Softmax(Module):
    """Apply `functional.softmax`."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return F.softmax(x, self.axis)


class LogSoftmax(Module):
    """Apply `functional.log_softmax`."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return F.log_softmax(x, self.axis)


class Tanh(Module):
    """Apply `Tensor.tanh`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return x.tanh()
