"""Exercises for chapter 9: ResNet.

Fill in the functions; then

    python -m pytest chapters/exercises -k ch09

says what is right and what is not yet. Answers: chapters/solutions/ch09_resnet.py.
"""


def batch_norm(x, gamma, beta, eps=1e-5):
    """Return batch normalisation as in training, in NumPy.

        gamma (x - mean) / sqrt(variance + eps) + beta

    x is (n, c, h, w). Each channel has its own mean and variance, over all pictures and pixels; the
    variance divides by their number, not by one less. gamma and beta are (c,), one number
    for each channel.

    By hand: a channel of 1, 3, 5 and 7, over all pictures, has mean 4 and variance 5, so that
    with gamma 1 and beta 0 its 1 becomes -3 / sqrt(5), -1.34.
    """
    raise NotImplementedError


def residual_block(x, first, second, shortcut):
    """Return the output of a residual block.

    x is a tensor; first and second are functions of a tensor, a convolution with its batch norm
    each; shortcut is the identity, or what makes x fit where the block changes its shape. x goes
    through first, a ReLU, and second; its shortcut is added, and the sum goes through another ReLU.

    By hand: where first takes 3 away, second multiplies by -2 and the shortcut is the identity,
    -1, 2 and 5 become 0, 2 and 1.
    """
    raise NotImplementedError


def learning_rate(step, steps, peak, warmup):
    """Return the learning rate for one step: it rises along a line, then falls along a half cosine.

    Steps count from 0. In the first `warmup` steps the rate rises so that the first step has peak /
    warmup and the last of them peak. From step warmup on, over the steps that are left,

        peak / 2 (1 + cos(pi t))        t = (step - warmup) / (steps - warmup)

    By hand: 10 steps, of which 2 warm up to 0.4, begin with 0.2, 0.4, 0.4; step 6 has 0.2.
    """
    raise NotImplementedError
