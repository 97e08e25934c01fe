"""Proof that tests of values catch bugs: each plants one in a composed operation or a metric.

Their gradients follow from those of other operations, so gradcheck agrees with a wrong formula.
What must notice is a comparison with an independent form: the references of the op table, loops
over pixels, and the answers of pycocotools.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from minidl import Tensor, training
from minidl import functional as F
from minidl.functional import loss_kinds
from minidl.functional.pooling import sequences
from minidl.training import detection, metrics

from . import test_detection, test_metrics
from .helpers.op_table import OPS
from .test_mutations import Mutation, mutant


@dataclass(frozen=True)
class Planted:
    """A bug: `old` becomes `new` in the source of `owner.name`, which `test` must notice.

    Attributes:
        bug: what it is, in words.
        owner: the module from which the function is used.
        name: of the function.
        old: its piece of text, found exactly once.
        new: what replaces it.
        test: runs a test; given by the function for operations of the op table.
    """

    bug: str
    owner: Any
    name: str
    old: str
    new: str
    test: Callable[[], None] | None = None


def check_op(name: str) -> None:
    """Compare all cases of an operation with its reference."""
    op = next(op for op in OPS if op.name == f"functional.{name}")
    for of in op.cases:
        arrays = of.arrays()
        got = getattr(F, name)(*map(Tensor, arrays), **of.options).numpy()
        expected = op.reference(*arrays, **of.options)
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def check_iou() -> None:
    test_metrics.test_iou_agrees_with_a_loop_over_pixels(0)


def check_boundary() -> None:
    for tolerance in (0, 1, 2):
        test_metrics.test_boundary_f1_agrees_with_a_loop_over_boundary_pixels(tolerance, 0)


def check_detection() -> None:
    for seed in range(3):
        test_detection.test_mean_average_precision_equals_pycocotools(seed)
    test_detection.test_boxes_that_share_nothing_or_are_empty_have_no_overlap()


PLANTED = [
    Planted(
        "masked mean: over all steps",
        *(sequences, "masked_avg_pool1d"),
        "xp.maximum(counts.sum(-1, keepdims=True), 1)",
        "xp.maximum(counts.sum(-1, keepdims=True), counts.shape[1])",
    ),
    Planted(
        "masked mean: masked steps added",
        *(sequences, "masked_avg_pool1d"),
        "where(counts[:, None], x, 0)",
        "x",
    ),
    Planted(
        "masked maximum: masked steps count as 0",
        *(sequences, "masked_max_pool1d"),
        "x, -np.inf)",
        "x, 0)",
    ),
    Planted(
        "masked attention: masked steps have a share",
        *(sequences, "masked_attention_pool1d"),
        "mask_bias(op, counts, x)",
        "mask_bias(op, counts | True, x)",
    ),
    Planted(
        "focal loss: sure answers count most",
        *(loss_kinds, "focal_loss"),
        "_power(1 - (-terms).exp(), gamma)",
        "_power((-terms).exp(), gamma)",
    ),
    Planted(
        "focal loss: mean over examples, not over their weights",
        *(loss_kinds, "focal_loss"),
        "divisor = weights.sum()",
        "divisor = counted.sum()",
    ),
    Planted(
        "dice loss: intersection counted once",
        *(loss_kinds, "dice_loss"),
        "2 * overlap",
        "overlap",
    ),
    Planted(
        "dice loss: ignored pixels among the predicted",
        *(loss_kinds, "dice_loss"),
        " * Tensor.wrap(counted[:, None].astype(logits.dtype))",
        "",
    ),
    Planted(
        "IoU: intersection twice in the union",
        *(metrics, "mean_iou"),
        " - np.diag(matrix)",
        "",
        check_iou,
    ),
    Planted(
        "IoU: classes that occur nowhere count",
        *(metrics, "mean_iou"),
        "(right[union > 0] / union[union > 0])",
        "(right / np.maximum(union, 1))",
        check_iou,
    ),
    Planted(
        "boundary F1: recall of the wrong mask",
        *(metrics, "boundary_f1"),
        "(theirs & _widened(ours, tolerance))",
        "(ours & _widened(ours, tolerance))",
        check_boundary,
    ),
    Planted(
        "boundary F1: arithmetic mean",
        *(metrics, "boundary_f1"),
        "2 * precision * recall / max(precision + recall, 1e-300)",
        "(precision + recall) / 2",
        check_boundary,
    ),
    Planted(
        "boundary F1: ignored pixels are another class",
        *(metrics, "_boundary"),
        " & counted[ahead] & counted[back]",
        "",
        check_boundary,
    ),
    Planted(
        "boundary F1: distances along axes alone",
        *(metrics, "_widened"),
        "y * y + x * x <= radius * radius",
        "max(abs(y), abs(x)) <= radius",
        check_boundary,
    ),
    Planted(
        "box IoU: sides of boxes apart not clipped",
        *(detection, "box_iou"),
        "(high - low).clip(0)",
        "(high - low)",
        check_detection,
    ),
    Planted(
        "box IoU: intersection twice in the union",
        *(detection, "box_iou"),
        "areas[1] - both",
        "areas[1]",
        check_detection,
    ),
    Planted(
        "mAP: an object taken twice",
        *(detection, "_taken"),
        "free[len(values) - 1 - values[::-1].argmax()] = False",
        "pass",
        check_detection,
    ),
    Planted(
        "mAP: precision not made to fall",
        *(detection, "_average"),
        "np.maximum.accumulate(precision[::-1])[::-1]",
        "precision",
        check_detection,
    ),
    Planted(
        "mAP: the least sure first",
        *(detection, "_average"),
        "np.argsort(-np.concatenate(scores)",
        "np.argsort(np.concatenate(scores)",
        check_detection,
    ),
    Planted(
        "mAP: over images instead of classes",
        *(detection, "mean_average_precision"),
        "np.unique(np.concatenate([np.zeros(0), *(labels for _, labels in objects)]))",
        "np.concatenate([np.zeros(0), *(labels for _, labels in objects)])",
        check_detection,
    ),
]
USERS = [F, training, test_metrics]
"""Where tests take the functions from."""


def test_no_bug_comes_twice():
    assert len({(bug.name, bug.old, bug.new) for bug in PLANTED}) == len(PLANTED) == 20


@pytest.mark.parametrize("planted", PLANTED, ids=lambda bug: bug.bug)
def test_a_bug_changes_a_value_that_is_compared(planted, monkeypatch):
    bug, name = planted, planted.name
    check = bug.test or (lambda: check_op(name))
    check()
    wrong = mutant(Mutation(bug.bug, bug.owner, name, bug.old, bug.new, ""))
    for user in [bug.owner, *(user for user in USERS if hasattr(user, name))]:
        monkeypatch.setattr(user, name, wrong)
    with pytest.raises(AssertionError):
        check()
