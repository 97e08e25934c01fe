"""Plain kernels run the code that the reading path names, with the same results as fast ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import minidl
from minidl import Tensor, models, nn, optim
from minidl import functional as F
from minidl.backends import Backend
from minidl.functional.pooling import basic

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def kernels(name: str) -> Iterator[None]:
    before = minidl.get_kernels()
    minidl.set_kernels(name)
    try:
        yield
    finally:
        minidl.set_kernels(before)


def images(n: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 3, 32, 32)), rng.integers(0, classes, n)


def sentences(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(1, 50, (n, 12)), rng.integers(0, 2, n)


NETWORKS = {
    "chapter 7": (lambda: models.cifar10_cnn(), lambda: images(8), 6),
    "chapter 9": (lambda: models.TextCNN(50, 16, 10, (3, 4, 5)), lambda: sentences(10), 8),
    "chapter 10": (lambda: models.resnet20(), lambda: images(6), 3),
}


def train(name: str) -> tuple[list[float], dict[str, np.ndarray]]:
    """Return the losses of some training steps, and the weights after them."""
    build, batch, steps = NETWORKS[name]
    minidl.manual_seed(0)
    model = build().to(dtype="float64")
    inputs, labels = batch()
    x = inputs if inputs.dtype.kind == "i" else Tensor(inputs)
    adam, losses = optim.Adam(model.parameters(), lr=1e-3), []
    for _ in range(steps):
        loss = F.cross_entropy(model(x), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses, model.state_dict()


@pytest.mark.parametrize(
    "name", ["chapter 7", "chapter 9", pytest.param("chapter 10", marks=pytest.mark.slow)]
)
def test_training_gives_the_same_losses_and_weights_with_plain_kernels(name):
    with kernels("fast"):
        losses, weights = train(name)
    with kernels("plain"):
        plain_losses, plain_weights = train(name)
    assert len(set(losses)) == len(losses)
    np.testing.assert_allclose(plain_losses, losses, rtol=1e-9)
    for key, value in weights.items():
        np.testing.assert_allclose(plain_weights[key], value, rtol=1e-6, atol=1e-9, err_msg=key)


def test_plain_kernels_run_what_the_reading_path_names(monkeypatch):
    called = []

    def spy(owner, name):
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            called.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    spy(nn.Conv2d, "forward")
    spy(F, "conv2d")
    spy(F, "max_pool2d")
    spy(Backend, "convolve")
    spy(basic, "scatter_winners")
    with kernels("plain"):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2))
        model(minidl.ones((1, 1, 6, 6))).sum().backward()
    assert {"forward", "conv2d", "max_pool2d", "convolve", "scatter_winners"} <= set(called)


def test_tensors_of_both_kinds_do_not_mix():
    with kernels("fast"):
        fast = minidl.ones(3)
    with kernels("plain"):
        plain = minidl.ones(3)
        with pytest.raises(TypeError, match="mul: got tensors made before and after set_kernels"):
            plain * fast
    with kernels("fast"):
        assert (fast + 1).numpy().tolist() == [2, 2, 2]  # the same backend as before


def test_set_kernels_refuses_other_names():
    before = minidl.get_kernels()
    with pytest.raises(ValueError, match="got 'slow', expected 'fast', 'exact' or 'plain'"):
        minidl.set_kernels("slow")
    assert minidl.get_kernels() == before


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "fast"), ("", "fast"), *((name,) * 2 for name in ("fast", "exact", "plain"))],
)
def test_the_environment_chooses_the_kernels(value, expected):
    environment = {n: v for n, v in os.environ.items() if n != "MINIDL_KERNELS"}
    if value is not None:
        environment["MINIDL_KERNELS"] = value
    code = "import minidl; print(minidl.get_kernels())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == expected


def test_another_value_in_the_environment_is_refused():
    done = subprocess.run(
        [sys.executable, "-c", "import minidl"],
        cwd=ROOT,
        env=os.environ | {"MINIDL_KERNELS": "slow"},
        capture_output=True,
        text=True,
    )
    assert "MINIDL_KERNELS='slow', expected 'fast', 'exact' or 'plain'" in done.stderr
