"""Activations at the ends of their range; what else an operation must do: `test_ops.py`."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minidl import Tensor
from minidl import functional as F

from .helpers.op_table import ACTIVATIONS, Case, Op
from .test_convolution import numbers

ALL = [  # every activation, and with every option
    pytest.param(op, of, id=op.written(of))
    for op in ACTIVATIONS
    for of in op.cases
    if of is op.cases[0] or of.options
]
ELEMENTWISE = [kind for kind in ALL if "softmax" not in kind.id]


# Each function of one element: minidl's, and its definition for one Python float.


@pytest.mark.parametrize(("op", "of"), ELEMENTWISE)
def test_activation_equals_its_definition_from_end_to_end(op: Op, of: Case, device):
    x = np.concatenate([np.linspace(-8, 8, 65), [0.0, -0.0, 1e-9, -1e-9, 30, -30, 1000, -1000]])
    found = op.fn(Tensor(x, device=device), **of.options).numpy()
    np.testing.assert_allclose(found, op.reference(x, **of.options), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("op", "of"), ELEMENTWISE)
def test_activation_is_as_good_in_float32(op: Op, of: Case, device):
    x = np.concatenate([np.linspace(-8, 8, 65), [30, -30, 1000, -1000]]).astype(np.float32)
    wanted = op.reference(x.astype(np.float64), **of.options)
    found = op.fn(Tensor(x, device=device), **of.options).numpy()
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("op", "of"), ALL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activation_gradients_stay_finite_at_the_ends(op: Op, of: Case, dtype, device):
    """Warnings are errors: an overflow on the way would fail here even where it is not chosen."""
    ends = np.array([[-1000, 1000, -90], [90, 0, -1e4]], dtype)
    x = Tensor(ends, device=device, requires_grad=True)
    op.fn(x, **of.options).sum().backward()
    assert np.isfinite(x.grad.numpy()).all()


def test_relu_has_no_gradient_at_zero(device):
    x = Tensor([-1.0, 0.0, 2.0], device=device, requires_grad=True)
    F.relu(x).backward(Tensor([5.0, 5.0, 5.0], device=device))
    assert x.grad.numpy().tolist() == [0, 0, 5]


def test_relu_lets_no_infinite_gradient_through_where_it_is_shut(device):
    x = Tensor([-1.0, 2.0], device=device, requires_grad=True)
    F.relu(x).backward(Tensor([math.inf, math.nan], device=device))
    assert x.grad.numpy()[0] == 0
    assert math.isnan(x.grad.numpy()[1])


# Softmax


def test_softmax_of_extreme_scores_is_exact(device):
    x = Tensor([[1000.0, 0.0, -1000.0], [-1000.0, -1000.0, -1000.0]], device=device)
    third = np.float32(1 / 3)
    assert F.softmax(x).numpy().tolist() == [[1, 0, 0], [third] * 3]
    logs = F.log_softmax(x).numpy()
    assert logs[0].tolist() == [0, -1000, -2000]
    np.testing.assert_allclose(logs[1], -math.log(3), rtol=1e-6)


def test_softmax_gives_a_masked_score_no_part_and_no_gradient(device):
    x = Tensor([[0.0, -math.inf, 0.0]], device=device, requires_grad=True)
    assert F.softmax(x).numpy().tolist() == [[0.5, 0, 0.5]]
    F.log_softmax(x)[0, 0].backward()
    assert x.grad.numpy().tolist() == [[0.5, 0, -0.5]]


def test_softmax_adds_up_to_one_for_many_classes(device):
    total = F.softmax(Tensor(numbers(3, 1000).astype(np.float32), device=device)).numpy().sum(1)
    np.testing.assert_allclose(total, 1, rtol=1e-5)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_of_huge_numbers_does_not_overflow(approximate, device):
    x = Tensor(np.array([-1e30, 1e30], np.float32), device=device, requires_grad=True)
    out = F.gelu(x, approximate)
    out.sum().backward()
    np.testing.assert_array_equal(out.numpy(), np.array([0, 1e30], np.float32))
    np.testing.assert_array_equal(x.grad.numpy(), [0, 1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_of_negative_numbers_keeps_its_digits(approximate, dtype, device):
    """Value and slope are tiny there: added to 1, as in 1 + erf(x), they would be rounded away."""
    numbers = [-0.5, -2.0, -5.0, -8.0, -12.0][: 4 if approximate == "tanh" else 5]
    x = Tensor(np.array(numbers, dtype), device=device, requires_grad=True)
    out = F.gelu(x, approximate)
    out.sum().backward()
    if approximate == "none":
        shares = [math.erfc(-v / math.sqrt(2)) / 2 for v in numbers]
        slopes = [math.exp(-v * v / 2) / math.sqrt(2 * math.pi) for v in numbers]
    else:
        factor = math.sqrt(8 / math.pi)
        shares = [1 / (1 + math.exp(-factor * (v + 0.044715 * v**3))) for v in numbers]
        inner = [factor * (1 + 3 * 0.044715 * v * v) for v in numbers]
        slopes = [s * (1 - s) * k for s, k in zip(shares, inner, strict=True)]
    values = np.array(numbers) * shares
    rel = 2e-5 if dtype == np.float32 else 1e-12
    assert out.numpy() == pytest.approx(values, rel=rel, abs=0)
    assert x.grad.numpy() == pytest.approx(shares + np.array(numbers) * slopes, rel=rel, abs=0)
