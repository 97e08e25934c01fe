"""Find MPI, and the launcher of this process. The only file that imports mpi4py."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

INSTALL = "pip install mpi4py mpich (from a clone of minidl: pip install -e '.[mpi]')"
LAUNCHERS = {  # environment variables that hold the number of processes
    "OMPI_COMM_WORLD_SIZE": "Open MPI's mpiexec",
    "PMI_SIZE": "an mpiexec of the MPICH family",
    "SLURM_STEP_NUM_TASKS": "srun",
}


def launched() -> tuple[str, int]:
    """Return this process's launcher, and how many it started; `("", 1)` if there is none."""
    for name, launcher in LAUNCHERS.items():
        count = os.environ.get(name, "")
        if count.isdecimal():
            return launcher, int(count)
    return "", 1


@functools.cache
def module() -> Any:
    """Import `mpi4py.MPI`, which starts MPI; return None if it is not installed.

    Raises:
        RuntimeError: a launcher started several processes, but mpi4py is missing, finds no MPI
            library, or uses another MPI than the launcher.
    """
    launcher, count = launched()
    if importlib.util.find_spec("mpi4py") is None:
        if count > 1:
            raise RuntimeError(
                f"distributed.world: {launcher} started {count} processes, but mpi4py is not "
                f"installed, so they cannot communicate; run: {INSTALL}"
            )
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        if count == 1:
            return None
        raise RuntimeError(
            f"distributed.world: mpi4py is installed, but finds no MPI library: {error}; run: "
            f"{INSTALL}"
        ) from error
    if count > 1 and MPI.COMM_WORLD.size == 1:
        library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
        raise RuntimeError(
            f"distributed.world: {launcher} started {count} processes, but mpi4py sees each of "
            f"them alone: it uses another MPI, {library}. Start with the mpiexec of that "
            f"library{_beside()}; on a cluster, build mpi4py with the cluster's MPI: pip install "
            "--no-binary=mpi4py --force-reinstall mpi4py"
        )
    return MPI


def mpiexec() -> str | None:
    """Return the `mpiexec` of this Python environment, else that on the PATH, else None."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def _beside() -> str:
    found = mpiexec()
    return f", perhaps {found}" if found else ""


def describe() -> list[tuple[str, str]]:
    """Return names and descriptions of what was found, for `python -m minidl`."""
    if importlib.util.find_spec("mpi4py") is None:
        return [("MPI", f"not installed; for several processes, {INSTALL}")]
    try:
        found = module()
    except RuntimeError as error:
        return [("MPI", str(error))]
    if found is None:
        return [("MPI", f"mpi4py is installed, but finds no MPI library; {INSTALL}")]
    import mpi4py

    library = " ".join(found.Get_library_version().split("\n")[0].strip("\0 ").split())
    return [
        ("MPI", f"mpi4py {mpi4py.__version__}, {library}"),
        ("mpiexec", mpiexec() or "not found on the PATH"),
    ]
