"""Derivatives as return values: gradients, Jacobians, Hessians and Hessian-vector products.

Like `backward`, they go through a graph that was already recorded, but they return the result
instead of adding it to `.grad`. For one input tensor they return a tensor, for a list of inputs a
list (`grad` always returns a list, as PyTorch's `grad` always returns a tuple).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

from minidl.autograd import propagate, set_recording, set_watcher, state
from minidl.backends import without_underflow
from minidl.tensor import Tensor
from minidl.tensor.functions import stack, zeros


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
    outputs, inputs = _listed("grad", outputs), _listed("grad", inputs)
    starts = [None] * len(outputs) if gradients is None else _listed("grad", gradients)
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


@overload
def hvp(output: Tensor, inputs: Tensor, vectors: Tensor) -> Tensor: ...
@overload
def hvp(output: Tensor, inputs: Sequence[Tensor], vectors: Sequence[Tensor]) -> list[Tensor]: ...
def hvp(
    output: Tensor, inputs: Tensor | Sequence[Tensor], vectors: Tensor | Sequence[Tensor]
) -> Tensor | list[Tensor]:
    """Multiply the Hessian of a single number by a vector, without building the Hessian.

    `H v = d(g . v)/dx` for the gradient `g = d(output)/dx`: two backward passes, however many
    inputs there are. The graph is retained.

    Args:
        output: a single number.
        inputs: a tensor or several that it was computed from.
        vectors: for each input, a tensor of its shape to multiply by.

    Returns:
        For each input, a tensor of its shape; zeros where the Hessian is zero.

    Raises:
        ValueError: the output is not a single number, or a vector has the wrong shape.

    Source: B. Pearlmutter, Fast Exact Multiplication by the Hessian (1994), by reverse mode twice.

    Example:
        >>> import minidl
        >>> x = minidl.Tensor([1.0, 2.0], requires_grad=True)
        >>> hvp((x**3).sum(), x, minidl.ones(2))
        Tensor([ 6., 12.], dtype=float32)
    """
    listed, factors = _listed("hvp", inputs), _listed("hvp", vectors)
    if [v.shape for v in factors] != [x.shape for x in listed]:
        shapes = [v.shape for v in factors], [x.shape for x in listed]
        raise ValueError(
            f"hvp: got vectors of shapes {shapes[0]}, expected the inputs' shapes {shapes[1]}"
        )
    slopes = _slopes("hvp", output, listed)
    products = grad(slopes, listed, factors, retain_graph=True, materialize_grads=True)
    return products[0] if isinstance(inputs, Tensor) else products


@overload
def jacobian(output: Tensor, inputs: Tensor, *, create_graph: bool = False) -> Tensor: ...
@overload
def jacobian(
    output: Tensor, inputs: Sequence[Tensor], *, create_graph: bool = False
) -> list[Tensor]: ...
def jacobian(
    output: Tensor, inputs: Tensor | Sequence[Tensor], *, create_graph: bool = False
) -> Tensor | list[Tensor]:
    """Return the derivatives of the elements of `output` with respect to those of each input.

    This takes one backward pass per element of the output. The graph is retained.

    Args:
        output: any shape.
        inputs: a tensor or several that it was computed from.
        create_graph: record the computation, so that the result can be differentiated again.

    Returns:
        For each input, a tensor of shape `(*output.shape, *input.shape)`.

    Example:
        >>> import minidl
        >>> x = minidl.Tensor([1.0, 2.0], requires_grad=True)
        >>> jacobian(x * x.sum(), x)
        Tensor([[4., 1.],
                [2., 5.]], dtype=float32)
    """
    outputs, listed = _listed("jacobian", output), _listed("jacobian", inputs)
    if len(outputs) != 1:
        raise TypeError(f"jacobian: got {len(outputs)} outputs, expected one")
    output = outputs[0]
    units = output.backend.xp.eye(output.size, dtype=output.dtype)
    rows = [
        grad(
            output,
            listed,
            [Tensor.wrap(unit.reshape(output.shape).copy())],
            create_graph=create_graph,
            retain_graph=True,
            materialize_grads=True,
        )
        for unit in units
    ]
    found = []
    with set_recording(create_graph):
        for place, x in enumerate(listed):
            column = [row[place] for row in rows]
            joined = stack(column) if column else zeros(0, dtype=x.dtype, device=x.device)
            found.append(joined.reshape(*output.shape, *x.shape))
    return found[0] if isinstance(inputs, Tensor) else found


@overload
def hessian(output: Tensor, inputs: Tensor) -> Tensor: ...
@overload
def hessian(output: Tensor, inputs: Sequence[Tensor]) -> list[list[Tensor]]: ...
def hessian(output: Tensor, inputs: Tensor | Sequence[Tensor]) -> Tensor | list[list[Tensor]]:
    """Return the second derivatives of a single number with respect to all pairs of input elements.

    This takes one backward pass through the gradient's graph per element of the inputs; for more
    than a few hundred, use `hvp`. The graph is retained.

    Args:
        output: a single number.
        inputs: a tensor or several that it was computed from.

    Returns:
        For one input, a tensor of shape `(*input.shape, *input.shape)`; for several, a list of
        lists: `found[i][j]` has shape `(*inputs[i].shape, *inputs[j].shape)`.

    Raises:
        ValueError: the output is not a single number.

    Example:
        >>> import minidl
        >>> x = minidl.Tensor([1.0, 2.0], requires_grad=True)
        >>> hessian((x[0] ** 3) * x[1], x)
        Tensor([[12.,  3.],
                [ 3.,  0.]], dtype=float32)
    """
    listed = _listed("hessian", inputs)
    rows = [jacobian(slope, listed) for slope in _slopes("hessian", output, listed)]
    return rows[0][0] if isinstance(inputs, Tensor) else rows


def _slopes(who: str, output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Return gradients that can be differentiated again: for a linear function, constants."""
    outputs = _listed(who, output)
    if len(outputs) != 1 or outputs[0].size != 1:
        shapes = [x.shape for x in outputs]
        raise ValueError(
            f"{who}: got outputs of shapes {shapes}, expected one that is a single number"
        )
    slopes = grad(outputs, inputs, create_graph=True, materialize_grads=True)
    return [g if g.requires_grad else g.requires_grad_() for g in slopes]


def _listed(who: str, tensors: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Return one tensor or several as a list."""
    alone = isinstance(tensors, Tensor) or not isinstance(tensors, Iterable)
    listed: list[Tensor] = [tensors] if alone else list(tensors)  # type: ignore[list-item]
    for x in listed:
        if not isinstance(x, Tensor):
            hint = ", not the function that computes them" if callable(x) else ""
            kind = type(tensors if hasattr(tensors, "dtype") else x).__name__
            raise TypeError(f"{who}: got a {kind}, expected tensors{hint}")
    return listed
