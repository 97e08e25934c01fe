"""Draw toy_scenes, images of several figures that need no download: with masks and boxes.

Figures of five shapes lie on a cluttered ground, cover one another, and are crossed by bars. Their
place, size, angle and colours are random, and some are striped. Rectangles painted in the same way
belong to the background. So the colour of a pixel says little about its class; the outline does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minidl.data.figures import (
    Distance,
    Floats,
    bar,
    centred,
    cover,
    cross,
    disc,
    light,
    mottle,
    ring,
    star,
    triangle,
    turned,
    uniform,
)
from minidl.data.scenes import SceneSet

_SHAPES: dict[str, Distance] = {
    "disc": disc,
    "ring": ring,
    "triangle": triangle,
    "cross": cross,
    "star": star,
}
TOY_SCENES_CLASSES = ("background", *_SHAPES)
_MOST = 4  # figures and rectangles in an image
_LEAST_VISIBLE = 0.4  # of a figure, before bars cross it
_CHUNK = 128  # images drawn at once: their arrays stay in the cache


def load_toy_scenes(
    seed: int = 0, *, train: int = 1_000, test: int = 200, size: int = 48
) -> tuple[SceneSet, SceneSet]:
    """Draw toy_scenes: images of up to four figures, with exact masks and boxes.

    A pixel's class in a mask is that of what is visible at the pixel's centre; bars, rectangles and
    ground are background. A box encloses the visible part of one figure, two-fifths of it or more
    unless a bar hides some; a figure of which nothing is visible has none. Two figures of one class
    that touch are one region of the mask, but have two boxes.

    Args:
        seed: chooses the images, >= 0; the same seed gives the same images.
        train: number of training images, 1 <= train <= 1,000,000.
        test: number of test images, 1 <= test <= 1,000,000.
        size: height and width of the images in pixels, 32 <= size <= 256. Figures and rectangles
            grow with it; bars and grain do not.

    Returns:
        Training and test set, in random order; see `SceneSet`.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: an argument is out of range.

    Source: own design; its difficulty is measured in `datasets/README.md`.

    Example:
        >>> train, test = load_toy_scenes(train=20, test=10)
        >>> train.images.shape, train.masks.shape, train.classes[2]
        ((20, 3, 48, 48), (20, 48, 48), 'ring')
        >>> train.boxes[0].shape, [train.classes[k] for k in train.labels[0]]
        ((2, 4), ['star', 'triangle'])
    """
    _check("seed", seed, 0)
    for name, value in (("train", train), ("test", test)):
        _check(name, value, 1, 1_000_000)  # 7 GB
    _check("size", size, 32, 256)
    return _draw_set(train, size, (seed, 0)), _draw_set(test, size, (seed, 1))


def _check(name: str, value: int, least: int, most: int | None = None) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"load_toy_scenes: got {name}={value!r}, expected an integer")
    if value < least or (most is not None and value > most):
        limit = "" if most is None else f" and <= {most}"
        raise ValueError(
            f"load_toy_scenes: got {name}={value}, expected an integer >= {least}{limit}"
        )


def _draw_set(count: int, size: int, seed: tuple[int, int]) -> SceneSet:
    rng = np.random.default_rng(seed)
    pixels, masks, boxes, labels = [], [], [], []
    for start in range(0, count, _CHUNK):
        images, objects, kinds = _draw(rng, min(_CHUNK, count - start), size)
        pixels.append(images)
        shown = np.where(objects >= 0, np.take_along_axis(kinds, objects.clip(0), 1), 0)
        masks.append(shown.reshape(-1, size, size).astype(np.uint8))
        for found, kind in zip(objects.reshape(-1, size, size), kinds, strict=True):
            places = [k for k in range(_MOST) if kind[k] and (found == k).any()]
            boxes.append(_boxes(found, places))
            labels.append(kind[places].astype(np.int64))
    return SceneSet(
        np.concatenate(pixels),
        np.concatenate(masks),
        tuple(boxes),
        tuple(labels),
        TOY_SCENES_CLASSES,
    )


def _boxes(objects: NDArray[np.int64], places: list[int]) -> NDArray[np.float32]:
    """Return the box (k, 4) of each object, from the object visible in each pixel (h, w)."""
    found = np.empty((len(places), 4), np.float32)
    for row, place in zip(found, places, strict=True):
        ys, xs = np.nonzero(objects == place)
        row[:] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    return found


def _draw(
    rng: np.random.Generator, n: int, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Draw n images: ground, bars, figures and rectangles, bars in front, light, grain.

    Returns:
        The images; the object visible in each pixel (n, h * w), -1 for ground and bars; and the
        class of each object (n, _MOST), 0 for rectangles.
    """
    ground = uniform(rng, n, 3, 0.15, 0.6)  # (n, c, 1, 1)
    image = ground + 0.05 * mottle(rng, n, size)  # (n, c, h, w)
    for _ in range(2):
        cover(image, bar(rng, n, size), uniform(rng, n, 3, 0.0, 0.8))
    objects = np.full((n, size * size), -1)
    rows = (_MOST + 1) * np.arange(n)[:, None] + 1
    kinds = rng.integers(0, len(TOY_SCENES_CLASSES), (n, _MOST))
    kinds[:, 0] = rng.integers(1, len(TOY_SCENES_CLASSES), n)  # at least one figure
    wanted = rng.integers(2, _MOST + 1, n)
    whole = np.zeros((n, _MOST), np.int64)  # pixels of each object, if nothing covered it
    for place in range(_MOST):
        coverage = _figures(rng, kinds[:, place], size)  # (n, 1, h, w)
        inside = coverage.reshape(n, -1) >= 0.5
        whole[:, place] = inside.sum(1)
        after = np.where(inside, place, objects)
        counts = np.bincount((rows + after).ravel(), minlength=n * (_MOST + 1))
        visible = counts.reshape(n, -1)[:, 1:]  # pixels of each object
        shown = (place < wanted) & ~(visible < _LEAST_VISIBLE * whole).any(1)
        whole[~shown, place] = 0
        objects = np.where(shown[:, None], after, objects)
        cover(image, coverage * shown[:, None, None, None], _paint(rng, ground, size))
    for _ in range(2):
        coverage = bar(rng, n, size)
        objects[coverage.reshape(n, -1) >= 0.5] = -1
        cover(image, coverage, uniform(rng, n, 3, 0.0, 0.8))
    image *= light(rng, n, size)
    image += 0.03 * rng.standard_normal(image.shape, dtype=np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), objects, kinds


def _figures(rng: np.random.Generator, kinds: NDArray[np.int64], size: int) -> Floats:
    """Return how much of each pixel a figure of each image's class covers: (n, 1, h, w)."""
    n = len(kinds)
    radius = uniform(rng, n, 1, 0.11 * size, 0.24 * size)
    angle, flat = uniform(rng, n, 1, -np.pi, np.pi), uniform(rng, n, 1, 0.3, 0.8)
    x, y = turned(*centred(rng, n, size, size / 2 - 0.8 * radius), angle)
    x, y = x / radius, y / radius
    distance = np.maximum(np.abs(x) - 0.9, np.abs(y) - flat)  # a rectangle
    for kind, shape in enumerate(_SHAPES.values(), 1):
        chosen = kinds == kind
        distance[chosen] = shape(x[chosen], y[chosen])
    return np.clip(0.5 - distance * radius, 0, 1)


def _paint(rng: np.random.Generator, ground: Floats, size: int) -> Floats:
    """Return the colours (n, c, h, w) of a figure: lighter or darker than the ground."""
    n = len(ground)
    sign = np.where(uniform(rng, n, 1, 0, 1) < 0.5, -1, 1).astype(np.float32)
    paint = ground + sign * uniform(rng, n, 3, 0.15, 0.4)
    x, _ = turned(*centred(rng, n, size, size / 2), uniform(rng, n, 1, 0, np.pi))
    depth = uniform(rng, n, 1, 0, 0.2) * (uniform(rng, n, 1, 0, 1) < 0.4)
    stripes = np.abs(np.mod(x / uniform(rng, n, 1, 3, 6), 1) - 0.5) < 0.25
    return paint - sign * depth * stripes + 0.03 * mottle(rng, n, size)
