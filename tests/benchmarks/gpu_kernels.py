"""Sections of `gpu.py`: copies, and each kernel of kernels.cu against its generic form."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

import minidl
from minidl import optim
from minidl.backends import Backend, Windows, backend_for
from minidl.backends.cuda.setup import choices

from .gpu_timing import Lab


def copies(lab: Lab) -> None:
    """Measure copies within the device's memory, and to it and back."""
    for size in [2**16] if lab.is_dry else [2**22, 2**26, 2**28]:
        rate = copy_rate(lab, size)
        lab.emit(what="within the device", MiB=size / 2**20, GB_per_s=rate / 1e9)
    backend, host = backend_for(lab.device), np.ones(2**14 if lab.is_dry else 2**24, np.float32)
    there = backend.from_numpy(host)
    for what, work in (
        ("to the device", lambda: backend.from_numpy(host)),
        ("to the host", lambda: backend.to_numpy(there)),
    ):
        rate = host.nbytes / lab.seconds_of(work)
        lab.emit(what=what, MiB=host.nbytes / 2**20, GB_per_s=rate / 1e9)


def copy_rate(lab: Lab, size: int) -> float:
    """Return how many bytes a copy between two arrays of `size` bytes reads and writes a second."""
    backend = backend_for(lab.device)
    source, target = (backend.from_numpy(np.ones(size // 4, np.float32)) for _ in range(2))

    def copy() -> None:
        target[...] = source

    return 2 * size / lab.seconds_of(copy)


@dataclass
class Case:
    """A kernel with arguments.

    Attributes:
        kernel: its name in kernels.cu.
        run: calls it.
        generic: does the same without it.
        moved: bytes of all inputs and outputs, each once.
    """

    kernel: str
    run: Callable[[], Any]
    generic: Callable[[], Any]
    moved: int


def kernels(lab: Lab) -> None:
    """Time all kernels, their generic forms, and a copy of as many bytes."""
    built = cases(lab)
    for name in lab.in_time(list(built)):
        case = built[name]()
        seconds = lab.seconds_of(case.run)
        row: dict[str, Any] = {"kernel": name, "ms": 1e3 * seconds}
        try:
            generic = lab.seconds_of(case.generic)
            row |= {"generic ms": 1e3 * generic, "kernel / generic": seconds / generic}
        except Exception as error:
            row |= {"generic ms": f"fails: {error!r:.80}", "kernel / generic": ""}
        rate, copied = case.moved / seconds, copy_rate(lab, max(case.moved // 2, 64))
        row |= {"GB_per_s": rate / 1e9, "copy GB_per_s": copied / 1e9, "of copy": rate / copied}
        lab.emit(**row)


def cases(lab: Lab) -> dict[str, Callable[[], Case]]:
    """Return what makes each kernel's case, by name."""
    n = 2 if lab.is_dry else 64
    found = {name: lambda name=name: _windowed(lab, name, n) for name in WINDOWED}
    found |= {name: lambda name=name: _elementwise(lab, name, n) for name in ("gated", "bias_relu")}
    found["index_add"] = lambda: _index_add(lab, False)
    found["index_add_in_order"] = lambda: _index_add(lab, True)
    return found | {name: lambda name=name: _rule(lab, name) for name in RULES}


WINDOWED = (
    *("gather_windows", "scatter_windows", "sum_windows", "spread_windows"),
    *("max_windows", "scatter_winners", "gather_winners"),
)
RULES = {"sgd": ("SGD", {"momentum": 0.9}), "adam": ("Adam", {}), "rmsprop": ("RMSprop", {})}


def _windowed(lab: Lab, name: str, n: int) -> Case:
    """A kernel over windows of 3x3 pixels (2x2 with stride 2 if they have winners)."""
    backend: Any = backend_for(lab.device)
    has_winners = "win" in name.replace("windows", "") or name == "max_windows"
    geometry = (2, 2, 2, 2) if has_winners else (3, 3)
    pads = {} if has_winners else {"top": 1, "bottom": 1, "left": 1, "right": 1}
    w = Windows(32, 32, *geometry, **pads)
    images = _images(backend, (n, 64, 32, 32))
    small = _images(backend, (n, 64, w.out_h, w.out_w))
    winners = backend.max_windows(images, w)[1]
    arguments: dict[str, tuple[Any, ...]] = {
        "scatter_windows": (backend.gather_windows(images, w), w),
        "spread_windows": (small, w),
        "scatter_winners": (small, winners, w),
        "gather_winners": (images, winners, w),
    }
    given = arguments.get(name, (images, w))
    result = getattr(backend, name)(*given)
    arrays = [a for a in given if a is not w] + list(
        result if isinstance(result, tuple) else [result]
    )
    moved = sum(array.nbytes for array in arrays)
    return Case(
        name,
        lambda: getattr(backend, name)(*given),
        lambda: getattr(Backend, name)(backend, *given),
        moved,
    )


def _images(backend: Any, shape: tuple[int, ...]) -> Any:
    """Return channels-last images, as a convolution returns them."""
    n, c, h, w = shape
    pixels = np.random.default_rng(0).standard_normal((n, h, w, c), np.float32)
    return backend.from_numpy(pixels).transpose(0, 3, 1, 2)


def _elementwise(lab: Lab, name: str, n: int) -> Case:
    backend: Any = backend_for(lab.device)
    images, x = (_images(backend, (n, 64, 32, 32)) for _ in range(2))
    if name == "gated":
        return Case(
            name,
            lambda: backend.gated(images, x),
            lambda: Backend.gated(backend, images, x),
            3 * x.nbytes,
        )
    bias = backend.from_numpy(np.ones(64, np.float32))
    return Case(
        name,
        lambda: backend.finish(images, bias, True),
        lambda: Backend.finish(backend, images, bias, True),
        2 * x.nbytes,
    )


def _index_add(lab: Lab, in_order: bool) -> Case:
    """Add gradients of the words of 50 sentences to the rows of an embedding, as W3 does."""
    backend: Any = backend_for(lab.device)
    rng, words = np.random.default_rng(0), 100 if lab.is_dry else 20_000
    index = backend.from_numpy(rng.integers(0, words, 2800))
    values = backend.from_numpy(rng.standard_normal((2800, 128), np.float32))
    target = backend.from_numpy(np.zeros((words, 128), np.float32))

    def run() -> None:
        with mock.patch.object(choices, "deterministic", in_order):
            backend.index_add(target, index, values)

    def generic() -> None:
        if lab.is_dry:
            Backend.index_add(backend, target, index, values)
        else:
            backend.xp.add.at(target, index, values)

    name = "index_add_in_order" if in_order else "index_add"
    return Case(name, run, generic, 3 * values.nbytes + index.nbytes)


def _rule(lab: Lab, name: str) -> Case:
    """A step of an optimiser over 20 weights of 256 x 256."""
    backend: Any = backend_for(lab.device)
    rule, options = RULES[name]
    shape = (8, 8) if lab.is_dry else (256, 256)
    weights = [minidl.randn(*shape, device=lab.device).requires_grad_() for _ in range(20)]
    for weight in weights:
        weight.grad = minidl.randn(*shape, device=lab.device)
    optimizer = getattr(optim, rule)(weights, lr=1e-3, **options)
    optimizer.step()
    states = len([value for value in optimizer.state[0].values() if hasattr(value, "nbytes")])

    def generic() -> None:
        with contextlib.ExitStack() as stack:
            patched = mock.patch.object(type(backend), "update_all", Backend.update_all)
            stack.enter_context(patched)
            optimizer.step()

    moved = 20 * weights[0].array.nbytes * (3 + 2 * states)
    return Case(name, optimizer.step, generic, moved)
