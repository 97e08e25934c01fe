"""Replay a training step as one CUDA graph, to remove Python overhead on small networks."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

from minidl.backends import Backend
from minidl.tensor import Tensor

Step: TypeAlias = Callable[..., Any]
Key: TypeAlias = "tuple[Hashable, ...]"

RUNS_BEFORE = 2  # direct runs: the first allocates the optimiser's state, and compiles kernels
MOST = 8  # recordings of one step, each of which holds the memory of a whole step


def capture(step: Step) -> Step:
    """Return a function that does what `step` does, from its third call on without Python.

    On a GPU, small kernels finish faster than Python can launch them. So on the third call with
    tensors of the same shapes, the step's GPU work is recorded as a *CUDA graph*, and from then on
    launched as a whole. On the CPU, and for shapes that do not recur, such as those of a smaller
    last batch, `step` is called directly. Results are the same.

    On each replay, the host counts the optimisers' steps, reads their learning rates, and draws
    the masks of `dropout`. Everything else is repeated as it was recorded, so

    - `step` must take its batch as arguments, tensors on the GPU, and clear old gradients itself;
    - it must not read results on the host (`item`, `numpy`, `print`, `if loss > 1`) or move data:
      return the loss, and read it outside. Otherwise there is a warning, and no recording;
    - its optimiser must not update single rows (`Embedding(sparse=True)`): replays would
      not count those steps;
    - decisions made in Python, such as which layers are frozen or in training mode, stay as
      recorded: after a change, capture the step again;
    - `p.grad` is that of the last step that was not a replay, or that of this recording.

    Args:
        step: takes tensors and hashable values; returns tensors, numbers, None, or tuples, lists
            and dicts of them.

    Returns:
        A function with the same arguments. The tensors that it returns are detached.

    Raises:
        TypeError: in a call, an argument is neither a tensor nor hashable.

    Example:
        >>> import minidl
        >>> w = minidl.Tensor(1.0, requires_grad=True)
        >>> sgd = minidl.optim.SGD([w], lr=0.1)
        >>> @minidl.capture
        ... def step(x):
        ...     loss = (w * x) ** 2
        ...     sgd.zero_grad()
        ...     loss.backward()
        ...     sgd.step()
        ...     return loss
        >>> [round(step(minidl.Tensor(1.0)).item(), 3) for _ in range(4)]
        [1.0, 0.64, 0.41, 0.262]
    """
    captured = _Captured(step)

    @functools.wraps(step)
    def stepped(*arguments: Any, **options: Any) -> Any:
        return captured.call(arguments, options)

    return stepped


class _Captured:
    """A step, with a call count or a recording for each set of argument shapes."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._calls: dict[Key, int] = {}
        self._replays: dict[Key, _Replay] = {}
        self._is_plain = False

    def call(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Run the step directly, record it, or replay it."""
        values = [*arguments, *options.values()]
        backends = {x.backend for x in values if isinstance(x, Tensor)}
        backend = backends.pop() if len(backends) == 1 else None
        if self._is_plain or backend is None or not backend.records:
            return _detached(self._step(*arguments, **options))
        key = (len(arguments), *options, *(_kind(x) for x in values))
        if key in self._replays:
            return self._replays[key](values)
        self._calls[key] = self._calls.get(key, 0) + 1
        if self._calls[key] <= RUNS_BEFORE or len(self._replays) >= MOST:
            return self._watched(backend, arguments, options)
        return self._recorded(backend, key, arguments, options)

    def _watched(self, backend: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Run the step directly; check whether it copies anything from or to the host."""
        before = backend.to_host, backend.to_device
        result = self._step(*arguments, **options)
        read, moved = backend.to_host - before[0], backend.to_device - before[1]
        if read or moved:
            self._is_plain = True
            what = [f"reads {read} result(s) on the host"] * bool(read)
            what += [f"moves {moved} array(s) to the GPU"] * bool(moved)
            warnings.warn(
                f"capture: the step {' and '.join(what)}, which cannot be replayed, so it runs "
                "in Python; return the loss and read it outside, and pass all inputs as arguments",
                stacklevel=4,
            )
        return _detached(result)

    def _recorded(
        self, backend: Backend, key: Key, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        try:
            replay = _Replay(self._step, backend, arguments, options)
        except Exception as error:
            self._is_plain = True
            warnings.warn(
                f"capture: the step could not be recorded and runs in Python: {error}",
                stacklevel=4,
            )
            return _detached(self._step(*arguments, **options))
        self._replays[key] = replay
        return replay.results()


class _Replay:
    """A recorded step, with its own argument tensors."""

    def __init__(
        self, step: Step, backend: Backend, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        own = [_own(x) for x in arguments]
        own_options = {name: _own(x) for name, x in options.items()}
        self._places = [*own, *own_options.values()]
        self._result: Any = None

        def work() -> None:
            self._result = _detached(step(*own, **own_options))

        self._repeat = backend.record(work)

    def __call__(self, values: list[Any]) -> Any:
        for place, value in zip(self._places, values, strict=True):
            if isinstance(place, Tensor):
                with place.mutable() as array:
                    array[...] = value.array
        self._repeat()
        return self.results()

    def results(self) -> Any:
        """Return copies of the step's results: the next replay writes to the same memory."""
        return _mapped(lambda x: x.copy(), self._result)


def _kind(value: Any) -> Hashable:
    """Return the properties that must match for a recording to be reused."""
    if isinstance(value, Tensor):
        return value.shape, str(value.dtype), value.requires_grad
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"capture: got a {type(value).__name__} as an argument of the step, expected "
            "tensors and hashable values, such as numbers and strings"
        ) from None
    return type(value), value


def _own(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().copy().requires_grad_(value.requires_grad)


def _detached(result: Any) -> Any:
    return _mapped(lambda x: x.detach(), result)


def _mapped(function: Callable[[Tensor], Tensor], result: Any) -> Any:
    """Apply a function to all tensors in nested tuples, lists and dicts."""
    if isinstance(result, Tensor):
        return function(result)
    if isinstance(result, dict):
        return {name: _mapped(function, value) for name, value in result.items()}
    if isinstance(result, (list, tuple)):
        mapped = [_mapped(function, value) for value in result]
        if hasattr(result, "_fields"):  # a named tuple
            return type(result)(*mapped)
        return type(result)(mapped)
    return result
