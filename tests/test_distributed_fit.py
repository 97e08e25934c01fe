"""`fit` over ranks: the same numbers for any number of ranks, and decisions that all take alike."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import textwrap
import time

import numpy as np
import pytest

import minidl
from minidl import Tensor, data, models, nn, optim, training
from minidl import functional as F
from minidl.distributed import World
from minidl.training.ranks import check_world, zero_of

from .helpers.ranks import HEAD, command, environment, needs_mpi, run_ranks

# Batches of 7 over 3 ranks are odd, and the last, of 2, leaves the third rank nothing.
TRAINING = """
import warnings

def examples(n=37):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(n, 3, 6, 6)), rng.integers(0, 3, n)
    x[np.arange(n), y] += 1
    y[2::5] = -100
    return x, y

def network():
    minidl.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, world=world), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3)).to(dtype=np.float64)

def weighted(outputs, labels):
    return F.cross_entropy(outputs, labels, weight=np.array([1.0, 2.0, 0.5]))

def summed(outputs, labels):
    return F.cross_entropy(outputs, labels, reduction="sum")

def own(outputs, labels):
    return (outputs * outputs).mean()

def train(loss=weighted, shared=True, net=None, epochs=2, **options):
    net = network() if net is None else net
    x, y = examples()
    batches = {"batch_size": 7, "world": world}
    loader = data.DataLoader(x, y, shuffle=True, **batches)
    held = data.DataLoader(*examples(11), batch_size=7, world=world if shared else None)
    adam = optim.Adam(net.parameters(), lr=0.02)
    given = {"progress": False, "clip_norm": 0.7, "world": world} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", training.TrainingWarning)
        return training.fit(net, loss, adam, loader, held, epochs, **given)

def close(one, other, tolerance=1e-9):
    one, other = np.array(one), np.array(other)
    assert one.shape == other.shape, (one.shape, other.shape)
    assert np.abs(one - other).max() < tolerance, (one, other)
"""


def numbers(ranks, call, **options):
    """Return the history that a call of `train` gives, which is the same on all ranks."""
    code = f"""
    import json
    history = {call}
    found = {{n: list(v) for n, v in history.items() if n != "seconds"}}
    found["steps"] = history.step_losses
    assert all(one == found for one in world.all_gather(found))
    if world.rank == 0:
        print(json.dumps(found))
    """
    done = run_ranks(ranks, TRAINING + textwrap.dedent(code), **options)
    return json.loads(done.out)


@needs_mpi
@pytest.mark.parametrize(
    "call",
    [
        "train()",
        "train(accumulate=2, shared=False)",
        "train(accumulate=4, loss=summed)",
        "train(loss=own)",
    ],
)
def test_histories_do_not_depend_on_the_number_of_ranks(call):
    alone = numbers(1, call)
    assert len(alone["steps"]) == 2 * -(-6 // (int(re.findall(r"late=(\d)", call + "late=1")[0])))
    assert alone["steps"][-1] < alone["steps"][0]
    for ranks in (2, 3):
        found = numbers(ranks, call)
        assert found.keys() == alone.keys()
        for name, values in alone.items():
            assert np.abs(np.array(found[name]) - values).max() < 1e-9, name


@needs_mpi
def test_rows_of_an_embedding_and_weights_of_the_loss_are_trained_too():
    code = """
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(np.ones(1))
        def forward(self, outputs, labels):
            return F.cross_entropy(outputs * self.scale, labels)

    def run(ranks):
        minidl.manual_seed(0)
        rng = np.random.default_rng(2)
        words, y = rng.integers(0, 50, (21, 5)), rng.integers(0, 2, 21)
        model = nn.Sequential(nn.Embedding(50, 4, sparse=True), nn.Flatten(), nn.Linear(20, 2))
        model, loss = model.to(dtype=np.float64), Scaled()
        loader = data.DataLoader(words, y, batch_size=5, shuffle=True, world=ranks)
        sgd = optim.SGD([*model.parameters(), *loss.parameters()], lr=0.3)
        fitted = training.fit(model, loss, sgd, loader, epochs=3, progress=False, world=ranks)
        weights = [p.numpy() for p in (*model.parameters(), *loss.parameters())]
        loss(model(Tensor(words)), y).backward()  # afterwards, the model is an ordinary one again
        return fitted.step_losses, weights, world.all_gather(weights)

    losses, weights, _ = run(None)
    found, others, every = run(world)
    assert np.abs(np.array(losses) - found).max() < 1e-9
    assert weights[-1] != 1
    for rank in every:
        for a, b in zip(weights, rank, strict=True):
            assert np.abs(a - b).max() < 1e-9
    """
    run_ranks(2, code)


@needs_mpi
def test_batch_norm_of_shares_has_the_same_statistics_everywhere():
    code = """
    net = network()
    net[1].world = None
    seen = []
    def look(run):
        seen.append(run.history["validation_loss"][-1])
        return run.history.epochs == 2
    train(net=net, epochs=5, callbacks=[look])
    assert len(seen) == 2
    state = {"mean": net[1].running_mean.numpy(), "seen": np.array(seen)}
    for other in world.all_gather(state):
        close(other["mean"], state["mean"], 1e-15)
        close(other["seen"], state["seen"], 1e-12)
    """
    run_ranks(3, TRAINING + textwrap.dedent(code))


# What ends a run ---------------------------------------------------------------------------------


@needs_mpi
@pytest.mark.parametrize(
    "where", ["network()", "nn.Sequential(network()[0], *list(network())[2:])"]
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_nan_on_one_rank_ends_all(where, accumulate):
    code = f"""
    steps = []
    def bad(outputs, labels):
        steps.append(0)
        odd = world.rank == 1 and len(steps) >= 4
        return F.cross_entropy(outputs / (0.0 if odd else 1.0), labels)

    np.seterr(all="ignore")
    try:
        train(loss=bad, net={where}, accumulate={accumulate}, shared=False)
    except FloatingPointError as error:
        said = world.all_gather(str(error))
        assert set(said) == {{said[0]}}, said
        assert world.all_gather(len(steps))
        if world.rank == 0:
            print(said[0])
    """
    done = run_ranks(3, TRAINING + textwrap.dedent(code))
    assert "fit: the loss is nan on rank 1 in epoch 1, batch 4" in done.out
    assert "On rank 1: When repeated, " in done.out
    assert "from inputs without any" in done.out


@needs_mpi
def test_a_callback_on_any_rank_ends_all_after_the_same_epoch():
    code = """
    history = train(epochs=9, callbacks=[lambda run: world.rank == 1 and run.history.epochs == 2])
    assert world.all_gather(history.epochs) == [2] * world.size
    """
    run_ranks(3, TRAINING + textwrap.dedent(code))


@needs_mpi
@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("run.optimizer.param_groups[0]['lr'] = 0.5", "lr of group 0 is 0.5 on rank 1, but 0.02"),
        ("run.model[5].bias.data = np.ones(3)", "5.bias is an array of sum 3 on rank 1, but an"),
        ("raise RuntimeError('my callback')", "rank 1 of 2 failed:"),
    ],
)
def test_a_callback_that_changes_one_rank_only_is_found(change, shown):
    code = f"""
    def callback(run):
        if world.rank == 1:
            {change}
    train(callbacks=[callback])
    """
    done = run_ranks(2, TRAINING + textwrap.dedent(code), fails=True, seconds=60)
    assert shown in done.err
    assert done.err.count("Traceback") == 1


@needs_mpi
@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ("epochs=2 + world.rank", "epochs=3"),
        ("accumulate=1 + world.rank", "accumulate=2"),
        ("clip_norm=1.0 + world.rank", "clip_norm=2.0"),
        ("world=None", "expected the same: fit(..., world=world)"),
    ],
)
def test_arguments_that_differ_end_all(options, shown):
    done = run_ranks(2, TRAINING + f"train({options})", fails=True, seconds=60)
    assert shown in done.err
    assert done.err.count("Traceback") == 1


def test_a_loader_needs_the_world_of_fit():
    class Two(World):
        def __init__(self):
            super().__init__()
            self.size = 2

        def agree(self, what, note=b""):
            return np.zeros((2, 0), np.uint8)

    x, world = np.zeros((4, 2)), Two()
    plain, shared = data.DataLoader(x, x), data.DataLoader(x, x, world=world)
    with pytest.raises(ValueError, match=r"expected DataLoader\(..., world=world\)"):
        check_world(world, plain, None)
    with pytest.raises(ValueError, match=r"expected the same: fit\(..., world=world\)"):
        check_world(None, plain, shared)
    check_world(world, shared, plain)
    check_world(None, data.DataLoader(x, x, world=World()), plain)


def test_a_world_of_one_trains_as_without():
    def train(world):
        rng = minidl.manual_seed(0)
        x, y = rng.normal(size=(20, 3)).astype("f4"), rng.integers(0, 2, 20)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, world=world), nn.Linear(4, 2))
        loader = data.DataLoader(x, y, batch_size=8, shuffle=True, world=world)
        adam = optim.Adam(model.parameters())
        options = {"epochs": 2, "progress": False, "world": world}
        return training.fit(model, F.cross_entropy, adam, loader, loader, **options).step_losses

    assert train(None) == train(World())


# Only rank 0 speaks ------------------------------------------------------------------------------


@needs_mpi
def test_only_rank_0_prints_and_warns(tmp_path):
    code = f"""
    x = np.full((40, 4), 300.0)
    net = nn.Linear(4, 2).to(dtype=np.float64)
    loader = data.DataLoader(x, np.arange(40) % 3, batch_size=8, world=world)
    adam = optim.Adam([*net.parameters()][:1], lr=1e-9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            training.fit(
                net, F.mse_loss if 0 else lambda a, b: (a - 1).abs().mean(), adam, loader,
                epochs=2, world=world, checkpoint={str(tmp_path)!r} if world.rank == 0 else None,
            )
        finally:
            said = world.all_gather([str(w.message) for w in caught])
    assert said[1:] == [[], []], said
    assert any("not normalised" in text for text in said[0]), said
    """
    done = run_ranks(3, TRAINING + textwrap.dedent(code))
    lines = done.out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1", "epoch 2"]
    speed = re.search(r"([\\d,]+) examples/s", lines[0])
    assert speed or "examples/s" in lines[0]
    assert {path.name for path in tmp_path.iterdir()} >= {"last.npz", "best.npz", "history.csv"}


# Checkpoints -------------------------------------------------------------------------------------


def part_of_a_run(ranks, folder, steps, **options):
    """Train until some steps are taken in this call, or to the end; return all losses so far."""
    code = f"""
    import signal
    class Counter:
        taken = 0
        def step(self):
            self.taken += 1
            if self.taken == {steps}:
                signal.raise_signal(signal.SIGINT) if world.rank == world.size - 1 else None
        def state_dict(self): return {{}}
        def load_state_dict(self, saved): pass
    try:
        train(epochs=3, schedule=Counter(), checkpoint={str(folder)!r}, world=WORLD, save_seconds=0)
    except KeyboardInterrupt:
        pass
    if world.rank == 0:
        import json
        state = training.load_checkpoint({str(folder / "last.npz")!r})
        print(json.dumps(state["history"]["step_losses"].tolist()))
    """
    code = TRAINING + textwrap.dedent(code)
    if ranks == 0:  # without a world
        code = code.replace("world=WORLD", "world=None")
        done = run_ranks(1, code, **options)
    else:
        done = run_ranks(ranks, code.replace("world=WORLD", "world=world"), **options)
    return json.loads(done.out)


@needs_mpi
@pytest.mark.parametrize(
    "numbers_of_ranks",
    [(0, 2, 3), *(pytest.param(n, marks=pytest.mark.slow) for n in ((3, 2, 0), (2, 3, 1)))],
)
def test_a_run_resumes_on_another_number_of_ranks(tmp_path, numbers_of_ranks):
    whole = part_of_a_run(1, tmp_path / "whole", steps=99)
    assert len(whole) == 18
    lengths = []
    for ranks in numbers_of_ranks:
        found = part_of_a_run(ranks, tmp_path / "run", steps=7)
        lengths.append(len(found))
        assert np.abs(np.array(found) - whole[: len(found)]).max() < 1e-9
    # A signal after the ranks have agreed on a step ends the run after the next one.
    first, second, third = lengths
    assert first in (7, 8)
    assert second - first in (7, 8)
    assert third == 18


@needs_mpi
def test_ranks_get_their_own_streams_back(tmp_path):
    code = f"""
    import signal
    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.rng = np.random.default_rng(world.rank)
        def forward(self, x):
            return x + 0.1 * Tensor(self.rng.normal(size=x.shape))
    class Stop:
        taken = 0
        def step(self):
            self.taken += 1
            if self.taken == stop:
                signal.raise_signal(signal.SIGINT)
        def state_dict(self): return {{}}
        def load_state_dict(self, saved): pass
    found = []
    for folder, stop in (("a", 99), ("b", 4)):
        history = None
        while history is None:
            net = nn.Sequential(Noise(), network())
            try:
                kept = {str(tmp_path)!r} + "/" + folder
                history = train(net=net, checkpoint=kept, schedule=Stop())
            except KeyboardInterrupt:
                pass
        found.append(history.step_losses)
    close(*found, 1e-14)
    draws = world.all_gather(net[0].rng.random())
    assert len(set(draws)) == world.size
    """
    run_ranks(2, TRAINING + textwrap.dedent(code))
    state = training.load_checkpoint(tmp_path / "b" / "last.npz")
    assert len(state["ranks"]) == 1
    assert str(state["ranks"][0]) != str(state["streams"])


@needs_mpi
@pytest.mark.parametrize("damage", ["bytes", "other run"])
def test_a_checkpoint_that_cannot_be_used_raises_on_all_ranks(tmp_path, damage):
    part_of_a_run(2, tmp_path, steps=4)
    if damage == "bytes":
        raw = bytearray((tmp_path / "last.npz").read_bytes())
        raw[len(raw) // 2] ^= 255
        (tmp_path / "last.npz").write_bytes(raw)
    code = f"""
    try:
        train(epochs=3, checkpoint={str(tmp_path)!r}, clip_norm=9.0)
    except ValueError as error:
        said = world.all_gather(str(error))
        assert set(said) == {{said[0]}}
        raise
    """
    done = run_ranks(2, TRAINING + textwrap.dedent(code), fails=True, seconds=60)
    assert ("damaged" if damage == "bytes" else "clip_norm: saved 0.7, now 9.0") in done.err
    assert done.err.count("ValueError: ") == 1


@needs_mpi
def test_a_folder_in_use_raises_on_all_ranks(tmp_path):
    code = f"""
    from pathlib import Path
    from minidl.files.locks import folder_lock
    import contextlib
    folder = Path({str(tmp_path)!r})
    with folder_lock(folder, "fit") if world.rank == 0 else contextlib.nullcontext():
        try:
            train(checkpoint=folder)
        except BlockingIOError as error:
            assert "in use" in str(error)
        else:
            raise AssertionError
        world.barrier()
    train(checkpoint=folder)
    """
    run_ranks(2, TRAINING + textwrap.dedent(code))


@needs_mpi
def test_a_full_disk_does_not_end_the_run(tmp_path):
    code = f"""
    from minidl.training import keeper
    def full(state, path):
        raise OSError(28, "No space left on device")
    if world.rank == 0:
        keeper.save_checkpoint = full
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter = lambda *_: None  # keep what `train` would ignore
        history = train(checkpoint={str(tmp_path)!r}, save_seconds=0)
    assert len(history.step_losses) == 12
    said = [str(w.message) for w in caught if "No space left" in str(w.message)]
    assert bool(said) == (world.rank == 0)
    """
    run_ranks(2, TRAINING + textwrap.dedent(code))


# Signals -----------------------------------------------------------------------------------------

SLOW = """
import os, time
from pathlib import Path
folder = Path(sys.argv[1])
def slow(outputs, labels):
    time.sleep(0.02)
    return weighted(outputs, labels)
ended = "end"
Path(folder, f"pid{world.rank}").write_text(str(os.getpid()))
try:
    train(loss=slow, epochs=200, checkpoint=folder / "run", save_seconds=1e9)
except KeyboardInterrupt:
    ended = "KeyboardInterrupt"
except SystemExit as error:
    ended = f"SystemExit {error.code}"
    raise
finally:
    Path(folder, f"ended{world.rank}").write_text(ended)
"""


def signalled(folder, number, target):
    """Send a signal to a rank, or to mpiexec (-1); return the exit status and how ranks ended."""
    program = folder / "program.py"
    program.write_text(HEAD + TRAINING + SLOW)
    process = subprocess.Popen(
        command(3, str(program), str(folder)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until = time.monotonic() + 60
    while not (folder / "pid2").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1.5)
    pids = [int((folder / f"pid{rank}").read_text()) for rank in range(3)]
    subprocess.run(["kill", f"-{number}", str(pids[target] if target >= 0 else process.pid)])
    out, _ = process.communicate(timeout=60)
    ended = [p.read_text() if (p := folder / f"ended{r}").exists() else "" for r in range(3)]
    return process.returncode, ended, out


@needs_mpi
@pytest.mark.parametrize("target", [0, 2, -1])
def test_ctrl_c_ends_all_ranks_saved(tmp_path, target):
    code, ended, out = signalled(tmp_path, int(signal.SIGINT), target)
    assert ended == ["KeyboardInterrupt"] * 3, (code, out)
    state = training.load_checkpoint(tmp_path / "run" / "last.npz")
    assert len(state["history"]["step_losses"]) > 0


@needs_mpi
@pytest.mark.parametrize("target", [0, 2, -1])
def test_sigterm_ends_all_ranks_saved(tmp_path, target):
    code, ended, out = signalled(tmp_path, int(signal.SIGTERM), target)
    assert ended == ["SystemExit 143"] * 3, (code, out)
    assert code == 143
    assert (tmp_path / "run" / "last.npz").exists()


# Empty shares ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        lambda: nn.Sequential(nn.Conv2d(3, 6, 5, stride=2, dilation=2), nn.GroupNorm(2, 6)),
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.MaxPool2d(3, 2, 1), nn.Dropout()),
        lambda: nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(192, 4)),
        lambda: nn.Sequential(nn.AdaptiveMaxPool2d(3), nn.AdaptiveAvgPool2d(2)),
        lambda: nn.Sequential(nn.StochasticPool2d(2), nn.SoftmaxPool2d(2), nn.AttentionPool(3)),
        lambda: nn.Sequential(nn.BlurPool2d(3), nn.GeMPool2d(3), nn.Flatten()),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.SpatialPyramidPool2d(), nn.LayerNorm(84)),
        models.cifar10_cnn,
        models.resnet20,
    ],
)
def test_networks_take_empty_shares(make, dtype):
    model = make().to(dtype=dtype)
    before = {name: buffer.numpy().copy() for name, buffer in model.named_buffers()}
    x = Tensor(np.zeros((0, 3, 32, 32), dtype), requires_grad=True)
    zero = zero_of(model(x))
    zero.backward()
    assert (zero.item(), zero.dtype, x.grad.shape) == (0, dtype, x.shape)
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert not p.grad.numpy().any(), name
    for name, buffer in model.named_buffers():
        assert "tracked" in name or np.array_equal(buffer.numpy(), before[name]), name


@pytest.mark.parametrize("sparse", [False, True])
def test_text_networks_take_empty_shares(sparse):
    model = models.TextCNN(60, 12, 10, sparse=sparse)
    zero = zero_of(model(Tensor(np.zeros((0, 14), int))))
    zero.backward()
    assert zero.item() == 0
    assert all(p.grad is not None for p in model.parameters())


def test_all_of_several_outputs_are_reached():
    a, b = (Tensor(np.ones(2), requires_grad=True) for _ in range(2))
    zero_of({"a": a * 2, "rest": [b * 3, (a * b,)]}).backward()
    assert a.grad.numpy().tolist() == b.grad.numpy().tolist() == [0, 0]
