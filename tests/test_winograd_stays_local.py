"""With the default kernels, each output of a convolution depends only on its own window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl
from minidl import Tensor, detect_anomaly
from minidl import functional as F
from minidl.backends import Backend, backend_for, convolution
from minidl.backends.cpu import winograd

from .test_winograd import drawn, geometries, winograd_wherever_possible

BACKEND = backend_for("cpu")
CHANNELS = [3, 5, 8, 16, 32, 64, 128]
BAD = [np.nan, np.inf, -np.inf, 3e3, 1e4, 1e8, -1e8, 1e25]


@pytest.fixture(scope="module", autouse=True)
def few_and_small_images():
    with winograd_wherever_possible():
        yield


@pytest.fixture
def calls(monkeypatch):
    """Count the images, or the gradients of images, that go through columns."""
    done = []

    def spy(owner, name):
        original = getattr(owner, name)

        def counted(backend, images, *args, **kwargs):
            done.append(len(images))
            return original(backend, images, *args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    for owner in (convolution, Backend):  # `winograd` calls functions, other forms methods
        spy(owner, "convolve")
        spy(owner, "weight_gradient")
    return done


def near(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Tell whether all values agree to 3e-4 of the typical size."""
    typical = np.sqrt(np.square(wanted, dtype=np.float64).mean())
    return bool((np.abs(found - wanted) <= 3e-4 * typical).all())


def all_three(x, weight, g, padding=1):
    """Return output and both gradients of a convolution, as users get them."""
    x, weight = Tensor(x, requires_grad=True), Tensor(weight, requires_grad=True)
    with np.errstate(all="ignore"):
        out = F.conv2d(x, weight, padding=padding)
        out.backward(Tensor(g))
    return out.numpy(), x.grad.numpy(), weight.grad.numpy()


# A pixel that is not finite, or very large -----------------------------------------------------


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("c", CHANNELS)
def test_one_pixel_reaches_only_what_sees_it(c, value):
    x, weight, g = (
        drawn(3, c, 16, 16, seed=0),
        drawn(c, c, 3, 3, seed=1),
        drawn(3, c, 16, 16, seed=2),
    )
    clean = all_three(x, weight, g)
    far = np.ones((16, 16), np.bool_)
    far[7:10, 7:10] = False
    bad = x.copy()
    bad[1, 0, 8, 8] = value
    out, _, dw = all_three(bad, weight, g)
    assert near(out[1][:, far], clean[0][1][:, far])
    assert np.array_equal(out[::2], clean[0][::2])  # the other images, to the bit
    assert near(dw[:, 1:], clean[2][:, 1:])
    bad = g.copy()
    bad[1, 0, 8, 8] = value
    _, dx, dw = all_three(x, weight, bad)
    assert near(dx[1][:, far], clean[1][1][:, far])
    assert np.array_equal(dx[::2], clean[1][::2])
    assert near(dw[1:], clean[2][1:])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e8])
def test_a_weight_reaches_only_its_kernel_and_a_corner_only_the_taps_that_see_it(value):
    x, weight, g = (
        drawn(2, 16, 12, 12, seed=0),
        drawn(8, 16, 3, 3, seed=1),
        drawn(2, 8, 12, 12, seed=2),
    )
    clean = all_three(x, weight, g)
    bad = weight.copy()
    bad[3, 5, 0, 0] = value
    out, dx, _ = all_three(x, bad, g)
    assert near(np.delete(out, 3, 1), np.delete(clean[0], 3, 1))
    assert near(np.delete(dx, 5, 1), np.delete(clean[1], 5, 1))
    x[0, 4, 0, 0] = value  # with padding 1, the last row and column of taps never see it
    _, _, dw = all_three(x, weight, g)
    assert near(dw[:, 4, 2], clean[2][:, 4, 2])
    assert near(dw[:, 4, :, 2], clean[2][:, 4, :, 2])


def test_a_large_weight_leaves_outputs_that_see_a_zero_through_it():
    x, weight = np.maximum(drawn(2, 16, 12, 12, seed=0), 0), drawn(8, 16, 3, 3, seed=1)
    without = weight.copy()
    weight[3, 5, 1, 1], without[3, 5, 1, 1] = 1e8, 0
    out, wanted = (
        F.conv2d(Tensor(x), Tensor(w), padding=1).numpy()[:, 3] for w in (weight, without)
    )
    assert near(out[x[:, 5] == 0], wanted[x[:, 5] == 0])


@pytest.mark.parametrize("tiles", [True, False])
@given(geometries(), st.integers(1, 20), st.integers(1, 20), st.sampled_from(BAD), st.data())
def test_every_output_is_the_sum_of_what_it_sees(tiles, windows, c, d, value, data):
    images, weight = drawn(2, c, windows.in_h, windows.in_w, seed=0), drawn(d, c, 3, 3, seed=1)
    gradient = drawn(2, d, windows.out_h, windows.out_w, seed=2)
    bad = data.draw(st.sampled_from([images, gradient]))
    place = tuple(data.draw(st.integers(0, size - 1)) for size in bad.shape)
    bad[place] = value
    maps = [
        (convolution.convolve, (images, weight), (None,)),
        (convolution.transpose_convolve, (gradient, weight), ()),
        (convolution.weight_gradient, (images, gradient), ()),
    ]
    for function, arrays, bias in maps:
        with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
            patch.setattr(winograd, "in_tiles", lambda *_: tiles)
            found = getattr(winograd, function.__name__)(BACKEND, *arrays, *bias, windows)

        def exact(change, function=function, arrays=arrays, bias=bias):
            doubles = (change(a.astype(np.float64)) for a in arrays)
            with np.errstate(all="ignore"):
                return function(BACKEND, *doubles, *bias, windows, 1)

        wanted = exact(lambda a: a)
        typical = np.sqrt(np.square(exact(lambda a: np.where(np.abs(a) < 100, a, 0))).mean())
        assert np.array_equal(np.isfinite(found), np.isfinite(wanted))
        seen = np.isfinite(wanted)
        bound = 4e-6 * exact(np.abs) + 3e-4 * typical
        assert (np.abs(found[seen] - wanted[seen]) <= bound[seen]).all()


@pytest.mark.parametrize("c", [8, 64])
@pytest.mark.parametrize("share", [0.3, 0.55, 0.7])
@pytest.mark.parametrize("axis", [2, 3])
def test_a_region_of_a_sentinel_does_not_blur_the_rest(axis, share, c):
    x, weight = drawn(2, c, 20, 20, seed=0), drawn(c, c, 3, 3, seed=1)
    edge = int(20 * share)
    wanted = F.conv2d(Tensor(x), Tensor(weight)).numpy()
    rest = np.moveaxis(wanted, axis, 0)[edge:]
    np.moveaxis(x, axis, 0)[:edge] = -9999
    found = np.moveaxis(F.conv2d(Tensor(x), Tensor(weight)).numpy(), axis, 0)[edge:]
    assert near(found, rest)


@pytest.mark.parametrize("c", [8, 64])
def test_a_zero_background_stays_zero(c):
    x, weight = np.zeros((1, c, 16, 16), np.float32), drawn(c, c, 3, 3, seed=1)
    x[0, :, 5, 5] = 1e8
    out = F.conv2d(Tensor(x), Tensor(weight), padding=1).numpy()
    assert not out[:, :, :4].any()
    assert not out[:, :, 7:].any()
    assert not out[:, :, :, 7:].any()


def test_fused_layers_and_channels_first_images_are_no_exception():
    x, weight = drawn(4, 16, 16, 16, seed=0), drawn(16, 16, 3, 3, seed=1)
    clean = F.conv2d_relu_max_pool2d(Tensor(x), Tensor(weight)).numpy()
    clean_before_pool = F.conv2d_relu(Tensor(x), Tensor(weight)).numpy()
    x = np.ascontiguousarray(x)
    x[2, 3, 1, 1] = np.nan
    out = F.conv2d_relu_max_pool2d(Tensor(x), Tensor(weight)).numpy()
    assert np.isnan(out[2, :, 0, 0]).all()
    out[2, :, 0, 0] = clean[2, :, 0, 0]
    assert near(out, clean)
    out = F.conv2d_relu(Tensor(x), Tensor(weight)).numpy()
    assert np.isnan(out[2, :, :2, :2]).all()
    out[2, :, :2, :2] = clean_before_pool[2, :, :2, :2]
    assert near(out, clean_before_pool)


def test_transposed_convolutions_and_sequences_are_no_exception():
    x, weight = drawn(2, 16, 16, 16, seed=0), drawn(16, 16, 3, 3, seed=1)
    clean = F.conv_transpose2d(Tensor(x), Tensor(weight)).numpy()
    x[1, 2, 8, 8] = np.inf
    found = F.conv_transpose2d(Tensor(x), Tensor(weight)).numpy()
    assert np.isinf(found[1, :, 8:11, 8:11]).all()
    found[1, :, 8:11, 8:11] = clean[1, :, 8:11, 8:11]
    assert near(found, clean)
    x, weight = drawn(2, 64, 50, 1, seed=0)[..., 0], drawn(64, 64, 3, 1, seed=1)[..., 0]
    clean = F.conv1d(Tensor(x), Tensor(weight)).numpy()
    x[1, 2, 20] = np.nan
    found = F.conv1d(Tensor(x), Tensor(weight)).numpy()
    assert np.isnan(found[1, :, 18:21]).all()
    found[1, :, 18:21] = clean[1, :, 18:21]
    assert near(found, clean)


def test_overflow_is_infinite_where_the_sums_are():
    x, weight = np.full((1, 16, 12, 12), 1e38, np.float32), np.abs(drawn(16, 16, 3, 3, seed=1))
    weight[:8] *= -1
    weight[:, ::2] *= 1e-3
    with np.errstate(over="ignore"):
        out = F.conv2d(Tensor(x), Tensor(weight)).numpy()
    assert (out[:, :8] == -np.inf).all()
    assert (out[:, 8:] == np.inf).all()


def test_detect_anomaly_blames_the_data_and_the_right_pixel():
    x, weight = (
        drawn(1, 16, 12, 12, seed=0),
        Tensor(drawn(16, 16, 3, 3, seed=1), requires_grad=True),
    )
    x[0, 3, 6, 6] = np.nan
    words = r"input 0 of 'conv2d' has 1 NaN .* first at \(0, 3, 6, 6\)"
    with detect_anomaly(), pytest.raises(FloatingPointError, match=words):
        F.conv2d(Tensor(x), weight, padding=1)
    x[0, 3, 6, 6] = 0
    g = drawn(1, 16, 12, 12, seed=2)
    g[0, 2, 6, 6] = 3e38
    words = r"gradient of 'conv2d' for input 0 has .* inf .* first at \(0, \d+, [567], [567]\)"
    with detect_anomaly(), np.errstate(over="ignore"):
        out = F.conv2d(Tensor(x, requires_grad=True), weight, padding=1)
        with pytest.raises(FloatingPointError, match=words):
            out.backward(Tensor(g))


# Signs and counts ------------------------------------------------------------------------------


@pytest.mark.parametrize("c", CHANNELS)
def test_images_and_kernels_of_numbers_above_0_give_none_below(c):
    rng = np.random.default_rng(0)
    x, weight, g = (np.abs(drawn(2, c, 16, 16, seed=s)) for s in range(3))
    x[:, :, 5:11, 3:9] = 0
    g[:, :, :6] = 0
    weight = np.abs(drawn(c, c, 3, 3, seed=3)) * (rng.random((c, c, 3, 3)) < 0.5)
    for array in all_three(x, weight, g):
        assert array.min() >= 0
    weight[1:] *= rng.choice([-1, 1], weight[1:].shape)  # kernel 0 among others
    assert all_three(x, weight, g)[0][:, 0].min() >= 0
    assert all_three(x, -np.abs(weight), g)[0].max() <= 0


@pytest.mark.parametrize("c", CHANNELS)
def test_counts_are_whole(c):
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 10, (2, c, 16, 16)).astype(np.float32)
    weight = rng.integers(-3, 4, (c, c, 3, 3)).astype(np.float32)
    for g in (np.ones_like(x), rng.integers(-3, 4, x.shape).astype(np.float32)):
        arrays = all_three(x, weight, g)
        for found, wanted in zip(arrays, all_three(*map(np.float64, (x, weight, g))), strict=True):
            assert np.array_equal(found, wanted)


def test_the_gradient_of_one_output_is_the_window_that_it_sees():
    x, weight = drawn(1, 16, 12, 12, seed=0), drawn(16, 16, 3, 3, seed=1)
    g = np.zeros((1, 16, 12, 12), np.float32)
    g[0, 2, 5, 5] = 1
    _, dx, dw = all_three(x, weight, g)
    assert np.array_equal(dw[2], x[0, :, 4:7, 4:7])
    assert np.count_nonzero(dw) == dw[2].size
    assert np.array_equal(dx[0, :, 4:7, 4:7], weight[2])


# What stays with Winograd ----------------------------------------------------------------------


def ordinary(c: int, height: int, kind: str) -> np.ndarray:
    x = drawn(4, c, height, height, seed=4)
    if kind == "after ReLU":
        x = np.maximum(x - 1, 0)
    elif kind == "of a max pool":  # which leaves out the last row and column of an odd size
        x *= np.random.default_rng(0).random(x.shape) < 0.25
        x[:, :, height // 2 * 2 :] = x[:, :, :, height // 2 * 2 :] = 0
    elif kind == "with an image of zeros":
        x[1] = 0
    elif kind == "of very different sizes":
        x *= np.array([1e-6, 1, 1e6, 1e-3], np.float32).reshape(4, 1, 1, 1)
    elif kind == "with a hot pixel":
        x[:, 0, 4, 4] = 100
    return x


@pytest.mark.parametrize("height", [8, 13, 16])
@pytest.mark.parametrize("c", [16, 64])
@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "after ReLU",
        "of a max pool",
        "with an image of zeros",
        "of very different sizes",
        "with a hot pixel",
    ],
)
def test_ordinary_images_and_gradients_do_not_go_through_columns(kind, c, height, calls):
    x, g = ordinary(c, height, kind), ordinary(c, height, kind)[::-1]
    all_three(x, drawn(c, c, 3, 3, seed=1), g - 1e-3 * (kind == "after ReLU"))
    assert calls == []


def test_only_the_uneven_images_of_a_batch_go_through_columns(calls):
    x, weight, g = (
        drawn(6, 16, 16, 16, seed=0),
        drawn(16, 16, 3, 3, seed=1),
        drawn(6, 16, 16, 16, seed=2),
    )
    x[2, 0, 0, 0] = x[4, 0, 3, 3] = np.nan
    g[5, 0, 3, 3] = np.inf
    all_three(x, weight, g)
    assert calls == [2, 1, 3]


# minidl.set_kernels("exact") -------------------------------------------------------------------


def test_exact_kernels_are_the_fast_ones_without_winograd(monkeypatch):
    for name in ("convolve", "transpose_convolve", "weight_gradient"):
        monkeypatch.delattr(winograd, name)
    x, weight, g = (
        drawn(2, 64, 16, 16, seed=0),
        drawn(64, 64, 3, 3, seed=1),
        drawn(2, 64, 16, 16, seed=2),
    )
    before = minidl.get_kernels()
    minidl.set_kernels("exact")
    try:
        backend, found = minidl.ones(1).backend, all_three(x, weight, g)
        pooled = F.conv2d_relu_max_pool2d(Tensor(x), Tensor(weight)).numpy()
    finally:
        minidl.set_kernels(before)
    assert backend.fuses
    assert type(backend) is type(BACKEND)
    for mine, exact in zip(found, all_three(*map(np.float64, (x, weight, g))), strict=True):
        assert np.abs(mine - exact).max() < 2e-6 * np.abs(exact).max()
    assert pooled.shape == (2, 64, 7, 7)
