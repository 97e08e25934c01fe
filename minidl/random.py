"""The one stream of random numbers that people seed; code takes an explicit `rng` instead.

Numbers are always drawn on the host and then moved, so that a seed means the same weights, dropout
masks and batches on every device.
"""

from __future__ import annotations

import numpy as np

_generator = np.random.default_rng()


def manual_seed(seed: int) -> np.random.Generator:
    """Restart the stream that is used wherever no `rng` is given; return it.

    Args:
        seed: any whole number from 0.

    Raises:
        ValueError: the seed is negative or no whole number.

    Example:
        >>> import minidl
        >>> a = minidl.manual_seed(7).random()
        >>> b = minidl.manual_seed(7).random()
        >>> a == b
        True
    """
    global _generator
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"manual_seed: got {seed!r}, wants a whole number from 0")
    _generator = np.random.default_rng(int(seed))
    return _generator


def generator(rng: np.random.Generator | None = None) -> np.random.Generator:
    """Return `rng`, or the stream that `manual_seed` restarts where it is None.

    Raises:
        TypeError: `rng` is something else, such as a seed.
    """
    if rng is None:
        return _generator
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng={rng!r}: wants a numpy.random.Generator, such as numpy.random.default_rng(0)"
        )
    return rng
