"""Lock a folder, so that only one process or thread changes its files."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

# The errors of file systems without locks, such as some NFS mounts.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextlib.contextmanager
def folder_lock(
    folder: str | Path, who: str, *, wait: float = 0.0, name: str = ".lock"
) -> Iterator[None]:
    """Hold a folder's lock in a `with` block; no other process or thread can hold it meanwhile.

    The operating system locks a file, which is removed afterwards. The lock ends with the process,
    even after kill -9; a file that was left behind locks nothing.

    Args:
        folder: created if needed.
        who: the caller, for messages.
        wait: how many seconds to wait for another holder; forever if negative.
        name: the file's name; locks with different names are independent.

    Raises:
        BlockingIOError: another process or thread still holds the lock after `wait` seconds.
        OSError: the folder cannot be written to.

    Warns:
        UserWarning: the file system has no locks; the block runs without one.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, folder_lock(folder, "first"):
        ...     with folder_lock(folder, "second"):
        ...         pass
        Traceback (most recent call last):
        BlockingIOError: second: another process or thread uses ...
    """
    from filelock import FileLock, Timeout  # takes as long to import as half of NumPy

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    lock = FileLock(file, timeout=wait)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(
            f"{who}: another process or thread uses {folder}; wait for it, or choose another folder"
        ) from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{who}: the file system of {folder} has no locks ({error}); make sure that nothing "
            "else uses this folder at the same time",
            stacklevel=3,
        )
        yield
        return
    process = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == process:  # a forked child leaves it to its parent
            with contextlib.suppress(OSError):  # Windows removes it on release
                file.unlink(missing_ok=True)  # while locked: waiters notice, and create another
            lock.release()
