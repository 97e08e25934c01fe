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
