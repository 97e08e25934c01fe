"""`kernels.cu` built for the host, and the backend that launches it, against loops and formulas."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import minidl
from minidl import Tensor, optim
from minidl.backends import Windows, backend_for
from minidl.backends.cuda import cublas
from minidl.backends.cuda.cupy_backend import EXPRESSIONS
from minidl.tensor.rows import RowGradient

from .helpers import hosted, oracles
from .test_backends import SPECIAL, geometries, given_geometry, numbers, same
from .test_ops import calling, counting, leaves, on_each_case

pytestmark = pytest.mark.skipif(
    hosted.compiler() is None, reason="no C++ compiler (g++, clang++ or $CXX) to build kernels.cu"
)

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@pytest.fixture(scope="module")
def backend():
    with hosted.HostedBackend().in_place_of_guarded() as backend:
        yield backend


@pytest.fixture
def order(request):
    """Add in a fixed order, and go back to where we were."""
    minidl.set_deterministic(request.param)
    yield request.param
    minidl.set_deterministic(False)


# Kernels --------------------------------------------------------------------------------------


@each_dtype
@given_geometry()
def test_gather_and_scatter_windows(backend, dtype, w, n, c, channels_last):
    images = numbers(n, c, w.in_h, w.in_w, channels_last=channels_last, dtype=dtype)
    gathered = backend.gather_windows(backend.from_numpy(images), w)
    same(backend, gathered, oracles.gather_windows(images, w))
    rows = numbers(n, w.out_h, w.out_w, w.k_h * w.k_w, c, seed=1, dtype=dtype)
    same(backend, backend.scatter_windows(backend.from_numpy(rows), w), _scattered(rows, w))


def _scattered(rows, w):
    return oracles.scatter_windows(rows, w).astype(rows.dtype)


@each_dtype
@given_geometry()
def test_sum_and_spread_windows(backend, dtype, w, n, c, channels_last):
    images = numbers(n, c, w.in_h, w.in_w, channels_last=channels_last, dtype=dtype)
    values = numbers(n, c, w.out_h, w.out_w, seed=1, channels_last=channels_last, dtype=dtype)
    total = backend.sum_windows(backend.from_numpy(images), w)
    same(backend, total, oracles.sum_windows(images, w).astype(dtype))
    spread = backend.spread_windows(backend.from_numpy(values), w)
    same(backend, spread, oracles.spread_windows(values, w).astype(dtype))


@each_dtype
@hypothesis.given(geometries(inside=True), st.booleans(), st.data())
def test_max_windows_among_ties_nan_and_infinities(backend, dtype, w, channels_last, data):
    pixels = 2 * w.in_h * w.in_w
    drawn = data.draw(st.lists(SPECIAL, min_size=pixels, max_size=pixels))
    images = np.array(drawn, dtype).reshape(1, 2, w.in_h, w.in_w)
    if channels_last:
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    best, winners = backend.max_windows(backend.from_numpy(images), w)
    wanted, wanted_winners = oracles.max_windows(images, w)
    same(backend, best, wanted)
    sees = wanted_winners >= 0
    np.testing.assert_array_equal(backend.to_numpy(winners)[sees], wanted_winners[sees])
    generic, generic_winners = backend_for("cpu").max_windows(images, w)
    np.testing.assert_array_equal(backend.to_numpy(winners), generic_winners)
    np.testing.assert_array_equal(backend.to_numpy(best), generic)


@each_dtype
@given_geometry(inside=True)
def test_scatter_and_gather_winners(backend, dtype, w, n, c, channels_last):
    images = numbers(n, c, w.in_h, w.in_w, channels_last=channels_last, dtype=dtype)
    values = numbers(n, c, w.out_h, w.out_w, seed=1, channels_last=not channels_last, dtype=dtype)
    _, winners = backend.max_windows(backend.from_numpy(images), w)
    plain = backend.to_numpy(winners)
    scattered = backend.scatter_winners(backend.from_numpy(values), winners, w)
    same(backend, scattered, oracles.scatter_winners(values, plain, w).astype(dtype))
    gathered = backend.gather_winners(backend.from_numpy(images), winners, w)
    same(backend, gathered, oracles.gather_winners(images, plain, w).astype(dtype))


def test_windows_of_more_taps_than_a_byte_counts(backend):
    images = np.zeros((1, 1, 17, 17), np.float32)
    images[0, 0, 16, 16] = 1
    w = Windows(17, 17, 17, 17)
    _, winners = backend.max_windows(backend.from_numpy(images), w)
    assert (backend.to_numpy(winners).item(), winners.dtype) == (288, np.int32)
    scattered = backend.scatter_winners(backend.from_numpy(np.ones((1, 1, 1, 1))), winners, w)
    assert backend.to_numpy(scattered)[0, 0, 16, 16] == 1


@each_dtype
@pytest.mark.parametrize("memory", ["rows", "columns", "unlike", "gaps"])
@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (7,), (0, 3), (2, 1, 1, 3), ()])
def test_gated_drops_what_is_not_above_zero(backend, dtype, shape, memory):
    rng = np.random.default_rng(0)
    x, values = (np.asarray(rng.normal(size=shape), dtype) for _ in range(2))
    if x.size:
        x.flat[0], values.flat[-1] = np.nan, np.inf
    wanted, axes = np.where(x > 0, values, dtype(0)), tuple(reversed(range(len(shape))))
    turned = [backend.from_numpy(np.array(a.transpose(), order="C")) for a in (x, values)]
    x, values = backend.from_numpy(x), backend.from_numpy(values)
    if memory in ("columns", "unlike"):
        x = turned[0].transpose(axes)
        values = turned[1].transpose(axes) if memory == "columns" else values
    if memory == "gaps" and shape:
        x, values = (backend.xp.repeat(a, 2, -1)[..., ::2] for a in (x, values))
    same(backend, backend.gated(values, x), wanted)


@pytest.mark.parametrize("memory", ["channels last", "rows"])
@each_dtype
@hypothesis.given(
    st.tuples(*[st.integers(0, 3)] * 2, *[st.integers(1, 4)] * 2), st.booleans(), st.booleans()
)
def test_bias_and_relu(backend, dtype, memory, shape, with_bias, relu):
    images = numbers(*shape, channels_last=memory == "channels last", dtype=dtype)
    if images.size:
        images[0, 0, 0, 0], images[-1, -1, -1, -1] = np.nan, np.inf
    bias = numbers(shape[1], seed=1, dtype=dtype)
    wanted = images + bias.reshape(1, -1, 1, 1) if with_bias else images
    wanted = np.maximum(wanted, 0) if relu else wanted
    turned = images.transpose(0, 2, 3, 1) if memory == "channels last" else images
    there = backend.from_numpy(np.ascontiguousarray(turned))
    there = there.transpose(0, 3, 1, 2) if memory == "channels last" else there
    backend.finish(there, backend.from_numpy(bias) if with_bias else None, relu)
    same(backend, there, wanted)


@pytest.mark.parametrize("order", [False, True], indirect=True)
@each_dtype
@hypothesis.given(st.integers(1, 9), st.integers(0, 3), st.integers(0, 20), st.integers(0, 9))
def test_index_add_counts_every_repetition(backend, order, dtype, length, width, places, seed):
    rng = np.random.default_rng(seed)
    shape = (length, width) if width else (length,)
    rows = rng.integers(-length, length, places)
    target, values = numbers(*shape, dtype=dtype), numbers(places, *shape[1:], seed=1, dtype=dtype)
    there = backend.from_numpy(target)
    backend.index_add(there, (backend.from_numpy(rows),), backend.from_numpy(values))
    np.add.at(target, rows, values)
    same(backend, there, target)


@pytest.mark.parametrize("order", [False, True], indirect=True)
def test_index_add_takes_several_indices_that_broadcast(backend, order):
    target, values = numbers(4, 3, 2), numbers(5, 2, 2, seed=1)
    rows, columns = np.array([[0], [3], [3], [1], [-1]]), np.array([2, 0])
    there = backend.from_numpy(target)
    index = (backend.from_numpy(rows), backend.from_numpy(columns))
    backend.index_add(there, index, backend.from_numpy(values))
    np.add.at(target, (rows, columns), values)
    same(backend, there, target)


def test_index_add_in_a_fixed_order_rounds_once(backend):
    rng = np.random.default_rng(0)
    exact, rows = np.zeros((3, 5)), rng.integers(0, 3, 200)
    values = rng.normal(size=(200, 5)).astype("f")
    minidl.set_deterministic(True)
    try:
        there = backend.from_numpy(exact.astype("f"))
        backend.index_add(there, backend.from_numpy(rows), backend.from_numpy(values))
    finally:
        minidl.set_deterministic(False)
    np.add.at(exact, rows, values.astype(float))
    same(backend, there, exact.astype("f"))


# Products -------------------------------------------------------------------------------------


@st.composite
def matrices(draw):
    """Two matrices or stacks that fit, each lying in rows, in columns, or with gaps."""
    stack = draw(st.sampled_from([(), (1,), (3,)]))
    m, k, n = (draw(st.integers(1, 5)) for _ in range(3))
    forms = [draw(st.sampled_from(["rows", "columns", "gaps", "repeated"])) for _ in range(3)]
    return stack, (m, k, n), forms


def laid_out(backend, shape, form, dtype, seed):
    x = numbers(*shape, seed=seed, dtype=dtype)
    if form == "columns":
        return x, backend.from_numpy(np.ascontiguousarray(x.swapaxes(-1, -2))).swapaxes(-1, -2)
    if form == "gaps":
        return x, backend.from_numpy(np.repeat(x, 2, -1))[..., ::2]
    if form == "repeated" and shape[-2] > 1:
        x = np.broadcast_to(x[..., :1, :], shape)
        return x, backend.xp.broadcast_to(backend.from_numpy(x[..., :1, :]), shape)
    return x, backend.from_numpy(x)


@each_dtype
@hypothesis.given(matrices(), st.booleans())
def test_products_of_matrices_in_any_order_of_memory(backend, dtype, drawn, given_out):
    stack, (m, k, n), forms = drawn
    a, a_there = laid_out(backend, (*stack, m, k), forms[0], dtype, 0)
    b, b_there = laid_out(backend, (*stack, k, n), forms[1], dtype, 1)
    out = laid_out(backend, (*stack, m, n), forms[2], dtype, 2)[1] if given_out else None
    if given_out and forms[2] == "repeated":
        return
    found = backend.product(a_there, b_there, out)
    assert out is None or found is out
    same(backend, found, np.einsum("...mk,...kn->...mn", a, b))  # in loops of its own, not by BLAS


def test_tf32_is_a_switch(backend):
    a = backend.from_numpy(np.ones((2, 2), np.float32))
    library = hosted.library()
    assert not minidl.get_tf32()
    backend.product(a, a)
    assert library.mode_set_last() == cublas.FULL_PRECISION
    minidl.set_tf32(True)
    try:
        assert minidl.get_tf32()
        backend.product(a, a)
        assert library.mode_set_last() == cublas.TF32
    finally:
        minidl.set_tf32(False)


def test_what_cublas_reports_is_raised(backend):
    a = backend.from_numpy(np.ones((2, 3), np.float32))
    with pytest.raises(RuntimeError, match=r"matmul: cuBLAS reports error 7 for shapes \(2, 3\)"):
        backend._blas.multiply(a, a, backend.from_numpy(np.ones((2, 9), np.float32)), False)


# Optimisers -----------------------------------------------------------------------------------

RULES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "amsgrad": True}),
    ("RMSprop", {"lr": 0.01, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.9, "centered": True}),
]


@each_dtype
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_an_update_of_all_parameters_is_that_of_each(backend, dtype, rule, options, monkeypatch):
    """Five steps, the rate changing; two groups, one parameter without a gradient for a while."""
    launched = []
    monkeypatch.setattr(backend, "_launch", lambda *a: (launched.append(a[1]), hosted.launch(*a)))
    shapes = [(300, 7), (1,), (), (2, 3, 4, 5)]

    def trained(device):
        rng = np.random.default_rng(0)
        parameters = [Tensor(rng.normal(size=s), dtype, device, True) for s in shapes]
        groups = [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.05}]
        optimiser = getattr(optim, rule)(groups, **options)
        for step in range(5):
            optimiser.zero_grad()
            for parameter in parameters[step == 1 :]:
                parameter.grad = Tensor(rng.normal(size=parameter.shape), dtype, device)
            optimiser.param_groups[0]["lr"] *= 0.9
            optimiser.step()
        return parameters, optimiser.state_dict()

    (mine, my_state), (wanted, state) = trained("guarded"), trained("cpu")
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    for a, b in zip(mine, wanted, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), tolerance, tolerance)
    for place, entries in state["state"].items():
        assert my_state["state"][place]["step"] == entries["step"]
        for name in set(entries) - {"step"}:
            np.testing.assert_allclose(
                my_state["state"][place][name], entries[name], tolerance, tolerance
            )
    assert [y for _, y in launched] == [4, 3, 4, 4, 4], "one launch for each step"


def halved_by_update(self, p, g, state, group):
    p *= 0.5


def halved_by_formula(self, p, g, arrays, numbers):
    p *= 0.5


@pytest.mark.parametrize(
    "own", [{"update": halved_by_update}, {"formula": halved_by_formula}], ids=["update", "formula"]
)
def test_a_rule_of_ones_own_does_not_get_a_kernel_of_its_base(backend, own):
    parameter = Tensor([4.0], device="guarded", requires_grad=True)
    parameter.grad = Tensor([1.0], device="guarded")
    rule = type("Halved", (optim.Adam,), own)([parameter])
    rule.step()
    rule.step()
    assert parameter.numpy().tolist() == [1.0]
    assert rule.state_dict()["state"][0]["step"] == 2


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_rows_of_a_gradient_are_updated_by_the_kernel_too(backend, rule, options, monkeypatch):
    launched = []
    monkeypatch.setattr(backend, "_launch", lambda *a: (launched.append(a[0]), hosted.launch(*a)))

    def trained(device):
        rng = np.random.default_rng(0)
        weight = Tensor(rng.normal(size=(7, 3)), device=device, requires_grad=True)
        optimiser = getattr(optim, rule)([weight], **options)
        for rows in ([1, 5, 1], [5, 0, 2], [1, 1, 6]):
            optimiser.zero_grad()
            values = Tensor(rng.normal(size=(3, 3)), device=device).data
            weight.grad = RowGradient(Tensor(np.array(rows), device=device).data, values, (7, 3))
            optimiser.step()
        return weight.numpy(), optimiser.state_dict()["state"][0]

    (mine, my_state), (wanted, state) = trained("guarded"), trained("cpu")
    np.testing.assert_allclose(mine, wanted, 1e-12, 1e-12)
    assert my_state.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_allclose(my_state[name], value, 1e-12, 1e-12)
    assert sum(rule.lower().rstrip("w") in name for name in launched) == 3


# Every operation, as on a GPU -----------------------------------------------------------------


@on_each_case
def test_every_operation_gives_the_cpus_value_and_gradients(op, of, backend):
    def results(device):
        inputs = leaves(of, device)
        output = calling(op, of, backend_for(device))(*inputs)
        output.backward(counting(output.shape, device))
        return [output.numpy(), *(x.grad.numpy() for x in inputs)]

    for mine, wanted in zip(results("guarded"), results("cpu"), strict=True):
        np.testing.assert_allclose(mine, wanted, 1e-10, 1e-10)


# Compilers ------------------------------------------------------------------------------------


def nvrtc():
    """Return CUDA's compiler at run time: the system's, or that of a package of PyPI's."""
    found = [ctypes.util.find_library("nvrtc")]
    for folder in sys.path:
        found += sorted(map(str, Path(folder).glob("nvidia/*/lib/libnvrtc.so*")))
    names = [name for name in found if name]
    return ctypes.CDLL(names[0]) if names else None


def read(library, what, program, size_of):
    size = ctypes.c_size_t()
    assert getattr(library, size_of)(program, ctypes.byref(size)) == 0
    text = ctypes.create_string_buffer(size.value)
    assert getattr(library, what)(program, text) == 0
    return text.raw


@pytest.mark.parametrize("architecture", [pytest.param(75, marks=pytest.mark.slow), 90])
def test_nvrtc_compiles_every_form_as_cupy_asks_for_it(architecture):
    """It needs no GPU and no driver: `pip install nvidia-cuda-nvrtc-cu12` will do."""
    library = nvrtc()
    if library is None:
        pytest.skip("no NVRTC here (pip install nvidia-cuda-nvrtc-cu12)")
    program, lowered = ctypes.c_void_p(), ctypes.c_char_p()
    source = hosted.KERNELS.read_bytes()
    made = library.nvrtcCreateProgram(ctypes.byref(program), source, b"k.cu", 0, None, None)
    assert made == 0
    for expression in EXPRESSIONS:
        assert library.nvrtcAddNameExpression(program, expression.encode()) == 0
    options = [b"-std=c++14", b"-ftz=true", f"-arch=sm_{architecture}".encode()]
    compiled = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * 3)(*options))
    log = read(library, "nvrtcGetProgramLog", program, "nvrtcGetProgramLogSize")
    assert compiled == 0, log.decode()
    code = read(library, "nvrtcGetCUBIN", program, "nvrtcGetCUBINSize")
    for expression in EXPRESSIONS:
        name = expression.encode()
        assert library.nvrtcGetLoweredName(program, name, ctypes.byref(lowered)) == 0
        assert lowered.value in code
    assert library.nvrtcDestroyProgram(ctypes.byref(program)) == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here")
def test_nvcc_compiles_every_kernel_for_every_gpu_from_2017_to_2022(tmp_path):
    command = ["nvcc", "--list-gpu-code"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    architectures = [name for name in listed if int(name[3:]) in range(70, 91)]
    assert architectures, "this nvcc knows none of sm_70 to sm_90"
    source = tmp_path / "all.cu"
    forms = ",\n    ".join(f"(void*)&{expression}" for expression in EXPRESSIONS)
    source.write_text(f'#include "{hosted.KERNELS}"\nvoid* kernels[] = {{\n    {forms}}};\n')
    for name in architectures:
        built = tmp_path / f"{name}.cubin"
        command = ["nvcc", "-std=c++17", "-Werror", "all-warnings", f"-arch={name}", "-cubin"]
        subprocess.run([*command, "-o", str(built), str(source)], check=True)
        assert built.stat().st_size > 1000


def test_every_kernel_is_listed():
    text = hosted.KERNELS.read_text()
    listed = {expression.partition("<")[0] for expression in EXPRESSIONS}
    found = set(re.findall(r"__global__ void (\w+)\(", text)) - {"name"}
    assert listed == found | {"sgd", "adam", "rmsprop"}
