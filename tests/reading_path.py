"""The reading path: the code that a training step of chapter 7 executes, and its size.

`python -m tests.reading_path` prints how many lines of code each part of the package has;
`--trace` runs one step of chapter 7's network with the plain kernels, from `Conv2d` to Adam, and
prints the files that it went through, in order, with the number of lines executed in each.
"""

from __future__ import annotations

import argparse
import ast
import functools
import io
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "minidl"


parse = functools.cache(ast.parse)  # many tests look at the same files


@functools.cache
def code_lines(source: str) -> frozenset[int]:
    """Return the line numbers of code: no blank lines, comments or docstrings."""
    nothing = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in nothing:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(parse(source)):
        # A string that is a statement by itself is documentation.
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return frozenset(lines)


def count(path: Path) -> int:
    """Return the number of lines of code in a file."""
    return len(code_lines(path.read_text(encoding="utf-8")))


# What a step executes -------------------------------------------------------------------------


def statements(source: str) -> dict[int, frozenset[int]]:
    """Map each line of code to all lines of its statement, or of its header if it has a body.

    A statement may span several lines, and Python's versions differ in which of them they report.
    The header of a function that is called counts too.
    """
    lines = code_lines(source)
    found: dict[int, frozenset[int]] = {}
    for node in ast.walk(parse(source)):
        if isinstance(node, (ast.stmt, ast.ExceptHandler)):
            last = node.end_lineno or node.lineno
            bodies = [getattr(node, name, []) for name in ("body", "handlers", "orelse")]
            first = min((body[0].lineno for body in bodies if body), default=last + 1)
            own = lines & set(range(node.lineno, max(first, node.lineno + 1)))
            for line in own:
                found[line] = own
    return found


def trace_step() -> dict[str, set[int]]:
    """Return the lines of code of minidl that one plain training step executes, by file."""
    import minidl
    from minidl import functional as F
    from minidl import models, optim

    assert minidl.get_kernels() == "plain"
    minidl.manual_seed(0)
    model = models.cifar10_cnn()
    adam = optim.Adam(model.parameters(), lr=1e-3)
    images, labels = minidl.randn(8, 3, 32, 32), minidl.arange(8).data

    reported: dict[str, set[int]] = {}

    def see(frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(str(PACKAGE)):
            return None
        lines = reported.setdefault(code.co_filename, set())
        lines.add(code.co_firstlineno if event == "call" else frame.f_lineno)
        return see

    sys.settrace(see)
    try:
        loss = F.cross_entropy(model(images), labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
    finally:
        sys.settrace(None)
    executed = {}
    for name, lines in reported.items():
        spans = statements(Path(name).read_text(encoding="utf-8"))
        path = Path(name).relative_to(ROOT).as_posix()
        executed[path] = set().union(*(spans.get(line, set()) for line in lines))
    return executed


@functools.cache
def traced() -> dict[str, int]:
    """Return how many lines of each file a plain step executes, measured in a new process."""
    command = [sys.executable, "-m", "tests.reading_path", "--trace"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = re.findall(r"^ *(\d+)/ *\d+  (\S+)$", done.stdout, re.MULTILINE)
    return {name: int(lines) for lines, name in rows}


# Printing -------------------------------------------------------------------------------------


def parts() -> Iterator[tuple[str, int]]:
    """Yield each folder, and each file at the top, of the package with its lines of code."""
    for path in sorted(PACKAGE.iterdir(), key=lambda p: (p.is_file(), p.name)):
        if path.is_dir() and path.name != "__pycache__":
            yield f"minidl/{path.name}/", sum(count(file) for file in path.rglob("*.py"))
        elif path.suffix == ".py":
            yield f"minidl/{path.name}", count(path)


def main() -> None:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trace", action="store_true", help="run a step and print it")
    if not parser.parse_args().trace:
        for name, lines in parts():
            print(f"{lines:6}  {name}")
        print(f"{sum(lines for _, lines in parts()):6}  in all")
        return
    executed = trace_step()
    for name, lines in executed.items():
        print(f"{len(lines):6}/{count(ROOT / name):3}  {name}")
    print(f"{sum(map(len, executed.values())):6}  in all")


if __name__ == "__main__":
    os.environ["MINIDL_KERNELS"] = "plain"
    main()
