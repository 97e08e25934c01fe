"""Answers to the exercises for chapter 1."""

import numpy as np

from minidl.tensor import record


# Why: The errors of the slope to the right and to the left have opposite signs: most of them
# cancels. The two points are 2 h apart; dividing by h, or writing `/ 2 * h`, is the usual mistake.
def slope(f, x, h=1e-5):
    return (f(x + h) - f(x - h)) / (2 * h)


# Why: From the last step to the first, because a step may pass its derivative on only when it is
# complete. `+=`, because a value that is used twice receives two contributions; with `=` the last
# one wins, and only chains come out right.
def backward(steps, count):
    gradients = [0.0] * count
    gradients[steps[-1][0]] = 1.0
    for result, inputs in reversed(steps):
        for value, local in inputs:
            gradients[value] += gradients[result] * local
    return gradients


# Why: The 2 a of the square and the 1/2 of the root cancel. c is computed again from tensors: with
# the array outside, first derivatives would be right and second ones wrong, because no graph leads
# from an array back to a and b.
def hypotenuse(a, b):
    def backward(gradient):
        c = (a * a + b * b).sqrt()
        return gradient * a / c, gradient * b / c

    c = np.sqrt(a.array**2 + b.array**2)
    return record("hypotenuse", c, (a, b), backward)


# Predict, then run. 1e-5, with an error of 1e-10. With 0.1 the error is 0.01: the formula's own, h²
# times a sixth of the third derivative. With 1e-12 it is 1e-4: f is rounded at its 16th digit, and
# that error is divided by 2 h. The best h lies where the two are equal, near the cube root of
# 1e-16.
#
# Change this and explain. From a loss of 2.0, 30 steps lead to 0.01, that of the noise, with 0.3,
# but only to 0.21 with 0.03, and to 9e8 with 1.2. The offset b causes that: the loss has the second
# derivative 2 with respect to b, so a step multiplies the error of b by 1 - 2 * 1.2 = -1.4. With
# respect to w it is 2/3, the mean of 2 x² for x between -1 and 1: the error of w still shrinks.
