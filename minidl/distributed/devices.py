"""Collectives on arrays that are not on the host."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from minidl.backends import Array, backend_of
from minidl.distributed.exchange import Exchange, Pending


class Collectives(Protocol):
    """Starts sums and broadcasts over ranks, in place: see `Exchange`."""

    def start_sum(self, array: Array, order: int = 0) -> Pending:
        """Start to sum an array over ranks."""

    def start_broadcast(self, array: Array, source: int) -> Pending:
        """Start to overwrite an array with that of one rank."""


class ThroughHost:
    """Collectives on a device's arrays through copies on the host, which waits for the device.

    Args:
        exchange: sums and broadcasts the copies.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def start_sum(self, array: Array, order: int = 0) -> Pending:
        """Start to sum an array over ranks."""
        host = backend_of(array).to_numpy(array)
        return _Copied(array, host, self._exchange.start_sum(host, order))

    def start_broadcast(self, array: Array, source: int) -> Pending:
        """Start to overwrite an array with that of one rank."""
        host = backend_of(array).to_numpy(array)
        return _Copied(array, host, self._exchange.start_broadcast(host, source))


class _Copied:
    """A pending collective on the copy of an array."""

    def __init__(self, array: Array, host: np.ndarray[Any, Any], pending: Pending) -> None:
        self._array, self._host, self._pending = array, host, pending

    def test(self) -> bool:
        return self._pending.test()

    def wait(self, what: str) -> None:
        self._pending.wait(what)
        self._array[...] = backend_of(self._array).from_numpy(self._host)
