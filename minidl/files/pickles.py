"""Pickles read as data: a small interpreter that calls nothing that a file names.

A pickle is a program: unpickling it may call anything that it names. So none is unpickled here. The
interpreter knows the instructions that describe plain values, tensors and arrays; for each format,
a table lists the names that are understood, and the minidl function that is called instead of each.
If a format allows other objects, each is read as an `Opaque`: its name without its content.

No file can crash Python or keep it busy for long. A budget counts the bytes that each instruction
allocates. Values nest at most `_DEEPEST` deep: each container on the stack carries its depth, and a
list or dict fetched from the memo can no longer be filled, since it may be part of another value,
or about to become part of itself. Keys of dicts are strings, bytes, and integers of at most 60
bits, so that no choice of keys makes a dict slow. Names and integers are short.
Source: Python's `pickletools.py`, which describes each instruction.
"""

from __future__ import annotations

import itertools
import pickletools
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.files.budget import Budget

_DEEPEST = 100  # checkpoints nest six deep; Python's own recursion limit is a thousand
_KEY_BITS = 60  # integers of more bits may share a hash: a million such keys take hours
_LONGEST_NAME = 255  # characters
_SMALL_COST, _LARGE_COST = 64, 144  # bytes that an instruction allocates, on the stack too

_VALUES: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict,
}  # fmt: skip
_LITERALS = {
    "BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING",
    "BYTEARRAY8",
}  # fmt: skip
# How many values an instruction pops off the stack; -1: all since the mark. These add them to the
# value below,
_FILLING = {"APPEND": 1, "APPENDS": -1, "SETITEM": 2, "SETITEMS": -1, "BUILD": 1, "ADDITEMS": -1}
_TAKEN = _FILLING | {  # and others combine them into one
    "TUPLE": -1, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "STACK_GLOBAL": 2, "BINPERSID": 1,
    "REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3, "FROZENSET": -1, "GLOBAL": 0, "EMPTY_SET": 0,
}  # fmt: skip
_PUT, _GET = ("BINPUT", "LONG_BINPUT", "MEMOIZE"), ("BINGET", "LONG_BINGET")
_KNOWN = {*_VALUES, *_LITERALS, *_TAKEN, *_PUT, *_GET, "MARK", "PROTO", "FRAME", "STOP"}
_SMALL = {*_LITERALS, *_FILLING, *_GET, "NONE", "NEWTRUE", "NEWFALSE", "PROTO", "FRAME"}
_CODES = {code.code.encode("latin-1"): code for code in pickletools.opcodes}
_LENGTHS = {-2: 1, -3: 4, -4: 4, -5: 8}  # bytes of a length; pickletools.TAKEN_FROM_ARGUMENT1…


class ForbiddenGlobalError(ValueError):
    """A pickle names a function or class that its format does not need."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name in a pickle: of a function or class that is never looked up."""

    name: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """An object that is not needed, and not created: the name of what would create it."""

    name: str


@dataclass(slots=True)
class _Entry:
    """A container on the stack, how deep it nests, and whether it was fetched from the memo."""

    value: Any
    depth: int
    fetched: bool = False


class PickleReader:
    """Reads the pickles of one format, which a subclass describes.

    Args:
        budget: counts the bytes of all values that this reader creates.

    Attributes:
        what: the content of such a pickle, for messages.
        admitted: for each name in a pickle, the function that is called instead, with the same
            arguments; it returns a new value. None if the name is only an argument itself.
        refusal: the message for any other name, with `{}` in its place; None to allow any object,
            which is read as `Opaque`.
        text: whether Python 2's strings, which may be bytes or text, are read as text.
    """

    what: str
    admitted: Mapping[str, Callable[..., Any] | None]
    refusal: str | None
    text = False

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def refer(self, identity: Any) -> Any:
        """Return the value outside the pickle that a persistent identity refers to."""
        raise ValueError("its pickle refers to something outside it")

    def build(self, value: Any, state: Any) -> Any:
        """Return a value with its state set. Attributes of dicts are ignored."""
        if isinstance(value, dict):
            return value
        raise ValueError(f"its pickle sets attributes of a {type(value).__name__}")

    def read(self, file: Any) -> Any:
        """Return the value of the pickle at the file's position, and move the position past it.

        Args:
            file: open for reading bytes: `io.BytesIO`, or a memory-mapped file.

        Returns:
            None, bool, int, float, str, bytes; tuples, lists and dicts of them; names; and the
            results of the methods and the admitted functions.

        Raises:
            ForbiddenGlobalError: the pickle names something that is not admitted.
            ValueError: it is broken, too large or too deeply nested, or uses other instructions.
        """
        self._stack: list[Any] = []  # scalars, and an entry for each container
        self._marked: list[list[Any]] = []  # the stacks below each open mark
        self._memo: dict[int, Any] = {}
        try:
            for count in itertools.count():
                code = _CODES.get(file.read(1))
                if code is None:
                    raise ValueError("its pickle has no end, or an unknown instruction")
                if code.name not in _KNOWN:
                    raise self._unneeded(code.name)
                cost = _SMALL_COST if code.name in _SMALL else _LARGE_COST
                self._budget.make(cost, "a pickle of too many values")
                argument = self._argument(file, code.arg) if code.arg else None
                if code.name == "STOP":
                    return _value(self._stack.pop())
                self._step(code.name, argument, count)
        except (IndexError, KeyError, TypeError) as error:
            raise ValueError(f"its pickle is broken: {error!r:.80}") from error

    def _argument(self, file: Any, kind: pickletools.ArgumentDescriptor) -> Any:
        """Return the argument that follows an instruction."""
        if kind.n == pickletools.UP_TO_NEWLINE:  # only names have lines
            return [file.readline()[:-1].decode() for _ in range(2)]
        length = _LENGTHS.get(kind.n, 0)
        size = int.from_bytes(file.read(length), "little") if length else kind.n
        content = file.read(min(size, sys.maxsize))
        if len(content) < size:
            raise ValueError(f"its pickle is cut short: {len(content)} bytes of {size}")
        if "int" in kind.name or kind.name == "long1":
            return int.from_bytes(content, "little", signed=kind.name[0] != "u")
        if kind.name == "float8":
            return struct.unpack(">d", content)[0]
        text = kind.name.startswith("unicode")
        # Python stores text beyond Latin-1 in up to four bytes per character.
        wide = text and not content.isascii() and np.frombuffer(content, np.uint8).max() > 0xC3
        self._budget.make(size * (4 if wide else 1), "a pickle of too long strings")
        if text:
            return content.decode("utf-8", "surrogatepass")
        return content.decode("latin-1") if self.text and "string" in kind.name else content

    def _step(self, code: str, argument: Any, count: int) -> None:
        if code in _LITERALS:
            self._stack.append(argument)
        elif code in _VALUES:
            value = _VALUES[code]()
            self._stack.append(value if code in _SMALL else _Entry(value, 1))
        elif code in _PUT:
            number = len(self._memo) if argument is None else argument
            if number > count:  # picklers count from 0 or 1
                raise ValueError(f"its instruction {count} stores a value at index {number}")
            self._memo[number] = self._stack[-1]
        elif code in _GET:
            entry = self._memo[argument]
            if isinstance(entry, _Entry):
                entry.fetched = True
            self._stack.append(entry)
        elif code == "MARK":
            self._marked.append(self._stack)
            self._stack = []
        elif code not in ("PROTO", "FRAME"):
            self._combine(code, argument, *self._take(_TAKEN[code]))

    def _take(self, count: int) -> tuple[list[Any], int]:
        """Pop values off the stack; return them, and the depth of the value that will hold them."""
        if count < 0:
            taken, self._stack = self._stack, self._marked.pop()
        else:
            taken = [self._stack.pop() for _ in range(count)][::-1]
        depth = 1 + max((entry.depth for entry in taken if isinstance(entry, _Entry)), default=0)
        if depth > _DEEPEST:
            raise ValueError(f"its pickle nests values more than {_DEEPEST} deep")
        return [*map(_value, taken)], depth

    def _combine(self, code: str, argument: Any, taken: list[Any], depth: int) -> None:
        """Combine the values taken into one, or add them to the one below."""
        below = self._stack[-1] if code in _FILLING else None
        below = below if isinstance(below, _Entry) else _Entry(below, 0)
        value: Any = tuple(taken)
        match code, taken, below.value:
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3", _, _:
                pass
            case "GLOBAL", _, _:
                value = self._named(*argument)
            case "STACK_GLOBAL", [str(module), str(name)], _:
                value = self._named(module, name)
            case "BINPERSID", [identity], _:
                value = self.refer(identity)
            case "REDUCE", [Global(name), tuple(arguments)], _ if call := self.admitted.get(name):
                self._count(arguments)
                value = call(*arguments)
            case _, _, Opaque() if code in _FILLING:
                pass  # its contents are dropped
            case "REDUCE" | "NEWOBJ" | "NEWOBJ_EX", [
                Global(name) | Opaque(name), tuple(), *_
            ], _ if self.refusal is None and name not in self.admitted:  # fmt: skip
                value = Opaque(name)
            case "EMPTY_SET" | "FROZENSET", _, _ if self.refusal is None:
                value = Opaque("set")
            case "BUILD", [state], value:
                below.value = self.build(value, state)
            case "APPEND" | "APPENDS", _, list(value) if not below.fetched:
                value.extend(taken)
            case "SETITEM" | "SETITEMS", _, dict(value) if not below.fetched and (
                self.refusal is None or all(map(is_key, taken[::2]))
            ):
                keys = [k if is_key(k) else Opaque(type(k).__name__) for k in taken[::2]]
                value.update(zip(keys, taken[1::2], strict=True))
            case _:
                raise self._unneeded(code)
        if code in _FILLING:
            below.depth = max(below.depth, depth)
        else:
            self._stack.append(_Entry(value, depth))

    def _count(self, arguments: tuple[Any, ...]) -> None:
        """Count the bytes that a function may copy from its arguments, at every call."""
        for argument in arguments:
            if isinstance(argument, str | bytes | list | tuple | dict):
                cost = 1 if isinstance(argument, str | bytes) else _LARGE_COST
                self._budget.make(cost * len(argument), "a pickle that uses a value too often")

    def _unneeded(self, code: str) -> ValueError:
        return ValueError(f"its pickle uses {code}, which no {self.what} needs here")

    def _named(self, module: str, name: str) -> Global:
        if len(module) + len(name) > _LONGEST_NAME:
            raise ValueError(f"its pickle has a name of more than {_LONGEST_NAME} characters")
        name = f"{module}.{name}"
        self._budget.make(_LARGE_COST, "a pickle of so many names")
        if name not in self.admitted and self.refusal is not None:
            raise ForbiddenGlobalError(self.refusal.format(name[:80]))
        return Global(name)


def is_key(value: Any) -> bool:
    """Return whether a value may be a key of a dict: hashing it is fast and collisions are rare."""
    return isinstance(value, str | bytes) or (
        isinstance(value, int) and value.bit_length() <= _KEY_BITS
    )


def _value(entry: Any) -> Any:
    return entry.value if isinstance(entry, _Entry) else entry
