"""Exercises for chapter 1: tensors and gradients.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions; then

    python -m pytest chapters/exercises -k ch01

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch01_tensors_and_gradients.py, with those to the two questions at the end.
"""

import numpy as np

from minidl.tensor import record


def slope(f, x, h=1e-5):
    """Return the slope of `f` at `x` by a central difference.

        (f(x + h) - f(x - h)) / (2 h)

    f takes a number and returns one. By hand: for x³ at x = 3 with h = 2, the values on both sides
    are 125 and 1, and their difference divided by 4 is 31.

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


def backward(steps, count):
    """Return the derivative of a graph's last value with respect to each value, as a list.

    The values are numbered from 0 to count - 1. `steps` says how they were computed, in order: each
    step is a pair of its result and a list of (input, slope), where slope is the derivative of
    the result with respect to that input. Values that no step computes are the graph's inputs.

    Chain rule: walk through the steps from the last to the first. Each step passes the derivative
    of its result to its inputs, times their slopes; a value that is used twice gets the sum.

    By hand: a = 3 (value 0), b = 2 (value 1), c = a b (value 2), d = c + a (value 3):

        steps = [(2, [(0, 2.0), (1, 3.0)]), (3, [(2, 1.0), (0, 1.0)])]
        backward(steps, 4)  is  [3.0, 3.0, 1.0, 1.0]

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


def hypotenuse(a, b):
    """Return c = sqrt(a² + b²), elementwise, as an operation that has a gradient.

    a and b are tensors. The output is given; write `backward`. It gets the gradient of the loss
    with respect to c, a tensor, and returns a pair: the gradients with respect to a and b.

        dc/da = a / c        dc/db = b / c

    Compute with the tensors a and b, so that the result can be differentiated again. By hand: for
    a = 3, b = 4 and gradient 3, the pair is 1.8 and 2.4.

    Difficulty: 2 of 3.
    """

    def backward(gradient):
        raise NotImplementedError

    c = np.sqrt(a.array**2 + b.array**2)
    return record("hypotenuse", c, (a, b), backward)


# Predict, then run: The slope of x³ at x = 1 is 3. Which h lets `slope` come closest: 0.1, 1e-5 or
# 1e-12? Which is the worst?
#
# Change this and explain: Where the chapter fits a line by gradient descent, set the learning rate
# to 0.03, then to 1.2. What does the loss do, and which of the two parameters makes it grow?
