"""Tar archives: every file comes back, and any damage, growth or trick is refused."""

import gzip
import io
import tarfile
import tracemalloc

import numpy as np
import pytest

from minidl.files import tars
from minidl.files.tars import tar_files

FILES = {"x": b"one", "empty": b"", "long": bytes(range(256)) * 9}


def packed(files=FILES, form=tarfile.GNU_FORMAT, **fields):
    """Return the bytes of a tar file in a folder, whose members have the given fields."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(f"a/{name}")
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def read(folder, content, names=FILES, largest=10_000, whole=1 << 20):
    (folder / "x.tar").write_bytes(content)
    return dict(tar_files(folder / "x.tar", names, largest, whole))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("zipped", [False, True])
def test_files_come_back(tmp_path, form, zipped):
    content = packed(form=form)
    assert read(tmp_path, gzip.compress(content) if zipped else content) == FILES


def test_attributes_and_unwanted_files_are_passed_over(tmp_path):
    files = {"b" * 120 + "/x": b"1", "c/y": b"2", "c/z": bytes(range(256)) * 300, "c/x": b"3"}
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        content = packed(files, form, mtime=1.5, uname="ü")
        assert read(tmp_path, content, "xy", 1 << 20) == {"x": b"3", "y": b"2"}


def test_gzip_files_may_have_several_parts_and_padding(tmp_path):
    content = packed()
    parts = gzip.compress(content[:1000]) + gzip.compress(b"") + gzip.compress(content[1000:])
    assert read(tmp_path, parts + bytes(99)) == FILES


def test_zeros_between_and_behind_the_parts_of_a_gzip_file_are_read_in_pieces(
    tmp_path, monkeypatch
):
    """Python's gzip asks the file for each of them: 100 MB took more than 15 s."""
    content, padding, asked = packed(), bytes(2_000_000), []

    class Counted(io.BufferedReader):
        def read(self, count=-1):
            asked.append(count)
            return super().read(count)

    monkeypatch.setattr(tars, "open_regular", lambda path: Counted(io.FileIO(path)))
    parts = [gzip.compress(content[:1000]), gzip.compress(content[1000:])]
    assert read(tmp_path, padding.join([*parts, b""])) == FILES
    assert len(asked) < 1_000


def test_a_gzip_file_that_unpacks_to_much_is_read_in_pieces(tmp_path):
    content = packed({"x": bytes(3_000_000), "y": b"1"})
    assert read(tmp_path, gzip.compress(content), "y", 1 << 22, 1 << 23) == {"y": b"1"}
    assert read(tmp_path, gzip.compress(content), "x", 1 << 22, 1 << 23)["x"] == bytes(3_000_000)


def test_any_flipped_bit_of_a_gzip_file_is_noticed(tmp_path):
    content = gzip.compress(packed({"x": np.random.default_rng(0).bytes(2_000)}), mtime=0)
    files, noticed = read(tmp_path, content), 0
    for place in range(10, len(content)):  # its header holds no content
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        try:
            assert read(tmp_path, damaged) == files
        except ValueError as error:
            assert "x.tar: got " in str(error)  # noqa: PT017 - not every bit has a meaning
            noticed += 1
    assert noticed > 0.99 * (len(content) - 10)


def test_any_flipped_bit_of_a_header_is_noticed(tmp_path):
    content, size = packed(), tarfile.BLOCKSIZE
    headers = [
        start for start in range(0, len(content), size) if b"ustar" in content[start:][:size]
    ]
    assert len(headers) == 1 + len(FILES)
    for start in headers:
        for place in range(0, size, 3):
            damaged = bytearray(content)
            damaged[start + place] ^= 1 << place % 7
            with pytest.raises(ValueError, match=r"x\.tar: got "):
                read(tmp_path, damaged)


def test_whatever_is_missing_or_too_much_at_the_end_is_noticed(tmp_path):
    content, end = packed(), 512 * (4 + 1 + 5)  # headers and contents
    assert read(tmp_path, content[: end + 1024]) == FILES
    for kept in (0, 1, 700, end - 1, end, end + 512, end + 1023):
        with pytest.raises(ValueError, match=r"a broken archive .it ends early.*interrupted"):
            read(tmp_path, content[:kept])
    for tail in (b"x", content):
        with pytest.raises(ValueError, match=r"a broken archive .data follows its end"):
            read(tmp_path, content + tail)
    zipped = gzip.compress(content)
    for damaged in (zipped[:-1], zipped[:-8], zipped + b"x", zipped + zipped[:-1]):
        with pytest.raises(ValueError, match="a broken archive"):
            read(tmp_path, damaged)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc"}, "'x' .a link or device., expected reg"),
        ({"type": tarfile.FIFOTYPE}, "'x' .a link or device., expected reg"),
        ({"type": tarfile.GNUTYPE_SPARSE}, "'x' .a link or device., expected reg"),
        ({"name": "/x"}, "'/x', which points outside the archive"),
        ({"name": "a/../x"}, "'a/../x', which points outside the archive"),
        ({"size": 10_001}, "'x' of 10001 bytes, expected at most 10000"),
        ({"size": -512}, "'x' of -512 bytes, expected at most 10000"),
        ({"size": 2 << 30, "type": tarfile.XHDTYPE}, "of 2147483648 bytes, expected at most"),
        ({"size": 2 << 30, "type": tarfile.GNUTYPE_LONGNAME}, "of 2147483648 bytes, expected"),
    ],
)
def test_members_that_only_a_forged_archive_has_are_refused(tmp_path, fields, message):
    member = tarfile.TarInfo("x")
    for field, value in fields.items():
        setattr(member, field, value)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, member.tobuf(tarfile.GNU_FORMAT) + bytes(2048))


def test_the_number_of_members_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "_MOST_MEMBERS", 4)
    with pytest.raises(ValueError, match="got more than 4 members"):
        read(tmp_path, packed())


def test_attributes_without_end_are_refused(tmp_path):
    """Python's reader calls itself for each."""
    member = tarfile.TarInfo("x")
    member.type = tarfile.XHDTYPE
    with pytest.raises(ValueError, match="got more than 1,000 members"):
        read(tmp_path, gzip.compress(member.tobuf(tarfile.GNU_FORMAT) * 3_000), whole=1 << 30)


@pytest.mark.parametrize("place", ["a member", "the end"])
def test_an_archive_unpacks_to_no_more_than_its_limit(tmp_path, place, monkeypatch):
    monkeypatch.setattr("minidl.files.budget.ROOM", 1 << 20)
    zeros = bytes(1 << 24)
    content = packed({"x": zeros} if place == "a member" else {}) + zeros
    content, whole = gzip.compress(content), 1 << 21
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"got an archive .* expected at most 2,097,152 bytes"):
            read(tmp_path, content, largest=len(zeros), whole=whole)
        assert tracemalloc.get_traced_memory()[1] < 1 << 21
    finally:
        tracemalloc.stop()


def test_large_archives_may_unpack_to_more_than_their_limit(tmp_path):
    files = {"x": np.random.default_rng(0).bytes(5_000)}
    assert read(tmp_path, gzip.compress(packed(files)), whole=1_000) == files
