"""An optimiser whose state is divided among the ranks, so that each stores only a share of it."""

from __future__ import annotations

import contextlib
import copy
import itertools
import zlib
from collections.abc import Mapping, Sequence
from types import EllipsisType
from typing import Any

import numpy as np

from minidl.backends import Array, backend_of
from minidl.distributed.exchange import Pending
from minidl.distributed.world import World
from minidl.distributed.world import world as the_world
from minidl.optim.optimizer import Group, Optimizer
from minidl.tensor import Tensor
from minidl.tensor.rows import RowGradient

Part = slice | EllipsisType | None
"""Rows of a parameter, all of it, or nothing."""


class ShardedOptimizer(Optimizer):
    """Divide an optimiser's state among the ranks: stage 1 of ZeRO.

    Adam keeps two arrays as large as the parameters, and every rank keeps the same ones. Here each
    rank owns a share of the parameters: it keeps the state of that share only, updates it, and
    sends the new values to the other ranks. With n ranks, a rank stores 1/n of the state and
    computes 1/n of each update. The weights are bit-identical to those of the plain optimiser.

        adam = ShardedOptimizer(optim.Adam(model.parameters(), lr=1e-3), world)

    Use it in place of the optimiser: in `fit`, with schedules, `clip_grad_norm_`, `DataParallel`.
    `step` needs the gradients of the whole batch, the same on every rank.

    Shares are equal in bytes, to within one row of a parameter (`p[i]`), so a large table is
    divided too. An optimiser with an `update` or `step` of its own may depend on the shapes of
    parameters, so they stay whole. Of a parameter with a `RowGradient`, only the rows in it are
    updated and sent.

    Args:
        optimizer: of the same class, with the same groups on every rank, and without state: shard
            it first, then load a `state_dict`. Both objects then use the same groups; call only the
            methods of this one.
        world: the ranks; `distributed.world()` if None. In a world of one, nothing is divided.

    Attributes:
        param_groups: the optimiser's groups, with whole parameters.
        state: for each parameter, in order over all groups, the state of this rank's rows.

    Raises:
        TypeError: `optimizer` is not an optimiser.
        ValueError: it has state already, or the ranks' optimisers differ; the message says where.

    Source: S. Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter
    Models (2020), section 5.1.

    Example:
        >>> from minidl import nn, ones, optim
        >>> model, world = nn.Linear(3, 2), World()
        >>> adam = ShardedOptimizer(optim.Adam(model.parameters()), world)
        >>> model(ones((4, 3))).sum().backward(); adam.step()
    """

    def __init__(self, optimizer: Optimizer, world: World | None = None) -> None:
        if not isinstance(optimizer, Optimizer) or isinstance(optimizer, ShardedOptimizer):
            raise TypeError(
                f"ShardedOptimizer: got a {type(optimizer).__name__}, expected an optimiser such "
                "as optim.Adam(model.parameters())"
            )
        if any(optimizer.state):
            raise ValueError(
                f"ShardedOptimizer: got {type(optimizer).__name__} with state from earlier steps, "
                "expected a new one; shard it first, then load_state_dict of what it saved"
            )
        self.world = the_world() if world is None else world
        self.param_groups, self.state = optimizer.param_groups, optimizer.state
        self._rule = copy.copy(optimizer)  # updates this rank's parts, as if they were parameters
        kind = type(optimizer)
        self._is_cut = kind.update is Optimizer.update and kind.step is Optimizer.step
        self._check_ranks()
        self._parts = _planned([p for p, _, _ in self._places()], self.world.size, self._is_cut)

    @property
    def _name(self) -> str:
        return type(self._rule).__name__

    def _options(self) -> list[Group]:
        return [{n: v for n, v in group.items() if n != "params"} for group in self.param_groups]

    def _check_ranks(self) -> None:
        """Raise the same ValueError on every rank if their optimisers differ."""
        who, found = f"ShardedOptimizer of {self._name}", list(self._places())
        self.world.agree(f"{who}, {len(found)} parameters, options {self._options()}")
        for place, (p, _, _) in enumerate(found):
            frozen = "" if p.requires_grad else ", frozen"
            self.world.agree(f"{who}, parameter {place}: {p.dtype} {p.shape}{frozen}")

    # A step ---------------------------------------------------------------------------------------

    def step(self) -> None:
        """Update this rank's share of the parameters, and get the other shares from their ranks.

        Call it on every rank.

        Raises:
            ValueError: the ranks have gradients of different parameters or rows, or other options,
                such as a learning rate that was changed on some ranks only.
            RuntimeError: no parameter has a gradient.
        """
        trained = {
            place: p
            for place, (p, _, _) in enumerate(self._places())
            if p.grad is not None and p.requires_grad
        }
        rows = {
            place: np.unique(p.backend.to_numpy(p.grad.rows))
            for place, p in trained.items()
            if self._is_cut and isinstance(p.grad, RowGradient)
        }
        missing = sorted(set(range(len(self.state))) - set(trained))
        sums = {place: f"{zlib.crc32(found.tobytes()):08x}" for place, found in rows.items()}
        self.world.agree(
            f"{self._name}.step with gradients of {len(trained)} parameters (not of {missing}), "
            f"of rows {sums}, with options {self._options()}"
        )
        with contextlib.ExitStack() as opened:
            arrays = {i: opened.enter_context(p.mutable()) for i, p in trained.items()}
            if not trained or any(self._own(place) is not None for place in trained):
                self._rule.param_groups = self._own_groups()
                self._rule.step()
                self._rule.param_groups = self.param_groups  # holds no parts between steps
            for p in trained.values():
                self.world.connect(p.backend)
            if self.world.size > 1:
                self._share(arrays, rows)

    def _own(self, place: int) -> Part:
        return self._parts[place][self.world.rank]

    def _own_groups(self) -> list[Group]:
        """Return the groups with this rank's part of each parameter instead of the parameter."""
        places = itertools.count()
        return [
            {**group, "params": [_piece(p, self._own(next(places))) for p in group["params"]]}
            for group in self.param_groups
        ]

    def _share(self, arrays: Mapping[int, Array], rows: Mapping[int, np.ndarray[Any, Any]]) -> None:
        """Send each rank's new values to the others, into the parameters' memory if possible."""
        sent = []
        for place, array in arrays.items():
            for source, part in enumerate(self._parts[place]):
                if part is None:
                    continue
                index, copies = _rows_in(part, rows.get(place)), not array.flags.c_contiguous
                values = array[index]
                if copies:
                    values = backend_of(array).xp.ascontiguousarray(values)
                copies |= place in rows
                pending = self.world.start_broadcast(values, source)
                sent.append((pending, array, index, values if copies else None))
        for pending, array, index, values in sent:
            pending.wait(f"{self._name}.step")
            if values is not None:
                array[index] = values

    # Saving ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, collected from all ranks, as the plain optimiser would.

        Every rank must call this, and gets the whole state, on the host. An optimiser on any number
        of ranks, sharded or not, can load it.
        """
        self._rule.param_groups = self.param_groups
        saved = self._rule.state_dict()
        if self.world.size == 1:
            return saved
        own, pending = saved["state"], list[Pending]()
        whole: dict[int, dict[str, Any]] = {}
        heads = self.world.all_gather({place: _head(entries) for place, entries in own.items()})
        for place, (p, _, _) in enumerate(self._places()):
            for source, head in enumerate(heads):
                for name, value in head.get(place, {}).items():
                    entries = whole.setdefault(place, {})
                    if name == "step":
                        entries[name] = value
                        continue
                    index, (kind, shape) = self._parts[place][source], value
                    if name not in entries:
                        entries[name] = np.empty(shape if index is ... else p.shape, kind)
                    part = entries[name][index]
                    if source == self.world.rank:
                        part[...] = own[place][name]
                    pending.append(self.world.start_broadcast(part, source))
        for started in pending:
            started.wait(f"{self._name}.state_dict")
        return {**saved, "state": whole}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore a `state_dict`, of which this rank keeps its own part.

        Raises:
            ValueError: as for the plain optimiser; nothing is changed then.
        """
        with contextlib.suppress(AttributeError, LookupError, TypeError):  # the rule raises then
            given = {str(place): entries for place, entries in saved["state"].items()}
            for place, (p, _, _) in enumerate(self._places()):
                if str(place) in given:
                    found = self._cut_state(place, p, given.pop(str(place)))
                    given |= {} if found is None else {str(place): found}
            saved = {**saved, "state": given}
        self._rule.param_groups = self._own_groups()
        self._rule.load_state_dict(saved)
        for group, new in zip(self.param_groups, self._rule.param_groups, strict=True):
            group.update({name: value for name, value in new.items() if name != "params"})
        self._rule.param_groups = self.param_groups

    def _cut_state(self, place: int, p: Tensor, entries: Mapping[str, Any]) -> Any:
        """Return this rank's part of a parameter's state; None if it has none."""
        arrays = {name: np.asarray(value) for name, value in entries.items() if name != "step"}
        shapes = {name: array.shape for name, array in arrays.items()}
        if set(shapes.values()) - {p.shape}:
            raise ValueError(
                f"{self._name}.load_state_dict: state {place} has shapes {shapes}, expected "
                f"{p.shape}"
            )
        index = self._own(place)
        if index is None:
            return None
        return {**entries, **{name: array[index] for name, array in arrays.items()}}


def _planned(parameters: Sequence[Tensor], size: int, is_cut: bool) -> list[list[Part]]:
    """Divide parameters into a part for each rank, in order: equal in bytes, to within a row.

    Frozen parameters, which have no state, are divided separately, so that both are balanced.

    Args:
        parameters: all.
        size: the number of ranks.
        is_cut: whether a part may begin and end inside a parameter.
    """
    planned: dict[int, list[Part]] = {}
    for is_trained in (True, False):
        chosen = [i for i, p in enumerate(parameters) if p.requires_grad is is_trained]
        sizes = [parameters[i].size * parameters[i].dtype.itemsize for i in chosen]
        bounds, start = np.arange(size + 1) * sum(sizes) / size, 0
        for i, nbytes in zip(chosen, sizes, strict=True):
            rows = parameters[i].shape[0] if is_cut and parameters[i].ndim else 1
            exact = (bounds - start) * rows / max(nbytes, 1)
            edges = [int(edge) for edge in np.clip(np.rint(exact), 0, rows)]
            planned[i] = [_part(a, b, rows) for a, b in itertools.pairwise(edges)]
            start += nbytes
    return [planned[i] for i in range(len(parameters))]


def _part(start: int, stop: int, rows: int) -> Part:
    if (start, stop) == (0, rows):
        return ...
    return slice(start, stop) if stop > start else None


def _piece(p: Tensor, part: Part) -> Tensor:
    """Return a part of a parameter, with its gradient, as a tensor that shares its memory."""
    if part is ...:
        return p
    if part is None:
        return Tensor.wrap(p.backend.xp.zeros(0, p.dtype))  # has no gradient, so is not updated
    piece = Tensor.wrap(p.array[part])
    piece.requires_grad = p.requires_grad
    if isinstance(p.grad, RowGradient):
        rows = np.searchsorted(p.backend.to_numpy(p.grad.rows), (part.start, part.stop))
        some = slice(*rows.tolist())
        values = p.grad.values.array[some]
        piece.grad = RowGradient(p.grad.rows[some] - part.start, values, piece.shape)
    elif p.grad is not None:
        piece.grad = Tensor.wrap(p.grad.array[part])
    return piece


def _rows_in(part: Part, rows: np.ndarray[Any, Any] | None) -> Any:
    """Return an index of a part, or of those `rows` that are in it."""
    if rows is None or part is None or part is ...:
        return part if rows is None else rows
    return rows[(rows >= part.start) & (rows < part.stop)]


def _head(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the step of a parameter's state, and the dtypes and shapes of its arrays."""
    return {n: v if n == "step" else [v.dtype.str, v.shape] for n, v in entries.items()}
