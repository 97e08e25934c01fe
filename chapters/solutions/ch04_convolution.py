"""Answers to the exercises for chapter 4."""

import numpy as np

import minidl
from minidl.tensor import record


# Why: The window view copies nothing. One transpose then brings the axes into the order of the rows
# (image, i, j) and of the weights (channel, row, column). In another order the shape is still
# right, and the product with the weights is wrong.
def columns(images, size, stride=1):
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), (2, 3))
    windows = windows[:, :, ::stride, ::stride]  # (n, c, out_h, out_w, size, size)
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * size * size)


# Why: Output i used pixel i + j with weight j. So dx gets the gradient moved by j, times weight j,
# for every j, and the gradient of weight j is the product with x from pixel j on. The usual mistake
# is to flip the kernel once too often; a symmetric kernel would hide it.
def convolve_row(x, weight):
    def backward(gradient):
        k, out = weight.shape[0], gradient.shape[1]
        shifted = [minidl.pad(gradient, [(0, 0), (j, k - 1 - j)]) for j in range(k)]
        dx = sum(weight[j] * shifted[j] for j in range(k))
        dweight = minidl.stack([(x[:, j : j + out] * gradient).sum() for j in range(k)])
        return dx, dweight

    windows = np.lib.stride_tricks.sliding_window_view(x.array, weight.shape[0], 1)
    return record("convolve_row", windows @ weight.array, (x, weight), backward)


# Why: A kernel of size k reaches over k - 1 steps, and a step is as long as the strides before it
# make it. A layer's own stride counts only from the next layer on: without strides in the test, the
# wrong order of these two lines stays hidden.
def receptive_field(layers):
    seen, step = 1, 1
    for size, stride in layers:
        seen += (size - 1) * step
        step *= stride
    return seen


# Predict, then run. 15 both times. With stride 1, each layer adds 2 pixels; with stride 2, each
# adds twice as many as the one before. The price: three such layers leave one output for every
# 8 x 8 pixels, so the exact position is lost, while the cost falls.
#
# Change this and explain. The nine weights then sum to 1 instead of 0: the new kernel is the old
# one plus the kernel that copies the image. So the map is the image plus its spots and edges: a
# sharpened image. Plain areas keep their brightness, where the old kernel gave 0.
