"""The benchmarks' pure functions: what sysfs says, which variant counts, and the table."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .benchmarks import contest as contests
from .benchmarks import machine
from .benchmarks.contest import COMPILED, Contest, Round

MIB = 2**20


def sysfs(core: Path, *found: tuple[str, str, str, str]) -> Path:
    for number, texts in enumerate(found):
        index = core / "cache" / f"index{number}"
        index.mkdir(parents=True)
        names = ("level", "type", "size", "shared_cpu_list")
        for name, text in zip(names, texts, strict=True):
            (index / name).write_text(text + "\n")
    return core


def result(ms: float, peak_mb: float = 100.0, *results: float, first_ms: float = 0.0) -> dict:
    return {"ms": ms, "peak_mb": peak_mb, "results": list(results or (1.0,)), "first_ms": first_ms}


def test_caches_are_read_from_sysfs(tmp_path):
    found = machine.caches(
        sysfs(
            tmp_path,
            ("3", "Unified", "36608K", "0-3"),
            ("1", "Data", "48K", "0,2"),
            ("1", "Instruction", "32K", "0,2"),
            ("2", "Unified", "2M", "0,2"),
        )
    )
    assert [(cache.level, cache.size) for cache in found] == [
        (1, 48 * 1024),
        (2, 2 * MIB),
        (3, 36608 * 1024),
    ]
    text = "caches: L1 48 KiB per core, L2 2 MiB per core, L3 35.75 MiB shared by cores 0-3"
    assert machine.describe(found) == text


@pytest.mark.parametrize("broken", [("x", "Data", "48K", "0"), ("1", "Data", "", "0")])
def test_caches_that_cannot_be_read_are_left_out(tmp_path, broken):
    assert machine.caches(tmp_path) == []
    assert machine.describe([]) == "caches: unknown"
    found = machine.caches(sysfs(tmp_path, broken, ("2", "Unified", "512K", "0")))
    assert [cache.level for cache in found] == [2]


def test_arrays_fit_in_the_caches_they_are_named_after():
    found = [machine.Cache(2, 512 * 1024, "0"), machine.Cache(3, 32 * MIB, "0-1")]
    expected = {"half of L2": 128 * 1024, "L3": 4 * MIB, "memory": 128 * MIB}
    assert machine.array_sizes(found) == expected
    assert machine.array_sizes([machine.Cache(3, 4096 * MIB, "0")])["memory"] == 512 * MIB
    assert machine.array_sizes([]) == {"memory": 128 * MIB}


def test_all_bytes_are_copied():
    for size in (3 * machine.PAGE, MIB):
        source, target = machine.arrays(size)
        assert {source.nbytes, target.nbytes} == {size}
        target[:] = 0
        machine.copier(source, target, 3)()
        assert target.all()


def test_peak_memory_is_that_of_the_process_alone():
    code = "from tests.benchmarks.machine import peak_mb, np; a = peak_mb(); np.ones(2**25); "
    code += "print(peak_mb() - a)"
    root = Path(__file__).resolve().parents[1]
    held = bytearray(b"x") * 2**28  # of which a new process must not count anything
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True)
    assert len(held) == 2**28
    assert 250 < float(done.stdout) < 280


def test_a_compiled_variant_takes_part_only_if_asked_for():
    names = ("minidl", "torch", "torch fused", f"{COMPILED} fused")
    contest = Contest("", dict.fromkeys(names, lambda: lambda: 0.0))
    assert contest.names(False, False, True) == ["minidl"]
    assert contest.names(True, True, False) == ["minidl", "before", "torch", "torch fused"]
    assert contest.names(False, True, True) == list(names)


def rounds() -> list[Round]:
    return [
        {
            "minidl": result(ms, 100.0, 1.0, 2.0),
            "before": result(20.0, 110.0, 1.0, 2.0),
            "torch": result(plain, 400.0, 1.0, 2.0),
            "torch fused": result(fused, 500.0, 1.0, 2.0003),
            f"{COMPILED} fused": result(9.0, 900.0, 1.0, 2.0, first_ms=1.0),
            f"{COMPILED} channels_last": result(8.0, 900.0, 1.0, 2.0, first_ms=first),
        }
        for ms, plain, fused, first in (
            (10.0, 12.0, 30.0, 20_008.0),
            (16, 40, 20, 9),
            (12, 41, 24, 9),
        )
    ]


def test_the_best_variant_is_the_one_with_the_least_median():
    times = contests.medians(rounds())
    assert times["torch"] == 40.0
    assert contests.variants(times) == {"torch fused": 24.0, "torch": 40.0}
    assert list(contests.variants(times)) == ["torch fused", "torch"]


def test_a_row_compares_minidl_with_each_peer():
    row = contests.cells(Contest("", {}, multiply_adds=40), 2, rounds(), 10.0)
    assert row == {
        "threads": "2",
        "minidl ms": "12.0",
        "fastest - slowest": "10.0 - 16.0",
        "MB": "100",
        "before ms": "20.0",
        "before MB": "110",
        "/ before": "0.60",
        "PyTorch ms": "24.0",
        "PyTorch MB": "500",
        "/ PyTorch": "0.50",  # of 10/30, 16/20 and 12/24
        "MB / PyTorch": "0.20",
        "best variant": "fused",
        "compiled ms": "8.00",
        "/ compiled": "1.50",
        "compiling s": "20",
        "apart": "1e-04",
        "floor": "4.00",
    }


def test_results_that_differ_in_any_variant_are_marked():
    found = rounds()
    found[2]["torch"]["results"] = [1.0, 2.1]  # not the best variant
    assert contests.cells(Contest("", {}), 1, found, 1.0)["apart"] == "!3e-02"
    found[2]["torch"]["results"] = [1.0, float("nan")]
    assert contests.cells(Contest("", {}), 1, found, 1.0)["apart"] == "!nan"


def test_what_could_not_be_compiled_keeps_its_columns():
    failed: Round = {f"{COMPILED} fused": {}, f"{COMPILED} channels_last": {}}
    found = [results | failed for results in rounds()]
    row = contests.cells(Contest("", {}), 1, found, 1.0)
    assert (row["compiled ms"], row["/ compiled"], row["compiling s"]) == ("-", "-", "-")
    assert row["best variant"] == "fused"


def test_what_fails_to_compile_is_left_out_with_its_reason(monkeypatch, capsys):
    def fresh(module, key, name, threads, checkout):
        if name == failing:
            raise subprocess.CalledProcessError(1, "", stderr="Traceback\nNo C++ compiler\n")
        folders[name] = os.environ["TORCHINDUCTOR_CACHE_DIR"]
        return result(1.0)

    monkeypatch.setattr(contests, "fresh", fresh)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    args = argparse.Namespace(rounds=2, against=None)
    failing, folders = f"{COMPILED} fused", {}
    names = ["minidl", failing, f"{COMPILED} channels_last", "torch"]
    found = contests.play(args, "", "W1", names, 1)
    assert [list(results) for results in found] == [names, names]
    assert found[0][failing] == found[1][failing] == {}
    assert capsys.readouterr().err == f"W1: {failing} is left out: No C++ compiler\n"
    assert len(set(folders.values())) == 3  # no contestant finds what another compiled

    failing = "torch"
    with pytest.raises(subprocess.CalledProcessError):
        contests.play(args, "", "W1", names, 1)


def test_minidl_alone_has_a_short_row():
    row = contests.cells(Contest("", {}), 1, [{"minidl": result(1.5)}], 1.0)
    assert list(row) == ["threads", "minidl ms", "fastest - slowest", "MB"]


def test_markdown_lacks_the_checks():
    row = {"threads": "1", "minidl ms": "12.5", "apart": "2e-07", "floor": "3.1"}
    assert contests.markdown([("W1", row), ("W2", row | {"threads": "2"})]) == [
        "|  | threads | minidl ms |",
        "| --- | --- | --- |",
        "| W1 | 1 | 12.5 |",
        "| W2 | 2 | 12.5 |",
    ]


def test_lines_of_text_align():
    row = {"threads": "1", "best variant": "channels_last fused"}
    head = contests.text_line("", row, row, 6)
    line = contests.text_line("W1", row.values(), row, 6)
    assert len(head) == len(line)
    assert line.endswith(" channels_last fused")
