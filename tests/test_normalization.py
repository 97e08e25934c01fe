"""Normalisation against its definition, PyTorch, and itself in other orders of memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import minidl
from minidl import Tensor, nn, optim
from minidl import functional as F
from minidl.autograd import set_recording
from minidl.tensor import record
from minidl.training import load_weights, save_weights

from .helpers import formulas
from .reference.cases import FAMILIES, load


def numbers(*shape: int, seed: int = 0, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def composed(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Batch norm in training as plain tensor operations, whose gradients are known to be right."""
    axes, shape = (0, *range(2, x.ndim)), (-1, *(1,) * (x.ndim - 2))
    deviation = (x.var(axes, keepdims=True) + eps).sqrt()
    normal = (x - x.mean(axes, keepdims=True)) / deviation
    return normal * weight.reshape(shape) + bias.reshape(shape)


def fused(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)


def value_and_gradients(
    fn: Callable[..., Tensor], arrays: list[Any], upstream: Any, eps: float = 1e-5
) -> list[np.ndarray]:
    """Return output and gradients; arrays are taken as they lie in memory."""
    tensors = [Tensor.wrap(array).requires_grad_() for array in arrays]
    out = fn(*tensors, eps)
    out.backward(Tensor.wrap(upstream))
    return [out.numpy(), *(x.grad.numpy() for x in tensors)]


# The same whatever the order in memory --------------------------------------------------------


def reordered(array: np.ndarray, order: tuple[int, ...], backwards: bool) -> np.ndarray:
    """Return equal numbers whose axes lie in memory in this order."""
    moved = np.array(array.transpose(order), order="C")
    if backwards:
        moved = np.array(moved[..., ::-1], order="C")[..., ::-1]
    return moved.transpose(np.argsort(order))


@st.composite
def batches(draw):
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=2, max_size=5)))
    if np.prod(shape) == shape[1]:
        shape = (2, *shape[1:])
    orders = [draw(st.permutations(range(len(shape)))) for _ in range(2)]
    return shape, orders, draw(st.booleans()), draw(st.sampled_from([1e-5, 0.1]))


@settings(max_examples=150)
@given(drawn=batches(), seed=st.integers(0, 99), far=st.sampled_from([0.0, 1e6]))
def test_any_shape_in_any_memory_order_has_value_and_gradients_of_plain_operations(
    drawn, seed, far
):
    shape, (order, other), backwards, eps = drawn
    c = shape[1]
    x, upstream = numbers(*shape, seed=seed) + far, numbers(*shape, seed=seed + 1)
    parameters = [numbers(c, seed=seed + 2), numbers(c, seed=seed + 3)]
    wanted = value_and_gradients(composed, [x.copy(), *parameters], upstream.copy(), eps)
    arrays = [reordered(x, order, backwards), *parameters]
    found = value_and_gradients(fused, arrays, reordered(upstream, other, backwards), eps)
    for mine, theirs in zip(found, wanted, strict=True):
        size = 1 + np.abs(theirs).max()
        np.testing.assert_allclose(mine, theirs, atol=size * (1e-6 if far else 1e-9), rtol=0)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["planes", "pixels"])
@pytest.mark.parametrize("offset", [0.0, 50.0], ids=["near 0", "far from 0"])
@pytest.mark.parametrize("shape", [(37, 24, 31, 29), (64, 3, 80, 80), (3, 300, 30, 31)], ids=str)
def test_large_batches_in_slices_are_right_on_any_number_of_threads(shape, offset, order):
    """Sizes of which no slice is like the last one; float32, as in training."""
    x = numbers(*shape, dtype=np.float32) + np.float32(offset)
    upstream = numbers(*shape, seed=1, dtype=np.float32)
    parameters = [numbers(shape[1], seed=i, dtype=np.float32) for i in (2, 3)]
    doubles = [a.astype(np.float64) for a in (x, *parameters)]
    wanted = value_and_gradients(composed, doubles, upstream.astype(np.float64))
    results, before = [], minidl.get_num_threads()
    try:
        for threads in (1, 2, 3):
            minidl.set_num_threads(threads)
            arrays = [reordered(x, order, False), *parameters]
            results.append(value_and_gradients(fused, arrays, reordered(upstream, order, False)))
    finally:
        minidl.set_num_threads(before)
    for mine, theirs in zip(results[0], wanted, strict=True):
        assert mine.dtype == np.float32
        assert np.abs(mine - theirs).max() < 1e-5 * np.abs(theirs).max()
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["planes", "pixels"])
@pytest.mark.parametrize("training", [True, False])
def test_result_and_gradient_lie_in_memory_as_the_images_do(order, training):
    seen = []

    def look(gradient: Tensor) -> Any:  # at what comes before anything can reorder it
        seen.append(gradient.data.strides)
        return (Tensor(0.0),)

    array = reordered(numbers(2, 3, 4, 5), order, False)
    x = record("x", array, (Tensor(0.0, requires_grad=True),), look)
    running = [Tensor(np.zeros(3)), Tensor(np.ones(3))]
    out = F.batch_norm(x, *running, training=training)
    out.backward(Tensor.wrap(reordered(numbers(2, 3, 4, 5), order, False)))
    assert [out.data.strides, *seen] == [array.strides, array.strides]


# Precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["planes", "pixels"])
@pytest.mark.parametrize("mean", [3.0, 100.0, 1e4, -1e4])
def test_float32_far_from_zero_stays_as_exact_as_its_numbers(mean, order):
    """The mean of squares less the square of the mean would be nothing but rounding here."""
    x = (numbers(16, 4, 12, 12) + mean).astype(np.float32)
    x[:, 1] -= np.float32(mean)  # one channel is not far
    exact, weight, bias = x.astype(np.float64), np.full(4, 1.5), np.full(4, -0.5)
    upstream = numbers(*x.shape, seed=1, dtype=np.float32)
    wanted = value_and_gradients(composed, [exact, weight, bias], upstream.astype(np.float64))
    narrow = [reordered(x, order, False), *(a.astype(np.float32) for a in (weight, bias))]
    found = value_and_gradients(fused, narrow, upstream)
    for mine, theirs in zip(found, wanted, strict=True):
        assert np.abs(mine - theirs).max() < 3e-6 * np.abs(theirs).max()
    running = [Tensor(np.zeros(4, np.float32)), Tensor(np.zeros(4, np.float32))]
    F.batch_norm(Tensor(x), *running, training=True, momentum=1)
    np.testing.assert_allclose(running[0].numpy(), exact.mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(running[1].numpy(), exact.var((0, 2, 3), ddof=1), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_a_constant_channel_becomes_the_bias(value, device):
    x = Tensor(np.full((4, 2, 3, 3), value, np.float32), device=device, requires_grad=True)
    bias = Tensor([1.0, -2.0], device=device)
    out = F.batch_norm(x, None, None, bias=bias, training=True)
    wanted = np.broadcast_to(bias.numpy()[:, None, None], x.shape)
    np.testing.assert_allclose(out.numpy(), wanted, atol=1e-4)
    out.backward(Tensor(numbers(*x.shape, dtype=np.float32), device=device))
    assert np.isfinite(x.grad.numpy()).all()


@pytest.mark.parametrize("size", [1e-30, 1e25, 1e30])
@pytest.mark.parametrize("norm", ["batch", "layer", "group"])
def test_numbers_whose_squares_leave_float32_are_normalised(norm, size):
    rng = np.random.default_rng(0)
    values, upstream = rng.normal(size=(2, 4, 2, 4, 3))
    call = {
        "batch": lambda x: F.batch_norm(x, None, None, training=True, eps=0),
        "layer": lambda x: F.layer_norm(x, (4, 3), eps=0),
        "group": lambda x: F.group_norm(x, 1, eps=0),
    }[norm]
    exact, x = Tensor(values, requires_grad=True), Tensor(np.float32(values * size))
    wanted, found = call(exact), call(x.requires_grad_())
    wanted.backward(upstream)
    found.backward(np.float32(upstream))
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=2e-6)
    np.testing.assert_allclose(x.grad.numpy() * size, exact.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize("mean", [1.5, 3.0, 5.0])
def test_few_numbers_near_zero_are_as_exact_as_many(mean):
    """`mean(x**2) - mean(x)**2` would lose a digit."""
    x = np.float32(mean + np.random.default_rng(0).normal(size=(64, 8)))
    found, wanted = (F.layer_norm(Tensor(x, dtype), 8).numpy() for dtype in ("f", "d"))
    assert np.abs(found - wanted).max() < 4 * np.abs(wanted).max() * np.finfo(np.float32).eps


def test_a_weight_of_zero_gives_the_bias_and_still_learns(device):
    x = Tensor(numbers(4, 2, 3), device=device, requires_grad=True)
    weight = Tensor(np.zeros(2), device=device, requires_grad=True)
    out = F.batch_norm(x, None, None, weight, Tensor(np.ones(2), device=device), training=True)
    assert np.array_equal(out.numpy(), np.ones(x.shape))
    (out * out * out).backward(Tensor(numbers(*x.shape, seed=1), device=device))
    assert not x.grad.numpy().any()
    assert weight.grad.numpy().all()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["planes", "pixels"])
def test_nan_spoils_its_own_channel_alone(order):
    x = numbers(2, 3, 4, 5, dtype=np.float32)
    x[0, 1, 2, 3] = np.nan
    out = F.batch_norm(Tensor.wrap(reordered(x, order, False)), None, None, training=True)
    assert np.isnan(out.numpy()).all((0, 2, 3)).tolist() == [False, True, False]
    assert np.isfinite(out.numpy()[:, [0, 2]]).all()


# Derivatives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("far", [0.0, 20.0])
def test_gradients_of_training_and_evaluation_are_right_to_order_two(training, far, device):
    running = [
        Tensor(np.array([0.5, -1]), device=device),
        Tensor(np.array([2, 0.5]), device=device),
    ]

    def fn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm(x, *running, weight, bias, training, momentum=0, eps=0.01)

    arrays = [numbers(3, 2, 2, 2) + far, numbers(2, seed=1), numbers(2, seed=2)]
    minidl.gradcheck(fn, [Tensor(a, device=device) for a in arrays], order=2)


@pytest.mark.parametrize("training", [True, False])
def test_third_derivatives_are_right_too(training, device):
    running = [
        Tensor(np.array([0.5, -1]), device=device),
        Tensor(np.array([2, 0.5]), device=device),
    ]

    def slope(x: Tensor, weight: Tensor, upstream: Tensor) -> Tensor:
        with set_recording(True):  # where gradcheck takes differences, nothing else is recorded
            x, weight = x * 1, weight * 1
            out = F.batch_norm(x, *running, weight, None, training, momentum=0, eps=0.1)
            dx, dw = minidl.grad(out, [x, weight], [upstream], create_graph=True)
            return dx + dw.reshape(2, 1)

    shapes = [(3, 2, 2), (2,), (3, 2, 2)]
    arrays = [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
    minidl.gradcheck(slope, [Tensor(a, device=device) for a in arrays], order=2, rtol=1e-5)


def test_weight_or_bias_alone(device):
    x = numbers(3, 2, 4)
    for weight, bias in ((numbers(2, seed=1), None), (None, numbers(2, seed=1))):
        given = [None if a is None else Tensor(a, device=device) for a in (weight, bias)]
        tensor = Tensor(x, device=device)
        for found, wanted in (
            (
                F.batch_norm(tensor, None, None, *given, training=True),
                formulas.batch_norm(x, weight, bias, training=True),
            ),
            (F.group_norm(tensor, 1, *given), formulas.group_norm(x, weight, bias, num_groups=1)),
            (
                F.layer_norm(tensor.transpose(0, 2, 1), 2, *given),
                formulas.layer_norm(x.transpose(0, 2, 1), weight, bias, normalized_shape=2),
            ),
        ):
            np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)


def test_no_gradient_is_computed_that_nobody_needs(monkeypatch):
    calls = []
    for name in ("_input_gradient", "_weight_gradient"):
        monkeypatch.setattr(F.normalization, name, lambda *_, name=name: calls.append(name))
    bias = Tensor(np.zeros(2), requires_grad=True)
    x, weight = Tensor(numbers(3, 2)), Tensor(numbers(2))
    F.batch_norm(x, None, None, weight, bias, training=True).sum().backward()
    assert not calls
    assert bias.grad.numpy().tolist() == [3, 3]


def test_a_frozen_layer_in_evaluation_adds_nothing_up(monkeypatch):
    layer = nn.BatchNorm1d(2).requires_grad_(False).eval()
    x = Tensor(numbers(3, 2), np.float32, requires_grad=True)
    out = layer(x)
    monkeypatch.setattr(F.normalization, "_sums", None)
    out.backward(Tensor(np.ones((3, 2), np.float32)))
    np.testing.assert_allclose(x.grad.numpy(), 1 / np.sqrt(1 + 1e-5), rtol=1e-6)


# Running statistics ---------------------------------------------------------------------------


STORED = load("normalization")
WITH_RUNNING = [
    case
    for case in FAMILIES["normalization"]
    if case.op == "batch_norm" and case.constants and case.options.get("training")
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", WITH_RUNNING, ids=lambda case: case.name)
def test_running_statistics_are_pytorch_s(case, dtype, device):
    running = {n: Tensor(value, dtype, device) for n, value in case.constants.items()}
    x = Tensor(STORED[f"{case.name}/input 0"], dtype, device)
    F.batch_norm(x, **running, **case.options)
    for name, tensor in running.items():
        wanted = STORED[f"{case.name}/new {name}"]
        assert tensor.dtype == dtype
        tol = 1e-6 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(tensor.numpy(), wanted, rtol=tol, atol=tol)


def test_running_statistics_are_left_alone_in_evaluation_and_by_an_empty_batch(device):
    running = [Tensor(numbers(3), device=device), Tensor(np.ones(3), device=device)]
    before = [r.numpy() for r in running]
    F.batch_norm(Tensor(numbers(4, 3), device=device), *running)
    assert F.batch_norm(
        Tensor(np.zeros((0, 3, 2)), device=device), *running, training=True
    ).shape == (0, 3, 2)
    assert all(np.array_equal(r.numpy(), old) for r, old in zip(running, before, strict=True))


def test_one_of_the_running_statistics_may_be_kept_alone(device):
    x, mean = numbers(4, 3), Tensor(np.zeros(3), device=device)
    F.batch_norm(Tensor(x, device=device), mean, None, training=True, momentum=0.5)
    np.testing.assert_allclose(mean.numpy(), x.mean(0) / 2, atol=1e-12)


def test_a_backward_does_not_mind_statistics_that_moved_on(device):
    """As when a layer is used twice before the gradients are asked for."""
    layer = nn.BatchNorm1d(3).to(device, np.float64)
    x = Tensor(numbers(4, 3), device=device, requires_grad=True)
    both = layer(x) + layer(x * 2)
    both.backward(Tensor(numbers(4, 3, seed=1), device=device))
    layer.eval()
    out = layer(x)
    layer.train()(x)
    (gradient,) = minidl.grad(out.sum(), x)
    assert layer.num_batches_tracked.item() == 3
    assert np.isfinite(gradient.numpy()).all()


# Layers ---------------------------------------------------------------------------------------

LAYERS = {
    "BatchNorm1d": ((5,), (4, 5)),
    "BatchNorm1d of sequences": ((5,), (2, 5, 3)),
    "BatchNorm2d": ((5,), (2, 5, 3, 2)),
    "LayerNorm": (((3, 2),), (4, 3, 2)),
    "GroupNorm": ((2, 6), (2, 6, 3)),
}


def made(name: str, library: Any = nn, **options: Any) -> Any:
    return getattr(library, name.partition(" ")[0])(*LAYERS[name][0], **options)


def test_state_has_pytorch_s_names_shapes_and_dtypes():
    for layer in (nn.BatchNorm1d(5), nn.BatchNorm2d(5)):
        found = [(name, a.shape, a.dtype) for name, a in layer.state_dict().items()]
        assert found == [
            ("weight", (5,), np.float32),
            ("bias", (5,), np.float32),
            ("running_mean", (5,), np.float32),
            ("running_var", (5,), np.float32),
            ("num_batches_tracked", (), np.int64),
        ]
    assert list(nn.BatchNorm2d(5, affine=False).state_dict()) == [
        "running_mean",
        "running_var",
        "num_batches_tracked",
    ]
    assert list(nn.BatchNorm2d(5, track_running_stats=False).state_dict()) == ["weight", "bias"]
    assert [n for n, _ in nn.BatchNorm2d(5, bias=False).named_parameters()] == ["weight"]
    assert {n: a.shape for n, a in nn.LayerNorm((3, 2)).state_dict().items()} == {
        "weight": (3, 2),
        "bias": (3, 2),
    }
    assert list(nn.LayerNorm(3, bias=False).state_dict()) == ["weight"]
    assert not nn.LayerNorm(3, elementwise_affine=False).state_dict()
    assert {n: a.shape for n, a in nn.GroupNorm(2, 6).state_dict().items()} == {
        "weight": (6,),
        "bias": (6,),
    }
    assert not nn.GroupNorm(2, 6, affine=False).state_dict()


@pytest.mark.parametrize("name", LAYERS)
def test_a_new_layer_normalizes(name, device):
    x = Tensor(numbers(*LAYERS[name][1]) * 3 + 2, np.float32, device)
    out = made(name).to(device)(x).numpy()
    axes = {"L": (1, 2), "G": None}.get(name[0], (0, *range(2, out.ndim)))
    if axes is None:
        out, axes = out.reshape(4, -1), 1
    np.testing.assert_allclose(out.mean(axes), 0, atol=1e-6)
    np.testing.assert_allclose(out.var(axes), 1, rtol=1e-4)


def test_training_follows_the_batches_and_evaluation_uses_what_was_found(device):
    layer = nn.BatchNorm2d(3, momentum=0.5).to(device, np.float64)
    x = numbers(4, 3, 2, 2) + 1
    images, values = Tensor(x, device=device), x.transpose(1, 0, 2, 3).reshape(3, -1)
    mean, var = np.zeros(3), np.ones(3)
    for step in range(3):
        layer(images)
        mean = 0.5 * mean + 0.5 * values.mean(1)
        var = 0.5 * var + 0.5 * values.var(1, ddof=1)
        assert layer.num_batches_tracked.item() == step + 1
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, atol=1e-12)
    np.testing.assert_allclose(layer.running_var.numpy(), var, atol=1e-12)
    before = layer.state_dict()
    found = layer.eval()(images).numpy()
    wanted = formulas.batch_norm(x, running_mean=mean, running_var=var)
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    # In evaluation an example's result does not depend on its company, nor is anything counted.
    np.testing.assert_allclose(layer(images[:1]).numpy(), found[:1], atol=1e-12)
    after = layer.state_dict()
    assert all(np.array_equal(after[name], array) for name, array in before.items())
    trained = layer.train()(images).numpy()
    np.testing.assert_allclose(trained, formulas.batch_norm(x, training=True), atol=1e-12)


def test_momentum_none_averages_all_batches(device):
    layer = nn.BatchNorm1d(3, momentum=None).to(device, np.float64)
    batches = [numbers(5, 3, seed=i) + i for i in range(4)]
    for batch in batches:
        layer(Tensor(batch, device=device))
    means, variances = [b.mean(0) for b in batches], [b.var(0, ddof=1) for b in batches]
    np.testing.assert_allclose(layer.running_mean.numpy(), np.mean(means, 0), atol=1e-12)
    np.testing.assert_allclose(layer.running_var.numpy(), np.mean(variances, 0), atol=1e-12)


def test_without_running_statistics_evaluation_uses_the_batch_s_own(device):
    layer = nn.BatchNorm1d(3, track_running_stats=False).to(device)
    x = Tensor(numbers(4, 3), np.float32, device)
    assert np.array_equal(layer(x).numpy(), layer.eval()(x).numpy())
    assert list(layer.named_buffers()) == []


def test_a_batch_that_is_refused_is_not_counted():
    layer = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        layer(Tensor(numbers(1, 3), np.float32))
    assert layer.num_batches_tracked.item() == 0
    assert not layer.running_mean.numpy().any()
    assert layer.eval()(Tensor(numbers(1, 3), np.float32)).shape == (1, 3)


def test_running_statistics_are_state_but_not_trained(device):
    layer = nn.BatchNorm2d(3).to(device, np.float64)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert {x.device for _, x in layer.named_buffers()} == {device}
    assert layer.running_var.dtype == np.float64
    assert layer.num_batches_tracked.dtype == np.int64
    layer(Tensor(numbers(2, 3, 2, 2), device=device)).sum().backward()
    assert all(not buffer.requires_grad for _, buffer in layer.named_buffers())
    twin = copy.deepcopy(layer)
    layer(Tensor(numbers(2, 3, 2, 2), device=device))
    assert (twin.num_batches_tracked.item(), layer.num_batches_tracked.item()) == (1, 2)
    layer.to("cpu", np.float32)
    assert {x.device for _, x in layer.named_buffers()} == {"cpu"}


def test_state_comes_back_from_a_file(tmp_path):
    def net() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4))

    model, x = net(), Tensor(numbers(5, 3, 6, 6), np.float32)
    adam = optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        adam.zero_grad()
        (model(x) * Tensor(numbers(5, 4, 4, 4), np.float32)).sum().backward()
        adam.step()
    path = save_weights(model.state_dict(), tmp_path / "net.npz")
    other = net()
    other.load_state_dict(load_weights(path))
    assert other.state_dict()["1.num_batches_tracked"] == 3
    assert np.array_equal(other.eval()(x).numpy(), model.eval()(x).numpy())
    with pytest.raises(ValueError, match=r"1\.running_mean: missing"):
        other.load_state_dict({n: a for n, a in model.state_dict().items() if "mean" not in n})


def test_batch_norm_between_layers_is_differentiated_right():
    """A network as used, its channels-last memory included."""
    rng = np.random.default_rng(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 2, rng=rng, bias=False), nn.BatchNorm2d(3), nn.Sigmoid(), nn.Flatten(),
        nn.BatchNorm1d(12), nn.Linear(12, 2, rng=rng), nn.LayerNorm(2, 0.1),
    )  # fmt: skip
    minidl.gradcheck(model, Tensor(rng.normal(size=(4, 2, 3, 3))), order=2)
    minidl.gradcheck(model.eval(), Tensor(rng.normal(size=(4, 2, 3, 3))), order=2)


# One kind by another --------------------------------------------------------------------------


@given(
    n=st.integers(1, 3),
    groups=st.integers(1, 3),
    each=st.integers(1, 3),
    rest=st.lists(st.integers(1, 3), max_size=3),
    last=st.booleans(),
)
def test_group_norm_and_layer_norm_are_their_definitions(n, groups, each, rest, last, device):
    shape = (n, groups * each, *rest)
    if n * each * np.prod(rest) == 1:
        shape = (2, *shape[1:])
    x, weight, bias = numbers(*shape), numbers(shape[1], seed=1), numbers(shape[1], seed=2)
    order = (0, *range(2, x.ndim), 1) if last else tuple(range(x.ndim))
    given = [Tensor(a, device=device) for a in (weight, bias)]
    images = Tensor(np.array(x.transpose(order)), device=device).transpose(*np.argsort(order))
    found = F.group_norm(images, groups, *given, eps=0.01).numpy()
    wanted = formulas.group_norm(x, weight, bias, num_groups=groups, eps=0.01)
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    for axes in range(1, x.ndim):
        found = F.layer_norm(images, shape[axes:], eps=0.01).numpy()
        wanted = formulas.layer_norm(x, normalized_shape=shape[axes:], eps=0.01)
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_groups_of_one_channel_are_batch_norm_of_each_image_alone():
    x = numbers(3, 4, 5, 2)
    found = F.group_norm(Tensor(x), 4).numpy()
    for i in range(3):
        alone = F.batch_norm(Tensor(x[i : i + 1]), None, None, training=True)
        np.testing.assert_allclose(found[i : i + 1], alone.numpy(), atol=1e-12)


# Side by side with PyTorch --------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize(
    "options", [{}, {"eps": 0.1}, {"momentum": None}, {"momentum": 0.7}], ids=str
)
@pytest.mark.parametrize("name", LAYERS)
def test_three_steps_of_training_and_evaluation_are_pytorch_s(name, options):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if "momentum" in options and not name.startswith("Batch"):
        pytest.skip("has no momentum")
    ours, theirs = (
        made(name, **options).to(dtype=np.float64),
        made(name, torch.nn, **options).double(),
    )
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for step in range(4):
        if step == 3:
            ours.eval(), theirs.eval()
        x = numbers(*LAYERS[name][1], seed=step) * 2 + step
        mine, other = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        for layer, tensor in ((ours, mine), (theirs, other)):
            out = layer(tensor)
            (out * out * out).sum().backward()
        for a, b in [
            (mine.grad, other.grad),
            *(
                (p.grad, q.grad)
                for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)
            ),
        ]:
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-9)
        with torch.no_grad():
            for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
                q += 0.1 * (step + 1)
                p.data = q.numpy()
        for key, value in theirs.state_dict().items():
            found = ours.state_dict()[key]
            np.testing.assert_allclose(found, value.numpy(), rtol=1e-12, atol=1e-12, err_msg=key)
        ours.load_state_dict(theirs.state_dict())
