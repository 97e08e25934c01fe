"""Convolutions against literal loops, differences, and each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl
from minidl import Tensor
from minidl import functional as F

from . import loops
from .gradients import check_gradients, check_pure


def numbers(*shape: int, seed: int = 0, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def one_or_pair(least: int, most: int) -> st.SearchStrategy:
    number = st.integers(least, most)
    return number | st.tuples(number, number)


def as_pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


@st.composite
def convolutions(draw):
    """Draw input and weight shapes and geometry in which at least one window fits."""
    groups = draw(st.integers(1, 3))
    channels, outputs = draw(st.integers(1, 2)), draw(st.integers(1, 2)) * groups
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    dilation, stride = draw(one_or_pair(1, 2)), draw(one_or_pair(1, 3))
    padding = draw(one_or_pair(0, 2) | st.sampled_from(["same", "valid"]))
    if padding == "same":
        stride = 1
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, as_pair(dilation), strict=True)]
    room = (0, 0) if isinstance(padding, str) else as_pair(padding)
    sizes = [
        draw(st.integers(max(1, span - 2 * p), span + 3))
        for span, p in zip(spans, room, strict=True)
    ]
    n = draw(st.integers(0, 2))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return (n, channels * groups, *sizes), (outputs, channels, *kernel), options


def oracle_options(weight_shape: tuple[int, ...], options: dict) -> dict:
    """Say in the oracle's words what the options mean."""
    dilation, padding = as_pair(options["dilation"]), options["padding"]
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(weight_shape[2:], dilation, strict=True)]
        sides = [side for total in totals for side in (total // 2, total - total // 2)]
    else:
        pads = (0, 0) if padding == "valid" else as_pair(padding)
        sides = [side for pad in pads for side in (pad, pad)]
    stride, groups = as_pair(options["stride"]), options["groups"]
    return {"stride": stride, "sides": sides, "dilation": dilation, "groups": groups}


@settings(max_examples=150)
@given(case=convolutions(), with_bias=st.booleans())
def test_conv2d_equals_literal_loops(case, with_bias, device):
    x_shape, weight_shape, options = case
    x, weight = numbers(*x_shape), numbers(*weight_shape, seed=1)
    bias = numbers(weight_shape[0], seed=2) if with_bias else None
    wanted = loops.conv2d(x, weight, bias, **oracle_options(weight_shape, options))
    on = {"device": device}
    given_bias = None if bias is None else Tensor(bias, **on)
    found = F.conv2d(Tensor(x, **on), Tensor(weight, **on), given_bias, **options)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)


@given(case=convolutions())
def test_conv2d_gradients_are_its_transposes(case, device):
    """It is linear in each input v, so that `sum(g * conv(v)) = sum(gradient * v)` for every v."""
    x_shape, weight_shape, options = case
    x = Tensor(numbers(*x_shape), device=device, requires_grad=True)
    weight = Tensor(numbers(*weight_shape, seed=1), device=device, requires_grad=True)
    bias = Tensor(numbers(weight_shape[0], seed=2), device=device, requires_grad=True)
    out = F.conv2d(x, weight, bias, **options)
    g = numbers(*out.shape, seed=3)
    out.backward(Tensor(g, device=device))
    literal = oracle_options(weight_shape, options)
    v, w = numbers(*x_shape, seed=4), numbers(*weight_shape, seed=5)
    along_x = (g * loops.conv2d(v, weight.numpy(), None, **literal)).sum()
    along_weight = (g * loops.conv2d(x.numpy(), w, None, **literal)).sum()
    assert (x.grad.numpy() * v).sum() == pytest.approx(along_x, abs=1e-10)
    assert (weight.grad.numpy() * w).sum() == pytest.approx(along_weight, abs=1e-10)
    np.testing.assert_allclose(bias.grad.numpy(), g.sum((0, 2, 3)), atol=1e-10)


@st.composite
def transposed_convolutions(draw):
    groups = draw(st.integers(1, 2))
    inputs, channels = draw(st.integers(1, 2)) * groups, draw(st.integers(1, 2))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride, dilation = draw(one_or_pair(1, 3)), draw(one_or_pair(1, 2))
    extra = tuple(draw(st.integers(0, s - 1)) for s in as_pair(stride))
    sizes = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    canvas = [
        (size - 1) * s + d * (k - 1) + 1 + e
        for size, s, d, k, e in zip(
            sizes, as_pair(stride), as_pair(dilation), kernel, extra, strict=True
        )
    ]
    padding = tuple(draw(st.integers(0, min(2, (length - 1) // 2))) for length in canvas)
    options = {"stride": stride, "padding": padding, "output_padding": extra}
    options |= {"groups": groups, "dilation": dilation}
    return (draw(st.integers(0, 2)), inputs, *sizes), (inputs, channels, *kernel), options


@settings(max_examples=150)
@given(case=transposed_convolutions(), with_bias=st.booleans())
def test_conv_transpose2d_equals_literal_loops(case, with_bias, device):
    x_shape, weight_shape, options = case
    x, weight = numbers(*x_shape), numbers(*weight_shape, seed=1)
    bias = numbers(weight_shape[1] * options["groups"], seed=2) if with_bias else None
    literal = {name: v if name == "groups" else as_pair(v) for name, v in options.items()}
    wanted = loops.conv_transpose2d(x, weight, bias, **literal)
    on = {"device": device}
    given_bias = None if bias is None else Tensor(bias, **on)
    found = F.conv_transpose2d(Tensor(x, **on), Tensor(weight, **on), given_bias, **options)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)


def test_conv_transpose2d_carries_gradients_back_through_conv2d(device):
    weight = Tensor(numbers(2, 3, 3, 2), device=device)
    x = Tensor(numbers(2, 3, 6, 5), device=device, requires_grad=True)
    out = F.conv2d(x, weight, stride=2, padding=1)
    g = Tensor(numbers(*out.shape, seed=1), device=device)
    out.backward(g)
    back = F.conv_transpose2d(g, weight, stride=2, padding=1, output_padding=(1, 1))
    np.testing.assert_allclose(back.numpy(), x.grad.numpy(), atol=1e-12)


GEOMETRIES = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (1, 2), "padding": (0, 1), "dilation": (2, 1)},
    {"padding": "same"},
    {"groups": 2},
]


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_conv2d_gradients_equal_differences(options, device):
    shapes = (1, 2, 4, 3), (2, 2 // options.get("groups", 1), 2, 2), (2,)
    arrays = [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
    check_gradients(lambda x, w, b: F.conv2d(x, w, b, **options), *arrays, device=device)


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": 1, "output_padding": 1}, {"groups": 2, "dilation": 2}],
    ids=str,
)
def test_conv_transpose2d_gradients_equal_differences(options, device):
    shapes = (1, 2, 2, 3), (2, 1, 2, 2), (options.get("groups", 1),)
    arrays = [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
    check_gradients(lambda x, w, b: F.conv_transpose2d(x, w, b, **options), *arrays, device=device)


def test_conv1d_gradients_equal_differences(device):
    arrays = numbers(2, 2, 5), numbers(2, 2, 2, seed=1), numbers(2, seed=2)
    check_gradients(lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=1), *arrays, device=device)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 3},
        {"padding": "same", "dilation": 2},
        {"padding": "valid"},
        {"groups": 2},
    ],
    ids=str,
)
def test_conv1d_is_conv2d_of_images_one_pixel_tall(options, device):
    shapes = (2, 4, 7), (2, 4 // options.get("groups", 1), 3), (2,)
    x, weight, bias = (Tensor(numbers(*s, seed=i), device=device) for i, s in enumerate(shapes))
    tall = {
        name: (0, value) if name == "padding" and isinstance(value, int) else value
        for name, value in options.items()
    }
    for name in ("stride", "dilation"):
        tall[name] = (1, options.get(name, 1))
    wanted = F.conv2d(x.expand_dims(2), weight.expand_dims(2), bias, **tall).squeeze(2)
    assert np.array_equal(F.conv1d(x, weight, bias, **options).numpy(), wanted.numpy())


def test_a_depthwise_convolution_filters_each_channel_alone(device):
    x, weight = numbers(1, 3, 5, 5), numbers(3, 1, 3, 3, seed=1)
    found = F.conv2d(Tensor(x, device=device), Tensor(weight, device=device), groups=3)
    for c in range(3):
        alone = loops.conv2d(x[:, c : c + 1], weight[c : c + 1])
        np.testing.assert_allclose(found.numpy()[:, c : c + 1], alone, atol=1e-12)


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (F.conv1d, [(2, 2, 5), (3, 2, 3), (3,)]),
        (F.conv2d, [(2, 2, 5, 4), (3, 2, 3, 2), (3,)]),
        (F.conv_transpose2d, [(2, 2, 3, 3), (2, 3, 3, 2), (3,)]),
    ],
    ids=["conv1d", "conv2d", "conv_transpose2d"],
)
def test_convolutions_are_pure_and_keep_dtypes(op, shapes, device):
    check_pure(op, *(numbers(*shape, seed=i) for i, shape in enumerate(shapes)), device=device)


def memory_orders(array: np.ndarray) -> dict[str, np.ndarray]:
    """The same images in other memory: channels last, every second of a larger array, reversed."""
    n, c, h, w = array.shape
    wide = np.zeros((n, c, h, 2 * w), array.dtype)
    wide[..., ::2] = array
    return {
        "channels last": np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "strided": wide[..., ::2],
        "reversed": np.ascontiguousarray(array[:, :, ::-1])[:, :, ::-1],
        "height last": np.ascontiguousarray(array.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2),
    }


@pytest.mark.parametrize("order", ["channels last", "strided", "reversed", "height last"])
@pytest.mark.parametrize("op", [F.conv2d, F.conv_transpose2d], ids=lambda op: op.__name__)
def test_memory_order_changes_nothing(op, order):
    x, weight = numbers(2, 3, 5, 4), numbers(3, 3, 3, 2, seed=1)
    results = []
    for array in (x, memory_orders(x)[order]):
        image = Tensor.wrap(array).requires_grad_()  # wrap keeps the memory as it is
        kernel = Tensor.wrap(weight).requires_grad_()
        out = op(image, kernel, stride=2, padding=1)
        (out * out).sum().backward()
        results.append([out.numpy(), image.grad.numpy(), kernel.grad.numpy()])
    for plain, other in zip(*results, strict=True):
        np.testing.assert_allclose(other, plain, atol=1e-12)


@pytest.mark.parametrize(
    ("op", "shape", "weight_shape", "wanted"),
    [
        (F.conv1d, (0, 2, 5), (3, 2, 3), (0, 3, 3)),
        (F.conv2d, (0, 2, 5, 4), (3, 2, 3, 2), (0, 3, 3, 3)),
        (F.conv_transpose2d, (0, 3, 3, 3), (3, 2, 3, 2), (0, 2, 5, 4)),
    ],
    ids=["conv1d", "conv2d", "conv_transpose2d"],
)
def test_an_empty_batch_gives_an_empty_batch_and_zero_gradients(
    op, shape, weight_shape, wanted, device
):
    x = Tensor(np.zeros(shape), device=device, requires_grad=True)
    weight = Tensor(numbers(*weight_shape), device=device, requires_grad=True)
    out = op(x, weight)
    assert out.shape == wanted
    out.sum().backward()
    assert x.grad.shape == shape
    assert not weight.grad.numpy().any()


def test_a_batch_in_many_slices_equals_its_images_alone():
    """Large enough for the CPU backend to split it among threads."""
    x = Tensor(numbers(9, 8, 24, 24), requires_grad=True)
    weight = Tensor(numbers(4, 8, 3, 3, seed=1), requires_grad=True)
    out = F.conv2d(x, weight, padding=1)
    g = numbers(*out.shape, seed=2)
    out.backward(Tensor(g))
    total = np.zeros(weight.shape)
    for i in range(9):
        one = Tensor(x.numpy()[i : i + 1], requires_grad=True)
        kernel = Tensor(weight.numpy(), requires_grad=True)
        alone = F.conv2d(one, kernel, padding=1)
        alone.backward(Tensor(g[i : i + 1]))
        np.testing.assert_allclose(out.numpy()[i : i + 1], alone.numpy(), atol=1e-10)
        np.testing.assert_allclose(x.grad.numpy()[i : i + 1], one.grad.numpy(), atol=1e-10)
        total += kernel.grad.numpy()
    np.testing.assert_allclose(weight.grad.numpy(), total, atol=1e-10)


def test_no_gradient_is_computed_that_nobody_wants(monkeypatch):
    calls = []
    monkeypatch.setattr(F.convolution, "_weight_gradient", lambda *_: calls.append("weight"))
    monkeypatch.setattr(F.convolution, "_transpose_convolve", lambda *_: calls.append("input"))
    bias = Tensor(np.zeros(2), requires_grad=True)
    F.conv2d(Tensor(numbers(1, 2, 3, 3)), Tensor(numbers(2, 2, 2, 2)), bias).sum().backward()
    assert not calls
    assert bias.grad is not None


def test_no_gradient_is_computed_for_a_frozen_bias(monkeypatch):
    x = Tensor(numbers(1, 2, 3, 3), requires_grad=True)
    out = F.conv2d(x, Tensor(numbers(2, 2, 2, 2)), Tensor(np.zeros(2)))
    upstream = Tensor(np.ones(out.shape))
    monkeypatch.setattr(Tensor, "sum", None)  # what a bias's gradient takes
    out.backward(upstream)
    assert x.grad is not None


def test_second_gradients_are_not_lost_when_only_the_input_requires_one(device):
    x = Tensor(numbers(1, 1, 3, 3), device=device, requires_grad=True)
    out = F.conv2d(x, Tensor(numbers(1, 1, 2, 2, seed=1), device=device))
    (slope,) = minidl.grad((out * out * out).sum(), x, create_graph=True)
    (curvature,) = minidl.grad(slope.sum(), x)
    assert curvature.numpy().any()


@pytest.mark.parametrize("axis", [2, 3])
def test_same_padding_of_an_even_kernel_puts_the_odd_pixel_last(axis, device):
    x = np.arange(1.0, 4).reshape((1, 1, 3, 1) if axis == 2 else (1, 1, 1, 3))
    weight = np.array([1.0, 10]).reshape((1, 1, 2, 1) if axis == 2 else (1, 1, 1, 2))
    out = F.conv2d(Tensor(x, device=device), Tensor(weight, device=device), padding="same")
    assert out.numpy().ravel().tolist() == [21, 32, 3]


@pytest.mark.parametrize("size", [1, 2, 5, 6])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_same_padding_keeps_height_and_width(size, kernel):
    x, weight = minidl.ones((1, 1, size, size + 1)), minidl.ones((1, 1, kernel, kernel + 1))
    assert F.conv2d(x, weight, padding="same").shape == x.shape


def test_groups_may_be_a_numpy_number():
    x, weight = Tensor(numbers(1, 4, 5, 5)), Tensor(numbers(2, 2, 3, 3))
    found = F.conv2d(x, weight, groups=np.int64(2)).numpy()
    assert np.array_equal(found, F.conv2d(x, weight, groups=2).numpy())
