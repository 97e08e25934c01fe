"""What is said where CuPy, the driver or the GPU is missing or broken: CuPy faked in each state."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import types

import numpy as np
import pytest

import minidl.__main__
from minidl.backends.cuda import setup


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


def fake_cupy(driver=13000, built=13000, gpus=1, fails=None, memory=1000, major=9):
    """Return a module that behaves as CuPy does with such a driver and so many GPUs."""
    state = {"allocator": None}

    def getDeviceCount():  # noqa: N802 - CUDA's name
        if gpus is None:
            raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return gpus

    def arange(count, dtype):
        if fails:
            raise fails
        return np.arange(count, dtype=dtype)

    def allocate(size):
        if size > memory:
            raise OutOfMemoryError("Out of memory allocating")
        return size

    runtime = types.SimpleNamespace(
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: built,
        getDeviceCount=getDeviceCount,
        getDeviceProperties=lambda _: {"name": b"Fake GPU", "major": major, "minor": 0},
        memGetInfo=lambda: (2**20 * 3, 2**20 * 8),
        CUDARuntimeError=CUDARuntimeError,
    )
    cuda = types.SimpleNamespace(
        runtime=runtime,
        Device=lambda: types.SimpleNamespace(id=0),
        get_cublas_handle=lambda: 0,
        get_allocator=lambda: state["allocator"] or allocate,
        set_allocator=lambda function: state.update(allocator=function),
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    )
    pool = types.SimpleNamespace(used_bytes=lambda: 2**20 * 4)
    return types.SimpleNamespace(
        __version__="99", arange=arange, cuda=cuda, get_default_memory_pool=lambda: pool
    )


@pytest.fixture
def started(monkeypatch):
    """Return a function that starts CuPy again, as a given fake, with given packages installed."""

    def start(cupy, *packages):
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        found = [types.SimpleNamespace(metadata={"Name": name}) for name in ("numpy", *packages)]
        monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)
        monkeypatch.setattr(setup, "load_cupy", setup.load_cupy.__wrapped__)
        return setup.load_cupy()

    return start


@pytest.mark.parametrize(
    ("cupy", "packages", "said"),
    [
        (None, [], r"needs CuPy, which does not import: .*; install .*: pip install cupy-cuda13x"),
        (None, ["cupy-cuda12x"], r"does not import.*; cupy-cuda12x is installed but damaged; inst"),
        (
            fake_cupy(),
            ["cupy-cuda13x", "cupy"],
            r"cupy and cupy-cuda13x are installed, .*pip uninstall -y cupy cupy-cuda13x; then inst",
        ),
        (
            fake_cupy(driver=12040),
            ["cupy-cuda13x"],
            r"cupy-cuda13x is built for CUDA 13\.0, but the driver supports CUDA up to 12\.4; run: "
            r"pip uninstall -y cupy-cuda13x && pip install cupy-cuda12x; or install a newer driver",
        ),
        (fake_cupy(driver=0), [], r"CuPy 99 finds no NVIDIA driver; install .*--gpus all"),
        (fake_cupy(gpus=None), [], r"finds no GPU: cudaErrorNoDevice"),
        (fake_cupy(gpus=0), [], r"there is no GPU; does CUDA_VISIBLE_DEVICES hide it\?"),
        (fake_cupy(major=5), [], r"Fake GPU, has compute capability 5\.0, expected >= 6\.0"),
        (
            fake_cupy(fails=OSError("libnvrtc.so: cannot open")),
            ["cupy-cuda13x"],
            r"CuPy 99 is installed but cannot run a kernel: libnvrtc\.so: cannot open; remove it "
            r"with: pip uninstall -y cupy-cuda13x; then install .*pip install cupy-cuda13x",
        ),
    ],
    ids=[
        *("none", "damaged", "two", "old driver", "no driver", "no device", "hidden", "old GPU"),
        "no kernel",
    ],
)
def test_what_was_found_and_what_mends_it_is_said(started, cupy, packages, said):
    with pytest.raises(RuntimeError, match=said):
        started(cupy, *packages)


def test_a_driver_newer_than_cupy_is_fine(started):
    cupy = fake_cupy(driver=13010, built=12090)
    assert started(cupy, "cupy-cuda12x") is cupy


def test_a_full_gpu_says_how_full_it_is_and_what_helps():
    cupy = fake_cupy(memory=2**20)
    setup.explain_lack_of_memory(cupy)
    allocate = cupy.cuda.get_allocator()
    assert allocate(7) == 7
    with pytest.raises(
        MemoryError,
        match=r"GPU is out of memory: 5 MiB were requested, 3 of 8 MiB are free, and this "
        r"program's arrays hold 4; use a smaller batch",
    ):
        allocate(5 * 2**20)


def test_python_m_minidl_prints_what_there_is_and_what_is_wrong():
    command = [sys.executable, "-m", "minidl"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = [line.split("  ")[0] for line in printed.splitlines()]
    assert names[:6] == ["minidl", "Python", "NumPy", "BLAS", "threads", "CuPy packages"]
    assert np.__version__ in printed


def test_python_m_minidl_says_what_is_wrong_with_cupy(started, capsys):
    with pytest.raises(RuntimeError):
        started(fake_cupy(driver=12040), "cupy-cuda13x")
    minidl.__main__.main()
    assert (
        "not usable: device 'cuda': cupy-cuda13x is built for CUDA 13.0" in capsys.readouterr().out
    )


def test_python_m_minidl_describes_the_gpu(started, capsys):
    started(fake_cupy(driver=13010), "cupy-cuda13x")
    minidl.__main__.main()
    printed = capsys.readouterr().out
    for line in (
        *("CuPy packages  cupy-cuda13x", "CuPy           99, CUDA 13.0", "up to CUDA 13.1"),
        *("GPU            Fake GPU, compute capability 9.0", "0.0 of 0.0 GiB free", "TF32"),
    ):
        assert line in printed
