"""Convolutions of any geometry against literal loops, and against each other."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl
from minidl import Tensor
from minidl import functional as F
from minidl.backends import Windows, blocks
from minidl.backends.cpu.numpy_backend import NumpyBackend

from .helpers import formulas, loops
from .helpers.formulas import as_pair
from .helpers.gradients import check_affine


def numbers(*shape: int, seed: int = 0, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def one_or_pair(least: int, most: int) -> st.SearchStrategy:
    number = st.integers(least, most)
    return number | st.tuples(number, number)


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


def weights(x_shape: tuple[int, ...], weight_shape: tuple[int, ...], outputs: int | None):
    """Return input, weight, and a bias if its size is given."""
    shapes = [x_shape, weight_shape, *([(outputs,)] if outputs else [])]
    return [numbers(*shape, seed=seed) for seed, shape in enumerate(shapes)]


@settings(max_examples=200)
@given(case=convolutions(), with_bias=st.booleans())
def test_conv2d_and_its_gradients_equal_literal_loops(case, with_bias, device):
    x_shape, weight_shape, options = case
    check_affine(
        lambda *inputs: F.conv2d(*inputs, **options),
        lambda *inputs: formulas.conv2d(*inputs, **options),
        weights(x_shape, weight_shape, weight_shape[0] if with_bias else None),
        device,
    )


@st.composite
def convolutions_of_sequences(draw):
    groups, channels = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    padding = draw(st.integers(0, 2) | st.sampled_from(["same", "valid"]))
    stride = 1 if padding == "same" else draw(st.integers(1, 3))
    span, room = dilation * (kernel - 1) + 1, 0 if isinstance(padding, str) else 2 * padding
    x_shape = draw(st.integers(0, 2)), channels * groups, draw(st.integers(max(1, span - room), 8))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return x_shape, (draw(st.integers(1, 2)) * groups, channels, kernel), options


@given(case=convolutions_of_sequences(), with_bias=st.booleans())
def test_conv1d_and_its_gradients_equal_literal_loops(case, with_bias, device):
    x_shape, weight_shape, options = case
    check_affine(
        lambda *inputs: F.conv1d(*inputs, **options),
        lambda *inputs: formulas.conv1d(*inputs, **options),
        weights(x_shape, weight_shape, weight_shape[0] if with_bias else None),
        device,
    )


@st.composite
def transposed_convolutions(draw):
    groups = draw(st.integers(1, 2))
    inputs, channels = draw(st.integers(1, 2)) * groups, draw(st.integers(1, 2))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride, dilation = draw(one_or_pair(1, 3)), draw(one_or_pair(1, 4))
    spacing = zip(as_pair(stride), as_pair(dilation), strict=True)
    extra = tuple(draw(st.integers(0, max(pair) - 1)) for pair in spacing)
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


@settings(max_examples=200)
@given(case=transposed_convolutions(), with_bias=st.booleans())
def test_conv_transpose2d_and_its_gradients_equal_literal_loops(case, with_bias, device):
    x_shape, weight_shape, options = case
    check_affine(
        lambda *inputs: F.conv_transpose2d(*inputs, **options),
        lambda *inputs: formulas.conv_transpose2d(*inputs, **options),
        weights(x_shape, weight_shape, weight_shape[1] * options["groups"] if with_bias else None),
        device,
    )


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_output_padding_may_exceed_the_stride_up_to_the_dilation(padding, device):
    """Rows of the output that no window reaches are 0, or the bias."""
    options = {"padding": padding, "output_padding": 3, "dilation": 4}
    check_affine(
        lambda *inputs: F.conv_transpose2d(*inputs, **options),
        lambda *inputs: formulas.conv_transpose2d(*inputs, **options),
        weights((1, 2, 5, 4), (2, 3, 2, 3), 3),
        device,
    )
    x, weight = Tensor(numbers(1, 2, 5, 4)), Tensor(numbers(2, 3, 2, 3))
    with pytest.raises(ValueError, match="output_padding=4, expected less than stride=1 or dil"):
        F.conv_transpose2d(x, weight, output_padding=4, dilation=4)


def test_conv_transpose2d_carries_gradients_back_through_conv2d(device):
    weight = Tensor(numbers(2, 3, 3, 2), device=device)
    x = Tensor(numbers(2, 3, 6, 5), device=device, requires_grad=True)
    out = F.conv2d(x, weight, stride=2, padding=1)
    g = Tensor(numbers(*out.shape, seed=1), device=device)
    out.backward(g)
    back = F.conv_transpose2d(g, weight, stride=2, padding=1, output_padding=(1, 1))
    np.testing.assert_allclose(back.numpy(), x.grad.numpy(), atol=1e-12)


def test_a_depthwise_convolution_filters_each_channel_alone(device):
    x, weight = numbers(1, 3, 5, 5), numbers(3, 1, 3, 3, seed=1)
    found = F.conv2d(Tensor(x, device=device), Tensor(weight, device=device), groups=3)
    for c in range(3):
        alone = loops.conv2d(x[:, c : c + 1], weight[c : c + 1])
        np.testing.assert_allclose(found.numpy()[:, c : c + 1], alone, atol=1e-12)


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


def test_no_gradient_is_computed_that_nobody_needs(monkeypatch):
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


@pytest.mark.parametrize(
    ("kernel", "options"),
    [((5, 5), {"padding": 2}), ((3, 1), {}), ((1, 1), {}), ((2, 2), {}), ((3, 3), {"stride": 2})],
)
def test_wide_convolutions_in_float32_have_the_gradients_of_float64(kernel, options):
    """Many channels may be computed in another way than few, which gradcheck sees."""
    shapes = (2, 64, 20, 20), (48, 64, *kernel), (48,)
    arrays = [numbers(*shape, seed=i).astype(np.float32) for i, shape in enumerate(shapes)]
    found = []
    for dtype in (np.float32, np.float64):
        tensors = [Tensor(a, dtype, requires_grad=True) for a in arrays]
        out = F.conv2d(*tensors, **options)
        out.backward(Tensor(numbers(*out.shape, seed=9), dtype))
        found.append([out.numpy(), *(t.grad.numpy() for t in tensors)])
    for mine, wanted in zip(*found, strict=True):
        assert np.abs(mine - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_kernel_as_wide_as_the_image_is_one_like_any_other(channels, device):
    x, weight = numbers(2, channels, 6, 4), numbers(5, channels, 3, 4, seed=1)
    for stride in (1, 2):
        wanted = loops.conv2d(x, weight, numbers(5), (stride, 1))
        given = [Tensor(a, device=device) for a in (x, weight, numbers(5))]
        found = F.conv2d(*given, stride=(stride, 1))
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)
    minidl.gradcheck(lambda x, w: F.conv2d(x, w, dilation=(2, 1)), given[:2], order=2)


# One large image, in blocks


@contextmanager
def small_blocks(pixels: int, side: int = 1) -> Iterator[None]:
    """Split images into blocks of about this many output pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks.BlockedBackend, "block_bytes", 0)
        patch.setattr(blocks, "LEAST", pixels)
        patch.setattr(blocks, "SIDE", side)
        yield


@settings(max_examples=200)
@given(
    case=convolutions(), pixels=st.integers(1, 9), side=st.integers(1, 3), with_bias=st.booleans()
)
def test_blocks_have_the_result_and_gradients_of_literal_loops(
    case, pixels, side, with_bias, device
):
    with small_blocks(pixels, side):
        test_conv2d_and_its_gradients_equal_literal_loops.hypothesis.inner_test(
            case, with_bias, device
        )


@given(case=convolutions_of_sequences(), pixels=st.integers(1, 4))
def test_a_long_sequence_in_blocks_equals_literal_loops(case, pixels, device):
    with small_blocks(pixels):
        test_conv1d_and_its_gradients_equal_literal_loops.hypothesis.inner_test(case, True, device)


@given(case=transposed_convolutions(), pixels=st.integers(1, 9))
def test_a_transposed_convolution_in_blocks_equals_literal_loops(case, pixels, device):
    with small_blocks(pixels):
        test_conv_transpose2d_and_its_gradients_equal_literal_loops.hypothesis.inner_test(
            case, False, device
        )


CASES_IN_BLOCKS = {
    "Winograd's tiles": ((1, 40, 41, 38), (33, 40, 3, 3), {"padding": 1}),
    "Winograd's strips": ((2, 6, 41, 38), (8, 6, 3, 3), {"padding": 2}),
    "planar": ((1, 3, 45, 41), (8, 3, 7, 7), {"padding": 3, "stride": 2}),
    "columns": ((1, 5, 45, 41), (4, 5, 5, 4), {"dilation": 2}),
    "in groups": ((1, 6, 45, 41), (4, 3, 3, 3), {"groups": 2}),
    "depthwise": ((1, 6, 45, 41), (6, 1, 5, 5), {"groups": 6, "stride": 2}),
    "a kernel as wide as the image": ((1, 1, 90, 7), (4, 1, 3, 7), {}),
    "a point": ((1, 5, 45, 41), (4, 5, 1, 1), {}),
}


def whole_and_in_blocks(x_shape, weight_shape, options, dtype=np.float32) -> Iterator[list]:
    """Yield the result and all gradients: first whole, then in blocks of 16 x 16 pixels."""
    for pixels in (10**6, 256):
        with small_blocks(pixels, 16):
            arrays = [numbers(*s, seed=i) for i, s in enumerate((x_shape, weight_shape))]
            tensors = [Tensor(a, dtype, requires_grad=True) for a in arrays]
            bias = Tensor(numbers(weight_shape[0], seed=2), dtype, requires_grad=True)
            out = F.conv2d_relu(*tensors, bias, **options)
            out.backward(Tensor(numbers(*out.shape, seed=3), dtype))
            yield [out.numpy(), *(t.grad.numpy() for t in (*tensors, bias))]


@pytest.mark.parametrize("case", CASES_IN_BLOCKS)
def test_every_form_of_a_convolution_can_work_on_blocks(case):
    for whole, split in zip(*whole_and_in_blocks(*CASES_IN_BLOCKS[case]), strict=True):
        assert split.dtype == np.float32
        assert np.abs(split - whole).max() < 2e-5 * np.abs(whole).max()


def test_blocks_give_the_same_bits_on_any_number_of_threads():
    before, found = minidl.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            minidl.set_num_threads(threads)
            *_, split = whole_and_in_blocks(*CASES_IN_BLOCKS["Winograd's strips"])
            found.append(split)
    finally:
        minidl.set_num_threads(before)
    for one, *others in zip(*found, strict=True):
        assert all(np.array_equal(one, other) for other in others)


LARGE = {
    "an image": (Windows(500, 500, 7, 7, 1, 1, 1, 1, 3, 3, 3, 3), 3),
    "a sequence": (Windows(1, 300_000, 1, 15), 8),
    "an image with many channels": (Windows(200, 200, 3, 3), 64),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(blocks.BlockedBackend, marks=pytest.mark.slow), NumpyBackend]
)
@pytest.mark.parametrize("name", LARGE)
def test_a_large_image_takes_little_memory_beside_its_result(name, kind):
    """Its columns would take 92 to 147 MB."""
    (w, c), d, backend = LARGE[name], 8, kind()
    images, weight = (
        numbers(*s).astype(np.float32) for s in ((1, c, w.in_h, w.in_w), (d, c, w.k_h, w.k_w))
    )
    gradient = np.ones((1, d, w.out_h, w.out_w), np.float32)
    for work in (
        lambda: backend.convolve(images, weight, None, w, 1),
        lambda: backend.transpose_convolve(gradient, weight, w, 1),
        lambda: backend.weight_gradient(images, gradient, w, 1),
    ):
        tracemalloc.start()
        result = work()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak - result.nbytes < 70e6
