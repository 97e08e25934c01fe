"""toy_scenes: what masks and boxes hold, that a seed repeats them, and what makes them hard."""

import numpy as np
import pytest

from minidl import functional as F
from minidl import nn, optim
from minidl.data import DataLoader, Normalize, SceneSet, load_toy_scenes, toy_scenes
from minidl.data.toy_scenes import TOY_SCENES_CLASSES
from minidl.training import mean_iou, predict


def _assert_equal(got, wanted):
    np.testing.assert_array_equal(got.images, wanted.images)
    np.testing.assert_array_equal(got.masks, wanted.masks)
    for one, other in zip(got.boxes + got.labels, wanted.boxes + wanted.labels, strict=True):
        np.testing.assert_array_equal(one, other)
    assert got.classes == wanted.classes


def test_scenes_have_the_types_of_a_scene_set():
    train, test = load_toy_scenes(train=130, test=7)  # more than are drawn at once
    for found, count in ((train, 130), (test, 7)):
        assert (found.images.dtype, found.images.shape) == (np.uint8, (count, 3, 48, 48))
        assert (found.masks.dtype, found.masks.shape) == (np.uint8, (count, 48, 48))
        assert len(found.boxes) == len(found.labels) == count
        for boxes, labels in zip(found.boxes, found.labels, strict=True):
            assert (boxes.dtype, boxes.shape) == (np.float32, (len(labels), 4))
            assert (labels.dtype, labels.ndim) == (np.int64, 1)
            assert 1 <= len(labels) <= 4
    assert train.classes == TOY_SCENES_CLASSES
    train.images[0] = 0  # writable


@pytest.mark.parametrize("size", [32, 48, 65])
def test_a_seed_repeats_its_scenes_and_another_draws_others(size):
    first, again = (load_toy_scenes(3, train=20, test=20, size=size) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        _assert_equal(one, other)
    assert first[0].images.shape == (20, 3, size, size)
    others = [load_toy_scenes(4, train=20, test=20, size=size)[0], first[1]]
    for other in others:
        assert (first[0].images != other.images).mean() > 0.5
        assert (first[0].masks != other.masks).mean() > 0.1


def test_every_class_occurs_and_most_pixels_are_background():
    train, _ = load_toy_scenes(train=500, test=1)
    shares = np.bincount(train.masks.ravel(), minlength=6) / train.masks.size
    assert len(shares) == len(train.classes) == 6
    assert 0.8 < shares[0] < 0.9
    assert shares[1:].min() > 0.015
    found = np.bincount(np.concatenate(train.labels), minlength=6)
    assert found[0] == 0
    assert found[1:].min() > 0.8 * found[1:].max()


def test_masks_and_boxes_agree_with_a_loop_over_the_visible_objects():
    images, objects, kinds = toy_scenes._draw(np.random.default_rng((5, 0)), 60, 48)
    drawn = toy_scenes._draw_set(60, 48, (5, 0))
    np.testing.assert_array_equal(images, drawn.images)
    for i in range(60):
        visible = objects[i].reshape(48, 48)
        corners: dict[int, list[int]] = {}
        for y in range(48):
            for x in range(48):
                place = visible[y, x]
                kind = kinds[i, place] if place >= 0 else 0
                assert drawn.masks[i, y, x] == kind
                if kind:
                    x1, y1, x2, y2 = corners.get(place, (99, 99, 0, 0))
                    corners[place] = [min(x1, x), min(y1, y), max(x2, x + 1), max(y2, y + 1)]
        places = sorted(corners)
        np.testing.assert_array_equal(drawn.boxes[i], [corners[place] for place in places])
        np.testing.assert_array_equal(drawn.labels[i], kinds[i, places])


def test_figures_cover_others_but_two_fifths_stay_visible(monkeypatch):
    """Without bars in front, which may hide some more."""
    monkeypatch.setattr(toy_scenes, "bar", lambda rng, n, size: np.zeros((n, 1, size, size)))
    wholes = []

    def figures(*args):
        wholes.append(drawn(*args))
        return wholes[-1]

    drawn = toy_scenes._figures
    monkeypatch.setattr(toy_scenes, "_figures", figures)
    _, objects, _ = toy_scenes._draw(np.random.default_rng(0), 200, 48)
    whole = np.stack([(part >= 0.5).sum((1, 2, 3)) for part in wholes], 1)
    visible = np.stack([(objects == place).sum(1) for place in range(4)], 1)
    shares = (visible / whole)[visible > 0]
    assert shares.min() >= 0.4
    assert 0.1 < (shares < 0.95).mean() < 0.6  # many are covered in part


def test_the_mask_is_where_the_figure_is_painted(monkeypatch):
    """The pixels of a figure differ from those of the same scene with another paint."""
    before, objects, kinds = toy_scenes._draw(np.random.default_rng(1), 40, 48)
    paint = toy_scenes._paint
    monkeypatch.setattr(toy_scenes, "_paint", lambda *args: paint(*args) + 0.5)
    after = toy_scenes._draw(np.random.default_rng(1), 40, 48)[0]
    changed = (before != after).any(1)
    assert changed[objects.reshape(40, 48, 48) >= 0].all()
    outside = changed[objects.reshape(40, 48, 48) < 0].mean()
    assert outside < 0.06  # the soft edges
    assert (kinds[:, 1:] == 0).any()  # some are rectangles


def test_scenes_are_chosen_with_their_masks_and_boxes():
    scenes, _ = load_toy_scenes(train=12, test=1)
    for chosen in (slice(3), [5, 2], np.arange(12) % 3 == 1):
        found = scenes.take(chosen)
        places = np.arange(12)[chosen]
        np.testing.assert_array_equal(found.masks, scenes.masks[places])
        assert [id(b) for b in found.boxes] == [id(scenes.boxes[p]) for p in places]
        assert [id(k) for k in found.labels] == [id(scenes.labels[p]) for p in places]
    first, rest = scenes.split(5)
    assert (len(first.images), len(rest.boxes)) == (5, 7)
    _assert_equal(scenes.first(99), scenes)
    without = SceneSet(scenes.images, scenes.masks, (), (), scenes.classes)
    assert without.take([1]).boxes == ()
    for count in (0, 12):
        with pytest.raises(ValueError, match=rf"split: got {count} of 12 images"):
            scenes.split(count)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"train": 0}, ValueError, "got train=0, expected an integer >= 1 and <= 1000000$"),
        ({"test": -1}, ValueError, "got test=-1, expected an integer >= 1 and <= 1000000$"),
        ({"seed": -1}, ValueError, "got seed=-1, expected an integer >= 0$"),
        ({"size": 31}, ValueError, "got size=31, expected an integer >= 32 and <= 256"),
        ({"size": 257}, ValueError, "got size=257, expected an integer >= 32 and <= 256"),
        ({"train": 1e3}, TypeError, r"got train=1000\.0, expected an integer"),
        ({"seed": None}, TypeError, "got seed=None, expected an integer"),
        ({"seed": True}, TypeError, "got seed=True, expected an integer"),
    ],
)
def test_toy_scenes_refuse_wrong_numbers(wrong, error, message):
    with pytest.raises(error, match=f"^load_toy_scenes: {message}"):
        load_toy_scenes(**wrong)


@pytest.mark.parametrize("weight", [None, [0.1, 1, 1, 1, 1, 1]], ids=["plain", "weighted"])
def test_the_colour_of_a_pixel_does_not_tell_its_class(weight):
    """A network of 1x1 convolutions sees one pixel at a time; the goal of other networks is 1."""
    rng = np.random.default_rng(0)
    train, test = load_toy_scenes(train=160, test=80)
    normalize = Normalize.fit(train.images)
    layers = [nn.Conv2d(3, 24, 1, rng=rng), nn.ReLU(), nn.Conv2d(24, 24, 1, rng=rng), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(24, 6, 1, rng=rng))
    adam = optim.Adam(model.parameters(), lr=1e-2)
    batches = DataLoader(
        train.images, train.masks, batch_size=16, shuffle=True, transform=normalize, rng=rng
    )
    losses = []
    for _ in range(8):
        for images, masks in batches:
            loss = F.cross_entropy(model(images), masks, weight)
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.9 * losses[0]  # it has learned what there is to learn
    loader = DataLoader(test.images, test.masks, batch_size=40, transform=normalize)
    predicted = predict(model, loader).argmax(1)
    assert mean_iou(predicted, test.masks, 6) < 0.3  # far below 0.6
