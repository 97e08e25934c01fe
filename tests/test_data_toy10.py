"""toy10: what it holds, that a seed repeats it, and that a bad cache costs nothing but time."""

import os
from pathlib import Path

import numpy as np
import pytest

from minidl.data import toy10
from minidl.data.images import datasets_folder
from minidl.data.toy10 import TOY10_CLASSES, load_toy10
from minidl.training import load_checkpoint, save_checkpoint

SMALL = {"train": 100, "test": 50}


def _cache(folder):
    return folder / "toy10-seed0-100-50.npz"


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
    assert (tmp_path / "toy10.npz").is_file()
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
    assert _cache(tmp_path / "new").is_file()


def test_toy10_cache_is_plain_arrays_that_other_programs_can_read(tmp_path):
    train, test = load_toy10(tmp_path, **SMALL)
    with np.load(_cache(tmp_path), allow_pickle=False) as archive:
        arrays = [archive[name] for name in archive.files if name != "json"]
    for array, wanted in zip(arrays, (*train[:2], *test[:2]), strict=True):
        assert array.dtype == wanted.dtype
        np.testing.assert_array_equal(array, wanted)


def _changed(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: _changed(path, 10_000),
        lambda path: _changed(path, -1),
        lambda path: np.savez(path, images=np.zeros(3)),
        lambda path: save_checkpoint({"epoch": 3}, path),
    ],
)
def test_toy10_draws_a_damaged_cache_again(tmp_path, damage):
    wanted = load_toy10(tmp_path, **SMALL)
    damage(_cache(tmp_path))
    _assert_equal(load_toy10(tmp_path, **SMALL), wanted)
    recipe = f"toy10-seed0-100-50, generator {toy10._GENERATOR}"
    assert toy10._read_cache(_cache(tmp_path), recipe, (100, 50))
    assert list(tmp_path.iterdir()) == [_cache(tmp_path)]


def test_toy10_leaves_a_cache_of_the_older_layout_alone(tmp_path):
    older = tmp_path / "toy10-seed0-100-50-batches-py"
    older.mkdir()
    (older / "batches.meta").write_bytes(b"\x80\x02}.")
    load_toy10(tmp_path, **SMALL)
    assert sorted(tmp_path.iterdir()) == [older, _cache(tmp_path)]


def test_toy10_draws_the_cache_of_another_generator_again(tmp_path, monkeypatch):
    wanted = load_toy10(tmp_path, **SMALL)
    monkeypatch.setattr(toy10, "_GENERATOR", toy10._GENERATOR + 1)
    before = _cache(tmp_path).read_bytes()
    _assert_equal(load_toy10(tmp_path, **SMALL), wanted)
    assert _cache(tmp_path).read_bytes() != before


def test_toy10_warns_and_returns_the_images_when_it_cannot_cache(tmp_path):
    blocked = tmp_path / "a file where the folder should be"
    blocked.write_text("")
    with pytest.warns(UserWarning, match="toy10 was drawn but not cached: .*File exists"):
        train, _ = load_toy10(blocked, **SMALL)
    assert len(train.labels) == 100


def test_toy10_leaves_no_half_written_cache_when_the_disk_is_full(tmp_path, monkeypatch):
    def flush(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", flush)
    with pytest.warns(UserWarning, match="not cached: .*No space left"):
        load_toy10(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_toy10_does_not_mind_another_process_writing_the_same_cache(tmp_path, monkeypatch):
    def flush(file):
        monkeypatch.undo()
        load_toy10(tmp_path, **SMALL)

    monkeypatch.setattr(os, "fsync", flush)
    first = load_toy10(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == [_cache(tmp_path)]
    monkeypatch.setattr(toy10, "_draw_set", None)
    _assert_equal(load_toy10(tmp_path, **SMALL), first)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"train": 15}, ValueError, "got train=15, expected a positive multiple of the 10 classes"),
        ({"test": 0}, ValueError, "got test=0, expected a positive multiple"),
        ({"seed": -1}, ValueError, "got seed=-1, expected an integer >= 0"),
        ({"train": 1e4}, TypeError, r"got train=10000\.0, expected an integer"),
        ({"seed": None}, TypeError, "got seed=None, expected an integer"),
        ({"seed": True}, TypeError, "got seed=True, expected an integer"),
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
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert datasets_folder() == tmp_path / ".cache" / "minidl" / "datasets"
    (package.parent / "datasets").mkdir(parents=True)
    (package.parent / "pyproject.toml").write_text("")
    assert datasets_folder() == package.parent.resolve() / "datasets"


@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.pop("train"),
        lambda cache: cache.update(train=5),
        lambda cache: cache.update(train=[1, 2, 3]),
        lambda cache: cache.update(train=[*cache["train"], 4]),
        lambda cache: cache["test"].__setitem__(0, cache["test"][0][:5]),
        lambda cache: cache["test"].__setitem__(0, cache["test"][0].astype(np.float32)),
        lambda cache: cache["test"].__setitem__(1, cache["test"][1] * 100),
        lambda cache: cache["test"].__setitem__(1, -cache["test"][1]),
        lambda cache: cache["test"].__setitem__(1, cache["test"][1] * 10**12),
        lambda cache: cache["test"].__setitem__(2, list(cache["test"][2])),
        lambda cache: cache["test"].__setitem__(2, ["a"]),
        lambda cache: cache["test"].__setitem__(2, None),
    ],
)
def test_a_cache_with_a_valid_signature_but_other_content_is_drawn_again(change, tmp_path):
    wanted = load_toy10(tmp_path, train=20, test=10)
    path = tmp_path / "toy10-seed0-20-10.npz"
    cache = load_checkpoint(path)
    cache["train"], cache["test"] = list(cache["train"]), list(cache["test"])
    change(cache)
    save_checkpoint(cache, path)
    for found, right in zip(load_toy10(tmp_path, train=20, test=10), wanted, strict=True):
        np.testing.assert_array_equal(found.images, right.images)
        np.testing.assert_array_equal(found.labels, right.labels)
        assert found.classes == right.classes


def test_datasets_folder_is_in_the_cache_folder_of_the_xdg_standard(tmp_path, monkeypatch):
    monkeypatch.delenv("MINIDL_DATASETS", raising=False)
    module = tmp_path / "site" / "minidl" / "data" / "images.py"
    monkeypatch.setattr("minidl.data.images.__file__", str(module))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for value, parent in ((str(tmp_path / "x"), tmp_path / "x"), ("relative", tmp_path / ".cache")):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert datasets_folder() == parent / "minidl" / "datasets"
