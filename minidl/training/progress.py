"""Write a run's progress: a line that cannot be written is dropped, and training continues."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any


class Progress:
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
                with open(os.devnull, "w") as nowhere:
                    os.dup2(nowhere.fileno(), stream.fileno())

    def flush(self) -> None:
        """Do nothing: every text is flushed."""
