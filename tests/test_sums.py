"""Sums keep their digits, over any axes and any number of terms."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn
from minidl import functional as F
from minidl.backends import Backend, set_kernels
from minidl.backends.sums import BLOCK, add_rows, blocked_sum

N = 300_000
TENTH = float(np.float32(0.1))
DTYPES = [np.float32, np.float64]
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def near(tensor: Tensor, wanted: float) -> None:
    """Assert that all elements are right to a few roundings; a sequential sum of a million terms
    would be 1 % off."""
    # Without CUB, each of CuPy's 512 threads adds every 512th term of a row sequentially.
    most = 64 if tensor.device == "cuda" and os.environ.get("CUPY_ACCELERATORS") == "" else 8
    np.testing.assert_allclose(tensor.numpy(), wanted, rtol=most * np.finfo(tensor.dtype).eps)


def tenths(*shape: int, dtype: type, device: str) -> Tensor:
    return Tensor(np.full(shape, 0.1, np.float32).astype(dtype), device=device)


# The sum itself -------------------------------------------------------------------------------


def memory_orders(rng: np.random.Generator, shape: tuple[int, ...]) -> list[np.ndarray]:
    x = rng.normal(size=shape)
    turned = np.ascontiguousarray(x.T).T
    gaps = np.repeat(x, 2, axis=-1)[..., ::2] if shape else x
    return [x, turned, gaps, x[::-1] if shape else x]


@pytest.mark.parametrize(
    "shape",
    [(), (5,), (0, 3), (2 * BLOCK + 1, 3), (40, 33, 2), (3, 1000), (1000, 1, 3), (2, 700, 5)],
)
def test_blocked_sums_are_numpy_s_over_all_axes_in_all_memory_orders(shape):
    for x in memory_orders(np.random.default_rng(0), shape):
        for mask in range(2**x.ndim):
            axes = tuple(i for i in range(x.ndim) if mask >> i & 1)
            found = blocked_sum(np, x, axes)
            assert found.shape == x.sum(axes).shape
            np.testing.assert_allclose(found, x.sum(axes), rtol=1e-12, atol=1e-12)


def test_a_sum_reads_a_repeated_array_without_copying_it():
    ones = np.broadcast_to(np.ones(3, np.float32), (100_000, 3))
    assert blocked_sum(np, ones, (0,)).tolist() == [100_000.0] * 3


def test_few_terms_and_whole_arrays_are_left_to_numpy(monkeypatch):
    """Everything else is summed in blocks."""
    monkeypatch.setattr("minidl.backends.sums._sum_rows", None)
    blocked_sum(np, np.ones((2 * BLOCK, 7)), (0,))
    blocked_sum(np, np.ones((7, 1000)), (1,))
    blocked_sum(np, np.ones((100, 1000)), (0, 1))
    with pytest.raises(TypeError):
        blocked_sum(np, np.ones((2 * BLOCK + 1, 7)), (0,))


def test_every_value_is_added_in_blocks_of_at_most_twice_16(monkeypatch):
    """The number of terms of each addition bounds the error."""
    longest = []

    class Counted(np.ndarray):
        def sum(self, axis):
            longest.append(self.shape[axis])
            return np.asarray(self).sum(axis).view(Counted)

    blocked_sum(np, np.ones((123_457, 3)).view(Counted), (0,))
    assert max(longest) <= 2 * BLOCK
    assert len(longest) < 12


# Reductions and gradients ---------------------------------------------------------------------


@each_dtype
def test_sums_and_means_over_first_axes(dtype, device):
    x = tenths(N, 3, dtype=dtype, device=device)
    near(x.sum(0), N * TENTH)
    near(x.mean(0), TENTH)
    near(x.mean(0, keepdims=True), TENTH)
    near(x[:, 1:].sum(0), N * TENTH)
    near(x.T.sum(1), N * TENTH)
    near(x.reshape(100, N // 100, 3).sum((0, 1)), N * TENTH)
    near(x.norm(2, 0), math.sqrt(N) * TENTH)
    assert float(x.std(0).numpy().max()) < 1e-6


@each_dtype
def test_a_channels_last_image_has_the_mean_of_its_pixels(dtype, device):
    pixels = tenths(1, 500, 600, 3, dtype=dtype, device=device).transpose(0, 3, 1, 2)
    near(F.global_avg_pool2d(pixels), TENTH)
    near(pixels.sum((0, 2, 3)), N * TENTH)


@each_dtype
def test_gradients_of_what_was_repeated(dtype, device):
    """Biases of linear maps and convolutions, and operands that were broadcast."""
    x, ones = tenths(N, 2, dtype=dtype, device=device), np.ones((2, 2))
    weight, bias = (Tensor(a, dtype, device, True) for a in (ones, np.zeros(2)))
    upstream = tenths(N, 2, dtype=dtype, device=device)
    F.linear(x, weight, bias).backward(upstream)
    near(bias.grad, N * TENTH)
    bias.grad = None
    (x * bias).backward(upstream)
    near(bias.grad, N * TENTH * TENTH)
    bias.grad = None
    pixels = x.reshape(1, 500, 600, 2).transpose(0, 3, 1, 2)
    kernel = Tensor(np.ones((2, 2, 1, 1)), dtype, device)
    out = F.conv2d(pixels, kernel, bias)
    out.backward(tenths(*out.shape, dtype=dtype, device=device))
    near(bias.grad, N * TENTH)


@each_dtype
@pytest.mark.parametrize("order", ["rows", "pixels", "channels last"])
def test_statistics_and_gradients_of_batch_norm(order, dtype, device):
    if order == "rows":
        x = tenths(N, 3, dtype=dtype, device=device)
    elif order == "pixels":
        x = tenths(2, 3, 300, 500, dtype=dtype, device=device)
    else:
        x = tenths(2, 300, 500, 3, dtype=dtype, device=device).transpose(0, 3, 1, 2)
    mean, var = (Tensor(np.ones(3), dtype, device) for _ in range(2))
    weight, bias = (Tensor(np.ones(3), dtype, device, True) for _ in range(2))
    out = F.batch_norm(x, mean, var, weight, bias, training=True, momentum=1.0)
    near(mean, TENTH)
    out.backward(tenths(*x.shape, dtype=dtype, device=device))
    near(bias.grad, N * TENTH)


@pytest.fixture
def fixed_order():
    """Let a GPU add repeated indices in a fixed order: atomic additions round each time."""
    minidl.set_deterministic(True)
    yield
    minidl.set_deterministic(False)


@each_dtype
@pytest.mark.usefixtures("fixed_order")
def test_a_word_and_an_element_that_occur_very_often(dtype, device):
    words = Tensor(np.zeros(N, int), device=device)
    table = Tensor(np.ones((3, 2)), dtype, device, True)
    F.embedding(words, table).backward(tenths(N, 2, dtype=dtype, device=device))
    near(table.grad[0], N * TENTH)
    assert not table.grad.numpy()[1:].any()
    row = Tensor(np.ones(3), dtype, device, True)
    row[words].backward(tenths(N, dtype=dtype, device=device))
    near(row.grad[0], N * TENTH)


def test_the_plain_kernels_keep_digits_too():
    set_kernels("plain")
    try:
        assert type(minidl.ones(1).backend) is Backend
        test_sums_and_means_over_first_axes(np.float32, "cpu")
        test_gradients_of_what_was_repeated(np.float32, "cpu")
        test_a_word_and_an_element_that_occur_very_often(np.float32, "cpu")
        for order in ("rows", "pixels", "channels last"):
            test_statistics_and_gradients_of_batch_norm(order, np.float32, "cpu")
    finally:
        set_kernels("fast")


def test_slices_of_a_batch_are_added_in_pairs():
    """Added one after the other, 10,000 slices of 0.1 would be 1e-4 off."""

    class OneByOne(Backend):
        def over_batch(self, n, shape, dtype, work):
            for i in range(n):
                work(slice(i, i + 1))

    tenth = np.array([0.1], np.float32)
    total = OneByOne().sum_over_batch(10_000, (), np.float32, lambda part: tenth.copy())
    np.testing.assert_allclose(total, 10_000 * TENTH, rtol=4e-7)


def test_losses_over_very_many_rows():
    x = tenths(N, 3, dtype=np.float32, device="cpu")
    near(F.l1_loss(x, np.zeros((N, 3), np.float32)), TENTH)
    near(F.mse_loss(x.T, np.zeros((3, N), np.float32)), TENTH * TENTH)
    near(F.cross_entropy(x, np.zeros(N, int)), math.log(3))


def test_sums_do_not_depend_on_the_number_of_threads():
    x = np.random.default_rng(0).normal(size=(100_000, 8)).astype("f")
    images = Tensor(x.reshape(8, 100, 125, 8).transpose(0, 3, 1, 2))

    def found() -> list[bytes]:
        norm = nn.BatchNorm2d(8)
        out = norm(images)
        out.backward(images)
        return [t.data.tobytes() for t in (out, norm.bias.grad, norm.weight.grad, Tensor(x).sum(0))]

    before = minidl.get_num_threads()
    try:
        minidl.set_num_threads(1)
        alone = found()
        minidl.set_num_threads(3)
        assert found() == alone
    finally:
        minidl.set_num_threads(before)


# Repeated indices -----------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [[], [2], [0, 1, 3], [3, 3, 0, 3, 1, 3, 0], [1] * 9])
def test_rows_are_added_to_a_table_in_any_order(rows):
    rng = np.random.default_rng(0)
    table, values = rng.normal(size=(4, 2)), rng.normal(size=(len(rows), 2))
    wanted, given = table.copy(), values.copy()
    np.add.at(wanted, np.array(rows, int), values)
    add_rows(table, np.array(rows, int), values)
    np.testing.assert_allclose(table, wanted, rtol=1e-12)
    assert np.array_equal(values, given)


@pytest.mark.parametrize(
    "index",
    [
        np.array([[0, 2], [2, -1]]),
        (np.array([0, 1, 0]), np.array([2, 0, 2])),
        (np.array([[0], [-1]]), np.array([1, 1, 0])),
        (slice(None), np.array([1, 1])),
        np.array([True, False, True]),
        (1, np.array([0, 0])),
        (Ellipsis, np.array([0, 0, 1])),
        np.array(2, np.uint8),
    ],
    ids=str,
)
def test_index_add_is_numpy_s(index):
    target = np.random.default_rng(0).normal(size=(3, 4, 2))
    values = np.random.default_rng(1).normal(size=target[index].shape)
    wanted = target.copy()
    np.add.at(wanted, index, values)
    for laid in (target.copy(), np.asfortranarray(target)):
        Backend().index_add(laid, index, values)
        np.testing.assert_allclose(laid, wanted, rtol=1e-12)
