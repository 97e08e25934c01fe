"""Keep a run safe: where and when it is saved, and what Ctrl-C does."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from minidl.files.checkpoint import load_checkpoint, save_checkpoint
from minidl.files.weights import save_weights
from minidl.files.whole import clear_parts
from minidl.random import restore, state_of
from minidl.training.evaluation import Totals
from minidl.training.run import Run
from minidl.training.warnings import warn


class Keeper:
    """A folder with `last.npz`, `best.npz` and `history.csv`, or None to save nothing."""

    def __init__(self, folder: Path | None = None, save_seconds: float = 60.0) -> None:
        self._folder, self._save_seconds = folder, save_seconds
        self._last = None if folder is None else folder / "last.npz"
        self._saved, self._is_stopping, self._is_kept = time.monotonic(), False, False

    def resume(self, run: Run, epochs: int) -> str:
        """Resume an unfinished run, if there is one; return a message about it.

        Raises:
            ValueError: the checkpoint is damaged, or of a run with other settings.
        """
        if self._folder is None or self._last is None:
            return ""
        for name in ("last.npz", "best.npz", "history.csv"):
            clear_parts(self._folder / name)
        if not self._last.exists():
            return ""
        saved = load_checkpoint(self._last)
        if not {"settings", "history"} <= set(saved):
            raise ValueError(
                f"fit: {self._last} is a checkpoint, but was not saved by fit; use another "
                "folder, or start over with resume=False, which overwrites it"
            )
        done = len(saved["history"]["columns"].get("train_loss", ()))
        if saved["is_finished"] or done >= epochs:
            return f"{self._last} holds a finished run of {done} epochs; this one starts over"
        _load(run, saved)
        return f"resuming from {self._last}: {_place(run)}"

    def save_if_due(self, run: Run) -> None:
        """After a step: save if it is time, and on Ctrl-C, which then ends the run."""
        if self._is_stopping or time.monotonic() - self._saved >= self._save_seconds:
            self._save(run)
        self._stop_if_asked(run)

    def save_epoch(self, run: Run, is_last: bool) -> None:
        """Save after an epoch; if it is the best, save its weights first, so none is ever lost."""
        if run.history.best_epoch() == run.history.epochs:
            self._write(lambda folder: save_weights(run.model.state_dict(), folder / "best.npz"))
        self._save(run)
        self._write(lambda folder: run.history.save(folder / "history.csv"))
        if not is_last:
            self._stop_if_asked(run)
        elif self._is_stopping:
            run.say("training had already finished; press Ctrl-C again to end the program")

    def _save(self, run: Run) -> None:
        self._is_kept = self._write(
            lambda folder: save_checkpoint(_state(run), folder / "last.npz")
        )
        self._saved = time.monotonic()

    def _write(self, write: Callable[[Path], Any]) -> bool:
        """Write a file and return whether that worked; a failure does not end the run."""
        if self._folder is None:
            return False
        try:
            write(self._folder)
            return True
        except OSError as error:
            warn(
                f"not saved in {self._folder}: {error}; training continues, and older files "
                "are unchanged. Free some disk space; the next save will be retried"
            )
            return False

    @contextlib.contextmanager
    def ctrl_c_waits(self) -> Iterator[None]:
        """Delay the first Ctrl-C until the end of the step; a second one acts as usual."""
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(before):
            yield
            return

        def note(number: int, frame: Any) -> None:
            self._is_stopping = True
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _stop_if_asked(self, run: Run) -> None:
        if self._is_stopping:
            kept = f"call fit again with resume=True to continue from {self._last}"
            lost = "this is not saved: fit has no checkpoint folder, or cannot write to it"
            how = kept if self._is_kept else lost
            run.say(f"\nstopped after {_place(run)}; {how}")
            raise KeyboardInterrupt


def _place(run: Run) -> str:
    """Describe the progress so far."""
    return f"epoch {run.history.epochs}" + (f" and {run.batch} batches" if run.batch else "")


def _settings(run: Run) -> dict[str, str]:
    """Describe the settings that must be equal for a run to resume exactly."""
    changing = {"params"} if run.schedule is None else {"params", "lr"}
    groups = run.optimizer.param_groups
    found = {
        "model": run.model,
        "optimizer": type(run.optimizer).__name__,
        "options": [{k: v for k, v in g.items() if k not in changing} for g in groups],
        "schedule": type(run.schedule).__name__,
        "schedule_every": "step" if run.every_step else "epoch",
        **{k: getattr(run.train, k, None) for k in ("batch_size", "shuffle", "drop_last")},
        "data": [(a.shape, str(a.dtype)) for a in getattr(run.train, "arrays", ())],
        "validation": "None" if run.validation is None else "some",
        "accumulate": run.accumulate,
        "clip_norm": run.clip_norm,
        "streams": len(run.streams),
    }
    # A memory address, as in the repr of a generator, is not a setting.
    return {name: re.sub(r" at 0x[0-9A-Fa-f]+", "", str(v)) for name, v in found.items()}


def _state(run: Run) -> dict[str, Any]:
    """Return a copy of everything that later steps depend on."""
    return {
        "settings": _settings(run),
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": None if run.schedule is None else run.schedule.state_dict(),
        "streams": [state_of(stream) for stream in run.streams],
        "loader": run.train.state_dict() if run.batch else None,
        "batch": run.batch,
        "totals": dataclasses.asdict(run.totals),
        "missed": sorted(run.missed),
        "history": run.history.state_dict(),
        "is_finished": run.is_finished,
    }


def _load(run: Run, saved: dict[str, Any]) -> None:
    """Restore a `_state`; raise ValueError if its run had other settings."""
    before, now = saved["settings"], _settings(run)
    other = [f"  {n}: saved {before.get(n)}, now {now[n]}" for n in now if before.get(n) != now[n]]
    if other:
        raise ValueError(
            "fit: the checkpoint is of an unfinished run with other settings; use another folder, "
            "or start over with resume=False, which overwrites it\n" + "\n".join(other)
        )
    run.model.load_state_dict(saved["model"])
    run.optimizer.load_state_dict(saved["optimizer"])
    if run.schedule is not None:
        run.schedule.load_state_dict(saved["schedule"])
    restore(run.streams, saved["streams"])
    if saved["loader"] is not None:
        run.train.load_state_dict(saved["loader"])
    run.batch, run.missed = saved["batch"], set(saved["missed"])
    # Older checkpoints have no weight: it was always the number of examples.
    run.totals = Totals(**{"weight": saved["totals"]["seen"], **saved["totals"]})
    run.history.load_state_dict(saved["history"])
