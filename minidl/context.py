"""Values that hold inside a `with` block, for the thread or task that runs it.

`no_grad`, `observe`, `detect_anomaly` and others change what code does until their block ends. Each
thread and each asyncio task has a context of its own, in which these values are kept, so the blocks
of one do not affect another. A generator has none: a block around a `yield` stays open in its
caller until the generator goes on. Two such generators may end in any order, in another task, or
never. So each block is taken out of the list of open ones, wherever it is in the list; nothing
restores "what was there before".

Source: PEP 567.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(eq=False)
class _Opened:
    """An open block's value, and its token in the context where it began; None once it is over."""

    value: Any
    token: Any = None


class Scoped(Generic[T]):
    """A variable that has another value inside each `with variable.set(value)`.

    Args:
        default: its value outside of all blocks.
    """

    def __init__(self, default: T) -> None:
        self.default = default
        self.blocks: ContextVar[tuple[_Opened, ...]] = ContextVar("blocks", default=())

    def get(self) -> T:
        """Return the value of the innermost open block."""
        for block in reversed(self.blocks.get()):
            if block.token is not None:
                return block.value  # type: ignore[no-any-return]
        return self.default

    def values(self) -> list[T]:
        """Return the values of all open blocks, the outermost first."""
        return [block.value for block in self.blocks.get() if block.token is not None]

    def set(self, value: T) -> Block[T]:
        """Return a block in which this variable has another value."""
        return Block(self.blocks, value)


class Block(Generic[T]):
    """A `with` block in which a variable has another value, which is also what `as` gets.

    It may be entered several times. As a decorator it wraps each call of a function; of a generator
    or a coroutine it wraps each stretch of the body's own code, not that of others in between.
    """

    _own: Any = ()

    def __init__(self, blocks: ContextVar[tuple[_Opened, ...]], value: T) -> None:
        self._blocks, self._value = blocks, value
        self._own = []

    def __enter__(self) -> T:
        block = _Opened(self._value)
        self._own.append(block)
        block.token = self._blocks.set((*self._blocks.get(), block))
        return self._value

    def __exit__(self, *_: object) -> None:
        blocks = self._blocks.get()
        for block in reversed(self._own):
            try:
                self._blocks.reset(block.token)
            except (RuntimeError, TypeError, ValueError):  # it began in another context
                continue
            self._blocks.set(tuple([b for b in blocks if b is not block and b.token is not None]))
            break
        else:
            block.token = None  # whoever still has it, skips it
        self._own.remove(block)

    def __del__(self) -> None:
        """End what is still open, such as when Ctrl-C came just before the block."""
        for block in self._own:
            block.token = None

    def __call__(self, function: F) -> F:
        """Decorate a function."""
        if isinstance(function, (type, classmethod, staticmethod)) or not callable(function):
            raise TypeError(
                f"got {function!r} to decorate, expected a function; decorate the methods of a "
                "class one by one, below @staticmethod or @classmethod"
            )
        again = functools.partial(Block, self._blocks, self._value)

        def called(*args: Any, **kwargs: Any) -> Any:
            with again():
                result = function(*args, **kwargs)
            return _AsyncSteps(result, again) if inspect.isasyncgen(result) else result

        def stepped(*args: Any, **kwargs: Any) -> Any:
            return (yield from _Steps(function(*args, **kwargs), again))

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return await _Steps(function(*args, **kwargs), again)

        wrapper: Any = stepped if inspect.isgeneratorfunction(function) else called
        wrapper = awaited if inspect.iscoroutinefunction(function) else wrapper
        return functools.update_wrapper(wrapper, function)  # type: ignore[return-value]


class _Steps(Generator[Any, Any, Any], Coroutine[Any, Any, Any]):
    """A generator or coroutine, each of whose steps runs in a block of its own."""

    def __init__(self, body: Any, block: Callable[[], Block[Any]]) -> None:
        self._body, self._block = body, block

    def send(self, value: Any) -> Any:
        """Run the next step."""
        with self._block():
            return self._body.send(value)

    def throw(self, *error: Any) -> Any:
        """Run the next step, which begins with an error."""
        with self._block():
            return self._body.throw(*error)

    def __await__(self) -> Any:
        return self


class _AsyncSteps(AsyncGenerator[Any, Any]):
    """The same for an asynchronous generator."""

    def __init__(self, body: Any, block: Callable[[], Block[Any]]) -> None:
        self._body, self._block = body, block

    async def asend(self, value: Any) -> Any:
        """Run up to the next `yield`."""
        return await _Steps(self._body.asend(value), self._block)

    async def athrow(self, *error: Any) -> Any:
        """Run up to the next `yield`, beginning with an error."""
        return await _Steps(self._body.athrow(*error), self._block)
