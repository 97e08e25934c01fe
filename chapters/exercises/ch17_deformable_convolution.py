"""Exercises for chapter 17: deformable convolution.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions; then

    python -m pytest chapters/exercises -k ch17

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch17_deformable_convolution.py, with those to the two questions at the end.
"""


def between(image, y, x):
    """Return the value of a (h, w) array at row y and column x, which need not be whole numbers.

    Let i and j be y and x rounded down, and a = y - i, b = x - j. The value is

        (1 - a) * ((1 - b) * image[i, j] + b * image[i, j + 1])
        + a * ((1 - b) * image[i + 1, j] + b * image[i + 1, j + 1])

    where a pixel outside of the image is 0.

    By hand: [[1, 3], [5, 11]] at (0.25, 0.5) is 3.5, and at (1, 1.5) it is 5.5.

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


def slopes(image, y, x):
    """Return the derivatives of `between(image, y, x)` with respect to y and to x, as a pair.

    By hand: for [[1, 3], [5, 11]] at (0.25, 0.5) they are 6 and 3.

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


def points(offsets, row, column):
    """Return the nine places that one output of a 3 x 3 convolution with padding 1 reads: (9, 2).

    `offsets` is (18, h, w). For tap 3 * i + j, which without an offset would read the pixel at
    (row + i - 1, column + j - 1), channel 2 * (3 * i + j) says how far down it is moved, and the
    channel after it how far to the right.

    By hand: without offsets, the output at (4, 4) reads from (3, 3) to (5, 5).

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


# Predict, then run: In the chapter's section 1, what is the gradient of the offset if all four
# pixels have the same value? What does that say about a point in a plain part of the image?
#
# Change this and explain: Replace `nn.GlobalAvgPool()` by `nn.Flatten()`, and the linear layer's
# inputs by `64 * width`. Which network gains, and why?
