"""Tests that run on every rank of the world around them: alone, or under `mpiexec -n 2`.

CI runs this file with 2 and 3 ranks: `mpiexec -n 2 python -m pytest tests/test_ranks.py`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import minidl
from minidl import Tensor, distributed, nn, optim
from minidl import functional as F
from minidl.distributed.placement import share

from .helpers.ranks import mpi_is_there

if mpi_is_there():
    pytest.skip(mpi_is_there(), allow_module_level=True)


@pytest.fixture(scope="module")
def world():
    return distributed.world(timeout=60)


def test_all_reduce_of_nested_state(world):
    n, r = world.size, world.rank
    given = {"sum": [np.full((2, 3), r, np.float32), 1.5], "ok": (True, Tensor([1.0]))}
    found = world.all_reduce(given)
    assert (found["sum"][0] == n * (n - 1) / 2).all()
    assert found["sum"][0].dtype == np.float32
    assert found["sum"][1] == 1.5 * n
    assert found["ok"][0] == n
    assert found["ok"][1].numpy().tolist() == [n]
    assert world.all_reduce(r, "max") == n - 1
    assert world.all_reduce(np.int64(r), "min") == 0


def test_gather_and_broadcast_keep_kinds(world):
    given = {1: [None, "é", 2**70], "a": np.zeros((0, 2)), "t": Tensor([world.rank])}
    for rank, found in enumerate(world.all_gather(given)):
        assert found[1] == [None, "é", 2**70]
        assert found["a"].shape == (0, 2)
        assert found["t"].item() == rank
    found = world.broadcast(given, world.size - 1)
    assert isinstance(found["t"], Tensor)
    assert found["t"].item() == world.size - 1


def test_arguments_are_checked(world):
    with pytest.raises(ValueError, match="got source=9, expected <"):
        world.broadcast(1, 9)
    with pytest.raises(ValueError, match="got op='mean'"):
        world.all_reduce(1, "mean")
    with pytest.raises(TypeError, match=r"got a set at value\['a'\]\[0\]"):
        world.all_reduce({"a": [set()]})
    with pytest.raises(TypeError, match="got a set at value/0"):
        world.all_gather([set()])
    with pytest.raises(TypeError, match="mean: got a float, expected a tensor of floats"):
        world.mean(1.0, 1)
    with pytest.raises(ValueError, match="got timeout=0"):
        distributed.world(timeout=0)


def test_a_sum_over_ranks_has_second_derivatives(world):
    x = Tensor(np.array([0.5, -1.0]) * (world.rank + 1), requires_grad=True)
    (slope,) = minidl.grad((world.all_reduce(x) ** 3).sum(), x, create_graph=True)
    total = world.all_reduce(x.detach()).numpy()
    assert np.allclose(slope.numpy(), 3 * world.size * total**2)
    (second,) = minidl.grad(slope.sum(), x)
    assert np.allclose(second.numpy(), 6 * world.size**2 * total)


def test_losses_and_weights_are_those_of_one_process(world):
    """Five steps with Adam, on 7 examples a step: the ranks' shares differ."""

    def network():
        layers = [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4)]
        return nn.Sequential(*layers).to(dtype=np.float64)

    minidl.manual_seed(world.rank)  # the ranks start with different weights
    model = network()
    parallel = distributed.DataParallel(model, world, bucket=300)
    alone = network()
    alone.load_state_dict(model.state_dict())
    rng = np.random.default_rng(1)
    adams = [optim.Adam(m.parameters(), lr=0.01) for m in (model, alone)]
    for _ in range(5):
        x, y = rng.normal(size=(7, 2, 6, 6)), rng.integers(0, 4, 7)
        part = np.array_split(np.arange(7), world.size)[world.rank]
        losses = [
            world.mean(F.cross_entropy(model(Tensor(x[part])), y[part]), len(part)),
            F.cross_entropy(alone(Tensor(x)), y),
        ]
        assert abs(losses[0].item() - losses[1].item()) < 1e-12
        for adam, loss in zip(adams, losses, strict=True):
            adam.zero_grad()
            loss.backward()
            adam.step()
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        assert np.abs(p.numpy() - q.numpy()).max() < 1e-9
    sums = world.all_gather([p.numpy() for p in model.parameters()])
    assert all((a == b).all() for other in sums for a, b in zip(other, sums[0], strict=True))
    assert (parallel.sent > 0) == (world.size > 1)


@pytest.mark.parametrize(
    ("cores", "quota", "expected"),
    [
        ([[0, 1], [0, 1]], math.inf, [1, 1]),  # shared
        ([[0], [1]], math.inf, [1, 1]),  # each bound to one core
        ([[0, 1, 2, 3], [4, 5, 6, 7]], math.inf, [4, 4]),  # bound to four each
        ([list(range(8))] * 2, math.inf, [4, 4]),
        ([list(range(8))] * 2, 3, [1, 1]),  # the container's quota is less
        ([list(range(2))] * 4, 2, [1, 1, 1, 1]),  # more ranks than cores
    ],
)
def test_ranks_share_the_cores(cores, quota, expected):
    assert [share(cores, rank, quota) for rank in range(len(cores))] == expected
