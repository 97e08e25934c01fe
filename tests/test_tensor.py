"""Tensor: operands, ties, dtypes, indices, views, copies, errors (operations: `test_ops.py`)."""

from __future__ import annotations

import copy
import gc
import math
import operator
import pickle
import weakref

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

import minidl
from minidl import Tensor, nn


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def positive(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0.5, 2, size=shape)


def gradient_of(fn, array, **options):
    x = Tensor(np.asarray(array, np.float64), requires_grad=True, **options)
    y = fn(x)
    y.backward(minidl.ones(y.shape, device=y.device))
    return x.grad.numpy().tolist()


# Operands and indices


BINARY = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": operator.pow,
}


@pytest.mark.parametrize("name", BINARY)
def test_arrays_and_numbers_may_come_first(name, device):
    fn = BINARY[name]
    array = positive(3)
    x = Tensor(positive(2, 3, seed=1), device=device, requires_grad=True)
    beside = x.backend.from_numpy(array)
    for left in (beside, 2, 2.5, np.float64(2.5)):
        plain = array if left is beside else left
        result = fn(left, x)
        assert isinstance(result, Tensor)
        np.testing.assert_allclose(result.numpy(), fn(plain, x.numpy()))
        np.testing.assert_allclose(fn(x, left).numpy(), fn(x.numpy(), plain))


def test_a_cast_passes_gradients_on_in_the_old_dtype(device):
    x = Tensor([1.0, 2.0], device=device, requires_grad=True)
    x.to(dtype=np.float64).sum().backward()
    assert x.grad.dtype == np.float32


def test_moving_between_devices_passes_gradients_on():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = x.to("guarded") * 3
    assert y.device == "guarded"
    (y * y).sum().backward()
    assert x.grad.device == "cpu"
    assert x.grad.numpy().tolist() == [18.0, 36.0]


@hypothesis.given(st.data())
def test_any_index_selects_as_in_numpy_and_sends_gradients_back(data):
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=4))
    basic = hnp.basic_indices(shape, allow_newaxis=True)
    index = data.draw(basic | hnp.integer_array_indices(shape))
    a = values(*shape)
    x = Tensor(a, requires_grad=True)
    y = x[index]
    assert np.array_equal(y.numpy(), a[index])
    weight = values(*y.shape, seed=1)
    (y * weight).sum().backward()
    wanted = np.zeros(shape)
    np.add.at(wanted, index, weight)
    np.testing.assert_allclose(x.grad.numpy(), wanted)


def test_an_index_may_be_a_tensor_on_the_same_device(device):
    x = Tensor(values(3, 2), device=device)
    rows = Tensor(np.array([2, 0]), device=device)
    assert np.array_equal(x[rows].numpy(), x.numpy()[[2, 0]])


def test_changing_an_index_afterwards_does_not_move_the_gradient():
    rows = np.array([0, 0])
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = x[rows].sum()
    rows[:] = 1
    y.backward()
    assert x.grad.numpy().tolist() == [2.0, 0.0]


def test_changing_an_array_operand_afterwards_does_not_change_the_gradient(device):
    x = Tensor([1.0, 2.0], device=device, requires_grad=True)
    factors = x.backend.from_numpy(np.array([3.0, 4.0], np.float32))
    y = (x * factors).sum()
    factors[...] = 0
    y.backward()
    assert x.grad.numpy().tolist() == [3.0, 4.0]


# Ties and edges: expected values were computed with PyTorch 2.13

nan = math.nan


def test_equal_largest_elements_share_the_gradient():  # torch.amax, torch.max of all
    rows = [[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]
    third = 1 / 3
    assert gradient_of(lambda x: x.max(1), rows) == [[0, 0.5, 0.5], [third, third, third]]
    assert gradient_of(lambda x: x.max(), [1.0, 3.0, 3.0]) == [0, 0.5, 0.5]


def test_equal_smallest_elements_share_the_gradient():  # torch.amin
    assert gradient_of(lambda x: x.min(0), [1.0, 1.0, 3.0]) == [0.5, 0.5, 0]


def test_nan_is_the_largest_element_and_takes_the_gradient():  # torch.max of all
    assert math.isnan(Tensor([1.0, nan, 3.0]).max().item())
    assert gradient_of(lambda x: x.max(), [1.0, nan, nan, 3.0]) == [0, 0.5, 0.5, 0]
    assert gradient_of(lambda x: x.min(0), [1.0, nan, 3.0]) == [0, 1, 0]


def test_abs_has_gradient_zero_at_zero():  # torch.abs
    assert gradient_of(abs, [-2.0, 0.0, 3.0]) == [-1, 0, 1]


def test_clip_passes_gradients_at_its_ends():  # torch.clamp
    assert gradient_of(lambda x: x.clip(-1, 1), [-2.0, -1, 0, 1, 2, nan]) == [0, 1, 1, 1, 0, 0]
    assert gradient_of(lambda x: x.clip(low=0), [-1.0, 0, 1]) == [0, 1, 1]


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_pow_at_zero():  # torch.pow
    base = Tensor(np.array([0.0, 0, 0, 0, 0, 2, 2]), requires_grad=True)
    power = Tensor(np.array([0.0, 1, 2, 0.5, -1, 0, 3]), requires_grad=True)
    (base**power).sum().backward()
    inf = math.inf
    assert base.grad.numpy().tolist() == [0, 1, 0, inf, -inf, 0, 12]
    np.testing.assert_allclose(
        power.grad.numpy(), [0, 0, 0, 0, -inf, 0.6931471805599453, 5.545177444479562]
    )


@pytest.mark.parametrize(("power", "slope"), [(0, 0), (1, 1), (2, 0), (3, 0)])
def test_whole_powers_have_finite_gradients_at_zero(power, slope):  # torch.pow
    assert gradient_of(lambda x: x**power, [0.0]) == [slope]
    assert gradient_of(lambda x: x ** float(power), [0.0]) == [slope]


def test_square_has_its_second_derivative_at_zero():
    x = Tensor(0.0, requires_grad=True)
    (slope,) = minidl.grad(x**2, x, create_graph=True)
    assert minidl.grad(slope, x)[0].item() == 2


def test_a_power_of_zero_has_its_mixed_derivative():
    a, b = Tensor(2.0, np.float64, requires_grad=True), Tensor(0.0, np.float64, requires_grad=True)
    (slope,) = minidl.grad(a**b, a, create_graph=True)
    assert minidl.grad(slope, b)[0].item() == 0.5  # d(b a**(b-1))/db = 1/a at b = 0


@pytest.mark.parametrize("size", [1e-30, 1e-25, 1.0, 1e25, 1e30])
def test_the_gradient_of_a_division_does_not_square_the_divisor(size, device):
    """The square of 1e-25 is 0 in float32, that of 1e25 infinite."""
    a, b = (Tensor(np.float32([3, 4]) * np.float32(s), device=device) for s in (size, size))
    da, db = minidl.grad((a.requires_grad_() / b.requires_grad_()).sum(), [a, b])
    np.testing.assert_allclose(da.numpy(), 1 / b.numpy(), rtol=1e-6)
    np.testing.assert_allclose(db.numpy(), -1 / b.numpy(), rtol=1e-6)


@pytest.mark.parametrize("base", [0.0, 1e-45, 1e-39, 1e-20, 1e38, math.inf])
def test_a_power_of_0_has_no_gradient_however_small_the_base(base, device):
    x = Tensor([base], device=device, requires_grad=True)
    power = Tensor([0.0], device=device)
    (x**power).backward(minidl.ones(1, device=device))
    assert x.grad.numpy().tolist() == [0.0]


P_NORMS = [1, 1.5, 2, 3, math.inf]


@pytest.mark.parametrize("p", P_NORMS)
@pytest.mark.parametrize("size", [1e-38, 1e-30, 1.0, 1e30, 1e37])
def test_norms_stay_in_the_range_of_float32(p, size, device):
    values = np.array([[3.0, -4.0, 0.5], [1.0, 2.0, -2.0]])
    x = Tensor(np.float32(values * size), device=device, requires_grad=True)
    y = x.norm(p, 1)
    y.sum().backward()
    exact = Tensor(values, requires_grad=True)
    exact.norm(p, 1).sum().backward()
    wanted = np.linalg.norm(values, p, axis=1)
    np.testing.assert_allclose(y.numpy() / np.float32(size), wanted, rtol=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), exact.grad.numpy(), atol=1e-6)


@pytest.mark.parametrize("p", P_NORMS)
def test_the_gradient_of_a_norm_of_0_is_0_to_any_order(p, device):
    """The gradient of a square root of a sum of squares would be 0 / 0."""
    x = Tensor([[0.0, 0.0], [3.0, 4.0]], device=device, requires_grad=True)
    y = x.norm(p, 1)
    assert y.numpy()[0] == 0
    (slope,) = minidl.grad(y.sum(), x, create_graph=True)
    assert slope.numpy()[0].tolist() == [0.0, 0.0]
    assert slope.numpy()[1].any()
    curvature = minidl.hvp((x.norm(p, 1) ** 2).sum(), x, minidl.ones((2, 2), device=device))
    assert np.isfinite(curvature.numpy()).all()


def test_an_infinite_element_has_an_infinite_norm():
    for p in P_NORMS:
        assert Tensor([math.inf, 1.0]).norm(p).item() == math.inf
        assert math.isnan(Tensor([math.nan, 1.0]).norm(p).item())


def test_a_norm_of_no_power_is_refused():
    for p in (0, -1, math.nan):
        with pytest.raises(ValueError, match=r"norm: got p=.*, expected a number > 0"):
            minidl.ones(2).norm(p)


@pytest.mark.parametrize("ddof", [0, 1])
def test_a_standard_deviation_of_0_has_the_gradient_0(ddof, device):
    x = Tensor([[0.25, 0.25, 0.25], [1.0, 2.0, 3.0]], device=device, requires_grad=True)
    y = x.std(1, ddof=ddof)
    y.sum().backward()
    np.testing.assert_allclose(y.numpy(), np.std(x.numpy(), 1, ddof=ddof), rtol=1e-6)
    assert x.grad.numpy()[0].tolist() == [0.0, 0.0, 0.0]
    assert np.isfinite(x.grad.numpy()).all()


def test_standard_deviations_stay_in_range_and_keep_their_digits_far_from_0(device):
    spread = np.array([1.0, 2.0, 4.0])
    for values in (1e-30 * spread, 1e30 * spread, 4096 + spread):
        found = Tensor(np.float32(values), device=device).std().item()
        assert found == pytest.approx(np.float32(values).astype(float).std(), rel=1e-6)


def test_one_value_has_no_standard_deviation():
    with pytest.raises(ValueError, match="std: got 1 elements with ddof=1"):
        minidl.ones(1).std(ddof=1)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_sqrt_and_log_have_infinite_gradients_at_zero():  # torch.sqrt, torch.log
    assert gradient_of(lambda x: x.sqrt(), [0.0, 4.0]) == [math.inf, 0.25]
    assert gradient_of(lambda x: x.log(), [0.0, 4.0]) == [math.inf, 0.25]


# Dtypes

FLOATS = [np.float32, np.float64]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(
    "other",
    [
        2,
        2.0,
        True,
        np.float32(2),
        np.float64(2),
        np.int64(2),
        np.bool_(True),
        np.sqrt(2.0),
        np.array(2.0),
        Tensor(2.0, np.float64),
        Tensor(np.array([1, 2])),
        Tensor(np.array([True, True])),
    ],
    ids=repr,
)
def test_numbers_and_integers_do_not_change_a_float_dtype(dtype, name, other):
    x = Tensor([1.0, 2.0], dtype)
    assert BINARY[name](x, other).dtype == dtype
    assert BINARY[name](other, x).dtype == dtype


def test_a_wider_float_array_widens():
    assert (Tensor([1.0]) + np.array([1.0])).dtype == np.float64
    assert (Tensor([1.0]) * Tensor([1.0], np.float64)).dtype == np.float64
    assert (Tensor(1.0) * Tensor(1.0, np.float64)).dtype == np.float64


@pytest.mark.parametrize(
    ("a", "b", "dtype"),
    [
        (np.array([1]), 2, np.int64),
        (np.array([1], np.int32), 2, np.int32),
        (np.array([1], np.uint8), 2, np.uint8),
        (np.array([1], np.uint8), np.array([-1], np.int8), np.int16),
        (np.array([1], np.int32), np.array(2), np.int32),
        (np.array([1], np.int32), np.array([2]), np.int64),
        (np.array([1]), 2.5, np.float32),
        (np.array([True]), 2, np.int64),
        (np.array([True]), 2.5, np.float32),
        (np.array([True]), np.array([True]), np.bool_),
        (np.array([1]), np.array([2.5], np.float32), np.float32),
    ],
)
def test_integers_and_bools_follow_the_stated_rule(a, b, dtype):
    assert (Tensor(a) + b).dtype == dtype
    assert (b + Tensor(a)).dtype == dtype


def test_integers_become_float32_where_the_result_is_not_whole():
    x = Tensor(np.array([1, 2, 4]))
    for result in (x / 2, 2 / x, x / x, x.exp(), x.log(), x.sqrt(), x.tanh(), x.mean(), x.var()):
        assert result.dtype == np.float32
    assert x.sum().dtype == np.int64
    assert x.clip(0, 2).dtype == np.int64
    assert x.clip(0, 2.5).dtype == np.float32


# Making tensors


def test_python_floats_become_float32_and_arrays_keep_their_dtype():
    assert Tensor([1.0, 2.0]).dtype == np.float32
    assert Tensor(1.0).dtype == np.float32
    assert Tensor([1, 2]).dtype == np.int64
    assert Tensor([True]).dtype == np.bool_
    assert Tensor(np.zeros(2)).dtype == np.float64
    assert Tensor(np.float64(1)).dtype == np.float64
    assert Tensor(np.zeros(2), np.float32).dtype == np.float32
    assert Tensor(Tensor([1.0], np.float64)).dtype == np.float64


def test_a_tensor_copies_what_it_is_made_of():
    array = np.zeros(2)
    x = Tensor(array)
    array[:] = 1
    assert x.numpy().tolist() == [0, 0]
    x.numpy()[:] = 2
    assert x.numpy().tolist() == [0, 0]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("text", {}, "dtype <U4, expected real numbers"),
        (None, {}, "dtype object, expected real numbers"),
        ([1j], {}, "dtype complex128, expected real numbers"),
        ([1.0], {"dtype": complex}, "dtype complex128, expected float32 or float64"),
        ([1.0], {"dtype": np.float16}, "dtype float16, expected float32 or float64"),
        (np.zeros(1, np.float16), {}, "dtype float16, expected float32 or float64"),
        ([1, 2], {"requires_grad": True}, "dtype int64, only floats have gradients"),
        ([True], {"requires_grad": True}, "dtype bool, only floats have gradients"),
    ],
)
def test_what_is_no_tensor_is_refused(data, options, message):
    with pytest.raises(TypeError, match=message):
        Tensor(data, **options)


def test_half_precision_data_can_be_asked_for_in_another_dtype():
    assert Tensor(np.ones(2, np.float16), np.float32).numpy().tolist() == [1, 1]


def test_a_ragged_list_is_refused():
    words = "Tensor: got a list, expected real numbers in rows of equal length: .*inhomogeneous"
    with pytest.raises(ValueError, match=words):
        Tensor([[1.0], [1.0, 2.0]])


@pytest.mark.parametrize("data", [1.0, [1.0, 2.0]])
def test_a_list_of_tensors_is_refused_with_a_hint(data):
    with pytest.raises(
        TypeError, match=r"Tensor: got a list, .*join a list of tensors with stack\(\)"
    ):
        Tensor([Tensor(data), Tensor(data)])


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="device='gpu', expected 'cpu' or 'cuda'"):
        Tensor(1.0, device="gpu")


def test_what_a_tensor_says_of_itself(device):
    x = Tensor(np.zeros((2, 3), np.float32), device=device)
    assert (x.shape, x.ndim, x.size, x.dtype, x.device) == ((2, 3), 2, 6, np.float32, device)
    assert len(x) == 2
    assert [row.shape for row in x] == [(3,), (3,)]
    assert x.is_leaf
    assert not x.requires_grad


def test_repr_shows_values_dtype_device_and_gradient():
    assert repr(Tensor([1.0])) == "Tensor([1.], dtype=float32)"
    assert repr(Tensor([1.0], requires_grad=True)).endswith("requires_grad=True)")
    assert "device='guarded'" in repr(Tensor([1.0], device="guarded"))


def test_one_element_becomes_a_python_number(device):
    x = Tensor([[2.5]], device=device)
    assert isinstance(x.item(), float)
    assert float(x) == 2.5
    assert bool(x > 2)
    assert bool(x)
    with pytest.raises(
        ValueError, match=r"Tensor.item: got shape \(2,\), expected a single element"
    ):
        Tensor([1.0, 2.0]).item()


def test_a_single_number_is_formatted_and_counts():
    loss, count = Tensor(0.12345, requires_grad=True), Tensor(3)
    assert f"{loss:.3f}" == "0.123"
    assert f"{loss}" == str(loss)
    assert f"{count:03d}" == "003"
    assert int(Tensor(2.7)) == 2
    assert list(range(count)) == [0, 1, 2]
    assert "abcd"[count] == "d"
    with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
        range(loss)
    with pytest.raises(ValueError, match=r"got shape \(2,\), expected a single element"):
        f"{Tensor([1.0, 2.0]):.3f}"


def test_length_of_a_number_is_refused():
    with pytest.raises(TypeError, match="len\\(\\) of a tensor without axes"):
        len(Tensor(1.0))


def test_comparisons_give_arrays_of_bools(device):
    a, b = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
    x, y = Tensor(a, device=device), Tensor(b, device=device)
    for compare in (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge):
        for other in (y, 2, 2.0, np.float64(2)):
            found = compare(x, other)
            assert type(found) is type(x.array)
            assert x.backend.to_numpy(found).tolist() == compare(a, b).tolist()


def test_a_small_integer_can_be_compared_with_any_number():
    labels = Tensor(np.array([0, 255], np.uint8))
    assert (labels == -1).tolist() == [False, False]
    assert (labels >= -1).tolist() == [True, True]


def test_tensors_do_not_hash():
    with pytest.raises(TypeError, match="unhashable"):
        hash(Tensor(1.0))


def test_numpy_functions_do_not_swallow_tensors():
    with pytest.raises(TypeError, match="got a Tensor, expected arrays"):
        np.exp(Tensor([1.0]))


# Data and its changes


def test_data_is_read_only():
    x = Tensor([1.0, 2.0])
    with pytest.raises(ValueError, match="read-only"):
        x.data[0] = 5
    with pytest.raises(ValueError, match="read-only"):
        (x * 2).data[0] = 5


def test_mutable_gives_write_access_for_a_while(device):
    x = Tensor([1.0, 2.0], device=device)
    with x.mutable() as array:
        array += 1
    assert x.numpy().tolist() == [2, 3]


def test_mutable_of_a_view_is_refused():
    with pytest.raises(ValueError, match=r"shape \(1,\) is a view of another one; change that one"):
        Tensor([1.0, 2.0])[1:].mutable().__enter__()


def test_mutable_blocks_nest(device):
    x = Tensor([1.0, 2.0], device=device)
    with x.mutable() as array:
        with x.mutable() as inner:
            inner += 1
        with x.detach().mutable() as inner:
            inner += 1
        array += 1
    assert x.numpy().tolist() == [4, 5]


def test_a_mutable_block_inside_another_locks_what_it_opened():
    x = Tensor([1.0, 2.0])
    view = x[1:]
    with x.mutable():
        with view.mutable() as part:
            part += 1
        with pytest.raises(ValueError, match="read-only"):
            view.data[0] = 5
    with pytest.raises(ValueError, match="read-only"):
        x.data[0] = 5
    assert x.numpy().tolist() == [1, 3]


def test_assigning_to_a_part_names_mutable(device):
    x = Tensor([1.0, 2.0], device=device)
    with pytest.raises(TypeError, match=r"`with x.mutable\(\) as array"):
        x[0] = 1
    with pytest.raises(TypeError, match=r"`with x.mutable\(\) as array"):
        x[0] += 1


def test_data_can_be_assigned(device):
    x = Tensor([1.0, 2.0], device=device)
    x.data = Tensor([3.0, 4.0], np.float64)
    assert x.numpy().tolist() == [3, 4]
    assert x.dtype == np.float32
    assert x.device == device


def test_data_of_another_shape_or_kind_is_refused():
    x = Tensor([1, 2])
    with pytest.raises(ValueError, match=r"Tensor.data: got shape \(1,\), expected \(2,\)"):
        x.data = np.array([1])
    with pytest.raises(TypeError, match=r"Tensor.data: got dtype float64, expected int64"):
        x.data = np.array([1.5, 2.5])


# Copies and pickles


COPIES = [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]


@pytest.mark.parametrize("duplicate", COPIES)
@pytest.mark.parametrize("kind", [Tensor, nn.Parameter, nn.Buffer])
def test_a_leaf_can_be_copied_and_pickled(kind, duplicate, device):
    x = kind(Tensor([1.0, 2.0], np.float64, device)).requires_grad_()
    x.grad = Tensor([3.0, 4.0], np.float64, device)
    y = duplicate(x)
    assert type(y) is kind
    assert (y.dtype, y.device, y.backend, y.requires_grad) == (x.dtype, device, x.backend, True)
    with y.mutable() as array, y.grad.mutable() as gradient:
        array += 1
        gradient += 1
    assert (y.numpy().tolist(), y.grad.numpy().tolist()) == ([2, 3], [4, 5])
    assert (x.numpy().tolist(), x.grad.numpy().tolist()) == ([1, 2], [3, 4])
    if device == "cpu":
        with pytest.raises(ValueError, match="read-only"):
            y.data[0] = 5


@pytest.mark.parametrize("duplicate", COPIES)
def test_copying_the_result_of_an_operation_says_detach(duplicate):
    y = Tensor(1.0, requires_grad=True) * 2
    with pytest.raises(TypeError, match=r"got the result of 'mul'.*; detach\(\) it first"):
        duplicate(y)
    assert duplicate(y.detach()).item() == 2


def test_a_copied_model_trains_and_shares_what_was_shared():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    vars(model)["1"].weight = vars(model)["0"].weight
    twin = copy.deepcopy(model)
    first, second = vars(twin)["0"], vars(twin)["1"]
    assert first.weight is second.weight
    assert first.weight is not vars(model)["0"].weight
    x = minidl.ones(1, 2)
    assert np.array_equal(twin(x).numpy(), model(x).numpy())
    twin(x).sum().backward()
    assert all(p.grad is not None for p in twin.parameters())
    assert all(p.grad is None for p in model.parameters())


# Errors


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (5, r"getitem: got index 5 for shape \(2, 3\): "),
        ((0, 0, 0), r"getitem: got index \(0, 0, 0\) for shape \(2, 3\): too many indices"),
        ([0, 2], r"getitem: got index \[0, 2\] for shape \(2, 3\): .*out of bounds"),
        ((..., np.array([-4])), r"getitem: .*for shape \(2, 3\): .*out of bounds"),
        ((np.array([True, False]), [3]), r"getitem: .*out of bounds"),
        (([True, False], [[0], [3]]), r"getitem: .*out of bounds"),
        ([True, False, True], r"getitem: .*boolean"),
        ((None, [0, 1], np.array([[2, 3]])), r"getitem: .*out of bounds"),
        (1.5, r"getitem: got index 1.5 for shape \(2, 3\)"),
    ],
)
def test_an_index_out_of_range_is_named_on_every_device(index, message, device):
    with pytest.raises(IndexError, match=message):
        Tensor(values(2, 3), device=device)[index]


def test_an_index_beside_one_on_the_device_is_checked_too():
    x = Tensor(values(2, 3), device="guarded")
    rows = Tensor([0, 1], device="guarded")
    assert x[rows, [0, 2]].shape == (2,)
    with pytest.raises(IndexError, match="out of bounds"):
        x[rows, [0, 3]]


def test_reductions_take_axes_in_a_list(device):
    a = values(2, 3)
    x = Tensor(a, device=device)
    for name in ("sum", "mean", "max", "min", "var"):
        found = getattr(x, name)([0, 1])
        np.testing.assert_allclose(found.numpy(), getattr(a, name)((0, 1)))


def test_bools_have_no_difference(device):
    x = Tensor([True, False], device=device)
    for op, compute in (("sub", lambda: x - x), ("neg", lambda: -x)):
        with pytest.raises(
            TypeError, match=rf"{op}: got bools, expected numbers; convert with .to\("
        ):
            compute()


@pytest.mark.parametrize("dtype", ["complex64", "float16"])
def test_casting_to_a_dtype_that_tensors_do_not_have_is_refused(dtype):
    with pytest.raises(TypeError, match=f"to: got dtype {dtype}, expected float32 or float64"):
        Tensor([1.0]).to(dtype=dtype)


@pytest.mark.parametrize("dtype", ["float64", np.float64])
def test_a_dtype_in_the_place_of_a_device_is_recognised(dtype):
    with pytest.raises(ValueError, match=r"to: device=.*; pass a dtype by name: to\(dtype="):
        Tensor([1.0]).to(dtype)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x.sum(2), r"sum: got axis 2 for shape \(2, 3\)"),
        (lambda x: x.mean((0, 0)), r"mean: got axis \(0, 0\) for shape \(2, 3\)"),
        (lambda x: x.max(-3), r"max: got axis -3 for shape \(2, 3\)"),
        (lambda x: x[:0].mean(), r"mean: got no elements to average, shape \(0, 3\)"),
        (lambda x: x[:0].max(), r"max: got no elements, shape \(0, 3\) over axis None"),
        (lambda x: x.var(0, ddof=2), "var: got 2 elements with ddof=2, expected more than ddof"),
        (lambda x: x.clip(), "clip: got no limit, expected low, high, or both"),
        (lambda x: x.clip(2, 1), "clip: got low=2 > high=1"),
        (lambda x: x.reshape(4, 2), r"reshape: got 6 elements of shape \(2, 3\).*\(4, 2\)"),
        (lambda x: x.reshape(np.int64(4)), r"reshape: got 6 elements.*shape \(4,\)"),
        (lambda x: x.transpose(0, 0), r"transpose: got axis \(0, 0\) for shape \(2, 3\)"),
        (lambda x: x.transpose(0), r"transpose: got axes \(0,\), expected each of 2 axes once"),
        (lambda x: x.squeeze(0), r"squeeze: got shape \(2, 3\), expected length 1 at axis 0"),
        (lambda x: x.expand_dims(4), r"expand_dims: got axis 4 for shape \(2, 3\)"),
        (lambda x: x.broadcast_to((3,)), r"broadcast_to: got shapes \(2, 3\) and \(3,\); expected"),
        (lambda x: x.broadcast_to((1, 3)), r"broadcast_to: got shapes \(2, 3\) and \(1, 3\)"),
        (lambda x: x.expand_dims((0, 0)), r"expand_dims: got axis \(0, 0\) for shape \(2, 3\)"),
        (lambda x: x.broadcast_to((2, 4)), r"broadcast_to: got shapes \(2, 3\) and \(2, 4\)"),
        (lambda x: x + x[0, :2], r"add: got shapes \(2, 3\) and \(2,\); expected sizes"),
        (lambda x: x * x.T, r"mul: got shapes \(2, 3\) and \(3, 2\)"),
        (lambda x: x > x.T, r"gt: got shapes \(2, 3\) and \(3, 2\)"),
        (lambda x: x @ x, r"matmul: got shapes \(2, 3\) and \(2, 3\).*transposed"),
        (lambda x: x @ x.sum(), r"matmul: got shapes \(2, 3\) and \(\)"),
        (
            lambda x: x.broadcast_to((4, 2, 3)) @ x.T.broadcast_to((5, 3, 2)),
            r"matmul: got shapes \(4,\) and \(5,\)",
        ),
    ],
)
def test_wrong_values_are_named(wrong, message, device):
    with pytest.raises(ValueError, match=message):
        wrong(Tensor(values(2, 3), device=device))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x + "1", "add: got a str, expected a tensor, an array or a number"),
        (lambda x: x - None, "sub: got a NoneType, expected a tensor"),
        (lambda x: x * 1j, "mul: got a complex, expected"),
        (lambda x: x == [1.0], "eq: got a list, expected"),
        (lambda x: x / np.array([1j]), "div: got a ndarray of dtype complex128, expected"),
    ],
)
def test_wrong_operands_are_named(wrong, message):
    with pytest.raises(TypeError, match=message):
        wrong(Tensor([1.0]))


@pytest.mark.parametrize(
    ("name", "mix"),
    [
        ("add", operator.add),
        ("sub", operator.sub),
        ("mul", operator.mul),
        ("div", operator.truediv),
        ("pow", operator.pow),
        ("matmul", operator.matmul),
        ("lt", operator.lt),
        ("eq", operator.eq),
        ("maximum", minidl.maximum),
        ("where", lambda a, b: minidl.where(a > 0, a, b)),
        ("where", lambda a, b: minidl.where(b > 0, a, a)),
        ("concatenate", lambda a, b: minidl.concatenate([a, b])),
        ("getitem", lambda a, b: a[b.to(dtype=np.int64)]),
        ("backward", lambda a, b: (a * 1).backward(b)),
        ("einsum", lambda a, b: minidl.einsum("i,i->", a, b)),
    ],
)
def test_mixing_devices_names_both_and_the_cure(name, mix):
    there = Tensor([1.0], device="guarded", requires_grad=True)
    here = Tensor([1.0])
    cure = r"'guarded' and (tensors on )?'cpu'; move one with .to\('guarded'\)"
    with pytest.raises(TypeError, match=f"{name}: got (a condition on|tensors on) {cure}"):
        mix(there, here)


def test_an_array_on_another_device_is_refused_too():
    with pytest.raises(TypeError, match="mul: got tensors on 'guarded' and 'cpu'"):
        Tensor([1.0], device="guarded") * np.ones(1)


# Changes through data --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w", "w.grad"])
@pytest.mark.parametrize("form", ["-= change", "+= change", "*= 0.5", "/= 2", "-= Tensor(change)"])
def test_in_place_operators_of_data_change_the_tensor(name, form):
    w = Tensor([1.0, 2.0], requires_grad=True)
    (w * w).sum().backward()
    names = {"w": w, "change": np.array([0.5, 0.25], np.float32), "Tensor": Tensor}
    expected = eval(f"{name}.numpy() {form[0]} {form[3:].replace('Tensor', '')}", names)
    exec(f"{name}.data {form}", names)
    np.testing.assert_array_equal(eval(name, names).numpy(), expected)
    exec(f"array = {name}.data\narray {form}", names)  # by way of a name, too
    expected = eval(
        f"expected {form[0]} {form[3:].replace('Tensor', '')}", names | {"expected": expected}
    )
    np.testing.assert_array_equal(eval(name, names).numpy(), expected)


def test_a_change_through_data_is_counted():
    w = Tensor([1.0, 2.0], requires_grad=True)
    loss = (w * w).sum()
    w.data *= 2
    with pytest.raises(RuntimeError, match="changed"):
        loss.backward()


def test_what_is_computed_from_data_is_a_plain_array():
    x = Tensor([[1.0, 4.0]])
    for found in (
        x.data + 1,
        np.sqrt(x.data),
        x.data.sum(),
        x.data @ x.data.T,
        Tensor(x.data).array,
    ):
        assert type(found) in (np.ndarray, np.float32)
    assert repr(x.data) == repr(x.numpy())
    assert type(pickle.loads(pickle.dumps(x.data))) is np.ndarray
    part, own = x.data[0], x.data.copy()
    own -= 1
    own[0] = 7
    with pytest.raises(ValueError, match="mutable"):
        part -= 1
    with pytest.raises(ValueError, match="mutable"):
        x.data[0] = 1
    np.testing.assert_array_equal(x.numpy(), [[1, 4]])


def test_an_array_does_not_keep_its_tensor_alive():
    x = Tensor([1.0, 2.0])
    array, tensor = x.data, weakref.ref(x)
    del x
    gc.collect()
    assert tensor() is None
    np.testing.assert_array_equal(array, [1, 2])
    with pytest.raises(ValueError, match="mutable"):
        array -= 1
