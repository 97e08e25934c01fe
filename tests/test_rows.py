"""Gradients kept as rows: alike with whole ones wherever anybody looks, and cheap where none do."""

from __future__ import annotations

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl
from minidl import Tensor, nn, optim
from minidl import functional as F
from minidl.data import DataLoader
from minidl.tensor.rows import RowGradient
from minidl.training import fit

RULES = {
    "SGD": (optim.SGD, {"lr": 0.1}),
    "momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adam": (optim.Adam, {"lr": 0.1}),
    "AdamW": (optim.AdamW, {"lr": 0.1, "weight_decay": 0.1}),
    "RMSprop": (optim.RMSprop, {"lr": 0.1, "centered": True, "momentum": 0.5}),
}


def gradients(rows, device="cpu", **options) -> list[Tensor]:
    """Return the gradient of the same loss, whole and as rows."""
    found = []
    for sparse in (False, True):
        start = np.random.default_rng(0).normal(size=(7, 3))
        weight = Tensor(start, device=device, requires_grad=True)
        indices = Tensor(np.array(rows), device=device)
        (F.embedding(indices, weight, sparse=sparse, **options) ** 3).sum().backward()
        found.append(weight.grad)
    return found


@given(st.lists(st.integers(0, 6), max_size=20))
def test_accessing_data_gives_the_whole_gradient(rows):
    whole, some = gradients(np.array(rows, np.int64))
    assert isinstance(some, RowGradient)
    assert (some.shape, some.dtype, len(some.rows)) == ((7, 3), whole.dtype, len(rows))
    np.testing.assert_allclose(some.numpy(), whole.numpy(), atol=1e-12)
    np.testing.assert_allclose((some * 2 + 1).numpy(), whole.numpy() * 2 + 1, atol=1e-12)


def test_rows_on_every_device_with_padding(device):
    for options in ({}, {"padding_idx": 2}):
        whole, some = gradients([[2, 5, 2], [0, 6, 5]], device, **options)
        assert isinstance(some, RowGradient)
        np.testing.assert_allclose(some.numpy(), whole.numpy(), atol=1e-12)
    assert not some.numpy()[2].any()


def test_two_backwards_add_up_and_two_look_ups_too():
    layer = nn.Embedding(5, 2, sparse=True)
    (layer([1, 3]) + layer([3, 4])).sum().backward()
    layer([4, 0]).sum().backward()
    assert isinstance(layer.weight.grad, RowGradient)
    assert layer.weight.grad.numpy()[:, 0].tolist() == [1, 1, 0, 2, 2]
    both = layer.weight.grad + minidl.ones(5, 2)
    assert both.numpy()[:, 0].tolist() == [2, 2, 1, 3, 3]


def test_through_other_operations_and_to_the_second_order_the_gradient_is_whole():
    weight = Tensor(np.arange(6.0).reshape(3, 2), requires_grad=True)
    F.embedding([0, 2, 2], weight * 3, sparse=True).sum().backward()
    assert weight.grad.numpy()[:, 0].tolist() == [3, 0, 6]
    (first,) = minidl.grad(
        (F.embedding([0, 2, 2], weight, sparse=True) ** 2).sum(), weight, create_graph=True
    )
    (second,) = minidl.grad(first.sum(), weight)
    assert second.numpy()[:, 0].tolist() == [2, 0, 4]


@pytest.mark.parametrize("name", RULES)
def test_rows_that_are_named_in_every_step_move_as_with_a_whole_gradient(name, device):
    rule, options = RULES[name]
    found = []
    for sparse in (False, True):
        rng = np.random.default_rng(1)
        weight = Tensor(rng.normal(size=(6, 3)), device=device, requires_grad=True)
        optimiser = rule([weight], **options)
        for _ in range(4):
            rows = Tensor(rng.permutation([0, 1, 1, 2, 3, 4, 5, 5]), device=device)
            optimiser.zero_grad()
            (F.embedding(rows, weight, sparse=sparse) ** 2).sum().backward()
            optimiser.step()
        found.append((weight.numpy(), optimiser.state_dict()))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-12)
    states = [saved["state"][0] for _, saved in found]
    assert states[0].keys() == states[1].keys()
    for entry in states[0]:
        np.testing.assert_allclose(states[0][entry], states[1][entry], atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_rows_that_are_not_named_stay_bit_for_bit(name):
    rule, options = RULES[name]
    layer = nn.Embedding(6, 3, sparse=True)
    optimiser = rule(layer.parameters(), **options)
    for rows in ([0, 1], [1, 4], [4, 0]):
        before, state = layer.weight.numpy(), copy.deepcopy(optimiser.state_dict())
        optimiser.zero_grad()
        layer(rows).sum().backward()
        optimiser.step()
        moved = (layer.weight.numpy() != before).any(1)
        assert np.flatnonzero(moved).tolist() == sorted(rows)
        for entry, array in optimiser.state_dict()["state"][0].items():
            if entry != "step" and state["state"]:
                changed = (array != state["state"][0][entry]).any(1)
                assert set(np.flatnonzero(changed)) <= set(rows)


@pytest.mark.oracle
def test_adam_on_rows_is_pytorchs_sparse_adam():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    start = rng.normal(size=(8, 3))
    ours = nn.Embedding.from_pretrained(start, freeze=False, sparse=True)
    theirs = torch.nn.Embedding.from_pretrained(torch.tensor(start), freeze=False, sparse=True)
    options = {"lr": 0.1, "eps": 1e-30}  # which SparseAdam adds before correcting the bias
    adam = optim.Adam(ours.parameters(), **options)
    sparse_adam = torch.optim.SparseAdam(theirs.parameters(), **options)
    for _ in range(6):
        rows = rng.integers(0, 8, (2, 3))
        for layer, rule, indices in ((ours, adam, rows), (theirs, sparse_adam, torch.tensor(rows))):
            rule.zero_grad()
            (layer(indices) ** 3).sum().backward()
            rule.step()
    np.testing.assert_allclose(
        ours.weight.numpy(), theirs.weight.detach().numpy(), rtol=0, atol=1e-12
    )


def test_clipping_scales_rows_by_the_same_factor_as_whole_gradients():
    found = []
    for sparse in (False, True):
        rng = np.random.default_rng(3)
        layer = nn.Embedding(9, 4, sparse=sparse, rng=rng)
        head = nn.Linear(4, 1, rng=rng)
        head(layer([1, 1, 7])).sum().backward()
        parameters = [*layer.parameters(), *head.parameters()]
        norm = optim.clip_grad_norm_(parameters, 0.5)
        found.append((norm.item(), [p.grad.numpy() for p in parameters]))
    assert found[0][0] == pytest.approx(found[1][0])
    assert found[0][0] > 0.5
    for one, other in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_step_takes_memory_for_its_rows_alone():
    layer = nn.Embedding(100_000, 32, sparse=True)  # 12.8 MB
    adam = optim.Adam(layer.parameters())

    def step():
        adam.zero_grad()
        layer(np.arange(50)).sum().backward()
        adam.step()

    step()  # Adam makes its running means
    tracemalloc.start()
    step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


def test_fit_takes_memory_for_rows_alone():
    layer = nn.Embedding(100_000, 32, sparse=True)  # 12.8 MB
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(64, 2))
    words, labels = np.arange(128).reshape(64, 2), np.arange(64) % 2
    batches = DataLoader(words, labels, batch_size=32)
    sgd = optim.SGD(model.parameters(), lr=0.1)
    tracemalloc.start()
    fit(model, F.cross_entropy, sgd, batches, progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_an_own_rule_without_a_kernel_gets_the_whole_gradient():
    class Sign(optim.Optimizer):
        def update(self, p, g, state, group):
            assert g.shape == p.shape
            p -= group["lr"] * np.sign(g)

    layer = nn.Embedding(4, 2, sparse=True)
    before = layer.weight.numpy()
    layer([2, 2]).sum().backward()
    Sign(layer.parameters(), lr=1.0).step()
    assert (before - layer.weight.numpy())[:, 0].round(5).tolist() == [0, 0, 1, 0]


def test_a_row_gradient_is_copied_pickled_and_not_written_to():
    _, some = gradients([1, 1, 4])
    other = some.copy()
    assert isinstance(other, RowGradient)
    assert other.values.array is not some.values.array
    np.testing.assert_array_equal(other.numpy(), some.numpy())
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(some)).numpy(), some.numpy())
    with pytest.raises(ValueError, match=r"RowGradient.mutable: .*not stored; change \.values"):
        some.mutable()
    with pytest.raises(ValueError, match="read-only"):
        some.data[0] = 1


def test_frozen_vectors_with_rows_are_not_updated():
    layer = nn.Embedding(4, 2, sparse=True)
    layer([1]).sum().backward()
    layer.requires_grad_(False)
    with pytest.raises(RuntimeError, match="no parameter has a gradient"):
        optim.SGD(layer.parameters(), lr=1.0).step()
