"""CUDA on a CPU does what CUDA documents: launches, barriers, atomics, streams, events and graphs.

All but those marked `standing_in` hold on a GPU too. Run them with
`python -m tests.helpers.cuda_on_cpu -m pytest -m gpu`, or on a GPU with `pytest -m gpu`.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cuda")]

standing_in = pytest.mark.skipif("CUDA_ON_CPU" not in os.environ, reason="this is a real GPU")

SOURCE = r"""
extern "C" __global__ void place(int* out, int width) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    out[y * width + x] = 1000 * y + x;
}
extern "C" __global__ void reverse(float* x) {
    __shared__ float kept[64];
    float* mine = x + blockIdx.x * 64;
    kept[threadIdx.x] = mine[threadIdx.x];
    __syncthreads();
    mine[threadIdx.x] = kept[63 - threadIdx.x];
}
// Each round reads what another thread wrote in the round before; a warp leaves early.
extern "C" __global__ void sum(const double* x, double* out, int count) {
    __shared__ double kept[128];
    int i = threadIdx.x;
    kept[i] = i < count ? x[i] : 0;
    if (i >= 96) return;
    for (int half = 64; half; half /= 2) {
        __syncthreads();
        if (i < half && i + half < 96) kept[i] += kept[i + half];
    }
    if (i == 0) *out = kept[0];
}
extern "C" __global__ void count(const int* of, int* out, int size) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < size) atomicAdd(out + of[i], 1);
}
template <typename T>
__global__ void scale(T* x, T by) {
    x[threadIdx.x] *= by;
}
"""


@pytest.fixture(scope="module")
def cupy():
    return pytest.importorskip("cupy")


@pytest.fixture(scope="module")
def kernels(cupy):
    expressions = ("scale<float>", "scale<double>")
    return cupy.RawModule(code=SOURCE, options=("-std=c++14",), name_expressions=expressions)


def test_a_launch_covers_its_grid_and_its_blocks(cupy, kernels):
    out = cupy.full((6, 20), -1, np.int32)
    kernels.get_function("place")((5, 2), (4, 3), (out, np.int32(20)))
    y, x = np.indices((6, 20))
    np.testing.assert_array_equal(out.get(), 1000 * y + x)


def test_threads_of_a_block_share_memory_and_wait_for_each_other(cupy, kernels):
    x = cupy.arange(192, dtype=np.float32)
    kernels.get_function("reverse")((3,), (64,), (x,))
    np.testing.assert_array_equal(x.get(), np.arange(192).reshape(3, 64)[:, ::-1].ravel())


def test_a_barrier_waits_for_those_threads_that_have_not_ended(cupy, kernels):
    values, out = np.random.default_rng(0).normal(size=96), cupy.zeros((), np.float64)
    kernels.get_function("sum")((1,), (128,), (cupy.asarray(values), out, np.int32(96)))
    np.testing.assert_allclose(out.get(), values.sum(), rtol=1e-12)


def test_atomic_additions_lose_nothing(cupy, kernels):
    of = np.random.default_rng(0).integers(0, 7, 1000).astype(np.int32)
    out = cupy.zeros(7, np.int32)
    kernels.get_function("count")((8,), (128,), (cupy.asarray(of), out, np.int32(1000)))
    np.testing.assert_array_equal(out.get(), np.bincount(of, minlength=7))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_template_is_found_by_its_expression(cupy, kernels, dtype):
    x, name = cupy.arange(4, dtype=dtype), {4: "float", 8: "double"}[np.dtype(dtype).itemsize]
    kernels.get_function(f"scale<{name}>")((1,), (4,), (x, dtype(0.1)))
    np.testing.assert_array_equal(x.get(), np.arange(4, dtype=dtype) * dtype(0.1))


def test_cupys_own_kernels_agree_with_numpy(cupy):
    x = np.random.default_rng(0).normal(size=(7, 33, 5))
    mine = cupy.asarray(x)
    for name in ("sum", "mean", "max", "argmin", "cumsum"):
        found = getattr(mine, name)(axis=1).get()
        np.testing.assert_allclose(found, getattr(x, name)(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(cupy.argsort(mine, axis=-1).get(), x.argsort(-1))
    np.testing.assert_allclose((mine @ mine.swapaxes(1, 2)).get(), x @ x.swapaxes(1, 2))
    np.testing.assert_allclose(
        cupy.where(mine > 0, cupy.exp(mine), 0)[3, ::2].get(), np.where(x > 0, np.exp(x), 0)[3, ::2]
    )


def test_a_stream_that_waits_for_an_event_sees_what_was_done_before_it(cupy):
    first, second = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    with first:
        x = cupy.zeros(1000, np.float32)
        x += 1
        done = first.record()
    second.wait_event(done)
    with second:
        y = x * 2
    second.synchronize()
    assert done.done
    assert float(y.sum()) == 2000


def test_work_in_one_stream_keeps_its_order_and_time_passes(cupy):
    stream = cupy.cuda.Stream()
    with stream:
        start, x = stream.record(), cupy.ones(100, np.float64)
        for _ in range(5):
            x *= 2
        end = stream.record()
        end.synchronize()
    assert cupy.cuda.get_elapsed_time(start, end) >= 0
    assert x.get().tolist() == [32.0] * 100


def test_a_recorded_graph_runs_when_it_is_launched_and_only_then(cupy):
    stream, x = cupy.cuda.Stream(non_blocking=True), cupy.zeros(3, np.float32)
    x += 1  # so that the kernel is there before the recording
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        x += 1
        graph = stream.end_capture()
    stream.synchronize()
    assert x.get().tolist() == [1, 1, 1]
    for _ in range(3):
        graph.launch()
    assert x.get().tolist() == [4, 4, 4]


def test_waiting_ends_a_recording_with_an_error(cupy):
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="CaptureUnsupported"):
            cupy.cuda.runtime.streamSynchronize(stream.ptr)
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="CaptureInvalidated"):
            stream.end_capture()


@standing_in
def test_a_stream_that_does_not_wait_sees_memory_as_it_was(cupy):
    """On a GPU this is chance: here other streams' work is not done before someone waits."""
    first, second = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    x = cupy.zeros(4, np.float32)
    x += 0  # so that the kernels are there
    y = x * 1
    cupy.cuda.Device().synchronize()
    with first:
        x += 1
    with second:
        cupy.multiply(x, 1, out=y)
    second.synchronize()
    assert y.get(stream=second).tolist() == [0, 0, 0, 0]
    first.synchronize()
    assert x.get().tolist() == [1, 1, 1, 1]


@standing_in
def test_work_that_nobody_waits_for_is_done_late(cupy):
    """Asking whether it is done does not change what other work sees, until one asks in a loop."""
    stream, x = cupy.cuda.Stream(non_blocking=True), cupy.zeros(4, np.float32)
    cupy.cuda.Device().synchronize()
    with stream:
        x += 1
        done = stream.record()
    assert not any(done.done for _ in range(1000))
    assert done.done
    assert x.get().tolist() == [1, 1, 1, 1]


@standing_in
def test_times_between_events_need_a_wait(cupy):
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        start, _, end = stream.record(), cupy.zeros(4), stream.record()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="NotReady"):
        cupy.cuda.get_elapsed_time(start, end)
    end.synchronize()
    assert cupy.cuda.get_elapsed_time(start, end) >= 0


def test_what_was_recorded_in_a_graph_cannot_be_waited_for_afterwards(cupy):
    stream, x = cupy.cuda.Stream(non_blocking=True), cupy.zeros(3, np.float32)
    x += 1
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        x += 1
        event = stream.record()
        graph = stream.end_capture()
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="CapturedEvent"):
            stream.wait_event(event)
        x += 1
    graph.launch(stream)
    stream.synchronize()
    assert x.get().tolist() == [3, 3, 3]


@standing_in
def test_new_memory_holds_no_zeros(cupy):
    memory = cupy.cuda.Memory(64)  # not from a pool
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    assert np.isnan(cupy.ndarray(8, np.float64, pointer).get()).all()


@standing_in
def test_what_is_missing_says_its_name(cupy, capfd):
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="implement cudaDeviceSetLimit"):
        cupy.cuda.runtime.deviceSetLimit(0, 1)
    with pytest.raises(Exception, match="NOT_SUPPORTED"):
        cupy.full((2, 2), 1j) @ cupy.full((2, 2), 1j)
    assert "cudaDeviceSetLimit is not implemented" in (printed := capfd.readouterr().err)
    assert "cublas" in printed


def test_a_kernel_that_does_not_compile_shows_the_compilers_message(cupy):
    wrong = cupy.RawKernel('extern "C" __global__ void f(int* x) { *x = unheard_of(); }', "f")
    with pytest.raises(cupy.cuda.compiler.CompileException, match="unheard_of"):
        wrong((1,), (1,), (cupy.zeros(1, np.int32),))
