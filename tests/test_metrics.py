from pathlib import Path

import numpy as np
import pytest

from minidl.training import (
    accuracy,
    boundary_f1,
    class_iou,
    class_scores,
    confusion_matrix,
    macro_scores,
    mean_iou,
    micro_scores,
    top_k_accuracy,
)

STORED = Path(__file__).parent / "reference" / "metrics.npz"


def test_accuracy_is_the_share_of_right_answers():
    assert accuracy(np.array([1, 2, 2, 0]), np.array([1, 2, 0, 0])) == 0.75


def test_confusion_matrix_counts_truth_in_rows_and_answers_in_columns():
    predicted, labels = np.array([0, 1, 1, 2, 0]), np.array([0, 1, 2, 2, 1])
    expected = [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    np.testing.assert_array_equal(confusion_matrix(predicted, labels, 3), expected)


def test_confusion_matrix_agrees_with_a_loop():
    rng = np.random.default_rng(0)
    predicted, labels = rng.integers(0, 5, (2, 200)).astype(np.uint8)
    expected = np.zeros((5, 5), np.int64)
    for p, y in zip(predicted, labels, strict=True):
        expected[y, p] += 1
    np.testing.assert_array_equal(confusion_matrix(predicted, labels, 5), expected)


def test_macro_scores_agree_with_a_loop():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 200)
    predicted = np.where(rng.random(200) < 0.6, labels, rng.integers(0, 4, 200))
    precisions, recalls, f1s = [], [], []
    for c in range(5):
        right = sum(p == y == c for p, y in zip(predicted, labels, strict=True))
        precisions.append(right / sum(p == c for p in predicted))
        recalls.append(right / sum(y == c for y in labels))
        f1s.append(2 * precisions[c] * recalls[c] / (precisions[c] + recalls[c]))
    expected = np.mean([precisions, recalls, f1s], axis=1)
    np.testing.assert_allclose(macro_scores(predicted, labels, 5), expected, rtol=1e-12)


def test_macro_scores_count_a_rare_class_like_a_frequent_one():
    labels, predicted = np.array([0] * 98 + [1] * 2), np.zeros(100, np.uint8)
    scores = macro_scores(predicted, labels, 2)
    assert accuracy(predicted, labels) == 0.98
    assert scores == (0.98 / 2, 1 / 2, 2 * 98 / (98 + 100) / 2)


def test_macro_scores_leave_out_only_classes_that_nobody_met():
    labels, predicted = np.array([0, 0, 3]), np.array([0, 0, 2])
    assert macro_scores(predicted, labels, 9) == (1 / 3, 1 / 3, 1 / 3)  # of classes 0, 2 and 3
    assert macro_scores(labels, labels, 9) == (1, 1, 1)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_macro_scores_refuse_classes_out_of_range(wrong):
    with pytest.raises(ValueError, match=r"class_scores: got predicted from .* expected 0 to 2"):
        macro_scores(np.array([0, wrong]), np.array([0, 1]), 3)


@pytest.mark.parametrize(
    ("predicted", "labels"), [(np.ones(3), np.ones(4)), (np.ones((2, 2)),) * 2, (np.ones(0),) * 2]
)
def test_metrics_refuse_shapes_that_do_not_pair(predicted, labels):
    with pytest.raises(ValueError, match=r"accuracy: got shapes .* expected two of shape \(n,\)"):
        accuracy(predicted, labels)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_confusion_matrix_refuses_classes_out_of_range(wrong):
    with pytest.raises(ValueError, match=r"got labels from .* expected 0 to 2"):
        confusion_matrix(np.array([0, 1]), np.array([0, wrong]), 3)


def test_metrics_refuse_lists_and_floats():
    unsigned = np.array([0, 1], np.uint64)
    assert confusion_matrix(unsigned, unsigned, 2).tolist() == [[1, 0], [0, 1]]
    floats = np.array([0.0, 1.0])
    with pytest.raises(
        TypeError, match="confusion_matrix: got predicted of dtype float64, expected"
    ):
        confusion_matrix(floats, np.array([0, 1]), 2)
    with pytest.raises(TypeError, match="top_k_accuracy: got labels of dtype float64, expected"):
        top_k_accuracy(np.eye(2), floats, k=1)
    with pytest.raises(TypeError, match="accuracy: got list and list, expected NumPy arrays"):
        accuracy([1], [1])


# Against scikit-learn's answers, stored by tests/reference/make_metrics.py


def stored():
    with np.load(STORED, allow_pickle=False) as archive:
        arrays = dict(archive)
    for case in range(int(arrays["cases"])):
        yield {
            name.partition("/")[2]: value
            for name, value in arrays.items()
            if name.startswith(f"{case}/")
        }


@pytest.mark.parametrize("case", list(stored()), ids=lambda case: f"{int(case['classes'])} classes")
def test_metrics_are_those_of_scikit_learn(case):
    scores, labels, classes = case["scores"], case["labels"], int(case["classes"])
    given = scores.argmax(1), labels
    near = {"rtol": 1e-12, "atol": 0}
    np.testing.assert_allclose(accuracy(*given), case["accuracy"], **near)
    np.testing.assert_array_equal(confusion_matrix(*given, classes), case["confusion"])
    np.testing.assert_allclose(class_scores(*given, classes), case["per_class"], **near)
    np.testing.assert_allclose(macro_scores(*given, classes), case["macro"], **near)
    np.testing.assert_allclose(micro_scores(*given, classes), case["micro"], **near)
    for k, expected in zip(case["ks"], case["top_k"], strict=True):
        np.testing.assert_allclose(top_k_accuracy(scores, labels, int(k)), expected, **near)


def test_the_stored_cases_hold_what_goes_wrong():
    cases = list(stored())
    assert len(cases) == 12
    assert any(len(np.unique(case["labels"])) < case["classes"] for case in cases)  # a class unmet
    assert any((case["per_class"] == 0).any() for case in cases)
    assert all(case["scores"].argmax(1).shape == case["labels"].shape for case in cases)


def test_top_1_is_the_accuracy_even_where_scores_are_equal():
    scores = np.random.default_rng(0).integers(0, 3, (500, 6)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 6, 500)
    assert top_k_accuracy(scores, labels, 1) == accuracy(scores.argmax(1), labels)
    assert top_k_accuracy(scores, labels, 6) == top_k_accuracy(scores, labels, 9) == 1


def test_a_score_that_is_no_number_is_not_among_the_highest():
    assert top_k_accuracy(np.full((4, 3), np.nan), np.array([0, 1, 2, 0]), 2) == 0


def test_top_k_refuses_what_does_not_fit():
    scores = np.zeros((2, 3))
    with pytest.raises(ValueError, match="top_k_accuracy: got labels from 0 to 3, expected 0 to 2"):
        top_k_accuracy(scores, np.array([0, 3]))
    for k in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"got k={k}, expected an integer >= 1"):
            top_k_accuracy(scores, np.array([0, 1]), k)
    with pytest.raises(ValueError, match=r"top_k_accuracy: got shapes \(2,\) and \(3,\)"):
        top_k_accuracy(scores, np.array([0, 1, 2]))
    with pytest.raises(TypeError, match="top_k_accuracy: got list and ndarray"):
        top_k_accuracy([[0.0]], np.array([0]))


# Masks


def masks(seed, classes=4, shape=(3, 7, 6)):
    """Blocks of 2 x 2 pixels, some of them ignored in the labels, and predictions mostly right."""
    rng = np.random.default_rng(seed)
    n, h, w = shape
    labels = np.repeat(np.repeat(rng.integers(0, classes, (n, h, w)), 2, 1), 2, 2)[:, :h, :w]
    predicted = np.where(rng.random(shape) < 0.8, labels, rng.integers(0, classes, shape))
    labels = np.where(rng.random(shape) < 0.1, 255, labels).astype(np.uint8)
    return predicted, labels


@pytest.mark.parametrize("seed", range(5))
def test_iou_agrees_with_a_loop_over_pixels(seed):
    predicted, labels = masks(seed)
    expected, met = np.zeros(5), []
    for c in range(5):
        both = either = 0
        for p, y in zip(predicted.ravel(), labels.ravel(), strict=True):
            if y != 255:
                both += p == y == c
                either += c in (p, y)
        if either:
            expected[c] = both / either
            met.append(expected[c])
    np.testing.assert_allclose(class_iou(predicted, labels, 5), expected, rtol=1e-15)
    assert len(met) == 4  # the fifth class occurs nowhere
    assert mean_iou(predicted, labels, 5) == pytest.approx(np.mean(met), rel=1e-15)
    shifted = np.where(labels == 255, -1, labels.astype(int))
    assert mean_iou(predicted, shifted, 5, ignore_index=-1) == mean_iou(predicted, labels, 5)


def boundary(mask, c):
    """Return the boundary pixels of a class in a mask, of which None is ignored."""
    h, w = len(mask), len(mask[0])
    found = []
    for y in range(h):
        for x in range(w):
            for b, a in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= b < h and 0 <= a < w
                if mask[y][x] == c and inside and mask[b][a] not in (c, None):
                    found.append((y, x))
                    break
    return found


@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 2, 9, np.inf])
@pytest.mark.parametrize("seed", range(3))
def test_boundary_f1_agrees_with_a_loop_over_boundary_pixels(tolerance, seed):
    predicted, labels = masks(seed)
    scores = []
    for c in range(5):
        right, given, found, there = 0, 0, 0, 0
        for p, y in zip(predicted, labels, strict=True):
            kept = [[None if v == 255 else int(v) for v in row] for row in y]
            shown = [
                [None if v is None else int(q) for q, v in zip(*rows, strict=True)]
                for rows in zip(p, kept, strict=True)
            ]
            ours, theirs = boundary(shown, c), boundary(kept, c)

            def near(place, others):
                return any(np.hypot(place[0] - b, place[1] - a) <= tolerance for b, a in others)

            right += sum(near(place, theirs) for place in ours)
            found += sum(near(place, ours) for place in theirs)
            given, there = given + len(ours), there + len(theirs)
        if given or there:
            precision, recall = right / max(1, given), found / max(1, there)
            both = precision + recall
            scores.append(2 * precision * recall / both if both else 0)
    assert len(scores) == 4
    expected = pytest.approx(np.mean(scores), rel=1e-12)
    assert boundary_f1(predicted, labels, 5, tolerance) == expected


def test_the_right_masks_have_the_score_1_and_others_less():
    _, labels = masks(0)
    whole = np.where(labels == 255, 0, labels)
    assert mean_iou(whole, labels, 4) == boundary_f1(whole, labels, 4, 0) == 1
    assert mean_iou(np.roll(whole, 1, 2), whole, 4) < 0.7
    strict, loose = (boundary_f1(np.roll(whole, 1, 2), whole, 4, t) for t in (0, 1))
    assert strict < loose
    empty = np.zeros((2, 3, 3), int)
    assert mean_iou(empty, empty, 4) == boundary_f1(empty, empty, 4) == 1  # nothing to outline
    assert boundary_f1(empty, np.eye(3, dtype=int)[None].repeat(2, 0), 2) == 0


@pytest.mark.parametrize("metric", [class_iou, mean_iou, boundary_f1])
def test_metrics_of_masks_refuse_what_does_not_fit(metric):
    name, mask = metric.__name__, np.zeros((1, 2, 2), int)
    with pytest.raises(ValueError, match=rf"{name}: got shapes \(1, 2, 2\) and \(1, 2, 1\)"):
        metric(mask, mask[:, :, :1], 2)
    with pytest.raises(ValueError, match=f"{name}: got labels from 2 to 2, expected 0 to 1"):
        metric(mask, mask + 2, 2)
    with pytest.raises(ValueError, match=f"{name}: got predicted from 255 to 255, expected 0 to 1"):
        metric(mask + 255, mask, 2)
    with pytest.raises(ValueError, match=f"{name}: got no pixel whose label is not 255"):
        metric(mask, mask + 255, 2)
    with pytest.raises(TypeError, match=f"{name}: got list and ndarray"):
        metric([[[0]]], mask, 2)
    with pytest.raises(TypeError, match=f"{name}: got predicted of dtype float64"):
        metric(mask / 2, mask, 2)


def test_boundary_f1_refuses_other_shapes_and_tolerances():
    mask = np.zeros((2, 2), int)
    with pytest.raises(ValueError, match=r"boundary_f1: got masks of shape \(2, 2\) and tol"):
        boundary_f1(mask, mask, 2)
    with pytest.raises(ValueError, match="and tolerance=-1, expected"):
        boundary_f1(mask[None], mask[None], 2, -1)
