"""Checks of the exercises for chapter 14."""

import numpy as np

from minidl import Tensor
from minidl import functional as F


def test_iou_by_hand(exercise):
    hints = {
        "that is the intersection: divide it by the union": 1.0,
        "the union counts a pixel once, even if both have it: subtract the intersection": 0.25,
        "that is the share of equal pixels: count those of the class alone": 0.375,
        "that divides by the mask's pixels: the union has those of the prediction too": 0.5,
        "that divides by all pixels: those that have the class in neither do not count": 0.125,
    }
    predicted, mask = np.array([1, 1, 0, 0, 2, 2, 0, 2]), np.array([0, 1, 1, 0, 2, 0, 2, 0])
    exercise.expect("iou", predicted, mask, 1, expected=1 / 3, hints=hints)


def test_iou_of_another_class(exercise):
    predicted, mask = np.array([[0, 2], [2, 2]]), np.array([[2, 2], [2, 1]])
    usual = "compare with `kind`, not with 1"
    exercise.expect("iou", predicted, mask, 2, expected=0.5, usual=usual)


def test_unpool_by_hand(exercise):
    hints = {
        "each value goes to its own place, not to the first pixels": [[7, 9, 0, 0], [0, 0, 0, 0]],
        "a place counts along the rows: the image is 4 wide": [[0, 0, 0, 9], [7, 0, 0, 0]],
        "all other pixels are 0": [[7, 7, 7, 7], [9, 9, 9, 9]],
    }
    values, places = np.array([[7.0, 9.0]]), np.array([[1, 6]])
    expected = np.array([[0.0, 7, 0, 0], [0, 0, 9, 0]])
    exercise.expect("unpool", values, places, 2, 4, expected=expected, hints=hints)


def test_unpool_equals_minidl(exercise):
    x = Tensor(np.random.default_rng(0).normal(size=(1, 1, 4, 6)))
    values, places = F.max_pool2d(x, 2, return_indices=True)
    expected = F.max_unpool2d(values, places, 2).numpy()[0, 0]
    usual = "the values and places have rows and columns; flatten both in the same way"
    given = values.numpy()[0, 0], places.numpy()[0, 0]
    exercise.expect("unpool", *given, 4, 6, expected=expected, usual=usual)


def test_transposed_by_hand(exercise):
    hints = {
        "where kernels overlap, they add up: += instead of =": [1, 1, 2, 2, 2],
        "the next kernel begins `stride` further": [1, 3, 3, 2, 0],
        "the output ends with the last kernel: (n - 1) * stride + size long": [1, 1, 3, 2, 2, 0],
    }
    exercise.expect("transposed", [1.0, 2], [1.0, 1, 1], 2, expected=[1.0, 1, 3, 2, 2], hints=hints)


def test_transposed_equals_minidl(exercise):
    x, kernel = np.array([1.0, -2, 3]), np.array([1.0, 2, 4, 8])
    one = F.conv_transpose2d(
        Tensor(x[None, None, None]), Tensor(kernel[None, None, None]), stride=3
    )
    usual = "each value is multiplied by the kernel as it is, not turned round"
    expected = one.numpy()[0, 0, 0][: 2 * 3 + 4]
    exercise.expect("transposed", x, kernel, 3, expected=expected, usual=usual)
