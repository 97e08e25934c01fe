"""Keep other processes and threads from changing the same files at once."""

from __future__ import annotations

import contextlib
import errno
import warnings
from collections.abc import Iterator
from pathlib import Path

# What file systems without locks answer, such as some NFS mounts.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextlib.contextmanager
def folder_lock(
    folder: str | Path, who: str, *, wait: float = 0.0, name: str = ".lock"
) -> Iterator[None]:
    """Hold the lock of a folder, so that no other process or thread holds it.

    The lock is the operating system's, on a file that is removed afterwards. It ends with the
    process, even by kill -9: a file that is left behind locks nothing.

    Args:
        folder: is created if needed.
        who: the caller, for messages.
        wait: seconds to wait for another holder; for ever if negative.
        name: of the file; holders of different names do not exclude each other.

    Raises:
        BlockingIOError: another process or thread holds the lock, and `wait` is over.
        OSError: the folder cannot be written.

    Warns:
        UserWarning: the file system has no locks; nobody is excluded.

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
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes it on release
            file.unlink(missing_ok=True)  # while locked: waiters notice, and make another
        lock.release()
