"""Embedding beyond the table: padding, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn
from minidl import functional as F

from .helpers.op_table import numbers


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
        (np.array([0.0]), {}, TypeError, "got indices of dtype float64, expected integers"),
        (np.array([True]), {}, TypeError, "got indices of dtype bool, expected integers"),
        (
            [0, 4],
            {},
            ValueError,
            r"from 0 to 4 for a weight of shape \(4, 3\), expected 0 to 3; is",
        ),
        ([-1, 0], {}, ValueError, "from -1 to 0"),
        ([0], {"padding_idx": 4}, ValueError, "got padding_idx=4, expected -4 to 3"),
        (Tensor(np.array([0]), device="guarded"), {}, TypeError, "on 'cpu' and 'guarded'"),
    ],
)
def test_what_cannot_be_looked_up_is_refused(indices, options, error, message):
    with pytest.raises(error, match=f"embedding: .*{message}"):
        F.embedding(indices, table(), **options)


def test_wrong_tables_are_refused():
    with pytest.raises(ValueError, match=r"weight of shape \(3,\), expected \(num_embeddings, emb"):
        F.embedding([0], minidl.zeros(3))
    with pytest.raises(ValueError, match="Embedding: got num_embeddings=0"):
        nn.Embedding(0, 3)
    with pytest.raises(ValueError, match="Embedding: got padding_idx=3, expected -3 to 2"):
        nn.Embedding(3, 2, padding_idx=3)


def test_vectors_that_are_there_already_are_taken_as_they_are():
    vectors = np.arange(6.0).reshape(3, 2)
    frozen = nn.Embedding.from_pretrained(vectors, padding_idx=0)
    assert not frozen.weight.requires_grad
    assert frozen.weight.dtype == np.float64
    assert frozen([0, 2]).numpy().tolist() == [[0, 1], [4, 5]]
    vectors[:] = 9
    assert frozen.weight.numpy()[2].tolist() == [4, 5]
    trained = nn.Embedding.from_pretrained([[1.0, 2.0]], freeze=False, sparse=True)
    assert (trained.weight.requires_grad, trained.sparse) == (True, True)
    with pytest.raises(ValueError, match=r"from_pretrained: got vectors of shape \(3,\), expected"):
        nn.Embedding.from_pretrained([1.0, 2.0, 3.0])
    with pytest.raises(TypeError, match="int64, only floats have gradients"):
        nn.Embedding.from_pretrained(np.zeros((2, 2), np.int64), freeze=False)


def test_pretrained_vectors_draw_nothing_from_the_seeded_stream():
    rng = minidl.manual_seed(0)
    before = rng.bit_generator.state
    nn.Embedding.from_pretrained(np.ones((3, 2)))
    assert rng.bit_generator.state == before


@pytest.mark.parametrize("norm_type", [1.0, 2.0, np.inf])
def test_long_rows_that_are_looked_up_are_shortened_for_good(norm_type, device):
    weight = Tensor(np.array([[3.0, 4], [0.1, 0.2], [30, 40]]), device=device, requires_grad=True)
    rows = Tensor(np.array([0, 1, 0]), device=device)
    out = F.embedding(rows, weight, max_norm=1.0, norm_type=norm_type)
    norms = np.linalg.norm(weight.numpy(), norm_type, axis=1)
    np.testing.assert_allclose(norms[0], 1.0, atol=1e-6)
    assert weight.numpy()[1:].tolist() == [[0.1, 0.2], [30, 40]]
    assert np.array_equal(out.numpy(), weight.numpy()[[0, 1, 0]])
    out.sum().backward()
    assert weight.grad.numpy()[:, 0].tolist() == [2, 1, 0]


@pytest.mark.oracle
@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_rows_whose_squares_leave_float32_are_shortened(size):
    weight = Tensor(np.float32([[3, 4], [0, 0]]) * np.float32(size))
    found = F.embedding([0, 1], weight, max_norm=size).numpy() / np.float32(size)
    if size > 1:  # else the 1e-7 that keeps the division finite counts
        np.testing.assert_allclose(found[0], [0.6, 0.8], rtol=1e-5)
    assert found[1].tolist() == [0.0, 0.0]
    assert np.isfinite(found).all()


def test_max_norm_is_pytorchs():
    torch = pytest.importorskip("torch")
    start = np.random.default_rng(0).normal(size=(6, 4))
    for norm_type in (1.0, 2.0, 3.0):
        options = {"freeze": False, "max_norm": 1.2, "norm_type": norm_type}
        ours = nn.Embedding.from_pretrained(start, **options)
        theirs = torch.nn.Embedding.from_pretrained(torch.tensor(start), **options)
        rows = np.array([[0, 3], [3, 5]])
        found, wanted = ours(rows), theirs(torch.tensor(rows))
        np.testing.assert_allclose(found.numpy(), wanted.detach().numpy(), atol=1e-12)
        np.testing.assert_allclose(ours.weight.numpy(), theirs.weight.detach().numpy(), atol=1e-12)


def test_impossible_norms_and_a_second_look_up_are_refused():
    for options in ({"max_norm": 0.0}, {"max_norm": 1.0, "norm_type": -1.0}):
        with pytest.raises(
            ValueError, match=r"embedding: got max_norm=.*expected positive numbers"
        ):
            F.embedding([0], table(), **options)
    weight = table()
    total = sum((F.embedding([i], weight, max_norm=0.1).sum() for i in (0, 1)), start=0)
    with pytest.raises(RuntimeError, match=r"'embedding'.* was changed in place"):
        total.backward()
