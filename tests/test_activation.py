"""Activations against closed forms in Python's own arithmetic, and at the ends of their range."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minidl import Tensor
from minidl import functional as F

from .gradients import check_gradients, check_pure
from .test_convolution import numbers


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _gelu_tanh(x: float) -> float:
    return x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


# Each function of one element: minidl's, and its definition for one Python float.
ELEMENTWISE = {
    "relu": (F.relu, lambda x: max(x, 0.0)),
    "leaky_relu": (F.leaky_relu, lambda x: x if x > 0 else 0.01 * x),
    "leaky_relu 0.3": (lambda x: F.leaky_relu(x, 0.3), lambda x: x if x > 0 else 0.3 * x),
    "elu": (F.elu, lambda x: x if x > 0 else math.expm1(x)),
    "elu 0.5": (lambda x: F.elu(x, 0.5), lambda x: x if x > 0 else 0.5 * math.expm1(x)),
    "sigmoid": (F.sigmoid, _sigmoid),
    "softplus": (F.softplus, lambda x: max(x, 0) + math.log1p(math.exp(-abs(x)))),
    "softplus 2": (
        lambda x: F.softplus(x, 2),
        lambda x: max(x, 0) + math.log1p(math.exp(-abs(2 * x))) / 2,
    ),
    "silu": (F.silu, lambda x: x * _sigmoid(x)),
    "gelu": (F.gelu, lambda x: x * math.erfc(-x / math.sqrt(2)) / 2),
    "gelu tanh": (lambda x: F.gelu(x, "tanh"), _gelu_tanh),
}
SOFTMAXES = {
    "softmax": F.softmax,
    "softmax of axis 0": lambda x: F.softmax(x, 0),
    "log_softmax": F.log_softmax,
    "log_softmax of axis 1": lambda x: F.log_softmax(x, 1),
}
ALL = {name: fn for name, (fn, _) in ELEMENTWISE.items()} | SOFTMAXES
AWAY_FROM_ZERO = np.array([[-3.0, -1.2, -0.4], [0.3, 1.1, 2.5]])  # where ReLU has no kink


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activation_equals_its_definition(name, device):
    fn, definition = ELEMENTWISE[name]
    x = np.concatenate([np.linspace(-8, 8, 65), [0.0, -0.0, 1e-9, -1e-9, 30, -30, 1000, -1000]])
    wanted = np.array([definition(float(v)) for v in x])
    found = fn(Tensor(x, device=device)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activation_is_as_good_in_float32(name, device):
    fn, definition = ELEMENTWISE[name]
    x = np.concatenate([np.linspace(-8, 8, 65), [30, -30, 1000, -1000]]).astype(np.float32)
    wanted = np.array([definition(float(v)) for v in x])
    found = fn(Tensor(x, device=device)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ALL)
def test_activation_gradients_equal_differences(name, device):
    check_gradients(ALL[name], AWAY_FROM_ZERO, device=device)


@pytest.mark.parametrize("name", ALL)
def test_activations_are_pure_and_keep_dtypes(name, device):
    check_pure(ALL[name], AWAY_FROM_ZERO, device=device)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activation_gradients_stay_finite_at_the_ends(name, dtype, device):
    """Warnings are errors: an overflow on the way would fail here even where it is not chosen."""
    ends = np.array([[-1000, 1000, -90], [90, 0, -1e4]], dtype)
    x = Tensor(ends, device=device, requires_grad=True)
    ALL[name](x).sum().backward()
    assert np.isfinite(x.grad.numpy()).all()


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activations_take_an_empty_batch(name):
    assert ALL[name](Tensor(np.zeros((0, 3)))).shape == (0, 3)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, v: F.leaky_relu(x, v),
        lambda x, v: F.elu(x, v),
        lambda x, v: F.softplus(x, v),
    ],
    ids=["leaky_relu", "elu", "softplus"],
)
def test_a_float64_number_of_numpy_does_not_widen_float32(fn):
    x = Tensor([-1.0, 2.0], requires_grad=True)
    out = fn(x, np.float64(0.5))
    out.sum().backward()
    assert (out.dtype, x.grad.dtype) == (np.float32, np.float32)


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


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax_equals_its_definition(axis, device):
    x = numbers(2, 3, 4)
    powers = np.exp(x)
    wanted = powers / powers.sum(axis, keepdims=True)
    on_device = Tensor(x, device=device)
    np.testing.assert_allclose(F.softmax(on_device, axis).numpy(), wanted, rtol=1e-12)
    np.testing.assert_allclose(F.log_softmax(on_device, axis).numpy(), np.log(wanted), rtol=1e-12)


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


@pytest.mark.parametrize("op", [F.softmax, F.log_softmax], ids=lambda f: f.__name__)
@pytest.mark.parametrize("axis", [0, 1])
def test_softmax_of_nothing_is_nothing(op, axis, device):
    x = Tensor(np.zeros((3, 0)), device=device, requires_grad=True)
    out = op(x, axis)
    out.sum().backward()
    assert out.shape == x.grad.shape == (3, 0)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_of_huge_numbers_does_not_overflow(approximate, device):
    x = Tensor(np.array([-1e30, 1e30], np.float32), device=device, requires_grad=True)
    out = F.gelu(x, approximate)
    out.sum().backward()
    np.testing.assert_array_equal(out.numpy(), np.array([0, 1e30], np.float32))
    np.testing.assert_array_equal(x.grad.numpy(), [0, 1])
