"""Turn minidl's docstrings, which are Markdown in Google's sections, into reStructuredText.

Sphinx reads only the latter. `Translator.lines` maps one docstring to it:

| in the docstring | on the page |
| --- | --- |
| `code`, `**bold**`, `*italic*` | the same; the name of a documented object is a link |
| a table, a list | a table, a list |
| an indented block | a literal block; in two columns, a table, if its entries have code spans |
| `>>>` | a highlighted session |
| `Args:`, `Returns:`, `Raises:`, `Warns:`, `Source:` | fields |
| `Attributes:` | entries with an anchor each, after everything else |
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field

Lines = list[str]

SPAN = re.compile(r"(?<![\\`])(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
BOLD = re.compile(r"\*\*(\S(?:.*?\S)?)\*\*", re.DOTALL)
ITALIC = re.compile(r"(?<![\w*])\*([^\s*](?:[^*]*[^\s*])?)\*(?![\w*])")
LINK = re.compile(r"\[([^\[\]]+)\]\((https?:[^()\s]+)\)")
SPECIAL = re.compile(r"([\\*`|_])")
HEADER = re.compile(
    r"(Args|Returns|Yields|Raises|Warns|Attributes|Examples?|Notes?|Source|Sources): *$"
)
ENTRY = re.compile(r"(\*{0,2}[A-Za-z_][\w.]*(?:, *\*{0,2}[A-Za-z_][\w.]*)*): +(?=\S)")
ITEM = re.compile(r"([-*]|\d+\.) +")
MARKER = re.compile(r"(?:[A-Za-z]|[ivxlcdmIVXLCDM]+|\d+|#)[.)] |[-+\u2022] |\.\. ")
RULE = re.compile(r"\|(?: *:?-+:? *\|)+ *$")
NAMED = re.compile(r"[A-Za-z]\w*[A-Z_]\w*")
COLUMNS = re.compile(r"(\S+(?: \S+)*) {2,}(?=\S)")


@dataclass
class Translator:
    """Translates docstrings of one place in the package.

    Args:
        link: maps the text of a code span to the full name of a documented object, or None.
        types: maps an attribute's name to its type, as text, or None.
        skipped: attributes that are described elsewhere.

    Attributes:
        attributes: the entries of the last docstring's attributes.
    """

    link: Callable[[str], str | None] = lambda text: None
    types: Callable[[str], str | None] = lambda name: None
    skipped: Container[str] = ()
    attributes: Lines = field(default_factory=list)

    def lines(self, docstring: Iterable[str]) -> Lines:
        """Return a docstring, whose lines are dedented already, as reStructuredText."""
        self.attributes = []
        out = list(self._blocks(list(docstring)))
        return [*out, "", *self.attributes] if self.attributes else out

    def inline(self, text: str) -> str:
        """Return a text, whose lines may be wrapped, with its code, bold type and links."""
        out, end = "", 0
        for found in SPAN.finditer(text):
            out += self._plain(text[end : found.start()])
            code = self._code(" ".join(found[2].split()))
            out += _apart(out, code, text[found.end() :])
            end = found.end()
        out += self._plain(text[end:])
        return f"\\{out}" if MARKER.match(out) else out  # "M. Lin" would begin a list

    def _code(self, code: str) -> str:
        target = self.link(code)
        return f":py:obj:`{_escaped(code)} <{target}>`" if target else f"``{code}``"

    def _plain(self, text: str) -> str:
        out, end = "", 0
        for found in re.finditer(
            f"{BOLD.pattern}|{LINK.pattern}|{ITALIC.pattern}", text, re.DOTALL
        ):
            out += _escaped(text[end : found.start()])
            bold, words, url, italic = found.groups()
            marked = f"**{_escaped(bold)}**" if bold else f"*{_escaped(italic or '')}*"
            marked = f"`{_escaped(words)} <{url}>`__" if url else marked
            out += _apart(out, marked, text[found.end() :])
            end = found.end()
        return out + _escaped(text[end:])

    # Blocks ---------------------------------------------------------------------------------------

    def _blocks(self, lines: Lines) -> Iterator[str]:
        """Yield the blocks of a text, each followed by an empty line."""
        at = 0
        while at < len(lines):
            line = lines[at]
            if not line.strip():
                at += 1
                continue
            end = _end_of(lines, at)
            header = HEADER.match(line)
            if header:
                yield from self._section(header[1], _body(lines[at + 1 : end]))
            elif line.startswith(" "):
                yield from self._indented(_body(lines[at:end]))
            elif line.startswith(">>>"):
                yield from _directive("code-block", "pycon", lines[at:end])
            elif line.startswith("|") and at + 1 < end and RULE.match(lines[at + 1]):
                yield from self._table([_cells(row) for row in (line, *lines[at + 2 : end])])
            elif ITEM.match(line):
                yield from self._list(lines[at:end])
            elif line.startswith("Source: "):
                yield from self._field(
                    "Source", [line.removeprefix("Source: "), *lines[at + 1 : end]]
                )
            else:
                yield from [*self.inline("\n".join(lines[at:end])).split("\n"), ""]
            at = end

    def _indented(self, body: Lines) -> Iterator[str]:
        rows = _columns(body)
        if rows and any("`" in text for row in rows for text in row):
            yield from self._table(rows, header=False)
        elif body[0].startswith(">>>"):
            yield from _directive("code-block", "pycon", body)
        else:
            yield from _directive("code-block", "python" if _is_python(body) else "text", body)

    def _table(self, rows: list[Lines], header: bool = True) -> Iterator[str]:
        inner = []
        for row in rows:
            for place, cell in enumerate(row):
                first, *more = self._cell(cell).split("\n")
                inner += [f"{'  ' if place else '* '}- {first}", *(f"    {line}" for line in more)]
        options = [":widths: auto", *([":header-rows: 1"] if header else [])]
        kind = "docstring" if header else "docstring columns"
        yield from _directive("list-table", "", inner, *options, f":class: {kind}")

    def _cell(self, cell: str) -> str:
        """Return a cell, which may begin with the name of an object without marking it as code."""
        word, comma, rest = cell.partition(",")
        target = self.link(word) if NAMED.fullmatch(word) else None
        return self._code(word) + self.inline(comma + rest) if target else self.inline(cell)

    def _list(self, lines: Lines) -> Iterator[str]:
        """Yield a list, whose items may hold blocks that are indented with them."""
        starts = [n for n, line in enumerate(lines) if ITEM.match(line)]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            marker = ITEM.match(lines[start])
            assert marker
            inside = textwrap.dedent(" " * marker.end() + "\n".join(_blanked(lines, start, end)))
            text = list(self._blocks(inside.split("\n")))
            sign = "*" if marker[1] in "*-" else marker[1]
            yield f"{sign} {text[0]}"
            yield from _shifted(text[1:], len(sign) + 1)
        yield ""

    # Sections -------------------------------------------------------------------------------------

    def _section(self, title: str, body: Lines) -> Iterator[str]:
        if title in ("Args", "Raises", "Warns", "Attributes"):
            for names, text in _entries(body):
                for name in names:
                    yield from self._entry(title, name, text)
        elif title in ("Returns", "Yields", "Source"):
            yield from self._field(title, body)
        else:
            yield from [f".. rubric:: {title}", ""]
            rows = _columns(body) if title == "Sources" else []
            yield from self._table(rows, header=False) if rows else self._blocks(body)

    def _entry(self, section: str, name: str, text: Lines) -> Iterator[str]:
        if section == "Attributes":
            if name in self.skipped:
                return
            kind = self.types(name)
            options = [f":type: {kind}"] if kind else []
            inside = list(self._blocks(text))
            self.attributes += _directive("py:attribute", name, inside, *options)
        elif section == "Args":
            yield from self._field(f"param {_escaped(name)}", text)
        elif section == "Raises":
            target = self.link(name)
            yield from self._field(f"raises {'~' + target if target else name}", text)
        else:
            yield from self._field(f"{section} {name}", text)

    def _field(self, name: str, body: Lines) -> Iterator[str]:
        first, *more = list(self._blocks(_body(body))) or [""]
        name = {"Returns": "returns", "Yields": "yields"}.get(name, name)
        yield f":{name}: {first}"
        yield from _shifted(more, 4)


# Parts of a text --------------------------------------------------------------------------------


def _end_of(lines: Lines, start: int) -> int:
    """Return where the block that starts here ends."""
    first = lines[start]
    header, item, inside = HEADER.match(first), ITEM.match(first), first.startswith(" ")
    for at in range(start + 1, len(lines)):
        line = lines[at]
        if header or item or inside:  # everything indented belongs to it, empty lines too
            if line.strip() and not line.startswith(" ") and not (item and ITEM.match(line)):
                return at
        elif not line.strip() or (line.startswith(" ") and first[:3] != ">>>" and first[:1] != "|"):
            if line.strip() and not first.endswith(":") and not lines[at - 1].endswith(":"):
                continue
            return at
        elif HEADER.match(line) or (ITEM.match(line) and lines[at - 1].endswith(":")):
            return at
    return len(lines)


def _entries(body: Lines) -> Iterator[tuple[list[str], Lines]]:
    """Yield the names and the text of each entry of a section such as Args."""
    starts = [n for n, line in enumerate(body) if ENTRY.match(line)]
    if not starts or starts[0]:
        raise ValueError(f"docstring: got {body[:1]}, expected `name: text` in each entry")
    for start, end in zip(starts, [*starts[1:], len(body)], strict=True):
        found = ENTRY.match(body[start])
        assert found
        text = [body[start][found.end() :], *_body(body[start + 1 : end])]
        yield [name.strip() for name in found[1].split(",")], text


def _columns(body: Lines) -> list[Lines]:
    """Return the rows of a block in two aligned columns, or nothing."""
    at = {found.end() for line in body if (found := COLUMNS.match(line))}
    if len(at) != 1:
        return []
    column, rows = at.pop(), []
    for line in body:
        if found := COLUMNS.match(line):
            rows.append([found[1], line[found.end() :]])
        elif rows and line[:column].isspace() and line[column : column + 1].strip():
            rows[-1][1] += "\n" + line[column:]
        else:
            return []
    return rows


def _cells(row: str) -> Lines:
    """Return the cells of a row of a Markdown table."""
    inner = row.strip().removeprefix("|").removesuffix("|")
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", inner)]


def _body(lines: Lines) -> Lines:
    """Return lines dedented, without empty ones around them."""
    return textwrap.dedent("\n".join(lines)).strip("\n").split("\n")


def _blanked(lines: Lines, start: int, end: int) -> Lines:
    """Return an item's lines, the first without its marker."""
    found = ITEM.match(lines[start])
    assert found
    return [lines[start][found.end() :], *lines[start + 1 : end]]


def _is_python(body: Lines) -> bool:
    try:
        compile("\n".join(body), "docstring", "exec")
    except SyntaxError:
        return False
    return True


# Parts of reStructuredText ------------------------------------------------------------------------


def _directive(name: str, argument: str, body: Lines, *options: str) -> Iterator[str]:
    yield f".. {name}:: {argument}".rstrip()
    yield from _shifted([*options, "", *body], 3)
    yield ""


def _shifted(lines: Lines, columns: int) -> Lines:
    return [" " * columns + line if line else "" for line in lines]


def _escaped(text: str) -> str:
    return SPECIAL.sub(r"\\\1", text)


def _apart(before: str, marked: str, after: str) -> str:
    """Separate marked text from letters next to it, without a visible space."""
    left = "\\ " if before and (before[-1].isalnum() or before[-1] in "`*\\") else ""
    right = "\\ " if after and (after[0].isalnum() or after[0] in "`*_") else ""
    return left + marked + right
