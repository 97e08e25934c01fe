"""The page of a graph: its data, put into the template, style and script next to this file."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from inspect import isfunction
from typing import Any

import numpy as np

from minidl import functional
from minidl.inspect.graph_groups import grouped, short_line
from minidl.inspect.graph_node import Digest, GraphNode
from minidl.tensor import Tensor

OPERATORS = {  # their methods have no docstrings
    "add": "Return `a + b`; a and b each get `g`.",
    "sub": "Return `a - b`; a gets `g`, b gets `-g`.",
    "mul": "Return `a * b`; a gets `g * b`, b gets `g * a`.",
    "div": "Return `a / b`; a gets `g / b`, b gets `-g * a / b**2`.",
    "neg": "Return `-x`; the gradient is `-g`.",
    "pow": "Return `x**k`; the gradient is `g * k * x**(k - 1)`.",
    "matmul": "Return `a @ b`; a gets `g @ b.T`, b gets `a.T @ g`.",
}
LARGEST_EXACT = 2**53  # of integers in JavaScript


def render(nodes: Sequence[GraphNode], kinds: Sequence[str], table: str) -> str:
    """Return the page.

    Args:
        nodes: inputs first, the output last.
        kinds: of each node: parameter, constant, operation or output.
        table: the graph as text, for readers without a picture.
    """
    names, outer, groups = grouped(nodes)
    data = {
        "nodes": [
            _node(node, kind, group) for node, kind, group in zip(nodes, kinds, groups, strict=True)
        ],
        "groups": [
            {"name": name, "group": group} for name, group in zip(names, outer, strict=True)
        ],
        "rules": {op: _rule(op) for op in sorted({node.op for node in nodes})},
    }
    template, style, script = (_part(f"graph_page.{kind}") for kind in ("html", "css", "js"))
    for name, text in (("style", style), ("script", script)):
        template = template.replace(f"{{{name}-hash}}", _hash(text)).replace(f"{{{name}}}", text)
    # Last, since what they hold is not the template's: it may contain anything.
    before, between, after = _split(template, "{table}", "{data}")
    return before + html.escape(table) + between + _json(data) + after


def framed(page: str, count: int) -> str:
    """Return HTML that shows a page in a frame, whose styles and scripts stay inside it."""
    title = f"Graph of {count} tensors"
    return (
        f'<iframe title="{title}" sandbox="allow-scripts" srcdoc="{html.escape(page)}" '
        'style="width: 100%; height: 40rem; border: 1px solid #8b95a3"></iframe>'
    )


def _part(name: str) -> str:
    return files("minidl.inspect").joinpath(name).read_text(encoding="utf-8")


def _split(text: str, *marks: str) -> list[str]:
    parts = []
    for mark in marks:
        part, _, text = text.partition(mark)
        parts.append(part)
    return [*parts, text]


def _hash(text: str) -> str:
    """Return what the page's policy allows: a browser runs no other script than this."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(data: Any) -> str:
    """Return JSON in which nothing ends the script element around it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _node(node: GraphNode, kind: str, group: int) -> dict[str, Any]:
    """Return a node as the page's script expects it."""
    line = short_line(node.line)
    return {
        "label": node.label.split("\n"),
        "kind": kind,
        "name": node.name,
        "op": node.op,
        "made": node.made_by,
        "inputs": node.inputs,
        "slopes": [None if slope is None else f"{slope:.4g}" for slope in node.slopes],
        "shape": node.shape,
        "dtype": str(node.dtype),
        "line": None if line is None else line._asdict(),
        "group": group,
        "value": _digest(node.values),
        "gradient": _digest(node.gradients),
    }


def _digest(digest: Digest | None) -> dict[str, Any] | None:
    if digest is None:
        return None
    return {
        "first": [_number(x) for x in digest.first],
        "size": digest.size,
        "least": _number(digest.least),
        "mean": _number(digest.mean),
        "largest": _number(digest.largest),
        "strange": digest.strange,
        "counts": digest.counts,
        "counted": digest.counted,
    }


def _number(x: Any) -> float | int | str | bool | None:
    """Return a number for JSON: the shortest that is the same in its dtype; some as text."""
    if x is None or isinstance(x, (bool, np.bool)):
        return None if x is None else bool(x)
    if isinstance(x, (int, np.integer)):
        return int(x) if abs(int(x)) <= LARGEST_EXACT else str(x)
    return float(str(x)) if math.isfinite(x) else str(x)


def _rule(op: str) -> str:
    """Return what an operation computes, and its gradient: its docstring's first paragraph."""
    found = getattr(functional, op, None) or getattr(Tensor, op, None)
    doc = OPERATORS.get(op) or (isfunction(found) and found.__doc__) or ""
    return " ".join(doc.strip().split("\n\n")[0].split())
