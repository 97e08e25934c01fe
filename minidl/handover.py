"""Whether anybody else holds an array: counted by CPython, which frees what nobody holds."""

from __future__ import annotations

import sys
from typing import Any


def _references_to_one() -> int:
    thing = object()
    return sys.getrefcount(thing)


ONE = _references_to_one()
"""What `getrefcount` says of a thing that one variable holds: 2, or 1 in newer Pythons."""


def is_held_once(array: Any) -> bool:
    """Tell whether one tensor holds an array and, if it is a view, nothing else its memory."""
    base = array.base
    if base is not None:
        whole = type(base) is type(array) and base.base is None and base.size == array.size
        if not whole or sys.getrefcount(base) != ONE + 1:
            return False
    return sys.getrefcount(array) == ONE + 1  # the tensor, and here
