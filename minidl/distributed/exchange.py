"""Collectives that check before they communicate, and wait without hanging.

MPI does not check that all processes call the same function with arrays of the same size: if they
do not, it hangs, crashes or mixes up data. So each call here first exchanges a digest of a
description of itself. If the digests differ, the ranks exchange the descriptions, and all of them
raise the same error.

Waiting polls instead of blocking: other processes can use the core meanwhile, Ctrl-C is noticed,
and the wait ends with an error after `timeout` seconds.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import time
from typing import Any, Protocol

import numpy as np

Numbers = np.ndarray[Any, Any]
DIGEST = 16  # bytes
NOTE = 112  # bytes that ranks exchange together with the digests
TEXT = 1_000  # characters of a description that an error shows
SPIN = 2e-4  # s; a small all-reduce takes 2e-5 s if the ranks are ready
FLOW = 1.0  # s; once all ranks are there: a nap after every few kB makes sums twice as slow
NAP, LONG_NAP = 1e-5, 1e-3  # s; Linux adds 5e-5 s
PATIENCE = 0.1  # s after which naps are long
END = "the end of the program"


class RanksDifferError(ValueError):
    """The ranks made different calls. It is raised on every rank, with the same message."""


class Pending(Protocol):
    """A sum over ranks that is being computed."""

    def test(self) -> bool:
        """Let it progress; return whether it is complete."""

    def wait(self, what: str) -> None:
        """Wait until it is complete; `what` names it in messages."""


_running: set[Any] = set()  # requests; they keep arrays alive to which MPI may still write
_let_others_run = getattr(os, "sched_yield", functools.partial(time.sleep, 0))


class Request:
    """A request of MPI: see `Pending`.

    Args:
        request: the result of a non-blocking function of MPI.
        exchange: the one that called it; it can make no more calls if `wait` fails.
        spin: seconds after which `wait` naps between looks.
    """

    def __init__(self, request: Any, exchange: Exchange, spin: float = FLOW) -> None:
        self._request, self._exchange, self._spin = request, exchange, spin
        _running.add(self)

    def test(self) -> bool:
        """Let it progress; return whether it is complete."""
        if self._request.Test():
            _running.discard(self)
            return True
        return False

    def wait(self, what: str) -> None:
        """Wait until it is complete.

        Raises:
            TimeoutError: the other ranks did not make the same call in time.
        """
        try:
            self._wait(what)
        except (
            BaseException
        ):  # Ctrl-C too: this rank's next call would meet the others' present one
            self._exchange.error = RuntimeError(
                f"this rank stopped waiting in {what}, so its calls no longer match those of the "
                "others; start all ranks again"
            )
            raise

    def _wait(self, what: str) -> None:
        started = time.monotonic()
        while not self.test():
            waited = time.monotonic() - started
            if waited < self._spin:
                _let_others_run()
                continue
            if waited > self._exchange.timeout:
                raise TimeoutError(
                    f"{what}: the other ranks have not called it for {self._exchange.timeout:g} s; "
                    "are they still computing (then raise distributed.world(timeout=...)), or "
                    "waiting for something else, such as a lock?"
                )
            time.sleep(NAP if waited - self._spin < PATIENCE else LONG_NAP)


class Exchange:
    """Checked collectives on NumPy arrays over one communicator.

    Args:
        mpi: the module `mpi4py.MPI`.
        comm: the communicator.
        timeout: seconds after which a rank stops waiting for the others.
    """

    def __init__(self, mpi: Any, comm: Any, timeout: float) -> None:
        self._mpi, self.comm, self.timeout = mpi, comm, timeout
        # Sums that overlap with other calls have their own communicators, each with its own order.
        self._sums = [comm.Dup()]
        self.error: Exception | None = None  # if set, no further call can succeed

    def agree(self, what: str, note: bytes = b"") -> Numbers:
        """Check that all ranks are about to do the same, and exchange a few bytes.

        Args:
            what: describes the call, with the shapes and dtypes on which the ranks must agree.
            note: the bytes; ranks with the same `what` must give equally many. Up to `NOTE` bytes
                travel with the digest, which saves a second wait for the slowest rank.

        Returns:
            The ranks' notes, uint8, `(ranks, len(note))`.

        Raises:
            RanksDifferError: they are not; the message has every rank's description.
            TimeoutError: the other ranks did not make a call in time.
            RuntimeError: this rank gave up an earlier call.
        """
        if self.error is not None:
            raise self.error.with_traceback(None)
        digest = hashlib.blake2b(what.encode(), digest_size=DIGEST).digest()
        own = (digest + note[:NOTE]).ljust(DIGEST + NOTE)
        rows = self._gathered(np.frombuffer(own, np.uint8), what, SPIN)
        digests, notes = rows[:, :DIGEST], rows[:, DIGEST : DIGEST + len(note)]
        if (digests == digests[0]).all():  # not `own`: every rank must decide alike
            return (
                notes if len(note) <= NOTE else self._gathered(np.frombuffer(note, np.uint8), what)
            )
        texts = [text.decode() for text in self.gather(what.encode(), what)]
        error = RanksDifferError(_difference(texts))
        self.error = error if END in texts else None
        raise error

    def _gathered(self, own: Numbers, what: str, spin: float = FLOW) -> Numbers:
        """Return arrays of equal size, one row for each rank."""
        rows = np.empty((self.comm.size, own.size), own.dtype)
        Request(self.comm.Iallgather(own, rows), self, spin).wait(what)
        return rows

    def reduce(self, array: Numbers, op: str, what: str) -> Numbers:
        """Return the sum, maximum or minimum over ranks: a new array, the same on each rank."""
        found = np.array(array, order="C")
        request = self.comm.Iallreduce(self._mpi.IN_PLACE, found, getattr(self._mpi, op.upper()))
        Request(request, self).wait(what)
        if op != "sum" and found.dtype.kind == "f":  # MPI may lose a NaN, and on some ranks only
            found[self.reduce(np.isnan(array).astype(np.uint8), "max", what) > 0] = np.nan
        return found

    def new_order(self) -> int:
        """Return the number of a new order of sums; every rank must call this."""
        self._sums.append(self.comm.Dup())
        return len(self._sums) - 1

    def start_sum(self, array: Numbers, order: int = 0) -> Pending:
        """Start to sum an array over ranks, in place.

        Every rank must start the sums of one order in the same sequence; those of different orders
        are independent. Nothing is checked. Do not use the array before the sum is complete.
        """
        return Request(self._sums[order].Iallreduce(self._mpi.IN_PLACE, array), self)

    def start_broadcast(self, array: Numbers, source: int) -> Pending:
        """Start to overwrite an array with that of one rank, in order with the sums, unchecked."""
        return Request(self._sums[0].Ibcast(array, source), self)

    def gather(self, data: bytes, what: str) -> list[bytes]:
        """Return every rank's bytes, which may differ in length."""
        sizes = self._gathered(np.array([len(data)], np.int64), what)[:, 0]
        found = np.empty(int(sizes.sum()), np.uint8)
        own = np.frombuffer(data, np.uint8)
        ends = np.cumsum(sizes)
        into = [found, sizes.tolist(), (ends - sizes).tolist(), self._mpi.BYTE]
        Request(self.comm.Iallgatherv([own, self._mpi.BYTE], into), self).wait(what)
        return [part.tobytes() for part in np.split(found, ends[:-1])]

    def send(self, data: bytes, source: int, what: str) -> bytes:
        """Return the bytes of one rank; the data of the others is ignored."""
        size = np.array([len(data)], np.int64)
        Request(self.comm.Ibcast(size, source), self).wait(what)
        found = np.frombuffer(data, np.uint8) if self.comm.rank == source else None
        found = np.empty(int(size[0]), np.uint8) if found is None else found.copy()
        Request(self.comm.Ibcast([found, self._mpi.BYTE], source), self).wait(what)
        return found.tobytes()


def _difference(texts: list[str]) -> str:
    """Describe the ranks' calls; ranks that make the same call are listed together."""
    ranks: dict[str, list[int]] = {}
    alike = itertools.takewhile(lambda found: len(set(found)) == 1, zip(*texts, strict=False))
    start = max(0, len(list(alike)) - TEXT // 2)
    for rank, text in enumerate(texts):
        shown = text[start : start + TEXT]
        ranks.setdefault(f"... {shown}" if start else shown, []).append(rank)
    parts = [
        f"rank{'s' * (len(which) > 1)} {', '.join(map(str, which))}: {text}"
        for text, which in ranks.items()
    ]
    return (
        "the ranks differ: "
        + "; ".join(parts)
        + "; expected every rank to make the same calls, in "
        "the same order, with the same shapes and dtypes"
    )
