"""What `fit` does with a folder that holds another run, is in use, or cannot be written."""

import contextlib
import errno
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

import minidl
from minidl import nn, optim
from minidl.data import DataLoader
from minidl.functional import cross_entropy, mse_loss
from minidl.training import TrainingWarning, fit, load_checkpoint, load_weights, save_checkpoint
from minidl.training import keeper as keepers
from minidl.training.fingerprint import fingerprint
from minidl.training.run import Run

ROOT = Path(__file__).resolve().parent.parent


class CrashError(Exception):
    """A crash, simulated in this process."""


def crash(run):
    """Crash in the second epoch, whose beginning is saved."""
    if run.history.epochs == 2:
        raise CrashError


def points(seed=1, flipped=0):
    x = np.random.default_rng(seed).standard_normal((64, 4), np.float32)
    return x, ((x[:, 0] > 0) ^ (np.arange(64) < flipped)).astype(int)


def trained(folder, loss=cross_entropy, **changes):
    """Train a small network; `changes` are what a user may have changed."""
    options = {"epochs": 3, "checkpoint": folder, "progress": False, "save_seconds": 0.0}
    given = {"seed": 0, "lr": 0.1, "data": points, "network": network, "transform": None}
    given |= {"schedule": None, "validation": None}
    for name, value in changes.items():
        (given if name in given else options)[name] = value
    if given["seed"] is not None:
        minidl.manual_seed(given["seed"])
    model = given["network"]()
    sgd = optim.SGD(model.parameters(), lr=given["lr"])
    batches = DataLoader(*given["data"](), batch_size=8, shuffle=True, transform=given["transform"])
    schedule = given["schedule"] and given["schedule"](sgd)
    return fit(model, loss, sgd, batches, given["validation"], schedule=schedule, **options)


def network(p=0.2):
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(p), nn.Linear(8, 2))


# Other settings ---------------------------------------------------------------------------------


class Smoothed:
    """A loss with options, of which one does not matter."""

    def __init__(self, amount, out="out/a", epochs=3):
        self.amount, self.out, self.epochs = amount, out, epochs

    def __call__(self, outputs, labels):
        return cross_entropy(outputs, labels, label_smoothing=self.amount)

    def method(self, outputs, labels):
        return self(outputs, labels)


class Scaled(nn.Module):
    """A network whose repr does not show its option."""

    def __init__(self, factor):
        self.layer, self._factor = nn.Linear(4, 2), factor

    def forward(self, x):
        return self.layer(x) * self._factor


class Noise:
    """An augmentation with an option in a slot."""

    __slots__ = ("amount", "rng")

    def __init__(self, amount):
        self.amount, self.rng = amount, np.random.default_rng(5)

    def __call__(self, x):
        return x + self.amount * self.rng.standard_normal(x.shape, np.float32)


def closure(factor):
    def loss(outputs, labels):
        return (lambda: cross_entropy(outputs, labels) * factor)()

    return loss


def from_file(text, **variables):
    """Return the loss that a script defines."""
    module = types.ModuleType("script")
    vars(module).update(variables, cross_entropy=cross_entropy)
    exec(text, vars(module))
    return module.loss


GLOBAL = "def loss(outputs, labels):\n    return cross_entropy(outputs, labels) * FACTOR"
ARGS = "def loss(outputs, labels):\n    return cross_entropy(outputs, labels) * args.factor"
METHOD = """
class Base:
    @staticmethod
    def factor(): return 1.0

    @property
    def own(self): return self.factor() * self.kept

class Loss(Base):
    kept = 1.0
    def __call__(self, outputs, labels): return cross_entropy(outputs, labels) * self.own * FACTOR

loss = Loss()
"""
CHOSEN = """
class A: ...
class B(A): ...
chosen = A
def loss(outputs, labels, *, factor=1.0):
    return cross_entropy(outputs, labels) * factor * (chosen is A) * len(NAMES)
"""
CONFIG = """
import dataclasses

@dataclasses.dataclass
class Config:
    factor: float = FACTOR
    epochs: int = EPOCHS

config = Config()
def loss(outputs, labels):
    return cross_entropy(outputs, labels) * config.factor
"""
STEPS = functools.partial(optim.StepLR, step_size=5)


def chosen(old="", new="", names=frozenset("a")):
    return from_file(CHOSEN.replace(old, new), NAMES=names)


def method(old="", new="", factor=1.0):
    return from_file(METHOD.replace(old, new), FACTOR=factor)


def config(factor=1.0, epochs=3):
    return from_file(CONFIG, FACTOR=factor, EPOCHS=epochs)


def in_module(factor=1.0, other=1, **options):
    """Return a loss that uses another module of the user's, and a layer with options."""
    module, layer = types.ModuleType("settings"), nn.CrossEntropyLoss(**options)
    vars(module).update(factor=factor, other=other)
    return lambda outputs, labels: layer(outputs, labels) * module.factor


def timed(start):
    return lambda outputs, labels: cross_entropy(outputs, labels) * (start > 0)


def frozen():
    model = network()
    model[0].requires_grad_(False)
    return model


def weighted(factor):
    return closure(np.array([1, factor], np.float32).mean())


def of_args(factor, epochs=3):
    return from_file(ARGS, args=types.SimpleNamespace(factor=factor, epochs=epochs, out="a/b"))


CHANGED = {
    "seed": ({}, {"seed": 1}, "seed of stream 0: saved 0, now 1"),
    "data": ({}, {"data": lambda: points(2)}, r"training data\.0: saved values 1\.7"),
    "one label": ({}, {"data": lambda: points(1, 1)}, r"training data\.1: saved int64 \(64,\)"),
    "loss": ({}, {"loss": closure(1.0)}, "loss: saved cross_entropy, now closure"),
    "options of a layer": (
        {"loss": nn.CrossEntropyLoss()},
        {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
        r"loss\.label_smoothing: saved 0, now 0\.1",
    ),
    "partial": (
        {"loss": functools.partial(cross_entropy, label_smoothing=0.1)},
        {"loss": functools.partial(cross_entropy, label_smoothing=0.2)},
        r"loss\.label_smoothing: saved 0\.1, now 0\.2",
    ),
    "closure": ({"loss": closure(1.0)}, {"loss": closure(2.0)}, r"loss\.factor: saved 1, now 2"),
    "number of NumPy": (
        {"loss": weighted(1.0)},
        {"loss": weighted(2.0)},
        r"loss\.factor: saved 1, now 1\.5",
    ),
    "object": ({"loss": Smoothed(0.1)}, {"loss": Smoothed(0.2)}, r"loss\.amount: saved 0\.1"),
    "method": (
        {"loss": Smoothed(0.1).method},
        {"loss": Smoothed(0.2).method},
        r"loss\.self\.amount: saved 0\.1",
    ),
    "global": (
        {"loss": from_file(GLOBAL, FACTOR=1)},
        {"loss": from_file(GLOBAL, FACTOR=2)},
        r"loss\.FACTOR: saved 1, now 2",
    ),
    "namespace": ({"loss": of_args(1)}, {"loss": of_args(2)}, r"loss\.args\.factor: saved 1, now"),
    "default": (
        {"loss": chosen()},
        {"loss": chosen("factor=1", "factor=2")},
        r"loss\.factor: saved 1, now 2",
    ),
    "class": (
        {"loss": chosen()},
        {"loss": chosen("chosen = A", "chosen = B")},
        r"loss\.chosen: saved A, now B",
    ),
    "set": (
        {"loss": chosen()},
        {"loss": chosen(names=frozenset("ab"))},
        r"loss\.NAMES: saved 'a', now 'a', 'b'",
    ),
    "attribute of a class": (
        {"loss": method()},
        {"loss": method("kept = 1", "kept = 2")},
        r"loss\.kept: saved 1, now 2",
    ),
    "global of a method": (
        {"loss": method()},
        {"loss": method(factor=2.0)},
        r"loss\.FACTOR: saved 1, now 2",
    ),
    "dataclass": (
        {"loss": config()},
        {"loss": config(2.0)},
        r"loss\.config\.factor: saved 1, now 2",
    ),
    "module": (
        {"loss": in_module()},
        {"loss": in_module(2.0)},
        r"loss\.module\.factor: saved 1, now 2",
    ),
    "layer in a loss": (
        {"loss": in_module()},
        {"loss": in_module(label_smoothing=0.1)},
        r"loss\.layer\.label_smoothing: saved 0, now 0\.1",
    ),
    "function of NumPy": (
        {"transform": np.tanh},
        {"transform": np.sin},
        r"training transform: saved tanh, now sin",
    ),
    "frozen": (
        {},
        {"network": frozen},
        r"model\.0\.weight: saved Parameter \(8, 4\), now .*, no gr",
    ),
    "rate": ({}, {"lr": 0.2}, r"rates\.0: saved 0\.1, now 0\.2"),
    "rate of a schedule": (
        {"schedule": STEPS},
        {"schedule": STEPS, "lr": 0.2},
        r"schedule\.found\.0: saved 0\.1, now 0\.2",
    ),
    "schedule": (
        {"schedule": STEPS},
        {"schedule": functools.partial(STEPS, gamma=0.5)},
        r"schedule\.gamma: saved 0\.1, now 0\.5",
    ),
    "dropout": ({}, {"network": lambda: network(0.5)}, r"model\.2\.p: saved 0\.2, now 0\.5"),
    "network": (
        {"network": lambda: Scaled(1)},
        {"network": lambda: Scaled(2)},
        r"model\._factor: saved 1, now 2",
    ),
    "transform": (
        {"transform": Noise(0.1)},
        {"transform": Noise(0.2)},
        r"training transform\.amount: saved 0\.1, now 0\.2",
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_run_is_refused_and_told_what_changed(name, tmp_path):
    before, after, message = CHANGED[name]
    with pytest.raises(CrashError):
        trained(tmp_path, callbacks=[crash], **before)
    kept = (tmp_path / "last.npz").read_bytes()
    with pytest.raises(ValueError, match=rf"start over with resume=False(.|\n)*{message}"):
        trained(tmp_path, **after)
    assert (tmp_path / "last.npz").read_bytes() == kept
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(tmp_path, resume=False, **after)


SAID = {
    "code": (
        {"loss": lambda a, b: cross_entropy(a, b)},
        {"loss": lambda a, b: 2 * cross_entropy(a, b)},
        r"loss code \(Python",
    ),
    "code of a static method": (
        {"loss": method()},
        {"loss": method("return 1", "return 2")},
        r"loss code \(Python",
    ),
    "code of a property": (
        {"loss": method()},
        {"loss": method("* self.kept", "+ self.kept")},
        r"loss code \(Python",
    ),
    "first weights": (
        {},
        {"network": lambda: [minidl.rand(1), network()][1]},  # other draws come before
        "first weights",
    ),
    "validation": (
        {"validation": DataLoader(*points(3), batch_size=8)},
        {"validation": DataLoader(*points(4), batch_size=8)},
        "validation data",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_what_may_be_meant_is_said(name, tmp_path):
    before, after, message = SAID[name]
    with pytest.raises(CrashError):
        trained(tmp_path, callbacks=[crash], **before)
    with pytest.warns(TrainingWarning, match=rf"resuming although(.|\n)*{message}") as caught:
        trained(tmp_path, **after)
    assert {warning.filename for warning in caught} == {__file__}


def script(factor):
    return from_file(f"\n\n'''Elsewhere.'''\n{GLOBAL}", FACTOR=factor)


SAME = {
    "nothing": ({}, {}),
    "more epochs": ({}, {"epochs": 4}),
    "a file that moved": ({"loss": from_file(GLOBAL, FACTOR=2)}, {"loss": script(2)}),
    "options that the loss does not use": ({"loss": of_args(2)}, {"loss": of_args(2, 9)}),
    "options of a dataclass": ({"loss": config()}, {"loss": config(epochs=9)}),
    "options in a module": ({"loss": in_module()}, {"loss": in_module(other=2)}),
    "documentation": ({"loss": chosen()}, {"loss": chosen("1.0):", "1.0):\n    'Short.'")}),
    "another repr": (
        {"loss": method()},
        {"loss": method("kept = 1", "def __repr__(self): return 'x'\n    kept = 1")},
    ),
    "NumPy's numbers": (
        {"schedule": STEPS},
        {"schedule": functools.partial(optim.StepLR, step_size=np.int64(5)), "lr": np.float64(0.1)},
    ),
    "rounding of a number": ({"loss": closure(0.3)}, {"loss": closure(0.1 + 0.2)}),
    "time of the start": ({"loss": timed(1.7e9)}, {"loss": timed(1.8e9)}),
    "a folder that moved": ({"loss": Smoothed(0.1)}, {"loss": Smoothed(0.1, "out/b", 9)}),
    "no seed": ({"seed": None}, {"seed": None}),
    "rounding of another machine": (
        {},
        {"data": lambda: (np.nextafter(points()[0], np.float32(9)), points()[1])},
    ),
    "memory order": ({}, {"data": lambda: (np.asfortranarray(points()[0]), points()[1])}),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_the_same_run_goes_on_in_silence(name, tmp_path, capsys, monkeypatch):
    before, after = SAME[name]
    if name == "no seed":
        monkeypatch.setattr(minidl.random, "_global", [])
    with pytest.raises(CrashError):
        trained(tmp_path, callbacks=[crash], **before)
    if name == "no seed":
        minidl.random._global.clear()  # as in a new process
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(tmp_path, **{"progress": None} | after)
    assert "resuming from" in capsys.readouterr().out


def test_the_same_process_goes_on_with_what_it_has_trained(tmp_path):
    minidl.manual_seed(0)
    model = network()
    sgd = optim.SGD(model.parameters(), lr=0.1)
    batches = DataLoader(*points(), batch_size=8, shuffle=True)

    def halve(run):
        sgd.param_groups[0]["lr"] /= 2

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for epochs in (1, 2, 3):
            options = {"checkpoint": tmp_path, "callbacks": [halve], "progress": False}
            history = fit(model, cross_entropy, sgd, batches, epochs=epochs, **options)
    assert history["lr"] == [0.1, 0.05, 0.025]
    with pytest.raises(ValueError, match="loss: saved cross_entropy, now mse_loss"):
        fit(model, mse_loss, sgd, batches, epochs=4, checkpoint=tmp_path)


def test_an_optimiser_s_options_may_be_numbers_of_numpy(tmp_path):
    for kind, calls in ((float, [crash]), (np.float64, [])):
        minidl.manual_seed(0)
        model = network()
        sgd = optim.SGD(model.parameters(), lr=0.1, momentum=kind(0.5))
        options = {"checkpoint": tmp_path, "callbacks": calls, "progress": False}
        with contextlib.suppress(CrashError):
            fit(model, cross_entropy, sgd, DataLoader(*points(), batch_size=8), epochs=3, **options)
    assert len(load_checkpoint(tmp_path / "last.npz")["history"]["columns"]["train_loss"]) == 3


def test_a_checkpoint_without_a_fingerprint_goes_on(tmp_path):
    expected = trained(None).step_losses
    with pytest.raises(CrashError):
        trained(tmp_path, callbacks=[crash])
    saved = load_checkpoint(tmp_path / "last.npz")
    for name in ("fingerprint", "best", "epochs"):
        del saved[name]
    save_checkpoint(saved, tmp_path / "last.npz")
    assert trained(tmp_path).step_losses == expected


def test_a_fingerprint_reads_little_of_large_data(tmp_path):
    shape = (4096, 3, 128, 128)  # 200 MB
    images = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, shape)
    images[-1] = 7
    batches = DataLoader(images, np.zeros(4096, int), batch_size=64)
    model = nn.Linear(2, 2)
    run = Run(model, cross_entropy, optim.SGD(model.parameters()), batches)
    tracemalloc.start()
    try:
        found = fingerprint(run)["training data.0"]
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert found.size <= 16 * 65
    assert found[-1].min() == 7


# The folder's lock --------------------------------------------------------------------------------


def test_a_second_run_in_a_folder_is_told_of_the_first(tmp_path):
    def second(run):
        with pytest.raises(BlockingIOError, match=rf"fit: .* process {os.getpid()} on .* since 2"):
            trained(tmp_path)

    trained(tmp_path, epochs=1, callbacks=[second])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("best.npz", "history.csv", "last.npz")
    ]


def test_a_second_run_in_another_thread_is_told_too(tmp_path):
    told = []

    def second():
        try:
            trained(tmp_path)
        except BlockingIOError as error:
            told.append(str(error))

    def start(run):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    trained(tmp_path, epochs=1, callbacks=[start])
    assert len(told) == 1


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("end", ["exit", "error", "life"])
def test_a_forked_child_neither_ends_the_lock_nor_keeps_it(end, tmp_path):
    """Whether it leaves `fit` by SystemExit or an error, or outlives a killed parent."""
    script = f"""
import os, signal, sys, time
from tests import test_resume
def act(run):
    if run.history.epochs == 1:
        child = os.fork()
        if not child:
            if {end!r} == "exit":
                sys.exit()
            if {end!r} == "error":
                raise RuntimeError
            os.close(1)
            os.close(2)
            time.sleep(60)
        if {end!r} == "life":
            print(child, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        try:
            test_resume.trained({str(tmp_path)!r})
        except BlockingIOError as error:
            print(error)
test_resume.trained({str(tmp_path)!r}, callbacks=[act])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    if end == "life":
        try:
            trained(tmp_path)
        finally:
            os.kill(int(done.stdout), signal.SIGKILL)
    else:
        assert re.search(r"uses .*It is in use by process \d+ on", done.stdout), done.stderr
    assert not {".run", ".lock"} & set(os.listdir(tmp_path))


def test_a_killed_run_leaves_nothing_that_blocks(tmp_path):
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom tests.test_resume import trained\n"
        "trained(Path(sys.argv[1]), callbacks=[lambda run: os.kill(os.getpid(), 9)])"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path], cwd=ROOT)
    assert killed.returncode == -9
    assert trained(tmp_path).step_losses == trained(None).step_losses
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_cannot_be_locked_is_warned_of(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(keepers, "folder_lock", refuse)
    with pytest.warns(TrainingWarning, match=r"cannot lock .* Permission denied"):
        trained(tmp_path)


# The best weights ---------------------------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch):
    """Return a set of names of files that cannot be saved while they are in it."""
    full = set()

    def failing(write, at):
        def wrapped(*arguments):
            if Path(arguments[at]).name in full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(*arguments)

        return wrapped

    for name in ("save_weights", "save_checkpoint"):
        monkeypatch.setattr(keepers, name, failing(getattr(keepers, name), 1))
    return full


def ends_with(folder, history, kept):
    best = load_weights(folder / "best.npz")
    return all(np.array_equal(a, best[n]) for n, a in kept[history.best_epoch() - 1].items())


@pytest.mark.filterwarnings("ignore:not saved")
@pytest.mark.parametrize("how", ["space is freed", "the program ends", "it was never freed"])
def test_a_full_disk_at_the_best_epoch(how, tmp_path, full_disk):
    kept, crashed = [], []

    def after(run):
        kept.append(run.model.state_dict())
        best = run.history.best_epoch()
        if run.history.epochs == 2:
            full_disk.add("best.npz")
        if run.history.epochs == 3 and how != "it was never freed":
            full_disk.clear()
            if how == "the program ends" and not crashed:
                crashed.append(True)
                raise CrashError
        run.optimizer.param_groups[0]["lr"] = 0.0 if best == 2 else 0.1

    def run():
        minidl.manual_seed(0)
        model = nn.Linear(4, 2)
        sgd, batches = optim.SGD(model.parameters(), lr=0.1), DataLoader(*points(), batch_size=8)
        options = {"checkpoint": tmp_path, "save_seconds": 1e9, "progress": False}
        options |= {"callbacks": [after], "epochs": 4}
        return fit(model, cross_entropy, sgd, batches, DataLoader(*points(2)), **options)

    if how == "the program ends":
        with pytest.raises(CrashError):
            run()
        assert load_checkpoint(tmp_path / "last.npz")["best"] == 0
        full_disk.clear()
        kept[2:] = []
    if how == "it was never freed":
        with pytest.warns(TrainingWarning, match="does not hold the weights of the best epoch, 2"):
            run()
    else:
        history = run()
        assert ends_with(tmp_path, history, kept)


def test_a_deleted_folder_is_made_again_and_lost_weights_are_said(tmp_path):
    def delete(run):
        if run.history.epochs == 1:
            shutil.rmtree(tmp_path / "run")
            run.history._columns["train_loss"][0] = 0.0  # no later epoch is better

    with pytest.raises(CrashError):
        trained(tmp_path / "run", callbacks=[delete, crash])
    (tmp_path / "run" / "best.npz").unlink()
    with pytest.warns(TrainingWarning, match=r"best\.npz does not hold .* epoch, 1"):
        trained(tmp_path / "run")


def test_the_files_of_a_finished_run_are_kept_when_it_starts_over(tmp_path, capsys):
    trained(tmp_path)
    best, history = ((tmp_path / name).read_bytes() for name in ("best.npz", "history.csv"))
    for resume in (True, False):
        with pytest.raises(CrashError):
            trained(tmp_path, callbacks=[crash], resume=resume, progress=None)
        assert (tmp_path / "best.previous.npz").read_bytes() == best
        assert (tmp_path / "history.previous.csv").read_bytes() == history
    assert "its best weights become best.previous.npz" in capsys.readouterr().out


def test_a_run_killed_before_its_last_file_is_not_taken_for_finished(tmp_path, monkeypatch):
    write = keepers.save_checkpoint

    def save(state, path):
        if len(state["history"]["columns"].get("train_loss", ())) == 3:
            raise CrashError
        return write(state, path)

    monkeypatch.setattr(keepers, "save_checkpoint", save)
    with pytest.raises(CrashError):
        trained(tmp_path)
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 4
    monkeypatch.undo()
    assert trained(tmp_path).step_losses == trained(None).step_losses
