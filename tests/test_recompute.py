"""`checkpointed`: the results, gradients and state of a plain call, with less memory."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import tracemalloc
import weakref
from collections import namedtuple

import numpy as np
import pytest

import minidl
from minidl import Tensor, checkpointed, models, nn, optim, training
from minidl import functional as F
from minidl.autograd import is_recording, recomputing, set_recording, watcher
from minidl.random import generator
from minidl.tensor.rows import RowGradient

from .test_plain import kernels


def leaf(*shape, seed=0, dtype=np.float64, device="cpu"):
    values = np.random.default_rng(seed).standard_normal(shape)
    return Tensor(values.astype(dtype), device=device, requires_grad=True)


def plain(fn, *inputs, **options):
    return fn(*inputs, **options)


def same(found, wanted):
    """Assert that two lists of arrays or None are equal, to the bit."""
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or np.array_equal(mine, theirs, equal_nan=True)


def numpy(tensors):
    return [None if t is None else t.numpy() for t in tensors]


# Equal to the bit, in networks


class Sliced(nn.Module):
    """Runs a network's layers in segments."""

    def __init__(self, run, *parts):
        self.run, self.parts = run, nn.ModuleList(parts)

    def forward(self, x):
        for part in self.parts:
            x = self.run(part, x)
        return x


class Normed(nn.Module):
    """Batch norm, a sum and ReLU that join in one pass, in a method instead of a module."""

    def __init__(self, run, channels):
        self.run = run
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.run(self.body, x)

    def body(self, x):
        return F.relu(self.norm(self.conv(x)) + x)


class Words(nn.Module):
    """A TextCNN: everything after the embedding is one segment, or all of it is."""

    def __init__(self, run, sparse):
        self.run, self.net = run, models.TextCNN(50, 4, 8, (2, 3))
        self.net.embedding.sparse = sparse

    def forward(self, words):
        return self.run(self.net, words)


def chapter_7(run):
    layers = list(models.cifar10_cnn())
    return Sliced(run, nn.Sequential(*layers[:4]), nn.Sequential(*layers[4:]))


def residual(run):
    blocks = [models.BasicBlock(3, 6, 2), models.Bottleneck(6, 2), models.BasicBlock(8, 8)]
    return Sliced(run, *blocks, nn.Sequential(nn.GlobalAvgPool(), nn.Linear(8, 10)))


def dropping(run):
    own = np.random.default_rng(3)
    first = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 9), nn.Dropout(0.5))
    second = nn.Sequential(nn.Dropout(0.3, rng=own), nn.Linear(9, 10))
    return Sliced(run, first, second)


def drawing(run):
    pools = nn.Sequential(nn.StochasticPool2d(2), nn.FractionalMaxPool2d(2, output_ratio=0.6))
    return Sliced(run, pools, nn.Sequential(nn.GlobalAvgPool(), nn.Linear(3, 10)))


def joined(run):
    convolution = nn.Conv2d(3, 4, 3, 2)
    return nn.Sequential(convolution, Normed(run, 4), nn.GlobalAvgPool(), nn.Linear(4, 10))


NETWORKS = {
    "chapter 7": chapter_7,
    "residual": residual,
    "dropout": dropping,
    "random pools": drawing,
    "joined": joined,
    "whole rows": lambda run: Words(run, sparse=False),
    "sparse rows": lambda run: Words(run, sparse=True),
}


def steps(name, run, dtype):
    """Return losses, and all gradients and buffers, of two training steps."""
    minidl.manual_seed(0)
    model = NETWORKS[name](run).to(dtype=dtype)
    rng, found = np.random.default_rng(1), []
    sgd = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        x = Tensor(rng.standard_normal((6, 3, 32, 32)).astype(dtype), requires_grad=True)
        if "rows" in name:
            x = Tensor(rng.integers(1, 50, (6, 9)))
        targets = rng.integers(0, 2, 6)
        loss = F.cross_entropy(model(x), targets)
        sgd.zero_grad()
        loss.backward()
        gradients = [x.grad, *(p.grad for p in model.parameters())]
        found += [loss.numpy(), *numpy(gradients), *numpy(b for _, b in model.named_buffers())]
        sgd.step()
    kinds = [type(p.grad) for p in model.parameters()]
    return [*found, np.array(generator().random())], kinds


@pytest.mark.parametrize("kind", ["fast", "plain"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_and_state_equal_those_of_a_plain_call_to_the_bit(name, dtype, kind):
    with kernels(kind):
        found, kinds = steps(name, checkpointed, dtype)
        wanted, others = steps(name, plain, dtype)
    same(found, wanted)
    assert kinds == others
    assert (RowGradient in kinds) == (name == "sparse rows")


def test_resnets_take_it_as_an_option():
    def trained(option):
        minidl.manual_seed(0)
        net = models.resnet20()
        net.checkpointed = option
        x = leaf(4, 3, 32, 32, dtype="f")
        F.cross_entropy(net(x), np.arange(4)).backward()
        found = [x.grad, *(p.grad for p in net.parameters()), *(b for _, b in net.named_buffers())]
        return numpy(found)

    same(trained(True), trained(False))


def test_fit_trains_the_same(tmp_path):
    def losses(run):
        minidl.manual_seed(0)
        model = dropping(run)
        rng = np.random.default_rng(0)
        images, labels = rng.standard_normal((16, 3, 32, 32)).astype("f"), rng.integers(0, 4, 16)
        batches = minidl.data.DataLoader(images, labels, batch_size=8, shuffle=True)
        adam = optim.Adam(model.parameters())
        history = training.fit(model, F.cross_entropy, adam, batches, epochs=2, progress=False)
        return history["train_loss"]

    assert losses(checkpointed) == losses(plain)


# Everything a plain call can do


def gradients(run, fn, *inputs, extra=(), **options):
    """Return the results, and all gradients of a weighted sum of them."""
    for x in (*inputs, *extra):
        x.grad = None
    out = run(fn, *inputs, **options)
    outputs = out if isinstance(out, tuple) else (out,)
    loss = sum((y * (i + 1.5)).tanh().sum() for i, y in enumerate(outputs) if y.requires_grad)
    loss.backward()
    return numpy(outputs) + numpy([x.grad for x in (*inputs, *extra)])


W, V = leaf(3, 3, seed=5), leaf(3, seed=6)
FROZEN = leaf(3, 3, seed=7).requires_grad_(False)
Pair = namedtuple("Pair", "mean spread")

FUNCTIONS = {
    "a function of weights": lambda x, y: F.sigmoid(x @ W + V),
    "two inputs": lambda x, y: (x * y).exp(),
    "an unused input": lambda x, y: x.exp(),
    "an input as it is": lambda x, y: x,
    "a view": lambda x, y: x.reshape(9),
    "a number": lambda x, y: (x * y * W).mean(),
    "frozen": lambda x, y: ((x @ FROZEN) * y).exp(),
    "a tuple": lambda x, y: ((x * y).exp(), (x @ W).sum(), y - x),
    "a tuple of one": lambda x, y: ((x * y).exp(),),
    "a named tuple": lambda x, y: Pair((x * W).mean(0), (x - y).exp()),
    "a result twice": lambda x, y: ((x * y).exp(),) * 2,
    "an input among results": lambda x, y: (x, (x * y).exp(), W),
    "indices too": lambda x, y: (Tensor(x.numpy().argmax(1)), x.exp()),
    "results of two types": lambda x, y: (x.exp(), (x * y).to(dtype="float32").exp()),
    "an unused parameter": lambda x, y: (x * W).sum() + 0 * x.mean(),
    "keywords": lambda x, y, power=2, z=None: x**power + (y if z is None else y * z),
    "a gradient inside": lambda x, y: minidl.grad((x**3 * y).sum(), x, create_graph=True)[0] * W,
    "a checkpoint inside": lambda x, y: checkpointed(lambda h: (h @ W).exp(), x * y).tanh() * W,
    "no gradient inside": lambda x, y: x * y.detach() + (W * 2).detach(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_and_gradients_are_those_of_a_plain_call(name):
    x, y = leaf(3, 3), leaf(3, 3, seed=1)
    fn, extra = FUNCTIONS[name], (W, V, FROZEN)
    same(gradients(checkpointed, fn, x, y, extra=extra), gradients(plain, fn, x, y, extra=extra))
    y = y.detach()
    same(gradients(checkpointed, fn, x, y, extra=extra), gradients(plain, fn, x, y, extra=extra))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_gradient_can_be_differentiated_again(name):
    if name in ("results of two types", "no gradient inside"):
        pytest.skip("differences in float32 are too coarse, and those of a constant are not zero")

    def run(x, y):
        with set_recording(True):  # gradcheck computes its differences under no_grad
            out = checkpointed(FUNCTIONS[name], x, y)
        return tuple(t for t in (out if isinstance(out, tuple) else (out,)) if t.dtype.kind == "f")

    minidl.gradcheck(run, [leaf(3, 3), leaf(3, 3, seed=1)], order=2)


@pytest.mark.parametrize("block", [models.BasicBlock(2, 4, 2), nn.BatchNorm2d(2)])
def test_batch_norm_in_it_can_be_differentiated_again(block):
    block.to(dtype="float64")
    x = leaf(2, 2, 4, 4)

    def slopes(run):
        (slope,) = minidl.grad(run(block, x).tanh().sum(), x, create_graph=True)
        return numpy([slope, *minidl.grad((slope * slope).sum(), [x, *block.parameters()])])

    for mine, theirs in zip(slopes(checkpointed), slopes(plain), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-13)


def test_third_derivatives():
    x = Tensor(2.0, requires_grad=True)
    y = checkpointed(lambda x: x**4, x)
    for expected in (32, 48, 48):
        (y,) = minidl.grad(y, x, create_graph=True)
        assert y.item() == expected


def test_keyword_arguments_are_passed_on_and_differentiated():
    x, y, z = leaf(3, 3), leaf(3, 3, seed=1), leaf(3, 3, seed=2)
    options = {"power": 3, "z": z}
    fn = FUNCTIONS["keywords"]
    found = gradients(checkpointed, fn, x, y, extra=[z], **options)
    same(found, gradients(plain, fn, x, y, extra=[z], **options))
    assert found[-1] is not None


def test_no_gradient_is_recorded_under_no_grad_and_where_nothing_needs_one():
    runs = []

    def fn(x):
        runs.append(is_recording())
        return x.exp()

    with minidl.no_grad():
        assert checkpointed(fn, leaf(2)).is_leaf
    assert checkpointed(fn, Tensor([1.0])).is_leaf
    assert runs == [False, True]


def test_parameters_get_gradients_though_no_input_needs_one():
    x, layer = Tensor(np.ones((2, 3))), nn.Linear(3, 2).to(dtype="float64")
    parameters = list(layer.parameters())
    found = gradients(checkpointed, layer, x, extra=parameters)
    same(found, gradients(plain, layer, x, extra=parameters))
    assert found[-1] is not None


def test_a_function_without_arguments_and_tensors_in_containers():
    x, y = leaf(3), leaf(3, seed=1)
    lists = {"a": [x, y]}

    def total(run, fn, *inputs):
        x.grad = y.grad = None
        run(fn, *inputs).sum().backward()
        return numpy([x.grad, y.grad])

    wanted = total(plain, lambda: (x * y).exp())
    same(total(checkpointed, lambda: (x * y).exp()), wanted)
    same(total(checkpointed, lambda both: (both["a"][0] * both["a"][1]).exp(), lists), wanted)


def test_tensors_from_outside_that_depend_on_each_other_get_each_gradient_once():
    """The segment uses `h` and `k`, which were computed from `w` and from each other, and `w`."""

    def total(run):
        w, x = leaf(3, seed=1), leaf(3)
        h = (w * x).exp()
        k = h * w
        seen = []
        h.register_hook(lambda g: seen.append(g.numpy()))
        k.retain_grad()
        y = run(lambda x, k: ((h * x).tanh() * k + w * h).exp(), x, k)
        (y.sum() + (h * k).sum()).backward()
        assert len(seen) == 1
        return numpy([w.grad, x.grad, k.grad]) + seen

    for mine, theirs in zip(total(checkpointed), total(plain), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)


def test_grad_with_respect_to_results_and_inputs_leaves_every_grad_alone():
    x = leaf(3)
    h = x * 2
    y = checkpointed(lambda h: (h * V).exp(), h)
    z = (y * y).sum()
    found = minidl.grad(z, [y, h, x, V], retain_graph=True)
    same(numpy(found), numpy(minidl.grad(z, [y, h, x, V])))
    np.testing.assert_allclose(found[2].numpy(), 2 * found[1].numpy())
    assert x.grad is None
    assert V.grad is None


def test_only_results_that_get_a_gradient_are_differentiated():
    """log(0) has an infinite slope: 0 times it would be NaN."""
    x, w = leaf(2), leaf(2, seed=1)
    with np.errstate(divide="ignore"):
        used, _ = checkpointed(lambda x: (x.exp(), (x * 0).log() * w), x)
        used.sum().backward()
    assert np.isfinite(x.grad.numpy()).all()
    assert w.grad is None


def test_two_backwards_through_one_graph():
    x = leaf(3)
    for fn in (lambda x: x.exp(), lambda x: (x.exp(), x.tanh())):
        x.grad = None
        out = checkpointed(fn, x)
        loss = out.sum() if isinstance(out, Tensor) else (out[0] * out[1]).sum()
        loss.backward(retain_graph=True)
        once = x.grad.numpy()
        loss.backward()
        np.testing.assert_allclose(x.grad.numpy(), 2 * once)
        with pytest.raises(RuntimeError, match="a second time: its graph was freed"):
            loss.backward()


def test_parameters_frozen_and_hooked():
    layer, x = nn.Linear(3, 3), leaf(2, 3, dtype="f")
    layer.bias.requires_grad_(False)
    seen = []
    layer.weight.register_hook(lambda g: seen.append(1) or g * 10)
    y = checkpointed(nn.Sequential(layer, nn.Tanh(), layer), x)
    y.sum().backward()
    hooked = layer.weight.grad.numpy()
    layer.weight.grad, layer.weight.hooks = None, ()
    layer(nn.Tanh()(layer(x))).sum().backward()
    np.testing.assert_array_equal(hooked, 10 * layer.weight.grad.numpy())
    assert layer.bias.grad is None
    assert seen == [1]


def test_freezing_a_weight_before_backward_leaves_it_out():
    x, w = leaf(3), leaf(3, seed=1)
    y = checkpointed(lambda x: (x * w).exp(), x)
    w.requires_grad_(False)
    y.sum().backward()
    assert w.grad is None
    assert x.grad is not None


@pytest.mark.parametrize("what", ["input", "weight", "frozen", "output"])
def test_changes_in_place_before_backward_are_noticed(what):
    x, w, frozen = Tensor([1.0, 2.0]), nn.Parameter([3.0, 1.0]), nn.Parameter([2.0, 5.0])
    frozen.requires_grad_(False)
    y = checkpointed(lambda x: (x * w * frozen).exp(), x)
    changed = {"input": x, "weight": w, "frozen": frozen, "output": y}[what]
    with changed.mutable() as array:
        array += 1e-12
    with pytest.raises(RuntimeError, match=r"'checkpointed', of shape .* was changed in place"):
        y.sum().backward()


def test_hooks_inside_run_in_the_second_run():
    seen, x = [], leaf(3)

    def fn(x):
        h = x.exp()
        h.register_hook(lambda g: seen.append(is_recording()) or g * 2)
        return h.tanh()

    checkpointed(fn, x).sum().backward()
    doubled = x.grad.numpy()
    x.grad = None
    x.exp().tanh().sum().backward()
    np.testing.assert_array_equal(doubled, 2 * x.grad.numpy())
    assert seen == [True]


def test_the_mode_of_layers_is_that_of_each_call():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()
    x = leaf(5, 3, dtype="f")
    before = net.state_dict()
    same(gradients(checkpointed, net, x), gradients(plain, net, x))
    assert all(np.array_equal(net.state_dict()[name], a) for name, a in before.items())


# State that forward changes


def test_state_changes_once():
    x = leaf(3, 2, 4, 4, dtype="f")
    for momentum in (0.1, None):
        norm, other = (nn.BatchNorm2d(2, momentum=momentum) for _ in range(2))
        for _ in range(2):
            checkpointed(norm, x).sum().backward()
            other(x)
        assert norm.num_batches_tracked.item() == 2
        same(list(norm.state_dict().values()), list(other.state_dict().values()))


def test_rows_are_shortened_once():
    table = nn.Embedding(5, 3, max_norm=0.5).to(dtype="float64")
    y = checkpointed(table, np.array([1, 3]))
    before, count = table.weight.numpy(), table.weight.version.count
    y.sum().backward(retain_graph=True)
    y.sum().backward()  # the weight counts as unchanged
    assert table.weight.version.count == count
    np.testing.assert_array_equal(table.weight.numpy(), before)


def test_a_layer_can_ask_whether_it_runs_again():
    class Counting(nn.Module):
        calls, runs = 0, 0

        def forward(self, x):
            self.runs += 1
            self.calls += not recomputing.get()
            return x.exp()

    layer, x = Counting(), leaf(2)
    checkpointed(lambda x: checkpointed(layer, x) * 2, x).sum().backward()
    assert (layer.calls, layer.runs) == (1, 3)
    assert not recomputing.get()


def test_a_list_that_the_function_appends_to_grows_twice_and_gradients_are_right():
    kept, x = [], leaf(3)

    def fn(x):
        h = x.exp()
        kept.append(h)
        return h.tanh()

    y = checkpointed(fn, x)
    (y.sum() + (kept[0] * kept[0]).sum()).backward()
    found = x.grad.numpy()
    x.grad = None
    h = x.exp()
    (h.tanh().sum() + (h * h).sum()).backward()
    np.testing.assert_allclose(found, x.grad.numpy(), rtol=1e-14)
    assert len(kept) == 2


def test_a_function_that_remembers_a_result():
    cache, x, w = [], leaf(3), leaf(3, seed=1)

    def fn(x):
        if not cache:
            cache.append(w.exp())
        return (x * cache[0]).tanh()

    checkpointed(fn, x).sum().backward()
    found = numpy([x.grad, w.grad])
    x.grad = w.grad = None
    (x * w.exp()).tanh().sum().backward()
    same(found, numpy([x.grad, w.grad]))


# Random streams


def test_masks_repeat_and_the_streams_go_on():
    own, x = np.random.default_rng(5), leaf(50)
    layer = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5, rng=own))
    y = checkpointed(layer, x)
    states = generator().bit_generator.state, own.bit_generator.state
    drawn = generator().random(), own.random()
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy() / x.numpy())
    assert drawn != (generator().random(), own.random())
    generator().bit_generator.state, own.bit_generator.state = states
    assert drawn == (generator().random(), own.random())


def test_seeding_between_the_runs_or_inside():
    x = leaf(50)
    y = checkpointed(lambda x: F.dropout(x), x)
    minidl.manual_seed(9)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy() / x.numpy())
    assert generator().random() == np.random.default_rng(9).random()

    def fn(x):
        minidl.manual_seed(4)
        return F.dropout(x)

    x.grad = None
    y = checkpointed(fn, x)
    following = generator().bit_generator.state["state"]
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy() / x.numpy())
    assert generator().bit_generator.state["state"] == following


def test_older_kinds_of_streams_are_set_back_too():
    old, python, x = np.random.RandomState(0), random.Random(0), leaf(4)
    y = checkpointed(lambda x: x * old.rand(4) * python.random(), x)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), y.numpy() / x.numpy())
    following = old.rand(), python.random()
    assert following != (np.random.RandomState(0).rand(), random.Random(0).random())


def test_a_stream_that_the_segment_does_not_use_is_left_to_others():
    own, drawn, x = np.random.default_rng(0), [], leaf(3)

    def fn(x):
        if recomputing.get():  # as another thread would
            drawn.append(generator().random())
        return F.dropout(x, rng=own).exp()

    y = checkpointed(fn, x)
    y.sum().backward()
    assert generator().random() not in drawn
    minidl.manual_seed(0)
    assert drawn == [generator().random()]


@pytest.mark.parametrize("device", ["cpu", "guarded"])
@pytest.mark.parametrize("results", ["a module", "a tuple"])
def test_a_captured_step_repeats_its_masks(device, results):
    """The device repeats forward and backward without Python: each with one new mask."""
    layer = nn.Dropout(0.5)

    def fn(x):
        return layer(x) if results == "a module" else (layer(x), x * 2)

    w = Tensor(np.ones(40), device=device, requires_grad=True)

    def step(x):
        out = checkpointed(fn, x * w)
        y = out if isinstance(out, Tensor) else out[0] + 0 * out[1]
        (slope,) = minidl.grad(y.sum(), w)
        return y, slope

    captured, masks = minidl.capture(step), []
    for _ in range(6):
        out, slope = captured(Tensor(np.ones(40), device=device))
        np.testing.assert_array_equal(out.numpy(), slope.numpy())
        masks.append(tuple(out.numpy()))
    assert len(set(masks)) == 6
    minidl.manual_seed(0)
    wanted = [tuple(F.dropout(Tensor(np.ones(40))).numpy()) for _ in range(6)]
    assert masks == wanted


# Threads, watchers, observers


def test_two_threads_at_once():
    wanted = [steps_of_thread(seed, plain) for seed in range(2)]
    found = [None, None]

    def work(seed):
        found[seed] = steps_of_thread(seed, checkpointed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine, theirs in zip(found, wanted, strict=True):
        same(mine, theirs)


def steps_of_thread(seed, run):
    rng = np.random.default_rng(seed)
    net = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, rng=rng), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Dropout(0.5, rng=rng), nn.Flatten(), nn.Linear(64, 3, rng=rng)),
    )
    for _ in range(10):
        x = leaf(8, 2, 6, 6, seed=seed, dtype="f")
        (run(net[:4], x) ** 2).mean().backward()
    return numpy([x.grad, *(p.grad for p in net[:4].parameters())])


def test_two_threads_through_one_graph():
    x = leaf(3)
    y, z = checkpointed(lambda x: (x.exp(), x.tanh()), x)
    loss, found = (y * z).sum(), []

    def work():
        found.extend(minidl.grad(loss, x, retain_graph=True) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (wanted,) = minidl.grad((x.exp() * x.tanh()).sum(), x)
    assert len(found) == 40
    for (slope,) in found:
        np.testing.assert_allclose(slope.numpy(), wanted.numpy(), rtol=1e-14)


def test_detect_anomaly_names_the_line_inside():
    x = Tensor([4.0, 0.0], requires_grad=True)

    def fn(x):
        h = x * 1
        return h.sqrt() + 1  # this line

    stops, quiet = pytest.raises(FloatingPointError), np.errstate(divide="ignore", invalid="ignore")
    with quiet, stops as error, minidl.detect_anomaly():
        checkpointed(fn, x).sum().backward()
    assert "gradient of 'sqrt' for input 0" in str(error.value)
    assert "# this line" in str(error.value)
    y = checkpointed(fn, x)
    with np.errstate(divide="ignore"), stops as error, minidl.detect_anomaly():
        y.sum().backward()
    assert "gradient of 'sqrt' for input 0" in str(error.value)
    assert "run the forward pass under detect_anomaly too" in str(error.value)
    assert watcher() is None


def test_detect_anomaly_changes_no_gradient():
    def found(run, inside):
        minidl.manual_seed(0)
        net = residual(run)
        x = leaf(4, 3, 8, 8, dtype="f")
        with minidl.detect_anomaly() if inside else contextlib.nullcontext():
            loss = (net(x) ** 2).sum()
            loss.backward()
        return numpy([x.grad, *(p.grad for p in net.parameters())])

    same(found(checkpointed, True), found(plain, True))


def test_observers_see_each_layer_once():
    seen, net, x = [], nn.Sequential(nn.Linear(3, 3), nn.Tanh()), leaf(2, 3, dtype="f")
    with nn.observe(lambda module, *_: seen.append(type(module).__name__)):
        checkpointed(net, x).sum().backward()
    assert seen == ["Linear", "Tanh", "Sequential"]
    y = checkpointed(net, x)
    with nn.observe(lambda module, *_: seen.append(type(module).__name__)):
        y.sum().backward()
    assert len(seen) == 3


def test_a_layer_inside_is_named_in_errors():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 3))
    with pytest.raises(ValueError, match="linear: got") as error:
        checkpointed(net, leaf(2, 3, dtype="f"))
    assert any("in layer '1'" in note for note in error.value.__notes__)


def test_graphs_summaries_and_exports_of_networks_with_segments(tmp_path):
    net = models.resnet20()
    summary = str(minidl.inspect.summary(net, (3, 32, 32)))
    net.checkpointed = True
    assert str(minidl.inspect.summary(net, (3, 32, 32))) == summary
    x = leaf(2, 3, 32, 32, dtype="f")
    assert "checkpointed" in str(minidl.inspect.graph(net(x).sum()))
    found = minidl.inspect.saliency(net, x), minidl.inspect.grad_cam(net, net.layer2[0].conv1, x)
    net.checkpointed = False
    wanted = minidl.inspect.saliency(net, x), minidl.inspect.grad_cam(net, net.layer2[0].conv1, x)
    same(found, wanted)
    net.checkpointed = True
    minidl.export_onnx(net.eval(), x.detach(), tmp_path / "net.onnx")


# Pending results of batch norm


class Pending(nn.Module):
    """A segment that takes, or uses from outside, a result of batch norm that is still pending."""

    def __init__(self, run, how):
        self.run, self.how = run, how
        self.norm, self.conv = nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)

    def forward(self, x):
        pending = self.norm(x)
        if self.how == "argument":
            return self.run(lambda p: F.relu(p + self.conv(p)), pending)
        if self.how == "from outside":
            return self.run(lambda x: F.relu(self.conv(x) + pending), x)
        return F.relu(pending + self.run(self.conv, x))


@pytest.mark.parametrize("how", ["argument", "from outside", "beside"])
def test_pending_results_of_batch_norm(how):
    def found(run):
        minidl.manual_seed(0)
        net, x = Pending(run, how).to(dtype="float64"), leaf(3, 2, 4, 4)
        net(x).tanh().sum().backward()
        return numpy([x.grad, *(p.grad for p in net.parameters())])

    for mine, theirs in zip(found(checkpointed), found(plain), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)


# Errors


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, "fn returned a NoneType, expected a Tensor or a tuple of Tensors"),
        (np.ones(2), "fn returned a ndarray, expected"),
        ((leaf(2), 3), "fn returned a int in a tuple, expected"),
        ([leaf(2)], "fn returned a list, expected"),
    ],
)
def test_other_results_are_refused(result, said):
    with pytest.raises(TypeError, match=f"checkpointed: {said}"):
        checkpointed(lambda x: result, leaf(2))


def differs(*ways):
    """Return a function that does each in turn."""
    calls = itertools.count()
    return lambda x: ways[next(calls)](x)


OTHER = leaf(3, seed=9)
HIDDEN = {np.random.default_rng(0)}  # the search does not look into sets
DIFFERENT = {
    "shape": (
        differs(lambda x: x.exp(), lambda x: x.exp().sum()),
        r"fn returned shape \(\) the second time, expected \(3,\) as the first time",
    ),
    "dtype": (
        differs(lambda x: x.exp(), lambda x: x.to(dtype="f").exp()),
        "fn returned dtype float32 the second time, expected float64",
    ),
    "number of results": (
        differs(lambda x: (x.exp(), x.tanh()), lambda x: x.exp()),
        r"fn returned shape None the second time, expected \(3,\)",
    ),
    "values": (
        differs(lambda x: x * 2, lambda x: x * 2.001),
        r"other values the second time, in a result of shape \(3,\), expected the same",
    ),
    "a stream that is not found": (
        lambda x: x * next(iter(HIDDEN)).random(),
        "other values the second time.*does it draw from a generator that",
    ),
    "weights": (
        differs(lambda x: x * OTHER, lambda x: x * OTHER.detach()),
        r"in its first run only, fn used a tensor of shape \(3,\) that requires a gradient",
    ),
    "other weights": (
        differs(lambda x: x * OTHER.detach(), lambda x: x * OTHER),
        "in its second run only, fn used .* requires a gradient, expected the same tensors",
    ),
    "tensors of its own": (
        lambda x: x * Tensor(np.ones(3), requires_grad=True),
        "used a tensor of shape .* does it make such tensors itself, or compute in other threads",
    ),
    "type": (
        differs(lambda x: x.exp(), lambda x: None),
        "fn returned a NoneType, expected a Tensor",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_second_run_that_differs_is_an_error(name):
    fn, said = DIFFERENT[name]
    out = checkpointed(fn, leaf(3))
    loss = out.sum() if isinstance(out, Tensor) else out[0].sum() + out[1].sum()
    with pytest.raises((RuntimeError, TypeError), match=f"checkpointed: .*{said}"):
        loss.backward()


def test_a_function_that_computes_in_another_thread_is_an_error():
    w = leaf(3)

    def fn(x):
        out = []
        thread = threading.Thread(target=lambda: out.append(w.exp()))
        thread.start()
        thread.join()
        return x * out[0]

    y = checkpointed(fn, leaf(3))
    with pytest.raises(RuntimeError, match="or compute in other threads"):
        y.sum().backward()


def test_rounding_may_differ_and_nan_and_infinity_repeat():
    x = leaf(3)
    checkpointed(differs(lambda x: x * 3, lambda x: x * (3 + 1e-12)), x).sum().backward()
    for bad in (np.nan, np.inf, -np.inf):
        checkpointed(lambda x, bad=bad: x * 1 + np.array([bad, 1, 0]), x).sum().backward()
        fn = differs(
            lambda x, bad=bad: x * 1 + np.array([bad, 1, 0]),
            lambda x, bad=bad: x * 1 + np.array([1, bad, 0]),
        )
        y = checkpointed(fn, x)
        with pytest.raises(RuntimeError, match="other values the second time"):
            y.sum().backward()


@pytest.mark.parametrize("tuples", [False, True])
def test_an_error_in_the_second_run_leaves_streams_and_flags_restored(tuples):
    x, calls = leaf(9), itertools.count()

    def fn(x):
        h = F.dropout(x)
        if next(calls) == 1:
            assert recomputing.get()
            raise KeyError("the second run fails")
        return (h, h * 2) if tuples else h

    out = checkpointed(fn, x)
    y = out[0] + out[1] if tuples else out
    state = generator().bit_generator.state
    with minidl.no_grad(), pytest.raises(KeyError, match="fails"):
        minidl.grad(y, x, [Tensor(np.ones(9))], retain_graph=True)
    assert generator().bit_generator.state == state
    assert is_recording()
    assert not recomputing.get()
    assert watcher() is None
    (slope,) = minidl.grad(y, x, [Tensor(np.ones(9))])  # the graph can be used again
    np.testing.assert_array_equal(slope.numpy(), y.numpy() / x.numpy())


def test_an_error_in_the_first_run_is_the_function_s_own():
    with pytest.raises(ZeroDivisionError):
        checkpointed(lambda x: 1 // 0, leaf(2))
    y = leaf(2) * 2
    assert y.node.line == ""


# Memory


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("tuples", [False, True])
@pytest.mark.usefixtures("no_collector")
def test_memory_is_freed_by_reference_counting(backward, tuples):
    x, inner = leaf(3), []

    def fn(x):
        h = x.exp()
        inner.extend(weakref.ref(t) for t in (h, h.array))
        return (h.tanh(), h * 2) if tuples else h.tanh()

    middle = x * 1
    out = checkpointed(fn, middle)
    assert [ref() for ref in inner] == [None] * 2
    y = out[0] * out[1] if tuples else out * 1
    watched = [weakref.ref(t) for t in (middle, y, *(out if tuples else [out]))]
    if backward:
        y.sum().backward()
        assert len(inner) == 4
    del middle, y, out
    assert [ref() for ref in (*watched, *inner)] == [None] * (len(watched) + len(inner))


@pytest.mark.usefixtures("no_collector")
def test_second_derivatives_are_freed_too():
    x = leaf(3)
    y = checkpointed(lambda x: x.exp(), x)
    (slope,) = minidl.grad(y.sum(), x, create_graph=True)
    watched = [weakref.ref(t) for t in (y, slope)]
    minidl.grad(slope.sum(), x)
    del y, slope
    assert [ref() for ref in watched] == [None] * 2


def test_the_peak_of_a_deep_network_falls():
    """36 layers of 1 MiB: in 6 segments, 6 + 6 of them and some are in memory instead of 36."""
    weights = [nn.Parameter(np.full(1, 1.01, "f")) for _ in range(36)]

    def segment(x, part):
        for weight in part:
            x = (x * weight).tanh()
        return x

    def peak(run):
        x = Tensor(np.ones(2**18, "f"))
        tracemalloc.start()
        for start in range(0, 36, 6):
            x = run(segment, x, weights[start : start + 6])
        x.sum().backward()
        found = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        return found

    before, after = peak(plain), peak(checkpointed)
    assert before > 60  # two arrays for each layer
    assert after < 0.5 * before
