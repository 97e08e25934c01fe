"""Values that apply inside a `with` block, in the thread or task that runs it.

`no_grad`, `observe`, `detect_anomaly` and others change what code does until their block ends. Each
thread and each asyncio task has its own context, which stores these values, so the blocks of one do
not affect another. A generator has no context: a block around a `yield` stays open in the caller
until the generator resumes. Two such generators may end in any order, in another task, or never. So
each block removes itself from the list of open blocks, wherever it is in the list, instead of
restoring the previous value.

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
    """An open block's value, and the token of the context where it began; None after its end."""

    value: Any
    token: Any = None


class Scoped(Generic[T]):
    """A variable with another value inside each `with variable.set(value)` block.

    Args:
        default: its value outside all blocks.
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
        """Return a block in which this variable has the given value."""
        return Block(self.blocks, value)


class Block(Generic[T]):
    """A `with` block in which a variable has another value, which `as` receives.

    It may be entered several times. As a decorator, it wraps each call of a function; for a
    generator or coroutine, it wraps each step of the body's own code, but not the code in between.
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
        for block in reversed(tuple(self._own)):  # other threads change the list meanwhile
            try:
                self._blocks.reset(block.token)
            except (RuntimeError, TypeError, ValueError):  # it began in another context
                continue
            self._blocks.set(tuple([b for b in blocks if b is not block and b.token is not None]))
            break
        else:
            block.token = None  # contexts that still list it skip it
        self._own.remove(block)

    def __del__(self) -> None:
        """End blocks that are still open, for example after Ctrl-C just before the block's body."""
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
        """Run the next step, raising an error at its start."""
        with self._block():
            return self._body.throw(*error)

    def __await__(self) -> Any:
        return self


class _AsyncSteps(AsyncGenerator[Any, Any]):
    """An asynchronous generator, each of whose steps runs in a block of its own."""

    def __init__(self, body: Any, block: Callable[[], Block[Any]]) -> None:
        self._body, self._block = body, block

    async def asend(self, value: Any) -> Any:
        """Run up to the next `yield`."""
        return await _Steps(self._body.asend(value), self._block)

    async def athrow(self, *error: Any) -> Any:
        """Run up to the next `yield`, raising an error at the start."""
        return await _Steps(self._body.athrow(*error), self._block)
