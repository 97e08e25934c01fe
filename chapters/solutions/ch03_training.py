"""Answers to the exercises for chapter 3."""

import numpy as np


def batches(count, size, rng):
    order = rng.permutation(count)
    return [order[start : start + size] for start in range(0, count, size)]


def adam_step(value, gradient, mean, square, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
    b1, b2 = betas
    mean = b1 * mean + (1 - b1) * gradient
    square = b2 * square + (1 - b2) * gradient**2
    m, s = mean / (1 - b1**step), square / (1 - b2**step)
    return value - lr * m / (np.sqrt(s) + eps), mean, square


def stopping(losses, patience):
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best]:
            best = epoch
        if epoch - best == patience:
            return best, epoch
    return best, len(losses) - 1
