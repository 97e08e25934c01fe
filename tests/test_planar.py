"""Columns of whole rows, for images of few channels, against columns of windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.backends import Windows, backend_for, convolution
from minidl.backends.cpu import planar

from .helpers.geometries import drawn, geometries

BACKEND = backend_for("cpu")


@given(
    geometries(),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
def test_all_three_maps_equal_columns(windows, n, c, d, channels_last, with_bias):
    images = drawn(n, c, windows.in_h, windows.in_w, seed=0, channels_last=channels_last)
    weight = drawn(d, c, windows.k_h, windows.k_w, seed=1)
    gradient = drawn(n, d, windows.out_h, windows.out_w, seed=2, channels_last=channels_last)
    bias = drawn(d, seed=3) if with_bias else None
    before = [array.copy() for array in (images, weight, gradient)]
    for name, arguments in {
        "convolve": (images, weight, bias),
        "transpose_convolve": (gradient, weight),
        "weight_gradient": (images, gradient),
    }.items():
        found = getattr(planar, name)(BACKEND, *arguments, windows)
        wanted = getattr(convolution, name)(BACKEND, *arguments, windows, 1)
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    for array, copy in zip((images, weight, gradient), before, strict=True):
        assert np.array_equal(array, copy)


def test_it_is_chosen_for_few_channels_only():
    w = Windows(9, 9, 3, 3)
    assert planar.suits(w, 1, 3)
    assert not planar.suits(w, 1, 5)
    assert planar.suits(w, 3, 16)
    assert not planar.suits(w, 3, 17)
    assert not planar.suits(Windows(9, 9, 1, 1), 1, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept_and_the_error_small(dtype):
    windows = Windows(32, 32, 5, 5, top=2, bottom=2, left=2, right=2)
    images, weight = drawn(8, 3, 32, 32, seed=0), drawn(16, 3, 5, 5, seed=1)
    gradient = drawn(8, 16, 32, 32, seed=2, channels_last=True)
    exact = planar.weight_gradient(BACKEND, images, gradient, windows)
    found = planar.weight_gradient(BACKEND, images.astype(dtype), gradient.astype(dtype), windows)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, exact, atol=1e-5 * np.abs(exact).max())
    out = planar.convolve(BACKEND, images.astype(dtype), weight.astype(dtype), None, windows)
    assert out.dtype == dtype
