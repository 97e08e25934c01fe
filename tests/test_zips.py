"""Zip files that look right to `zipfile`, and are not; headers that are no NumPy's."""

import io
import struct
import zipfile

import numpy as np
import pytest

from minidl.files import zips
from minidl.training import load_weights, save_weights


def npz(folder, **arrays):
    path = folder / "w.npz"
    np.savez(path, **(arrays or {"a": np.arange(3.0), "b": np.ones(2)}))
    return path


def member(header, data=b"", version=1):
    """An `.npy` file of any header."""
    length = struct.pack("<H" if version == 1 else "<L", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def zipped(folder, *members, compression=zipfile.ZIP_STORED):
    path = folder / "w.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def changed(path, place, format, *values):
    """Overwrite values at the place after the last occurrence of `place`'s bytes."""
    content = bytearray(path.read_bytes())
    mark, offset = place
    struct.pack_into(format, content, content.index(mark) + offset, *values)
    path.write_bytes(content)
    return path


# The directory ------------------------------------------------------------------------------------


def test_a_member_that_the_directory_hides_is_missed(tmp_path):
    """One wrong length, and an entry takes the next one for its own comment."""
    path = npz(tmp_path)
    content = path.read_bytes()
    first = content.index(b"PK\x01\x02")
    rest = content.rindex(b"PK\x05\x06") - content.rindex(b"PK\x01\x02")
    changed(path, (content[first : first + 46], 32), "<H", rest)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["a.npy"]
    with pytest.raises(ValueError, match=r"its member a\.npy leaves a gap, overlaps another, or"):
        load_weights(path)


@pytest.mark.parametrize(
    ("before", "after"), [(b"PK.npy", b""), (b"", b"\0"), (b"", b"junk" * 20_000), (None, b"")]
)
@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_bytes_that_belong_to_no_member_are_refused(suffix, before, after, tmp_path):
    path = save_weights({"a": np.ones(3)}, tmp_path / f"w{suffix}")
    content = path.read_bytes()
    path.write_bytes((content if before is None else before) + content + after)
    with pytest.raises(ValueError, match="is not a"):
        load_weights(path)


def test_members_that_share_their_bytes_are_refused(tmp_path):
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", member(b""))
        first = archive.infolist()[0]
        for number in range(20):
            other = zipfile.ZipInfo(f"{number}.npy")
            other.header_offset, other.CRC = 0, first.CRC
            other.file_size = other.compress_size = first.file_size
            archive.filelist.append(other)
    with pytest.raises(ValueError, match="overlaps another"):
        load_weights(path)


@pytest.mark.parametrize(
    ("offset", "value", "what"),
    [(6, 1, "encrypted"), (8, 8, "deflated"), (14, 5, "another CRC"), (18, 5, "another size")],
)
def test_headers_that_differ_are_refused(offset, value, what, tmp_path):
    path = zipped(tmp_path, ("a.npy", member(b"")))
    changed(path, (b"PK\x03\x04", offset), "<H", value)
    with pytest.raises(ValueError, match=r"is not a \.npz file"):
        load_weights(path)


def test_other_compressions_are_refused(tmp_path):
    """LZMA allocates whatever dictionary a file asks for, up to 4 GB."""
    for compression in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        path = zipped(tmp_path, ("a.npy", member(b"")), compression=compression)
        with pytest.raises(ValueError, match=r"is not a \.npz file"):
            load_weights(path)


def test_a_directory_of_many_members_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "w.npz"
    name, count = b"a.npy", 400_000
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0) + name
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 5, *[0] * 6) + name
    size = len(entry) * count
    wide = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, len(local))
    wide += struct.pack("<4sLQL", b"PK\6\7", 0, len(local) + size, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, size, len(local), 0)
    path.write_bytes(local + entry * count + wide + end)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(ValueError, match=r"a directory of up to 443,\d+ members, expected"):
        load_weights(path)


def test_members_written_as_a_stream_are_read(tmp_path):
    """Then their sizes follow them."""

    class Pipe(io.RawIOBase):
        content = b""

        def writable(self):
            return True

        def write(self, part):
            self.content += bytes(part)
            return len(part)

    pipe = Pipe()
    np.savez_compressed(pipe, a=np.arange(6.0).reshape(2, 3), b=np.ones(2))
    path = tmp_path / "w.npz"
    path.write_bytes(pipe.content)
    np.testing.assert_array_equal(load_weights(path)["a"], np.arange(6.0).reshape(2, 3))


def test_a_large_member_is_read_in_pieces_to_its_checksum(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "_CHUNK", 100)
    values = np.arange(1000.0)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "w.npz", a=values)
        np.testing.assert_array_equal(load_weights(tmp_path / "w.npz")["a"], values)
    np.savez(tmp_path / "w.npz", a=values)
    changed(tmp_path / "w.npz", (values[-1:].tobytes(), 0), "<d", 7.0)
    with pytest.raises(ValueError, match="Bad CRC-32"):
        load_weights(tmp_path / "w.npz")


# Headers of arrays --------------------------------------------------------------------------------

NESTED = b"{'descr': '<f4', 'fortran_order': False, 'shape': %s}"
WRONG_HEADERS = {
    "nested": b"(" * 3000,
    "negated": b"{'descr': " + b"-" * 3000 + b"1}",
    "no end": NESTED % b"(3<, ",
    "an escape that warns": NESTED % b"(2,), '\\d': 1",
    "compared": b"{'descr': '<f4' is 1, 'fortran_order': False, 'shape': (2,)}",
    "a number as shape": NESTED % b"(2)"[1:2],
    "a negative size": NESTED % b"(-2,)",
    "a size too long": NESTED % b"(9999999999999999999999999,)",
    "sizes without a comma": NESTED % b"(1 2,)",
    "a tuple as dtype": b"{'descr': ('<f4', 'x'), 'fortran_order': False, 'shape': (2,)}",
    "a list as dtype": b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}",
    "several dtypes": b"{'descr': 'f4,f4', 'fortran_order': False, 'shape': (1,)}",
    "an unknown dtype": b"{'descr': '<z9', 'fortran_order': False, 'shape': (1,)}",
    "objects": b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    "strings of any length": b"{'descr': '|T16', 'fortran_order': False, 'shape': (1,)}",
    "nothing": b"{'descr': '|S0', 'fortran_order': False, 'shape': (3000000000,)}",
    "no order": b"{'descr': '<f4', 'shape': (2,), 'shape': (2,)}",
    "order by name": b"{'descr': '<f4', 'fortran_order': '<f4', 'shape': (2,)}",
    "too long": NESTED % (b"(2,)" + b" " * 5000),
    "more than there is": NESTED % b"(3,)",
    "less than there is": NESTED % b"(1,)",
    "terabytes": NESTED % b"(1099511627776,)",
    "more axes than NumPy has": NESTED % (b"(2," + b"1," * 64 + b")"),
    "none of them, and huge": NESTED % b"(0, 999999999999999999, 999999999999999999, 99)",
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("header", WRONG_HEADERS.values(), ids=WRONG_HEADERS)
def test_a_hostile_header_is_refused(header, version, tmp_path):
    path = zipped(tmp_path, ("a.npy", member(header, bytes(8), version)))
    with pytest.raises(ValueError, match=r"load_weights: .*w\.npz is not a \.npz file"):
        load_weights(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }" + b" " * 60 + b"\n",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }\n",
        b'{"shape": (2,3,), "fortran_order":False,"descr":"f4"}',
        b"{ 'shape' : (3, 2), 'fortran_order': True, 'descr': '=f4' , }",
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_headers_of_other_writers_are_read(header, version, tmp_path):
    values = np.arange(6, dtype=np.float32)
    path = zipped(tmp_path, ("a.npy", member(header, values.tobytes(), version)))
    found = load_weights(path)["a"]
    wanted = values.reshape(2, 3).T if b"True" in header else values.reshape(2, 3)
    np.testing.assert_array_equal(found, wanted)


def test_every_array_that_numpy_writes_is_read_alike(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "turned": rng.random((3, 4)).T, "empty": np.ones((0, 3)), "number": np.array(2.5),
        "big": np.arange(3, dtype=">i4"), "many axes": np.ones([1] * 32), "half": np.float16([1.5]),
    }  # fmt: skip
    found = load_weights(npz(tmp_path, **arrays))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype.isnative


def test_bytes_of_a_bool_become_0_or_1(tmp_path):
    header = b"{'descr': '|b1', 'fortran_order': False, 'shape': (3,), }"
    path = zipped(tmp_path, ("a.npy", member(header, b"\0\1\xff")))
    assert load_weights(path)["a"].view(np.uint8).tolist() == [0, 1, 1]
