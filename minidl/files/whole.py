"""Atomic file writing."""

from __future__ import annotations

import contextlib
import glob
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be written and read, which takes the place of an older one when it is whole.

    It has a temporary name of its own beside `path`, is flushed to disk, then renamed; whatever
    happens meanwhile, the older file stays as it was. Its folder is made if need be. Where `path`
    is a symbolic link, the file that it leads to is replaced, not the link.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:  # Ctrl-C too: never leave the temporary file behind
        part.unlink(missing_ok=True)
        raise


def clear_parts(path: Path) -> None:
    """Remove what `whole_file` left beside a path when it was killed, where that is allowed."""
    path = Path(os.path.realpath(path))
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError):  # a folder that cannot be written to can be read
            part.unlink()
