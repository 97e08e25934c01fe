"""JSON that need not be trusted."""

from __future__ import annotations

import json
import re
from typing import Any

from minidl.files.budget import Budget

# Possessive, and content with a string cut short: linear in any text.
_STRING = re.compile(r'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
_MARK = re.compile(r"[\[{,:]")  # outside strings, each comes with at most one value more


def parse_json(text: str | bytes, budget: Budget | None = None) -> Any:
    """Return the value of a JSON text, in which no object may have a name twice.

    Args:
        text: in any encoding of Unicode if bytes.
        budget: counts its values; one of the text's size if None.

    Raises:
        ValueError: it is not JSON, has a name twice, is nested too deeply or has too many values.

    Example:
        >>> parse_json('{"words": ["a", "b"]}')
        {'words': ['a', 'b']}
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    count = sum(1 for _ in _MARK.finditer(_STRING.sub("", text)))
    (budget or Budget(len(text))).make_objects(count, f"JSON of {count:,} values")
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("an object has a duplicate name")
    return entries
