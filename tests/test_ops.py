"""Every operation of the op table: value, gradients, dtypes, memory, and what it leaves alone."""

from __future__ import annotations

import functools
import inspect
import itertools
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

import minidl
from minidl import Tensor, gradcheck, nn
from minidl.backends import Backend, backend_for, backend_of

from .helpers import public
from .helpers.gradients import drawn_gradients
from .helpers.op_table import NOT_OPS, OPS, Case, Op, distinct

FLOATS = (np.float32, np.float64)


def named(op: Op, of: Case) -> str:
    shapes = ", ".join(str(array.shape) for array in of.arrays())
    return f"{op.name}: {op.written(of)} of {shapes}"


def wanted(op: Op, of: Case) -> np.ndarray:
    return np.asarray(op.reference(*of.arrays(), **of.options))


CASES = [pytest.param(op, of, id=named(op, of)) for op in OPS for of in op.cases]
each_op = pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
VIEWS = [c for c in CASES if c.values[1].view and np.size(wanted(*c.values))]
each_view = pytest.mark.parametrize(("op", "of"), VIEWS)
each_broadcasting_op = pytest.mark.parametrize(
    "op", [op for op in OPS if op.broadcasts], ids=lambda op: op.name
)


def on_each_case(test: Callable[..., None]) -> Callable[..., None]:
    """Make the test of a case that of an operation, on all its cases; a failure names the case.

    Most cases take less time than pytest needs for a test of their own.
    """

    def on_all(op: Op, **others: Any) -> None:
        for of in op.cases:
            minidl.manual_seed(0)  # as at the start of each test
            try:
                test(op, of, **others)
            except BaseException as error:
                error.add_note(f"in the case {named(op, of)}")
                raise

    signature = inspect.signature(test)
    kept = [p for name, p in signature.parameters.items() if name != "of"]
    functools.update_wrapper(on_all, test).__dict__.pop("__wrapped__")
    on_all.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return each_op(on_all)


def calling(op: Op, of: Case, backend: Backend, dtype: type = np.float64) -> Callable[..., Tensor]:
    """Return the case as a function of tensors on a device."""

    def on_device(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return backend.from_numpy(value)
        # A float of NumPy's widens no float32: minidl promises it, NumPy itself does not.
        return np.float64(value) if isinstance(value, float) and dtype == np.float32 else value

    options = {name: on_device(value) for name, value in of.options.items()}
    return lambda *tensors: op.fn(*tensors, **options)


def leaves(of: Case, device: str, dtype: type = np.float64) -> list[Tensor]:
    return [Tensor(array, dtype, device, requires_grad=True) for array in of.arrays()]


def counting(shape: tuple[int, ...], device: str, dtype: type = np.float64) -> Tensor:
    """Return an incoming gradient whose elements all differ: 1, 2, 3, ..."""
    return Tensor(1 + np.arange(np.prod(shape, dtype=int)).reshape(shape), dtype, device)


def drawn(op: Op, of: Case) -> str:
    """Return the text that `--show-gradients` prints for a case; empty tensors show nothing."""
    inputs = dict(zip(of.inputs, of.arrays(), strict=True))
    if not all(array.size for array in inputs.values()):
        return ""
    if not wanted(op, of).size:
        return ""
    constants = {name: v for name, v in of.options.items() if isinstance(v, np.ndarray)}
    return drawn_gradients(op.written(of), calling(op, of, backend_for("cpu")), inputs, constants)


# Values and gradients -------------------------------------------------------------------------


@on_each_case
def test_value_is_that_of_the_reference(op, of, device):
    output = calling(op, of, backend_for(device))(*leaves(of, device))
    assert output.device == device
    assert output.shape == wanted(op, of).shape
    np.testing.assert_allclose(output.numpy(), wanted(op, of), rtol=1e-12, atol=1e-12)


def to_check() -> Iterator[Any]:
    """Yield on which device to check which case, and whether only along random directions.

    Element by element takes long: by default, each operation's first case is checked so on the CPU
    and on the guarded device, and the others along directions on the CPU.
    """
    for device, op in itertools.product(("cpu", "guarded", "cuda"), OPS):
        gpu = [pytest.mark.gpu] if device == "cuda" else []
        for of in op.cases:
            full = pytest.param(device, op, of, False, id=f"{device}-{named(op, of)}", marks=gpu)
            if of is op.cases[0] or gpu:
                yield full
                continue
            yield pytest.param(*full.values, id=full.id, marks=pytest.mark.slow)
            if device == "cpu":
                yield pytest.param(device, op, of, True, id=f"cpu-directions-{named(op, of)}")


@pytest.mark.parametrize(("device", "op", "of", "fast"), [*to_check()], indirect=["device"])
def test_gradients_to_order_two_are_those_of_differences(op, of, fast, device, show_gradients):
    fn = calling(op, of, backend_for(device))
    if device == "cpu":
        show_gradients(drawn, op, of)
    report = gradcheck(fn, leaves(of, device), order=2, fast=fast)
    assert not any(found.kinks for found in report.checks), report


@on_each_case
@pytest.mark.parametrize("dtype", FLOATS, ids=["float32", "float64"])
def test_dtype_of_inputs_is_that_of_output_and_gradients(op, of, dtype, device):
    inputs = leaves(of, device, dtype)
    output = calling(op, of, backend_for(device), dtype)(*inputs)
    output.backward(counting(output.shape, device, dtype))
    assert output.dtype == dtype
    assert [x.grad.dtype for x in inputs] == [dtype] * len(inputs)
    np.testing.assert_allclose(output.numpy(), wanted(op, of), rtol=2e-5, atol=2e-5)


@each_broadcasting_op
@hypothesis.settings(max_examples=25)
@hypothesis.given(
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3, min_side=0)
)
def test_broadcasting_repeats_values_and_adds_up_gradients(op, shapes, device):
    """As if the inputs had been repeated first, and the gradients of the copies added up."""
    draws = op.cases[0].inputs.values()
    arrays = [
        type(draw)(draw.domain, s).array(i)
        for i, (draw, s) in enumerate(zip(draws, shapes.input_shapes, strict=True))
    ]
    inputs = [Tensor(a, device=device, requires_grad=True) for a in arrays]
    repeated = [
        Tensor(np.broadcast_to(a, shapes.result_shape), device=device, requires_grad=True)
        for a in arrays
    ]
    g = counting(shapes.result_shape, device)
    for operands in (inputs, repeated):
        output = op.fn(*operands)
        assert output.shape == shapes.result_shape
        np.testing.assert_allclose(output.numpy(), op.reference(*arrays), rtol=1e-12)
        output.backward(g)
    for x, copies in zip(inputs, repeated, strict=True):
        extra = len(shapes.result_shape) - x.ndim
        axes = [extra + i for i, size in enumerate(x.shape) if size == 1]
        added = copies.grad.numpy().sum((*range(extra), *axes)).reshape(x.shape)
        # A GPU adds in another order, so what cancels may leave another last bit.
        atol = 1e-14 if device == "cuda" else 0
        np.testing.assert_allclose(x.grad.numpy(), added, rtol=1e-12, atol=atol)


def axis_of(shape: tuple[int, ...]) -> st.SearchStrategy:
    return st.integers(-len(shape), len(shape) - 1)


def reduced_axes(shape: tuple[int, ...]) -> st.SearchStrategy:
    axis = st.none() | axis_of(shape) | hnp.valid_tuple_axes(len(shape))
    return st.fixed_dictionaries({"axis": axis, "keepdims": st.booleans()})


def one_axis(shape: tuple[int, ...]) -> st.SearchStrategy:
    return st.fixed_dictionaries({"axis": axis_of(shape)})


OPTIONS_WITH_AXES = {
    **dict.fromkeys(
        [f"Tensor.{name}" for name in ("sum", "mean", "var", "max", "min")], reduced_axes
    ),
    **dict.fromkeys(
        ["functional.softmax", "functional.log_softmax", "minidl.concatenate"], one_axis
    ),
    "Tensor.expand_dims": lambda shape: one_axis((*shape, 1)),
    "minidl.stack": lambda shape: one_axis((*shape, 1)),
    "Tensor.transpose": lambda shape: st.fixed_dictionaries(
        {"axes": st.permutations(range(len(shape))).map(tuple)}
    ),
}


@pytest.mark.parametrize("op", [op for op in OPS if op.name in OPTIONS_WITH_AXES], ids=repr)
@hypothesis.settings(max_examples=30)
@hypothesis.given(data=st.data(), shape=hnp.array_shapes(max_dims=4, max_side=3))
def test_any_axes_of_any_shape_give_the_value_and_gradient(op, data, shape, device):
    options = data.draw(OPTIONS_WITH_AXES[op.name](shape))
    of = Case({name: distinct(*shape) for name in list(op.cases[0].inputs)[:2]}, options)
    fn, inputs = calling(op, of, backend_for(device)), leaves(of, device)
    np.testing.assert_allclose(fn(*inputs).numpy(), wanted(op, of), rtol=1e-12, atol=1e-12)
    assert not any(found.kinks for found in gradcheck(fn, inputs, fast=True).checks)


def other_memory(array: np.ndarray, backend: Backend) -> Iterator[tuple[str, Any]]:
    """Yield an array's values in memory of other orders, on a device."""
    move, ndim = backend.from_numpy, array.ndim
    yield "Fortran", move(np.array(array.T, order="C")).T
    back = (slice(None, None, -1),) * ndim
    yield "reversed", move(np.array(array[back], order="C"))[back] if ndim else move(array)
    if ndim:
        yield "strided", move(np.repeat(array, 2, -1))[..., ::2]
    if ndim == 4:
        last = move(np.array(array.transpose(0, 2, 3, 1), order="C"))
        yield "channels last", last.transpose(0, 3, 1, 2)


@on_each_case
def test_order_in_memory_changes_neither_value_nor_gradient(op, of, device):
    """Of inputs as well as of the incoming gradient."""
    backend = backend_for(device)
    fn, plain = calling(op, of, backend), leaves(of, device)
    expected = fn(*plain)
    g = counting(expected.shape, device)
    expected.backward(g)
    orders = [dict(other_memory(array, backend)) for array in of.arrays()]
    for name in max(orders, key=len):
        inputs = [
            Tensor.wrap(order.get(name, order["Fortran"])).requires_grad_() for order in orders
        ]
        output = fn(*inputs)
        incoming = dict(other_memory(g.numpy(), backend))
        output.backward(Tensor.wrap(incoming.get(name, incoming["Fortran"])))
        np.testing.assert_allclose(output.numpy(), expected.numpy(), 1e-12, 1e-12, err_msg=name)
        for x, y in zip(inputs, plain, strict=True):
            np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), 1e-12, 1e-12, err_msg=name)


# What an operation leaves alone ---------------------------------------------------------------


def saved_arrays(output: Tensor) -> Iterator[tuple[str, Any]]:
    """Yield all arrays that a graph keeps for its backward: inputs, and what rules captured."""
    found, seen, queue = [], set(), [("output", output)]
    while queue:
        place, value = queue.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        found.append(value)  # keeps it alive, and its id its own
        if isinstance(value, Tensor):
            queue.append((place, value.data))
            if value.node is not None:
                queue += [(f"input of {value.node.op}", x) for x in value.node.inputs]
                queue.append((f"rule of {value.node.op}", value.node.rule))
        elif isinstance(value, types.FunctionType):
            cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
            queue += [(f"{name} in the {place}", cell.cell_contents) for name, cell in cells]
        elif isinstance(value, (list, tuple)):
            queue += [(place, part) for part in value]
        elif hasattr(value, "strides") and not isinstance(value, np.generic):
            yield place, value


def bytes_of(array: Any, backend: Backend) -> bytes:
    return backend.to_numpy(array).tobytes()


def share_memory(a: Any, b: Any, device: str) -> bool:
    if device == "cuda":
        # Of arrays without axes, CuPy compares the addresses of copies.
        a, b = (x.reshape(1) if x.ndim == 0 else x for x in (a, b))
        return bool(backend_for(device).xp.shares_memory(a, b))
    return np.shares_memory(getattr(a, "_array", a), getattr(b, "_array", b))


@on_each_case
def test_backward_changes_nothing_and_shares_nothing(op, of, device):
    """Inputs, output, saved arrays and the incoming gradient stay as they are, byte by byte; no
    gradient looks into the memory of any of them, or of another gradient.
    """
    backend, inputs = backend_for(device), leaves(of, device)
    before = [x.numpy().tobytes() for x in inputs]
    output = calling(op, of, backend)(*inputs).retain_grad()
    assert [x.numpy().tobytes() for x in inputs] == before, "an input was changed"
    g = counting(output.shape, device)
    kept = [("incoming gradient", g.data), *saved_arrays(output)]
    before = [bytes_of(array, backend_of(array)) for _, array in kept]
    output.backward(g)
    changed = [
        place
        for (place, array), old in zip(kept, before, strict=True)
        if bytes_of(array, backend_of(array)) != old
    ]
    assert not changed
    gradients = [("gradient of the output", output.grad.data)]
    gradients += [
        (f"gradient of {name}", x.grad.data) for name, x in zip(of.inputs, inputs, strict=True)
    ]
    assert [x.grad.shape for x in inputs] == [x.shape for x in inputs]
    for i, (mine, array) in enumerate(gradients):
        for other, neighbour in [*kept, *gradients[i + 1 :]]:
            if type(array) is type(neighbour):
                assert not share_memory(array, neighbour, device), f"{mine} looks into {other}"


@on_each_case
def test_an_input_changed_before_backward_is_noticed(op, of, device):
    fn = calling(op, of, backend_for(device))
    for place in range(len(of.inputs)):
        inputs = leaves(of, device)
        output = fn(*inputs)
        with inputs[place].mutable() as array:
            array += 1
        with pytest.raises(RuntimeError, match=r"^input \d of '\w+'.* was changed in place"):
            output.backward(counting(output.shape, device))


@on_each_case
def test_an_input_changed_through_the_memory_it_looks_into_is_noticed(op, of, device):
    fn = calling(op, of, backend_for(device))
    for place, values in enumerate(of.arrays()):
        if not values.size:  # no memory to look into
            continue
        inputs, base = leaves(of, device), Tensor(values.ravel(), device=device)
        inputs[place] = base.reshape(inputs[place].shape).requires_grad_()
        output = fn(*inputs)
        with base.mutable() as array:
            array += 1
        with pytest.raises(RuntimeError, match=r"^input \d of '\w+'.* was changed in place"):
            output.backward(counting(output.shape, device))


@on_each_case
def test_results_are_views_of_their_inputs_only_where_stated(op, of, device):
    """What looks into an input's memory counts changes with it."""
    inputs = leaves(of, device)
    output = calling(op, of, backend_for(device))(*inputs)
    for x in inputs:
        if output.size and x.size:
            shared = share_memory(output.data, x.data, device)
            assert shared == (of.view if device == "cpu" else of.view or of.view_of_cupy)
            assert shared == (output.version is x.version)
    if device == "cpu":
        assert not output.data.flags.writeable


@each_view
def test_a_view_changed_through_its_base_is_noticed(op, of, device):
    base = Tensor(of.arrays()[0], device=device)
    view = calling(op, of, backend_for(device))(base).requires_grad_()
    output = view * view
    with base.mutable() as array:
        array += 1
    with pytest.raises(RuntimeError, match=r"^input 0 of 'mul'.* was changed in place"):
        output.backward(counting(output.shape, device))


# Gradients to look at -------------------------------------------------------------------------


def run_pytest(*arguments: str) -> str:
    """Run the max pool's first case alone, in a process of its own."""
    test = "tests/test_ops.py::test_gradients_to_order_two_are_those_of_differences"
    where = "cpu-functional.max_pool2d: max_pool2d(x, kernel_size=2, stride=2) of (1, 1, 4, 4)"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"{test}[{where}]"]
    root = Path(__file__).parent.parent
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_show_gradients_prints_them_side_by_side():
    assert textwrap.dedent("""
        max_pool2d(x, kernel_size=2, stride=2)

          x[0, 0]       output[0, 0]    incoming gradient[0, 0]    gradient of x[0, 0]
          1  3  2  0    8  5            1  2                       .  .  .  .
          4  8  1  5    7  9            3  4                       .  1  .  2
          7  0  6  2                                               3  .  .  .
          1  2  3  9                                               .  .  .  4
    """) in run_pytest("--show-gradients")


def test_nothing_is_printed_unasked():
    assert "max_pool2d" not in run_pytest()


def test_drawn_gradients_fit_on_a_screen():
    lines = [line for op in OPS for of in op.cases for line in drawn(op, of).splitlines()[1:]]
    assert max(map(len, lines)) <= 110
    assert all(line == line.rstrip() for line in lines)


# No operation without a row -------------------------------------------------------------------


def public_names() -> set[str]:
    """Return the names under which operations may be found."""
    found = set()
    for part in Tensor.__mro__[:-1]:
        for name, value in vars(part).items():
            operator = name.startswith("__") and callable(value)
            if operator or not name.startswith("_"):
                found.add(f"Tensor.{name}")
    found |= {f"functional.{name}" for name in public.public_names(minidl.functional)}
    for name in public.public_names(nn):
        value = getattr(nn, name)
        if isinstance(value, type) and issubclass(value, nn.Module):
            found.add(f"nn.{name}")
    for name in public.public_names(minidl):
        value = getattr(minidl, name)
        if inspect.isfunction(value) and value.__module__.startswith("minidl.tensor."):
            found.add(f"minidl.{name}")
    return found


def missing() -> set[str]:
    return public_names() - {op.name for op in OPS} - set(NOT_OPS)


def test_every_public_operation_has_a_row():
    assert missing() == set()


def test_every_name_in_the_table_exists_once():
    rows = [op.name for op in OPS]
    assert sorted(rows) == sorted(set(rows))
    assert set(rows) - public_names() == set()
    assert set(NOT_OPS) - public_names() == set()
    assert set(NOT_OPS) & set(rows) == set()


def test_every_operation_is_run_on_tensors_without_elements():
    """Layers aside, which are what a function of the table is."""
    never = [op.name for op in OPS if all(a.size for of in op.cases for a in of.arrays())]
    assert [name for name in never if not name.startswith("nn.")] == []


def test_a_new_operation_without_a_row_is_found(monkeypatch):
    monkeypatch.setattr(Tensor, "cube", lambda x: x**3, raising=False)
    monkeypatch.setattr(Tensor, "__mod__", lambda x, y: x, raising=False)
    listed = public.public_names
    new = {minidl.functional: {"mish"}, nn: {"Mish"}}
    monkeypatch.setattr(public, "public_names", lambda p: listed(p) | new.get(p, set()))
    monkeypatch.setattr(nn, "Mish", type("Mish", (nn.Module,), {}), raising=False)
    assert missing() == {"Tensor.cube", "Tensor.__mod__", "functional.mish", "nn.Mish"}
