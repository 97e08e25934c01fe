"""Limits on the memory that reading one file may take, checked before it is allocated."""

from __future__ import annotations

ROOM = 64 << 20  # bytes that any reader may take in addition to a multiple of its file
_BYTES_PER_OBJECT = 128  # a small Python object, and references to it in a list, a stack and a memo
_SMALLEST = 8  # bytes that a file spends on one object, on average


class Budget:
    """Counts the bytes and objects that a reader allocates; each file has its own.

    A reader asks before it allocates anything whose size the file determines, so a small file
    cannot fill the memory, whatever sizes it claims.

    Args:
        size: the file's size in bytes.
        growth: how many bytes each byte of the file may become; more than 3 for compressed files.

    Attributes:
        most_bytes: `growth * size` plus 64 MB.
        most_objects: one for every 8 bytes of the file, plus half a million.

    Example:
        >>> budget = Budget(size=1000)
        >>> budget.make(2000, "an array of 2,000 bytes")
        >>> budget.make(1 << 30, "an image of 20000 x 17896 pixels")
        Traceback (most recent call last):
        ValueError: got an image of 20000 x 17896 pixels, expected at most 67,111,864 bytes in \
memory for a file of this size; is it damaged, or made to fill the memory?
    """

    def __init__(self, size: int, growth: int = 3) -> None:
        self.size = size
        self.most_bytes = growth * size + ROOM
        self.most_objects = ROOM // _BYTES_PER_OBJECT + size // _SMALLEST
        self._bytes = self._objects = 0

    def make(self, count: int, what: str) -> None:
        """Count bytes about to be allocated for `what`; raise ValueError if they are too many."""
        self._bytes += count
        if self._bytes > self.most_bytes:
            raise self._error(what, f"{self.most_bytes:,} bytes")

    @property
    def left(self) -> int:
        """How many bytes may still be allocated."""
        return self.most_bytes - self._bytes

    def make_objects(self, count: int, what: str) -> None:
        """Count objects about to be created for `what`; raise ValueError if they are too many."""
        self._objects += count
        if self._objects > self.most_objects:
            raise self._error(what, f"{self.most_objects:,} values")

    def _error(self, what: str, limit: str) -> ValueError:
        return ValueError(
            f"got {what}, expected at most {limit} in memory for a file of this size; is it "
            "damaged, or made to fill the memory?"
        )
