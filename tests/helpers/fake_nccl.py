"""A device whose ranks communicate by a fake NCCL: through MPI, and as late as NCCL may.

What NCCL is asked for waits in the queue of its stream, and is done only when another stream waits
for an event after it: where the code forgets to wait, results are wrong. Arrays are guarded ones.
"""

from __future__ import annotations

import ctypes
import types
from typing import Any

import numpy as np

from minidl import backends
from minidl.backends.cuda import nccl

from .guarded import GuardedArray, GuardedBackend, _Namespace


class Event:
    def __init__(self, stream: Stream) -> None:
        self._stream, self._place = stream, stream.asked

    @property
    def done(self) -> bool:
        return self._stream.finished >= self._place

    def happen(self) -> None:
        self._stream.run(self._place)


class Stream:
    def __init__(self, non_blocking: bool = False) -> None:
        assert non_blocking or not streams, "it would wait for the kernels"
        self.queue: list[Any] = []
        self.asked = self.finished = 0
        self.ptr = len(streams)
        streams.append(self)

    def put(self, work: Any) -> None:
        self.queue.append(work)
        self.asked += 1

    def run(self, place: int) -> None:
        while self.finished < place:
            self.finished += 1
            self.queue.pop(0)()

    def record(self) -> Event:
        return Event(self)

    def wait_event(self, event: Event) -> None:
        waits.append((self.ptr, event._stream.ptr))
        event.happen()


streams: list[Stream] = []
waits: list[tuple[int, int]] = []
"""Which stream waited for which."""

MAIN = Stream()


class Fake:
    """CuPy's module for NCCL. The attributes choose what fails, on this rank."""

    NCCL_FLOAT32, NCCL_FLOAT64, NCCL_SUM = np.float32, np.float64, "sum"

    def __init__(self, available: bool = True, no_key: bool = False, broken: bool = False) -> None:
        self.available, self._no_key, self._broken = available, no_key, broken
        self.calls: list[str] = []

    def get_unique_id(self) -> tuple[int, ...]:
        if self._no_key:
            raise RuntimeError("NCCL_ERROR_SYSTEM_ERROR: no network")
        return tuple(range(-64, 64))

    def NcclCommunicator(self, size: int, key: Any, rank: int) -> Any:  # noqa: N802 - CuPy's name
        from mpi4py import MPI

        assert key == tuple(range(-64, 64))  # NCCL compares it; and CuPy takes tuples only
        comm = MPI.COMM_WORLD.Dup()
        assert (comm.size, comm.rank) == (size, rank)
        if self._broken:
            raise RuntimeError("NCCL_ERROR_INVALID_USAGE: broken")

        def collective(name: str, work: Any) -> Any:
            def call(
                source: int, target: int, count: int, kind: Any, choice: Any, ptr: int
            ) -> None:
                assert (source, ptr) == (target, streams[1].ptr)
                nbytes = count * np.dtype(kind).itemsize
                memory = (ctypes.c_char * nbytes).from_address(target)
                self.calls.append(name)
                streams[ptr].put(lambda: work(np.frombuffer(memory, kind), choice))

            return call

        def add(values: np.ndarray, choice: str) -> None:
            assert choice == "sum"
            comm.Allreduce(MPI.IN_PLACE, values)

        return types.SimpleNamespace(
            allReduce=collective("sum", add), broadcast=collective("broadcast", comm.Bcast)
        )


class Backend(GuardedBackend):
    """A guarded device with a GPU's name, streams and NCCL."""

    def __init__(self, fake: Fake, gpu: str) -> None:
        super().__init__()
        self.fake = fake
        self.xp = _Namespace()
        self.xp.cuda = types.SimpleNamespace(
            Stream=Stream,
            get_current_stream=lambda: MAIN,
            Device=lambda: types.SimpleNamespace(pci_bus_id=gpu),
        )

    def connect(self, ranks: Any) -> Any:
        return nccl.connected(self, self.fake, ranks)

    def _address(self, array: GuardedArray) -> int:
        assert array.flags.c_contiguous
        return int(array._array.ctypes.data)


def use(fake: Fake, gpu: str) -> Backend:
    """Let guarded arrays belong to such a device."""
    made = Backend(fake, gpu)
    backends.register(GuardedArray, made)
    return made
