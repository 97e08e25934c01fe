"""Class numbers are the same in a training set and a test set, or a warning says so."""

import warnings

import numpy as np
import pytest
from PIL import Image

from minidl.data import load_image_folder, read_table


def table(folder, name, labels):
    """Write a table whose texts are its labels, so that each text names its class."""
    folder.mkdir(exist_ok=True)
    if name.endswith("jsonl"):
        rows = [f'{{"text": "{label}", "label": "{label}"}}\n' for label in labels]
    else:
        between = "," if name.endswith("csv") else "\t"
        rows = [f"{a}{between}{b}\n" for a, b in (("text", "label"), *((x, x) for x in labels))]
    (folder / name).write_text("".join(rows), encoding="utf-8")
    return folder / name


def images(folder, classes):
    """Write one image for each class, whose grey value is the class's index in ABCD."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        Image.new("L", (4, 4), 10 * "ABCD".index(name)).save(folder / name / "1.png")
    return folder


SUFFIXES = ("csv", "tsv", "jsonl")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("train", "test"),
    [
        (("1", "3", "5"), ("5", "3", "5")),
        (("negative", "neutral", "positive"), ("positive", "positive", "negative")),
        (("a", "b"), ("b",)),
        (("2", "10", "-1"), ("10", "+2", "010")),
    ],
)
def test_a_table_read_with_the_classes_of_another_numbers_them_alike(suffix, train, test, tmp_path):
    first = read_table(table(tmp_path, f"train.{suffix}", train))
    second = read_table(table(tmp_path, f"test.{suffix}", test), classes=first.classes)
    assert second.classes == first.classes
    named = [second.classes[number] for number in second.labels]
    wanted = [str(int(name)) if name.strip("+-").isdigit() else name for name in test]
    assert named == wanted


def test_folders_read_with_the_classes_of_others_number_them_alike(tmp_path):
    train = load_image_folder(images(tmp_path / "train", "ABD"), 4, 4)
    test = load_image_folder(images(tmp_path / "test", "BD"), 4, 4, classes=train.classes)
    assert test.classes == train.classes == ("A", "B", "D")
    assert test.labels.tolist() == [1, 2]
    assert test.images[:, 0, 0, 0].tolist() == [10, 30]
    mine = load_image_folder(tmp_path / "train", 4, 4, classes=["D", "C", "A", "B"])
    assert mine.labels.tolist() == [0, 2, 3]
    assert mine.images[:, 0, 0, 0].tolist() == [30, 0, 10]


def test_integers_are_in_the_order_of_their_values_and_words_in_that_of_their_letters(tmp_path):
    found = read_table(table(tmp_path, "a.csv", ("10", "9", "-3", "+9", "09")))
    assert found.classes == ("-3", "9", "10")
    assert found.labels.tolist() == [2, 1, 0, 1, 1]
    found = read_table(table(tmp_path, "b.csv", ("positive", " negative ", "Neutral", "positive")))
    assert found.classes == ("Neutral", "negative", "positive")
    assert found.labels.tolist() == [2, 1, 0, 2]
    for name in ("10", "9", "1"):
        (tmp_path / "folders" / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "folders" / name / "x.png")
    assert load_image_folder(tmp_path / "folders", 4, 4).classes == ("1", "9", "10")


def test_a_class_that_is_not_among_the_given_ones_is_named_with_its_place(tmp_path):
    for suffix in SUFFIXES:
        path = table(tmp_path, f"a.{suffix}", ("good", "bad", "so so", "so so"))
        line = 3 if suffix == "jsonl" else 4
        with pytest.raises(
            ValueError, match=rf"a\.{suffix}, line {line}: got the class 'so so', expected one of"
        ):
            read_table(path, classes=("bad", "good"))
    images(tmp_path / "test", "AB")
    with pytest.raises(ValueError, match=r"test.B: got the class 'B', expected one of .*'A', 'C'"):
        load_image_folder(tmp_path / "test", 4, 4, classes=("A", "C"))


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        ("AB", TypeError, "got classes='AB', expected a tuple of names"),
        ({"A", "B"}, TypeError, "expected a tuple of names"),
        (("A", "B", "A"), ValueError, "expected each name once"),
        ((), ValueError, r"got the class 'A', expected one of classes=\[\]"),
    ],
)
def test_classes_that_are_none_are_refused(classes, error, message, tmp_path):
    with pytest.raises(error, match=message):
        load_image_folder(images(tmp_path / "x", "AB"), 4, 4, classes=classes)
    with pytest.raises(error, match=message):
        read_table(table(tmp_path, "a.csv", ("A", "B")), classes=classes)


def test_integers_may_be_given_as_integers(tmp_path):
    path = table(tmp_path, "a.csv", ("5", "1", "1"))
    assert read_table(path, classes=np.arange(1, 6)).labels.tolist() == [4, 0, 0]


def test_a_word_among_integers_is_refused_unless_it_is_given(tmp_path):
    path = table(tmp_path, "a.csv", ("1", "2", "unknown", "2"))
    with pytest.raises(
        ValueError, match=r"a\.csv, line 4: got the label 'unknown' in 'label', exp"
    ):
        read_table(path)
    assert read_table(path, classes=("unknown", 1, 2)).labels.tolist() == [1, 2, 0, 2]
    with pytest.raises(ValueError, match=r"line 3: got the label '7' in 'label', expected all"):
        read_table(table(tmp_path, "b.csv", ("seven", "7")))


def test_splits_that_number_a_class_differently_are_reported(tmp_path):
    read_table(table(tmp_path / "t", "train.csv", ("1", "3", "5")))
    path = table(tmp_path / "t", "test.csv", ("3", "5"))
    with pytest.warns(
        UserWarning, match=r"test.csv: the class '3' has the number 0, but 1 in .*tr"
    ):
        read_table(path)
    images(tmp_path / "pets" / "train", "ABC")
    images(tmp_path / "pets" / "test", "BC")
    load_image_folder(tmp_path / "pets" / "test", 4, 4)  # in either order
    with pytest.warns(UserWarning, match=r"train: the class 'B' has the number 1, but 0 in .*test"):
        load_image_folder(tmp_path / "pets" / "train", 4, 4)


def test_there_is_no_warning_where_nothing_is_wrong(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train = read_table(table(tmp_path, "train.csv", ("a", "b", "c")))
        read_table(table(tmp_path, "test.csv", ("b", "c")), classes=train.classes)
        read_table(table(tmp_path, "small.csv", ("a", "b")))  # the last class is absent
        read_table(table(tmp_path, "other.csv", ("x", "y")))  # another task
        read_table(table(tmp_path, "train.csv", ("b", "c")))  # the same file, changed
        read_table(table(tmp_path / "elsewhere", "test.csv", ("b", "c")))
