"""What `conv2d`'s docstring promises of its errors, with sizes, images and kernels of many kinds.

Forward, input gradient and weight gradient of 3x3 convolutions over 5 to 96 channels are compared
with windows times kernels, multiplied in float64 or more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl
from minidl import Tensor
from minidl import functional as F
from minidl.backends import Windows, backend_for, convolution
from minidl.backends.cpu import winograd

from .test_winograd import winograd_wherever_possible

BACKEND = backend_for("cpu")
BOUND = 1e-5
"""The docstring's. Measured with these kinds: 4e-6, with kernels that cancel 1e-5 at most."""

OF_COLUMNS = 2e-6
"""The bound without Winograd. Measured: 1e-6."""

few = settings(max_examples=10)
NAMES = ("convolve", "transpose_convolve", "weight_gradient")


class Sizes(NamedTuple):
    """The sizes of one convolution."""

    n: int
    c: int
    d: int
    height: int
    width: int
    padding: int

    def windows(self) -> Windows:
        sides = dict.fromkeys(("top", "bottom", "left", "right"), self.padding)
        return Windows(self.height, self.width, 3, 3, **sides)

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of images, weight, and the gradient of the output."""
        out = self.height + 2 * self.padding - 2, self.width + 2 * self.padding - 2
        images = (self.n, self.c, self.height, self.width)
        return images, (self.d, self.c, 3, 3), (self.n, self.d, *out)


def sizes(channels: int = 96, pixels: int = 33):
    many, side = st.integers(5, channels), st.integers(4, pixels)
    return st.builds(Sizes, st.integers(1, 2), many, many, side, side, st.integers(0, 2))


IMAGES = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "uniform": lambda rng, shape: rng.random(shape),
    "after ReLU": lambda rng, shape: np.maximum(rng.standard_normal(shape) - 0.5, 0),
    "far from 0": lambda rng, shape: rng.standard_normal(shape) + rng.choice([-10, 100]),
    "heavy tails": lambda rng, shape: rng.standard_t(3, shape),
}
KERNELS = {
    "He": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, shape),
    "heavier tails": lambda rng, shape: (
        np.exp(2 * rng.standard_normal(shape)) * rng.choice([-1, 1], shape)
    ),
}


def drawn(size: Sizes, seed: int, image: str, kernel: str, slope: str) -> list[np.ndarray]:
    """Draw float32 images, weight and gradient."""
    rng, (x, w, g) = np.random.default_rng(seed), size.shapes()
    weight = KERNELS[kernel](rng, w) * np.sqrt(2 / (9 * size.c))
    arrays = IMAGES[image](rng, x), weight, IMAGES[slope](rng, g)
    return [array.astype(np.float32) for array in arrays]


def found(arrays: list[np.ndarray], padding: int) -> list[np.ndarray]:
    """Return output and both gradients, as users get them."""
    x, weight, g = arrays
    tensors = [Tensor(a, requires_grad=True) for a in (x, weight)]
    with np.errstate(all="ignore"), winograd_wherever_possible():
        out = F.conv2d(*tensors, padding=padding)
        out.backward(Tensor(g))
    return [out.numpy(), *(t.grad.numpy() for t in tensors)]


def defined(arrays: list[np.ndarray], padding: int, dtype: type = np.float64) -> list[np.ndarray]:
    """Return the same as products of windows, in a precision that makes no difference."""
    x, weight, g = (a.astype(dtype) for a in arrays)

    def seen(images: np.ndarray, by: int) -> np.ndarray:
        padded = np.pad(images, ((0, 0), (0, 0), (by, by), (by, by)))
        return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))

    out = np.einsum("nchwij,dcij->ndhw", seen(x, padding), weight, optimize=True)
    turned = weight[:, :, ::-1, ::-1]
    dx = np.einsum("ndhwij,dcij->nchw", seen(g, 2 - padding), turned, optimize=True)
    return [out, dx, np.einsum("nchwij,ndhw->dcij", seen(x, padding), g, optimize=True)]


def error(mine: np.ndarray, exact: np.ndarray) -> float:
    """Return the largest error, relative to the largest result."""
    assert mine.shape == exact.shape
    return float(np.abs(mine - exact).max() / np.abs(exact).max())


def kinds(of: dict) -> st.SearchStrategy[str]:
    return st.sampled_from(sorted(of))


# Errors ---------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(sizes(), st.integers(0, 99), kinds(IMAGES), kinds(KERNELS), kinds(IMAGES))
def test_errors_are_within_the_bound_of_the_largest_result(size, seed, image, kernel, slope):
    arrays = drawn(size, seed, image, kernel, slope)
    for mine, exact in zip(found(arrays, size.padding), defined(arrays, size.padding), strict=True):
        assert mine.dtype == np.float32
        assert error(mine, exact) < BOUND


@few
@given(sizes(), st.integers(0, 99), st.sampled_from([-10, 100, 1000]))
def test_where_kernels_cancel_the_bound_is_of_the_largest_sum_of_magnitudes(size, seed, mean):
    """Differences of pixels far from 0 are small: rounding the pixels alone may exceed 1e-5."""
    arrays = drawn(size, seed, "normal", "He", "normal")
    arrays[0] += mean
    arrays[1] -= arrays[1].mean((1, 2, 3), keepdims=True)
    sums = defined([np.abs(a) for a in arrays], size.padding)
    exact = defined(arrays, size.padding)
    for mine, own, most in zip(found(arrays, size.padding), exact, sums, strict=True):
        assert np.abs(mine - own).max() < BOUND * most.max()


@few
@given(sizes(), st.integers(0, 99), kinds(IMAGES), kinds(KERNELS), kinds(IMAGES))
def test_exact_kernels_sum_each_window(size, seed, image, kernel, slope):
    arrays, before = drawn(size, seed, image, kernel, slope), minidl.get_kernels()
    minidl.set_kernels("exact")
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in NAMES:
                patch.delattr(winograd, name)
            results = found(arrays, size.padding)
    finally:
        minidl.set_kernels(before)
    for mine, exact in zip(results, defined(arrays, size.padding), strict=True):
        assert error(mine, exact) < OF_COLUMNS


@few
@given(sizes(24, 17), st.integers(0, 99), kinds(IMAGES), kinds(KERNELS), kinds(IMAGES))
def test_float64_is_exact_to_13_digits(size, seed, image, kernel, slope):
    arrays = [a.astype(np.float64) for a in drawn(size, seed, image, kernel, slope)]
    exact = defined(arrays, size.padding, np.longdouble)
    for mine, own in zip(found(arrays, size.padding), exact, strict=True):
        assert mine.dtype == np.float64
        assert error(mine, own) < 1e-13


# Windows of their own -------------------------------------------------------------------------


def columns(arrays: list[np.ndarray], windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Return output and input gradient, summed window by window, in float32."""
    x, weight, g = arrays
    flipped = weight[:, :, ::-1, ::-1].swapaxes(0, 1)
    with np.errstate(all="ignore"):
        out = convolution.convolve(BACKEND, x, weight, None, windows, 1)
        return out, convolution.convolve(BACKEND, g, flipped, None, winograd.turned(windows), 1)


def seers(shape: tuple[int, ...], at: tuple[int, int, int], by: int) -> np.ndarray:
    """Tell which results of images of this shape see a pixel, given as image, row and column."""
    image, row, column = at
    there = np.zeros(shape, np.bool_)
    rows, across = (slice(max(0, k + by - 2), max(0, k + by + 1)) for k in (row, column))
    there[image, :, rows, across] = True
    return there


def spoilt(array: np.ndarray, value: float, data: st.DataObject) -> tuple[int, ...]:
    """Write a value into one pixel, and return its index."""
    index = tuple(data.draw(st.integers(0, size - 1)) for size in array.shape)
    array[index] = value
    return index


BAD = st.sampled_from([np.nan, np.inf, -np.inf, 3e4, -1e8, 1e25])


@few
@given(sizes(48, 20), st.integers(0, 99), kinds(KERNELS), BAD, st.data())
def test_outputs_that_do_not_see_a_bad_pixel_are_those_of_columns(size, seed, kernel, value, data):
    """To the bit, with whatever stands there: other images of the batch go Winograd's way."""
    arrays = drawn(size, seed, "normal", kernel, "normal")
    clean = found(arrays, size.padding)
    which = data.draw(st.sampled_from([0, 2]))
    index = spoilt(arrays[which], value, data)
    own = [a if i == 1 else a[index[:1],] for i, a in enumerate(arrays)]
    as_zero = [a.copy() for a in own]
    as_zero[which][0, *index[1:]] = 0
    result = 0 if which == 0 else 1  # a bad image spoils outputs; a bad gradient, those of images
    mine, by_columns, zeroed = (
        found(arrays, size.padding)[result],
        columns(own, size.windows())[result],
        columns(as_zero, size.windows())[result],
    )
    spoils = seers(mine.shape, (index[0], *index[2:]), (size.padding, 2 - size.padding)[result])
    others = np.arange(size.n) != index[0]
    assert np.array_equal(mine[others], clean[result][others])
    np.testing.assert_array_equal(mine[index[0]], by_columns[0])  # NaN for NaN
    far = ~spoils[index[0]]
    assert np.isfinite(mine[index[0]][far]).all()
    assert np.array_equal(mine[index[0]][far], zeroed[0][far])


@few
@given(sizes(48, 20), st.integers(0, 99), BAD, st.data())
def test_a_bad_pixel_spoils_the_weights_of_its_own_channel_only(size, seed, value, data):
    arrays = drawn(size, seed, "normal", "He", "normal")
    exact = defined(arrays, size.padding)[2]
    which = data.draw(st.sampled_from([0, 2]))
    channel = spoilt(arrays[which], value, data)[1]
    mine = found(arrays, size.padding)[2]
    own = np.delete(mine, channel, int(which == 0)), np.delete(exact, channel, int(which == 0))
    assert error(*own) < BOUND


@few
@given(sizes(48, 20), st.integers(0, 99), st.floats(0.1, 0.5), st.floats(3e3, 1e10))
def test_a_part_much_larger_than_the_rest_leaves_the_rest_alone(size, seed, share, factor):
    """While the rest is more than a quarter of the image, as the docstring says."""
    arrays = drawn(size, seed, "normal", "He", "normal")
    edge = max(1, int(share * size.height))
    zeroed = arrays[0].copy()
    arrays[0][:, :, :edge] *= np.float32(factor)
    zeroed[:, :, :edge] = 0
    below = slice(edge + size.padding, None)  # rows of the output that see none of it
    mine = found(arrays, size.padding)[0][:, :, below]
    wanted = columns([zeroed, *arrays[1:]], size.windows())[0][:, :, below]
    assert np.array_equal(mine, wanted)


# Integers and signs ---------------------------------------------------------------------------


SPECIAL = ("integers", "above 0", "below 0")


@few
@given(sizes(48, 20), st.integers(0, 99), st.sampled_from(SPECIAL), st.data())
def test_one_kernel_of_integers_or_one_sign_among_others_is_exact(size, seed, kind, data):
    """Its outputs over images of integers, or of numbers >= 0, are integers, or of its sign."""
    rng, (x, w, g) = np.random.default_rng(seed), size.shapes()
    weight = rng.standard_normal(w).astype(np.float32)
    which = data.draw(st.integers(0, size.d - 1))
    if kind == "integers":
        images = rng.integers(-9, 10, x).astype(np.float32)
        weight[which] = rng.integers(-3, 4, w[1:])
    else:
        images = np.maximum(rng.standard_normal(x), 0).astype(np.float32)
        sparse = np.abs(weight[which]) * (rng.random(w[1:]) < 0.5)
        weight[which] = sparse if kind == "above 0" else -sparse
    mine = found([images, weight, np.ones(g, np.float32)], size.padding)[0][:, which]
    exact = defined([images, weight, np.ones(g)], size.padding)[0][:, which]
    if kind == "integers":
        assert np.array_equal(mine, exact)
    else:
        assert (mine >= 0 if kind == "above 0" else mine <= 0).all()
        assert np.array_equal(mine == 0, exact == 0)


@few
@given(sizes(48, 20), st.integers(0, 99), st.booleans())
def test_integers_give_integers_and_signs_give_signs_in_gradients_too(size, seed, integers):
    rng = np.random.default_rng(seed)
    if integers:
        arrays = [rng.integers(-5, 6, s).astype(np.float32) for s in size.shapes()]
    else:
        arrays = [rng.random(s, np.float32) * (rng.random(s) < 0.7) for s in size.shapes()]
    for mine, exact in zip(found(arrays, size.padding), defined(arrays, size.padding), strict=True):
        assert np.array_equal(mine, exact) if integers else mine.min() >= 0
