"""Answers to the exercises for chapter 4."""

import numpy as np

import minidl
from minidl.tensor import record


def columns(images, size, stride=1):
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), (2, 3))
    windows = windows[:, :, ::stride, ::stride]  # (n, c, out_h, out_w, size, size)
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * size * size)


def convolve_row(x, weight):
    def backward(gradient):
        k, out = weight.shape[0], gradient.shape[1]
        shifted = [minidl.pad(gradient, [(0, 0), (j, k - 1 - j)]) for j in range(k)]
        dx = sum(weight[j] * shifted[j] for j in range(k))
        dweight = minidl.stack([(x[:, j : j + out] * gradient).sum() for j in range(k)])
        return dx, dweight

    windows = np.lib.stride_tricks.sliding_window_view(x.array, weight.shape[0], 1)
    return record("convolve_row", windows @ weight.array, (x, weight), backward)


def receptive_field(layers):
    seen, step = 1, 1
    for size, stride in layers:
        seen += (size - 1) * step
        step *= stride
    return seen
