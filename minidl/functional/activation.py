"""Activations: the nonlinear functions between linear layers, most of them elementwise.

`g` is the gradient of the loss with respect to the output.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import numpy as np

from minidl.autograd import Gradients
from minidl.backends import Array, without_underflow
from minidl.functional.geometry import check_floats
from minidl.tensor import Tensor, record
from minidl.tensor.functions import where
from minidl.tensor.operands import normal_axes

LIMIT = 30.0  # beyond it erf and tanh are 1 or -1, and squares of float32 values could overflow


def relu(x: Tensor) -> Tensor:
    """Return `max(x, 0)`; the gradient is `g` where `x > 0`, else 0.

    Source: V. Nair and G. Hinton, Rectified Linear Units Improve Restricted Boltzmann Machines
    (2010).

    Example:
        >>> relu(Tensor([-1.0, 0.0, 2.0]))
        Tensor([0., 0., 2.], dtype=float32)
    """
    check_floats("relu", x)

    def backward(gradient: Tensor) -> Gradients:
        return (gated(gradient, x.array),)

    out = x.backend.elementwise(x.backend.xp.maximum, x.array, x.dtype.type(0))
    return record("relu", out, (x,), backward)


@without_underflow
def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Return `x` where `x > 0`, else `negative_slope * x`; `g` is scaled in the same way."""
    check_floats("leaky_relu", x)
    xp = x.backend.xp
    factor = xp.where(x.array > 0, x.dtype.type(1), x.dtype.type(negative_slope))

    def backward(gradient: Tensor) -> Gradients:
        return (gradient * factor,)

    return record("leaky_relu", x.array * factor, (x,), backward)


@without_underflow
def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Return `x` where `x > 0`, else `alpha * (exp(x) - 1)`; its slope there is `alpha * exp(x)`.

    Source: D. Clevert et al., Fast and Accurate Deep Network Learning by Exponential Linear Units
    (2015).
    """
    check_floats("elu", x)
    xp = x.backend.xp
    positive, alpha = x > 0, float(alpha)  # a NumPy float64 would widen float32
    out = xp.where(positive, x.array, alpha * xp.expm1(xp.minimum(x.array, 0)))

    def backward(gradient: Tensor) -> Gradients:
        below = where(positive, 0, x)  # exp of large x would overflow, even if not selected
        return (gradient * where(positive, 1, alpha * below.exp()),)

    return record("elu", out, (x,), backward)


@without_underflow
def sigmoid(x: Tensor) -> Tensor:
    """Return `y = 1 / (1 + exp(-x))`; the gradient is `g * y * (1 - y)`.

    Computed from `exp(-abs(x))`, which never overflows and stays exact for very negative x.
    """
    check_floats("sigmoid", x)
    xp = x.backend.xp
    small = xp.exp(-xp.abs(x.array))
    out = xp.where(x.array >= 0, x.dtype.type(1), small) / (1 + small)

    def backward(gradient: Tensor, output: Tensor) -> Gradients:
        return (gradient * (output * (1 - output)),)

    return record("sigmoid", out, (x,), backward, takes_output=True)


@without_underflow
def softplus(x: Tensor, beta: float = 1.0) -> Tensor:
    """Return `log(1 + exp(beta * x)) / beta`, a smooth ReLU; its slope is `sigmoid(beta * x)`.

    Computed as `max(x, 0) + log1p(exp(-abs(beta * x))) / beta`, exact at both ends, so it needs
    no switch to a straight line for large x.

    Raises:
        ValueError: beta is not positive.
    """
    check_floats("softplus", x)
    if not beta > 0:
        raise ValueError(f"softplus: got beta={beta}, expected a positive number")
    xp, beta = x.backend.xp, float(beta)
    out = xp.maximum(x.array, 0) + xp.log1p(xp.exp(-xp.abs(x.array * beta))) / beta

    def backward(gradient: Tensor) -> Gradients:
        return (gradient * sigmoid(x * beta),)

    return record("softplus", out, (x,), backward)


def silu(x: Tensor) -> Tensor:
    """Return `x * sigmoid(x)`, also called swish.

    Source: P. Ramachandran et al., Searching for Activation Functions (2017).
    """
    check_floats("silu", x)
    return x * sigmoid(x)


def gelu(x: Tensor, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """Return `x * P(Z <= x)` for a standard normal Z: `x / 2 * (1 + erf(x / sqrt(2)))`.

    `approximate="tanh"` is `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))`. Neither form
    is computed as a sum with 1, because small results for negative x would lose digits.

    Raises:
        ValueError: an unknown approximation.

    Source: D. Hendrycks and K. Gimpel, Gaussian Error Linear Units (2016).
    """
    check_floats("gelu", x)
    if approximate == "tanh":
        near = x.clip(-LIMIT, LIMIT)
        inner = math.sqrt(2 / math.pi) * (near + 0.044715 * (near * near * near))
        return x * sigmoid(2 * inner)
    if approximate != "none":
        raise ValueError(f"gelu: got approximate={approximate!r}, expected 'none' or 'tanh'")
    return x * _normal_cdf(x)


@without_underflow
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Return `y = exp(x) / sum(exp(x))` along an axis: positive values that sum to 1.

    The largest x is subtracted first: this leaves the result unchanged and keeps exp from
    overflowing. The gradient is `y * (g - sum(g * y))`.

    Example:
        >>> softmax(Tensor([0.0, 0.0]))
        Tensor([0.5, 0.5], dtype=float32)
    """
    check_floats("softmax", x)
    axes = normal_axes("softmax", x.shape, axis)
    if not x.size:  # an empty array has no maximum
        return x.copy()
    xp = x.backend.xp
    powers = xp.exp(x.array - x.array.max(axis, keepdims=True))

    def backward(gradient: Tensor, output: Tensor) -> Gradients:
        weighted = gradient * output
        return (weighted - output * weighted.sum(axis, keepdims=True),)

    out = powers / x.backend.sum(powers, axes, keepdims=True)
    return record("softmax", out, (x,), backward, takes_output=True)


@without_underflow
def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Return `y = x - log(sum(exp(x)))` along an axis: `log(softmax(x))`, never log(0).

    The gradient is `g - exp(y) * sum(g)`.
    """
    check_floats("log_softmax", x)
    axes = normal_axes("log_softmax", x.shape, axis)
    if not x.size:
        return x.copy()
    xp = x.backend.xp
    shifted = x.array - x.array.max(axis, keepdims=True)
    out = shifted - xp.log(x.backend.sum(xp.exp(shifted), axes, keepdims=True))

    def backward(gradient: Tensor, output: Tensor) -> Gradients:
        return (gradient - output.exp() * gradient.sum(axis, keepdims=True),)

    return record("log_softmax", out, (x,), backward, takes_output=True)


def gated(values: Tensor, x: Array) -> Tensor:
    """Return `values` where the array `x`, of the same shape, is > 0, else 0: its own transpose."""

    def backward(outer: Tensor) -> Gradients:
        return (gated(outer, x),)

    return record("gated", values.backend.gated(values.array, x), (values,), backward)


@without_underflow
def _normal_cdf(x: Tensor) -> Tensor:
    """Return `P(Z <= x)` for a standard normal Z; its slope is `exp(-x**2 / 2) / sqrt(2 * pi)`."""
    xp = x.backend.xp
    size = xp.minimum(xp.abs(x.array) * math.sqrt(0.5), LIMIT)
    t = 2 / (2 + size)  # 1 at x = 0, falling to 0
    tail = 0.5 * _polynomial(t) * xp.exp(-size * size)
    out = xp.where(x.array > 0, 1 - tail, tail)

    def backward(gradient: Tensor) -> Gradients:
        near = x.clip(-2 * LIMIT, 2 * LIMIT)
        return (gradient * ((near * near * -0.5).exp() * math.sqrt(0.5 / math.pi)),)

    return record("normal_cdf", out, (x,), backward)


def _scaled_erfc(t: Any) -> Any:
    """Return `erfc(x) * exp(x**2)` at `x = 2 / t - 2`: a smooth, slowly varying function of t."""
    return np.array([math.erfc(v) * math.exp(v * v) for v in 2 / t - 2])


# NumPy has no erf. This series is fitted once to Python's: the relative error of erfc is at most
# 1e-13 for x <= 26; beyond, the factor exp(-x**2) is 0. Importing np.polynomial takes 5 ms.
@functools.cache
def _coefficients() -> list[float]:
    series = np.polynomial.Chebyshev.interpolate(_scaled_erfc, 30, (1 / 14, 1.0))
    return [float(c) for c in series.coef]


def _polynomial(t: Array) -> Array:
    """Evaluate the fit in the dtype of `t`, by Clenshaw's recurrence."""
    u = (28 * t - 15) / 13  # maps the domain to [-1, 1]
    after, last = 0 * u, 0 * u
    for c in _coefficients()[:0:-1]:
        after, last = 2 * u * after - last + c, after
    return u * after - last + _coefficients()[0]
