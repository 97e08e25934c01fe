import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import random
import re
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn, optim
from minidl.data import DataLoader
from minidl.files.whole import clear_parts
from minidl.functional import cross_entropy
from minidl.training import (
    History,
    TrainingWarning,
    fit,
    keeper,
    load_checkpoint,
    save_checkpoint,
)
from minidl.training.keeper import Keeper

from .helpers import resumable

ROOT = Path(__file__).resolve().parent.parent


def same(a, b):
    """Tell whether two states are equal, bit for bit and type for type."""
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (np.ndarray, np.generic)):
        kinds = type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape
        return kinds and a.tobytes() == b.tobytes()
    return type(a) is type(b) and (a == b or a != a)


def test_a_state_comes_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    state = {
        "weights": {"0.weight": rng.standard_normal((3, 2), np.float32), "empty": np.zeros((0, 2))},
        "optimizer": {"state": {0: {"step": 3, "m": np.array([np.nan, -0.0])}, 7: {}}},
        "groups": [{"betas": (0.9, 0.999), "lr": 0.1 + 0.2, "nesterov": False}],
        "scalars": [np.float32(0.1), np.int64(3), np.bool_(True)],
        "numbers": [1, 2.5, float("inf"), float("nan"), None, "ä", [], (), {}],
        "PCG64": rng.bit_generator.state,
        "MT19937": np.random.Generator(np.random.MT19937(1)).bit_generator.state,
    }
    loaded = load_checkpoint(save_checkpoint(state, tmp_path / "new" / "state.npz"))
    assert same(loaded, state)
    again = np.random.default_rng()
    again.bit_generator.state = loaded["PCG64"]
    assert again.random() == rng.random()


def test_a_checkpoint_is_an_npz_file_whose_arrays_say_where_they_stand(tmp_path):
    path = save_checkpoint({"model": {"0.weight": np.ones(2)}, "epoch": 3}, tmp_path / "s.npz")
    with np.load(path, allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["state/model/0.weight"], np.ones(2))
        tree = json.loads(archive["json"].tobytes())
    assert tree["format"] == "minidl checkpoint 1"
    assert zipfile.ZipFile(path).testzip() is None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a real checkpoint."""
    folder = tmp_path_factory.mktemp("whole")
    resumable.train(folder, epochs=1)
    return (folder / "last.npz").read_bytes()


def corruptions(data, count):
    """Yield damaged forms of a file: bits flipped, parts cut, doubled, zeroed, moved."""
    rng = random.Random(0)
    for number in range(count):
        damaged, place = bytearray(data), rng.randrange(len(data))
        length = rng.randint(1, 600)
        kind = ("flip", "cut", "drop", "double", "zero", "append", "swap")[number % 7]
        if kind == "flip":
            damaged[place] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del damaged[place:]
        elif kind == "drop":
            del damaged[place : place + length]
        elif kind == "double":
            damaged[place:place] = damaged[place : place + length]
        elif kind == "zero":
            damaged[place : place + length] = bytes(len(damaged[place : place + length]))
        elif kind == "append":
            damaged += rng.randbytes(length)
        else:
            other = rng.randrange(len(data))
            damaged[place], damaged[other] = damaged[other], damaged[place]
        if damaged != data:
            yield bytes(damaged)


def test_100_random_corruptions_are_each_refused(whole, tmp_path):
    path, refused = tmp_path / "damaged.npz", 0
    for damaged in corruptions(whole, 120):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"load_checkpoint: .*damaged\.npz \(.* is damaged"):
            load_checkpoint(path)
        refused += 1
    assert refused >= 100
    path.write_bytes(whole)
    assert load_checkpoint(path)["history"]["columns"]["train_loss"].shape == (1,)


def test_every_bit_of_the_file_counts(whole, tmp_path):
    path = tmp_path / "damaged.npz"
    for place in range(0, len(whole), 101):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            load_checkpoint(path)


def test_other_files_and_other_formats_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "other.npz"
    np.savez(path, a=np.ones(3))
    with pytest.raises(ValueError, match="or not a checkpoint"):
        load_checkpoint(path)
    monkeypatch.setattr("minidl.files.checkpoint.FORMAT", "minidl checkpoint 99")
    save_checkpoint({}, path)
    monkeypatch.undo()
    with pytest.raises(
        ValueError, match=r"not written by this version .*'minidl checkpoint 99', expected"
    ):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        load_checkpoint(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("thing", [object(), np.array([{}]), {1.5: 0}, 1j])
def test_saving_refuses_what_it_could_not_give_back(thing, tmp_path):
    with pytest.raises(TypeError, match=r"got a \w+ at state/a/1, expected arrays, numbers"):
        save_checkpoint({"a": [0, thing]}, tmp_path / "state.npz")
    with pytest.raises(ValueError, match=r"expected a name ending in \.npz"):
        save_checkpoint({}, tmp_path / "state.pkl")
    assert not list(tmp_path.iterdir())


def test_a_symbolic_link_stays_and_the_file_behind_it_is_replaced(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir(), here.mkdir()
    link = here / "history.csv"
    try:
        link.symlink_to(there / "kept.csv")  # which is not there yet
    except OSError as error:
        pytest.skip(f"no symbolic links here: {error}")
    history = History()
    for loss in (2.0, 1.0):
        history.append(train_loss=loss)
        assert history.save(link) == link
        assert link.is_symlink()
    assert (there / "kept.csv").read_text().splitlines()[-1] == "2,1.0"
    (there / ".kept.csv.1.part").touch()
    clear_parts(link)
    assert [path.name for path in (*there.iterdir(), *here.iterdir())] == [
        "kept.csv",
        "history.csv",
    ]


def test_links_that_lead_to_each_other_are_no_way_to_end_a_run(tmp_path):
    one, other = tmp_path / "best.npz", tmp_path / "history.csv"
    try:
        one.symlink_to(other), other.symlink_to(one)
    except OSError as error:
        pytest.skip(f"no symbolic links here: {error}")
    model, x = nn.Linear(2, 2), np.zeros((4, 2), np.float32)
    batches = DataLoader(x, np.array([0, 1, 0, 1]), batch_size=2)
    rule = optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = fit(model, cross_entropy, rule, batches, checkpoint=tmp_path, progress=False)
    assert history.epochs == 1
    assert load_checkpoint(tmp_path / "last.npz")["is_finished"] is False


def test_two_runs_that_write_at_once_leave_a_whole_file(tmp_path, monkeypatch):
    fsync, path = os.fsync, tmp_path / "state.npz"

    def other_run(descriptor):
        monkeypatch.setattr(os, "fsync", fsync)
        save_checkpoint({"run": 2, "longer": "x" * 1000}, path)
        assert load_checkpoint(path)["run"] == 2
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", other_run)
    save_checkpoint({"run": 1}, path)
    assert load_checkpoint(path) == {"run": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_keeps_the_older_file_and_leaves_no_other(failing, tmp_path, monkeypatch):
    path, history = save_checkpoint({"epoch": 1}, tmp_path / "state.npz"), History()
    history.append(train_loss=2.0)
    csv = history.save(tmp_path / "history.csv")
    text = csv.read_text()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint({"epoch": 2}, path)
    history.append(train_loss=1.0)
    with pytest.raises(OSError, match="No space left"):
        history.save(csv)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["history.csv", "state.npz"]
    assert load_checkpoint(path) == {"epoch": 1}
    assert csv.read_text() == text


def test_a_run_goes_on_when_the_disk_is_full(tmp_path, monkeypatch):
    expected = resumable.fingerprint(*resumable.train(None))
    resumable.train(tmp_path, epochs=1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.warns(TrainingWarning, match=r"not saved in .*: .*No space left on device; trai"),
        pytest.warns(TrainingWarning, match=r"best\.npz does not hold the weights of .* epoch, 4"),
    ):
        found = resumable.train(tmp_path)
    assert resumable.fingerprint(*found) == expected
    assert load_checkpoint(tmp_path / "last.npz")["batch"] == 0  # of epoch 1
    monkeypatch.undo()
    assert resumable.fingerprint(*resumable.train(tmp_path)) == expected


FULL_DISK = """
import resource, sys, warnings
from pathlib import Path
from tests.helpers import resumable
from minidl.training import load_checkpoint
folder = Path(sys.argv[1])
resumable.train(folder, epochs=1)
size = (folder / "last.npz").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = resumable.train(folder)
assert any("not saved" in str(w.message) and "File too large" in str(w.message) for w in caught)
assert load_checkpoint(folder / "last.npz")["history"]["columns"]["train_loss"].shape == (1,)
assert not list(folder.glob(".*.part"))
print(resumable.fingerprint(*found))
"""


@pytest.mark.skipif(os.name == "nt", reason="limits file sizes as POSIX does")
def test_a_run_goes_on_when_the_system_lets_no_file_grow(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == resumable.fingerprint(*resumable.train(None))


# A right signature, but other content ------------------------------------------------------------

WRONG = [
    *(None, True, 0, -1, 1.5, 10**30, float("nan"), "x", [], {}, (), [None], {"a": 1}, {1: 2}),
    *(np.float32(2), np.ones(3), np.zeros(0), np.array("x"), np.ones((2, 2), complex)),
]


class Augment:
    """A transform with a stream of each kind."""

    def __init__(self):
        self.rng, self.old, self.plain = (
            *(np.random.Generator(np.random.MT19937(1)), np.random.RandomState(2)),
            random.Random(3),
        )

    def __call__(self, x):
        return x * self.rng.uniform(0.9, 1.1) * self.old.uniform(0.9, 1.1) + self.plain.gauss(0, 1)


class Ended(Exception):  # noqa: N818 - it ends a run as Ctrl-C does
    """Ends a run after some steps."""


def short_run(folder, monkeypatch, steps):
    """Train until some steps are taken in this call; return all parts of the run."""
    minidl.manual_seed(0)
    x, y = np.random.default_rng(1).standard_normal((10, 3), np.float32), np.arange(10) % 2
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.3))
    adam = optim.Adam(model.parameters(), lr=0.01)
    parts = [optim.StepLR(adam, 1), optim.StepLR(adam, 3)]
    schedule = optim.SequentialLR(adam, parts, [2])
    loader = DataLoader(x, y, batch_size=2, shuffle=True, transform=Augment())
    runs, taken, save = [], [], Keeper.save_if_due

    def counted(self, run):
        runs[:] = [run]
        save(self, run)
        taken.append(0)
        if len(taken) == steps:
            raise Ended

    def noted(run, saved, last):
        runs[:], before = [run], keeper.state_of_run(run)
        try:
            load(run, saved, last)
        except ValueError:  # everything is as before
            assert same(keeper.state_of_run(run), before)
            raise

    load = keeper._load
    with monkeypatch.context() as patch, contextlib.suppress(Ended), warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        patch.setattr(Keeper, "save_if_due", counted)
        patch.setattr(keeper, "_load", noted)
        options = {"schedule": schedule, "checkpoint": folder, "progress": False}
        fit(model, cross_entropy, adam, loader, epochs=2, save_seconds=0.0, **options)
    return runs[0]


def places(tree, place=()):
    """Yield the way to every value of a state; of long lists, to the first few."""
    yield place
    if isinstance(tree, (dict, list)):
        for key in list(tree)[:40] if isinstance(tree, dict) else range(min(3, len(tree))):
            yield from places(tree[key], (*place, key))


def changed(tree, place, value):
    """Return a copy of a state with another value in one place; "gone" removes it."""
    if not place:
        return value
    key, *rest = place
    copy = tree.copy()
    if not rest and isinstance(value, str) and value == "gone":
        del copy[key]
    else:
        copy[key] = changed(tree[key], rest, value)
    return copy


@pytest.mark.parametrize("share", [0.015, pytest.param(1.0, marks=pytest.mark.slow)])
def test_a_signed_checkpoint_with_other_content_is_refused_or_trains(share, tmp_path, monkeypatch):
    short_run(tmp_path, monkeypatch, 7)  # five are an epoch
    good = load_checkpoint(tmp_path / "last.npz")
    assert good["batch"] == 2
    cases = [(place, value) for place in places(good) for value in [*WRONG, "gone"] if place]
    chosen = np.random.default_rng(5).random(len(cases)) < share
    refused = 0
    for (place, value), is_chosen in zip(cases, chosen, strict=True):
        if not is_chosen:
            continue
        save_checkpoint(changed(good, place, value), tmp_path / "last.npz")
        what, error = f"{place} = {value!r}", None
        try:
            with np.errstate(all="ignore"):
                short_run(tmp_path, monkeypatch, 100)
        except Exception as found:
            error, refused = found, refused + 1
        if isinstance(error, FloatingPointError):  # of a huge learning rate, for example
            assert place[0] in ("optimizer", "schedule"), what
            assert value is WRONG[5], what
        elif error is not None:
            assert type(error) is ValueError, what
            # Columns that no epoch of this run has are noticed when the next one is recorded.
            expected = r"(last\.npz|other settings)(.|\n)*resume=False|History\.append: got"
            assert re.search(expected, str(error)), what
    assert refused > chosen.sum() / 2


def owners():
    """Yield objects with `state_dict`, after some use."""
    x = np.ones((6, 2), np.float32)
    for rule in (
        *(functools.partial(optim.SGD, momentum=0.9, nesterov=True), optim.Adam, optim.AdamW),
        functools.partial(optim.Adam, amsgrad=True),
        functools.partial(optim.RMSprop, centered=True),
    ):
        layer = nn.Linear(2, 2)
        optimizer = rule(layer.parameters(), lr=0.01)
        layer(Tensor(x)).sum().backward()
        optimizer.step()
        yield optimizer
    for schedule in (optim.StepLR(optimizer, 1, 3.0), optim.CosineAnnealingLR(optimizer, 9)):
        schedule.step()
        yield schedule
    yield optim.SequentialLR(optimizer, [optim.StepLR(optimizer, 1, 3.0)] * 2, [3])
    loader = DataLoader(x, batch_size=2, shuffle=True, transform=Augment())
    next(iter(loader))
    yield loader
    history = History()
    history.append(train_loss=1.0, lr=0.1)
    history.step_losses += [1.0, 0.5]
    yield history


def test_each_part_refuses_other_content_and_stays_as_it_was():
    refused, values = 0, [*WRONG, 10**400, "gone"]
    for owner in owners():
        owner.load_state_dict(owner.state_dict())  # its order of names
        before = owner.state_dict()
        for place in places(before):
            for value in random.Random(refused).sample(values if place else WRONG, 6):
                rates = None if not hasattr(owner, "rates") else owner.rates()
                try:
                    owner.load_state_dict(changed(before, place, value))
                except (TypeError, ValueError):
                    refused += 1
                    assert same(owner.state_dict(), before), (owner, place, value)
                    assert rates is None or owner.rates() == rates, (owner, place, value)
                except Exception as error:
                    pytest.fail(f"{owner}: {place} = {value!r}: {error!r}")
                owner.load_state_dict(before)
    assert refused > 300


def signed(path, members):
    """Write a zip file with a right signature, of any members."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore", UserWarning)  # of names that occur twice
        for name, content in members:
            archive.writestr(name, content)
        archive.comment = b"0" * 64
    body = path.read_bytes()[:-64]
    path.write_bytes(body + hashlib.sha256(body).hexdigest().encode())


def tree(text):
    """Return the members of a checkpoint, whose state is some JSON."""
    out = io.BytesIO()
    whole = f'{{"format": "minidl checkpoint 1", "state": {text}}}'
    np.save(out, np.frombuffer(whole.encode(), np.uint8))
    return [("json.npy", out.getvalue())]


def one_array():
    out = io.BytesIO()
    np.save(out, np.ones(3))
    return out.getvalue()


COLLIDING = [f"[{n * (2**61 - 1)}, 0]" for n in range(60_000)]  # all have the hash 0
HOSTILE = {
    "colliding keys": tree('{"dict": [' + ", ".join(COLLIDING) + "]}"),
    "nested lists": tree("[" * 100_000 + "]" * 100_000),
    "nested dicts": tree('{"dict": [["a", ' * 30_000 + "0" + "]]}" * 30_000),
    "an array in 1,000 places": [
        *tree('{"dict": [["a", [' + ", ".join(['{"array": "a"}'] * 1000) + "]]]}"),
        ("a.npy", one_array()),
    ],
    "1,000 arrays of one name": [*tree('{"dict": []}'), *[("a.npy", one_array())] * 1000],
    "an array without a place": [*tree('{"dict": []}'), ("a.npy", one_array())],
    **{
        f"tree {text}": tree(text)
        for text in (
            *("[]", "1", "null", '"x"', "{}", '{"dict": 1}', '{"dict": [1]}', '{"dict": [[1]]}'),
            *('{"dict": {"a": 1}}', '{"dict": [[[], 1]]}', '{"dict": [["a", {"tuple": 1}]]}'),
            *('{"dict": [["a", 1], ["a", 2]]}', '{"dict": [["a", {"array": "b"}]]}'),
            *('{"dict": [["a", {"array": []}]]}', '{"dict": [["a", {"scalar": null}]]}'),
            *('{"dict": [["a", {"set": []}]]}', '{"dict": [["a", {}]]}', '{"dict": [[1.5, 0]]}'),
            '{"dict": [["a", {"list": [], "tuple": []}]]}',
        )
    },
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_right_signature_does_not_make_other_content_a_checkpoint(what, tmp_path):
    signed(tmp_path / "last.npz", HOSTILE[what])
    with pytest.raises(ValueError, match=r"last\.npz was not written by this version"):
        load_checkpoint(tmp_path / "last.npz")


def test_signing_by_hand_gives_a_checkpoint(tmp_path):
    signed(tmp_path / "last.npz", tree('{"dict": [["a", {"tuple": [1]}]]}'))
    assert load_checkpoint(tmp_path / "last.npz") == {"a": (1,)}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs")
def test_fifos_and_devices_are_no_checkpoints(tmp_path):
    os.mkfifo(tmp_path / "fifo.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    for name in ["fifo.npz", *["zero.npz"] * Path("/dev/zero").is_char_device()]:
        with pytest.raises(ValueError, match=rf"{name}: got a (FIFO|device), expected a regular"):
            load_checkpoint(tmp_path / name)


def test_a_compressed_tree_may_not_grow_to_much_text(tmp_path):
    tree = np.full(20 << 20, ord("a"), np.uint8)
    tree[[0, -1]] = ord('"')
    path, out = tmp_path / "a.npz", io.BytesIO()
    np.savez_compressed(out, json=tree)
    content = out.getvalue()[:-2] + (64).to_bytes(2, "little")  # the length of a comment
    path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())
    with pytest.raises(ValueError, match="got JSON of 20,971,520 bytes, expected at most"):
        load_checkpoint(path)
