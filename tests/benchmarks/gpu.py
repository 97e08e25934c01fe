"""Measure everything on a GPU in one command, in under ten minutes: one JSON, one Markdown file.

    python -m tests.benchmarks.gpu --out FOLDER --minutes 10 --data-dir FOLDER_OF_CIFAR10

Each section runs in a process of its own, so that one that crashes or hangs loses only itself. It
has a share of the time that is left. Both files are written again after each section. Without a
GPU, the command says so and exits with status 2. `--device cpu` is a dry run of the code of every
section with tiny sizes, whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minidl.backends.cuda.cupy_backend import describe
from minidl.files.whole import whole_file

from .machine import processor

ROOT = Path(__file__).parents[2]
GRACE = 15.0  # seconds beyond its share after which a section is ended
LEAST = 5.0  # seconds below which no section is started
DRY = "dry run, CPU"


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        name: what `gpu_sections` calls it.
        title: its heading.
        share: of the time that is left, relative to the shares of the sections that follow.
        needs: packages without which it is skipped.
    """

    name: str
    title: str
    share: float
    needs: tuple[str, ...] = ()


SECTIONS = (
    Section("copies", "Copies: the device's memory and the bus", 1),
    Section("kernels", "Each kernel against its generic form, and against the copy rate", 4),
    Section("steps", "Training steps: capture, and PyTorch as it is, in turn", 14),
    Section("launches", "Launches and waits in a training step", 4),
    Section("fit", "`fit` with and without replayed steps", 3),
    Section("nccl", "NCCL with one device", 1),
    Section("tests", "`pytest -m gpu`", 10),
    Section("chapter12", "Chapter 12", 3),
    Section("chapter7", "Chapter 7 on real images", 8),
    Section("compiled", "Training steps: capture and `torch.compile`, in turn", 14, ("torch",)),
)


@dataclass
class Found:
    """What a section found: its state ("done", "skipped", "failed", "out of time") and rows."""

    state: str
    reason: str = ""
    seconds: float = 0.0
    given: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)


Runner = Callable[[Section, float], Found]


# Time -------------------------------------------------------------------------------------------


def run_all(
    sections: Iterable[Section],
    seconds: float,
    runner: Runner,
    keep: Callable[[dict[str, Found]], None],
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Found]:
    """Run sections in order, each within its share of the time left; keep what is found so far."""
    ahead, end = list(sections), clock() + seconds
    found: dict[str, Found] = {}
    while ahead:
        left = end - clock()
        given = left * ahead[0].share / sum(section.share for section in ahead)
        section = ahead.pop(0)
        started = clock()
        found[section.name] = _tried(section, given, left, runner)
        found[section.name].seconds, found[section.name].given = clock() - started, given
        keep(found)
    return found


def _tried(section: Section, given: float, left: float, runner: Runner) -> Found:
    missing = [name for name in section.needs if importlib.util.find_spec(name) is None]
    if missing:
        return Found("skipped", f"{', '.join(missing)} is not installed")
    if given < LEAST:
        return Found("skipped", f"{max(left, 0):.0f} s were left for it and all that follow")
    try:
        return runner(section, given)
    except Exception as error:
        return Found("failed", f"{type(error).__name__}: {error}")


def in_process(args: argparse.Namespace) -> Runner:
    """Return a runner that runs each section in a fresh process."""

    def run(section: Section, given: float) -> Found:
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "rows.jsonl"
            command = [sys.executable, "-m", f"{__package__}.gpu_sections", section.name, str(rows)]
            command += ["--device", args.device, "--seconds", f"{given:.1f}"]
            command += ["--data-dir", str(args.data_dir)] if args.data_dir else []
            status, errors = ended(command, given + GRACE)
            return judged(status, errors, read_rows(rows))

    return run


def ended(command: list[str], seconds: float) -> tuple[int | None, str]:
    """Run a command; return its status, or None if it had to be ended, and its errors."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        started = subprocess.Popen(
            command, cwd=ROOT, stdout=errors, stderr=errors, start_new_session=True
        )
        try:
            status: int | None = started.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)  # with all that it has started
            started.wait()
            status = None
        errors.seek(0)
        return status, errors.read()


def judged(status: int | None, errors: str, rows: list[dict[str, Any]]) -> Found:
    """Return what a process found, by its status and the rows that it wrote."""
    skipped = [row["skipped"] for row in rows if "skipped" in row]
    late = [row["late"] for row in rows if "late" in row]
    kept = [row for row in rows if not row.keys() & {"skipped", "late"}]
    if status is None:
        return Found("out of time", "it was ended after its share of the time", rows=kept)
    if status:
        lines = errors.strip().splitlines() or ["no message"]
        return Found("failed", f"status {status}: {lines[-1]:.500}", rows=kept)
    if late:
        return Found("out of time", f"left out: {', '.join(late)}", rows=kept)
    return Found("skipped" if skipped and not kept else "done", "; ".join(skipped), rows=kept)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a section; a last line that was not completed is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


# The report -------------------------------------------------------------------------------------


def about(args: argparse.Namespace) -> dict[str, str]:
    """Return what figures depend on: device, driver, versions, command and date."""
    found = {"date": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    found["command"] = shlex.join(["python", "-m", f"{__package__}.gpu", *args.given])
    found["processor"] = processor()
    found["Python"] = platform.python_version()
    for package in ("numpy", "torch", "nvidia-nccl-cu12", "nvidia-nccl-cu13"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    if args.device == "cpu":
        return {"what": f"{DRY}: these figures mean nothing"} | found
    return found | dict(describe()) | {"NVIDIA driver": _driver()}


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {error}"
    return "; ".join(done.stdout.split("\n")).strip("; ")


def markdown(facts: dict[str, str], found: dict[str, Found], sections: Iterable[Section]) -> str:
    """Return the report: facts, and a table for each section that has run or was skipped."""
    dry = f" ({DRY})" if "what" in facts else ""
    lines = [f"# GPU{dry}", "", *(f"- {name}: {value}" for name, value in facts.items())]
    for section in (one for one in sections if one.name in found):
        its = found[section.name]
        lines += ["", f"## {section.title}{dry}", ""]
        state = f"{its.state}, {its.seconds:.0f} of {its.given:.0f} s"
        lines += [state + (f": {its.reason}" if its.reason else "")]
        lines += ["", *table(its.rows)] if its.rows else []
    return "\n".join(lines) + "\n"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return rows as a Markdown table; text of several lines follows the table."""
    heads = list(dict.fromkeys(name for row in rows for name in row if name != "text"))
    texts = [row["text"] for row in rows if "text" in row]
    short = [row for row in rows if row.keys() - {"text"}]
    lines = [heads, ["---"] * len(heads)] if short else []
    lines += [[cell(row.get(head, "")) for head in heads] for row in short]
    found = [f"| {' | '.join(line)} |" for line in lines]
    for text in texts:
        found += ["", "```", *text.splitlines(), "```"]
    return found


def cell(value: Any) -> str:
    """Return a value as a cell: numbers with three digits or more."""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "/").replace("\n", " ")


def write(
    folder: Path, facts: dict[str, str], found: dict[str, Found], sections: Iterable[Section]
) -> None:
    """Write both files; the old ones stay until the new ones are complete."""
    whole = {"about": facts, "sections": {name: vars(its) for name, its in found.items()}}
    texts = {
        "gpu.json": json.dumps(whole, indent=1) + "\n",
        "gpu.md": markdown(facts, found, sections),
    }
    for name, text in texts.items():
        with whole_file(folder / name) as file:
            file.write(text.encode())


def why_not(device: str) -> str:
    """Return why nothing can be measured, or ""."""
    if device == "cpu":
        return ""
    for name, value in describe():
        if value.startswith("not usable"):
            return f"{name}: {value}"
    return ""


def main(given: list[str] | None = None) -> int:
    """Run all sections; return 0, 1 if one failed, or 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="a folder")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a dry run")
    parser.add_argument("--data-dir", type=Path, help="the folder of CIFAR-10, for chapter 7")
    names = [section.name for section in SECTIONS]
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    args = parser.parse_args(given)
    args.given = sys.argv[1:] if given is None else given
    if reason := why_not(args.device):
        print(f"gpu: nothing to measure, as there is no usable GPU. {reason}", file=sys.stderr)
        return 2
    started = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    args.data_dir = args.data_dir and args.data_dir.absolute()
    sections = [section for section in SECTIONS if section.name in args.only]
    facts = about(args)

    def keep(found: dict[str, Found]) -> None:
        write(args.out, facts, found, sections)
        name, its = list(found.items())[-1]
        print(f"{name}: {its.state}, {its.seconds:.0f} s. {its.reason}", flush=True)

    left = 60 * args.minutes - GRACE - (time.monotonic() - started)
    found = run_all(sections, left, in_process(args), keep)
    print(f"written: {args.out / 'gpu.json'} and {args.out / 'gpu.md'}")
    return int(any(its.state == "failed" for its in found.values()))


if __name__ == "__main__":
    sys.exit(main())
