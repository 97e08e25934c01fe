"""Fused layers against their steps one by one."""

from __future__ import annotations

import copy
import pickle
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl
from minidl import Tensor, models, nn
from minidl import functional as F
from minidl.anomaly import detect_anomaly
from minidl.functional import channels


def by_steps(x, weight, bias, conv, pool):
    return F.max_pool2d(F.relu(F.conv2d(x, weight, bias, *conv)), *pool)


def in_one_pass(x, weight, bias, conv, pool):
    names = ("pool_size", "pool_stride", "pool_padding", "pool_dilation", "ceil_mode")
    pooling = dict(zip(names, pool, strict=False))
    return F.conv2d_relu_max_pool2d(x, weight, bias, *conv, **pooling)


def gradients(function, arrays, *geometry):
    """Return the output and the gradient of each input, for one drawn gradient of the output."""
    tensors = [None if a is None else Tensor(a, requires_grad=True) for a in arrays]
    out = function(*tensors, *geometry)
    out.backward(Tensor(np.random.default_rng(9).normal(size=out.shape), dtype=out.dtype))
    return [out.numpy(), *(None if t is None else t.grad.numpy() for t in tensors)]


def drawn(c, d, groups, h, w, k, channels_last=False, n=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, c * groups, h, w))
    if channels_last:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return [x, rng.normal(size=(d * groups, c, k, k)), rng.normal(size=d * groups)]


@given(st.data())
def test_values_and_gradients_are_those_of_the_three_steps(data):
    number = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    k, size, groups = number(1, 3), number(1, 3), number(1, 2)
    conv = (number(1, 2), number(0, 2), number(1, 2), groups)
    pool = (size, number(1, 3), number(0, size // 2), 1, data.draw(st.booleans()))
    arrays = drawn(
        number(1, 6), number(1, 3), groups, number(10, 12), number(10, 12), k, number(0, 1) == 1
    )
    if data.draw(st.booleans()):
        arrays[2] = None
    wanted = gradients(by_steps, arrays, conv, pool)
    found = gradients(in_one_pass, arrays, conv, pool)
    for mine, theirs in zip(found, wanted, strict=True):
        if theirs is not None:
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("c", "d", "size", "k", "conv"),
    [
        (3, 8, 12, 3, (1, 1)),  # by rows of pixels
        (8, 8, 12, 3, (1, 1)),  # in strips
        (96, 64, 12, 3, (1, 1)),  # in tiles
        (6, 4, 11, 2, (2, 1, 2, 2)),  # by columns
        (2, 5, 4, 4, (1, 0)),  # as wide as the image: columns as channels
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("with_bias", [True, False])
def test_relu_in_each_form_of_convolution_changes_no_bit(c, d, size, k, conv, dtype, with_bias):
    groups = conv[3] if len(conv) > 3 else 1
    arrays = [a.astype(dtype) for a in drawn(c, d, groups, size, size, k, n=9)]
    if not with_bias:
        arrays[2] = None
    two = lambda x, w, b: F.relu(F.conv2d(x, w, b, *conv))  # noqa: E731
    wanted = gradients(two, arrays)
    found = gradients(lambda x, w, b: F.conv2d_relu(x, w, b, *conv), arrays)
    assert (wanted[0] == 0).any()
    assert (wanted[0] > 0).any()
    for mine, theirs in zip(found, wanted, strict=True):
        if theirs is None:
            assert mine is None
        else:
            assert mine.dtype == dtype
            assert np.array_equal(mine, theirs)


def test_a_batch_of_several_slices_gives_the_same():
    arrays = [a.astype(np.float32) for a in drawn(3, 32, 1, 32, 32, 3, n=64)]
    wanted = gradients(by_steps, arrays, (), (2,))
    found = gradients(in_one_pass, arrays, (), (2,))
    assert np.array_equal(found[0], wanted[0])
    for mine, theirs in zip(found[1:], wanted[1:], strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_many_channels_go_through_winograds_tiles_here_too():
    arrays = [a.astype(np.float32) for a in drawn(64, 96, 1, 16, 16, 3, n=8)]
    wanted = gradients(by_steps, arrays, (1, 1), (2,))
    found = gradients(in_one_pass, arrays, (1, 1), (2,))
    assert np.array_equal(found[0], wanted[0])
    np.testing.assert_allclose(found[1], wanted[1], atol=1e-5 * np.abs(wanted[1]).max())


def test_windows_without_a_positive_number_pass_no_gradient():
    x = -np.ones((1, 1, 4, 4))
    x[0, 0, 0, 0] = 2
    out, dx, dw = gradients(in_one_pass, [x, np.ones((1, 1, 1, 1)), None], (), (2,))[:3]
    assert out.ravel().tolist() == [2, 0, 0, 0]
    assert np.count_nonzero(dx) == 1
    assert dx[0, 0, 0, 0] * 2 == pytest.approx(dw.item())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_passed_on_as_by_the_steps(value):
    arrays = drawn(1, 2, 1, 6, 6, 1)
    arrays[0][1, 0, 2, 3] = value
    with np.errstate(invalid="ignore"):
        wanted = gradients(by_steps, arrays, (), (2,))
        found = gradients(in_one_pass, arrays, (), (2,))
        wanted += gradients(lambda *inputs: F.relu(F.conv2d(*inputs)), arrays)
        found += gradients(F.conv2d_relu, arrays)
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_the_response_before_relu_is_not_kept():
    x, weight = minidl.ones((1, 3, 8, 8)), minidl.ones((4, 3, 3, 3)).requires_grad_()
    made, backend = [], x.backend
    convolve = backend.convolve
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            backend, "convolve", lambda *a, **o: made.append(convolve(*a, **o)) or made[-1]
        )
        out = F.conv2d_relu(x, weight)
    assert np.shares_memory(made[0], out.data)


def test_no_work_is_done_for_what_needs_no_gradient(monkeypatch):
    asked = []
    x, weight, _ = drawn(1, 2, 1, 6, 6, 3)
    backend = minidl.zeros(1).backend
    for name in ("transpose_convolve", "weight_gradient"):
        kernel = getattr(backend, name)

        def spy(*arguments, name=name, kernel=kernel):
            asked.append(name)
            return kernel(*arguments)

        monkeypatch.setattr(backend, name, spy)
    for x_needs, weight_needs in ((False, True), (True, False)):
        tensors = [Tensor(x, requires_grad=x_needs), Tensor(weight, requires_grad=weight_needs)]
        F.conv2d_relu_max_pool2d(*tensors).sum().backward()
        assert [t.grad is not None for t in tensors] == [x_needs, weight_needs]
    assert asked == ["weight_gradient", "transpose_convolve"]


# Sequential -----------------------------------------------------------------------------------


def block(**options) -> nn.Sequential:
    rng = np.random.default_rng(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, rng=rng), nn.ReLU(), nn.MaxPool2d(2, **options))


def operations(model: nn.Sequential) -> list[str]:
    node = model(Tensor(np.ones((1, 3, 8, 8), np.float32))).node
    found = []
    while node is not None:
        found.append(node.op)
        node = node.inputs[0].node
    return found


def test_sequential_runs_the_three_in_one_pass():
    assert operations(block()) == ["conv2d_relu_max_pool2d"]
    twice = nn.Sequential(nn.Conv2d(3, 3, 1), *block(), nn.ReLU())
    assert operations(twice) == ["relu", "conv2d_relu_max_pool2d", "conv2d"]
    assert operations(block()[:2]) == ["conv2d_relu"]
    deep = nn.Sequential(*block()[:2], nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    assert operations(deep) == ["conv2d", "conv2d_relu", "conv2d_relu"]


def test_sequential_equals_its_layers():
    model = block(stride=1, padding=1)
    x = Tensor(np.random.default_rng(1).normal(size=(2, 3, 9, 9)).astype(np.float32))
    wanted = x
    for layer in model:
        wanted = layer(wanted)
    assert np.array_equal(model(x).numpy(), wanted.numpy())


def test_layers_run_one_by_one_where_somebody_looks():
    model, seen = block(), []
    x = Tensor(np.ones((1, 3, 8, 8), np.float32))
    with nn.observe(lambda module, inputs, output: seen.append(type(module).__name__)):
        model(x)
    assert seen == ["Conv2d", "ReLU", "MaxPool2d", "Sequential"]
    with detect_anomaly():
        assert operations(model) == ["max_pool2d", "relu", "conv2d"]


def test_layers_of_other_kinds_run_one_by_one():
    class Doubled(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    conv, _, pool = block()
    assert operations(nn.Sequential(conv, Doubled(), pool)) == [
        "max_pool2d", "mul", "relu", "conv2d",
    ]  # fmt: skip
    model = block(return_indices=True)
    values, places = model(Tensor(np.ones((1, 3, 8, 8), np.float32)))
    assert values.shape == places.shape


def test_a_layer_whose_forward_was_replaced_runs():
    model = block()
    model[1].forward = lambda x: x * 100
    assert operations(model) == ["max_pool2d", "mul", "conv2d"]
    model = block()
    model[2].forward = lambda x: x * 100
    assert operations(model) == ["mul", "conv2d_relu"]


def test_an_error_names_the_layer_it_comes_from():
    with pytest.raises(ValueError, match="conv2d: got an input of 2 channels") as error:
        block()(minidl.ones((1, 2, 8, 8)))
    assert any("in layer '0', Conv2d" in note for note in error.value.__notes__)
    with pytest.raises(ValueError, match="conv2d: got an input of 2 channels") as error:
        block()[:2](minidl.ones((1, 2, 8, 8)))
    assert any("in layer '0', Conv2d" in note for note in error.value.__notes__)
    with pytest.raises(ValueError, match="max_pool2d: the window spans 2") as error:
        block()(minidl.ones((1, 3, 3, 3)))
    assert any("in layer '2', MaxPool2d" in note for note in error.value.__notes__)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pool_size": 0}, "conv2d_relu_max_pool2d: got kernel_size=0"),
        ({"pool_padding": 2}, "conv2d_relu_max_pool2d: got padding=2"),
        ({"pool_size": 9}, "the window spans 9 but the padded input has only 6"),
        ({"stride": 0}, "conv2d_relu_max_pool2d: got stride=0"),
    ],
)
def test_bad_arguments_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        F.conv2d_relu_max_pool2d(minidl.ones((1, 1, 8, 8)), minidl.ones((1, 1, 3, 3)), **options)


def test_bad_arguments_without_a_pool_are_refused_too():
    with pytest.raises(ValueError, match="conv2d_relu: got stride=0"):
        F.conv2d_relu(minidl.ones((1, 1, 8, 8)), minidl.ones((1, 1, 3, 3)), stride=0)
    with pytest.raises(TypeError, match="conv2d_relu"):
        F.conv2d_relu(minidl.ones((1, 1, 8, 8)), minidl.ones((1, 1, 3, 3), dtype="float64"))


# Batch norm, an addition and ReLU --------------------------------------------------------------


class Block(nn.Module):
    """A residual block as people write it."""

    def __init__(self) -> None:
        self.norm, self.relu = nn.BatchNorm2d(2), nn.ReLU()
        self.seen: list[type] = []

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        normal = self.norm(x)
        self.seen.append(type(normal))
        return self.relu(normal + shortcut)


def passes(monkeypatch) -> list[bool]:
    """Note, for each pass of batch norm over images, whether ReLU joined it."""
    noted, lines = [], channels.channel_lines

    def counted(*args, relu=False, **kwargs):
        noted.append(relu)
        return lines(*args, relu=relu, **kwargs)

    monkeypatch.setattr(channels, "channel_lines", counted)
    return noted


def block_inputs() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    x, y = (Tensor(rng.normal(size=(3, 2, 4, 4)), requires_grad=True) for _ in range(2))
    return x, y


def test_a_residual_block_is_one_pass_and_equal_to_its_steps(monkeypatch, device):
    block, (x, y) = Block().to(device, np.float64), block_inputs()
    x, y = (t.to(device).detach().requires_grad_() for t in (x, y))
    noted = passes(monkeypatch)
    out = block(x, y)
    assert (block.seen, noted) == ([F.fused.Pending], [True])
    assert type(out) is Tensor
    assert out.node.op == "batch_norm"
    weights = Tensor(np.random.default_rng(1).normal(size=out.shape)).to(device)
    (out * weights).sum().backward()
    found = [t.grad.numpy() for t in (x, y, *block.parameters())]
    other = Block().to(device, np.float64)
    a, b = (t.detach().requires_grad_() for t in (x, y))
    given = (other.norm.running_mean, other.norm.running_var, other.norm.weight, other.norm.bias)
    steps = F.relu(F.batch_norm(a, *given, training=True) + b)
    (steps * weights).sum().backward()
    np.testing.assert_allclose(out.numpy(), steps.numpy(), rtol=1e-12)
    for mine, t in zip(found, (a, b, *other.parameters()), strict=True):
        np.testing.assert_allclose(mine, t.grad.numpy(), rtol=1e-9, atol=1e-12)
    for name in ("norm.running_mean", "norm.running_var"):
        value = block.state_dict()[name]
        np.testing.assert_array_equal(value, other.state_dict()[name])


def test_the_shortcut_may_stand_on_the_left(monkeypatch):
    class Turned(Block):
        def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
            return self.relu(shortcut + self.norm(x))

    x, y = block_inputs()
    noted = passes(monkeypatch)
    turned, block = Turned().to(dtype=np.float64), Block().to(dtype=np.float64)
    np.testing.assert_array_equal(turned(x, y).numpy(), block(x, y).numpy())
    assert noted == [True, True]


def test_a_norm_called_by_itself_or_leaving_a_module_is_a_computed_tensor():
    x, _ = block_inputs()
    norm = nn.BatchNorm2d(2).to(dtype=np.float64)
    assert type(norm(x)) is Tensor
    out = nn.Sequential(norm)(x)
    assert out.is_leaf is False
    assert out.node.op == "batch_norm"
    with minidl.detect_anomaly():
        assert type(nn.Sequential(norm)(x)) is Tensor


def pending(x: Tensor) -> Tensor:
    return F.pending_batch_norm(x, None, None, training=True)


def test_what_is_pending_answers_as_any_tensor_does():
    x, y = block_inputs()
    plain = F.batch_norm(x, None, None, training=True)
    for use in (
        lambda t: t * 2,
        lambda t: t.sum((0, 2)),
        lambda t: t + 1,
        lambda t: 1 + t,
        lambda t: t + y.data,
        lambda t: t + y + y,
        lambda t: t[1],
        lambda t: F.relu(t),
        lambda t: t.detach(),
    ):
        np.testing.assert_allclose(use(pending(x)).numpy(), use(plain).numpy(), rtol=1e-12)
    waiting = pending(x)
    assert (waiting.shape, waiting.dtype, waiting.ndim, waiting.device) == (
        *(plain.shape, plain.dtype, plain.ndim, plain.device),
    )
    assert waiting.requires_grad
    assert waiting.joined_relu().node.op == "relu"  # it was computed to answer
    assert repr(pending(x)) == repr(plain)
    with pytest.raises(AttributeError, match="'Tensor' object has no attribute 'colour'"):
        _ = pending(x).colour
    with minidl.no_grad():
        np.testing.assert_array_equal(copy.deepcopy(pending(x)).numpy(), plain.numpy())
        assert type(pickle.loads(pickle.dumps(pending(x)))) is Tensor


def test_both_uses_of_a_pending_norm_get_their_gradient():
    x, y = block_inputs()
    norm = pending(x)
    ((norm + y).joined_relu() * norm).sum().backward()
    a, b = (t.detach().requires_grad_() for t in (x, y))
    plain = F.batch_norm(a, None, None, training=True)
    (F.relu(plain + b) * plain).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), a.grad.numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(y.grad.numpy(), b.grad.numpy(), rtol=1e-9)


@pytest.mark.parametrize("changed", ["x", "weight", "bias", "added"])
def test_a_tensor_changed_while_the_norm_is_pending_is_noticed(changed):
    rng = np.random.default_rng(0)
    x, added = (Tensor(rng.normal(size=(2, 2, 3))) for _ in range(2))
    weight, bias = (Tensor(rng.normal(size=2)) for _ in range(2))
    total = F.pending_batch_norm(x, None, None, weight, bias, training=True) + added
    tensors = {"x": x, "weight": weight, "bias": bias, "added": added}
    with tensors[changed].mutable() as array:
        array += 1
    message = r"conv2d: a tensor that its result, of shape \(2, 2, 3\), is computed from was ch"
    with pytest.raises(RuntimeError, match=message):
        total.numpy()


@pytest.mark.parametrize("ending", ["tuple", "dict", "stored", "sum"])
def test_nothing_is_pending_when_the_module_around_it_has_ended(ending):
    class Net(nn.Module):
        def __init__(self) -> None:
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Any:
            normal = self.norm(x)
            if ending == "stored":
                vars(self)["kept"] = normal
                return F.relu(normal)
            if ending == "sum":
                return (normal + x,)
            return (normal,) if ending == "tuple" else {"out": normal}

    x, _ = block_inputs()
    net = Net().to(dtype=np.float64)
    out = net(x)
    result = net.kept if ending == "stored" else out["out"] if ending == "dict" else out[0]
    wanted = F.batch_norm(x, None, None, net.norm.weight, net.norm.bias, training=True)
    wanted = (wanted + x if ending == "sum" else wanted).numpy()
    net.norm.weight.data = net.norm.weight.data * 5
    np.testing.assert_allclose(result.numpy(), wanted, rtol=1e-12)


def test_what_is_set_on_a_pending_norm_stays_and_counts():
    x, y = block_inputs()
    seen = []
    normal = pending(x).retain_grad()
    normal.register_hook(lambda gradient: seen.append(gradient.shape))
    (normal + y).sum().backward()
    np.testing.assert_array_equal(normal.grad.numpy(), np.ones(x.shape))
    assert seen == [x.shape]


@pytest.mark.parametrize("join", [lambda t, y: t.joined_relu(), lambda t, y: t + y])
def test_a_norm_that_was_joined_has_no_gradient_of_its_own_and_says_so(join):
    x, y = block_inputs()
    normal = pending(x)
    join(normal, y)
    plain = F.batch_norm(x, None, None, training=True)
    np.testing.assert_allclose(normal.numpy(), plain.numpy(), rtol=1e-12)
    with pytest.raises(RuntimeError, match=r"joined its pass.* before that operation"):
        normal.retain_grad()
    with pytest.raises(RuntimeError, match=r"joined its pass.* before that operation"):
        normal.register_hook(print)


def test_other_outputs_of_a_module_are_left_alone():
    class Result:
        def settle(self):
            raise AssertionError("called")

        joined_relu = settle

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Result:
            return Result()

    result = nn.Sequential(Net())(minidl.ones(2))
    assert isinstance(result, Result)
    with pytest.raises(TypeError, match="relu: got a Result, expected a Tensor"):
        nn.ReLU()(result)


def test_an_error_in_forward_leaves_no_call_behind():
    class Net(nn.Module):
        def __init__(self) -> None:
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            self.norm(x)
            raise KeyError("by design")

    x, _ = block_inputs()
    with pytest.raises(KeyError):
        Net().to(dtype=np.float64)(x)
    assert type(nn.BatchNorm2d(2).to(dtype=np.float64)(x)) is Tensor


def test_a_computed_norm_lets_its_input_go(no_collector):
    x = Tensor(np.ones((2, 1, 2)))
    alive = weakref.ref(x)
    norm = pending(x)
    norm.settle()
    del x
    assert alive() is None
    assert norm.shape == (2, 1, 2)


def test_recording_is_that_of_the_norm_and_of_the_sum():
    x, y = block_inputs()
    with minidl.no_grad():
        norm = pending(x)
    assert not norm.requires_grad
    with minidl.no_grad():
        norm = pending(x)
    total = norm + y
    total.sum().backward()
    assert x.grad is None
    np.testing.assert_array_equal(y.grad.numpy(), np.ones(y.shape))


def test_a_step_of_resnet20_has_one_pass_for_each_norm(monkeypatch):
    net = models.resnet20()
    noted = passes(monkeypatch)
    net(minidl.ones((1, 3, 32, 32)))
    assert noted == [True] * 19
