"""How much reading one file may make, counted before it is made."""

from __future__ import annotations

ROOM = 64 << 20  # bytes that any reader may take beside a multiple of its file
_BYTES_PER_OBJECT = 128  # of a small Python object, with its place in a list, a stack and a memo
_SMALLEST = 8  # bytes of a file that describe one object, on average


class Budget:
    """Counts the bytes and objects that a reader makes; one for each file.

    A reader asks before it makes anything whose size the file decides, so that a small file cannot
    make many bytes, whatever it claims.

    Args:
        size: of the file in bytes.
        growth: how many bytes each byte of the file may become; more than 3 for compressed files.

    Attributes:
        most_bytes: `growth * size` and 64 MB.
        most_objects: one for 8 bytes of the file, and half a million.

    Example:
        >>> budget = Budget(size=1000)
        >>> budget.make(2000, "an array of 2,000 bytes")
        >>> budget.make(1 << 30, "an image of 20000 x 17896 pixels")
        Traceback (most recent call last):
        ValueError: got an image of 20000 x 17896 pixels, for which reading 1,000 bytes would take \
more than the limit of 67,111,864 bytes; is the file damaged, or made to fill the memory?
    """

    def __init__(self, size: int, growth: int = 3) -> None:
        self.size = size
        self.most_bytes = growth * size + ROOM
        self.most_objects = ROOM // _BYTES_PER_OBJECT + size // _SMALLEST
        self._bytes = self._objects = 0

    def make(self, count: int, what: str) -> None:
        """Count bytes that are about to be made for `what`; raise ValueError if too many."""
        self._bytes += count
        if self._bytes > self.most_bytes:
            raise self._error(what, f"{self.most_bytes:,} bytes")

    @property
    def left(self) -> int:
        """How many bytes may still be made."""
        return self.most_bytes - self._bytes

    def make_objects(self, count: int, what: str) -> None:
        """Count objects that are about to be made for `what`; raise ValueError if too many."""
        self._objects += count
        if self._objects > self.most_objects:
            raise self._error(what, f"{self.most_objects:,} values")

    def _error(self, what: str, limit: str) -> ValueError:
        return ValueError(
            f"got {what}, for which reading {self.size:,} bytes would take more than the limit of "
            f"{limit}; is the file damaged, or made to fill the memory?"
        )
