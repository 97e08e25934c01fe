"""Sums over ranks with NVIDIA's NCCL: from GPU to GPU, while the host and the kernels continue.

This has never run on a GPU. Tests check the arguments, and the order of streams and events, with a
fake NCCL, which communicates through MPI, and only when a stream waits for it. The calls follow
cupy_backends/cuda/libs/nccl.pyx, cupy/cuda/stream.pyx and NCCL's manual.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable
from typing import Any

from minidl.backends.base import Array
from minidl.backends.cuda.deferred import DeferringBackend

MISSING = "CuPy finds no NCCL library: pip install nvidia-nccl-cu13, or -cu12 for cupy-cuda12x"
SHARED = (
    "several ranks use {}: start at most as many ranks as there are GPUs, and call "
    "distributed.world() before anything uses 'cuda'"
)


class Nccl:
    """Sums and broadcasts with the other ranks' GPUs, in order, on a stream of their own.

    Args:
        backend: the backend of the arrays.
        nccl: the module `cupy.cuda.nccl`.
        communicator: an `NcclCommunicator`.
    """

    def __init__(self, backend: Any, nccl: Any, communicator: Any) -> None:
        self._backend, self._nccl, self._communicator = backend, nccl, communicator
        self._stream = backend.xp.cuda.Stream(non_blocking=True)

    def start_sum(self, array: Array, order: int = 0) -> Started:
        """Start to sum a contiguous array over ranks, in place; there is only one order."""
        return self._started(self._communicator.allReduce, array, self._nccl.NCCL_SUM)

    def start_broadcast(self, array: Array, source: int) -> Started:
        """Start to overwrite a contiguous array with that of one rank."""
        return self._started(self._communicator.broadcast, array, source)

    def _started(self, call: Any, array: Array, choice: int) -> Started:
        """Call NCCL, which begins when the current stream has done its work so far."""
        self._backend._refuse_in_recording("communicates with other ranks")
        cuda, where = self._backend.xp.cuda, self._backend._address(array)
        kind = getattr(self._nccl, f"NCCL_{array.dtype.name.upper()}")
        self._stream.wait_event(cuda.get_current_stream().record())
        call(where, where, array.size, kind, choice, self._stream.ptr)
        return Started(cuda, array, self._stream.record())


class Started:
    """Work of NCCL that may not be done yet.

    Args:
        cuda: the module `cupy.cuda`.
        array: the array that it changes; kept alive, so that its memory is not reused.
        event: recorded after the work.
    """

    def __init__(self, cuda: Any, array: Array, event: Any) -> None:
        self._cuda, self._array, self._event = cuda, array, event

    def test(self) -> bool:
        """Return whether it is done."""
        return bool(self._event.done)

    def wait(self, what: str) -> None:
        """Make the current stream wait for it; the host does not wait."""
        self._cuda.get_current_stream().wait_event(self._event)


def connected(backend: DeferringBackend, nccl: Any, ranks: Any) -> Nccl | None:
    """Connect the ranks' GPUs. If one rank cannot, all return None, and rank 0 warns."""
    key, problem = None, "" if nccl.available else MISSING
    if ranks.rank == 0 and nccl.available:
        key, problem = _tried(nccl.get_unique_id)
    gpu = f"GPU {backend.xp.cuda.Device().pci_bus_id} of {platform.node()}"
    problems, gpus, keys = zip(*ranks.all_gather([problem, gpu, key]), strict=True)
    if len(set(gpus)) < ranks.size and not any(problems):
        problems = (SHARED.format(next(gpu for gpu in gpus if gpus.count(gpu) > 1)),)
    if not any(problems):  # on all ranks: the communicator waits for the others
        communicator, problem = _tried(nccl.NcclCommunicator, ranks.size, keys[0], ranks.rank)
        problems = tuple(ranks.all_gather(problem))
    if not any(problems):
        return Nccl(backend, nccl, communicator)
    if ranks.rank == 0:
        reason = next(filter(None, problems))
        warnings.warn(f"distributed: sums go through the host, because {reason}", stacklevel=2)
    return None


def _tried(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """Return the result of an NCCL function and "", or None and the reason why it failed."""
    try:
        return function(*arguments), ""
    except RuntimeError as error:
        return None, f"NCCL failed: {error}; the environment variable NCCL_DEBUG=INFO shows details"
