"""`ShardedOptimizer`: the state of an optimiser divided among ranks."""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Tensor, distributed, nn, optim, training
from minidl.distributed.sharded import _planned

from .helpers.ranks import needs_mpi, run_ranks

NET = """
class Signs(optim.Optimizer):  # a rule that depends on the shape
    def __init__(self, parameters, lr=0.1): super().__init__(parameters, lr=lr)
    def update(self, p, g, state, group):
        from minidl.optim.optimizer import kept
        norm = kept(state, "norm", p)
        norm += np.sqrt((g * g).sum())
        p -= group["lr"] * g / (norm + 1e-3)

class Net(nn.Module):
    def __init__(self, sparse=False):
        super().__init__()
        self.words = nn.Embedding(11, 5, sparse=sparse)
        self.hidden, self.out = nn.Linear(5, 7), nn.Linear(7, 3)
        self.frozen, self.scale = nn.Linear(3, 3), nn.Parameter(np.ones((), np.float32))
        self.frozen.requires_grad_(False)
    def forward(self, words):
        return self.frozen(self.out(self.hidden(self.words(words)).tanh())) * self.scale

def nets(**options):
    minidl.manual_seed(0)
    found = Net(**options), Net(**options)
    found[1].load_state_dict(found[0].state_dict())
    return found

def groups(net):
    rest = [*net.hidden.parameters(), *net.out.parameters(), *net.frozen.parameters(), net.scale]
    return [{"params": net.words.parameters()}, {"params": rest, "lr": 0.02}]

def train(net, optimizer, steps=5, first=0, seen=()):
    rng = np.random.default_rng(first)
    for step in range(steps):
        words, labels = rng.integers(0, 11, (6, 2)), rng.integers(0, 3, (6, 2))
        loss = F.cross_entropy(net(words).reshape(-1, 3), labels.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        for schedule in seen: schedule.step()

def check_equal(one, other):
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        assert p.numpy().tobytes() == q.numpy().tobytes(), name

def check_alike(one, other):
    assert one["groups"] == other["groups"]
    assert list(one["state"]) == list(other["state"])
    for place, entries in one["state"].items():
        assert entries.keys() == other["state"][place].keys(), place
        for name, value in entries.items():
            assert np.array_equal(value, other["state"][place][name]), (place, name)

rules = [
    lambda params: optim.SGD(params, lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.01),
    lambda params: optim.SGD(params, lr=0.1),
    lambda params: optim.Adam(params, lr=0.1, weight_decay=0.01),
    lambda params: optim.AdamW(params, lr=0.1),
    lambda params: optim.RMSprop(params, lr=0.1, centered=True, momentum=0.9),
    Signs,
]
"""


@needs_mpi
@pytest.mark.parametrize("ranks", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))])
def test_weights_and_state_equal_those_of_the_optimiser_alone_to_the_bit(ranks):
    run_ranks(
        ranks,
        NET
        + """
for rule in rules:
    for sparse in (False, True):
        whole, shared = nets(sparse=sparse)
        alone, sharded = rule(groups(whole)), rule(groups(shared))
        sharded = distributed.ShardedOptimizer(sharded, world)
        schedules = [optim.CosineAnnealingLR(alone, 8), optim.CosineAnnealingLR(sharded, 8)]
        train(whole, alone, seen=schedules[:1])
        train(shared, sharded, seen=schedules[1:])
        check_equal(whole, shared)
        check_alike(alone.state_dict(), sharded.state_dict())
        kept = sum(a.nbytes for s in sharded.state for n, a in s.items() if n != "step")
        total = sum(a.nbytes for s in alone.state for n, a in s.items() if n != "step")
        assert world.all_reduce(kept) == total
        # One more of each kind, from what the other has saved; the frozen layer is unfrozen.
        saved = [alone.state_dict(), sharded.state_dict()]
        for net in (whole, shared): net.frozen.requires_grad_(True)
        again = rule(groups(whole)), distributed.ShardedOptimizer(rule(groups(shared)), world)
        for optimizer, state in zip(again, saved[::-1], strict=True):
            optimizer.load_state_dict(state)
        train(whole, again[0], first=1)
        train(shared, again[1], first=1)
        check_equal(whole, shared)
        check_alike(again[0].state_dict(), again[1].state_dict())
""",
    )


@needs_mpi
def test_the_training_loop_with_data_parallel_and_large_parts():
    run_ranks(
        2,
        """
        def net():
            minidl.manual_seed(0)
            return nn.Sequential(nn.Linear(300, 401), nn.ReLU(), nn.Linear(401, 5))
        model, other = net(), net()
        parallel = distributed.DataParallel(model, world)
        adam = distributed.ShardedOptimizer(optim.Adam(model.parameters()), world)
        alone = optim.Adam(other.parameters())
        both = distributed.DataParallel(other, world)
        x = np.random.default_rng(0).normal(size=(8, 300)).astype(np.float32)
        labels = np.arange(8) % 5
        for step in range(3):
            for m, o in ((model, adam), (other, alone)):
                part = np.array_split(np.arange(8), world.size)[world.rank]
                loss = world.mean(F.cross_entropy(m(Tensor(x[part])), labels[part]), len(part))
                o.zero_grad()
                loss.backward()
                o.step()
        for p, q in zip(model.parameters(), other.parameters()):
            assert p.numpy().tobytes() == q.numpy().tobytes()
            assert not p.array.flags.writeable
        for theirs in world.all_gather([p.numpy() for p in model.parameters()]):
            for p, q in zip(model.parameters(), theirs):
                assert p.numpy().tobytes() == q.tobytes()
        model.to(dtype=np.float64)   # state is moved along
        loss = world.mean(F.cross_entropy(model(Tensor(x.astype(np.float64))), labels), 1)
        adam.zero_grad(); loss.backward(); adam.step()
        assert adam.state_dict()["state"][0]["mean"].dtype == np.float64
        """,
    )


@needs_mpi
@pytest.mark.parametrize(
    ("code", "shown"),
    [
        (
            "distributed.ShardedOptimizer(optim.SGD(nn.Linear(2, 2 + r).parameters()), world)",
            "rank 1: ShardedOptimizer of SGD, parameter 0: float32 (3, 2)",
        ),
        (
            "distributed.ShardedOptimizer(optim.SGD([w, v][r:]), world)",
            "rank 1: ShardedOptimizer of SGD, 1 parameters",
        ),
        (
            "distributed.ShardedOptimizer((optim.Adam if r else optim.AdamW)([w]), world)",
            "rank 0: ShardedOptimizer of AdamW, 1 parameters",
        ),
        (
            "distributed.ShardedOptimizer(optim.SGD([w], lr=0.1 + r), world)",
            "options [{'lr': 0.1,",
        ),
        (
            "s = distributed.ShardedOptimizer(optim.SGD([w, v]), world)\n"
            "(w * w if r else w * v).backward()\ns.step()",
            "rank 1: SGD.step with gradients of 1 parameters (not of [1])",
        ),
        (
            "s = distributed.ShardedOptimizer(optim.SGD([w]), world)\n(w * w).backward()\n"
            "s.param_groups[0]['lr'] += r\ns.step()",
            "the ranks differ: rank 0: SGD.step",
        ),
        (
            "s = distributed.ShardedOptimizer(optim.SGD([w]), world)\n(w * w).backward()\n"
            "s.step() if r else s.state_dict()",
            "rank 0: all_gather; rank 1: SGD.step",
        ),
        (
            "distributed.ShardedOptimizer(optim.SGD([w]), world).step()",
            "SGD.step: no parameter has a gradient",
        ),
    ],
)
def test_ranks_that_differ_raise_the_same_error(code, shown):
    head = "r = world.rank\nw, v = (Tensor(np.array(x), requires_grad=True) for x in (2.0, 3.0))\n"
    done = run_ranks(2, head + code, fails=True, seconds=20)
    assert shown in done.err
    assert done.err.count("Traceback") == 1


def test_a_world_of_one_divides_nothing():
    w = [Tensor(np.arange(3.0), requires_grad=True) for _ in range(2)]
    alone = optim.Adam(w[:1])
    sharded = distributed.ShardedOptimizer(optim.Adam(w[1:]), distributed.World())
    for optimizer, p in zip((alone, sharded), w, strict=True):
        (p * p).sum().backward()
        optimizer.step()
    assert w[0].numpy().tobytes() == w[1].numpy().tobytes()
    saved = sharded.state_dict()
    assert saved["state"][0]["mean"].tolist() == alone.state[0]["mean"].tolist()
    alone.load_state_dict(saved)
    sharded.load_state_dict(saved)
    assert saved["state"][0]["mean"] is not sharded.state[0]["mean"]


def test_what_is_no_new_optimiser_is_refused():
    world = distributed.World()
    w = Tensor(np.arange(3.0), requires_grad=True)
    used = optim.Adam([w])
    (w * w).sum().backward()
    used.step()
    with pytest.raises(ValueError, match="got Adam with state from earlier steps, expected a new"):
        distributed.ShardedOptimizer(used, world)
    with pytest.raises(TypeError, match="got a Linear, expected an optimiser"):
        distributed.ShardedOptimizer(nn.Linear(1, 1), world)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({}, "expected 'groups' and 'state'"),
        ({"groups": [], "state": {}}, "got groups with options"),
        (None, "expected 'groups' and 'state'"),
        ({"state": {0: {"step": 1, "mean": np.zeros(2), "square": np.zeros(2)}}}, "shapes"),
        ({"state": {9: {"step": 1}}}, "got state 9, expected 0 to 0"),
        ({"state": {"x": {"step": 1}}}, "got state x, expected 0 to 0"),
        ({"state": {0: {"step": 0, "mean": np.zeros(4), "square": np.zeros(4)}}}, "has step 0"),
        ({"state": {0: 5}}, "expected 'groups' and 'state'"),
        ({"state": {0: {"step": 1, "mean": np.zeros(4, complex)}}}, "complex"),
    ],
)
def test_bad_state_is_refused_and_changes_nothing(saved, message):
    sharded = distributed.ShardedOptimizer(
        optim.Adam([Tensor(np.arange(4.0), requires_grad=True)]), distributed.World()
    )
    sharded._parts = [[slice(0, 2), slice(2, 4)]]  # as on the first of two ranks
    if isinstance(saved, dict) and "groups" not in saved and saved:
        saved = {**saved, "groups": sharded._options()}
    with pytest.raises(ValueError, match=message):
        sharded.load_state_dict(saved)
    assert sharded.state == [{}]
    good = {"step": 3, "mean": np.arange(4.0), "square": np.arange(4.0)}
    groups = [{**sharded._options()[0], "lr": 0.5}]
    sharded.load_state_dict({"groups": groups, "state": {"0": good}})
    assert sharded.state[0]["mean"].tolist() == [0, 1]
    assert sharded.param_groups[0]["lr"] == 0.5
    assert sharded.param_groups[0]["params"][0].shape == (4,)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("is_cut", [True, False])
def test_parts_cover_every_parameter_once_and_are_balanced(size, is_cut):
    shapes = [(1000, 8), (), (3,), (0, 2), (5, 0), (64, 16, 3, 3), (64,), (10, 64), (1, 50)]
    parameters = [Tensor(np.zeros(s, np.float32), requires_grad=True) for s in shapes]
    parameters += [Tensor(np.zeros((500, 3))), Tensor(np.zeros(()))]
    bytes_of = np.zeros(size)
    for p, parts in zip(parameters, _planned(parameters, size, is_cut), strict=True):
        covered = np.zeros(p.shape)
        for rank, part in enumerate(parts):
            if part is not None:
                covered[part] += 1
                bytes_of[rank] += p.array[part].nbytes
        assert (covered == 1).all()
        if not is_cut:
            assert all(part is None or part is ... for part in parts)
    if is_cut:  # within a row of the largest parameter, of trained and frozen ones each
        assert np.ptp(bytes_of) <= 2 * (16 * 9 * 4 + 3 * 8)


FIT = """
from pathlib import Path
rng = minidl.manual_seed(0)
x, y = rng.normal(size=(22, 4)), rng.integers(0, 3, 22)
loader = data.DataLoader(x, y, batch_size=6, shuffle=True, world=world)
model = nn.Sequential(nn.Linear(4, 7, bias=False), nn.BatchNorm1d(7, world=world), nn.Linear(7, 3))
model.to(dtype=np.float64)
optimizer = optim.Adam(model.parameters(), lr=0.05)
if SHARDED: optimizer = distributed.ShardedOptimizer(optimizer, world)
schedule = optim.CosineAnnealingLR(optimizer, 12)
training.fit(
    model, F.cross_entropy, optimizer, loader, epochs=EPOCHS, world=world, progress=False,
    schedule=schedule, clip_norm=1.0, accumulate=2, checkpoint=Path(FOLDER), save_seconds=SECONDS,
)
"""


@needs_mpi
@pytest.mark.slow
def test_fit_resumes_on_other_numbers_of_ranks_sharded_or_not(tmp_path):
    def train(ranks, sharded, epochs, folder):
        named = {"SHARDED": sharded, "EPOCHS": epochs, "SECONDS": 0.0, "FOLDER": str(folder)}
        code = "\n".join(f"{name} = {value!r}" for name, value in named.items())
        run_ranks(ranks, f"{code}\n{FIT}")
        return training.load_checkpoint(folder / "last.npz")

    whole = train(1, False, 3, tmp_path / "undisturbed")
    for ranks, sharded, epochs in ((3, True, 1), (2, False, 2), (2, True, 3)):
        changed = train(ranks, sharded, epochs, tmp_path / "moved")
    rates = [saved["history"]["columns"]["lr"] for saved in (whole, changed)]
    np.testing.assert_array_equal(*rates)
    losses = [saved["history"]["columns"]["train_loss"] for saved in (whole, changed)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)
    for name, array in whole["model"].items():
        np.testing.assert_allclose(changed["model"][name], array, rtol=1e-9, err_msg=name)
    for place, entries in whole["optimizer"]["state"].items():
        for name, value in entries.items():
            found = changed["optimizer"]["state"][place][name]
            np.testing.assert_allclose(found, value, rtol=1e-7, atol=1e-12, err_msg=name)
