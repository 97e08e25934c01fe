"""The files to read first, and how long they are: `python -m tests.reading_path` prints them."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
READING_PATH = [
    "minidl/autograd.py",
    "minidl/tensor/operations.py",
    "minidl/functional/convolution.py",
    "minidl/functional/pooling/basic.py",
    "minidl/backends/windows.py",
    "minidl/backends/base.py",
    "minidl/backends/convolution.py",
    "minidl/nn/module.py",
    "minidl/nn/convolution.py",
    "chapters/ch06_cifar10_cnn.py",
]


def code_lines(source: str) -> set[int]:
    """Return the numbers of the lines that hold code: no blank ones, comments or docstrings."""
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
    for node in ast.walk(ast.parse(source)):
        # A string standing alone documents what it stands under or, in a class or module, after.
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def count(path: Path) -> int:
    """Return how many lines of code a file has."""
    return len(code_lines(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    for name in READING_PATH:
        print(f"{count(ROOT / name):6}  {name}")
    print(f"{sum(count(ROOT / name) for name in READING_PATH):6}  in all")
