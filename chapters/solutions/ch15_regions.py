"""Answers to the exercises for chapter 15."""

import math


# Why: What both share is a box too, from the larger of the first edges to the smaller of the last
# ones, or nothing if that is negative: two negative sides would have a positive product. What
# either covers is the sum of both areas without what was counted twice.
def overlap(a, b):
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (areas[0] + areas[1] - both)


# Why: Rounding down where a bin begins, and up where it ends, leaves no pixel out and no bin empty;
# so bins share a pixel if the size does not divide the length.
def rounded_bins(x1, x2, scale, size, length):
    first = round(x1 * scale)
    count = max(round(x2 * scale) - first + 1, 1)
    bounds = [(i * count // size, math.ceil((i + 1) * count / size)) for i in range(size)]
    return [tuple(min(max(first + edge, 0), length) for edge in pair) for pair in bounds]


# Why: Recall grows by 1 / objects at each right detection, and only there. The largest precision at
# this recall or a higher one counts: whoever wants to find that many objects may read on to where
# it is best.
def average_precision(right, objects):
    hits, precisions = 0, []
    for count, is_right in enumerate(right, 1):
        hits += is_right
        if is_right:
            precisions.append(hits / count)
    return sum(max(precisions[i:]) for i in range(len(precisions))) / objects


# Predict, then run. Directly after one another, every second detection is wrong: the precisions at
# the right ones are 1, 2/3, 3/5, ..., and fall towards a half, which nearly is the result for many
# objects. If all second boxes come last, all objects are found before the first wrong detection:
# the average precision is 1.
#
# Change this and explain. It falls: of the boxes on one object, only one is right, and the others
# are wrong detections with nearly the same score, as in the first case above.
#
# The chapter's own question, `STRIDE` of 2: RoI pooling moves an edge by up to half a pixel of the
# features, which is 2 pixels of the picture with a stride of 4, and 1 with 2. Its head gets the
# same features for all boxes that round to the same pixels, so it cannot correct this error; align
# has none to correct. So rounding costs the pooled detector half as much, and nothing changes for
# align but that its features are finer, as they are for both. A box of 16 by 16 pixels that is off
# by 2 in both directions has an IoU of 196 / 316 = 0.62 with the right one; by 1, of 225 / 287 =
# 0.78. Both pass 0.5, and only the second passes 0.75: there the gain is to be expected first. (A
# network with one pooling less also sees less of the surroundings, and takes longer.)
