"""Every kind of pooling of any geometry against literal loops; what is drawn; the table."""

from __future__ import annotations

import inspect
import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl
from minidl import Tensor, gradcheck, nn
from minidl import functional as F
from minidl.backends import Windows, backend_for, large
from minidl.functional.pooling import basic as pooling
from minidl.functional.pooling import regions, scaled
from minidl.functional.pooling.regions import Regions, Spans

from .helpers import formulas, pools
from .helpers.formulas import as_pair
from .helpers.gradients import check_affine
from .helpers.public import public_names
from .test_convolution import numbers, one_or_pair
from .test_pooling import distinct
from .test_pooling import pools as geometry

INF, NAN = math.inf, math.nan
FEW = [0.0, 1.0, 1.0, -INF, -INF, NAN, INF]  # ties, NaN and infinities


def draw_of(values: list[float], shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).choice(values, shape)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 2, shape)


# Any geometry ---------------------------------------------------------------------------------


@st.composite
def resized(draw):
    """Draw an image's shape and an output size, smaller or larger."""
    sizes = [draw(st.integers(1, 9)) for _ in range(2)]
    outs = tuple(draw(st.none() | st.integers(1, 12)) for _ in sizes)
    if outs[0] is not None and draw(st.booleans()):
        outs = outs[0]
    return (draw(st.integers(0, 2)), draw(st.integers(1, 3)), *sizes), outs


@settings(max_examples=100)
@given(case=resized(), few_values=st.booleans())
def test_adaptive_max_pool2d_equals_literal_loops(case, few_values, device):
    shape, size = case
    x = draw_of(FEW, shape) if few_values else numbers(*shape)
    values, places = pools.adaptive_places(x, size)
    found, indices = F.adaptive_max_pool2d(Tensor(x, device=device), size, return_indices=True)
    np.testing.assert_array_equal(found.numpy(), values)
    np.testing.assert_array_equal(indices.numpy(), places)
    assert indices.dtype == np.int64


@settings(max_examples=100)
@given(case=resized())
def test_adaptive_max_pool2d_sends_each_gradient_to_the_winner(case, device):
    shape, size = case
    x = Tensor(numbers(*shape), device=device, requires_grad=True)
    out = F.adaptive_max_pool2d(x, size)
    _, places = pools.adaptive_places(x.numpy(), size)
    g = numbers(*out.shape, seed=1)
    out.backward(Tensor(g, device=device))
    wanted = np.zeros((*shape[:2], math.prod(shape[2:])))
    for n, c, y, z in np.ndindex(g.shape):
        wanted[n, c, places[n, c, y, z]] += g[n, c, y, z]
    np.testing.assert_allclose(x.grad.numpy(), wanted.reshape(shape), atol=1e-12)


@settings(max_examples=100)
@given(case=resized())
def test_adaptive_avg_pool2d_and_its_gradient_equal_literal_loops(case, device):
    shape, size = case
    check_affine(
        lambda x: F.adaptive_avg_pool2d(x, size),
        lambda x: pools.adaptive_avg_pool2d(x, size),
        [numbers(*shape)],
        device,
    )


@given(case=resized(), levels=st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_pyramids_of_any_levels_equal_literal_loops(case, levels, device):
    shape, _ = case
    x = numbers(*shape)
    for mode in ("max", "avg"):
        found = F.spatial_pyramid_pool2d(Tensor(x, device=device), levels, mode)
        wanted = pools.spatial_pyramid_pool2d(x, levels, mode)
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)
        assert found.shape == (shape[0], shape[1] * sum(k * k for k in levels))


def same_value_and_gradient(fn, literal, x: np.ndarray, device: str) -> None:
    """Compare with a literal loop, and the gradient with the slope of that loop."""
    tensor = Tensor(x, device=device, requires_grad=True)
    found, wanted = fn(tensor), literal(x)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-10, atol=1e-12)
    if not x.size:
        return
    rng = np.random.default_rng(1)
    g, step = rng.normal(size=wanted.shape), 1e-6 * rng.normal(size=x.shape)
    found.backward(Tensor(g, device=device))
    change = (g * (literal(x + step) - literal(x - step))).sum() / 2
    np.testing.assert_allclose((tensor.grad.numpy() * step).sum(), change, rtol=1e-5, atol=1e-12)


@settings(max_examples=60)
@given(case=geometry(dilated=True))
def test_min_pool2d_equals_literal_loops(case, device):
    shape, options = case
    x = distinct(*shape)
    same_value_and_gradient(
        lambda x: F.min_pool2d(x, **options), lambda x: pools.min_pool2d(x, **options), x, device
    )


@settings(max_examples=60)
@given(case=geometry(dilated=False), p=st.sampled_from([1, 1.5, 2, 3.0, INF]))
def test_lp_pool2d_equals_literal_loops(case, p, device):
    shape, options = case
    options = {k: v for k, v in options.items() if k != "padding"}
    options["kernel_size"] = tuple(
        min(k, size) for k, size in zip(as_pair(options["kernel_size"]), shape[2:], strict=True)
    )
    x = 0.5 + distinct(*shape) / distinct(*shape).size
    same_value_and_gradient(
        lambda x: F.lp_pool2d(x, p, **options),
        lambda x: pools.lp_pool2d(x, p, **options),
        x,
        device,
    )


AVERAGES = {
    "mixed": (F.mixed_pool2d, pools.mixed_pool2d, {"alpha": 0.3}),
    "softmax": (F.softmax_pool2d, pools.softmax_pool2d, {"beta": 1.5}),
    "stochastic": (F.stochastic_pool2d, pools.stochastic_pool2d, {"training": False}),
}


@pytest.mark.parametrize("kind", AVERAGES)
@settings(max_examples=60)
@given(case=geometry(dilated=False))
def test_weighted_means_equal_literal_loops(kind, case, device):
    shape, options = case
    fn, literal, more = AVERAGES[kind]
    same_value_and_gradient(
        lambda x: fn(x, **options, **more),
        lambda x: literal(x, **options, **more),
        0.2 + distinct(*shape),
        device,
    )


@settings(max_examples=60)
@given(case=geometry(dilated=False), seed=st.integers(0, 99))
def test_stochastic_pool2d_keeps_what_a_walk_along_the_window_keeps(case, seed, device):
    shape, options = case
    same_value_and_gradient(
        lambda x: F.stochastic_pool2d(x, **options, rng=stream(seed)),
        lambda x: pools.stochastic_pool2d(x, seed, **options),
        0.2 + distinct(*shape),
        device,
    )


@settings(max_examples=60)
@given(case=geometry(dilated=False), one=st.booleans())
def test_gated_pool2d_equals_literal_loops(case, one, device):
    shape, options = case
    spans, padding = as_pair(options["kernel_size"]), options["padding"]
    if any(k > size + 2 * p for k, size, p in zip(spans, shape[2:], padding, strict=True)):
        return  # only ceil_mode, which gates have not, takes such windows
    weight = numbers(1 if one else shape[1], 1, *spans, seed=2) / 5
    geometry = {"stride": options["stride"], "padding": padding}
    same_value_and_gradient(
        lambda x: F.gated_pool2d(x, Tensor(weight, device=device), **geometry),
        lambda x: pools.gated_pool2d(x, weight, **geometry),
        distinct(*shape),
        device,
    )


@settings(max_examples=60)
@given(case=geometry(dilated=False), p=st.sampled_from([1.0, 2.5, 4]))
def test_gem_pool2d_equals_literal_loops(case, p, device):
    shape, options = case
    options.pop("ceil_mode")
    options["kernel_size"] = tuple(
        min(k, size) for k, size in zip(as_pair(options["kernel_size"]), shape[2:], strict=True)
    )
    options["padding"] = tuple(k // 2 for k in options["kernel_size"])
    same_value_and_gradient(
        lambda x: F.gem_pool2d(x, p, **options),
        lambda x: pools.gem_pool2d(x, p, **options),
        positive(*shape),
        device,
    )


@settings(max_examples=60)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    stride=one_or_pair(1, 3),
    filter_size=st.integers(1, 7),
)
def test_blur_pool2d_equals_literal_loops(sizes, stride, filter_size, device):
    sizes = [max(size, filter_size // 2 + 1) for size in sizes]
    check_affine(
        lambda x: F.blur_pool2d(x, stride, filter_size),
        lambda x: pools.blur_pool2d(x, stride, filter_size),
        [numbers(1, 2, *sizes)],
        device,
    )


@settings(max_examples=60)
@given(rest=st.lists(st.integers(1, 3), max_size=3), n=st.integers(0, 2), size=st.integers(1, 3))
def test_channels_of_any_shape_are_pooled_in_groups(rest, n, size, device):
    x = distinct(n, 2 * size, *rest)
    for fn, of in ((F.channel_max_pool, np.max), (F.channel_avg_pool, np.mean)):
        found = fn(Tensor(x, device=device), size)
        np.testing.assert_allclose(found.numpy(), pools.channel_pool(x, size, of), atol=1e-12)


@settings(max_examples=60)
@given(case=geometry(dilated=False))
def test_unpooling_undoes_pooling(case, device):
    """Winners come back to where they were, whatever the windows; all else is 0."""
    shape, options = case
    x = 1 + distinct(*shape)
    if options["ceil_mode"]:  # then sizes are not those of unpooling
        options["ceil_mode"] = False
        spans = as_pair(options["kernel_size"])
        pads = options["padding"]
        if any(s > size + 2 * p for s, size, p in zip(spans, shape[2:], pads, strict=True)):
            return
    kept, places = F.max_pool2d(Tensor(x, device=device), **options, return_indices=True)
    options.pop("ceil_mode")
    back = F.max_unpool2d(kept, places, **options, output_size=shape[2:]).numpy()
    won = np.zeros((*shape[:2], math.prod(shape[2:])), bool)
    for n, c, y, z in np.ndindex(kept.shape):
        won[n, c, places.numpy()[n, c, y, z]] = True
    np.testing.assert_array_equal(back, x * won.reshape(shape))


# Windows of any table -------------------------------------------------------------------------


@st.composite
def spans(draw, size: int, planes: int):
    """Draw windows whose starts and stops grow, for each of `planes`."""
    out = draw(st.integers(1, size))
    rows = []
    for _ in range(planes):
        order = st.lists(st.integers(0, size - 1), min_size=out, max_size=out, unique=True)
        starts = sorted(draw(order))
        stops = []
        for i, start in enumerate(starts):
            least = max(start + 1, stops[-1] + 1 if stops else 0)
            stops.append(draw(st.integers(least, size - (out - 1 - i)))) if least <= size - (
                out - 1 - i
            ) else stops.append(least)
        rows.append((starts, stops))
    return Spans(np.array([a for a, _ in rows]), np.array([b for _, b in rows]))


@st.composite
def tables(draw, shared: bool):
    n, c, h, w = (draw(st.integers(1, top)) for top in (2, 2, 6, 6))
    planes = 1 if shared else n * c
    rows, columns = draw(spans(h, planes)), draw(spans(w, planes))
    return (n, c, h, w), Regions(h, w, rows, columns)


def listed(table: Regions, plane: int) -> list[list[pools.Window]]:
    axes = []
    for each in (table.rows, table.columns):
        row = plane % len(each.starts)
        pairs = zip(each.starts[row], each.stops[row], strict=True)
        axes.append([list(range(a, b)) for a, b in pairs])
    return pools.crossed(*axes)


@settings(max_examples=150)
@given(data=st.data(), shared=st.booleans(), few_values=st.booleans())
def test_winners_of_any_table_equal_literal_loops(data, shared, few_values, device):
    shape, table = data.draw(tables(shared))
    x = draw_of(FEW, shape) if few_values else numbers(*shape)
    backend = backend_for(device)
    best, places = regions.max_regions(backend, backend.from_numpy(x), table)
    values, wanted = pools.winners(x, lambda n, c: listed(table, n * shape[1] + c))
    np.testing.assert_array_equal(backend.to_numpy(best), values)
    np.testing.assert_array_equal(backend.to_numpy(places), wanted)
    apart = (table.rows.apart, table.columns.apart)
    scattered = regions.scatter_places(backend, best, places, shape[2:], apart)
    image = np.zeros((*shape[:2], shape[2] * shape[3]))
    for n, c, y, z in np.ndindex(values.shape):
        image[n, c, wanted[n, c, y, z]] += values[n, c, y, z]
    if not few_values:
        np.testing.assert_allclose(backend.to_numpy(scattered), image.reshape(shape), atol=1e-12)
    looked = regions.gather_places(backend, backend.from_numpy(x), places)
    np.testing.assert_array_equal(backend.to_numpy(looked), values)


@settings(max_examples=100)
@given(data=st.data())
def test_sums_of_any_table_equal_literal_loops(data, device):
    shape, table = data.draw(tables(shared=True))
    x = numbers(*shape)
    backend = backend_for(device)
    total = backend.to_numpy(regions.sum_regions(backend, backend.from_numpy(x), table))
    wanted = pools.pooled(x, listed(table, 0), lambda w, _: w.sum())
    np.testing.assert_allclose(total, wanted, atol=1e-12)
    g = numbers(*total.shape, seed=1)
    image = backend.to_numpy(regions.spread_regions(backend, backend.from_numpy(g), table))
    np.testing.assert_allclose((image * x).sum(), (g * wanted).sum(), atol=1e-10)


def test_windows_that_share_pixels_are_told_apart():
    far = Spans(np.array([[0, 2, 4]]), np.array([[2, 4, 6]]))
    near = Spans(np.array([[0, 1, 2, 3]]), np.array([[3, 4, 5, 6]]))
    assert (far.apart, near.apart) == (1, 3)


def test_more_than_256_taps_find_their_winner(device):
    x = distinct(1, 1, 37, 37)
    values, places = pools.adaptive_places(x, 2)  # windows of 19 by 19
    found, indices = F.adaptive_max_pool2d(Tensor(x, device=device), 2, return_indices=True)
    np.testing.assert_array_equal(found.numpy(), values)
    np.testing.assert_array_equal(indices.numpy(), places)


@pytest.mark.parametrize("taps", [255, 256, 257])
def test_windows_of_many_taps_that_differ_by_plane_find_their_winners(taps, device):
    """The number of a tap, and of taps, fits in a byte or does not."""
    x = distinct(1, 2, 1, taps + 3)
    samples = np.array([[[0.1, 0], [0.7, 0]]])
    windows = pools.fractional_windows(x, (1, taps), (1, 3), samples=samples)
    found, places = F.fractional_max_pool2d(
        Tensor(x, device=device), (1, taps), (1, 3), return_indices=True, _random_samples=samples
    )
    values, wanted = pools.winners(x, windows)
    np.testing.assert_array_equal(found.numpy(), values)
    np.testing.assert_array_equal(places.numpy(), wanted)


def test_a_batch_in_many_slices_equals_its_images_alone():
    """Large enough for the CPU backend to split it among threads."""
    x = numbers(9, 32, 40, 40)
    samples = np.random.default_rng(0).random((9, 32, 2))

    def fractional(x: Tensor, part: slice) -> Tensor:
        return F.fractional_max_pool2d(x, 2, output_ratio=0.7, _random_samples=samples[part])

    for pool in (
        lambda x, _: F.adaptive_max_pool2d(x, 7),
        lambda x, _: F.adaptive_avg_pool2d(x, 7),
        lambda x, _: F.global_max_pool2d(x),
        fractional,
    ):
        whole = Tensor(x, requires_grad=True)
        out = pool(whole, slice(None))
        out.sum().backward()
        for i in range(9):
            one = Tensor(x[i : i + 1], requires_grad=True)
            alone = pool(one, slice(i, i + 1))
            alone.sum().backward()
            np.testing.assert_array_equal(out.numpy()[i : i + 1], alone.numpy())
            np.testing.assert_array_equal(whole.grad.numpy()[i : i + 1], one.grad.numpy())


# Corners --------------------------------------------------------------------------------------


def test_global_max_pool_treats_ties_and_nan_as_max_pooling_does(device):
    x = draw_of(FEW, (4, 5, 3, 4))
    x[0] = -INF
    tensor = Tensor(x, device=device, requires_grad=True)
    out = F.global_max_pool2d(tensor)
    values, places = formulas.winners(x, (3, 4))
    np.testing.assert_array_equal(out.numpy(), values[:, :, 0, 0])
    out.backward(Tensor(np.ones(out.shape), device=device))
    found = tensor.grad.numpy().reshape(4, 5, 12)
    assert (found.argmax(2) == places[:, :, 0, 0]).all()
    assert (found.sum(2) == 1).all()


def test_nan_stays_in_its_own_windows(device):
    x = np.ones((1, 1, 5, 5))
    x[0, 0, 0, 0] = NAN
    x[0, 0, 4, 4] = INF
    for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d):
        out = pool(Tensor(x, device=device), 3).numpy()[0, 0]
        assert np.isnan(out[0, 0])
        assert out[2, 2] == INF
        assert np.isfinite(out[[0, 1, 1, 2], [1, 0, 1, 1]]).all()


def test_a_window_of_norm_0_has_no_gradient(device):
    x = Tensor([[[[0.0, 0.0, 3.0, 4.0]]]], device=device, requires_grad=True)
    out = F.lp_pool2d(x, 2, (1, 2))
    out.sum().backward()
    assert out.numpy().tolist() == [[[[0, 5]]]]
    np.testing.assert_allclose(x.grad.numpy().ravel(), [0, 0, 0.6, 0.8], rtol=1e-6)


def test_softmax_pooling_of_large_numbers_does_not_overflow(device):
    x = Tensor([[[[1000.0, 0.0, -1000.0, -1001.0]]]], device=device)
    out = F.softmax_pool2d(x, (1, 2)).numpy().ravel()
    np.testing.assert_allclose(out, [1000, -1000 - 1 / (1 + math.e)], rtol=1e-6)


def test_limits_of_the_learned_kinds(device):
    x = Tensor(positive(1, 2, 4, 4), device=device)
    mean, largest = F.avg_pool2d(x, 2).numpy(), F.max_pool2d(x, 2).numpy()
    for almost_mean in (
        F.gem_pool2d(x, 1, 2),
        F.mixed_pool2d(x, 2, alpha=0),
        F.softmax_pool2d(x, 2, beta=0),
    ):
        np.testing.assert_allclose(almost_mean.numpy(), mean)
    for almost_max in (
        F.gem_pool2d(x, 500.0, 2),
        F.mixed_pool2d(x, 2, alpha=1),
        F.softmax_pool2d(x, 2, beta=500),
    ):
        np.testing.assert_allclose(almost_max.numpy(), largest, rtol=5e-3)


def test_attention_without_weight_is_the_mean(device):
    x = Tensor(numbers(2, 3, 4, 5), device=device)
    out = F.attention_pool2d(x, minidl.zeros(3, dtype=np.float64, device=device))
    np.testing.assert_allclose(out.numpy(), x.numpy().mean((2, 3)))


def test_blur_changes_less_under_shifts_than_max_pooling_does():
    """What it is for: fine lines that move by a pixel move the output a little, not at once."""
    x = np.zeros((1, 1, 16, 16))
    x[:, :, ::4] = 1
    shifted = [np.roll(x, i, axis=2) for i in range(5)]

    def change(pool) -> float:
        """Return how much a shift by one pixel changes the output on average."""
        outs = [pool(Tensor(image)).numpy() for image in shifted]
        return float(np.mean([np.abs(a - b).mean() for a, b in itertools.pairwise(outs)]))

    assert change(lambda x: F.max_pool2d(x, 2)) == 0.5  # all at once, every other time
    assert change(F.max_blur_pool2d) < 0.35


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_conv_pool2d_is_its_two_steps(mode, device):
    tensors = [numbers(2, 3, 7, 6), numbers(4, 3, 3, 3), numbers(4)]
    once = [Tensor(a, device=device, requires_grad=True) for a in tensors]
    twice = [Tensor(a, device=device, requires_grad=True) for a in tensors]
    pool = F.max_pool2d if mode == "max" else F.avg_pool2d
    out = F.conv_pool2d(*once, (2, 3), 1, mode, stride=(1, 2), padding=1)
    steps = pool(F.conv2d(*twice, stride=(1, 2), padding=1), (2, 3), 1)
    np.testing.assert_array_equal(out.numpy(), steps.numpy())
    for result in (out, steps):
        result.backward(Tensor(numbers(*out.shape, seed=1), device=device))
    for a, b in zip(once, twice, strict=True):
        np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())


def test_of_equal_places_the_last_number_stays_and_both_get_the_gradient():
    x = Tensor([[[[3.0, 5.0]]]], requires_grad=True)
    out = F.max_unpool2d(x, np.array([[[[1, 1]]]]), (1, 2))
    assert out.numpy().tolist() == [[[[0, 5, 0, 0]]]]
    out.backward(Tensor([[[[1.0, 2.0, 3.0, 4.0]]]]))
    assert x.grad.numpy().tolist() == [[[[2, 2]]]]


def test_gradients_of_equal_places_add_up_at_order_two():
    """The gradient `g[index]` is linear in g; what arrives at an index from both is added."""
    x = Tensor([[[[3.0, 5.0]]]], requires_grad=True)
    g = Tensor([[[[1.0, 2.0, 3.0, 4.0]]]], requires_grad=True)
    out = F.max_unpool2d(x, np.array([[[[1, 1]]]]), (1, 2))
    (looked,) = minidl.grad(out, [x], [g], create_graph=True)
    (found,) = minidl.grad((looked * Tensor([[[[10.0, 20.0]]]])).sum(), [g])
    assert found.numpy().tolist() == [[[[0, 30, 0, 0]]]]


def test_unpooling_does_not_look_at_indices_again():
    places = np.array([[[[0, 3]]]])
    x = Tensor([[[[1.0, 2.0]]]], requires_grad=True)
    out = F.max_unpool2d(x, places, (1, 2))
    places[...] = 1
    out.backward(Tensor([[[[1.0, 2.0, 3.0, 4.0]]]]))
    assert x.grad.numpy().tolist() == [[[[1, 4]]]]


# What is drawn --------------------------------------------------------------------------------


def stream(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


DRAWING = {
    "stochastic": lambda x, rng: F.stochastic_pool2d(x, 2, rng=rng),
    "stochastic 1d": lambda x, rng: F.stochastic_pool1d(x.reshape(8, 3, 100), 2, rng=rng),
    "pseudorandom": lambda x, rng: F.fractional_max_pool2d(x, 2, output_ratio=0.7, rng=rng),
    "random": lambda x, rng: F.fractional_max_pool2d(x, output_ratio=0.7, mode="random", rng=rng),
}


@pytest.mark.parametrize("kind", DRAWING)
def test_a_seed_repeats_what_is_drawn(kind, device):
    x = Tensor(positive(8, 3, 10, 10), device=device)
    first = DRAWING[kind](x, stream(0)).numpy()
    np.testing.assert_array_equal(first, DRAWING[kind](x, stream(0)).numpy())
    assert (first != DRAWING[kind](x, stream(1)).numpy()).any()
    np.testing.assert_array_equal(first, DRAWING[kind](x.to("cpu"), stream(0)).numpy())
    minidl.manual_seed(3)
    seeded = DRAWING[kind](x, None).numpy()
    minidl.manual_seed(3)
    np.testing.assert_array_equal(seeded, DRAWING[kind](x, None).numpy())


def test_pixels_are_kept_as_often_as_they_are_large(device):
    """20,000 windows of 1, 2, 3, 4: chi-squared of 3 degrees is above 16.3 once in 1,000 times."""
    x = np.tile(np.array([[1.0, 2], [3, 4]]), (20, 4, 10, 25))
    kept = F.stochastic_pool2d(Tensor(x, device=device), 2, rng=stream(0)).numpy()
    counts = np.array([(kept == v).sum() for v in (1, 2, 3, 4)])
    assert counts.sum() == 20_000
    expected = 20_000 * np.array([0.1, 0.2, 0.3, 0.4])
    assert ((counts - expected) ** 2 / expected).sum() < 16.3


def test_evaluation_is_the_mean_of_what_training_keeps():
    x = Tensor(np.broadcast_to(positive(1, 1, 4, 4), (4000, 1, 4, 4)).copy())
    drawn = F.stochastic_pool2d(x, 2, rng=stream(0)).numpy()
    mean = F.stochastic_pool2d(x, 2, training=False).numpy()[0]
    error = drawn.std(0) / math.sqrt(4000)
    assert (np.abs(drawn.mean(0) - mean) < 4 * error).all()


def test_zeros_negative_numbers_and_padding_are_never_kept(device):
    x = np.array([-5.0, 0, 0, 2, -1, 0]).reshape(1, 1, 1, 6).repeat(200, 0)
    tensor = Tensor(x, device=device, requires_grad=True)
    out = F.stochastic_pool2d(tensor, (1, 2), padding=(0, 1), rng=stream(0))
    assert (out.numpy() == np.array([0, 0, 2, 0])).all()
    out.sum().backward()
    assert (tensor.grad.numpy() == np.array([0, 0, 0, 1, 0, 0])).all()


def test_a_gradient_goes_to_the_pixel_that_was_drawn(device):
    x = Tensor(positive(3, 2, 4, 6), device=device, requires_grad=True)
    out = F.stochastic_pool2d(x, 2, rng=stream(0))
    out.backward(Tensor(np.ones(out.shape), device=device))
    won = x.grad.numpy()
    assert set(np.unique(won)) == {0, 1}
    sums = formulas.avg_pool2d(won * x.numpy(), 2, divisor_override=1)
    np.testing.assert_array_equal(sums, out.numpy())


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_window_that_is_not_finite_does_not_look_finite(bad, device):
    x = np.ones((1, 1, 2, 2))
    x[0, 0, 1, 0] = bad
    with np.errstate(invalid="ignore"):
        out = F.stochastic_pool2d(Tensor(x, device=device), 2, rng=stream(0)).numpy()
    np.testing.assert_array_equal(out, [[[[bad]]]])


@st.composite
def shrinking(draw):
    sizes = [draw(st.integers(2, 12)) for _ in range(2)]
    outs = tuple(draw(st.integers(1, size - 1)) for size in sizes)
    k = draw(st.none() | st.just(0))
    if k == 0:
        k = tuple(draw(st.integers(1, s - o + 1)) for s, o in zip(sizes, outs, strict=True))
    return (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *sizes), outs, k


@settings(max_examples=100)
@given(case=shrinking(), seed=st.integers(0, 99), overlapping=st.booleans())
def test_fractional_pooling_of_any_size_equals_the_paper_s_formula(case, seed, overlapping, device):
    shape, outs, k = case
    x, samples = distinct(*shape), stream(seed).random((*shape[:2], 2))
    options = {"output_size": outs, "overlapping": overlapping}
    windows = pools.fractional_windows(x, k, samples=samples, **options)
    values, places = pools.winners(x, windows)
    tensor = Tensor(x, device=device, requires_grad=True)
    found, indices = F.fractional_max_pool2d(
        tensor, k, return_indices=True, _random_samples=samples, **options
    )
    np.testing.assert_array_equal(found.numpy(), values)
    np.testing.assert_array_equal(indices.numpy(), places)
    g = numbers(*values.shape)
    found.backward(Tensor(g, device=device))
    wanted = np.zeros((*shape[:2], shape[2] * shape[3]))
    for n, c, y, z in np.ndindex(g.shape):
        wanted[n, c, places[n, c, y, z]] += g[n, c, y, z]
    np.testing.assert_allclose(tensor.grad.numpy(), wanted.reshape(shape), atol=1e-12)


@pytest.mark.parametrize("mode", ["pseudorandom", "random"])
@pytest.mark.parametrize("overlapping", [False, True])
def test_disjoint_windows_cover_and_increments_are_of_two_sizes(mode, overlapping):
    """25 pixels to 18, as in the paper: increments of 1 and 2, in an order that differs."""
    column = np.arange(25.0).reshape(1, 1, 25, 1)
    x = Tensor(np.broadcast_to(column, (200, 1, 25, 25)).copy())
    out = F.fractional_max_pool2d(
        x, output_size=18, mode=mode, overlapping=overlapping, rng=stream(0)
    ).numpy()
    last = out[:, 0, :, 0]  # the last row of each window
    steps = np.diff(last, axis=1)
    assert set(np.unique(steps)) == {1, 2}
    assert (last[:, -1] == 24).all()
    assert len(np.unique(last, axis=0)) > (2 if mode == "pseudorandom" else 190)
    if mode == "random":  # each of 18 increments is 2 as often as any: 7 (or 6) of 18
        share = (24 if overlapping else 25) / 18 - 1
        error = math.sqrt(share * (1 - share) / 200)
        assert (np.abs(steps.mean(0) - 1 - share) < 4 * error).all()


def test_pseudorandom_orders_come_as_often_as_their_numbers():
    """With alpha = 3 / 2 increments begin with a 2 for u from 1 / 3 to 2 / 3, and with a 1 else."""
    x = Tensor(np.broadcast_to(np.arange(13.0), (900, 1, 13, 13)).copy())
    out = F.fractional_max_pool2d(x, 1, output_size=9, rng=stream(0)).numpy()[:, 0, 0]
    orders, counts = np.unique(np.diff(out, axis=1), axis=0, return_counts=True)
    assert orders.tolist() == [[1, 2] * 4, [2, 1] * 4]
    assert abs(counts[0] - 600) < 4 * math.sqrt(200)


def test_fractional_windows_differ_between_channels_and_images():
    x = Tensor(np.broadcast_to(np.arange(40.0), (2, 2, 40, 40)).copy())
    out = F.fractional_max_pool2d(x, 1, output_ratio=0.7, rng=stream(0)).numpy()[:, :, 0]
    rows = out.reshape(4, -1)
    assert all((a != b).any() for a, b in itertools.combinations(rows, 2))


def test_drawing_layers_draw_again_each_time_and_average_in_evaluation():
    x = Tensor(positive(2, 3, 8, 8))
    layer = nn.StochasticPool2d(2, rng=stream(0))
    assert (layer(x).numpy() != layer(x).numpy()).any()
    layer.eval()
    wanted = F.stochastic_pool2d(x, 2, training=False).numpy()
    np.testing.assert_array_equal(layer(x).numpy(), wanted)


# Layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.MaxPool1d(2, return_indices=True), (1, 2, 6)),
        (nn.AdaptiveMaxPool1d(3, return_indices=True), (1, 2, 7)),
        (nn.AdaptiveMaxPool2d(3, return_indices=True), (1, 2, 7, 5)),
        (nn.FractionalMaxPool2d(2, output_size=3, return_indices=True), (1, 2, 7, 5)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_layers_return_places_where_asked_to(layer, shape):
    x = distinct(*shape)
    values, places = layer(Tensor(x))
    flat = x.reshape(*shape[:2], -1)
    picked = np.take_along_axis(flat, places.numpy().reshape(*shape[:2], -1), 2)
    np.testing.assert_array_equal(picked.reshape(values.shape), values.numpy())


def test_learned_layers_learn():
    """One step against the gradient lowers the loss of each parameter."""
    x = Tensor(positive(4, 3, 6, 6))
    for layer in (
        nn.GatedPool2d(2, channels=3, rng=stream(0)),
        nn.GeMPool2d(channels=3),
        nn.SoftmaxPool2d(2, channels=3),
        nn.AttentionPool(3, rng=stream(0)),
    ):
        layer.to(dtype=np.float64)
        before = (layer(x) * layer(x)).sum()
        before.backward()
        for parameter in layer.parameters():
            assert np.abs(parameter.grad.numpy()).max() > 0
            with parameter.mutable() as array:
                array -= 1e-4 * parameter.grad.data
        assert (layer(x) * layer(x)).sum().item() < before.item()


def test_pooling_layers_print_as_they_are_called():
    assert repr(nn.LPPool2d(2, 3, stride=1)) == "LPPool2d(2, 3, stride=1)"
    assert repr(nn.AdaptiveAvgPool2d((3, None))) == "AdaptiveAvgPool2d((3, None))"
    assert repr(nn.FractionalMaxPool2d(output_ratio=0.7)) == "FractionalMaxPool2d(output_ratio=0.7)"


# The table in pooling/basic.py ----------------------------------------------------------------

HEAD = inspect.getdoc(pooling)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in HEAD.splitlines()
    if line.startswith("| ")
][2:]
LETTERS = dict(re.findall(r"`(\w+) = ([^`]+)`", HEAD))  # best, hit, mean, mix, a, q, s, t


def apart(name: str) -> bool:
    """Tell whether a kind pools boxes, or steps under a mask, instead of windows."""
    return name.lower().startswith(("roi", "masked"))


def test_the_table_lists_every_kind_and_layer():
    kinds = {kind.partition(",")[0] for kind, *_ in ROWS}
    functions = {name for name in public_names(F) if "pool" in name and not apart(name)}
    assert kinds == {re.sub("1d$", "2d", name) for name in functions}
    layers = {layer for *_, layer, _ in ROWS} - {""}
    pools = {name for name in public_names(nn) if "Pool" in name or "Unpool" in name}
    classes = {name for name in pools if not apart(name)}
    assert layers == classes - {name for name in classes if name.endswith("1d")}


def test_the_table_names_sources_that_are_listed():
    sources = dict(re.findall(r"^ +(\d+)  +(\S.*)$", HEAD, re.MULTILINE))
    used = {source for *_, source in ROWS}
    assert used - {"own"} == set(sources)


@pytest.mark.parametrize("row", [r for r in ROWS if r[3]], ids=lambda r: r[3])
def test_a_kind_s_layer_calls_its_function(row):
    kind, _, _, layer, _ = row
    source = inspect.getsource(getattr(nn, layer))
    assert re.search(rf"\bF\.{kind.partition(',')[0]}\b", source)


def test_kinds_with_a_form_for_sequences_are_the_ones_named():
    functions = {name for name in public_names(F) if "pool" in name and not apart(name)}
    one = {name.removesuffix("1d") for name in functions if name.endswith("1d")}
    without = {n.partition(",")[0].removesuffix("2d") for n, *_ in ROWS} - one
    named = {"spatial_pyramid_pool", "fractional_max_pool", "gated_pool", "channel_max_pool"}
    named |= {"channel_avg_pool", "blur_pool", "max_blur_pool", "conv_pool", "conv2d_relu_max_pool"}
    assert without == named


W = np.array([0.5, 1.5, 0.25, 2.0, 1.0, 0.75])  # a window of two rows, three columns
V = np.array([0.3, -0.2, 0.5, 0.1, -0.4, 0.2])


def one_window(x: np.ndarray) -> Tensor:
    return Tensor(x.reshape(1, 1, 2, 3), requires_grad=True)


def drawn_place() -> int:
    """Which pixel the stochastic pool of the table's test keeps."""
    kept = F.stochastic_pool2d(one_window(W), (2, 3), rng=stream(4)).item()
    return int(np.flatnonzero(kept == W)[0])


PASCAL = np.outer([1, 2, 1], [1, 2, 1]).ravel() / 16

# A kind's call on one window, which gives one number; and what the letters of its formula are.
CALLS = {
    "max_pool2d": (lambda x: F.max_pool2d(x, (2, 3)), {}),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, (2, 3)), {}),
    "min_pool2d": (lambda x: F.min_pool2d(x, (2, 3)), {}),
    "lp_pool2d": (lambda x: F.lp_pool2d(x, 3, (2, 3)), {"p": 3}),
    "global_max_pool2d": (F.global_max_pool2d, {}),
    "global_avg_pool2d": (F.global_avg_pool2d, {}),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, 1), {}),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, 1), {}),
    "fractional_max_pool2d": (lambda x: F.fractional_max_pool2d(x, (2, 3), (1, 1)), {}),
    "stochastic_pool2d, training": (
        lambda x: F.stochastic_pool2d(x, (2, 3), rng=stream(4)),
        {"i": drawn_place(), "index": np.arange(6)},
    ),
    "stochastic_pool2d, evaluation": (
        lambda x: F.stochastic_pool2d(x, (2, 3), training=False),
        {},
    ),
    "channel_max_pool": (lambda x: F.channel_max_pool(x.reshape(1, 6), 6), {}),
    "channel_avg_pool": (lambda x: F.channel_avg_pool(x.reshape(1, 6), 6), {}),
    "mixed_pool2d": (lambda x: F.mixed_pool2d(x, (2, 3), alpha=0.3), {"a": 0.3}),
    "gated_pool2d": (lambda x: F.gated_pool2d(x, Tensor(V.reshape(1, 1, 2, 3))), {"v": V}),
    "gem_pool2d": (lambda x: F.gem_pool2d(x, 2.5), {"p": 2.5}),
    "softmax_pool2d": (lambda x: F.softmax_pool2d(x, (2, 3), beta=1.5), {"b": 1.5}),
    "attention_pool2d": (lambda x: F.attention_pool2d(x, Tensor(np.array([0.7]))), {"v": 0.7}),
}


def evaluated(text: str, letters: dict) -> np.ndarray:
    """Evaluate a formula of the table; what it names and is no argument is a formula as well."""
    names = {"sum": np.sum, "max": np.max, "sigmoid": formulas.sigmoid, "softmax": formulas.softmax}
    code = compile(text.strip("`"), "table", "eval")
    for name in code.co_names:
        if name not in letters and name not in names:
            letters = {**letters, name: evaluated(LETTERS[name], letters)}
    return eval(code, {"__builtins__": {}}, {**names, **letters})


@pytest.mark.parametrize("row", [r for r in ROWS if r[0] in CALLS], ids=lambda r: r[0])
def test_formula_and_gradient_in_the_table_are_those_of_the_function(row):
    kind, formula, gradient, *_ = row
    call, letters = CALLS[kind]
    x = one_window(W)
    out = call(x)
    letters = {"w": W, "m": W.size, **letters}
    np.testing.assert_allclose(out.item(), evaluated(formula, letters), rtol=1e-12)
    out.sum().backward(Tensor(np.array(1.7)))
    wanted = evaluated(gradient, {**letters, "out": out.item(), "g": 1.7})
    np.testing.assert_allclose(x.grad.numpy().ravel(), np.broadcast_to(wanted, 6), rtol=1e-10)


def row_of(kind: str) -> tuple[str, str]:
    return next((r[1].strip("`"), r[2].strip("`")) for r in ROWS if r[0] == kind)


def test_the_table_s_blur_weighs_with_pascal_s_triangle():
    formula, gradient = row_of("blur_pool2d")
    x = Tensor(numbers(1, 1, 5, 5), requires_grad=True)
    out = F.blur_pool2d(x, 1, 3)[0, 0, 2, 2]
    letters = {"w": x.numpy()[0, 0, 1:4, 1:4].ravel(), "f": PASCAL}
    np.testing.assert_allclose(out.item(), evaluated(formula, letters))
    out.backward(Tensor(np.array(1.7)))
    wanted = evaluated(gradient, {**letters, "g": 1.7})
    np.testing.assert_allclose(x.grad.numpy()[0, 0, 1:4, 1:4].ravel(), wanted)


def test_the_table_s_unpooling_puts_back():
    formula, gradient = row_of("max_unpool2d")
    index, w, image = np.array([5, 2, 8, 15]), np.arange(1.0, 5), np.zeros(16)
    exec(formula, {}, {"image": image, "index": index, "w": w})
    x = Tensor(w.reshape(1, 1, 2, 2), requires_grad=True)
    out = F.max_unpool2d(x, index.reshape(1, 1, 2, 2), 2)
    np.testing.assert_array_equal(out.numpy().ravel(), image)
    g = numbers(16)
    out.backward(Tensor(g.reshape(out.shape)))
    wanted = evaluated(gradient, {"g": g, "index": index})
    np.testing.assert_array_equal(x.grad.numpy().ravel(), wanted)


STEPS = {
    "spatial_pyramid_pool2d": (
        lambda x: F.spatial_pyramid_pool2d(x, (1, 2)),
        {"pool": F.adaptive_max_pool2d, "levels": (1, 2)},
    ),
    "max_blur_pool2d": (lambda x: F.max_blur_pool2d(x, 2, 2), {"k": 2, "stride": 2}),
    "conv_pool2d": (
        lambda x: F.conv_pool2d(x, Tensor(V.reshape(1, 1, 2, 3)), pool_size=2),
        {"v": Tensor(V.reshape(1, 1, 2, 3)), "k": 2},
    ),
    "conv2d_relu_max_pool2d": (
        lambda x: F.conv2d_relu_max_pool2d(x, Tensor(V.reshape(1, 1, 2, 3)), pool_size=2),
        {"v": Tensor(V.reshape(1, 1, 2, 3)), "k": 2},
    ),
}


def test_every_row_of_the_table_is_tested():
    kinds = {kind for kind, *_ in ROWS}
    assert kinds == {*CALLS, *STEPS, "blur_pool2d", "max_unpool2d"}
    assert {kind for kind, _, gradient, *_ in ROWS if gradient == "chain rule"} == set(STEPS)


@pytest.mark.parametrize("kind", STEPS)
def test_steps_in_the_table_are_those_of_the_function(kind):
    call, letters = STEPS[kind]
    array = distinct(1, 1, 6, 7)
    one, other = (Tensor(array, requires_grad=True) for _ in range(2))
    out = call(one)
    names = {name: getattr(F, name) for name in public_names(F)}
    steps = eval(row_of(kind)[0], {"__builtins__": {}, **names, **letters, "x": other})
    steps = steps if isinstance(steps, list) else [steps]
    joined = minidl.concatenate([step.reshape(-1) for step in steps])
    np.testing.assert_array_equal(out.numpy().ravel(), joined.numpy())
    g = numbers(out.size)
    out.backward(Tensor(g.reshape(out.shape)))
    joined.backward(Tensor(g))
    np.testing.assert_allclose(one.grad.numpy(), other.grad.numpy(), atol=1e-12)


def test_gradients_of_a_pooled_table_go_to_order_two():
    """Windows that differ from plane to plane; the op table has the others."""
    samples = stream(0).random((2, 2, 2))
    x = Tensor(distinct(2, 2, 5, 6), requires_grad=True)
    gradcheck(
        lambda x: F.fractional_max_pool2d(x, 3, (3, 4), _random_samples=samples), [x], order=2
    )


# Large windows and hostile numbers ------------------------------------------------------------

WHOLE = {
    "max": lambda x, k: F.max_pool2d(x, k),
    "min": lambda x, k: F.min_pool2d(x, k),
    "avg": lambda x, k: F.avg_pool2d(x, k),
    "lp": lambda x, k: F.lp_pool2d(x, 3, k),
    "gem": lambda x, k: F.gem_pool2d(x, 3.0, k),
    "softmax": lambda x, k: F.softmax_pool2d(x, k),
    "gated": lambda x, k: F.gated_pool2d(
        x, minidl.ones((1, 1, *k), dtype="float64", device=x.device), k
    ),
    "mixed": lambda x, k: F.mixed_pool2d(x, k),
    "stochastic": lambda x, k: F.stochastic_pool2d(x, k),
    "expected": lambda x, k: F.stochastic_pool2d(x, k, training=False),
    "adaptive max": lambda x, k: F.adaptive_max_pool2d(x, (3, 3)),
    "adaptive avg": lambda x, k: F.adaptive_avg_pool2d(x, (3, 3)),
    "fractional": lambda x, k: F.fractional_max_pool2d(x, output_size=(2, 2)),
}


@pytest.mark.parametrize("where", ["cpu", "guarded"])
@pytest.mark.parametrize("name", WHOLE)
def test_large_windows_take_few_steps(name, where, monkeypatch):
    """A loop over the taps of a window of 50 by 50 would be 2,500 steps, forward and backward."""
    steps = []
    taps, each = Windows.taps, large._each
    monkeypatch.setattr(Windows, "taps", lambda w: steps_of(taps(w), steps))
    monkeypatch.setattr(large, "_each", lambda w: steps_of(each(w), steps))
    x = Tensor(np.abs(numbers(1, 1, 50, 50)), device=where, requires_grad=True)
    WHOLE[name](x, (50, 50)).sum().backward()
    assert len(steps) < 100
    assert np.isfinite(x.grad.numpy()).all()


def steps_of(loop, steps):
    for step in loop:
        steps.append(step)
        yield step


HOSTILE = {
    "tiny": lambda x: x * 1e-30,
    "huge": lambda x: x * 1e30,
    "zeros": lambda x: x * 0,
    "beside": lambda x: x * 10.0 ** np.linspace(-30, 30, x.shape[3]).astype(np.float32),
}
GEOMETRIES = [(2, 2, 0), (3, 2, 1), (3, 1, 0), (2, 3, 0), (6, 1, 3), (6, 6, 0)]


@pytest.mark.parametrize("p", [1.5, 3.0, 8.0, 40.0, 200.0])
@pytest.mark.parametrize("scale", HOSTILE)
@pytest.mark.parametrize(("k", "stride", "padding"), GEOMETRIES)
def test_powers_stay_in_range_of_float32(k, stride, padding, scale, p, device):
    x = HOSTILE[scale](np.maximum(numbers(1, 2, 6, 6), 0).astype(np.float32))
    data = Tensor(x, device=device, requires_grad=True)
    power = Tensor(np.float32([p]), device=device, requires_grad=True)
    out = F.gem_pool2d(data, power, k, stride, padding, eps=1e-35)
    wide = np.maximum(x, np.float32(1e-35)).astype(np.float64)
    windows = pools.sliding(x.shape[2:], kernel_size=k, stride=stride, padding=padding)
    wanted = pools.pooled(
        wide, windows, lambda w, _: w.max() * ((w / w.max()) ** p).mean() ** (1 / p)
    )
    np.testing.assert_allclose(out.numpy(), wanted, rtol=2e-5)
    out.sum().backward()
    assert np.isfinite(data.grad.numpy()).all()
    assert np.isfinite(power.grad.numpy()).all()
    if padding:
        return
    data.grad = None
    out = F.lp_pool2d(data, p, k, stride)
    norms = pools.pooled(
        x.astype(np.float64),
        windows,
        lambda w, _: w.max() * ((w / (w.max() or 1)) ** p).sum() ** (1 / p),
    )
    np.testing.assert_allclose(out.numpy(), norms, rtol=2e-5)
    out.sum().backward()
    assert np.isfinite(data.grad.numpy()).all()


@pytest.mark.parametrize("size", [300, 1e36])
@pytest.mark.parametrize(("k", "stride", "padding"), GEOMETRIES)
def test_weights_that_would_overflow_are_those_of_softmax(k, stride, padding, size, device):
    x = (numbers(1, 2, 6, 6) * size).astype(np.float32)
    data = Tensor(x, device=device, requires_grad=True)
    out = F.softmax_pool2d(data, k, stride, padding)
    windows = pools.sliding(x.shape[2:], kernel_size=k, stride=stride, padding=padding)

    def weighted(w, _):
        shares = np.exp(w - w.max())
        return (shares * w).sum() / shares.sum()

    wanted = pools.pooled(x.astype(np.float64), windows, weighted)
    np.testing.assert_allclose(out.numpy(), wanted, rtol=1e-4)
    out.sum().backward()
    assert np.isfinite(data.grad.numpy()).all()


@pytest.mark.parametrize(("k", "stride"), [(2, 2), (3, 2), (3, 1)])
def test_scaled_sums_have_gradients_to_order_two(k, stride, device):
    """Values are far from 1, so that all sums are scaled; `0` is a pixel after a ReLU."""
    x = np.abs(numbers(1, 2, 4, 4)) + 0.5
    x[0, 0, 0, 0] = 0
    for pool in (
        lambda x, p: F.gem_pool2d(x * 1e3 + 1, p, k, stride),
        lambda x, p: F.lp_pool2d(x * 1e12, 2, k, stride) * 1e-12 + p.sum(),
        lambda x, p: F.softmax_pool2d(x, k, stride, beta=p * 3) + p.sum(),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scaled, "LIMIT", 0.0)
            inputs = Tensor(x, device=device), Tensor(np.array([2.5, 3.0]), device=device)
            gradcheck(pool, inputs, order=2)


@pytest.mark.parametrize(("k", "stride", "dilation"), [(1000, 1000, 1), (400, 1, 1), (300, 70, 3)])
def test_long_windows_of_float32_lose_few_digits(k, stride, dilation):
    x = np.full((1, 1, 1000), 0.1, np.float32)
    x[0, 0, 0] = 1e8  # seen by the first windows only
    out = F.avg_pool1d(Tensor(x), k, stride).numpy()[0, 0]
    exact = np.lib.stride_tricks.sliding_window_view(x[0, 0].astype(np.float64), k)[::stride].mean(
        1
    )
    np.testing.assert_allclose(out, exact, rtol=1e-6)


def test_large_windows_are_drawn_by_the_values_of_their_pixels(device):
    x = np.zeros((4000, 1, 5, 8), np.float32)
    x[:, :, 2, 3], x[:, :, 4, 1] = 3, 1
    out = F.stochastic_pool2d(Tensor(x, device=device), (5, 8), rng=np.random.default_rng(0))
    assert abs((out.numpy() == 3).mean() - 0.75) < 0.03
    assert (out.numpy() > 0).all()
