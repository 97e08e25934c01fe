"""The type of all sets of scenes: images with the class of every pixel, and boxes of objects."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class SceneSet(NamedTuple):
    """Hold images of several objects, with a mask and boxes for each, as stored.

    Attributes:
        images: uint8, shape (n, 3, h, w), channels red, green, blue, 0..255.
        masks: uint8, shape (n, h, w): the class of what is visible in each pixel, 0 for background;
            255 in masks of your own for pixels that do not count (`ignore_index=255`).
        boxes: for each image, float32 of shape (k, 4): x1, y1, x2, y2 of its k objects, in pixels
            from the image's left and top edge, so that `x2 - x1` is the width. Each encloses the
            visible part of its object exactly. An empty tuple if the set has no boxes.
        labels: for each image, int64 of shape (k,): the classes of its objects, >= 1.
        classes: the name of each class; the first is the background.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    boxes: tuple[NDArray[np.float32], ...]
    labels: tuple[NDArray[np.int64], ...]
    classes: tuple[str, ...]

    def first(self, count: int) -> SceneSet:
        """Return the first `count` images, or all if there are fewer."""
        return self.take(slice(count))

    def take(self, chosen: Any) -> SceneSet:
        """Return the images that a NumPy index chooses: a slice, indices, or a mask `(n,)`.

        Example:
            >>> pixels, masks = np.zeros((3, 3, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)
            >>> SceneSet(pixels, masks, (), (), ("background", "cat")).take([0, 2]).masks.shape
            (2, 8, 8)
        """
        places = np.arange(len(self.images))[chosen]
        boxes, labels = (
            tuple(kept[place] for place in places) if kept else ()
            for kept in (self.boxes, self.labels)
        )
        return SceneSet(self.images[chosen], self.masks[chosen], boxes, labels, self.classes)

    def split(self, count: int) -> tuple[SceneSet, SceneSet]:
        """Return the first `count` images and the others, for example to validate on.

        Raises:
            ValueError: one of the two would be empty.
        """
        if not 0 < count < len(self.images):
            raise ValueError(
                f"split: got {count} of {len(self.images)} images, expected at least 1 in each part"
            )
        return self.first(count), self.take(slice(count, None))
