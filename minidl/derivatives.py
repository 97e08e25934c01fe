"""Gradients as return values; for Jacobians and Hessians see `curvature`.

Like `backward`, they go through a graph that was already recorded, but they return the result
instead of adding it to `.grad`. For one input tensor they return a tensor, for a list of inputs a
list (`grad` always returns a list, as PyTorch's `grad` always returns a tuple).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from minidl.autograd import propagate, set_recording, set_watcher, state
from minidl.backends import without_underflow
from minidl.tensor import Tensor
from minidl.tensor.functions import zeros


@without_underflow
def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    gradients: Sequence[Tensor] | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    materialize_grads: bool = False,
) -> list[Tensor]:
    """Return the gradients of `outputs` with respect to `inputs`, leaving every `.grad` alone.

    Args:
        outputs: a tensor or several; each a single number unless `gradients` are given.
        inputs: a tensor or several that the outputs were computed from.
        gradients: weights of the outputs, each of its output's shape; ones by default.
        create_graph: record the computation, so that the results can be differentiated again.
        retain_graph: keep the graph for another backward; defaults to `create_graph`.
        materialize_grads: return zeros for an input that requires a gradient but was not used,
            instead of raising.

    Returns:
        One tensor per input, of its shape and dtype.

    Raises:
        ValueError: an input was not used to compute the outputs, or requires no gradient.
        RuntimeError: an output requires no gradient, or any case in which `backward` raises it.

    Example:
        >>> import minidl
        >>> x = minidl.Tensor(3.0, requires_grad=True)
        >>> (slope,) = minidl.grad(x**3, x, create_graph=True)
        >>> slope.item(), minidl.grad(slope, x)[0].item()
        (27.0, 18.0)
    """
    outputs, inputs = listed("grad", outputs), listed("grad", inputs)
    starts = [None] * len(outputs) if gradients is None else listed("grad", gradients)
    if len(starts) != len(outputs):
        raise ValueError(f"grad: got {len(starts)} gradients for {len(outputs)} outputs")
    seeds = [output.seed_gradient(start) for output, start in zip(outputs, starts, strict=True)]
    wanted, found = {id(x) for x in inputs}, {}
    before = state()
    with set_recording(create_graph), set_watcher(None):
        for tensor, gradient in propagate(
            outputs, seeds, retain_graph, create_graph, before, inputs
        ):
            if id(tensor) in wanted:
                found[id(tensor)] = gradient.copy()
    for place, x in enumerate(inputs):
        if id(x) not in found and not (materialize_grads and x.requires_grad):
            raise ValueError(
                f"grad: input {place}, of shape {x.shape}, was not used to compute the outputs"
                + ("" if x.requires_grad else "; it does not require a gradient")
            )
    return [
        found[id(x)] if id(x) in found else zeros(x.shape, dtype=x.dtype, device=x.device)
        for x in inputs
    ]


def listed(who: str, tensors: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Return one tensor or several as a list."""
    alone = isinstance(tensors, Tensor) or not isinstance(tensors, Iterable)
    found: list[Tensor] = [tensors] if alone else list(tensors)  # type: ignore[list-item]
    for x in found:
        if not isinstance(x, Tensor):
            hint = ", not the function that computes them" if callable(x) else ""
            kind = type(tensors if hasattr(tensors, "dtype") else x).__name__
            raise TypeError(f"{who}: got a {kind}, expected tensors{hint}")
    return found
