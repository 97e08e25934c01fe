"""Modules: what they hold, in which order, under which names, and how they begin."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from collections import deque

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn, optim
from minidl import functional as F
from minidl.backends import Backend
from minidl.nn import init

from .test_convolution import numbers


def image(*shape: int) -> Tensor:
    return Tensor(numbers(*shape).astype(np.float32))


class Block(nn.Module):
    """A module of one's own: a parameter, layers, a buffer, and a list of layers."""

    def __init__(self, width: int, depth: int = 2) -> None:
        self.width, self.depth = width, depth
        self.scale = nn.Parameter(np.ones(width, np.float32))
        self.first = nn.Linear(width, width)
        self.steps = nn.Buffer(np.zeros((), np.int64))
        self.rest = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Sequential(nn.ReLU(), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) * self.scale
        for layer in self.rest:
            x = layer(x)
        return self.out(x)


BLOCK_NAMES = ["scale", "steps", "first.weight", "first.bias"]
BLOCK_NAMES += ["rest.0.weight", "rest.0.bias", "rest.1.weight", "rest.1.bias"]


def test_max_pool_layer_returns_indices_when_asked():
    x = image(2, 4, 6, 5)
    values, places = nn.MaxPool2d(2, return_indices=True)(x)
    wanted_values, wanted_places = F.max_pool2d(x, 2, return_indices=True)
    assert np.array_equal(values.numpy(), wanted_values.numpy())
    assert np.array_equal(places.numpy(), wanted_places.numpy())


# Order and names


def test_parameters_and_buffers_come_in_definition_order():
    block = Block(3)
    assert [name for name, _ in block.named_parameters()] == [
        name for name in BLOCK_NAMES if name != "steps"
    ]
    assert [name for name, _ in block.named_buffers()] == ["steps"]
    assert list(block.state_dict()) == BLOCK_NAMES


def test_parameter_order_is_the_same_in_every_process():
    """DeZero keeps names in a set, whose order changes with PYTHONHASHSEED."""
    script = "from tests.test_nn import Block; print([n for n, _ in Block(3).named_parameters()])"
    printed = set()
    for seed in "01":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", script]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        printed.add(found.stdout)
    assert len(printed) == 1


def test_a_shared_parameter_is_trained_once_but_saved_under_both_names():
    """As in PyTorch: weights travel, and an optimiser gets no parameter twice."""
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    assert [name for name, _ in net.named_parameters()] == ["0.weight"]
    assert list(net.state_dict()) == ["0.weight", "1.weight"]
    net.load_state_dict(net.state_dict())
    optim.SGD(net.parameters())


def test_a_shared_parameter_with_other_values_under_its_other_name_is_refused():
    layer = nn.Linear(2, 2, bias=False)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    state = model.state_dict()
    state["0.weight"][0, 0] = state["2.weight"][0, 0] = np.nan  # equal, for once
    model.load_state_dict(state)
    state["2.weight"][0, 1] += 1
    model.load_state_dict({**state, "2.weight": state["0.weight"].astype(np.float16)})
    before = model.state_dict()
    with pytest.raises(
        ValueError, match=r"fit; .*\n  2\.weight: got shape \(1,\), expected \(2, 2\)$"
    ):
        model.load_state_dict({**state, "2.weight": np.zeros(1)})
    says = r"2\.weight: got values that differ from 0\.weight, but the tensor is shared"
    with pytest.raises(ValueError, match=says):
        model.load_state_dict(state)
    np.testing.assert_array_equal(model.state_dict()["2.weight"], before["2.weight"])


def test_state_dict_names_and_layouts_are_torch_s():
    net = nn.Sequential(
        nn.Conv2d(4, 6, (3, 2), groups=2),
        nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU()),
        nn.ConvTranspose2d(4, 6, (3, 2), groups=2),
        nn.Linear(7, 8),
        nn.CrossEntropyLoss(np.ones(10)),
    )
    assert {name: array.shape for name, array in net.state_dict().items()} == {
        "0.weight": (6, 2, 3, 2),
        "0.bias": (6,),
        "1.0.weight": (5, 2, 3),
        "1.0.bias": (5,),
        "2.weight": (4, 3, 3, 2),
        "2.bias": (6,),
        "3.weight": (8, 7),
        "3.bias": (8,),
        "4.weight": (10,),
    }


def test_sequential_can_be_indexed_and_sliced():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert len(net) == 3
    assert net[-1] is list(net)[2]
    assert isinstance(net[:2], nn.Sequential)
    assert net[:2][0] is net[0]


def test_module_list_appends_under_the_next_number():
    layers = nn.ModuleList([nn.Linear(1, 1)])
    layers.append(nn.Linear(2, 2))
    assert [name for name, _ in layers.named_parameters()][2:] == ["1.weight", "1.bias"]


def test_module_list_appends_behind_the_last_after_a_deletion():
    layers = nn.ModuleList([nn.ReLU(), nn.Linear(1, 1), nn.Tanh()])
    delattr(layers, "1")
    layers.append(nn.Sigmoid())
    assert [type(layer) for layer in layers] == [nn.ReLU, nn.Tanh, nn.Sigmoid]


HIDDEN = {
    "list": lambda: [nn.Linear(1, 1)],
    "set": lambda: {nn.Linear(1, 1)},
    "dict": lambda: {"deep": [1, (nn.Parameter([1.0]),)]},
    "deque": lambda: deque([nn.Linear(1, 1)]),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_modules_and_parameters_in_plain_containers_are_refused(kind):
    class Net(nn.Module):
        def __init__(self) -> None:
            self.layers = HIDDEN[kind]()

    with pytest.raises(TypeError, match=rf"Net.layers is a {kind} that holds modules .*ModuleList"):
        list(Net().parameters())


class Counted(list):
    """Counts the items that are looked at."""

    seen = 0

    def __iter__(self):
        for item in super().__iter__():
            Counted.seen += 1
            yield item


def test_data_in_a_module_is_hardly_looked_at():
    """A module is walked through in every step: 200,000 lists took 0.2 s each time."""
    data = Counted(Counted([i]) for i in range(10_000))
    endless = []
    endless.append(endless)

    class Net(nn.Module):
        def __init__(self) -> None:
            self.layer, self.data, self.endless = nn.Linear(1, 1), data, endless

    assert len(list(Net().parameters())) == 2
    assert 0 < Counted.seen <= 200


@pytest.mark.parametrize("kind", [*HIDDEN, "Linear", "Parameter"])
def test_modules_and_parameters_of_a_class_are_refused(kind):
    """All instances would share them, and none would train or save them."""
    alone = {"Linear": lambda: nn.Linear(1, 1), "Parameter": lambda: nn.Parameter([1.0])}
    message = rf"Net.layer: got a {kind} as a class attribute.* self.layer in "
    with pytest.raises(TypeError, match=message):
        type("Net", (nn.Module,), {"layer": (HIDDEN | alone)[kind]()})


def test_a_parameter_may_be_replaced_by_another_or_none():
    layer = nn.Linear(2, 2)
    layer.weight, layer.bias = nn.Parameter(np.ones((2, 2), np.float32)), None
    assert list(layer.state_dict()) == ["weight"]
    assert layer(minidl.ones((1, 2))).numpy().tolist() == [[2, 2]]


def test_a_buffer_stays_one_whatever_forward_makes_of_it():
    """A plain tensor in its place would be missing from the state dict, and from `to`."""
    norm = nn.BatchNorm1d(2)
    with pytest.raises(
        TypeError, match=r"running_mean: got a Tensor, expected an nn.Buffer\(...\)"
    ):
        norm.running_mean = norm.running_mean * 0.9
    norm.running_mean.data = norm.running_mean * 0.9 + 1
    assert norm.state_dict()["running_mean"].tolist() == [1, 1]
    norm.running_mean = nn.Buffer([2.0, 3.0])
    norm.num_batches_tracked = None
    assert [name for name, _ in norm.named_buffers()] == ["running_mean", "running_var"]


def test_keyword_arguments_reach_forward_and_observers():
    class Scale(nn.Module):
        def forward(self, x: Tensor, by: float = 1.0) -> Tensor:
            return x * by

    seen = []
    with nn.observe(lambda module, inputs, output: seen.append(inputs)):
        out = Scale()(minidl.ones(1), by=3.0)
    assert out.item() == 3
    assert seen[0][1:] == (3.0,)


def test_a_misspelt_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="wieght"):
        _ = nn.Linear(1, 1).wieght


# Training, freezing, moving


def test_train_and_eval_reach_every_module():
    block = Block(3)
    assert block.eval() is block
    assert not any(module.training for module in block.modules())
    block.train()
    assert all(module.training for module in block.modules())


def test_zero_grad_forgets_all_gradients():
    block = Block(3)
    block(minidl.ones((2, 3))).sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    block.zero_grad()
    assert all(p.grad is None for p in block.parameters())


def test_frozen_parameters_get_no_gradient():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    net[0].requires_grad_(False)
    net(minidl.ones((2, 3))).sum().backward()
    assert [p.grad is None for p in net.parameters()] == [True, True, False, False]
    net.requires_grad_()
    net(minidl.ones((2, 3))).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def kernel_calls(monkeypatch: pytest.MonkeyPatch, net: nn.Module, x: Tensor) -> dict[str, int]:
    """Count the kernels that run in a backward."""
    loss, calls = net(x).sum(), {"weight_gradient": 0, "transpose_convolve": 0}
    for name in calls:
        kernel = getattr(x.backend, name)

        def count(*args, name=name, kernel=kernel):
            calls[name] += 1
            return kernel(*args)

        monkeypatch.setattr(x.backend, name, count)
    loss.backward()
    monkeypatch.undo()
    return calls


def test_backward_does_no_work_for_what_needs_no_gradient(monkeypatch):
    """A convolution's weight gradient gathers windows, its input gradient scatters them."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3))
    x = image(1, 1, 7, 7)
    both = kernel_calls(monkeypatch, net, x)
    assert both == {"weight_gradient": 2, "transpose_convolve": 1}  # none for the images
    net[0].requires_grad_(False)
    head_alone = kernel_calls(monkeypatch, net, x)
    assert head_alone == {"weight_gradient": 1, "transpose_convolve": 0}
    net.requires_grad_(False)
    net[0].requires_grad_()
    first_alone = kernel_calls(monkeypatch, net, x)
    assert first_alone == {"weight_gradient": 1, "transpose_convolve": 1}


def test_to_dtype_changes_floats_alone():
    block = Block(3).to(dtype="float64")
    kinds = {name: array.dtype for name, array in block.state_dict().items()}
    assert kinds.pop("steps") == np.int64
    assert set(kinds.values()) == {np.dtype(np.float64)}


@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize("rule", [optim.SGD, optim.Adam], ids=["SGD", "Adam"])
def test_an_optimiser_keeps_its_hold_on_parameters_that_are_moved(rule, stepped):
    options = {"momentum": 0.9} if rule is optim.SGD else {}
    moved, stayed = nn.Linear(3, 2), nn.Linear(3, 2)
    stayed.load_state_dict(moved.state_dict())
    optimisers = [rule(net.parameters(), lr=0.1, **options) for net in (moved, stayed)]
    before = list(moved.parameters())
    for phase in range(1 + stepped):
        if phase == stepped:
            moved.to("guarded")
        for net, optimiser in zip((moved, stayed), optimisers, strict=True):
            optimiser.zero_grad()
            x = minidl.ones((4, 3), device=next(net.parameters()).device)
            (net(x) ** 2).sum().backward()
            optimiser.step()
    assert all(a is b for a, b in zip(moved.parameters(), before, strict=True))
    assert moved.weight.device == "guarded"
    for name, array in stayed.state_dict().items():
        np.testing.assert_allclose(moved.state_dict()[name], array, rtol=1e-6)


def test_an_optimiser_goes_on_after_a_change_of_dtype():
    net = nn.Linear(3, 2)
    adam = optim.Adam(net.parameters())
    for dtype in (np.float32, np.float64):
        net.to(dtype=dtype)
        adam.zero_grad()
        net(minidl.ones((4, 3), dtype=dtype)).sum().backward()
        adam.step()
    state = adam.state_dict()["state"][0]
    assert state["mean"].dtype == state["square"].dtype == net.weight.dtype == np.float64


# Saving and loading


def test_state_dict_round_trip():
    one, other = Block(3), Block(3)
    other.load_state_dict(one.state_dict())
    for name, array in one.state_dict().items():
        assert np.array_equal(other.state_dict()[name], array), name


def test_state_dict_is_a_copy():
    layer = nn.Linear(2, 2)
    layer.state_dict()["weight"][...] = 7
    assert not (layer.weight.numpy() == 7).any()


def test_loading_casts_to_the_parameter_s_float_dtype():
    layer = nn.Linear(2, 1)
    layer.load_state_dict({"weight": np.ones((1, 2)), "bias": np.zeros(1, np.int64)})
    assert layer.weight.dtype == layer.bias.dtype == np.float32


def test_loading_lists_every_mismatch_and_changes_nothing():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = net.state_dict()
    state = {
        "0.weight": np.full((3, 2), 7.0),
        "0.bias": np.ones(4),
        "1.weight": np.ones((1, 3), complex),
        "head.weight": np.ones(1),
    }
    with pytest.raises(ValueError, match="does not fit") as caught:
        net.load_state_dict(state)
    assert str(caught.value).splitlines()[1:] == [
        "  1.bias: missing",
        "  head.weight: not expected",
        "  1.weight: got a ndarray of dtype complex128, expected real numbers",
        "  0.bias: got shape (4,), expected (3,)",
    ]
    for name, array in net.state_dict().items():
        assert np.array_equal(array, before[name])


def test_loading_strips_the_prefix_that_data_parallel_leaves():
    saved, net = nn.Linear(2, 3), nn.Linear(2, 3)
    state = saved.state_dict()
    net.load_state_dict({f"module.{name}": array for name, array in state.items()})
    assert all(np.array_equal(array, state[name]) for name, array in net.state_dict().items())
    with pytest.raises(ValueError, match=r"  bias: missing\n  module.weight: not expected$"):
        net.load_state_dict({"weight": state["weight"], "module.weight": state["weight"]})


def test_loading_keeps_a_prefix_that_is_the_network_s_own():
    class Wrapped(nn.Module):
        def __init__(self):
            self.module = nn.Linear(2, 3)

    saved, net = Wrapped(), Wrapped()
    net.load_state_dict(saved.state_dict())
    assert np.array_equal(net.module.weight.numpy(), saved.module.weight.numpy())


def test_loading_does_not_ask_older_files_for_a_count_of_batches():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    state = net.state_dict()
    del state["1.num_batches_tracked"]
    net.load_state_dict(state)
    assert net.state_dict()["1.num_batches_tracked"] == 0


def test_loading_without_strict_takes_what_is_in_both():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = net.state_dict()
    net.load_state_dict({"0.weight": np.ones((3, 2)), "other": np.ones(1)}, strict=False)
    assert (net[0].weight.numpy() == 1).all()
    assert np.array_equal(net[1].weight.numpy(), before["1.weight"])
    with pytest.raises(ValueError, match=r"0\.weight: got shape \(2, 2\), expected \(3, 2\)"):
        net.load_state_dict({"0.weight": np.ones((2, 2))}, strict=False)


def test_loading_returns_the_names_that_differ():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = net.state_dict()
    assert net.load_state_dict(state) == ([], [])
    del state["0.bias"], state["1.num_batches_tracked"]
    state["head.weight"] = np.ones(1)
    found = net.load_state_dict(state, strict=False)
    assert found.missing_keys == ["0.bias"]
    assert found.unexpected_keys == ["head.weight"]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_loading_strips_the_prefixes_that_wrappers_leave(prefix):
    saved, net = nn.Linear(2, 3), nn.Linear(2, 3)
    state = saved.state_dict()
    assert net.load_state_dict({prefix + name: array for name, array in state.items()}) == ([], [])
    assert np.array_equal(net.weight.numpy(), saved.weight.numpy())


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "0.", "net.model."])
def test_a_prefix_is_named_where_names_would_fit_without_it(prefix):
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {prefix + name: array + 1 for name, array in net.state_dict().items()}
    before = net.state_dict()
    words = rf"names start with {prefix!r}: load {{n.removeprefix\({prefix!r}\): a for n, a in"
    with pytest.raises(ValueError, match=rf"does not fit; the state's {words}"):
        net.load_state_dict(state)
    with pytest.warns(UserWarning, match=rf"Sequential.* loaded only \d of 4 .*{words}") as caught:
        found = net.load_state_dict(state, strict=False)
    assert caught[0].filename == __file__
    assert len(found.unexpected_keys) >= 2
    assert all(np.array_equal(before[n], array) for n, array in net.state_dict().items())


def test_a_state_of_a_part_is_said_to_be_one():
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)), nn.Linear(3, 1))
    words = r"module's names start with '0\.': load the state into that part"
    with pytest.raises(ValueError, match=words):  # 1.weight is that of another layer
        net.load_state_dict(net[0].state_dict(), strict=False)
    with pytest.warns(UserWarning, match=words):
        net.load_state_dict(net[0][:1].state_dict(), strict=False)


def test_a_state_of_which_nothing_fits_is_reported_and_one_of_nothing_is_not():
    with pytest.warns(UserWarning, match=r"Linear.* only 0 of 2 .* another network.*\['weight'"):
        nn.Linear(2, 3).load_state_dict({"a": np.ones(1)}, strict=False)
    with pytest.warns(UserWarning, match=r"only 0 of 2"):
        nn.Linear(2, 3).load_state_dict({}, strict=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.ReLU().load_state_dict({}, strict=False)
        nn.Linear(2, 3).load_state_dict({"bias": np.ones(3), "head.w": 0}, strict=False)


def test_loading_between_forward_and_backward_is_noticed():
    layer = nn.Linear(2, 1)
    loss = (layer(minidl.ones((1, 2), dtype="float32") * layer.bias) ** 2).sum()
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


# Words

REPRS = {
    "Linear(3, 2)": nn.Linear(3, 2),
    "Linear(3, 2, bias=False)": nn.Linear(3, 2, bias=False),
    "Conv1d(4, 8, 5, padding=2)": nn.Conv1d(4, 8, 5, padding=2),
    "Conv2d(3, 32, 3)": nn.Conv2d(3, 32, 3),
    "Conv2d(4, 8, (3, 1), stride=2, padding='valid', dilation=(1, 2), groups=2, bias=False)": (
        nn.Conv2d(4, 8, (3, 1), 2, "valid", (1, 2), 2, False)
    ),
    "ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1)": (
        nn.ConvTranspose2d(8, 4, 3, 2, 1, 1)
    ),
    "MaxPool2d(2)": nn.MaxPool2d(2),
    "MaxPool2d(3, stride=2, padding=1, dilation=2, return_indices=True, ceil_mode=True)": (
        nn.MaxPool2d(3, 2, 1, 2, True, True)
    ),
    "AvgPool2d((2, 1), count_include_pad=False, divisor_override=3)": (
        nn.AvgPool2d((2, 1), count_include_pad=False, divisor_override=3)
    ),
    "GlobalAvgPool()": nn.GlobalAvgPool(),
    "GlobalAvgPool(keepdims=True)": nn.GlobalAvgPool(True),
    "Flatten()": nn.Flatten(),
    "Flatten(start_axis=2)": nn.Flatten(2),
    "Dropout()": nn.Dropout(),
    "Dropout(p=0.2)": nn.Dropout(0.2),
    "ReLU()": nn.ReLU(),
    "LeakyReLU(negative_slope=0.2)": nn.LeakyReLU(0.2),
    "GELU(approximate='tanh')": nn.GELU("tanh"),
    "SiLU()": nn.SiLU(),
    "ELU(alpha=0.5)": nn.ELU(0.5),
    "Softplus(beta=2)": nn.Softplus(2),
    "Sigmoid()": nn.Sigmoid(),
    "Softmax(axis=1)": nn.Softmax(1),
    "LogSoftmax()": nn.LogSoftmax(),
    "Tanh()": nn.Tanh(),
    "CrossEntropyLoss(weight=Tensor(5,), label_smoothing=0.1)": (
        nn.CrossEntropyLoss(np.ones(5), label_smoothing=0.1)
    ),
    "NLLLoss(ignore_index=-1)": nn.NLLLoss(ignore_index=-1),
    "MSELoss(reduction='sum')": nn.MSELoss("sum"),
    "L1Loss()": nn.L1Loss(),
    "BCEWithLogitsLoss(pos_weight=Tensor(5,))": nn.BCEWithLogitsLoss(pos_weight=np.ones(5)),
}


@pytest.mark.parametrize("text", REPRS)
def test_repr_shows_how_the_layer_was_made(text):
    assert repr(REPRS[text]) == text


def test_repr_of_nested_modules_is_indented():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)))
    assert repr(net) == (
        "Sequential(\n"
        "  (0): Conv2d(3, 4, 3)\n"
        "  (1): Sequential(\n"
        "    (0): ReLU()\n"
        "    (1): MaxPool2d(2)\n"
        "  )\n"
        ")"
    )


def test_repr_shows_the_arguments_of_one_s_own_module():
    assert repr(Block(3, depth=1)).splitlines()[0] == "Block(3, depth=1"


def test_repr_takes_an_array_as_an_argument():
    class Scaled(nn.Module):
        def __init__(self, factors: np.ndarray | None = None) -> None:
            self.factors = factors

    assert repr(Scaled()) == "Scaled()"
    assert repr(Scaled(np.array([1, 2]))) == "Scaled(factors=array([1, 2]))"


def test_an_error_says_which_layer_it_came_from():
    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.ReLU(), nn.Linear(11, 2)))
    with pytest.raises(ValueError, match=r"^linear: got an input of 12 features") as caught:
        net(minidl.ones((1, 3, 2, 2)))
    assert caught.value.__notes__ == ["in layer '1.1', Linear(11, 2)"]


def test_an_error_of_a_layer_alone_names_it_without_a_place():
    with pytest.raises(ValueError, match=r"^conv2d: got an input of 1 channels") as caught:
        nn.Conv2d(3, 4, 3)(minidl.ones((1, 1, 5, 5)))
    assert caught.value.__notes__ == ["in layer Conv2d(3, 4, 3)"]


def test_notes_of_others_on_an_error_are_kept():
    class Careful(nn.Module):
        def __init__(self) -> None:
            self.inner = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.inner(x)
            except ValueError as error:
                error.add_note("while trying")
                raise

    with pytest.raises(ValueError, match=r"^linear") as caught:
        nn.Sequential(Careful())(minidl.ones((1, 4)))
    assert caught.value.__notes__ == ["in layer '0.inner', Linear(3, 2)", "while trying"]


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match=r"^ModuleList does not define forward"):
        nn.ModuleList()(1)


# Initial weights


@pytest.mark.parametrize(
    ("make", "fan_in"),
    [
        (lambda **o: nn.Linear(300, 400, **o), 300),
        (lambda **o: nn.Conv1d(40, 200, 5, groups=2, **o), 20 * 5),
        (lambda **o: nn.Conv2d(32, 128, (3, 5), **o), 32 * 15),
        (lambda **o: nn.ConvTranspose2d(128, 32, 3, groups=4, **o), 8 * 9),
    ],
    ids=["Linear", "Conv1d", "Conv2d", "ConvTranspose2d"],
)
def test_default_weights_are_uniform_within_one_over_the_root_of_fan_in(make, fan_in):
    """PyTorch's default: the bound is exact, the first two moments are those of that bound."""
    layer, bound = make(rng=np.random.default_rng(0)), 1 / math.sqrt(fan_in)
    weight = layer.weight.numpy().astype(np.float64)
    assert 0.99 * bound < np.abs(weight).max() <= bound * (1 + 1e-6)
    assert abs(weight.mean()) < 4 * bound / math.sqrt(3 * weight.size)
    assert weight.var() == pytest.approx(bound**2 / 3, rel=0.03)
    bias = layer.bias.numpy().astype(np.float64)
    assert np.abs(bias).max() <= bound * (1 + 1e-6)
    assert bias.var() == pytest.approx(bound**2 / 3, rel=0.5)


def test_one_seed_gives_one_network():
    states = []
    for _ in range(2):
        minidl.manual_seed(11)
        states.append(Block(3).state_dict())
    for name, array in states[0].items():
        assert np.array_equal(array, states[1][name])
    assert not np.array_equal(Block(3).state_dict()["first.weight"], states[0]["first.weight"])


def test_an_explicit_generator_leaves_the_seeded_stream_alone():
    minidl.manual_seed(1)
    wanted = nn.Linear(2, 2).weight.numpy()
    minidl.manual_seed(1)
    nn.Linear(5, 5, rng=np.random.default_rng(0))
    assert np.array_equal(nn.Linear(2, 2).weight.numpy(), wanted)


SHAPE = (60, 20, 3, 3)  # fan_in = 180, fan_out = 540
FANS = {"fan_in": 180, "fan_out": 540}
STANDARD_DEVIATIONS = {
    "uniform_": (lambda x, rng: init.uniform_(x, -2, 2, rng), 4 / math.sqrt(12)),
    "normal_": (lambda x, rng: init.normal_(x, 0, 0.3, rng), 0.3),
    "xavier_uniform_": (lambda x, rng: init.xavier_uniform_(x, 2, rng), 2 * math.sqrt(2 / 720)),
    "xavier_normal_": (lambda x, rng: init.xavier_normal_(x, 2, rng), 2 * math.sqrt(2 / 720)),
    **{
        f"kaiming_{kind}_ {mode} {nonlinearity}": (
            lambda x, rng, fill=fill, mode=mode, nonlinearity=nonlinearity: fill(
                x, 0.5, mode, nonlinearity, rng
            ),
            gain / math.sqrt(FANS[mode]),
        )
        for kind, fill in (("uniform", init.kaiming_uniform_), ("normal", init.kaiming_normal_))
        for mode in FANS
        for nonlinearity, gain in (("relu", math.sqrt(2)), ("leaky_relu", math.sqrt(2 / 1.25)))
    },
}


@pytest.mark.parametrize("name", STANDARD_DEVIATIONS)
def test_init_follows_its_formula(name):
    fill, std = STANDARD_DEVIATIONS[name]
    x = minidl.zeros(SHAPE, dtype="float64")
    assert fill(x, np.random.default_rng(0)) is x
    assert x.numpy().std() == pytest.approx(std, rel=0.02)
    assert abs(x.numpy().mean()) < 4 * std / math.sqrt(x.size)
    if "uniform" in name:
        assert np.abs(x.numpy()).max() == pytest.approx(std * math.sqrt(3), rel=0.01)


def test_init_with_constants():
    assert (init.constant_(minidl.zeros(3), 2.5).numpy() == 2.5).all()
    assert (init.ones_(minidl.zeros(3)).numpy() == 1).all()
    assert (init.zeros_(minidl.ones(3)).numpy() == 0).all()


@pytest.mark.parametrize(
    ("nonlinearity", "gain"),
    [("linear", 1), ("sigmoid", 1), ("tanh", 5 / 3), ("relu", math.sqrt(2)), ("selu", 0.75)],
)
def test_gain_makes_up_for_the_activation(nonlinearity, gain):
    assert init.calculate_gain(nonlinearity) == gain


def test_init_on_a_device_draws_the_same_numbers(device):
    x = init.normal_(minidl.zeros((3, 4), device=device), rng=np.random.default_rng(0))
    wanted = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    assert np.array_equal(x.numpy(), wanted)


def test_backend_has_no_kernel_that_counting_misses():
    """`kernel_calls` counts by these names; should they change, it would count nothing."""
    assert hasattr(Backend, "weight_gradient")
    assert hasattr(Backend, "transpose_convolve")


@pytest.mark.parametrize("state", [None, 5, [1], "x", {1: 2}, {("weight",): np.ones((2, 2))}])
def test_a_state_that_is_no_mapping_of_names_is_refused(state):
    layer = nn.Linear(2, 2)
    before = layer.weight.numpy()
    with pytest.raises(TypeError, match=r"Linear\.load_state_dict: got .*, expected named arrays"):
        layer.load_state_dict(state)
    np.testing.assert_array_equal(layer.weight.numpy(), before)
