"""Exercises for chapter 15: regions.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions; then

    python -m pytest chapters/exercises -k ch15

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch15_regions.py, with those to the two questions at the end.
"""


def overlap(a, b):
    """Return the intersection over union of two boxes (x1, y1, x2, y2).

    By hand: (0, 0, 2, 2) and (1, 0, 3, 2) share 2 of 6 square pixels: 1 / 3.

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


def rounded_bins(x1, x2, scale, size, length):
    """Return the pixels of each bin of RoI pooling along one axis, as pairs (first, after last).

    Both edges times `scale` are rounded to whole numbers (take `round`; no test has halves). The
    box has L = x2 - x1 + 1 pixels then: both belong to it. Bin i begins at floor(i * L / size) and
    ends before ceil((i + 1) * L / size), counted from x1. Limit both to 0 and `length`.

    By hand: edges 2 and 19 of the picture, scale 1 / 4, are 0 and 5: 6 pixels. Four bins have the
    pixels (0, 2), (1, 3), (3, 5), (4, 6): neighbours share some.

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


def average_precision(right, objects):
    """Return the area under the precisions of a detector, at each object that it finds.

    `right` says of each detection, the best score first, whether it found an object that no earlier
    one had found; there are `objects` objects. The precision at a right detection is the share of
    right ones among it and those before it; take the largest precision at that detection or a later
    one. Objects that are never found count as 0. (COCO's definition samples 101 recalls instead.)

    By hand: True, False, True with 4 objects: precisions 1 and 2/3, so (1 + 2/3) / 4 = 0.4167.

    Difficulty: 3 of 3.
    """
    raise NotImplementedError


# Predict, then run: A detector finds every object with a perfect box, but each one twice, with two
# boxes of different scores. What is its average precision if both boxes of an object come directly
# after one another? And if all second boxes come after all first ones?
#
# Change this and explain: Leave out `suppress` in the chapter, so that every box is kept. What
# happens to the score at 0.5, and why?
