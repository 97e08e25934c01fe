"""`prod` and `cumsum`: zeros, digits, dtypes, any shape, errors."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import minidl
from minidl import Tensor

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


@given(st.data())
def test_products_and_their_gradients_are_those_of_loops(data):
    shape = data.draw(SHAPES)
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True).map(tuple))
    keepdims = data.draw(st.booleans())
    values = data.draw(hnp.arrays(np.float64, shape, elements=st.integers(-2, 2)))
    x = Tensor(values, np.float64, requires_grad=True)
    y = minidl.prod(x, axes, keepdims)
    np.testing.assert_array_equal(y.numpy(), np.prod(values, axes, keepdims=keepdims))
    y.backward(Tensor(np.ones(y.shape)))
    for place in np.ndindex(shape):  # the product of the others on the same line
        line = tuple(slice(None) if i in axes else place[i] for i in range(len(shape)))
        others = np.ones(shape)
        others[line] = values[line]
        others[place] = 1
        assert x.grad.numpy()[place] == np.prod(others[line])


@given(st.data())
def test_running_sums_and_their_gradients_are_those_of_loops(data):
    shape = data.draw(SHAPES)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = Tensor(np.random.default_rng(0).normal(size=shape), requires_grad=True)
    g = np.random.default_rng(1).normal(size=shape)
    y = minidl.cumsum(x, axis)
    np.testing.assert_array_equal(y.numpy(), np.cumsum(x.numpy(), axis))
    y.backward(Tensor(g))
    wanted = np.flip(np.cumsum(np.flip(g, axis), axis), axis)
    np.testing.assert_allclose(x.grad.numpy(), wanted, rtol=1e-12, atol=1e-12)


def test_running_sums_of_float32_do_not_lose_digits():
    x = np.full(10**6, 0.1, np.float32)
    got = minidl.cumsum(Tensor(x), 0).numpy()
    np.testing.assert_allclose(got, np.cumsum(x.astype(float)), rtol=6e-8)
    assert got.dtype == np.float32
    assert abs(np.cumsum(x)[-1] / 1e5 - 1) > 1e-3  # NumPy's own


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "bool"])
def test_running_sums_of_integers_are_int64(dtype, device):
    y = minidl.cumsum(Tensor(np.ones(300), dtype, device), 0)
    assert y.dtype == np.int64
    assert y.numpy()[-1] == 300


def test_a_product_of_nothing_is_one(device):
    x = Tensor(np.zeros((2, 0)), device=device, requires_grad=True)
    y = minidl.prod(x, 1)
    assert y.numpy().tolist() == [1, 1]
    y.sum().backward()
    assert x.grad.shape == (2, 0)


def test_products_below_the_range_are_0():
    x = Tensor(np.array([1e-30, 1e-30, 1e-30], np.float32))
    with np.errstate(all="raise"):
        assert minidl.prod(x).item() == 0


def test_the_second_derivative_of_a_product_with_a_zero():
    x = Tensor([2.0, 0.0, 3.0], np.float64, requires_grad=True)
    found = minidl.hessian(minidl.prod(x), x)
    assert found.numpy().tolist() == [[0, 3, 0], [3, 0, 2], [0, 2, 0]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: minidl.cumsum(np.ones(2), 0), TypeError, "cumsum: got a ndarray, expected a Te"),
        (lambda: minidl.cumsum(Tensor([1.0]), None), TypeError, "cumsum: got axis=None, expect"),
        (lambda: minidl.cumsum(Tensor([1.0]), (0,)), TypeError, r"cumsum: got axis=\(0,\), exp"),
        (lambda: minidl.cumsum(Tensor([1.0]), 1), ValueError, r"cumsum: got axis 1 for shape \(1,"),
        (lambda: minidl.cumsum(Tensor(1.0), 0), ValueError, r"cumsum: got axis 0 for shape \(\)"),
        (lambda: minidl.prod([1.0]), TypeError, "prod: got a list, expected a Tensor"),
        (lambda: minidl.prod(Tensor([1.0]), 1), ValueError, r"prod: got axis 1 for shape \(1,\)"),
        (lambda: minidl.prod(Tensor([1.0]), (0, 0)), ValueError, r"prod: got axis \(0, 0\)"),
    ],
)
def test_what_cannot_be_added_or_multiplied_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
