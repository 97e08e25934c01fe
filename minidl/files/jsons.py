"""Read JSON from untrusted files."""

from __future__ import annotations

import json
import re
from typing import Any

from minidl.files.budget import Budget

# Possessive, and an unfinished string matches too: linear time for any text.
_STRING = re.compile(r'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)


def parse_json(text: str | bytes, budget: Budget | None = None) -> Any:
    """Return the value of a JSON text; no object may have duplicate names.

    Args:
        text: bytes may be UTF-8, UTF-16 or UTF-32.
        budget: counts the values; if None, a budget for a file of the text's size.

    Raises:
        ValueError: it is not JSON, has a duplicate name, nests too deeply or has too many values.

    Example:
        >>> parse_json('{"words": ["a", "b"]}')
        {'words': ['a', 'b']}
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    budget = budget or Budget(len(text))
    count = text.count('"') // 2
    if count <= budget.most_objects:  # so few strings can be removed in little memory
        bare = _STRING.sub("", text)
        count = sum(map(bare.count, "[{,::"))  # each adds at most one value; a name takes two
    budget.make_objects(count, f"JSON of {count:,} values")
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("an object has a duplicate name")
    return entries
