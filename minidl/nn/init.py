"""Initial weights, scaled so that signals keep their size through the layers.

All functions fill a tensor in place and return it. They draw on the host, from `rng` or, if it is
None, from the seeded stream. In a weight `(out, in, ...)`, each output has `fan_in = in * taps`
inputs and each input has `fan_out = out * taps` outputs; taps is the number of kernel pixels.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from minidl.backends import Array
from minidl.random import generator, uniform
from minidl.tensor import Tensor

_GAINS = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}


def calculate_gain(nonlinearity: str, negative_slope: float = 0.01) -> float:
    """Return the factor that compensates for an activation's effect on the size of a signal.

    1 for `"linear"` and `"sigmoid"`, 5/3 for `"tanh"`, sqrt(2) for `"relu"`, 3/4 for `"selu"`, and
    `sqrt(2 / (1 + negative_slope**2))` for `"leaky_relu"`.

    Raises:
        ValueError: the name is unknown.
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + negative_slope**2))
    if nonlinearity not in _GAINS:
        names = sorted([*_GAINS, "leaky_relu"])
        raise ValueError(f"calculate_gain: got {nonlinearity!r}, expected one of {names}")
    return _GAINS[nonlinearity]


def constant_(x: Tensor, value: float) -> Tensor:
    """Fill with one value."""
    with x.mutable() as array:
        array[...] = value
    return x


def zeros_(x: Tensor) -> Tensor:
    """Fill with zeros."""
    return constant_(x, 0.0)


def ones_(x: Tensor) -> Tensor:
    """Fill with ones."""
    return constant_(x, 1.0)


def uniform_(
    x: Tensor, low: float = 0.0, high: float = 1.0, rng: np.random.Generator | None = None
) -> Tensor:
    """Fill with values drawn uniformly from `low <= x < high`."""
    return _fill(x, uniform(rng, x.shape, x.dtype, low, high))


def normal_(
    x: Tensor, mean: float = 0.0, std: float = 1.0, rng: np.random.Generator | None = None
) -> Tensor:
    """Fill with values drawn from a normal distribution."""
    return _fill(x, generator(rng).normal(mean, std, x.shape))


def xavier_uniform_(x: Tensor, gain: float = 1.0, rng: np.random.Generator | None = None) -> Tensor:
    """Draw uniformly within `gain * sqrt(6 / (fan_in + fan_out))` of 0.

    Source: X. Glorot and Y. Bengio, Understanding the difficulty of training deep feedforward
    neural networks (2010), equation 16.
    """
    bound = gain * math.sqrt(6 / sum(fans(x)))
    return uniform_(x, -bound, bound, rng)


def xavier_normal_(x: Tensor, gain: float = 1.0, rng: np.random.Generator | None = None) -> Tensor:
    """Draw from a normal distribution with `std = gain * sqrt(2 / (fan_in + fan_out))`."""
    return normal_(x, 0.0, gain * math.sqrt(2 / sum(fans(x))), rng)


def kaiming_uniform_(
    x: Tensor,
    a: float = 0.0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Draw uniformly within `sqrt(3) * std` of 0, with `std = gain / sqrt(fan)`.

    Args:
        x: a weight with at least two axes.
        a: negative slope of the leaky ReLU that follows; 0 for a ReLU.
        mode: `"fan_in"` preserves the size of signals, `"fan_out"` that of gradients.
        nonlinearity: the activation that follows; see `calculate_gain`.
        rng: generator to draw from; the seeded stream if None.

    Source: K. He et al., Delving Deep into Rectifiers (2015), equation 10.
    """
    bound = math.sqrt(3) * _kaiming_std(x, a, mode, nonlinearity)
    return uniform_(x, -bound, bound, rng)


def kaiming_normal_(
    x: Tensor,
    a: float = 0.0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Draw from a normal distribution, `std = gain / sqrt(fan)`; see `kaiming_uniform_`."""
    return normal_(x, 0.0, _kaiming_std(x, a, mode, nonlinearity), rng)


def fans(x: Tensor) -> tuple[int, int]:
    """Return `fan_in` and `fan_out` of a weight `(out, in, ...)`.

    Raises:
        ValueError: it has fewer than two axes.
    """
    if x.ndim < 2:
        raise ValueError(f"init: got shape {x.shape}, expected a weight of shape (out, in, ...)")
    taps = math.prod(x.shape[2:])
    return x.shape[1] * taps, x.shape[0] * taps


def _kaiming_std(x: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"init: got mode={mode!r}, expected 'fan_in' or 'fan_out'")
    fan_in, fan_out = fans(x)
    return calculate_gain(nonlinearity, a) / math.sqrt(fan_in if mode == "fan_in" else fan_out)


def _fill(x: Tensor, values: Array) -> Tensor:
    with x.mutable() as array:
        array[...] = x.backend.from_numpy(values.astype(x.dtype))
    return x
