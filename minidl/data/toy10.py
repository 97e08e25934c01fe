"""Draw toy10, the data set that needs no download: six shapes and four patterns.

Every image shows one figure on a cluttered background. Its position, size, angle, colours, light
and grain are random, so neither a single pixel nor the mean colour tells the class; edges, corners
and their spacing do. A linear model fails here, a fully connected network learns the shapes but not
the patterns, and a small convolutional network learns both.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

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
    moon,
    mottle,
    ring,
    star,
    triangle,
    turned,
    uniform,
)
from minidl.data.images import ImageSet, datasets_folder
from minidl.files.checkpoint import load_checkpoint, save_checkpoint

_GENERATOR = 2  # increase it when a seed draws other pixels, so that caches are redrawn
_SIDE = 32

Splits = tuple[ImageSet, ImageSet]

# A pattern is a signed distance, as a shape is, in units of its period, and repeats for ever.


def _stripes(x: Floats, y: Floats) -> Floats:
    return np.abs(np.mod(x, 1) - 0.5) - 0.25


def _checks(x: Floats, y: Floats) -> Floats:
    a, b = 1.4 * _stripes(x / 1.4, y), 1.4 * _stripes(y / 1.4, x)
    return np.maximum(np.minimum(a, b), -np.maximum(a, b))  # in one of them but not in both


def _dots(x: Floats, y: Floats) -> Floats:
    return np.hypot(np.mod(x, 1) - 0.5, np.mod(y, 1) - 0.5) - 0.3


def _grid(x: Floats, y: Floats) -> Floats:
    return np.minimum(_stripes(x, y), _stripes(y, x)) + 0.1


_SHAPES: dict[str, Distance] = {
    "disc": disc,
    "ring": ring,
    "triangle": triangle,
    "cross": cross,
    "star": star,
    "moon": moon,
}
_PATTERNS: dict[str, Distance] = {
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "grid": _grid,
}
TOY10_CLASSES = (*_SHAPES, *_PATTERNS)


def load_toy10(
    folder: str | Path | None = None, *, seed: int = 0, train: int = 10_000, test: int = 2_000
) -> Splits:
    """Load toy10: 32x32 colour images of ten figures, drawn on the first call and then cached.

    The cache is one file, `<folder>/toy10.npz` (for other arguments, for example
    `toy10-seed1-500-100.npz`). The set is drawn again if the file is damaged or was made by another
    version of the generator.

    Args:
        folder: of the cache; `datasets_folder()` if None.
        seed: chooses the images, >= 0; the same seed gives the same images.
        train: number of training images, a positive multiple of 10.
        test: number of test images, a positive multiple of 10.

    Returns:
        Training and test set, images uint8 of shape (n, 3, 32, 32), shuffled, with equally many
        images of each class.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: an argument is out of range.

    Source:
        own design; its difficulty is measured in `datasets/README.md`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     train, test = load_toy10(folder, train=20, test=10)
        >>> train.images.shape, test.classes[3]
        ((20, 3, 32, 32), 'cross')
    """
    for name, value, least in (("seed", seed, 0), ("train", train, 10), ("test", test, 10)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise TypeError(f"load_toy10: got {name}={value!r}, expected an integer")
        if value < least or (name != "seed" and value % 10):
            kind = "an integer >= 0" if name == "seed" else "a positive multiple of the 10 classes"
            raise ValueError(f"load_toy10: got {name}={value}, expected {kind}")
    recipe = f"toy10-seed{seed}-{train}-{test}"
    plain = (seed, train, test) == (0, 10_000, 2_000)
    root = datasets_folder() if folder is None else Path(folder).expanduser()
    path = root / ("toy10.npz" if plain else f"{recipe}.npz")
    recipe = f"{recipe}, generator {_GENERATOR}"
    splits = _read_cache(path, recipe, (train, test))
    if splits is None:
        splits = _draw_set(train, (seed, 0)), _draw_set(test, (seed, 1))
        try:
            _write_cache(path, recipe, splits)
        except OSError as error:
            warnings.warn(f"toy10 was drawn but not cached: {error}", stacklevel=2)
    return splits


def _draw_set(count: int, seed: tuple[int, int]) -> ImageSet:
    rng = np.random.default_rng(seed)
    images = np.concatenate([_draw(name, count // 10, rng) for name in TOY10_CLASSES])
    labels = np.repeat(np.arange(10), count // 10)
    order = rng.permutation(count)
    return ImageSet(images[order], labels[order].astype(np.int64), TOY10_CLASSES)


def _draw(name: str, n: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw n images of one class: ground, bars, the figure, a bar in front, light, grain."""
    ground = uniform(rng, n, 3, 0.0, 0.45)  # (n, c, 1, 1)
    paint = ground + uniform(rng, n, 3, 0.35, 0.7)  # lighter than the ground in each channel
    image = ground + 0.05 * mottle(rng, n, _SIDE)  # (n, c, h, w)
    for _ in range(2):
        cover(image, bar(rng, n, _SIDE), uniform(rng, n, 3, 0.0, 0.6))
    cover(image, _figure(name, rng, n), paint + 0.03 * mottle(rng, n, _SIDE))
    cover(image, bar(rng, n, _SIDE), uniform(rng, n, 3, 0.0, 0.6))
    image *= light(rng, n, _SIDE)
    image += 0.03 * rng.standard_normal(image.shape, dtype=np.float32)
    pixels: NDArray[np.uint8] = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels


def _figure(name: str, rng: np.random.Generator, n: int) -> Floats:
    """Return how much of each pixel a shape, or round patch of a pattern, covers: (n, 1, h, w)."""
    is_shape = name in _SHAPES
    radius = uniform(rng, n, 1, 6, 9) if is_shape else uniform(rng, n, 1, 8, 11)  # pixels
    turn = 0.45 if is_shape else np.pi  # radians
    angle = uniform(rng, n, 1, -turn, turn)
    x, y = turned(*centred(rng, n, _SIDE, _SIDE / 2 - radius), angle)  # (n, 1, h, w), pixels
    if is_shape:
        distance = _SHAPES[name](x / radius, y / radius) * radius
    else:
        period = uniform(rng, n, 1, 4.4, 6.2)  # pixels
        phase_x, phase_y = uniform(rng, n, 1, 0, 1.4), uniform(rng, n, 1, 0, 1.4)
        pattern = _PATTERNS[name](x / period + phase_x, y / period + phase_y) * period
        distance = np.maximum(np.hypot(x, y) - 0.95 * radius, pattern)
    return np.clip(0.5 - distance, 0, 1)


def _read_cache(path: Path, recipe: str, counts: Sequence[int]) -> Splits | None:
    """Read a cache of this recipe; None if it is missing, damaged or of another recipe."""
    try:
        cache = load_checkpoint(path)
        if cache["recipe"] != recipe:
            return None
        train, test = (ImageSet(*cache[name]) for name in ("train", "test"))
        for found, count in zip((train, test), counts, strict=True):
            kinds = found.images.shape, str(found.images.dtype), str(found.labels.dtype)
            is_right = kinds == ((count, 3, _SIDE, _SIDE), "uint8", "int64")
            labels = np.repeat(np.arange(10), count // 10)
            is_right = is_right and np.array_equal(np.sort(found.labels), labels)
            if not is_right or found.classes != TOY10_CLASSES:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return train, test


def _write_cache(path: Path, recipe: str, splits: Splits) -> None:
    """Write the cache as a checkpoint: atomically, with a checksum."""
    save_checkpoint({"recipe": recipe, "train": splits[0], "test": splits[1]}, path)
