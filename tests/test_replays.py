"""`fit` replays steps where shapes repeat: the same losses, weights and checkpoints as without.

On the guarded device with the CuPy backend's own kernels, recordings are repeated in the same
memory, without Python, as a CUDA graph is: see `hosted.py`. The bits are equal there.
"""

from __future__ import annotations

import random
import signal

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn, optim
from minidl import functional as F
from minidl.data import DataLoader
from minidl.training import TrainingWarning, fit, replays
from minidl.training.replays import RUNS_BEFORE, TIMED, ReplayingRun

from .helpers import hosted


@pytest.fixture(params=["hosted", pytest.param("cuda", marks=pytest.mark.gpu)])
def gpu(request):
    if request.param == "cuda":
        request.getfixturevalue("cuda")
        yield "cuda"
        return
    if hosted.compiler() is None:
        pytest.skip("no C++ compiler to build kernels.cu")
    with hosted.HostedBackend().in_place_of_guarded():
        yield "guarded"


def network():
    return nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.5), nn.Linear(27, 4)),
    )


def images(count):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 2, 6, 6)).astype("f"), rng.integers(0, 4, count)


class Trained:
    """A training of a small network: what came of it, and how often Python ran the network."""

    def __init__(self, device, capture, *, make=network, rule="Adam", count=46, **options):
        minidl.manual_seed(0)
        self.model, self.calls, self.runs = make().to(device), [], []
        self.optimizer = getattr(optim, rule)(self.model.parameters(), lr=0.01)
        train = DataLoader(*images(count), batch_size=4, shuffle=True, device=device)
        validation = DataLoader(*images(8), batch_size=4, device=device)
        given = options.pop("callbacks", ())
        options = {"epochs": 3, "progress": False, "schedule": None} | options
        if options["schedule"] is not None:
            options["schedule"] = options["schedule"](self.optimizer)

        def loss(outputs, labels):
            if self.model.training:
                self.calls.append(len(labels))
            return F.cross_entropy(outputs, labels)

        callbacks = [self.runs.append, *(lambda run, f=f: f(self) for f in given)]
        self.history = fit(
            *(self.model, loss, self.optimizer, train, validation),
            capture=capture,
            callbacks=callbacks,
            **options,
        )

    @property
    def run(self):
        return self.runs[-1]

    @property
    def losses(self):
        return self.history.step_losses

    def state(self):
        counts = [entries["step"] for entries in self.optimizer.state_dict()["state"].values()]
        return [*self.model.state_dict().values(), *self.history.arrays().values()][:-1], counts


def assert_same(one, other):
    assert one.losses == other.losses
    arrays, counts = one.state()
    wanted, others = other.state()
    assert counts == others
    for mine, theirs in zip(arrays, wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("Adam", {}),
        ("SGD", {"clip_norm": 0.1}),
        ("RMSprop", {"schedule": lambda optimizer: optim.StepLR(optimizer, 5)}),
        ("AdamW", {"schedule_every": "epoch", "clip_norm": 1.0}),
    ],
)
def test_replayed_steps_have_the_bits_of_ordinary_ones(gpu, rule, options):
    """Losses, weights, running statistics, dropout, clipping, rates, and a smaller last batch."""
    plain = Trained(gpu, False, rule=rule, **options)
    replayed = Trained(gpu, True, rule=rule, **options)
    if gpu == "guarded":
        assert_same(replayed, plain)
    np.testing.assert_allclose(replayed.losses, plain.losses, rtol=1e-3, atol=1e-3)
    ordinary, recorded, last = RUNS_BEFORE, 1, 3
    assert len(plain.calls) == 36
    assert replayed.calls.count(4) == ordinary + recorded
    assert replayed.calls.count(2) == last  # 46 examples: two are left over, once per epoch


def test_without_a_choice_nothing_changes_on_the_cpu():
    """No replays, the same class of run, and the same bits."""
    plain, auto = Trained("cpu", False), Trained("cpu", "auto")
    assert_same(auto, plain)
    assert type(auto.run) is type(plain.run) is minidl.training.Run
    assert len(auto.calls) == 36


class Clock:
    """A clock on which a step takes as long as it is told, by whether Python ran the network."""

    def __init__(self, ordinary, replayed):
        self.now, self.costs, self.python = 0.0, (ordinary, replayed), []

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    def install(ordinary, replayed):
        clock = Clock(ordinary, replayed)
        step, gradients = minidl.training.Run._step, replays.Replay.gradients

        def slow_step(self, batches):
            step(self, batches)
            clock.now += ordinary

        def slow_gradients(self, batch):
            clock.now += replayed
            return gradients(self, batch)

        monkeypatch.setattr(minidl.training.Run, "_step", slow_step)
        monkeypatch.setattr(replays.Replay, "gradients", slow_gradients)
        monkeypatch.setattr(replays, "time", clock)
        return clock

    return install


@pytest.mark.parametrize(("replayed", "kept"), [(0.001, "replayed"), (0.003, "ordinary")])
def test_the_faster_way_is_kept_and_said(gpu, clock, capsys, replayed, kept):
    clock(0.002, replayed)
    auto = Trained(gpu, "auto", progress=None)
    times = (pytest.approx(2), pytest.approx(1e3 * replayed))
    assert auto.run.step_ms == {"(4, 2, 6, 6), (4,)": times}
    printed = capsys.readouterr().out
    assert printed.count("replayed as a CUDA graph") == 1
    assert (
        f"a step with batches (4, 2, 6, 6), (4,) takes 2.00 ms, replayed as a CUDA graph "
        f"{1e3 * replayed:.2f} ms: {kept} steps from now on\nepoch 2:" in printed
    )
    before = RUNS_BEFORE + TIMED + 1
    assert auto.calls.count(4) == (before if kept == "replayed" else 33 - TIMED)
    if gpu == "guarded":
        assert_same(auto, Trained(gpu, False))


def test_a_batch_per_epoch_is_replayed_too(gpu):
    whole = {"count": 4, "epochs": 8}
    replayed = Trained(gpu, True, **whole)
    assert len(replayed.calls) == RUNS_BEFORE + 1
    assert_same(replayed, Trained(gpu, False, **whole))


def test_accumulated_steps_are_ordinary(gpu):
    options = {"accumulate": 2}
    replayed = Trained(gpu, True, **options)
    assert len(replayed.calls) == 36
    assert_same(replayed, Trained(gpu, False, **options))


def freeze(trained):
    if trained.run.history.epochs == 1:
        trained.model[0].requires_grad_(False)


def drop_less(trained):
    trained.model[5].p = 0.1 * trained.run.history.epochs


def clip(trained):
    trained.run.clip_norm = 0.01 * trained.run.history.epochs


@pytest.mark.parametrize("change", [freeze, drop_less, clip])
def test_what_a_callback_changes_is_recorded_anew(gpu, change):
    options = {"epochs": 4, "callbacks": [change]}
    replayed = Trained(gpu, True, **options)
    times = 2 if change is freeze else 4
    assert replayed.calls.count(4) == times * (RUNS_BEFORE + 1)
    assert_same(replayed, Trained(gpu, False, **options))


def halve(trained):
    trained.optimizer.param_groups[0]["lr"] *= 0.5


def reload(trained):
    trained.model.load_state_dict(trained.model.state_dict())
    trained.optimizer.load_state_dict(trained.optimizer.state_dict())


@pytest.mark.parametrize("change", [halve, reload])
def test_rates_and_loaded_states_reach_a_recording(gpu, change):
    options = {"epochs": 4, "callbacks": [change]}
    replayed = Trained(gpu, True, **options)
    assert replayed.calls.count(4) == RUNS_BEFORE + 1
    assert_same(replayed, Trained(gpu, False, **options))


class Counting(nn.Module):
    """Halves its output after the fifth call: a decision by an attribute that it changes."""

    def __init__(self):
        super().__init__()
        self.inner, self.seen = nn.Sequential(nn.Flatten(), nn.Linear(72, 4)), [0]

    def forward(self, x):
        self.seen[0] += 1
        return self.inner(x) * (1 if self.seen[0] < 5 else 0.5)


class Keeping(Counting):
    """Adds its last output: a tensor that is another one after each call."""

    last = None

    def forward(self, x):
        found, self.last = self.inner(x), self.inner(x).detach().mean()
        return found + self.last


class Deciding(Counting):
    """Leaves out its bias at random, by Python's numbers."""

    def __init__(self):
        super().__init__()
        self.rng = random.Random(0)

    def forward(self, x):
        return self.inner(x) * (1 if self.rng.random() < 0.5 else 0.5)


class Reading(Counting):
    """Reads a result on the host."""

    def forward(self, x):
        found = self.inner(x)
        return found * (1 if found.sum().item() > 0 else 0.5)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Counting, r"a step changes seen\[0\], which a replay would not do"),
        (Keeping, r"a step changes last, which"),
        (Deciding, r"the step draws random numbers in Python"),
        (Reading, r"the recorded work waits for a result on the host"),
    ],
)
def test_a_step_that_needs_python_stays_ordinary_with_one_warning(gpu, make, reason):
    plain = Trained(gpu, False, make=make)
    with pytest.warns(TrainingWarning, match=f"not replayed .*{reason}") as caught:
        replayed = Trained(gpu, "auto", make=make)
    assert len(caught) == 1
    assert replayed.run.why_not
    assert_same(replayed, plain)


class Plain(optim.SGD):
    """A rule without a kernel."""

    def update(self, p, g, state, group):
        p -= group["lr"] * g


class Stepping(optim.SGD):
    def step(self):
        super().step()


@pytest.mark.parametrize("rule", [Plain, Stepping])
def test_rules_without_a_kernel_are_ordinary_silently_unless_asked(gpu, rule, monkeypatch):
    monkeypatch.setattr(optim, rule.__name__, rule, raising=False)
    auto = Trained(gpu, "auto", rule=rule.__name__)
    assert rule.__name__ in auto.run.why_not
    with pytest.warns(TrainingWarning, match=f"not replayed .*{rule.__name__}"):
        Trained(gpu, True, rule=rule.__name__)


def test_an_update_that_cannot_be_recorded_is_made_once(gpu, monkeypatch):
    def failing(self):
        raise RuntimeError("no update today")

    plain = Trained(gpu, False)
    monkeypatch.setattr(replays.Replay, "record_update", failing)
    with pytest.warns(TrainingWarning, match="no update today"):
        replayed = Trained(gpu, True)
    assert_same(replayed, plain)


def test_rows_are_not_replayed(gpu):
    def losses(capture):
        minidl.manual_seed(0)
        model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(12, 2))
        model.to(gpu)
        words = np.random.default_rng(0).integers(0, 9, (40, 3))
        train = DataLoader(words, words[:, 0] % 2, batch_size=4, device=gpu)
        adam = optim.Adam(model.parameters())
        return fit(
            *(model, F.cross_entropy, adam, train), progress=False, capture=capture
        ).step_losses

    with pytest.warns(TrainingWarning, match=r"the gradient of 0\.weight has rows"):
        replayed = losses(True)
    assert replayed == losses(False)


class Exploding(Counting):
    def forward(self, x):
        return self.inner(x * x.max() * 0.1)


def test_nan_in_a_replay_names_the_operation_and_spares_the_weights(gpu):
    def failing(capture):
        minidl.manual_seed(0)
        model = Exploding().to(gpu)
        x, y = images(40)
        x[39] = np.inf
        train = DataLoader(x, y, batch_size=4, device=gpu)
        with pytest.raises(FloatingPointError, match=r"in epoch 1, batch 10.* repeated") as caught:
            fit(
                *(model, F.cross_entropy, optim.Adam(model.parameters()), train),
                progress=False,
                capture=capture,
            )
        return str(caught.value), list(model.state_dict().values())

    (text, weights), (wanted, others) = failing(True), failing(False)
    assert text == wanted
    for mine, theirs in zip(weights, others, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_label_out_of_range_is_raised_before_the_update(gpu):
    x, y = images(40)
    y[38] = 4
    model = network().to(gpu)
    train = DataLoader(x, y, batch_size=4, device=gpu)
    with (
        pytest.warns(TrainingWarning, match="labels are not from"),
        pytest.raises(ValueError, match=r"got label 4 at \(2,\), expected 0 to 3"),
    ):
        fit(
            *(model, F.cross_entropy, optim.Adam(model.parameters()), train),
            progress=False,
            capture=True,
        )


class Interrupt:
    """A schedule that asks to stop after a step."""

    def __init__(self, optimizer, at):
        self.steps, self.at = 0, at

    def step(self):
        self.steps += 1
        if self.steps == self.at:
            signal.raise_signal(signal.SIGINT)

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


@pytest.mark.parametrize("at", [2, 3, 7, 14])
def test_an_interrupted_run_resumes_with_equal_bits(gpu, tmp_path, at):
    """Before, while and after the first recording, and within the second epoch."""
    options = {"schedule": lambda optimizer: Interrupt(optimizer, at), "checkpoint": tmp_path}
    whole = Trained(gpu, False, schedule=lambda optimizer: Interrupt(optimizer, -1))
    with pytest.raises(KeyboardInterrupt):
        Trained(gpu, True, **options)
    resumed = Trained(gpu, True, **options)
    assert resumed.losses == whole.losses
    for mine, theirs in zip(resumed.state()[0], whole.state()[0], strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_prefetched_batches_are_replayed(gpu):
    def losses(capture):
        rng = minidl.manual_seed(0)
        model = network().to(gpu)
        train = DataLoader(*images(46), batch_size=4, shuffle=True, device=gpu, prefetch=2, rng=rng)
        adam = optim.Adam(model.parameters())
        return fit(*(model, F.cross_entropy, adam, train), progress=False, capture=capture)

    assert losses(True).step_losses == losses(False).step_losses


@pytest.mark.parametrize("capture", ["on", None, 2])
def test_other_choices_are_refused(capture):
    with pytest.raises(ValueError, match=f"fit: got capture={capture!r}, expected"):
        Trained("cpu", capture)


def test_a_run_compares_by_value_and_identity():
    one = {"a": 1, "b": (array := np.ones(2)), "c": [1]}
    found, again = {}, {}
    replays._flatten("x", one, found)
    replays._flatten("x", dict(one), again)
    assert replays._differing(found, again) == ""
    assert replays._differing(found, again | {"x['b']": array.copy()}) == "x['b']"
    assert replays._differing(found, again | {"x['a']": True}) == "x['a']"
    assert replays._differing(found, again | {"x['c'][1]": 2}) == "x['c'][1]"


def test_a_batch_on_two_devices_is_ordinary(gpu):
    """Such a batch cannot be recorded as a whole; the network moves its labels itself."""
    x, y = (Tensor(array, device=gpu) for array in images(4))
    run = ReplayingRun(network().to(gpu), F.cross_entropy, _adam(gpu), [(x, y)])
    assert run._trial((x, Tensor(images(4)[1]))) is None
    assert run._trial((x, y)) is not None


def _adam(device):
    return optim.Adam(nn.Linear(2, 2).to(device).parameters())
