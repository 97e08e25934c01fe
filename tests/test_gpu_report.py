"""`python -m tests.benchmarks.gpu`: its time-boxes, its report, and a dry run on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from .benchmarks import gpu, gpu_kernels, gpu_sections
from .benchmarks.gpu import DRY, Found, Section
from .benchmarks.gpu_timing import Lab, compared, in_turn


class Clock:
    """A clock that moves only when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def parts(*shares, needs=()):
    return [Section(f"s{i}", f"Section {i}", share, needs) for i, share in enumerate(shares)]


def run(sections, seconds, takes, clock=None):
    """Run with a fake clock; return what was found, and what was kept after each section."""
    clock, kept = clock or Clock(), []

    def runner(section, given):
        clock.now += takes(section, given)
        return Found("done", rows=[{"given": given}])

    found = gpu.run_all(sections, seconds, runner, lambda all_: kept.append(list(all_)), clock)
    return found, kept


def test_sections_share_the_time_and_pass_on_what_they_leave():
    found, kept = run(parts(1, 2, 1), 400, lambda section, given: given / 2)
    # 100 of 400, then 2/3 of 350, then all of what is left.
    given = [its.given for its in found.values()]
    assert given == pytest.approx([100, 350 * 2 / 3, 350 - 350 / 3])
    assert [its.seconds for its in found.values()] == pytest.approx([x / 2 for x in given])
    assert kept == [["s0"], ["s0", "s1"], ["s0", "s1", "s2"]]


def test_what_time_is_too_short_for_is_skipped_with_the_reason():
    found, _ = run(parts(1, 1, 1), 60, lambda section, given: 57)
    assert [its.state for its in found.values()] == ["done", "skipped", "skipped"]
    assert found["s1"].reason == "3 s were left for it and all that follow"


def test_a_missing_package_is_named():
    found, _ = run(parts(1, needs=("numpy", "no_such_package")), 60, lambda *_: 1)
    its = found["s0"]
    assert (its.state, its.reason) == ("skipped", "no_such_package is not installed")


def test_a_failing_section_does_not_lose_the_others():
    def runner(section, given):
        if section.name == "s1":
            raise MemoryError("full")
        return Found("done")

    found = gpu.run_all(parts(1, 1, 1), 60, runner, lambda _: None, Clock())
    assert [its.state for its in found.values()] == ["done", "failed", "done"]
    assert found["s1"].reason == "MemoryError: full"


def test_a_process_is_ended_with_its_children_after_its_share(tmp_path):
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    late = tmp_path / "late"
    inner = f"import time; time.sleep(3); open({str(late)!r}, 'w')"
    status, _ = gpu.ended([sys.executable, "-c", code, inner], 0.5)
    assert status is None
    time.sleep(3.5)
    assert not late.exists()


def test_a_process_returns_its_status_and_errors():
    command = [sys.executable, "-c", "import sys; print('so'); sys.exit('it broke')"]
    status, errors = gpu.ended(command, 60)
    assert (status, errors.split()[-2:]) == (1, ["it", "broke"])


@pytest.mark.parametrize(
    ("status", "rows", "state", "reason"),
    [
        (0, [{"a": 1}], "done", ""),
        (0, [{"skipped": "no data"}], "skipped", "no data"),
        (0, [{"a": 1}, {"late": "W2"}, {"late": "R50"}], "out of time", "left out: W2, R50"),
        (1, [{"a": 1}], "failed", "status 1: last line"),
        (-11, [], "failed", "status -11: last line"),
        (None, [{"a": 1}], "out of time", "it was ended after its share of the time"),
    ],
)
def test_what_a_process_found(status, rows, state, reason):
    found = gpu.judged(status, "first line\nlast line\n", rows)
    assert (found.state, found.reason) == (state, reason)
    assert found.rows == [row for row in rows if "a" in row]


def test_a_row_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "rows"
    assert gpu.read_rows(path) == []
    path.write_text('{"a": 1}\n{"b": 2}\n{"c"')
    assert gpu.read_rows(path) == [{"a": 1}, {"b": 2}]


def test_the_report_has_both_forms(tmp_path):
    sections = parts(1, 1, 1)
    rows = [{"net": "W1", "ms": 12.3456}, {"net": "W|2", "ratio": 12345.6}, {"text": "a\nb"}]
    found = {"s0": Found("done", "", 1, 2, rows), "s1": Found("skipped", "no GPU", 0, 9)}
    gpu.write(tmp_path, {"GPU": "none"}, found, sections)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.md"]
    whole = json.loads((tmp_path / "gpu.json").read_text())
    assert whole["sections"]["s0"]["rows"] == rows
    assert (tmp_path / "gpu.md").read_text() == (
        "# GPU\n\n- GPU: none\n\n## Section 0\n\ndone, 1 of 2 s\n\n"
        "| net | ms | ratio |\n| --- | --- | --- |\n| W1 | 12.3 |  |\n| W/2 |  | 12346 |\n\n"
        "```\na\nb\n```\n\n## Section 1\n\nskipped, 0 of 9 s: no GPU\n"
    )


def test_a_write_that_fails_leaves_the_last_report(tmp_path, monkeypatch):
    sections = parts(1)
    gpu.write(tmp_path, {}, {"s0": Found("done")}, sections)
    before = (tmp_path / "gpu.json").read_text(), (tmp_path / "gpu.md").read_text()
    with pytest.raises(TypeError):
        gpu.write(tmp_path, {}, {"s0": Found("done", rows=[{"a": object()}])}, sections)
    assert before == ((tmp_path / "gpu.json").read_text(), (tmp_path / "gpu.md").read_text())


def test_without_a_gpu_it_says_so_and_ends_with_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "describe", lambda: [("device 'cuda'", "not usable: no driver")])
    assert gpu.main(["--out", str(tmp_path / "out")]) == 2
    assert "no usable GPU. device 'cuda': not usable: no driver" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# The sections' arithmetic


def test_ratios_are_medians_of_the_rounds_own():
    found = {
        "minidl": [2.0, 6.0, 4.0],
        "torch": [1.0, 2.0, 4.0],
        "torch fused": [9.0, 9.0, 9.0],
        "torch compile fused": [4.0, 4.0, 4.0],
    }
    row = compared(found)
    assert (row["minidl ms"], row["torch fused ms"]) == (4, 9)
    assert (row["minidl / eager"], row["minidl / compiled"]) == (2, 1)


def test_contestants_take_turns_and_times_are_per_step(tmp_path):
    clock, order = Clock(), []
    lab = Lab("cpu", 60, tmp_path / "rows", clock=clock)

    def taking(name, seconds):
        def work():
            order.append(name)
            clock.now += seconds

        return work

    found = in_turn(lab, {"a": taking("a", 0.25), "b": taking("b", 0.5)}, rounds=2, steps=3)
    assert order == [*"aaabbb"] * 2
    assert found == {"a": [250.0, 250.0], "b": [500.0, 500.0]}


def test_what_would_not_fit_is_not_started(tmp_path):
    clock = Clock()
    lab, done = Lab("cpu", 10, tmp_path / "rows", clock=clock), []
    for name in lab.in_time([*"abcd"]):
        done.append(name)
        clock.now += 4
    assert done == ["a", "b"]
    assert gpu.read_rows(lab.path) == [{"late": "c"}, {"late": "d"}]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("..F.\n1 failed, 3 passed in 2.0s\n", {"failed": 1, "passed": 3}),
        ("3 passed, 12 deselected in 1.0s", {"passed": 3, "deselected": 12}),
        (".... [ 10%]\n..s.F", {"passed": 7, "failed": 1, "skipped": 1}),
    ],
)
def test_the_summary_of_pytest_is_read(text, found):
    assert gpu_sections.summary(text) == found


def test_every_kernel_has_a_case(tmp_path):
    from minidl.backends.cuda.cupy_backend import EXPRESSIONS

    lab = Lab("cpu", 60, tmp_path / "rows")
    names = {expression.split("<")[0] for expression in EXPRESSIONS}
    assert set(gpu_kernels.cases(lab)) == names


@pytest.mark.parametrize("name", ["sum_windows", "gather_winners", "gated", "max_windows"])
def test_a_kernel_and_its_generic_form_do_the_same(tmp_path, name):
    case = gpu_kernels.cases(Lab("cpu", 60, tmp_path / "rows"))[name]()
    for mine, wanted in zip(case.run(), case.generic(), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-5)
    images = 2 * 64 * 32 * 32 * 4
    small = images // 4
    assert case.moved == {
        "sum_windows": 2 * images,
        "gather_winners": images + small + small // 4,
        "gated": 3 * images,
        "max_windows": images + small + small // 4,
    }.get(name)


def test_every_section_is_written():
    assert {section.name for section in gpu.SECTIONS} == set(gpu_sections.SECTIONS)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("kernels", "fit", "steps")]


@pytest.mark.parametrize("name", ["copies", "nccl", *SLOW])
def test_a_section_runs_on_the_cpu(tmp_path, name):
    """PyTorch is left out where it is not installed; steps stop after the first."""
    lab = Lab("cpu", 0.01 if name == "steps" else 600, tmp_path / "rows")
    gpu_sections.SECTIONS[name](lab)
    rows = gpu.read_rows(lab.path)
    assert rows
    assert not [row for row in rows if "problem" in row]
    if name == "kernels":
        assert len(rows) == len(gpu_kernels.cases(lab))
    if name == "fit":
        assert [row["equal bits"] for row in rows] == [True] * 3
    if name == "steps":
        assert rows[0]["net"] == "W1"
        assert not rows[0]["apart"].startswith("!")
        assert len([row for row in rows if "late" in row]) == 9
    if name == "nccl":
        assert rows == [{"skipped": "NCCL needs a GPU"}]


@pytest.mark.slow
def test_a_dry_run_marks_its_files(tmp_path):
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--device", "cpu"]
    command += ["--out", str(tmp_path), "--minutes", "9", "--only", "copies", "nccl"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=gpu.ROOT, check=False)
    assert done.returncode == 0, done.stderr
    whole = json.loads((tmp_path / "gpu.json").read_text())
    assert whole["about"]["what"] == f"{DRY}: these figures mean nothing"
    assert {name: its["state"] for name, its in whole["sections"].items()} == {
        "copies": "done",
        "nccl": "skipped",
    }
    text = (tmp_path / "gpu.md").read_text()
    assert text.count(f"({DRY})") == 3
