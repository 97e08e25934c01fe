"""Limits on the memory that reading a file may take, and untrusted JSON."""

import json

import pytest

from minidl.files.budget import ROOM, Budget
from minidl.files.jsons import parse_json


def test_a_budget_counts_bytes_before_they_are_made():
    budget = Budget(1000, growth=2)
    budget.make(ROOM, "an array")
    budget.make(2000, "another")
    with pytest.raises(ValueError, match=r"got a third, expected at most 67,110,864 bytes"):
        budget.make(1, "a third")


def test_a_budget_counts_objects():
    budget = Budget(8000)
    budget.make_objects(budget.most_objects, "many values")
    with pytest.raises(ValueError, match=r"at most 525,288 values"):
        budget.make_objects(1, "one more")


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, 2.5, null, true, "x,[{:"], "b": {"c": "\\"]["}}',
        '"alone"',
        b'["\xc3\xa9", "\\ud83d"]',
        "3",
    ],
)
def test_json_is_read_as_python_reads_it(text):
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[[],[]," * 300_000, "JSON of .* at most 786,788 values"),
        ('{"a": 1, "a": 2}', "duplicate name"),
        (b"\xff", "utf-8"),
        ('""' * 700_000, "JSON of 700,000 values"),
        (
            '"' + '\\"' * 1_000_000,
            "Unterminated",
        ),  # seconds in a regular expression that backtracks
        ('["' + "\\" * 1_000_001, "Unterminated"),
    ],
    ids=["arrays", "objects", "many", "twice", "bytes", "empty", "quotes", "backslashes"],
)
def test_hostile_json_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)
