"""The autograd engine: order, accumulation, freeing, stale arrays, recording, errors."""

from __future__ import annotations

import contextlib
import operator
import threading
import weakref

import numpy as np
import pytest

import minidl
from minidl import Tensor, autograd
from minidl.tensor import record


def leaf(*values, dtype=np.float64, device="cpu"):
    return Tensor(np.array(values, dtype), device=device, requires_grad=True)


# Accumulation


def test_a_tensor_used_several_times_gets_every_share():
    x = leaf(2.0, 3.0)
    (x * x + x).sum().backward()
    assert x.grad.numpy().tolist() == [5, 7]


def test_a_diamond_is_differentiated_once_per_tensor():
    calls = []

    def counted(x):
        def backward(gradient):
            calls.append(1)
            return (gradient * 2,)

        return record("counted", x.data * 2, (x,), backward)

    x = leaf(1.0)
    y = counted(x)
    (y * y + y.exp() + y).sum().backward()
    assert len(calls) == 1


def test_two_backwards_add_up():
    x = leaf(1.0, 2.0)
    (x * 3).sum().backward()
    (x * 4).sum().backward()
    assert x.grad.numpy().tolist() == [7, 7]


def test_a_backward_leaves_an_earlier_gradient_array_as_it_was():
    x = leaf(1.0)
    (x * 3).sum().backward()
    before = x.grad
    (x * 4).sum().backward()
    assert before.item() == 3


@pytest.mark.parametrize(
    "fn",
    [
        lambda a, b: a + b,
        lambda a, b: (a + b) * 1,
        lambda a, b: a - b,
        lambda a, b: (a + b).reshape(4),
        lambda a, b: minidl.where(np.array([[True, False]] * 2), a, b),
        lambda a, b: minidl.concatenate([a, b]),
    ],
)
def test_no_two_gradients_share_memory(fn):
    a, b = leaf([1.0, 2.0], [3.0, 4.0]), leaf([1.0, 2.0], [3.0, 4.0])
    y = fn(a, b)
    seed = minidl.ones(y.shape, dtype=np.float64)
    y.backward(seed)
    arrays = [a.grad.data, b.grad.data, seed.data, a.data, b.data]
    for i, first in enumerate(arrays):
        assert not any(np.shares_memory(first, other) for other in arrays[i + 1 :])


def test_changing_one_gradient_in_place_changes_no_other():
    a, b = leaf(1.0, 2.0), leaf(1.0, 2.0)
    ((a + b) * 1).sum().backward()
    with a.grad.mutable() as array:
        array *= 0
    assert b.grad.numpy().tolist() == [1, 1]


def test_the_gradient_of_a_sum_can_be_written_to():
    x = leaf(1.0, 2.0)
    x.sum().backward()
    with x.grad.mutable() as array:
        array += 1
    assert x.grad.numpy().tolist() == [2, 2]


def test_a_leaf_can_be_differentiated_by_itself():
    x = leaf(3.0)
    x.sum().backward()
    y = Tensor(3.0, requires_grad=True)
    y.backward()
    assert (x.grad.numpy().tolist(), y.grad.item()) == ([1], 1)


def test_tensors_that_need_no_gradient_get_none():
    x, y = leaf(1.0), Tensor([2.0])
    (x * y).sum().backward()
    assert y.grad is None


def test_no_work_is_done_for_inputs_that_need_no_gradient():
    x, y = leaf(1.0), Tensor([2.0])
    node = (x * y).node
    assert node.rule(Tensor([1.0]))[1] is None


# Gradients of gradients


def test_a_gradient_penalty_trains_through_backward():
    x = leaf(1.0, 2.0)
    (slope,) = minidl.grad((x**3).sum(), x, create_graph=True)
    (slope * slope).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 36 * np.array([1.0, 2.0]) ** 3)


def test_backward_with_create_graph_makes_gradients_differentiable():
    x = leaf(3.0)
    (x**2).sum().backward(create_graph=True)
    first, x.grad = x.grad, None
    assert first.requires_grad
    first.sum().backward()
    assert x.grad.item() == 2


def test_gradients_are_not_recorded_unless_asked_for():
    x = leaf(3.0)
    (x**2).sum().backward()
    assert not x.grad.requires_grad
    assert x.grad.is_leaf


# Errors of backward


def test_backward_of_several_numbers_needs_a_gradient():
    with pytest.raises(
        ValueError, match=r"output of shape \(2,\), expected a single number such as"
    ):
        (leaf(1.0, 2.0) * 2).backward()


def test_backward_expects_a_gradient_of_the_outputs_shape():
    with pytest.raises(ValueError, match=r"got a gradient of shape \(3,\), expected \(2,\)"):
        (leaf(1.0, 2.0) * 2).backward(np.ones(3))


def test_backward_takes_arrays_of_any_float_dtype():
    x = leaf(1.0, 2.0, dtype=np.float32)
    (x * 2).backward(np.array([1.0, 10.0]))
    assert x.grad.dtype == np.float32
    assert x.grad.numpy().tolist() == [2, 20]


def test_backward_of_what_needs_no_gradient_is_refused():
    with pytest.raises(RuntimeError, match="not computed from any tensor that requires a gradient"):
        (Tensor([1.0]) * 2).sum().backward()


def test_backward_says_that_recording_is_off():
    x = leaf(1.0)
    with minidl.no_grad(), pytest.raises(RuntimeError, match=r"recording is off \(no_grad\)"):
        (x * 2).sum().backward()


def test_a_second_backward_says_what_to_do():
    y = (leaf(1.0) * 2).sum()
    y.backward()
    with pytest.raises(
        RuntimeError,
        match="backward through 'sum' a second time: its graph was freed by the first backward; "
        "pass retain_graph=True to the first one to keep it",
    ):
        y.backward()


def test_a_leaf_takes_a_gradient_that_nobody_else_holds():
    """Copying it would take as long as many operations do."""
    made = []

    def rule(gradient: Tensor) -> list[Tensor]:
        array = np.full(3, 2.0)
        made.append(array.ctypes.data)
        return [Tensor.wrap(array)]

    x = Tensor([1.0, 2.0, 3.0], dtype=np.float64, requires_grad=True)
    record("mine", x.data * 2, (x,), rule).sum().backward()
    assert x.grad.data.ctypes.data == made[0]


@pytest.mark.parametrize("view", [False, True], ids=["whole", "view"])
@pytest.mark.parametrize(
    "hold",
    [lambda array: array, lambda array: array[1:], memoryview, Tensor.wrap],
    ids=["array", "view", "buffer", "tensor"],
)
def test_a_gradient_that_somebody_holds_is_copied(hold, view):
    kept = []

    def rule(gradient: Tensor) -> list[Tensor]:
        array = np.full(3, 2.0)
        kept.append(hold(array))
        return [Tensor.wrap(array[:] if view else array)]

    x = Tensor([1.0, 2.0, 3.0], dtype=np.float64, requires_grad=True)
    record("mine", x.data * 2, (x,), rule).sum().backward()
    held = kept[0].data if isinstance(kept[0], Tensor) else np.asarray(kept[0])
    assert not np.shares_memory(held, x.grad.data)


def test_a_tensor_that_a_rule_keeps_is_copied():
    kept = Tensor(np.full(3, 2.0))
    x = Tensor([1.0, 2.0, 3.0], dtype=np.float64, requires_grad=True)
    record("mine", x.data * 2, (x,), lambda gradient: [kept]).sum().backward()
    assert not np.shares_memory(kept.data, x.grad.data)


def test_a_gradient_that_is_a_view_of_a_tensor_can_be_made_mutable():
    weight = Tensor(np.ones((2, 3)), requires_grad=True)
    (minidl.ones((4, 3), dtype=np.float64) @ weight.T).sum().backward()
    with weight.grad.mutable() as array:
        array *= 2
    assert weight.grad.numpy().tolist() == [[8] * 3] * 2


def test_a_gradient_that_a_hook_made_with_a_graph_is_taken_without_it():
    x = leaf(1.0, 2.0)
    x.register_hook(lambda gradient: Tensor(np.ones(2), requires_grad=True))
    (x * 2).sum().backward()
    assert not x.grad.requires_grad


def test_memory_that_is_no_array_s_is_copied():
    x = Tensor([1.0, 2.0, 3.0], dtype=np.float64, requires_grad=True)
    foreign = lambda gradient: [Tensor.wrap(np.ndarray(3, buffer=bytearray(24)))]  # noqa: E731
    record("mine", x.data * 2, (x,), foreign).sum().backward()
    assert x.grad.numpy().tolist() == [0, 0, 0]


def test_a_gradient_does_not_keep_a_larger_array_alive():
    x = Tensor([1.0, 2.0, 3.0], dtype=np.float64, requires_grad=True)
    large = lambda gradient: [Tensor.wrap(np.ones(1000)[:3])]  # noqa: E731
    record("mine", x.data * 2, (x,), large).sum().backward()
    assert x.grad.data.base is None or x.grad.data.base.size == 3


def test_a_second_backward_through_a_shared_part_is_refused_too():
    x = leaf(1.0)
    shared = x.exp()
    (shared * 2).sum().backward()
    with pytest.raises(RuntimeError, match="backward through 'exp' a second time"):
        (shared * 3).sum().backward()


def test_retain_graph_allows_a_second_backward():
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.numpy().tolist() == [4, 8]


def test_requires_grad_cannot_be_taken_from_a_result():
    with pytest.raises(RuntimeError, match=r"this is an operation's result; use detach\(\)"):
        (leaf(1.0) * 2).requires_grad_(False)


def test_a_gradient_of_another_shape_or_dtype_cannot_be_stored():
    x = leaf(1.0, 2.0)
    with pytest.raises(ValueError, match=r"Tensor.grad: got shape \(1,\) and float64"):
        x.grad = Tensor(np.zeros(1))
    with pytest.raises(
        ValueError, match=r"got shape \(2,\) and float32, expected \(2,\) and float64"
    ):
        x.grad = Tensor([0.0, 0.0])


def test_a_gradient_is_a_tensor_on_the_same_device():
    x = leaf(1.0, 2.0)
    with pytest.raises(TypeError, match=r"Tensor.grad: got a ndarray, expected a Tensor or None"):
        x.grad = np.zeros(2)
    with pytest.raises(TypeError, match=r"Tensor.grad: got tensors on 'cpu' and 'guarded'"):
        x.grad = Tensor([0.0, 0.0], np.float64, "guarded")


def test_requires_grad_is_checked_however_it_is_set():
    for data in ([1, 2], [True]):
        with pytest.raises(TypeError, match="only floats have gradients"):
            Tensor(data).requires_grad = True
    with pytest.raises(RuntimeError, match=r"this is an operation's result; use detach\(\)"):
        (leaf(1.0) * 2).requires_grad = False


IN_PLACE = [getattr(operator, f"i{n}") for n in ("add", "sub", "mul", "truediv", "pow", "matmul")]


@pytest.mark.parametrize("update", IN_PLACE)
def test_updating_a_leaf_by_an_operator_is_refused(update):
    p = leaf(1.0, 2.0)
    for context in (minidl.no_grad, contextlib.nullcontext):
        with context(), pytest.raises(TypeError, match=r"`with p.mutable\(\) as array: array -="):
            update(p, Tensor([1.0, 2.0], np.float64))
    assert p.numpy().tolist() == [1, 2]


def test_what_the_message_says_trains():
    p = leaf(1.0, 2.0)
    (p * p).sum().backward()
    with p.mutable() as array:
        array -= 0.25 * p.grad.data
    assert p.numpy().tolist() == [0.5, 1]


def test_sums_may_be_kept_with_an_operator():
    x, total = leaf(3.0), 0.0
    for _ in range(2):
        total += x * x
    plain = Tensor([1.0], np.float64)
    plain *= x
    (total + plain).sum().backward()
    assert x.grad.numpy().tolist() == [13]


# .grad of results of operations


def test_grad_of_a_result_says_how_to_keep_it():
    x = leaf(1.0)
    y = x * 2
    y.sum().backward()
    with pytest.warns(UserWarning, match=r"call retain_grad\(\) on it before backward to store it"):
        assert y.grad is None


def test_retain_grad_keeps_it():
    x = leaf(1.0, 3.0)
    y = (x * 2).retain_grad()
    (y * y).sum().backward()
    assert y.grad.numpy().tolist() == [4, 12]


# Wrong rules


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda g: (), "0 gradients for 1 inputs"),
        (lambda g: (g, g), "2 gradients for 1 inputs"),
        (lambda g: (Tensor(np.ones(3)),), r"shape \(3,\) for input 0, whose shape is \(2,\)"),
        (lambda g: (Tensor(np.ones((4, 3))),), r"shape \(4, 3\) for input 0"),
        (lambda g: (g.to(dtype=np.float32),), "dtype float32 for input 0, whose dtype is float64"),
        (lambda g: (g.to("guarded"),), "device guarded for input 0, whose device is cpu"),
    ],
)
def test_a_wrong_rule_is_named(returned, message):
    x = leaf(1.0, 2.0)
    y = record("odd", x.data * 2, (x,), returned)
    with pytest.raises(RuntimeError, match=f"the gradient rule of 'odd' returned {message}"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("returned", "kind"), [(lambda g: (g.array,), "ndarray"), (lambda g: (2.0,), "float")]
)
def test_a_rule_that_returns_no_tensor_is_named(returned, kind):
    x = leaf(1.0, 2.0)
    y = record("odd", x.data * 2, (x,), returned)
    message = f"the gradient rule of 'odd' returned {kind} for input 0, expected a Tensor"
    with pytest.raises(TypeError, match=message):
        y.sum().backward()


# Arrays that change between forward and backward


def change(tensor):
    with tensor.mutable() as array:
        array += 1


def test_a_changed_input_is_refused():
    x, w = leaf(1.0), leaf(2.0)
    y = (x * w).sum()
    change(w)
    with pytest.raises(RuntimeError, match=r"input 1 of 'mul', of shape \(1,\), was changed in pl"):
        y.backward()


def test_assigning_data_counts_as_a_change():
    x = leaf(1.0)
    y = (x * x).sum()
    x.data = np.array([3.0])
    with pytest.raises(RuntimeError, match=r"input 0 of 'mul'.*was changed in place"):
        y.backward()


def test_a_changed_output_is_refused_where_the_rule_reads_it():
    x = leaf(1.0)
    y = x.exp()
    change(y)
    with pytest.raises(RuntimeError, match=r"the output of 'exp', of shape \(1,\), was changed"):
        y.sum().backward()


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.reshape(4, 1),
        lambda x: x.T,
        lambda x: x[1:],
        lambda x: x[0],
        lambda x: x[0, 1:],
        lambda x: x.detach(),
        lambda x: x.squeeze(),
        lambda x: x.expand_dims(0),
        lambda x: x.broadcast_to((3, 2, 2)),
        lambda x: x.reshape(4)[1:].reshape(3, 1).T,
        lambda x: minidl.einsum("ij->ji", x),
    ],
)
def test_a_change_of_the_base_is_seen_through_any_view(view, device):
    x = leaf([1.0, 2.0], [3.0, 4.0], device=device)
    part = view(x).detach()
    w = Tensor(np.ones(part.shape), device=device, requires_grad=True)
    y = (w * part).sum()
    change(x)
    with pytest.raises(RuntimeError, match="input 1 of 'mul'"):
        y.backward()


def test_a_change_through_a_detached_tensor_is_seen():
    x = leaf(1.0)
    y = (x * x).sum()
    change(x.detach())
    with pytest.raises(RuntimeError, match="input 0 of 'mul'"):
        y.backward()


def test_a_change_inside_the_block_that_computed_is_seen():
    x = leaf(1.0)
    with x.mutable() as array:
        y = (x * x).sum()
        array += 1
    with pytest.raises(RuntimeError, match="input 0 of 'mul'"):
        y.backward()


def test_a_change_of_a_copy_is_none_of_the_original():
    x = leaf(1.0)
    copy = x.copy()
    y = (x * x).sum()
    change(copy.detach())
    y.backward()
    assert x.grad.item() == 2


def test_changing_after_backward_is_fine():
    x = leaf(2.0)
    for _ in range(3):
        x.grad = None
        (x * x).sum().backward()
        change(x)
    assert x.grad.item() == 8


# Recording


def test_no_grad_records_nothing():
    x = leaf(1.0)
    with minidl.no_grad():
        y = x * 2
    assert y.is_leaf
    assert not y.requires_grad


def test_recording_is_restored_when_a_block_fails():
    with pytest.raises(ZeroDivisionError), minidl.no_grad():
        raise ZeroDivisionError
    assert autograd.is_recording()


def test_recording_is_restored_when_a_rule_fails():
    def fails(gradient):
        raise ZeroDivisionError

    x = leaf(1.0)
    with pytest.raises(ZeroDivisionError):
        record("fails", x.data, (x,), fails).sum().backward()
    assert autograd.is_recording()


def test_blocks_nest():
    with minidl.no_grad():
        with autograd.set_recording(True):
            assert autograd.is_recording()
        assert not autograd.is_recording()


def test_each_thread_has_its_own_recording_state():
    seen = []
    with minidl.no_grad():
        thread = threading.Thread(target=lambda: seen.append(autograd.is_recording()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_detach_stops_gradients_but_shares_the_array():
    x = leaf(2.0)
    y = x.detach()
    assert np.shares_memory(x.data, y.data)
    (x * y).sum().backward()
    assert x.grad.item() == 2


# Size and memory


# Python stops at 1000 calls one inside the other.
many = pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])


@many
def test_many_thousand_operations_need_no_recursion(count):
    x = leaf(1.0)
    y = x
    for _ in range(count):
        y = y + x
    y.sum().backward()
    assert x.grad.item() == count + 1
    del y


@many
def test_a_long_graph_that_was_never_differentiated_is_deleted_without_recursion(count):
    y = leaf(1.0)
    for _ in range(count):
        y = y + 1
    node = weakref.ref(y)
    del y
    assert node() is None


OPERATIONS = {
    "arithmetic": lambda x: (x * 2 + 1 - x) / (x + 3),
    "pow": lambda x: x**2,
    "output in the rule": lambda x: x.exp().tanh().sqrt(),
    "max": lambda x: x.max(0),
    "matmul": lambda x: x @ x.T,
    "getitem": lambda x: x[[0, 0, 1]][:, 1:],
    "where": lambda x: minidl.where(x > 0, x, x * 2),
    "concatenate": lambda x: minidl.concatenate([x, x * 2]),
    "einsum": lambda x: minidl.einsum("ij,ij->i", x, x),
    "pad": lambda x: minidl.pad(x, [(1, 1), (0, 1)]),
    "clip": lambda x: x.clip(0, 1),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.usefixtures("no_collector")
def test_memory_is_freed_by_reference_counting(name, backward):
    x = leaf([1.0, 2.0], [3.0, 4.0])
    middle = x * 1
    y = OPERATIONS[name](middle)
    watched = [weakref.ref(t) for t in (middle, y)] + [weakref.ref(t.array) for t in (middle, y)]
    if backward:
        y.sum().backward()
    del middle, y
    assert [ref() for ref in watched] == [None] * 4


@pytest.mark.usefixtures("no_collector")
def test_backward_frees_what_the_graph_held_while_its_output_lives():
    x = leaf(1.0, 2.0)
    middle = x.exp()
    y = (middle * middle).sum()
    watched = weakref.ref(middle.array)
    del middle
    assert watched() is not None
    y.backward()
    assert watched() is None


# Hooks


def test_a_hook_sees_the_complete_gradient_once():
    x = leaf(1.0, 2.0)
    y = x * 3
    seen = []
    y.register_hook(lambda gradient: seen.append(gradient.numpy().tolist()))
    (y * y + y).sum().backward()
    assert seen == [[7, 13]]


@pytest.mark.parametrize("of_leaf", [True, False])
def test_a_hook_may_replace_the_gradient_before_it_is_kept_and_passed_on(of_leaf, device):
    x = leaf(1.0, 2.0, device=device)
    y = (x * 3).retain_grad()
    (x if of_leaf else y).register_hook(lambda gradient: gradient * 10)
    y.sum().backward()
    assert x.grad.numpy().tolist() == [30, 30]
    assert y.grad.numpy().tolist() == ([1, 1] if of_leaf else [10, 10])


def test_hooks_run_in_order_each_on_what_the_last_one_left():
    x = leaf(1.0)
    x.register_hook(lambda gradient: gradient + 1)
    x.register_hook(lambda gradient: gradient * 10)
    (x * 2).sum().backward()
    assert x.grad.item() == 30


def test_a_removed_hook_is_not_called():
    x = leaf(1.0)
    handle = x.register_hook(lambda gradient: gradient * 10)
    with x.register_hook(lambda gradient: gradient * 100):
        (x * 2).sum().backward()
    handle.remove()
    handle.remove()  # a second time does nothing
    (x * 2).sum().backward()
    assert x.grad.item() == 2000 + 2


def test_a_hook_is_called_by_grad_and_may_be_differentiated_through():
    x = leaf(3.0)
    y = x * 1
    y.register_hook(lambda gradient: gradient * y.detach() * 2)
    (slope,) = minidl.grad((y * y).sum(), x, create_graph=True)
    assert slope.item() == 2 * 3 * 3 * 2
    assert minidl.grad(slope.sum(), x)[0].item() == 2 * 3 * 2 * 3 * 2  # the hook runs again


def test_what_a_hook_returns_must_fit():
    x = leaf(1.0, 2.0)
    for returned, error, message in (
        (3.0, TypeError, "got a float, expected a Tensor or None"),
        (Tensor([1.0], np.float64), ValueError, r"got shape \(1,\) and float64, expected \(2,\)"),
        (Tensor([1.0, 1.0]), ValueError, r"got shape \(2,\) and float32"),
        (Tensor([1.0, 1.0], np.float64, "guarded"), TypeError, "'cpu' and 'guarded'"),
    ):
        with x.register_hook(lambda _, returned=returned: returned):
            with pytest.raises(error, match=f"register_hook: the function's result.*{message}"):
                (x * 2).sum().backward()
            assert x.grad is None


def test_a_hook_that_would_never_be_called_is_refused():
    with pytest.raises(RuntimeError, match="does not require a gradient, so the function"):
        Tensor(1.0).register_hook(print)
    with pytest.raises(TypeError, match="register_hook: got a int, expected a function"):
        leaf(1.0).register_hook(3)


def test_a_hook_cannot_write_to_a_gradient_that_others_are_given():
    a, b = leaf(1.0, 2.0), leaf(1.0, 2.0)

    def cleared(gradient):
        with gradient.mutable() as array:
            array *= 0

    with a.register_hook(cleared), pytest.raises(RuntimeError, match="modified the gradient in pl"):
        ((a + b) * 2).backward(Tensor([1.0, 1.0], np.float64))
    kept = []
    a.register_hook(kept.append)
    seed = Tensor([1.0, 1.0], np.float64)
    (a + b).backward(seed)
    with kept[0].mutable() as array:
        array[...] = 100
    assert seed.numpy().tolist() == [1, 1]
    assert a.grad.numpy().tolist() == [1, 1]


@pytest.mark.usefixtures("no_collector")
def test_a_handle_keeps_no_tensor_alive():
    y = leaf(1.0) * 2
    handle = y.register_hook(lambda gradient: None)
    watched = weakref.ref(y)
    del y
    assert watched() is None
    handle.remove()


def test_a_failing_hook_leaves_recording_and_other_gradients_as_they_were():
    x = leaf(1.0)
    x.register_hook(lambda gradient: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        (x * 2).sum().backward()
    assert autograd.is_recording()
    assert x.grad is None


def test_whole_numbers_end_the_graph():  # as in PyTorch: they have no gradients
    x = leaf(1.7, 2.2)
    y = x.to(dtype=np.int64)
    assert not y.requires_grad
    (x * y).sum().backward()
    assert x.grad.numpy().tolist() == [1, 2]
