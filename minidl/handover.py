"""Reference counting: is this the only reference to a gradient and its array?

CPython counts the references to each object. A gradient with no other reference can be handed over
instead of copied: a copy of 16 MiB takes 2 ms, as long as ReLU does.
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
"""What `_holders` returns for an object that one variable holds: it depends on Python's version."""


def is_free(gradient: Any, holders: int) -> bool:
    """Return whether a gradient can be handed over, and made mutable: nothing else refers to it.

    Args:
        gradient: a tensor.
        holders: how many references to it the callers are known to hold.
    """
    if gradient.requires_grad or gradient.stored is not gradient:
        return False
    if _holders(gradient) != _ONE + holders:
        return False
    array = gradient.array
    base = array.base
    if base is not None:  # a view: it must cover an array that only it refers to
        whole = type(base) is type(array) and base.base is None and base.size == array.size
        if not whole or _holders(base) != _ONE + 1:
            return False
    if _holders(array) != _ONE + 1:
        return False
    if base is not None:  # otherwise the view could not be made mutable
        gradient.backend.set_writeable(base, True)
    return True
