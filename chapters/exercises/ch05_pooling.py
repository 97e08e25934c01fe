"""Exercises for chapter 5: pooling.

Fill in the functions; then

    python -m pytest chapters/exercises -k ch05

says what is right and what is not yet. Answers: chapters/solutions/ch05_pooling.py.
"""

import numpy as np

from minidl.tensor import record


def max_pool_with_places(image, size, stride):
    """Return the largest number of each window, and which pixel that was, as a pair of arrays.

    In NumPy: image is (h, w); both results are (out_h, out_w), out_h = (h - size) // stride + 1.
    Window (i, j) starts at pixel (i stride, j stride). A place is the pixel's number in the whole
    image, row times w plus column. Of equal pixels, the first in the window wins.

    By hand: of [[1, 9, 2], [4, 3, 8], [7, 5, 6]], windows of 2 x 2 with stride 1 have the
    largest [[9, 9], [7, 8]] at the places [[1, 1], [6, 5]].
    """
    raise NotImplementedError


def max_pool(x, size):
    """Return the largest pixel of each window of size x size, as an operation with a gradient.

    x is a tensor (n, c, h, w), h and w multiples of size; windows lie side by side. What comes
    out, (n, c, h / size, w / size), is there already; write `backward`. It is given the gradient
    by the output, a tensor of the output's shape, and returns a list of one tensor: the gradient
    by x, in x's shape. The pixel that won its window gets all of the window's gradient, the
    others 0.

    `won` says who won: 1.0 and 0.0, with the axes of `windows`: (n, c, row of windows, row
    within the window, column of windows, column within the window).

    By hand: of the one window [[1, 2], [4, 3]] with gradient 5, the gradient is [[0, 0], [5, 0]].
    """
    n, c, h, w = x.shape
    rows, columns = h // size, w // size
    windows = x.data.reshape(n, c, rows, size, columns, size)
    flat = windows.transpose(0, 1, 2, 4, 3, 5).reshape(n, c, rows, columns, size * size)
    first = flat.argmax(4, keepdims=True) == np.arange(size * size)  # of equal pixels, one wins
    won = first.reshape(n, c, rows, columns, size, size).transpose(0, 1, 2, 4, 3, 5)
    won = won.astype(x.dtype)

    def backward(gradient):
        raise NotImplementedError

    return record("max_pool", flat.max(4), (x,), backward)


def avg_pool_padded(image, size, stride, padding):
    """Return the mean of each window of a padded image, where the padding does not count.

    In NumPy: image is (h, w). `padding` pixels are added on all four sides; window (i, j) starts at
    pixel (i stride, j stride) of the padded image. Its mean is taken over those of its pixels
    that lie in the image.

    By hand: of [[1, 2], [3, 4]] with size 2, stride 1 and padding 1, the first row of
    windows sees 1, then 1 and 2, then 2: its means are 1, 1.5 and 2.
    """
    raise NotImplementedError
