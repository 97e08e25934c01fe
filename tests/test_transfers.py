"""Nothing in a training step makes the host wait for the device, or moves data, unasked.

Counted on the guarded device, where every wait that CuPy would make is noticed, with the generic
kernels and with those of the CuPy backend. How that is done where arguments have to be looked at:
see `backends/deferred.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl import Tensor, data, models, nn, optim, training
from minidl import functional as F
from minidl.backends import backend_for

from .benchmarks import step as steps
from .helpers import guarded, hosted


@pytest.fixture(params=["generic", "hosted"])
def backend(request):
    guarded.hidden.clear()
    if request.param == "generic":
        yield backend_for("guarded")
    elif hosted.compiler() is None:
        pytest.skip("no C++ compiler to build kernels.cu")
    else:
        with hosted.HostedBackend().in_place_of_guarded() as backend:
            yield backend


def cifar10_cnn():
    rng = np.random.default_rng(0)
    return models.cifar10_cnn(), rng.standard_normal((4, 3, 32, 32), "f"), rng.integers(0, 10, 4)


@pytest.fixture
def small(monkeypatch):
    for name, size in zip(
        ["WORDS", "LENGTH", "WIDTH", "FILTERS", "SENTENCES"], [40, 9, 6, 5, 3], strict=True
    ):
        monkeypatch.setattr(steps, name, size)


def text_cnn():
    model = steps.text_cnn(nn, F, minidl.concatenate)
    return model, *steps.sentences()


def other_layers():
    """What the two nets do not have: average pooling, padded and not, dropout, embeddings."""
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.GELU(), nn.AvgPool2d(3, 2, 1)),
        *(nn.LeakyReLU(), nn.AvgPool2d(2), nn.Dropout(0.3), nn.GlobalAvgPool(), nn.Linear(4, 3)),
    )
    rng = np.random.default_rng(0)
    return model, rng.standard_normal((4, 2, 8, 8), "f"), rng.integers(0, 3, 4)


def normalised():
    """Batch norm in training, of images near and far from 0, and the norms of single examples."""
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4)),
        *(nn.LayerNorm((4, 8, 8)), nn.Flatten(), nn.BatchNorm1d(256), nn.Linear(256, 3)),
    )
    rng = np.random.default_rng(0)
    return model, rng.standard_normal((4, 2, 8, 8), "f") + 100, rng.integers(0, 3, 4)


def trained(build, device, rule, count=3):
    """Return the losses and weights of a few steps, and what was copied in each."""
    minidl.manual_seed(0)
    model, inputs, labels = build()
    model.to(device, np.float64)  # so that rounding does not hide what differs
    optimiser = getattr(optim, rule)(model.parameters(), lr=0.01)
    backend, losses, copies = backend_for(device), [], []
    inputs = inputs.astype(np.float64) if inputs.dtype.kind == "f" else inputs
    x, y = Tensor(inputs, device=device), Tensor(labels, device=device)
    for _ in range(count):
        before = getattr(backend, "to_host", 0), getattr(backend, "to_device", 0)
        loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        minidl.optim.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        after = getattr(backend, "to_host", 0), getattr(backend, "to_device", 0)
        copies.append((after[0] - before[0], after[1] - before[1]))
        losses.append(loss.item())
    return losses, [p.numpy() for p in model.parameters()], copies


@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW", "RMSprop"])
@pytest.mark.parametrize("build", [cifar10_cnn, text_cnn, other_layers, normalised])
def test_a_step_copies_nothing_and_waits_for_nothing(backend, small, build, rule):
    losses, weights, copies = trained(build, "guarded", rule)
    assert guarded.hidden == []
    assert copies[1:] == [(0, 0)] * 2  # in the first, tables such as average pooling's are moved
    assert copies[0][0] == 0
    wanted, wanted_weights, _ = trained(build, "cpu", rule)
    np.testing.assert_allclose(losses, wanted, rtol=1e-9)
    for mine, other in zip(weights, wanted_weights, strict=True):
        # Adam divides gradients that are 0 up to rounding, such as those of a bias before a norm,
        # by little more than its eps.
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-8)


def test_fit_waits_once_in_a_step_and_once_in_a_pass_of_measuring(backend):
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((12, 3, 32, 32)), rng.integers(0, 10, 12)
    waits, history = [], {}
    for device in ("cpu", "guarded"):
        minidl.manual_seed(0)
        loader = data.DataLoader(images, labels, batch_size=4, device=device)
        model = models.cifar10_cnn().to(device, np.float64)
        rule = optim.SGD(model.parameters(), lr=0.01)
        counted = [lambda run: waits.append(backend.to_host)]
        options = {"epochs": 3, "callbacks": counted, "progress": False}
        history[device] = training.fit(model, F.cross_entropy, rule, loader, loader, **options)
    steps, passes = len(loader), 1
    assert np.diff(waits[3:]).tolist() == [steps + passes] * 2
    assert guarded.hidden == []
    for name in ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy"):
        np.testing.assert_allclose(history["guarded"][name], history["cpu"][name], rtol=1e-9)


def test_reading_the_loss_is_one_copy(backend):
    loss = F.cross_entropy(minidl.zeros((2, 3), device="guarded"), Tensor([0, 1], device="guarded"))
    before = backend.to_host
    loss.item()
    assert backend.to_host == before + 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            lambda there: F.cross_entropy(minidl.zeros((2, 3), device="guarded"), there([0, 3])),
            r"cross_entropy: got label 3 at \(1,\), expected 0 to 2 for 3 classes",
        ),
        (
            lambda there: F.nll_loss(minidl.zeros((2, 3), device="guarded"), there([-1, 0])),
            r"nll_loss: got label -1 at \(0,\), expected 0 to 2",
        ),
        (
            lambda there: F.cross_entropy(minidl.zeros((1, 3), device="guarded"), there([-100])),
            "cross_entropy: got an empty batch, or only ignored labels",
        ),
        (
            lambda there: F.embedding(there([0, 7]), minidl.zeros((4, 2), device="guarded")),
            r"embedding: got indices from 0 to 7 for a weight of shape \(4, 2\), expected 0 to 3",
        ),
    ],
)
def test_what_is_out_of_range_is_raised_when_a_result_is_read(backend, wrong, said):
    with np.errstate(invalid="ignore"):  # a GPU does not warn of 0 / 0
        result = wrong(lambda indices: Tensor(np.array(indices), device="guarded"))
    other = minidl.ones(1, device="guarded")
    with pytest.raises(ValueError, match=said):
        other.numpy()
    assert other.numpy().tolist() == [1]  # said once
    assert result.numpy() is not None


def test_checks_that_nobody_reads_do_not_pile_up(backend):
    scores, labels = minidl.zeros((1, 3), device="guarded"), Tensor([5], device="guarded")
    with pytest.raises(ValueError, match="got label 5"):
        any(F.cross_entropy(scores, labels) is None for _ in range(1100))


def test_a_hidden_wait_would_be_noticed():
    guarded.hidden.clear()
    x = backend_for("guarded").from_numpy(np.ones(2))
    bool((x > 0).all()), float(x[0]), x[x > 0], backend_for("guarded").xp.nonzero(x)
    assert guarded.hidden == ["bool", "float", "an index of bools", "nonzero"]
    guarded.hidden.clear()
