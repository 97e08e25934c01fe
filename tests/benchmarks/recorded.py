"""Record the calls of CPU kernels in a training step, to repeat each of them alone."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

from minidl import Tensor
from minidl.backends.cpu import planar, winograd
from minidl.backends.cpu.numpy_backend import NumpyBackend
from minidl.functional import channels, fused

from .contest import Run

METHODS = (
    *("convolve_whole", "transpose_convolve_whole", "weight_gradient_whole"),
    *("max_windows", "scatter_winners", "sum_windows", "spread_windows"),
    *("gated", "elementwise", "matmul", "sum", "index_add", "update_all"),
)
KERNELS: tuple[tuple[Any, str], ...] = (
    *((NumpyBackend, name) for name in METHODS),
    *((channels, name) for name in ("channel_sums", "channel_lines")),
    *((fused, name) for name in ("_responses", "_weight_slope")),
)
"""The functions recorded, by where they are looked up. Calls of one within another count as part
of the outer one."""

Key = tuple[Any, ...]


@dataclass
class Call:
    """Calls of one kernel with arrays of the same shapes, dtypes and memory orders.

    Attributes:
        kernel: the function's name.
        function: the function itself; for a method, its first argument is the backend.
        arguments: copies of the first call's arguments, with the same strides.
        result: what the first call returned.
        seconds: how long each call took within the step.
    """

    kernel: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    result: Any = None
    seconds: list[float] = field(default_factory=list)

    def __call__(self) -> Any:
        """Do the first call again."""
        return self.function(*self.arguments, **self.options)

    @property
    def operands(self) -> list[Any]:
        """The arguments without the backend."""
        return [a for a in self.arguments if not isinstance(a, NumpyBackend)]


class Recorder:
    """Wraps kernels so that their calls are recorded and timed.

    Kernels must run on one thread: then one thread's stack tells which calls are nested.
    """

    def __init__(self) -> None:
        self.calls: dict[Key, Call] = {}
        self.is_inside = False

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that calls `function` and records it."""

        def call(*arguments: Any, **options: Any) -> Any:
            if self.is_inside:
                return function(*arguments, **options)
            key = (name, *map(signature, arguments), *map(signature, options.values()))
            known = self.calls.get(key)
            if known is None:
                copies = tuple(map(copied, arguments))
                others = {option: copied(value) for option, value in options.items()}
                self.calls[key] = known = Call(name, function, copies, others)
            self.is_inside, start = True, time.thread_time()
            try:
                result = function(*arguments, **options)
            finally:
                known.seconds.append(time.thread_time() - start)
                self.is_inside = False
            if known.result is None:
                known.result = copied(result)
            return result

        return call


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Record all kernels."""
    with ExitStack() as patches:
        for owner, name in KERNELS:
            wrapped = recorder.wrapped(name, getattr(owner, name))
            patches.enter_context(mock.patch.object(owner, name, wrapped))
        yield


def record(step: Run, steps: int) -> tuple[list[Call], float]:
    """Return the calls of a step, which is run several times, and the median of its seconds."""
    recorder, times = Recorder(), []
    with recording(recorder):
        for _ in range(steps):
            start = time.thread_time()
            step()
            times.append(time.thread_time() - start)
    calls = list(recorder.calls.values())
    for call in calls:
        for update in call.operands[-1] if call.kernel == "update_all" else ():
            update.p.setflags(write=True)  # as within a step
    return calls, float(np.median(times))


# The passes of a kernel ---------------------------------------------------------------------------

PASSES: tuple[tuple[Any, str, str], ...] = (
    (winograd, "_measured", "measure"),
    (winograd, "_rows", "values"),
    (winograd, "_values", "values"),
    (winograd, "overlapping", "strips"),
    (winograd, "_outputs", "outputs"),
    (winograd, "_matrices", "weights"),
    (planar, "_columns", "columns"),
    (NumpyBackend, "gather_windows", "columns"),
    (NumpyBackend, "scatter_windows", "scatter"),
    (NumpyBackend, "pad_images", "pad"),
    (NumpyBackend, "finish", "finish"),
    (NumpyBackend, "max_windows", "pool"),
    (NumpyBackend, "scatter_winners", "scatter"),
    (NumpyBackend, "gated", "gate"),
    (NumpyBackend, "column_sums", "sums"),
)
"""The functions that do one pass each, and its name in `benchmarks.passes`."""

PRODUCTS: tuple[tuple[Any, str], ...] = (
    *((NumpyBackend, name) for name in ("product", "tap_products", "matmul")),
    *((module, "np") for module in (winograd, planar)),
)
"""Where products are looked up: methods, and modules that call `np.matmul`."""


class Stopwatch:
    """Adds up the processor time of passes, each without those within it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inner = [0.0]  # for each pass that has not ended, the time of passes within it

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose calls count for a pass; products only outside of others."""

        def call(*arguments: Any, **options: Any) -> Any:
            if name == "product" and len(self.inner) > 2:  # "rest" is around all
                return function(*arguments, **options)
            self.inner.append(0.0)
            start = time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                taken = time.thread_time() - start
                self.seconds[name] += taken - self.inner.pop()
                self.inner[-1] += taken

        return call


class _NumPy:
    """NumPy with a `matmul` that is timed."""

    def __init__(self, watch: Stopwatch) -> None:
        self.matmul = watch.timed("product", np.matmul)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def passes(call: Call) -> dict[str, float]:
    """Repeat a call and return the processor time of its passes; "rest" is what is in none."""
    watch = Stopwatch()
    with ExitStack() as patches:
        for owner, name, title in PASSES:
            if name != call.kernel:
                timed = watch.timed(title, getattr(owner, name))
                patches.enter_context(mock.patch.object(owner, name, timed))
        for owner, name in PRODUCTS:
            if name != call.kernel:
                found = (
                    _NumPy(watch) if name == "np" else watch.timed("product", getattr(owner, name))
                )
                patches.enter_context(mock.patch.object(owner, name, found))
        watch.timed("rest", call)()
    return dict(watch.seconds)


# Arguments ----------------------------------------------------------------------------------------


def signature(argument: Any) -> Any:
    """Return what tells arguments apart that take different time."""
    if isinstance(argument, Tensor):
        return (*signature(argument.array), argument.requires_grad)
    if isinstance(argument, np.ndarray):
        return argument.shape, argument.strides, argument.dtype.str
    if isinstance(argument, (list, tuple)):
        return tuple(map(signature, argument))
    if hasattr(argument, "plain"):  # an optimiser's update
        return signature(argument.p)
    if isinstance(argument, NumpyBackend):
        return ()
    return getattr(argument, "__name__", None) or argument


def copied(argument: Any) -> Any:
    """Copy arrays, and arrays in tensors, with their strides; leave out gradients' history."""
    if isinstance(argument, Tensor):
        tensor = Tensor.wrap(copied(argument.array))
        tensor.requires_grad = argument.requires_grad
        return tensor
    if isinstance(argument, np.ndarray):
        return alike(argument)
    if isinstance(argument, (list, tuple)) and not hasattr(argument, "_fields"):
        return tuple(map(copied, argument))
    return argument


def alike(array: np.ndarray) -> np.ndarray:
    """Copy an array into memory of its own, with the same strides."""
    if not array.size or min(array.strides, default=0) < 0:
        return array.copy()
    steps = zip(array.shape, array.strides, strict=True)
    reach = sum((size - 1) * step for size, step in steps) + array.itemsize
    memory = np.zeros(reach, np.uint8)
    view = np.ndarray(array.shape, array.dtype, memory, strides=array.strides)
    view[...] = array
    return view


def arrays(values: Sequence[Any]) -> list[np.ndarray]:
    """Return all arrays among arguments or results, those of tensors too."""
    found: list[np.ndarray] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value.array)
        elif isinstance(value, np.ndarray):
            found.append(value)
        elif isinstance(value, tuple) and not hasattr(value, "_fields"):
            found.extend(arrays(value))
    return found
