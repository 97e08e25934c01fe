"""A chapter's script as the notebook that its page shows."""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from pathlib import Path

import jupytext
from docutils import nodes
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

import minidl

LIGHT = {1, 2, 4, 5, 6, 12}
"""Chapters that take seconds and are always run in full; the others, unless -t full, quickly."""

is_full = False  # set by `pages`, from the tag
is_extraction = False  # set by `languages`: texts are collected to be translated

CHAPTER_LINK = re.compile(r"\b[Cc]hapter\s\d+|\b[Cc]hapters\s\d+(?:(?:,| and| or| to)\s\d+)*")
PATH_LINK = re.compile(r"(?<![\w/`])(?<!\]\()chapters/(exercises|solutions)/(ch\d\d_\w+)\.py")
# Code, links, formulas and headings, which keep their text.
LEFT_ALONE = re.compile(
    r"(^```.*?^```|`[^`]*`|\[[^\]]*\]\([^)]*\)|\$[^$]*\$|<[^>]*>|^#[^\n]*$)", re.S | re.M
)
EXPLORER_LINK = re.compile(r"(?<![\w/`])(?<!\]\()chapters/site/explorer\.html")


@functools.cache
def package_hash() -> str:
    """Return a fingerprint of minidl's code: pages are run again when it changes."""
    digest = hashlib.sha256()
    folder = Path(minidl.__file__).parent
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def read(text: str) -> NotebookNode:
    """Return a chapter's notebook: links, captions, and the promise of its docstring added.

    Args:
        text: of the script.
    """
    notebook = jupytext.reads(text, fmt="py:percent")
    doc = ast.get_docstring(ast.parse(text)) or ""
    number = int(re.match(r"Chapter (\d+)", doc)[1])  # type: ignore[index]
    assert notebook.cells[0].source.startswith('"""')
    quick = not (is_full or number in LIGHT)
    options = {"MINIDL_CHAPTER_OPTIONS": "--quick" if quick else ""}
    setup = f"import os\n\nos.environ.update({options})  # minidl {package_hash()}"
    notebook.cells[0] = new_code_cell(setup, metadata={"tags": ["remove-cell"]})
    title = notebook.cells[1]
    title.source += "\n\n" + _promise(doc, quick)
    for cell in notebook.cells[1:]:
        if cell.cell_type == "markdown":
            cell.source = linked(cell.source)
        else:
            _caption(cell)
    if is_extraction:
        notebook.cells += _captions_as_text(notebook.cells)
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "language": "python",
        "display_name": "Python 3",
    }
    return notebook


def _promise(doc: str, quick: bool) -> str:
    """Return a note with what the chapter's first lines promise, and how the page was made."""
    result, _, rest = doc.partition("Result: ")[2].partition("\nWith --quick: ")
    words = " ".join(result.split())
    note = words[:1].upper() + words[1:]
    if quick:
        short = " ".join(rest.split())
        note += (
            f"\n\n**This page was made with `--quick`**, in seconds: its numbers and figures need "
            f"not show yet what the text says. With `--quick`: {short}"
        )
    return f":::{{admonition}} Expected result\n:class: note\n\n{note}\n:::"


def linked(text: str, page: str = "course/ch") -> str:
    """Turn the names of chapters and of their files into links.

    Args:
        text: Markdown.
        page: where it stands, as a path from the folder of this file.
    """
    stems = {int(path.stem[2:4]): path.stem for path in _chapters()}
    up, course = (
        "../" * page.count("/"),
        "../" * (page.count("/") - 1) if "/" in page else "course/",
    )

    def chapter(match: re.Match[str]) -> str:
        stem = stems.get(int(match[0]))
        return f"[{match[0]}]({course}{stem}.py)" if stem else match[0]

    def chapters(match: re.Match[str]) -> str:
        return re.sub(r"\d+", chapter, match[0])

    text = PATH_LINK.sub(rf"[chapters/\1/\2.py]({course}exercises/\2.md)", text)
    text = EXPLORER_LINK.sub(rf"[chapters/site/explorer.html]({up}explore.md)", text)
    parts = LEFT_ALONE.split(text)
    parts[::2] = [CHAPTER_LINK.sub(chapters, part) for part in parts[::2]]
    return "".join(parts)


@functools.cache
def _chapters() -> list[Path]:
    return sorted(Path(__file__).parent.parent.glob("ch*.py"))


def _caption(cell: NotebookNode) -> None:
    """Give the figure of a cell the caption and the words for screen readers it prints."""
    for node in ast.walk(ast.parse(cell.source.replace("\n%", "\n#"))):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="keep" | "play" | "explore"),
                args=[*_, ast.Constant(value=look)],
            ):
                caption = str(look)[:1].upper() + str(look)[1:] + "."
                cell.metadata["mystnb"] = {
                    "image": {"alt": caption},
                    "figure": {"caption": caption},
                }


def _captions_as_text(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Return the captions as cells of text: no figure exists where no code is run."""
    options = [cell.metadata["mystnb"] for cell in cells if "mystnb" in cell.metadata]
    return [new_markdown_cell(option["figure"]["caption"]) for option in options]


LOOK = re.compile(r"^  Look: .*\n?(?:    .*\n?)*", re.M)
"""What a chapter prints below a figure; pages have it as the figure's caption."""


def without_looks(doctree: nodes.document) -> None:
    """Remove from a page's outputs what its figures say in their captions."""
    for block in list(doctree.findall(nodes.literal_block)):
        output = block.parent
        if "stream" in output.get("classes", ()) or "stream" in block.get("classes", ()):
            text = LOOK.sub("", block.astext())
            if not text.strip():
                block.parent.remove(block)
            elif text != block.astext():
                block[:] = [nodes.Text(text)]
                block.rawsource = text
