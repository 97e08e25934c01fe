"""How the site's pages are written: links, captions, formulas, exercises. `.ci/run` builds it."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SITE = ROOT / "chapters" / "site"
CHAPTERS = sorted((ROOT / "chapters").glob("ch*.py"))

for needed in ("sphinx", "myst_nb", "jupytext", "latex2mathml"):
    pytest.importorskip(needed, reason="needs the extra `site`: pip install -e '.[site]'")

sys.path.insert(0, str(SITE))
import cells  # noqa: E402
import links  # noqa: E402
import mathml  # noqa: E402
import pages  # noqa: E402

sys.path.remove(str(SITE))


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<p id="top">a<a href="sub/page.html#there">b</a><a href="sub/">c</a><img src="x.png">'
        '<a href="https://example.org/">d</a><a href="#top">e</a><a href="/index.html">f</a>'
        '<a class="k" href="sub/page.html#gone">g</a>'
        "<code>&lt;a href=&quot;no.html&quot;&gt;</code>"
    )
    (tmp_path / "sub" / "page.html").write_text(
        '<h1 id="there">h</h1><a href="../index.html">i</a>'
    )
    (tmp_path / "sub" / "index.html").write_text("<a href='../gone%20page.html'>j</a>")
    assert links.broken_links(tmp_path) == [
        "index.html: x.png: no such file",
        "index.html: /index.html: not relative: it breaks where the site is not at the top of its "
        "host",
        "index.html: sub/page.html#gone: no such anchor",
        "sub/index.html: ../gone%20page.html: no such file",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see chapter 5.", "see chapter [5](ch05_pooling.py)."),
        (
            "chapters 1, 4 and 5 to 7",
            "chapters [1](ch01_tensors_and_gradients.py), [4](ch04_convolution.py) and "
            "[5](ch05_pooling.py) to [7](ch07_cifar10_cnn.py)",
        ),
        ("chapter 99", "chapter 99"),
        ("chapter 5 and 6 pixels", "chapter [5](ch05_pooling.py) and 6 pixels"),
        ("# What chapter 5 says", "# What chapter 5 says"),
        ("`chapter 5` and [chapter 5](x.md)", "`chapter 5` and [chapter 5](x.md)"),
        ("```text\nchapter 5\n```", "```text\nchapter 5\n```"),
        (
            "in chapters/exercises/ch05_pooling.py;",
            "in [chapters/exercises/ch05_pooling.py](exercises/ch05_pooling.md);",
        ),
        (
            "(chapters/site/explorer.html)",
            "([chapters/site/explorer.html](../explore.md))",
        ),
    ],
)
def test_chapters_and_their_files_become_links(text, expected):
    assert cells.linked(text) == expected


def test_links_to_files_become_links_to_pages():
    text = (
        "[a](../README.md) [b](FAQ.md#what-it-is) ![c](pictures/graph.png) [d](https://x.org) "
        "[e](../minidl/__init__.py) [f](../tests/test_ops.py) [g](exercises/ch01_x.py) [h](#here)"
    )
    page = "course/glossary"
    assert pages.relinked(text, "chapters/GLOSSARY.md", page) == (
        "[a](../index.md) [b](../course/faq.md#what-it-is) ![c](../course/pictures/graph.png) "
        "[d](https://x.org) [e](../course/from_pytorch.md) f [g](../course/exercises/ch01_x.md) "
        "[h](#here)"
    )


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_keeps_its_cells_and_gets_captions(path, monkeypatch):
    text = path.read_text("utf-8")
    notebook = cells.read(text)
    markdown = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(markdown) == text.count("# %% [markdown]")
    assert markdown[0].source.startswith(f"# {int(path.stem[2:4])}. ")
    assert ":::{admonition} Expected result" in markdown[0].source
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].metadata["tags"] == ["remove-cell"]
    quick = int(path.stem[2:4]) not in cells.LIGHT
    assert ("--quick" in code[0].source) == quick == ("made with `--quick`" in markdown[0].source)
    monkeypatch.setattr(cells, "is_full", True)
    assert "--quick" not in cells.read(text).cells[0].source
    looks = [
        node.args[-1].value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") in {"keep", "play", "explore"}
        and isinstance(node.args[-1], ast.Constant)
    ]
    captions = [
        cell.metadata["mystnb"]["figure"]["caption"] for cell in code if "mystnb" in cell.metadata
    ]
    assert sorted(c.lower() for c in captions) == sorted(f"{look.lower()}." for look in looks)


def test_pages_are_run_again_when_the_package_changes():
    assert re.fullmatch(r"[0-9a-f]{12}", cells.package_hash())
    notebook = cells.read(CHAPTERS[0].read_text("utf-8"))
    assert cells.package_hash() in notebook.cells[0].source  # part of what the cache compares


def test_formulas_become_mathml():
    assert mathml.mathml(r"\lfloor (m-p)/s \rfloor", "inline").startswith("<math ")
    with pytest.raises(ValueError, match=r"formula: got 'a_b_c', expected LaTeX"):
        mathml.mathml("a_b_c", "inline")


def test_exercise_pages_have_each_task_and_its_answer():
    written = pages._exercises()
    assert len(written) == len(CHAPTERS) + 1
    for path in CHAPTERS:
        tasks = (ROOT / "chapters" / "exercises" / path.name).read_text("utf-8")
        solutions = (ROOT / "chapters" / "solutions" / path.name).read_text("utf-8")
        page = written[f"course/exercises/{path.stem}.md"]
        functions = [node for node in ast.parse(tasks).body if pages._is_task(node)]
        assert page.count("\n## `") == len(functions) >= 2
        answers = page.count("::::{admonition} Answer\n")
        assert answers == len(functions)
        assert page.count("::::{admonition} Answers\n") == 1
        for function in functions:
            first = (ast.get_docstring(function) or "").split("\n")[0]
            assert page.count(f"\n{first}") == 1
        assert "Why:" not in tasks
        assert page.count("Why:") == solutions.count("# Why:")


def test_the_start_page_is_made_of_the_readme():
    home = pages._home((ROOT / "README.md").read_text("utf-8"))
    assert home.count("python3 -m venv .venv && ") == 2
    assert "## Reading path" not in home
    for line in ("course/ch*", "course/exercises/index", "api/index", "explore"):
        assert f"\n{line}\n" in home
