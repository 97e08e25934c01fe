"""Answers to the exercises for chapter 3."""

import numpy as np


# Why: One permutation, cut into pieces, has every index once. Drawing each batch by itself repeats
# some images and leaves others out, and a dropped last batch leaves out other images in each epoch;
# neither raises an error.
def batches(count, size, rng):
    order = rng.permutation(count)
    return [order[start : start + size] for start in range(0, count, size)]


# Why: mean and square start at 0, so at first they are too small by the factors that divide them
# here. Return them uncorrected: the next step continues them, and would correct them a second time.
# eps stands outside the root; inside, it would act as 1e-4.
def adam_step(value, gradient, mean, square, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
    b1, b2 = betas
    mean = b1 * mean + (1 - b1) * gradient
    square = b2 * square + (1 - b2) * gradient**2
    m, s = mean / (1 - b1**step), square / (1 - b2**step)
    return value - lr * m / (np.sqrt(s) + eps), mean, square


# Why: Compare with the best epoch so far, not with the one before: a noisy loss goes up and down
# while it falls. An equal loss is no progress: otherwise a loss that never changes would
# never stop the training.
def stopping(losses, patience):
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best]:
            best = epoch
        if epoch - best == patience:
            return best, epoch
    return best, len(losses) - 1


# Predict, then run. Adam at 1.0048 both times: m / sqrt(s) does not change if all gradients are
# multiplied by a million. SGD ends at 0.00995 for the first, whose gradients are tiny, and at
# -9e114 for the second: each step multiplies the error by 1 - 0.1 * 2000 = -199.
#
# Change this and explain. With 2,000 images the training loss falls to 0.005, and the loss of
# unseen images is lowest after epoch 7, at 1.84, then rises to 2.23. With 8,000 it is lowest after
# epoch 4, at 1.07, and rises to 1.34, while the training loss still falls to 0.004. More images
# make the gap smaller and the best network better, but they do not end overfitting: 8,000 images
# are still fewer than the 790,000 weights. Epochs are longer too, so compare steps as well.
