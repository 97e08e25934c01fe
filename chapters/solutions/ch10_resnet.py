"""Answers to the exercises for chapter 10."""

import math

import numpy as np

from minidl.functional import relu


# Why: One mean per channel, over images and pixels: axes (0, 2, 3). gamma and beta need two more
# axes, or broadcasting would apply them along the width; if the width happens to be the number of
# channels, no error is raised. eps prevents a division by 0 for a constant channel.
def batch_norm(x, gamma, beta, eps=1e-5):
    mean = x.mean((0, 2, 3), keepdims=True)  # (1, c, 1, 1)
    variance = x.var((0, 2, 3), keepdims=True)
    normalized = (x - mean) / np.sqrt(variance + eps)
    return gamma[:, None, None] * normalized + beta[:, None, None]


# Why: The sum comes before the last ReLU. x itself must not be added: shortcut(x) may have another
# shape. All of it is computed with tensors, or the gradient would end here.
def residual_block(x, first, second, shortcut):
    return relu(second(relu(first(x))) + shortcut(x))


# Why: step + 1, because a first rate of 0 would waste a step. After the warm-up t starts at 0
# again, so that the rate is continuous: the last step of the warm-up and the first of the cosine
# both have the peak.
def learning_rate(step, steps, peak, warmup):
    if step < warmup:
        return peak * (step + 1) / warmup
    t = (step - warmup) / (steps - warmup)
    return peak / 2 * (1 + math.cos(math.pi * t))


# Predict, then run. 5, whatever the pixel: the mean of one value is that value, so x - mean is 0.
# minidl's layer raises an error instead. In evaluation, running statistics are used, and one value
# is no problem.
#
# Change this and explain. It can add, but never subtract: values only grow from block to block.
# With random weights and normalised branches, the mean of the values goes from 0.8 to 8.6 after 20
# such blocks, to 3.2 in the usual order, and stays 0.8 without the last ReLU, as in later ResNets
# (He et al. 2016, Identity mappings in deep residual networks).
