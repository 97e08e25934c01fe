"""What devices share on which work goes on while the host is already further ahead.

Looking whether a label is in range would make the host wait in every step, and then the device for
the host. So what was found stays on the device, one flag for each check, until the host waits
anyway: because the loss, or any other result, is read.

A piece of work can be recorded: what the device does is then repeated without running any Python.
Numbers that come from the host are the one thing to be renewed: see `Backend.fresh`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.backends.base import Array, Backend, Update

MOST = 1000  # flags that may wait; then they are looked at, so that they do not fill the memory
CHECKS = 64  # flags of one recording
Error = Callable[[], Exception]
Make = Callable[[], np.ndarray[Any, Any]]


class Recording:
    """What a recorded piece of work needs of the host.

    Attributes:
        flags: one for each check that the work makes; once set, it stays set.
        errors: what to raise for each flag.
        memory: where the work reads what `Backend.fresh` was asked for.
        values: its first contents, drawn or counted while recording.
        makes: what makes the next contents.
        undo: takes back what recording has counted.
    """

    def __init__(self, flags: Array) -> None:
        self.flags = flags
        self.errors: list[Error] = []
        self.memory: list[Array] = []
        self.values: list[np.ndarray[Any, Any]] = []
        self.makes: list[Make] = []
        self.undo: list[Callable[[], None]] = []


class DeferringBackend(Backend):
    """Counts copies from and to the host, keeps errors until it waits, and records work.

    Attributes:
        to_host: how many arrays and numbers were copied to the host, which waited for them.
        to_device: how many were copied from the host, other than by `fresh` and `send`.
    """

    records = True
    fuses = True

    def __init__(self) -> None:
        self.to_host = self.to_device = 0
        self._pending: list[tuple[Array, Error]] = []
        self._recording: Recording | None = None
        self._recorded: weakref.WeakSet[Recording] = weakref.WeakSet()

    def set_writeable(self, array: Array, writeable: bool) -> None:
        """Do nothing: the library's arrays have no write flag."""

    def _moved_here(self, array: np.ndarray[Any, Any]) -> Array:
        raise NotImplementedError

    def _moved_to_host(self, array: Array) -> np.ndarray[Any, Any]:
        raise NotImplementedError

    def _captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """Have the device note what `work` asks of it, without doing it; return what does it."""
        raise NotImplementedError

    # Copies -----------------------------------------------------------------------------------

    def from_numpy(self, array: np.ndarray[Any, Any]) -> Array:
        """Copy a NumPy array to the device, without waiting."""
        self._refuse_in_recording("copies data from the host")
        self.to_device += 1
        return self._moved_here(array)

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """Copy an array to the host, waiting for the work that makes it; raise earlier errors."""
        self._refuse_in_recording("waits for a result on the host")
        self._raise_pending()
        self.to_host += 1
        return self._moved_to_host(array)

    def number(self, array: Array) -> Any:
        """Return the only element as a Python number, waiting for it; raise earlier errors."""
        return self.to_numpy(array).item()

    def scalar(self, value: float, dtype: Any) -> Array:
        """Return a number as an array without axes: filled on the device, not copied there."""
        return self.xp.full((), value, dtype)

    def fresh(self, make: Make, undo: Callable[[], None] | None = None) -> Array:
        """Move what `make()` returns here; a recording has it made anew for each repetition."""
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
        """Return memory that is written to before a repetition, and by none of its work."""
        return self.xp.empty(shape, dtype)

    def send(self, array: np.ndarray[Any, Any]) -> Callable[[], Array]:
        """Begin to copy an array here; return what returns it when it is here."""
        moved = self._moved_here(array)
        return lambda: moved

    def _refuse_in_recording(self, what: str) -> None:
        if self._recording is not None:
            raise RuntimeError(f"the recorded work {what}: a repetition would not do so again")

    # Errors -----------------------------------------------------------------------------------

    def raise_if(self, wrong: Array, error: Error) -> None:
        """Raise `error()` when a result is next read, if an element of `wrong` holds."""
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
        """Do a step without a kernel. Its rates and counts are the host's: it is not recorded."""
        if updates:
            self._refuse_in_recording("updates parameters by a rule that has no kernel")
        super().update_all(rule, updates)

    # Recording --------------------------------------------------------------------------------

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do work once, noting what the device does; return what has it done again, at once.

        Raises:
            RuntimeError: it copies from or to the host, other than by `fresh`, or the device
                cannot note it. Nothing has been done then, on the device, and what was counted
                by `fresh` is taken back.
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
