"""Augmentation: each pass over the images shows them shifted, mirrored or with a hole.

A network that has seen horses in many positions learns the horse, not the position. Every transform
works on whole batches `(n, c, h, w)`: uint8, as stored, before `Normalize`, or floats after it.
It draws from its `rng` for each image, and never writes to its input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.checks import check_fraction, check_whole
from minidl.random import generator


class Compose:
    """Apply transforms one after the other, for `DataLoader(transform=...)`.

    Args:
        transforms: functions from images to images.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> augment = Compose(RandomCrop(padding=4, rng=rng), RandomHorizontalFlip(rng=rng))
        >>> augment(np.zeros((8, 3, 32, 32), np.uint8)).shape
        (8, 3, 32, 32)
    """

    def __init__(self, *transforms: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        for transform in transforms:
            if not callable(transform):
                raise TypeError(f"Compose: got {transform!r:.80}, expected functions of images")
        self.transforms = transforms

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """Transform a batch `(n, ...)`."""
        for transform in self.transforms:
            images = transform(images)
        return images


class RandomCrop:
    """Pad each image with `padding` pixels of 0, and cut a random window of the old size out of it.

    So each image moves by up to `padding` pixels in each direction.

    Args:
        padding: pixels on each side, >= 1.
        rng: the generator to draw from; the seeded stream if None.

    Example:
        >>> image = np.arange(1, 5, dtype=np.uint8).reshape(1, 1, 2, 2)
        >>> RandomCrop(padding=1, rng=np.random.default_rng(0))(image)[0, 0]
        array([[3, 4],
               [0, 0]], dtype=uint8)
    """

    def __init__(self, padding: int = 4, rng: np.random.Generator | None = None) -> None:
        check_whole("RandomCrop", 1, padding=padding)
        generator(rng)
        self.padding, self._rng = padding, rng

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """Crop a batch `(n, c, h, w)`."""
        n, _, h, w = _shape("RandomCrop", images)
        p = self.padding
        padded = np.pad(images, ((0, 0), (0, 0), (p, p), (p, p)))
        tops, lefts = generator(self._rng).integers(0, 2 * p + 1, (2, n))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (h, w), (2, 3))
        cropped: NDArray[Any] = windows[np.arange(n), :, tops, lefts]  # (n, c, h, w)
        return cropped


class RandomHorizontalFlip:
    """Mirror each image, left for right, with probability `p`.

    Args:
        p: 0 <= p <= 1.
        rng: the generator to draw from; the seeded stream if None.
    """

    def __init__(self, p: float = 0.5, rng: np.random.Generator | None = None) -> None:
        check_fraction("RandomHorizontalFlip", "p", p)
        generator(rng)
        self.p, self._rng = p, rng

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """Flip some of a batch `(n, c, h, w)`."""
        n, *_ = _shape("RandomHorizontalFlip", images)
        chosen = generator(self._rng).random(n) < self.p
        flipped = images.copy()
        flipped[chosen] = images[chosen, :, :, ::-1]
        return flipped


class Cutout:
    """Set a square of each image to a value, so that the network must use the rest.

    Its centre is a random pixel: at an edge, part of the square is outside.

    Args:
        size: side of the square in pixels, >= 1.
        fill: the value; after `Normalize`, 0 is the mean.
        rng: the generator to draw from; the seeded stream if None.

    Source: T. DeVries and G. Taylor, Improved Regularization of CNNs with Cutout (2017).
    """

    def __init__(
        self, size: int = 8, fill: int = 0, rng: np.random.Generator | None = None
    ) -> None:
        check_whole("Cutout", 1, size=size)
        generator(rng)
        self.size, self.fill, self._rng = size, fill, rng

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """Cut a hole into each image of a batch `(n, c, h, w)`."""
        n, _, h, w = _shape("Cutout", images)
        rng = generator(self._rng)
        tops, lefts = (rng.integers(0, side, n)[:, None] - self.size // 2 for side in (h, w))
        rows, columns = np.arange(h), np.arange(w)
        in_rows = (rows >= tops) & (rows < tops + self.size)  # (n, h)
        in_columns = (columns >= lefts) & (columns < lefts + self.size)  # (n, w)
        hole = in_rows[:, None, :, None] & in_columns[:, None, None, :]  # (n, 1, h, w)
        return np.where(hole, images.dtype.type(self.fill), images)


def _shape(who: str, images: NDArray[Any]) -> tuple[int, ...]:
    if not isinstance(images, np.ndarray) or images.ndim != 4:
        got = getattr(images, "shape", type(images).__name__)
        raise ValueError(f"{who}: got {got}, expected an array of images (n, c, h, w)")
    shape: tuple[int, ...] = images.shape
    return shape
