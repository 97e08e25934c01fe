"""Share the cores of a machine among its ranks."""

from __future__ import annotations

import json
import os

from minidl.backends import threads
from minidl.distributed.exchange import Exchange


def share_cores(local: Exchange) -> None:
    """Let this rank's kernels use its share of the cores, unless a number of threads is set.

    Ranks that may use the same cores share them equally. A launcher may bind each rank to its own
    cores; the rank then uses all of them.

    Args:
        local: connects the ranks on this machine.
    """
    if not hasattr(os, "sched_getaffinity"):
        count = os.cpu_count() or 1
        cores = [list(range(count))] * local.comm.size
    else:
        own = json.dumps(sorted(os.sched_getaffinity(0)))
        cores = [json.loads(data) for data in local.gather(own.encode(), "distributed.world")]
    threads.share_machine(share(cores, local.comm.rank, threads.quota()))


def share(cores: list[list[int]], rank: int, quota: float) -> int:
    """Return how many threads a rank should use.

    Args:
        cores: those that each rank on the machine may use.
        rank: this rank's number on the machine.
        quota: how many cores the container leaves to all ranks together.
    """
    together = [set(other) for other in cores if set(other) & set(cores[rank])]
    own = len(set().union(*together)) / len(together)
    return max(1, int(min(own, quota / len(cores))))
