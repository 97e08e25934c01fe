"""What a chapter's first lines promise is what it prints; its cells hold together.

The last paragraph of a chapter's docstring says what it will print and how long it will take,
compared with chapter 7, whose own time names the processor:

    Result: test accuracy 97 to 99 %, epochs 5; takes 0.8 times as long as chapter 7.
    With --quick: test accuracy 20 to 60 %, epochs 1.

A promise is a name, a number or a range, and a unit if there is one; the printed `result: ` line
has the name, a number in that range, and the unit. Times and speeds are stated and not compared:
they are the machine's as much as the chapter's.
"""

import ast
import builtins
import importlib
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from minidl.backends.cpu.threads import blas

from .helpers.public import public_names

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "chapters").glob("ch*.py"))
NUMBER = r"(?>-?\d+(?:,\d{3})*(?:\.\d+)?)"  # in whole: 1,200 does not begin with a 1
by_name = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


class Promise(NamedTuple):
    """A named number that a chapter says it will print."""

    name: str
    low: float
    high: float
    unit: str


def number(text):
    return float(text.replace(",", ""))


def promises(text, start):
    """Read the sentence that begins with `start`; the full run's must end with its time."""
    time = rf"; takes {NUMBER} (?:times as long as chapter 7|s on 2 cores of an? .+?)"
    time = time if start == "Result" else ""
    sentence = re.search(rf"\b{start}: ((?:[^.;]|\.\d)+?){time}\.(?!\d)", text)
    assert sentence is not None, f"no sentence such as '{start}: NAME LOW to HIGH{time}.'"
    found = []
    for part in sentence[1].split(", "):
        form = rf"(?P<name>\D.*?) (?P<low>{NUMBER})(?: to (?P<high>{NUMBER}))?(?: (?P<unit>\S.*))?"
        one = re.fullmatch(form, part)
        assert one is not None, f"{part!r} is not 'NAME LOW to HIGH UNIT' or 'NAME NUMBER UNIT'"
        low, unit = number(one["low"]), one["unit"] or ""
        found.append(Promise(one["name"], low, number(one["high"] or one["low"]), unit))
    return found


def printed(promise, result):
    """Return the number of a promise, as a line has it, in the promise's unit; None without one."""
    name, unit = re.escape(promise.name), re.escape(promise.unit)
    one = re.search(rf"(?<!\S){name} ({NUMBER}) ?{unit}(?![\w.%])", result)
    return one and one[1]


def broken(promised, result):
    """Return which promises a printed line does not keep, in words."""
    words = []
    for promise in promised:
        name, low, high, unit = promise
        found = printed(promise, result)
        if found is None:
            words.append(f"{name!r} with a number, in {unit or 'no unit'}, is not in {result!r}")
        elif not low <= number(found) <= high:
            words.append(f"{name}: promised {low:g} to {high:g}, printed {found}")
    return words


def first_lines(chapter):
    return " ".join(ast.get_docstring(ast.parse(chapter.read_text(encoding="utf-8"))).split())


def check(chapter, start, arguments, folder, datasets, **environment):
    promised = promises(first_lines(chapter), start)
    fixed = {"MPLBACKEND": "Agg", "MINIDL_DATASETS": datasets}
    environment = os.environ | fixed | environment
    command = [sys.executable, "-W", "error", str(chapter), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    result = [line for line in done.stdout.splitlines() if line.startswith("result: ")]
    assert result == done.stdout.splitlines()[-1:], "the last line printed is the result"
    assert not broken(promised, result[0])
    figures = re.findall(r"^figure: (.+)$", done.stdout, re.MULTILINE)
    assert figures
    for path in figures:
        assert Path(path).is_relative_to(folder)
        assert Path(path).read_bytes().startswith((b"\x89PNG", b"GIF89a"))


@pytest.fixture(scope="session")
def datasets(tmp_path_factory):
    """A folder for generated data that only these tests share."""
    return str(tmp_path_factory.mktemp("datasets"))


# The first two take a few seconds; `pytest -m slow` runs the others.
@pytest.mark.parametrize(
    "chapter",
    [*CHAPTERS[:2], *(pytest.param(path, marks=pytest.mark.slow) for path in CHAPTERS[2:])],
    ids=lambda path: path.stem,
)
def test_a_chapter_keeps_its_promise_quickly(chapter, tmp_path, datasets):
    check(chapter, "With --quick", ["--quick"], tmp_path, datasets)


# Processors round sums in different orders. Environment variables that change the order on one:
# OpenBLAS's kernels for AVX2, as on a processor without AVX-512, and minidl's plain kernels.
ARITHMETICS = {
    "default": {},
    "Haswell": {"OPENBLAS_CORETYPE": "Haswell"},
    "plain": {"MINIDL_KERNELS": "plain"},
}


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", ["default", "Haswell"])
@by_name
def test_a_chapter_keeps_its_promise(chapter, arithmetic, tmp_path, datasets):
    if arithmetic == "Haswell" and blas().is_narrow:
        pytest.skip("OpenBLAS uses these kernels on this processor anyway")
    check(chapter, "Result", [], tmp_path, datasets, **ARITHMETICS[arithmetic])


@pytest.mark.parametrize(
    ("result", "complaints"),
    [
        ("result: accuracy 97.5% after epoch 5, gain 1,200, 3 s", []),
        ("result: accuracy 80.0%, gain 1,200", ["accuracy: promised 97 to 99, printed 80.0"]),
        ("result: accuracy 99.01%, gain 3", ["accuracy: promised", "gain: promised 1200 to 1200"]),
        ("result: accuracy 98, gain 1,200", ["'accuracy' with a number, in %, is not in"]),
        ("result: accuracy 98%, gain 1,200%", ["'gain' with a number, in no unit, is not in"]),
        ("result: inaccuracy 98%, gain 1,200.5", ["'accuracy' with", "gain: promised"]),
    ],
)
def test_a_broken_promise_is_found(result, complaints):
    promised = promises(
        "Result: accuracy 97 to 99 %, gain 1,200; takes 2 times as long as chapter 7.", "Result"
    )
    found = broken(promised, result)
    assert len(found) == len(complaints)
    for words, start in zip(found, complaints, strict=True):
        assert words.startswith(start)


# Cells -----------------------------------------------------------------------------------------


def cells(text):
    """Cut a chapter into cells, each with its first line's number; the top is the first one."""
    lines = text.splitlines()
    starts = [0, *(i for i, line in enumerate(lines) if line.startswith("# %%")), len(lines)]
    return [(a + 1, "\n".join(lines[a:b])) for a, b in itertools.pairwise(starts)]


class Names(ast.NodeVisitor):
    """What a cell binds and what it reads; a function's own names do not count."""

    def __init__(self):
        self.bound, self.read = set(), []

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Load):
            self.read.append((node.id, node.lineno))
        else:
            self.bound.add(node.id)

    def visit_Import(self, node):
        self.bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}

    visit_ImportFrom = visit_Import  # noqa: N815 - ast's names, here and below

    def visit_ExceptHandler(self, node):
        self.bound |= {node.name} - {None}
        self.generic_visit(node)

    def visit_FunctionDef(self, node):
        self.bound.add(node.name)
        self._scope(node, [*node.body], node.decorator_list + node.args.defaults)

    def visit_Lambda(self, node):
        self._scope(node, [node.body], node.args.defaults)

    def visit_ClassDef(self, node):
        self.bound.add(node.name)
        self._scope(node, node.body, node.decorator_list + node.bases)

    def visit_ListComp(self, node):
        self._scope(node, list(ast.iter_child_nodes(node)), [])

    visit_SetComp = visit_ListComp  # noqa: N815
    visit_DictComp = visit_ListComp  # noqa: N815
    visit_GeneratorExp = visit_ListComp  # noqa: N815

    def _scope(self, node, body, outside):
        inner = Names()
        for part in body:
            inner.visit(part)
        for part in outside:
            self.visit(part)
        own = set(inner.bound)
        if hasattr(node, "args"):
            own |= {x.arg for x in ast.walk(node.args) if isinstance(x, ast.arg)}
        for part in ast.walk(node):
            if isinstance(part, ast.Global):
                own -= set(part.names)
        self.read += [(name, line) for name, line in inner.read if name not in own]


def undefined(text):
    """Return (name, line) of what is read before the cell that defines it, as a notebook would."""
    known, wrong = {*dir(builtins), "__doc__", "__file__", "__name__"}, []
    for first, cell in cells(text):
        names = Names()
        names.visit(ast.parse(cell))  # a cell that is no program of its own is a SyntaxError
        known |= names.bound
        wrong += [(name, first + line - 1) for name, line in names.read if name not in known]
    return wrong


@by_name
def test_cells_use_only_what_they_or_earlier_ones_define(chapter):
    text = chapter.read_text(encoding="utf-8")
    assert len(cells(text)) > 3
    assert undefined(text) == []


def test_a_cell_that_leans_on_a_later_one_is_found():
    assert undefined(
        "import math\n# %% a\nx = math.pi\n# %% b\nprint([y + x for y in z])\n# %% c\nz = 1"
    ) == [("z", 5)]
    assert undefined("# %%\ndef f(a):\n    b = a\n    return b + c\n# %%\nc = f(1)") == [("c", 4)]
    with pytest.raises(SyntaxError):
        undefined("# %%\nfor x in range(3):\n# %%\n    print(x)")


# Form ------------------------------------------------------------------------------------------


@by_name
def test_a_chapter_imports_what_minidl_lists_as_public(chapter):
    for node in ast.walk(ast.parse(chapter.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("minidl"):
            module = importlib.import_module(node.module)
            listed = {n for n in vars(module) if f"{node.module}.{n}" in sys.modules}
            assert {alias.name for alias in node.names} <= {*public_names(module), *listed}


@by_name
def test_a_chapter_ends_with_what_comes_next_and_three_exercises(chapter):
    last = cells(chapter.read_text(encoding="utf-8"))[-1][1]
    assert last.startswith("# %% [markdown]\n# ## What comes next")
    assert re.findall(r"^# (\d)\. ", last, re.MULTILINE) == ["1", "2", "3"]
    assert "chapters/exercises/" + chapter.name in last


if __name__ == "__main__":  # python -m tests.test_promises CHAPTER < what it printed
    results = [line for line in sys.stdin if line.startswith("result: ")]
    complaints = broken(promises(first_lines(Path(sys.argv[1])), "Result"), results[-1])
    sys.exit("\n".join(complaints) or None)
