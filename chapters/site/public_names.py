"""The public names of minidl: what each package exports by `from ... import name as name`.

A `Name` is a row of the reference. The same object may be exported by several packages; the first
of them, in the order of `FACES`, describes it, and the others refer to that description.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

FACES = (
    "minidl",
    "minidl.functional",
    "minidl.nn",
    "minidl.nn.init",
    "minidl.optim",
    "minidl.data",
    "minidl.models",
    "minidl.training",
    "minidl.inspect",
    "minidl.inspect.plots",
    "minidl.inspect.sentences",
    "minidl.distributed",
    "minidl.files",
    "minidl.onnx",
    "minidl.chapter",
    "minidl.random",
    "minidl.tensor",
    "minidl.autograd",
    "minidl.backends",
    "minidl.backends.cpu.threads",
)
"""The packages that export names, and the modules that are exported or imported whole."""


CLASSES = ("class", "exception")


@dataclass(frozen=True)
class Name:
    """A public name.

    Attributes:
        face: the package that exports it.
        name: how it is called there.
        value: what it names.
        home: the module that defines it.
        same_as: the path that describes the same object, or "".
    """

    face: str
    name: str
    value: Any
    home: str
    same_as: str = ""

    @property
    def path(self) -> str:
        """The name with its package, such as `minidl.nn.Conv2d`."""
        return f"{self.face}.{self.name}"

    @property
    def kind(self) -> str:
        """Sphinx's name for what this is: a module, class, exception, function or data."""
        if isinstance(self.value, ModuleType):
            return "module"
        if inspect.isclass(self.value) and self.value.__name__ == self.name:  # no alias
            return "exception" if issubclass(self.value, BaseException) else "class"
        routine = inspect.isroutine(self.value) or hasattr(self.value, "__wrapped__")
        return "function" if routine else "data"

    @property
    def docstring(self) -> str:
        """What its source says of it; for data, the string below the assignment."""
        if self.kind == "data":
            return assignment(self.home, self.name)[1]
        return inspect.getdoc(self.value) or ""


def public_names() -> list[Name]:
    """Return every public name of every face, in the order of the imports."""
    found: list[Name] = []
    described: dict[tuple[str, str], str] = {}
    for face in FACES:
        for name, home in _exported(face):
            value = getattr(importlib.import_module(face), name)
            if isinstance(value, ModuleType):
                found.append(Name(face, name, value, value.__name__, value.__name__))
                continue
            home = _home(home, name)
            found.append(Name(face, name, value, home, described.get((home, name), "")))
            described.setdefault((home, name), found[-1].path)
    return found


def faces_of_package() -> set[str]:
    """Return the packages that export names, wherever they are: `FACES` must list them all."""
    packages = {name for name, path in all_modules().items() if path.name == "__init__.py"}
    return {name for name in packages if any(_imports(name))}


def all_modules() -> dict[str, Path]:
    """Return the name and the file of each module, public or not."""
    root = Path(importlib.import_module("minidl").__path__[0])
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = ("minidl", *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _exported(face: str) -> Iterator[tuple[str, str]]:
    """Yield the names of a face, and the modules that they come from."""
    module = importlib.import_module(face)
    if hasattr(module, "__path__"):
        yield from _imports(face)
        if face == "minidl.backends":  # defines some names itself, as its docstrings say
            yield from _defined(module)
        return
    yield from _defined(module)


def _imports(face: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(_tree(face)):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.asname == alias.name:
                    yield alias.name, node.module or ""


def _defined(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Yield the functions and classes of a module, and its documented aliases of types."""
    body = _tree(module.__name__).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.AnnAssign) and _is_text(after):
            name = ast.unparse(node.target)
        else:
            continue
        if not name.startswith("_"):
            yield name, module.__name__


def _home(module: str, name: str) -> str:
    """Return the module that defines what another one imports under the same name."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            return _home(node.module or "", name)
    return module


def line_numbers(module: str) -> dict[str, int]:
    """Return the line of each definition of a module; of overloads, that of the last."""
    found = {}
    for node in _tree(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node.lineno
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {ast.unparse(target): node.lineno for target in targets}
    return found


def assignment(module: str, name: str) -> tuple[ast.Assign | ast.AnnAssign, str]:
    """Return the statement of a module that assigns to a name, and the string below it."""
    body = _tree(module).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            text = ast.literal_eval(after.value) if _is_text(after) else ""  # type: ignore
            return node, inspect.cleandoc(text)
    raise ValueError(f"public_names: {module} does not assign to {name}")


def _is_text(node: ast.AST | None) -> bool:
    constant = node.value if isinstance(node, ast.Expr) else None
    return isinstance(constant, ast.Constant) and isinstance(constant.value, str)


@functools.cache
def _tree(module: str) -> ast.Module:
    path = importlib.import_module(module).__file__
    assert path
    return ast.parse(Path(path).read_text(encoding="utf-8"))


# Members of classes -------------------------------------------------------------------------------


def described_classes(kind: type, public: set[type]) -> list[type]:
    """Return a class and those bases whose members only it can describe, as they are not public."""
    bases = [base for base in kind.__mro__[1:] if base.__module__.startswith("minidl")]
    elsewhere = {above for base in bases if base in public for above in base.__mro__}
    return [kind, *(base for base in bases if base not in elsewhere)]


def members(kind: type, public: set[type]) -> dict[str, Any]:
    """Return the documented methods and properties of a class, in the order of the source."""
    found: dict[str, Any] = {}
    for part in described_classes(kind, public):
        for name, value in vars(part).items():
            inner = getattr(value, "__func__", value)
            if not (inspect.isfunction(inner) or isinstance(value, property)):
                continue
            if not name.startswith("_") and inspect.getdoc(inner):
                found.setdefault(name, value)
    return found


# Links --------------------------------------------------------------------------------------------


CALL = re.compile(r"(\w+(?:\.\w+)+|[A-Z]\w+)\(.*\)")
"""A call that can only be one of minidl; `max(x)` may be a formula."""


class Links:
    """Finds what the text of a code span names.

    Args:
        names: the public names.
    """

    def __init__(self, names: list[Name]) -> None:
        self.names = {name.path: name for name in names}
        self.public = {name.value for name in names if name.kind in CLASSES}
        self.faces = {name.home: name.face for name in reversed(names) if not name.same_as}
        self.full: dict[str, str] = {face: face for face in FACES}
        short: dict[str, set[str]] = {}
        for name in names:
            path = name.same_as or name.path
            self.full[name.path] = path
            if name.kind != "module" and _is_package(name.face):
                short.setdefault(name.name, set()).add(path)
            if name.kind in CLASSES:
                for member in members(name.value, self.public):
                    self.full[f"{name.path}.{member}"] = f"{path}.{member}"
        self.short = {name: paths.pop() for name, paths in short.items() if len(paths) == 1}

    def target(self, text: str, face: str, scope: str, ignored: frozenset[str]) -> str | None:
        """Return the path of a documented object, or None.

        Args:
            text: of the code span, such as `nn.Conv2d` or `world()`.
            face: the package that the docstring belongs to.
            scope: the path of the object that it describes, or of its class.
            ignored: the names of parameters.
        """
        called = CALL.fullmatch(text)
        text = called[1] if called else text.removesuffix("()")
        if not re.fullmatch(r"[A-Za-z_][\w.]*", text) or text in ignored:
            return None
        first, _, rest = text.partition(".")
        first = self.short.get(first, "") if rest else ""
        for path in (
            f"{scope}.{text}",
            f"{face}.{text}",
            f"minidl.{text.replace('F.', 'functional.', 1) if text.startswith('F.') else text}",
            self.short.get(text, ""),
            f"{first}.{rest}",
            text if text.startswith("minidl") else "",
        ):
            found = self.full.get(path)
            if found and not (path in FACES and "." not in text and text != "minidl"):
                return None if found == scope else found
        return None


def _is_package(face: str) -> bool:
    return hasattr(importlib.import_module(face), "__path__")
