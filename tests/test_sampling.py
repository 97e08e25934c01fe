"""Resampling, pooling of regions and deformable convolution: any shape, special values, errors."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from minidl import Tensor, nn, no_grad, ones, zeros
from minidl import functional as F

from .helpers import sampling

sides = st.integers(1, 9)
EVERY = hypothesis.settings(max_examples=40, deadline=None)


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).round(1)


@EVERY
@hypothesis.given(
    st.tuples(sides, sides),
    st.tuples(sides, sides),
    st.sampled_from(["bilinear", "bicubic"]),
    st.booleans(),
)
def test_interpolate_to_any_size_equals_literal_loops(shape, size, mode, corners):
    x = drawn(0, 1, 2, *shape)
    found = F.interpolate(Tensor(x), size, mode=mode, align_corners=corners).numpy()
    wanted = sampling.interpolate(x, size, None, mode, corners)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)  # floors are float32's


@EVERY
@hypothesis.given(st.tuples(sides, sides), st.sampled_from([0.5, 1, 1.5, 2, 3, 4]))
def test_nearest_pixels_of_any_image_equal_literal_loops(shape, factor):
    hypothesis.assume(min(shape) * factor >= 1)
    x = drawn(0, 1, 2, *shape)
    found = F.interpolate(Tensor(x), scale_factor=factor).numpy()
    assert np.array_equal(found, sampling.interpolate(x, None, factor))


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_a_nan_reaches_only_its_neighbours(mode):
    """Although finite images are multiplied by dense matrices, which have zeros elsewhere."""
    x = np.ones((1, 3, 40, 40), np.float32)
    x[0, 1, 20, 20] = np.nan
    for images in (x, np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)):
        is_nan = np.isnan(F.interpolate(Tensor.wrap(images), scale_factor=2, mode=mode).numpy())
        rows, columns = (np.flatnonzero(is_nan[0, 1].any(axis)) for axis in (1, 0))
        assert not is_nan[0, [0, 2]].any()
        assert 36 <= rows.min() <= rows.max() <= 45
        assert 36 <= columns.min() <= columns.max() <= 45


def boxes(images: int) -> st.SearchStrategy:
    side = st.integers(-12, 40).map(lambda n: n / 4)
    box = st.tuples(st.integers(0, images - 1), side, side, side, side)
    return st.lists(box, max_size=4).map(lambda found: np.array(found, float).reshape(-1, 5))


@EVERY
@hypothesis.given(
    boxes(2), st.tuples(sides, sides), st.tuples(st.integers(1, 4), st.integers(1, 4))
)
def test_maxima_of_any_boxes_equal_literal_loops(found, shape, size):
    x = drawn(0, 2, 2, *shape)
    wanted = sampling.roi_pool2d(x, found, size, 0.5)
    for dtype in (np.float64, np.float32):
        given = Tensor(x, dtype)
        np.testing.assert_allclose(F.roi_pool2d(given, found, size, 0.5).numpy(), wanted, 1e-6)


@EVERY
@hypothesis.given(
    boxes(2), st.tuples(sides, sides), st.integers(1, 3), st.integers(-1, 2), st.booleans()
)
def test_means_of_any_boxes_equal_literal_loops(found, shape, size, ratio, aligned):
    x = drawn(0, 2, 2, *shape)
    wanted = sampling.roi_align2d(x, found, size, 0.5, ratio, aligned)
    got = F.roi_align2d(Tensor(x), found, size, 0.5, ratio, aligned).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("c", [1, 3, 6, 8])
def test_the_gradient_of_any_number_of_images_and_channels_is_the_transposed_map(n, c):
    """Gradients are computed in pieces, of which there are at least four if channels allow it."""
    x, found = Tensor(drawn(0, n, c, 5, 6), requires_grad=True), np.zeros((7, 5))
    found[:, 0], found[:, 1:] = np.arange(7) % n, [1, 0.5, 4.5, 4]
    for pool in (F.roi_align2d, F.roi_pool2d):
        x.grad = None
        out = pool(x, found, 2)
        g = Tensor(drawn(1, *out.shape))
        out.backward(g)
        assert x.grad is not None
        np.testing.assert_allclose((x.grad * x).sum().item(), (g * out).sum().item(), rtol=1e-10)


def test_the_first_of_equal_pixels_gets_the_gradient_and_nan_propagates():
    x = Tensor(np.zeros((1, 1, 6, 6)), requires_grad=True)
    F.roi_pool2d(x, [[0, 0, 0, 5, 5]], 1).backward(ones((1, 1, 1, 1), dtype="float64"))
    assert x.grad is not None
    assert x.grad.numpy().nonzero() == ([0], [0], [0], [0])
    image = np.zeros((1, 1, 6, 6), np.float32)
    image[0, 0, 4, 4] = -np.float32(np.nan)
    assert np.isnan(F.roi_pool2d(Tensor(image), [[0, 0, 0, 5, 5]], 1).numpy()).all()


def test_without_offsets_it_is_a_convolution():
    x, weight, bias = (
        Tensor(drawn(i, *s)) for i, s in enumerate([(2, 4, 6, 5), (6, 2, 3, 2), (6,)])
    )
    geometry = {"stride": (2, 1), "padding": 1, "dilation": (1, 2)}
    wanted = F.conv2d(x, weight, bias, groups=2, **geometry)
    offset = zeros((2, 2 * 3 * 2, *wanted.shape[2:]), dtype="float64")
    found = F.deform_conv2d(x, offset, weight, bias, **geometry)
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-10, atol=1e-10)


def test_a_deformable_layer_starts_as_the_convolution_of_the_same_seed():
    layers = [
        kind(2, 3, 3, padding="same", rng=np.random.default_rng(0))
        for kind in (nn.Conv2d, nn.DeformConv2d)
    ]
    x = Tensor(drawn(0, 1, 2, 5, 4), "float32")
    with no_grad():
        plain, moved = layers[0](x), layers[1](x, zeros((1, 18, 5, 4)))
    np.testing.assert_allclose(plain.numpy(), moved.numpy(), rtol=1e-5, atol=1e-5)
    assert set(layers[1].state_dict()) == {"weight", "bias"}


I = ones((2, 3, 4, 4))  # noqa: E741
BOX = np.array([[0, 0, 0, 2, 2]])
OFFSET, WEIGHT = zeros((2, 8, 3, 3)), ones((5, 3, 2, 2))
ERRORS = {
    "F.interpolate(I)": "interpolate: got size=None and scale_factor=None, expected exactly one",
    "F.interpolate(I, 2, 2)": "interpolate: got size=2 and scale_factor=2, expected exactly one",
    "F.interpolate(I, 0)": "interpolate: got size=0, expected an integer >= 1",
    "F.interpolate(I, scale_factor=0)": "got scale_factor=0, expected a finite number > 0",
    "F.interpolate(I, scale_factor=0.1)": "images of 4 by 4 and an output of 0 by 0, expected at",
    "F.interpolate(I, 2, mode='area')": "got mode='area', expected 'nearest', 'bilinear' or",
    "F.interpolate(I, 2, align_corners=True)": "got align_corners=True with mode='nearest'",
    "F.interpolate(I[0], 2)": "interpolate: got shape (3, 4, 4), expected (n, c, h, w)",
    "nn.Upsample(mode='bilinear')": "Upsample: got size=None and scale_factor=None",
    "F.roi_pool2d(I, BOX[:, :4], 2)": "roi_pool2d: got boxes of shape (1, 4), expected (k, 5)",
    "F.roi_pool2d(I, BOX + 0.5, 2)": "got boxes with image indices from 0.5 to 0.5 for 2 images",
    "F.roi_pool2d(I, BOX + 2, 2)": "got boxes with image indices from 2 to 2 for 2 images",
    "F.roi_pool2d(I, BOX * np.nan, 2)": "roi_pool2d: got boxes with NaN or infinity",
    "F.roi_pool2d(I[:, :, :0], BOX, 2)": "roi_pool2d: got images of shape (2, 3, 0, 4), expected",
    "F.roi_pool2d(I, BOX, 0)": "roi_pool2d: got output_size=0, expected an integer >= 1",
    "F.roi_align2d(I, BOX, 2, -1)": "got spatial_scale=-1, expected a finite number > 0",
    "F.roi_align2d(I, BOX, 2, 1, 0.5)": "got sampling_ratio=0.5, expected an integer",
    "F.roi_align2d(I, BOX > 0, 2)": "roi_align2d: got boxes of dtype bool, expected numbers",
    "nn.RoIPool2d(2, 0)": "RoIPool2d: got spatial_scale=0, expected a finite number > 0",
    "nn.RoIAlign2d((2, 0))": "RoIAlign2d: got output_size=(2, 0), expected an integer >= 1",
    "F.deform_conv2d(I, OFFSET[:, :6], WEIGHT)": "got offset of shape (2, 6, 3, 3) for images",
    "F.deform_conv2d(I, OFFSET[:, :, :2], WEIGHT)": "expected (2, 8 * g, 3, 3), where g divides 3",
    "F.deform_conv2d(I, OFFSET, WEIGHT, mask=OFFSET)": "got mask of shape (2, 8, 3, 3), expected",
    "F.deform_conv2d(I, OFFSET, WEIGHT[:, :2])": "deform_conv2d: got an input of 3 channels",
    "F.deform_conv2d(I, OFFSET.to(dtype='float64'), WEIGHT)": "and offset with dtype float64",
}


@pytest.mark.parametrize("call", ERRORS)
def test_errors_say_what_was_got_and_what_is_expected(call):
    with pytest.raises((ValueError, TypeError)) as caught:
        eval(call)
    assert ERRORS[call] in str(caught.value)
