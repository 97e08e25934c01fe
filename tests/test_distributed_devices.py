"""Ranks with arrays on devices: through the host, and by a fake NCCL. Nothing here needs a GPU."""

from __future__ import annotations

import contextlib
import types
from typing import ClassVar

import numpy as np
import pytest

from minidl.backends.cuda import nccl, setup

from .helpers.ranks import needs_mpi, run_ranks

TRAIN = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 5, sparse=True)
        self.norm, self.out = nn.BatchNorm1d(5, world=world), nn.Linear(5, 3)
    def forward(self, words):
        return self.out(self.norm(self.words(words).mean(1)))

def trained(device, steps=3):
    minidl.manual_seed(world.rank)
    model = Net().to(device, np.float64)
    parallel = distributed.DataParallel(model, world, bucket=64)
    optimizer = distributed.ShardedOptimizer(optim.Adam(model.parameters(), lr=0.1), world)
    rng = np.random.default_rng(0)
    for n in (5, 4, 3)[:steps]:
        words, labels = rng.integers(0, 11, (n, 2)), rng.integers(0, 3, n)
        part = np.array_split(np.arange(n), world.size)[world.rank]
        words, labels = (Tensor(a[part], device=device) for a in (words, labels))
        loss = world.mean(F.cross_entropy(model(words), labels), len(part))
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    state = optimizer.state_dict()["state"]
    return [
        *(p.numpy() for p in model.parameters()), *(b.numpy() for _, b in model.named_buffers()),
        *(a for entries in state.values() for n, a in entries.items() if n != "step"), loss.item(),
    ]

def check_trained(device):
    for one, other in zip(trained("cpu"), trained(device), strict=True):
        assert np.allclose(one, other, rtol=1e-12, atol=1e-12)
"""


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_device_communicates_through_the_host(ranks):
    run_ranks(
        ranks,
        TRAIN
        + """
from tests.helpers import guarded
r, n = world.rank, world.size
x = Tensor([float(r), 2.0], device="guarded", requires_grad=True)
total = world.all_reduce(x)
assert total.device == "guarded" and total.numpy().tolist() == [n * (n - 1) / 2, 2.0 * n]
(total * total).sum().backward()
assert np.allclose(x.grad.numpy(), 2 * n * total.numpy())
assert world.all_reduce({"a": [x.detach()]}, "max")["a"][0].numpy().tolist() == [n - 1, 2]
assert [t.device for t in world.all_gather(x.detach())] == ["guarded"] * n
assert world.broadcast(x.detach(), 1).numpy().tolist() == [1.0, 2.0]
assert world.mean(x, r).numpy().tolist()[1] == 2
check_trained("guarded")
""",
    )


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_nccl_sums_and_sends_without_the_host(ranks):
    run_ranks(
        ranks,
        TRAIN
        + """
from tests.helpers import fake_nccl
fake = fake_nccl.Fake()
backend = fake_nccl.use(fake, f"GPU {world.rank}")
check_trained("guarded")
steps, buckets, parameters = 3, 2, 5  # at least; some parameters have two parts
assert fake.calls.count("sum") >= steps * buckets
assert fake.calls.count("broadcast") >= steps * parameters
side = fake_nccl.streams[1].ptr
assert (side, fake_nccl.MAIN.ptr) in fake_nccl.waits and len(fake_nccl.streams) == 2
# What NCCL sums is not copied to the host.
array = backend.from_numpy(np.full((2, 3), float(world.rank)))
before = backend.to_host
pending = world.start_sum(array)
assert not pending.test() and backend.to_numpy(array).tolist() == [[world.rank] * 3] * 2
pending.wait("a sum")
assert pending.test() and backend.to_host == before + 1
assert backend.to_numpy(array).tolist() == [[sum(range(world.size))] * 3] * 2
# A recording would communicate again without the other ranks.
try:
    backend.record(lambda: world.start_sum(array))
    raise AssertionError
except RuntimeError as error:
    assert "the recorded work communicates with other ranks" in str(error)
""",
    )


@needs_mpi
@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_ranks_on_gpus_get_the_weights_of_ranks_on_the_cpu():
    run_ranks(
        2,
        TRAIN
        + """
import warnings
from minidl.backends.cuda import setup
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    check_trained("cuda")
enough = setup.load_cupy().cuda.runtime.getDeviceCount() >= world.size
said = [str(w.message) for w in found]
assert len(said) == (world.rank == 0 and not enough), said
""",
    )


@needs_mpi
def test_two_models_have_one_order_of_sums_by_nccl():
    run_ranks(
        2,
        """
from tests.helpers import fake_nccl
fake = fake_nccl.Fake()
fake_nccl.use(fake, f"GPU {world.rank}")
models = [nn.Linear(3, size, bias=False).to("guarded") for size in (1, 2)]
parallels = [distributed.DataParallel(model, world) for model in models]
x = Tensor(np.ones((1, 3), np.float32), device="guarded")
for turn in range(2):
    # The first model's gradient comes last on rank 0, and not at all on rank 1.
    outputs = models[1](x)
    loss = (models[0](x) * 2 + outputs).sum() if world.rank == 0 else outputs.sum()
    for model in models: model.zero_grad()
    world.total(loss).backward()
    assert models[0].weight.grad.numpy().tolist() == [[4.0] * 3]
    assert models[1].weight.grad.numpy().tolist() == [[2.0] * 3] * 2
assert fake.calls == ["sum"] * 4
""",
    )


@needs_mpi
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("available=world.rank != 1", "CuPy finds no NCCL library: pip install nvidia-nccl"),
        ("available=world.rank != 0", "CuPy finds no NCCL library: pip install nvidia-nccl"),
        ("no_key=True", "NCCL failed: NCCL_ERROR_SYSTEM_ERROR: no network; the environment"),
        ("broken=world.rank == 1", "NCCL failed: NCCL_ERROR_INVALID_USAGE: broken; the env"),
        ("", "several ranks use GPU same of .*: start at most as many ranks as there are GPUs"),
    ],
)
def test_without_nccl_on_one_rank_all_go_through_the_host_and_rank_0_warns(options, reason):
    run_ranks(
        2,
        TRAIN
        + f"""
import re, warnings
from tests.helpers import fake_nccl
fake = fake_nccl.Fake({options})
fake_nccl.use(fake, "same" if {not options} else str(world.rank))
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    check_trained("guarded")
said = [str(w.message) for w in found]
assert len(said) == (world.rank == 0), said
assert not said or re.search({reason!r}, said[0]), said
assert not fake.calls
""",
    )


class Device:
    """CuPy's `Device`, which notes what is used."""

    used: ClassVar[list[str]] = []

    def __init__(self, number=0):
        self.id, self.pci_bus_id = number, f"0000:{number}"

    def use(self):
        self.used.append(f"use {self.id}")

    def __enter__(self):
        self.used.append(f"enter {self.id}")

    def __exit__(self, *_):
        self.used.append(f"leave {self.id}")


@pytest.fixture
def cupy(monkeypatch):
    monkeypatch.setattr(setup.choices, "local_rank", None)
    monkeypatch.setattr(Device, "used", [])
    runtime = types.SimpleNamespace(
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
        getDeviceCount=lambda: 2,
        getDeviceProperties=lambda _: {"name": b"Fake", "major": 9, "minor": 0},
        CUDARuntimeError=RuntimeError,
    )
    return types.SimpleNamespace(
        __version__="99", cuda=types.SimpleNamespace(Device=Device, runtime=runtime)
    )


def test_ranks_take_turns_with_the_gpus(cupy, monkeypatch):
    setup.check_driver(cupy, [])
    assert isinstance(setup.own_gpu(cupy.cuda), contextlib.nullcontext)
    assert not Device.used, "a single process keeps the GPU that was chosen for it"
    setup.share_gpus(3)
    setup.check_driver(cupy, [])
    with setup.own_gpu(cupy.cuda):
        pass
    assert Device.used == ["use 1", "enter 1", "leave 1"]
    monkeypatch.setattr(setup, "_started", lambda: True)
    setup.share_gpus(0)
    assert setup.choices.local_rank == 3, "there may be arrays on that GPU"


def test_nccl_starts_after_the_kernels_and_the_next_ones_after_it():
    calls = []

    class Stream:
        def __init__(self, name="side", non_blocking=True):
            assert non_blocking
            self.name, self.ptr = name, 7

        def record(self):
            calls.append(f"{self.name}: record")
            return types.SimpleNamespace(name=self.name, done=False)

        def wait_event(self, event):
            calls.append(f"{self.name}: wait for {event.name}")

    main = Stream("main")
    cuda = types.SimpleNamespace(Stream=Stream, get_current_stream=lambda: main)
    backend = types.SimpleNamespace(
        xp=types.SimpleNamespace(cuda=cuda),
        _address=lambda array: 1234,
        _refuse_in_recording=lambda what: None,
    )
    library = types.SimpleNamespace(NCCL_FLOAT32=7, NCCL_FLOAT64=8, NCCL_SUM=0)
    communicator = types.SimpleNamespace(
        allReduce=lambda *arguments: calls.append(("allReduce", *arguments)),
        broadcast=lambda *arguments: calls.append(("broadcast", *arguments)),
    )
    own = nccl.Nccl(backend, library, communicator)
    first = own.start_sum(np.zeros((2, 3), np.float32))
    second = own.start_broadcast(np.zeros(4), 1)
    before = ["main: record", "side: wait for main"]
    assert calls == [
        *[*before, ("allReduce", 1234, 1234, 6, 7, 0, 7), "side: record"],
        *[*before, ("broadcast", 1234, 1234, 4, 8, 1, 7), "side: record"],
    ]
    calls.clear()
    assert not first.test()
    first.wait("")
    second.wait("")
    assert calls == ["main: wait for side"] * 2
