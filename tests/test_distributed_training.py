"""Training on several ranks computes what one process computes on the whole batches."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest

from minidl import Tensor, distributed, models, optim
from minidl import functional as F

from .helpers.ranks import needs_mpi, run_ranks

# Odd batches, and a last one that leaves the third and fourth rank without an example.
EXAMPLES, BATCH = 41, 13
NETWORKS = {
    "chapter 7": lambda rng: models.cifar10_cnn(rng=rng),
    "TextCNN": lambda rng: models.TextCNN(60, 12, 10, rng=rng),
    "TextCNN, rows": lambda rng: models.TextCNN(60, 12, 10, sparse=True, rng=rng),
}


def examples(name):
    rng = np.random.default_rng(4)
    if name == "chapter 7":
        return rng.normal(size=(EXAMPLES, 3, 32, 32)), rng.integers(0, 10, EXAMPLES)
    return rng.integers(1, 60, (EXAMPLES, 14)), rng.integers(0, 2, EXAMPLES)


def train(name, world, steps):
    """Return the loss of each step, the norm of its gradient, and the weights."""
    model = NETWORKS[name](np.random.default_rng(0)).to(dtype=np.float64)
    if "TextCNN" in name:
        model.dropout.p = 0.0  # each rank would draw its own
    adam = optim.Adam(model.parameters(), lr=2e-3)
    distributed.DataParallel(model, world, bucket=50_000)  # bytes: several buckets; kept by model
    x, y = examples(name)
    order, losses, norms = np.random.default_rng(2), [], []
    while len(losses) < steps:
        shuffled = order.permutation(EXAMPLES)
        for start in range(0, EXAMPLES, BATCH):
            own = np.array_split(shuffled[start : start + BATCH], world.size)[world.rank]
            logits = model(Tensor(x[own]))
            part = F.cross_entropy(logits, y[own]) if len(own) else logits.sum()
            loss = world.mean(part, len(own))
            adam.zero_grad()
            loss.backward()
            norms.append(optim.clip_grad_norm_(model.parameters(), 1.0).item())
            adam.step()
            losses.append(loss.item())
    weights = {n: p.numpy() for n, p in model.named_parameters()}
    return losses[:steps], norms[:steps], weights


@functools.cache
def alone(name, steps):
    return train(name, distributed.World(), steps)


def check_training(ranks, steps):
    done = run_ranks(
        ranks,
        f"""
        import json
        from tests.test_distributed_training import NETWORKS, train
        found = {{}}
        for name in NETWORKS:
            losses, norms, weights = train(name, world, {steps})
            found[name] = losses, norms
            for other in world.all_gather(weights):
                for key, array in weights.items():
                    assert np.array_equal(other[key], array), key  # to the bit
        if world.rank == 0:
            print(json.dumps(found))
        """,
        seconds=600,
    )
    for name, (losses, norms) in json.loads(done.out).items():
        expected = alone(name, steps)
        np.testing.assert_allclose(losses, expected[0], rtol=0, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(norms, expected[1], rtol=1e-8, err_msg=name)
        assert losses[-1] != losses[0]


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 3])
def test_losses_do_not_depend_on_the_number_of_ranks(ranks):
    check_training(ranks, 6)


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 4])
def test_losses_of_fifty_steps_do_not_depend_on_the_number_of_ranks(ranks):
    check_training(ranks, 50)


# Gradients, against those of the same model on the whole batch ------------------------------------

TOOLS = """
import contextlib

def net():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype=np.float64)
    for i, p in enumerate(model.parameters()):
        p.data = np.random.default_rng(i).normal(size=p.shape)
    return model

rng = np.random.default_rng(5)
def batch(n=7):
    return rng.normal(size=(n, 4)), rng.integers(0, 3, n)

def shares(n):
    return np.array_split(np.arange(n), world.size)

def own(model, x, y):
    part = shares(len(x))[world.rank]
    return world.mean(F.cross_entropy(model(Tensor(x[part])), y[part]), len(part))

def same(model, alone):
    for (name, p), q in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            assert p.grad.shape == q.grad.shape and p.grad.dtype == q.grad.dtype, name
            tol = 1e-12 if p.dtype == np.float64 else 1e-5
            assert np.abs(p.grad.numpy() - q.grad.numpy()).max() < tol, name
            for bits in world.all_gather(p.grad.numpy()):
                assert np.array_equal(bits, p.grad.numpy()), name

model, alone = net(), net()
parallel = distributed.DataParallel(model, world, bucket=100)
"""


def run_steps(ranks, code):
    program = TOOLS + "\n".join(line.removeprefix(" " * 8) for line in code.splitlines())
    return run_ranks(ranks, program, seconds=60)


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_gradients_accumulate_without_sums_between(ranks):
    run_steps(
        ranks,
        """
        for steps in (1, 2, 3):
            model.zero_grad(), alone.zero_grad()
            sent = parallel.sent
            with parallel.no_sync():
                for _ in range(steps):
                    x, y = batch()
                    own(model, x, y).backward()
                    F.cross_entropy(alone(Tensor(x)), y).backward()
            assert parallel.sent == sent
            x, y = batch(4)
            own(model, x, y).backward()
            F.cross_entropy(alone(Tensor(x)), y).backward()
            assert parallel.sent == sent + sum(p.size * 8 for p in model.parameters())
            same(model, alone)
        model.zero_grad(), alone.zero_grad()
        for is_frozen in (True, False):  # what was accumulated before still counts
            with parallel.no_sync():
                x, y = batch()
                own(model, x, y).backward()
                F.cross_entropy(alone(Tensor(x)), y).backward()
            for m in (model, alone): m[2].weight.requires_grad_(not is_frozen)
        x, y = batch()
        own(model, x, y).backward()
        F.cross_entropy(alone(Tensor(x)), y).backward()
        same(model, alone)
        with parallel.no_sync():  # onto a gradient that is summed already
            try:
                own(model, *batch()).backward()
                raise AssertionError
            except RuntimeError as error:
                assert "zero_grad" in str(error)
        """,
    )


@needs_mpi
def test_two_backwards_before_a_step():
    run_steps(
        2,
        """
        for n in (7, 4, 2):
            x, y = batch(n)
            own(model, x, y).backward()
            F.cross_entropy(alone(Tensor(x)), y).backward()
            same(model, alone)
        x, y = batch()
        (own(model, x, y) + own(model, x, y)).backward()  # two losses in one backward
        (F.cross_entropy(alone(Tensor(x)), y) * 2).backward()
        same(model, alone)
        """,
    )


@needs_mpi
def test_frozen_and_unfrozen_parameters():
    run_steps(
        2,
        """
        for frozen in (["0.weight"], ["0.weight", "0.bias"], ["0.bias", "2.weight"], []):
            for m in (model, alone):
                m.zero_grad()
                for name, p in m.named_parameters():
                    p.requires_grad_(name not in frozen)
            x, y = batch()
            own(model, x, y).backward()
            F.cross_entropy(alone(Tensor(x)), y).backward()
            same(model, alone)
        """,
    )


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_parameters_that_only_some_ranks_use(ranks):
    run_steps(
        ranks,
        """
        class Branches(nn.Module):
            def __init__(self):
                self.first, self.second, self.third = net(), net(), net()
            def forward(self, x, rank):
                return self.second(x) if rank == 1 else self.first(x)
        model, alone = Branches(), Branches()
        parallel = distributed.DataParallel(model, world, bucket=100)
        for rounds in range(2):
            x, y = batch()
            part = shares(7)[world.rank]
            loss = F.cross_entropy(model(Tensor(x[part]), world.rank), y[part])
            world.mean(loss, len(part)).backward()
            for rank, part in enumerate(shares(7)):
                loss = F.cross_entropy(alone(Tensor(x[part]), rank), y[part])
                (loss * (len(part) / 7)).backward()
            assert alone.second[0].weight.grad is not None
            assert model.third[0].weight.grad is None
            same(model, alone)
        """,
    )


@needs_mpi
def test_models_are_freed_without_collecting_cycles():
    run_steps(
        2,
        """
        import gc, weakref
        def trained():
            model = net()
            parallel = distributed.DataParallel(model, world)
            own(model, *batch()).backward()
            with parallel.no_sync():
                model.zero_grad()
                own(model, *batch()).backward()
            return parallel.order, [weakref.ref(x) for x in (model, model[0].weight, parallel)]
        gc.disable()
        found = [trained() for _ in range(3)]
        assert [x() for _, refs in found for x in refs] == [None] * 9
        assert len({order for order, _ in found}) == 1  # MPI has 2,000
        assert world.listeners == [parallel]
        """,
    )


@needs_mpi
def test_hooks_of_the_user_change_the_gradients():
    run_steps(
        2,
        """
        for net_, size in ((model, world.size), (alone, 1)):
            net_[2].weight.register_hook(lambda g: g * 0.5)
            net_[0].bias.register_hook(lambda g, size=size: g + 1 / size)
        for rounds in range(2):
            model.zero_grad(), alone.zero_grad()
            x, y = batch()
            own(model, x, y).backward()
            F.cross_entropy(alone(Tensor(x)), y).backward()
            same(model, alone)
        """,
    )


@needs_mpi
def test_a_second_object_takes_over():
    run_steps(
        2,
        """
        second = distributed.DataParallel(model, world, bucket=100)
        for rounds in range(2):
            model.zero_grad(), alone.zero_grad()
            with second.no_sync():
                x, y = batch()
                own(model, x, y).backward()
                F.cross_entropy(alone(Tensor(x)), y).backward()
            x, y = batch()
            own(model, x, y).backward()
            F.cross_entropy(alone(Tensor(x)), y).backward()
            same(model, alone)
        assert parallel.sent == 0 and second.sent == 2 * sum(p.size * 8 for p in model.parameters())
        """,
    )


@needs_mpi
def test_parameters_that_are_added_must_be_equal():
    run_steps(
        2,
        """
        for m in (model, alone):
            m[2].weight = nn.Parameter(np.ones(m[2].weight.shape))
        x, y = batch()
        own(model, x, y).backward()
        F.cross_entropy(alone(Tensor(x)), y).backward()
        same(model, alone)
        model[2].weight = nn.Parameter(np.full(model[2].weight.shape, float(world.rank)))
        try:
            own(model, x, y).backward()
            raise AssertionError
        except ValueError as error:
            assert "parameters, 1 of them new, with values of CRC" in str(error)
        """,
    )


@needs_mpi
def test_penalties_inside_the_mean():
    run_steps(
        3,
        """
        x, y = batch()
        part = shares(7)[world.rank]
        def penalty(m):
            return 0.01 * (m[0].weight ** 2).sum()
        loss = F.cross_entropy(model(Tensor(x[part])), y[part]) + penalty(model)
        world.mean(loss, len(part)).backward()
        (F.cross_entropy(alone(Tensor(x)), y) + penalty(alone)).backward()
        same(model, alone)
        """,
    )


@needs_mpi
def test_buffers_of_all_kinds_are_averaged():
    run_steps(
        2,
        """
        class Buffers(nn.Module):
            def __init__(self, *values):
                for i, value in enumerate(values):
                    setattr(self, f"b{i}", nn.Buffer(value))
        for values in ([], [np.array([0, 5])], [np.zeros(2), np.array(False), np.array(3)]):
            model = Buffers(*values)
            parallel = distributed.DataParallel(model, world)
            buffers = [x for _, x in model.named_buffers()]
            for x in buffers:
                x.data = (x.numpy() + world.rank).astype(x.dtype)
            parallel.average_buffers()
            found = [x.numpy().tolist() for x in buffers]
            assert found == ([], [[1, 6]], None, [[0.5, 0.5], True, 4])[len(values)]
        """,
    )


@needs_mpi
def test_two_models_of_which_a_rank_uses_one():
    run_steps(
        2,
        """
        others = [net(), net()]
        both = [parallel, distributed.DataParallel(others[0], world, bucket=100)]
        def loss_of(first, second, x, y, rank):
            loss = F.cross_entropy(second(x), y)
            return loss + F.cross_entropy(first(x), y) if rank == 0 else loss
        for rounds in range(3):
            for m in (model, alone, *others): m.zero_grad()
            x, y = batch()
            part = shares(7)[world.rank]
            loss = loss_of(model, others[0], Tensor(x[part]), y[part], world.rank)
            world.mean(loss, len(part)).backward()
            for rank, part in enumerate(shares(7)):
                loss = loss_of(alone, others[1], Tensor(x[part]), y[part], rank)
                (loss * (len(part) / 7)).backward()
            same(model, alone)
            same(*others)
        """,
    )


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_tied_tables_dense_on_one_rank(ranks):
    run_steps(
        ranks,
        """
        from minidl.tensor.rows import RowGradient
        class Tied(nn.Module):
            def __init__(self):
                self.table = nn.Embedding(9, 4, sparse=True)
                self.table.to(dtype=np.float64)
                self.table.weight.data = np.random.default_rng(0).normal(size=(9, 4))
                self.out = net()
            def forward(self, words, is_dense):
                found = self.table(words).mean(1)
                return found @ self.table.weight.T if is_dense else self.out(found)
        model, alone = Tied(), Tied()
        parallel = distributed.DataParallel(model, world)
        for dense_rank in (None, 0, 1, None):
            for m in (model, alone): m.zero_grad()
            words, y = rng.integers(0, 9, (7, 3)), rng.integers(0, 3, 7)
            part = shares(7)[world.rank]
            loss = F.cross_entropy(model(words[part], world.rank == dense_rank), y[part])
            world.mean(loss, len(part)).backward()
            for rank, part in enumerate(shares(7)):
                loss = F.cross_entropy(alone(words[part], rank == dense_rank), y[part])
                (loss * (len(part) / 7)).backward()
            same(model, alone)
            assert isinstance(model.table.weight.grad, RowGradient) == (dense_rank is None)
        """,
    )


@needs_mpi
def test_parameters_of_several_dtypes():
    run_steps(
        2,
        """
        class Mixed(nn.Module):
            def __init__(self):
                self.first, self.second = net().to(dtype=np.float32), net()
                self.third = nn.Linear(3, 3).to(dtype=np.float32)
                for i, p in enumerate(self.third.parameters()):
                    p.data = np.random.default_rng(i).normal(size=p.shape).astype(np.float32)
            def forward(self, x):
                found = self.first(x.to(dtype=np.float32)).to(dtype=np.float64) + self.second(x)
                return self.third(found.to(dtype=np.float32))
        model, alone = Mixed(), Mixed()
        for bucket in (1, 150, 10**6):
            parallel = distributed.DataParallel(model, world, bucket=bucket)
            for m in (model, alone): m.zero_grad()
            x, y = batch()
            own(model, x, y).backward()
            F.cross_entropy(alone(Tensor(x)), y).backward()
            same(model, alone)
            del parallel
        """,
    )


@needs_mpi
def test_two_models_that_train_against_each_other():
    run_steps(
        2,
        """
        def generator():
            made = nn.Linear(2, 4).to(dtype=np.float64)
            made.weight.data = np.random.default_rng(1).normal(size=(4, 2))
            made.bias.data = np.zeros(4)
            return made
        makers = [generator(), generator()]
        parallels = [parallel, distributed.DataParallel(makers[0], world)]
        rules = [
            [optim.SGD(m.parameters(), lr=0.1) for m in pair]
            for pair in ((model, makers[0]), (alone, makers[1]))
        ]
        for step in range(4):
            noise, (x, y) = rng.normal(size=(7, 2)), batch()
            part = shares(7)[world.rank]
            for critic, maker, (rule, maker_rule), those in (
                (model, makers[0], rules[0], part), (alone, makers[1], rules[1], slice(None))
            ):
                loss_of = (lambda l: world.mean(l, len(part))) if critic is model else (lambda l: l)
                fake = maker(Tensor(noise[those]))
                loss = F.cross_entropy(critic(fake.detach()), y[those])
                loss = loss + F.cross_entropy(critic(Tensor(x[those])), y[those])
                rule.zero_grad()
                loss_of(loss).backward()
                rule.step()
                maker_rule.zero_grad()
                loss_of(-F.cross_entropy(critic(fake), y[those])).backward()
                maker_rule.step()
            same(makers[0], makers[1])
            same(model, alone)
        """,
    )


@needs_mpi
def test_what_a_backward_refuses():
    run_steps(
        2,
        """
        x, y = batch()
        def refused(call, text):
            try:
                call()
            except RuntimeError as error:
                assert text in str(error), error
                return
            raise AssertionError(text)
        part = shares(7)[world.rank]
        refused(F.cross_entropy(model(Tensor(x[part])), y[part]).backward, "world.mean")
        refused(lambda: own(model, x, y).backward(create_graph=True), "create_graph=True")
        model.zero_grad()
        [found] = minidl.grad(own(model, x, y), [model[0].bias])  # sets no .grad: is this rank's
        total = world.all_reduce(found)
        own(model, x, y).backward()
        F.cross_entropy(alone(Tensor(x)), y).backward()
        same(model, alone)
        assert np.allclose(total.numpy(), model[0].bias.grad.numpy(), rtol=0, atol=1e-12)
        """,
    )


@needs_mpi
def test_ranks_end_a_backward_although_others_make_no_more_calls(tmp_path):
    run_ranks(
        2,
        f"""
        import os, time
        from minidl.distributed import exchange
        if world.rank == 1:  # is slow to fetch what rank 0 has sent
            exchange._let_others_run = lambda: time.sleep(0.003)
        layers = [nn.Linear(512, 512, bias=False) for _ in range(70)]  # 70 sums of 1 MB
        model = nn.Sequential(*layers)
        distributed.DataParallel(model, world, bucket=2**16)
        for step in range(5):
            name = lambda rank: {str(tmp_path)!r} + f"/{{step}}-{{rank}}"
            loss = world.mean(model(Tensor(np.ones((32, 512), np.float32))).sum(), 2)
            if world.rank == step % 2:
                time.sleep(0.02)
            loss.backward()
            open(name(world.rank), "w").close()
            started = time.monotonic()
            while not os.path.exists(name(1 - world.rank)):  # MPI moves nothing meanwhile
                assert time.monotonic() - started < 40, "the other rank is still in backward"
                time.sleep(0.01)
        """,
    )


@needs_mpi
def test_a_closed_model_leaves_its_place_to_others():
    run_steps(
        2,
        """
        for _ in range(50):
            other = distributed.DataParallel(net(), world)
            assert other.order < 4, other.order  # there are few communicators in MPI
            other.close()
            other.close()
        x, y = batch()
        own(model, x, y).backward()
        F.cross_entropy(alone(Tensor(x)), y).backward()
        same(model, alone)
        parallel.close()
        loss = F.cross_entropy(model(Tensor(x)), y)
        model.zero_grad()
        loss.backward()  # refused before
        """,
    )


@needs_mpi
@pytest.mark.parametrize("at", ["first", "last"])
def test_an_error_in_a_backward_of_one_rank_does_not_spoil_the_next(at):
    run_steps(
        2,
        f"""
        layer = {0 if at == "first" else 2}  # before its gradient, sums have started, or none
        x, y = batch()
        errors, done, attempt = [], 0, 0
        def fail(gradient):
            raise ArithmeticError("on one rank")
        while done < 4:
            try:
                loss = own(model, x, y)
                model.zero_grad()
                with contextlib.ExitStack() as stack:
                    if world.rank == 1 and attempt in (1, 3):
                        stack.enter_context(model[layer].bias.register_hook(fail))
                    loss.backward()
                done += 1
            except (ArithmeticError, distributed.RanksDifferError) as error:
                errors.append(type(error).__name__)
                if errors[-1] == "RanksDifferError":  # other buckets, while sums are pending
                    other = model[2 - layer]
                    other.requires_grad_(not other.bias.requires_grad)
            attempt += 1
        assert errors == (["RanksDifferError"] * 2 if world.rank == 0 else
                          ["ArithmeticError", "RanksDifferError"] * 2), errors
        for m in (model, alone): m.zero_grad()
        own(model, x, y).backward()
        F.cross_entropy(alone(Tensor(x)), y).backward()
        same(model, alone)
        """,
    )
