"""Backends: every form of every kernel against literal loops; slices of a batch; devices."""

from __future__ import annotations

import itertools
import os
import signal
import threading

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import threadpoolctl

import minidl
from minidl import Tensor
from minidl import functional as F
from minidl.backends import Backend, Windows, backend_for, backend_of, large
from minidl.backends.cpu import machine, numpy_backend
from minidl.backends.cpu import threads as cpu_threads
from minidl.backends.cpu.numpy_backend import NumpyBackend
from minidl.backends.cpu.threads import blas as blas_of_cpu
from minidl.backends.cpu.threads import side_by_side
from minidl.functional import channels as channel_kernels

from .conftest import _why_no_cuda
from .helpers import oracles


class GenericBackend(Backend):
    """The generic kernels on plain NumPy arrays."""

    device = "generic"
    xp = np

    def from_numpy(self, array):
        return np.array(array)

    def to_numpy(self, array):
        return np.array(array)


@pytest.fixture(
    params=[
        "generic",
        "cpu",
        "cpu in slices",
        "guarded",
        "generic, as large windows",
        "cpu, as large windows",
        "guarded, as large windows",
        "guarded, as large windows tap by tap",
        pytest.param("cuda", marks=pytest.mark.gpu),
    ]
)
def backend(request, monkeypatch):
    """Each form of the kernels; NumPy's own also with slices of one image on several threads.

    Poolings of windows of many taps take other steps: here, small windows take these too.
    """
    if "large" in request.param:
        monkeypatch.setattr(large, "MOST_TAPS", 0)
        monkeypatch.setattr(large, "FEW", 16 if "tap by tap" in request.param else 1)
    if request.param.startswith("generic"):
        return GenericBackend()
    if request.param == "cuda" and (reason := _why_no_cuda()):
        pytest.skip(reason)
    if request.param == "cpu in slices":
        monkeypatch.setattr(numpy_backend, "CACHE_BYTES", 1)
    return backend_for(request.param.split()[0].rstrip(","))


@st.composite
def sides(draw, inside):
    """One side of a geometry; `inside` keeps padding so small that windows see the image."""
    k, dilation, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 4))
    span = dilation * (k - 1) + 1
    most = span // 2 if inside else 3
    before, after = draw(st.integers(0, most)), draw(st.integers(0, most))
    size = draw(st.integers(max(1, span - before - after), span + 4))
    return size, k, stride, dilation, before, after


@st.composite
def geometries(draw, inside=False):
    """Not square, strides beyond the kernel, dilation, a different padding on each side."""
    in_h, k_h, stride_h, dilation_h, top, bottom = draw(sides(inside))
    in_w, k_w, stride_w, dilation_w, left, right = draw(sides(inside))
    sizes = (in_h, in_w, k_h, k_w, stride_h, stride_w, dilation_h, dilation_w)
    return Windows(*sizes, top, bottom, left, right)


def numbers(*shape, seed=0, channels_last=False, dtype=np.float64):
    """Small whole numbers, which add up exactly in any order, in either order of memory."""
    array = np.random.default_rng(seed).integers(-9, 10, size=shape).astype(dtype)
    if channels_last and array.ndim == 4:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return array


def given_geometry(**options):
    return hypothesis.given(
        geometries(**options), st.integers(1, 3), st.integers(1, 3), st.booleans()
    )


def same(backend, got, wanted):
    result = backend.to_numpy(got)
    assert result.dtype == wanted.dtype
    np.testing.assert_array_equal(result, wanted)


# Kernels


@given_geometry()
def test_gather_windows_copies_every_window(backend, w, n, c, channels_last):
    images = numbers(n, c, w.in_h, w.in_w, channels_last=channels_last)
    gathered = backend.gather_windows(backend.from_numpy(images), w)
    same(backend, gathered, oracles.gather_windows(images, w))


@given_geometry()
def test_scatter_windows_adds_every_window_back(backend, w, n, c, channels_last):
    gathered = numbers(n, w.out_h, w.out_w, w.k_h * w.k_w, c)
    images = backend.scatter_windows(backend.from_numpy(gathered), w)
    same(backend, images, oracles.scatter_windows(gathered, w))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1), (0, 2, 3, 3), (3, 7, 1, 2)])
def test_finish_adds_a_bias_and_does_relu_in_place(backend, shape, dtype, with_bias, relu):
    images = numbers(*shape, channels_last=True, dtype=dtype)
    if images.size:
        images[0, 0, 0, 0], images[-1, -1, -1, -1] = np.nan, -np.inf
    bias = numbers(shape[1], seed=1, dtype=dtype)
    wanted = images + bias.reshape(1, -1, 1, 1) if with_bias else images
    wanted = np.maximum(wanted, 0) if relu else wanted
    there = backend.from_numpy(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    backend.finish(there, backend.from_numpy(bias) if with_bias else None, relu)
    same(backend, there, wanted)


@given_geometry()
def test_sum_windows_adds_up_every_window(backend, w, n, c, channels_last):
    images = numbers(n, c, w.in_h, w.in_w, channels_last=channels_last)
    total = backend.sum_windows(backend.from_numpy(images), w)
    same(backend, total, oracles.sum_windows(images, w))


@given_geometry()
def test_spread_windows_gives_every_pixel_its_windows_values(backend, w, n, c, channels_last):
    values = numbers(n, c, w.out_h, w.out_w, channels_last=channels_last)
    images = backend.spread_windows(backend.from_numpy(values), w)
    same(backend, images, oracles.spread_windows(values, w))


@st.composite
def channels(draw):
    """Draw images of any number of axes and a gradient, each in an order of its own."""
    shape = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        *draw(st.lists(st.integers(1, 4), max_size=3)),
    )
    arrays = []
    for seed in (0, 1):
        order = draw(st.permutations(range(len(shape))))
        moved = np.array(numbers(*shape, seed=seed).transpose(order), order="C")
        arrays.append(moved.transpose(np.argsort(order)))
    return *arrays, draw(st.booleans())


def moved(backend, array):
    """Move an array to a device as it lies in memory."""
    order = np.argsort([-stride for stride in array.strides], kind="stable")
    return backend.from_numpy(array.transpose(order)).transpose(*np.argsort(order).tolist())


@hypothesis.given(channels(), st.sampled_from(["alone", "with a gradient", "with a gate"]))
def test_channel_sums_adds_up_each_channel(backend, drawn, way):
    images, gradient, centred = drawn
    c, with_gradient = images.shape[1], way != "alone"
    centre = numbers(c, seed=2) if centred else np.zeros(c)
    gate = gradient[::-1] if way == "with a gate" else None
    *found, passed = channel_kernels.channel_sums(
        backend,
        moved(backend, images),
        backend.from_numpy(centre) if centred else None,
        moved(backend, gradient) if with_gradient else None,
        None if gate is None else moved(backend, gate),
    )
    if gate is not None:
        gradient = np.where(gate > 0, gradient, 0)
        assert np.array_equal(backend.to_numpy(passed), gradient)
    for i in range(c):
        x = images[:, i] - centre[i]
        y = gradient[:, i] if with_gradient else x
        for total, wanted in zip(found, (y.sum(), (y * x).sum()), strict=True):
            assert backend.to_numpy(total)[i] == wanted
    assert all(total.dtype == np.float64 and total.shape == (c,) for total in found)


@hypothesis.given(channels(), st.booleans())
def test_channel_lines_draws_a_line_through_each_channel(backend, drawn, with_gradient):
    images, gradient, centred = drawn
    c, column = images.shape[1], (-1, *[1] * (images.ndim - 2))
    values = [numbers(c, seed=seed) for seed in range(2, 6)]
    centre, slope, offset, scale = (v.reshape(column) for v in values)
    wanted = (images - centre if centred else images) * slope + offset
    there = [backend.from_numpy(v) for v in values]
    there[0] = there[0] if centred else None
    if with_gradient:
        wanted = scale * (wanted + gradient)
        found = channel_kernels.channel_lines(
            backend, moved(backend, images), *there[:3], moved(backend, gradient), there[3]
        )
    else:
        found = channel_kernels.channel_lines(backend, moved(backend, images), *there[:3])
    same(backend, found, wanted)


SPECIAL = st.sampled_from([-np.inf, -1.0, 0.0, 1.0, 2.0, np.inf, np.nan])


@hypothesis.given(geometries(inside=True), st.booleans(), st.data())
def test_max_windows_finds_winners_among_ties_nan_and_infinities(backend, w, channels_last, data):
    pixels = 2 * w.in_h * w.in_w
    drawn = data.draw(st.lists(SPECIAL, min_size=pixels, max_size=pixels))
    images = np.array(drawn, np.float32).reshape(1, 2, w.in_h, w.in_w)
    if channels_last:
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    best, winners = backend.max_windows(backend.from_numpy(images), w)
    wanted, wanted_winners = oracles.max_windows(images, w)
    same(backend, best, wanted)
    found = backend.to_numpy(winners)
    # A window whose taps all miss the image, as dilation can make them, has no winner to compare.
    sees = wanted_winners >= 0
    np.testing.assert_array_equal(found[sees], wanted_winners[sees])


@given_geometry(inside=True)
def test_scatter_winners_adds_values_to_the_pixels_that_won(backend, w, n, c, channels_last):
    images = numbers(n, c, w.in_h, w.in_w, channels_last=channels_last)
    values = numbers(n, c, w.out_h, w.out_w, seed=1, channels_last=channels_last)
    _, winners = backend.max_windows(backend.from_numpy(images), w)
    scattered = backend.scatter_winners(backend.from_numpy(values), winners, w)
    same(backend, scattered, oracles.scatter_winners(values, backend.to_numpy(winners), w))


@given_geometry(inside=True)
def test_gather_winners_looks_up_the_pixels_that_won(backend, w, n, c, channels_last):
    images = numbers(n, c, w.in_h, w.in_w, channels_last=channels_last)
    _, winners = backend.max_windows(backend.from_numpy(images), w)
    others = numbers(n, c, w.in_h, w.in_w, seed=1, channels_last=channels_last)
    gathered = backend.gather_winners(backend.from_numpy(others), winners, w)
    same(backend, gathered, oracles.gather_winners(others, backend.to_numpy(winners), w))


@given_geometry()
def test_gathering_and_scattering_are_transposes(backend, w, n, c, channels_last):
    x = numbers(n, c, w.in_h, w.in_w)
    y = numbers(n, w.out_h, w.out_w, w.k_h * w.k_w, c, seed=1)
    gathered = backend.to_numpy(backend.gather_windows(backend.from_numpy(x), w))
    scattered = backend.to_numpy(backend.scatter_windows(backend.from_numpy(y), w))
    assert np.sum(gathered * y) == np.sum(x * scattered)


@given_geometry()
def test_summing_and_spreading_are_transposes(backend, w, n, c, channels_last):
    x, y = numbers(n, c, w.in_h, w.in_w), numbers(n, c, w.out_h, w.out_w, seed=1)
    summed = backend.to_numpy(backend.sum_windows(backend.from_numpy(x), w))
    spread = backend.to_numpy(backend.spread_windows(backend.from_numpy(y), w))
    assert np.sum(summed * y) == np.sum(x * spread)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels_keep_the_dtype_and_write_to_no_input(backend, dtype):
    w = Windows(5, 4, 3, 2, 2, 1, top=1, right=1)
    images = numbers(2, 3, 5, 4, dtype=dtype)
    values = numbers(2, 3, w.out_h, w.out_w, dtype=dtype)
    gathered = numbers(2, w.out_h, w.out_w, 6, 3, dtype=dtype)
    inputs = [backend.from_numpy(array) for array in (images, values, gathered)]
    best, winners = backend.max_windows(inputs[0], w)
    results = [
        best,
        backend.gather_windows(inputs[0], w),
        backend.scatter_windows(inputs[2], w),
        backend.sum_windows(inputs[0], w),
        backend.spread_windows(inputs[1], w),
        backend.scatter_winners(inputs[1], winners, w),
        backend.gather_winners(inputs[0], winners, w),
    ]
    assert {np.dtype(result.dtype) for result in results} == {np.dtype(dtype)}
    for array, given in zip((images, values, gathered), inputs, strict=True):
        same(backend, given, array)


def test_an_infinity_outside_the_winner_does_not_leak(backend):
    w = Windows(1, 2, 1, 2)
    images = backend.from_numpy(np.array([[[[1.0, 2.0]]]]))
    _, winners = backend.max_windows(images, w)
    others = backend.from_numpy(np.array([[[[np.inf, 5.0]]]]))
    assert backend.to_numpy(backend.gather_winners(others, winners, w)).item() == 5
    scattered = backend.scatter_winners(
        backend.from_numpy(np.full((1, 1, 1, 1), np.inf)), winners, w
    )
    assert backend.to_numpy(scattered).tolist() == [[[[0, np.inf]]]]


def test_large_windows_have_winners_beyond_a_byte(backend):
    images = np.zeros((1, 1, 17, 17))
    images[0, 0, 16, 16] = 1
    _, winners = backend.max_windows(backend.from_numpy(images), Windows(17, 17, 17, 17))
    assert backend.to_numpy(winners).item() == 288


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=str)
@pytest.mark.parametrize("kernels", ["fast", "plain"])
@pytest.mark.parametrize("adds", ["values", "rows"])
def test_index_add_is_that_of_a_loop(adds, kernels, dtype):
    """Indices that repeat often and seldom, negative ones, and memory in another order.

    Sums of sixteenths are exact in any order.
    """
    rng = np.random.default_rng(0)
    size = {"values": (3, 40), "rows": (12, 5)}[adds]
    minidl.set_kernels(kernels)
    try:
        for count, order in itertools.product((0, 1, 5, 9, 400), "CF"):
            index, shape = rng.integers(-size[0], size[0], count), (count, size[1])
            if adds == "values":
                index, shape = (index, rng.integers(-size[1], size[1], (2, 1))), (2, count)
            values = np.asarray(rng.integers(-64, 64, shape) / 16, dtype, order=order)
            for start in (np.ones(size, dtype), np.ones(size[::-1], dtype).T):
                expected, target = start.astype(float), start.copy(order="K")
                np.add.at(expected, index, values)
                backend_for("cpu").index_add(target, index, values)
                np.testing.assert_array_equal(target, expected)
        one = np.zeros((), dtype)
        backend_for("cpu").index_add(one, (), np.array(2.0, dtype))
        assert one == 2
    finally:
        minidl.set_kernels("fast")


def test_index_add_counts_repeated_indices(device):
    backend = backend_for(device)
    target = backend.from_numpy(np.zeros((3, 2)))
    index = (backend.from_numpy(np.array([0, 2, 0])),)
    backend.index_add(target, index, backend.from_numpy(np.arange(6.0).reshape(3, 2)))
    assert backend.to_numpy(target).tolist() == [[4, 6], [0, 0], [2, 3]]


# Slices of a batch


@hypothesis.given(st.integers(0, 60), st.sampled_from([0, 1, 2**17, 2**18, 2**20, 2**40]))
def test_over_batch_covers_every_image_once(n, bytes_each):
    seen = np.zeros(n, int)

    def work(part):
        seen[part] += 1

    NumpyBackend().over_batch(n, (bytes_each,), np.uint8, work)
    assert (seen == 1).all()


def test_over_batch_raises_what_the_work_raises():
    def work(part):
        if part.start == 5:
            raise ZeroDivisionError("in slice 5")

    with pytest.raises(ZeroDivisionError, match="in slice 5"):
        NumpyBackend().over_batch(9, (2**30,), np.uint8, work)


@pytest.mark.parametrize("bytes_each", [1, 2**17, 2**30])
def test_a_sum_over_the_batch_does_not_depend_on_the_slices(bytes_each):
    images = np.random.default_rng(0).normal(size=(31, 4))
    total = NumpyBackend().sum_over_batch(
        31, (bytes_each,), np.uint8, lambda part: images[part].sum(0)
    )
    np.testing.assert_allclose(total, images.sum(0), rtol=1e-12)


def test_a_sum_over_the_batch_is_the_same_every_time():
    images = np.random.default_rng(0).normal(size=(64, 100)).astype(np.float32)
    sums = [
        NumpyBackend().sum_over_batch(64, (2**18,), np.uint8, lambda part: images[part].sum(0))
        for _ in range(5)
    ]
    assert all(np.array_equal(sums[0], other) for other in sums)


def test_kernels_can_run_in_several_threads_at_once():
    w = Windows(9, 9, 3, 3)
    images = numbers(8, 4, 9, 9)
    wanted = oracles.sum_windows(images, w)
    results = []

    def run():
        results.append(NumpyBackend().sum_windows(images, w))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(np.array_equal(result, wanted) for result in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_makes_threads_of_its_own():
    backend = NumpyBackend()
    backend.over_batch(4, (2**30,), np.uint8, lambda part: None)  # the parent's threads now exist
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a pool without threads would wait for ever
        seen = []
        backend.over_batch(4, (2**30,), np.uint8, seen.append)
        os._exit(0 if len(seen) == 4 else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_another_thread_multiplies_is_not_stuck():
    blas, held, done = blas_of_cpu(), threading.Event(), threading.Event()

    def multiply():
        with blas.single_threaded(), blas.lock:
            held.set()
            done.wait(20)

    thread = threading.Thread(target=multiply)
    thread.start()
    held.wait(20)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        NumpyBackend().matmul(np.ones((2, 2)), np.ones((2, 2)))
        os._exit(0 if blas_of_cpu().users == 0 else 1)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_an_interrupt_while_blas_is_being_limited_is_no_limit():
    blas, calls = type(blas_of_cpu())(), []

    def set_threads(n):
        calls.append(n)
        if len(calls) == 1:
            raise KeyboardInterrupt

    blas.libraries = [(set_threads, 2)]
    with pytest.raises(KeyboardInterrupt), blas.single_threaded():
        pass
    assert blas.users == 0
    assert calls == [1, 2]
    with blas.single_threaded():
        assert (blas.users, calls[-1]) == (1, 1)
    assert (blas.users, calls[-1]) == (0, 2)


# Windows


def test_windows_do_not_fit_half():
    w = Windows(in_h=5, in_w=6, k_h=2, k_w=3, stride_h=2, stride_w=3)
    assert (w.out_h, w.out_w) == (2, 2)


@hypothesis.given(geometries())
def test_windows_side_by_side_see_no_pixel_twice_and_leave_a_rest_at_the_far_edges(w):
    seen = [tuple(pixel) for _, _, taps in oracles.windows_of(w) for _, *pixel in taps]
    rows, columns = w.out_h * w.k_h, w.out_w * w.k_w
    once = sorted(seen) == [(y, x) for y in range(rows) for x in range(columns)]
    steps = (w.stride_h, w.stride_w, w.dilation_h, w.dilation_w)
    plain = not w.is_padded and steps == (w.k_h, w.k_w, 1, 1)
    assert w.is_tiling == (once and plain)


# Threads


@pytest.fixture
def threads():
    """Leave the number of threads as it was."""
    before = minidl.get_num_threads()
    yield minidl.set_num_threads
    minidl.set_num_threads(before)


@pytest.fixture
def asked(monkeypatch):
    """Set the environment variables, and make them be read again."""
    names = ("MINIDL", "OMP", "OPENBLAS", "MKL")

    def number(**values):
        for name in names:
            monkeypatch.delenv(f"{name}_NUM_THREADS", raising=False)
        for name, value in values.items():
            monkeypatch.setenv(f"{name}_NUM_THREADS", value)
        cpu_threads._asked.cache_clear()
        return cpu_threads._asked()

    yield number
    monkeypatch.undo()
    cpu_threads._asked.cache_clear()


def test_the_environment_asks_for_a_number_of_threads(asked, monkeypatch):
    assert asked() is None
    for name in ("MINIDL", "OMP", "OPENBLAS", "MKL"):
        assert asked(**{name: "3"}) == 3
    assert asked(MKL="4", OPENBLAS="3", OMP="2", MINIDL="1") == 1
    assert asked(MKL="4", OMP=" 2,8 ") == 2  # for nested levels
    monkeypatch.setattr(cpu_threads, "_threads", [])
    assert minidl.get_num_threads() == 2
    for odd in ("", "0", "-1", "2.5", "abc", "²", "9" * 5_000, "1e3"):
        assert asked(OMP=odd) is None
        assert asked(OMP=odd, MKL="3") == 3
    assert minidl.get_num_threads() == 3


@pytest.mark.parametrize(("quota", "count"), [(1.5, 2), (0.2, 1), (100, 8), (np.inf, 8)])
def test_cores_and_quota_limit_the_threads_unless_a_number_is_set(asked, monkeypatch, quota, count):
    asked()
    monkeypatch.setattr(cpu_threads, "_threads", [])
    monkeypatch.setattr(machine, "_allowed", lambda: range(8))
    monkeypatch.setattr(machine, "_quota", lambda _: quota)
    assert minidl.get_num_threads() == count
    asked(MINIDL="3")
    assert minidl.get_num_threads() == 3


def test_results_are_the_same_for_any_number_of_threads(threads):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype("f") for s in ((32, 16, 20, 20), (64, 16, 3, 3), (64,))]

    def results() -> list[np.ndarray]:
        x, weight, bias = (minidl.Tensor(a, requires_grad=True) for a in arrays)
        hidden = F.max_pool2d(F.relu(F.conv2d(x, weight, bias, padding=1)), 2)
        F.avg_pool2d(F.conv2d(hidden, minidl.ones((64, 64, 3, 3))), 3).sum().backward()
        return [hidden.numpy(), *(t.grad.numpy() for t in (x, weight, bias))]

    found = []
    for count in (1, 2, 5):
        threads(count)
        assert minidl.get_num_threads() == count
        found.append(results())
    for other in found[1:]:
        for mine, wanted in zip(other, found[0], strict=True):
            assert np.array_equal(mine, wanted)


@pytest.mark.parametrize("number", [0, -1, 2.0, True, "2", None])
def test_a_number_of_threads_is_a_whole_number_from_1(number):
    with pytest.raises(ValueError, match=r"set_num_threads: got .*, expected an integer >= 1"):
        minidl.set_num_threads(number)


def test_an_error_in_any_slice_is_raised_when_all_have_ended(threads):
    threads(3)
    seen = []

    def work(part: slice) -> None:
        if part.start == 2:
            raise ZeroDivisionError
        seen.append(part.start)

    with pytest.raises(ZeroDivisionError):
        backend_for("cpu").over_batch(8, (2**30,), np.uint8, work)
    assert set(seen) <= {0, 1, 3, 4, 5, 6, 7}
    backend_for("cpu").over_batch(8, (2**30,), np.uint8, lambda part: seen.append("again"))
    assert seen.count("again") == 8


# Devices


def test_the_backend_is_found_from_the_array():
    assert backend_of(np.zeros(1)).device == "cpu"
    assert backend_of(backend_for("guarded").from_numpy(np.zeros(1))).device == "guarded"


def test_a_subclass_of_an_array_has_its_backend(tmp_path):
    mapped = np.memmap(tmp_path / "array", np.float32, "w+", shape=(2,))
    assert backend_of(mapped).device == "cpu"


def test_what_is_no_array_has_no_backend():
    with pytest.raises(TypeError, match="no backend for a list; it works on NumPy and CuPy arrays"):
        backend_of([1.0])


@pytest.mark.parametrize("device", ["gpu", "cuda:0", "", None, 3, []])
def test_an_unknown_device_is_named(device):
    with pytest.raises(ValueError, match="expected 'cpu' or 'cuda'"):
        backend_for(device)


def test_transfer_copies(device):
    backend = backend_for(device)
    array = np.ones(2)
    there = backend.from_numpy(array)
    array[:] = 2
    back = backend.to_numpy(there)
    back[:] = 3
    assert backend.to_numpy(there).tolist() == [1, 1]


# The guarded backend refuses what CuPy refuses


@pytest.fixture
def guarded():
    return backend_for("guarded").from_numpy(np.array([1.0, 2.0]))


@pytest.mark.parametrize(
    "refused",
    [
        lambda a: np.asarray(a),
        lambda a: np.exp(a),
        lambda a: np.sum(a),
        lambda a: np.concatenate([a, a]),
        lambda a: a + np.ones(2),
        lambda a: np.ones(2) + a,
        lambda a: np.ones(2) * a,
        lambda a: a == np.ones(2),
        lambda a: np.ones(2)[a],
        lambda a: a.sum(where=np.array([True, False])),
        lambda a: a.__setitem__(slice(None), np.ones(2)),
        lambda a: a.__setitem__(slice(None), [1.0, 2.0]),
        lambda a: np.ones(2).__setitem__(slice(None), a),
        lambda a: a.__iadd__(np.ones(2)),
        lambda a: backend_for("guarded").xp.maximum(a, np.ones(2)),
        lambda a: backend_for("guarded").xp.concatenate([a, np.ones(2)]),
    ],
)
def test_guarded_refuses_numpy_arrays_and_conversions(guarded, refused):
    with pytest.raises(TypeError):
        refused(guarded)


def test_guarded_lacks_what_cupy_lacks(guarded):
    xp = backend_for("guarded").xp
    for name in ("errstate", "vectorize", "busday_count"):
        with pytest.raises(AttributeError, match=f"CuPy has no function '{name}'"):
            getattr(xp, name)
    with pytest.raises(AttributeError, match="arrays of CuPy have no attribute 'setflags'"):
        _ = guarded.setflags


def test_guarded_takes_numbers_and_keeps_results_without_axes_arrays(guarded):
    for result in (guarded * 2, guarded * np.float64(2), np.float64(2) * guarded, 2 - guarded):
        assert type(result) is type(guarded)
    for result in (
        guarded.sum(),
        guarded[0],
        guarded.max(),
        backend_for("guarded").xp.sum(guarded),
    ):
        assert type(result) is type(guarded)
        assert result.shape == ()


def test_guarded_views_know_their_base(guarded):
    assert guarded[1:].base is guarded
    assert guarded[0].base is guarded
    assert guarded.reshape(2, 1).T.base is guarded
    assert (guarded + 1).base is None


def test_guarded_tensors_print():
    assert repr(Tensor([1.0], device="guarded")) == "Tensor([1.], dtype=float32, device='guarded')"


def test_work_inside_work_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(numpy_backend, "CACHE_BYTES", 1)
    backend, seen = NumpyBackend(), []

    def outer(part):
        backend.over_batch(3, (1,), np.uint8, lambda inner: seen.append((part.start, inner.start)))

    backend.over_batch(8, (1,), np.uint8, outer)
    assert sorted(seen) == [(i, j) for i in range(8) for j in range(3)]


def test_blas_gets_its_threads_back_after_a_batch(monkeypatch):
    monkeypatch.setattr(numpy_backend, "CACHE_BYTES", 1)
    blas = threadpoolctl.ThreadpoolController().select(user_api="blas")
    before, inside = blas.info(), []
    NumpyBackend().over_batch(4, (1,), np.uint8, lambda part: inside.extend(blas.info()))
    assert {library["num_threads"] for library in inside} == {1}
    assert blas.info() == before


@pytest.mark.parametrize(
    "shapes",
    [
        *([(3, 2, 4, 5), (3, 2, 4, 5)], [(3, 4), (4,)], [(3, 4), (1, 4)], [(3, 4), (3, 1)]),
        *([(3, 4), ()], [(1, 4), (3, 1)], [(0, 3), (1, 3)], [(), ()], [(1, 4), (1, 4)]),
    ],
)
@pytest.mark.parametrize("dtypes", ["ff", "dd", "fd", "ii"])
def test_elementwise_broadcasts_as_the_function_does(backend, shapes, dtypes):
    a, b = (numbers(*shapes[i], seed=i, dtype=dtypes[i]) for i in (0, 1))
    there = [backend.from_numpy(array) for array in (a, b)]
    same(backend, backend.elementwise(backend.xp.subtract, *there), a - b)
    same(backend, backend.elementwise(backend.xp.subtract, *there[::-1]), b - a)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_work_side_by_side_gives_its_results_in_order(count):
    before = minidl.get_num_threads()
    minidl.set_num_threads(count)
    try:
        backend, done = NumpyBackend(), []
        assert side_by_side(True, lambda: 1, lambda: 2) == [1, 2]

        def slices() -> int:  # work that is cut into slices itself
            backend.over_batch(
                64, (numpy_backend.CACHE_BYTES,), np.uint8, lambda part: done.append(part.start)
            )
            return len(done)

        def fails() -> None:
            raise ValueError("by design")

        assert max(side_by_side(True, slices, slices)) == 128
        assert sorted(done) == sorted([*range(64), *range(64)])
        for works in ((fails, slices), (slices, fails)):
            with pytest.raises(ValueError, match="by design"):
                side_by_side(True, *works)
    finally:
        minidl.set_num_threads(before)


def test_a_thread_of_ones_own_trains_to_the_same_bits_and_leaves_blas_as_it_was():
    """threadpoolctl lets only the first thread that asks set the number of BLAS's threads."""

    def slopes() -> list[np.ndarray]:
        x, w = (
            Tensor(numbers(*shape, dtype=np.float32) / 7, requires_grad=True)
            for shape in ((16, 16, 24, 24), (32, 16, 3, 3))
        )
        F.conv2d(x, w, padding=1).tanh().sum().backward()
        return [x.grad.numpy(), w.grad.numpy()]

    blas = threadpoolctl.ThreadpoolController().select(user_api="blas")
    before, inside = blas.info(), []
    wanted, found = slopes(), []
    NumpyBackend().over_batch(1, (1,), np.uint8, lambda _: inside.extend(blas.info()))
    for work in (
        lambda: found.extend(slopes()),
        lambda: NumpyBackend().over_batch(1, (1,), np.uint8, lambda _: inside.extend(blas.info())),
    ):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert all(map(np.array_equal, found, wanted))
    assert len(found) == len(wanted)
    assert {library["num_threads"] for library in inside} == {1}
    assert blas.info() == before


def test_elementwise_of_another_memory_order_than_its_shape_s():
    tall = np.random.default_rng(0).standard_normal((64, 40_000)).astype(np.float32).T
    np.testing.assert_array_equal(NumpyBackend().elementwise(np.add, tall, tall), tall + tall)
    images = numbers(64, 8, 40, 40, dtype=np.float32, channels_last=True)
    repeated = np.broadcast_to(np.float32(2), images.shape)
    product = NumpyBackend().elementwise(np.multiply, repeated, images)
    assert product.strides == images.strides
    np.testing.assert_array_equal(product, 2 * images)


def test_elementwise_keeps_the_memory_order_of_images(monkeypatch):
    monkeypatch.setattr(numpy_backend, "CACHE_BYTES", 1)
    images = numbers(3, 2, 4, 5, dtype=np.float32, channels_last=True)
    assert NumpyBackend().elementwise(np.add, images, images).strides == images.strides
    gradient = np.broadcast_to(np.float32(1), images.shape)  # as that of a mean
    assert NumpyBackend().gated(gradient, images).strides == images.strides


def test_elementwise_obeys_the_error_state_on_every_thread(monkeypatch):
    monkeypatch.setattr(numpy_backend, "CACHE_BYTES", 1)
    ones, zeros = np.ones((64, 8)), np.zeros((64, 8))
    for _ in range(20):
        with np.errstate(divide="ignore"):  # pytest makes errors of warnings
            assert (NumpyBackend().elementwise(np.divide, ones, zeros) == np.inf).all()
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError, match="divide by zero"):
        NumpyBackend().elementwise(np.divide, ones, zeros)


@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (7,), (0, 3), ()])
@pytest.mark.parametrize("memory", ["rows", "columns", "gaps"])
def test_relu_and_gated_cut_at_zero(backend, shape, memory):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    if x.size:
        x.flat[0], x.flat[-1] = np.nan, np.inf
    there, axes = backend.from_numpy(x), tuple(reversed(range(len(shape))))
    if memory == "columns":
        there = backend.from_numpy(np.array(x.transpose(), order="C")).transpose(axes)
    if memory == "gaps" and shape:
        there = backend.from_numpy(np.repeat(x, 2, -1))[..., ::2]
    cut = backend.elementwise(backend.xp.maximum, there, np.float32(0))
    same(backend, cut, np.maximum(x, np.float32(0)))
    values = numbers(*shape, dtype=np.float32)
    gated = backend.gated(backend.from_numpy(values), there)
    same(backend, gated, np.where(x > 0, values, np.float32(0)))


def test_masked_takes_a_single_number():
    kept = NumpyBackend().masked(np.array(np.inf), np.array(True))
    assert kept.shape == ()
    assert kept == np.inf


@pytest.mark.parametrize("shape", [(3, 4, 5), (1023, 257, 131), (2, 4096, 4097), (1, 6000, 6000)])
def test_matrix_products_in_blocks_are_numpys(shape):
    m, k, n = shape
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(m, k)), rng.normal(size=(n, k)).T
    product = NumpyBackend().matmul(a, b)
    assert product.dtype == np.float64
    np.testing.assert_allclose(product, a @ b, rtol=1e-9, atol=1e-9)


def test_stacks_of_matrices_are_multiplied_one_by_one():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 4, 5)), rng.normal(size=(2, 1, 5, 6))
    np.testing.assert_array_equal(NumpyBackend().matmul(a, b), np.matmul(a, b))


def test_a_small_product_that_is_no_number_gives_no_warning():
    """As in PyTorch and CuPy; and OpenBLAS sets NumPy's flag for memory it should not look at."""
    a, b = np.array([[np.inf, 1.0]], np.float32), np.array([[0.0], [1.0]], np.float32)
    assert np.isnan(NumpyBackend().matmul(a, b)).all()
