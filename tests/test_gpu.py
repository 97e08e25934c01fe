"""What only a GPU can tell: `pytest -m gpu`. Skipped, with the reason, where there is none.

Every test that takes the fixture `device` runs on it too: among them all of `test_ops.py`.
"""

from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np
import pytest

import minidl
from minidl import Tensor, models, nn, optim
from minidl import functional as F
from minidl.backends import backend_for
from minidl.data import DataLoader, Normalize, load_toy10

from .benchmarks import step as steps
from .test_ops import CASES, calling, counting, leaves

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cuda")]


@pytest.mark.parametrize(("op", "of"), CASES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-4)], ids=["float64", "float32"]
)
def test_every_operation_gives_the_cpus_value_and_gradients(op, of, dtype, tolerance):
    def results(device):
        inputs = leaves(of, device, dtype)
        output = calling(op, of, backend_for(device), dtype)(*inputs)
        output.backward(counting(output.shape, device, dtype))
        return [output.numpy(), *(x.grad.numpy() for x in inputs)]

    for mine, wanted in zip(results("cuda"), results("cpu"), strict=True):
        assert mine.dtype == wanted.dtype
        scale = max(1.0, float(np.nanmax(np.abs(wanted), initial=0)))
        np.testing.assert_allclose(mine, wanted, rtol=tolerance, atol=tolerance * scale)


def cifar10_losses(device, wrapped=lambda step: step, count=50, prefetch=0, dtype=np.float32):
    rng = minidl.manual_seed(0)
    model = models.cifar10_cnn(rng=rng).to(device, dtype)
    adam, train = optim.Adam(model.parameters()), load_toy10()[0]
    normalize = Normalize.fit(train.images)
    loader = DataLoader(
        *(train.images, train.labels),
        **{"shuffle": True, "drop_last": True, "rng": rng, "device": device, "prefetch": prefetch},
        transform=lambda images: normalize(images).astype(dtype),
    )

    @wrapped
    def step(images, labels):
        loss = F.cross_entropy(model(images), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss

    losses = []
    while len(losses) < count:
        for images, labels in loader:
            losses.append(step(images, labels))
            if len(losses) == count:
                break
    return [loss.item() for loss in losses]


def text_losses(device, count=50, dtype=np.float32):
    model = steps.text_cnn(nn, F, minidl.concatenate)
    model.load_state_dict(steps.weights(model))
    model.to(device, dtype)
    adam = optim.Adam(model.parameters())
    words, labels = (Tensor(array, device=device) for array in steps.sentences())
    losses = []
    for _ in range(count):
        losses.append(F.cross_entropy(model(words), labels))
        adam.zero_grad()
        losses[-1].backward()
        adam.step()
    return [loss.item() for loss in losses]


@pytest.mark.parametrize("losses", [cifar10_losses, text_losses])
@pytest.mark.parametrize(("dtype", "count"), [(np.float64, 50), (np.float32, 8)])
def test_the_same_seed_gives_the_first_losses_of_the_cpu(losses, dtype, count):
    """Fifty in float64. In float32 a last bit of one weight grows: after 24 steps beyond 1e-3."""
    mine, wanted = (losses(device, count=count, dtype=dtype) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(mine, wanted, rtol=1e-3, atol=1e-3)


def test_what_is_sent_ahead_arrives_whole():
    backend, rng = minidl.zeros(1, device="cuda").backend, np.random.default_rng(0)
    arrays = [rng.normal(size=(64, 1000)) for _ in range(6)]
    ahead = [backend.send(array) for array in arrays[:2]]
    found = []
    for number in range(len(arrays)):  # nothing waits on the host in between
        ahead += [backend.send(later) for later in arrays[number + 2 : number + 3]]
        found.append(ahead.pop(0)())
    for copy, array in zip(found, arrays, strict=True):
        np.testing.assert_array_equal(copy.get(), array)


def test_batches_moved_ahead_and_replayed_steps_give_the_same_losses():
    plain = cifar10_losses("cuda")
    np.testing.assert_allclose(cifar10_losses("cuda", prefetch=2), plain, rtol=1e-3, atol=1e-3)
    captured = cifar10_losses("cuda", minidl.capture, prefetch=2)  # a warning would be an error
    np.testing.assert_allclose(captured, plain, rtol=1e-3, atol=1e-3)


def test_the_losses_are_the_same_in_every_run():
    assert cifar10_losses("cuda", count=10) == cifar10_losses("cuda", count=10)


def test_a_fixed_order_gives_embeddings_the_same_bits_in_every_run():
    minidl.set_deterministic(True)
    try:
        assert text_losses("cuda", 10) == text_losses("cuda", 10)
    finally:
        minidl.set_deterministic(False)


def test_a_step_waits_for_nothing():
    """CUDA itself refuses waits and copies to the host while a step is captured."""
    model = models.cifar10_cnn().to("cuda")
    adam, backend = optim.Adam(model.parameters()), backend_for("cuda")
    images = minidl.randn(8, 3, 32, 32, device="cuda")
    labels = Tensor(np.arange(8), device="cuda")

    def step():
        loss = F.cross_entropy(model(images), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()

    step()
    before = backend.to_host, backend.to_device
    step()
    assert (backend.to_host, backend.to_device) == before
    backend.record(step)()


def test_memory_returns_to_its_start_after_a_hundred_steps(no_collector):
    model = models.cifar10_cnn().to("cuda")
    adam, pool = optim.Adam(model.parameters()), backend_for("cuda").xp.get_default_memory_pool()
    images, labels = minidl.randn(16, 3, 32, 32, device="cuda"), Tensor(np.arange(16) % 10)
    labels = labels.to("cuda")

    def step():
        loss = F.cross_entropy(model(images), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        loss.item()

    for _ in range(3):
        step()
    gc.collect()
    start = pool.used_bytes()
    for _ in range(100):
        step()
    assert pool.used_bytes() == start


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_are_cupys(dtype):
    backend = backend_for("cuda")
    assert backend._blas is not None, "cuBLAS was not found: products are left to CuPy"
    rng = np.random.default_rng(0)
    for shapes in (((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((1, 300, 70), (1, 70, 90))):
        a, b = (backend.from_numpy(rng.normal(size=s).astype(dtype)) for s in shapes)
        for x, y in ((a, b), (a.swapaxes(-1, -2).copy().swapaxes(-1, -2), b)):
            found, wanted = (backend.to_numpy(p) for p in (backend.product(x, y), x @ y))
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_tf32_changes_products_where_the_gpu_has_it():
    backend = backend_for("cuda")
    if int(backend.xp.cuda.Device().compute_capability) < 80:
        pytest.skip("TF32 came with compute capability 8.0")
    rng = np.random.default_rng(0)
    a, b = (backend.from_numpy(rng.normal(size=(512, 512)).astype("f")) for _ in range(2))
    exact = backend.to_numpy(backend.product(a, b))
    minidl.set_tf32(True)
    try:
        rounded = backend.to_numpy(backend.product(a, b))
    finally:
        minidl.set_tf32(False)
    assert 1e-4 < np.abs(rounded - exact).max() / np.abs(exact).max() < 1e-2
    np.testing.assert_array_equal(backend.to_numpy(backend.product(a, b)), exact)


def test_a_full_gpu_says_what_helps():
    free, _ = backend_for("cuda").xp.cuda.runtime.memGetInfo()
    with pytest.raises(MemoryError, match=r"the GPU is out of memory: .* use a smaller batch"):
        minidl.zeros(free // 4 + 2**28, device="cuda")


def test_python_m_minidl_describes_the_gpu():
    command = [sys.executable, "-m", "minidl"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in ("CuPy ", "driver", "GPU memory", "called directly"):
        assert name in printed
