"""Checks that any differentiable function must pass: gradients by differences, and purity.

`minidl.inspect` will have a `gradcheck` for people; this is the small one that tests stand on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minidl
from minidl import Tensor

STEP = 1e-5


def check_gradients(
    fn: Callable[..., Tensor],
    *arrays: Any,
    device: str = "cpu",
    order: int = 2,
    tol: float = 1e-6,
) -> None:
    """Compare the gradients of `fn(*tensors)` with central differences, in float64.

    Every element of every input is moved. The output is weighted with random numbers, since a
    gradient of ones hides errors that cancel in a sum. At order 2 the gradients themselves,
    weighted at random again, are the function to check, as one of the inputs and of the weights.

    Args:
        fn: maps tensors, as many as there are arrays, to one tensor.
        arrays: where to differentiate; converted to float64.
        device: where to compute.
        order: 1 for gradients only, 2 for gradients of gradients too.
        tol: largest deviation, relative to 1 plus the larger of the two values.
    """
    points = [np.array(a, dtype=np.float64) for a in arrays]
    weights = np.random.default_rng(1).normal(size=_run(fn, points, device).shape)
    _compare(lambda *xs: (fn(*xs) * _tensor(weights, device)).sum(), points, device, tol, "")
    if order == 2:
        seeds = [np.random.default_rng(2 + i).normal(size=p.shape) for i, p in enumerate(points)]

        def slope(*xs: Tensor) -> Tensor:
            *inputs, weight = xs
            inputs = [x if x.requires_grad else x.copy().requires_grad_() for x in inputs]
            with minidl.autograd.set_recording(True):
                total = (fn(*inputs) * weight).sum()
                found = minidl.grad(total, inputs, create_graph=True)
                parts = [(g * _tensor(s, device)).sum() for g, s in zip(found, seeds, strict=True)]
                # The gradient of a linear function does not depend on its inputs: add 0 that does.
                return sum(parts, sum((x * 0).sum() for x in [*inputs, weight]))

        _compare(slope, [*points, weights], device, tol * 10, "gradient of the gradient, ")


def check_pure(fn: Callable[..., Tensor], *arrays: Any, device: str = "cpu") -> None:
    """Check that `fn` and its gradient write to nothing they were given, share nothing, and keep
    float32 and float64.

    Inputs and the incoming gradient stay as they are; no two `.grad` share memory with each
    other, an input, or the incoming gradient; outputs and gradients have the inputs' dtype.
    """
    for dtype in (np.float32, np.float64):
        inputs = [Tensor(np.asarray(a, dtype), device=device, requires_grad=True) for a in arrays]
        output = fn(*inputs)
        assert output.dtype == dtype, f"{dtype.__name__} inputs gave a {output.dtype} output"
        before = output.numpy()
        seed = Tensor(np.random.default_rng(1).normal(size=output.shape), dtype, device)
        seed_before = seed.numpy()
        output.backward(seed)
        for place, (x, array) in enumerate(zip(inputs, arrays, strict=True)):
            _same(x.numpy(), np.asarray(array, dtype), f"input {place} was changed")
            assert x.grad is not None, f"input {place} got no gradient"
            assert x.grad.dtype == dtype, f"the gradient of input {place} is {x.grad.dtype}"
            assert x.grad.shape == x.shape, f"the gradient of input {place} is {x.grad.shape}"
        _same(seed.numpy(), seed_before, "the incoming gradient was changed")
        _same(output.numpy(), before, "backward changed the output")
        _check_apart(inputs, seed)


def _check_apart(inputs: list[Tensor], seed: Tensor) -> None:
    owners = {f"input {i}": x for i, x in enumerate(inputs)}
    owners |= {f"the gradient of input {i}": x.grad for i, x in enumerate(inputs)}
    owners["the incoming gradient"] = seed
    for i in range(len(inputs)):
        mine = f"the gradient of input {i}"
        for other, tensor in owners.items():
            if other != mine and tensor is not inputs[i].grad:
                assert not _share_memory(inputs[i].grad, tensor), f"{mine} and {other} share memory"
            assert other == mine or tensor is not inputs[i].grad, f"{mine} is {other}"


def _share_memory(a: Tensor, b: Tensor) -> bool:
    if a.device == "cuda":
        return bool(a.backend.xp.shares_memory(a.data, b.data))
    return bool(np.shares_memory(*(getattr(x.data, "_array", x.data) for x in (a, b))))


def _same(got: np.ndarray, wanted: np.ndarray, message: str) -> None:
    assert np.array_equal(got, wanted, equal_nan=True), message


def _tensor(array: np.ndarray, device: str) -> Tensor:
    return Tensor(array, np.float64, device)


def _run(fn: Callable[..., Tensor], points: list[np.ndarray], device: str) -> np.ndarray:
    with minidl.no_grad():
        return fn(*(_tensor(p, device) for p in points)).numpy()


def _compare(
    fn: Callable[..., Tensor], points: list[np.ndarray], device: str, tol: float, what: str
) -> None:
    """Compare the gradients of a function to one number with differences, element by element."""
    inputs = [_tensor(p, device).requires_grad_() for p in points]
    found = minidl.grad(fn(*inputs), inputs)
    for place, (point, gradient) in enumerate(zip(points, found, strict=True)):
        analytic = gradient.numpy()
        numeric = np.empty_like(point)
        for index in np.ndindex(point.shape):
            ends = []
            for step in (STEP, -STEP):
                moved = [p.copy() if i == place else p for i, p in enumerate(points)]
                moved[place][index] += step
                ends.append(_run(fn, moved, device).item())
            numeric[index] = (ends[0] - ends[1]) / (2 * STEP)
        scale = 1 + np.maximum(np.abs(analytic), np.abs(numeric))
        error = np.abs(analytic - numeric) / scale
        if not np.all(error <= tol):  # written so that NaN fails
            worst = np.unravel_index(
                np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape
            )
            raise AssertionError(
                f"{what}input {place} of shape {point.shape}, at {tuple(map(int, worst))}: "
                f"backward says {analytic[worst]:.9g}, differences say {numeric[worst]:.9g}"
            )
