"""`index_add` and `scatter_add`: loops, repeated indices, digits, errors."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import minidl
from minidl import Tensor

from .helpers import formulas

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@given(st.data())
def test_slices_are_added_as_by_a_loop(data):
    shape = data.draw(SHAPES)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    index = data.draw(st.lists(st.integers(0, shape[axis] - 1), max_size=6))
    sizes = list(shape)
    sizes[axis] = len(index)
    x, source = (Tensor(drawn(*s), requires_grad=True) for s in (shape, sizes))
    rows = np.array(index, int)
    y = minidl.index_add(x, axis, rows, source)
    wanted = formulas.index_add(x.numpy(), source.numpy(), axis, rows)
    np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-12, atol=1e-12)
    g = drawn(*shape, seed=1)
    y.backward(Tensor(g))
    np.testing.assert_array_equal(x.grad.numpy(), g)
    np.testing.assert_array_equal(source.grad.numpy(), np.take(g, rows, axis))


@given(st.data())
def test_elements_are_added_as_by_a_loop(data):
    shape = data.draw(SHAPES)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    place = axis % len(shape)
    used = [data.draw(st.integers(0, 4 if i == place else n)) for i, n in enumerate(shape)]
    index = data.draw(hnp.arrays(np.int64, used, elements=st.integers(0, shape[axis] - 1)))
    sizes = [n + data.draw(st.integers(0, 2)) for n in used]
    x, source = (Tensor(drawn(*s), requires_grad=True) for s in (shape, sizes))
    y = minidl.scatter_add(x, axis, index, source)
    wanted = formulas.scatter_add(x.numpy(), source.numpy(), axis, index)
    np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-12, atol=1e-12)
    g = drawn(*shape, seed=1)
    y.backward(Tensor(g))
    np.testing.assert_array_equal(x.grad.numpy(), g)
    back = np.zeros(sizes)
    for at in np.ndindex(*used):
        to = list(at)
        to[axis] = index[at]
        back[at] = g[tuple(to)]
    np.testing.assert_array_equal(source.grad.numpy(), back)


@pytest.mark.oracle
@pytest.mark.parametrize("axis", [0, 1])
def test_sums_are_those_of_pytorch(axis):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, source = drawn(20, 30), drawn(20, 30, seed=1)
    grid, row = rng.integers(0, 20, (20, 30)), rng.integers(0, 20, 30 if axis else 20)
    ours = minidl.scatter_add(Tensor(x), axis, grid, Tensor(source))
    theirs = torch.tensor(x).scatter_add(axis, torch.tensor(grid), torch.tensor(source))
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-12, atol=1e-12)
    ours = minidl.index_add(Tensor(x), axis, row, Tensor(source))
    theirs = torch.tensor(x).index_add(axis, torch.tensor(row), torch.tensor(source))
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-12, atol=1e-12)


def test_many_equal_indices_do_not_lose_digits():
    source = Tensor(np.full(10**6, 0.1, np.float32))
    index = np.zeros(10**6, int)
    for add in (minidl.index_add, minidl.scatter_add):
        total = add(Tensor(np.zeros(2, np.float32)), 0, index, source).numpy()
        np.testing.assert_allclose(total, [1e5, 0], rtol=1e-6)


def test_indices_of_any_kind_and_an_index_that_changes_later(device):
    x, source = Tensor(np.zeros(3), device=device), Tensor([1.0, 2], np.float64, device)
    source.requires_grad = True
    index = np.array([2, 2], np.uint8)
    index = Tensor(index, device=device).array.copy()
    for kind in ([2, 2], index, Tensor(np.array([2, 2]), device=device)):
        assert minidl.index_add(x, 0, kind, source).numpy().tolist() == [0, 0, 3]
    y = minidl.index_add(x, 0, index, source)
    index[:] = 0
    y.backward(Tensor([5.0, 6, 7], np.float64, device))
    assert source.grad.numpy().tolist() == [7, 7]
    assert x.numpy().tolist() == [0, 0, 0]


@pytest.mark.parametrize("wrong", [[0, 3], [-1, 0]])
@pytest.mark.parametrize("name", ["index_add", "scatter_add"])
def test_an_index_out_of_range_is_refused(name, wrong, device):
    x, source = Tensor(np.zeros(3), device=device), Tensor(np.ones(2), device=device)
    ends = f"from {min(wrong)} to {max(wrong)}, expected 0 to 2, as axis 0 has size 3"
    with pytest.raises(ValueError, match=f"{name}: got indices {ends}; negative ones do not"):
        getattr(minidl, name)(x, 0, wrong, source).numpy()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x, s: minidl.index_add(x, 0, [0], s),
            ValueError,
            r"index_add: got an index of shape \(1,\) and a source of shape \(2, 2\) for shap",
        ),
        (lambda x, s: minidl.index_add(x, 0, [[0, 1]], s), ValueError, r"index of shape \(1, 2\)"),
        (lambda x, s: minidl.index_add(x, 2, [0, 1], s), ValueError, "index_add: got axis 2 for"),
        (lambda x, s: minidl.index_add(x, 0, [0.0, 1], s), TypeError, "of dtype float64, expecte"),
        (lambda x, s: minidl.index_add(x, 0, [0], 1.0), TypeError, "got a float as source, expec"),
        (
            lambda x, s: minidl.index_add(x, 0, [0, 1], s.to(dtype="float32")),
            TypeError,
            "index_add: got dtypes float64 and float32, expected one for both",
        ),
        (
            lambda x, s: minidl.index_add(x, 0, [0, 1], s.to("guarded")),
            TypeError,
            "index_add: got tensors on 'cpu' and 'guarded'",
        ),
        (
            lambda x, s: minidl.scatter_add(x, 0, [0, 1], s),
            ValueError,
            r"scatter_add: got an index of shape \(2,\) and a source of shape \(2, 2\)",
        ),
        (
            lambda x, s: minidl.scatter_add(x, 0, [[0, 1]] * 3, s),
            ValueError,
            "as many axes, and an index no longer than the source, nor than the input except at a",
        ),
        (
            lambda x, s: minidl.scatter_add(x[:, :1], 0, [[0, 1]], s),
            ValueError,
            r"index of shape \(1, 2\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(Tensor(np.zeros((3, 2))), Tensor(np.ones((2, 2))))
