"""The type of all image sets, and the folder of data sets on disk."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class ImageSet(NamedTuple):
    """Hold labelled images as stored: one byte per value, a quarter of float32.

    Attributes:
        images: uint8, shape (n, 3, h, w), often 32 by 32, channels red, green, blue, 0..255.
        labels: int64, shape (n,), 0 <= label < len(classes).
        classes: the name of each label, in label order.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def first(self, count: int) -> "ImageSet":
        """Return the first `count` images with their labels, or all if there are fewer."""
        return self.take(slice(count))

    def split(self, count: int) -> tuple["ImageSet", "ImageSet"]:
        """Return the first `count` images and the others, for example to validate on.

        The sets that minidl loads are in random order; shuffle your own first if it is not.

        Raises:
            ValueError: one of the two would be empty.

        Example:
            >>> images = ImageSet(np.zeros((5, 3, 2, 2)), np.arange(5), tuple("abcde"))
            >>> train, validation = images.split(4)
            >>> train.labels.tolist(), validation.labels.tolist()
            ([0, 1, 2, 3], [4])
        """
        if not 0 < count < len(self.labels):
            raise ValueError(
                f"split: got {count} of {len(self.labels)} images, expected at least 1 in each part"
            )
        return self.first(count), self.take(slice(count, None))

    def take(self, chosen: Any) -> "ImageSet":
        """Return the images that a NumPy index chooses: a slice, indices, or a mask `(n,)`."""
        return ImageSet(self.images[chosen], self.labels[chosen], self.classes)

    def only(self, classes: Sequence[str]) -> "ImageSet":
        """Return the images of some classes, in the order of the set, with labels in `classes`.

        Raises:
            ValueError: the set has no such class.

        Example:
            >>> pets = ImageSet(np.zeros((3, 3, 2, 2)), np.array([2, 0, 1]), ("ant", "bee", "cat"))
            >>> pets.only(["cat", "ant"]).labels.tolist()
            [0, 1]
        """
        missing = [name for name in classes if name not in self.classes]
        if missing:
            raise ValueError(f"only: got the class {missing[0]!r}, expected one of {self.classes}")
        numbers = np.array([self.classes.index(name) for name in classes])
        kept = self.take(np.isin(self.labels, numbers))
        labels = (kept.labels[:, None] == numbers).argmax(1)
        return ImageSet(kept.images, labels, tuple(classes))

    def few(self, count: int) -> "ImageSet":
        """Return the first `count` images of each class, class by class: a few-shot data set.

        A class with fewer images gives all of them.
        """
        chosen = [np.flatnonzero(self.labels == k)[:count] for k in range(len(self.classes))]
        return self.take(np.concatenate(chosen))


def datasets_folder() -> Path:
    """Return the folder where downloaded and generated data sets are stored.

    The first of these: the environment variable `MINIDL_DATASETS`; `datasets/` of the checkout
    that this package is imported from; `minidl/datasets` in `XDG_CACHE_HOME`; `minidl/datasets` in
    `~/.cache`, on every system, as in PyTorch. The working directory does not matter, so a script
    finds its data wherever it is started.

    Returns:
        The folder, which need not exist yet.
    """
    chosen = os.environ.get("MINIDL_DATASETS")
    if chosen:
        return Path(chosen).expanduser()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "datasets").is_dir():
        return checkout / "datasets"
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    cache = cache if cache.is_absolute() else Path.home() / ".cache"  # as the XDG standard requires
    return cache / "minidl" / "datasets"
