"""Answers to the exercises for chapter 7."""

import numpy as np

from minidl import nn


# Why: Both sets use the statistics of the training images: if test images used their own, the same
# pixel would get another value than in training. Axis 1 is left out: each channel has its own mean.
# NumPy computes means of bytes in float64, hence the conversion.
def normalize(train, test):
    mean = train.mean((0, 2, 3), keepdims=True)  # (1, 3, 1, 1)
    std = train.std((0, 2, 3), keepdims=True)
    return tuple(((images - mean) / std).astype(np.float32) for images in (train, test))


# Why: Padding 1 keeps height and width, so only the two pools count: a quarter of each is left,
# rounded down. There is no softmax at the end, because cross_entropy contains it; with a second one
# the network still trains, but slowly, and nobody notices why.
def network(height, width, classes):
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * (height // 4) * (width // 4), classes)),
    )


# Why: np.add.at counts a pair as often as it occurs; indexing with += counts it once. Row sums are
# the images of a class, for recall; column sums would give precision.
def confusion_matrix(labels, guesses, classes):
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (labels, guesses), 1)
    return matrix, matrix.diagonal() / matrix.sum(1)


# Predict, then run. The linear layer has 10,250 of 11,642 parameters, but 2 % of the multiply-adds.
# The second convolution needs 294,912 of 526,336 with 1,168 parameters, because it uses each of
# them at 256 positions.
#
# Change this and explain. At first nothing: 54 % after one epoch with both (seed 0). Then the
# averages fall behind: 80 % against 93 % after three epochs, 79 against 97 after five; with another
# seed 84 against 92, then 95 against 94. They get there, but later. What a kernel finds is often at
# a single position, and its response is all that matters. The maximum passes it on as it is; the
# average passes on a quarter, after two pools a sixteenth, mixed with what lies around it.
