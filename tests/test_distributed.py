"""Worlds of several ranks: collectives, losses, data-parallel gradients."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl import Tensor, distributed

from .helpers.ranks import needs_mpi, run_ranks


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_collectives(ranks):
    run_ranks(
        ranks,
        """
        r, n = world.rank, world.size
        assert world.all_reduce(r + 1) == n * (n + 1) // 2
        assert world.all_reduce({"a": [np.full((2, 3), float(r)), 1.5], "b": (True,)})["b"] == (n,)
        assert world.all_reduce(np.array([r, -r]), "max").tolist() == [n - 1, 0]
        assert world.all_reduce(Tensor([float(r)]), "min").numpy().tolist() == [0.0]
        assert world.all_gather("x" * r) == ["x" * i for i in range(n)]
        state = {"w": np.arange(3.0), "t": Tensor([1.0, 2.0]), 5: [None, "s", 2**70, (1, True)]}
        got = world.broadcast(state if r == 1 else None, 1)
        assert got["w"].tolist() == [0, 1, 2] and got["t"].numpy().tolist() == [1, 2]
        assert got[5] == [None, "s", 2**70, (1, True)]
        world.barrier()
        x = Tensor(np.array([1.0, 2.0]) * (r + 1), requires_grad=True)
        s = world.all_reduce(x)
        (s * s).sum().backward()          # the sum of all ranks' losses: n * s**2
        assert np.allclose(x.grad.numpy(), 2 * n * s.numpy())
        loss = Tensor(np.array(float(r)), requires_grad=True)
        m = world.mean(loss * 1.0, r)
        assert np.allclose(m.item(), sum(i * i for i in range(n)) / sum(range(n)))
        """,
    )


@needs_mpi
def test_nan_wins_in_all_reductions_on_every_rank():
    run_ranks(
        3,
        """
        nan = float("nan")
        for op in ("sum", "max", "min"):
            for who in range(3):
                value = nan if world.rank == who else 1.0
                assert np.isnan(world.all_reduce(value, op))
                found = world.all_reduce(np.array([[value, 1.0], [nan, np.inf]]), op)
                assert np.isnan(found).tolist() == [[True, False], [True, False]]
        """,
    )


@needs_mpi
def test_errors_that_are_caught_leave_the_ranks_in_step():
    run_ranks(
        2,
        """
        def error_of(call, *args):
            try:
                call(*args)
            except (TypeError, ValueError) as error:
                return str(error)
        found = error_of(world.all_gather, object() if world.rank else 1)
        if world.rank:
            assert "got a object" in found
            found = error_of(world.barrier)
        assert "rank 0: all_gather; rank 1: barrier" in found
        found = error_of(world.broadcast, object() if world.rank == 0 else 1)
        if world.rank == 0:
            found = error_of(world.barrier)
        assert "rank 0: barrier; rank 1: broadcast from rank 0" in found
        assert "64 bits" in error_of(world.all_reduce, 2**63)
        assert world.all_reduce(2**62 - 1) == 2**63 - 2
        names = [f"layer{i}" for i in range(200)]
        state = dict.fromkeys(names + (["first", "second"] if world.rank else ["second"]), 1.5)
        found = error_of(world.all_reduce, state)
        assert "'layer199': 'float', 'first': 'float', 'second'" in found and len(found) < 3000
        if world.rank:  # another rank has ended: told at once, each time
            for _ in range(3):
                assert "rank 0: the end of the program" in error_of(world.barrier)
        """,
        seconds=30,
    )


@needs_mpi
def test_an_excepthook_of_the_program_does_not_delay_the_end():
    code = """
    sys.excepthook = lambda kind, error, trace: print(error, file=sys.stderr)
    if world.rank:
        raise ValueError("mine")
    world.barrier()
    """
    assert "rank 0: barrier; rank 1: the end" in run_ranks(2, code, fails=True, seconds=20).err


@needs_mpi
@pytest.mark.parametrize(
    ("call", "shown"),
    [
        ("world.all_reduce(np.zeros(r + 1))", "rank 1: all_reduce(sum) of ndarray float64 (2,)"),
        ("world.all_reduce(np.zeros(1, 'f4' if r else 'f8'))", "float32 (1,)"),
        (
            "world.all_reduce({'ab'[r]: 1, 'ba'[r]: 2})",
            "rank 1: all_reduce(sum) of {'b': 'int', 'a'",
        ),
        ("world.barrier() if r else world.all_reduce(1)", "rank 1: barrier"),
        ("world.barrier() if r else None", "rank 0: the end of the program; rank 1: barrier"),
    ],
)
def test_ranks_that_differ_raise_the_same_error(call, shown):
    done = run_ranks(2, f"r = world.rank\n{call}", fails=True, seconds=20)
    assert shown in done.err
    assert done.err.count("Traceback") == 1


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_data_parallel_gradients_are_those_of_the_whole_batch(ranks):
    run_ranks(
        ranks,
        """
        minidl.manual_seed(world.rank)
        def net():
            return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.GlobalAvgPool(), nn.Linear(4, 5))
        model = net().to(dtype=np.float64)
        parallel = distributed.DataParallel(model, world, bucket=64)
        alone = net().to(dtype=np.float64)
        alone.load_state_dict(model.state_dict())
        rng = np.random.default_rng(5)
        for n in (7, 2, 1, 6):
            x, y = rng.normal(size=(n, 3, 6, 6)), rng.integers(0, 5, n)
            part = np.array_split(np.arange(n), world.size)[world.rank]
            whole = F.cross_entropy(alone(Tensor(x)), y)
            out = model(Tensor(x[part]))
            own = F.cross_entropy(out, y[part]) if len(part) else out.sum() * 0
            loss = world.mean(own, len(part))
            assert abs(loss.item() - whole.item()) < 1e-12
            for m in (model, alone): m.zero_grad()
            whole.backward()
            loss.backward()
            for (name, p), q in zip(model.named_parameters(), alone.parameters()):
                assert np.abs(p.grad.numpy() - q.grad.numpy()).max() < 1e-12, name
        assert parallel.sent > 0
        """,
    )


@needs_mpi
def test_models_before_and_beside_do_not_disturb():
    """Garbage is collected at another time on each rank; sums must not depend on it."""
    run_ranks(
        2,
        """
        import gc
        gc.disable()
        x = minidl.ones((4, 3))
        def trained(number):
            model, beside = nn.Linear(3, number), nn.Sequential(nn.Linear(3, 4))
            kept = [distributed.DataParallel(m, world) for m in (model, beside)]
            for _ in range(2):
                model.zero_grad()
                world.mean(model(x).sum(), 4).backward()
                if world.rank == 0:
                    gc.collect()
            assert kept[1].sent == 0
            assert len(world.listeners) <= 3  # the model before still exists
            return model
        for number in range(1, 5):
            model = trained(number)
            assert model.bias.grad.numpy().tolist() == [4.0] * number
        if world.rank == 0:
            gc.collect()
        world.mean(model(x).sum(), 4).backward()
        assert model.bias.grad.numpy().tolist() == [8.0] * number
        """,
    )


@needs_mpi
def test_a_closed_data_parallel_leaves_its_model_alone():
    run_ranks(
        2,
        """
        model = nn.Linear(3, 2)
        parallel = distributed.DataParallel(model, world)
        parallel.close()
        (model(minidl.ones((1, 3))).sum() * (world.rank + 1)).backward()
        assert model.bias.grad.numpy().tolist() == [world.rank + 1] * 2
        assert world.listeners == []
        """,
    )


def test_a_world_of_one():
    world = distributed.World()
    assert (world.rank, world.size) == (0, 1)
    x = Tensor(np.array(2.0), requires_grad=True)
    world.mean(x * 3, 5).backward()
    assert x.grad.item() == 3
    assert minidl.distributed.world().size == 1
