"""Answers to the exercises for chapter 8."""

import numpy as np


# Why: Weights are used again at every position: parameters do not depend on the image,
# multiply-adds do. A kernel sees all input channels; forgetting them, or the biases, is the usual
# mistake.
def cost(in_channels, out_channels, size, height, width, stride=1):
    kernel = in_channels * size * size
    out_h, out_w = (height - size) // stride + 1, (width - size) // stride + 1
    return out_channels * (kernel + 1), out_h * out_w * out_channels * kernel


# Why: The mean was computed from these values, so they lie closer to it than to the true mean:
# dividing by n - 1 corrects that. NumPy divides by n unless told otherwise, which for three seeds
# is 18 % too small.
def mean_and_spread(values):
    return np.mean(values), np.std(values, ddof=1)


# Why: Two bars do not touch if the means are further apart than both spreads together. abs, because
# either net may be the better one.
def told_apart(a, b):
    (mean_a, spread_a), (mean_b, spread_b) = mean_and_spread(a), mean_and_spread(b)
    return bool(abs(mean_a - mean_b) > spread_a + spread_b)


# Why: The difference comes first, then its spread: what a seed does to both nets cancels.
# Subtracting the two spreads, or combining them as if the runs were independent, loses that; so
# does sorting.
def paired(a, b):
    return mean_and_spread(np.subtract(a, b))


# Predict, then run. No: 75 ± 5 and 73 ± 5.6 overlap. But the first is better by 2 ± 1, with every
# seed. The large spread is what a seed does to both nets; the pairs remove it.
#
# Change this and explain. Fewer pixels alone do not help. With the chapter's rate of 0.001 and
# three seeds, subsampling reaches 49 to 51 %, the same as strided convolutions, and no pooling 58
# to 64 %, but with 14 times as many parameters; max pooling, which keeps the largest of four pixels
# instead of one that happens to be first, 69 to 74 %. That subsampling and striding agree is no
# accident: a convolution with stride 2 computes every second output of one with stride 1. One rate
# for all is simple, and not fair: with 0.003, max pooling reaches 80 to 94 %, average 74 to 79 (55
# to 58 before), subsampling 60 to 64, which is now no worse than no pooling (53 to 65). It would be
# fairer to choose each net's rate on a validation set, from as many rates for each: with five
# rates, five times as many runs.
