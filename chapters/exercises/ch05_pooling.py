"""Exercises for chapter 5: pooling.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions; then

    python -m pytest chapters/exercises -k ch05

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch05_pooling.py, with those to the two questions at the end.
"""

import numpy as np

from minidl.tensor import record


def max_pool_with_indices(image, size, stride):
    """Return the maximum of each window and its index, as a pair of arrays.

    In NumPy: image is (h, w); both results are (out_h, out_w), out_h = (h - size) // stride + 1.
    Window (i, j) starts at pixel (i * stride, j * stride). An index counts pixels in the whole
    image: row * w + column. If pixels are equal, the first in the window wins.

    By hand: for [[1, 9, 2], [4, 3, 8], [7, 5, 6]], 2 x 2 windows with stride 1 have the maxima
    [[9, 9], [7, 8]] at the indices [[1, 1], [6, 5]].

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


def max_pool(x, size):
    """Return the maximum of each size x size window, as an operation that has a gradient.

    x is a tensor (n, c, h, w), with h and w multiples of size; the stride equals size. The output,
    (n, c, h / size, w / size), is given; write `backward`. It gets the gradient with respect to
    the output, a tensor of the output's shape, and returns a list of one tensor: the gradient
    with respect to x, in x's shape. Each window's maximum gets all of the window's gradient, the
    other pixels get 0.

    `won` is 1.0 at the maximum of each window and 0.0 elsewhere, with the axes of `windows`: (n, c,
    row of windows, row within the window, column of windows, column within the window).

    By hand: for the window [[1, 2], [4, 3]] with gradient 5, the gradient is [[0, 0], [5, 0]].

    Difficulty: 3 of 3.
    """
    n, c, h, w = x.shape
    rows, columns = h // size, w // size
    windows = x.array.reshape(n, c, rows, size, columns, size)
    flat = windows.transpose(0, 1, 2, 4, 3, 5).reshape(n, c, rows, columns, size * size)
    first = flat.argmax(4, keepdims=True) == np.arange(size * size)  # if pixels are equal, one wins
    won = first.reshape(n, c, rows, columns, size, size).transpose(0, 1, 2, 4, 3, 5)
    won = won.astype(x.dtype)

    def backward(gradient):
        raise NotImplementedError

    return record("max_pool", flat.max(4), (x,), backward)


def avg_pool_padded(image, size, stride, padding):
    """Return the mean of each window of a padded image, where the padding does not count.

    In NumPy: image is (h, w). `padding` pixels are added on all four sides; window (i, j) starts at
    pixel (i * stride, j * stride) of the padded image. Its mean is taken over those of its pixels
    that lie in the image.

    By hand: for [[1, 2], [3, 4]] with size 2, stride 1 and padding 1, the first row of windows
    sees 1, then 1 and 2, then 2: its means are 1, 1.5 and 2.

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


# Predict, then run: Pool twice with 3 x 3 windows and stride 1. Which single window gives the same
# maximum? Is there one that gives the same average?
#
# Change this and explain: The chapter's first broken pooling starts window (i, j) at pixel (i, j).
# Write it for averages: does the bright last pixel still find the bug? Invent a third bug that
# passes both of the chapter's tests, and a test that finds it. Then replace salt by pepper, 2 % of
# the pixels at 0: which kind is better now?
