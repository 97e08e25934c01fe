"""Locks between processes and threads."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time

import pytest

from minidl.files.locks import folder_lock


def _hold(folder, held):
    with folder_lock(folder, "child"):
        held.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """Start another process that holds the lock."""
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held))
    process.start()
    assert held.wait(60)
    yield process
    process.kill()
    process.join()


def test_another_process_is_kept_out_and_named(holder, tmp_path):
    with (
        pytest.raises(BlockingIOError, match=r"^fit: another process or thread uses .*; wait for"),
        folder_lock(tmp_path, "fit"),
    ):
        pass


def test_a_killed_process_leaves_nothing_that_blocks(holder, tmp_path):
    os.kill(holder.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    holder.join()
    with folder_lock(tmp_path, "fit"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_thread_at_a_time_holds_a_lock(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(20):
            with folder_lock(tmp_path / "new", "work", wait=-1):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80
    assert list((tmp_path / "new").iterdir()) == []


def test_the_same_thread_is_told_and_not_left_waiting_for_itself(tmp_path):
    with (
        folder_lock(tmp_path, "fit"),
        pytest.raises(BlockingIOError, match="second"),
        folder_lock(tmp_path, "second"),
    ):
        pass


def test_locks_of_other_names_are_others(tmp_path):
    with folder_lock(tmp_path, "a", name="a.lock"), folder_lock(tmp_path, "b", name="b.lock"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_releases_the_lock(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), folder_lock(tmp_path, "fit"):
            raise KeyError


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path):
    (tmp_path / "foreign").write_text("content")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".lock").symlink_to(tmp_path / "foreign")
    with pytest.raises(OSError, match=r"\.lock"), folder_lock(tmp_path / "folder", "fit"):
        pass
    assert (tmp_path / "foreign").read_text() == "content"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError]
)
def test_a_file_system_without_locks_is_reported(error, tmp_path, monkeypatch):
    filelock = pytest.importorskip("filelock")

    def refuse(_):
        raise error

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    with (
        pytest.warns(UserWarning, match=r"fit: the file system of .* has no locks"),
        folder_lock(tmp_path, "fit"),
    ):
        entered = True
    assert entered
