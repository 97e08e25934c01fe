"""Run a chapter with several seeds under three arithmetics, and compare with what it promises.

    python -m tests.benchmarks.promises --chapter 7 --seeds 5

Processors round differently, and rounding changes a training run as another seed does; see
`ARITHMETICS`. Prints a table; exits with 1 if a promise is broken.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ..test_promises import (
    ARITHMETICS,
    CHAPTERS,
    broken,
    first_lines,
    number,
    printed,
    promises,
)


def result_line(chapter: Path, arguments: list[str], variables: dict[str, str]) -> str:
    """Run a chapter in an empty folder; return the line with its result."""
    environment = os.environ | {"MPLBACKEND": "Agg"} | variables
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(chapter), *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("result: ")]
    if done.returncode or not lines:
        sys.exit(f"{chapter.name} {' '.join(arguments)} failed:\n{done.stderr}")
    return lines[-1]


def main() -> None:
    """Read the options, run, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chapter", type=int, required=True, help="its number")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on (1)")
    parser.add_argument("--quick", action="store_true", help="check the promise of --quick")
    parser.add_argument(
        "--arithmetics",
        nargs="+",
        choices=list(ARITHMETICS),
        default=list(ARITHMETICS),
        help="which (all)",
    )
    args = parser.parse_args()
    found = [path for path in CHAPTERS if path.name.startswith(f"ch{args.chapter:02}_")]
    if not found or args.seeds < 1:
        parser.error(f"got --chapter {args.chapter} --seeds {args.seeds}, expected a chapter, >= 1")
    promised = promises(first_lines(found[0]), "With --quick" if args.quick else "Result")
    complaints = []
    rows: dict[tuple[str, str], list[str]] = {}
    for seed in range(args.seeds):  # outer loop: whole comparisons first
        for name in args.arithmetics:
            arguments = ["--seed", str(seed), *["--quick"] * args.quick]
            line = result_line(found[0], arguments, ARITHMETICS[name])
            print(f"seed {seed}, {name}: {line}", file=sys.stderr, flush=True)
            complaints += [f"seed {seed}, {name}: {words}" for words in broken(promised, line)]
            for promise in promised:
                said = printed(promise, line)
                cell = "?" if said is None else f"{number(said):g}"
                rows.setdefault((promise.name, name), []).append(cell)
    print(f"| promised | arithmetic | {' | '.join(f'seed {s}' for s in range(args.seeds))} |")
    print("| --- " * (args.seeds + 2) + "|")
    texts = {p.name: f"{p.name} {p.low:g} to {p.high:g} {p.unit}".strip() for p in promised}
    for (promise_name, arithmetic), cells in rows.items():
        print(f"| {texts[promise_name]} | {arithmetic} | {' | '.join(cells)} |")
    sys.exit("\n".join(complaints) or None)


if __name__ == "__main__":
    main()
