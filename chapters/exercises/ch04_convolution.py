"""Exercises for chapter 4: convolution.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions; then

    python -m pytest chapters/exercises -k ch04

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch04_convolution.py, with those to the two questions at the end.
"""

import numpy as np

from minidl.tensor import record


def columns(images, size, stride=1):
    """Return all windows of size x size pixels as the rows of a matrix, in NumPy.

    images are (n, c, h, w); the matrix is (n * out_h * out_w, c * size * size), where

        out_h = (h - size) // stride + 1        out_w = (w - size) // stride + 1

    Window (i, j) of an image starts at pixel (i * stride, j * stride). Rows are ordered by image,
    then by i, then by j; the values in a row by channel, then by the window's rows, then by its
    columns. Then `columns(images, size) @ weight.reshape(outputs, -1).T` is a convolution.

    By hand: for one image with one channel, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], the first
    2 x 2 windows are the rows [0, 1, 4, 5], [1, 2, 5, 6] and [2, 3, 6, 7].

    Difficulty: 3 of 3.
    """
    raise NotImplementedError


def convolve_row(x, weight):
    """Convolve rows of numbers with one kernel, as an operation that has a gradient.

        out[n, i] = sum over j of weight[j] x[n, i + j]

    x is a tensor of shape (n, m), weight one of shape (k,); out is (n, m - k + 1). The output is
    given; write `backward`. It gets the gradient with respect to out, a tensor of out's shape, and
    returns a pair of tensors: the gradients with respect to x and weight, in their shapes.

        dx[n, i + j]  gets  weight[j] gradient[n, i]    from every i and j
        dweight[j]    is    the sum over n and i of  x[n, i + j] gradient[n, i]

    One loop over j is enough. Tensors do not support item assignment: use
    `minidl.pad(t, [(0, 0), (a, b)])`, which puts a zeros before and b after each row, and
    `minidl.stack([...])`, which joins tensors along a new axis.

    By hand: for x = [[1, 2, 3]], weight = [1, 10] and gradient [[1, 2]], dx is [[1, 12, 20]] and
    dweight [5, 8].

    Difficulty: 3 of 3.
    """

    def backward(gradient):
        raise NotImplementedError

    windows = np.lib.stride_tricks.sliding_window_view(x.array, weight.shape[0], 1)
    return record("convolve_row", windows @ weight.array, (x, weight), backward)


def receptive_field(layers):
    """Return how many pixels, along one axis, one output of a stack of layers sees.

    `layers` are pairs (kernel_size, stride), the first layer first. Without layers, an output sees
    1 pixel. A layer of kernel size k sees k outputs of the layer before it; the first and the last
    are k - 1 steps apart. A step is 1 pixel at first, and each layer multiplies it by its stride
    for the layers after it.

    By hand: two 3 x 3 convolutions see 5 pixels; (3, 1), (2, 2), (5, 1) see 3, then 4, then 12.

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


# Predict, then run: How many pixels does one output see after seven 3 x 3 convolutions with stride
# 1, and how many after three with stride 2? Ask `receptive_field`.
#
# Change this and explain: In the chapter's kernel that finds spots, change the 8 in the middle to
# 9. What does the feature map look like, and why?
