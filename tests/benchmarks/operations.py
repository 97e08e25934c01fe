"""Time operations beyond classification, forward and with backward, minidl against PyTorch.

    python -m tests.benchmarks.operations --peers torch --rounds 7 --threads 2

A row is an entry of `CASES`. Each library and variant of PyTorch runs in processes of its own, in
turn, and the peak memory is that of its process. RoI pooling and deformable convolution are
torchvision's, which PyTorch lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .contest import Contest, Run, main

Arrays = list[np.ndarray]
Call = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """One operation in both libraries.

    Attributes:
        minidl: returns, in minidl's processes, a function of tensors.
        torch: the same for PyTorch's.
        arrays: draws the function's inputs, all of which are differentiated.
        is_images: whether PyTorch also runs with the first input as channels_last.
        repeats: how often it is timed in one process.
    """

    minidl: Callable[[], Call]
    torch: Callable[[], Call]
    arrays: Callable[[], Arrays]
    is_images: bool = False
    repeats: int = 15


def drawn(*shapes: tuple[int, ...]) -> Arrays:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def channels_last(array: np.ndarray) -> np.ndarray:
    """Return images in the memory order of a convolution's results."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def minidl_run(case: Case, is_last: bool, backward: bool) -> Run:
    from minidl import Tensor, no_grad

    call, arrays = case.minidl(), case.arrays()
    if is_last:
        arrays[0] = channels_last(arrays[0])
    tensors = [Tensor.wrap(array).requires_grad_(backward) for array in arrays]
    with no_grad():
        seed = Tensor(drawn(call(*tensors).shape)[0])

    def forward() -> float:
        with no_grad():
            return float(call(*tensors).data.ravel()[7])

    def both() -> float:
        for x in tensors:
            x.grad = None
        call(*tensors).backward(seed)
        return float(tensors[0].grad.data.ravel()[7])  # type: ignore[union-attr]

    return both if backward else forward


def torch_run(case: Case, is_last: bool, backward: bool) -> Run:
    import torch

    call, tensors = case.torch(), [torch.from_numpy(array) for array in case.arrays()]
    if is_last:
        tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    tensors = [x.requires_grad_(backward) for x in tensors]
    with torch.no_grad():
        seed = torch.from_numpy(drawn(tuple(call(*tensors).shape))[0])

    def forward() -> float:
        with torch.no_grad():
            return float(call(*tensors).flatten()[7])

    def both() -> float:
        for x in tensors:
            x.grad = None
        call(*tensors).backward(seed)
        return float(tensors[0].grad.flatten()[7])

    return both if backward else forward


def contests(cases: dict[str, Case]) -> dict[str, Contest]:
    """Return two contests for each case: forward alone, and forward with backward."""
    found = {}
    for name, case in cases.items():
        for backward in (False, True):
            contestants = {"minidl": run_of(minidl_run, case, case.is_images, backward)}
            contestants["torch"] = run_of(torch_run, case, False, backward)
            if case.is_images:
                contestants["torch channels_last"] = run_of(torch_run, case, True, backward)
            key = name if backward else f"{name}-forward"
            title = f"{name}, forward{' and backward' if backward else ''}"
            found[key] = Contest(title, contestants, repeats=case.repeats, warm_up=3)
    return found


def run_of(run: Callable[..., Run], *arguments: Any) -> Callable[[], Run]:
    return lambda: run(*arguments)


# Resampling -----------------------------------------------------------------------------------


def resizing(shape: tuple[int, ...], **options: Any) -> Case:
    def ours() -> Call:
        from minidl import functional as F

        return lambda x: F.interpolate(x, **options)

    def theirs() -> Call:
        from torch.nn import functional as F

        return lambda x: F.interpolate(x, **options)

    return Case(ours, theirs, lambda: drawn(shape), is_images=True)


# Sequences ------------------------------------------------------------------------------------


def attention(length: int, **options: Any) -> Case:
    """Attention of 32 sequences with 4 heads of 32 channels."""

    def ours() -> Call:
        from minidl import functional as F

        return lambda *qkv: F.scaled_dot_product_attention(*qkv, **options)

    def theirs() -> Call:
        from torch.nn import functional as F

        return lambda *qkv: F.scaled_dot_product_attention(*qkv, **options)

    return Case(ours, theirs, lambda: drawn(*[(32, 4, length, 32)] * 3))


def recurrent(kind: str, gates: int) -> Case:
    """One layer from 128 to 128 channels over 64 sequences of length 40."""
    rows = gates * 128
    shapes: list[tuple[int, ...]] = [(40, 64, 128), (rows, 128), (rows, 128), (rows,), (rows,)]

    def arrays() -> Arrays:
        x, *weights = drawn(*shapes)
        return [x, *(weight * np.float32(128**-0.5) for weight in weights)]

    def ours() -> Call:
        from minidl import functional as F
        from minidl import zeros

        start = [zeros(64, 128)] * (gates - 2)
        states = (lambda out: out) if gates == 3 else (lambda out: out[0])
        return lambda x, *weights: states(getattr(F, kind)(x, *start, *weights))

    def theirs() -> Call:
        import torch

        zeros = torch.zeros(1, 64, 128)
        start: Any = zeros if gates == 3 else (zeros, zeros)
        options = (True, 1, 0.0, False, False, False)
        return lambda x, *weights: getattr(torch._VF, kind)(x, start, weights, *options)[0]

    return Case(ours, theirs, arrays)


# Regions --------------------------------------------------------------------------------------


def boxes(count: int, images: int, side: float, least: float, most: float) -> np.ndarray:
    """Draw boxes `(count, 5)` on square pictures, of sides from `least` to `most` pixels."""
    rng = np.random.default_rng(1)
    sizes = rng.uniform(least, most, (count, 2))
    corners = rng.uniform(0, 1, (count, 2)) * (side - sizes)
    index = rng.integers(0, images, (count, 1))
    return np.concatenate([index, corners, corners + sizes], 1).astype(np.float32)


def regions(name: str, shape: tuple[int, ...], found: np.ndarray, *options: Any) -> Case:
    def ours() -> Call:
        from minidl import functional as F

        pool = {"pool": F.roi_pool2d, "align": F.roi_align2d}[name]
        return lambda x: pool(x, found, *options)

    def theirs() -> Call:
        import torch
        from torchvision import ops

        pool = {"pool": ops.roi_pool, "align": ops.roi_align}[name]
        return lambda x: pool(x, torch.from_numpy(found), *options)

    return Case(ours, theirs, lambda: drawn(shape), is_images=True, repeats=9)


def deformed(is_masked: bool) -> Case:
    """Convolve 64 channels of 32x32 pixels, 3x3, with offsets of about a pixel."""
    shapes = [(8, 64, 32, 32), (8, 18, 32, 32), (64, 64, 3, 3), (8, 9, 32, 32)]

    def ours() -> Call:
        from minidl import functional as F

        return lambda x, offset, weight, mask=None: F.deform_conv2d(
            x, offset, weight, padding=1, mask=mask
        )

    def theirs() -> Call:
        from torchvision import ops

        return lambda x, offset, weight, mask=None: ops.deform_conv2d(
            x, offset, weight, padding=1, mask=mask
        )

    shapes = shapes if is_masked else shapes[:3]
    return Case(ours, theirs, lambda: drawn(*shapes), is_images=True, repeats=3)


SMALL, LARGE = boxes(512, 4, 256, 16, 128), boxes(256, 2, 800, 32, 400)
MAPS = (16, 64, 32, 32)

CASES: dict[str, Case] = {
    "nearest-2": resizing(MAPS, scale_factor=2, mode="nearest"),
    "bilinear-2": resizing(MAPS, scale_factor=2, mode="bilinear"),
    "bicubic-2": resizing(MAPS, scale_factor=2, mode="bicubic"),
    "bilinear-8": resizing((16, 64, 8, 8), size=(64, 64), mode="bilinear"),
    "bilinear-large": resizing((4, 16, 128, 128), scale_factor=2, mode="bilinear"),
    "attention-64": attention(64),
    "attention-128": attention(128),
    "attention-causal": attention(128, is_causal=True),
    "gru": recurrent("gru", 3),
    "lstm": recurrent("lstm", 4),
    "roi-pool": regions("pool", (4, 64, 32, 32), SMALL, 7, 1 / 8),
    "roi-align": regions("align", (4, 64, 32, 32), SMALL, 7, 1 / 8, 2, True),
    "roi-pool-large": regions("pool", (2, 256, 50, 50), LARGE, 7, 1 / 16),
    "roi-align-large": regions("align", (2, 256, 50, 50), LARGE, 7, 1 / 16, 2, True),
    "deform": deformed(is_masked=False),
    "deform-masked": deformed(is_masked=True),
}
CONTESTS = contests(CASES)

if __name__ == "__main__":
    main("tests.benchmarks.operations", __doc__.split("\n")[0], CONTESTS)
