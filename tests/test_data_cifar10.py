"""CIFAR-10 in each layout, whole and damaged; real images where MINIDL_CIFAR10 names them."""

import io
import os
import pickle
import pickletools
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from minidl.data import cifar10
from minidl.data.cifar10 import load_cifar10, read_python_batch

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
ROWS = 20  # stands for the 10,000 of a real batch


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(cifar10, "_BATCH_ROWS", ROWS)


def _pixels(seed):
    """Return data (n, 3072) and labels of one small batch."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (ROWS, 3072), np.uint8), rng.integers(0, 10, ROWS).tolist()


def _pickled(data, labels):
    return pickle.dumps({b"data": data, b"labels": labels}, protocol=2)


def _python_2(data, labels):
    """Return a batch with the opcodes of the official files, pickled by Python 2 and NumPy 1."""
    names = b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"
    array = (
        names[0] + names[1] + b"K\x00\x85U\x01b\x87R(K\x01M" + len(data).to_bytes(2, "little")
    ) + b"M\x00\x0c\x86"
    array += names[2] + b"U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    array += b"K\x00tb\x89T" + data.nbytes.to_bytes(4, "little") + data.tobytes() + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x06labels" + numbers + b"U\x04data" + array + b"u."


def _binary(data, labels):
    return np.column_stack([np.array(labels, np.uint8), data]).tobytes()


LAYOUTS = {
    "py": (_pickled, "", "cifar-10-python.tar.gz"),
    "python2": (_python_2, "", "cifar-10-python.tar.gz"),
    "bin": (_binary, ".bin", "cifar-10-binary.tar.gz"),
}


def _folder(root, layout="py"):
    """Write a small data set as a folder under `root`; return the folder."""
    write, suffix, _ = LAYOUTS[layout]
    folder = root / f"cifar-10-batches-{layout.replace('python2', 'py')}"
    folder.mkdir(parents=True)
    for seed, name in enumerate(BATCHES):
        (folder / f"{name}{suffix}").write_bytes(write(*_pixels(seed)))
    (folder / "readme.html").write_text("not a batch")
    return folder


def _archive(root, layout="py"):
    folder = _folder(root / "unpacked", layout)
    path = root / LAYOUTS[layout][2]
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


def _assert_is_the_small_set(splits):
    train, test = splits
    assert train.images.shape == (5 * ROWS, 3, 32, 32)
    assert train.images.dtype == np.uint8
    assert train.labels.dtype == np.int64
    assert train.classes[:2] == ("airplane", "automobile")
    for seed in range(6):
        data, labels = _pixels(seed)
        part = slice(ROWS * seed, ROWS * (seed + 1)) if seed < 5 else slice(None)
        split = train if seed < 5 else test
        np.testing.assert_array_equal(split.images[part], data.reshape(-1, 3, 32, 32))
        np.testing.assert_array_equal(split.labels[part], labels)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_load_cifar10_reads_a_folder_or_its_parent(tmp_path, layout):
    folder = _folder(tmp_path, layout)
    _assert_is_the_small_set(load_cifar10(folder))
    _assert_is_the_small_set(load_cifar10(str(tmp_path)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_load_cifar10_reads_an_archive_or_its_parent_and_extracts_nothing(tmp_path, layout):
    path = _archive(tmp_path, layout)
    before = sorted(tmp_path.rglob("*"))
    _assert_is_the_small_set(load_cifar10(path))
    _assert_is_the_small_set(load_cifar10(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


def test_load_cifar10_looks_in_the_datasets_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDL_DATASETS", str(tmp_path))
    _folder(tmp_path)
    _assert_is_the_small_set(load_cifar10())


def test_load_cifar10_gives_writable_arrays(tmp_path):
    train, _ = load_cifar10(_folder(tmp_path, "bin"))
    train.images[0] = 0


def test_load_cifar10_downloads_only_when_asked_and_needed(tmp_path, monkeypatch):
    calls = []

    def fetch(urls, destination, **options):
        calls.append((destination, options["md5"], options["size"]))
        return _archive(tmp_path)

    monkeypatch.setattr(cifar10, "fetch", fetch)
    _assert_is_the_small_set(load_cifar10(tmp_path, download=True))
    _assert_is_the_small_set(load_cifar10(tmp_path, download=True))
    archive = tmp_path / "cifar-10-python.tar.gz"
    assert calls == [(archive, "c58f30108f718f92721af3b95e74349a", 170_498_071)]


def test_load_cifar10_has_the_origin_as_its_last_mirror():
    assert all(url.startswith("https://") for url in cifar10.PYTHON_ARCHIVE_URLS)
    assert "cs.toronto.edu" in cifar10.PYTHON_ARCHIVE_URLS[-1]


def test_load_cifar10_says_where_it_looked_and_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_cifar10(tmp_path)
    message = str(caught.value)
    for part in (str(tmp_path), "cifar-10-batches-py", "cifar-10-binary.tar.gz", "download=True"):
        assert part in message
    assert "--data-dir" in message


def test_load_cifar10_says_that_a_folder_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        load_cifar10(tmp_path / "typo")


def test_load_cifar10_does_not_take_a_directory_for_an_archive(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").mkdir()
    with pytest.raises(FileNotFoundError, match="none of the archives"):
        load_cifar10(tmp_path)


def test_load_cifar10_names_a_missing_batch(tmp_path):
    folder = _folder(tmp_path)
    (folder / "data_batch_3").unlink()
    with pytest.raises(ValueError, match=r"cifar-10-batches-py: got no data_batch_3, expected"):
        load_cifar10(tmp_path)


def test_load_cifar10_refuses_a_batch_with_too_few_images(tmp_path):
    folder = _folder(tmp_path)
    data, labels = _pixels(0)
    (folder / "data_batch_2").write_bytes(_pickled(data[:-1], labels[:-1]))
    with pytest.raises(ValueError, match=r"data_batch_2: got 19 images, expected 20"):
        load_cifar10(tmp_path)


def test_load_cifar10_refuses_a_binary_batch_that_ends_early(tmp_path):
    path = _folder(tmp_path, "bin") / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"test_batch.bin: got 61453 bytes, expected a multiple"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize("place", ["", "cifar-10-batches-mat", "cifar-10-matlab.tar.gz"])
def test_load_cifar10_names_the_layouts_that_it_reads_instead_of_matlab(tmp_path, place):
    folder = tmp_path / "unpacked" if place.endswith("gz") else tmp_path / place
    folder.mkdir(exist_ok=True)
    (folder / "data_batch_1.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    if place.endswith("gz"):
        with tarfile.open(tmp_path / place, "w:gz") as archive:
            archive.add(folder, "cifar-10-batches-mat")
    with pytest.raises(ValueError, match=r"the Matlab layout, expected .*python.* or .*binary"):
        load_cifar10(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFOs among files")
@pytest.mark.parametrize("name", ["data_batch_1", "test_batch.bin", "cifar-10-python.tar.gz"])
def test_load_cifar10_does_not_wait_for_a_fifo(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for read, path in ((load_cifar10, tmp_path), (load_cifar10, tmp_path / name)):
        with pytest.raises(ValueError, match=f"{name}: got a FIFO, expected a regular file"):
            read(path)
    with pytest.raises(ValueError, match=f"{name}: got a FIFO, expected a regular file"):
        read_python_batch(tmp_path / name)


def test_files_too_large_for_a_batch_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "_LARGEST_FILE", 1_000)
    folder = _folder(tmp_path)
    for read in (load_cifar10, lambda path: read_python_batch(path / "data_batch_1")):
        with pytest.raises(ValueError, match="data_batch_1: got more than 1,000 bytes, expected"):
            read(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_load_cifar10_notices_any_flipped_bit_of_an_archive(tmp_path, layout):
    """The checksum of a gzip file stands last, behind all that is needed."""
    path = _archive(tmp_path, layout)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(10, len(content), 20):  # the gzip header holds no content
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"tar\.gz.*: got "):
            load_cifar10(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_load_cifar10_reports_a_truncated_archive(tmp_path, kept):
    path = _archive(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=r"python.tar.gz: got .*interrupted download"):
        load_cifar10(path)


@pytest.mark.parametrize("content", [b"", b"<html>Please log in</html>", b"\x1f\x8b" + b"x" * 99])
def test_load_cifar10_reports_a_file_that_is_no_archive(tmp_path, content):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"python.tar.gz: got a broken archive .*delete it"):
        load_cifar10(tmp_path)


def test_load_cifar10_reports_a_damaged_archive(tmp_path):
    path = _archive(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 5000] = b"\xff" * 5000
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"python.tar.gz.*: got "):
        load_cifar10(path)


def _forged(path, name, **fields):
    """Write an archive with one empty member of the given name and header fields."""
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(member)
    return path


@pytest.mark.parametrize("name", ["../data_batch_1", "a/../../data_batch_1", "/tmp/data_batch_1"])
def test_load_cifar10_refuses_an_archive_with_a_path_outside(tmp_path, name):
    path = _forged(tmp_path / "cifar-10-python.tar.gz", name)
    with pytest.raises(ValueError, match=f"{re.escape(repr(name))}, which points outside"):
        load_cifar10(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_load_cifar10_refuses_an_archive_with_a_link_or_device(tmp_path, kind):
    path = _forged(tmp_path / "x.tar.gz", "data_batch_1", type=kind, linkname="/etc/passwd")
    with pytest.raises(
        ValueError, match=r"'data_batch_1' \(a link or device\), expected regular files"
    ):
        load_cifar10(path)


def test_load_cifar10_refuses_a_member_too_large_for_a_batch(tmp_path):
    path = tmp_path / "x.tar"
    member = tarfile.TarInfo("data_batch_1")
    member.size = 1 << 40
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(ValueError, match="of 1099511627776 bytes, expected at most"):
        load_cifar10(path)


def test_load_cifar10_refuses_a_batch_that_comes_twice(tmp_path):
    path = tmp_path / "x.tar"
    content = _pickled(*_pixels(0))
    with tarfile.open(path, "w") as archive:
        for folder in "ab":
            member = tarfile.TarInfo(f"{folder}/data_batch_1")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(ValueError, match="got a second data_batch_1, expected each batch once"):
        load_cifar10(path)


def _read(tmp_path, content):
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    return read_python_batch(path)


def test_read_python_batch_takes_any_number_of_images_unless_told(tmp_path):
    data, labels = _pixels(0)
    images, found = _read(tmp_path, _pickled(data[:7], labels[:7]))
    np.testing.assert_array_equal(images, data[:7].reshape(7, 3, 32, 32))
    assert found.tolist() == labels[:7]


class _Call:
    """Pickles as a call of any function, as a forged file does."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [
        (os.system, "touch was_here", f"{os.system.__module__}.system"),
        (eval, "1", r"\w*builtin\w*.eval"),
        (np.load, "x.npy", "numpy.load"),
        (np.frombuffer, b"x", "numpy.frombuffer"),
    ],
)
def test_read_python_batch_refuses_a_pickle_with_a_forbidden_global(
    tmp_path, monkeypatch, function, argument, name
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=f"data_batch_1: its pickle asks for the forbidden .*{name}"
    ):
        _read(tmp_path, _pickled(_Call(function, argument), []))
    assert not (tmp_path / "was_here").exists()


def test_read_python_batch_refuses_a_dotted_path_through_an_admitted_global(tmp_path):
    content = b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__reduce__\x93."
    with pytest.raises(ValueError, match=r"forbidden global numpy\.ndarray\.__reduce__"):
        _read(tmp_path, content)


def test_read_python_batch_refuses_a_memo_far_away(tmp_path):
    content = _pickled(*_pixels(0))
    put = b"r\xff\xff\xff\x07"
    with pytest.raises(ValueError, match=r"instruction 2 stores a value at index 134217727"):
        _read(tmp_path, content[:3] + put + content[3:])


def test_read_python_batch_lets_no_pickle_set_attributes(tmp_path):
    encode = b"\x80\x02c_codecs\nencode\n"
    state = b"}X\x05\0\0\0helloK\x01s"
    for changed in (encode + state + b"b.", encode + b"N" + state + b"\x86b."):
        with pytest.raises(ValueError, match=r"got a broken pickle"):
            _read(tmp_path, changed)


def test_read_python_batch_refuses_an_array_of_objects(tmp_path):
    with pytest.raises(ValueError, match=r"array of dtype b?'O8'"):
        _read(tmp_path, _pickled(np.array([[None]]), [0]))


def test_messages_show_no_more_than_the_beginning_of_a_value(tmp_path):
    text = b"X" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20)
    nested = b"(" + b"q\0h\0h\0\x86" * 6
    for name in (b"numpy\ndtype", b"_codecs\nencode"):
        for value in (text, b"B" + text[1:], text + nested[1:]):
            with pytest.raises(ValueError, match="broken pickle") as caught:
                _read(tmp_path, b"\x80\x02c" + name + b"\nNq\0" + value + b"\x86R.")
            assert len(str(caught.value)) < 500


def test_read_python_batch_refuses_another_encoding(tmp_path):
    content = _pickled(*_pixels(0)).replace(b"latin1", b"rot_13")
    with pytest.raises(ValueError, match="encoding 'rot_13'"):
        _read(tmp_path, content)


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.9, 0.9999])
def test_read_python_batch_reports_a_truncated_file(tmp_path, kept):
    content = _python_2(*_pixels(0))
    with pytest.raises(ValueError, match=r"data_batch_1: got a broken pickle .*interrupted"):
        _read(tmp_path, content[: int(len(content) * kept)])


def test_read_python_batch_survives_any_damaged_byte(tmp_path):
    content = _python_2(*(part[:2] for part in _pixels(0)))
    body = content.index(b"tb\x89T") + 8
    messages, shapes = [], set()
    for position in [*range(body), *range(len(content) - 3, len(content))]:
        for value in (0, 46, 82, 255):
            damaged = content[:position] + bytes([value]) + content[position + 1 :]
            try:
                images, _ = _read(tmp_path, damaged)
            except ValueError as error:
                messages.append(str(error))
            else:
                shapes.add(images.shape[1:])
    assert all("data_batch_1: " in message for message in messages)
    assert shapes == {(3, 32, 32)}


def _wrong_batches():
    data, labels = _pixels(0)
    return {
        "got rows of 3071 values, expected 3072": (data[:, :-1], labels),
        "got data of uint8 and shape (61440,), expected a uint8": (data.ravel(), labels),
        "got data of list, expected a uint8": ([1, 2], labels),
        "got 19 labels for 20 images, expected one for each": (data, labels[:-1]),
        "got the label 10, expected 0 <= label < 10": (data, [*labels[:-1], 10]),
        "got the label -1, expected 0 <= label < 10": (data, [*labels[:-1], -1]),
        "got labels that are not integers": (data, [*labels[:-1], "cat"]),
        "got labels of NoneType, expected a list": (data, None),
    }


@pytest.mark.parametrize("message", _wrong_batches())
def test_read_python_batch_refuses_wrong_content(tmp_path, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        _read(tmp_path, _pickled(*_wrong_batches()[message]))


@pytest.mark.parametrize(
    ("value", "message"),
    [([1], "got a pickled list, expected"), ({b"data": 1}, "got no entry b'labels', expected")],
)
def test_read_python_batch_refuses_another_kind_of_pickle(tmp_path, value, message):
    with pytest.raises(ValueError, match=message):
        _read(tmp_path, pickle.dumps(value, protocol=2))


def test_python_2_sample_has_the_opcodes_of_the_official_files():
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops(_python_2(*_pixels(0)))}
    assert {"SHORT_BINSTRING", "BINSTRING", "GLOBAL", "BUILD"} <= opcodes


@pytest.mark.skipif("MINIDL_CIFAR10" not in os.environ, reason="MINIDL_CIFAR10 names no CIFAR-10")
def test_load_cifar10_reads_the_real_images(monkeypatch):
    monkeypatch.setattr(cifar10, "_BATCH_ROWS", 10_000)
    train, test = load_cifar10(Path(os.environ["MINIDL_CIFAR10"]))
    assert train.images.shape == (50_000, 3, 32, 32)
    assert test.images.shape == (10_000, 3, 32, 32)
    assert np.bincount(train.labels).tolist() == [5_000] * 10
    assert np.bincount(test.labels).tolist() == [1_000] * 10
    assert test.labels[:5].tolist() == [3, 8, 8, 0, 6]  # cat, ship, ship, airplane, frog
