"""The type of all image sets, and the folder of data sets on disk."""

import os
from pathlib import Path
from typing import NamedTuple

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
        return ImageSet(self.images[:count], self.labels[:count], self.classes)

    def split(self, count: int) -> tuple["ImageSet", "ImageSet"]:
        """Return the first `count` images and the others, for example to validate on.

        The sets that minidl loads are in random order; shuffle your own first if theirs is not.

        Raises:
            ValueError: one of the two would be empty.
        """
        if not 0 < count < len(self.labels):
            raise ValueError(
                f"split: got {count} of {len(self.labels)} images, expected at least 1 in each part"
            )
        rest = ImageSet(self.images[count:], self.labels[count:], self.classes)
        return self.first(count), rest


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
