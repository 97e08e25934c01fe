"""Answers to the exercises for chapter 5."""

import numpy as np

from minidl.tensor import record


def all_windows(image, size, stride):
    return np.lib.stride_tricks.sliding_window_view(image, (size, size))[::stride, ::stride]


# Why: argmax counts within the window: dividing by the size gives row and column there, to which
# the window's start is added. Adding the offset itself is right only in a window's first row. A
# search for the maximum that starts at 0 fails if all pixels are negative.
def max_pool_with_indices(image, size, stride):
    windows = all_windows(image, size, stride)  # (out_h, out_w, size, size)
    out_h, out_w = windows.shape[:2]
    inside = windows.reshape(out_h, out_w, -1).argmax(2)
    row = np.arange(out_h)[:, None] * stride + inside // size
    column = np.arange(out_w) * stride + inside % size
    return windows.max((2, 3)), row * image.shape[1] + column


# Why: The mask sends each window's gradient to its maximum, by broadcasting over axes of length 1.
# Comparing pixels with the maximum instead would give all equal pixels the whole gradient: more
# would flow back than came, and after a ReLU equal zeros are common.
def max_pool(x, size):
    n, c, h, w = x.shape
    rows, columns = h // size, w // size
    windows = x.array.reshape(n, c, rows, size, columns, size)
    flat = windows.transpose(0, 1, 2, 4, 3, 5).reshape(n, c, rows, columns, size * size)
    first = flat.argmax(4, keepdims=True) == np.arange(size * size)  # if pixels are equal, one wins
    won = first.reshape(n, c, rows, columns, size, size).transpose(0, 1, 2, 4, 3, 5)
    won = won.astype(x.dtype)

    def backward(gradient):
        return [(gradient.reshape(n, c, rows, 1, columns, 1) * won).reshape(x.shape)]

    return record("max_pool", flat.max(4), (x,), backward)


# Why: Pooling an image of ones in the same way counts the image pixels in each window. They cannot
# be recognised by their value, because a pixel may be 0 too, and dividing by size² would darken the
# edges.
def avg_pool_padded(image, size, stride, padding):
    def sums(array):
        return all_windows(np.pad(array, padding), size, stride).sum((2, 3))

    return sums(image) / sums(np.ones_like(image))


# Predict, then run. 5 x 5 for the maximum: a maximum of maxima. Not for the average: it sees the
# same 5 x 5 pixels, but with the weights 1, 2, 3, 2, 1 along each axis, because the middle pixel
# lies in all nine of the inner windows and a corner in one.
#
# Change this and explain. Yes: with stride 2 the broken windows do not reach the last pixel, so 0
# comes out in place of a quarter of it. A third bug: a search for the maximum that starts at 0.
# Both tests have pixels >= 0; an image of -1 finds it. Another: height and width swapped, which
# square images hide. With pepper the maximum is better (on 200 toy images, an error of 0.009,
# average 0.022), because it picks a dark pixel only if all four are dark; with salt it was the
# other way round (0.20 and 0.06).
