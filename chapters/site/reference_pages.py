"""The pages of the reference as reStructuredText: which names, in which order, under which title.

Functions and classes are left to Sphinx's autodoc, which reads their signatures and docstrings.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

from docstrings import Lines, Translator
from public_names import (
    CLASSES,
    FACES,
    Links,
    Name,
    assignment,
    described_classes,
    line_numbers,
    members,
    public_names,
)

LONG = 60  # faces with more names have a page for each module
TENSOR = "minidl.Tensor"  # has a page of its own

OPERATORS = {
    "__neg__": "`-x`",
    "__add__": "`x + y` and `y + x`",
    "__sub__": "`x - y`",
    "__rsub__": "`y - x` for a number or an array y",
    "__mul__": "`x * y` and `y * x`",
    "__truediv__": "`x / y`",
    "__rtruediv__": "`y / x` for a number or an array y",
    "__pow__": "`x**y`",
    "__rpow__": "`y**x` for a number or an array y",
    "__matmul__": "`x @ y`",
    "__rmatmul__": "`y @ x` for an array y",
    "__iadd__": "`x += y`",
    "__eq__": "`x == y`: a plain array of bools",
    "__ne__": "`x != y`: a plain array of bools",
    "__lt__": "`x < y`: a plain array of bools",
    "__le__": "`x <= y`: a plain array of bools",
    "__gt__": "`x > y`: a plain array of bools",
    "__ge__": "`x >= y`: a plain array of bools",
    "__getitem__": "`x[index]`",
    "__setitem__": "`x[index] = value` raises TypeError",
    "__iter__": "`for row in x`",
    "__len__": "`len(x)`: the length of the first axis",
    "__bool__": "`bool(x)` of a single element",
    "__float__": "`float(x)` of a single element",
    "__int__": "`int(x)` of a single element",
    "__index__": "`items[x]`: a single integer",
    "__repr__": "`repr(x)`",
    "__format__": '`f"{x:.3f}"` of a single element',
}
"""What the operators of a tensor do that have no docstring."""


class Pages:
    """Writes the reference.

    Attributes:
        names: the public names.
        links: finds them in texts.
    """

    def __init__(self) -> None:
        self.names = public_names()
        self.links = Links(self.names)

    def all(self) -> Iterator[tuple[str, Lines]]:
        """Yield the file name, without its ending, and the lines of each page."""
        yield "index", self._index()
        yield "tensor_class", self._tensor()
        for face in FACES:
            parts: dict[str, list[Name]] = {}
            for name in self.names:
                if name.face == face and not name.same_as and name.path != TENSOR:
                    parts.setdefault(name.home, []).append(name)
            lines = [*_title(f"``{face}``", "="), f".. automodule:: {face}", ""]
            parts = {home: _in_source(part) for home, part in parts.items()}
            if sum(map(len, parts.values())) > LONG:
                for home, part in parts.items():
                    yield home, self._part(home, part, "=")
                lines += self._contents(face, parts)
            else:
                lines += _toctree(["tensor_class"]) if face == "minidl" else []
                for home, part in parts.items():
                    lines += self._entries(part) if home == face else self._part(home, part, "-")
            yield face, [*lines, *self._others(face)]

    def translator(self, face: str, scope: str = "", thing: Any = None) -> Translator:
        """Return a translator for the docstrings of a face, of `thing` in the class `scope`."""
        known = self.links.names.get(scope)
        kind = known.value if known and known.kind in CLASSES else None
        parts = described_classes(kind, self.links.public) if kind else []
        types = {n: str(t) for part in reversed(parts) for n, t in _annotations(part).items()}
        ignored = frozenset(_parameters(thing) + _parameters(kind))
        return Translator(
            link=lambda text: self.links.target(text, face, scope, ignored),
            types=types.get,
            skipped=members(kind, self.links.public) if kind else (),
        )

    # Tables ---------------------------------------------------------------------------------------

    def _index(self) -> Lines:
        count = len({name.same_as or name.path for name in self.names if name.kind != "module"})
        lines = [
            *_title("Reference", "="),
            f"All {count} public names of minidl, from their docstrings: what each computes and by",
            "which formula, its arguments with their shapes and ranges, what it raises, where the",
            "method comes from, and an example that the tests run. ``[source]`` leads to its code.",
            "",
        ]
        rows = [(f":py:mod:`{face}`", self._first(_module_docstring(face), face)) for face in FACES]
        lines += [*_table(rows), *_toctree(FACES, ":hidden:")]
        for face in FACES:
            names = [name for name in self.names if name.face == face and name.kind != "module"]
            lines += [*_title(f"In ``{face}``", "-"), *self._names(names)]
        return lines

    def _contents(self, face: str, parts: dict[str, list[Name]]) -> Lines:
        """Return tables of the names on the pages of a face's modules."""
        lines = _toctree([f"{_short(home, face)} <{home}>" for home in parts], ":hidden:")
        for home, part in parts.items():
            title = f":doc:`{_short(home, face)} <{home}>`"
            lines += [*_title(title, "-"), *self._names(part)]
        return lines

    def _names(self, names: Iterable[Name]) -> Lines:
        rows = []
        for name in names:
            rows.append((f":py:obj:`{name.name} <{name.path}>`", self._summary(name)))
        return _table(rows)

    def _summary(self, name: Name) -> str:
        return self._first(name.docstring, name.face)

    def _first(self, docstring: str, face: str) -> str:
        """Return the first paragraph of a docstring, translated, as one line."""
        return self.translator(face).inline(" ".join(docstring.split("\n\n")[0].split()))

    # Entries --------------------------------------------------------------------------------------

    def _part(self, home: str, names: list[Name], underline: str) -> Lines:
        """Return the names that one module defines, below its docstring."""
        lines = _title(
            f"``{home if underline == '=' else _short(home, names[0].face)}``", underline
        )
        if home in FACES:
            return [*lines, f"From :py:mod:`{home}`.", "", *self._entries(names)]
        return [*lines, f".. automodule:: {home}", "   :no-index:", "", *self._entries(names)]

    def _others(self, face: str) -> Lines:
        """Return short entries for names that another face describes."""
        names = [n for n in self.names if n.face == face and n.same_as and n.kind != "module"]
        lines = _title("Described elsewhere", "-") if names else []
        for name in names:
            given = f"({', '.join(_parameters(name.value))})" if name.kind == "function" else ""
            text = f"{self._summary(name)} See :py:obj:`{name.same_as}`."
            lines += [
                f".. py:{name.kind}:: {name.name}{given}",
                f"   :module: {face}",
                "",
                f"   {text}",
                "",
            ]
        return lines

    def _entries(self, names: Iterable[Name]) -> Lines:
        lines = []
        for name in names:
            if name.kind == "data":
                lines += self._data(name)
                continue
            lines += [f".. auto{name.kind}:: {name.path}"]
            if name.kind in CLASSES:
                lines += [] if name.value.__base__ is object else ["   :show-inheritance:"]
                own = members(name.value, self.links.public)
                lines += ["   :member-order: bysource", f"   :members: {', '.join(own)}"] * bool(
                    own
                )
            lines += [""]
        return lines

    def _data(self, name: Name) -> Lines:
        node, text = assignment(name.home, name.name)
        alias = isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias"
        value = ast.unparse(node.value) if node.value else "Any"
        lines = [f".. py:{'type' if alias else 'data'}:: {name.name}", f"   :module: {name.face}"]
        lines += [f"   :canonical: {value}"] if alias and value != "Any" else []
        inside = self.translator(name.face).lines(text.split("\n"))
        return [*lines, "", *(f"   {line}" for line in inside), ""]

    def _tensor(self) -> Lines:
        """Return the page of the class Tensor, in the sections of its source."""
        sections: dict[str, list[str]] = {}
        for part in described_classes(self.links.names[TENSOR].value, self.links.public):
            code, first = inspect.getsourcelines(part)
            for name, value in vars(part).items():
                function = _function(value)
                if function is None or not (_is_shown(name, function) or name in OPERATORS):
                    continue
                above = "".join(code[: function.__code__.co_firstlineno - first])
                titles = re.findall(r"^ {4}# (.+?)(?: -{5,}|\. *)$", above, re.MULTILINE)
                title = re.split(r" return|;", titles[-1])[0] if titles else "Creation"
                kind = "property" if isinstance(value, property) else "method"
                sections.setdefault(title, []).append(f".. auto{kind}:: {TENSOR}.{name}")
        lines = [*_title("``minidl.Tensor``", "="), f".. autoclass:: {TENSOR}", ""]
        for title, entries in sections.items():
            lines += _title(title, "-")
            lines += [line for entry in dict.fromkeys(entries) for line in (entry, "")]
        return lines


# Lines of reStructuredText ------------------------------------------------------------------------


def _title(text: str, underline: str) -> Lines:
    return [text, underline * len(text), ""]


def _toctree(pages: Iterable[str], *options: str) -> Lines:
    inside = ["", *pages]
    return [".. toctree::", *(f"   {line}" for line in [":maxdepth: 1", *options, *inside]), ""]


def _table(rows: Iterable[tuple[str, str]]) -> Lines:
    lines = [".. list-table::", "   :widths: auto", "   :class: docstring names", ""]
    for name, text in rows:
        lines += [f"   * - {name}", f"     - {text}"]
    return [*lines, ""]


def _short(home: str, face: str) -> str:
    """Return a module's name within its face, or within minidl."""
    return home.removeprefix(f"{face}." if home.startswith(f"{face}.") else "minidl.")


# Python objects -----------------------------------------------------------------------------------


def _in_source(names: list[Name]) -> list[Name]:
    """Return names of one module in the order of their definitions."""
    lines = line_numbers(names[0].home)
    return sorted(names, key=lambda name: lines[name.name])


def _module_docstring(module: str) -> str:
    return inspect.getdoc(importlib.import_module(module)) or ""


def _annotations(kind: type) -> dict[str, Any]:
    return dict(inspect.get_annotations(kind))


def _parameters(thing: Any) -> list[str]:
    try:
        return list(inspect.signature(thing).parameters) if callable(thing) else []
    except ValueError:
        return []


def _function(value: Any) -> Any:
    """Return the function behind an attribute of a class, or None."""
    value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    return inspect.unwrap(value) if inspect.isfunction(value) else None


def _is_shown(name: str, function: Any) -> bool:
    private = name.startswith("_") and not name.endswith("__")
    internal = name in {"__getattr__", "__reduce__"}
    return not private and not internal and bool(function.__doc__)
