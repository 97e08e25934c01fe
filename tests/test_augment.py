"""Augmentation: what it does to each image, by loops, and where its randomness comes from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl
from minidl.data import (
    Compose,
    Cutout,
    DataLoader,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
)

IMAGES = np.random.default_rng(0).integers(1, 256, (40, 3, 6, 5)).astype(np.uint8)
KINDS = {
    "crop": lambda rng: RandomCrop(2, rng),
    "flip": lambda rng: RandomHorizontalFlip(0.5, rng),
    "cutout": lambda rng: Cutout(3, rng=rng),
    "all": lambda rng: Compose(
        RandomCrop(2, rng), RandomHorizontalFlip(rng=rng), Cutout(3, 0, rng)
    ),
}


def shifts(image: np.ndarray, padding: int) -> list[np.ndarray]:
    """Every crop of an image, pixel by pixel."""
    _, h, w = image.shape
    found = []
    for down in range(-padding, padding + 1):
        for across in range(-padding, padding + 1):
            crop = np.zeros_like(image)
            for y, x in np.ndindex(h, w):
                if 0 <= y + down < h and 0 <= x + across < w:
                    crop[:, y, x] = image[:, y + down, x + across]
            found.append(crop)
    return found


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(0))
def test_a_crop_is_one_of_all_shifts(n, h, w, padding, seed):
    images = np.random.default_rng(1).integers(1, 256, (n, 2, h, w)).astype(np.uint8)
    found = RandomCrop(padding, np.random.default_rng(seed))(images)
    for image, crop in zip(images, found, strict=True):
        assert any(np.array_equal(crop, wanted) for wanted in shifts(image, padding))


def test_every_shift_comes_equally_often():
    many = np.repeat(IMAGES[:1], 9000, axis=0)
    found = RandomCrop(1, np.random.default_rng(0))(many)
    counts = [sum((found == wanted).all((1, 2, 3))) for wanted in shifts(IMAGES[0], 1)]
    assert sum(counts) == 9000
    assert max(abs(count - 1000) for count in counts) < 150  # five standard deviations


@pytest.mark.parametrize("p", [0, 0.25, 1])
def test_that_part_of_the_images_is_mirrored(p):
    many = np.repeat(IMAGES[:1], 4000, axis=0)
    found = RandomHorizontalFlip(p, np.random.default_rng(0))(many)
    mirrored = (found == IMAGES[0, :, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (found == IMAGES[0]).all((1, 2, 3))).all()
    assert abs(mirrored.mean() - p) < 0.035


@given(st.integers(1, 9), st.integers(0))
def test_a_hole_is_a_square_cut_at_the_edges(size, seed):
    found = Cutout(size, 0, np.random.default_rng(seed))(IMAGES)
    changed = (found != IMAGES).any(1)
    assert ((found == 0).all(1) == changed).all()
    for hole in changed:
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole.sum() == len(rows) * len(columns)
        assert 1 <= len(rows) <= size
        assert 1 <= len(columns) <= size
        if rows[0] > 0 and rows[-1] < 5:
            assert len(rows) == size


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_stay_as_they_are_and_a_seed_repeats_them(name, dtype):
    images = IMAGES.astype(dtype)
    images.flags.writeable = False
    one, two, other = (KINDS[name](np.random.default_rng(seed))(images) for seed in (1, 1, 2))
    assert one.dtype == dtype
    assert one.shape == images.shape
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)
    assert not np.shares_memory(one, images)
    np.testing.assert_array_equal(images, IMAGES)


def test_without_a_generator_the_seeded_stream_is_used():
    found = []
    for _ in range(2):
        minidl.manual_seed(3)
        found.append(KINDS["all"](None)(IMAGES))
    np.testing.assert_array_equal(*found)


def test_a_loader_goes_on_with_the_augmentation_where_it_stopped():
    def loader() -> DataLoader:
        transform = Compose(KINDS["all"](np.random.default_rng(5)), Normalize.fit(IMAGES))
        return DataLoader(IMAGES, batch_size=8, transform=transform)

    wanted = [images.numpy() for (images,) in loader()]
    first = loader()
    batches = iter(first)
    for _ in range(2):
        next(batches)
    again = loader()
    again.load_state_dict(first.state_dict())
    rest = [images.numpy() for (images,) in again]
    assert len(rest) == 3
    for found, images in zip(rest, wanted[2:], strict=True):
        np.testing.assert_array_equal(found, images)


def test_a_thread_ahead_makes_the_same_batches():
    def batches(prefetch: int) -> list[np.ndarray]:
        transform = KINDS["all"](np.random.default_rng(5))
        loader = DataLoader(IMAGES, batch_size=8, transform=transform, prefetch=prefetch)
        return [images.numpy() for (images,) in loader]

    for found, wanted in zip(batches(2), batches(0), strict=True):
        np.testing.assert_array_equal(found, wanted)


BAD = {
    "no padding": (
        lambda: RandomCrop(0),
        ValueError,
        "RandomCrop: got padding=0, expected an integer",
    ),
    "a probability above 1": (
        lambda: RandomHorizontalFlip(1.5),
        ValueError,
        "RandomHorizontalFlip: got p=1.5, expected 0 <= p <= 1",
    ),
    "a hole of no size": (lambda: Cutout(0), ValueError, "Cutout: got size=0, expected an integer"),
    "a seed": (lambda: Cutout(rng=0), TypeError, "rng=0, expected a numpy.random.Generator"),
    "a list of transforms": (
        lambda: Compose([RandomCrop()]),
        TypeError,
        "Compose: got .*, expected functions of images",
    ),
    "one image": (
        lambda: RandomCrop()(IMAGES[0]),
        ValueError,
        r"RandomCrop: got \(3, 6, 5\), expected an array of images \(n, c, h, w\)",
    ),
    "a tensor": (
        lambda: Cutout()(minidl.zeros((1, 3, 4, 4))),
        ValueError,
        r"Cutout: got \(1, 3, 4, 4\), expected an array",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()
