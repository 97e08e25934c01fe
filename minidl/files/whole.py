"""Atomic file writing."""

from __future__ import annotations

import contextlib
import glob
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing and reading, which replaces an older one when it is complete.

    It is written under a temporary name next to `path`, flushed to disk, then renamed; on any
    failure, the older file stays as it was. Its folder is created if needed. If `path` is a
    symbolic link, its target is replaced, not the link.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{_start(path)}{uuid.uuid4().hex}.part")
    try:
        with part.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        replace(part, path)
    except BaseException:  # Ctrl-C too: never leave the temporary file behind
        part.unlink(missing_ok=True)
        raise


def replace(part: Path, path: Path) -> None:
    """Rename a file, replacing another; retry, as virus scanners on Windows briefly lock new files.

    Raises:
        OSError: it cannot be renamed, or `path` is a folder or a device; PermissionError only after
            0.6 seconds of attempts.
    """
    if path.exists() and not path.is_file():  # root could rename a file over /dev/null
        raise OSError(f"{path} is not a regular file, expected one, or none so far")
    for seconds in (0.02, 0.08, 0.5):
        with contextlib.suppress(PermissionError):
            return os.replace(part, path)
        time.sleep(seconds)
    return os.replace(part, path)


def _start(path: Path) -> str:
    return f".{path.name[:50]}."  # of a temporary name: names are limited to 255 bytes


def clear_parts(path: Path) -> None:
    """Remove files that `whole_file` left next to `path` when it was killed, if permitted."""
    path = Path(os.path.realpath(path))
    for part in path.parent.glob(f"{glob.escape(_start(path))}*.part"):
        with contextlib.suppress(OSError):  # the folder may be read-only
            part.unlink()
