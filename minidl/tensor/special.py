"""Sines, cosines and the error function, element by element.

`g` is the gradient of the loss with respect to the output.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from minidl.autograd import Gradients
from minidl.backends import Array, without_underflow
from minidl.tensor.operands import each, kind_of
from minidl.tensor.operations import Tensor, record

SERIES = {4: 11, 8: 19}
"""Terms of the Taylor series of erf that count where abs(x) <= 1, by the bytes of a float."""

TAIL_SERIES = {4: 9, 8: 15}
"""Terms of the series `TAIL` that count."""

LAST = 6.0  # from here on, erf is 1 in float64 too

# Chebyshev's coefficients of exp(x**2) * erfc(x) for 1 <= x <= 6, in u = (72 / (3 + x) - 13) / 5;
# computed with 50 digits. A test computes them again.
TAIL = (
    *(0.23376822188092547, 0.16410196278423408, 0.026097812602892758, 0.003281118531499783),
    *(0.0003134638906524851, 2.046056770846006e-05, 5.776987700182602e-07),
    *(-3.7726446174366106e-08, -4.115662017323819e-09, 2.040121545843181e-11),
    *(2.0708393696186037e-11, 2.3843849434040655e-13, -1.1516152507336692e-13),
    *(-1.4762836958503498e-15, 7.378013084044974e-16),
)


def sin(x: Tensor) -> Tensor:
    """Return sines of angles in radians; the gradient is `g * cos(x)`.

    Example:
        >>> sin(Tensor([0.0, math.pi / 2]))
        Tensor([0., 1.], dtype=float32)
    """
    angles = _floats("sin", x)

    def backward(gradient: Tensor) -> Gradients:
        return (gradient * cos(angles),)

    return record("sin", each("sin", angles), (angles,), backward)


def cos(x: Tensor) -> Tensor:
    """Return cosines of angles in radians; the gradient is `-g * sin(x)`.

    Example:
        >>> cos(Tensor([0.0, math.pi]))
        Tensor([ 1., -1.], dtype=float32)
    """
    angles = _floats("cos", x)

    def backward(gradient: Tensor) -> Gradients:
        return (-gradient * sin(angles),)

    return record("cos", each("cos", angles), (angles,), backward)


@without_underflow
def erf(x: Tensor) -> Tensor:
    """Return the error function: `2 / sqrt(pi)` times the integral of `exp(-t**2)` from 0 to x.

    The gradient is `g * 2 / sqrt(pi) * exp(-x**2)`. NumPy has no erf. Where abs(x) <= 1, this one
    is the Taylor series; beyond, `1 - exp(-x**2) * tail(x)`, where the tail is a Chebyshev series.
    The error is at most two units in the last place. (The series of `gelu` is accurate relative to
    erfc, however small that is, but only to 1e-13.)

    Source: M. Abramowitz and I. Stegun, Handbook of Mathematical Functions (1964), 7.1.5; the tail:
    own computation.

    Example:
        >>> erf(Tensor([0.0, 1.0, 6.0]))
        Tensor([0.        , 0.84270084, 1.        ], dtype=float32)
    """
    given = _floats("erf", x)
    function = functools.partial(_erf, given.backend.xp)

    def backward(gradient: Tensor) -> Gradients:
        near = given.clip(-30.0, 30.0)  # squares of larger float32 values could overflow
        return (gradient * ((-near * near).exp() * (2 / math.sqrt(math.pi))),)

    return record("erf", given.backend.elementwise(function, given.array), (given,), backward)


def _floats(op: str, x: Tensor) -> Tensor:
    """Return integers and bools as float32, floats as they are."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: got a {kind_of(x)}, expected a Tensor")
    return x if x.dtype.kind == "f" else x.to(dtype=np.float32)


def _erf(xp: Any, x: Array, out: Array | None = None) -> Array:
    """Return the error function of an array, written into `out` if given."""
    size = xp.minimum(xp.abs(x), LAST)
    tail = _tail(size) * xp.exp(-size * size)
    values = xp.where(size <= 1, _near_zero(xp.minimum(size, 1)), 1 - tail)
    values = xp.copysign(values, x)
    if out is None:
        return values
    out[...] = values
    return out


def _near_zero(x: Array) -> Array:
    """Return `2 / sqrt(pi) * sum((-1)**n * x**(2 * n + 1) / (n! * (2 * n + 1)))`, 0 <= x <= 1."""
    scale, square = 2 / math.sqrt(math.pi), x * x
    total = 0 * x
    for n in reversed(range(1, SERIES[x.dtype.itemsize])):
        total = (total + scale * (-1) ** n / (math.factorial(n) * (2 * n + 1))) * square
    # The last sum is x + 0.13 x, not 1.13 x: a rounding less.
    return x + x * (total + (scale - 1))


def _tail(x: Array) -> Array:
    """Return `exp(x**2) * erfc(x)` for 1 <= x <= 6, by Clenshaw's recurrence."""
    u = (72 / (3 + x) - 13) / 5
    after, last = 0 * u, 0 * u
    for c in TAIL[TAIL_SERIES[x.dtype.itemsize] - 1 : 0 : -1]:
        after, last = 2 * u * after - last + c, after
    return u * after - last + TAIL[0]
