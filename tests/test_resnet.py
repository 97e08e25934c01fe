"""Residual networks: names, shapes, logits as PyTorch's, heads, and frozen bodies."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import minidl
from minidl import Tensor, models, nn, optim
from minidl.backends import backend_for
from minidl.data import load_cifar10
from minidl.functional import cross_entropy
from minidl.training import load_weights

from .reference.cases import load
from .reference.resnet import SIZES, images, weights

PARAMETERS = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
}
BATCH = np.random.default_rng(0).standard_normal((4, 3, 16, 16), np.float32)


def filled(name: str) -> nn.Module:
    """Return a network with the weights that the stored logits belong to."""
    net = getattr(models, name)()
    net.load_state_dict(weights({key: value.shape for key, value in net.state_dict().items()}))
    return net.eval()


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_network_has_the_published_number_of_parameters(name):
    assert sum(p.size for p in getattr(models, name)().parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", SIZES)
def test_logits_are_torch_s(name):
    wanted = load("resnet")[name]
    with minidl.no_grad():
        found = filled(name)(Tensor(images(name))).numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * max(1, np.abs(wanted).max()))


def test_a_shortcut_leaves_out_pixels_and_adds_channels_of_zeros():
    block = models.BasicBlock(2, 6, stride=2, project=False)
    block.bn2.weight.data = np.zeros(6, np.float32)  # so that f(x) is 0
    x = np.abs(BATCH[:, :2])
    out = block(Tensor(x)).numpy()
    np.testing.assert_array_equal(out[:, 2:4], x[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 4:].any()


def test_a_plain_network_adds_nothing():
    net = models.CifarResNet(1, shortcut=False)
    for module in net.modules():
        if isinstance(module, models.BasicBlock):
            module.bn2.weight.data = np.zeros(module.bn2.num_features, np.float32)
    assert not net.features(Tensor(BATCH)).numpy().any()


def test_the_same_generator_gives_the_same_network():
    one, two = (models.resnet20(rng=np.random.default_rng(3)).state_dict() for _ in range(2))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_older_weights_without_counters_fit_but_nothing_else_may_miss():
    net = models.resnet20()
    state = {n: a for n, a in net.state_dict().items() if not n.endswith("num_batches_tracked")}
    net.load_state_dict(state)
    del state["bn1.bias"]
    with pytest.raises(ValueError, match=r"bn1\.bias: missing"):
        net.load_state_dict(state)


# Heads


@pytest.mark.parametrize(("name", "size"), [("resnet20", 64), ("resnet18", 512)])
def test_a_new_head_gets_the_features(name, size):
    net = getattr(models, name)()
    head = nn.Sequential(nn.Linear(size, 8), nn.ReLU(), nn.Linear(8, 5))
    assert net.num_features == size
    assert net.replace_head(head) is net
    net.eval()
    features = net.features(Tensor(BATCH))
    assert features.shape == (4, size)
    np.testing.assert_array_equal(net(Tensor(BATCH)).numpy(), head(features).numpy())
    assert net.replace_head(3)(Tensor(BATCH)).shape == (4, 3)


def test_another_pool_can_take_the_average_s_place():
    net = models.resnet20().eval()
    net.avgpool = nn.GlobalMaxPool()
    assert (net.features(Tensor(BATCH)).numpy() >= 0).all()
    assert net(Tensor(BATCH)).shape == (4, 10)


def test_a_head_of_no_classes_is_refused():
    with pytest.raises(ValueError, match="out_features=0, expected an integer >= 1"):
        models.resnet20().replace_head(0)


# Frozen bodies


def frozen_net() -> nn.Module:
    net = models.resnet20().requires_grad_(False)
    return net.replace_head(5)


def test_a_frozen_body_stays_as_it_is_while_the_head_learns():
    net = frozen_net().train()
    before = net.state_dict()
    sgd = optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        sgd.zero_grad()
        cross_entropy(net(Tensor(BATCH)), np.arange(4)).backward()
        sgd.step()
    after = net.state_dict()
    changed = {name for name in after if not np.array_equal(after[name], before[name])}
    assert changed == {"linear.weight", "linear.bias"}


def test_frozen_batch_norm_normalises_by_its_running_statistics():
    layer = nn.BatchNorm2d(3)
    layer.running_mean.data = np.array([1, 2, 3], np.float32)
    wanted = layer.eval()(Tensor(BATCH)).numpy()
    layer.train().requires_grad_(False)
    assert layer.is_frozen
    np.testing.assert_array_equal(layer(Tensor(BATCH)).numpy(), wanted)
    assert layer.num_batches_tracked.item() == 0
    layer.bias.requires_grad_(True)
    assert not layer.is_frozen
    assert not np.array_equal(layer(Tensor(BATCH)).numpy(), wanted)
    assert not nn.BatchNorm2d(3, affine=False).is_frozen  # there is nothing to freeze


def test_no_gradient_is_computed_below_the_frozen_line(monkeypatch):
    """Every convolution's gradients go through these two: none is asked for."""
    backend, asked = backend_for("cpu"), []
    for name in ("transpose_convolve", "weight_gradient"):
        kernel = getattr(type(backend), name)

        def noted(self, *arguments, kernel=kernel, name=name):
            asked.append(name)
            return kernel(self, *arguments)

        monkeypatch.setattr(type(backend), name, noted)
    net = frozen_net()
    cross_entropy(net(Tensor(BATCH)), np.arange(4)).backward()
    assert asked == []
    assert net.features(Tensor(BATCH)).is_leaf  # nothing is recorded
    assert [n for n, gradient in net.named_gradients() if gradient is not None] == [
        "linear.weight",
        "linear.bias",
    ]
    net.layer3[2].conv2.requires_grad_(True)
    cross_entropy(net(Tensor(BATCH)), np.arange(4)).backward()
    assert asked == ["weight_gradient"]


# Beside PyTorch


@pytest.mark.oracle
def test_stored_logits_are_what_pytorch_says_today():
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")
    from .reference import make_resnet

    stored = load("resnet")
    for name, logits in make_resnet.answers().items():
        np.testing.assert_allclose(stored[name], logits, rtol=1e-10, atol=1e-12)


@pytest.mark.oracle
def test_gradients_of_all_weights_are_torch_s():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from .reference import torch_resnet

    ours, theirs = models.resnet20().to(dtype="float64"), torch_resnet.ResNet20()
    state = weights({key: value.shape for key, value in ours.state_dict().items()})
    ours.load_state_dict(state)
    theirs = torch_resnet.load(theirs, state).double()
    x, labels = BATCH.astype(np.float64), np.arange(4)
    cross_entropy(ours(Tensor(x)), labels).backward()
    logits = theirs(torch.from_numpy(x))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
    found = dict(ours.named_gradients())
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(
            found[name].numpy(), parameter.grad.numpy(), rtol=1e-6, atol=1e-9, err_msg=name
        )


@pytest.mark.oracle
@pytest.mark.slow
def test_pretrained_weights_classify_as_in_pytorch():
    """With the published ResNet-20 and CIFAR-10's JPEG copy: 81.03 %, logits equal to 1e-4."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    file, folder = os.environ.get("MINIDL_RESNET20"), os.environ.get("MINIDL_CIFAR10")
    if not (file and folder):
        pytest.skip("expected MINIDL_RESNET20, a weight file, and MINIDL_CIFAR10, a folder")
    from .reference import torch_resnet

    state = load_weights(Path(file))
    ours, theirs = models.resnet20(), torch_resnet.ResNet20()
    ours.load_state_dict(state)
    theirs.load_state_dict({n: torch.from_numpy(a) for n, a in state.items()}, strict=False)
    ours.eval()
    theirs.eval()
    _, test = load_cifar10(Path(folder))
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    right = 0
    for start in range(0, len(test.labels), 500):
        x = test.images[start : start + 500] / np.float32(255)
        x = (x - mean[:, None, None]) / std[:, None, None]
        with minidl.no_grad(), torch.no_grad():
            found, wanted = ours(Tensor(x)).numpy(), theirs(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
        right += int((found.argmax(1) == test.labels[start : start + 500]).sum())
    assert abs(right / len(test.labels) - 0.8103) <= 0.0005
