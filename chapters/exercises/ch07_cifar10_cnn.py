"""Exercises for chapter 7: the CIFAR-10 CNN.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions; then

    python -m pytest chapters/exercises -k ch07

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch07_cifar10_cnn.py, with those to the two questions at the end.
"""


def normalize(train, test):
    """Return both sets of images, normalised, as a pair of float32 arrays.

    Images are uint8, (n, 3, h, w). Each of the three channels gets mean 0 and standard
    deviation 1 over all training images and pixels:

        (pixel - mean of the channel) / standard deviation of the channel

    Normalise the test images with the same six numbers: nothing may be learned from them.

    By hand: a channel whose mean is 120 and whose standard deviation is 60 turns 150 into 0.5.

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


def network(height, width, classes):
    """Return a CNN that maps images (n, 3, height, width) to scores (n, classes).

    An `nn.Sequential` of: 3 x 3 convolution with padding 1, to 8 channels; ReLU; 2 x 2 max pool;
    3 x 3 convolution with padding 1, to 16 channels; ReLU; 2 x 2 max pool; flatten; linear layer to
    the scores. height and width are multiples of 4. Scores may be any numbers: the loss turns them
    into probabilities.

    By hand: the two pools reduce 8 x 12 pixels to 2 x 3, each with 16 channels.

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


def confusion_matrix(labels, guesses, classes):
    """Return the confusion matrix, and each class's recall, as a pair of arrays.

    In NumPy: labels and guesses are (n,), integers with 0 <= value < classes. The matrix, (classes,
    classes), counts in row t and column g the images of class t that were classified as class g.
    Recall, (classes,), is the share of a class's images that were found. All classes occur.

    By hand: labels 0, 0, 0, 1 and guesses 0, 1, 1, 1 give [[1, 2], [0, 1]] and recalls 1/3 and 1.

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


# Predict, then run: Which layer of `network(32, 32, 10)` has the most parameters, and which needs
# the most multiply-adds? `minidl.inspect.summary` tells.
#
# Change this and explain: Replace both max pools of the chapter's network by average pools. Nothing
# else changes: what happens to the accuracy of the first epochs, and why?
