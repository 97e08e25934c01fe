"""The chapters as notebooks: how they are written, and that they run."""

import ast
import importlib.util
import json
import re
import sys

import pytest

from minidl import notebooks

from .test_promises import CHAPTERS, broken, cells, first_lines, promises

nbformat = pytest.importorskip("nbformat", reason="needs pip install -e '.[site]'")
pytest.importorskip("jupytext", reason="needs pip install -e '.[site]'")

SMALL = '''"""Chapter 3. Small.

Result: none."""

# %% [markdown]
# # 3. Small
# See [chapter 5](ch05_pooling.py#shift), [words](GLOSSARY.md) and [more](https://example.org/a.py).
#
# ![A graph](drawings/graph.png)

# %% tags=["hide-input"]
from minidl.chapter import Chapter

chapter = Chapter(__doc__)


# %%
def twice(x):
    return 2 * x
'''


def written(folder):
    return {path.name: nbformat.read(path, 4) for path in sorted(folder.glob("*.ipynb"))}


@pytest.fixture
def small(tmp_path):
    """A folder with one small chapter, and what its text names."""
    folder = tmp_path / "course" / "chapters"
    (folder / "drawings").mkdir(parents=True)
    (folder / "drawings" / "graph.png").write_bytes(b"\x89PNG")
    (folder / "GLOSSARY.md").write_text("words")
    (folder / "ch03_small.py").write_text(SMALL)
    return folder


@pytest.fixture
def convert(small, tmp_path, capsys):
    """Write the small chapter as a notebook; return the status and what was printed."""

    def run(*given):
        status = notebooks.main([str(tmp_path / "books"), "--chapters", str(small), *given])
        return status, capsys.readouterr().out

    return run


# Writing ---------------------------------------------------------------------------------------


def test_every_chapter_becomes_a_valid_notebook_with_the_same_cells(tmp_path, capsys):
    assert notebooks.main([str(tmp_path)]) == 0
    books = written(tmp_path)
    assert [*books] == [f"{chapter.stem}.ipynb" for chapter in CHAPTERS]
    assert len(capsys.readouterr().out.splitlines()) == len(CHAPTERS)
    for chapter, book in zip(CHAPTERS, books.values(), strict=True):
        nbformat.validate(book)
        title, doc, *rest = book.cells
        assert title.source.startswith(f"# {int(chapter.stem[2:4])}. ")
        names = {}
        exec(doc.source, names)
        assert names["__doc__"] == ast.get_docstring(ast.parse(chapter.read_text()), clean=False)
        own = [cell.partition("\n")[2] for _, cell in cells(chapter.read_text())[1:]]
        code = [text for text in own if any(line[:1] not in ("#", "") for line in text.split("\n"))]
        assert [c.source for c in rest if c.cell_type == "code"] == [text.strip() for text in code]
        assert len(book.cells) == len(own) + 1
        assert book.metadata.kernelspec.name == "python3"


def test_what_is_folded_on_a_page_is_folded_in_jupyter(convert, tmp_path):
    convert()
    _, doc, start, plain = written(tmp_path / "books")["ch03_small.ipynb"].cells
    for cell in (doc, start):
        assert cell.metadata == {"tags": ["hide-input"], "jupyter": {"source_hidden": True}}
    assert plain.metadata == {}


def test_links_lead_to_notebooks_and_files_and_pictures_are_copied(convert, tmp_path):
    convert()
    text = written(tmp_path / "books")["ch03_small.ipynb"].cells[0].source
    assert re.findall(r"\]\((.*?)\)", text) == [
        "ch05_pooling.ipynb#shift",
        "../course/chapters/GLOSSARY.md",
        "https://example.org/a.py",
        "pictures/graph.png",
    ]
    assert (tmp_path / "books" / "pictures" / "graph.png").read_bytes() == b"\x89PNG"


def test_a_notebook_that_somebody_changed_is_kept(convert, small, tmp_path):
    path = tmp_path / "books" / "ch03_small.ipynb"
    assert convert() == (0, f"written {path}\n")
    first = path.read_bytes()
    assert convert() == (0, f"unchanged {path}\n")

    book = nbformat.read(path, 4)  # run, and saved by an editor
    book.cells[2].outputs = [nbformat.v4.new_output("stream", text="hello")]
    book.metadata.language_info.version = "3.11"
    nbformat.write(book, path)
    assert convert() == (0, f"unchanged {path}\n")
    assert "hello" in path.read_text()
    (small / "ch03_small.py").write_text(SMALL + "\n\ntwice(3)\n")
    assert convert() == (0, f"written {path}\n")
    assert "hello" not in path.read_text()

    book = nbformat.read(path, 4)
    book.cells[3].source += "\n# my note"
    nbformat.write(book, path)
    (small / "ch03_small.py").write_text(SMALL)
    status, printed = convert()
    assert (status, printed) == (1, f"kept {path}: you changed it; --force overwrites it\n")
    assert "my note" in path.read_text()
    assert convert("--force")[0] == 0
    assert path.read_bytes() == first


@pytest.mark.parametrize("text", ["", "no notebook", "[1]", '{"cells": [{}]}', '{"cells": 3}'])
def test_a_file_that_is_no_notebook_is_kept(text, convert, tmp_path):
    path = tmp_path / "books" / "ch03_small.ipynb"
    path.parent.mkdir()
    path.write_text(text)
    assert convert()[0] == 1
    assert path.read_text() == text


@pytest.mark.parametrize("text", [b"def (:\n", b"\xff\xfe"], ids=["no Python", "no UTF-8"])
def test_a_chapter_that_cannot_be_read_is_named(text, tmp_path):
    (tmp_path / "ch01_x.py").write_bytes(text)
    with pytest.raises(
        SystemExit, match=r"notebooks: .*ch01_x\.py: .*(invalid syntax|can't decode)"
    ):
        notebooks.main([str(tmp_path / "out"), "--chapters", str(tmp_path)])
    assert not (tmp_path / "out").exists()


def test_without_chapters_or_jupytext_a_message_says_what_to_do(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        notebooks.main([str(tmp_path / "books"), "--chapters", str(tmp_path)])
    message = f"got no chapters in {tmp_path}, expected ch01_*.py"
    assert message in " ".join(capsys.readouterr().err.split())
    monkeypatch.setitem(sys.modules, "jupytext", None)
    with pytest.raises(SystemExit, match=r"need jupytext .*pip install -e '\.\[site\]'"):
        notebooks.main([str(tmp_path / "books")])
    assert not (tmp_path / "books").exists()


# Running ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return str(tmp_path_factory.mktemp("datasets"))


@pytest.mark.parametrize(
    "chapter",
    [
        pytest.param(path, marks=[pytest.mark.slow] * (path.stem[:4] != "ch06"), id=path.stem)
        for path in CHAPTERS
        if path.stem[:4] in ("ch01", "ch04", "ch05", "ch06", "ch15")
    ],
)
def test_a_notebook_runs_and_shows_its_figures(chapter, datasets, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    if importlib.util.find_spec("ipykernel") is None:
        pytest.skip("needs ipykernel")
    monkeypatch.setenv("MINIDL_CHAPTER_OPTIONS", "--quick")
    monkeypatch.setenv("MINIDL_DATASETS", datasets)
    monkeypatch.delenv("MPLBACKEND", raising=False)
    path, _ = notebooks.write(chapter, tmp_path)
    book = nbformat.read(path, 4)
    nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [out for cell in book.cells for out in cell.get("outputs", [])]
    kinds = {out.get("name", out.output_type) for out in outputs}
    assert kinds == {"stdout", "display_data"}  # no warnings, no values
    printed = "".join(out.text for out in outputs if out.output_type == "stream")
    assert not re.search(r"\r|\x1b|(^|\s)(/\w+|[A-Z]:\\)", printed), "an absolute path, or colours"
    (result,) = re.findall(r"^result: .+", printed, re.MULTILINE)
    assert not broken(promises(first_lines(chapter), "With --quick"), result)

    shown = [out.data for out in outputs if "data" in out]
    assert shown
    assert len(shown) == printed.count("  Look: ")  # each figure once, by its words
    files = [*(tmp_path / "out" / chapter.stem[:4]).glob("*")]
    assert len([path for path in files if path.suffix in (".png", ".gif", ".html")]) == len(shown)
    for data in shown:
        page = data.get("text/html", "")  # a player, or a graph
        assert ("image/png" in data) != bool(page)
        assert len(page) < 300_000
        assert not re.search(r"://(?!www\.w3\.org/2000/svg)", page)  # it needs no network
    assert len(json.dumps(book)) < 1_000_000
