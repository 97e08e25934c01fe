"""Convolution, batch norm, an addition and ReLU in one pass, in evaluation without gradients."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import Tensor, models, nn
from minidl import functional as F
from minidl.functional import channels, fused

BOUND = {np.float32: 1e-5, np.float64: 1e-12}
"""The largest difference from the steps one by one, relative to the largest result."""


class Block(nn.Module):
    """A convolution and its batch norm, then what `ending` names, as people write it."""

    def __init__(self, *conv: Any, ending: str = "relu", affine: bool = True, **options: Any):
        self.conv = nn.Conv2d(*conv, **options)
        self.norm = nn.BatchNorm2d(self.conv.out_channels, affine=affine)
        self.relu, self.ending = nn.ReLU(), ending
        rng = np.random.default_rng(3)
        for name, tensor in self.norm.state_dict().items():
            if tensor.ndim:
                low = 0.5 if name == "running_var" else -1.0
                getattr(self.norm, name).data = rng.uniform(low, 2, tensor.shape)

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        out = self.norm(self.conv(x))
        out = out if shortcut is None else out + shortcut
        return self.relu(out) if self.ending == "relu" else out


def by_steps(block: Block, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
    conv, norm = block.conv, block.norm
    out = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    given = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    out = F.batch_norm(out, *given, eps=norm.eps)
    out = out if shortcut is None else out + shortcut
    return F.relu(out) if block.ending == "relu" else out


def drawn(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Tensor:
    return Tensor(np.random.default_rng(seed).normal(size=shape).astype(dtype))


@pytest.fixture
def passes(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of the images that batch norm passed over."""
    noted, lines = [], channels.channel_lines

    def counted(backend, images, *args, **kwargs):
        noted.append(images.shape)
        return lines(backend, images, *args, **kwargs)

    monkeypatch.setattr(channels, "channel_lines", counted)
    return noted


def assert_close(found: Tensor, wanted: Tensor, bound: float) -> None:
    assert found.dtype == wanted.dtype
    mine, theirs = found.numpy(), wanted.numpy()
    assert abs(mine - theirs).max() <= bound * abs(theirs).max()


GEOMETRIES = [
    pytest.param((3, 8, 3), {"padding": 1}, 12, id="by rows of pixels"),
    pytest.param((8, 8, 3), {"padding": 1, "bias": False}, 12, id="in strips"),
    pytest.param((96, 64, 3), {"padding": 1}, 12, id="in tiles"),
    pytest.param((6, 4, 2), {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}, 11, id="cols"),
    pytest.param((8, 16, 1), {"bias": False}, 9, id="one pixel"),
    pytest.param((8, 8, 3), {"groups": 8, "padding": 1}, 9, id="depthwise"),
]


@pytest.mark.parametrize(("sizes", "options", "side"), GEOMETRIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ending", ["relu", "norm"])
@pytest.mark.parametrize("adds", [False, True])
def test_one_pass_equals_its_steps_up_to_rounding(
    passes, sizes, options, side, dtype, ending, adds
):
    block = Block(*sizes, ending=ending, affine=not adds, **options).to(dtype=dtype).eval()
    x = drawn(5, sizes[0], side, side, dtype=dtype)
    shortcut = None
    if adds:
        shortcut = drawn(*block.conv(x).shape, dtype=dtype, seed=1)
    wanted = by_steps(block, x, shortcut)
    passes.clear()
    with minidl.no_grad():
        found = block(x, shortcut)
    assert passes == []
    assert getattr(found, "_compute", None) is None
    assert_close(found, wanted, BOUND[dtype])


def test_it_is_the_same_on_every_device(device, passes):
    block = Block(3, 4, 3, padding=1).to(device, np.float64).eval()
    x, shortcut = (drawn(2, c, 5, 5, dtype=np.float64).to(device) for c in (3, 4))
    wanted = by_steps(block, x, shortcut)
    passes.clear()
    with minidl.no_grad():
        found = block(x, shortcut)
    assert passes == []
    assert found.device == device
    assert_close(found, wanted, 1e-12)


@pytest.mark.parametrize("threads", [2, 5])
def test_the_number_of_threads_changes_no_bit(threads):
    block, x, shortcut = (
        Block(8, 8, 3, padding=1).eval(),
        drawn(70, 8, 32, 32),
        drawn(70, 8, 32, 32),
    )
    before, found = minidl.get_num_threads(), []
    try:
        for count in (1, threads):
            minidl.set_num_threads(count)
            with minidl.no_grad():
                found.append(block(x, shortcut).numpy())
    finally:
        minidl.set_num_threads(before)
    np.testing.assert_array_equal(*found)


def test_resnet20_makes_no_pass_of_its_own_for_batch_norm(passes):
    net, x = models.resnet20().eval(), drawn(2, 3, 32, 32)
    wanted = net(x)
    assert len(passes) == 19
    passes.clear()
    with minidl.no_grad():
        found = net(x)
    assert passes == []
    assert_close(found, wanted, 1e-5)


# When nothing is folded -----------------------------------------------------------------------


def test_weights_larger_than_the_images_are_not_scaled_for_every_call(passes, monkeypatch):
    monkeypatch.setattr(fused, "FEW", 0)
    block, x = Block(4, 4, 3, padding=1).eval(), drawn(1, 4, 5, 5)
    with minidl.no_grad():
        found = block(x)
    assert passes == [(1, 4, 5, 5)]
    np.testing.assert_array_equal(found.numpy(), by_steps(block, x).numpy())


@pytest.mark.parametrize("how", ["recording", "training", "trained convolution"])
def test_training_and_recording_change_no_bit(passes, how):
    block, x, other = Block(3, 4, 3), drawn(3, 3, 6, 6), Block(3, 4, 3)
    other.load_state_dict(block.state_dict())
    block.train(how == "training")
    if how == "trained convolution":
        block.conv.train()
    norm = other.norm
    given = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    wanted = F.batch_norm(other.conv(x), *given, training=how == "training")
    passes.clear()
    with minidl.autograd.set_recording(how == "recording"):
        found = block(x)
    assert len(passes) == 1
    assert found.requires_grad is (how == "recording")
    np.testing.assert_array_equal(found.numpy(), F.relu(wanted).numpy())
    for name in ("running_mean", "running_var"):
        mine, theirs = (getattr(net.norm, name).numpy() for net in (block, other))
        np.testing.assert_array_equal(mine, theirs)


def test_plain_kernels_postpone_nothing(passes, kernels_of_before):
    minidl.set_kernels("plain")
    block, x = Block(3, 4, 3).eval(), drawn(2, 3, 6, 6)
    with minidl.no_grad():
        found = block(x)
    assert passes == [(2, 4, 4, 4)]
    np.testing.assert_array_equal(found.numpy(), by_steps(block, x).numpy())


@pytest.fixture
def kernels_of_before():
    before = minidl.get_kernels()
    yield
    minidl.set_kernels(before)


def test_those_who_look_at_layers_see_what_they_saw(passes):
    block, x, seen = Block(3, 4, 3).eval(), drawn(2, 3, 6, 6), {}
    with (
        minidl.no_grad(),
        nn.observe(lambda module, inputs, output: seen.update({type(module): output.numpy()})),
    ):
        block(x)
    conv = F.conv2d(x, block.conv.weight, block.conv.bias)
    np.testing.assert_array_equal(seen[nn.Conv2d], conv.numpy())
    np.testing.assert_array_equal(seen[Block], by_steps(block, x).numpy())
    with minidl.no_grad():
        assert_close(block.norm(conv), Tensor(seen[nn.BatchNorm2d]), 1e-5)


@pytest.mark.parametrize("layer", ["conv", "norm"])
def test_a_layer_whose_forward_was_replaced_runs(layer):
    block, x = Block(3, 4, 3, ending="norm").eval(), drawn(2, 3, 6, 6)
    part, seen = getattr(block, layer), []
    forward = part.forward

    def replaced(x: Tensor) -> Tensor:
        out = forward(x)
        seen.append(out.numpy())
        return out * 2

    part.forward = replaced
    with minidl.no_grad():
        found = block(x)
    conv = F.conv2d(x, block.conv.weight, block.conv.bias)
    norm = block.norm
    given = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    if layer == "conv":
        np.testing.assert_array_equal(seen[0], conv.numpy())
        assert_close(found, F.batch_norm(conv * 2, *given), 1e-5)
    else:
        assert_close(Tensor(seen[0]), F.batch_norm(conv, *given), 1e-5)
        assert_close(found, F.batch_norm(conv, *given) * 2, 1e-5)


# Values that change ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_var"]
)
def test_every_call_takes_the_values_that_there_are(name):
    block, x = Block(3, 4, 3).eval(), drawn(2, 3, 6, 6)
    with minidl.no_grad():
        before = block(x).numpy()
    layer, attribute = name.split(".")
    with getattr(getattr(block, layer), attribute).mutable() as array:
        array *= 3
    with minidl.no_grad():
        found = block(x)
    assert not np.allclose(found.numpy(), before)
    assert_close(found, by_steps(block, x), 1e-5)


@pytest.mark.parametrize("changed", ["conv.weight", "x", "norm.weight", "norm.running_mean"])
@pytest.mark.parametrize("when", ["after conv", "after norm", "after the sum"])
def test_a_change_within_forward_comes_after_what_was_called_before_it(changed, when):
    class Changing(Block):
        def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
            tensors = {"x": x, "conv.weight": self.conv.weight, "norm.weight": self.norm.weight}
            tensors["norm.running_mean"] = self.norm.running_mean

            def change(place: str) -> None:
                if place == when:
                    with tensors[changed].mutable() as array:
                        array *= -2

            out = self.conv(x)
            change("after conv")
            out = self.norm(out)
            change("after norm")
            out = out + shortcut
            change("after the sum")
            return self.relu(out)

    block, x, shortcut = Changing(3, 4, 3).eval(), drawn(2, 3, 6, 6), drawn(2, 4, 4, 4)
    other, y = copy.deepcopy(block), x.copy()
    with minidl.no_grad():
        found = block(x, shortcut)
    wanted = other(y, shortcut)  # recorded, so that nothing of it is postponed for long
    assert_close(found, wanted.detach(), 1e-5)


def test_a_change_that_nobody_could_wait_for_is_noticed():
    x, weight = drawn(1, 2, 4, 4), drawn(3, 2, 3, 3)
    with minidl.no_grad():
        pending = F.pending_conv2d(x, weight)
        with weight.mutable() as array:
            array += 1
        with pytest.raises(RuntimeError, match=r"conv2d: a tensor that its result.* changed in pl"):
            pending.numpy()


# Uses of the postponed result -----------------------------------------------------------------


def test_a_convolution_that_is_used_twice_has_its_value():
    class Twice(Block):
        def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
            out = self.conv(x)
            assert type(out) is fused.Pending
            return self.relu(self.norm(out)) + out

    block, x = Twice(3, 4, 3).eval(), drawn(2, 3, 6, 6)
    with minidl.no_grad():
        found = block(x)
    conv = F.conv2d(x, block.conv.weight, block.conv.bias)
    assert_close(found, by_steps(block, x) + conv, 1e-5)


@pytest.mark.parametrize("ending", ["alone", "tuple", "list", "stored", "relu", "sum"])
def test_nothing_is_postponed_beyond_the_module_around_it(ending):
    class Net(nn.Module):
        def __init__(self) -> None:
            self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()

        def forward(self, x: Tensor) -> Any:
            out = self.conv(x)
            if ending == "stored":
                vars(self)["kept"] = out
            if ending == "relu":
                return self.relu(out)
            if ending == "sum":
                return out + x
            return {"alone": out, "tuple": (out,), "list": [out]}.get(ending, x)

    net, x = Net().eval(), drawn(2, 3, 5, 5)
    conv = F.conv2d(x, net.conv.weight, net.conv.bias, padding=1)
    wanted = {"relu": F.relu(conv), "sum": conv + x}.get(ending, conv).numpy()
    with minidl.no_grad():
        out = net(x)
        assert type(net.conv(x)) is Tensor
    out = net.kept if ending == "stored" else out[0] if ending in ("tuple", "list") else out
    net.conv.weight.data = net.conv.weight.data * 5
    np.testing.assert_array_equal(out.numpy(), wanted)


def test_a_postponed_result_may_be_a_leaf_that_requires_a_gradient():
    class Net(nn.Module):
        def __init__(self) -> None:
            self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            out = self.conv(x)
            return self.relu(out), out.requires_grad_()

    net, x = Net().eval(), drawn(2, 3, 5, 5)
    with minidl.no_grad():
        passed, leaf = net(x)
    np.testing.assert_array_equal(F.relu(leaf).numpy(), passed.numpy())
    (leaf * 2).sum().backward()
    assert leaf.grad.numpy().tolist() == np.full(leaf.shape, 2).tolist()


def test_an_error_of_the_convolution_names_it():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    with minidl.no_grad(), pytest.raises(ValueError, match="conv2d: got an input of 2") as error:
        net(drawn(1, 2, 5, 5))
    assert any("in layer '0', Conv2d" in note for note in error.value.__notes__)


def test_recorded_it_is_differentiated():
    x, weight = drawn(2, 3, 5, 5), drawn(4, 3, 3, 3)
    a, b = (weight.detach().requires_grad_() for _ in range(2))
    F.pending_conv2d(x, a).joined_relu().sum().backward()
    F.relu(F.conv2d(x, b)).sum().backward()
    np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())
