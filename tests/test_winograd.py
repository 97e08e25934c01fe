"""Winograd's tiles against columns: over drawn geometries, within a stated bound, where chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minidl import Tensor
from minidl import functional as F
from minidl.backends import Windows, backend_for, convolution
from minidl.backends.cpu import winograd

BACKEND = backend_for("cpu")
BOUND = 8e-6
"""Largest error of float32, relative to the largest result. Measured: up to 4e-6."""


def drawn(*shape: int, seed: int) -> np.ndarray:
    """Random float32 numbers with channels last in memory, as most images have them."""
    last = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(last, 1, -1)).transpose(0, 3, 1, 2)


@st.composite
def geometries(draw):
    sides = {side: draw(st.integers(0, 2)) for side in ("top", "bottom", "left", "right")}
    windows = Windows(draw(st.integers(1, 14)), draw(st.integers(1, 14)), 3, 3, **sides)
    assume(windows.padded_h >= 3)
    assume(windows.padded_w >= 3)
    return windows


def largest_error(found: np.ndarray, exact: np.ndarray) -> float:
    assert found.shape == exact.shape
    assert found.dtype == np.float32
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def exactly(function, *arrays, **options):
    return function(BACKEND, *(np.asarray(a, np.float64) for a in arrays), **options)


def error(found, function, *arrays, **options):
    """Return the largest error, relative to the largest sum of absolute products."""
    sizes = exactly(function, *map(np.abs, arrays), **options)
    exact = exactly(function, *arrays, **options)
    return largest_error(found, exact) * float(np.abs(exact).max() / sizes.max())


@given(geometries(), st.integers(1, 3), st.integers(1, 20), st.integers(1, 20))
def test_all_three_maps_equal_columns(windows, n, c, d):
    images, weight = drawn(n, c, windows.in_h, windows.in_w, seed=0), drawn(d, c, 3, 3, seed=1)
    gradient = drawn(n, d, windows.out_h, windows.out_w, seed=2)
    bias = drawn(d, 1, 1, 1, seed=3).reshape(d)
    geometry = {"windows": windows, "groups": 1}
    out = winograd.convolve(BACKEND, images, weight, bias, windows)
    assert error(out, convolution.convolve, images, weight, bias, **geometry) < BOUND
    slopes = winograd.transpose_convolve(BACKEND, gradient, weight, windows)
    assert error(slopes, convolution.transpose_convolve, gradient, weight, **geometry) < BOUND
    slopes = winograd.weight_gradient(BACKEND, images, gradient, windows)
    assert error(slopes, convolution.weight_gradient, images, gradient, **geometry) < BOUND


@pytest.mark.parametrize("channels_last", [True, False])
def test_many_channels_stay_within_the_bound_through_the_public_function(channels_last):
    x, weight, bias = drawn(2, 128, 16, 16, seed=0), drawn(96, 128, 3, 3, seed=1), np.ones(96)
    if not channels_last:
        x = np.ascontiguousarray(x)
    windows = Windows(16, 16, 3, 3, top=1, bottom=1, left=1, right=1)
    assert winograd.suits(windows, 1, 128, 96, np.dtype(np.float32))
    found, exact = ([Tensor(a, t, requires_grad=True) for a in (x, weight, bias)] for t in "fd")
    g = drawn(2, 96, 16, 16, seed=2)
    for tensors, dtype in ((found, "f"), (exact, "d")):
        out = F.conv2d(*tensors, padding=1)
        out.backward(Tensor(g, dtype))
        tensors.append(out)
    for mine, wanted in zip(found[:3], exact[:3], strict=True):
        assert largest_error(mine.grad.numpy(), wanted.grad.numpy()) < BOUND
    assert largest_error(found[3].numpy(), exact[3].numpy()) < BOUND


def test_the_transforms_are_exact_for_polynomials():
    """F(4, 3) of sequences: four outputs of a kernel of three, from six numbers."""
    for outputs, taps in ((4, 3), (3, 4)):
        a, g, b = (m.astype(np.float64) for m in winograd.transforms(outputs, taps))
        rng = np.random.default_rng(0)
        sequence, kernel = rng.normal(size=6), rng.normal(size=taps)
        found = a @ ((g @ kernel) * (b @ sequence))
        for i in range(outputs):
            assert found[i] == pytest.approx(sequence[i : i + taps] @ kernel, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "groups", "channels", "dtype"),
    [
        ({}, 1, 3, "f"),
        ({}, 1, 64, "f"),
        ({}, 2, 96, "f"),
        ({}, 1, 96, "d"),
        ({"stride_h": 2}, 1, 96, "f"),
        ({"dilation_w": 2}, 1, 96, "f"),
        ({"k_w": 5}, 1, 96, "f"),
        ({"top": 3}, 1, 96, "f"),
        ({"in_h": 3, "in_w": 3}, 1, 96, "f"),
    ],
)
def test_other_convolutions_are_left_to_columns(change, groups, channels, dtype):
    plain = {"in_h": 18, "in_w": 18, "k_h": 3, "k_w": 3}
    assert winograd.suits(Windows(**plain), 1, 96, 64, np.dtype("f"))
    assert not winograd.suits(Windows(**plain | change), groups, channels, 64, np.dtype(dtype))


def test_from_64_channels_to_64_only_the_gradient_of_the_weights_is_found_in_tiles():
    windows, kind = Windows(18, 18, 3, 3), np.dtype("f")
    assert winograd.suits(windows, 1, 64, 64, kind, weights=True)
    assert not winograd.suits(windows, 1, 64, 63, kind, weights=True)
