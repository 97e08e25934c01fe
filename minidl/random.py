"""The global random stream, which `manual_seed` restarts; an explicit `rng` replaces it.

Numbers are always drawn on the host and then moved, so that a seed gives the same weights, dropout
masks and batches on every device.
"""

from __future__ import annotations

import contextlib
import dis
import gc
import sys
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from minidl.backends import Backend

_global: list[np.random.Generator] = []  # made on first use: importing np.random takes 10 ms

MOST_OBJECTS = 50_000  # the most objects that a search visits; this takes about 0.1 s
LONG = 1_000  # an object with more parts is taken for data, and searched last
_PLAIN = {bool, int, float, str, bytes, types.NoneType, np.ndarray, *np.sctypeDict.values()}
_POSITIONS = {"pos": 625, "buffer_pos": 5}  # how many positions MT19937 and Philox have
_DRAW = {"numpy", "numpy.random", "random"}  # modules whose functions draw from their own streams
_KNOWN = {"minidl", "numpy", *sys.stdlib_module_names}
"""Packages whose functions and classes refer to no stream except the global one."""


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
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"manual_seed: got {seed!r}, expected an integer >= 0")
    _global[:] = [np.random.default_rng(int(seed))]
    return _global[0]


def generator(rng: np.random.Generator | None = None) -> np.random.Generator:
    """Return `rng`, or the global stream if it is None.

    Raises:
        TypeError: `rng` is something else, such as a seed.
    """
    if rng is None:
        _global[:] = _global or [np.random.default_rng()]
        return _global[0]
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
    """Round to a dtype, but never up to `high`: in float32, one value in 30 million would be 1."""
    end, rounded = np.dtype(dtype).type(high), values.astype(dtype)
    raised = (rounded == end) & (values < high)
    return np.where(raised, np.nextafter(end, -np.inf), rounded)


def state_of(stream: Any) -> Any:
    """Return a copy of a stream's state."""
    new = isinstance(stream, np.random.Generator)
    return stream.bit_generator.state if new else stream.__getstate__()


def restore(streams: Iterable[Any], states: Iterable[Any]) -> None:
    """Set the states of the first streams, as many as there are states.

    Raises:
        ValueError: a state does not belong to such a stream. Positions in buffers are checked here,
            because NumPy does not check them and would read beyond the buffers.
    """
    for stream, state in zip(streams, states, strict=False):
        try:
            if hasattr(stream, "setstate"):  # Python's random.Random
                stream.setstate(state)
                continue
            parts = {**state, **state["state"]}
            if any(parts.get(name, 0) not in range(n) for name, n in _POSITIONS.items()):
                raise ValueError("a position is out of range")
            if isinstance(stream, np.random.Generator):
                stream.bit_generator.state = state
            else:
                stream.set_state(state)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"got no valid state of a {type(stream).__name__} ({error!r:.100})"
            ) from error


def streams(*objects: Any) -> list[Any]:
    """Return every generator inside objects such as networks and loaders, each once.

    The search covers attributes, containers, bound methods, and the variables to which functions
    and the methods of your own classes refer. Its order depends only on how the objects are built.
    An `rng` that is None stands for the global stream. Checkpoints use this to know what to save.
    NumPy's older `RandomState` and Python's `random.Random` come last, including the global streams
    of `numpy.random` and `random` if functions draw from them. Streams inside sets, other modules
    and arrays of objects are not found. The search ends with a warning after 50,000 objects, not
    counting numbers, strings and arrays; items of long lists are searched last.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> streams({"transforms": [len, rng]}, rng) == [rng]
        True
    """
    import random  # imported on use, like np.random

    kinds = (np.random.Generator, np.random.RandomState, random.Random)
    found: list[Any] = []
    seen: dict[int, Any] = {}  # keeps the objects alive, so that no id is reused
    ahead = deque(objects[::-1])
    while ahead and len(seen) < MOST_OBJECTS:
        thing = ahead.pop()
        if id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if issubclass(type(thing), kinds) and not issubclass(type(thing), random.SystemRandom):
            found.append(thing)
            continue
        parts: list[Any] = []
        with contextlib.suppress(Exception):  # even reading a class's module may raise
            parts = [part for part in _within(thing) if type(part) not in _PLAIN]
        if len(parts) > LONG:
            ahead.extendleft(parts)
        else:
            ahead.extend(parts[::-1])
    if ahead:
        warnings.warn(
            f"the search for random streams ended after {MOST_OBJECTS:,} objects, before a "
            f"{type(ahead[-1]).__name__}: draws from a generator that it did not reach will not "
            "repeat exactly. Keep data in arrays rather than in lists of lists",
            stacklevel=3,
        )
    return sorted(found, key=lambda stream: not isinstance(stream, np.random.Generator))


def drawn(
    backend: Backend,
    rng: np.random.Generator | None,
    draw: Callable[[np.random.Generator], np.ndarray[Any, Any]],
) -> Any:
    """Draw on the host; return the result as a backend's array. A replay draws again."""
    stream = generator(rng)
    before = state_of(stream)
    return backend.fresh(lambda: draw(stream), lambda: restore([stream], [before]))


@contextlib.contextmanager
def streams_kept(*objects: Any) -> Iterator[None]:
    """Restore the global stream, and those inside some objects, when a `with` block ends."""
    found = streams(generator(), *objects)
    states = [state_of(stream) for stream in found]
    try:
        yield
    finally:
        # A new global stream, if `manual_seed` ran inside.
        restore([*found, generator()], [*states, states[0]])


def _within(thing: Any) -> list[Any]:
    """Return the parts of an object that may hold a generator.

    The garbage collector lists them, because the object itself may be a proxy that only raises.
    """
    kind = type(thing)
    if issubclass(kind, types.FunctionType):
        return _named(thing)
    is_tensor = not kind.__dictoffset__ and _package(kind.__module__) == "minidl"
    is_class = issubclass(kind, type) or kind.__name__ == "cython_function_or_method"  # of NumPy
    is_known = is_class and _package(thing.__module__) in _KNOWN
    if is_tensor or is_known or issubclass(kind, (types.ModuleType, set, frozenset)):
        return []
    parts = gc.get_referents(thing)
    for base in (list, tuple):  # the collector visits these from the end
        parts = list(base.__iter__(thing)) if issubclass(kind, base) else parts
    if kind.__dictoffset__:  # first, in the order of assignment
        with contextlib.suppress(Exception):
            parts.insert(0, object.__getattribute__(thing, "__dict__"))
    slots = [name for name in ("rng", "_rng") if name in getattr(kind, "__slots__", ())]
    unset = [dict.get(thing, name, 0) for name in ("rng", "_rng") if issubclass(kind, dict)]
    if None in (*unset, *(getattr(thing, name, 0) for name in slots)):
        parts.append(generator())
    return parts


def _named(function: types.FunctionType) -> list[Any]:
    """Return the variables that a function refers to, its defaults and its attributes."""
    codes, variables = [function.__code__], function.__globals__
    cells = zip(codes[0].co_freevars, function.__closure__ or (), strict=True)
    # A cell refers to nothing until its variable is set.
    kept = {name: value for name, cell in cells for value in gc.get_referents(cell)}
    found: list[Any] = [kept]
    for code in () if _package(variables.get("__name__")) in _KNOWN else codes:
        found.append({name: variables[name] for name in code.co_names if name in variables})
        if any(isinstance(v, types.ModuleType) and v.__name__ in _DRAW for v in found[-1].values()):
            found += _from_modules(code, variables)
        codes += (inner for inner in code.co_consts if isinstance(inner, types.CodeType))
    return [*found, function.__defaults__, function.__kwdefaults__, function.__dict__]


def _from_modules(code: types.CodeType, variables: dict[str, Any]) -> list[Any]:
    """Return objects that code reads from modules: `np.random.rand` refers to a global stream."""
    found: list[Any] = [None]
    for step in dis.get_instructions(code):
        inside = vars(found[-1]) if isinstance(found[-1], types.ModuleType) else variables
        found.append(inside.get(step.argval) if isinstance(step.argval, str) else None)
    return found


def _package(module: Any) -> str:
    return str(module).partition(".")[0]
