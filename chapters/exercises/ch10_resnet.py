"""Exercises for chapter 10: ResNet.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions; then

    python -m pytest chapters/exercises -k ch10

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch10_resnet.py, with those to the two questions at the end.
"""


def batch_norm(x, gamma, beta, eps=1e-5):
    """Return batch normalisation in training mode, in NumPy.

        gamma (x - mean) / sqrt(variance + eps) + beta

    x is (n, c, h, w). Each channel has its own mean and variance over all images and pixels; the
    variance divides by their number, not by one less. gamma and beta are (c,), one value per
    channel.

    By hand: a channel with the values 1, 3, 5 and 7 in all images has mean 4 and variance 5, so
    with gamma 1 and beta 0 the 1 becomes -3 / sqrt(5) = -1.34.

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


def residual_block(x, first, second, shortcut):
    """Return the output of a residual block.

    x is a tensor; first and second are functions of a tensor, each a convolution with its batch
    norm; shortcut is the identity, or adapts x where the block changes the shape. x goes through
    first, a ReLU, and second; then shortcut(x) is added, and the sum goes through another ReLU.

    By hand: if first subtracts 3, second multiplies by -2 and shortcut is the identity, then -1, 2
    and 5 become 0, 2 and 1.

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


def learning_rate(step, steps, peak, warmup):
    """Return the learning rate of one step: a linear warm-up, then a half cosine.

    Steps count from 0. In the first `warmup` steps the rate rises linearly, from peak / warmup in
    the first step to peak in the last. From step `warmup` on, over the remaining steps, it is

        peak / 2 (1 + cos(pi t))        t = (step - warmup) / (steps - warmup)

    By hand: 10 steps with a warm-up of 2 to a peak of 0.4 start with 0.2, 0.4, 0.4; step 6 has 0.2.

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


# Predict, then run: `batch_norm` gets one image of one pixel, and beta is 5. What comes out?
#
# Change this and explain: In `residual_block`, move the last ReLU in front of the addition:
# relu(second(...)) + shortcut(x). What can a block then no longer do, and what does that mean for a
# stack of 20 blocks?
