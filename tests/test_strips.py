"""Strips against columns: over drawn geometries and channels, and where they are chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.backends import Windows, backend_for, convolution
from minidl.backends.cpu import strips

from .test_winograd import drawn, error, exactly, geometries, largest_error

BACKEND = backend_for("cpu")
BOUND = 4e-6
"""Largest error of float32, relative to the largest number of the result. Measured: up to 3e-6."""


@given(geometries(), st.integers(1, 3), st.integers(1, 20), st.integers(1, 20))
def test_all_three_maps_equal_columns(windows, n, c, d):
    images, weight = drawn(n, c, windows.in_h, windows.in_w, seed=0), drawn(d, c, 3, 3, seed=1)
    gradient = drawn(n, d, windows.out_h, windows.out_w, seed=2)
    bias = drawn(d, 1, 1, 1, seed=3).reshape(d)
    geometry = {"windows": windows, "groups": 1}
    out = strips.convolve(BACKEND, images, weight, bias, windows)
    assert error(out, convolution.convolve, images, weight, bias, **geometry) < BOUND
    slopes = strips.transpose_convolve(BACKEND, gradient, weight, windows)
    assert error(slopes, convolution.transpose_convolve, gradient, weight, **geometry) < BOUND
    slopes = strips.weight_gradient(BACKEND, images, gradient, windows)
    assert error(slopes, convolution.weight_gradient, images, gradient, **geometry) < BOUND


@pytest.mark.parametrize("channels_last", [True, False])
def test_slices_of_a_batch_add_up_in_either_memory_order(channels_last):
    images, gradient = drawn(64, 16, 32, 32, seed=0), drawn(64, 16, 32, 32, seed=1)
    if not channels_last:
        images = np.ascontiguousarray(images)
    windows = Windows(32, 32, 3, 3, top=1, bottom=1, left=1, right=1)
    found = BACKEND.weight_gradient(images, gradient, windows, 1)
    wanted = exactly(convolution.weight_gradient, images, gradient, windows=windows, groups=1)
    assert largest_error(found, wanted) < BOUND


@pytest.mark.parametrize(
    ("change", "groups", "channels"),
    [
        ({}, 2, 16),
        ({}, 1, 129),
        ({"in_h": 5}, 1, 16),
        ({"in_h": 7}, 1, 16),
        ({"stride_h": 2}, 1, 16),
        ({"k_w": 5}, 1, 16),
        ({"top": 3}, 1, 16),
    ],
)
def test_other_convolutions_are_left_to_columns(change, groups, channels):
    plain = {"in_h": 18, "in_w": 18, "k_h": 3, "k_w": 3}
    assert strips.suits(Windows(**plain), 1, 16, 32, np.dtype("f"))
    assert not strips.suits(Windows(**plain), 1, 16, 32, np.dtype("d"))
    assert not strips.suits(Windows(**plain | change), groups, channels, 16, np.dtype("f"))
