"""toy10: what it holds, that a seed repeats it, and that a bad cache costs nothing but time."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

from minidl.data import toy10
from minidl.data.images import datasets_folder
from minidl.data.toy10 import TOY10_CLASSES, load_toy10

SMALL = {"train": 100, "test": 50}


def _cache(folder):
    return folder / "toy10-seed0-100-50-batches-py"


def _assert_equal(got, wanted):
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.classes == other.classes


def test_toy10_of_full_size_is_balanced_and_deterministic(tmp_path):
    train, test = load_toy10(tmp_path)
    assert train.images.shape == (10_000, 3, 32, 32)
    assert test.images.shape == (2_000, 3, 32, 32)
    assert np.bincount(train.labels).tolist() == [1_000] * 10
    assert np.bincount(test.labels).tolist() == [200] * 10
    drawn_again = toy10._draw_set(2_000, (0, 1))
    np.testing.assert_array_equal(test.images, drawn_again.images)
    assert (tmp_path / "toy10-batches-py").is_dir()
    _assert_equal(load_toy10(tmp_path), (train, test))


def test_toy10_has_the_types_of_an_image_set(tmp_path):
    train, _ = load_toy10(tmp_path, **SMALL)
    assert train.images.dtype == np.uint8
    assert train.labels.dtype == np.int64
    assert train.classes == TOY10_CLASSES
    assert len(set(TOY10_CLASSES)) == 10
    train.images[0] = 0  # writable


def test_toy10_mean_colour_does_not_tell_the_class(tmp_path):
    train, test = load_toy10(tmp_path, train=2_000, test=1_000)
    colours = [np.c_[s.images.mean((2, 3)) / 255, np.ones(len(s.labels))] for s in (train, test)]
    weight = np.linalg.lstsq(colours[0], np.eye(10)[train.labels], rcond=None)[0]
    accuracy = ((colours[1] @ weight).argmax(1) == test.labels).mean()
    assert accuracy < 0.2  # chance is 0.1


def test_toy10_differs_between_seeds_and_between_training_and_test(tmp_path):
    train, test = load_toy10(tmp_path, train=50, test=50)
    other, _ = load_toy10(tmp_path, train=50, test=50, seed=1)
    assert (train.images != other.images).mean() > 0.5
    assert (train.images != test.images).mean() > 0.5


def test_toy10_is_shuffled(tmp_path):
    train, _ = load_toy10(tmp_path, **SMALL)
    assert (np.diff(train.labels) < 0).any()


def test_toy10_comes_from_the_cache_the_second_time(tmp_path, monkeypatch):
    first = load_toy10(tmp_path, **SMALL)
    monkeypatch.setattr(toy10, "_draw_set", None)
    _assert_equal(load_toy10(tmp_path, **SMALL), first)
    assert list(tmp_path.iterdir()) == [_cache(tmp_path)]


def test_toy10_is_cached_in_the_datasets_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDL_DATASETS", str(tmp_path / "new"))
    load_toy10(**SMALL)
    assert _cache(tmp_path / "new").is_dir()


def test_toy10_cache_has_the_python_layout_of_cifar10(tmp_path):
    train, test = load_toy10(tmp_path, **SMALL)
    read = []
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        with (_cache(tmp_path) / name).open("rb") as file:
            read.append(pickle.load(file, encoding="bytes"))
    assert set(read[0]) == {b"batch_label", b"labels", b"data", b"filenames"}
    assert read[0][b"data"].shape == (20, 3072)
    data = np.concatenate([batch[b"data"] for batch in read[:5]])
    np.testing.assert_array_equal(data.reshape(-1, 3, 32, 32), train.images)
    assert [label for batch in read[:5] for label in batch[b"labels"]] == train.labels.tolist()
    assert read[5][b"labels"] == test.labels.tolist()
    with (_cache(tmp_path) / "batches.meta").open("rb") as file:
        meta = pickle.load(file, encoding="bytes")
    assert meta[b"label_names"][0] == b"disc"
    assert meta[b"num_vis"] == 3072


def _flip_a_pixel(path):
    content = bytearray((path / "data_batch_2").read_bytes())
    content[10_000] ^= 1
    (path / "data_batch_2").write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "batches.meta").unlink(),
        lambda path: (path / "data_batch_3").unlink(),
        lambda path: (path / "test_batch").write_bytes(b""),
        lambda path: (path / "batches.meta").write_bytes(b"\x80\x02}."),
        _flip_a_pixel,
    ],
)
def test_toy10_draws_a_damaged_cache_anew(tmp_path, damage):
    wanted = load_toy10(tmp_path, **SMALL)
    damage(_cache(tmp_path))
    _assert_equal(load_toy10(tmp_path, **SMALL), wanted)
    assert toy10._read_cache(_cache(tmp_path), f"toy10-seed0-100-50, generator {toy10._GENERATOR}")
    assert list(tmp_path.iterdir()) == [_cache(tmp_path)]


def test_toy10_draws_the_cache_of_another_generator_anew(tmp_path, monkeypatch):
    wanted = load_toy10(tmp_path, **SMALL)
    monkeypatch.setattr(toy10, "_GENERATOR", toy10._GENERATOR + 1)
    before = (_cache(tmp_path) / "batches.meta").read_bytes()
    _assert_equal(load_toy10(tmp_path, **SMALL), wanted)
    assert (_cache(tmp_path) / "batches.meta").read_bytes() != before


def test_toy10_warns_and_returns_the_images_when_it_cannot_cache(tmp_path):
    blocked = tmp_path / "a file where the folder should be"
    blocked.write_text("")
    with pytest.warns(UserWarning, match="toy10 is drawn but not cached: .*Not a directory"):
        train, _ = load_toy10(blocked, **SMALL)
    assert len(train.labels) == 100


def test_toy10_leaves_no_half_written_cache_when_the_disk_is_full(tmp_path, monkeypatch):
    def write(path, content):
        if path.name == "data_batch_4":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.warns(UserWarning, match="not cached: .*No space left"):
        load_toy10(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_toy10_does_not_mind_another_process_writing_the_same_cache(tmp_path, monkeypatch):
    def rename(source, target):
        monkeypatch.undo()
        load_toy10(tmp_path, **SMALL)
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr("minidl.data.toy10.os.rename", rename)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_toy10(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == [_cache(tmp_path)]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"train": 15}, ValueError, "got train=15, wanted a positive multiple of the 10 classes"),
        ({"test": 0}, ValueError, "got test=0, wanted a positive multiple"),
        ({"seed": -1}, ValueError, "got seed=-1, wanted 0 or more"),
        ({"train": 1e4}, TypeError, r"got train=10000\.0, wanted an integer"),
        ({"seed": None}, TypeError, "got seed=None, wanted an integer"),
        ({"seed": True}, TypeError, "got seed=True, wanted an integer"),
    ],
)
def test_toy10_refuses_wrong_numbers(tmp_path, wrong, error, message):
    with pytest.raises(error, match=message):
        load_toy10(tmp_path, **wrong)


def test_datasets_folder_follows_the_environment_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDL_DATASETS", "~/here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert datasets_folder() == tmp_path / "here"


def test_datasets_folder_is_that_of_the_checkout_from_any_working_directory(tmp_path, monkeypatch):
    package = tmp_path / "checkout" / "minidl"
    monkeypatch.delenv("MINIDL_DATASETS", raising=False)
    monkeypatch.setattr("minidl.data.images.__file__", str(package / "data" / "images.py"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert datasets_folder() == tmp_path / ".cache" / "minidl" / "datasets"
    (package.parent / "datasets").mkdir(parents=True)
    (package.parent / "pyproject.toml").write_text("")
    assert datasets_folder() == package.parent.resolve() / "datasets"
