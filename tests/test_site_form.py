"""The form of the chapters that pages and notebooks rely on: formulas, figures, headings, lists."""

import ast
import re
from html import unescape

import pytest

from .test_course import prose, text_of
from .test_promises import by_name, cells

FENCED = re.compile(r"^```.*?^```|`[^`]+`", re.DOTALL | re.MULTILINE)
FORMULA = re.compile(r"\$\$(?P<display>[^$]+)\$\$|\$(?P<inline>[^$]+)\$")


def markdown(chapter):
    """Return the text of each Markdown cell, without the comment signs."""
    found = [cell for _, cell in cells(text_of(chapter)) if cell.startswith("# %% [markdown]")]
    return ["\n".join(line[2:] for line in cell.splitlines()[1:]) for cell in found]


def code(chapter):
    """Return (line, tags, syntax tree) of each code cell."""
    return [
        (line, cell.splitlines()[0], ast.parse(cell))
        for line, cell in cells(text_of(chapter))
        if not cell.startswith("# %% [markdown]")
    ]


def calls(tree, *names):
    """Return the calls of methods with these names."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in names
    ]


def formula_faults(text):
    """Return what is wrong with the formulas of a Markdown text: the site shows them as MathML."""
    convert = pytest.importorskip("latex2mathml.converter").convert
    text, wrong = FENCED.sub("", text), []
    for found in FORMULA.finditer(text):
        formula = found["display"] or found["inline"]
        if formula != formula.strip():  # some readers take `$ x$` for two dollar signs
            wrong.append(f"${formula}$: a space inside a dollar sign")
        if not found["display"] and "\n" in formula:
            wrong.append(f"${formula}$: a line break inside")
        if formula.count("{") != formula.count("}"):
            wrong.append(f"${formula}$: braces do not match")
        try:
            shown = convert(formula, display="block" if found["display"] else "inline")
        except Exception as error:  # the converter has many kinds
            wrong.append(f"${formula}$: {error!r}")
            continue
        shown = unescape(re.sub("<[^>]*>", "", shown))
        if re.search(r"[\\&]", shown):  # an unknown command is passed on as it is
            wrong.append(f"${formula}$: becomes {shown!r}")
    if "$" in FORMULA.sub("", text):
        wrong.append("a single dollar sign")
    return wrong


@by_name
def test_formulas_become_mathml(chapter):
    for cell in markdown(chapter):
        assert formula_faults(cell) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("$x^1^2$", "DoubleSuperscripts"),
        (r"$\left( x$", "MissingRight"),
        ("$x}$", "braces"),
        (r"$\unknown{x}$", "becomes"),
        (r"$\begin{aligned}a&=b\end{aligned}$", "becomes"),
        ("$ x$", "space inside"),
        ("$x\ny$", "line break"),
        ("it costs 3 $", "single dollar"),
        ("`$HOME` and $x^2$", ""),
        ("$$\\lfloor (m - p) / s \\rfloor + 1$$ and $|x| = \\max(0, x) + \\max(0, -x)$", ""),
    ],
)
def test_faults_of_formulas_are_found(text, fault):
    found = formula_faults(text)
    assert len(found) == (1 if fault else 0)
    assert re.search(fault, "".join(found))


@by_name
def test_no_formula_is_left_as_an_indented_block(chapter):
    assert [line for line in prose(chapter).splitlines() if line.startswith("    ")] == []


@by_name
def test_a_cell_has_at_most_one_figure(chapter):
    found = {line: len(calls(tree, "keep", "play")) for line, _, tree in code(chapter)}
    assert sum(found.values()) > 0
    assert [line for line, count in found.items() if count > 1] == []


@by_name
def test_drawing_is_folded(chapter):
    """Code that sets up axes is in cells that a page folds."""
    open_cells = [
        line
        for line, tags, tree in code(chapter)
        if "hide-input" not in tags and calls(tree, "subplots")
    ]
    assert open_cells == []


@by_name
def test_figures_fit_a_page(chapter):
    for call in calls(ast.parse(text_of(chapter)), "subplots"):
        (size,) = [word.value for word in call.keywords if word.arg == "figsize"]
        assert ast.literal_eval(size)[0] <= 9, f"line {call.lineno}: wider than 9 inches"


@by_name
def test_a_chapter_prints_no_absolute_path(chapter):
    """A page would show everybody the folders of whoever built it."""
    assert calls(ast.parse(text_of(chapter)), "resolve", "absolute", "cwd") == []


@by_name
def test_headings_are_in_order(chapter):
    text = FENCED.sub("", prose(chapter))
    headings = re.findall(r"^(#+) (.+)$", text, re.MULTILINE)
    assert [len(signs) for signs, _ in headings] == [1] + [2] * (len(headings) - 1)
    numbers = [re.match(r"(\d+)\. ", title) for _, title in headings[1:]]
    count = sum(number is not None for number in numbers)
    assert [int(number[1]) for number in numbers[:count]] == list(range(1, count + 1))
    assert headings[-1][1] == "What comes next"


@by_name
def test_lists_begin_after_a_blank_line_or_a_heading(chapter):
    item = re.compile(r"(?:[*-]|\d+\.) ")
    for cell in markdown(chapter):
        before = ""
        for line in cell.splitlines():
            in_list = bool(item.match(before)) or before.startswith("  ")
            if item.match(line) and not in_list:
                assert not before or before.startswith("#"), line
            before = line


@by_name
def test_a_notebook_has_all_cells(chapter):
    jupytext = pytest.importorskip("jupytext")
    notebook = jupytext.read(chapter)
    kinds = [cell["cell_type"] for cell in notebook.cells]
    written = cells(text_of(chapter))
    assert len(kinds) == len(written)
    texts = [cell["source"] for cell in notebook.cells if cell["cell_type"] == "markdown"]
    assert texts == [text.strip("\n") for text in markdown(chapter)]
    folded = ["hide-input" in cell["metadata"].get("tags", []) for cell in notebook.cells]
    assert folded == ["hide-input" in cell.splitlines()[0] for _, cell in written]
