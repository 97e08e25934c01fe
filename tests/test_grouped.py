"""Convolutions in groups: every form agrees with columns of windows, over random geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl
from minidl import Tensor
from minidl import functional as F
from minidl.backends import Backend, Windows, backend_for, convolution
from minidl.backends.cpu import depthwise, grouped, numpy_backend, planar
from minidl.backends.cpu.runs import spread

from .helpers.geometries import drawn, geometries

BACKEND = backend_for("cpu")
GEOMETRIES = geometries(padding=4, both=False)


def compare(form: Any, w: Windows, n: int, groups: int, c: int, d: int, last: bool, flags) -> None:
    """Compare a form's three maps with those by columns; the inputs must not change."""
    with_bias, relu = flags
    images = drawn(n, c * groups, w.in_h, w.in_w, seed=0, channels_last=last)
    weight, bias = drawn(d * groups, c, w.k_h, w.k_w, seed=1), drawn(d * groups, seed=3)
    gradient = drawn(n, d * groups, w.out_h, w.out_w, seed=2, channels_last=last)
    before = [array.copy() for array in (images, weight, gradient)]
    offset = bias if with_bias else None
    for name, arguments, more in (
        ("convolve", (images, weight, offset, w), (relu,)),
        ("transpose_convolve", (gradient, weight, w), ()),
        ("weight_gradient", (images, gradient, w), ()),
    ):
        found = getattr(form, name)(BACKEND, *arguments, *more, groups)
        wanted = getattr(convolution, name)(BACKEND, *arguments, groups, *more)
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-11)
    for array, copy in zip((images, weight, gradient), before, strict=True):
        assert np.array_equal(array, copy)


FLAGS = st.tuples(st.booleans(), st.booleans())


@settings(max_examples=200)
@given(
    GEOMETRIES,
    st.integers(0, 3),
    st.integers(2, 5),
    st.booleans(),
    FLAGS,
    st.integers(1, 90),
)
def test_shifted_products_equal_columns(w, n, groups, last, flags, weights):
    with pytest.MonkeyPatch.context() as patch:  # rows of few values, in several parts
        patch.setattr(depthwise, "WEIGHTS", weights)
        compare(depthwise, w, n, groups, 1, 1, last, flags)


@pytest.mark.parametrize("form", [planar, grouped])
@given(
    GEOMETRIES,
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
    FLAGS,
)
def test_groups_of_several_channels_equal_columns(form, w, n, groups, c, d, last, flags):
    compare(form, w, n, groups, c, d, last, flags)


def test_each_form_has_its_sizes(monkeypatch):
    used = []
    for form in (depthwise, planar, grouped, Backend):
        real = form.convolve
        monkeypatch.setattr(
            form, "convolve", lambda *a, form=form, real=real: used.append(form) or real(*a)
        )
    for c, d, groups, options, form in (
        (6, 6, 6, {}, depthwise),
        (6, 6, 6, {"stride": 2}, depthwise),
        (6, 6, 6, {"dilation": 2}, depthwise),
        (6, 6, 6, {"dilation": 2, "stride": 2}, planar),
        (6, 12, 6, {}, planar),  # two kernels per channel
        (8, 8, 2, {}, planar),
        (32, 32, 2, {}, planar),
        (40, 40, 2, {}, grouped),
        (8, 8, 2, {"stride": 2}, planar),
        (16, 16, 2, {"stride": 2}, Backend),
        (64, 64, 2, {"stride": 2}, Backend),
        (80, 80, 2, {"stride": 2}, grouped),
    ):
        used.clear()
        x, weight = Tensor(drawn(1, c, 9, 9, seed=0)), Tensor(drawn(d, c // groups, 3, 3, seed=1))
        F.conv2d(x, weight, groups=groups, **options)
        assert used[0] is form


GROUPS = {
    "depthwise": (64, 64, 64, 3),
    "depthwise, two kernels per channel": (32, 64, 32, 3),
    "four channels": (64, 64, 16, 3),
    "many channels": (64, 64, 2, 5),
}


@pytest.mark.parametrize("name", GROUPS)
def test_float32_is_kept_accurate_and_independent_of_threads(name):
    c, d, groups, k = GROUPS[name]
    before, found = minidl.get_num_threads(), []
    arrays = [drawn(16, c, 24, 24, seed=0, channels_last=True), drawn(d, c // groups, k, k, seed=1)]
    try:
        for dtype, threads in ((np.float64, 1), (np.float32, 1), (np.float32, 3)):
            minidl.set_num_threads(threads)
            x, weight = (Tensor(a, dtype, requires_grad=True) for a in arrays)
            out = F.conv2d(x, weight, padding=1, groups=groups)
            out.backward(Tensor(drawn(*out.shape, seed=2), dtype))
            found.append([out.numpy(), x.grad.numpy(), weight.grad.numpy()])
    finally:
        minidl.set_num_threads(before)
    for exact, one, three in zip(*found, strict=True):
        assert one.dtype == np.float32
        assert np.array_equal(one, three)
        assert np.abs(one - exact).max() < 1e-5 * np.abs(exact).max()


def test_a_depthwise_convolution_copies_no_windows(monkeypatch):
    """Columns would be nine times as large as the images."""
    x = Tensor(drawn(2, 8, 12, 12, seed=0), requires_grad=True)
    weight = Tensor(drawn(8, 1, 3, 3, seed=1), requires_grad=True)
    for name in ("gather_windows", "scatter_windows"):
        monkeypatch.setattr(numpy_backend.NumpyBackend, name, None)
    F.conv2d(x, weight, padding=1, stride=2, groups=8).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_channels_that_evict_each_other_are_spread_before_they_are_reordered(dtype):
    images = drawn(2, 16, 16, 32, seed=0).astype(dtype)
    apart = spread(images)
    assert apart.strides[1] == images.strides[1] + 16 * images.itemsize
    np.testing.assert_array_equal(apart, images)


@pytest.mark.parametrize(
    "images",
    [
        drawn(2, 16, 16, 31, seed=0),
        drawn(2, 15, 16, 32, seed=0),
        drawn(2, 16, 16, 32, seed=0, channels_last=True),
        drawn(2, 16, 16, 64, seed=0)[..., ::2],
    ],
    ids=["apart", "few", "channels-last", "steps"],
)
def test_other_channels_are_left_where_they_are(images):
    assert spread(images) is images


@pytest.mark.parametrize("groups", [1, 2, 8, 32])
@pytest.mark.parametrize("padding", [0, 1])
def test_the_order_of_channels_in_memory_does_not_change_a_bit(groups, padding):
    first = drawn(3, 32, 32, 32, seed=0).astype(np.float32)
    last = np.ascontiguousarray(first.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    weight = drawn(32, 32 // groups, 3, 3, seed=1).astype(np.float32)
    found = []
    for images in (first, last):
        x, k = Tensor(images, requires_grad=True), Tensor(weight, requires_grad=True)
        y = F.conv2d(x, k, padding=padding, groups=groups)
        seed = drawn(*y.shape, seed=2, channels_last=images is last).astype(np.float32)
        seed = seed if images is last else np.ascontiguousarray(seed)
        y.backward(Tensor(seed))
        found.append((y.numpy(), x.grad.numpy(), k.grad.numpy()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
