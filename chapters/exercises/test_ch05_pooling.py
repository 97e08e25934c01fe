"""Checks of the exercises for chapter 5."""

import numpy as np

WITHIN = (
    "the offset within the window was added to the index: turn it into a row and a column of the "
    "window first, divmod(offset, size)"
)


def test_max_pool_with_indices_by_hand(exercise):
    image = np.array([[1, 9, 2], [4, 3, 8], [7, 5, 6]])
    values = [[9, 9], [7, 8]]
    hints = {
        "that is the index within the window: return the index in the whole image": (
            values,
            [[1, 0], [2, 1]],
        ),
        WITHIN: (values, [[1, 1], [5, 5]]),
        "the index is row * w + column; row and column are swapped": (values, [[3, 3], [2, 7]]),
        "the order is wrong: first the maxima, then the indices": ([[1, 1], [6, 5]], values),
    }
    expected = (values, [[1, 1], [6, 5]])
    exercise.expect("max_pool_with_indices", image, 2, 1, expected=expected, hints=hints)


def test_max_pool_with_indices_moves_by_the_stride(exercise):
    image = np.arange(20).reshape(4, 5)
    hints = {
        "window (i, j) starts at pixel (i * stride, j * stride), not at (i, j)": (
            [[6, 7], [11, 12]],
            [[6, 7], [11, 12]],
        ),
        "an index is row * w + column: w is the image's width, here 5, not its height": (
            [[6, 8], [16, 18]],
            [[5, 7], [13, 15]],
        ),
        "that is the index within the window: add the row and column where it starts": (
            [[6, 8], [16, 18]],
            [[3, 3], [3, 3]],
        ),
        WITHIN: ([[6, 8], [16, 18]], [[3, 5], [13, 15]]),
    }
    expected = ([[6, 8], [16, 18]], [[6, 8], [16, 18]])
    exercise.expect("max_pool_with_indices", image, 2, 2, expected=expected, hints=hints)


def test_max_pool_with_indices_of_negative_and_equal_pixels(exercise):
    hints = {
        "all pixels are below 0: the search for the maximum cannot start at 0": ([[0]], [[0]]),
        "if pixels are equal, the first wins: use > instead of >=": ([[-1]], [[3]]),
    }
    image = np.array([[-2, -1], [-3, -1]])
    exercise.expect("max_pool_with_indices", image, 2, 2, expected=([[-1]], [[1]]), hints=hints)


def test_max_pool_has_the_gradient_found_by_hand(exercise):
    image = [[[[1.0, 2.0, 8.0, 7.0], [4.0, 3.0, 5.0, 6.0]]]]
    said, got = exercise.gradients("max_pool", image, 2, gradient=[[[[5.0, 10.0]]]])
    hints = {
        "only the maximum gets the gradient: multiply by `won`": (
            [[[[5.0, 5.0, 10.0, 10.0], [5.0, 5.0, 10.0, 10.0]]]],
        ),
        "that is average pooling: in max pooling, the maximum gets all of the gradient": (
            [[[[1.25, 1.25, 2.5, 2.5], [1.25, 1.25, 2.5, 2.5]]]],
        ),
        "the positions are right; now multiply by the incoming gradient": (
            [[[[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]]],
        ),
        "max pooling does not divide: the maximum gets all of the gradient": (
            [[[[0.0, 0.0, 2.5, 0.0], [1.25, 0.0, 0.0, 0.0]]]],
        ),
    }
    usual = (
        "`won` has 6 axes, the gradient 4: insert axes of length 1 so that the gradient broadcasts "
        "over the pixels of its window, and reshape the product to x's shape"
    )
    expected = ([[[[0.0, 0.0, 10.0, 0.0], [5.0, 0.0, 0.0, 0.0]]]],)
    exercise.compare(said, got, expected, hints, usual)


def test_max_pool_gives_the_gradient_of_equal_pixels_to_one(exercise):
    said, got = exercise.gradients(
        "max_pool", [[[[7.0, 7.0], [7.0, 7.0]]]], 2, gradient=[[[[1.0]]]]
    )
    hints = {
        "each of the equal pixels got all of it, but only one wins: use `won`": (
            [[[[1.0] * 2] * 2]],
        ),
        "that is shared among the equal pixels, but the first wins: use `won`": (
            [[[[0.25] * 2] * 2]],
        ),
    }
    exercise.compare(said, got, ([[[[1.0, 0.0], [0.0, 0.0]]]],), hints)


def test_max_pool_passes_gradcheck(exercise):
    image = np.random.default_rng(0).permutation(72).reshape(2, 1, 6, 6)
    usual = "right by hand, but not here: does it work for several images and rows of windows?"
    exercise.gradcheck("max_pool", [image], 3, usual=usual)


def test_avg_pool_padded_does_not_count_the_padding(exercise):
    image = np.array([[1.0, 2.0], [3.0, 4.0]])
    expected = np.array([[1.0, 1.5, 2.0], [2.0, 2.5, 3.0], [3.0, 3.5, 4.0]])
    seen = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    hints = {
        "divide by the number of image pixels in the window: 1 in a corner, not 4": (
            expected * seen / 4
        ),
        "that is the sum, not the mean": expected * seen,
        "the padding is missing": expected[1:2, 1:2],
    }
    exercise.expect("avg_pool_padded", image, 2, 1, 1, expected=expected, hints=hints)


def test_avg_pool_padded_moves_by_the_stride_and_keeps_fractions(exercise):
    image = np.arange(16).reshape(4, 4)
    hints = {
        "means of integers have fractions: is the output an integer array?": [
            [2, 4],
            [10, 12],
        ],
        "window (i, j) starts at pixel (i * stride, j * stride), not at (i, j)": [
            [2.5, 3.5],
            [6.5, 7.5],
        ],
        "a 0 in the image is no padding: count a window's image pixels, whatever their values": [
            [10 / 3, 4.5],
            [10.5, 12.5],
        ],
    }
    expected = [[2.5, 4.5], [10.5, 12.5]]
    exercise.expect("avg_pool_padded", image, 2, 2, 0, expected=expected, hints=hints)
