"""Check `benchmarks.traffic`: its formulas, against a recount of what kernels read and write."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest

import minidl
from minidl import functional as F
from minidl import models, nn, optim
from minidl.backends import Windows, backend_for
from minidl.backends.cpu import winograd
from minidl.backends.cpu.numpy_backend import NumpyBackend
from minidl.backends.cpu.threads import blas

from .benchmarks import passes, recorded, step, traffic
from .benchmarks.recorded import Call

BYTES = [0]


def count(*read: Any, written: Any = ()) -> None:
    """Add the bytes of operands, each once, and of results."""
    inputs = {place(a): a.nbytes for a in read if isinstance(a, np.ndarray)}
    BYTES[0] += sum(inputs.values()) + sum(a.nbytes for a in written)


def place(a: np.ndarray) -> Any:
    return a.__array_interface__["data"], a.shape, a.strides


def plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(map(plain, value))
    return value.view(np.ndarray) if isinstance(value, Counted) else value


class Counted(np.ndarray):
    """An array whose reads and writes by NumPy's functions are counted in `BYTES`."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        out = options.get("out")
        options = {name: plain(value) for name, value in options.items()}
        result = getattr(ufunc, method)(*map(plain, inputs), **options)
        count(*inputs, written=[a for a in (result,) if isinstance(a, np.ndarray)])
        if out is not None:
            return out[0]
        return result.view(Counted) if isinstance(result, np.ndarray) else result

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is np.copyto:
            count(args[1], written=args[:1])
        elif func in (np.stack, np.concatenate):
            count(*args[0], *args[0])  # as many are written
        result = func(*plain(args), **{name: plain(value) for name, value in kwargs.items()})
        if func is np.einsum:
            count(*args[1:], written=[result])
        return result.view(Counted) if isinstance(result, np.ndarray) else result

    def __setitem__(self, index: Any, value: Any) -> None:
        target = plain(self)[index]
        if not (isinstance(value, np.ndarray) and place(value) == place(target)):  # as after +=
            count(value, written=[target])
            plain(self)[index] = plain(value)

    def reshape(self, *shape: Any, **options: Any) -> Any:
        return self.counted(super().reshape(*shape, **options))

    def copy(self, *args: Any, **options: Any) -> Any:
        return self.counted(super().copy(*args, **options))

    def astype(self, *args: Any, **options: Any) -> Any:
        return self.counted(super().astype(*args, **options))

    def counted(self, result: Any) -> Any:
        if result.size and not np.may_share_memory(self, result):
            count(self, written=[result])
        return result


@contextlib.contextmanager
def counting() -> Iterator[None]:
    """Make NumPy create counted arrays."""
    with contextlib.ExitStack() as patches:
        for name in ("empty", "empty_like", "zeros", "ones", "ascontiguousarray"):
            patches.enter_context(mock.patch.object(np, name, counted(name, getattr(np, name))))
        BYTES[0] = 0
        yield


def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        found = function(*map(plain, args), **options).view(Counted)
        if name in ("zeros", "ones"):
            count(written=[found])
        if name == "ascontiguousarray" and place(found) != place(args[0]):
            args[0].view(Counted).counted(found)
        return found

    return call


def viewed(value: Any) -> Any:
    """Return arrays as counted arrays, and tensors of them."""
    if isinstance(value, minidl.Tensor):
        tensor = minidl.Tensor.wrap(value.array.view(Counted))
        tensor.requires_grad = value.requires_grad
        return tensor
    return value.view(Counted) if isinstance(value, np.ndarray) else value


# Steps whose kernels are recounted ---------------------------------------------------------------


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use the fast kernels on one thread, in the forms that a processor with AVX-512 prefers."""
    monkeypatch.setattr(blas(), "is_narrow", False)
    kernels, threads = minidl.get_kernels(), minidl.get_num_threads()
    minidl.set_kernels("fast")
    minidl.set_num_threads(1)
    yield
    minidl.set_num_threads(threads)
    minidl.set_kernels(kernels)


def images(*shape: int) -> minidl.Tensor:
    array = np.random.default_rng(0).standard_normal(shape, np.float32)
    return minidl.Tensor(array, requires_grad=True)


def fused_cnn() -> Callable[[], Any]:
    """Return a step of chapter 7's network: planar, strips, tiles, and fused pools."""
    model = step.cifar10_cnn(nn)
    adam = optim.Adam(model.parameters())
    x, labels = images(64, 3, 32, 32).detach(), np.arange(64) % 10
    return lambda: train(adam, F.cross_entropy(model(x), labels))


def residual() -> Callable[[], Any]:
    """Return a step of ResNet-20: strips of two pixels, tiles, strides, batch norm."""
    model = models.resnet20()
    sgd = optim.SGD(model.parameters(), **step.SGD)
    x, labels = images(32, 3, 32, 32).detach(), np.arange(32) % 10
    return lambda: train(sgd, F.cross_entropy(model(x), labels))


def pooled() -> Callable[[], Any]:
    """Return pools with and without overlap, and a kernel as wide as the image."""
    x, words, weight = images(8, 16, 30, 30), images(8, 1, 40, 64), images(50, 1, 3, 64)

    def run() -> None:
        F.max_pool2d(x, 3, 2, 1).sum().backward()
        F.max_pool2d(x.transpose(0, 2, 3, 1).transpose(0, 3, 1, 2), 2).sum().backward()
        F.relu(F.conv2d(words, weight)).sum().backward()

    return run


def first_layer() -> Callable[[], Any]:
    """Return a fused layer of images without gradients: slices for its weight's, by Winograd."""
    x, weight = images(100, 32, 18, 18).detach(), images(32, 32, 3, 3)
    slopes = images(100, 32, 9, 9).detach()  # of all kinds: gradients of 0 and 1 need columns
    return lambda: (F.conv2d_relu_max_pool2d(x, weight, padding=1) * slopes).sum().backward()


def train(optimiser: optim.Optimizer, loss: minidl.Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def recounted(call: Call) -> int:
    """Return the bytes that a call reads and writes, counted by the arrays."""
    arguments = tuple(map(viewed, call.arguments))
    options = {name: viewed(value) for name, value in call.options.items()}
    with counting():
        call.function(*arguments, **options)
    return BYTES[0]


@pytest.mark.parametrize("make", [fused_cnn, residual, pooled, first_layer])
def test_formulas_equal_a_recount(make: Callable[[], Callable[[], Any]]) -> None:
    run = make()
    run()  # afterwards, the optimiser has its state
    calls, _ = recorded.record(run, 1)
    compared = set()
    for call in calls:
        work = passes.work_of(call)
        if work.total < 2**18 or call.kernel == "update_all" or work.form == "large":
            continue  # small calls: what the formulas leave out is not small beside them
        assert work.total == pytest.approx(recounted(call), rel=0.06), (call.kernel, work)
        assert work.total >= passes.least(call)
        compared.add((call.kernel, work.form))
    assert compared >= EXPECTED[make.__name__]


EXPECTED = {
    "fused_cnn": {
        ("_responses", "planar"),
        ("_responses", "strips"),
        ("_weight_slope", "planar"),
        ("convolve_whole", "tiles"),
        ("transpose_convolve_whole", "tiles"),
        ("weight_gradient_whole", "tiles"),
        ("weight_gradient_whole", "strips"),
        ("gated", ""),
    },
    "residual": {
        *(
            (f"{name}_whole", form)
            for name in ("convolve", "transpose_convolve", "weight_gradient")
            for form in ("strips", "tiles", "columns")
        ),
        ("convolve_whole", "planar"),
        ("weight_gradient_whole", "planar"),
        ("channel_sums", "forward"),
        ("channel_sums", "backward"),
        ("channel_lines", "forward"),
        ("channel_lines", "forward + added"),
        ("channel_lines", "backward + added"),
        ("elementwise", "add"),
    },
    "first_layer": {("_responses", "strips"), ("_weight_slope", "strips"), ("sum", "")},
    "pooled": {
        ("max_windows", ""),
        ("scatter_winners", ""),
        ("convolve_whole", "columns"),
        ("weight_gradient_whole", "columns"),
    },
}


@pytest.mark.parametrize(
    ("rule", "numbers", "count"),
    [
        (optim.SGD, [0.1, 0.9, 1.0, 0.01, True], 1),
        (optim.SGD, [0.1, 0.9, 0.5, 0.0, False], 1),
        (optim.SGD, [0.1, 0.0, 1.0, 0.0, False], 0),
        (optim.Adam, [0.1, 0.9, 0.1, 0.99, 0.01, 1.0, 1e-8, 0.0, 1.0, False], 3),
        (optim.AdamW, [0.1, 0.9, 0.1, 0.99, 0.01, 1.0, 1e-8, 0.0, 0.9, False], 3),
        (optim.Adam, [0.1, 0.9, 0.1, 0.99, 0.01, 1.0, 1e-8, 0.5, 1.0, True], 3),
    ],
)
def test_rules_equal_a_recount(rule: Any, numbers: list[float], count: int) -> None:
    p, g, *state = (np.ones(1000, np.float32).view(Counted) for _ in range(2 + count))
    optimiser = rule([images(3)], 0.1)
    with counting():
        optimiser.formula(p, g, state, numbers)
    assert passes.RULES[rule.kernel](numbers) * p.nbytes == pytest.approx(BYTES[0], rel=1e-3)


def test_a_strip_copies_each_pixel_three_times_and_pairs_none() -> None:
    w = Windows(16, 16, 3, 3, top=1, bottom=1, left=1, right=1)
    single, double = (
        passes.in_strips(passes.Conv(4, 8, 32, w)),
        passes.in_strips(passes.Conv(4, 8, 16, w)),
    )
    rows = winograd.TILE * 4 * 4 * 16 * 8 * 4  # bytes of the values of rows, without padding
    assert single.passes["strips"] == 2 * 3 * rows
    assert double.passes["strips"] == 0
    # 4/3 as many for half the kernels, and 9 strips for the 8 pairs of a line.
    assert double.multiply_adds * 3 * 8 == single.multiply_adds * 2 * 9


# The lists ---------------------------------------------------------------------------------------


def test_least_is_inputs_and_outputs_once() -> None:
    x = images(2, 3, 4, 4).array
    call = Call("gated", np.multiply, (x, x > 0), {}, result=x)
    assert passes.least(call) == 2 * x.nbytes + x.size


def test_copies_of_arguments_keep_strides_and_values() -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    for view in (x, x.transpose(2, 0, 1), x[:, ::2, 1:3], np.broadcast_to(x[:, :1], x.shape)):
        copy = recorded.alike(view)
        assert copy.strides == view.strides
        assert not np.shares_memory(copy, view)
        np.testing.assert_array_equal(copy, view)


def test_calls_within_calls_are_not_recorded_and_equal_calls_are_one() -> None:
    def run() -> None:
        for _ in range(2):
            F.relu(images(8, 4, 10, 10)).sum().backward()

    calls, seconds = recorded.record(run, 3)
    uses = {call.kernel: len(call.seconds) for call in calls}
    assert uses["gated"] == uses["elementwise"] == 2 * 3  # `gated` calls `elementwise` itself
    assert seconds > 0


def test_passes_of_a_call_add_up_to_its_time() -> None:
    x, weight, bias = images(64, 32, 16, 16).array, images(32, 32, 3, 3).array, images(32).array
    w = Windows(16, 16, 3, 3, top=1, bottom=1, left=1, right=1)
    call = Call(
        "convolve_whole",
        NumpyBackend.convolve_whole,
        (backend_for("cpu"), x, weight, bias, w, 1),
        {},
    )
    assert passes.work_of(call).form == "tiles"
    found = recorded.passes(call)
    assert {"measure", "values", "product", "outputs", "finish", "weights", "rest"} <= set(found)
    assert all(seconds >= 0 for seconds in found.values())
    assert winograd._values.__module__ == winograd.__name__  # patches are undone


def rates(threads: int = 1) -> traffic.Rates:
    return traffic.Rates(threads, {"L2": [4e9], "L3": [2e9], "memory": [1e9]}, [1e9])


def row(name: str, uses: float, ms: float, nbytes: int, multiply_adds: int) -> traffic.Row:
    call = Call(name, abs, (), {}, seconds=[ms / 1e3])
    work = passes.Work("", passes.Counter(rule=3 * nbytes), multiply_adds)
    return traffic.Row(
        call, uses, work, nbytes, {1: [ms / 1e3], 2: [ms / 2e3]}, {"rest": [ms / 1e3]}
    )


def test_time_lost_is_beyond_the_longer_of_copy_and_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traffic, "cache_sizes", lambda: (10**6, 10**7))
    moving, multiplying = row("a", 2, 50, 2 * 10**7, 0), row("b", 1, 50, 10**6, 3 * 10**7)
    assert moving.lost(rates()) == pytest.approx(2 * (0.050 - 0.020))  # in memory
    assert multiplying.lost(rates()) == pytest.approx(0.050 - 0.030)
    assert multiplying.lost(rates(2)) == pytest.approx(0.025 - 0.030)
    assert rates().copying(10**6, 10**6) == pytest.approx(1 / 4000)
    assert rates().copying(10**6, 10**6 + 1) == pytest.approx(1 / 2000)


def test_lists_are_sorted_by_time_lost(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("few", 1, 30, 1000, 0), row("many", 10, 5, 1000, 0), row("one", 1, 40, 1000, 0)]
    traffic.print_rows(rows, [rates(), rates(2)], most=2)
    traffic.print_passes(rows, rates(), most=3)
    kernels, everywhere, found = capsys.readouterr().out.split("\n\n")
    assert [line.split()[-1] for line in kernels.splitlines()[2:]] == ["many", "one"]
    assert everywhere.splitlines()[1].split() == [
        "120.0",
        "0",
        "0.0",
        "rest",
        "in",
        "all",
        "kernels",
    ]
    assert [line.split()[-1] for line in found.splitlines()[1:]] == ["many", "one", "few"]


def test_rates_are_measured() -> None:
    assert traffic.copy_rate(2**16, 1) > 0
    assert traffic.copy_rate(2**16, 2) > 0
    second, third = traffic.cache_sizes()
    half, both, far = traffic.working_sets()
    assert half < second < both
    assert far > third or far == 2**29
