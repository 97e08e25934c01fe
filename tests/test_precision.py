"""On hostile inputs, float32's errors stay within limits, and within four times PyTorch's."""

from __future__ import annotations

import math

import pytest

from . import precision
from .helpers.op_table import OPS

USUAL = 6.0
LIMITS = {
    # Infinite: PyTorch, too, loses gradients below eps of the usual ones, as those of a saturated
    # sigmoid or softmax.
    **dict.fromkeys(("sigmoid", "softmax", "gated_pool2d"), math.inf),
    # The same where a softmax or a sigmoid is one part of several.
    **dict.fromkeys(("dice_loss", "scaled_dot_product_attention", "gru", "lstm"), math.inf),
    "masked_attention_pool1d": math.inf,
    # Differences of neighbours that differ only in their last digits.
    **dict.fromkeys(("mixed_pool1d", "mixed_pool2d"), 1e4),
    **dict.fromkeys(("softmax_pool1d", "softmax_pool2d"), math.inf),
    # The slope along p is 0 where all pixels of a window are equal, and little beside.
    **dict.fromkeys(("gem_pool1d", "gem_pool2d"), math.inf),
    **dict.fromkeys(("lp_pool1d", "lp_pool2d"), 20.0),
    # Exponents and weights that range over 12 orders of magnitude.
    "__pow__": 20.0,
    "layer_norm": 60.0,
    "std": 60.0,
    "cross_entropy": 10.0,
}
"""Largest errors, in eps, where they are not `USUAL`. They do not depend on PyTorch."""


GATED = {"gru": 5.0, "lstm": 5.0}
"""Largest ratios to PyTorch's error. NumPy's exp and tanh of float32 err by up to 2.3 and 1.4 units
in the last place, PyTorch's by 0.6 and 0.5, and gates multiply several of them."""


@pytest.fixture(scope="module")
def found() -> list[precision.Row]:
    return list(precision.rows(100_000))


def test_errors_of_float32_stay_within_limits(found):
    over = [row for row in found if not max(row.ours) <= LIMITS.get(row.op, USUAL)]
    assert over == []


def test_every_function_and_operation_is_measured(found):
    """Layers call functions, and copies are exact."""
    names = {op.name.rpartition(".")[2] for op in OPS if not op.name.startswith("nn.")}
    assert {row.op for row in found} == names - {"copy", "to"}


def is_noise(row: precision.Row) -> bool:
    """Return whether keys are equal: queries have no gradient then, and float64 finds 1e-18."""
    is_equal = row.op == "scaled_dot_product_attention" and row.kind == "constant"
    return is_equal and row.theirs is not None and row.theirs[1] * precision.EPS >= 0.5


@pytest.mark.oracle
def test_no_error_is_four_times_pytorch_s():
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")
    measured = list(precision.rows(1_000_000, precision.torch_answers))
    over = [row for row in measured if row.excess > GATED.get(row.op, precision.WORST)]
    assert [row for row in over if not is_noise(row)] == []
    compared = {row.op for row in measured if row.theirs is not None}
    assert len(compared) >= 70
