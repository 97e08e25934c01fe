"""Exercises for chapter 3: training.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions; then

    python -m pytest chapters/exercises -k ch03

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch03_training.py, with those to the two questions at the end.
"""


def batches(count, size, rng):
    """Return one epoch of shuffled batches: a list of arrays of indices.

    Every index, 0 <= i < count, occurs exactly once, in an order drawn from `rng`, a NumPy
    generator. Each batch has `size` indices, except the last, which may have fewer: 10 indices in
    batches of 4 give batches of 4, 4 and 2.

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


def adam_step(value, gradient, mean, square, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
    """Return the value after one step of Adam, and the new mean and square, as a triple.

    The arguments are arrays of one shape, or numbers. mean and square start at 0, step at 1:

        mean    =  b1 mean + (1 - b1) gradient           b1, b2 = betas
        square  =  b2 square + (1 - b2) gradient²
        value   =  value - lr m / (sqrt(s) + eps)        m = mean / (1 - b1^step)
                                                         s = square / (1 - b2^step)

    m and s correct for the start at 0; return mean and square without the correction.

    By hand: the first step has m = gradient and s = gradient², so it moves by lr, however large
    the gradient: from 1, with gradient 4 and lr 0.1, to 0.9, with mean 0.4 and square 0.016.

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


def stopping(losses, patience):
    """Return the best epoch, and the epoch after which training stops, as a pair.

    `losses` are the validation losses of all epochs, starting at epoch 0. Training stops after
    `patience` epochs in a row without a new lowest loss, or else after the last epoch. The best
    epoch is the one with the lowest loss until then; an equal loss is not lower.

    By hand: losses 1.0, 0.5, 0.6, 0.7, 0.4 with a patience of 2 give (1, 3).

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


# Predict, then run: Start at w = 0 and take 50 steps with a rate of 0.1, once for the loss 0.001 (w
# - 1)², once for 1000 (w - 1)². Where do SGD and Adam (`adam_step`) end?
#
# Change this and explain: Where the chapter shows overfitting, train the same network on four times
# as many images. What happens to the gap between the two losses, and to the lowest validation loss?
