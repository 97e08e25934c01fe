"""The global random stream, which `manual_seed` restarts; an explicit `rng` replaces it.

Numbers are always drawn on the host and then moved, so that a seed gives the same weights, dropout
masks and batches on every device.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from minidl.backends import Backend

_generator = np.random.default_rng()

MOST_OBJECTS = 50_000  # that one search looks at, in 0.1 s or so
LONG = 1_000  # parts of an object, beyond which it is searched last: data, not settings
_PLAIN = frozenset(
    (bool, int, float, complex, str, bytes, type(None), np.ndarray, *np.sctypeDict.values())
)
_KNOWN = {"minidl", "numpy", *sys.stdlib_module_names}
"""Packages whose functions and classes name no stream of their own but the global one."""
_PARTS: dict[type, tuple[str, ...]] = {
    functools.partial: ("func", "args", "keywords"),
    types.MethodType: ("__self__", "__func__"),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget",),
}


def manual_seed(seed: int) -> np.random.Generator:
    """Restart the stream that is used when no `rng` is given; return it.

    Args:
        seed: an integer >= 0.

    Raises:
        ValueError: the seed is negative or not an integer.

    Example:
        >>> import minidl
        >>> a = minidl.manual_seed(7).random()
        >>> b = minidl.manual_seed(7).random()
        >>> a == b
        True
    """
    global _generator
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"manual_seed: got {seed!r}, expected an integer >= 0")
    _generator = np.random.default_rng(int(seed))
    return _generator


def generator(rng: np.random.Generator | None = None) -> np.random.Generator:
    """Return `rng`, or the global stream if it is None.

    Raises:
        TypeError: `rng` is something else, such as a seed.
    """
    if rng is None:
        return _generator
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"got rng={rng!r}, expected a numpy.random.Generator, e.g. numpy.random.default_rng(0)"
        )
    return rng


def uniform(
    rng: np.random.Generator | None, shape: Any, dtype: Any, low: float = 0.0, high: float = 1.0
) -> np.ndarray[Any, Any]:
    """Draw floats uniformly from `low <= x < high`, in float64; see `below`."""
    return below(np.asarray(generator(rng).uniform(low, high, shape)), dtype, high)


def below(values: np.ndarray[Any, Any], dtype: Any, high: float = 1.0) -> np.ndarray[Any, Any]:
    """Round to a dtype, but never up to `high`: in float32, one number in 30 million would be 1."""
    end, rounded = np.dtype(dtype).type(high), values.astype(dtype)
    raised = (rounded == end) & (values < high)
    return np.where(raised, np.nextafter(end, -np.inf), rounded)


def streams(*objects: Any) -> list[np.random.Generator]:
    """Return every generator inside objects such as networks and loaders, each once.

    The search covers attributes and slots, lists, tuples, dicts, bound methods, and the variables
    that functions, and the methods of your own classes, refer to, in an order that depends only on
    how the objects are built. An `rng` that is None stands for the global stream. Checkpoints use
    this to know what to save. Not found are streams other than NumPy generators, such as that of
    Python's `random`, and those inside sets, iterators, modules, and objects that refuse to be
    looked into. The search ends with a warning after 50,000 objects, the items of long lists last;
    numbers, strings and arrays do not count.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> streams({"transforms": [len, rng]}, rng) == [rng]
        True
    """
    found: list[np.random.Generator] = []
    seen: dict[int, Any] = {}  # keeps the objects alive, so that no id is reused
    ahead, last = list(objects)[::-1], deque[Any]()
    while ahead or last:
        thing = ahead.pop() if ahead else last.popleft()
        if id(thing) in seen:
            continue
        if len(seen) == MOST_OBJECTS:
            warnings.warn(
                f"the search for random streams ended after {MOST_OBJECTS:,} objects, such as a "
                f"{type(thing).__name__}: a generator further inside is not saved in checkpoints. "
                "Keep data in arrays rather than in lists of lists",
                stacklevel=3,
            )
            break
        seen[id(thing)] = thing
        if issubclass(type(thing), np.random.Generator):
            found.append(thing)
            continue
        parts: list[Any] = []
        with contextlib.suppress(Exception):  # a hostile object: the parts found so far will do
            parts += (part for part in _within(thing) if type(part) not in _PLAIN)
        if len(parts) > LONG:
            last.extend(parts)
        else:
            ahead += parts[::-1]
    return found


def drawn(
    backend: Backend,
    rng: np.random.Generator | None,
    draw: Callable[[np.random.Generator], np.ndarray[Any, Any]],
) -> Any:
    """Draw on the host; return the result as a backend's array. A replay draws again."""
    stream = generator(rng)
    before = stream.bit_generator.state

    def undo() -> None:
        stream.bit_generator.state = before

    return backend.fresh(lambda: draw(stream), undo)


@contextlib.contextmanager
def streams_kept(*objects: Any) -> Iterator[None]:
    """Restore the global stream, and those inside some objects, when a `with` block ends."""
    kept = [(stream, stream.bit_generator.state) for stream in streams(generator(), *objects)]
    try:
        yield
    finally:
        for stream, state in kept:
            stream.bit_generator.state = state
        generator().bit_generator.state = kept[0][1]  # a new one, if `manual_seed` ran inside


def _within(thing: Any) -> Iterator[Any]:
    """Yield the parts of an object that may hold a generator, its attributes before its classes.

    Only `type` tells what an object is: `isinstance` would ask the object, which may be a proxy.
    """
    kind = type(thing)
    if issubclass(kind, types.ModuleType):
        return
    if issubclass(kind, type):
        yield from () if _is_known(thing.__module__) else vars(thing).values()
        return
    if issubclass(kind, types.FunctionType):
        yield from _named(thing)
    for base, names in _PARTS.items():
        if issubclass(kind, base):
            yield from (getattr(thing, name) for name in names)
    for base in (list, tuple):
        if issubclass(kind, base):
            yield from base.__iter__(thing)
    if issubclass(kind, dict):
        yield from dict.values(thing)
        if any(dict.get(thing, name, thing) is None for name in ("rng", "_rng")):
            yield _generator
    with contextlib.suppress(Exception):
        yield object.__getattribute__(thing, "__dict__")
    own = [cls for cls in kind.__mro__ if not _is_known(cls.__module__)]
    for slot in (value for cls in own for value in vars(cls).values()):
        if isinstance(slot, types.MemberDescriptorType):
            with contextlib.suppress(AttributeError):  # not set yet
                yield slot.__get__(thing)
    yield from own


def _named(function: types.FunctionType) -> Iterator[Any]:
    """Yield the variables that a function refers to, and its defaults."""
    kept, variables, codes = {}, function.__globals__, [function.__code__]
    for name, cell in zip(codes[0].co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a name that is not set yet
            kept[name] = cell.cell_contents
    yield kept
    for code in () if _is_known(variables.get("__name__")) else codes:  # grows by inner functions
        yield {name: variables[name] for name in code.co_names if name in variables}
        codes += (inner for inner in code.co_consts if isinstance(inner, types.CodeType))
    yield from (function.__defaults__, function.__kwdefaults__)


def _is_known(module: Any) -> bool:
    return str(module).partition(".")[0] in _KNOWN
