"""Answers to the exercises for chapter 6."""

import numpy as np

from minidl.tensor import record


# Why: In dx, the p of the power and the 1/p of the root cancel. In dp both depend on p: the root
# gives the term with log out, which is easily forgotten. All of it is computed from tensors again,
# so that second derivatives are right.
def gem_pool(x, p, size):
    n, c, h, w = x.shape
    rows, columns = h // size, w // size
    means = (x.array**p.array).reshape(n, c, rows, size, columns, size).mean((3, 5))

    def backward(gradient):
        windows = x.reshape(n, c, rows, size, columns, size)
        powers = windows**p
        mean = powers.mean((3, 5), keepdims=True)  # (n, c, rows, 1, columns, 1)
        out = mean ** (1 / p)
        g = gradient.reshape(out.shape)
        dx = g * windows ** (p - 1) * out ** (1 - p) / size**2
        slope = (powers * windows.log()).mean((3, 5), keepdims=True) / mean - out.log()
        return dx.reshape(x.shape), (g * out / p * slope).sum().reshape(1)

    return record("gem_pool", means ** (1 / p.array), (x, p), backward)


# Why: Sums and u times the total are compared, instead of probabilities and u: nothing is divided
# by the 0 of an empty window, and the last sum is never too small, as rounded probabilities may be.
# With >= in place of >, u = 0 could choose a pixel of 0.
def stochastic_pool(images, size, uniform=None):
    n, c, h, w = images.shape
    windows = images.reshape(n, c, h // size, size, w // size, size).swapaxes(3, 4)
    flat = windows.reshape(n, c, h // size, w // size, size * size)
    sums = flat.cumsum(4)
    total = sums[..., -1]
    if uniform is None:
        return (flat**2).sum(4) / np.where(total > 0, total, 1)
    chosen = (sums > (uniform * total)[..., None]).argmax(4)
    return np.take_along_axis(flat, chosen[..., None], 4)[..., 0]


# Why: The 3 x 3 kernel is a product, so one pass along each axis is enough. Blur before
# subsampling: afterwards it is too late, because stripes have become a plain area. Zeros around the
# image would darken its edges.
def blur_pool(images, stride):
    padded = np.pad(images, [(0, 0), (0, 0), (1, 1), (1, 1)], mode="reflect")
    blurred = (padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]) / 4
    blurred = (blurred[:, :, :-2] + 2 * blurred[:, :, 1:-1] + blurred[:, :, 2:]) / 4
    return blurred[:, :, ::stride, ::stride]


# Predict, then run. 2.5, 2.92, 3.50 and 3.94: from the mean towards the maximum. As p approaches 0,
# the fourth root of 1 * 2 * 3 * 4, the geometric mean 2.21.
#
# Change this and explain. The maximum: for the window above, p = 30 gives 3.82. A lone pixel 1
# among zeros comes out as (1/4)^(1/p): 0.63 for p = 3, 0.95 for p = 30. But a grain of salt is a
# lone bright pixel too. No pooling of single windows can keep the one and remove the other; only
# neighbouring windows, or other channels, can tell them apart.
