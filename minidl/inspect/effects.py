"""What a kind of pooling does to images: shifts, noise, a lone bright pixel, lost detail."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from minidl.autograd import set_recording
from minidl.tensor import Tensor


def pooling_effects(
    pool: Callable[[Tensor], Tensor], images: Tensor, rng: np.random.Generator | None = None
) -> dict[str, float]:
    """Measure what pooling keeps of images, and what it lets through.

    Changes are root mean squares, in standard deviations of the clean output: 0 is no change, and
    about 1.4 the change between unrelated images.

    Args:
        pool: from `(n, c, h, w)` to `(n, c, h // s, w // s)`, for some s.
        images: `(n, c, h, w)`, `0 <= value <= 1`, at least 10 x 10 pixels.
        rng: draws the noise; by default a generator with seed 0, so that every kind of pooling gets
            the same noise.

    Returns:
        `shift`: the change when images, cropped by 4 pixels on each side, move by one pixel;
        `noise`: the change due to Gaussian noise (standard deviation 0.1), divided by the change
        without pooling; `salt`: the same for 2 % white pixels;
        `lone`: what is left of a white pixel on black, on average over 4 x 4 positions;
        `lost`: the error of the images after each output is repeated over its s x s pixels.

    Source: own definitions.

    Raises:
        ValueError: the images are too small.

    Example:
        >>> from minidl import functional as F
        >>> images = Tensor(np.random.default_rng(0).random((8, 1, 16, 16), np.float32))
        >>> pooling_effects(lambda x: F.avg_pool2d(x, 2), images)["lone"]
        0.25
    """
    x = images.numpy()
    if x.ndim != 4 or min(x.shape[2:]) < 10:
        raise ValueError(
            f"pooling_effects: got images of shape {x.shape}, expected (n, c, h, w) with h, w >= "
            "10: they are cropped by 4 pixels on each side"
        )
    rng = np.random.default_rng(0) if rng is None else rng

    def pooled(array: NDArray[np.floating]) -> NDArray[np.floating]:
        with set_recording(False):
            return pool(Tensor(array.astype(x.dtype), device=images.device)).numpy()

    def change(before: NDArray[np.floating], after: NDArray[np.floating]) -> float:
        return float(np.sqrt(np.mean((after - before) ** 2)) / before.std())

    clean, (h, w) = pooled(x), x.shape[2:]
    effects = {"shift": change(*(pooled(x[..., 4:-4, 4 - s : w - 4 - s]) for s in (0, 1)))}
    gaussian = np.maximum(x + rng.normal(0, 0.1, x.shape), 0)
    salted = np.where(rng.random(x.shape) < 0.02, 1, x)
    for name, noisy in (("noise", gaussian), ("salt", salted)):
        effects[name] = change(clean, pooled(noisy)) / change(x, noisy)
    dots = np.zeros((16, *x.shape[1:]))
    i, j = np.divmod(np.arange(16), 4)
    dots[range(16), :, h // 2 - 2 + i, w // 2 - 2 + j] = 1
    effects["lone"] = float(pooled(dots).max((1, 2, 3)).mean())
    s = h // clean.shape[2]
    effects["lost"] = change(x, clean.repeat(s, 2).repeat(s, 3))
    return effects
