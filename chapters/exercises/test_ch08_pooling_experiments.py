"""Checks of the exercises for chapter 8."""

import numpy as np

from minidl import nn
from minidl.inspect import summary


def test_cost_by_hand(exercise):
    hints = {
        "each kernel has one bias: add out_channels parameters": (216, 1944),
        "a kernel sees all input channels: multiply by in_channels": (80, 648),
        "without padding, 5 x 5 pixels give only 3 x 3 outputs": (224, 5400),
        "biases are not counted as multiply-adds": (224, 2016),
        "that is for one of 8 output channels": (28, 243),
    }
    exercise.expect("cost", 3, 8, 3, 5, 5, expected=(224, 1944), hints=hints)


def test_cost_equals_the_count_of_minidl(exercise):
    counted = summary(nn.Conv2d(4, 6, 3, stride=2), (4, 9, 12))
    expected = (counted.parameters, counted.multiply_adds)
    usual = "the stride changes only the number of outputs, here 4 x 5, not the kernels"
    exercise.expect("cost", 4, 6, 3, 9, 12, 2, expected=expected, usual=usual)


def test_mean_and_spread_of_three_seeds(exercise):
    hints = {
        "divide by n - 1: NumPy divides by n unless told ddof=1": (71.0, np.sqrt(8 / 3)),
        "that is the variance: take its square root": (71.0, 4.0),
        "that is the error of the mean; the spread is not divided by sqrt(n)": (
            71.0,
            2 / np.sqrt(3),
        ),
    }
    exercise.expect("mean_and_spread", [69.0, 71.0, 73.0], expected=(71.0, 2.0), hints=hints)


def test_told_apart_only_if_bars_do_not_touch(exercise):
    usual = "bars from 70 to 72 and from 74 to 76 do not touch, whichever net comes first"
    for a, b in (([70.0, 71, 72], [74.0, 75, 76]), ([74.0, 75, 76], [70.0, 71, 72])):
        exercise.expect("told_apart", a, b, expected=True, usual=usual)
    usual = "bars from 70 to 72 and from 71.5 to 73.5 overlap: both spreads count"
    exercise.expect("told_apart", [70.0, 71, 72], [71.5, 72.5, 73.5], expected=False, usual=usual)


def test_paired_takes_differences_seed_by_seed(exercise):
    a, b = [70.0, 75.0, 80.0], [68.0, 72.0, 79.0]
    hints = {
        "a - b, not b - a": (-2.0, 1.0),
        "that combines both spreads: take the differences first, then their spread": (
            2.0,
            np.sqrt(np.var(a, ddof=1) + np.var(b, ddof=1)),
        ),
        "that subtracts the spreads: take the differences of the accuracies first": (
            2.0,
            np.std(a, ddof=1) - np.std(b, ddof=1),
        ),
        "divide by n - 1: NumPy divides by n unless told ddof=1": (2.0, np.sqrt(2 / 3)),
    }
    exercise.expect("paired", a, b, expected=(2.0, 1.0), hints=hints)


def test_paired_keeps_the_seeds_together(exercise):
    usual = "a[i] and b[i] belong together: do not sort them"
    exercise.expect(
        "paired", [3.0, 1.0, 2.0], [1.0, 2.0, 3.0], expected=(0.0, np.sqrt(3)), usual=usual
    )
