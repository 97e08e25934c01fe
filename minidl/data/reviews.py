"""Labelled sentences: your own files, and the movie reviews MR."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minidl.data.classes import brief, is_integer, number_classes
from minidl.data.images import datasets_folder
from minidl.files.download import download as fetch
from minidl.files.jsons import parse_json
from minidl.files.regular import open_regular

Row = tuple[int, Any, Any]
"""Line number, text, label."""


class TextSet(NamedTuple):
    """Hold labelled texts.

    Attributes:
        texts: as in the file.
        labels: int64 `(n,)`, 0 <= label < len(classes).
        classes: the name of each label, in label order.
    """

    texts: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def first(self, count: int) -> TextSet:
        """Return the first `count` texts with their labels, or all if there are fewer."""
        return TextSet(self.texts[:count], self.labels[:count], self.classes)

    def split(self, share: float, rng: np.random.Generator) -> tuple[TextSet, TextSet]:
        """Draw a `share` of the texts for testing; return the training set and the test set.

        Raises:
            ValueError: one of the two would be empty.
        """
        count = round(len(self.texts) * share)
        if not 0 < count < len(self.texts):
            raise ValueError(
                f"TextSet.split: got {len(self.texts)} texts and share={share}, which leaves "
                f"{len(self.texts) - count} to train on and {count} to test on, expected at "
                "least one of each"
            )
        order = rng.permutation(len(self.texts))
        train, test = (
            TextSet(tuple(self.texts[i] for i in part), self.labels[part], self.classes)
            for part in (order[count:], order[:count])
        )
        return train, test


def read_lines(path: str | Path, encoding: str = "utf-8") -> list[str]:
    r"""Read a file with one sentence per line.

    Lines end in `\n`, `\r\n` or `\r`: `str.splitlines` would also break a line at an ellipsis of
    cp1252 that is read as latin-1. Blank lines at the end are ignored.

    Args:
        path: the file.
        encoding: of the file, which is not guessed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file or a line is empty, bytes do not fit the encoding, or there are NUL
            characters; the message names file and line.
    """
    lines, blank = list[str](), 0
    for number, line in enumerate(_lines(path, encoding), 1):
        if not line.strip():
            blank = blank or number
        elif blank:
            raise ValueError(f"{path}, line {blank}: got an empty line, expected a sentence")
        else:
            lines.append(line.rstrip("\r\n"))
    if not lines:
        raise ValueError(f"{path}: the file is empty, expected lines of text")
    return lines


def read_table(
    path: str | Path,
    text_column: str = "text",
    label_column: str = "label",
    encoding: str = "utf-8",
    *,
    classes: Iterable[str | int] | None = None,
) -> TextSet:
    r"""Read labelled texts from a `.csv`, `.tsv` or `.jsonl` file.

    A CSV or TSV file names its columns in the first line. In CSV, fields that contain commas,
    quotes or line breaks are in double quotes; in TSV, quotes have no meaning. A JSONL file has
    one object per line. Blank lines are skipped. A lone surrogate, as in a truncated JSON string,
    becomes U+FFFD, because it could not be encoded.

    Args:
        path: the file; its ending says which of the three it is.
        text_column: the column, or key, of the texts.
        label_column: the column, or key, of the labels: all integers, or all words.
        encoding: of the file, which is not guessed.
        classes: names of all classes in the order of their numbers; for a test set, those of the
            training set, `train.classes`. Some may have no texts. If None, the labels that occur:
            integers in ascending order, words sorted by code point.

    Returns:
        The texts; `classes` are the labels as strings, without surrounding spaces; integers are in
        their shortest form.

    Warns:
        UserWarning: without `classes`, a class has a different number than in the first set that
            was read from the same folder, such as the training set.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: `classes` is a string or a set, which has no order.
        ValueError: the ending is unknown, the file is empty, a column is missing or occurs twice, a
            row has another length, a text or label is missing, a label is a fraction or not among
            `classes`, labels mix integers and words, bytes do not fit the encoding, or there are
            NUL characters; the message names file and line.
    """
    readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".jsonl": _json_rows}
    suffix = Path(path).suffix.lower()
    if suffix not in readers:
        raise ValueError(f"read_table: got {path}, expected a name ending in {', '.join(readers)}")
    texts, labels, found = [], [], dict[str, str]()
    with _long_fields():
        for line, text, value in readers[suffix](path, text_column, label_column, encoding):
            where = f"{path}, line {line}"
            if not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f"{where}: got {brief(text)} in {text_column!r}, expected a non-empty string"
                )
            label = _label(where, label_column, value)
            if label not in found:
                first = next(iter(found), label)
                if classes is None and is_integer(label) != is_integer(first):
                    raise ValueError(
                        f"{where}: got the label {brief(value)} in {label_column!r}, expected all "
                        "integers or all words; pass classes to have both"
                    )
                found[label] = where
            texts.append(_replace_lone_surrogates(text))
            labels.append(label)
    if not texts:
        raise ValueError(f"{path}: got no rows, expected at least one text and label")
    numbers = number_classes(path, found, classes)
    return TextSet(
        tuple(texts), np.array([numbers[label] for label in labels], np.int64), tuple(numbers)
    )


def _label(where: str, column: str, value: Any) -> str:
    """Return the name of a label's class."""
    # For other types, `str` may take forever or recurse too deeply.
    name = _replace_lone_surrogates(str(value)).strip() if isinstance(value, str | int) else ""
    if is_integer(name):
        return str(int(name))
    if not name or not isinstance(value, str) or _FRACTION.fullmatch(name):
        got = f"the label {brief(value)}" if value not in (None, "") else "no label"
        raise ValueError(f"{where}: got {got} in {column!r}, expected an integer or a word")
    return name


_FRACTION = re.compile(  # possessive: linear time for any text
    r"[-+]?(\d++\.?\d*+|\.\d++)(e[-+]?\d++)?|[-+]?(nan|inf)", re.IGNORECASE
)
_limit_lock = threading.Lock()
_MOST_FIELDS, _LONGEST_LINE = 1 << 19, 1 << 25  # fields of a row, characters of a line
_LONGEST = 1 << 23  # characters in a field, so that an unclosed quote cannot fill the memory


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """Raise csv's limit of 131,072 characters per field, which applies to the whole process."""
    with _limit_lock:
        limit = csv.field_size_limit(_LONGEST)
        try:
            yield
        finally:
            csv.field_size_limit(limit)


def _csv_rows(path: str | Path, text: str, label: str, encoding: str) -> Iterator[Row]:
    fields = 0

    def counted() -> Iterator[str]:
        nonlocal fields
        for end in _lines(path, encoding):
            fields += end.count(options.get("delimiter", ","))
            if fields > _MOST_FIELDS:
                message = f"got a row of more than {_MOST_FIELDS:,} fields; is a quote left open?"
                raise ValueError(f"{path}, line {line}: {message}")
            yield end

    options: dict[str, Any] = {"strict": True}
    if Path(path).suffix.lower() == ".tsv":
        options |= {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(counted(), **options)
    line, header = 1, list[str]()
    try:
        for row in reader:
            fields = 0
            if not any(map(str.strip, row)):
                pass  # a blank line, or an empty row of a spreadsheet
            elif not header:
                header = row
                for name in (text, label):
                    if header.count(name) != 1:
                        many = "two columns" if name in header else "no column"
                        raise ValueError(
                            f"{path}, line {line}: {many} {name!r} among {brief(header)}"
                        )
                places = header.index(text), header.index(label)
            elif len(row) != len(header):
                raise ValueError(
                    f"{path}, line {line}: got {len(row)} fields, expected {len(header)}: "
                    f"{brief(header)}; is a text with a comma missing its quotes?"
                )
            else:
                yield line, row[places[0]], row[places[1]]
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {line}: {error}") from error


def _json_rows(path: str | Path, text: str, label: str, encoding: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(path, encoding), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{where}: got invalid JSON: {error}") from error
        if not isinstance(row, dict) or text not in row:
            found = brief(list(row)) if isinstance(row, dict) else f"a {type(row).__name__}"
            raise ValueError(f"{where}: no key {text!r} among {found}")
        yield number, row[text], row.get(label)


def _replace_lone_surrogates(text: str) -> str:
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_MARKED = ("utf-8", "utf-32-le", "utf-16-le", "utf-32-be", "utf-16-be")  # longer marks first


def _lines(path: str | Path, encoding: str) -> Iterator[str]:
    """Yield a file's lines with their ends, without a byte order mark."""
    number = 0
    try:
        with open_regular(path) as raw, io.TextIOWrapper(raw, encoding, newline="") as file:
            start = raw.read(4)
            raw.seek(0)
            its = next((name for name in _MARKED if start.startswith("\ufeff".encode(name))), None)
            if its and "\ufeff".encode(its).decode(encoding, "replace") not in ("", "\ufeff"):
                raise ValueError(
                    f"{path}: got the byte order mark of {its}, but encoding={encoding!r}; pass "
                    f"encoding={its!r}"
                )
            lines = iter(functools.partial(file.readline, _LONGEST_LINE), "")
            for number, line in enumerate(lines, 1):
                if len(line) == _LONGEST_LINE:
                    raise ValueError(
                        f"{path}, line {number}: got {_LONGEST_LINE:,} characters or more; is it "
                        "a text file?"
                    )
                if "\0" in line:
                    raise ValueError(
                        f"{path}, line {number}: got a NUL character, expected text; is the file "
                        "damaged, or in another encoding, such as 'utf-16-le'?"
                    )
                yield line.removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode(encoding, "replace")  # since the last line
        number += len(re.split(r"\r\n?|\n", before))
        raise ValueError(
            f"{path}, line {number}: byte 0x{error.object[error.start]:02x} does not fit the "
            f"encoding {encoding!r}; is the file in another one, such as 'cp1252'?"
        ) from error
    except (LookupError, UnicodeError) as error:
        raise ValueError(f"{path}: {error}") from error


_MR_FILES = {  # size and md5 of the files as published
    "rt-polarity.neg": (612_256, "1e35b7f7c5df24a135ca62b8eecded53"),
    "rt-polarity.pos": (626_139, "afcc7ff580b3b4df4bdb6528e6558ab5"),
}
_MR_MIRRORS = (
    "https://raw.githubusercontent.com/yoonkim/CNN_sentence/master/",
    "https://cdn.jsdelivr.net/gh/yoonkim/CNN_sentence@master/",
)


def load_mr(folder: str | Path | None = None, download: bool = False) -> TextSet:
    """Load MR: 10,662 sentences of movie reviews, half of them positive.

    Args:
        folder: of `rt-polarity.neg` and `rt-polarity.pos`; `mr` in `datasets_folder()` if None.
        download: fetch the files (1.2 MB) if they are missing, and check their size and md5.

    Returns:
        All sentences, the negative ones first. There is no test set: see `TextSet.split`.

    Raises:
        FileNotFoundError: the files are missing.
        OSError: no mirror delivered them.
        ValueError: a file is damaged.

    Source: B. Pang and L. Lee, Seeing stars (2005), sentence polarity dataset v1.0.
    """
    root = datasets_folder() / "mr" if folder is None else Path(folder).expanduser()
    texts: list[str] = []
    for name, (size, md5) in _MR_FILES.items():
        path = root / name
        if download:
            fetch([mirror + name for mirror in _MR_MIRRORS], path, size=size, md5=md5)
        elif not path.is_file():
            raise FileNotFoundError(
                f"load_mr: {path} is missing; pass download=True, or put it there by hand"
            )
        lines = read_lines(path, "cp1252")
        if len(lines) != 5331:
            raise ValueError(
                f"load_mr: {path} has {len(lines)} lines, expected 5331; is it damaged?"
            )
        texts += lines
    return TextSet(tuple(texts), np.repeat([0, 1], 5331).astype(np.int64), ("negative", "positive"))
