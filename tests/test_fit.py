import csv
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn, optim
from minidl import functional as F
from minidl.data import DataLoader
from minidl.functional import cross_entropy, mse_loss
from minidl.training import History, evaluate, fit, load_weights, predict

from .helpers import resumable

ROOT = Path(__file__).resolve().parent.parent


class CrashError(Exception):
    """A crash, simulated in this process."""


class DyingSGD(optim.SGD):
    """Stops the run before a step of its."""

    steps_left = 10**9

    def step(self):
        if self.steps_left == 0:
            raise CrashError
        self.steps_left -= 1
        super().step()


def small(n=64, seed=0):
    """Return a network, its optimiser and a loader over points that a line parts."""
    rng = minidl.manual_seed(seed)
    x = rng.standard_normal((n, 4), np.float32)
    y = (x[:, 0] > 0).astype(int)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, optim.SGD(model.parameters(), lr=0.5), DataLoader(x, y, batch_size=8)


# The loop --------------------------------------------------------------------------------------


def test_fit_takes_the_steps_of_the_loop_that_chapters_write_out():
    model, sgd, batches = small()
    losses = []
    for _ in range(3):
        for x, y in batches:
            loss = cross_entropy(model(x), y)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            losses.append(loss.item())
    expected = model.state_dict()
    model, sgd, batches = small()
    history = fit(model, cross_entropy, sgd, batches, epochs=3, progress=False)
    assert history.step_losses == losses
    for name, array in model.state_dict().items():
        assert array.tobytes() == expected[name].tobytes()


def test_the_history_holds_means_over_examples():
    model, sgd, _ = small()
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((10, 4), np.float32), rng.integers(0, 2, 10)
    batches = DataLoader(x, y, batch_size=4)  # 4, 4 and 2
    sgd.param_groups[0]["lr"] = 0.0
    history = fit(model, cross_entropy, sgd, batches, batches, progress=False)
    scores = model(Tensor(x))
    loss, right = cross_entropy(scores, y).item(), (scores.numpy().argmax(1) == y).mean()
    for part in ("train", "validation"):
        assert history[f"{part}_loss"] == [pytest.approx(loss, rel=1e-6)]
        assert history[f"{part}_accuracy"] == [pytest.approx(right)]


def test_fit_trains_on_every_device(device):
    def losses(where):
        model, sgd, batches = small()
        batches.device = where
        return fit(model.to(where), cross_entropy, sgd, batches, batches, progress=False)

    found, expected = losses(device), losses("cpu")
    np.testing.assert_allclose(found.step_losses, expected.step_losses, rtol=1e-5)
    assert found["validation_accuracy"] == expected["validation_accuracy"]


# Batches as parts of one mean ---------------------------------------------------------------------

KEPT = np.array([0, 2, -100, 1, -100, -100, -100, 2, -100, 1, 0])  # 4:7 and 4:8 have 0 and 1 labels
WEIGHTS = np.array([1.0, 0.0, 5.0], np.float32)


def labelled(labels=KEPT, shape=()):
    """Return a network of three classes, and examples that lie differently far from its lines."""
    rng = np.random.default_rng(3)
    farther = np.linspace(0.5, 2, len(KEPT), dtype=np.float32)
    x = rng.standard_normal((*shape, 4, len(KEPT)), np.float32) * farther
    x = np.moveaxis(x, (-1, -2), (0, 1))  # (n, 4, *shape)
    layer = nn.Conv2d(4, 3, 1, rng=rng) if shape else nn.Linear(4, 3, rng=rng)
    return layer, x, labels


def pixels():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, (len(KEPT), 2, 3))
    return np.where(rng.random(labels.shape) < np.linspace(0, 1, 11)[:, None, None], 255, labels)


def targets():
    return np.random.default_rng(5).random((len(KEPT), 3)).astype(np.float32)


def two_heads(outputs, labels):
    return cross_entropy(outputs, labels) + 0.4 * cross_entropy(-outputs, labels)


def by_hand(outputs, labels):
    kept = np.flatnonzero(labels.numpy() != -100)
    return cross_entropy(outputs[kept], labels[kept])


def weighted_nll(outputs, labels):
    weight = Tensor(WEIGHTS, device=outputs.device)
    return F.nll_loss(F.log_softmax(outputs, 1), labels, weight)


def one_by_one(outputs, labels):
    return sum(mse_loss(a, b) for a, b in zip(outputs, labels, strict=True)) / len(labels)


UNEVEN = {
    "ignored labels": (cross_entropy, labelled()),
    "class weights": (nn.CrossEntropyLoss(WEIGHTS + 0.1, label_smoothing=0.1), labelled()),
    "all in one": (nn.CrossEntropyLoss(WEIGHTS, 255), labelled(pixels(), (2, 3))),
    "nll": (weighted_nll, labelled()),
    "a sum": (nn.CrossEntropyLoss(WEIGHTS, reduction="sum"), labelled()),
    "scaled, with a penalty": (lambda x, y: 2 * cross_entropy(x, y) + 0.5, labelled()),
    "two heads": (two_heads, labelled()),
    "selected by hand": (by_hand, labelled()),
    "probabilities": (cross_entropy, labelled(targets())),
    "mse": (mse_loss, labelled(targets())),
    "l1, a sum": (nn.L1Loss("sum"), labelled(targets())),
    "binary": (nn.BCEWithLogitsLoss(WEIGHTS), labelled(targets())),
    "of the user's own": (lambda x, y: ((x - y) ** 2).mean(), labelled(targets())),
    "one by one": (one_by_one, labelled(targets())),
}


@pytest.mark.filterwarnings("ignore::minidl.training.TrainingWarning")
@pytest.mark.parametrize("name", UNEVEN)
@pytest.mark.parametrize("size", [1, 3, 4, 11])
def test_the_loss_of_all_batches_is_that_of_one(name, size, device):
    loss, (model, x, labels) = UNEVEN[name]
    if isinstance(loss, nn.Module):
        loss.to(device)
    whole = Tensor(x, device=device), Tensor(labels, device=device)
    before = model.to(device).state_dict()
    wanted = loss(model(whole[0]), whole[1])
    model.zero_grad()
    wanted.backward()
    gradients = [p.grad.numpy() for p in model.parameters()]

    batches = DataLoader(x, labels, batch_size=size, device=device)
    tested = evaluate(model, loss, batches)
    assert tested.mean_loss() == pytest.approx(wanted.item(), rel=1e-5)
    if labels.dtype.kind == "i":
        counted = labels != getattr(loss, "ignore_index", -100)
        right = model(whole[0]).numpy().argmax(1) == labels
        assert tested.means("validation")["validation_accuracy"] == pytest.approx(
            right[counted].mean()
        )

    sgd = optim.SGD(model.parameters(), lr=1.0)
    history = fit(model, loss, sgd, batches, batches, accumulate=11, progress=False)
    assert history["train_loss"] == [pytest.approx(wanted.item(), rel=1e-5)]
    assert history.step_losses == [pytest.approx(wanted.item(), rel=1e-5)]
    steps = [before[n] - array for n, array in model.state_dict().items()]
    for step, gradient in zip(steps, gradients, strict=True):
        np.testing.assert_allclose(step, gradient, rtol=1e-3, atol=1e-4 * np.abs(gradient).max())
    model.load_state_dict(before)


@pytest.mark.filterwarnings("ignore::minidl.training.TrainingWarning")
def test_an_epoch_has_the_loss_of_all_its_examples():
    model, x, labels = labelled()
    expected = cross_entropy(model(Tensor(x)), labels).item()
    batches, still = DataLoader(x, labels, batch_size=3), optim.SGD(model.parameters(), lr=0.0)
    history = fit(model, cross_entropy, still, batches, batches, progress=False)
    assert history["train_loss"] == history["validation_loss"] == [pytest.approx(expected)]


def test_where_no_label_counts_the_loss_is_nan_and_no_gradient_comes():
    model, x, labels = labelled(np.full(11, -100))
    batches, before = DataLoader(x, labels, batch_size=4), model.state_dict()
    assert math.isnan(evaluate(model, cross_entropy, batches).mean_loss())
    for accumulate in (1, 2):
        sgd = optim.SGD(model.parameters(), lr=1.0)
        options = {"accumulate": accumulate, "progress": False, "epochs": 2}
        history = fit(model, cross_entropy, sgd, batches, batches, **options)
        assert np.isnan(
            history["train_loss"] + history["validation_loss"] + history.step_losses
        ).all()
        assert history.best_epoch() == 1
        assert all(np.array_equal(before[n], a) for n, a in model.state_dict().items())


def test_another_ignored_label_is_neither_warned_of_nor_wrong():
    model, x, labels = labelled(np.where(KEPT == -100, 255, KEPT))
    batches, sgd = DataLoader(x, labels, batch_size=4), optim.SGD(model.parameters(), lr=0.0)

    def loss(outputs, labels):
        return cross_entropy(outputs, labels, ignore_index=255)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = fit(model, loss, sgd, batches, batches, progress=False)
    right = model(Tensor(x)).numpy().argmax(1) == labels
    assert history["validation_accuracy"] == [pytest.approx(right[labels != 255].mean())]


def test_gradients_are_clipped_before_the_step():
    model, sgd, batches = small(8)
    before = model.state_dict()
    fit(model, cross_entropy, sgd, batches, clip_norm=1e-3, progress=False)
    moved = [model.state_dict()[name] - before[name] for name in before]
    norm = np.sqrt(sum((m.astype(float) ** 2).sum() for m in moved))
    assert norm == pytest.approx(0.5 * 1e-3, rel=1e-3)


@pytest.mark.parametrize(("every", "steps"), [("step", 16), ("epoch", 2)])
def test_schedules_step_as_often_as_they_are_asked_to(every, steps):
    model, sgd, batches = small()
    schedule = resumable.Decay(sgd)
    options = {"schedule": schedule, "schedule_every": every, "progress": False}
    fit(model, cross_entropy, sgd, batches, epochs=2, **options)
    assert schedule.steps == steps


def test_patience_ends_a_run_that_gets_no_better():
    model, sgd, batches = small()
    sgd.param_groups[0]["lr"] = 0.0
    history = fit(model, cross_entropy, sgd, batches, epochs=9, patience=3, progress=False)
    assert history.epochs == 4


def test_callbacks_see_the_run_and_end_it_by_returning_true():
    seen = []
    model, sgd, batches = small()

    def look(run):
        seen.append((run.history.epochs, run.model is model, run.optimizer is sgd))
        return run.history.epochs == 2

    history = fit(model, cross_entropy, sgd, batches, epochs=5, callbacks=[look], progress=False)
    assert seen == [(1, True, True), (2, True, True)]
    assert history.epochs == 2


def test_regression_has_no_accuracy_and_no_warnings():
    model = nn.Linear(4, 1)
    x = np.random.default_rng(0).standard_normal((32, 4), np.float32)
    batches = DataLoader(x, x[:, :1], batch_size=8)
    history = fit(model, mse_loss, optim.SGD(model.parameters()), batches, progress=False)
    assert list(history) == ["train_loss", "lr", "seconds"]


def test_modules_are_left_in_the_mode_they_were_in():
    model, sgd, batches = small()
    model[1].eval()
    fit(model, cross_entropy, sgd, batches, batches, progress=False)
    assert [module.training for module in model.modules()] == [True, True, False, True]
    model.eval()
    evaluate(model, cross_entropy, batches)
    assert not any(module.training for module in model.modules())
    fit(model, cross_entropy, sgd, batches, progress=False)
    assert all(module.training for module in model.modules())


def test_predictions_are_the_outputs_in_order():
    model, _, batches = small(20)
    expected = model(Tensor(batches.arrays[0])).numpy()
    np.testing.assert_allclose(predict(model, batches), expected, rtol=1e-5, atol=1e-6)


def test_fit_prints_one_line_per_epoch_where_there_is_no_terminal(capsys):
    model, sgd, batches = small()
    fit(model, cross_entropy, sgd, batches, batches, epochs=2)
    out, err = capsys.readouterr()
    first, second = out.splitlines()
    assert first.startswith("epoch 1: loss 0.")
    assert "%; validation loss 0." in second
    assert second.endswith(" s")
    assert err == ""
    fit(model, cross_entropy, sgd, batches, progress=False)
    assert capsys.readouterr() == ("", "")


def test_the_bar_shows_loss_accuracy_speed_and_time_left(capsys):
    model, sgd, batches = small()
    batches.transform = lambda x: time.sleep(0.03) or x
    fit(model, cross_entropy, sgd, batches, progress=True)
    bar = capsys.readouterr().err
    assert "epoch 1/1" in bar
    assert "examples/s, loss 0." in bar
    assert "accuracy" in bar
    assert "<00:00" in bar


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "fit: got epochs=0, expected an integer >= 1"),
        ({"accumulate": 0.5}, "fit: got accumulate=0.5"),
        ({"patience": 0}, "fit: got patience=0"),
        (
            {"schedule_every": "batch"},
            'fit: got schedule_every=\'batch\', expected "step" or "epoch"',
        ),
        ({"clip_norm": -1.0}, "clip_grad_norm_: got max_norm=-1.0"),
    ],
)
def test_fit_refuses_impossible_options(options, message):
    model, sgd, batches = small()
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        fit(model, cross_entropy, sgd, batches, progress=False, **options)


def test_fit_refuses_loaders_that_cannot_train():
    model, sgd, batches = small()
    x, y = batches.arrays
    empty, single = DataLoader(x, y, batch_size=99, drop_last=True), DataLoader(x)
    for loader, message in (
        (empty, r"a DataLoader without any batch: .* 64 examples for a batch_size of 99"),
        (single, r"a DataLoader of a single array, expected inputs and then labels"),
    ):
        for pair in ((loader, None), (batches, loader)):
            with pytest.raises(ValueError, match=f"fit: got {message}"):
                fit(model, cross_entropy, sgd, *pair, progress=False)
        with pytest.raises(ValueError, match=f"evaluate: got {message}"):
            evaluate(model, cross_entropy, loader)
        with pytest.raises(ValueError, match=f"predict: got {message}"):
            predict(model, loader)


def test_fit_refuses_a_loss_that_is_no_tensor():
    model, sgd, batches = small()
    with pytest.raises(
        TypeError, match=r"fit: the loss function returned a float, expected a tensor"
    ):
        fit(model, lambda *pair: cross_entropy(*pair).item(), sgd, batches, progress=False)


class Heads(nn.Module):
    """Gives two outputs of two inputs."""

    def __init__(self):
        self.first, self.second = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x, z):
        return self.first(x), self.second(z)


def test_networks_of_several_inputs_and_outputs_are_trained_without_accuracy():
    _, _, batches = small()
    x, y = batches.arrays
    loader, model = DataLoader(x, -x, y, batch_size=8), Heads()
    sgd = optim.SGD(model.parameters(), lr=0.5)

    def both(outputs, labels):
        return cross_entropy(outputs[0], labels) + cross_entropy(outputs[1], labels)

    history = fit(model, both, sgd, loader, loader, epochs=3, progress=False)
    assert list(history) == ["train_loss", "validation_loss", "lr", "seconds"]
    assert history["validation_loss"][-1] < history["validation_loss"][0]


def test_labels_to_be_ignored_count_as_neither_right_nor_wrong():
    model, _, batches = small()
    x, y = batches.arrays
    kept = np.arange(len(y)) % 2 == 0
    totals = evaluate(model, cross_entropy, DataLoader(x, np.where(kept, y, -100)))
    right = model(Tensor(x)).numpy().argmax(1) == y
    assert totals.means("validation")["validation_accuracy"] == right[kept].mean()


def test_fit_takes_a_loss_from_exec_and_one_with_a_name_that_is_not_set():
    for is_weighted in (True, False):
        made = {"cross_entropy": cross_entropy}
        exec("def loss(outputs, labels):\n    return cross_entropy(outputs, labels)", made)

        def loss(outputs, labels, made=made, is_weighted=is_weighted):
            return made["loss"](outputs, labels) * (weight if is_weighted else 1.0)  # noqa: B023

        if is_weighted:
            weight = 1.0
        else:
            del weight
        model, sgd, batches = small()
        fit(model, loss, sgd, batches, progress=False)


# History ---------------------------------------------------------------------------------------


def test_a_history_is_arrays_csv_and_json(tmp_path):
    history = History()
    history.append(train_loss=2.0, lr=0.1)
    history.append(train_loss=1 / 3, lr=0.05)
    history.step_losses += [2.5, 1.5]
    np.testing.assert_array_equal(history.arrays()["train_loss"], [2.0, 1 / 3])
    with history.save(tmp_path / "new" / "h.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["epoch", "train_loss", "lr"], ["1", "2.0", "0.1"], ["2", str(1 / 3), "0.05"]]
    saved = json.loads(history.save(tmp_path / "h.json").read_text())
    assert saved == {"train_loss": [2.0, 1 / 3], "lr": [0.1, 0.05], "step_losses": [2.5, 1.5]}
    assert repr(history) == "History(epochs=2, train_loss, lr)"


def test_what_is_no_number_is_null_in_json_and_a_failed_save_leaves_the_old_file(tmp_path):
    def refuse(name: str) -> float:
        raise ValueError(f"{name} is not JSON")

    history, path = History(), tmp_path / "h.json"
    history.append(train_loss=np.nan, lr=np.inf)
    text = history.save(path).read_text()
    assert json.loads(text, parse_constant=refuse)["train_loss"] == [None]
    history.step_losses.append("no number")
    with pytest.raises(TypeError):
        history.save(path)
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_the_best_epoch_is_that_of_the_lowest_validation_loss():
    history = History()
    for loss, other in ((3.0, np.nan), (2.0, 0.5), (1.0, 0.7), (0.5, 0.5)):
        history.append(train_loss=loss, validation_loss=other)
    assert history.best_epoch() == 2
    with pytest.raises(ValueError, match="no epoch is recorded"):
        History().best_epoch()


def test_a_history_refuses_other_names_and_endings(tmp_path):
    history = History()
    history.append(a=1)
    with pytest.raises(ValueError, match=r"got \['b'\], expected \['a'\]"):
        history.append(b=1)
    with pytest.raises(ValueError, match=r"expected a name ending in \.csv or \.json"):
        history.save(tmp_path / "history.txt")


# Going on --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken():
    """What a run gives that is never stopped."""
    return {n: resumable.fingerprint(*resumable.train(None, prefetch=n)) for n in (0, 2)}


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_run_that_crashes_at_any_step_goes_on_to_the_same_bits(
    prefetch, unbroken, tmp_path, monkeypatch
):
    monkeypatch.setattr(optim, "SGD", DyingSGD)
    crashes = 0
    while True:
        monkeypatch.setattr(DyingSGD, "steps_left", 3 if crashes else 1)
        try:
            found = resumable.train(tmp_path, prefetch=prefetch)
            break
        except CrashError:
            crashes += 1
    assert crashes == 7
    assert resumable.fingerprint(*found) == unbroken[prefetch]


class Slotted:
    """An augmentation whose stream lies in a slot."""

    __slots__ = ("rng",)

    def __init__(self, rng):
        self.rng = rng

    def __call__(self, x):
        return x + self.rng.normal(size=x.shape).astype(np.float32)


def from_numpy(x):
    return x + np.random.standard_normal(x.shape).astype(np.float32)  # noqa: NPY002


def from_python(x):
    return x + np.float32(random.gauss(0, 1))


@pytest.fixture
def global_streams():
    """Restore the streams of NumPy and Python."""
    states = np.random.get_state(), random.getstate()  # noqa: NPY002
    yield
    np.random.set_state(states[0])  # noqa: NPY002
    random.setstate(states[1])


@pytest.mark.usefixtures("global_streams")
@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("kind", ["new", "old", "numpy", "python"])
def test_streams_of_every_kind_go_on_to_the_same_bits(kind, prefetch, tmp_path, monkeypatch):
    transform = {
        "new": lambda: Slotted(np.random.default_rng(3)),
        "old": lambda: Slotted(np.random.RandomState(3)),
        "numpy": lambda: from_numpy,
        "python": lambda: from_python,
    }[kind]

    def trained(folder):
        np.random.seed(5)  # noqa: NPY002
        random.seed(5)
        model, _, batches = small()
        batches.transform, batches.prefetch = transform(), prefetch
        sgd = optim.SGD(model.parameters(), lr=0.5)
        options = {"checkpoint": folder, "save_seconds": 0, "progress": False}
        return fit(model, cross_entropy, sgd, batches, epochs=2, **options).step_losses

    expected = trained(None)
    monkeypatch.setattr(optim, "SGD", DyingSGD)
    for steps in (3, 6):
        monkeypatch.setattr(DyingSGD, "steps_left", steps)
        with pytest.raises(CrashError):
            trained(tmp_path)
    monkeypatch.setattr(DyingSGD, "steps_left", 99)
    assert trained(tmp_path) == expected


def test_a_run_that_crashes_after_measuring_measures_again(unbroken, tmp_path):
    def crash(run):
        raise CrashError

    with pytest.raises(CrashError):
        resumable.train(tmp_path, callbacks=[crash])
    assert resumable.fingerprint(*resumable.train(tmp_path)) == unbroken[0]


def test_a_checkpoint_that_calls_the_validation_set_test_goes_on(unbroken, tmp_path):
    resumable.train(tmp_path, callbacks=[lambda run: run.history.epochs == 2])
    saved = minidl.training.load_checkpoint(tmp_path / "last.npz")
    columns = saved["history"]["columns"].items()
    older = {name.replace("validation", "test"): values for name, values in columns}
    assert list(older) == [
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
        "lr",
        "seconds",
    ]
    saved["history"]["columns"], saved["is_finished"] = older, False
    minidl.training.save_checkpoint(saved, tmp_path / "last.npz")
    assert resumable.fingerprint(*resumable.train(tmp_path)) == unbroken[0]
    names = "epoch,train_loss,train_accuracy,validation_loss,validation_accuracy,lr,seconds"
    assert (tmp_path / "history.csv").read_text().startswith(names)


def test_a_checkpoint_of_before_losses_had_weights_goes_on(tmp_path, monkeypatch):
    def trained(folder):
        model, _, batches = small()
        sgd = optim.SGD(model.parameters(), lr=0.5)
        return fit(model, cross_entropy, sgd, batches, checkpoint=folder, save_seconds=0)

    expected = trained(None)
    monkeypatch.setattr(optim, "SGD", DyingSGD)
    monkeypatch.setattr(DyingSGD, "steps_left", 5)
    with pytest.raises(CrashError):
        trained(tmp_path)
    saved = minidl.training.load_checkpoint(tmp_path / "last.npz")
    assert saved["totals"].pop("weight") == saved["totals"]["seen"] == 40
    minidl.training.save_checkpoint(saved, tmp_path / "last.npz")
    monkeypatch.setattr(DyingSGD, "steps_left", 5)
    found = trained(tmp_path)
    assert (found["train_loss"], found.step_losses) == (
        expected["train_loss"],
        expected.step_losses,
    )


def test_saving_seldom_changes_nothing(unbroken, tmp_path, monkeypatch):
    monkeypatch.setattr(optim, "SGD", DyingSGD)
    monkeypatch.setattr(DyingSGD, "steps_left", 12)
    with pytest.raises(CrashError):  # in epoch 3; saved at the end of epoch 2
        resumable.train(tmp_path, save_seconds=1e9)
    monkeypatch.setattr(DyingSGD, "steps_left", 10)
    assert resumable.fingerprint(*resumable.train(tmp_path, save_seconds=1e9)) == unbroken[0]


def test_a_run_that_was_to_be_shorter_goes_on(unbroken, tmp_path, capsys):
    resumable.train(tmp_path, epochs=2)
    found = resumable.train(tmp_path, progress=None)
    assert f"resuming from {tmp_path / 'last.npz'}: epoch 2" in capsys.readouterr().out
    assert resumable.fingerprint(*found) == unbroken[0]


def test_a_finished_run_starts_again_and_says_so(unbroken, tmp_path, capsys):
    resumable.train(tmp_path)
    found = resumable.train(tmp_path, progress=None)
    assert "holds a finished run of 4 epochs; this one starts over" in capsys.readouterr().out
    assert resumable.fingerprint(*found) == unbroken[0]
    resumable.train(tmp_path, epochs=9, callbacks=[lambda run: True], resume=False)
    history, _ = resumable.train(tmp_path, epochs=2)
    assert history.epochs == 2


def test_a_run_of_other_settings_is_refused_and_kept(tmp_path):
    resumable.train(tmp_path, epochs=1)
    before = (tmp_path / "last.npz").read_bytes()
    with pytest.raises(ValueError, match=r"with other settings(.|\n)*clip_norm: saved 1.0, now 2"):
        resumable.train(tmp_path, clip_norm=2.0)
    assert (tmp_path / "last.npz").read_bytes() == before
    resumable.train(tmp_path, clip_norm=2.0, resume=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": None}, "validation: saved some, now None"),
        ({"schedule_every": "epoch"}, "schedule_every: saved step, now epoch"),
        ({"shuffle": True}, "shuffle: saved False, now True"),
        ({"drop_last": True}, "drop_last: saved False, now True"),
    ],
)
def test_each_setting_that_would_change_the_run_is_compared(options, message, tmp_path):
    def run(epochs, validation=True, schedule_every="step", **loading):
        model, sgd, batches = small()
        loader = DataLoader(*batches.arrays, batch_size=8, **loading)
        fit(
            *(model, cross_entropy, sgd, loader, batches if validation else None, epochs),
            **{"schedule": resumable.Decay(sgd), "schedule_every": schedule_every},
            **{"checkpoint": tmp_path, "progress": False},
        )

    run(1)
    with pytest.raises(ValueError, match=message):
        run(2, **options)


class Drawing(nn.Module):
    """A network whose repr says where in memory its generator lies."""

    def __init__(self, rng):
        self.rng = rng
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x)


def test_where_a_generator_lies_in_memory_is_no_setting(tmp_path):
    reprs, kept = [], []  # kept alive, so that the second lies elsewhere
    for epochs in (1, 2):
        _, _, batches = small()
        model = Drawing(np.random.default_rng(0))
        kept.append(model)
        reprs.append(repr(model))
        sgd = optim.SGD(model.parameters(), lr=0.5)
        options = {"checkpoint": tmp_path, "epochs": epochs, "progress": False}
        assert fit(model, cross_entropy, sgd, batches, **options).epochs == epochs
    assert reprs[0] != reprs[1]


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    minidl.training.save_checkpoint({"mine": 1}, tmp_path / "last.npz")
    with pytest.raises(ValueError, match=r"last\.npz is a checkpoint, but was not saved by fit"):
        resumable.train(tmp_path)


def test_a_damaged_checkpoint_is_refused_and_kept(tmp_path):
    resumable.train(tmp_path, epochs=1)
    (tmp_path / "last.npz").write_bytes(b"PK nonsense")
    with pytest.raises(ValueError, match=r"last\.npz .* is damaged"):
        resumable.train(tmp_path)
    assert (tmp_path / "last.npz").read_bytes() == b"PK nonsense"


def test_the_folder_holds_the_best_weights_and_the_history(tmp_path):
    kept = []
    model, sgd, batches = small()
    history = fit(
        *(model, cross_entropy, sgd, batches, batches, 6),
        checkpoint=tmp_path / "new",
        callbacks=[lambda run: kept.append(run.model.state_dict())],
        progress=False,
    )
    best = load_weights(tmp_path / "new" / "best.npz")
    for name, array in kept[history.best_epoch() - 1].items():
        np.testing.assert_array_equal(best[name], array)
    assert len((tmp_path / "new" / "history.csv").read_text().splitlines()) == 7
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        *("best.npz", "history.csv", "last.npz")
    ]


# Killed ----------------------------------------------------------------------------------------


def start(folder, prefetch, epochs, *die):
    command = [
        sys.executable,
        "-m",
        "tests.helpers.resumable",
        *map(str, (folder, prefetch, epochs, *die)),
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def kill_and_go_on(folder, prefetch, moments):
    """Kill a run that often, each time at a moment (s) after it could first be resumed."""
    epochs, expected = (
        40,
        resumable.fingerprint(*resumable.train(None, prefetch=prefetch, epochs=40)),
    )
    for moment in moments:
        with start(folder, prefetch, epochs) as process:
            wait_for_change(folder / "last.npz", process)
            time.sleep(moment)
            process.kill()
        assert process.returncode == -signal.SIGKILL, "it had finished before"
        minidl.training.load_checkpoint(folder / "last.npz")
    with start(folder, prefetch, epochs) as process:
        assert process.communicate()[0].strip() == expected


def wait_for_change(path, process):
    before = path.stat().st_mtime_ns if path.exists() else None
    while process.poll() is None:
        if path.exists() and path.stat().st_mtime_ns != before:
            return
        time.sleep(0.001)


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    kill_and_go_on(tmp_path, 2, [0.0, 0.02, 0.005])


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_run_killed_at_20_random_moments_goes_on_to_the_same_bits(prefetch, tmp_path):
    moments = random.Random(prefetch)
    kill_and_go_on(tmp_path, prefetch, [moments.uniform(0, 0.03) for _ in range(20)])


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
@pytest.mark.parametrize(
    ("call", "count"), [("fsync", 1), ("fsync", 8), ("fsync", 13), ("replace", 9)]
)
def test_a_run_killed_while_it_writes_a_checkpoint_goes_on(call, count, unbroken, tmp_path):
    with start(tmp_path, 0, 4, call, count) as process:
        assert process.stdout.read() == ""
    assert process.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(".*.part")), "it was not writing"
    if (tmp_path / "last.npz").exists():
        minidl.training.load_checkpoint(tmp_path / "last.npz")
    assert resumable.fingerprint(*resumable.train(tmp_path)) == unbroken[0]
    assert not list(tmp_path.glob(".*"))


# Ctrl-C ----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def ctrl_c_is_heeded():
    """A shell's background job starts with Ctrl-C ignored, and `fit` would leave it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def interrupted(monkeypatch):
    """Send Ctrl-C in the middle of step 7, and do what is given."""
    step = resumable.Decay.step

    def interrupting(then=lambda: None):
        def stepped(schedule):
            step(schedule)
            if schedule.steps == 7:
                signal.raise_signal(signal.SIGINT)
                then()

        monkeypatch.setattr(resumable.Decay, "step", stepped)

    return interrupting


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(
    interrupted, unbroken, tmp_path, capsys, monkeypatch
):
    before = signal.getsignal(signal.SIGINT)
    interrupted()
    with pytest.raises(KeyboardInterrupt):
        resumable.train(tmp_path, save_seconds=1e9, progress=None)
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().out.endswith(
        "stopped after epoch 1 and 4 batches; call fit again with resume=True to continue from "
        f"{tmp_path / 'last.npz'}\n"
    )
    found = resumable.train(tmp_path, progress=None)
    assert "epoch 1 and 4 batches" in capsys.readouterr().out
    assert resumable.fingerprint(*found) == unbroken[0]


def test_ctrl_c_while_measuring_saves_the_epoch(unbroken, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        resumable.train(tmp_path, callbacks=[lambda run: signal.raise_signal(signal.SIGINT)])
    found = resumable.train(tmp_path)
    assert resumable.fingerprint(*found) == unbroken[0]


def test_ctrl_c_after_the_last_step_ends_a_complete_run(unbroken, tmp_path, capsys):
    def interrupt(run):
        if run.history.epochs == 4:
            signal.raise_signal(signal.SIGINT)

    found = resumable.train(tmp_path, callbacks=[interrupt], progress=None)
    assert resumable.fingerprint(*found) == unbroken[0]
    assert "training had already finished; press Ctrl-C again" in capsys.readouterr().out


def test_a_second_ctrl_c_does_not_wait(interrupted):
    def again():
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it waited")

    interrupted(again)
    with pytest.raises(KeyboardInterrupt):
        resumable.train(None)


def test_sigterm_saves_and_ends_the_program(unbroken, tmp_path, capsys, monkeypatch):
    step = resumable.Decay.step

    def stepped(schedule):
        step(schedule)
        if schedule.steps == 7:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(resumable.Decay, "step", stepped)
    with pytest.raises(SystemExit) as ended:
        resumable.train(tmp_path, save_seconds=1e9, progress=None)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert "stopped after epoch 1 and 4 batches" in capsys.readouterr().out
    assert resumable.fingerprint(*resumable.train(tmp_path)) == unbroken[0]


def test_a_program_that_handles_sigterm_itself_still_does(tmp_path):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        resumable.train(None, callbacks=[lambda run: signal.raise_signal(signal.SIGTERM)], epochs=2)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM] * 2


def test_without_a_folder_ctrl_c_says_that_nothing_is_kept(interrupted, capsys):
    interrupted()
    with pytest.raises(KeyboardInterrupt):
        resumable.train(None, progress=None)
    assert "stopped after epoch 1 and 4 batches; this is not saved" in capsys.readouterr().out


def test_evaluate_takes_a_loss_of_one_number_of_any_kind():
    model, x = nn.Linear(2, 3), np.zeros((5, 2), np.float32)
    batches = DataLoader(x, np.array([0, 1, 2, 0, -100]), batch_size=2)
    found = evaluate(model, lambda outputs, labels: np.float64(len(labels)), batches)
    assert (found.loss, found.seen, found.labels) == (9.0, 5, 4)
    with pytest.raises(
        ValueError, match=r"evaluate: got a loss of shape \(2, 3\), expected a single"
    ):
        evaluate(model, lambda outputs, labels: outputs, batches)
