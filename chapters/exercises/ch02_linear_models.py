"""Exercises for chapter 2: linear models.

Fill in the functions; then

    python -m pytest chapters/exercises -k ch02

says what is right and what is not yet. Answers: chapters/solutions/ch02_linear_models.py.
"""


def line_gradient(x, y, w, b):
    """Return the gradient of a linear model's mean squared error by w and by b, as a pair.

        loss = mean of (x w + b - y)²  over the n examples

    In NumPy: x is (n, d), y (n,), w (d,) and b a number; the gradients have the shapes of
    w and b. By hand: for x = [[1, 2], [3, 4]], y = [1, 1], w = [1, 0], b = 0, the model
    is off by 0 and 2, and the gradients are [6, 8] and 2.
    """
    raise NotImplementedError


def cross_entropy(scores, labels):
    """Return the mean cross-entropy of scores, a number.

    In NumPy: scores are (n, classes), any numbers; labels (n,) are whole numbers. The softmax of an
    example's scores s gives the class k the probability exp(s_k) / sum of exp(s_j). What
    counts is -log of the probability of the example's label, averaged over the examples.

    It must survive scores of 1,000, whose exp is too large for any float: taking the same
    number from all scores of an example changes no probability. And it must survive
    probabilities that round to 0: take the logarithm of the quotient by hand.

    By hand: scores [0, log 3] are probabilities 1/4 and 3/4; label 1 counts log(4/3), 0.288.
    """
    raise NotImplementedError


def train_step(model, loss, optimizer, inputs, labels):
    """Take one step of training; return the loss before the step, as a plain number.

    Four things, in this order: forget the gradients of the step before; compute
    `loss(model(inputs), labels)`; go backward; let the optimizer step.

    By hand: a weight of 1, an input of 2 and a label of 0 have the squared error 4 and the gradient
    8; with a rate of 0.1, SGD makes the weight 0.2.
    """
    raise NotImplementedError
