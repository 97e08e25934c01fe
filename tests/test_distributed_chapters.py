"""Chapters that `mpiexec` starts: one voice, and the results of one process."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from .helpers.ranks import ROOT, command, environment, needs_mpi


def chapter(ranks, name, folder, *options, warnings="error"):
    return subprocess.run(
        command(ranks, "-W", warnings, str(ROOT / "chapters" / f"{name}.py"), *options),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )


@needs_mpi
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("ch07_cifar10_cnn", marks=pytest.mark.slow),
        pytest.param("ch09_textcnn", marks=pytest.mark.slow),
        pytest.param("ch10_resnet", marks=pytest.mark.slow),
        pytest.param("ch11_fine_tuning", marks=pytest.mark.slow),
    ],
)
def test_a_chapter_on_two_ranks_speaks_once_and_keeps_its_promise(name, tmp_path):
    done = chapter(2, name, tmp_path, "--quick")
    assert done.returncode == 0, done.stderr
    results = re.findall(r"^result: .*", done.stdout, re.MULTILINE)
    assert len(results) == 1, done.stdout
    doc = (ROOT / "chapters" / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
    promised = re.findall(r"([a-z ]+?) ([\d.]+) to ([\d.]+) %", doc[doc.index("With --quick") :])
    assert promised
    for what, low, high in promised:
        found = re.search(rf"{what.strip()} ([\d.]+)\s?%", results[0])
        assert found, (what, results[0])
        assert float(low) <= float(found[1]) <= float(high), results[0]
    saved = {path.name for path in Path(tmp_path, "out", name[:4]).iterdir()}
    figures = re.findall(r"figure: .*/(\w+\.\w+)", done.stdout)
    assert figures
    assert len(figures) == len(set(figures))
    assert set(figures) <= saved


@needs_mpi
@pytest.mark.parametrize("options", [["--lr", "x"], ["--data-dir", "x"], ["--help"]])
def test_a_wrong_option_is_reported_once(options, tmp_path):
    done = chapter(2, "ch07_cifar10_cnn", tmp_path, *options)
    assert (done.stdout + done.stderr).count("usage:") == 1
    assert (done.returncode == 0) == (options == ["--help"])


@needs_mpi
def test_a_loss_that_is_nan_is_reported_once(tmp_path):
    done = chapter(2, "ch07_cifar10_cnn", tmp_path, "--quick", "--lr", "1e30", warnings="ignore")
    assert done.returncode == 1
    assert (done.stdout + done.stderr).count("try a smaller --lr") == 1


@needs_mpi
@pytest.mark.parametrize("first", ["chapter", "world"])
@pytest.mark.parametrize("error", ["ZeroDivisionError", "KeyboardInterrupt"])
def test_an_error_on_one_rank_ends_all(first, error, tmp_path):
    made = "Chapter(None, given=[])"
    lines = [made, "distributed.world()"] if first == "chapter" else ["distributed.world()", made]
    (tmp_path / "program.py").write_text(f"""
from minidl import distributed
from minidl.chapter import Chapter
{lines[0]}
{lines[1]}
if distributed.world().rank == 1:
    raise {error}
distributed.world().barrier()
""")
    done = subprocess.run(
        command(2, "program.py"),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "rank 1 of 2 failed:" in done.stderr
    is_short = (first, error) == ("chapter", "KeyboardInterrupt")
    assert ("stopped" if is_short else error) in done.stderr
    assert done.stderr.count("Traceback") == (not is_short)
