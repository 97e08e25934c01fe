"""The processes that train together, the ranks, and how they exchange values."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import warnings
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from minidl.autograd import Gradients
from minidl.backends import Array, Backend, backend_of, share_gpus
from minidl.checks import check_whole
from minidl.distributed import endings, mpi, placement
from minidl.distributed.devices import Collectives, ThroughHost
from minidl.distributed.exchange import NOTE, Exchange, Pending
from minidl.files.checkpoint import packed, unpacked
from minidl.files.jsons import parse_json
from minidl.tensor import Tensor, record

T = TypeVar("T")
Reduction = Literal["sum", "max", "min"]
TIMEOUT = 600.0  # s


class World:
    """The ranks of a program: its processes, numbered from 0.

    Get it from `world()`. All ranks run the same program and must make the same calls in the same
    order; if they do not, all raise the same error.

    Attributes:
        rank: this process's number, `0 <= rank < size`.
        size: number of processes; 1 without MPI.
        local_rank: its number among the processes on this machine.
        local_size: how many there are on this machine.
        is_warned: whether to warn no more about differences between the ranks' random streams.

    Example:
        >>> world = World()
        >>> world.rank, world.size, world.all_reduce(2.5), world.all_gather("a")
        (0, 1, 2.5, ['a'])
    """

    def __init__(self, exchange: Exchange | None = None) -> None:
        self._exchange = exchange
        self.rank, self.size, self.local_rank, self.local_size = 0, 1, 0, 1
        if exchange is not None:
            self.rank, self.size = exchange.comm.rank, exchange.comm.size
        self._listeners: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._orders: list[int] = []  # those that no listener uses any more
        self.is_warned = False
        self._direct: dict[Backend, Any] = {}

    def __repr__(self) -> str:
        return f"World(rank={self.rank}, size={self.size})"

    # A copy of a model keeps its world; a loaded model gets that of its program.

    def __copy__(self) -> World:
        return self

    def __deepcopy__(self, memo: Any) -> World:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return world, ()

    # Collectives --------------------------------------------------------------------------------

    def all_reduce(self, value: T, op: Reduction = "sum", what: str = "") -> T:
        """Return the sum, maximum or minimum over ranks, element by element.

        The sum of a tensor is differentiable, to any order: the gradient of its argument is the sum
        of all ranks' gradients of its result. So `backward` on every rank differentiates the sum of
        the ranks' losses.

        Args:
            value: a tensor, an array, a number, or nested dicts, lists and tuples of these; of the
                same structure, shapes and dtypes on every rank. The sum of bools is the number of
                true ones.
            op: `"sum"`, `"max"` or `"min"`.
            what: a name for the call, for the error if calls differ; the same on every rank.

        Returns:
            The same structure, with the same values on every rank.

        Raises:
            ValueError: the ranks' values or calls differ, or `op` is something else.
            TypeError: a value is of another type.
        """
        if op not in ("sum", "max", "min"):
            raise ValueError(f"all_reduce: got op={op!r}, expected 'sum', 'max' or 'min'")
        self.agree(f"{what or f'all_reduce({op})'} of {_mapped(value, _described, 'all_reduce')}")
        return _mapped(value, lambda leaf: self._reduced(leaf, op), "all_reduce")  # type: ignore[no-any-return]

    def broadcast(self, value: T, source: int = 0) -> T:
        """Return one rank's value.

        Args:
            value: a tensor, an array, a number, a string, None, or nested dicts, lists and tuples
                of these. Only that of `source` counts.
            source: the rank that has it.

        Raises:
            ValueError: there is no such rank, or the ranks' calls differ.
            TypeError: a value is of another type.
        """
        check_whole("broadcast", 0, source=source)
        if source >= self.size:
            raise ValueError(f"broadcast: got source={source}, expected < {self.size}")
        own = _encoded(value) if self.rank == source else b""  # first: it may raise
        self.agree(what := f"broadcast from rank {source}")
        if self._exchange is not None:
            own = self._exchange.send(own, source, what)
        return _decoded(own)  # type: ignore[no-any-return]

    def all_gather(self, value: T) -> list[T]:
        """Return every rank's value, in the order of the ranks.

        Args:
            value: as for `broadcast`; the ranks' values may differ in every respect.
        """
        own = _encoded(value)  # first: it may raise
        self.agree("all_gather")
        parts = [own] if self._exchange is None else self._exchange.gather(own, "all_gather")
        return [_decoded(data) for data in parts]

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        self.agree("barrier")

    # Losses -------------------------------------------------------------------------------------

    def mean(self, loss: Tensor, weight: float) -> Tensor:
        """Return the weighted mean of the ranks' losses: the loss of the whole batch.

            sum of weight * loss over ranks / sum of weight over ranks

        If each loss is a mean over `weight` examples, this is the mean over all examples, however
        they are shared out. All ranks get the same number. The gradient of a rank's loss is
        `weight / sum of weights` times the incoming gradient; `DataParallel` then adds up the
        ranks' gradients of the parameters.

        Args:
            loss: the loss on the rank's examples: a tensor, of the same shape and dtype on every
                rank. It may be NaN if the rank has no examples, and the weight is 0.
            weight: the number of examples, or of labels that count; >= 0, and > 0 on some rank.

        Raises:
            ValueError: a weight is negative or not finite, or all are 0, or the ranks differ.
            TypeError: the loss is not a tensor of floats.
        """
        _check_loss("mean", loss)
        if not (isinstance(weight, (int, float, np.number)) and 0 <= weight < math.inf):
            raise ValueError(f"mean: got weight={weight!r}, expected a finite number >= 0")
        part = loss.numpy().astype(np.float64) * weight if weight else np.zeros(loss.shape)
        numbers = np.append(part.reshape(-1), float(weight))
        sums = self._summed(numbers, f"mean of {_described(loss)}")
        if not sums[-1] > 0:
            raise ValueError("mean: got weight=0 on every rank, expected > 0 on at least one")
        share = float(weight) / float(sums[-1])

        def backward(gradient: Tensor) -> Gradients:
            self._tell_listeners()
            return (gradient * share,)

        value = (sums[:-1] / sums[-1]).reshape(loss.shape)
        # One rank's mean is its loss, without rounding.
        array = loss.backend.from_numpy(value.astype(loss.dtype)) if self.size > 1 else loss.array
        return record("mean_over_ranks", array, (loss,), backward)

    def total(self, loss: Tensor) -> Tensor:
        """Return the sum of the ranks' losses: as `mean`, but unweighted and not divided.

        The gradient of a rank's loss is the incoming gradient.
        """
        _check_loss("total", loss)
        found = self._summed(loss.numpy(), f"total of {_described(loss)}")

        array = loss.array if self.size == 1 else loss.backend.from_numpy(found)
        return self._recorded("total_over_ranks", array, loss)

    def part(self, loss: Tensor) -> Tensor:
        """Return the rank's own loss, but with the gradients of `total`.

        It communicates nothing: for loops that add up the values themselves.
        """
        _check_loss("part", loss)
        return self._recorded("part_of_ranks", loss.array, loss)

    def _recorded(self, op: str, array: Array, loss: Tensor) -> Tensor:
        def backward(gradient: Tensor) -> Gradients:
            self._tell_listeners()
            return (gradient,)

        return record(op, array, (loss,), backward)

    def _tell_listeners(self) -> None:
        for listener in self.listeners:
            listener.begin()

    # Shares of a batch --------------------------------------------------------------------------

    def shared_order(self, order: np.ndarray[Any, Any], is_first: bool) -> np.ndarray[Any, Any]:
        """Return rank 0's order of the examples, for `DataLoader`.

        Args:
            order: the one that this rank drew.
            is_first: whether it is the loader's first: rank 0 then warns, once, if the ranks drew
                different ones. Later, they may have drawn different amounts for their shares.
        """
        if self.size == 1:
            return order
        if is_first and not self.is_warned:
            crcs = self.all_gather(zlib.crc32(order.tobytes()))
            others = [rank for rank, crc in enumerate(crcs) if crc != crcs[0]]
            if others and self.rank == 0:
                warnings.warn(
                    f"DataLoader: the random streams of rank {', '.join(map(str, others))} differ "
                    "from rank 0's, whose order of the examples is used. If they should differ, "
                    "such as for dropout, give the loader a generator of the same seed on every "
                    "rank: rng=np.random.default_rng(0)",
                    stacklevel=3,
                )
            self.is_warned = bool(others)
        return self.broadcast(order)

    def combined(self, measured: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """Sum measurements of batches over batches and ranks, for `evaluate` and `fit`.

        Args:
            measured: for each batch of this rank, the arguments of `Totals.add`: number of
                examples, loss, its weight (None if the loss is a sum), and for a classifier right
                answers and labels.

        Returns:
            A list of one such tuple.
        """
        sums = np.zeros(6)  # examples, loss * weight, weight, right, labels, sums
        for examples, loss, weight, *counts in measured:
            part = [loss, 0.0] if weight is None else [loss * weight if weight else 0.0, weight]
            sums += [examples, *part, *(counts or [0, 0]), weight is None]
        examples, loss, weight, right, labels, is_sum = self.all_reduce(sums).tolist()
        mean = [loss, None] if is_sum else [loss / weight if weight else math.nan, weight]
        return [(int(examples), *mean, right, labels)]

    def interleaved(self, batches: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """Return all ranks' shares of each batch, in the order of the examples, for `predict`."""
        return [share for shares in zip(*self.all_gather(batches), strict=True) for share in shares]

    # For layers and `DataParallel` ----------------------------------------------------------------

    @property
    def listeners(self) -> list[Any]:
        """Objects whose `begin` is called when a backward reaches a loss; oldest first."""
        return list(self._listeners.values())  # a WeakSet has another order on each rank

    def listen(self, listener: Any) -> int:
        """Add one to `listeners`, as long as it exists; return an order for its sums.

        Each listener has its own order, because ranks may start the sums of two listeners in
        different sequences.
        """
        gc.collect()  # of models that refer to themselves, at the same time on every rank
        free = set.intersection(*map(set, self.all_gather(self._orders)))
        if free:
            self._orders.remove(order := min(free))
        else:
            order = 0 if self._exchange is None else self._exchange.new_order()
        self._listeners[order] = listener
        return order

    def forget(self, order: int) -> None:
        """Remove a listener, on every rank alike."""
        self._listeners.pop(order, None)

    def release(self, order: int) -> None:
        """Let another listener use an order, whose sums are complete."""
        self._orders.append(order)

    def agree(self, what: str, note: bytes = b"") -> np.ndarray[Any, Any]:
        """Raise the same ValueError on every rank unless all call this with the same text.

        Returns:
            The ranks' notes, which are of equal size: uint8, `(ranks, len(note))`.
        """
        if self._exchange is not None:
            return self._exchange.agree(what, note)
        return np.frombuffer(note, np.uint8).reshape(1, -1)

    def connect(self, backend: Backend) -> bool:
        """Let sums and broadcasts go from GPU to GPU, all in one order; return whether they can.

        Every rank must make this call at the same point.
        """
        if self._exchange is not None and backend not in self._direct:
            self._direct[backend] = backend.connect(self)
        return self._direct.get(backend) is not None

    def start_sum(self, array: Array, order: int = 0) -> Pending:
        """Start to sum an array over ranks, in place, unchecked; see `Exchange.start_sum`."""
        return self._collectives(array).start_sum(array, order)

    def start_broadcast(self, array: Array, source: int) -> Pending:
        """Start to overwrite an array with that of one rank, unchecked; in order with the sums."""
        return self._collectives(array).start_broadcast(array, source)

    def _collectives(self, array: Array) -> Collectives:
        if self._exchange is None:
            return _Alone()
        if isinstance(array, np.ndarray):
            return self._exchange
        return self._direct.get(backend_of(array)) or ThroughHost(self._exchange)

    def _summed(self, array: np.ndarray[Any, Any], what: str) -> np.ndarray[Any, Any]:
        """Return the sum over ranks of an array on the host; `what` describes the call."""
        if array.nbytes > NOTE and self._exchange is not None:
            self.agree(what)
            return self._exchange.reduce(array, "sum", what)
        notes = self.agree(what, array.tobytes())
        rows: np.ndarray[Any, Any] = np.frombuffer(notes.tobytes(), array.dtype)
        found: np.ndarray[Any, Any] = rows.reshape(self.size, *array.shape).sum(0)
        return found

    def _reduced(self, leaf: Any, op: str) -> Any:
        """Return a leaf's reduction, of its own type."""
        if isinstance(leaf, Tensor):
            if op == "sum" and leaf.requires_grad:
                return record(
                    "all_reduce",
                    self._array(leaf.array, op),
                    (leaf,),
                    lambda g: (self.all_reduce(g),),
                )
            return Tensor.wrap(self._array(leaf.array, op))
        is_number = isinstance(leaf, (bool, int, float, np.generic))
        array = np.asarray(leaf) if is_number else leaf
        found = self._array(array.astype(np.int64) if array.dtype == bool else array, op)
        if is_number:
            return found[()] if isinstance(leaf, np.generic) else found.item()
        return found

    def _array(self, array: Array, op: str) -> Array:
        backend = backend_of(array)
        if self._exchange is None:
            return array.copy()
        return backend.from_numpy(self._exchange.reduce(backend.to_numpy(array), op, "all_reduce"))


class _Alone:
    """The collectives of a single rank."""

    def start_sum(self, array: Array, order: int = 0) -> _Alone:
        return self

    def start_broadcast(self, array: Array, source: int) -> _Alone:
        return self

    def test(self) -> bool:
        return True

    def wait(self, what: str) -> None:
        pass


_worlds: list[World] = []


def world(timeout: float | None = None) -> World:
    """Return the world of all processes of this program; the first call starts MPI.

    Started by `mpiexec -n 4 python train.py` or Slurm's `srun`, the program runs in 4 processes,
    the ranks. Started as usual, or without MPI, it is a world of one rank, in which everything
    works too: the same script runs both ways.

    The ranks on one machine share its cores: the CPU kernels of each rank use an equal share as
    threads, unless `set_num_threads` or the environment says otherwise. They share its GPUs, too:
    `"cuda"` is the GPU of the local rank, modulo the number of GPUs, so call this first. NCCL sums
    gradients and sends the weights of a `ShardedOptimizer` from GPU to GPU; without NCCL,
    with a warning, both go through the host, as everything else always does.

    If a rank ends with an exception, its traceback is shown under its rank, and all others end too.

    Args:
        timeout: seconds for which a rank waits for the others before it raises; 600 by default.

    Raises:
        RuntimeError: several processes were started, but MPI is missing, or is not the launcher's.
        ValueError: the timeout is not positive.

    Example:
        >>> from minidl import distributed
        >>> distributed.world()
        World(rank=0, size=1)
    """
    if timeout is not None and not timeout > 0:
        raise ValueError(f"world: got timeout={timeout!r}, expected a number > 0")
    if not _worlds:
        found = mpi.module()
        if found is None or found.COMM_WORLD.size == 1:
            _worlds.append(World())
        else:
            exchange = Exchange(found, found.COMM_WORLD.Dup(), TIMEOUT)
            endings.watch(exchange)
            made = World(exchange)
            local = exchange.comm.Split_type(found.COMM_TYPE_SHARED)
            made.local_rank, made.local_size = local.rank, local.size
            placement.share_cores(Exchange(found, local, TIMEOUT))
            share_gpus(local.rank)
            _worlds.append(made)
    if timeout is not None and _worlds[0]._exchange is not None:
        _worlds[0]._exchange.timeout = timeout
    return _worlds[0]


# Values -----------------------------------------------------------------------------------------


def _check_loss(op: str, loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.dtype.kind != "f":
        raise TypeError(f"{op}: got a {type(loss).__name__}, expected a tensor of floats")


def _described(leaf: Any) -> str:
    """Describe those properties of a value on which ranks must agree."""
    kind = "Tensor" if isinstance(leaf, Tensor) else type(leaf).__name__
    if not hasattr(leaf, "dtype"):
        return kind
    grad = ", requires_grad" if isinstance(leaf, Tensor) and leaf.requires_grad else ""
    return f"{kind} {leaf.dtype} {tuple(leaf.shape)}{grad}"


def _mapped(value: Any, function: Callable[[Any], Any], who: str, place: str = "value") -> Any:
    """Apply a function to the numbers, arrays and tensors in nested state."""
    if isinstance(value, Mapping):
        return {k: _mapped(v, function, who, f"{place}[{k!r}]") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_mapped(v, function, who, f"{place}[{i}]") for i, v in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    is_int = isinstance(value, int) and abs(value) < 2**63
    if is_int or isinstance(value, (float, Tensor)) or _is_array(value):
        return function(value)
    raise TypeError(
        f"{who}: got a {type(value).__name__} at {place}, expected tensors, arrays, numbers of at "
        "most 64 bits, and dicts, lists and tuples of them"
    )


def _is_array(value: Any) -> bool:
    """Return whether a value is an array of numbers, on any device, or one of its items."""
    with contextlib.suppress(TypeError):
        return (isinstance(value, np.generic) or bool(backend_of(value))) and (
            value.dtype.kind in "fiub"
        )
    return False


def _encoded(value: Any) -> bytes:
    """Return nested state as bytes: a JSON text, a zero byte, then the arrays' bytes."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    devices: list[str] = []  # for each array: where its tensor was; "" for an array
    tree = packed(_on_host(value, devices), "value", arrays, "distributed")
    entries = zip(arrays.items(), devices, strict=True)
    kinds = [[name, a.dtype.str, a.shape, device] for (name, a), device in entries]
    head = json.dumps([tree, kinds]).encode()
    return b"".join([head, b"\0", *(a.tobytes() for a in arrays.values())])


def _on_host(value: Any, devices: list[str]) -> Any:
    """Replace tensors in nested state by arrays, and append their devices to a list."""
    if isinstance(value, Mapping):
        return {key: _on_host(v, devices) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_on_host(v, devices) for v in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, Tensor):
        devices.append(value.device)
        return value.numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        devices.append("")
    return value


def _decoded(data: bytes) -> Any:
    head, _, rest = data.partition(b"\0")
    tree, kinds = parse_json(head)
    arrays: dict[str, Any] = {}
    start = 0
    for name, dtype, shape, device in kinds:
        end = start + np.dtype(dtype).itemsize * math.prod(shape)
        array = np.frombuffer(rest[start:end], dtype).reshape(shape).copy()
        arrays[name] = Tensor(array, array.dtype, device) if device else array
        start = end
    return unpacked(tree, arrays)
