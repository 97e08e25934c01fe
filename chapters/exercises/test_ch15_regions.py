"""Checks of the exercises for chapter 15."""


def test_overlap_by_hand(exercise):
    hints = {
        "what both share was counted twice: subtract it from the sum of the areas": 2 / 8,
        "that is the share of one box: divide by the area that either covers": 2 / 4,
    }
    exercise.expect("overlap", (0, 0, 2, 2), (1, 0, 3, 2), expected=1 / 3, hints=hints)


def test_overlap_of_boxes_apart_and_of_a_box_with_itself(exercise):
    usual = "a negative width and a negative height have a positive product: limit both to 0"
    exercise.expect("overlap", (0, 0, 2, 2), (5, 5, 9, 9), expected=0.0, usual=usual)
    exercise.expect("overlap", (5, 5, 9, 9), (5, 5, 9, 9), expected=1.0)


def test_rounded_bins_by_hand(exercise):
    expected = [(0, 2), (1, 3), (3, 5), (4, 6)]
    hints = {
        "both edges belong to the box: add 1": [(0, 2), (1, 3), (2, 4), (3, 5)],
        "round up where a bin ends": [(0, 1), (1, 3), (3, 4), (4, 6)],
    }
    exercise.expect("rounded_bins", 2, 19, 1 / 4, 4, 12, expected=expected, hints=hints)


def test_rounded_bins_beyond_the_image(exercise):
    expected = [(2, 4), (4, 4)]
    usual = "limit both ends to 0 and length; a bin outside has no pixel"
    exercise.expect("rounded_bins", 2, 5, 1, 2, 4, expected=expected, usual=usual)


def test_average_precision_by_hand(exercise):
    hints = {
        "objects that were not found count too: divide by all objects": (1 + 2 / 3) / 2,
        "the second right detection is the third: its precision is 2 / 3": 0.5,
    }
    expected = (1 + 2 / 3) / 4
    exercise.expect("average_precision", [True, False, True], 4, expected=expected, hints=hints)


def test_average_precision_takes_the_best_later_precision(exercise):
    hints = {"a later precision may be larger: take that one": (1 / 2 + 2 / 3) / 2}
    expected = 2 / 3
    exercise.expect("average_precision", [False, True, True], 2, expected=expected, hints=hints)


def test_average_precision_of_perfect_detections(exercise):
    exercise.expect("average_precision", [True] * 5, 5, expected=1.0)
