"""Whole training steps give the same bits on 1, 2 and 5 threads.

The networks are small. So that they are cut into many slices, computed side by side and updated in
slices all the same, the sizes from which this is done are smaller here than they are by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import minidl
from minidl import Tensor, models, nn, optim
from minidl import functional as F
from minidl.backends.cpu import numpy_backend, threads
from minidl.optim import optimizer

from .test_winograd import winograd_wherever_possible

COUNTS = (1, 2, 5)


def cnn(rng: np.random.Generator) -> nn.Module:
    """Like chapter 7's network; its first linear layer's products are split in blocks."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, rng=rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 40, 3, rng=rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(40, 40, 3, padding=1, rng=rng),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(40 * 6 * 6, 800, rng=rng),
        nn.ReLU(),
        nn.Dropout(0.5, rng=rng),
        nn.Linear(800, 10, rng=rng),
    )


def residual(rng: np.random.Generator) -> nn.Module:
    """Blocks with batch norm, of one shape and with a projection."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False, rng=rng),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        models.resnet.BasicBlock(16, 16, rng=rng),
        models.resnet.BasicBlock(16, 40, 2, rng=rng),
        nn.GlobalAvgPool(),
        nn.Linear(40, 10, rng=rng),
    )


def sentences(rng: np.random.Generator) -> nn.Module:
    return models.TextCNN(2000, 64, 40, num_classes=10, rng=rng)


def images(rng: np.random.Generator) -> Tensor:
    return Tensor(rng.standard_normal((32, 3, 32, 32), np.float32))


def small_images(rng: np.random.Generator) -> Tensor:
    return Tensor(rng.standard_normal((16, 3, 14, 18), np.float32))


def words(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 2000, (24, 20))


Draw = Callable[[np.random.Generator], object]
RUNS: dict[str, tuple[Draw, Draw, Callable[..., optim.Optimizer]]] = {
    "CIFAR-10 CNN, Adam": (cnn, images, optim.Adam),
    "residual blocks, SGD": (residual, small_images, lambda p: optim.SGD(p, 0.1, momentum=0.9)),
    "TextCNN, AdamW": (sentences, words, optim.AdamW),
}


@contextmanager
def many_slices(count: int) -> Iterator[list[int]]:
    """Use this many threads and small slices; yield the numbers of slices that are shared."""
    before, shared, share = minidl.get_num_threads(), [], threads.share

    def noted(parts, work):
        shared.append(len(parts))
        share(parts, work)

    minidl.set_num_threads(count)
    try:
        with winograd_wherever_possible(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(numpy_backend, "CACHE_BYTES", 2**16)
            patch.setattr(numpy_backend, "SPLIT_PRODUCTS", 0)
            patch.setattr(optimizer, "SMALL", 2**12)
            patch.setattr(numpy_backend, "share", noted)
            patch.setattr(threads, "share", noted)
            yield shared
    finally:
        minidl.set_num_threads(before)


def trained(name: str, steps: int = 2) -> dict[str, np.ndarray]:
    """Train for a few steps; return losses, and every parameter, buffer and gradient."""
    build, draw, rule = RUNS[name]
    rng = np.random.default_rng(0)
    model, x, labels = build(rng), draw(rng), rng.integers(0, 10, 100)
    optimiser, losses = rule(model.parameters()), []
    for _ in range(steps):
        loss = F.cross_entropy(model(x), labels[: len(x)])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    found = {f"{key}.grad": p.grad.numpy() for key, p in model.named_parameters()}
    return found | model.state_dict() | {"losses": np.array(losses)}


@pytest.mark.parametrize("name", RUNS)
def test_training_steps_give_the_same_bits_on_any_number_of_threads(name):
    found = {}
    for count in COUNTS:
        with many_slices(count) as shared:
            found[count] = trained(name)
        assert len(shared) > 30  # so that there is something to go wrong
        assert max(shared) > count
    first = found[1]
    assert np.isfinite(first["losses"]).all()
    for count in COUNTS[1:]:
        assert first.keys() == found[count].keys()
        differ = [key for key in first if first[key].tobytes() != found[count][key].tobytes()]
        assert not differ, f"{count} threads"


def test_small_slices_change_results_only_by_rounding():
    """That they change at all shows that the sums are in slices."""
    name = "residual blocks, SGD"
    with winograd_wherever_possible():
        whole = trained(name, 1)
    with many_slices(2):
        sliced = trained(name, 1)
    apart = [key for key in whole if not np.array_equal(whole[key], sliced[key])]
    assert any(key.endswith(".grad") for key in apart)
    for key in whole:
        scale = np.abs(whole[key]).max()
        np.testing.assert_allclose(sliced[key], whole[key], rtol=0, atol=1e-4 * scale, err_msg=key)
