"""Files of labelled sentences, MR and toy_reviews: what is read, and what is refused and where."""

from __future__ import annotations

import csv
import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import minidl
from minidl import models, optim
from minidl.data import (
    BucketLoader,
    TextSet,
    Vocabulary,
    load_mr,
    load_toy_reviews,
    read_lines,
    read_table,
    tokenize,
)
from minidl.functional import cross_entropy

MR = os.environ.get("MINIDL_MR", "")


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Plain lines


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [0, 1, 3])
def test_lines_end_in_newlines_carriage_returns_or_both(end, last, tmp_path):
    path = written(tmp_path, "lines.txt", end.join(["good film", "bad film", "so so"]) + end * last)
    assert read_lines(path) == ["good film", "bad film", "so so"]
    rows = end.join(["text,label", "good film,1", "bad film,0"])
    objects = ['{"text": "good film", "label": 1}', '{"text": "bad film", "label": 0}']
    tables = {"a.csv": rows, "a.tsv": rows.replace(",", "\t"), "a.jsonl": end.join(objects)}
    for name, content in tables.items():
        found = read_table(written(tmp_path, name, content + end * last))
        assert found.texts == ("good film", "bad film")
        assert found.labels.tolist() == [1, 0]


def test_line_ends_may_be_mixed(tmp_path):
    path = written(tmp_path, "lines.txt", b"one\rtwo\nthree\r\nfour")
    assert read_lines(path) == ["one", "two", "three", "four"]


def test_lines_end_at_nothing_else(tmp_path):
    content = b"one\x85 more \r\ntwo\x1c\x0b\x0c three\nfour"
    path = written(tmp_path, "lines.txt", content)
    wanted = ["one\N{HORIZONTAL ELLIPSIS} more ", "two\x1c\x0b\x0c three", "four"]
    assert read_lines(path, "cp1252") == wanted
    assert len(read_lines(path, "latin-1")) == 3  # where str.splitlines finds 7
    odd = "a\x85b\N{LINE SEPARATOR}c\N{PARAGRAPH SEPARATOR}d"
    assert read_lines(written(tmp_path, "odd.txt", f"{odd}\n{odd}\n")) == [odd, odd]
    for name, content in {
        "a.csv": f"text,label\n{odd},1\n",
        "a.tsv": f"text\tlabel\n{odd}\t1\n",
        "a.jsonl": f'{{"text": "{odd}", "label": 1}}\n',
    }.items():
        assert read_table(written(tmp_path, name, content)).texts == (odd,)


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_no_text_and_must_fit_the_encoding(encoding, tmp_path):
    content = "text,label\nna\xefve,1\n".encode(encoding)
    path = written(tmp_path, "a.csv", content)
    for fitting in {encoding, "utf-8" if "8" in encoding else f"{encoding}-le"}:
        assert read_table(path, encoding=fitting).texts == ("na\xefve",)
        assert read_lines(path, fitting)[0] == "text,label"
    name = encoding.removesuffix("-sig")
    others = {"utf-8", "utf-16", "utf-32", "utf-16-be", "cp1252", "latin-1", "ascii"} - {name}
    for other in others:
        for read in (read_lines, lambda path, other: read_table(path, encoding=other)):
            with pytest.raises(
                ValueError,
                match=rf"a\.csv: got the byte order mark of {name}.*pass encoding='{name}",
            ):
                read(path, other)


def test_marks_where_files_were_joined_are_no_text(tmp_path):
    part = "one\ntwo\n".encode("utf-8-sig")
    assert read_lines(written(tmp_path, "a.txt", part + part)) == ["one", "two", "one", "two"]


def test_wide_characters_without_a_mark_are_refused(tmp_path):
    path = written(tmp_path, "a.csv", "text,label\ngood,1\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"a\.csv, line 1: got a NUL character.*'utf-16-le'"):
        read_table(path)
    assert read_table(path, encoding="utf-16-le").texts == ("good",)
    with pytest.raises(ValueError, match=r"a\.csv: UTF-16 stream does not start with BOM"):
        read_lines(path, "utf-16")
    path = written(tmp_path, "b.jsonl", b'{"text": "a", "label": 1}\n' + b"\0" * 9)
    with pytest.raises(ValueError, match=r"b\.jsonl, line 2: got a NUL character, expected text"):
        read_table(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("place", [1, 2, 3_000])
def test_the_line_of_a_byte_that_does_not_fit_is_right(end, place, tmp_path):
    lines = [b"a film of 2001"] * 4_000
    lines[place - 1] += b"\xff"
    path = written(tmp_path, "lines.txt", end.encode().join(lines))
    with pytest.raises(ValueError, match=rf"lines\.txt, line {place}: byte 0xff does not fit"):
        read_lines(path)


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (b"", "utf-8", r"lines\.txt: the file is empty, expected lines of text"),
        (b"\n \n", "utf-8", r"lines\.txt: the file is empty"),
        (b"a\n\nb\n", "utf-8", r"lines\.txt, line 2: got an empty line, expected a sentence"),
        (b"a\n \r\nb", "utf-8", r"lines\.txt, line 2: got an empty line"),
        (b"a\r\rb\r", "utf-8", r"lines\.txt, line 2: got an empty line"),
        (b"a\nb\x85\n", "utf-8", r"line 2: byte 0x85 does not fit the encoding 'utf-8'; is the"),
        (b"a\x81\n", "cp1252", r"line 1: byte 0x81 does not fit the encoding 'cp1252'"),
        (b"a\n", "utf-9", r"lines\.txt: unknown encoding: utf-9"),
    ],
)
def test_lines_that_are_none_are_refused(content, encoding, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_lines(written(tmp_path, "lines.txt", content), encoding)


def test_a_file_that_is_not_there_is_named(tmp_path):
    for read in (read_lines, lambda path: read_table(path.with_suffix(".csv"))):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read(tmp_path / "nowhere.txt")


# Tables


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'label,text,id\n5,"good, ""very"" good\nindeed",1\n-1,bad,2\n+5,fine,3\n'),
        ("a.tsv", 'text\tlabel\ngood, "very" good\t5\r\nbad\t-1\nfine\t5'),
        ("a.JSONL", '{"text": "good", "label": 5}\n{"label": "-1", "text": "bad"}\n'),
    ],
)
def test_labelled_texts_are_read(name, content, tmp_path):
    found = read_table(written(tmp_path, name, content))
    assert found.classes == ("-1", "5")
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == [1, 0, 1][: len(found.texts)]
    assert found.texts[0].startswith("good")
    if name == "a.csv":
        assert found.texts[0] == 'good, "very" good\nindeed'
    if name == "a.tsv":
        assert found.texts[0] == 'good, "very" good'


def test_columns_and_encoding_are_as_asked(tmp_path):
    path = written(tmp_path, "a.csv", "stars,review\n1,na\xefve\n2,ok\n".encode("cp1252"))
    found = read_table(path, "review", "stars", "cp1252")
    assert found == (("na\xefve", "ok"), pytest.approx(np.array([0, 1])), ("1", "2"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a\.csv: got no rows"),
        ("a.tsv", "\n\n", r"a\.tsv: got no rows"),
        ("a.jsonl", " \n", r"a\.jsonl: got no rows"),
        ("a.csv", "text,label\n", r"a\.csv: got no rows, expected at least one"),
        ("a.csv", "words,label\nx,1\n", r"a\.csv, line 1: no column 'text' among \['words',"),
        ("a.csv", "text,y\nx,1\n", r"line 1: no column 'label' among \['text', 'y'\]"),
        (
            "a.csv",
            "text,label\nx,1\n,0\n",
            r"a\.csv, line 3: got '' in 'text', expected a non-empty",
        ),
        ("a.csv", "text,label\nx,1\n  ,0\n", r"line 3: got '  ' in 'text', expected a non-empty"),
        (
            "a.csv",
            "text,label\nx,\n",
            r"a\.csv, line 2: got no label in 'label', expected an integer or a word",
        ),
        (
            "a.csv",
            "text,label\nx,1\ny,good\n",
            r"line 3: got the label 'good' in 'label', expected a",
        ),
        *(
            ("a.csv", f"text,label\nx,{label}\n", rf"line 2: got the label '{label}' in 'label'")
            for label in ("1.5", "1.0", ".5", "1e3", "nan", "-inf", "12345678901234567890")
        ),
        ("a.csv", f"text,label\nx,{'9' * 30}\n", "line 2: got the label '999"),
        ("a.csv", 'text,label\n"x\ny",1\nz,w\n', r"line 4: got the label 'w'"),
        (
            "a.csv",
            "text,label\ngood, very,1\n",
            r"line 2: got 3 fields, expected 2: .*a comma missing",
        ),
        ("a.csv", "text,label\nx\n", r"a\.csv, line 2: got 1 fields, expected 2"),
        ("a.csv", "\ntext,label\n\nx\n", r"a\.csv, line 4: got 1 fields, expected 2"),
        ("a.csv", 'text,label\n"x\r\n\r\ny",1\n\nz,w\n', r"line 6: got the label 'w'"),
        ("a.csv", 'text,label\r"x\ry",1\rz\r', r"a\.csv, line 4: got 1 fields"),
        ("a.csv", "text,text,label\nx,y,1\n", r"a\.csv, line 1: two columns 'text' among \['te"),
        ("a.csv", "\ntext,label,label\nx,1,0\n", r"line 2: two columns 'label' among"),
        ("a.csv", 'text,label\nx,1\n"y,1\n', r"a\.csv, line 3: unexpected end of data"),
        ("a.csv", b"text,label\nx,1\n\xff,0\n", r"a\.csv, line 3: byte 0xff does not fit"),
        ("a.tsv", "text,label\nx,1\n", r"a\.tsv, line 1: no column 'text' among \['text,label"),
        ("a.jsonl", '{"text": "x", "label": 1}\n{"tex', r"a\.jsonl, line 2: got invalid JSON: "),
        ("a.jsonl", '{"text": "x", "label": 1}\n\n{', r"a\.jsonl, line 3: got invalid JSON"),
        ("a.jsonl", '{"text": "x", "label": 1, "label": 0}', r"line 1: got invalid JSON: an obje"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl, line 1: got invalid JSON: "),
        ("a.jsonl", '{"text": "x", "label": null}', r"line 1: got no label in 'label'"),
        ("a.jsonl", '{"text": "x", "label": [1]}', r"line 1: got the label \[1\] in 'label'"),
        ("a.jsonl", "[1]\n", r"a\.jsonl, line 1: no key 'text' among a list"),
        ("a.jsonl", '{"a": 1}\n', r"line 1: no key 'text' among \['a'\]"),
        ("a.jsonl", '{"text": 5, "label": 1}\n', r"line 1: got 5 in 'text', expected a non-empty"),
        ("a.jsonl", '{"text": "x"}\n', r"a\.jsonl, line 1: got no label in 'label'"),
        ("a.jsonl", '{"text": "x", "label": true}\n', r"line 1: got the label True"),
        ("a.jsonl", '{"text": "x", "label": 1.0}\n', r"line 1: got the label 1.0"),
        (
            "a.txt",
            "x\n",
            r"read_table: got .*a\.txt, expected a name ending in \.csv, \.tsv, \.js",
        ),
    ],
)
def test_what_is_no_table_is_refused_with_file_and_line(name, content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_table(written(tmp_path, name, content))


@pytest.mark.parametrize("blank", ["\n", "\n\n\n", " \n", "\t \n"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_blank_lines_are_no_rows(blank, name, tmp_path):
    rows = ["text,label\n", "good,1\n", "bad,0\n"]
    if name == "a.tsv":
        rows = [row.replace(",", "\t") for row in rows]
    if name == "a.jsonl":
        rows = ['{"text": "good", "label": 1}\n', '{"text": "bad", "label": 0}\n']
    for content in (
        "".join(rows) + blank,
        blank.join(rows),
        blank + "".join(rows),
        ("".join(rows) + blank).replace("\n", "\r\n"),
    ):
        found = read_table(written(tmp_path, name, content))
        assert found.texts == ("good", "bad")
        assert found.labels.tolist() == [1, 0]


def test_empty_rows_of_a_spreadsheet_are_none(tmp_path):
    path = written(tmp_path, "a.csv", "id,text,label\r\n1,good,1\r\n,,\r\n2,bad,0\r\n,,\r\n,,\r\n")
    assert read_table(path).texts == ("good", "bad")


@pytest.mark.parametrize("length", [131_072, 131_073, 1_000_000])
def test_texts_may_be_long(length, tmp_path):
    text = "a " * (length // 2) + "b" * (length % 2)
    limit = csv.field_size_limit()
    for name, content in {
        "a.csv": f'label,text\n1,"{text}"\n2,{text}\n',
        "a.tsv": f"label\ttext\n1\t{text}\n2\t{text}\n",
    }.items():
        assert read_table(written(tmp_path, name, content)).texts == (text, text)
        assert csv.field_size_limit() == limit  # the limit is the whole process's
    with pytest.raises(ValueError, match="got no label"):
        read_table(written(tmp_path, "b.csv", f"label,text\n,{text}\n"))
    assert csv.field_size_limit() == limit


def test_threads_that_read_long_texts_leave_the_limit_of_csv_as_it_was(tmp_path):
    text = "a" * 200_000
    path = written(tmp_path, "a.csv", f"label,text\n1,{text}\n")
    before = csv.field_size_limit(1000)  # the reader's own, for other files
    try:
        with ThreadPoolExecutor(8) as threads:
            assert {found.texts for found in threads.map(read_table, [path] * 50)} == {(text,)}
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


def test_half_an_emoji_is_read_as_what_can_be_written(tmp_path):
    content = (
        r'{"text": "nice \ud83d", "label": "a\udc00"}' + "\n"
        r'{"text": "\ud83d\ude00 \ude00\ud83d", "label": "b"}' + "\n"
    )
    found = read_table(written(tmp_path, "tweets.jsonl", content))
    assert found.texts == ("nice \ufffd", "\U0001f600 \ufffd\ufffd")
    assert found.classes == ("a\ufffd", "b")
    for part in (*found.texts, *found.classes):
        part.encode()


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_reading_takes_little_more_memory_than_its_result(name, tmp_path):
    row = {"a.csv": "%s,1\n", "a.jsonl": '{"text": "%s", "label": 1}\n'}.get(name, "%s\n")
    head = "text,label\n" if name == "a.csv" else ""
    lines = [row % (f"{i:06}" + "word " * 40) for i in range(20_000)]
    lines[7] = lines[7].replace("word", "\U0001f600", 1)  # wide: four bytes a character in memory
    path = written(tmp_path, name, head + "".join(lines))
    del lines
    tracemalloc.start()
    found = read_lines(path) if name == "a.txt" else read_table(path)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found
    assert peak < 1.5 * held


# Splits


def test_a_split_loses_nothing_and_mixes():
    texts = tuple(str(i) for i in range(100))
    everything = TextSet(texts, np.arange(100) % 2, ("odd", "even"))
    train, test = everything.split(0.1, np.random.default_rng(0))
    assert (len(train.texts), len(test.texts)) == (90, 10)
    assert sorted(train.texts + test.texts) == sorted(texts)
    for part in (train, test):
        assert [int(text) % 2 for text in part.texts] == part.labels.tolist()
        assert part.classes == everything.classes
    assert test.texts != texts[:10]
    assert everything.first(3).texts == ("0", "1", "2")
    for share in (0, 0.001, 1):
        with pytest.raises(ValueError, match=rf"TextSet.split: got 100 texts and share={share}"):
            everything.split(share, np.random.default_rng(0))


# MR


def test_mr_that_is_not_there_or_cut_short_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"rt-polarity.neg is missing; pass download=True"):
        load_mr(tmp_path)
    written(tmp_path, "rt-polarity.neg", b"dull\n" * 5000)
    with pytest.raises(ValueError, match=r"neg has 5000 lines, expected 5331; is it damaged\?"):
        load_mr(tmp_path)


def test_mr_is_fetched_with_size_and_md5(tmp_path, monkeypatch):
    asked = []

    def fetch(urls, path, *, size, md5):
        asked.append((urls[0].rpartition("/")[2], size, len(md5), len(urls)))
        path.write_bytes(b"a film\n" * 5331)

    monkeypatch.setattr("minidl.data.reviews.fetch", fetch)
    found = load_mr(tmp_path, download=True)
    assert asked == [("rt-polarity.neg", 612_256, 32, 2), ("rt-polarity.pos", 626_139, 32, 2)]
    assert np.bincount(found.labels).tolist() == [5331, 5331]


@pytest.mark.skipif(not Path(MR, "rt-polarity.pos").is_file(), reason="MINIDL_MR names no MR")
def test_mr_has_all_its_sentences():
    found = load_mr(MR)
    assert np.bincount(found.labels).tolist() == [5331, 5331]
    assert found.classes == ("negative", "positive")
    assert found.texts[5331].startswith("the rock is destined to be the 21st century's new")
    assert sum("\N{HORIZONTAL ELLIPSIS}" in text for text in found.texts) == 22


# toy_reviews


def test_toy_reviews_are_balanced_distinct_and_the_same_again():
    train, test = load_toy_reviews()
    assert (len(train.texts), len(test.texts)) == (4000, 1000)
    assert len(set(train.texts + test.texts)) == 5000
    assert np.bincount(train.labels).tolist() == [2000, 2000]
    assert np.bincount(test.labels).tolist() == [500, 500]
    assert load_toy_reviews()[1].texts == test.texts
    assert load_toy_reviews(1)[1].texts != test.texts
    for options in ({"train": 3}, {"test": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="load_toy_reviews: got"):
            load_toy_reviews(**options)


def test_a_bag_of_words_does_not_tell_toy_reviews():
    train, test = load_toy_reviews()
    words = [[tokenize(text) for text in part.texts] for part in (train, test)]
    vocabulary = Vocabulary.build(words[0])
    counts = [
        np.stack([np.bincount(row, minlength=len(vocabulary)) for row in vocabulary.encode(part)])
        for part in words
    ]
    counts = [np.c_[part[:, 1:], np.ones(len(part))].astype(float) for part in counts]
    weight = np.linalg.lstsq(counts[0], 2.0 * train.labels - 1)[0]
    accuracy = ((counts[1] @ weight > 0) == test.labels).mean()
    assert 0.55 < accuracy < 0.75


def test_toy_reviews_hold_negations_that_turn_nothing_round():
    train, _ = load_toy_reviews()
    negative = [" not " in f" {text} " for text in train.texts]
    rates = [
        np.mean([n for n, y in zip(negative, train.labels, strict=True) if y == c]) for c in (0, 1)
    ]
    assert min(rates) > 0.05
    assert abs(rates[0] - rates[1]) < 0.05


@pytest.mark.slow
def test_a_text_cnn_tells_toy_reviews():
    rng = minidl.manual_seed(0)
    train, test = load_toy_reviews()
    words = [[tokenize(text) for text in part.texts] for part in (train, test)]
    vocabulary = Vocabulary.build(words[0])
    inputs, test_inputs = (vocabulary.encode(part, ending=5) for part in words)
    model = models.TextCNN(len(vocabulary), 64, 50, rng=rng)
    adam = optim.Adam(model.parameters(), lr=2e-3)
    options = {"batch_size": 50, "shuffle": True, "rng": rng, "ending": 5}
    loader = BucketLoader(inputs, train.labels, **options)
    for _ in range(4):
        for batch, labels in loader:
            adam.zero_grad()
            cross_entropy(model(batch), labels).backward()
            adam.step()
    with minidl.no_grad():
        guesses = model.eval()(minidl.Tensor(test_inputs)).numpy().argmax(1)
    assert (guesses == test.labels).mean() > 0.95


# Hostile files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_is_refused_at_once(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="got a FIFO, expected a regular file"):
        (read_lines if name == "a.txt" else read_table)(tmp_path / name)


@pytest.mark.parametrize(
    "value",
    ["[" * 900 + "]" * 900, "[" + "1," * 100_000 + "1]", '{"a": ' * 900 + "1" + "}" * 900],
)
@pytest.mark.parametrize("key", ["text", "label"])
def test_values_that_are_deep_or_long_are_named_in_short(key, value, tmp_path):
    row = {"text": '"good"', "label": "1", key: value}
    content = "{" + ", ".join(f'"{name}": {what}' for name, what in row.items()) + "}\n"
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: got .*\.\.\.") as caught:
        read_table(written(tmp_path, "a.jsonl", content))
    assert len(str(caught.value)) < 400


def test_a_header_of_many_columns_is_named_in_short(tmp_path):
    path = written(tmp_path, "a.csv", ",".join(f"c{i}" for i in range(100_000)) + "\n")
    with pytest.raises(ValueError, match=r"no column 'text' among \['c0'.*\.\.\.\]") as caught:
        read_table(path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("content", [",ab" * 600_000, '"a\n"' + ',"ab\n"' * 600_000])
def test_the_fields_of_a_row_are_limited_also_over_many_lines(content, tmp_path):
    with pytest.raises(ValueError, match=r"a.csv, line \d+: got a row of more than 524,288 fi"):
        read_table(written(tmp_path, "a.csv", "text,label\n" + content))


@pytest.mark.parametrize("read", [read_table, read_lines])
def test_a_line_is_limited(read, tmp_path, monkeypatch):
    monkeypatch.setattr("minidl.data.reviews._LONGEST_LINE", 100)
    path = written(tmp_path, "a.csv", "text,label\n" + "a" * 96 + ",1\n" + "b" * 100 + ",0\n")
    with pytest.raises(ValueError, match=r"a.csv, line 3: got 100 characters or more"):
        read(path)


def test_a_quote_that_is_never_closed_does_not_take_all_memory(tmp_path):
    path = written(tmp_path, "a.csv", 'text,label\n"' + ("good " * 1000 + "\n") * 4000)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a\.csv, line 2: field larger than field limit"):
        read_table(path)
    assert tracemalloc.get_traced_memory()[1] < 48 << 20
    tracemalloc.stop()


def test_a_label_that_is_nearly_a_fraction_takes_linear_time(tmp_path):
    label = "1" * 300_000 + "x"  # half an hour, if each digit were tried as the last one
    found = read_table(written(tmp_path, "a.csv", f"text,label\ngood,{label}\n"))
    assert found.classes == (label,)


def test_many_blank_lines_are_not_collected(tmp_path):
    path = written(tmp_path, "a.txt", "\n" * 100_000)
    tracemalloc.start()
    with pytest.raises(ValueError, match="the file is empty"):
        read_lines(path)
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["zlib", "undefined", "nothing", "utf\0"])
def test_an_encoding_that_is_none_is_refused(encoding, tmp_path):
    with pytest.raises(ValueError, match=r"encoding|codec|null"):
        read_lines(written(tmp_path, "a.txt", "a..b\n"), encoding)
