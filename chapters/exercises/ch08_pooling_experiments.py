"""Exercises for chapter 8: pooling experiments.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions; then

    python -m pytest chapters/exercises -k ch08

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch08_pooling_experiments.py, with those to the two questions at the end.
"""


def cost(in_channels, out_channels, size, height, width, stride=1):
    """Return what a convolution without padding costs: parameters and multiply-adds, as a pair.

    Each of the out_channels kernels has size x size weights per input channel, and one bias. A
    multiply-add multiplies a weight by a pixel and adds the product to a sum; each output needs one
    per weight of its kernel, and biases are not counted. An image is (in_channels, height, width);
    out_h = (height - size) // stride + 1.

    By hand: 3 to 8 channels, 3 x 3 kernels, 5 x 5 pixels: 224 parameters, 1,944 multiply-adds.

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


def mean_and_spread(values):
    """Return the mean of some accuracies and their sample standard deviation, as a pair.

        spread = sqrt(sum of (value - mean)² / (n - 1))

    n - 1, not n: the mean was computed from the same few values, and is too close to them.

    By hand: 69, 71 and 73 have mean 71 and spread 2.

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


def told_apart(a, b):
    """Return True if two nets differ by more than the spread over seeds: their bars do not touch.

    a and b are lists of accuracies, one per seed. A bar goes from mean - spread to mean + spread.

    By hand: 70, 71, 72 and 74, 75, 76 have bars from 70 to 72 and from 74 to 76.

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


def paired(a, b):
    """Return the mean and sample standard deviation of a - b, seed by seed, as a pair.

    a[i] and b[i] come from the same seed: the same batches, perhaps the same initial weights. An
    effect that a seed has on both nets cancels in the difference.

    By hand: 70, 75, 80 and 68, 72, 79 differ by 2, 3 and 1: mean 2, spread 1.

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


# Predict, then run: Two nets reach 70, 75, 80 and 68, 72, 79 % with the same three seeds. Does
# `told_apart` say that they differ? What does `paired` say?
#
# Change this and explain: Does pooling help, or only having fewer pixels? Add a kind "subsample" to
# the chapter's experiment, which keeps every second pixel: `nn.MaxPool2d(1, stride)`. And is one
# learning rate for all nets a fair comparison?
