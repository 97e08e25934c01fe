"""Scores of detectors: pycocotools' numbers, which are stored, and cases by hand."""

from __future__ import annotations

import numpy as np
import pytest

from minidl import training

from .reference.cases import load

STORED = load("detection")
THRESHOLDS = (0.5, 0.75, 1.0)


def by_image(rows: np.ndarray, images: int, *columns: slice | int) -> list[tuple[np.ndarray, ...]]:
    return [tuple(rows[rows[:, 0] == i][:, part] for part in columns) for i in range(images)]


@pytest.mark.parametrize("seed", range(8))
def test_mean_average_precision_equals_pycocotools(seed):
    found = by_image(STORED[f"{seed}/found"], 6, slice(1, 5), 5, 6)
    objects = by_image(STORED[f"{seed}/objects"], 6, slice(1, 5), 5)
    got = [training.mean_average_precision(found, objects, t) for t in THRESHOLDS]
    np.testing.assert_allclose(got, STORED[f"{seed}/answers"], rtol=1e-12)


def test_the_stored_answers_differ_from_each_other_and_from_0_and_1():
    answers = np.array([STORED[f"{seed}/answers"] for seed in range(8)])
    assert len(np.unique(answers.round(6))) > 10
    assert (answers[:, 0] > answers[:, 1]).any()
    assert (answers[:, 0] > 0).all()
    assert (answers[:, 0] < 1).all()


def test_a_second_box_on_an_object_is_wrong_however_well_it_fits():
    box, label = np.array([[0, 0, 8, 8]]), np.array([1])
    others = np.array([[20, 20, 28, 28]])
    objects = [(np.concatenate([box, others]), np.array([1, 1]))]
    found = [(np.concatenate([box, box, others]), np.array([1, 1, 1]), np.array([0.9, 0.8, 0.7]))]
    # Precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1: 51 recalls at 1, 50 at 2/3.
    got = training.mean_average_precision(found, objects)
    assert got == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert training.mean_average_precision([(box[:0], label[:0], label[:0])], [(box, label)]) == 0


def test_boxes_that_share_nothing_or_are_empty_have_no_overlap():
    a, empty = np.array([[0, 0, 2, 2]]), np.array([[1, 1, 1, 1], [5, 5, 6, 6]])
    assert training.box_iou(a, empty).tolist() == [[0, 0]]
    assert training.box_iou(empty[:1], empty[:1]).tolist() == [[0]]
    assert training.box_iou(a, a).tolist() == [[1]]


def test_errors_say_what_is_expected():
    box, label = np.array([[0, 0, 8, 8]]), np.array([1])
    with pytest.raises(ValueError, match="detections of 0 images and objects of 1, expected as"):
        training.mean_average_precision([], [(box, label)])
    with pytest.raises(ValueError, match="got no object in any image, expected at least 1"):
        training.mean_average_precision([(box, label, label)], [(box[:0], label[:0])])
    with pytest.raises(ValueError, match="got threshold=0, expected 0 < threshold <= 1"):
        training.mean_average_precision([], [], 0)
    with pytest.raises(
        ValueError, match=r"box_iou: got boxes of shape \(1, 3\), expected \(m, 4\)"
    ):
        training.box_iou(box, box[:, :3])
