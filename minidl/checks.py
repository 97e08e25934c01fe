"""Argument checks: integers, pairs, fractions."""

from __future__ import annotations

from typing import Any

import numpy as np

Pair = int | tuple[int, int]
"""One integer for both directions, or (height, width), in pixels."""


def pair(op: str, name: str, value: Pair, least: int, axes: int = 2) -> tuple[int, int]:
    """Return an argument as (height, width); raise ValueError unless integers >= `least`.

    With `axes=1`, for sequences (images one pixel tall), it must be a single integer.
    """
    if axes == 1:
        check_whole(op, least, **{name: value})
        return least, int(value)  # type: ignore[arg-type]
    both = value if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or not all(is_whole(v, least) for v in both):
        raise ValueError(
            f"{op}: got {name}={value!r}, expected an integer >= {least}, "
            "or a pair of them (height, width)"
        )
    return int(both[0]), int(both[1])


def check_whole(op: str, least: int, **values: Any) -> None:
    """Raise ValueError unless all values are integers >= `least`."""
    for name, value in values.items():
        if not is_whole(value, least):
            raise ValueError(f"{op}: got {name}={value!r}, expected an integer >= {least}")


def is_whole(n: Any, least: int) -> bool:
    """Return whether a value is an integer >= `least`; True and False are not."""
    return isinstance(n, (int, np.integer)) and not isinstance(n, bool) and bool(n >= least)


def is_number(n: Any) -> bool:
    """Return whether a value is a real number, perhaps NumPy's; True and False are not."""
    return isinstance(n, (int, float, np.integer, np.floating)) and not isinstance(n, bool)


def check_fraction(op: str, name: str, value: float) -> None:
    """Raise ValueError unless `0 <= value <= 1`."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or not 0 <= value <= 1:
        raise ValueError(f"{op}: got {name}={value!r}, expected 0 <= {name} <= 1")
