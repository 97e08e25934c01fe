"""Answers to the exercises for chapter 8."""

import numpy as np


def cost(in_channels, out_channels, size, height, width, stride=1):
    kernel = in_channels * size * size
    out_h, out_w = (height - size) // stride + 1, (width - size) // stride + 1
    return out_channels * (kernel + 1), out_h * out_w * out_channels * kernel


def mean_and_spread(values):
    return np.mean(values), np.std(values, ddof=1)


def told_apart(a, b):
    (mean_a, spread_a), (mean_b, spread_b) = mean_and_spread(a), mean_and_spread(b)
    return bool(abs(mean_a - mean_b) > spread_a + spread_b)


def paired(a, b):
    return mean_and_spread(np.subtract(a, b))
