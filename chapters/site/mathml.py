"""Formulas as MathML, which browsers draw without a script, a font or the network."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def mathml(latex: str, display: str) -> str:
    """Return a formula as a <math> element, with its source as a label for screen readers.

    Raises:
        ValueError: the formula is not valid LaTeX.
    """
    try:
        return convert(latex, display=display)
    except Exception as error:  # latex2mathml has an exception for each mistake, without a base
        raise ValueError(f"formula: got {latex!r}, expected LaTeX ({error!r})") from error


def visit_inline(translator: Any, node: nodes.math) -> None:
    """Write a formula within a line."""
    translator.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    """Write a formula on a line of its own; a wide one scrolls."""
    formula = mathml(node.astext(), "block")
    translator.body.append(f'<div class="formula" tabindex="0" role="math">{formula}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer that `html_math_renderer` names."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
