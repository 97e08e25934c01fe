"""Describe a run by the content of its parts, so that a checkpoint does not resume another run.

Names of files, folders and machines do not count as content, nor do options that nothing uses.
"""

from __future__ import annotations

import contextlib
import dis
import enum
import functools
import sys
import types
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from minidl import nn, optim
from minidl.data import DataLoader
from minidl.distributed import World
from minidl.random import generator
from minidl.tensor import Tensor
from minidl.training.run import Run

ROWS, VALUES = 16, 64  # sampled from a large array, so that little of a 100 GB memory map is read
SMALL = 2**22  # bytes: integer arrays up to this size, such as labels, are compared completely
MOST, LONG, DEEP = 5_000, 50, 8  # limits on descriptions, items per container, nesting
CODE = f"code (Python {sys.version_info.major}.{sys.version_info.minor})"  # bytecode differs
_PLAIN = (bool, int, float, complex, str, bytes, types.NoneType)
_SKIPPED = (PurePath, optim.Optimizer, DataLoader, World)  # runs resume on any number of ranks
_OWN = {"minidl", "numpy", *sys.stdlib_module_names} - {"__main__"}
_INSTALLED = {"site-packages", "dist-packages"}
_UNUSED = {"__init__", "__post_init__", "__repr__", "__str__", "__eq__", "__hash__", "__setattr__"}


def fingerprint(run: Run) -> dict[str, Any]:
    """Describe a run before its first step: strings and samples of arrays, by name."""
    found: dict[str, Any] = {}
    rates = [group["lr"] for group in run.optimizer.param_groups]
    things = {"model": run.model, "loss": run.loss, "schedule": run.schedule, "rates": rates}
    for part, loader in (("training", run.train), ("validation", run.validation)):
        things[f"{part} data"] = getattr(loader, "arrays", None)
        things[f"{part} transform"] = getattr(loader, "transform", None)
    for name, thing in things.items():
        _describe(thing, name, found, set())
    for name in () if run.schedule is None else run.schedule.state_dict():
        found.pop(f"schedule.{name}", None)  # restored when resuming
    seeds = {f"seed of stream {i}": _seed(stream) for i, stream in enumerate(run.streams)}
    found |= {name: seed for name, seed in seeds.items() if seed}
    if _seed(generator()):  # without a seed, every start has other weights
        heads = [p.backend.to_numpy(p.array.reshape(-1)[:999]) for p in run.model.parameters()]
        found["first weights"] = _digest(b"".join(head.tobytes() for head in heads))
    return found


def changes(
    before: Mapping[str, Any], now: Mapping[str, Any], *, is_fresh: bool
) -> tuple[list[str], list[str]]:
    """Return message lines about changes: those of another run, and those that may be intended.

    Args:
        before: the saved fingerprint.
        now: this run's fingerprint.
        is_fresh: whether the optimiser has taken no step yet. Afterwards, only parts that training
            does not change are compared.
    """
    lines: tuple[list[str], list[str]] = [], []
    for name in now:
        is_lasting = name in ("loss", "schedule") or name.startswith("training data")
        if name in before and (is_fresh or is_lasting) and not _equal(before[name], now[name]):
            may_be_meant = CODE in name or name.startswith(("validation", "first weights"))
            line = f"  {name}: saved {_short(before[name])}, now {_short(now[name])}"
            lines[may_be_meant].append(line)
    return lines


def _describe(
    thing: Any, name: str, found: dict[str, Any], seen: set[int], used: set[str] | None = None
) -> None:
    """Add descriptions of an object and of its parts, each under its path.

    Objects and dicts may hold all of a program's options: only those that code uses count as parts.
    """
    if isinstance(thing, (np.generic, enum.Enum)):
        thing = thing.item() if isinstance(thing, np.generic) else str(thing)
    if isinstance(thing, _PLAIN):
        if not _is_of_this_start(thing):  # machines round differently
            found[name] = f"{thing:.9g}" if isinstance(thing, float) else repr(thing)
        return
    if len(found) > MOST or name.count(".") > DEEP or isinstance(thing, _SKIPPED):
        return
    if isinstance(thing, (nn.Parameter, nn.Buffer)):  # not their values, which training changes
        frozen = "" if thing.requires_grad else ", no gradient"
        found[name] = f"{type(thing).__name__} {thing.shape}{frozen}"
    elif isinstance(thing, (np.ndarray, Tensor)):
        found[name] = _sample(thing)
    elif isinstance(thing, (set, frozenset)):
        found[name] = ", ".join(sorted(repr(item) for item in thing if isinstance(item, _PLAIN)))
    else:
        is_named = isinstance(thing, (type, types.FunctionType, types.BuiltinFunctionType))
        named = thing if is_named else type(thing)
        found[name] = thing.__name__ if isinstance(thing, np.ufunc) else named.__qualname__
        if id(thing) in seen:
            return
        seen.add(id(thing))
        functions = _functions(thing)
        if functions:
            found[f"{name} {CODE}"] = _digest(repr([_code(f.__code__) for f in functions]).encode())
            used = (used or set()).union(*(_words(f.__code__) for f in functions))
        elif callable(thing) and not isinstance(thing, types.FunctionType):
            used = None  # it uses its options itself
        with contextlib.suppress(Exception):  # even reading an attribute may raise
            for part, value in _parts(thing, functions, used):
                _describe(value, f"{name}.{part}" if part != "" else name, found, seen, used)


def _is_of_this_start(value: Any) -> bool:
    """Return whether a value is a path or a time, which differ between two starts of a program."""
    if isinstance(value, str):
        return "/" in value or "\\" in value
    return isinstance(value, float) and 1e9 < value < 4e9  # seconds since 1970


@functools.cache
def _is_users(module: str) -> bool:
    """Return whether a module is the user's own, and no installed package."""
    place = PurePath(getattr(sys.modules.get(module), "__file__", None) or "")
    return module.partition(".")[0] not in _OWN and not _INSTALLED & set(place.parts)


def _kinds(thing: Any) -> list[type]:
    """Return the user's own classes, of which a thing is an instance, or which it is."""
    kinds = (thing if isinstance(thing, type) else type(thing)).__mro__
    return [kind for kind in kinds if _is_users(str(kind.__module__))]


def _functions(thing: Any) -> list[types.FunctionType]:
    """Return a user's function, or the methods of a user's classes that may affect results."""
    members = [item for kind in _kinds(thing) for item in vars(kind).items()]
    found = [value for name, value in members if name not in _UNUSED]
    for inner in ("__func__", "fget", "func"):  # of a static or class method, of properties
        found = [getattr(value, inner, value) for value in found]
    found = [thing] if isinstance(thing, types.FunctionType) else found
    functions = [f for f in found if isinstance(f, types.FunctionType)]
    return [f for f in functions if _is_users(str(f.__globals__.get("__name__")))]


def _words(code: types.CodeType) -> set[str]:
    """Return the names that code uses, including string constants, which may be keys."""
    inner = [_words(const) for const in code.co_consts if isinstance(const, types.CodeType)]
    keys = [const for const in code.co_consts if isinstance(const, str)]
    return {*code.co_names, *code.co_freevars, *keys}.union(*inner)


def _code(code: types.CodeType) -> list[Any]:
    """Return what code does, without line numbers and docstrings."""
    found: list[Any] = []
    for step in dis.get_instructions(code):
        value = step.argval
        if isinstance(value, types.CodeType):
            value = _code(value)
        elif isinstance(value, frozenset):
            value = sorted(map(repr, value))
        elif isinstance(value, str) and len(value) >= LONG:
            value = ""  # a message
        found.append((step.opname, value))
    return found


def _parts(
    thing: Any, functions: Sequence[types.FunctionType], used: set[str] | None
) -> Iterator[tuple[Any, Any]]:
    """Yield the parts of an object, with their names."""
    for function in functions:
        yield from _variables(function)
    if isinstance(thing, functools.partial):
        yield from [("", thing.func), ("args", thing.args), *thing.keywords.items()]
    elif isinstance(thing, types.MethodType):
        yield from [("", thing.__func__), ("self", thing.__self__)]
    elif isinstance(thing, (list, tuple)) and not hasattr(thing, "_fields"):
        yield from [("length", len(thing)), *enumerate(thing[:LONG])]
    elif not isinstance(thing, _SKIPPED):
        values = _values(thing)
        names = [n for n in values if (used is None or n in used) and n != "training"]
        yield from [(name, values[name]) for name in names[:LONG]]


def _values(thing: Any) -> dict[Any, Any]:
    """Return what an object, its classes, a module, a dict or a named tuple holds."""
    if isinstance(thing, Mapping):
        return dict(thing)
    if hasattr(thing, "_fields"):
        return dict(thing._asdict())
    if isinstance(thing, types.ModuleType):
        return vars(thing) if _is_users(thing.__name__) else {}
    kinds = [vars(kind) for kind in _kinds(thing)[::-1]]
    values = {n: v for members in kinds for n, v in members.items() if not hasattr(v, "__get__")}
    slots = [n for kind in type(thing).__mro__ for n in vars(kind).get("__slots__", ())]
    values |= {n: getattr(thing, n) for n in slots if hasattr(thing, n)}
    return values if isinstance(thing, type) else values | getattr(thing, "__dict__", {})


def _variables(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the variables that a function uses, and its defaults."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for name, cell in cells:
        if cell != types.CellType() and name != "__class__":  # the variable is set
            yield name, cell.cell_contents
    for name in sorted(_words(function.__code__) & set(function.__globals__)):
        yield name, function.__globals__[name]
    yield from (("defaults", function.__defaults__), *(function.__kwdefaults__ or {}).items())


def _sample(values: Any) -> Any:
    """Return a digest of a small array of integers, or a sample of any other array's values."""
    array = np.atleast_1d(values.numpy() if isinstance(values, Tensor) else values)
    if array.dtype.kind in "biu" and array.nbytes <= SMALL:
        return f"{array.dtype} {array.shape} {_digest(np.ascontiguousarray(array))}"
    if array.dtype.kind not in "biuf" or not array.size:
        return f"{array.dtype} {array.shape}"
    rows = ROWS if array.ndim > 1 else ROWS * VALUES
    chosen = np.unique(np.linspace(0, len(array) - 1, rows).astype(int))
    step = max(1, array[0].size // VALUES)
    return np.array([np.ravel(array[i])[::step] for i in chosen], np.float64)


def _digest(data: Any) -> str:
    return f"{zlib.crc32(data):08x}"


def _equal(a: Any, b: Any) -> bool:
    """Compare strings, or arrays up to rounding, which differs between machines."""
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape == b.shape):
        return isinstance(a, str) and isinstance(b, str) and a == b
    scale = float(np.nanmax(np.abs(a), initial=0.0)) if np.isfinite(a).any() else 0.0
    return np.allclose(a, b, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return "values " + ", ".join(f"{x:.6g}" for x in value.ravel()[:4]) + ", ..."
    return str(value)[:200]


def _seed(stream: Any) -> str:
    """Return the seed that the user gave a generator, or an empty string."""
    seeds = getattr(getattr(stream, "bit_generator", None), "seed_seq", None)
    entropy, key = getattr(seeds, "entropy", None), getattr(seeds, "spawn_key", ())
    given = isinstance(entropy, (list, tuple)) or (isinstance(entropy, int) and entropy < 2**64)
    return f"{entropy} {key or ''}".strip() if given else ""
