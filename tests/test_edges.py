"""`pad` with elements from inside: NumPy's arrays, PyTorch's, and errors."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import minidl
from minidl import Tensor

MODES = ("reflect", "edge", "wrap")


@given(st.data())
def test_values_are_numpys_and_gradients_count_the_copies(data):
    mode = data.draw(st.sampled_from(MODES))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=4))
    widths = []
    for size in shape:
        most = {"reflect": size - 1, "wrap": size, "edge": 5}[mode]
        widths.append((data.draw(st.integers(0, most)), data.draw(st.integers(0, most))))
    values = np.random.default_rng(0).normal(size=shape)
    x = Tensor(values, requires_grad=True)
    y = minidl.pad(x, widths, mode=mode)
    np.testing.assert_array_equal(y.numpy(), np.pad(values, widths or 0, mode))
    g = np.random.default_rng(1).normal(size=y.shape)
    y.backward(Tensor(g))
    place = np.arange(values.size).reshape(shape)
    wanted = np.zeros(values.size)
    np.add.at(wanted, np.pad(place, widths or 0, mode), g)
    np.testing.assert_allclose(x.grad.numpy().ravel(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("mode", "theirs"), [("reflect", "reflect"), ("edge", "replicate"), ("wrap", "circular")]
)
def test_values_and_gradients_are_those_of_pytorch(mode, theirs):
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(size=(2, 3, 5, 6))
    x, t = Tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    y = minidl.pad(x, [(0, 0), (0, 0), (4, 2), (1, 5)], mode=mode)
    u = torch.nn.functional.pad(t, (1, 5, 4, 2), mode=theirs)
    np.testing.assert_array_equal(y.numpy(), u.detach().numpy())
    (y * y * y).sum().backward()
    (u * u * u).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-12)


def test_images_keep_their_memory_order(device):
    x = Tensor(np.zeros((2, 5, 6, 3)), device=device).transpose(0, 3, 1, 2)
    for mode in MODES:
        y = minidl.pad(x, [(0, 0), (0, 0), (1, 1), (2, 0)], mode=mode)
        assert y.array.strides[1] == y.array.itemsize


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: minidl.pad(x, [(0, 0), (3, 0)], mode="reflect"),
            r"pad: got widths \(3, 0\) for an axis of size 3, expected at most 2 with mode='ref",
        ),
        (
            lambda x: minidl.pad(x, [(0, 0), (0, 4)], mode="wrap"),
            r"pad: got widths \(0, 4\) for an axis of size 3, expected at most 3 with mode='wrap'",
        ),
        (
            lambda x: minidl.pad(x[:0], [(0, 1), (0, 0)], mode="edge"),
            "for an axis of size 0, expected at most 0 with mode='edge'",
        ),
        (
            lambda x: minidl.pad(x, [(0, 0), (1, 0)], mode="replicate"),
            r"pad: got mode='replicate', expected .*; in minidl, 'replicate' is 'edge'",
        ),
        (lambda x: minidl.pad(x, [(0, 0), (1, 0)], mode="circular"), "'circular' is 'wrap'"),
        (lambda x: minidl.pad(x, [(0, 0), (1, 0)], mode="mean"), r"got mode='mean', .*'wrap'\]$"),
        (lambda x: minidl.pad(x, [(0, 0)], mode="wrap"), r"pad: got widths \[\(0, 0\)\] for shape"),
        (lambda x: minidl.pad(x, [(0, 0), (-1, 0)], mode="edge"), "pad: got widths"),
    ],
)
def test_what_cannot_be_padded_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(Tensor(np.ones((2, 3))))


def test_what_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match="pad: got a ndarray, expected a Tensor"):
        minidl.pad(np.ones(3), [(1, 1)], mode="wrap")
