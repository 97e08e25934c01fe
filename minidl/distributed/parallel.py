"""Data-parallel training: every rank has the model, and a share of each batch."""

from __future__ import annotations

import contextlib
import functools
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from minidl import nn
from minidl.autograd import endings
from minidl.backends import Array, threads
from minidl.checks import check_whole
from minidl.distributed.exchange import Pending, RanksDifferError
from minidl.distributed.world import World
from minidl.distributed.world import world as the_world
from minidl.tensor import Tensor
from minidl.tensor.rows import RowGradient
from minidl.tensor.storage import Hook

BUCKET = 2**20  # bytes


class DataParallel:
    """Add up the ranks' gradients while `backward` computes them.

    Each rank computes the gradients of its share of the batch. Those of layers near the output are
    complete first; they are summed over the ranks, in buckets of about `bucket` bytes, while
    `backward` computes the others. When `loss.backward()` returns, every rank has the gradients of
    the whole batch, so clipping, optimisers and schedules do the same on every rank.

    The model is used as before; this object only has to exist. Losses go through `World.mean` or
    `World.total`, which combine the ranks' losses into one:

        parallel = DataParallel(model, world)
        for images, labels in DataLoader(x, y, batch_size=64, shuffle=True, world=world):
            loss = world.mean(F.cross_entropy(model(images), labels), len(labels))
            adam.zero_grad()
            loss.backward()
            adam.step()

    If the last batch has fewer examples than there are ranks, some shares are empty, and most
    losses refuse an empty batch: drop that batch with `DataLoader(..., drop_last=True)`, use `fit`,
    or write `loss = F.cross_entropy(out, labels) if len(labels) else out.sum()`, whose weight is 0.

    Gradients of terms outside `mean` and `total` are summed over ranks too. So a penalty belongs
    inside, `world.mean(loss + penalty, n)`; in `world.mean(loss, n) + penalty`, it would count once
    per rank.

    A parameter that only some ranks used gets the sum over those ranks; one that no rank used keeps
    its gradient, which is usually None. Frozen parameters take no part, and may be unfrozen later.
    Parameters may be added, with the same values on every rank. An `Embedding(sparse=True)` gets a
    `RowGradient` with the rows of all ranks. Hooks on a parameter get the rank's own gradient. If a
    parameter belongs to several of these objects, the latest one sums its gradients.

    Args:
        model: the network, with parameters and buffers of the same names, shapes and dtypes on
            every rank. All ranks get rank 0's values. Keep a reference to it during training.
        world: the ranks; `distributed.world()` if None.
        bucket: bytes that are summed together, >= 1.

    Attributes:
        sent: bytes of gradients that this rank has passed to sums so far.
        waited: seconds that it has waited for sums after `backward` had computed all gradients.

    Raises:
        ValueError: the ranks' models differ; the message says where.
        RuntimeError: in backward, if there are several ranks: the loss did not go through
            `World.mean` or `World.total`, or `create_graph` is set. Gradients of gradients would
            need sums that can be differentiated again, in an order that no rank knows in advance.

    Source: S. Li et al., PyTorch Distributed: Experiences on Accelerating Data Parallel Training
    (2020), section 3.2.

    Example:
        >>> import minidl
        >>> model, world = nn.Linear(3, 2), World()
        >>> parallel = DataParallel(model, world)
        >>> world.mean(model(minidl.ones((4, 3))).sum(), 4).backward()
        >>> model.bias.grad
        Tensor([4., 4.], dtype=float32)
    """

    def __init__(self, model: nn.Module, world: World | None = None, bucket: int = BUCKET) -> None:
        check_whole("DataParallel", 1, bucket=bucket)
        if not isinstance(model, nn.Module):
            raise TypeError(f"DataParallel: got a {type(model).__name__}, expected an nn.Module")
        # The parameters' hooks keep this object, so it must not keep the model, which would then
        # live until Python collects cycles: at another time on every rank.
        self._model, self.world = weakref.ref(model), the_world() if world is None else world
        self.sent, self.waited, self._bytes = 0, 0.0, bucket
        self._key: tuple[object, ...] | None = None
        self._hooks: weakref.WeakSet[Hook] = weakref.WeakSet()
        self.added = ""  # describes parameters that are new in this backward
        self._pass: _Pass | None = None
        self._is_local = False
        self.unsummed: set[int] = set()  # ids of parameters whose gradient is only this rank's
        self._check_model(model)
        if self.world.size > 1:
            model.load_state_dict(self.world.broadcast(model.state_dict()))
            self.order = self.world.listen(self)
            self._prepare(model)  # the hooks refuse other losses

    @property
    def model(self) -> nn.Module:
        """The model; raises RuntimeError if it no longer exists."""
        model = self._model()
        if model is None:
            raise RuntimeError(
                "DataParallel: its model no longer exists, but its parameters do; keep a reference "
                "to the model as long as they are trained"
            )
        return model

    def _check_model(self, model: nn.Module) -> None:
        """Raise the same ValueError on every rank if their models differ, with the first places."""
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        models = self.world.all_gather({name: f"{x.dtype} {x.shape}" for name, x in state.items()})
        for rank, other in enumerate(models):
            names = [n for n in {**models[0], **other} if models[0].get(n) != other.get(n)]
            if names:
                places = [f"{n}: {other.get(n)}, not {models[0].get(n)}" for n in names[:3]]
                raise RanksDifferError(
                    f"DataParallel: rank {rank}'s model differs from rank 0's in {len(names)} "
                    f"places: {'; '.join(places)}; expected the same on every rank. Does a size "
                    "depend on the rank's own data, such as a vocabulary?"
                )

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Accumulate each rank's own gradients inside a `with` block; all ranks must use it alike.

        The next backward outside the block sums them over ranks together with its own: one sum for
        several backwards.

        Raises:
            RuntimeError: in backward, if a gradient is already summed; call `zero_grad` before.
        """
        before, self._is_local = self._is_local, True
        try:
            yield
        finally:
            self._is_local = before

    def average_buffers(self) -> None:
        """Replace each float buffer by its mean over ranks, and every other by its maximum.

        Without a `world` of its own, batch norm updates its running statistics from the rank's
        share only. Call this on every rank before evaluating or saving.
        """
        buffers = dict(self.model.named_buffers())
        floats = {n: x.numpy() for n, x in buffers.items() if x.dtype.kind == "f"}
        others = {n: x.numpy() for n, x in buffers.items() if n not in floats}
        sums = self.world.all_reduce(floats)
        found = {n: array / self.world.size for n, array in sums.items()}
        for name, array in {**found, **self.world.all_reduce(others, "max")}.items():
            buffers[name].data = array.astype(buffers[name].dtype)  # the largest of bools is an int

    def close(self) -> None:
        """Detach from the model: its gradients are then those of this rank again."""
        if self.world.size > 1:
            self.world.forget(self.order)
        for hook in self._hooks:
            hook.remove()
        self._key = None

    def __del__(self) -> None:
        if hasattr(self, "order") and (self._pass is None or self._pass.is_over):
            self.world.release(self.order)

    # A backward -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Prepare for the running backward; called when it reaches one of the world's losses."""
        actions, model = endings(), self._model()
        if actions is None or model is None:
            return  # `minidl.grad`, which sets no `.grad`; or the model is gone
        if self._pass is not None:
            if self._pass.actions is actions:
                return  # a second loss in the same backward
            self._pass.abandon()
        threads.memory.keep()  # gradients are freed before the next ones are made
        self._pass = _Pass(self, actions, self._prepare(model), self._is_local)
        actions.append(self._end)

    def _end(self) -> None:
        if self._pass is not None:
            self._pass.end()
        self._pass = None  # it holds the parameters

    def _prepare(self, model: nn.Module) -> list[Tensor]:
        """Return the parameters; if they have changed, plan buckets for them and hook them."""
        trained: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        key, self.added = tuple((id(p), p.dtype, p.device) for p in trained), ""
        # Our hook must be the last, to get what other hooks return.
        if key == self._key and all(p.hooks and p.hooks[-1] in self._hooks for p in trained):
            return trained
        new = [p for p in trained if not self._hooks.intersection(p.hooks)]
        if new:
            crc = zlib.crc32(b"".join(p.numpy().tobytes() for p in new))
            self.added = f", {len(new)} of them new, with values of CRC {crc:08x}"
        others = [h for p in trained for h in p.hooks if isinstance(h.function, _Taker)]
        for hook in (*self._hooks, *others):
            hook.remove()
        self._key = key
        sparse = [m.weight for m in model.modules() if isinstance(m, nn.Embedding) and m.sparse]
        self.tables = {i for i, p in enumerate(trained) if any(p is table for table in sparse)}
        self.buckets = _planned(trained, self.tables, self._bytes)
        direct = {self.world.connect(p.backend) for p in trained}
        self._is_early = True not in direct or self.world.listeners[0] is self  # see `connect`
        takers = [_Taker(self._arrive, i) for i in range(len(trained))]
        hooks = [p.register_hook(t) for p, t in zip(trained, takers, strict=True)]
        self._hooks = weakref.WeakSet(hooks)
        return trained

    def _arrive(self, index: int, gradient: Tensor) -> None:
        """Take the complete gradient of a parameter from the running backward."""
        actions = endings()
        if actions is None:
            return
        if self._pass is None or self._pass.actions is not actions:
            raise RuntimeError(
                "DataParallel: got the loss of this rank's share of the batch for "
                f"{type(self.model).__name__}, expected that of the whole batch: "
                "world.mean(loss, len(labels)).backward()"
            )
        if gradient.requires_grad:
            raise RuntimeError(
                "DataParallel: got create_graph=True, expected False: sums over ranks are not "
                "recorded, so second derivatives would be those of this rank's share; compute them "
                "with minidl.grad, and sum the results with world.all_reduce"
            )
        if not self._is_local:
            self._pass.take(index, gradient)
        elif (p := self._pass.parameters[index]).grad is not None and id(p) not in self.unsummed:
            raise RuntimeError(
                "DataParallel.no_sync: a gradient is already summed over ranks, so this rank's own "
                "cannot be added to it; call zero_grad before the first backward in the block"
            )
        else:
            self.unsummed.add(id(p))


class _Taker(functools.partial[None]):
    """The hook of a `DataParallel` on a parameter."""


class _Bucket:
    """Parameters whose gradients are summed together, in one array."""

    def __init__(self, parameters: Sequence[Tensor], indices: Sequence[int]) -> None:
        sizes = [parameters[i].size for i in indices]
        ends = np.cumsum(sizes).tolist()
        self.slices = {
            i: slice(end - size, end) for i, size, end in zip(indices, sizes, ends, strict=True)
        }
        first = parameters[indices[0]]
        self._backend, self._dtype, self.size = first.backend, first.dtype, ends[-1]
        self.begin()

    def begin(self) -> None:
        """Prepare for a backward, with a new array: the last one may be in use as gradients."""
        self.missing = set(self.slices)
        self.pending: Pending | None = None
        self.array: Array | None = None

    def put(self, index: int, gradient: Array) -> None:
        """Store a gradient; nothing else may use its array."""
        self.missing.discard(index)
        if len(self.slices) == 1:
            self._backend.set_writeable(gradient, True)
            self.array = gradient.reshape(-1)  # avoids a copy of an array that may be large
        else:
            self.whole()[self.slices[index]] = gradient.reshape(-1)

    def is_summed(self) -> bool:
        """Let the sum progress; return whether it is complete."""
        return self.pending is not None and self.pending.test()

    def whole(self) -> Array:
        """Return the array; gradients that this rank does not have count as zeros."""
        if self.array is None:
            self.array = self._backend.xp.zeros(self.size, self._dtype)
        return self.array


def _planned(parameters: Sequence[Tensor], tables: set[int], size: int) -> list[_Bucket]:
    """Divide parameters into buckets, the last layers first: their gradients arrive first."""
    groups: list[list[int]] = []
    small: dict[tuple[object, ...], list[int]] = {}  # by dtype and device
    for index in reversed(range(len(parameters))):
        p = parameters[index]
        if index in tables:
            continue
        if p.size * p.dtype.itemsize >= size:  # needs no copy if it is alone
            groups.append([index])
            continue
        group = small.setdefault(kind := (p.dtype, p.device), [])
        group.append(index)
        if sum(parameters[i].size for i in group) * p.dtype.itemsize >= size:
            groups.append(small.pop(kind))
    return [_Bucket(parameters, group) for group in (*groups, *small.values())]


class _Pass:
    """The sums of one backward.

    Attributes:
        actions: the functions that the backward calls at its end; the list identifies it.
        parameters: those that are trained.
        is_over: whether all sums are complete.
    """

    def __init__(
        self,
        parallel: DataParallel,
        actions: list[Callable[[], None]],
        parameters: Sequence[Tensor],
        is_local: bool,
    ) -> None:
        self.actions, self.parameters, self.is_over = actions, parameters, is_local
        self._parallel, self._started, self._ended = parallel, 0, 0  # numbers of buckets
        self._own = {i: bucket for bucket in parallel.buckets for i in bucket.slices}
        self._before: dict[int, Tensor | None] = {}  # gradients to which the sums are added
        self._tables: dict[int, Tensor] = {}
        for bucket in parallel.buckets:
            bucket.begin()

    def take(self, index: int, gradient: Tensor) -> None:
        """Store a gradient; start the sums of complete buckets, and let running ones progress."""
        parallel = self._parallel
        p = self.parameters[index]
        before = p.grad
        if id(p) in parallel.unsummed and before is not None:
            gradient, before = before + gradient, None
        self._before[index] = before
        parallel.unsummed.discard(id(p))
        if index in parallel.tables:
            self._tables[index] = gradient
        else:
            self._own[index].put(index, gradient.array)
        while self._started < len(parallel.buckets) and parallel._is_early:
            if parallel.buckets[self._started].missing:
                break
            self._start(parallel.buckets[self._started])
        while self._ended < self._started and parallel.buckets[self._ended].is_summed():
            self._ended += 1

    def _start(self, bucket: _Bucket) -> None:
        """Start the sum of a bucket: in the same order on every rank."""
        array = bucket.whole()
        bucket.pending = self._parallel.world.start_sum(array, self._parallel.order)
        self._parallel.sent += array.nbytes
        self._started += 1

    def end(self) -> None:
        """Complete all sums, and replace the rank's gradients by those of all ranks."""
        if self.is_over:
            return
        parallel, count = self._parallel, len(self.parameters)
        what = (
            f"the end of a backward of DataParallel {parallel.order}, with {count} parameters"
            f"{parallel.added}"
        )
        for index, p in enumerate(self.parameters):
            if id(p) in parallel.unsummed and index not in self._before:
                self._take_unsummed(index)
        started = time.perf_counter()
        flags = np.zeros((2, count), bool)  # has a gradient; a table whose gradient is dense
        flags[0, list(self._before)] = True
        flags[1, [i for i, g in self._tables.items() if not isinstance(g, RowGradient)]] = True
        notes = parallel.world.agree(what, np.packbits(flags).tobytes())
        found = np.unpackbits(np.bitwise_or.reduce(notes), count=2 * count).reshape(2, count)
        used = np.flatnonzero(found[0]).tolist()
        if used:  # on some rank; otherwise, the loss is another model's
            self._complete(what, used)
        for index in used:
            self._replace(index, is_dense=bool(found[1, index]))
        parallel.waited += time.perf_counter() - started

    def abandon(self) -> None:
        """Complete the sums of a backward that failed, or later sums would be mixed with them."""
        if not self.is_over:
            sizes = [bucket.size for bucket in self._parallel.buckets]
            what = f"the backward after one that failed, with buckets of {sizes}"
            self._parallel.world.agree(what)
            self._complete(what, range(len(self.parameters)))

    def _complete(self, what: str, used: Sequence[int]) -> None:
        """Complete the sums of buckets with a parameter that some rank used."""
        for bucket in self._parallel.buckets[self._started :]:
            if bucket.slices.keys() & used:
                self._start(bucket)
        for bucket in self._parallel.buckets:
            if bucket.pending is not None:
                bucket.pending.wait(what)
        # MPI moves data only while it is called. A rank whose own sums are complete may still have
        # to pass on data for other ranks, so it must not begin to compute.
        self._parallel.world.agree(f"{what}: all sums are complete")
        self.is_over = True

    def _take_unsummed(self, index: int) -> None:
        """Take the gradient that `no_sync` left for a parameter that backward did not reach."""
        p = self.parameters[index]
        self._parallel.unsummed.discard(id(p))
        left = p.grad
        if left is None:
            return
        self._before[index] = None
        if index in self._parallel.tables:
            self._tables[index] = left
        else:
            self._own[index].put(index, left.array.copy())

    def _replace(self, index: int, is_dense: bool) -> None:
        """Store the sum over ranks as a parameter's gradient, or add it to an earlier one."""
        p = self.parameters[index]
        before = self._before.get(index, p.grad)
        if index not in self._parallel.tables:
            bucket = self._own[index]
            total: Tensor = Tensor.wrap(bucket.whole()[bucket.slices[index]].reshape(p.shape))
        else:
            total = self._table(index, is_dense)
        p.grad = total if before is None else before + total

    def _table(self, index: int, is_dense: bool) -> Tensor:
        """Return the sum over ranks of the gradients of an `Embedding(sparse=True)`."""
        p, own, world = self.parameters[index], self._tables.get(index), self._parallel.world
        if is_dense:
            return world.all_reduce(own.detach().copy() if own is not None else _zeros_like(p))
        rows, values = np.zeros(0, np.int64), np.zeros((0, *p.shape[1:]), p.dtype)
        if isinstance(own, RowGradient):
            found, first = (p.backend.to_numpy(a) for a in (own.rows, own.first))
            is_first = first == np.arange(len(first))
            rows, values = found[is_first].astype(np.int64), own.values.numpy()[is_first]
        self._parallel.sent += rows.nbytes + values.nbytes
        parts = world.all_gather([rows, values])
        rows, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return RowGradient(p.backend.from_numpy(rows), p.backend.from_numpy(values), p.shape)


def _zeros_like(p: Tensor) -> Tensor:
    return Tensor.wrap(p.backend.xp.zeros(p.shape, p.dtype))
