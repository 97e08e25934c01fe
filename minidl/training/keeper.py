"""Save and resume a run, and end it after Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import platform
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minidl.checks import check_whole
from minidl.files.checkpoint import load_checkpoint, save_checkpoint
from minidl.files.locks import folder_lock
from minidl.files.weights import save_weights
from minidl.files.whole import clear_parts
from minidl.optim.optimizer import NUMBER
from minidl.random import restore, state_of
from minidl.training.evaluation import Totals
from minidl.training.fingerprint import changes, fingerprint
from minidl.training.run import Run
from minidl.training.warnings import warn


class Keeper:
    """A folder with `last.npz`, `best.npz` and `history.csv`, or None to save nothing."""

    def __init__(self, folder: Path | None = None, save_seconds: float = 60.0) -> None:
        self._folder, self._save_seconds = folder, save_seconds
        self._saved, self._signal, self._is_kept = time.monotonic(), 0, False
        self._start: dict[str, Any] = {}  # describes the run; saved with it
        self._best = 0  # the epoch of best.npz
        self._unsaved: dict[str, Any] = {}  # better weights that are not on disk yet
        self._is_over = False  # whether the folder holds a finished run

    @contextlib.contextmanager
    def running(self, run: Run, epochs: int, resume: bool) -> Iterator[None]:
        """Resume a run; while it lasts, keep others out of its folder, and delay signals."""
        with self._held(), self._signals_wait():
            saved, words = self._find(run, epochs, resume)
            if saved:
                _load(run, saved, self._last)
                done = run.history.best_epoch() if run.history.epochs else 0
                self._find_best(run, saved.get("best", done))
                words = f"resuming from {self._last}: {_place(run)}"
            run.say(words)
            yield

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Keep other runs out of the folder, and leave a note of which run is using it."""
        with contextlib.ExitStack() as lock:
            if self._folder is not None:
                note = self._folder / ".run"
                try:
                    lock.enter_context(folder_lock(self._folder, "fit"))
                    lock.callback(_remove, note)
                    now = time.strftime("%Y-%m-%d %H:%M:%S")
                    note.write_text(
                        f"process {os.getpid()} on {platform.node()} since {now}", encoding="utf-8"
                    )
                except BlockingIOError as error:
                    raise BlockingIOError(
                        f"{error}. It is in use by {_holder(note)}, or by its child process"
                    ) from None
                except OSError as error:
                    warn(
                        f"cannot lock {self._folder}: {error}; training continues. Make sure that "
                        "no other run uses this folder"
                    )
            yield

    @property
    def _last(self) -> str:
        return f"{self._folder}/last.npz"

    def _find(self, run: Run, epochs: int, resume: bool) -> tuple[dict[str, Any], str]:
        """Return the state of an unfinished run, or an empty dict, and a message.

        Raises:
            ValueError: the checkpoint is damaged, or another run's.
        """
        if self._folder is None:
            return {}, ""
        found = fingerprint(run)
        self._start = {
            "settings": _settings(run),
            "fingerprint": [list(found), list(found.values())],
            "epochs": epochs,
        }
        for name in ("last.npz", "best.npz", "history.csv"):
            clear_parts(self._folder / name)
        last = self._folder / "last.npz"
        if not last.exists():
            return {}, ""
        self._is_over, done = True, 0
        saved: dict[str, Any] = {}
        with contextlib.nullcontext() if resume else contextlib.suppress(OSError, ValueError):
            saved = load_checkpoint(last)
            is_ours = {"settings", "history"} <= set(saved)
            if resume and not is_ours:
                raise ValueError(
                    f"fit: {last} is a checkpoint, but was not saved by fit; use another "
                    "folder, or start over with resume=False, which overwrites it"
                )
            with naming(self._last):
                done = len(saved["history"]["columns"].get("train_loss", ()))
                wanted = epochs if resume else saved.get("epochs", done)
                self._is_over = saved["is_finished"] is True or done >= wanted
        if not resume:
            return {}, ""
        if self._is_over:
            aside = "its best weights become best.previous.npz after the first epoch"
            words = f"{last} holds a finished run of {done} epochs; this one starts over; {aside}"
            return {}, words
        _compare(run, saved, self._start, self._last)
        return saved, ""

    def _find_best(self, run: Run, on_disk: int) -> None:
        """After resuming, check that best.npz, of epoch `on_disk`, holds the best weights."""
        if self._folder is None:
            return
        epochs = run.history.epochs
        best = run.history.best_epoch() if epochs else 0
        self._best = on_disk if (self._folder / "best.npz").exists() else 0
        if self._best != best and best == epochs and not run.batch:
            self._unsaved = run.model.state_dict()
        elif self._best != best:
            warn(_lost(self._folder, best))

    def asks(self) -> tuple[int, bool]:
        """Return the signal that asks to stop, or 0, and whether it is time to save."""
        passed = time.monotonic() - self._saved
        return self._signal, self._folder is not None and passed >= self._save_seconds

    def _decided(self, run: Run) -> tuple[int, bool]:
        """Return the signal to act on, or 0, and whether to save: as this process asks."""
        return self.asks()

    def save_if_due(self, run: Run) -> None:
        """After a step, save if it is time or a signal has arrived, which then ends the run."""
        stop, is_due = self._decided(run)
        if stop or is_due:
            self._save(run)
        self._stop(run, stop)

    def save_epoch(self, run: Run, is_last: bool) -> None:
        """Save after an epoch; if it is the best, save its weights first, so none is ever lost."""
        if run.history.best_epoch() == run.history.epochs and self._folder is not None:
            self._best, self._unsaved = run.history.epochs, run.model.state_dict()
        self._save(run)
        stop, _ = self._decided(run)
        if not is_last:
            self._stop(run, stop)
            return
        if self._folder and (self._unsaved or not (self._folder / "best.npz").exists()):
            warn(_lost(self._folder, run.history.best_epoch()))
        if stop == signal.SIGINT:
            run.say("training had already finished; press Ctrl-C again to end the program")
        elif stop:
            raise SystemExit(128 + stop)

    def _save(self, run: Run) -> None:
        self._saved = time.monotonic()
        if self._folder is not None:
            self._write_all(run, state_of_run(run))

    def _write_all(self, run: Run, state: dict[str, Any]) -> None:
        """Save everything, last.npz at the end: a killed run then repeats what was not saved."""
        if self._unsaved and self._write(self._save_best):
            self._unsaved = {}
        if not run.batch:
            self._write(lambda folder: run.history.save(folder / "history.csv"))
        best = 0 if self._unsaved else self._best
        whole = self._start | {"best": best} | state
        self._is_kept = self._write(lambda folder: save_checkpoint(whole, folder / "last.npz"))

    def _save_best(self, folder: Path) -> None:
        if self._is_over:
            for name in ("best.npz", "history.csv"):
                if (folder / name).exists():
                    os.replace(folder / name, folder / name.replace(".", ".previous."))
            self._is_over = False
        save_weights(self._unsaved, folder / "best.npz")

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
    def _signals_wait(self) -> Iterator[None]:
        """Delay Ctrl-C and SIGTERM until the end of the step; a second one acts as usual.

        Ignored signals are left alone, and so is SIGTERM if the program handles it itself.
        """
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        ours = [callable(before[signal.SIGINT]), before[signal.SIGTERM] == signal.SIG_DFL]
        held = [n for n, is_ours in zip(before, ours, strict=True) if is_ours]
        if threading.current_thread() is not threading.main_thread():
            held = []

        def note(number: int, frame: Any) -> None:
            self._signal = number
            let_act()

        def let_act() -> None:
            for number in held:
                signal.signal(number, before[number])

        for number in held:
            signal.signal(number, note)
        try:
            yield
        finally:
            let_act()

    def _stop(self, run: Run, stop: int) -> None:
        """End the run if there was a signal; say how to continue it."""
        if stop:
            kept = f"call fit again with resume=True to continue from {self._last}"
            lost = "this is not saved: fit has no checkpoint folder, or cannot write to it"
            how = kept if self._is_kept else lost
            run.say(f"\nstopped after {_place(run)}; {how}")
            raise KeyboardInterrupt if stop == signal.SIGINT else SystemExit(128 + stop)


def _place(run: Run) -> str:
    """Describe the progress so far."""
    return f"epoch {run.history.epochs}" + (f" and {run.batch} batches" if run.batch else "")


def _settings(run: Run) -> dict[str, str]:
    """Describe the settings that must be equal for a run to resume exactly."""
    groups = run.optimizer.param_groups
    found = {
        "model": run.model,
        "optimizer": run.optimizer._name,  # if sharded, that of the optimiser inside
        "its options": [
            {k: _plain(v) for k, v in g.items() if k not in ("params", "lr")} for g in groups
        ],
        "schedule": type(run.schedule).__name__,
        "schedule_every": "step" if run.every_step else "epoch",
        **{k: getattr(run.train, k, None) for k in ("batch_size", "shuffle", "drop_last")},
        "data": [(a.shape, str(a.dtype)) for a in getattr(run.train, "arrays", ())],
        "validation": "None" if run.validation is None else "some",
        "accumulate": run.accumulate,
        "clip_norm": run.clip_norm,
    }
    # Memory addresses, as in the repr of a generator, and numbers of ranks are not settings.
    other = re.compile(r" at 0x[0-9A-Fa-f]+|(, )?world=World\(.*?\)")
    return {name: other.sub("", str(v)) for name, v in found.items()}


def _plain(option: Any) -> Any:
    """Return a number of NumPy as Python's, which prints alike."""
    return option.item() if isinstance(option, np.generic) else option


def state_of_run(run: Run) -> dict[str, Any]:
    """Return a copy of everything that later steps depend on."""
    return {
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


def _compare(run: Run, saved: dict[str, Any], start: dict[str, Any], last: str) -> None:
    """Raise ValueError if a `state_of_run` is another run's, and warn if it may be."""
    with naming(last):
        before, now = saved["settings"], start["settings"]
        other = [
            f"  {n}: saved {before[n]}, now {v}" for n, v in now.items() if before.get(n, v) != v
        ]
        # Older checkpoints have no fingerprint.
        prints = [dict(zip(*of.get("fingerprint", ((), ())), strict=True)) for of in (saved, start)]
        refused, said = changes(*prints, is_fresh=not any(run.optimizer.state))
    if other + refused:
        raise ValueError(
            "fit: the checkpoint is of an unfinished run with other settings; use another folder, "
            "or start over with resume=False, which overwrites it\n" + "\n".join(other + refused)
        )
    if said:
        warn(
            "resuming although parts of the run have changed; its weights and random streams "
            "continue. If not intended, start over with resume=False\n" + "\n".join(said)
        )


def _load(run: Run, saved: dict[str, Any], last: str) -> None:
    """Restore a `state_of_run`; if that fails, nothing changes."""
    kept = state_of_run(run)
    with naming(last):
        try:
            _restore(run, saved)
        except BaseException:
            _restore(run, kept)
            raise


def _restore(run: Run, saved: dict[str, Any]) -> None:
    """Restore a `state_of_run`; an error may leave part of the run changed."""
    batch, missed, loader = saved["batch"], set(saved["missed"]), saved["loader"]
    # Older checkpoints have no weight: it was always the number of examples.
    totals = {"weight": saved["totals"]["seen"], **saved["totals"]}
    check_whole("batch", 0, batch=batch, best=saved.get("best", 0))
    for what, fits in {
        f"batch {batch} of {len(run.train)}": batch <= len(run.train),
        "another batch in the loader": (loader or {"taken": 0})["taken"] == batch,
        f"totals {totals}": totals.keys() == dataclasses.asdict(Totals()).keys()
        and all(isinstance(n, NUMBER) and math.isfinite(n) for n in totals.values()),
        f"missed {missed}": missed <= {name for name, _ in run.model.named_parameters()},
    }.items():
        if not fits:
            raise ValueError(f"got {what:.300}")
    run.batch, run.missed, run.totals = int(batch), missed, Totals(**totals)
    # Older checkpoints name the validation set "test".
    columns = saved["history"]["columns"].items()
    renamed = {re.sub("^test_", "validation_", name): values for name, values in columns}
    run.history.load_state_dict({**saved["history"], "columns": renamed})
    if run.history.epochs:
        run.history.best_epoch()  # fails without losses
    run.model.load_state_dict(saved["model"])
    run.optimizer.load_state_dict(saved["optimizer"])
    if run.schedule is not None:
        run.schedule.load_state_dict(saved["schedule"])
    restore(run.streams, saved["streams"])
    if loader is not None:  # last, because it cannot be undone
        run.train.load_state_dict(loader)


@contextlib.contextmanager
def naming(last: str) -> Iterator[None]:
    """Name the file in any error about its content."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"fit: {last} has no state of this run ({type(error).__name__}: {error!s:.500}); "
            "was it changed, or saved by another program? Use another folder, or start over with "
            "resume=False, which overwrites it"
        ) from error


def _lost(folder: Path | None, best: int) -> str:
    return (
        f"{folder}/best.npz does not hold the weights of the best epoch, {best}: they could not be "
        "saved, or were deleted"
    )


def _holder(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return "an unknown process"


def _remove(note: Path) -> None:
    """Remove a note of this process; a forked child leaves its parent's."""
    if _holder(note).startswith(f"process {os.getpid()} "):
        with contextlib.suppress(OSError):
            note.unlink()
