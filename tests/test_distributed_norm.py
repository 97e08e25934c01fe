"""Batch norm over ranks: equal to one process on the whole batch, in values and derivatives."""

from __future__ import annotations

import copy
import inspect
import pickle

import numpy as np
import pytest

import minidl
from minidl import Tensor, distributed, nn, optim
from minidl import functional as F
from minidl.inspect import summary
from minidl.models import resnet20
from minidl.onnx import export_onnx
from minidl.training.fingerprint import _describe

from .helpers.ranks import needs_mpi, run_ranks

SHARES = """
def cuts(n):
    "Yield ways to share n examples: about equally, none on rank 0, all on the last but one."
    size = world.size
    yield np.array_split(np.arange(n), size)
    yield [np.arange(0), *np.array_split(np.arange(n), size - 1)]
    yield [np.arange(n) if r == size - 2 else np.arange(0) for r in range(size)]

def close(found, wanted, bound):
    "Check the rank's part of an array, or all of it, relative to the largest value."
    found, wanted = (a.numpy() if isinstance(a, Tensor) else a for a in (found, wanted))
    assert found.shape == wanted.shape
    error = np.abs(found - wanted).max(initial=0)
    assert error <= bound * max(1, np.abs(wanted).max(initial=0)), (world.rank, error)
"""


# Values and derivatives -----------------------------------------------------------------------

DERIVATIVES = """
rng = np.random.default_rng(0)
w, b = rng.normal(size=(2, 3))

def derivatives(x, up, ranks):
    "Return what each rank has in common with the others, and what belongs to its examples."
    x, weight, bias = (Tensor.wrap(np.array(a, order="K")).requires_grad_() for a in (x, w, b))
    running = Tensor(np.zeros(3)), Tensor(np.ones(3))
    total, size = (lambda t: t), 1
    if ranks is not None:
        total, size = ranks.all_reduce, ranks.size
    out = F.batch_norm(x, *running, weight, bias, True, world=ranks)
    loss = (out * out * out * Tensor(up)).sum()
    dx, dw, db = minidl.grad(loss, [x, weight, bias], create_graph=True)
    dw, db = total(dw), total(db)
    loss = (dx * dx * Tensor(up)).sum() + (dw * dw * db).sum() / size  # on each rank its part
    ddx, ddw = minidl.grad(loss, [x, weight], create_graph=True)
    ddw = total(ddw)
    loss = (ddx * ddx * Tensor(up)).sum() + (ddw * ddw).sum() / size
    dddx, dddw = minidl.grad(loss, [x, weight])
    return [*running, dw, db, ddw, total(dddw)], [out, dx, ddx, dddx]

cases = [((7, 3, 2, 3), (0, 2, 3, 1)), ((8, 3), (0, 1)), ((1, 3, 5), (0, 1, 2)),
         ((5, 3, 4), (0, 1, 2))]
for case, (shape, order) in enumerate(cases):
    x, up = rng.normal(size=(2, *shape))
    bound, far = (1e-8, 30) if case == 3 else (1e-10, 0)
    x = np.array((x + far).transpose(order), order="C").transpose(np.argsort(order))
    common, whole = derivatives(x, up, None)
    for cut in cuts(len(x)):
        own = cut[world.rank]
        shared, parts = derivatives(x[own], up[own], world)
        for found, wanted in zip(shared, common):
            close(found, wanted, bound)
            assert len(set(r.tobytes() for r in world.all_gather(found.numpy()))) == 1
        for found, wanted in zip(parts, whole):
            size = max(1, np.abs(wanted.numpy()).max())
            close(found / size, wanted.numpy()[own] / size, bound)
"""


@needs_mpi
@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_values_and_three_orders_of_derivatives_are_those_of_the_whole_batch(ranks):
    run_ranks(ranks, SHARES + DERIVATIVES)


@needs_mpi
def test_second_derivatives_are_slopes_of_the_first_over_all_ranks():
    """Also those of a loss that differs from rank to rank, such as of a rank's own part of dw."""
    run_ranks(
        3,
        """
        rng = np.random.default_rng(world.rank)
        own, shared = rng.normal(size=(2, 2, 3)), np.random.default_rng(9).normal(size=2)
        own = own[:, : world.rank]  # 0, 1 and 2 examples
        up, mix = rng.normal(size=own[0].shape), rng.normal(size=2)

        def first(x, weight, recorded=False):
            x, weight = Tensor(x, requires_grad=True), Tensor(weight, requires_grad=True)
            out = F.batch_norm(x, None, None, weight, None, True, eps=0.1, world=world)
            dx, dw = minidl.grad((out * out * Tensor(up)).sum(), [x, weight], create_graph=True)
            part = (dx * Tensor(up)).sum() + (dw * Tensor(mix)).sum()
            return part, [x, weight]

        x = np.stack(own, 1)
        up = rng.normal(size=x.shape)
        part, inputs = first(x, shared)
        slopes = [g.numpy() for g in minidl.grad(part, inputs)]
        for trial in range(5):
            moves = rng.normal(size=x.shape), np.random.default_rng(trial).normal(size=2)
            expected = sum((g * m).sum() for g, m in zip(slopes, moves))
            expected = world.all_reduce(float(expected))
            ends = [
                world.all_reduce(first(x + h * moves[0], shared + h * moves[1])[0].item())
                for h in (1e-5, -1e-5)
            ]
            measured = (ends[0] - ends[1]) / 2e-5
            assert abs(measured - expected) < 1e-7 * max(1, abs(expected)), (measured, expected)
        """,
    )


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_float32_far_from_zero_stays_as_exact_as_in_one_process(ranks):
    """One rank alone has the far images; the others must choose the same centre."""
    run_ranks(
        ranks,
        SHARES
        + """
def first(x, up, ranks, dtype):
    x = Tensor(x, dtype, requires_grad=True)
    running = Tensor(np.zeros(4), dtype), Tensor(np.zeros(4), dtype)
    out = F.batch_norm(x, *running, training=True, momentum=1, world=ranks)
    out.backward(Tensor(up, dtype))
    return [t.numpy() for t in (*running, out, x.grad)]

rng = np.random.default_rng(0)
for near, far, scale in ((1e4, 1e4, 1), (-1e4, -1e4, 1), (0, 50, 1), (3, 3, 1), (0, 0, 1e19)):
    x, up = np.float32(rng.normal(size=(2, 16, 4, 12, 12)))
    x += np.float32(near)
    x[:4] += np.float32(far - near)
    x[:, 1] = rng.normal(size=(16, 12, 12))  # a channel that is not far
    x[:4, 0] *= np.float32(scale)  # squares that leave float32's range
    wanted = first(x, up, None, np.float64)
    alone = first(x, up, None, np.float32)
    for cut in cuts(16):
        own = cut[world.rank]
        found = first(x[own], up[own], world, np.float32)
        assert len(set(r.tobytes() for r in world.all_gather(found[0]))) == 1
        for i, (a, b, one) in enumerate(zip(found, wanted, alone)):
            size, theirs = np.abs(b).max(), np.abs(one - b).max()
            ours = np.abs(a - (b if i < 2 else b[own])).max(initial=0)
            assert ours <= 2 * theirs + 1e-6 * size, (near, far, scale, i, ours / size)
        """,
    )


# Layers and networks --------------------------------------------------------------------------


@needs_mpi
@pytest.mark.parametrize("kernels", ["fast", "plain"])
def test_layers_that_share_a_pass_have_the_gradients_of_the_whole_batch(kernels):
    run_ranks(
        3,
        SHARES
        + """
from minidl.models.resnet import BasicBlock
rng = np.random.default_rng(0)
nets = [
    nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()),
    nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)),
    nn.Sequential(BasicBlock(4, 4), nn.Conv2d(4, 6, 1)),
    nn.Sequential(BasicBlock(4, 8, 2, project=False), nn.BatchNorm2d(8, affine=False)),
]
for net in nets:
    minidl.manual_seed(1)
    alone = net.to(dtype=np.float64)
    state = world.broadcast(alone.state_dict())
    alone.load_state_dict(state)
    import copy
    shared = distributed.synchronize_batch_norm(copy.deepcopy(alone), world)
    for n in (7, 2):
        for cut in cuts(n):
            x, own = rng.normal(size=(n, 4, 6, 6)), cut[world.rank]
            whole, part = Tensor(x, requires_grad=True), Tensor(x[own], requires_grad=True)
            for m in (alone, shared): m.load_state_dict(state); m.zero_grad()
            wanted, found = alone(whole), shared(part)
            up = rng.normal(size=wanted.shape)
            wanted.backward(Tensor(up))
            found.backward(Tensor(up[own]))
            close(found, wanted.numpy()[own], 1e-10)
            close(part.grad, whole.grad.numpy()[own], 1e-10)
            for (name, p), q in zip(shared.named_parameters(), alone.parameters()):
                close(world.all_reduce(p.grad), q.grad, 1e-10)
            for (name, p), q in zip(shared.named_buffers(), alone.named_buffers()):
                close(p, q[1], 1e-12)
"""
        + f"assert minidl.get_kernels() == {kernels!r}",
        MINIDL_KERNELS=kernels,
    )


def losses(world):
    """Train on shares of small batches, the last of which leave ranks without an example."""
    minidl.manual_seed(3)
    model = resnet20(10).to(dtype=np.float64)
    distributed.synchronize_batch_norm(model, world)
    parallel = distributed.DataParallel(model, world)
    sgd = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rng, found = np.random.default_rng(0), []
    for n in (8, 7, 8, 3, 2):
        x, y = rng.normal(size=(n, 3, 8, 8)), rng.integers(0, 10, n)
        own = np.array_split(np.arange(n), world.size)[world.rank]
        part = F.cross_entropy(model(Tensor(x[own])), y[own], reduction="sum")
        loss = world.mean(part / max(1, len(own)), len(own))
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        found.append(loss.item())
    model.eval()
    assert world.size == 1 or parallel.sent > 0
    return [*found, model(Tensor(rng.normal(size=(4, 3, 8, 8)))).sum().item()]


@pytest.fixture(scope="module")
def losses_of_one():
    return losses(distributed.World())


@needs_mpi
@pytest.mark.parametrize(
    "ranks", [2, 3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))]
)
def test_a_resnet_trains_on_any_number_of_ranks_as_in_one_process(ranks, losses_of_one):
    run_ranks(
        ranks,
        "from minidl.models import resnet20\n"
        + inspect.getsource(losses)
        + f"""
wanted = {losses_of_one!r}
found = losses(world)
assert np.abs(np.subtract(found, wanted)).max() < 1e-9, (found, wanted)
        """,
        seconds=300,
    )


@needs_mpi
def test_running_statistics_and_exchanges():
    run_ranks(
        2,
        """
        calls = []
        plain = type(world).all_reduce
        def counted(self, value, *rest, **named):
            calls.append(named["what"])
            return plain(self, value, *rest, **named)
        type(world).all_reduce = counted
        x = np.random.default_rng(0).normal(size=(5, 2, 3, 3)).astype("f4")
        own = Tensor(x[:1] if world.rank else x[1:], requires_grad=True)
        for options in ({}, {"momentum": None}, {"track_running_stats": False}, {"affine": False}):
            shared, alone = nn.BatchNorm2d(2, world=world, **options), nn.BatchNorm2d(2, **options)
            for step in range(3):
                shared(own * (step + 1)).sum().backward()
                alone(Tensor(x * (step + 1)))
            assert calls == 3 * ["batch_norm", "normalize_input_gradient"], calls
            for a, b in zip(shared.state_dict().values(), alone.state_dict().values()):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
            calls.clear()
            shared.eval()(own)
            with minidl.no_grad():
                shared(own)
            assert not calls
            shared.train().requires_grad_(False)
            if options.get("affine", True) and options.get("track_running_stats", True):
                shared(own).sum().backward()  # frozen: as in evaluation
            assert not calls
        """,
    )


@needs_mpi
def test_a_recomputed_layer_asks_the_other_ranks_again():
    run_ranks(
        3,
        SHARES
        + """
layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4))
layers.to(dtype=np.float64).load_state_dict(world.broadcast(layers.state_dict()))
state, rng = layers.state_dict(), np.random.default_rng(0)
x, up = rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
whole = Tensor(x, requires_grad=True)
layers(whole).backward(Tensor(up))
wanted = [whole.grad, *(p.grad for p in layers.parameters())]
wanted = [t.numpy() for t in wanted]
running = [b.numpy() for _, b in layers.named_buffers()]
distributed.synchronize_batch_norm(layers, world)
for cut in cuts(5):
    own = cut[world.rank]
    layers.load_state_dict(state)
    layers.zero_grad()
    part = Tensor(x[own], requires_grad=True)
    minidl.checkpointed(layers, part).backward(Tensor(up[own]))
    close(part.grad, wanted[0][own], 1e-10)
    found = [*(world.all_reduce(p.grad) for p in layers.parameters())]
    found += [b for _, b in layers.named_buffers()]
    for a, b in zip(found, wanted[1:] + running, strict=True):
        close(a, b, 1e-10)
        """,
    )


# Errors ---------------------------------------------------------------------------------------


@needs_mpi
@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("if r: layer(x)", "rank 1: batch_norm of ndarray float64 (7,)"),
        ("if r: layer(x)", "in layer BatchNorm1d(3, world=World(rank=1, size=2))"),
        ("layer(x)\nworld.mean(x.sum(), 1) if r else layer(x)", "rank 1: mean of Tensor float32"),
        ("(layer if r else nn.BatchNorm1d(4, world=world))(x if r else y)", "float64 (9,)"),
        ("out = layer(x)\nif r: out.sum().backward()", "rank 1: normalize_input_gradient of"),
        ("layer.train(r == 1)(x)\nworld.barrier()", "rank 0: barrier; rank 1: batch_norm of"),
        ("layer(x[: r])", "(0, 3) on this rank, and 1 value on all ranks. Expected more than 1"),
    ],
)
def test_ranks_that_differ_raise_and_do_not_hang(code, shown):
    head = """
r, layer = world.rank, nn.BatchNorm1d(3, world=world)
x, y = (Tensor(np.ones((2, c)), np.float32, requires_grad=True) for c in (3, 4))
"""
    done = run_ranks(2, head + code, fails=True, seconds=30)
    assert shown in done.err
    assert done.err.count("Traceback") == 1


def test_a_world_must_be_one():
    with pytest.raises(
        TypeError, match=r"BatchNorm2d: got world=4, expected distributed.world\(\)"
    ):
        nn.BatchNorm2d(3, world=4)
    with pytest.raises(TypeError, match="synchronize_batch_norm: got a list, expected a model"):
        distributed.synchronize_batch_norm([nn.BatchNorm2d(3)])


# One process ----------------------------------------------------------------------------------


class Twin:
    """A world of two ranks, of which the other has equal values."""

    size = 2

    def all_reduce(self, value, *, what):
        return value + value


@pytest.mark.parametrize("far", [0.0, 20.0])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["planes", "pixels"])
def test_equal_halves_have_the_results_of_one_on_every_device(far, order, device):
    rng, results = np.random.default_rng(0), []
    x, up = rng.normal(size=(2, 4, 3, 2, 5))
    x = np.array((x + far).transpose(order), order="C").transpose(np.argsort(order))
    weight, mixed = rng.normal(size=(2, 3))
    for ranks in (None, Twin()):
        given = [Tensor(a, device=device).requires_grad_() for a in (x, weight)]
        running = [Tensor(np.zeros(3), device=device), Tensor(np.ones(3), device=device)]
        out = F.batch_norm(given[0], *running, given[1], None, True, world=ranks)
        upstream = [Tensor(up, device=device)]
        dx, dw = minidl.grad(out * out, given, upstream, create_graph=True)
        loss = (dx * dx).sum() + (dw * Tensor(mixed, device=device)).sum()
        results.append([out, dx, dw, *minidl.grad(loss, given), *running])
    alone, both = (10 * r[-1].numpy() - 9 for r in results)  # variances, of 40 and of 80 values
    np.testing.assert_allclose(both / (80 / 79), alone / (40 / 39))
    for a, b in zip(*(r[:-1] for r in results), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-9 * np.abs(a.numpy()).max())


class Absent:
    """A world of two ranks, of which the other never answers."""

    size = 2

    def all_reduce(self, value, *, what):
        raise AssertionError(f"{what} asked the other rank")


def test_evaluation_frozen_layers_export_and_summary_exchange_nothing(tmp_path):
    def net(world):
        minidl.manual_seed(0)
        conv = nn.Conv2d(3, 4, 3)
        return nn.Sequential(conv, nn.BatchNorm2d(4, world=world), nn.ReLU(), nn.BatchNorm2d(4))

    shared, alone = net(Absent()).eval(), net(None).eval()
    x = minidl.ones((1, 3, 5, 5)).requires_grad_()
    assert np.array_equal(shared(x).numpy(), alone(x).numpy())
    shared(x).sum().backward()
    files = [tmp_path / name for name in ("shared.onnx", "alone.onnx")]
    for model, file in zip((shared, alone), files, strict=True):
        export_onnx(model, minidl.ones((1, 3, 5, 5)), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert str(summary(shared.train(), (3, 5, 5))) == str(summary(alone.train(), (3, 5, 5)))
    shared[1].requires_grad_(False)
    shared(x).sum().backward()
    nn.BatchNorm1d(4, track_running_stats=False, world=Absent()).eval()(minidl.ones((2, 4)))
    with pytest.raises(AssertionError, match="batch_norm asked"):
        net(Absent())(x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_world_of_one_changes_no_bit(dtype):
    world, rng = distributed.World(), np.random.default_rng(0)
    for far in (0.0, 40.0):
        x, up = rng.normal(size=(2, 6, 3, 5, 5)) + far
        results = []
        for ranks in (None, world):
            layer = nn.BatchNorm2d(3, world=ranks).to(dtype=dtype)
            tensor = Tensor(x, dtype, requires_grad=True)
            out = layer(tensor)
            dx, dw = minidl.grad(
                out, [tensor, layer.weight], [Tensor(up, dtype)], create_graph=True
            )
            second = minidl.grad((dx * dx).sum() + (dw * dw).sum(), [tensor, layer.weight])
            results.append([out, dx, dw, *second, layer.running_mean, layer.running_var])
        for a, b in zip(*results, strict=True):
            assert a.numpy().tobytes() == b.numpy().tobytes()
    with pytest.raises(ValueError, match=r"shape \(1, 3\)\. Expected more than 1 value"):
        nn.BatchNorm1d(3, world=world)(minidl.ones((1, 3)))


def test_copies_and_files_of_a_model_have_a_world_and_the_same_names():
    world = distributed.world()
    plain = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model = distributed.synchronize_batch_norm(copy.deepcopy(plain))
    assert model[1].world is world
    assert list(model.state_dict()) == list(plain.state_dict())
    assert repr(plain[1]) == "BatchNorm1d(3)"
    assert repr(model[1]) == "BatchNorm1d(3, world=World(rank=0, size=1))"
    for other in (copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model))):
        assert other[1].world is world
        x = minidl.ones((4, 2))
        assert np.array_equal(other.eval()(x).numpy(), model.eval()(x).numpy())
    assert copy.copy(world) is world
    own = distributed.World()
    assert copy.deepcopy(nn.BatchNorm2d(3, world=own)).world is own


def test_all_batch_norms_of_a_network_get_the_world():
    world, model = distributed.World(), resnet20()
    assert distributed.synchronize_batch_norm(model, world) is model
    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(layers) == 19
    assert all(layer.world is world for layer in layers)
    linear = nn.Linear(2, 2)
    assert distributed.synchronize_batch_norm(linear, world) is linear


def test_a_run_is_the_same_on_any_number_of_ranks():
    found = []
    for ranks in (distributed.World(), None):
        described: dict[str, object] = {}
        _describe(nn.BatchNorm2d(3, world=ranks), "model", described, set())
        found.append({n: v for n, v in described.items() if n != "model.world"})
    assert found[0] == found[1]
