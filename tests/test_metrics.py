from pathlib import Path

import numpy as np
import pytest

from minidl.training import (
    accuracy,
    class_scores,
    confusion_matrix,
    macro_scores,
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
    with pytest.raises(ValueError, match="got k=0, expected a number >= 1"):
        top_k_accuracy(scores, np.array([0, 1]), 0)
    with pytest.raises(ValueError, match=r"top_k_accuracy: got shapes \(2,\) and \(3,\)"):
        top_k_accuracy(scores, np.array([0, 1, 2]))
    with pytest.raises(TypeError, match="top_k_accuracy: got list and ndarray"):
        top_k_accuracy([[0.0]], np.array([0]))
