"""Pooling against literal loops and differences; ties, NaN and infinities as in PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minidl import Tensor
from minidl import functional as F

from . import loops
from .gradients import check_gradients, check_pure
from .test_convolution import as_pair, memory_orders, numbers, one_or_pair

INF, NAN = math.inf, math.nan


def distinct(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers a tenth apart: a small step changes no winner."""
    return np.random.default_rng(seed).permutation(math.prod(shape)).reshape(shape) / 10


@st.composite
def pools(draw, dilated: bool):
    """Draw an image's shape and the geometry of windows that fit on it."""
    kernel, stride = draw(one_or_pair(1, 4)), draw(st.none() | one_or_pair(1, 4))
    dilation = draw(one_or_pair(1, 2)) if dilated else 1
    spans = [d * (k - 1) + 1 for k, d in zip(as_pair(kernel), as_pair(dilation), strict=True)]
    padding = tuple(draw(st.integers(0, span // 2)) for span in spans)
    ceil_mode = draw(st.booleans())
    steps = as_pair(kernel if stride is None else stride)
    sizes = [  # with ceil_mode a window may be larger than the image, by less than a step
        draw(st.integers(max(1, span - 2 * p - (s - 1 if ceil_mode else 0)), span + 4))
        for span, p, s in zip(spans, padding, steps, strict=True)
    ]
    for size, d, p in zip(sizes, as_pair(dilation), padding, strict=True):
        assume(p == 0 or size >= d)
    options = {"kernel_size": kernel, "stride": stride, "padding": padding}
    options["ceil_mode"] = ceil_mode
    if dilated:
        options["dilation"] = dilation
    return (draw(st.integers(0, 2)), draw(st.integers(1, 3)), *sizes), options


def oracle_options(options: dict) -> dict:
    """Say in the oracle's words what the options mean."""
    words = {name: v if isinstance(v, bool) else as_pair(v) for name, v in options.items() if v}
    words["kernel"] = words.pop("kernel_size")
    words.setdefault("stride", words["kernel"])
    return words


@settings(max_examples=150)
@given(case=pools(dilated=True), few_values=st.booleans())
def test_max_pool2d_equals_literal_loops(case, few_values, device):
    shape, options = case
    x = numbers(*shape)
    if few_values:  # ties, NaN and infinities
        x = np.random.default_rng(0).choice([0.0, 1.0, 1.0, -INF, -INF, NAN, INF], shape)
    values, places = loops.max_pool2d(x, **oracle_options(options))
    found, indices = F.max_pool2d(Tensor(x, device=device), **options, return_indices=True)
    np.testing.assert_array_equal(found.numpy(), values)
    np.testing.assert_array_equal(indices.numpy(), places)
    assert indices.dtype == np.int64


@given(case=pools(dilated=True))
def test_max_pool2d_sends_each_gradient_to_the_winner(case, device):
    shape, options = case
    x = Tensor(numbers(*shape), device=device, requires_grad=True)
    out, indices = F.max_pool2d(x, **options, return_indices=True)
    g = numbers(*out.shape, seed=1)
    out.backward(Tensor(g, device=device))
    wanted = np.zeros((*shape[:2], math.prod(shape[2:])))
    for n, c, y, column in np.ndindex(g.shape):
        wanted[n, c, indices.numpy()[n, c, y, column]] += g[n, c, y, column]
    np.testing.assert_allclose(x.grad.numpy(), wanted.reshape(shape), atol=1e-12)


@settings(max_examples=150)
@given(
    case=pools(dilated=False),
    count_include_pad=st.booleans(),
    divisor_override=st.none() | st.integers(1, 5),
)
def test_avg_pool2d_equals_literal_loops(case, count_include_pad, divisor_override, device):
    shape, options = case
    x = numbers(*shape)
    dividing = {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    wanted = loops.avg_pool2d(x, **oracle_options(options), **dividing)
    found = F.avg_pool2d(Tensor(x, device=device), **options, **dividing)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)


@given(case=pools(dilated=False), count_include_pad=st.booleans())
def test_avg_pool2d_gradient_is_its_transpose(case, count_include_pad, device):
    """It is linear: `sum(g * avg(v)) = sum(gradient * v)` for every v."""
    shape, options = case
    x = Tensor(numbers(*shape), device=device, requires_grad=True)
    out = F.avg_pool2d(x, **options, count_include_pad=count_include_pad)
    g, v = numbers(*out.shape, seed=1), numbers(*shape, seed=2)
    out.backward(Tensor(g, device=device))
    literal = {**oracle_options(options), "count_include_pad": count_include_pad}
    wanted = (g * loops.avg_pool2d(v, **literal)).sum()
    assert (x.grad.numpy() * v).sum() == pytest.approx(wanted, abs=1e-10)


def test_global_avg_pool2d_is_the_mean_of_each_channel(device):
    x = numbers(2, 3, 4, 5)
    found = F.global_avg_pool2d(Tensor(x, device=device)).numpy()
    np.testing.assert_allclose(found, x.mean((2, 3)), atol=1e-12)
    kept = F.global_avg_pool2d(Tensor(x, device=device), keepdims=True)
    assert kept.shape == (2, 3, 1, 1)


# Who wins


def winner(window: list[float], device: str = "cpu") -> int:
    x = Tensor(np.array(window).reshape(1, 1, 1, -1), device=device)
    return F.max_pool2d(x, (1, len(window)), return_indices=True)[1].item()


def test_the_first_of_equals_wins(device):
    assert winner([1.0, 3.0, 3.0, 2.0], device) == 1


def test_nan_beats_every_number_and_the_last_nan_the_others(device):
    assert winner([INF, NAN, 1.0, NAN, 5.0], device) == 3


def test_the_first_pixel_wins_where_all_are_minus_infinity(device):
    assert winner([-INF, -INF, -INF], device) == 0


def test_padding_never_wins(device):
    """DeZero pads with 0, which beats an image of -1."""
    x = Tensor(np.full((1, 1, 4, 4), -1.0), device=device, requires_grad=True)
    out = F.max_pool2d(x, 3, 2, 1)
    assert (out.numpy() == -1).all()
    out.sum().backward()
    assert x.grad.numpy().sum() == out.size


def test_no_gradient_is_lost_in_padding_beside_minus_infinity(device):
    x = Tensor(np.full((1, 1, 4, 4), -INF), device=device, requires_grad=True)
    out, places = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert places.numpy().tolist() == [[[[0, 1], [4, 5]]]]
    out.backward(Tensor(np.ones(out.shape), device=device))
    assert x.grad.numpy().sum() == out.size


def test_windows_of_more_than_255_taps_find_their_winners(device):
    x = distinct(1, 1, 20, 18)
    values, places = loops.max_pool2d(x, (18, 17), (2, 1))
    found, indices = F.max_pool2d(Tensor(x, device=device), (18, 17), (2, 1), return_indices=True)
    np.testing.assert_array_equal(found.numpy(), values)
    np.testing.assert_array_equal(indices.numpy(), places)


def test_ceil_mode_takes_a_window_a_little_larger_than_the_image(device):
    x = Tensor(np.ones((1, 1, 2, 2)), device=device)
    assert F.avg_pool2d(x, 3, 2, ceil_mode=True).numpy().tolist() == [[[[1.0]]]]


# Gradients by differences, and purity

POOLS = {
    "max": lambda x: F.max_pool2d(x, 2),
    "max, overlapping and padded": lambda x: F.max_pool2d(x, 3, 1, 1),
    "max, dilated": lambda x: F.max_pool2d(x, 2, (1, 2), dilation=2, ceil_mode=True),
    "average": lambda x: F.avg_pool2d(x, (2, 3)),
    "average, padded": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "average, ceil": lambda x: F.avg_pool2d(x, (1, 2), 3, ceil_mode=True),
    "average, divided by 3": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "global average": F.global_avg_pool2d,
}


@pytest.mark.parametrize("name", POOLS)
def test_pool_gradients_equal_differences(name, device):
    check_gradients(POOLS[name], distinct(1, 2, 4, 5), device=device)


@pytest.mark.parametrize("name", POOLS)
def test_pools_are_pure_and_keep_dtypes(name, device):
    check_pure(POOLS[name], distinct(2, 2, 4, 5), device=device)


@pytest.mark.parametrize("order", ["channels last", "strided", "reversed", "height last"])
@pytest.mark.parametrize("name", POOLS)
def test_memory_order_changes_nothing(name, order):
    x = distinct(2, 3, 4, 5)
    results = []
    for array in (x, memory_orders(x)[order]):
        image = Tensor.wrap(array).requires_grad_()  # wrap keeps the memory as it is
        out = POOLS[name](image)
        (out * out).sum().backward()
        results.append([out.numpy(), image.grad.numpy()])
    for plain, other in zip(*results, strict=True):
        np.testing.assert_allclose(other, plain, atol=1e-12)


@pytest.mark.parametrize("name", POOLS)
def test_an_empty_batch_gives_an_empty_batch(name, device):
    x = Tensor(np.zeros((0, 2, 4, 5)), device=device, requires_grad=True)
    out = POOLS[name](x)
    one = POOLS[name](Tensor(np.zeros((1, 2, 4, 5)), device=device))
    assert out.shape == (0, *one.shape[1:])
    out.sum().backward()
    assert x.grad.shape == x.shape


def test_a_batch_in_many_slices_equals_its_images_alone():
    """Large enough for the CPU backend to split it among threads."""
    x = numbers(9, 32, 40, 40)
    for pool in (POOLS["max, overlapping and padded"], POOLS["average, padded"]):
        whole = Tensor(x, requires_grad=True)
        out = pool(whole)
        out.sum().backward()
        for i in range(9):
            one = Tensor(x[i : i + 1], requires_grad=True)
            alone = pool(one)
            alone.sum().backward()
            np.testing.assert_array_equal(out.numpy()[i : i + 1], alone.numpy())
            np.testing.assert_array_equal(whole.grad.numpy()[i : i + 1], one.grad.numpy())
