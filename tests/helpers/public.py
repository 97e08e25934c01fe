"""The public names of a package: what its `__init__.py` imports as itself (`import x as x`)."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType


def public_names(package: ModuleType) -> set[str]:
    """Return the names that a package exports, including those that it imports on use."""
    return {
        alias.asname
        for node in ast.walk(ast.parse(inspect.getsource(package)))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
