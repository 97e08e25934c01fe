"""Reference counting: is a gradient, and its array, held by nobody else?

CPython frees an object when nobody holds it any more, and says how many do. A gradient that nobody
else holds can be given away instead of copied: a copy of 16 MiB takes 2 ms, as long as ReLU does.
"""

from __future__ import annotations

import sys
from typing import Any


def _holders(thing: Any) -> int:
    return sys.getrefcount(thing)


def _of_one_variable() -> int:
    thing = object()
    return _holders(thing)


_ONE = _of_one_variable()
"""What `_holders` says of a thing that one variable of its caller holds: it depends on Python."""


def is_free(gradient: Any, holders: int) -> bool:
    """Tell whether a gradient can be given away, made mutable, because nobody else holds it.

    Args:
        gradient: a tensor that no graph belongs to.
        holders: how many variables outside of this function are known to hold it.
    """
    if gradient.requires_grad or gradient.stored is not gradient:
        return False
    if _holders(gradient) != _ONE + holders:
        return False
    array = gradient.data
    base = array.base
    if base is not None:  # a view: of all of an array that only it holds?
        whole = type(base) is type(array) and base.base is None and base.size == array.size
        if not whole or _holders(base) != _ONE + 1:
            return False
    if _holders(array) != _ONE + 1:
        return False
    if base is not None:  # or the view could not be made mutable
        gradient.backend.set_writeable(base, True)
    return True
