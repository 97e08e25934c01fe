"""Ranks that fail, end early or differ: each with its message, none with a hang."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from minidl.distributed import DataParallel, mpi

from .helpers.ranks import environment, needs_mpi, run_ranks

TRAINING = """
import os, signal
model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
parallel = distributed.DataParallel(model, world)
x = Tensor(np.ones((4, 3), "f4"))

def failing(gradient):
    raise ValueError("inside backward")

for step in range(5):
    hidden = model[0](x)
    is_odd_one = world.rank == 1 and step == 2
    {before}
    world.mean(model[2](model[1](hidden)).sum(), 4).backward()
    {after}
"""


@needs_mpi
@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("if is_odd_one: hidden.register_hook(failing)", "", "rank 1 of 3 failed:"),
        ("", "if is_odd_one: break", "rank 1: the end of the program"),
        ("", "if is_odd_one: sys.exit(3)", "rank 1: the end of the program"),
        ("", "if is_odd_one: os.kill(os.getpid(), signal.SIGINT)", "rank 1 of 3 failed:"),
        ("", "if step == 2: model(x).sum().backward()", "share of the batch"),
        ("", "world.mean(model(x).sum(), 4).backward(create_graph=True)", "create_graph=True"),
        ("if is_odd_one: world.barrier()", "", "rank 1: barrier"),
        ("world.mean(x.sum(), -1 if is_odd_one else 1)", "", "got weight=-1"),
        ("world.mean(x.sum(), 0)", "", "got weight=0 on every rank"),
    ],
    ids=["error", "fewer", "exit", "ctrl-c", "no mean", "graph", "other call", "weight", "zeros"],
)
def test_a_rank_that_fails_ends_the_others(before, after, shown):
    code = TRAINING.format(before=before or "pass", after=after or "pass")
    done = run_ranks(3, code, fails=True, seconds=20)
    assert shown in done.err
    assert done.err.count("Traceback") == 1


@needs_mpi
def test_a_killed_rank_ends_the_others():
    code = TRAINING.format(
        before="pass", after="if is_odd_one: os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = run_ranks(3, code, fails=True, seconds=20)
    assert "Traceback" not in done.err


@needs_mpi
@pytest.mark.parametrize(
    ("model", "shown"),
    [
        (
            "nn.Linear(3, 4 + r)",
            "rank 1's model differs from rank 0's in 2 places: weight: float32",
        ),
        ("nn.Linear(3, 4, bias=not r)", "bias: None, not float32 (4,)"),
        ("nn.Linear(3, 4).to(dtype=np.float64 if r else None)", "float64 (4, 3), not float32"),
    ],
)
def test_models_that_differ(model, shown):
    code = f"r = world.rank\ndistributed.DataParallel({model}, world)"
    assert shown in run_ranks(2, code, fails=True, seconds=20).err


@needs_mpi
def test_a_model_that_is_gone_before_its_parameters():
    code = """
    layer = nn.Linear(3, 2)
    parallel = distributed.DataParallel(nn.Sequential(layer), world)
    world.mean(layer(minidl.ones((4, 3))).sum(), 4).backward()
    """
    done = run_ranks(2, code, fails=True, seconds=20)
    assert "its model no longer exists, but its parameters do" in done.err
    with pytest.raises(TypeError, match=r"DataParallel: got a int, expected an nn\.Module"):
        DataParallel(3)


@needs_mpi
def test_waiting_ends():
    code = """
    import time
    world = distributed.world(timeout=0.5)
    if world.rank:
        time.sleep(4)
    world.barrier()
    """
    done = run_ranks(2, code, fails=True, seconds=20)
    assert "barrier: the other ranks have not called it for 0 s" not in done.err
    assert "TimeoutError: barrier: the other ranks have not called it for 0.5 s" in done.err


@needs_mpi
@pytest.mark.parametrize("is_timeout", [True, False])
def test_a_rank_that_gave_up_makes_no_more_calls(is_timeout):
    """Its next calls would meet the others' last ones, and sum something else."""
    code = f"""
    import os, signal, threading, time
    if world.rank == 0:
        if {is_timeout}:
            distributed.world(timeout=0.3)
        else:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            world.barrier()
            raise AssertionError
        except (TimeoutError, KeyboardInterrupt):
            pass
        for _ in range(2):
            try:
                world.all_reduce(np.arange(3.0))
                raise AssertionError
            except RuntimeError as error:
                assert "this rank stopped waiting in barrier" in str(error)
        os._exit(3)
    distributed.world(timeout=5)
    time.sleep(1.5)
    world.barrier()
    world.all_reduce(np.arange(3.0))
    print("summed")
    """
    assert "summed" not in run_ranks(2, code, fails=True, seconds=20).out


@needs_mpi
def test_parameters_frozen_on_one_rank():
    code = TRAINING.format(
        before="model[0].weight.requires_grad_(not is_odd_one)", after="model.zero_grad()"
    ).replace("range(5)", "range(3)")
    done = run_ranks(3, code, fails=True, seconds=20)
    assert "ranks 0, 2: the end of a backward of DataParallel 1, with 4 parameters" in done.err
    assert "rank 1: the end of a backward of DataParallel 1, with 3 parameters" in done.err


@needs_mpi
def test_parameters_frozen_on_one_rank_do_not_mix_later_sums():
    """After the error is caught, sums of other sizes are left: no rank may complete them."""
    code = """
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    parallel = distributed.DataParallel(model, world, bucket=16)
    model[0].weight.requires_grad_(world.rank != 1)
    for _ in range(2):
        try:
            world.mean(model(Tensor(np.ones((4, 3), "f4"))).sum(), 4).backward()
        except ValueError as error:
            message = str(error)
    assert "the backward after one that failed, with buckets of" in message, message
    os_exit = __import__("os")._exit
    sys.stdout.write("refused\\n"); sys.stdout.flush(); os_exit(3)
    """
    assert "refused" in run_ranks(2, code, fails=True, seconds=20).out


def python(code, **extra):
    """Run code in one process, which an mpiexec may seem to have started."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=60,
    )


@needs_mpi
def test_two_mpis_that_are_mixed():
    done = python("import minidl; minidl.distributed.world()", OMPI_COMM_WORLD_SIZE="4")
    assert "Open MPI's mpiexec started 4 processes, but mpi4py sees each of" in done.stderr


HIDDEN = "import sys; sys.modules['mpi4py'] = None\nfrom minidl import distributed\n"


def test_several_processes_without_mpi4py():
    done = python(f"{HIDDEN}distributed.world()", PMI_SIZE="2")
    assert "started 2 processes, but mpi4py is not installed" in done.stderr
    assert "pip install mpi4py mpich" in done.stderr


def test_one_process_without_mpi4py():
    done = python(f"{HIDDEN}print(distributed.world(), distributed.mpi.describe())")
    assert "World(rank=0, size=1)" in done.stdout
    assert "not installed; for several processes, pip install" in done.stdout


def test_an_mpi4py_without_its_library(tmp_path):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("__version__ = '4'")
    (tmp_path / "mpi4py" / "MPI.py").write_text("raise RuntimeError('cannot load MPI library')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from minidl import distributed\n"
        "print(distributed.mpi.describe())\nprint(distributed.world())"
    )
    assert "finds no MPI library" in python(code).stdout
    assert "World(rank=0, size=1)" in python(code).stdout
    done = python(code, PMI_SIZE="2")
    assert "finds no MPI library: cannot load MPI library" in done.stderr


def test_no_mpiexec(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert mpi.mpiexec() is None
    (tmp_path / "mpiexec").touch(0o755)
    assert mpi.mpiexec() == os.fspath(tmp_path / "mpiexec")
