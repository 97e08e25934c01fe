"""Answers to the exercises for chapter 6."""

import numpy as np

from minidl.tensor import record


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


def blur_pool(images, stride):
    padded = np.pad(images, [(0, 0), (0, 0), (1, 1), (1, 1)], mode="reflect")
    blurred = (padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]) / 4
    blurred = (blurred[:, :, :-2] + 2 * blurred[:, :, 1:-1] + blurred[:, :, 2:]) / 4
    return blurred[:, :, ::stride, ::stride]
