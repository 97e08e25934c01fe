"""Time single operations, forward and backward, minidl against a peer.

python -m tests.benchmarks.ops --peers torch
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .contest import Contest, Run, main

Call = Callable[..., Any]
"""Maps the library's functional module, and tensors, to the result."""


def drawn(shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def minidl_run(call: Call, shapes: list[tuple[int, ...]], backward: bool) -> Run:
    from minidl import Tensor, no_grad
    from minidl import functional as F

    tensors = [Tensor(a, requires_grad=backward) for a in drawn(shapes)]
    with no_grad():
        seed = Tensor(drawn([call(F, *tensors).shape])[0])

    def forward() -> float:
        with no_grad():
            return float(call(F, *tensors).data.ravel()[7])

    def both() -> float:
        for x in tensors:
            x.grad = None
        call(F, *tensors).backward(seed)
        return float(tensors[0].grad.data.ravel()[7])  # type: ignore[union-attr]

    return both if backward else forward


def torch_run(call: Call, shapes: list[tuple[int, ...]], backward: bool) -> Run:
    import torch
    from torch.nn import functional as F

    tensors = [torch.from_numpy(a).requires_grad_(backward) for a in drawn(shapes)]
    with torch.no_grad():
        seed = torch.from_numpy(drawn([tuple(call(F, *tensors).shape)])[0])

    def forward() -> float:
        with torch.no_grad():
            return float(call(F, *tensors).flatten()[7])

    def both() -> float:
        for x in tensors:
            x.grad = None
        call(F, *tensors).backward(seed)
        return float(tensors[0].grad.flatten()[7])

    return both if backward else forward


def contest(
    title: str,
    call: Call,
    *shapes: tuple[int, ...],
    backward: bool = True,
    macs: int = 0,
    repeats: int = 15,
) -> Contest:
    contestants = {
        "minidl": lambda: minidl_run(call, list(shapes), backward),
        "torch": lambda: torch_run(call, list(shapes), backward),
    }
    return Contest(title, contestants, macs, repeats, warm_up=min(3, repeats))


def in_groups(
    title: str, images: tuple[int, ...], weight: tuple[int, ...], groups: int, **options: int
) -> Contest:
    """Convolve channels-last images, which is what a convolution before this one returns."""
    n, c, h, w = images

    def call(f: Any, x: Any, weight: Any) -> Any:
        last = x.permute(0, 3, 1, 2) if hasattr(x, "permute") else x.transpose(0, 3, 1, 2)
        return f.conv2d(last, weight, groups=groups, **options)

    return contest(f"{title}, {n}x{c}x{h}x{w}", call, (n, h, w, c), weight)


IMAGES = (64, 64, 32, 32)
PRODUCTS = 64 * 64 * 64 * 9 * 1024  # of the large convolution, forward

CONTESTS = {
    "conv": contest(
        "conv 64->64, 3x3, pad 1, 64x64x32x32",
        lambda f, x, w, b: f.conv2d(x, w, b, padding=1),
        IMAGES,
        (64, 64, 3, 3),
        (64,),
        macs=3 * PRODUCTS,
    ),
    "conv-forward": contest(
        "the same, forward only",
        lambda f, x, w, b: f.conv2d(x, w, b, padding=1),
        IMAGES,
        (64, 64, 3, 3),
        (64,),
        backward=False,
        macs=PRODUCTS,
    ),
    "conv-first": contest(
        "conv 3->32, 3x3, 64x3x32x32",
        lambda f, x, w, b: f.conv2d(x, w, b),
        (64, 3, 32, 32),
        (32, 3, 3, 3),
        (32,),
        macs=3 * 64 * 900 * 864,
    ),
    "depthwise-3": in_groups("depthwise conv 3x3", (16, 64, 32, 32), (64, 1, 3, 3), 64, padding=1),
    "depthwise-2": in_groups(
        "the same, stride 2", (16, 64, 56, 56), (64, 1, 3, 3), 64, padding=1, stride=2
    ),
    "depthwise-double": in_groups(
        "the same, two kernels per channel", (16, 64, 32, 32), (128, 1, 3, 3), 64, padding=1
    ),
    "depthwise-14": in_groups(
        "the same, 512 channels", (16, 512, 14, 14), (512, 1, 3, 3), 512, padding=1
    ),
    "depthwise-7": in_groups("depthwise conv 7x7", (16, 96, 28, 28), (96, 1, 7, 7), 96, padding=3),
    "groups-4": in_groups(
        "conv 3x3, groups of 4 channels", (16, 128, 28, 28), (128, 4, 3, 3), 32, padding=1
    ),
    "groups-8": in_groups(
        "conv 3x3, groups of 8 channels", (16, 64, 32, 32), (64, 8, 3, 3), 8, padding=1
    ),
    "groups-32": in_groups(
        "conv 3x3, groups of 32 channels", (16, 64, 32, 32), (64, 32, 3, 3), 2, padding=1
    ),
    "large-image": contest(
        "conv 3->8, 7x7, pad 3, 1x3x2048x2048",
        lambda f, x, w: f.conv2d(x, w, padding=3),
        (1, 3, 2048, 2048),
        (8, 3, 7, 7),
        repeats=2,
    ),
    "max-2": contest("max pool 2x2, 64x64x32x32", lambda f, x: f.max_pool2d(x, 2), IMAGES),
    "max-3": contest(
        "max pool 3x3, stride 2, pad 1", lambda f, x: f.max_pool2d(x, 3, 2, 1), IMAGES
    ),
    "avg-2": contest("average pool 2x2", lambda f, x: f.avg_pool2d(x, 2), IMAGES),
    "batch-norm": contest(
        "batch norm, training, 64x64x32x32",
        lambda f, x, w, b: f.batch_norm(x, None, None, w, b, training=True),
        IMAGES,
        (64,),
        (64,),
    ),
    "relu": contest("ReLU", lambda f, x: f.relu(x), IMAGES),
    "linear": contest(
        "linear 1024->1024, batch 256",
        lambda f, x, w, b: f.linear(x, w, b),
        (256, 1024),
        (1024, 1024),
        (1024,),
        macs=3 * 256 * 1024**2,
    ),
}

if __name__ == "__main__":
    main("tests.benchmarks.ops", __doc__.split("\n")[0], CONTESTS)
