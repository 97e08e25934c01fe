"""How many cores the CPU kernels may use, by folders made for the test; the size of slices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minidl.backends.cpu import machine

INF = float("inf")


def written(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write files below a folder, and return it."""
    root.mkdir(exist_ok=True)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


# Control groups


QUOTAS = {
    "version 2": ("0::/", {"cpu.max": "150000 100000\n"}, 1.5),
    "of a parent": (
        "0::/a.slice/b.service",
        {"a.slice/cpu.max": "200000 100000", "a.slice/b.service/cpu.max": "max 100000"},
        2,
    ),
    "the least": ("0::/a/b", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "3 1"}, 0.5),
    "the least, of the inner": ("0::/a/b", {"a/cpu.max": "4 1", "a/b/cpu.max": "3 1"}, 3),
    "of the container, which has another path outside": (
        "0::/system.slice/docker-1.scope",
        {"cpu.max": "300000 100000"},
        3,
    ),
    "none": ("0::/", {"cpu.max": "max 100000"}, INF),
    "of others": ("0::/a", {"b/cpu.max": "1 1", "a/b/cpu.max": "1 1"}, INF),
    "version 1": (
        "4:cpu,cpuacct:/docker/1\n1:name=systemd:/",
        {"cpu,cpuacct/cpu.cfs_quota_us": "300000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        3,
    ),
    "of a parent in 1": (
        "9:memory:/a/b\n4:cpu:/a/b\n",
        {
            "cpu/a/cpu.cfs_quota_us": "150000",
            "cpu/a/cpu.cfs_period_us": "100000",
            "cpu/a/b/cpu.cfs_quota_us": "-1",
            "cpu/a/b/cpu.cfs_period_us": "100000",
            "memory/a/b/cpu.cfs_quota_us": "1",
            "memory/a/b/cpu.cfs_period_us": "1",
        },
        1.5,
    ),
    "in 1, in another order than the folder's name": (
        "4:cpuacct,cpu:/a",
        {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "50000"},
        2,
    ),
    "both versions": (
        "1:cpu:/\n0::/a",
        {
            "cpu/cpu.cfs_quota_us": "-1",
            "cpu/cpu.cfs_period_us": "100000",
            "unified/a/cpu.max": "5 2",
        },
        2.5,
    ),
    "none in 1": ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "9"}, INF),
    "no cores": ("0::/", {"cpu.max": "0 100000"}, INF),
    "damaged": ("0::/", {"cpu.max": "much"}, INF),
    "no text in the quota": ("0::/", {"cpu.max": b"\xff\xfe 1"}, INF),
    "a period of 0": ("0::/", {"cpu.max": "1 0"}, INF),
    "more than a float holds": ("0::/", {"cpu.max": f"{'9' * 400} 1"}, INF),
    "more than an int is read from": ("0::/", {"cpu.max": f"{'9' * 5000} 1"}, INF),
    "no files": ("0::/x", {}, INF),
    "one line of others": ("what\n\n::\n0::/", {"cpu.max": "2 1"}, 2),
    "a path that is no text": (b"7:pids:/\xff\n0::/\xff", {"cpu.max": "2 1"}, 2),
    "a path that leads out": ("0::/../..", {"cpu.max": "2 1"}, 2),
    "a name that is too long": (f"0::/{'a' * 5000}", {"cpu.max": "2 1"}, 2),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_the_least_quota_of_all_groups_around_a_process_counts(name, tmp_path):
    own, files, quota = QUOTAS[name]
    groups = {f"sys/fs/cgroup/{file}": content for file, content in files.items()}
    assert machine._quota(written(tmp_path, {"proc/self/cgroup": own, **groups})) == quota


def test_where_there_are_no_control_groups_there_is_no_quota(tmp_path):
    assert machine._quota(tmp_path / "nowhere") == INF


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_a_process_bound_to_one_core_uses_one_thread():
    """As `taskset`, a batch system or a container's cpuset binds it."""
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import minidl
print(minidl.get_num_threads())
"""
    environment = {n: v for n, v in os.environ.items() if not n.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_without_an_affinity_mask_all_cores_count(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    assert list(machine._allowed()) == [0, 1, 2, 3, 4, 5]
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert list(machine._allowed()) == [0]

    def refuse(pid):
        raise PermissionError

    monkeypatch.setattr(os, "sched_getaffinity", refuse, raising=False)
    assert list(machine._allowed()) == [0]


# Slices


def test_the_environment_may_set_the_size_of_slices(monkeypatch):
    monkeypatch.delenv("MINIDL_CACHE_BYTES", raising=False)
    assert machine.slice_bytes(2**21) == 2**21
    for text, size in (("", 2**21), ("16384", 2**14), ("1048576", 2**20), ("1073741824", 2**30)):
        monkeypatch.setenv("MINIDL_CACHE_BYTES", text)
        assert machine.slice_bytes(2**21) == size


@pytest.mark.parametrize(
    "text", ["0", "-1", "16383", "1073741825", "1e6", "2 MiB", "²", "1_000_000", " ", "9" * 5000]
)
def test_other_sizes_of_slices_are_refused(text, monkeypatch):
    monkeypatch.setenv("MINIDL_CACHE_BYTES", text)
    with pytest.raises(
        ValueError, match=r"MINIDL_CACHE_BYTES='.*', expected an integer from 16384"
    ):
        machine.slice_bytes(2**21)


@pytest.mark.parametrize("size", ["1048576", "much"])
def test_the_size_of_slices_is_read_when_minidl_is_imported(size):
    code = "from minidl.backends.cpu import numpy_backend\nprint(numpy_backend.CACHE_BYTES)"
    environment = os.environ | {"MINIDL_CACHE_BYTES": size}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if size == "much":
        assert done.stderr.splitlines()[-1].startswith("ValueError: MINIDL_CACHE_BYTES='much'")
    else:
        assert done.stdout.split() == [size]
