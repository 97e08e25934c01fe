"""Losses against their sums written out, for every form of target and every option."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from minidl import Tensor
from minidl import functional as F

from .gradients import check_gradients, check_pure
from .test_convolution import numbers

REDUCTIONS = ["mean", "sum", "none"]
CLASSES = 4


def log_softmax(row: np.ndarray) -> np.ndarray:
    return row - math.log(sum(math.exp(v) for v in row))


def cross_entropy(
    logits: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None,
    ignore_index: int,
    reduction: str,
    smoothing: float,
) -> np.ndarray:
    """The definition, one example after the other."""
    weight = np.ones(CLASSES) if weight is None else weight
    places = list(np.ndindex(logits.shape[:1] + logits.shape[2:]))
    terms, total = {}, 0.0
    for place in places:
        scores = log_softmax(logits[(place[0], slice(None), *place[1:])])
        if target.shape == logits.shape:
            probabilities, counts = target[(place[0], slice(None), *place[1:])], 1.0
        else:
            label = int(target[place])
            probabilities = np.array([float(c == label) for c in range(CLASSES)])
            counts = 0.0 if label == ignore_index else weight[label]
        soft = (1 - smoothing) * probabilities + smoothing / CLASSES
        terms[place] = -(weight * soft * scores).sum() if counts else 0.0
        total += counts
    out = np.array([terms[place] for place in places]).reshape(logits.shape[:1] + logits.shape[2:])
    if reduction == "none":
        return out
    return out.sum() / total if reduction == "mean" else out.sum()


def targets(form: str, extra: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(1)
    if form == "indices":
        return rng.integers(0, CLASSES, (5, *extra))
    if form == "indices, some ignored":
        labels = rng.integers(0, CLASSES, (5, *extra))
        labels[1] = -100
        return labels
    powers = rng.random((5, CLASSES, *extra))
    return powers / powers.sum(1, keepdims=True)


FORMS = ["indices", "indices, some ignored", "probabilities"]
WEIGHT = np.array([1.0, 0.5, 2.0, 0.25])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("extra", [(), (2,), (2, 3)], ids=str)
def test_cross_entropy_equals_its_sums(form, extra, device):
    logits, target = numbers(5, CLASSES, *extra), targets(form, extra)
    options = itertools.product([None, WEIGHT], REDUCTIONS, [0.0, 0.1, 1.0])
    for weight, reduction, smoothing in options:
        wanted = cross_entropy(logits, target, weight, -100, reduction, smoothing)
        found = F.cross_entropy(
            Tensor(logits, device=device),
            Tensor(target, device=device),
            None if weight is None else Tensor(weight, device=device),
            reduction=reduction,
            label_smoothing=smoothing,
        )
        what = f"weight {weight}, {reduction}, smoothing {smoothing}"
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-10, err_msg=what)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_gradients_equal_differences(form, reduction, smoothing, device):
    target, weight = (Tensor(a, device=device) for a in (targets(form, ()), WEIGHT))
    check_gradients(
        lambda x: F.cross_entropy(x, target, weight, -100, reduction, smoothing),
        numbers(5, CLASSES),
        device=device,
    )


def test_cross_entropy_gradient_reaches_probabilities_too(device):
    check_gradients(F.cross_entropy, numbers(2, 3), np.full((2, 3), 1 / 3), device=device)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_pure_and_keeps_dtypes(form, smoothing, device):
    """Probabilities and weights of another float dtype take the logits'."""
    target, weight = (Tensor(a, device=device) for a in (targets(form, ()), WEIGHT))
    check_pure(
        lambda x: F.cross_entropy(x, target, weight, label_smoothing=smoothing),
        numbers(5, CLASSES),
        device=device,
    )


def test_cross_entropy_takes_another_ignore_index():
    logits, labels = numbers(3, CLASSES), np.array([0, 3, 2])
    found = F.cross_entropy(Tensor(logits), labels, ignore_index=3).item()
    assert found == pytest.approx(F.cross_entropy(Tensor(logits[::2]), labels[::2]).item())


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int32, np.int64, np.uint64])
def test_cross_entropy_takes_labels_of_every_integer_type(kind, device):
    labels = np.array([0, 3, 2], kind)
    found = F.cross_entropy(
        Tensor(numbers(3, CLASSES), device=device), Tensor(labels, device=device)
    )
    assert found.item() == pytest.approx(
        cross_entropy(numbers(3, CLASSES), labels, None, -100, "mean", 0)
    )


def test_cross_entropy_takes_a_list_of_labels_on_every_device(device):
    logits = Tensor(np.zeros((2, 10)), device=device)
    assert F.cross_entropy(logits, [3, 9]).item() == pytest.approx(math.log(10))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_of_extreme_logits_is_exact(dtype, device):
    x = Tensor(np.array([[1000, -1000], [1000, -1000]], dtype), device=device, requires_grad=True)
    losses = F.cross_entropy(x, [0, 1], reduction="none")
    assert losses.numpy().tolist() == [0, 2000]
    losses.sum().backward()
    assert x.grad.numpy().tolist() == [[0, 0], [1, -1]]


def test_cross_entropy_of_a_masked_class_that_is_not_the_label_is_finite(device):
    x = Tensor([[0.0, -math.inf, 0.0]], device=device, requires_grad=True)
    loss = F.cross_entropy(x, [0])
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert x.grad.numpy().tolist() == [[-0.5, 0, 0.5]]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_ignored_example_costs_nothing_however_wrong_it_is(smoothing, device):
    x = Tensor([[-math.inf, 0.0], [0.0, 0.0]], device=device, requires_grad=True)
    loss = F.cross_entropy(x[1:], [0], label_smoothing=smoothing)
    both = F.cross_entropy(x, [-100, 0], label_smoothing=smoothing)
    assert both.item() == pytest.approx(loss.item())
    if not smoothing:  # smoothing asks for the gradient of -inf itself, which is NaN
        both.backward()
        assert x.grad.numpy().tolist() == [[0, 0], [-0.5, 0.5]]


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_labels_that_are_all_ignored_cost_nothing(reduction, device):
    x = Tensor(numbers(2, 3), device=device, requires_grad=True)
    loss = F.cross_entropy(x, [-100, -100], reduction=reduction)
    assert not loss.numpy().any()
    loss.sum().backward()
    assert not x.grad.numpy().any()


@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss], ids=lambda f: f.__name__)
def test_an_empty_batch_has_a_sum_but_no_mean(loss):
    logits, labels = Tensor(np.zeros((0, 3))), np.zeros(0, np.int64)
    assert loss(logits, labels, reduction="sum").item() == 0
    assert loss(logits, labels, reduction="none").shape == (0,)
    with pytest.raises(ValueError, match=f"^{loss.__name__}: got an empty batch"):
        loss(logits, labels)


ARRAY_LOSSES = {
    "probabilities": lambda x, a: F.cross_entropy(x, a),
    "weights of smoothed labels": lambda x, a: F.cross_entropy(
        x, [0, 1], a[0], label_smoothing=0.5
    ),
    "weights of labels": lambda x, a: F.cross_entropy(x, [0, 1], a[0]),
    "binary targets": lambda x, a: F.binary_cross_entropy_with_logits(x, a),
    "binary weights": lambda x, a: F.binary_cross_entropy_with_logits(x, [[1, 0]] * 2, a, a),
}


@pytest.mark.parametrize("name", ARRAY_LOSSES)
def test_a_change_of_the_caller_s_array_before_backward_does_no_harm(name):
    gradients = []
    for change in (False, True):
        x, array = Tensor(numbers(2, 2), requires_grad=True), np.full((2, 2), 0.5)
        loss = ARRAY_LOSSES[name](x, array)
        array[...] = 100 if change else array
        loss.backward()
        gradients.append(x.grad.numpy())
    assert np.array_equal(*gradients)


def test_nll_loss_of_log_softmax_is_cross_entropy(device):
    x, weight = Tensor(numbers(5, CLASSES), device=device), Tensor(WEIGHT, device=device)
    labels = Tensor(targets("indices, some ignored", ()), device=device)
    for reduction in REDUCTIONS:
        found = F.nll_loss(F.log_softmax(x, 1), labels, weight, reduction=reduction)
        wanted = F.cross_entropy(x, labels, weight, reduction=reduction)
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-12)


def test_nll_loss_gradients_equal_differences(device):
    labels = Tensor(targets("indices", (2,)), device=device)
    check_gradients(lambda x: F.nll_loss(x, labels), numbers(5, CLASSES, 2), device=device)


# Regression and binary losses


def bce(x: np.ndarray, t: np.ndarray, weight: float = 1.0, pos_weight: float = 1.0) -> np.ndarray:
    y = 1 / (1 + np.exp(-x))
    return -weight * (pos_weight * t * np.log(y) + (1 - t) * np.log(1 - y))


ELEMENTWISE = {
    "mse_loss": (F.mse_loss, lambda x, t: (x - t) ** 2),
    "l1_loss": (F.l1_loss, lambda x, t: abs(x - t)),
    "binary_cross_entropy_with_logits": (F.binary_cross_entropy_with_logits, bce),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_loss_equals_its_definition(name, reduction, device):
    loss, definition = ELEMENTWISE[name]
    x, t = numbers(3, 4), np.random.default_rng(1).random((3, 4))
    terms = definition(x, t)
    wanted = {"mean": terms.mean(), "sum": terms.sum(), "none": terms}[reduction]
    found = loss(Tensor(x, device=device), Tensor(t, device=device), reduction=reduction)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_loss_gradients_equal_differences(name, reduction, device):
    loss, _ = ELEMENTWISE[name]
    target = np.random.default_rng(1).random((3, 2))
    check_gradients(
        lambda x, t: loss(x, t, reduction=reduction), numbers(3, 2), target, device=device
    )


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_losses_are_pure_and_keep_dtypes(name, device):
    target = np.random.default_rng(1).random((3, 2))
    check_pure(ELEMENTWISE[name][0], numbers(3, 2), target, device=device)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_target_of_another_dtype_takes_the_input_s(name, device):
    loss, definition = ELEMENTWISE[name]
    x, t = numbers(4).astype(np.float32), np.array([0, 1, 1, 0])
    for kind in (np.int64, np.float64, np.uint8):
        found = loss(Tensor(x, device=device), Tensor(t.astype(kind), device=device))
        assert found.dtype == np.float32
        assert found.item() == pytest.approx(definition(x, t).mean(), rel=1e-5)


def test_binary_cross_entropy_weights_terms_and_positives(device):
    x, t = numbers(3, 4), np.random.default_rng(1).random((3, 4))
    weight, pos_weight = numbers(4, seed=2) ** 2, numbers(3, 1, seed=3) ** 2
    on = {"device": device}
    found = F.binary_cross_entropy_with_logits(
        Tensor(x, **on), Tensor(t, **on), Tensor(weight, **on), Tensor(pos_weight, **on)
    )
    assert found.item() == pytest.approx(bce(x, t, weight, pos_weight).mean(), rel=1e-12)


def test_binary_cross_entropy_takes_a_number_as_weight_on_every_device(device):
    x, t = numbers(3).astype(np.float32), np.array([0, 1, 1], np.float32)
    on_device = (Tensor(a, device=device) for a in (x, t))
    found = F.binary_cross_entropy_with_logits(*on_device, pos_weight=2.0)
    assert found.dtype == np.float32
    assert found.item() == pytest.approx(bce(x, t, pos_weight=2.0).mean(), rel=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_cross_entropy_of_extreme_logits_is_exact(dtype, device):
    x = Tensor(np.array([1000, -1000, 1000, -1000], dtype), device=device, requires_grad=True)
    losses = F.binary_cross_entropy_with_logits(x, [1, 0, 0, 1], reduction="none")
    assert losses.numpy().tolist() == [0, 0, 1000, 1000]
    losses.sum().backward()
    assert x.grad.numpy().tolist() == [0, 0, 1, -1]
