"""Tar archives that need not be trusted.

Python's `tarfile` allocates what a header claims, takes a damaged header for the end of the file,
and stops there: before the checksum of a gzip file, which stands last. So only its parser of single
headers is used here.
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

_ATTRIBUTES = b"xgXLK"  # types of members that describe others, such as by names over 100 bytes
_LARGEST_ATTRIBUTES = 1 << 20  # bytes
_MOST_MEMBERS = 1_000
_PIECE = 1 << 16  # bytes


def tar_files(
    path: Path, names: Container[str], largest: int, whole: int
) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of some files in a .tar or .tar.gz archive, checking all checksums.

    Names of over 100 bytes may be cut short.

    Args:
        path: of the archive; it is read to its end.
        names: of the files to yield, whatever their folders.
        largest: how many bytes a file may have.
        whole: how many bytes the archive may have, unpacked, whatever its size.

    Raises:
        ValueError: it is damaged, larger than allowed, or has links, devices or paths outside.
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
    rest = _take(file, tarfile.BLOCKSIZE, budget)  # two empty blocks are the end,
    while rest:  # which more may follow
        if not _is_empty(rest):
            raise EOFError("data follows its end")
        rest = file.read(_PIECE)
        budget.make(len(rest), "an archive with so long an end")


def _take(file: gzip.GzipFile | BinaryIO, count: int, budget: Budget) -> bytes:
    budget.make(count, "an archive that unpacks to so much")
    content = file.read(count)
    if len(content) < count:
        raise EOFError("it ends early")
    return content


def _is_empty(block: bytes) -> bool:
    return block.count(0) == len(block)


def _check(member: tarfile.TarInfo, largest: int) -> None:
    """Refuse members that only a forged archive has, although nothing is extracted."""
    name, parts = f"the member {member.name!r:.200}", PurePosixPath(member.name)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"got {name}, which points outside the archive")
    is_whole = member.isreg() and member.type != tarfile.GNUTYPE_SPARSE
    if not (is_whole or member.isdir() or member.type in _ATTRIBUTES):
        raise ValueError(f"got {name} (a link or device), expected regular files")
    limit = _LARGEST_ATTRIBUTES if member.type in _ATTRIBUTES else largest
    if not 0 <= member.size <= limit:
        raise ValueError(f"got {name} of {member.size} bytes, expected at most {limit}")
