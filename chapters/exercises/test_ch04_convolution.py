"""Checks of the exercises for chapter 4."""

import numpy as np

from minidl import Tensor
from minidl.functional import conv2d


def image(*shape):
    return np.arange(np.prod(shape)).reshape(shape)


def test_columns_are_windows_as_rows(exercise):
    expected = np.array([[0, 1, 4, 5], [1, 2, 5, 6], [2, 3, 6, 7]])
    expected = np.concatenate(
        [expected, expected + 4]
    )  # windows of the rows 0 and 1, then of 1 and 2
    hints = {
        "transposed: each window is a row": expected.T,
        "a window's values go row by row, not column by column": expected[:, [0, 2, 1, 3]],
        "windows go along the image's rows first, not down its columns": expected[
            [0, 3, 1, 4, 2, 5]
        ],
        "one window is missing in each direction: there are (h - size) // stride + 1": expected[:2],
        "these windows do not overlap: with stride 1 they start at every pixel": expected[[0, 2]],
    }
    exercise.expect("columns", image(1, 1, 3, 4), 2, expected=expected, hints=hints)


def test_columns_move_by_the_stride(exercise):
    first = np.array([[0, 1, 4, 5]])
    hints = {
        "window (i, j) starts at pixel (i * stride, j * stride), not at (i, j)": (
            first + np.array([[0], [1], [4], [5]])
        ),
        "the stride is not used": first + np.array([[0, 1, 2, 4, 5, 6, 8, 9, 10]]).T,
        "one window is missing in each direction: there are (h - size) // stride + 1": first,
    }
    expected = first + np.array([[0], [2], [8], [10]])
    exercise.expect("columns", image(1, 1, 4, 4), 2, 2, expected=expected, hints=hints)


def test_columns_times_weights_are_a_convolution(exercise):
    rng = np.random.default_rng(0)
    images, weight = rng.normal(size=(2, 3, 5, 6)), rng.normal(size=(4, 3, 3, 3))
    got = np.asarray(exercise.call("columns", images, 3, 1))
    usual = "two images of 5 x 6 pixels have 2 x 3 x 4 windows of 3 channels x 3 x 3 pixels"
    exercise.compare(
        "the shape of columns(images of (2, 3, 5, 6), 3)", got.shape, (24, 27), usual=usual
    )
    product = (got @ weight.reshape(4, -1).T).reshape(2, 3, 4, 4).transpose(0, 3, 1, 2)
    expected = conv2d(Tensor(images), Tensor(weight)).numpy()
    usual = "a row holds the window of channel 0, then of channel 1: are the axes in order?"
    exercise.compare("columns @ weights, compared with conv2d", product, expected, usual=usual)


def test_convolve_row_has_the_gradient_found_by_hand(exercise):
    said, got = exercise.gradients(
        "convolve_row", [[1.0, 2.0, 3.0]], [1.0, 10.0], gradient=[[1.0, 2.0]]
    )
    hints = {
        "dx[i + j] gets weight[j] * gradient[i]; this used the flipped kernel": (
            [[10.0, 21.0, 2.0]],
            [5.0, 8.0],
        ),
        "dx[i + j] gets a contribution from every j: add them up": (
            [[0.0, 10.0, 20.0]],
            [5.0, 8.0],
        ),
        "the incoming gradient is missing in dweight": ([[1.0, 12.0, 20.0]], [3.0, 5.0]),
        "the incoming gradient is missing in dx": ([[1.0, 11.0, 10.0]], [5.0, 8.0]),
        "dweight is flipped: dweight[j] uses x from pixel j on": (
            [[1.0, 12.0, 20.0]],
            [8.0, 5.0],
        ),
    }
    exercise.compare(said, got, ([[1.0, 12.0, 20.0]], [5.0, 8.0]), hints)


def test_convolve_row_passes_gradcheck(exercise):
    rng = np.random.default_rng(0)
    usual = "right by hand, but not here: does it sum over all rows, and work for any k?"
    exercise.gradcheck("convolve_row", [rng.normal(size=(2, 6)), rng.normal(size=3)], usual=usual)


def test_receptive_field_without_strides(exercise):
    hints = {
        "a layer sees k - 1 pixels more than the one before, not k": 7,
        "without layers, an output sees 1 pixel: start with 1": 4,
        "windows overlap: each layer adds pixels, it does not multiply them": 9,
    }
    exercise.expect("receptive_field", [(3, 1), (3, 1)], expected=5, hints=hints)


def test_receptive_field_grows_faster_after_a_stride(exercise):
    hints = {
        "the strides are not used: after a stride of 2, neighbours are 2 pixels apart": 8,
        "a layer's own stride counts only for the layers after it": 13,
    }
    usual = "a layer adds (kernel_size - 1) times the product of all strides before it"
    exercise.expect(
        "receptive_field", [(3, 1), (2, 2), (5, 1)], expected=12, hints=hints, usual=usual
    )
    exercise.expect("receptive_field", [(3, 2), (3, 2), (3, 2)], expected=15, usual=usual)
