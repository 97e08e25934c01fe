"""Time whole training steps (forward, backward, update), minidl against a peer.

    python -m tests.benchmarks.step --peers torch --against CHECKOUT --rounds 7 --threads 1 2

W1 is the CIFAR-10 CNN of chapter 7, W2 a wider one with padding and global pooling, W3 a TextCNN,
R20 the ResNet-20 of chapter 10, R50 one step of fine-tuning a frozen ResNet-50 with a new head.
PyTorch runs as it is by default, with images as channels_last (where there are images), with its
fused optimiser, and with both. `--compile` adds the last two compiled by `torch.compile`.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .contest import Contest, Run, main

BATCH = 64


def cifar10_cnn(nn: Any) -> Any:
    """Build the network of chapter 7 of the layers of `nn`: minidl's, or PyTorch's."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def torch_net() -> Any:
    from torch import nn

    return cifar10_cnn(nn)


def wide_cnn(nn: Any) -> Any:
    """Build W2; what minidl calls GlobalAvgPool takes two layers of PyTorch's."""
    if hasattr(nn, "GlobalAvgPool"):
        pooled = [nn.GlobalAvgPool()]
    else:
        pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        *pooled,
        nn.Linear(128, 10),
    )


WORDS, LENGTH, WIDTH, FILTERS, SENTENCES = 20_000, 56, 128, 100, 50


def text_cnn(nn: Any, functional: Any, concatenate: Callable[..., Any]) -> Any:
    """Build W3: filters over 3, 4 and 5 words, each one's strongest response, and one layer."""

    class TextCNN(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(WORDS, WIDTH)
            self.conv3 = nn.Conv2d(1, FILTERS, (3, WIDTH))
            self.conv4 = nn.Conv2d(1, FILTERS, (4, WIDTH))
            self.conv5 = nn.Conv2d(1, FILTERS, (5, WIDTH))
            self.linear = nn.Linear(3 * FILTERS, 2)

        def forward(self, words: Any) -> Any:
            images = self.embedding(words).reshape(-1, 1, LENGTH, WIDTH)
            found = []
            for conv in (self.conv3, self.conv4, self.conv5):
                responses = functional.relu(conv(images))  # (n, filters, positions, 1)
                strongest = functional.max_pool2d(responses, (responses.shape[2], 1))
                found.append(strongest.reshape(-1, FILTERS))
            return self.linear(concatenate(found, 1))

    return TextCNN()


def weights(model: Any) -> dict[str, np.ndarray]:
    """Draw weights, the same for both libraries: their names and shapes are equal."""
    rng = np.random.default_rng(1)
    found = {}
    for name, p in model.named_parameters():
        shape = tuple(p.shape)
        spread = 1.0 if "embedding" in name else 1 / math.sqrt(math.prod(shape[1:]))
        found[name] = rng.uniform(-spread, spread, shape).astype(np.float32)
    return found


def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((BATCH, 3, 32, 32), np.float32), rng.integers(0, 10, BATCH)


def sentences() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, WORDS, (SENTENCES, LENGTH)), rng.integers(0, 2, SENTENCES)


Build = Callable[..., Any]
Batch = Callable[[], tuple[np.ndarray, np.ndarray]]


Work = tuple[Any, Any, np.ndarray, np.ndarray]
"""A model, its optimiser, and a batch: inputs and labels."""


def minidl_work(build: Build, batch: Batch, rule: str, options: dict[str, float]) -> Work:
    import minidl
    from minidl import functional as F
    from minidl import nn, optim

    model = build(nn, F, minidl.concatenate) if build is text_cnn else build(nn)
    model.load_state_dict(weights(model))
    return model, getattr(optim, rule)(model.parameters(), **options), *batch()


def torch_work(build: Build, batch: Batch, rule: str, options: dict[str, float]) -> Work:
    import torch
    from torch.nn import functional as F

    model = build(torch.nn, F, torch.cat) if build is text_cnn else build(torch.nn)
    model.load_state_dict({name: torch.from_numpy(w) for name, w in weights(model).items()})
    return model, getattr(torch.optim, rule)(model.parameters(), **options), *batch()


def minidl_steps(work: Work) -> Run:
    import minidl
    from minidl import functional as F

    model, optimiser, inputs, labels = work

    def step() -> float:
        loss = F.cross_entropy(model(minidl.Tensor(inputs)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.item())

    return step


def torch_steps(work: Work) -> Run:
    import torch
    from torch.nn import functional as F

    model, optimiser, *arrays = work
    inputs, labels = (torch.from_numpy(array) for array in arrays)

    def step() -> float:
        loss = F.cross_entropy(model(inputs), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.item())

    return step


def minidl_step(*arguments: Any) -> Run:
    return minidl_steps(minidl_work(*arguments))


def torch_step(*arguments: Any) -> Run:
    return torch_steps(torch_work(*arguments))


# Variants of PyTorch's ------------------------------------------------------------------------


def channels_last(work: Work) -> Work:
    import torch

    model, optimiser, inputs, labels = work
    inputs = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return model.to(memory_format=torch.channels_last), optimiser, inputs, labels


def fused(work: Work) -> Work:
    """Use PyTorch's fused optimiser; its foreach one where the CPU has none."""
    model, optimiser, *batch = work
    parameters, options = optimiser.param_groups[0]["params"], optimiser.defaults
    try:
        optimiser = type(optimiser)(parameters, **{**options, "fused": True})
    except (RuntimeError, TypeError) as error:
        print(f"foreach, because of fused: {error}", file=sys.stderr)
        optimiser = type(optimiser)(parameters, **{**options, "foreach": True})
    return model, optimiser, *batch


def compiled(work: Work) -> Work:
    import torch

    model, *rest = work
    return torch.compile(model), *rest


Change = Callable[[Work], Work]
VARIANTS: dict[str, tuple[Change, ...]] = {
    "torch": (),
    "torch channels_last": (channels_last,),
    "torch fused": (fused,),
    "torch channels_last fused": (channels_last, fused),
    "torch compile fused": (fused, compiled),
    "torch compile channels_last fused": (channels_last, fused, compiled),
}


def torch_variant(prepare: Callable[[], Work], changes: tuple[Change, ...]) -> Run:
    return torch_steps(functools.reduce(lambda work, change: change(work), changes, prepare()))


def torch_variants(prepare: Callable[[], Work], has_images: bool) -> dict[str, Callable[[], Run]]:
    """Return a contestant for each variant that makes sense."""
    return {
        name: functools.partial(torch_variant, prepare, changes)
        for name, changes in VARIANTS.items()
        if has_images or channels_last not in changes
    }


# Residual networks ----------------------------------------------------------------------------

HEAD = (2048, 1024, 10)


def drawn(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, 3, side, side), np.float32), rng.integers(0, 10, count)


def minidl_residual(which: str) -> Work:
    """Train ResNet-20, or a new head on a frozen ResNet-50."""
    from minidl import models, nn, optim

    from ..reference.resnet import weights as seeded

    if which == "R20":
        model: Any = models.resnet20()
    else:
        model = models.resnet50().requires_grad_(False)
        first, hidden, last = HEAD
        model.replace_head(
            nn.Sequential(nn.Linear(first, hidden), nn.ReLU(), nn.Linear(hidden, last))
        )
    model.load_state_dict(seeded({name: a.shape for name, a in model.state_dict().items()}))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = optim.SGD(trained, **SGD) if which == "R20" else optim.Adam(trained)
    return model, optimiser, *drawn(*RESIDUAL[which])


def torch_residual(which: str) -> Work:
    """Do the same with PyTorch, frozen batch norm in evaluation too."""
    import torch
    from torch import nn

    from ..reference import torch_resnet
    from ..reference.resnet import weights as seeded

    if which == "R20":
        model: Any = torch_resnet.ResNet20()
    else:
        model = torch_resnet.ResNet50().requires_grad_(False).eval()
        first, hidden, last = HEAD
        model.fc = nn.Sequential(nn.Linear(first, hidden), nn.ReLU(), nn.Linear(hidden, last))
    state = seeded({name: tuple(value.shape) for name, value in model.state_dict().items()})
    torch_resnet.load(model, state)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, **SGD) if which == "R20" else torch.optim.Adam(trained)
    return model, optimiser, *drawn(*RESIDUAL[which])


RESIDUAL = {"R20": (128, 32), "R50": (16, 224)}  # images, and their side in pixels
SGD: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}


def residual(title: str, which: str, multiply_adds: int, repeats: int, tol: float) -> Contest:
    contestants = {
        "minidl": lambda: minidl_steps(minidl_residual(which)),
        **torch_variants(functools.partial(torch_residual, which), has_images=True),
    }
    return Contest(title, contestants, multiply_adds, repeats, warm_up=3, tol=tol)


def contest(title: str, *arguments: Any, multiply_adds: int, repeats: int) -> Contest:
    prepare = functools.partial(torch_work, *arguments)
    contestants = {
        "minidl": lambda: minidl_step(*arguments),
        **torch_variants(prepare, has_images=pictures in arguments),
    }
    return Contest(title, contestants, multiply_adds, repeats)


NETWORKS: dict[str, tuple[Build, Batch, str, dict[str, float]]] = {
    "W1": (cifar10_cnn, pictures, "Adam", {"lr": 1e-3}),
    "W2": (wide_cnn, pictures, "SGD", {"lr": 0.01, "momentum": 0.9}),
    "W3": (text_cnn, sentences, "Adam", {"lr": 1e-3}),
}

# Multiply-adds: three products for each weight used (forward, and either gradient), but two in the
# first convolution, whose images need no gradient.
CONTESTS = {
    "W1": contest(
        "W1 CIFAR-10 CNN, Adam",
        *NETWORKS["W1"],
        multiply_adds=BATCH
        * (2 * 900 * 864 + 3 * 169 * 18_432 + 3 * 16 * 36_864 + 3 * (65_536 + 640)),
        repeats=40,
    ),
    "W2": contest(
        "W2 wide CNN, SGD with momentum",
        *NETWORKS["W2"],
        multiply_adds=BATCH
        * (2 * 1024 * 1728 + 3 * 1024 * 36_864 + 3 * 256 * (73_728 + 147_456) + 3 * 1280),
        repeats=10,
    ),
    "W3": contest(
        "W3 TextCNN, Adam",
        *NETWORKS["W3"],
        multiply_adds=SENTENCES * 3 * FILTERS * WIDTH * (54 * 3 + 53 * 4 + 52 * 5),
        repeats=25,
    ),
    # 40.6 and 4,089 million for one image, once: the latter is not differentiated.
    "R20": residual("R20 ResNet-20, SGD", "R20", 128 * 3 * 40_551_040, 10, 1e-3),
    "R50": residual("R50 frozen ResNet-50, Adam", "R50", 16 * 4_089_184_256, 3, 1e-3),
}

if __name__ == "__main__":
    main("tests.benchmarks.step", __doc__.split("\n")[0], CONTESTS)
