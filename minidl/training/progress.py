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
    """A stream for text, such as standard output, to which printing never fails.

    A service has no such stream, the reader of a pipe may have ended, the disk of a log may be
    full, and an encoding may lack a character, which is then written as an escape sequence. `fit`
    prints this way. So does a program that begins with the example's assignment: piped to `head`,
    it still trains to the end.

    Args:
        stream: a stream or None; or "stdout" or "stderr", looked up for each line, because programs
            replace them.

    Example:
        >>> import sys
        >>> sys.stdout = Output(sys.stdout)
        >>> print("still here")
        still here
    """

    def __init__(self, stream: Any) -> None:
        self._given = stream

    @property
    def _stream(self) -> Any:
        return getattr(sys, self._given) if isinstance(self._given, str) else self._given

    @property
    def encoding(self) -> str:
        """The stream's encoding, which decides how bars are drawn."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        """Return what only the stream has, such as `fileno`: tqdm asks for a terminal's width."""
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        with contextlib.suppress(Exception):
            return bool(self._stream.isatty())
        return False

    def write(self, text: str) -> None:
        """Write a text, if possible."""
        with contextlib.suppress(Exception):  # programs may replace a stream by anything
            stream = self._stream
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


class Cell:
    """A stream for a bar below the notebook's cell that runs: each text replaces the last.

    A cell has one place, so that many runs in it do not leave many lines.

    Args:
        request: Jupyter's message that asked to run the cell.
    """

    encoding = "utf-8"
    used: str | None = None  # the place that was used last

    def __init__(self, request: Any) -> None:
        self._place: str = request["header"]["msg_id"]
        self._is_read: bool = request["content"].get("allow_stdin", False)

    def isatty(self) -> bool:
        """Return whether somebody may be reading: a program that runs notebooks takes no input."""
        return self._is_read

    def write(self, text: str) -> None:
        """Show a text without its carriage returns, if possible."""
        line = {"text/plain": text.rpartition("\r")[2].rstrip()}
        with contextlib.suppress(Exception):
            from IPython.display import display

            display(line, raw=True, display_id=self._place, update=Cell.used == self._place)
            Cell.used = self._place

    def flush(self) -> None:
        """Do nothing: `write` shows its text at once."""


def place() -> Output | Cell:
    """Return where a bar belongs: below a notebook's cell, or on stderr."""
    if {"ipykernel.kernelapp", "IPython"} <= sys.modules.keys():
        with contextlib.suppress(Exception):  # a notebook's modules, but not in a notebook
            from IPython import get_ipython

            return Cell(get_ipython().get_parent())
    return Output("stderr")


def steps(run: Run, title: str) -> Iterator[None]:
    """Take the remaining steps of an epoch, with a bar if somebody reads it.

    That is in a terminal that can move back in a line (not one of type "dumb"), or in a notebook.
    The bar shows examples, examples/s and the time left. Yield after each step.
    """
    file, train, shown = place(), run.train, run.progress
    if shown is None:
        shown = file.isatty() and os.environ.get("TERM") != "dumb"
    look: dict[str, Any] = {"unit": " examples", "leave": False}
    look |= {"ncols": 100} if isinstance(file, Cell) else {"dynamic_ncols": True}
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
