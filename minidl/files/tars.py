"""Read untrusted tar archives.

Python's `tarfile` allocates as many bytes as a header claims. It treats a damaged header as the end
of the archive and stops there, before the checksum at the end of a gzip file. So only its parser
for single headers is used here.
Source: POSIX.1-2001, pax interchange format; RFC 1952 for gzip.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Container, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from minidl.files.budget import Budget
from minidl.files.regular import open_regular

_ATTRIBUTES = b"xgXLK"  # types of members that describe others, such as names over 100 bytes
_LARGEST_ATTRIBUTES = 1 << 20  # bytes
_MOST_MEMBERS = 1_000
_PIECE = 1 << 14  # bytes


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
            yield from _files(_Unzipped(raw) if is_zipped else raw, budget, names, largest)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path}: got a broken archive ({error}), expected a complete .tar.gz or .tar "
                "file; the usual cause is an interrupted download: delete it and fetch it again"
            ) from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


class _Unzipped:
    """The content of a gzip file, whose checksums zlib compares.

    A file may have several parts, and zeros behind each. `gzip.GzipFile` reads those one by one:
    100 MB of them take more than 15 s.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw, self._part, self._ahead = raw, zlib.decompressobj(31), b""

    def read(self, count: int) -> bytes:
        """Return `count` bytes, or fewer at the end."""
        found = []
        while count:
            found.append(self._part.decompress(self._ahead, count))
            count -= len(found[-1])
            self._ahead = self._part.unconsumed_tail
            if self._part.eof:
                self._ahead = self._part.unused_data.lstrip(b"\0")
                while not self._ahead and (piece := self._raw.read(_PIECE)):
                    self._ahead = piece.lstrip(b"\0")
                if not self._ahead:
                    break
                self._part = zlib.decompressobj(31)  # 31: a gzip header, with the largest window
            elif not (found[-1] or self._ahead):
                self._ahead = self._raw.read(_PIECE)
                if not self._ahead:
                    raise EOFError("it ends early")
        return b"".join(found)


def _files(
    file: _Unzipped | BinaryIO, budget: Budget, names: Container[str], largest: int
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


def _take(file: _Unzipped | BinaryIO, count: int, budget: Budget) -> bytes:
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
