"""The benchmark of the interpreter lock finds the lock, and whether it is held."""

import math
import sys

import pytest

from .benchmarks import lock


def test_the_speed_up_is_limited_by_the_serial_part() -> None:
    assert lock.speed_up(0.0, 4) == 4
    assert lock.speed_up(1.0, 16) == 1
    assert lock.speed_up(0.5, 2) == pytest.approx(4 / 3)
    assert lock.speed_up(0.05, math.inf) == pytest.approx(20)


def test_a_python_without_a_lock_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    with pytest.raises(RuntimeError, match="no interpreter lock"):
        lock.lock_address()


def test_the_lock_is_held_by_python_and_released_by_numpy() -> None:
    before = sys.getswitchinterval()
    try:
        lock.lock_address()
    except RuntimeError as error:
        pytest.skip(str(error))
    finally:
        assert sys.getswitchinterval() == before
    found = {}
    for key in ("loop", "product"):
        (worker,) = lock.watched(key, (1,), rounds=1, seconds=0.2)
        if worker.reason:
            pytest.skip(worker.reason)
        assert worker.samples > 0
        found[key] = worker.share
    assert found["loop"] > 0.9
    assert found["product"] < 0.1
