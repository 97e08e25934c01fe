"""Open untrusted files, which may be FIFOs or devices."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device", stat.S_IFBLK: "device",
}  # fmt: skip


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading bytes; refuse anything else.

    Opening a FIFO blocks until another program opens it for writing, and some devices never end.

    Raises:
        ValueError: it is a FIFO, a socket, a device or a folder.
        OSError: it does not exist, or cannot be read.

    Example:
        >>> open_regular(".")
        Traceback (most recent call last):
        ValueError: .: got a folder, expected a regular file
    """
    _check(path, os.stat(path))  # before opening, which alone may block or trigger a device
    return open(path, "rb", opener=_open_at_once)


def _open_at_once(path: str, flags: int) -> int:
    # Windows has neither this flag nor FIFOs.
    number = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        _check(path, os.fstat(number))  # it may have been replaced meanwhile
    except ValueError:
        os.close(number)
        raise
    return number


def _check(path: str | Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "special file")
        raise ValueError(f"{path}: got a {kind}, expected a regular file")
