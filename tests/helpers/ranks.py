"""Run a piece of code on several ranks, each a process that `mpiexec` starts."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from minidl.distributed.mpi import mpiexec

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
import sys
import numpy as np
import minidl
from minidl import Tensor, data, distributed, nn, optim, training
from minidl import functional as F
world = distributed.world(timeout=60)
"""


def mpi_is_there() -> str:
    """Return why tests with several ranks cannot run; "" if they can."""
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed: pip install -e '.[mpi]'"
    if mpiexec() is None:
        return "no mpiexec is on the PATH: pip install -e '.[mpi]'"
    return ""


needs_mpi = pytest.mark.skipif(bool(mpi_is_there()), reason=mpi_is_there() or "MPI is there")


@dataclasses.dataclass
class Ended:
    """What the ranks printed, and mpiexec's exit status."""

    code: int
    out: str
    err: str


def command(ranks: int, *program: str) -> list[str]:
    """Return the command that starts a program on several ranks."""
    found = mpiexec()
    assert found is not None
    return [found, "-n", str(ranks), sys.executable, *program]


def environment(**extra: str) -> dict[str, str]:
    """Return this environment without what an mpiexec around the tests has set."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PMI", "PMIX", "OMPI", "MPI_LOCAL", "HYDI", "HYDRA"))
    }
    # A Python process starts to measure what it runs if this variable names a configuration.
    if "coverage" in sys.modules and sys.modules["coverage"].Coverage.current() is not None:
        kept |= {"COVERAGE_PROCESS_START": str(ROOT / "pyproject.toml")}
        kept |= {"COVERAGE_FILE": str(ROOT / ".coverage")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": path, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"} | extra


def run_ranks(
    ranks: int, code: str, *, seconds: float = 120, fails: bool = False, **extra: str
) -> Ended:
    """Run code, after `HEAD`, on several ranks; fail if it hangs, or fails without `fails`.

    Args:
        ranks: how many.
        code: may use the names that `HEAD` imports, and `world`.
        seconds: after which it counts as hanging.
        fails: whether an exit status other than 0 is expected.
        extra: environment variables.
    """
    program = HEAD + textwrap.dedent(code)
    try:
        done = subprocess.run(
            command(ranks, "-W", "error", "-c", program),
            env=environment(**extra),
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"{ranks} ranks hang: {error.stdout!r} {error.stderr!r}") from error
    assert fails or done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert not fails or done.returncode != 0, done.stdout
    return Ended(done.returncode, done.stdout, done.stderr)
