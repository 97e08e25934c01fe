"""Winograd's tiles and strips against columns: any geometry, within bounds, where chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import minidl
from minidl import Tensor
from minidl import functional as F
from minidl.backends import Windows, backend_for, convolution
from minidl.backends.cpu import winograd
from minidl.backends.cpu.threads import blas

BACKEND = backend_for("cpu")
BOUNDS = {True: 8e-6, False: 4e-6}
"""Largest error of float32 in tiles and in strips, relative to the largest result.

Measured: up to 4e-6 and 3e-6.
"""


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
    assume(winograd.is_plain(windows))
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


@contextmanager
def winograd_wherever_possible() -> Iterator[None]:
    """Use Winograd for few and small images too, for which columns would be faster."""

    suits = winograd.suits
    many = float("inf")  # images, and pixels of each for which columns would do the work

    def whatever_it_costs(windows, groups, c, d, dtype, n, pixels):
        return suits(windows, groups, c, d, dtype, many, many)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "suits", whatever_it_costs)
        yield


def suits(windows, groups, c, d, dtype, n=64, pixels=None):
    pixels = windows.out_h * windows.out_w if pixels is None else pixels
    return winograd.suits(windows, groups, c, d, dtype, n, pixels)


@pytest.mark.parametrize("tiles", [True, False])
@given(geometries(), st.integers(1, 3), st.integers(1, 20), st.integers(1, 20))
def test_all_three_maps_equal_columns(tiles, windows, n, c, d):
    images, weight = drawn(n, c, windows.in_h, windows.in_w, seed=0), drawn(d, c, 3, 3, seed=1)
    gradient = drawn(n, d, windows.out_h, windows.out_w, seed=2)
    bias = drawn(d, 1, 1, 1, seed=3).reshape(d)
    geometry = {"windows": windows, "groups": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "in_tiles", lambda *_: tiles)
        out = winograd.convolve(BACKEND, images, weight, bias, windows)
        dx = winograd.transpose_convolve(BACKEND, gradient, weight, windows)
        dw = winograd.weight_gradient(BACKEND, images, gradient, windows)
    bound = BOUNDS[tiles]
    assert error(out, convolution.convolve, images, weight, bias, **geometry) < bound
    assert error(dx, convolution.transpose_convolve, gradient, weight, **geometry) < bound
    assert error(dw, convolution.weight_gradient, images, gradient, **geometry) < bound


@pytest.mark.parametrize("channels_last", [True, False])
def test_many_channels_stay_within_the_bound_through_the_public_function(channels_last):
    x, weight, bias = drawn(8, 128, 16, 16, seed=0), drawn(96, 128, 3, 3, seed=1), np.ones(96)
    if not channels_last:
        x = np.ascontiguousarray(x)
    windows = Windows(16, 16, 3, 3, top=1, bottom=1, left=1, right=1)
    assert suits(windows, 1, 128, 96, np.dtype(np.float32), n=8)
    assert winograd.in_tiles(windows, 128, 96)
    found, exact = ([Tensor(a, t, requires_grad=True) for a in (x, weight, bias)] for t in "fd")
    g = drawn(8, 96, 16, 16, seed=2)
    for tensors, dtype in ((found, "f"), (exact, "d")):
        out = F.conv2d(*tensors, padding=1)
        out.backward(Tensor(g, dtype))
        tensors.append(out)
    for mine, wanted in zip(found[:3], exact[:3], strict=True):
        assert largest_error(mine.grad.numpy(), wanted.grad.numpy()) < BOUNDS[True]
    assert largest_error(found[3].numpy(), exact[3].numpy()) < BOUNDS[True]


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("c", "tiles"), [(16, False), (128, True)])
def test_slices_of_a_batch_add_up_in_either_memory_order(c, tiles, channels_last):
    images, gradient = drawn(64, c, 32, 32, seed=0), drawn(64, 16, 32, 32, seed=1)
    if not channels_last:
        images = np.ascontiguousarray(images)
    windows = Windows(32, 32, 3, 3, top=1, bottom=1, left=1, right=1)
    assert winograd.in_tiles(windows, c, 16) == tiles
    found = BACKEND.weight_gradient(images, gradient, windows, 1)
    wanted = exactly(convolution.weight_gradient, images, gradient, windows=windows, groups=1)
    assert largest_error(found, wanted) < BOUNDS[tiles]


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
    ("change", "groups", "channels", "kernels"),
    [
        ({}, 2, 16, 16),
        ({}, 2, 96, 96),
        ({"stride_h": 2}, 1, 16, 16),
        ({"stride_h": 2}, 1, 96, 96),
        ({"dilation_w": 2}, 1, 96, 96),
        ({"k_w": 5}, 1, 16, 16),
        ({"top": 3}, 1, 16, 16),
        ({"in_h": 4}, 1, 16, 16),  # two rows of the output, of the four in a tile
        ({"in_h": 7}, 1, 16, 16),
        ({"in_h": 3, "in_w": 3}, 1, 96, 96),
        ({}, 1, 3, 129),
    ],
)
def test_other_convolutions_are_left_to_columns(change, groups, channels, kernels):
    plain = {"in_h": 18, "in_w": 18, "k_h": 3, "k_w": 3}
    for many in (16, 96):
        assert suits(Windows(**plain), 1, many, many, np.dtype("f"))
        assert not suits(Windows(**plain), 1, many, many, np.dtype("d"))
    windows = Windows(**plain | change)
    assert not suits(windows, groups, channels, kernels, np.dtype("f"))


@pytest.mark.parametrize("is_narrow", [False, True])
def test_one_image_does_not_make_up_for_the_transform_of_many_weights(is_narrow, monkeypatch):
    monkeypatch.setattr(blas(), "is_narrow", is_narrow)
    windows = Windows(10, 10, 3, 3)
    assert [suits(windows, 1, 128, 128, np.dtype("f"), n=n) for n in (1, 64)] == [False, True]


def test_columns_work_less_for_the_images_where_the_gradient_is_smaller():
    gradient = Windows(12, 12, 3, 3)  # its 10x10 pixels become 12x12
    pixels = {"n": 64, "pixels": 1.3 * gradient.out_h * gradient.out_w}
    turned = winograd.turned(gradient)
    assert suits(turned, 1, 64, 64, np.dtype("f"), n=64)
    small = Windows(6, 6, 3, 3)  # 4x4 pixels become 6x6, in tiles that cover 8x8
    few = {"n": 64, "pixels": 1.3 * small.out_h * small.out_w}
    assert suits(turned, 1, 64, 64, np.dtype("f"), **pixels)
    assert not suits(winograd.turned(small), 1, 64, 64, np.dtype("f"), **few)


@pytest.mark.parametrize(("is_narrow", "from_"), [(False, 32), (True, 64)])
def test_tiles_are_for_many_channels_where_few_outputs_are_dropped(is_narrow, from_, monkeypatch):
    monkeypatch.setattr(blas(), "is_narrow", is_narrow)
    for c in (16, 24, 32, 64):
        assert winograd.in_tiles(Windows(18, 18, 3, 3), c, c) == (c >= from_)
    assert winograd.in_tiles(Windows(18, 14, 3, 3), from_, from_)
    assert not winograd.in_tiles(Windows(18, 15, 3, 3), 32, 32)  # 13 outputs, in tiles of 16
    assert winograd.in_tiles(Windows(18, 18, 3, 3), 16, 129)  # too many for strips


def test_a_fused_layer_transforms_its_weights_once(monkeypatch):
    """Its slices run on several threads, which may find nothing prepared at the same time."""
    calls, transform = [], winograd._weight_values
    monkeypatch.setattr(
        winograd, "_weight_values", lambda *args: calls.append(args) or transform(*args)
    )
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((64, 32, 18, 18)).astype(np.float32))
    weights = [Tensor(rng.standard_normal((64, 32, 3, 3)).astype(np.float32)) for _ in range(2)]
    found = [F.conv2d_relu_max_pool2d(x, weight).numpy() for weight in weights]
    assert 2 <= len(calls) <= 2 * minidl.get_num_threads()
    for result, weight in zip(found, weights, strict=True):
        expected = F.max_pool2d(F.relu(F.conv2d(x, weight)), 2).numpy()
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
