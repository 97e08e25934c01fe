"""Exercises for chapter 2: linear models.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions; then

    python -m pytest chapters/exercises -k ch02

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch02_linear_models.py, with those to the two questions at the end.
"""


def line_gradient(x, y, w, b):
    """Return the gradients of the mean squared error with respect to w and b, as a pair.

        loss = mean of (x w + b - y)²  over the n examples

    This is a linear model's loss. In NumPy: x is (n, d), y (n,), w (d,) and b a number; the
    gradients have the shapes of w and b. By hand: for x = [[1, 2], [3, 4]], y = [1, 1], w = [1, 0],
    b = 0, the errors are 0 and 2, and the gradients are [6, 8] and 2.

    Difficulty: 2 of 3.
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

    Difficulty: 3 of 3.
    """
    raise NotImplementedError


def train_step(model, loss, optimizer, inputs, labels):
    """Take one step of training; return the loss before the step, as a plain number.

    In this order: clear the gradients of the previous step; compute `loss(model(inputs), labels)`;
    call backward; let the optimizer step.

    By hand: weight 1, input 2 and label 0 have the squared error 4 and the gradient 8; with a
    learning rate of 0.1, SGD sets the weight to 0.2.

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


# Predict, then run: The scores 2 and 1 have a cross-entropy of 0.313 if the first class is the true
# one. What about 102 and 101? And 20 and 10? What if the second class is the true one?
#
# Change this and explain: In the chapter's network with a hidden layer for XOR, use 2, 3 and 4
# hidden units in place of 16, with several seeds. How many are enough, and why does the seed matter
# so much?
