"""Shared by asynchronous devices: deferred errors and recorded work.

Checking labels on the host would synchronise every step. Instead, each check sets a flag on the
device, which is read when the host waits anyway: when the loss, or any other result, is read.

Work can be recorded: the device then repeats it without running any Python. Only values that come
from the host are renewed: see `Backend.fresh`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.backends.base import Array, Update
from minidl.backends.large import LargeBackend

MOST = 1000  # pending flags, at most; then they are read, so that they do not fill the memory
CHECKS = 64  # flags per recording
Error = Callable[[], Exception]
Make = Callable[[], np.ndarray[Any, Any]]


class Recording:
    """The host's part of recorded work.

    Attributes:
        flags: one for each check in the work; once set, a flag stays set.
        errors: makes the error for each flag.
        memory: the arrays from which the work reads what `Backend.fresh` provides.
        values: their first contents, drawn or counted while recording.
        makes: makes their next contents.
        undo: reverts what was counted while recording.
    """

    def __init__(self, flags: Array) -> None:
        self.flags = flags
        self.errors: list[Error] = []
        self.memory: list[Array] = []
        self.values: list[np.ndarray[Any, Any]] = []
        self.makes: list[Make] = []
        self.undo: list[Callable[[], None]] = []


class DeferringBackend(LargeBackend):
    """Counts copies from and to the host, defers errors until the host waits, and records work.

    Attributes:
        to_host: how many arrays and numbers were copied to the host, which waited for them.
        to_device: how many arrays were copied from the host, except by `fresh` and `send`.
    """

    records = True
    fuses = True

    def __init__(self) -> None:
        self.to_host = self.to_device = 0
        self._pending: list[tuple[Array, Error]] = []
        self._recording: Recording | None = None
        self._recorded: weakref.WeakSet[Recording] = weakref.WeakSet()

    def set_writeable(self, array: Array, writeable: bool) -> None:
        """Do nothing: arrays of these libraries have no write flag."""

    def _moved_here(self, array: np.ndarray[Any, Any]) -> Array:
        raise NotImplementedError

    def _moved_to_host(self, array: Array) -> np.ndarray[Any, Any]:
        raise NotImplementedError

    def _captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record `work` on the device without running it; return a function that runs it."""
        raise NotImplementedError

    # Copies -----------------------------------------------------------------------------------

    def from_numpy(self, array: np.ndarray[Any, Any]) -> Array:
        """Copy a NumPy array to the device, without waiting."""
        self._refuse_in_recording("copies data from the host")
        self.to_device += 1
        return self._moved_here(array)

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """Copy an array to the host, waiting until it is computed; raise deferred errors."""
        self._refuse_in_recording("waits for a result on the host")
        self._raise_pending()
        self.to_host += 1
        return self._moved_to_host(array)

    def number(self, array: Array) -> Any:
        """Return the only element as a Python number, waiting for it; raise deferred errors."""
        return self.to_numpy(array).item()

    def scalar(self, value: float, dtype: Any) -> Array:
        """Return a number as a 0-d array, filled on the device instead of copied there."""
        return self.xp.full((), value, dtype)

    def fresh(self, make: Make, undo: Callable[[], None] | None = None) -> Array:
        """Copy what `make()` returns to the device; a recording calls it for each repetition."""
        value, recording = make(), self._recording
        if recording is None:
            return self._moved_here(value)
        memory = self._renewable(value.shape, value.dtype)
        recording.memory.append(memory)
        recording.values.append(value)
        recording.makes.append(make)
        if undo is not None:
            recording.undo.append(undo)
        return memory

    def _renewable(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return memory that is written before a repetition, and never by the recorded work."""
        return self.xp.empty(shape, dtype)

    def send(self, array: np.ndarray[Any, Any]) -> Callable[[], Array]:
        """Start copying an array here; return a function that returns the copy."""
        moved = self._moved_here(array)
        return lambda: moved

    def _refuse_in_recording(self, what: str) -> None:
        if self._recording is not None:
            raise RuntimeError(f"the recorded work {what}: a repetition would not do so again")

    # Errors -----------------------------------------------------------------------------------

    def raise_if(self, wrong: Array, error: Error) -> None:
        """Raise `error()` when a result is next read, if any element of `wrong` is true."""
        recording = self._recording
        if recording is None:
            self._pending.append((wrong.any(), error))
            if len(self._pending) >= MOST:
                self._raise_pending()
            return
        if len(recording.errors) == CHECKS:
            raise RuntimeError(f"the recorded work makes more than {CHECKS} checks")
        recording.flags[len(recording.errors)] |= wrong.any()
        recording.errors.append(error)

    def _raise_pending(self) -> None:
        pending, self._pending = self._pending, []
        if pending:
            self._raise_first(self.xp.stack([flag for flag, _ in pending]), [e for _, e in pending])
        for recording in list(self._recorded):
            self._raise_first(recording.flags, recording.errors)

    def _raise_first(self, flags: Array, errors: list[Error]) -> None:
        found = self._moved_to_host(flags)
        if found.any():
            flags[...] = False
            raise errors[int(found.argmax())]()

    def update_all(self, rule: str | None, updates: Sequence[Update]) -> None:
        """Do a step without a kernel; it cannot be recorded, as its rates are on the host."""
        if updates:
            self._refuse_in_recording("updates parameters by a rule that has no kernel")
        super().update_all(rule, updates)

    # Recording --------------------------------------------------------------------------------

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do work once, recording it on the device; return a function that replays it.

        Raises:
            RuntimeError: the work copies from or to the host, except by `fresh`, or the device
                cannot record it. Then nothing was done on the device, and what `fresh` counted
                is reverted.
        """
        recording = Recording(self.xp.zeros(CHECKS, np.bool_))
        self._recording = recording
        try:
            captured = self._captured(work)
        except Exception:
            for undo in reversed(recording.undo):
                undo()
            raise
        finally:
            self._recording = None
        if recording.errors:
            self._recorded.add(recording)

        def repeat() -> None:
            values, recording.values = recording.values, []
            values = values or [make() for make in recording.makes]
            for memory, value in zip(recording.memory, values, strict=True):
                memory[...] = self._moved_here(value)
            captured()

        repeat()
        return repeat
