"""Read untrusted zip files of arrays, such as NumPy's `.npz`, and check every byte.

`zipfile` trusts the directory at the file's end. One wrong length there can lose members silently,
and a forged directory can describe the same bytes a thousand times. So members must follow one
another without gaps, from the first byte to the directory, as every program writes them; and each
is read to its end, where `zipfile` compares its CRC.
Source: PKWARE, APPNOTE.TXT, 4.3; NumPy, `numpy/lib/_format_impl.py`.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
from collections.abc import Iterator
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from minidl.files.budget import Budget

GROWTH = 20  # weights that are 95 % zeros compress to a twentieth; trained ones, to nine tenths
_BYTES_PER_MEMBER = 700  # that zipfile keeps for each
_DESCRIPTORS = (12, 16, 20, 24)  # bytes that may follow a member's content if flag 8 is set
_CHUNK = 1 << 18  # stays in a cache between copying and checking
_LARGEST_HEADER = 4096  # bytes; 64 axes take 1,400
PLAIN = "biufcmMSU"  # kinds of dtypes without references to objects
# A header is a dict in Python's notation. Possessive: linear time for any text.
_VALUE = r"""["'][<>|=]?[a-zA-Z?]\d{0,9}(?:\[\d{0,4}[a-zA-Z]{1,2}\])?["']|True|False|"""
_VALUE += r"\((?:\d{1,18}L?, *+)*(?:\d{1,18}L?)?\)"  # Python 2 wrote 3L
_ENTRY = rf"""["'](descr|fortran_order|shape)["'] *+: *+({_VALUE}) *+"""
_HEADER = re.compile(rf"\{{ *+(?:{_ENTRY}, *+){{2}}{_ENTRY}(?:, *+)?\}}\s*+", re.ASCII)


def open_zip(file: BinaryIO, budget: Budget) -> zipfile.ZipFile:
    """Open a zip file of stored and deflated members, after counting the bytes that they claim.

    Raises:
        ValueError: members leave gaps, overlap or share a name, there are bytes before or after
            them, or reading them would exceed the budget.
        Exception: the directory is damaged in ways that `zipfile` does not document.
    """
    size = budget.size
    file.seek(max(0, size - 65_557))  # the longest end record, with its comment
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    length, comment = struct.unpack("<12xL4xH", tail[end : end + 22])
    if tail[end - 20 : end - 16] == b"PK\x06\x07":  # large files have a second record before it
        (wide,) = struct.unpack("<40xQ8x", tail[end - 76 : end - 20])
        length = wide if length == 0xFFFFFFFF else max(wide, length)
    if end + 22 + comment != len(tail):
        raise ValueError("it has bytes after the zip file's end")
    count = length // 46  # bytes of the smallest entry
    members_only = Budget(size)  # none of which are compressed
    members_only.make(_BYTES_PER_MEMBER * count, f"a directory of up to {count:,} members")
    archive = zipfile.ZipFile(file)
    members, reached = sorted(archive.infolist(), key=lambda info: info.header_offset), 0
    for info, following in zip(members, [*members[1:], None], strict=True):
        following_at = archive.start_dir if following is None else following.header_offset
        if info.header_offset != reached or not _fills(file, info, following_at - reached):
            raise ValueError(
                f"its member {info.filename:.80} leaves a gap, overlaps another, or claims more "
                "than the file has"
            )
        reached = following_at
        budget.make(info.file_size, f"a member {info.filename:.80} of {info.file_size:,} bytes")
    if reached != archive.start_dir or len(archive.NameToInfo) != len(members):
        raise ValueError("it has bytes before its members, or a duplicate member")
    return archive


def _fills(file: BinaryIO, info: zipfile.ZipInfo, room: int) -> bool:
    """Return whether a member takes exactly `room` bytes, and its two headers agree."""
    file.seek(info.header_offset)
    header = file.read(30)
    flags, method, crc, packed, size, name, extra = struct.unpack("<6xHH4x3L2H", header)
    rest = room - 30 - name - extra - info.compress_size
    described = (crc, packed, size) == (info.CRC, info.compress_size, info.file_size)
    return (
        (flags, method) == (info.flag_bits, info.compress_type)
        and method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        and (method == zipfile.ZIP_DEFLATED or info.compress_size == info.file_size)
        and not flags & 0x2061  # encrypted, or patch data
        and (rest in _DESCRIPTORS if flags & 8 else rest == 0)
        and (described or bool(flags & 8) or packed == size == 0xFFFFFFFF)
    )


def read_member(archive: zipfile.ZipFile, name: str, count: int) -> NDArray[np.uint8]:
    """Return a member's bytes.

    Raises:
        ValueError: it does not have `count` bytes.
        Exception: its CRC does not match, or it cannot be decompressed; `zipfile` does not
            document which error that raises.
    """
    with archive.open(name) as member:
        return _rest(member, count)


def _rest(member: IO[bytes], count: int) -> NDArray[np.uint8]:
    content, reached = np.empty(count, np.uint8), 0
    while chunk := member.read(_CHUNK):  # to the end, where the CRC is compared
        content[reached : reached + len(chunk)] = np.frombuffer(chunk, np.uint8)
        reached += len(chunk)
    if reached != count:
        raise ValueError(f"a member has {reached} bytes, expected {count}")
    return content


def read_arrays(archive: zipfile.ZipFile) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of an `.npz` file, by name.

    Raises:
        ValueError: a member is not an array of plain values, or its size is not the one that its
            header describes; nothing is allocated for it then.
        Exception: see `read_member`.
    """
    for info in archive.infolist():
        with archive.open(info) as member:
            try:
                dtype, shape, is_fortran, length = _header(member)
                count = dtype.itemsize * math.prod(shape)
                if not info.filename.endswith(".npy") or length + count != info.file_size:
                    raise ValueError(f"it has {info.file_size} bytes, not {length} + {count}")
            except (ValueError, TypeError, struct.error) as error:
                raise ValueError(
                    f"its member {info.filename:.80} is not an array of plain values, or is "
                    f"damaged: {error}"
                ) from error
            values = _rest(member, count).view(dtype)
            array = values.reshape(shape[::-1]).T if is_fortran else values.reshape(shape)
            yield info.filename.removesuffix(".npy"), array


def _header(member: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Return an array's dtype, shape, whether it is in Fortran order, and the header's length.

    NumPy's own parser evaluates up to 10,000 characters of Python. Deeply nested ones raise
    unpredictable errors, and some print warnings.
    """
    start = member.read(8)
    wide = start[6:7] >= b"\x02"
    length = struct.unpack("<L" if wide else "<H", member.read(4 if wide else 2))[0]
    if start[:6] != b"\x93NUMPY" or length > _LARGEST_HEADER:
        raise ValueError("it does not begin like a NumPy file")
    text = member.read(length).decode("latin-1")
    found = dict(re.findall(_ENTRY, text))
    if not _HEADER.fullmatch(text) or len(found) != 3 or found["fortran_order"][0] not in "TF":
        raise ValueError(f"got a header {text.strip()!r:.200}")
    dtype = np.dtype(found["descr"][1:-1])
    shape = tuple(int(size) for size in re.findall(r"\d+", found["shape"]))
    if dtype.kind not in PLAIN or not dtype.itemsize:
        raise ValueError(f"got dtype {dtype}, expected numbers or strings")
    return dtype, shape, found["fortran_order"] == "True", len(start) + (4 if wide else 2) + length
