"""The global random stream, which `manual_seed` restarts; an explicit `rng` replaces it.

Numbers are always drawn on the host and then moved, so that a seed gives the same weights, dropout
masks and batches on every device.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from minidl.backends import Backend

_generator = np.random.default_rng()


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
    rng: np.random.Generator | None,
    shape: tuple[int, ...],
    dtype: Any,
    low: float = 0.0,
    high: float = 1.0,
) -> np.ndarray[Any, Any]:
    """Draw floats uniformly from `low <= x < high`, in float64; see `below`."""
    return below(np.asarray(generator(rng).uniform(low, high, shape)), dtype, high)


def below(values: np.ndarray[Any, Any], dtype: Any, high: float = 1.0) -> np.ndarray[Any, Any]:
    """Round to a dtype, but never up to `high`: in float32, one number in 30 million would be 1."""
    end, rounded = np.dtype(dtype).type(high), values.astype(dtype)
    raised = (rounded == end) & (values < high)
    return np.where(raised, np.nextafter(end, end.dtype.type(-np.inf)), rounded)


def streams(*objects: Any) -> list[np.random.Generator]:
    """Return every generator inside objects such as networks and loaders, each once.

    The search covers attributes, lists, tuples, dicts, and the variables that functions refer to,
    in an order that depends only on how the objects are built. An `rng` that is None stands for the
    global stream. Checkpoints use this to know what to save. Streams other than NumPy generators,
    such as that of Python's `random`, are not found.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> streams({"transforms": [len, rng]}, rng) == [rng]
        True
    """
    found: list[np.random.Generator] = []
    seen: dict[int, Any] = {}  # keeps the objects alive, so that no id is reused
    ahead: list[Any] = list(objects)[::-1]
    while ahead:
        thing = ahead.pop()
        if id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if isinstance(thing, np.random.Generator):
            found.append(thing)
        else:
            ahead += _within(thing)[::-1]
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


def _within(thing: Any) -> list[Any]:
    """Return the parts of an object that may hold a generator."""
    if isinstance(thing, (list, tuple)):
        return list(thing)
    if isinstance(thing, functools.partial):
        return [thing.func, thing.args, thing.keywords]
    if isinstance(thing, types.MethodType):
        return [thing.__self__]
    if isinstance(thing, types.FunctionType):
        kept = inspect.getclosurevars(thing)
        ours = thing.__module__.partition(".")[0] in ("minidl", "numpy")
        named = {} if ours else kept.globals  # ours name only the global stream
        return [kept.nonlocals, named, thing.__defaults__, thing.__kwdefaults__]
    if isinstance(thing, (type, types.ModuleType)):
        return []
    values = thing if isinstance(thing, dict) else getattr(thing, "__dict__", {})
    unset = any(values.get(name, values) is None for name in ("rng", "_rng"))
    return [*values.values(), *([_generator] if unset else [])]
