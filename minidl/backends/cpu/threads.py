"""Threads of the CPU backend: share slices of work among cores, with BLAS on one thread."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from typing import Any, Self

import numpy as np

from minidl.backends.cpu.machine import cores
from minidl.backends.cpu.machine import quota as quota


class _Thread(threading.local):
    is_worker = False


POLL = 2e-4
"""Seconds after which a thread that waits for another looks for slices to take."""

current = _Thread()
prepared: ContextVar[dict[Any, Any] | None] = ContextVar("prepared", default=None)
"""What the slices of one piece of work have computed from arrays that they share."""

_threads: list[int] = []  # the number set; empty: the default


def set_num_threads(n: int) -> None:
    """Set the number of threads of the CPU kernels; results do not depend on it.

    The default is the first positive number among the environment variables `MINIDL_NUM_THREADS`,
    `OMP_NUM_THREADS`, `OPENBLAS_NUM_THREADS` and `MKL_NUM_THREADS`; otherwise, one for each core
    that this process may use, given its CPU affinity and the CPU quota of its container.

    Work is cut into slices of about 2 MiB, for any number of threads and on any machine. The
    environment variable `MINIDL_CACHE_BYTES`, read at import, sets another size; sums over a batch
    are then rounded differently.

    Args:
        n: an integer >= 1.

    Raises:
        ValueError: `n` is not an integer >= 1.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"set_num_threads: got {n!r}, expected an integer >= 1")
    with _making:
        if _jobs.cache_info().currsize:
            jobs, threads = _jobs()
            for _ in range(threads):
                jobs.put(None)
        _jobs.cache_clear()
        _threads[:] = [int(n)]


def get_num_threads() -> int:
    """Return how many threads the CPU kernels use."""
    if _threads:
        return _threads[0]
    return _asked() or cores()


def share_machine(n: int) -> None:
    """Use `n` threads, and let BLAS use as many, unless a program or the environment chose."""
    if _threads or _asked():
        return
    set_num_threads(n)
    blas().limit(n)


@functools.cache  # as other libraries do, read the environment once
def _asked() -> int | None:
    """Return the number of threads that the environment asks for, if any."""
    for name in ("MINIDL", "OMP", "OPENBLAS", "MKL"):
        text = os.environ.get(f"{name}_NUM_THREADS", "").partition(",")[0].strip().lstrip("0")
        if text.isdecimal() and len(text) < 5:
            return int(text)
    return None


def share(parts: Sequence[slice], work: Callable[[slice], None]) -> None:
    """Run `work` on every slice, on all threads including this one."""
    left = list(parts)[::-1]  # pop() is thread-safe; in free-threaded Python, next() is not

    def drain() -> None:
        while left:
            try:
                part = left.pop()
            except IndexError:  # another thread was faster
                return
            work(part)

    with _making:
        jobs, threads = _jobs()
    offers = [_Offer(drain) for _ in parts[1 : threads + 1]]  # at most one for each other thread
    try:
        for offer in offers:
            jobs.put(offer)
        current.is_worker = True
        drain()
    finally:
        current.is_worker = False
        for offer in offers:  # a helper may still write into the caller's arrays
            offer.close(jobs)
    for offer in offers:
        if offer.error is not None:
            raise offer.error


def side_by_side(is_large: bool, *works: Callable[[], Any]) -> list[Any]:
    """Run each piece of work on its own thread, instead of splitting one after the other.

    The calling thread runs the first piece. Whoever finishes early takes slices of the other's.
    Waking a thread takes 125 microseconds, so small
    pieces run one after the other.

    Args:
        is_large: whether each piece takes much longer than that.
        works: pieces that do not depend on each other.

    Returns:
        The results, in order.
    """
    if not is_large or get_num_threads() == 1 or current.is_worker:
        return [work() for work in works]
    results: dict[int, Any] = {}

    def work(part: slice) -> None:
        current.is_worker = False  # so that helpers can take its slices
        try:
            results[part.start] = works[part.start]()
        finally:
            current.is_worker = True

    with blas().single_threaded():
        share([slice(i, i + 1) for i in range(len(works))], work)
    return [results[i] for i in range(len(works))]


class _Offer:
    """A task that a helper may claim until the caller withdraws it.

    So the caller never waits for a helper to wake up. An empty call takes 2 microseconds instead of
    114 with a ThreadPoolExecutor; a step of the CIFAR-10 CNN makes about 40 calls.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        # In a copy of this context, which holds NumPy's error state.
        self.work: Callable[[], None] | None = functools.partial(copy_context().run, work)
        self.error: BaseException | None = None
        self.taken, self.done = threading.Lock(), threading.Lock()
        self.done.acquire()

    def take(self) -> None:
        if self.taken.acquire(blocking=False) and self.work is not None:
            try:
                self.work()
            except BaseException as error:  # raised in the calling thread
                self.error = error
            finally:
                self.done.release()

    def close(self, jobs: queue.SimpleQueue[_Offer | None]) -> None:
        """Withdraw the offer, or wait for the helper, taking slices that it offers meanwhile."""
        if not self.taken.acquire(blocking=False):
            while not self.done.acquire(timeout=POLL):
                _help(jobs)
        self.work = None  # it holds arrays, and this offer may stay in the queue for long


def _help(jobs: queue.SimpleQueue[_Offer | None]) -> None:
    """Take one job, if there is any, as a helper would."""
    with contextlib.suppress(queue.Empty):
        job = jobs.get_nowait()
        if job is None:  # tells a helper to stop, not this thread
            jobs.put(None)
            return
        before, current.is_worker = current.is_worker, True
        try:
            job.take()
        finally:
            current.is_worker = before


@functools.cache
def _jobs() -> tuple[queue.SimpleQueue[_Offer | None], int]:
    """Return the work queue of the helper threads, and how many helpers there are."""
    jobs: queue.SimpleQueue[_Offer | None] = queue.SimpleQueue()
    threads = get_num_threads() - 1

    def serve() -> None:
        current.is_worker = True
        while (job := jobs.get()) is not None:
            job.take()

    for number in range(threads):
        threading.Thread(target=serve, name=f"minidl-{number}", daemon=True).start()
    return jobs, threads


_making = threading.Lock()  # or two threads could each create a queue, or limit BLAS


class _Blas:
    """Limits BLAS to one thread while any batch is being processed.

    The first user sets the limit, and the last restores the number that BLAS reported at the start:
    while another thread multiplies matrices, OpenBLAS can report 1 although it was just set to 2.
    """

    def __init__(self) -> None:
        found: list[Any] = []
        with contextlib.suppress(ImportError):  # some builds of Python have no ctypes
            controller = importlib.import_module("threadpoolctl").ThreadpoolController()
            found = controller.select(user_api="blas").lib_controllers
        # threadpoolctl binds the limit to one thread; several threads may train here, so a lock
        # serialises changes.
        self.libraries = [
            (getattr(library, "_real_set_num_threads", library.set_num_threads), before)
            for library in found
            if (before := library.get_num_threads())
        ]
        # OpenBLAS's kernels for AVX2: AVX-512 and other libraries have faster small products.
        names = {str(getattr(library, "architecture", "")).lower() for library in found}
        self.is_narrow = not names.isdisjoint({"haswell", "zen"})
        self.lock, self.users = threading.Lock(), 0

    def limit(self, n: int) -> None:
        """Let BLAS use at most `n` threads from now on."""
        with self.lock:
            self.libraries = [(set_threads, min(n, most)) for set_threads, most in self.libraries]
            self.apply()

    def single_threaded(self) -> Self:
        """Limit BLAS to one thread within a `with` statement: 3 microseconds, as a generator 5."""
        return self

    def __enter__(self) -> None:
        is_user = False
        try:
            with self.lock:
                self.users += 1
                is_user = True
                self.apply()
        except BaseException:  # Ctrl-C, for example
            if is_user:
                self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.users -= 1
            self.apply()

    def apply(self) -> None:
        """Set the number of threads that the present users allow."""
        for set_threads, threads in self.libraries:
            set_threads(1 if self.users else threads)


_blas = functools.cache(_Blas)  # finding the library takes milliseconds, a call microseconds


def blas() -> _Blas:
    """Return the one object that limits BLAS; a second would save the first one's limit of 1."""
    with _making:
        return _blas()


def _start_afresh() -> None:
    """After a fork, reset the thread pool and its locks: the child has no helper threads."""
    global _making
    _making = threading.Lock()
    _jobs.cache_clear()
    current.is_worker = False
    memory.give_back()
    if _blas.cache_info().currsize:
        held = _blas()
        held.lock, held.users = threading.Lock(), 0
        held.apply()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)


class _Memory:
    """Keeps freed memory for the next arrays while kernels run; glibc only.

    A training step frees and allocates the same large arrays again and again. By default glibc
    returns them to the system, which must clear each page again: 9,000 pages per step of the
    CIFAR-10 CNN, and 33,000 per step of ResNet-20. With freed memory kept, a step of the CNN takes
    42 ms instead of 57 (2 cores, median of 40). When no kernel has run for `idle` seconds, all
    unused memory is returned.
    """

    idle = 2.0
    is_used = is_kept = False

    def keep(self) -> None:
        """Keep up to 1 GiB of freed memory, until this has not been called for `idle` seconds."""
        self.is_used = True
        if not self.is_kept and _set_thresholds(2**30, 2**30):
            self.is_kept = True
            with contextlib.suppress(RuntimeError):  # threads cannot start while Python shuts down
                threading.Thread(target=self._watch, name="minidl-memory", daemon=True).start()

    def _watch(self) -> None:
        while self.is_used:
            self.is_used = False
            time.sleep(self.idle)
        self.give_back()

    def give_back(self) -> None:
        """Return unused memory; from now on use the limits that glibc sets after freeing 32 MiB."""
        if self.is_kept:
            self.is_kept = False
            _set_thresholds(2**26, 2**25)
            _libc().malloc_trim(0)


memory = _Memory()


@functools.cache
def _libc() -> Any:
    """Return glibc, or None on systems with another C library."""
    try:
        libc = importlib.import_module("ctypes").CDLL(None)
        return libc if libc.mallopt and libc.malloc_trim else None
    except (AttributeError, ImportError, OSError, TypeError):
        return None


def _set_thresholds(trim: int, mmap: int) -> bool:
    """Set how much free memory is kept, and the size from which arrays are returned at once."""
    libc, trim_threshold, mmap_threshold = _libc(), -1, -3  # from malloc.h
    if libc is None:
        return False
    if not libc.mallopt(mmap_threshold, mmap):
        libc.mallopt(mmap_threshold, 2**25)  # the most that glibc accepted before version 2.35
    return bool(libc.mallopt(trim_threshold, trim))
