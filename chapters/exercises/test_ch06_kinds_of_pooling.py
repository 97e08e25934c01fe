"""Checks of the exercises for chapter 6."""

import numpy as np

from minidl import Tensor
from minidl.functional import blur_pool2d


def test_gem_pool_has_the_gradient_found_by_hand(exercise):
    window = np.array([[1.0, 5.0], [5.0, 7.0]])
    said, got = exercise.gradients("gem_pool", [[window.tolist()]], [2.0], 2, gradient=[[[[2.0]]]])
    dx, squares, logs = window / 10, window**2, np.log(window)
    slope = (squares * logs).mean() / 25 - np.log(5)
    dp = np.array([5 * slope])
    hints = {
        "that is the gradient of the mean: pixels count by x^(p-1) out^(1-p)": (
            np.full((1, 1, 2, 2), 0.5),
            dp,
        ),
        "the root was not differentiated: dx has the factor out^(1-p)": (
            window[None, None] / 2,
            dp,
        ),
        "dx is not divided by the number of pixels, size²": (4 * dx[None, None], dp),
        "multiply by the incoming gradient": (dx[None, None] / 2, dp / 2),
        "dx has no factor p: that of x^p and that of the root 1/p cancel": (2 * dx[None, None], dp),
        "log out is missing in dp: the root depends on p too": (
            dx[None, None],
            dp + 5 * np.log(5),
        ),
        "dp is divided by p": (dx[None, None], 2 * dp),
        "divide by the mean of x^p in dp": (
            dx[None, None],
            np.array([5 * ((squares * logs).mean() - np.log(5))]),
        ),
    }
    exercise.compare(said, got, (dx[None, None], dp), hints)


def test_gem_pool_passes_gradcheck(exercise):
    image = np.random.default_rng(0).uniform(0.5, 2, (2, 2, 4, 6))
    usual = "right by hand, but not here: does each window use its own mean and output?"
    exercise.gradcheck("gem_pool", [image, [3.0]], 2, usual=usual)


ONE, OTHER = [[1.0, 3.0], [0.0, 4.0]], [[4.0, 1.0], [2.0, 3.0]]
WINDOWS = np.array([[np.concatenate([ONE, ONE, OTHER, OTHER], 1)]])
UNIFORM = np.array([[[[0.2, 0.5, 0.45, 0.65]]]])


def test_stochastic_pool_chooses_in_proportion_to_the_values(exercise):
    hints = {
        "that is max pooling: u decides which pixel is chosen": [[[[4, 4, 4, 4]]]],
        "each pixel had the same chance, but its probability is x / sum": [[[[1, 0, 1, 2]]]],
        "each window has a random number of its own": [[[[3, 3, 4, 4]]]],
        "go through a window row by row, not column by column": [[[[3, 4, 2, 1]]]],
        "the sum of probabilities must be > u, not >= u": [[[[3, 3, 1, 2]]]],
        "add up probabilities, which are divided by the window's sum, not values": [
            [[[1, 1, 4, 4]]]
        ],
        "that is the probability of the chosen pixel: return its value": [
            [[[3 / 8, 4 / 8, 1 / 10, 2 / 10]]]
        ],
    }
    usual = "the first pixel at which the sum of the probabilities is > u is chosen"
    expected = [[[[3, 4, 1, 2]]]]
    exercise.expect(
        "stochastic_pool", WINDOWS, 2, UNIFORM, expected=expected, hints=hints, usual=usual
    )


def test_stochastic_pool_works_for_several_images_and_channels(exercise):
    rng = np.random.default_rng(0)
    images, uniform = rng.integers(0, 9, (2, 3, 6, 3)) + 0.5, rng.random((2, 3, 2, 1))
    expected = np.zeros((2, 3, 2, 1))
    for i, c, row in np.ndindex(2, 3, 2):
        window = images[i, c, 3 * row : 3 * row + 3].ravel()
        enough = window.cumsum() > uniform[i, c, row, 0] * window.sum()
        expected[i, c, row, 0] = window[enough][0]
    usual = "right for one image: does each window end up with its own pixels and its own u?"
    exercise.expect("stochastic_pool", images, 3, uniform, expected=expected, usual=usual)


def test_stochastic_pool_expects_a_value_in_evaluation(exercise):
    hints = {
        "that is the mean; weigh each value by its probability": [[[[2, 2, 2.5, 2.5]]]],
        "that is the maximum; weigh each value by its probability": [[[[4, 4, 4, 4]]]],
        "the probabilities are x / sum: divide the sum of squares by the sum": [
            [[[26, 26, 30, 30]]]
        ],
    }
    expected = [[[[3.25, 3.25, 3, 3]]]]
    exercise.expect("stochastic_pool", WINDOWS, 2, None, expected=expected, hints=hints)


def test_stochastic_pool_of_zeros_is_zero(exercise):
    usual = "a window of zeros divides 0 by 0: its result is 0"
    zeros = np.zeros((1, 1, 2, 2))
    for uniform in (np.full((1, 1, 1, 1), 0.5), None):
        arguments = zeros, 2, uniform
        exercise.expect("stochastic_pool", *arguments, expected=[[[[0.0]]]], usual=usual)


def blurred(images, mode="reflect", kernel=(0.25, 0.5, 0.25)):
    """Blur along both axes, with the edges of one of `np.pad`'s modes."""
    h, w = images.shape[2:]
    padded = np.pad(images, [(0, 0), (0, 0), (1, 1), (1, 1)], mode=mode)
    return sum(
        a * b * padded[:, :, i : i + h, j : j + w]
        for i, a in enumerate(kernel)
        for j, b in enumerate(kernel)
    )


def test_blur_pool_by_hand(exercise):
    images = np.tile([4, 8, 0, 0], (1, 1, 4, 1))
    right = blurred(images)
    hints = {
        "the image is mirrored at its edges, not surrounded by zeros": (
            blurred(images, "constant")[:, :, ::2, ::2]
        ),
        "mirror without repeating the outermost pixel: x[-1] is x[1], not x[0]": (
            blurred(images, "edge")[:, :, ::2, ::2]
        ),
        "the image is mirrored at its edges, not continued from its other side": (
            blurred(images, "wrap")[:, :, ::2, ::2]
        ),
        "divide by 4 along each axis": 16 * right[:, :, ::2, ::2],
        "divide by 4 along each axis, so by 16 together": 4 * right[:, :, ::2, ::2],
        "that is subsampled, but not blurred": images[:, :, ::2, ::2],
        "blur first, then subsample": blurred(images[:, :, ::2, ::2]),
        "the pixel in the middle counts twice: 1, 2, 1": (
            blurred(images, kernel=(1 / 3, 1 / 3, 1 / 3))[:, :, ::2, ::2]
        ),
        "the stride is not used": right,
        "start with pixel 0": right[:, :, 1::2, 1::2],
    }
    exercise.expect("blur_pool", images, 2, expected=[[[[6, 2], [6, 2]]]], hints=hints)


def test_blur_pool_equals_minidl(exercise):
    images = np.random.default_rng(0).normal(size=(2, 3, 5, 7))
    kernel = np.array([0.25, 0.5, 0.25])
    padded = np.pad(images, [(0, 0), (0, 0), (0, 0), (1, 1)], mode="reflect")
    along_width = np.lib.stride_tricks.sliding_window_view(padded, 3, 3) @ kernel
    hints = {"blur along the height too, not only along the width": along_width[:, :, ::2, ::2]}
    usual = "right for equal rows, but not here: axis 3 is the width, axis 2 the height"
    expected = blur_pool2d(Tensor(images), 2, filter_size=3).numpy()
    exercise.expect("blur_pool", images, 2, expected=expected, hints=hints, usual=usual)
