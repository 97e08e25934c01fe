"""The measurements of a run, epoch by epoch."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.files.whole import whole_file


class History(Mapping[str, list[float]]):
    """Lists of one value per epoch, by name, and the loss of every step.

    Names are `train_loss`, `train_accuracy` (0 to 1), `validation_loss`, `validation_accuracy`,
    `lr` and `seconds`; those that a run does not measure are missing.

    Attributes:
        step_losses: the training loss of each step, from the first on.

    Example:
        >>> history = History()
        >>> history.append(train_loss=2.0, train_accuracy=0.25)
        >>> history.append(train_loss=1.5, train_accuracy=0.5)
        >>> history["train_loss"], history.epochs
        ([2.0, 1.5], 2)
    """

    def __init__(self) -> None:
        self._columns: dict[str, list[float]] = {}
        self.step_losses: list[float] = []

    def __getitem__(self, name: str) -> list[float]:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def epochs(self) -> int:
        """Number of epochs recorded."""
        return max(map(len, self._columns.values()), default=0)

    def append(self, **values: float) -> None:
        """Add the values of one epoch.

        Raises:
            ValueError: the names differ from those of earlier epochs.
        """
        if self._columns and list(values) != list(self._columns):
            raise ValueError(f"History.append: got {list(values)}, expected {list(self._columns)}")
        for name, value in values.items():
            self._columns.setdefault(name, []).append(float(value))

    def best_epoch(self) -> int:
        """Return the epoch, >= 1, with the lowest validation (else training) loss."""
        losses = self._columns.get("validation_loss", self._columns.get("train_loss", []))
        if not losses:
            raise ValueError("History.best_epoch: no epoch is recorded yet")
        return int(np.argmin(np.nan_to_num(losses, nan=np.inf))) + 1

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the columns as float64 arrays `(epochs,)`."""
        return {name: np.array(values) for name, values in self._columns.items()}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a `.csv` (a row per epoch) or a `.json` (lists by name); return the path.

        JSON has no NaN and no infinity: they become `null`. An older file of that name stays as it
        is until the new one is complete.

        Raises:
            ValueError: the name ends in neither .csv nor .json.
        """
        path = Path(path)
        if path.suffix not in (".csv", ".json"):
            raise ValueError(f"History.save: got {path}, expected a name ending in .csv or .json")
        text = io.StringIO(newline="")
        if path.suffix == ".json":
            lists = self._columns | {"step_losses": self.step_losses}
            finite = {k: [x if math.isfinite(x) else None for x in v] for k, v in lists.items()}
            json.dump(finite, text, indent=1, allow_nan=False)
        else:
            writer = csv.writer(text)
            writer.writerow(["epoch", *self._columns])
            writer.writerows(zip(range(1, self.epochs + 1), *self._columns.values(), strict=True))
        with whole_file(path) as file:
            file.write(text.getvalue().encode())
        return path

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything."""
        return {"columns": self.arrays(), "step_losses": np.array(self.step_losses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: it is something else; nothing is changed then.
        """
        try:
            table = np.array([*state["columns"].values()], ndmin=2)  # fails if lengths differ
            losses = np.array(state["step_losses"])
            if (table.ndim, table.dtype.kind, losses.ndim, losses.dtype.kind) != (2, "f", 1, "f"):
                raise TypeError("expected floats")
            columns = {str(n): x for n, x in zip(state["columns"], table.tolist(), strict=False)}
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"History: got no valid state ({error!r:.200})") from error
        self._columns, self.step_losses = columns, losses.tolist()

    def __repr__(self) -> str:
        return f"History(epochs={self.epochs}, {', '.join(self._columns)})"
