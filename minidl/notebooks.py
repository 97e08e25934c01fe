"""`python -m minidl.notebooks FOLDER` writes the chapters of the course as Jupyter notebooks.

A chapter is a script; the notebook has the same cells, so neither can fall behind the other. Cells
tagged `hide-input` are folded. A notebook that you changed is left as it is; one that you only ran
is rewritten when its chapter changes. The chapters are not part of an installed package: run this
in a clone of the repository, or name their folder (`--chapters`).

Converting needs jupytext: `python -m pip install -e '.[site]'`. Running a notebook needs JupyterLab
or an editor that shows notebooks. `minidl.chapter.Chapter` says how to set a chapter's options.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from minidl.files.whole import whole_file

CHAPTERS = Path(__file__).resolve().parents[1] / "chapters"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
FOLDED = "hide-input"

# Read by `Chapter(__doc__)`: in IPython, `__doc__` is otherwise the description of a namespace.
DOCUMENTED = """\
# To set options, as on the command line, run this first: %env MINIDL_CHAPTER_OPTIONS=--quick
__doc__ = """

LINK = re.compile(r"(!?)(\[[^\[\]]*\])\((?![a-z]+:|#|/)([^()#\s]+)([^()\s]*)\)")


def convert(text: str) -> Any:
    """Return a chapter as a notebook, nbformat's `NotebookNode`.

    The docstring, which `Chapter(__doc__)` reads, is assigned in a folded cell below the title.

    Args:
        text: of a script whose cells start with `# %%` or `# %% [markdown]`.

    Raises:
        ImportError: jupytext is missing.
        SyntaxError: the first cell is not Python.
    """
    book = _needed("jupytext").reads(text, fmt="py:percent")
    cells = book.cells
    if cells and cells[0].cell_type == "code":
        first = ast.parse(cells[0].source).body[0]
        value = first.value if isinstance(first, ast.Expr) else None
        if first.lineno == 1 and isinstance(getattr(value, "value", None), str):
            cells[0].source = DOCUMENTED + cells[0].source
            cells[0].metadata.tags = [FOLDED]
            cells[:2] = reversed(cells[:2])
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number:02}"  # the same in each conversion
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        if FOLDED in tags:
            cell.metadata["jupyter"] = {"source_hidden": True}
    book.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return _needed("nbformat").from_dict(book)


def write(chapter: Path, folder: Path, force: bool = False) -> tuple[Path, str]:
    """Write a chapter as a notebook, with the pictures that its text shows.

    Args:
        chapter: the script.
        folder: of the notebooks, created if needed.
        force: overwrite a notebook that somebody changed.

    Returns:
        The notebook's path, and "written", "unchanged" or "kept": it was changed.

    Raises:
        ImportError: jupytext is missing.
        OSError: a file cannot be read or written.
        SyntaxError: the chapter is not Python; UnicodeDecodeError: it is not in UTF-8.
    """
    book, path = convert(chapter.read_text(encoding="utf-8")), folder / f"{chapter.stem}.ipynb"
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = _relinked(cell.source, chapter.parent, folder)
    book.metadata["minidl"] = {"sha256": _digest(book)}
    if path.exists() and not force:
        found = _read(path)
        if _digest(found) == _digest(book):
            return path, "unchanged"
        if _digest(found) != found.get("metadata", {}).get("minidl", {}).get("sha256"):
            return path, "kept"
    with whole_file(path) as file:
        file.write(_needed("nbformat").writes(book).encode() + b"\n")
    return path, "written"


def main(given: list[str] | None = None) -> int:
    """Write all chapters, and print a line for each; return 1 if a changed notebook was kept."""
    parser = argparse.ArgumentParser(
        prog="python -m minidl.notebooks", description="Write the chapters as Jupyter notebooks."
    )
    parser.add_argument("folder", type=Path, help="where to write them, such as out/notebooks")
    parser.add_argument(
        "--chapters", type=Path, default=CHAPTERS, help="folder of the chapters (the clone's)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite notebooks that you changed")
    options = parser.parse_args(given)
    chapters = sorted(options.chapters.glob("ch[0-9][0-9]_*.py"))
    if not chapters:
        parser.error(
            f"got no chapters in {options.chapters}, expected ch01_*.py and so on; an installed "
            "package has none: clone the repository, and name its folder by --chapters"
        )
    results = []
    try:
        for chapter in chapters:
            path, result = write(chapter, options.folder, options.force)
            advice = ": you changed it; --force overwrites it" if result == "kept" else ""
            print(f"{result} {path}{advice}")
            results.append(result)
    except (ImportError, OSError, SyntaxError, UnicodeDecodeError) as error:
        sys.exit(f"notebooks: {chapter}: {error}")
    return int("kept" in results)


def _needed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        message = f"notebooks need {name} ({error}): python -m pip install -e '.[site]'"
        raise ImportError(message) from error


def _digest(book: Any) -> str:
    """Return a hash of what a reader edits: types, texts and tags, neither outputs nor ids."""
    cells = [
        (cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", []))
        for cell in book.get("cells", [])
    ]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def _read(path: Path) -> Any:
    """Return a notebook as nested dictionaries; {} if the file is none."""
    try:
        book = json.loads(path.read_text(encoding="utf-8"))
        _digest(book)
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return book


def _relinked(text: str, chapters: Path, folder: Path) -> str:
    """Let links from the chapters' folder work from the notebooks' folder; copy pictures there."""

    def relinked(found: re.Match[str]) -> str:
        shown, title, target, rest = found.groups()
        source = chapters / target
        if re.fullmatch(r"ch\d\d_\w+\.py", target):
            target = target.replace(".py", ".ipynb")
        elif shown and source.is_file():  # a notebook shows only what lies next to it
            target = f"pictures/{source.name}"
            (folder / "pictures").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / target)
        elif source.exists():
            target = Path(os.path.relpath(source, folder)).as_posix()
        return f"{shown}{title}({target}{rest})"

    return LINK.sub(relinked, text)


if __name__ == "__main__":
    sys.exit(main())
