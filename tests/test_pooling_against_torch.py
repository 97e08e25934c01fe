"""Pooling side by side with PyTorch, where it is installed: any geometry, ties, NaN, infinities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minidl import Tensor, nn
from minidl import functional as F

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")
T = torch.nn.functional

from .test_pooling import pools as geometry  # noqa: E402
from .test_pooling_kinds import FEW, draw_of, resized, shrinking, stream  # noqa: E402

pytestmark = pytest.mark.oracle


def compare(ours, theirs, x: np.ndarray, tol: float = 1e-12) -> None:
    """Compare value, places and gradient for an upstream of whole numbers, which add up exactly."""
    mine, other = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    found, wanted = ours(mine), theirs(other)
    if isinstance(found, tuple):
        np.testing.assert_array_equal(found[1].numpy(), wanted[1].numpy())
        found, wanted = found[0], wanted[0]
    np.testing.assert_allclose(found.numpy(), wanted.detach().numpy(), rtol=tol, atol=tol)
    assert found.shape == tuple(wanted.shape)
    g = 1 + np.arange(found.size, dtype=x.dtype).reshape(found.shape)
    found.backward(Tensor(g))
    wanted.backward(torch.tensor(g))
    np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=tol, atol=tol)


def images(shape: tuple[int, ...], few: bool, dtype: type = np.float64) -> np.ndarray:
    values = draw_of(FEW, shape) if few else stream(0).normal(size=shape)
    return values.astype(dtype)


@settings(max_examples=150)
@given(case=resized(), few=st.booleans(), dtype=st.sampled_from([np.float32, np.float64]))
def test_adaptive_pooling_agrees(case, few, dtype):
    shape, size = case
    assume(shape[0])
    compare(
        lambda x: F.adaptive_max_pool2d(x, size, return_indices=True),
        lambda x: T.adaptive_max_pool2d(x, size, return_indices=True),
        images(shape, few, dtype),
    )
    tol = 1e-5 if dtype is np.float32 else 1e-12
    compare(
        lambda x: F.adaptive_avg_pool2d(x, size),
        lambda x: T.adaptive_avg_pool2d(x, size),
        images(shape, False, dtype),
        tol,
    )


@settings(max_examples=150)
@given(
    case=shrinking(),
    few=st.booleans(),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_fractional_pooling_agrees(case, few, seed, dtype):
    """In float32 too, where one rounding would put a window elsewhere."""
    shape, outs, k = case
    assume(k is not None)
    samples = stream(seed).random((*shape[:2], 2)).astype(dtype)
    compare(
        lambda x: F.fractional_max_pool2d(x, k, outs, return_indices=True, _random_samples=samples),
        lambda x: T.fractional_max_pool2d(
            x, k, outs, return_indices=True, _random_samples=torch.tensor(samples)
        ),
        images(shape, few, dtype),
    )


@settings(max_examples=100)
@given(
    case=geometry(dilated=False),
    p=st.sampled_from([1, 2, 2.0, 3, 0.5, 2.5, math.inf]),
    zeros=st.booleans(),
)
def test_lp_pooling_agrees(case, p, zeros):
    shape, options = case
    kernel, stride, ceil = (options[k] for k in ("kernel_size", "stride", "ceil_mode"))
    spans = (kernel, kernel) if isinstance(kernel, int) else kernel
    assume(shape[0])
    assume(all(k <= size for k, size in zip(spans, shape[2:], strict=True)))
    x = stream(0).uniform(0.1, 2, shape)
    if zeros:
        assume(p in (2, math.inf))
        x[:, :, : shape[2] // 2] = 0
    compare(
        lambda x: F.lp_pool2d(x, p, kernel, stride, ceil),
        lambda x: T.lp_pool2d(x, p, kernel, stride, ceil),
        x,
        1e-9,
    )


def test_lp_pooling_of_negative_sums_is_nan_as_in_pytorch():
    x = np.array([[[[-3.0, 1.0], [1.0, -2.0]]]])
    with np.errstate(invalid="ignore"):
        out = F.lp_pool2d(Tensor(x), 3, 2).numpy()
    np.testing.assert_array_equal(out, T.lp_pool2d(torch.tensor(x), 3.0, 2).numpy())
    assert np.isnan(out).all()


@settings(max_examples=100)
@given(case=geometry(dilated=False), few=st.booleans())
def test_unpooling_agrees(case, few):
    """Of windows that overlap too: a pixel that won twice is put back twice, and sums gradients."""
    shape, options = case
    assume(shape[0])
    options.pop("ceil_mode")
    spans = options["kernel_size"]
    spans = (spans, spans) if isinstance(spans, int) else spans
    sizes = zip(spans, shape[2:], options["padding"], strict=True)
    assume(all(k <= size + 2 * p and 2 * p <= k for k, size, p in sizes))
    x = np.nan_to_num(images(shape, few), posinf=3, neginf=-3)

    def both(module):
        def run(x):
            kept, places = module.max_pool2d(x, **options, return_indices=True)
            return module.max_unpool2d(kept, places, **options, output_size=shape[2:])

        return run

    compare(both(F), both(T), x)


@pytest.mark.parametrize("few", [False, True])
def test_pooling_of_sequences_agrees(few):
    x = images((3, 2, 11), few)
    compare(
        lambda x: F.max_pool1d(x, 3, 2, 1, 1, True, return_indices=True),
        lambda x: T.max_pool1d(x, 3, 2, 1, 1, True, return_indices=True),
        x,
    )
    compare(
        lambda x: F.adaptive_max_pool1d(x, 4, return_indices=True),
        lambda x: T.adaptive_max_pool1d(x, 4, return_indices=True),
        x,
    )


LAYERS = {
    "MaxPool1d": ((3, 2, 1), (2, 3, 8)),
    "AvgPool1d": ((3, 2, 1, True, False), (2, 3, 8)),
    "LPPool1d": ((2, 3, 2), (2, 3, 8)),
    "LPPool2d": ((2, 3, 2), (2, 3, 8, 7)),
    "AdaptiveMaxPool1d": ((3,), (2, 3, 8)),
    "AdaptiveMaxPool2d": (((3, None),), (2, 3, 8, 7)),
    "AdaptiveAvgPool1d": ((3,), (2, 3, 8)),
    "AdaptiveAvgPool2d": (((3, None),), (2, 3, 8, 7)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_take_pytorch_s_arguments(name):
    arguments, shape = LAYERS[name]
    ours, theirs = getattr(nn, name)(*arguments), getattr(torch.nn, name)(*arguments)
    compare(ours, theirs, images(shape, False))
