"""The pages' sources: written from the README, the chapters, the exercises and other documents.

Nothing is kept twice: what is written here lies in `course/` and is ignored by git.
"""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import cells
from sphinx.application import Sphinx
from sphinx.config import Config

from minidl import notebooks

SITE = Path(__file__).parent
ROOT = SITE.parent.parent
COURSE = SITE / "course"

DOCUMENTS = {  # a file of the repository: its page
    "README.md": "index",
    "chapters/FAQ.md": "course/faq",
    "chapters/GLOSSARY.md": "course/glossary",
    "minidl/functional/README.md": "course/adding_an_operation",
    "tests/benchmarks/RESULTS.md": "course/results",
    "tests/benchmarks/NOTES.md": "course/kernels",
    "tests/README.md": "course/tests",
    "datasets/README.md": "course/datasets",
}

LINK = re.compile(
    r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#|mailto:)([^()\s#]*)(#[^()\s]*)?\)"
)


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the sources before Sphinx looks for them."""
    app.connect("config-inited", _write_all)
    app.connect("doctree-read", lambda app, doctree: cells.without_looks(doctree))
    app.connect("html-page-context", _name_downloads)
    app.connect("build-finished", _write_downloads)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _name_downloads(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Give a chapter's page the links to its script and notebook."""
    if re.fullmatch(r"course/ch\d\d_\w+", page):
        name, top = Path(page).name, "../" if app.config.language == "en" else "../../"
        context["downloads"] = [
            (".py", f"{top}downloads/{name}.py"),
            (".ipynb", f"{top}downloads/{name}.ipynb"),
        ]


def _write_downloads(app: Sphinx, error: Exception | None) -> None:
    """Write the scripts and notebooks: pages in all languages share them."""
    if error is None and app.builder.name == "html" and app.config.language == "en":
        folder = Path(app.outdir) / "downloads"
        for path in sorted((ROOT / "chapters").glob("ch*.py")):
            notebooks.write(path, folder, force=True)
            shutil.copyfile(path, folder / path.name)


def _write_all(app: Sphinx, config: Config) -> None:
    cells.is_full = "full" in app.tags
    written = _chapters() | _documents() | _exercises()
    written["course/from_pytorch.md"] = _from_pytorch()
    for name, text in written.items():
        _write(SITE / name, text)
    _copy(ROOT / "chapters" / "pictures", COURSE / "pictures")
    kept = {SITE / name for name in written} | set((COURSE / "pictures").iterdir())
    for path in COURSE.rglob("*"):  # pages of files that are gone
        if path.is_file() and path not in kept:
            path.unlink()


def _write(path: Path, text: str) -> None:
    """Write a file unless it has this text: Sphinx reads again what was changed."""
    if not path.is_file() or path.read_text("utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8", newline="\n")


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        copy = target / path.name
        if not copy.is_file() or copy.read_bytes() != path.read_bytes():
            shutil.copyfile(path, copy)


def _chapters() -> dict[str, str]:
    paths = sorted((ROOT / "chapters").glob("ch*.py"))
    return {f"course/{path.name}": path.read_text("utf-8") for path in paths}


# Documents --------------------------------------------------------------------------------------


def _documents() -> dict[str, str]:
    found = {}
    for name, page in DOCUMENTS.items():
        text = (ROOT / name).read_text("utf-8")
        text = _home(text) if page == "index" else text
        found[f"{page}.md"] = cells.linked(relinked(text, name, page), page)
    return found


def relinked(text: str, origin: str, page: str) -> str:
    """Return Markdown whose links lead to pages instead of files.

    Args:
        text: the Markdown.
        origin: the file it comes from, as a path from the repository's root.
        page: the page it becomes, as a path from this folder, without suffix.
    """

    def link(match: re.Match[str]) -> str:
        picture, words, path, anchor = match.groups(default="")
        words = relinked(words, origin, page) if "](" in words else words
        target = _target(Path(origin).parent / path)
        if anchor == "#measured":  # a part of the README that has a page of its own
            target, anchor = f"{DOCUMENTS['tests/benchmarks/RESULTS.md']}.md", ""
        if target is None:
            return words
        up = "../" * page.count("/")
        if target.endswith(".html"):
            return f'<a class="reference" href="{up}{target}{anchor}">{words}</a>'
        return f"{picture}[{words}]({up}{target}{anchor})"

    return LINK.sub(link, text)


def _target(path: Path) -> str | None:
    """Return the page or file that shows a file of the repository; None if there is none."""
    parts: list[str] = []
    for part in path.parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    name = "/".join(parts)
    if name in DOCUMENTS:
        return f"{DOCUMENTS[name]}.md"
    if name == "minidl/__init__.py":
        return "course/from_pytorch.md"
    if name == "chapters/site/explorer.html":
        return "explore.md"
    found = re.fullmatch(r"chapters/(?:exercises|solutions)/(ch\d\d_\w+)\.py", name)
    if found:
        return f"course/exercises/{found[1]}.md"
    if re.fullmatch(r"chapters/(ch\d\d_\w+\.py|pictures/.*)", name):
        return name.replace("chapters/", "course/", 1)
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if (SITE / "api" / f"{module}.rst").is_file():  # written by `reference`
        return f"api/{module}.html"
    return None


HOME = """\
# minidl

{about}

```{{toctree}}
:caption: Start
:hidden:

course/from_pytorch
explore
```

```{{toctree}}
:caption: Chapters
:hidden:
:maxdepth: 1
:glob:

course/ch*
```

```{{toctree}}
:caption: Practice
:hidden:
:maxdepth: 1

course/exercises/index
course/faq
course/glossary
```

```{{toctree}}
:caption: Reference
:hidden:
:maxdepth: 1

api/index
course/adding_an_operation
course/datasets
```

```{{toctree}}
:caption: Measured
:hidden:
:maxdepth: 1

course/results
course/kernels
course/tests
```
"""


def _home(readme: str) -> str:
    """Return the start page: the README without what has pages of its own."""
    parts = re.split(r"^## ", readme, flags=re.M)
    kept = ("Two commands", "What you will see", "The course", "Your own code")
    first = parts[0].removeprefix("# minidl\n").strip()
    rest = [part for part in parts[1:] if part.startswith(kept)]
    about = "\n\n".join([first, *("## " + part.strip() for part in rest)])
    return HOME.format(about=about.replace("](#measured)", "](README.md#measured)"))


def _from_pytorch() -> str:
    doc = inspect.cleandoc(ast.get_docstring(ast.parse(_read("minidl/__init__.py"))) or "")
    about = doc.partition("Coming from PyTorch: ")[2]
    return f"# Coming from PyTorch\n\n{about[:1].upper()}{about[1:]}\n"


def _read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


# Exercises --------------------------------------------------------------------------------------


def _exercises() -> dict[str, str]:
    paths = sorted((ROOT / "chapters" / "exercises").glob("ch*.py"))
    pages = {f"course/exercises/{path.stem}.md": _exercise_page(path) for path in paths}
    listed = "\n".join(path.stem for path in paths)
    pages["course/exercises/index.md"] = EXERCISES.format(listed=listed)
    return pages


EXERCISES = """\
# Exercises

Each chapter has three exercises and two questions. The files `chapters/exercises/chNN_*.py` have
the functions to fill in. A test tells you which answers are right and, for usual mistakes, what
went wrong. For chapter 4, after the second command of the [start page](../../index.md):

```sh
.venv/bin/python -m pytest chapters/exercises -k ch04
```

The pages below have the tasks. The answers, with the reasons, are folded.

```{{toctree}}
:maxdepth: 1

{listed}
```
"""


def _exercise_page(path: Path) -> str:
    """Return the page of a chapter's exercises: each task, then its answer, folded."""
    source, solutions = path.read_text("utf-8"), _read(f"chapters/solutions/{path.name}")
    doc = ast.get_docstring(ast.parse(source)) or ""
    title, _, about = doc.partition("\n\n")
    number = int(path.stem[2:4])
    about = about.partition("tells you which")[0].replace("; then\n", ", then run\n").strip()
    about = re.sub(r"\n\n    (.*)", r"\n\n```sh\n\1\n```", about)
    words = f"For [chapter {number}](../{path.name}), in `chapters/exercises/{path.name}`. {about}"
    title = title.partition(": ")[2].rstrip(".")
    page = [f"# {number}. {title[:1].upper()}{title[1:]}", words]
    answers = {node.name: node for node in ast.parse(solutions).body if _is_task(node)}
    for node in ast.parse(source).body:
        if _is_task(node):
            page += _task(node, source, solutions, answers)
    page += _questions(source, solutions)
    return "\n\n".join(page) + "\n"


def _is_task(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.ClassDef)


def _task(node: Any, source: str, solutions: str, answers: dict[str, Any]) -> list[str]:
    doc = ast.get_docstring(node) or ""
    code = ast.get_source_segment(source, node) or ""
    if node.body and ast.get_docstring(node, clean=False) is not None:
        lines, first = code.split("\n"), node.body[0]
        del lines[first.lineno - node.lineno : first.end_lineno - node.lineno + 1]
        code = "\n".join(lines)
    parts = [f"## `{node.name}`", _indented_code(doc), f"```python\n{code}\n```"]
    if node.name in answers:
        parts.append(_folded("Answer", *_answer(answers[node.name], solutions)))
    return parts


def _answer(node: Any, solutions: str) -> tuple[str, str]:
    """Return the reason, a comment above a solution, and the solution's code."""
    lines = solutions.split("\n")
    start = node.lineno - 1 - len(node.decorator_list)
    first = start
    while first and lines[first - 1].startswith("#"):
        first -= 1
    why = "\n".join(line[1:].removeprefix(" ") for line in lines[first:start])
    return _indented_code(why), "```python\n" + "\n".join(lines[start : node.end_lineno]) + "\n```"


def _questions(source: str, solutions: str) -> list[str]:
    """Return the two questions at the end of the exercises, with the answers at the solutions'."""
    asked, answered = _last_comment(source), _last_comment(solutions)
    if not asked:
        return []
    return ["## Questions", _indented_code(asked), _folded("Answers", _indented_code(answered))]


def _last_comment(text: str) -> str:
    lines = text.rstrip().split("\n")
    first = len(lines)
    while first and lines[first - 1].startswith("#"):
        first -= 1
    return "\n".join(line[1:].removeprefix(" ") for line in lines[first:])


def _indented_code(text: str) -> str:
    """Return text whose indented blocks are fenced: Markdown would join some to the line above."""
    return re.sub(
        r"(?:^|(?<=\n\n))((?:    .*\n?|\n(?=    ))+)",
        lambda match: f"```text\n{textwrap.dedent(match[1]).strip()}\n```\n",
        text,
    )


def _folded(title: str, *parts: str) -> str:
    inner = "\n\n".join(part for part in parts if part.strip())
    return f"::::{{admonition}} {title}\n:class: tip\n:collapsible: closed\n\n{inner}\n::::"
