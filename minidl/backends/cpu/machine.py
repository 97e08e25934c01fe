"""What the machine gives this process: cores, and its container's share; memory for slices.

Cores and shares come from Linux. On other systems all cores count, and where a file is missing or
holds something else, there is no quota.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path


def cores() -> int:
    """Return how many cores this process may use: by its affinity, and its container's quota."""
    return max(1, math.ceil(min(len(_allowed()), quota())))


def _allowed() -> Sequence[int]:
    """Return the CPUs that this process may run on."""
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or a sandbox that forbids it
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


def slice_bytes(usual: int) -> int:
    """Return the memory for a slice of work: that of `MINIDL_CACHE_BYTES`, or else `usual`.

    Raises:
        ValueError: the environment variable is not an integer from 2**14 to 2**30.
    """
    text = os.environ.get("MINIDL_CACHE_BYTES") or str(usual)  # set but empty counts as not set
    if re.fullmatch("[0-9]{1,10}", text) and 2**14 <= int(text) <= 2**30:
        return int(text)
    raise ValueError(
        f"MINIDL_CACHE_BYTES={text!r}, expected an integer from {2**14} to {2**30}: the bytes that "
        f"a slice of work takes, {usual} by default"
    )


# Control groups -------------------------------------------------------------------------------


def quota() -> float:
    """Return how many cores this process's container may use; infinity if there is no limit."""
    return _quota(Path("/"))


@functools.cache
def _quota(root: Path) -> float:
    """Return the least CPU quota of this process's control groups and of those around them.

    Source: Linux's documentation, cgroup-v2.rst, "cpu.max"; sched-bwc.rst for version 1.
    """
    least, text = math.inf, ""
    with contextlib.suppress(OSError):
        text = (root / "proc/self/cgroup").read_text("utf-8", "surrogateescape")
    for line in text.splitlines():
        _, _, named = line.partition(":")
        controllers, _, path = named.partition(":")
        # Version 1's folder may list controllers in another order, version 2's stand beside it.
        tops = (controllers, "cpu") if controllers else ("", "unified")
        if not controllers or "cpu" in controllers.split(","):
            for top in (root / "sys/fs/cgroup" / name for name in tops):
                group = top / path.strip("/")
                within = (g for g in (group, *group.parents) if g.is_relative_to(top))
                least = min(least, *map(_limit, within))
    return least


def _limit(group: Path) -> float:
    """Return one control group's quota; infinity if none is set, or visible from a container."""
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        with contextlib.suppress(OSError, ValueError, ArithmeticError):
            quota, period = " ".join((group / name).read_text("utf-8") for name in names).split()
            share = int(quota) / int(period)  # "max" and -1 are no limit
            return share if share > 0 else math.inf
    return math.inf
