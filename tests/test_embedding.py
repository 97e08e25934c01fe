"""Embedding beyond the table: padding, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn
from minidl import functional as F

from .op_table import numbers


def table(device="cpu") -> Tensor:
    return Tensor(numbers(4, 3).array(0), device=device, requires_grad=True)


@pytest.mark.parametrize("padding_idx", [1, -3])
def test_the_padding_row_gets_no_gradient_to_any_order(padding_idx, device):
    weight = table(device)
    indices = Tensor(np.array([1, 2, 1, 2]), device=device)
    out = F.embedding(indices, weight, padding_idx)
    assert np.array_equal(out.numpy(), weight.numpy()[[1, 2, 1, 2]])
    (gradient,) = minidl.grad((out**3).sum(), weight, create_graph=True)
    wanted = 3 * 2 * weight.numpy() ** 2 * np.array([0, 0, 1, 0])[:, None]
    np.testing.assert_allclose(gradient.numpy(), wanted)
    (again,) = minidl.grad(gradient.sum(), weight)
    np.testing.assert_allclose(again.numpy()[2], 12 * weight.numpy()[2])
    assert not again.numpy()[[0, 1, 3]].any()


def test_changing_the_indices_afterwards_does_not_move_the_gradient():
    weight, indices = table(), np.array([0, 0])
    out = F.embedding(indices, weight)
    indices[:] = 3
    out.sum().backward()
    assert weight.grad.numpy()[:, 0].tolist() == [2, 0, 0, 0]


def test_many_rows_with_few_repeats_and_few_rows_with_many_are_added_alike():
    rng = np.random.default_rng(0)
    for count in (5, 5000):
        weight = Tensor(np.zeros((count, 7)), requires_grad=True)
        rows = rng.integers(0, count, (40, 25))
        gradient = rng.normal(size=(40, 25, 7))
        F.embedding(rows, weight).backward(Tensor(gradient))
        wanted = np.zeros((count, 7))
        np.add.at(wanted, rows, gradient)
        np.testing.assert_allclose(weight.grad.numpy(), wanted, atol=1e-12)


def test_the_padding_vector_starts_as_zeros_and_stays():
    layer = nn.Embedding(5, 3, padding_idx=-1)
    assert not layer.weight.numpy()[4].any()
    adam = minidl.optim.Adam(layer.parameters())
    layer([[0, 4, 4]]).sum().backward()
    adam.step()
    assert not layer.weight.numpy()[4].any()


@pytest.mark.parametrize(
    ("indices", "options", "error", "message"),
    [
        (np.array([0.0]), {}, TypeError, "got indices of dtype float64, wants integers"),
        (np.array([True]), {}, TypeError, "got indices of dtype bool, wants integers"),
        ([0, 4], {}, ValueError, r"from 0 to 4 for a weight of shape \(4, 3\), wants 0 to 3; is"),
        ([-1, 0], {}, ValueError, "from -1 to 0"),
        ([0], {"padding_idx": 4}, ValueError, "got padding_idx=4, wants -4 to 3"),
        (Tensor(np.array([0]), device="guarded"), {}, TypeError, "on 'cpu' and 'guarded'"),
    ],
)
def test_what_cannot_be_looked_up_is_refused(indices, options, error, message):
    with pytest.raises(error, match=f"embedding: .*{message}"):
        F.embedding(indices, table(), **options)


def test_wrong_tables_are_refused():
    with pytest.raises(ValueError, match=r"weight of shape \(3,\), wants \(num_embeddings, emb"):
        F.embedding([0], minidl.zeros(3))
    with pytest.raises(ValueError, match="Embedding: got num_embeddings=0"):
        nn.Embedding(0, 3)
    with pytest.raises(ValueError, match="Embedding: got padding_idx=3, wants -3 to 2"):
        nn.Embedding(3, 2, padding_idx=3)
