"""Pooling of any geometry against literal loops; ties, NaN and infinities as in PyTorch."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minidl import Tensor
from minidl import functional as F

from .helpers import formulas
from .helpers.formulas import as_pair
from .helpers.gradients import check_affine
from .test_convolution import numbers, one_or_pair

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


@settings(max_examples=200)
@given(case=pools(dilated=True), few_values=st.booleans())
def test_max_pool2d_equals_literal_loops(case, few_values, device):
    shape, options = case
    x = numbers(*shape)
    if few_values:  # ties, NaN and infinities
        x = np.random.default_rng(0).choice([0.0, 1.0, 1.0, -INF, -INF, NAN, INF], shape)
    values, places = formulas.winners(x, **options)
    found, indices = F.max_pool2d(Tensor(x, device=device), **options, return_indices=True)
    np.testing.assert_array_equal(found.numpy(), values)
    np.testing.assert_array_equal(indices.numpy(), places)
    assert indices.dtype == np.int64


@given(case=pools(dilated=True))
def test_max_pool2d_sends_each_gradient_to_the_winner(case, device):
    shape, options = case
    x = Tensor(numbers(*shape), device=device, requires_grad=True)
    out = F.max_pool2d(x, **options)
    _, places = formulas.winners(x.numpy(), **options)
    g = numbers(*out.shape, seed=1)
    out.backward(Tensor(g, device=device))
    wanted = np.zeros((*shape[:2], math.prod(shape[2:])))
    for n, c, y, column in np.ndindex(g.shape):
        wanted[n, c, places[n, c, y, column]] += g[n, c, y, column]
    np.testing.assert_allclose(x.grad.numpy(), wanted.reshape(shape), atol=1e-12)


@settings(max_examples=200)
@given(
    case=pools(dilated=False),
    count_include_pad=st.booleans(),
    divisor_override=st.none() | st.integers(1, 5),
)
def test_avg_pool2d_and_its_gradient_equal_literal_loops(
    case, count_include_pad, divisor_override, device
):
    shape, options = case
    options["count_include_pad"] = count_include_pad
    options["divisor_override"] = divisor_override
    check_affine(
        lambda x: F.avg_pool2d(x, **options),
        lambda x: formulas.avg_pool2d(x, **options),
        [numbers(*shape)],
        device,
    )


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
    values, places = formulas.winners(x, (18, 17), (2, 1))
    found, indices = F.max_pool2d(Tensor(x, device=device), (18, 17), (2, 1), return_indices=True)
    np.testing.assert_array_equal(found.numpy(), values)
    np.testing.assert_array_equal(indices.numpy(), places)


def test_ceil_mode_takes_a_window_a_little_larger_than_the_image(device):
    x = Tensor(np.ones((1, 1, 2, 2)), device=device)
    assert F.avg_pool2d(x, 3, 2, ceil_mode=True).numpy().tolist() == [[[[1.0]]]]


def test_a_batch_in_many_slices_equals_its_images_alone():
    """Large enough for the CPU backend to split it among threads."""
    x = numbers(9, 32, 40, 40)
    for pool in (
        lambda x: F.max_pool2d(x, 3, 1, 1),
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    ):
        whole = Tensor(x, requires_grad=True)
        out = pool(whole)
        out.sum().backward()
        for i in range(9):
            one = Tensor(x[i : i + 1], requires_grad=True)
            alone = pool(one)
            alone.sum().backward()
            np.testing.assert_array_equal(out.numpy()[i : i + 1], alone.numpy())
            np.testing.assert_array_equal(whole.grad.numpy()[i : i + 1], one.grad.numpy())
