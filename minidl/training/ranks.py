"""A training run over ranks: each has its share of every batch, and rank 0 prints and saves.

All ranks take the same steps, so each decision, such as to stop or to save, is taken by all alike:
what a rank asks for is added up together with the losses, once per step.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from minidl import nn
from minidl.data import DataLoader
from minidl.distributed import DataParallel, RanksDifferError, World
from minidl.functional.loss import Reduced, noted
from minidl.random import generator, restore, state_of, streams
from minidl.tensor import Tensor
from minidl.training.evaluation import Totals
from minidl.training.keeper import Keeper, naming, state_of_run
from minidl.training.run import Run
from minidl.training.warnings import Diagnosis, all_finite, first_bad_operation

T = TypeVar("T")
DRIFT = 1e-4  # how far the ranks' weights may differ: machines of different kinds round differently
ERRORS = (BlockingIOError, OSError, TypeError, ValueError)  # that rank 0 passes on


class RankRun(Run):
    """A `Run` of this rank's shares; totals and losses are those of all ranks.

    Args:
        world: the ranks.
        parts: those of `Run`.

    Attributes:
        parallel: adds up gradients, while `connected`.
        asks: returns what this rank asks for: a signal to stop or 0, and whether a save is due.
        decided: the same, for all ranks, after each step and epoch.
    """

    parallel: DataParallel

    def __init__(self, world: World, *parts: Any) -> None:
        super().__init__(*parts)
        self.world, self._has_sums = world, False
        self.asks: Callable[[], tuple[int, bool]] = lambda: (0, False)
        self.decided = (0, False)

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Add up the gradients of all ranks in a `with` block."""
        has_weights = isinstance(self.loss, nn.Module) and any(self.loss.state_dict())
        trained = nn.Sequential(self.model, self.loss) if has_weights else self.model
        given = [one for one in self.world.listeners if one.model is self.model]
        self.parallel = given[0] if given else DataParallel(trained, self.world)
        try:
            yield
        finally:
            if not given:
                self.parallel.close()

    def average_buffers(self) -> None:
        """Give all ranks the same running statistics; see `DataParallel.average_buffers`."""
        if any(True for _ in self.parallel.model.buffers()):
            self.parallel.average_buffers()

    # A step ---------------------------------------------------------------------------------------

    def _add_gradients(self, batches: Sequence[tuple[Tensor, ...]]) -> tuple[Totals, bool]:
        whole, self.totals, self._has_sums = self.totals, Totals(), False
        try:
            for batch in batches:
                is_last = batch is batches[-1]
                with contextlib.nullcontext() if is_last else self.parallel.no_sync():
                    self._backward(batch, Totals(), True)
                self.batch += 1
            own = self.totals
        finally:
            self.totals = whole
        return self._agreed(own, batches), True

    def _backward(self, batch: tuple[Tensor, ...], step: Totals, is_part: bool) -> None:
        if len(batch[-1]):
            super()._backward(batch, step, is_part)
            return
        self.watch.before_batch(self)
        self._part(Reduced(zero_of(self.model(*batch[:-1])), 0), True).backward()

    def _part(self, reduced: Reduced, is_part: bool) -> Tensor:
        self._has_sums |= reduced.divisor is None
        return self.world.part(super()._part(reduced, is_part))

    def repeat(self, batches: Sequence[tuple[Tensor, ...]]) -> None:
        """Compute gradients of this rank's shares again, without adding those of other ranks."""
        self.parallel.model.zero_grad()
        for *inputs, labels in batches:
            outputs = self.model(*inputs)
            with noted(), self.parallel.no_sync():
                loss = self.loss(outputs, labels) if len(labels) else zero_of(outputs)
                self.world.part(loss).backward()

    def _agreed(self, own: Totals, batches: Sequence[tuple[Tensor, ...]]) -> Totals:
        """Return the totals of all ranks, and note what they decide.

        Raises:
            FloatingPointError: a rank's loss or gradient is not finite.
        """
        assert isinstance(self.watch, RankDiagnosis)  # TODO
        stop, is_due = self.asks()
        asked = [stop == signal.SIGINT, stop == signal.SIGTERM, is_due, self.watch.is_bad]
        numbers = [own.loss, own.weight, own.seen, own.right, own.labels, self._has_sums]
        sums = self.world.all_reduce(np.array([*numbers, *asked], np.float64)).tolist()
        loss, weight, seen, right, labels, has_sums, interrupted, ended, due, bad = sums
        if bad:
            self.watch.explain(self, batches)
        self.decided = (signal.SIGTERM if ended else signal.SIGINT if interrupted else 0, due > 0)
        mean = (loss, None) if has_sums else (loss / weight if weight else 0.0, weight)
        step = Totals()
        for totals in (self.totals, step):
            totals.add(int(seen), *mean, right, labels)
        self.watch.after_step(self, step.mean_loss())
        return step
