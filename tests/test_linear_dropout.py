"""The linear map's memory, and dropout's chances."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import minidl
from minidl import Tensor
from minidl import functional as F

from .test_convolution import numbers


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
