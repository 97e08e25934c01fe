"""`sin`, `cos` and `erf`: digits, ends of the range, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minidl
from minidl import Tensor
from minidl.tensor import special

POINTS = np.concatenate(
    [
        np.random.default_rng(0).uniform(-6.5, 6.5, 4000),
        np.random.default_rng(1).uniform(-1.1, 1.1, 4000),
        10 ** np.random.default_rng(2).uniform(-37, 0, 500),
        np.nextafter([1.0, 1, -1, -1, 6, 6], [0, 2, 0, -2, 0, 7]),
        [0.0, 1, -1, 6, -6, 30, -30, 1e30],
    ]
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=str)
def test_erf_is_right_to_two_units_in_the_last_place(dtype):
    x = POINTS.astype(dtype)
    wanted = np.array([math.erf(v) for v in x.astype(float)])  # of the C library, to one unit
    got = minidl.erf(Tensor(x, dtype)).numpy()
    assert got.dtype == dtype
    units = np.abs(got.astype(float) - wanted) / np.spacing(np.abs(wanted).astype(dtype))
    assert units.max() <= 2
    assert units.mean() < 0.5


@pytest.mark.oracle
def test_erf_has_pytorchs_digits():
    torch = pytest.importorskip("torch")
    wanted = torch.erf(torch.tensor(POINTS)).numpy()
    np.testing.assert_allclose(minidl.erf(Tensor(POINTS, np.float64)).numpy(), wanted, rtol=5e-16)


def test_the_coefficients_of_the_tail_are_computed_again():
    """With 50 digits, as the mean over Chebyshev's nodes of function times polynomial."""
    mpmath = pytest.importorskip("mpmath", reason="mpmath is not installed")
    with mpmath.workdps(50):
        count = 60
        angles = [mpmath.pi * (2 * i + 1) / (2 * count) for i in range(count)]
        places = [72 / (5 * mpmath.cos(angle) + 13) - 3 for angle in angles]
        values = [mpmath.erfc(x) * mpmath.exp(x * x) for x in places]
        for degree, found in enumerate(special.TAIL):
            terms = [v * mpmath.cos(degree * a) for v, a in zip(values, angles, strict=True)]
            wanted = mpmath.fsum(terms) * (2 if degree else 1) / count
            assert abs(found - wanted) < 1e-16 * max(abs(wanted), 1e-3)


def test_erf_at_its_ends(device):
    x = Tensor([math.inf, -math.inf, math.nan, -0.0], np.float64, device, requires_grad=True)
    y = minidl.erf(x)
    y.backward(Tensor(np.ones(4), device=device))
    np.testing.assert_array_equal(y.numpy(), [1, -1, math.nan, 0])
    assert math.copysign(1, y.numpy()[3]) == -1
    np.testing.assert_array_equal(x.grad.numpy()[:2], [0, 0])
    assert x.grad.numpy()[3] == pytest.approx(2 / math.sqrt(math.pi), rel=1e-15)


def test_large_arrays_are_computed_in_slices_of_the_same_numbers():
    x = np.random.default_rng(3).normal(size=(700, 1000)).astype(np.float32)
    whole = minidl.erf(Tensor(x)).numpy()
    parts = [minidl.erf(Tensor(row)).numpy() for row in x[::50]]
    np.testing.assert_array_equal(whole[::50], parts)


@pytest.mark.parametrize("name", ["sin", "cos", "erf"])
def test_integers_become_float32(name, device):
    function = getattr(minidl, name)
    y = function(minidl.arange(3, device=device))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.numpy(), function(Tensor([0.0, 1, 2])).numpy())
    with pytest.raises(TypeError, match=f"{name}: got a ndarray, expected a Tensor"):
        function(np.ones(3))


def test_sine_and_cosine_are_a_circle():
    angles = Tensor(np.linspace(-50, 50, 1001), requires_grad=True)
    squares = minidl.sin(angles) ** 2 + minidl.cos(angles) ** 2
    np.testing.assert_allclose(squares.numpy(), 1, rtol=1e-15)
    squares.sum().backward()
    np.testing.assert_allclose(angles.grad.numpy(), 0, atol=1e-15)
