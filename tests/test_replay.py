"""`capture`: the same results as plain steps, on the CPU and where work can be recorded.

The guarded device records what it is asked to do, and repeats it in the same memory with the same
numbers, as a CUDA graph does: see `guarded.py`. With a host compiler the CuPy backend's own kernels
are recorded and repeated there too.
"""

from __future__ import annotations

import collections
import warnings

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn, optim
from minidl import functional as F
from minidl.backends import backend_for

from .helpers import guarded, hosted
from .helpers.guarded import GuardedBackend


@pytest.fixture(params=["cpu", "guarded", "hosted", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda":
        request.getfixturevalue("cuda")
    if request.param == "hosted":
        if hosted.compiler() is None:
            pytest.skip("no C++ compiler to build kernels.cu")
        with hosted.HostedBackend().in_place_of_guarded():
            yield "guarded"
    else:
        yield request.param


def network(device):
    minidl.manual_seed(1)
    # A GPU does nothing of a recording that fails; the generic guarded device, whose recordings all
    # fail here, has then moved running statistics.
    records = not isinstance(backend_for(device), GuardedBackend) or hosted_here(device)
    return nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1), *([nn.BatchNorm2d(3)] if records else []), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.AvgPool2d(3, 1, 1)),
        *(nn.Flatten(), nn.Dropout(0.5), nn.Linear(27, 4)),
    )


def batches(device, sizes):
    rng = np.random.default_rng(0)
    for size in sizes:
        images = Tensor(rng.normal(size=(size, 2, 6, 6)).astype("f"), device=device)
        yield images, Tensor(rng.integers(0, 4, size), device=device)


def trained(device, rule, wrapped, sizes, **options):
    """Train; return the losses, the parameters, and how often the step ran in Python."""
    model = network(device).to(device)
    optimiser = getattr(optim, rule)(model.parameters(), **options)
    runs = []

    def step(images, labels):
        runs.append(len(images))
        loss = F.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    stepped, losses = wrapped(step), []
    minidl.manual_seed(2)
    for images, labels in batches(device, sizes):
        losses.append(stepped(images, labels))
        optimiser.param_groups[0]["lr"] *= 0.8
    state = optimiser.state_dict()["state"]
    counts = {entries["step"] for entries in state.values()}
    return [x.item() for x in losses], list(model.state_dict().values()), runs, counts


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
        ("AdamW", {"lr": 0.01}),
        ("RMSprop", {"lr": 0.01}),
    ],
)
@pytest.mark.parametrize(
    ("sizes", "runs"),
    [([4] * 7, [4] * 3), ([4, 4, 3, 4, 3, 4, 3, 4, 2], [4, 4, 3, 4, 3, 3, 2])],
    ids=["one shape", "shapes that change"],
)
def test_replays_do_what_plain_steps_do(device, rule, options, sizes, runs):
    """Losses, weights, running statistics, dropout's masks, rates that change, and the count."""
    plain = trained(device, rule, lambda step: step, sizes, **options)
    if isinstance(backend_for(device), GuardedBackend) and not hosted_here(device):
        with pytest.warns(UserWarning, match="updates parameters by a rule that has no kernel"):
            captured = trained(device, rule, minidl.capture, sizes, **options)
    else:
        captured = trained(device, rule, minidl.capture, sizes, **options)
        assert captured[2] == (sizes if device == "cpu" else runs)
    np.testing.assert_allclose(captured[0], plain[0], rtol=1e-6)
    for mine, wanted in zip(captured[1], plain[1], strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-7)
    assert captured[3] == plain[3] == {len(sizes)}


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize(
    ("rule", "options"), [("Adam", {}), ("SGD", {"momentum": 0.9, "dampening": 0.5})]
)
def test_a_replay_goes_on_from_a_state_that_was_loaded(device, rule, options, before):
    """The recording writes to the arrays that were there: loading must not put others there."""
    if isinstance(backend_for(device), GuardedBackend) and not hosted_here(device):
        pytest.skip("the generic kernels cannot record an optimiser's step")

    def losses(wrapped):
        minidl.manual_seed(0)
        model = nn.Linear(3, 2).to(device)
        optimiser = getattr(optim, rule)(model.parameters(), lr=0.05, **options)
        x, y = minidl.ones((4, 3), device=device), Tensor([0, 1, 1, 0], device=device)

        def step(x, y):
            loss = F.cross_entropy(model(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss

        stepped = wrapped(step)
        found = [stepped(x, y).item() for _ in range(before)]
        saved = model.state_dict(), optimiser.state_dict()
        found += [stepped(x, y).item() for _ in range(4)]
        for owner, state in zip((model, optimiser), saved, strict=True):
            owner.load_state_dict(state)
        found += [stepped(x, y).item() for _ in range(4)]
        return found, optimiser.state_dict()["state"][0]["step"]

    (plain, count), (replayed, other) = losses(lambda step: step), losses(minidl.capture)
    np.testing.assert_allclose(replayed, plain, rtol=1e-6)
    np.testing.assert_allclose(plain[before + 4 :], plain[before : before + 4], rtol=1e-6)
    assert count == other == before + 4


def hosted_here(device):
    return isinstance(backend_for(device), hosted.HostedBackend)


def max_unpool(x):
    values, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(values, places, 2)


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: F.gem_pool2d(x.clip(0.1), minidl.ones(1, device=x.device) * 3),
        max_unpool,
        lambda x: F.stochastic_pool2d(x, 2, rng=None),
        lambda x: F.adaptive_avg_pool2d(x, 5),
        lambda x: F.softmax_pool2d(x, 3, 1, 1),
    ],
    ids=["gem", "unpool", "stochastic", "adaptive average", "padded softmax"],
)
def test_poolings_are_replayed_without_a_wait(device, pool):
    def results(wrapped):
        minidl.manual_seed(0)
        step = wrapped(lambda x: pool(x).sum())
        return [step(images).item() for images, _ in batches(device, [3] * 5)]

    guarded.hidden.clear()
    np.testing.assert_allclose(results(minidl.capture), results(lambda step: step), rtol=1e-6)
    assert guarded.hidden == []


def test_a_label_out_of_range_in_a_replay_is_raised_when_the_loss_is_read(device):
    weight = Tensor(np.ones((3, 3), np.float32), device=device)

    @minidl.capture
    def step(x, labels):
        return F.cross_entropy(x @ weight, labels)

    x = minidl.ones((2, 3), device=device)
    good, bad = (Tensor(np.array(labels), device=device) for labels in ([0, 2], [0, 3]))
    for _ in range(4):
        loss = step(x, good).item()
    with pytest.raises(ValueError, match=r"got label 3 at \(1,\), expected 0 to 2"):
        step(x, bad).item()
    assert step(x, good).item() == loss
    with pytest.raises(ValueError, match=r"cross_entropy: got label"):  # noqa: PT012
        lost = step(x, bad)
        step(x, good)
        lost.item()


def test_a_step_that_reads_results_is_done_plainly_with_a_warning(device):
    if device == "cpu":
        pytest.skip("on the CPU nobody waits")
    x, losses = minidl.ones(3, device=device), []

    @minidl.capture
    def step(x):
        losses.append(x.sum().item())
        return x * 2

    with pytest.warns(
        UserWarning, match=r"reads 1 result\(s\) on the host, .*runs in Python; return"
    ):
        step(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            assert step(x).numpy().tolist() == [2, 2, 2]
    assert losses == [3] * 5


def test_a_step_that_moves_data_is_done_plainly_with_a_warning(device):
    if device == "cpu":
        pytest.skip("nothing is moved on the CPU")

    @minidl.capture
    def step(x):
        return x * Tensor(np.arange(3.0, dtype="f"), device=device)

    x = minidl.ones(3, device=device)
    with pytest.warns(UserWarning, match=r"moves 1 array\(s\) to the GPU"):
        step(x)
    assert step(x).numpy().tolist() == [0, 1, 2]


def test_a_recording_that_fails_leaves_no_trace(device):
    """The third call reads a result; the optimiser's count is as without it."""
    if device == "cpu":
        pytest.skip("nothing is recorded on the CPU")
    weight = Tensor([1.0], device=device, requires_grad=True)
    adam, calls = optim.Adam([weight], lr=0.5), []

    @minidl.capture
    def step(x):
        calls.append(1)
        adam.zero_grad()
        (weight * x).sum().backward()
        adam.step()
        if len(calls) == 3:
            return weight.sum().item()
        return weight.sum()

    x = minidl.ones(1, device=device)
    step(x), step(x)
    with pytest.warns(UserWarning, match=r"could not be recorded and runs in Python: the recorded"):
        step(x)
    assert len(calls) == 4
    assert adam.state_dict()["state"][0]["step"] == 3


def test_results_of_every_form_are_copies(device):
    pair = collections.namedtuple("pair", "a b")

    @minidl.capture
    def step(x, scale):
        return {"both": pair(x * scale, [x + 1]), "none": None, "number": 3}

    kept = []
    for value in range(5):
        kept.append(step(Tensor([float(value)], device=device), 2))
    for value, result in enumerate(kept):
        assert result["both"].a.numpy().tolist() == [value * 2]
        assert result["both"].b[0].numpy().tolist() == [value + 1]
        assert (result["none"], result["number"]) == (None, 3)
    assert step(Tensor([1.0], device=device), 5)["both"].a.item() == 5


def test_arguments_that_cannot_be_compared_are_refused(device):
    step = minidl.capture(lambda x, names: x)
    x = minidl.ones(1, device=device)
    if device == "cpu":
        assert step(x, ["a"]).item() == 1
    else:
        with pytest.raises(TypeError, match="capture: got a list as an argument of the step"):
            step(x, ["a"])


def test_a_captured_step_keeps_its_name():
    def step():
        """Do it."""

    captured = minidl.capture(step)
    assert (captured.__name__, captured.__doc__) == ("step", "Do it.")
    assert captured() is None
