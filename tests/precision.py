"""The precision of float32 on hostile inputs, operation by operation, in minidl and PyTorch.

python -m tests.precision > tests/benchmarks/PRECISION.md

Errors are in units of float32's eps, 1.2e-7, relative to the largest element of the compared array.
For operations that are sums of products, they are relative to the sum of absolute values, so that
cancellation does not count as an error. Elements beyond float32's range are left out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import minidl
from minidl import Tensor

from .helpers.op_table import OPS, Constant, Op, case
from .helpers.op_table import Case as Call

EPS = float(np.finfo(np.float32).eps)
LEAST = float(np.finfo(np.float32).tiny) / EPS  # the errors of smaller values are subnormal
WORST = 4
"""The largest allowed ratio of minidl's error to PyTorch's."""
Arrays = list[np.ndarray]


def _signs(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.choice([-1.0, 1.0], x.shape) * x


KINDS: dict[str, Callable[[tuple[int, ...], np.random.Generator], np.ndarray]] = {
    "usual": lambda shape, rng: rng.normal(size=shape),
    "tiny": lambda shape, rng: 1e-30 * rng.normal(size=shape),
    "huge": lambda shape, rng: 1e30 * rng.normal(size=shape),
    "zero": lambda shape, rng: np.zeros(shape),
    "constant": lambda shape, rng: np.full(shape, 0.1),
    "far": lambda shape, rng: 1e4 + rng.normal(size=shape),
    "mixed": lambda shape, rng: _signs(10 ** rng.uniform(-6, 6, shape), rng),
    "ten": lambda shape, rng: 10 * rng.normal(size=shape),
}
"""The distributions of inputs by name; `ten` is for exponentials."""

LIMITED = ("p", "alpha", "beta", "target")
"""Inputs of limited range, such as powers and probabilities, which are taken from the op table."""

SUMS = [
    "sum",
    "mean",
    "__add__",
    "__sub__",
    "__mul__",
    "__matmul__",
    "__rmatmul__",
    "einsum",
    "linear",
    "embedding",
    "__getitem__",
    "conv1d",
    "conv2d",
    "conv_transpose2d",
    "avg_pool1d",
    "avg_pool2d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "blur_pool2d",
    "global_avg_pool1d",
    "global_avg_pool2d",
    "spatial_pyramid_pool2d",
    "channel_avg_pool",
    "__iter__",
    "broadcast_to",
    "conv2d_relu",
    "conv2d_relu_max_pool2d",
    "conv_pool2d",
    "nll_loss",
    "gated_pool2d",
]
"""Sums of products, whose errors are relative to the terms."""

FLOORS: dict[str, Callable[[float], float]] = {
    "var": lambda x: x * x,
    "std": lambda x: x,
    **dict.fromkeys(
        ("batch_norm", "pending_batch_norm", "layer_norm", "group_norm"), lambda x: 1.0
    ),
}
"""The smallest scale of an output, given the largest input: exact outputs can be 0."""


def long_rows(n: int) -> Iterator[tuple[str, str, Call]]:
    """Yield operations that add about n elements: the name, the kind of input, and the call."""
    rng = np.random.default_rng(0)
    side = math.isqrt(n // 16)
    tall = (n // 4, 4)
    drawn = {
        "constant": np.full(tall, 0.1),
        "far": 100 + rng.normal(size=tall),
        "mixed": KINDS["mixed"](tall, rng),
        "cancels": rng.permutation(np.concatenate([a := rng.normal(size=tall)[::2], -a])),
    }
    for kind, x in drawn.items():
        pixels = x[: 4 * side * side].reshape(4, side, side, 4).transpose(0, 3, 1, 2)
        for op, options in [
            *((name, {"axis": axis}) for name in ("sum", "mean") for axis in (0, 1, None)),
            *((name, {"axis": 0}) for name in ("var", "std", "norm", "max", "min")),
            *((name, {"axis": 0}) for name in ("softmax", "log_softmax")),
        ]:
            yield op, kind, case(x=x, **options)
        for op, options in [
            ("sum", {"axis": (0, 2, 3)}),
            ("mean", {"axis": (2, 3)}),
            ("global_avg_pool2d", {}),
            ("batch_norm", {"training": True, "weight": np.ones(4), "bias": np.ones(4)}),
            ("group_norm", {"num_groups": 2, "weight": np.ones(4), "bias": np.ones(4)}),
        ]:
            yield op, f"{kind} pixels, channels last", case(x=pixels, **options)
            yield op, f"{kind} pixels", case(x=np.ascontiguousarray(pixels), **options)
        weights = {"weight": np.full((2, 4), 0.5), "bias": np.zeros(2)}
        yield "linear", f"{kind} rows", case(x=x, **weights)
        kernel = {"weight": np.full((2, 4, 1, 1), 0.5), "bias": np.zeros(2)}
        yield "conv2d", f"{kind} pixels", case(x=pixels, **kernel)
        yield "batch_norm", f"{kind} rows", case(x=x, training=True)
        yield "layer_norm", f"{kind} row", case(x=x.reshape(4, -1), normalized_shape=n // 4)
        word = np.zeros(n // 4, int)
        yield "embedding", f"{kind}, one word", case(weight=np.ones((3, 4)), indices=word)
        yield "__getitem__", f"{kind}, one element", case(x=np.ones(3), index=word)
        yield "__add__", f"{kind}, broadcast", case(a=x, b=np.ones(4))
        yield "__mul__", f"{kind}, broadcast", case(a=x, b=np.ones((1, 1)))
        for op in ("mse_loss", "l1_loss"):
            yield op, f"{kind} rows", case(x=x, target=np.zeros_like(x))
        classes = rng.integers(0, 4, len(x))
        yield "cross_entropy", f"{kind} rows", case(logits=x, target=classes)
        targets = Constant(rng.integers(0, 2, x.shape))
        yield "binary_cross_entropy_with_logits", f"{kind} rows", case(logits=x, target=targets)


@dataclass
class Row:
    """One call on one kind of input, and the largest errors of its output and its gradients."""

    op: str
    kind: str
    ours: tuple[float, float]
    theirs: tuple[float, float] | None = None

    @property
    def excess(self) -> float:
        """How many times PyTorch's error minidl's is; errors up to 2 eps count as 0."""
        if self.theirs is None:
            return 0.0
        pairs = zip(self.ours, self.theirs, strict=True)
        return max(0 if mine <= 2 else mine / max(other, 1) for mine, other in pairs)


def rows(n: int, peer: Callable[..., Arrays | None] | None = None) -> Iterator[Row]:
    """Measure all operations of the op table, and sums of n elements; `peer` is PyTorch."""
    left_out = ("nn.", "Tensor.to", "Tensor.copy")  # layers call functions; copies are exact
    ops = {op.name.rpartition(".")[2]: op for op in OPS if not op.name.startswith(left_out)}
    for op in ops.values():
        for of in [of for of in op.cases if all(array.size for array in of.arrays())][:5]:
            for kind in KINDS:
                for place in range(len(of.inputs) if kind != "usual" else 1):
                    yield _measured(op, kind, of, _hostile(of, kind, place), peer)
    for name, kind, of in long_rows(n):
        inputs = [array.astype(np.float32) for array in of.arrays()]
        yield _measured(ops[name], f"long: {kind}", of, inputs, peer)


def _hostile(of: Call, kind: str, place: int) -> Arrays:
    """Return inputs of a case's shapes, positive if the case's own are; one of them is hostile."""
    rng = np.random.default_rng(7)
    found = []
    for i, (name, plain) in enumerate(zip(of.inputs, of.arrays(), strict=True)):
        drawn = KINDS[kind if i == place else "usual"](plain.shape, rng)
        drawn = plain if name in LIMITED else drawn
        found.append((abs(drawn) if plain.min() > 0 else drawn).astype(np.float32))
    return found


def _measured(
    op: Op, kind: str, of: Call, inputs: Arrays, peer: Callable[..., Arrays | None] | None
) -> Row:
    name = op.name.rpartition(".")[2]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        wide = [x.astype(np.float64) for x in inputs]
        exact = _answers(op, of, wide)
        scales = _answers(op, of, [abs(x) for x in wide], abs) if name in SUMS else exact
        least = [FLOORS.get(name, lambda x: 0.0)(abs(wide[0]).max()), *[0.0] * len(inputs)]
        scales = [
            max(top, floor) if (top := abs(a)[np.isfinite(a)].max(initial=0.0)) > LEAST else 1.0
            for a, floor in zip(scales, least, strict=True)
        ]
        ours = _errors(_answers(op, of, inputs), exact, scales)
        theirs = None if peer is None else peer(name, of, inputs, _upstream(exact[0]))
        return Row(name, kind, ours, theirs and _errors(theirs, exact, scales))


def _upstream(output: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).normal(size=output.shape).astype(np.float32)


def _answers(op: Op, of: Call, inputs: Arrays, sign: Callable[[Any], Any] = lambda x: x) -> Arrays:
    """Return the output, and the gradients of the inputs."""
    tensors = [Tensor(x, requires_grad=True) for x in inputs]
    output = op.fn(*tensors, **of.options)
    start = Tensor(sign(_upstream(output.data)).astype(output.dtype))
    gradients = minidl.grad(output, tensors, [start], materialize_grads=True)
    return [output.numpy(), *(g.numpy() for g in gradients)]


def _errors(found: Arrays, exact: Arrays, scales: list[float]) -> tuple[float, float]:
    """Return the largest errors of the output and of the gradients, in eps."""
    worst = []
    for got, right, scale in zip(found, exact, scales, strict=True):
        inside = np.isfinite(right.astype(np.float32))
        off = abs(np.where(inside, got, 0) - np.where(inside, right, 0)) / scale / EPS
        worst.append(np.nan_to_num(off, nan=np.inf).max(initial=0.0))
    return float(worst[0]), float(max(worst[1:]))


def torch_answers(name: str, of: Call, inputs: Arrays, upstream: np.ndarray) -> Arrays | None:
    """Return PyTorch's output and gradients; None for an operation that it does not have."""
    import torch

    from .reference import make
    from .reference.case import Case

    if not (name in make.SPECIAL or hasattr(make.F, name) or hasattr(torch.Tensor, name)):
        return None
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    options = {
        key: torch.tensor(value, dtype=torch.float32 if value.dtype.kind == "f" else None)
        if isinstance(value, np.ndarray)
        else value
        for key, value in of.options.items()
    }
    same = Case(name, [x.shape for x in inputs], options)
    try:
        output = make.call(same, tensors)
    except (ImportError, TypeError, RuntimeError, ValueError, IndexError, AttributeError):
        return None  # it takes other arguments, or is torchvision's, which is missing
    if not isinstance(output, torch.Tensor) or output.shape != upstream.shape:
        return None
    if name == "scatter_add" and inputs[1].shape != same.options["index"].shape:
        return None  # PyTorch has no gradient for a source that is larger than the index
    found = torch.autograd.grad(output, tensors, torch.tensor(upstream), materialize_grads=True)
    return [output.detach().numpy(), *(g.to_dense().numpy() for g in found)]


def page(found: list[Row]) -> str:
    """Return a table with, for each operation, the input with the largest errors."""
    lines = [HEAD]
    for op in dict.fromkeys(row.op for row in found):
        own, cells = [row for row in found if row.op == op], []
        for place in (0, 1):
            row = max(own, key=lambda r: r.ours[place])
            theirs = "" if row.theirs is None else _written(row.theirs[place])
            cells += [_written(row.ours[place]), theirs, row.kind if row.ours[place] else ""]
        compared = [row.excess for row in own if row.theirs is not None]
        cells.append(_written(max(compared)) if compared else "")
        lines.append(f"| `{op}` | {' | '.join(cells)} |")
    return "\n".join(lines)


HEAD = f"""# Precision of float32

Largest errors against float64 on hostile inputs, in units of float32's eps; printed by
`python -m tests.precision` with PyTorch {{version}}, and explained there. Inputs:
{", ".join(KINDS)}, and sums of a million elements ("long").

"out": a result within float32's range is wrong by more than half its size. The last column is the
largest ratio to PyTorch's error over all inputs, where errors up to 2 count as 0; a ratio above
{WORST} is a fault.

| operation | output | PyTorch | input | gradients | PyTorch | input | ratio |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def _written(error: float) -> str:
    return f"{error:.1f}" if error < 1 / EPS / 2 else "out"


def main() -> None:
    """Print the page."""
    import torch

    torch.set_num_threads(1)
    print(page(list(rows(1_000_000, torch_answers))).format(version=torch.__version__))


if __name__ == "__main__":
    main()
