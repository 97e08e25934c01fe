"""Exercises for chapter 14: segmentation.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions; then

    python -m pytest chapters/exercises -k ch14

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch14_segmentation.py, with those to the two questions at the end.
"""


def iou(predicted, mask, kind):
    """Return the intersection over union of one class, for two arrays of class numbers.

    Intersection: how many pixels have the class in both. Union: how many have it in either.

    By hand: predicted 1 1 0 and mask 0 1 1 share 1 of 3 pixels of class 1: 1/3.

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


def unpool(values, places, height, width):
    """Return an array (height, width) of zeros, with each value where its maximum was.

    values and places have the same shape (h, w), as a max pool returns them: places[i, j] is the
    index of the maximum in the flattened image, so that 5 is row 1, column 1 of an image 4 wide.

    By hand: values [[7, 9]] and places [[1, 6]] in 2 x 4 pixels: [[0, 7, 0, 0], [0, 0, 9, 0]].

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


def transposed(x, kernel, stride):
    """Return the transposed convolution of a sequence x with a kernel.

    A convolution sums what the kernel covers; its transpose gives back: x[i] times the whole kernel
    is added to the output from position i * stride on. The output ends with the last kernel.

    By hand: x = [1, 2], kernel [1, 1, 1], stride 2: 1 1 1 0 0 plus 0 0 2 2 2 is 1 1 3 2 2.

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


# Predict, then run: `transposed([1, 1, 1], [1, 1, 1], 2)` enlarges a constant. Is the result
# constant? For which sizes of the kernel is it, except at the ends?
#
# Change this and explain: In the chapter, train with `--epochs 1`. Who wins when time is short, and
# why? Which nets gain most from the other epochs?
