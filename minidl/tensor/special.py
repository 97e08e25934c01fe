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
    near, bytes_each = xp.minimum(size, 1), x.dtype.itemsize
    # The last sum of the series is x + 0.13 x, not 1.13 x: a rounding less.
    near = near + near * _polynomial(xp, near * near, _taylor(SERIES[bytes_each]))
    tail = _polynomial(xp, (72 / (3 + size) - 13) / 5, _tail(TAIL_SERIES[bytes_each]))
    values = xp.where(size <= 1, near, 1 - tail * xp.exp(-size * size))
    return xp.copysign(values, x) if out is None else xp.copysign(values, x, out=out)


@functools.cache
def _taylor(terms: int) -> list[float]:
    """Return coefficients, the highest first, of a polynomial in `x**2`: `erf(x) / x - 1`.

    `erf(x) / x = 2 / sqrt(pi) * sum((-1)**n * x**(2 * n) / (n! * (2 * n + 1)))`.
    """
    scale = 2 / math.sqrt(math.pi)
    series = [scale * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(terms)]
    return [*series[:0:-1], scale - 1]


@functools.cache
def _tail(terms: int) -> list[float]:
    """Return the first terms of `TAIL` as coefficients of powers, the highest first."""
    powers = np.polynomial.chebyshev.cheb2poly(TAIL[:terms])  # importing it takes 5 ms
    return [float(c) for c in powers[::-1]]


def _polynomial(xp: Any, x: Array, coefficients: list[float]) -> Array:
    """Evaluate a polynomial by Horner's rule, in place: 2 passes over the memory for each term."""
    total = xp.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        total *= x
        total += c
    return total
