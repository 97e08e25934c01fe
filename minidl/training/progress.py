"""Write a run's progress: a line that cannot be written is dropped, and training continues."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from minidl.data import DataLoader
from minidl.training.run import Run


class Output:
    """Standard output or error as a file, whatever has become of it.

    A service has none, a pipe's reader may be gone, a log's disk may be full, and an encoding may
    lack a character, which is then written as its number.

    Args:
        name: "stdout" or "stderr", looked up for each line, because programs replace them.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def encoding(self) -> str:
        """The stream's encoding, which decides how bars are drawn."""
        return getattr(getattr(sys, self._name), "encoding", None) or "utf-8"

    def fileno(self) -> int:
        """Return the stream's descriptor, by which tqdm finds the terminal's width."""
        found: int = getattr(sys, self._name).fileno()
        return found

    def isatty(self) -> bool:
        """Return whether a person sees it."""
        with contextlib.suppress(Exception):
            return bool(getattr(sys, self._name).isatty())
        return False

    def write(self, text: str) -> None:
        """Write a text, or as much as is possible."""
        with contextlib.suppress(Exception):  # anything may stand in for a stream
            stream: Any = getattr(sys, self._name)
            try:
                stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
                stream.flush()
            except BrokenPipeError:
                # Nobody will read it: the caller's own lines, which come next, must not fail either
                # and lose what was trained, and neither must Python's flush at the end.
                with open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), stream.fileno())

    def flush(self) -> None:
        """Do nothing: every text is flushed."""


def steps(run: Run, title: str) -> Iterator[None]:
    """Take the remaining steps of an epoch, with a bar if stderr is a terminal.

    It shows examples, examples/s and the time left. Yields after each step.
    """
    file, train = Output("stderr"), run.train
    shown = file.isatty() if run.progress is None else run.progress
    look: dict[str, Any] = {"unit": " examples", "leave": False, "dynamic_ncols": True}
    look |= {"disable": not shown, "file": file, "initial": run.totals.seen}
    examples = len(train.arrays[0]) if isinstance(train, DataLoader) else None
    from tqdm import tqdm  # on use: with what it imports, it takes 40 ms

    bar = tqdm(desc=title, total=examples, **look)
    try:
        for _ in run.steps():
            with contextlib.suppress(Exception):  # a bar is not worth a run
                bar.set_postfix_str(str(run.totals), refresh=False)
                bar.update(run.totals.seen - bar.n)
            yield
    finally:
        with contextlib.suppress(Exception):
            bar.close()
