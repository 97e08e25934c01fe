"""The linear map, and dropout."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import minidl
from minidl import Tensor
from minidl import functional as F

from .gradients import check_gradients, check_pure
from .test_convolution import numbers

SHAPES = {
    "vector": [(3,), (2, 3), (2,)],
    "batch": [(4, 3), (2, 3), (2,)],
    "sequence": [(2, 5, 3), (2, 3), (2,)],
    "one output": [(4, 3), (1, 3), (1,)],
}


def arrays(name: str) -> list[np.ndarray]:
    return [numbers(*shape, seed=i) for i, shape in enumerate(SHAPES[name])]


@pytest.mark.parametrize("name", SHAPES)
def test_linear_equals_its_sums(name, device):
    x, weight, bias = arrays(name)
    wanted = np.empty((*x.shape[:-1], len(weight)))
    for place in np.ndindex(wanted.shape):
        row, column = x[place[:-1]], place[-1]
        wanted[place] = sum(a * b for a, b in zip(row, weight[column], strict=True)) + bias[column]
    found = F.linear(*(Tensor(a, device=device) for a in (x, weight, bias)))
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)


def test_linear_makes_one_weight_gradient_however_many_axes_lead():
    x = Tensor(np.ones((500, 2, 100), np.float32))
    weight = Tensor(np.ones((100, 100), np.float32), requires_grad=True)
    loss = F.linear(x, weight).sum()
    tracemalloc.start()
    try:
        loss.backward()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50 * weight.data.nbytes


def test_linear_of_an_empty_sequence_keeps_its_axes():
    assert F.linear(Tensor(np.ones((0, 5, 3))), Tensor(np.ones((2, 3)))).shape == (0, 5, 2)


def test_linear_without_bias(device):
    x, weight, _ = arrays("batch")
    found = F.linear(Tensor(x, device=device), Tensor(weight, device=device)).numpy()
    np.testing.assert_allclose(found, x @ weight.T, atol=1e-12)


@pytest.mark.parametrize("name", SHAPES)
def test_linear_gradients_equal_differences(name, device):
    check_gradients(F.linear, *arrays(name), device=device)


@pytest.mark.parametrize("name", SHAPES)
def test_linear_is_pure_and_keeps_dtypes(name, device):
    check_pure(F.linear, *arrays(name), device=device)


def test_linear_takes_an_empty_batch(device):
    weight = Tensor(numbers(2, 3), device=device, requires_grad=True)
    out = F.linear(Tensor(np.zeros((0, 3)), device=device), weight)
    assert out.shape == (0, 2)
    out.sum().backward()
    assert not weight.grad.numpy().any()


# Dropout


def test_dropout_zeroes_with_probability_p_and_keeps_the_mean(device):
    x = minidl.ones((200, 500), device=device)
    out = F.dropout(x, 0.3, rng=np.random.default_rng(0)).numpy()
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.7)}
    deviation = np.sqrt(0.3 * 0.7 / out.size)
    assert (out == 0).mean() == pytest.approx(0.3, abs=4 * deviation)


def test_dropout_gradient_passes_where_elements_were_kept(device):
    x = Tensor(numbers(5, 4), device=device, requires_grad=True)
    out = F.dropout(x, 0.5)
    g = numbers(5, 4, seed=1)
    out.backward(Tensor(g, device=device))
    np.testing.assert_allclose(x.grad.numpy(), np.where(out.numpy() == 0, 0, 2 * g))


def test_dropout_gradients_equal_differences(device):
    check_gradients(
        lambda x: F.dropout(x, 0.5, rng=np.random.default_rng(0)), numbers(3, 4), device=device
    )


def test_dropout_is_pure_and_keeps_dtypes(device):
    check_pure(lambda x: F.dropout(x, np.float64(0.5)), numbers(3, 4), device=device)


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True), (1.0, False)])
def test_dropout_returns_its_input_when_it_has_nothing_to_do(p, training):
    x = minidl.ones(3)
    assert F.dropout(x, p, training) is x


def test_dropout_of_everything_leaves_zeros():
    assert F.dropout(minidl.ones(4), 1.0).numpy().tolist() == [0, 0, 0, 0]


def test_one_seed_gives_one_mask_on_every_device_and_in_both_dtypes(device):
    masks = []
    for dtype, where in ((np.float32, "cpu"), (np.float64, device)):
        minidl.manual_seed(3)
        masks.append(F.dropout(minidl.ones(100, dtype=dtype, device=where)).numpy() != 0)
    assert np.array_equal(*masks)


def test_dropout_draws_a_new_mask_each_time():
    x = minidl.ones(100)
    assert not np.array_equal(F.dropout(x).numpy(), F.dropout(x).numpy())
