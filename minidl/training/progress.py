"""Print a run's progress: a line that cannot be written is dropped, and training continues."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from minidl.data import DataLoader
from minidl.training.run import Run


class Output:
    """Standard output or error as a file whose methods never fail.

    A service has no such stream, the reader of a pipe may have ended, the disk of a log may be
    full, and an encoding may lack a character, which is then written as an escape sequence.

    Args:
        name: "stdout" or "stderr"; looked up for each line, because programs replace them.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def encoding(self) -> str:
        """The stream's encoding, which decides how bars are drawn."""
        return getattr(getattr(sys, self._name), "encoding", None) or "utf-8"

    def fileno(self) -> int:
        """Return the stream's descriptor, from which tqdm gets the terminal's width."""
        found: int = getattr(sys, self._name).fileno()
        return found

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        with contextlib.suppress(Exception):
            return bool(getattr(sys, self._name).isatty())
        return False

    def write(self, text: str) -> None:
        """Write a text, if possible."""
        with contextlib.suppress(Exception):  # programs may replace a stream by anything
            stream: Any = getattr(sys, self._name)
            try:
                stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
                stream.flush()
            except BrokenPipeError:
                # Nobody reads the pipe. Neither the caller's next print, which could lose the
                # trained weights, nor Python's flush at exit may fail.
                with open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), stream.fileno())

    def flush(self) -> None:
        """Do nothing: `write` flushes."""


def steps(run: Run, title: str) -> Iterator[None]:
    """Take the remaining steps of an epoch, with a bar if stderr is a terminal.

    The bar shows examples, examples/s and the time left. Yield after each step.
    """
    file, train = Output("stderr"), run.train
    shown = file.isatty() if run.progress is None else run.progress
    look: dict[str, Any] = {"unit": " examples", "leave": False, "dynamic_ncols": True}
    look |= {"disable": not shown, "file": file, "initial": run.totals.seen}
    examples = len(train.arrays[0]) if isinstance(train, DataLoader) else None
    from tqdm import tqdm  # imported on use: this takes 40 ms

    bar = tqdm(desc=title, total=examples, **look)
    try:
        for _ in run.steps():
            with contextlib.suppress(Exception):  # a failing bar must not end the run
                bar.set_postfix_str(str(run.totals), refresh=False)
                bar.update(run.totals.seen - bar.n)
            yield
    finally:
        with contextlib.suppress(Exception):
            bar.close()
