"""Pickles read as data: a small interpreter that calls nothing that a file names.

A pickle is a program: unpickling it may call anything that it names. So none is unpickled here. The
interpreter knows the instructions that describe plain values, tensors and arrays; for each format,
a table lists the names that are understood, and the minidl function that is called instead of each.
If a format allows other objects, each is read as an `Opaque`: its name without its content.

Reading any file ends soon and cannot crash Python. The number of instructions is bounded. Values
nest at most `_DEEPEST` deep: each one on the stack carries its depth, and a list or dict fetched
from the memo can no longer be filled, since it may be part of another value, or about to become
part of itself. Keys of dicts are strings, bytes and integers of at most 60 bits, so that no choice
of keys makes a dict slow.
Source: Python's `pickletools.py`, which describes each instruction.
"""

from __future__ import annotations

import copy
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_DEEPEST = 100  # checkpoints nest six deep; Python's own recursion limit is a thousand
_MOST_INSTRUCTIONS = 2_000_000  # a batch of CIFAR-10 takes 40,000, a network of 300 arrays 10,000
_KEY_BITS = 60  # integers of more bits may share a hash: a million such keys take hours

_VALUES: dict[str, Any] = {
    "NONE": None, "NEWTRUE": True, "NEWFALSE": False,
    "EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {},
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
    "REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3, "FROZENSET": -1,
}  # fmt: skip


class ForbiddenGlobalError(ValueError):
    """A pickle names a function or class that its format does not need."""


@dataclass(frozen=True)
class Global:
    """A name in a pickle: of a function or class that is never looked up."""

    name: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """An object that is not needed, and not created: the name of what would create it."""

    name: str


@dataclass(slots=True)
class _Entry:
    """A value on the stack, how deep it nests, and whether it was fetched from the memo."""

    value: Any
    depth: int
    fetched: bool = False


class PickleReader:
    """Reads the pickles of one format, which a subclass describes.

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
            ValueError: it is broken, too long, nested too deeply, or uses other instructions.
        """
        self._stack: list[_Entry] = []
        self._marked: list[list[_Entry]] = []  # the stacks below each open mark
        self._memo: dict[int, _Entry] = {}
        self._made = 0  # bytes and entries that functions returned
        try:
            for count, (code, argument, position) in enumerate(pickletools.genops(file)):
                if count > _MOST_INSTRUCTIONS or self._made > (position or 0):
                    raise ValueError(
                        f"its pickle has more than {_MOST_INSTRUCTIONS} instructions, or makes "
                        "more bytes than it holds"
                    )
                if code.name == "STOP":
                    return self._stack.pop().value
                self._step(code.name, argument, count)
        except (IndexError, KeyError, TypeError) as error:
            raise ValueError(f"its pickle is broken: {error!r:.80}") from error
        raise ValueError("its pickle has no end")

    def _step(self, code: str, argument: Any, count: int) -> None:
        if code in _LITERALS:  # genops decodes the bytes of Python 2
            is_bytes = code.endswith("STRING") and not self.text
            value = argument.encode("latin-1") if is_bytes else argument
            self._stack.append(_Entry(value, 0))
        elif code in _VALUES:
            self._stack.append(_Entry(copy.copy(_VALUES[code]), 1))
        elif code in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            number = len(self._memo) if argument is None else argument
            if number > count:  # picklers count from 0 or 1
                raise ValueError(f"its instruction {count} stores a value at index {number}")
            self._memo[number] = self._stack[-1]
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
            self._stack[-1].fetched = True
        elif code == "MARK":
            self._marked.append(self._stack)
            self._stack = []
        elif code not in ("PROTO", "FRAME"):
            self._combine(code, argument, *self._take(_TAKEN.get(code, 0)))

    def _take(self, count: int) -> tuple[list[Any], int]:
        """Pop values off the stack; return them, and the depth of the value that will hold them."""
        if count < 0:
            entries, self._stack = self._stack, self._marked.pop()
        else:
            entries = [self._stack.pop() for _ in range(count)][::-1]
        depth = 1 + max((entry.depth for entry in entries), default=0)
        if depth > _DEEPEST:
            raise ValueError(f"its pickle nests values more than {_DEEPEST} deep")
        return [entry.value for entry in entries], depth

    def _combine(self, code: str, argument: Any, taken: list[Any], depth: int) -> None:
        """Combine the values taken into one, or add them to the one below."""
        below = self._stack[-1] if code in _FILLING else _Entry(None, 0)
        value: Any = tuple(taken)
        match code, taken, below.value:
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3", _, _:
                pass
            case "GLOBAL", _, _:
                value = self._named(argument.replace(" ", ".", 1))
            case "STACK_GLOBAL", [str(module), str(name)], _:
                value = self._named(f"{module}.{name}")
            case "BINPERSID", [identity], _:
                value = self.refer(identity)
            case "REDUCE", [Global(name), tuple(arguments)], _ if call := self.admitted.get(name):
                value = call(*arguments)
                self._made += len(value) if isinstance(value, bytes | dict) else 0
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
                raise ValueError(f"its pickle uses {code}, which no {self.what} needs here")
        if code in _FILLING:
            below.depth = max(below.depth, depth)
        else:
            self._stack.append(_Entry(value, depth))

    def _named(self, name: str) -> Global:
        if name not in self.admitted and self.refusal is not None:
            raise ForbiddenGlobalError(self.refusal.format(name[:80]))
        return Global(name)


def is_key(value: Any) -> bool:
    """Return whether a value may be a key of a dict: hashing it is fast and collisions are rare."""
    return isinstance(value, str | bytes) or (
        isinstance(value, int) and value.bit_length() <= _KEY_BITS
    )
