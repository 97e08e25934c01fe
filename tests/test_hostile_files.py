"""A minute of fuzzing all file readers; see `fuzz.py` for longer runs."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from . import fuzz
from .helpers.seeds import SEEDS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", SEEDS)
def test_the_seed_of_each_format_is_valid(name, tmp_path):
    seed = SEEDS[name]
    path = tmp_path / "class" / seed.file
    path.parent.mkdir()
    path.write_bytes(seed.content)
    seed.write_others(path)
    first, second = seed.read(path), seed.read(path)
    assert fuzz.same(first, second)
    if seed.repair is not None:  # repairing whole files must not break them
        path.write_bytes(seed.repair(seed.content))
        assert fuzz.same(seed.read(path), first)


def test_mutations_repeat_and_differ():
    seed = SEEDS["csv"]
    files = [fuzz.attack(seed, "csv", number)[0] for number in range(100)]
    assert files == [fuzz.attack(seed, "csv", number)[0] for number in range(100)]
    assert len(set(files)) > 90


def test_equal_results_have_equal_bits():
    assert fuzz.same({"a": [np.array([1.0])]}, {"a": [np.array([1.0])]})
    assert not fuzz.same({"a": [np.array([0.0])]}, {"a": [np.array([-0.0])]})
    assert not fuzz.same((1,), [1])


def _reader_that_hides(what):
    """Return a seed whose reader turns any Exception into a ValueError, as most readers do."""

    def read(path):
        try:
            return what()
        except Exception as error:
            raise ValueError(f"{path} is damaged") from error

    return fuzz.Seed("x", b"", read)


def _loop():
    while True:
        pass


def _exhaust():
    raise MemoryError("too much")


@pytest.mark.skipif(sys.platform != "linux", reason="timers as on Linux")
@pytest.mark.parametrize(
    ("what", "fault"),
    [
        (_loop, "processor time"),
        (_exhaust, "MemoryError: too much"),
        (lambda: warnings.warn("odd", stacklevel=1), "warned: odd"),
        (lambda: int("x"), ""),
    ],
)
def test_the_fuzzer_sees_what_a_reader_hides(what, fault, monkeypatch, tmp_path):
    monkeypatch.setattr(fuzz, "_SECONDS", 0.1)
    _, found = fuzz.judged(_reader_that_hides(what), tmp_path / "x", None)
    assert fault in found
    assert bool(fault) == bool(found)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and time as on Linux")
def test_mutated_files_give_their_content_or_a_value_error():
    command = [sys.executable, "-m", "tests.fuzz", "--count", "500"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
