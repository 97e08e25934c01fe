"""Freed memory is kept for the next arrays while kernels run, and only then."""

import ctypes
import functools
import os
import subprocess
import sys
import threading

import pytest

from minidl.backends.cpu import threads

TRIM, MMAP = -1, -3  # from malloc.h
glibc = pytest.mark.skipif(threads._libc() is None, reason="needs glibc")


class Libc:
    """Notes what it is asked."""

    def __init__(self, largest=2**40):
        self.calls, self.largest = [], largest

    def mallopt(self, option, value):
        self.calls.append((option, value))
        return int(value <= self.largest)

    def malloc_trim(self, pad):
        self.calls.append("trim")
        return 1


@pytest.fixture
def libc(monkeypatch):
    for watcher in watchers():  # of kernels in earlier tests: it would call this one
        watcher.join()
    fake = Libc()
    monkeypatch.setattr(threads, "_libc", lambda: fake)
    return fake


def watchers():
    return [t for t in threading.enumerate() if t.name == "minidl-memory"]


def test_memory_is_kept_while_kernels_run_and_given_back_afterwards(libc, monkeypatch):
    memory, slept = threads._Memory(), []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) < 3:
            memory.keep()  # a kernel has run meanwhile

    monkeypatch.setattr(threads.time, "sleep", sleep)
    memory.keep()
    for watcher in watchers():
        watcher.join()
    assert len(slept) == 3
    assert libc.calls == [
        *[(MMAP, 2**30), (TRIM, 2**30)],
        *[(MMAP, 2**25), (TRIM, 2**26), "trim"],
    ]


def test_old_versions_of_glibc_get_the_largest_threshold_that_they_accept(libc):
    libc.largest = 2**25
    threads._set_thresholds(2**25, 2**30)
    assert libc.calls == [(MMAP, 2**30), (MMAP, 2**25), (TRIM, 2**25)]


@pytest.mark.parametrize("error", [TypeError, OSError, AttributeError, ImportError])
def test_other_systems_have_no_such_settings(error, monkeypatch):
    def load(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(threads, "_libc", functools.cache(threads._libc.__wrapped__))
    memory = threads._Memory()
    before = len(watchers())
    memory.keep()
    memory.give_back()
    assert not memory.is_kept
    assert len(watchers()) == before


def test_memory_is_kept_without_a_watcher_while_python_shuts_down(libc, monkeypatch):
    def start(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    threads._Memory().keep()


def rss(code):
    """Run code that may print resident MiB with `say()`; return what it prints."""
    head = """
import numpy as np, os, threading
def say(): print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20)
"""
    done = subprocess.run(
        [sys.executable, "-c", head + code], capture_output=True, text=True, check=True
    )
    return [int(line) for line in done.stdout.split()]


CHURN = """
arrays = [np.ones({size} << 20, np.uint8) for _ in range({count})]
say()
del arrays
say()
"""


@glibc
@pytest.mark.parametrize(("size", "count"), [(1, 200), (50, 4), (200, 1)])
def test_a_process_that_only_imports_minidl_gets_its_memory_back(size, count):
    before, peak, after = rss(f"import minidl\nsay(){CHURN.format(size=size, count=count)}")
    assert peak > before + 190
    assert after < before + 66


@glibc
def test_a_process_gets_its_memory_back_after_training():
    training = """
from minidl import models, optim
from minidl.backends.cpu import threads
from minidl.functional import cross_entropy
minidl.set_num_threads(2)
model = models.cifar10_cnn()
adam = optim.Adam(model.parameters())
say()
for _ in range(2):
    loss = cross_entropy(model(minidl.zeros(512, 3, 32, 32)), np.zeros(512, int))
    loss.backward()
    adam.step()
    adam.zero_grad()
del loss
say()
threads.memory.idle = 0
while (left := [t for t in threading.enumerate() if t.name == "minidl-memory"]):
    left[0].join()
say()
"""
    before, trained, idle, peak, after = rss(
        f"import minidl{training}{CHURN.format(size=1, count=200)}"
    )
    assert trained > before + 50  # kept for the next step
    assert idle < before + 40
    assert peak > idle + 190
    assert after < idle + 66


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_gives_memory_back_at_once(libc, monkeypatch):
    monkeypatch.setattr(threads.memory, "is_kept", True)
    threads._start_afresh()
    assert libc.calls[-1] == "trim"
    assert not threads.memory.is_kept
