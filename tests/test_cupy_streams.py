"""The order in which the CuPy backend uses streams, events and graphs, noted by a fake CUDA.

What CUDA does with them is not tested here, but in `test_gpu.py`.
"""

from __future__ import annotations

import contextlib
import types

import numpy as np
import pytest

from minidl.backends.cuda.cupy_backend import CupyBackend


class Cuda:
    """CuPy's `cuda` module, as far as it is used: every call is noted."""

    def __init__(self):
        self.calls, self.streams = [], []
        self.current = [self.Stream(self, "main")]
        self.fails_at_end = False

    class Stream:
        def __init__(self, cuda, name):
            self.cuda, self.name, self.ptr = cuda, name, 7

        def note(self, what):
            self.cuda.calls.append(f"{self.name}: {what}")

        def record(self):
            self.note("record")
            return f"event of {self.name}"

        def wait_event(self, event):
            self.note(f"wait for {event}")

        def begin_capture(self):
            self.note("begin")

        def end_capture(self):
            self.note("end")
            if self.cuda.fails_at_end:
                raise RuntimeError("cudaErrorStreamCaptureInvalidated")
            return types.SimpleNamespace(launch=lambda: self.cuda.calls.append("launch"))

        def __enter__(self):
            self.cuda.current.append(self)

        def __exit__(self, *_):
            self.cuda.current.pop()

    def make_stream(self, non_blocking):
        assert non_blocking, "CUDA captures no other, and copies would wait for all work"
        self.streams.append(self.Stream(self, f"side {len(self.streams)}"))
        return self.streams[-1]

    @contextlib.contextmanager
    def using_allocator(self, allocate):
        self.calls.append(f"memory of {allocate}")
        yield
        self.calls.append("memory as before")


@pytest.fixture
def cuda():
    return Cuda()


@pytest.fixture
def backend(cuda):
    class Array(np.ndarray):
        def copy(self, *_, **__):
            cuda.current[-1].note("copy on")
            return np.array(self)

    def asarray(array):
        cuda.current[-1].note("copy here")
        return np.array(array).view(Array)

    module = types.SimpleNamespace(
        Stream=cuda.make_stream,
        MemoryPool=lambda: types.SimpleNamespace(malloc="a pool of its own"),
        get_current_stream=lambda: cuda.current[-1],
        get_allocator=lambda: "the memory around",
        using_allocator=cuda.using_allocator,
    )
    names = {name: getattr(np, name) for name in ("empty", "zeros", "full", "stack")}
    xp = types.SimpleNamespace(cuda=module, asarray=asarray, asnumpy=np.array, **names)
    return CupyBackend(xp, launch=lambda *_: None)


def test_batches_are_copied_beside_the_work_and_taken_when_they_are_here(backend, cuda):
    first, second = backend.send(np.ones(2)), backend.send(np.zeros(3))
    assert cuda.calls == [
        *["side 0: copy here", "side 0: record", "side 0: copy here", "side 0: record"]
    ]
    cuda.calls.clear()
    assert first().tolist() == [1, 1]
    taken = ["main: wait for event of side 0", "main: copy on", "main: record"]
    assert cuda.calls == taken
    backend.send(np.ones(1))
    assert cuda.calls[3:] == [
        # What was taken may still be being read from the memory that this copy now gets.
        *["side 0: wait for event of main", "side 0: copy here", "side 0: record"]
    ]
    assert second().tolist() == [0, 0, 0]


def test_work_is_captured_in_a_stream_and_with_memory_of_its_own(backend, cuda):
    made = iter([np.array([1.0]), np.array([2.0])])
    seen = []

    def work():
        cuda.current[-1].note("work")
        assert backend._workspace is not None
        seen.append(backend.fresh(lambda: next(made)))

    repeat = backend.record(work)
    assert cuda.calls == [
        *["main: record", "side 0: wait for event of main", "memory of a pool of its own"],
        *["side 0: begin", "side 0: work"],
        # What the host writes before each launch must be no memory that the graph writes to.
        *["memory of the memory around", "memory as before"],
        *["side 0: end", "memory as before"],
        *["main: copy here", "launch"],
    ]
    assert seen[0].tolist() == [1]
    cuda.calls.clear()
    repeat()
    assert cuda.calls == ["main: copy here", "launch"]
    assert seen[0].tolist() == [2]
    assert backend._workspace is backend._outside is None


def test_a_capture_that_fails_ends_and_says_why(backend, cuda):
    cuda.fails_at_end, undone = True, []

    def work():
        backend.fresh(lambda: np.ones(1), undo=lambda: undone.append(1))
        backend.fresh(lambda: np.ones(1), undo=lambda: undone.append(2))
        backend.number(np.ones(1))

    with pytest.raises(RuntimeError, match="the recorded work waits for a result on the host"):
        backend.record(work)
    assert cuda.calls[-1] == "side 0: end"
    assert undone == [2, 1]
    assert len(cuda.current) == 1
    backend.from_numpy(np.ones(1))  # no longer refused


def test_scratch_memory_is_limited_to_a_gibibyte(backend):
    parts = []
    backend.over_batch(10, (2**28,), np.uint8, parts.append)
    assert [(part.start, part.stop) for part in parts] == [(0, 4), (4, 8), (8, 10)]
    for n, wanted in ((3, [(0, 3)]), (0, [(0, 0)])):
        parts.clear()
        backend.over_batch(n, (1,), np.uint8, parts.append)
        assert [(part.start, part.stop) for part in parts] == wanted
    parts.clear()
    backend.over_batch(2, (2**40,), np.uint8, parts.append)
    assert [(part.start, part.stop) for part in parts] == [(0, 1), (1, 2)]
