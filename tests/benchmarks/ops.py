"""Time single operations, forward and with backward, minidl against a peer.

    python -m tests.benchmarks.ops --peers torch
    python -m tests.benchmarks.ops --peers torch --only conv roi-align roi-align-forward

PyTorch has neither RoI pooling nor deformable convolution: their rows need torchvision.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .contest import Contest, Run, main

Call = Callable[..., Any]
"""Maps the library's functional module, and tensors, to the result."""

Shape = tuple[int, ...]


def contest(
    title: str,
    call: Call,
    *shapes: Shape,
    torch: Call | None = None,
    is_images: bool = False,
    spread: float = 1.0,
    backward: bool = True,
    multiply_adds: int = 0,
    repeats: int = 15,
) -> Contest:
    """Return the contest of one operation, all of whose inputs are differentiated.

    Args:
        title: of the row.
        call: the operation in minidl.
        shapes: of the inputs, which are drawn from a normal distribution.
        torch: the operation in PyTorch, if it is called differently.
        is_images: the first input is channels-last, as a convolution's result is; PyTorch also
            runs with it channels-first, and the faster run counts.
        spread: standard deviation of all inputs after the first.
        backward: whether to time gradients too.
        multiply_adds: of the forward pass, or 0.
        repeats: how often it is timed in one process.
    """
    draw, theirs = partial(drawn, list(shapes), spread), torch or call
    contestants = {
        "minidl": lambda: minidl_run(call, draw(), is_images, backward),
        "torch": lambda: torch_run(theirs, draw(), False, backward),
    }
    if is_images:
        contestants["torch channels_last"] = lambda: torch_run(theirs, draw(), True, backward)
    products = multiply_adds * (3 if backward else 1)
    return Contest(title, contestants, products, repeats, warm_up=min(3, repeats))


def with_forward(
    key: str, call: Call, *shapes: Shape, title: str = "", **options: Any
) -> dict[str, Contest]:
    """Return two contests, by key: of the forward pass alone, and with backward."""
    title = title or key
    return {
        f"{key}-forward": contest(f"{title}, forward", call, *shapes, backward=False, **options),
        key: contest(f"{title}, forward and backward", call, *shapes, **options),
    }


def drawn(shapes: list[Shape], spread: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    first, *others = [rng.standard_normal(shape, np.float32) for shape in shapes]
    return [first, *(array * np.float32(spread) for array in others)]


def channels_last(array: np.ndarray) -> np.ndarray:
    """Return images in the memory order of a convolution's results."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def seventh(array: Any) -> float:
    """Return one value; `ravel` would copy a whole channels-last array, which takes longer."""
    return float(array[np.unravel_index(7, tuple(array.shape))])


def minidl_run(call: Call, arrays: list[np.ndarray], is_last: bool, backward: bool) -> Run:
    from minidl import Tensor, no_grad
    from minidl import functional as F

    if is_last:
        arrays[0] = channels_last(arrays[0])
    tensors = [Tensor.wrap(array).requires_grad_(backward) for array in arrays]
    with no_grad():
        out = call(F, *tensors).data
        seed = np.empty_like(out)  # in the memory order of the output
        seed[...] = drawn([out.shape])[0]

    def forward() -> float:
        with no_grad():
            return seventh(call(F, *tensors).data)

    def both() -> float:
        for x in tensors:
            x.grad = None
        call(F, *tensors).backward(Tensor.wrap(seed))
        return seventh(tensors[0].grad.data)  # type: ignore[union-attr]

    return both if backward else forward


def torch_run(call: Call, arrays: list[np.ndarray], is_last: bool, backward: bool) -> Run:
    import torch
    from torch.nn import functional as F

    tensors = [torch.from_numpy(array) for array in arrays]
    if is_last:
        tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    tensors = [x.requires_grad_(backward) for x in tensors]
    with torch.no_grad():
        out = call(F, *tensors)
        seed = torch.empty_like(out).copy_(torch.from_numpy(drawn([tuple(out.shape)])[0]))

    def forward() -> float:
        with torch.no_grad():
            return seventh(call(F, *tensors))

    def both() -> float:
        for x in tensors:
            x.grad = None
        call(F, *tensors).backward(seed)
        return seventh(tensors[0].grad)

    return both if backward else forward


def in_groups(title: str, images: Shape, weight: Shape, groups: int, **options: int) -> Contest:
    n, c, h, w = images

    def call(f: Any, x: Any, weight: Any) -> Any:
        return f.conv2d(x, weight, groups=groups, **options)

    return contest(f"{title}, {n}x{c}x{h}x{w}", call, images, weight, is_images=True)


def resized(key: str, shape: Shape, **options: Any) -> dict[str, Contest]:
    return with_forward(key, lambda f, x: f.interpolate(x, **options), shape, is_images=True)


def attention(key: str, length: int, **options: Any) -> dict[str, Contest]:
    """Attention of 32 sequences with 4 heads of 32 channels."""
    shapes: list[Shape] = [(32, 4, length, 32)] * 3
    return with_forward(
        key, lambda f, *qkv: f.scaled_dot_product_attention(*qkv, **options), *shapes
    )


def recurrent(kind: str, gates: int) -> dict[str, Contest]:
    """One layer from 128 to 128 channels over 64 sequences of length 40."""
    rows = gates * 128
    shapes: list[Shape] = [(40, 64, 128), (rows, 128), (rows, 128), (rows,), (rows,)]

    def ours(f: Any, x: Any, *weights: Any) -> Any:
        from minidl import zeros

        if kind == "gru":
            return f.gru(x, zeros(64, 128), *weights)
        return f.lstm(x, zeros(64, 128), zeros(64, 128), *weights)[0]

    def theirs(_: Any, x: Any, *weights: Any) -> Any:
        import torch

        zeros = torch.zeros(1, 64, 128)
        start = zeros if kind == "gru" else (zeros, zeros)
        options = (True, 1, 0.0, False, False, False)
        return getattr(torch._VF, kind)(x, start, weights, *options)[0]

    return with_forward(kind, ours, *shapes, torch=theirs, spread=128**-0.5)


def boxes(count: int, images: int, side: float, least: float, most: float) -> np.ndarray:
    """Draw boxes `(count, 5)` on square pictures, of sides from `least` to `most` pixels."""
    rng = np.random.default_rng(1)
    sizes = rng.uniform(least, most, (count, 2))
    corners = rng.uniform(0, 1, (count, 2)) * (side - sizes)
    index = rng.integers(0, images, (count, 1))
    return np.concatenate([index, corners, corners + sizes], 1).astype(np.float32)


def regions(
    key: str, op: str, shape: Shape, found: np.ndarray, *options: Any
) -> dict[str, Contest]:
    def ours(f: Any, x: Any) -> Any:
        return getattr(f, f"{op}2d")(x, found, *options)

    def theirs(_: Any, x: Any) -> Any:
        from torch import from_numpy
        from torchvision import ops

        return getattr(ops, op)(x, from_numpy(found), *options)

    return with_forward(key, ours, shape, torch=theirs, is_images=True, repeats=9)


def deformed(key: str, *shapes: Shape) -> dict[str, Contest]:
    """Convolve 64 channels of 32x32 pixels, 3x3, with offsets of about a pixel."""

    def ours(f: Any, x: Any, offset: Any, weight: Any, mask: Any = None) -> Any:
        return f.deform_conv2d(x, offset, weight, padding=1, mask=mask)

    def theirs(_: Any, *tensors: Any) -> Any:
        from torchvision import ops

        return ours(ops, *tensors)

    shapes = ((8, 64, 32, 32), (8, 18, 32, 32), (64, 64, 3, 3), *shapes)
    return with_forward(key, ours, *shapes, torch=theirs, is_images=True, repeats=3)


IMAGES, MAPS = (64, 64, 32, 32), (16, 64, 32, 32)
SMALL, LARGE = boxes(512, 4, 256, 16, 128), boxes(256, 2, 800, 32, 400)

CONTESTS = {
    **with_forward(
        "conv",
        lambda f, x, w, b: f.conv2d(x, w, b, padding=1),
        IMAGES,
        (64, 64, 3, 3),
        (64,),
        title="conv 64->64, 3x3, pad 1, 64x64x32x32",
        multiply_adds=64 * 64 * 64 * 9 * 1024,
    ),
    "conv-first": contest(
        "conv 3->32, 3x3, 64x3x32x32",
        lambda f, x, w, b: f.conv2d(x, w, b),
        (64, 3, 32, 32),
        (32, 3, 3, 3),
        (32,),
        multiply_adds=64 * 900 * 864,
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
        multiply_adds=256 * 1024**2,
    ),
    **resized("nearest-2", MAPS, scale_factor=2, mode="nearest"),
    **resized("bilinear-2", MAPS, scale_factor=2, mode="bilinear"),
    **resized("bicubic-2", MAPS, scale_factor=2, mode="bicubic"),
    **resized("bilinear-8", (16, 64, 8, 8), size=(64, 64), mode="bilinear"),
    **resized("bilinear-large", (4, 16, 128, 128), scale_factor=2, mode="bilinear"),
    **attention("attention-64", 64),
    **attention("attention-128", 128),
    **attention("attention-causal", 128, is_causal=True),
    **recurrent("gru", 3),
    **recurrent("lstm", 4),
    **regions("roi-pool", "roi_pool", (4, 64, 32, 32), SMALL, 7, 1 / 8),
    **regions("roi-align", "roi_align", (4, 64, 32, 32), SMALL, 7, 1 / 8, 2, True),
    **regions("roi-pool-large", "roi_pool", (2, 256, 50, 50), LARGE, 7, 1 / 16),
    **regions("roi-align-large", "roi_align", (2, 256, 50, 50), LARGE, 7, 1 / 16, 2, True),
    **deformed("deform"),
    **deformed("deform-masked", (8, 9, 32, 32)),
}

if __name__ == "__main__":
    main("tests.benchmarks.ops", __doc__.split("\n")[0], CONTESTS)
