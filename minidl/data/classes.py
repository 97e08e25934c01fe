"""Give classes the same numbers in the training set and the test set."""

from __future__ import annotations

import re
import reprlib
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_first_read: dict[Path, tuple[Path, dict[str, int]]] = {}
"""For each folder, the first set read from it, and its class numbers: splits are often siblings."""


def brief(value: Any) -> str:
    """Return the start of a value's `repr`, without building all of it: it may be huge or deep."""
    short = reprlib.Repr()
    short.maxstring, short.maxother, short.maxlevel = 60, 60, 2
    return short.repr(value)


def is_integer(name: str) -> bool:
    """Return whether a class is named by an integer that fits int64."""
    return _INTEGER.fullmatch(name) is not None


def number_classes(
    path: str | Path, found: Mapping[str, str], classes: Iterable[str | int] | None
) -> dict[str, int]:
    """Return the number of each class.

    Args:
        path: the file or folder that was read.
        found: for each class that occurs, where it occurs first.
        classes: all classes in the order of their numbers; if None, those found: integers in
            ascending order, otherwise in the order of the names.

    Warns:
        UserWarning: without `classes`, a class gets a different number than in the first set that
            was read from the same folder.

    Raises:
        TypeError: `classes` is a string or a set, which has no order.
        ValueError: `classes` has a name twice, or lacks a class that occurs.
    """
    if isinstance(classes, (str, set, frozenset)):
        raise TypeError(f"{path}: got classes={brief(classes)}, expected a tuple of names")
    if classes is None:
        numeric = all(map(is_integer, found))
        names = sorted(found, key=lambda name: (int(name) if numeric else 0, name))
    else:
        names = [str(name) for name in classes]
    numbers = {name: number for number, name in enumerate(names)}
    if len(numbers) < len(names):
        raise ValueError(f"{path}: got classes={brief(names)}, expected each name once")
    for name, where in found.items():
        if name not in numbers:
            raise ValueError(
                f"{where}: got the class {brief(name)}, expected one of classes={brief(names)}"
            )
    place = Path(path).resolve()
    first, others = _first_read.get(place.parent, (place, numbers))
    if first == place:
        _first_read[place.parent] = place, numbers  # it may have changed
        return numbers
    moved = [name for name in numbers if others.get(name, numbers[name]) != numbers[name]]
    if moved and classes is None:
        warnings.warn(
            f"{path}: the class {brief(moved[0])} has the number {numbers[moved[0]]}, but "
            f"{others[moved[0]]} in {first}, read before; pass classes=train.classes when you "
            "read a test set, so that each number means the same class in both",
            stacklevel=3,
        )
    return numbers
