"""The options of a chapter: declared as keyword arguments, read from the command line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import Any

COMMON: dict[str, tuple[Any, str]] = {
    "seed": (0, "seed for everything random"),
    "device": (["cpu", "cuda"], "where to compute"),
    "quick": (False, "less of everything; takes seconds"),
}


def read(
    description: str,
    declared: Mapping[str, tuple[Any, str]],
    given: list[str] | None,
    program: str | None = None,
) -> tuple[argparse.ArgumentParser, dict[str, Any]]:
    """Parse a command line.

    Args:
        description: what `--help` prints first.
        declared: for each option a default and a help text; see `Chapter`.
        given: the arguments; None stands for the command line's.
        program: what messages begin with; None stands for the script's name.

    Returns:
        The parser, whose `error` ends the program with a message, and the options' values.
    """
    parser = argparse.ArgumentParser(program, description=description)
    for name, (default, text) in declared.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **_how(default, text))
    found = vars(parser.parse_args(given))
    for name, (default, _) in declared.items():
        if found[name] is None and isinstance(default, dict):
            choice = "quick" if found["quick"] and "quick" in default else found.get("data")
            full = next((value for case, value in default.items() if case != "quick"), None)
            found[name] = default.get(choice, full)
        complaint = _complaint(name, found[name])
        if complaint:
            parser.error(f"got --{name.replace('_', '-')} {found[name]}, expected {complaint}")
    return parser, found


def _how(default: Any, text: str) -> dict[str, Any]:
    """Return what `add_argument` needs for a default."""
    text = text.replace("%", "%%")  # argparse formats its help texts
    if default is False:
        return {"action": "store_true", "help": text}
    if isinstance(default, type):
        return {"type": default, "help": text}
    if isinstance(default, dict):
        cases = ", ".join(f"{case}: {value}" for case, value in default.items())
        return {"type": type(next(iter(default.values()))), "help": f"{text} ({cases})"}
    how = {}
    if isinstance(default, list):
        default, how = default[0], {"choices": default}
    return how | {"type": type(default), "default": default, "help": f"{text} ({default})"}


def _complaint(name: str, value: Any) -> str:
    """Return what a number should have been; "" if it is as it should be."""
    if isinstance(value, float) and not 0 < value < math.inf:
        return "a finite number > 0"
    least = 0 if name == "seed" else 1
    if isinstance(value, int) and not isinstance(value, bool) and value < least:
        return f"an integer >= {least}"
    return ""
