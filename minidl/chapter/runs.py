"""`Runs`: the finished runs of an experiment, in a file that an interrupted one continues from."""

from __future__ import annotations

import csv
import hashlib
import inspect
import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minidl.files.whole import whole_file


class Runs:
    """Keep the measurements of each finished run in a CSV file.

    A row holds all that its measurements depend on: the settings, a hash of the source of the
    functions that ran, and what is varied from run to run. After a change of settings or source,
    earlier rows stay in the file but no longer count. The file is replaced as a whole after each
    run, so stopping at any moment loses no finished run and leaves no half row.

    Args:
        path: of the file; its folder is created if needed.
        settings: names and values that all runs of this experiment share.
        varied: names of what differs from run to run, such as `("net", "seed")`.
        measured: names of what a run measures: numbers.
        functions: what computes a run; their source counts as a setting.

    Raises:
        ValueError: the file is damaged, or another experiment's.
        OSError: the file cannot be read, or a function has no source, as after `exec`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     runs = Runs(Path(folder, "runs.csv"), {"lr": 0.1}, ["seed"], ["accuracy"])
        ...     runs.add((0,), {"accuracy": 0.75})
        ...     runs = Runs(Path(folder, "runs.csv"), {"lr": 0.1}, ["seed"], ["accuracy"])
        ...     (0,) in runs, (1,) in runs, runs[(0,)]
        (True, False, {'accuracy': 0.75})
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, object],
        varied: Sequence[str],
        measured: Sequence[str],
        functions: Sequence[Callable[..., object]] = (),
    ) -> None:
        source = "".join(map(_source, functions))
        code = hashlib.sha256(source.encode()).hexdigest()[:8]
        self._path = path
        self._settings = tuple(str(value) for value in (*settings.values(), code))
        self._key_names = (*settings, "code", *varied)
        self._measured = tuple(measured)
        self._rows: dict[tuple[str, ...], tuple[float, ...]] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        width = len(self._key_names)
        try:
            with self._path.open(encoding="utf-8", newline="") as file:
                head, *rows = csv.reader(file, strict=True)
            if tuple(head) != self._key_names + self._measured:
                raise ValueError("its columns differ")
            for row in rows:
                if len(row) != len(head):
                    raise ValueError(f"got a row of {len(row)} values for {len(head)} columns")
                self._rows[tuple(row[:width])] = tuple(map(float, row[width:]))
        except (ValueError, csv.Error) as error:
            raise ValueError(
                f"{self._path} holds no runs of this experiment ({error}); move it, or use another "
                "folder"
            ) from error

    def _key(self, varied: Sequence[object]) -> tuple[str, ...]:
        return (*self._settings, *map(str, varied))

    def __contains__(self, varied: Sequence[object]) -> bool:
        """Return whether a run is in the file, with the present settings and source."""
        return self._key(varied) in self._rows

    def __getitem__(self, varied: Sequence[object]) -> dict[str, float]:
        """Return a finished run's measurements by name; raise KeyError if it is not there."""
        return dict(zip(self._measured, self._rows[self._key(varied)], strict=True))

    def complete(
        self,
        planned: Sequence[Sequence[object]],
        run: Callable[..., Mapping[str, float]],
    ) -> None:
        """Do the planned runs that are not in the file, and print a line for each.

        Args:
            planned: for each run, what is varied, in the order of the names.
            run: called with these values; returns a number for each measured name.

        Raises:
            KeyError: `run` left out a measured name.
        """
        to_do = [varied for varied in planned if varied not in self]
        print(f"{len(planned)} runs, {len(planned) - len(to_do)} of them already in {self._path}")
        started = time.perf_counter()
        for count, varied in enumerate(to_do, 1):
            self.add(varied, run(*varied))
            left = (time.perf_counter() - started) / count * (len(to_do) - count)
            name, value = next(iter(self[varied].items()))
            print(
                f"{count}/{len(to_do)}: {' '.join(map(str, varied))}: {name} {value:.4g}; "
                f"about {left:.0f} s left",
                flush=True,
            )

    def add(self, varied: Sequence[object], measurements: Mapping[str, float]) -> None:
        """Add a finished run, and write the file.

        Args:
            varied: what differs from run to run, in the order of the names.
            measurements: a number for each measured name.

        Raises:
            KeyError: one is missing; the file stays as it is.
        """
        self._rows[self._key(varied)] = tuple(float(measurements[n]) for n in self._measured)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(self._key_names + self._measured)
        table.writerows(key + values for key, values in self._rows.items())
        with whole_file(self._path) as file:
            file.write(text.getvalue().encode())


def _source(code: Any) -> str:
    """Return the source of a function or class; that of a class typed in a notebook by methods."""
    try:
        return inspect.getsource(code)
    except OSError:  # Python looks for a class in its module's file, which a notebook has not
        if not isinstance(code, type):
            raise
        return "".join(inspect.getsource(part) for part in vars(code).values() if callable(part))
