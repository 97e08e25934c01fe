"""`sort` and `topk`: order, ties, NaN, gradients at their places, errors."""

from __future__ import annotations

import math

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import minidl
from minidl import Tensor

NUMBERS = st.one_of(st.integers(-2, 2).map(float), st.sampled_from([math.nan, math.inf, -math.inf]))
ARRAYS = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6),
    elements=NUMBERS,
)


def keys(values: np.ndarray) -> list[tuple[bool, float]]:
    """Return what orders numbers: NaN is the largest."""
    return [(bool(np.isnan(v)), 0.0 if np.isnan(v) else float(v)) for v in values]


def lines(array: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])


@given(ARRAYS, st.data())
def test_stable_order_is_that_of_python(values, data):
    axis = data.draw(st.integers(-values.ndim, values.ndim - 1))
    descending = data.draw(st.booleans())
    found, index = minidl.sort(Tensor(values, np.float64), axis, descending, stable=True)
    assert (found.shape, index.shape, index.dtype) == (values.shape, values.shape, np.int64)
    if not values.size:
        return
    rows = zip(*(lines(a, axis) for a in (values, found.numpy(), index.numpy())), strict=True)
    for line, sorted_line, places in rows:
        order = keys(line)
        # Python's sort is stable, also when it is reversed.
        wanted = sorted(range(len(line)), key=order.__getitem__, reverse=descending)
        assert places.tolist() == wanted
        np.testing.assert_array_equal(sorted_line, line[wanted])


@given(ARRAYS, st.data())
def test_the_largest_and_smallest_are_the_first_in_order(values, data):
    axis = data.draw(st.integers(-values.ndim, values.ndim - 1))
    k = data.draw(st.integers(0, values.shape[axis]))
    largest, in_order = data.draw(st.booleans()), data.draw(st.booleans())
    found, index = minidl.topk(Tensor(values, np.float64), k, axis, largest, in_order)
    shape = list(values.shape)
    shape[axis] = k
    assert (found.shape, index.shape, index.dtype) == (tuple(shape), tuple(shape), np.int64)
    np.testing.assert_array_equal(np.take_along_axis(values, index.numpy(), axis), found.numpy())
    if not found.size:
        return
    pairs = zip(*(lines(a, axis) for a in (values, found.numpy(), index.numpy())), strict=True)
    for line, some, places in pairs:
        assert len(set(places.tolist())) == k
        wanted = sorted(keys(line), reverse=largest)[:k]
        assert (keys(some) if in_order else sorted(keys(some), reverse=largest)) == wanted


@pytest.mark.oracle
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_order_of_ties_and_nan_is_that_of_pytorch(axis, descending):
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).choice([0.0, -0.0, 1, 2, np.nan, np.inf], (40, 30))
    x, t = Tensor(values, np.float64, requires_grad=True), torch.tensor(values, requires_grad=True)
    g = np.random.default_rng(1).normal(size=values.shape)
    ours, places = minidl.sort(x, axis, descending, stable=True)
    theirs, indices = torch.sort(t, dim=axis, descending=descending, stable=True)
    ours.backward(Tensor(g))
    theirs.backward(torch.tensor(g))
    np.testing.assert_array_equal(ours.numpy(), theirs.detach().numpy())
    np.testing.assert_array_equal(places.numpy(), indices.numpy())
    np.testing.assert_array_equal(x.grad.numpy(), t.grad.numpy())
    for largest in (False, True):
        chosen = torch.topk(t, 7, axis, largest).values.detach().numpy()
        np.testing.assert_array_equal(minidl.topk(x, 7, axis, largest)[0].numpy(), chosen)


def test_gradients_go_to_the_places_of_the_values(device):
    x = Tensor([[3.0, 1, 2], [0, 5, 4]], np.float64, device, requires_grad=True)
    values, places = minidl.topk(x, 2)
    assert (values.numpy().tolist(), places.numpy().tolist()) == (
        [[3, 2], [5, 4]],
        [[0, 2], [1, 2]],
    )
    assert not places.requires_grad
    values.backward(Tensor([[10.0, 20], [30, 40]], np.float64, device))
    assert x.grad.numpy().tolist() == [[10, 0, 20], [0, 30, 40]]


def test_places_select_the_values_again(device):
    x = Tensor(np.random.default_rng(0).normal(size=(5, 4)), device=device)
    values, places = minidl.sort(x, 0)
    rows = minidl.arange(4, device=device).reshape(1, 4)
    np.testing.assert_array_equal(x[places, rows].numpy(), values.numpy())


def test_integers_are_sorted_too(device):
    values, places = minidl.sort(Tensor([3, 1, 2], device=device), descending=True)
    assert (values.dtype, values.numpy().tolist()) == (np.int64, [3, 2, 1])
    assert places.numpy().tolist() == [0, 2, 1]
    assert minidl.topk(Tensor([3, 1, 2], device=device), 1)[0].numpy().tolist() == [3]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: minidl.sort(x, 2), ValueError, r"sort: got axis 2 for shape \(2, 3\)"),
        (lambda x: minidl.sort(x, None), TypeError, "sort: got axis=None, expected one integer"),
        (lambda x: minidl.sort(x.numpy()), TypeError, "sort: got a ndarray, expected a Tensor"),
        (lambda x: minidl.topk(x, 4), ValueError, "topk: got k=4, expected 0 <= k <= 3, the size"),
        (lambda x: minidl.topk(x, 3, 0), ValueError, "topk: got k=3, expected 0 <= k <= 2, the s"),
        (lambda x: minidl.topk(x, -1), ValueError, "topk: got k=-1, expected 0 <= k <= 3"),
        (lambda x: minidl.topk(x, 1.0), ValueError, r"topk: got k=1\.0, expected 0 <= k <= 3"),
        (lambda x: minidl.topk(x.sum(), 1), ValueError, r"topk: got axis -1 for shape \(\)"),
    ],
)
def test_what_cannot_be_sorted_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(Tensor(np.ones((2, 3))))
