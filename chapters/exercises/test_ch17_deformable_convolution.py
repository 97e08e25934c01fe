"""Checks of the exercises for chapter 17."""

import numpy as np

from minidl import Tensor
from minidl import functional as F

IMAGE = np.array([[1.0, 3.0], [5.0, 11.0]])


def test_between_by_hand(exercise):
    hints = {
        "a is the share of the lower pixels, 1 - a that of the upper ones": 6.5,
        "that is the nearest pixel": 1.0,
        "that is the mean of the four pixels": 5.0,
    }
    exercise.expect("between", IMAGE, 0.25, 0.5, expected=3.5, hints=hints)


def test_between_at_the_edge(exercise):
    hints = {"a pixel outside is 0, not the nearest one": 11.0}
    exercise.expect("between", IMAGE, 1, 1.5, expected=5.5, hints=hints)


def test_between_above_the_image(exercise):
    usual = "row -1 lies outside: its pixels are 0, not those of the last row"
    exercise.expect("between", IMAGE, -0.5, 0, expected=0.5, usual=usual)


def test_slopes_by_hand(exercise):
    hints = {
        "down first, then to the right": (3.0, 6.0),
        "a derivative for y is the lower value minus the upper one": (-6.0, -3.0),
        "weigh the two differences by 1 - b and b, or by 1 - a and a": (4.0, 2.0),
    }
    exercise.expect("slopes", IMAGE, 0.25, 0.5, expected=(6.0, 3.0), hints=hints)


def test_slopes_equal_the_gradient_of_minidl(exercise):
    image = np.random.default_rng(0).standard_normal((5, 6))
    for y, x in ((1.3, 2.6), (3.9, 4.2), (4.5, 5.5), (-0.5, 0.25)):
        moves = np.zeros((1, 2, 5, 6))
        moves[0, :, 0, 0] = y, x
        offset = Tensor(moves, requires_grad=True)
        pixels, one = Tensor(image[None, None]), Tensor(np.ones((1, 1, 1, 1)))
        F.deform_conv2d(pixels, offset, one)[0, 0, 0, 0].backward()
        expected = tuple(offset.grad.numpy()[0, :, 0, 0])
        usual = "at the edge, differences with the zeros outside count too"
        exercise.expect("slopes", image, y, x, expected=expected, usual=usual)


def test_points_by_hand(exercise):
    expected = np.stack(np.mgrid[3:6, 3:6], -1).reshape(9, 2).astype(float)
    usual = "tap 0 reads (row - 1, column - 1), tap 8 (row + 1, column + 1)"
    exercise.expect("points", np.zeros((18, 8, 8)), 4, 4, expected=expected, usual=usual)


def test_points_move_down_and_right(exercise):
    offsets = np.zeros((18, 8, 8))
    offsets[2, 4, 5], offsets[3, 4, 5] = 0.5, -2.0  # tap 1
    expected = np.stack(np.mgrid[3:6, 4:7], -1).reshape(9, 2).astype(float)
    swapped = expected.copy()
    expected[1] += 0.5, -2.0
    swapped[1] += -2.0, 0.5
    hints = {"the even channel is down, the odd one to the right": swapped}
    exercise.expect("points", offsets, 4, 5, expected=expected, hints=hints)
