"""End ranks together: no rank may wait for one that has failed or ended."""

from __future__ import annotations

import atexit
import contextlib
import sys
import time
from typing import Any

from minidl.distributed.exchange import END, Exchange

STEP, LONGEST = 0.5, 2.0  # s; on a busy machine, printing can take 0.3 s


def watch(exchange: Exchange) -> None:
    """From now on, end all ranks if this one fails, and inform the others if it ends."""
    _abort_on_errors(exchange)
    atexit.register(_say_goodbye, exchange)


def _abort_on_errors(exchange: Exchange) -> None:
    """After an uncaught exception, print its traceback with the rank, then end all ranks.

    An error that every rank raises is shown once: the lower ranks print first, and end the others.
    """
    before, rank, size = sys.excepthook, exchange.comm.rank, exchange.comm.size

    def show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        time.sleep(min(STEP * rank, LONGEST))
        with contextlib.suppress(Exception):
            print(f"rank {rank} of {size} failed:", file=sys.stderr, flush=True)
            before(kind, error, trace)
            sys.stderr.flush()
        exchange.comm.Abort(130 if issubclass(kind, KeyboardInterrupt) else 1)

    sys.excepthook = show


def _say_goodbye(exchange: Exchange) -> None:
    """Inform ranks that still wait for this one: they raise an error, which ends all ranks."""
    with contextlib.suppress(ValueError, RuntimeError, TimeoutError):
        exchange.agree(END)
