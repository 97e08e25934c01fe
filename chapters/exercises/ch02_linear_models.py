"""Exercises for chapter 2: linear models.

Fill in the functions; then

    python -m pytest chapters/exercises -k ch02

tells you which answers are right and which are not yet. Answers:
chapters/solutions/ch02_linear_models.py.
"""


def line_gradient(x, y, w, b):
    """Return the gradient of a linear model's mean squared error, for w and b, as a pair.

        loss = mean of (x w + b - y)²  over the n examples

    In NumPy: x is (n, d), y (n,), w (d,) and b a number; the gradients have the shapes of
    w and b. By hand: for x = [[1, 2], [3, 4]], y = [1, 1], w = [1, 0], b = 0, the errors
    are 0 and 2, and the gradients are [6, 8] and 2.
    """
    raise NotImplementedError


def cross_entropy(scores, labels):
    """Return the mean cross-entropy of scores, a number.

    In NumPy: scores are (n, classes), any numbers; labels (n,) are integers. The softmax of an
    example's scores s gives class k the probability exp(s_k) / sum of exp(s_j). An example's loss
    is -log of the probability of its label; return the mean over the examples.

    Scores of 1,000 must work, although exp(1000) overflows: subtracting the same number from all
    scores of an example changes no probability. Probabilities that round to 0 must work too:
    simplify the logarithm of the quotient by hand.

    By hand: scores [0, log 3] are probabilities 1/4 and 3/4; label 1 has loss log(4/3), 0.288.
    """
    raise NotImplementedError


def train_step(model, loss, optimizer, inputs, labels):
    """Take one step of training; return the loss before the step, as a plain number.

    In this order: clear the gradients of the previous step; compute `loss(model(inputs), labels)`;
    call backward; let the optimizer step.

    By hand: weight 1, input 2 and label 0 have the squared error 4 and the gradient 8; with a
    learning rate of 0.1, SGD sets the weight to 0.2.
    """
    raise NotImplementedError
