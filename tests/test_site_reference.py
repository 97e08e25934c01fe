"""The reference of the site: docstrings as pages, with every public name, its formula and source.

The pages are built once, which takes a minute; the translation of docstrings is tested alone.
"""

from __future__ import annotations

import html
import importlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.test_public_names import NAMES

ROOT = Path(__file__).parent.parent
SITE = ROOT / "chapters" / "site"

CONF = f"""
import sys
sys.path.insert(0, {str(SITE)!r})
project = "minidl"
extensions = ["myst_nb", "reference"]
nb_execution_mode = "off"
html_theme = "furo"
html_static_path = [{str(SITE / "static")!r}]
"""

VOID = {"area", "br", "hr", "img", "input", "link", "meta", "path", "source", "wbr"}


@pytest.fixture
def site(monkeypatch):
    """Import a module of the site's folder."""
    monkeypatch.syspath_prepend(str(SITE))
    return importlib.import_module


# Docstrings -------------------------------------------------------------------------------------


def translated(site: Any, text: str, **objects: str) -> str:
    translator = site("docstrings").Translator(link=objects.get)
    lines = [line.rstrip() for line in translator.lines(text.strip("\n").split("\n"))]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


@pytest.mark.parametrize(
    ("markdown", "wanted"),
    [
        ("`a * b`, not a * b", r"``a * b``, not a \* b"),
        ("`relu` and `x`s", r":py:obj:`relu <F.relu>` and ``x``\ s"),
        ("**each** kind_ and *all* a*b*c", r"**each** kind\_ and *all* a\*b\*c"),
        ("a name\nthat is `split\nby` lines", "a name\nthat is ``split by`` lines"),
        ("It is:\n\n    y = x\n\nThen.", "It is:\n\n.. code-block:: python\n\n   y = x\n\nThen."),
        ("* one\n  more\n* two", "* one\n  more\n\n* two"),
        (">>> 1 + 1\n2\n\nText.", ".. code-block:: pycon\n\n   >>> 1 + 1\n   2\n\nText."),
        ("Args:\n    x: a.\n        b.\n    *k: c.", ":param x: a.\n    b.\n\n:param \\*k: c."),
        ("M. Lin wrote\nA. B", "\\M. Lin wrote\nA. B"),
        ("Returns:\n    `(n,)`: y.", ":returns: ``(n,)``: y."),
        ("Raises:\n    ValueError: bad.", ":raises ValueError: bad."),
        ("Source: A. B, C (2000),\nsection 2.", ":Source: \\A. B, C (2000),\n    section 2."),
        (
            "Attributes:\n    w: weight.\n\nExample:\n    >>> 1\n    1",
            ".. rubric:: Example\n\n.. code-block:: pycon\n\n   >>> 1\n   1\n\n"
            ".. py:attribute:: w\n\n   weight.",
        ),
    ],
)  # fmt: skip
def test_a_docstring_becomes_restructuredtext(site, markdown, wanted):
    assert translated(site, markdown, relu="F.relu") == wanted


def test_a_table_keeps_its_cells(site):
    text = translated(
        site, "| a | b |\n| --- | --- |\n| `x \\| y` | 2 |\n| max_pool | |", max_pool="F.m"
    )
    rows = text.split("* - ")[1:]
    cells = [[cell.strip() for cell in row.split("\n     -")] for row in rows]
    assert cells == [["a", "b"], ["``x | y``", "2"], [":py:obj:`max\\_pool <F.m>`", ""]]
    assert ":header-rows: 1" in text


def test_two_columns_with_code_are_a_table_and_without_stay_as_they_are(site):
    assert "list-table" in translated(
        site, "Symbols:\n    a   the `x`\n    bc  the other\n        one"
    )
    assert "\\M. Lin" in translated(site, "Sources:\n    1   M. Lin\n    10  PyTorch")
    assert "code-block" in translated(site, "Formulas:\n\n    a   x + y\n    bc  x - y")


# Names ------------------------------------------------------------------------------------------


def test_every_package_that_exports_names_has_a_page(site):
    names = site("public_names")
    assert names.faces_of_package() <= set(names.FACES)
    paths = {name.path for name in names.public_names()}
    assert {f"{face}.{name}" for face, text in NAMES.items() for name in text.split()} <= paths


def test_code_is_a_link_where_it_names_one_public_object(site):
    names = site("public_names")
    links = names.Links(names.public_names())

    def target(text: str, face: str = "minidl.nn", scope: str = "", *ignored: str) -> str | None:
        return links.target(text, face, scope, frozenset(ignored))

    assert target("max_pool2d") == "minidl.functional.max_pool2d"
    assert target("F.relu") == target("functional.relu") == "minidl.functional.relu"
    assert (
        target("nn.Conv2d", "minidl.optim")
        == target("Conv2d", "minidl.optim")
        == "minidl.nn.Conv2d"
    )
    assert target("nn.Conv2d(3, 8, 3)") == target("Conv2d(3, 8, 3)") == "minidl.nn.Conv2d"
    assert target("relu(x)", "minidl.functional") is None  # a part of a formula
    assert target("world()", "minidl.data") == "minidl.distributed.world"
    assert target("world", "minidl.data", "", "world") is None  # a parameter
    assert target("backward", "minidl", "minidl.Tensor") == "minidl.Tensor.backward"
    assert target("World.all_reduce") == "minidl.distributed.World.all_reduce"
    assert target("files.load_weights") == "minidl.training.load_weights"  # where it is described
    assert target("grad_cam", "minidl.inspect") == "minidl.inspect.grad_cam"
    assert target("grad_cam", "minidl.inspect.plots") == "minidl.inspect.plots.grad_cam"
    assert target("x + y") is target("images") is target("nothing") is None


# Pages ------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """A page's anchors, the text outside code, and of each entry the text and the links.

    Attributes:
        anchors: the ids, in order.
        prose: the text that is not code.
        entries: an entry's id: its text, and the addresses of its links.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: list[str] = []
        self.prose = ""
        self.entries: dict[str, tuple[list[str], list[str]]] = {}
        self._open: list[tuple[str, str]] = []  # tags, each with the entry it begins or ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        name = found.get("id") or ""
        if name:
            self.anchors.append(name)
        if tag in VOID:
            return
        entry = name if tag == "dt" and "sig" in (found.get("class") or "").split() else ""
        if entry:
            self.entries[entry] = ([], [])
            self._open[-1] = ("dl", entry)
        self._open.append((tag, ""))
        for _, entry in self._open:
            if entry and tag == "a":
                self.entries[entry][1].append(found.get("href") or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        tags = {tag for tag, _ in self._open}
        if not tags & {"code", "pre", "script", "style", "title", "dt"}:
            self.prose += data
        for _, entry in self._open:
            if entry:
                self.entries[entry][0].append(data)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the reference and return its folder of sources, of pages, and what Sphinx printed."""
    for name in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(name)
    source = tmp_path_factory.mktemp("source")
    (source / "conf.py").write_text(CONF)
    (source / "index.md").write_text("# minidl\n\n```{toctree}\napi/index\n```\n")
    return source, source.parent / "pages", build(source)


def build(source: Path) -> str:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", str(source)]
    done = subprocess.run(
        [*command, str(source.parent / "pages")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def pages(built):
    return {
        path: Page(path.read_text("utf-8")) for path in sorted((built[1] / "api").glob("*.html"))
    }


@pytest.mark.slow
def test_every_public_name_has_one_entry_with_its_first_line_and_source(site, pages):
    entries = [(name, path) for path, page in pages.items() for name in page.entries]
    found = dict(entries)
    assert len(found) == len(entries)  # each once
    sources: dict[Path, Page] = {}
    for name in site("public_names").public_names():
        if name.kind == "module":
            assert any(f"module-{name.same_as}" in page.anchors for page in pages.values())
            continue
        path = found[name.path]
        texts, links = pages[path].entries[name.path]
        text, first = " ".join("".join(texts).split()), name.docstring.split("\n\n")[0]
        assert bare(first) in bare(text), name.path
        source, _, anchor = next(link for link in links if "_modules" in link).partition("#")
        there = (path.parent / source).resolve()
        if there not in sources:
            sources[there] = Page(there.read_text("utf-8"))
        assert anchor in sources[there].anchors, (name.path, source, anchor)


def bare(text: str) -> str:
    """Return text without the marks of code, with plain quotes and single spaces."""
    text = text.translate(str.maketrans("\u2018\u2019\u201c\u201d", "''\"\""))
    return " ".join(re.sub(r"[`*\\]|¶|#", "", text).split())


@pytest.mark.slow
def test_the_members_of_tensor_are_described(site, pages):
    page = next(page for path, page in pages.items() if path.stem == "tensor_class")
    kind = importlib.import_module("minidl").Tensor
    wanted = {name for name in dir(kind) if not name.startswith("_")} - {"wrap"}
    wanted |= {"wrap", "__add__", "__matmul__", "__getitem__", "__eq__", "__len__", "__dlpack__"}
    assert {f"minidl.Tensor.{name}" for name in wanted} <= set(page.anchors)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "formula"),
    [
        ("minidl.functional.pooling.basic", "g * (w / out) ** (p - 1)"),
        ("minidl.functional.pooling.basic", "s = softmax(b * w)"),
        (
            "minidl.functional.convolution",
            "out[d, y, x] = b[d] + sum over c, i, j of w[d, c, i, j]",
        ),
        ("minidl.functional.loss", "-sum over c of t[c] * log_softmax(logits)[c]"),
        ("minidl.functional.recurrent", "c = f * c + i * g"),
        ("minidl.optim", "p -= lr * g / (sqrt(v) + eps)"),
    ],
)
def test_formulas_are_on_the_pages_as_code(pages, page, formula):
    text = next(path for path in pages if path.name == f"{page}.html").read_text("utf-8")
    code = re.findall(r"<(?:code|pre)\b.*?</(?:code|pre)>", text, re.DOTALL)
    assert any(formula in html.unescape(re.sub(r"<[^>]*>", "", part)) for part in code)


@pytest.mark.slow
def test_no_markdown_is_left_in_the_text(pages):
    for path, page in pages.items():
        for mark in ("`", r"\|\s*---", r"\*\*", "::", r"\B\*\w+\*"):
            assert not re.search(mark, page.prose), (path.name, mark)


@pytest.mark.slow
def test_every_module_has_a_page_of_source(site, built):
    for module in site("public_names").all_modules():
        assert (built[1] / "_modules" / f"{module.replace('.', '/')}.html").is_file(), module


@pytest.mark.slow
def test_links_back_from_the_source_lead_to_entries(built, pages):
    anchors = {path.resolve(): set(page.anchors) for path, page in pages.items()}
    links = 0
    for path in (built[1] / "_modules").rglob("*.html"):
        for link in re.findall(r'class="viewcode-back" href="([^"]*)"', path.read_text("utf-8")):
            page, _, anchor = link.partition("#")
            assert anchor in anchors[(path.parent / page).resolve()], (path.name, link)
            links += 1
    assert links > 300


@pytest.mark.slow
def test_a_build_without_changes_reads_and_writes_nothing(built, tmp_path):
    source, out, first = built
    assert " added, " in first
    before = {path: path.stat().st_mtime_ns for path in (source / "api").iterdir()}
    written = {path: path.stat().st_mtime_ns for path in (out / "api").iterdir()}
    assert "0 added, 0 changed, 0 removed" in build(source)
    assert before == {path: path.stat().st_mtime_ns for path in (source / "api").iterdir()}
    assert written == {path: path.stat().st_mtime_ns for path in (out / "api").iterdir()}
