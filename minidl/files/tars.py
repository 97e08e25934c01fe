"""Read untrusted tar archives.

Python's `tarfile` allocates as many bytes as a header claims. It treats a damaged header as the end
of the archive and stops there, before the checksum at the end of a gzip file. So only its parser
for single headers is used here.
Source: POSIX.1-2001, pax interchange format; RFC 1952 for gzip.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Container, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from minidl.files.budget import Budget
from minidl.files.regular import open_regular

_ATTRIBUTES = (
    b"xgXLK"  # types of members that describe others, for example with names over 100 bytes
)
_LARGEST_ATTRIBUTES = 1 << 20  # bytes
_MOST_MEMBERS = 1_000
_PIECE = 1 << 16  # bytes


def tar_files(
    path: Path, names: Container[str], largest: int, whole: int
) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of chosen files in a .tar or .tar.gz archive.

    The archive is read to its end, and all its checksums are verified. Names over 100 bytes may be
    cut short.

    Args:
        path: the archive.
        names: names of the files to yield, without folders.
        largest: the most bytes that a file may have.
        whole: how many unpacked bytes the archive may always have, however small it is.

    Raises:
        ValueError: it is damaged or larger than allowed, or has a link, a device or a path that
            points outside.
        OSError: it cannot be read.
    """
    with open_regular(path) as raw:
        is_zipped, budget = raw.read(2) == b"\x1f\x8b", Budget(raw.seek(0, os.SEEK_END))
        budget.most_bytes = max(budget.most_bytes, whole)
        raw.seek(0)
        try:
            file = gzip.GzipFile(fileobj=raw) if is_zipped else raw
            yield from _files(file, budget, names, largest)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{path}: got a broken archive ({error}), expected a complete .tar.gz or .tar "
                "file; the usual cause is an interrupted download: delete it and fetch it again"
            ) from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _files(
    file: gzip.GzipFile | BinaryIO, budget: Budget, names: Container[str], largest: int
) -> Iterator[tuple[str, bytes]]:
    for _ in range(_MOST_MEMBERS):
        header = _take(file, tarfile.BLOCKSIZE, budget)
        if _is_empty(header):
            break
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        _check(member, largest)
        name, left = PurePosixPath(member.name).name, 0 if member.isdir() else member.size
        left += -left % tarfile.BLOCKSIZE
        if member.isreg() and name in names:
            yield name, _take(file, member.size, budget)
            left -= member.size
        for start in range(0, left, _PIECE):
            _take(file, min(_PIECE, left - start), budget)
    else:
        raise ValueError(f"got more than {_MOST_MEMBERS:,} members, expected fewer")
    rest = _take(file, tarfile.BLOCKSIZE, budget)  # two empty blocks mark the end;
    while rest:  # more may follow
        if not _is_empty(rest):
            raise EOFError("data follows its end")
        rest = file.read(_PIECE)
        budget.make(len(rest), "an archive with too much padding at its end")


def _take(file: gzip.GzipFile | BinaryIO, count: int, budget: Budget) -> bytes:
    budget.make(count, "an archive that unpacks to too many bytes")
    content = file.read(count)
    if len(content) < count:
        raise EOFError("it ends early")
    return content


def _is_empty(block: bytes) -> bool:
    return block.count(0) == len(block)


def _check(member: tarfile.TarInfo, largest: int) -> None:
    """Refuse members that only a forged archive has, even though nothing is extracted."""
    name, parts = f"the member {member.name!r:.200}", PurePosixPath(member.name)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"got {name}, which points outside the archive")
    is_whole = member.isreg() and member.type != tarfile.GNUTYPE_SPARSE
    if not (is_whole or member.isdir() or member.type in _ATTRIBUTES):
        raise ValueError(f"got {name} (a link or device), expected regular files")
    limit = _LARGEST_ATTRIBUTES if member.type in _ATTRIBUTES else largest
    if not 0 <= member.size <= limit:
        raise ValueError(f"got {name} of {member.size} bytes, expected at most {limit}")
