"""Jacobians, Hessians and Hessian-vector products: gradients, taken once per element or twice.

Like `grad`, they go through a graph that was already recorded, and return the result instead of
adding it to `.grad`. For one input tensor they return a tensor, for a list of inputs a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from minidl.autograd import set_recording
from minidl.derivatives import grad, listed
from minidl.tensor import Tensor
from minidl.tensor.functions import stack, zeros


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
    xs, factors = listed("hvp", inputs), listed("hvp", vectors)
    if [v.shape for v in factors] != [x.shape for x in xs]:
        shapes = [v.shape for v in factors], [x.shape for x in xs]
        raise ValueError(
            f"hvp: got vectors of shapes {shapes[0]}, expected the inputs' shapes {shapes[1]}"
        )
    slopes = _slopes("hvp", output, xs)
    products = grad(slopes, xs, factors, retain_graph=True, materialize_grads=True)
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
    outputs, xs = listed("jacobian", output), listed("jacobian", inputs)
    if len(outputs) != 1:
        raise TypeError(f"jacobian: got {len(outputs)} outputs, expected one")
    output = outputs[0]
    units = output.backend.xp.eye(output.size, dtype=output.dtype)
    rows = [
        grad(
            output,
            xs,
            [Tensor.wrap(unit.reshape(output.shape).copy())],
            create_graph=create_graph,
            retain_graph=True,
            materialize_grads=True,
        )
        for unit in units
    ]
    found = []
    with set_recording(create_graph):
        for place, x in enumerate(xs):
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
    xs = listed("hessian", inputs)
    rows = [jacobian(slope, xs) for slope in _slopes("hessian", output, xs)]
    return rows[0][0] if isinstance(inputs, Tensor) else rows


def _slopes(who: str, output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Return gradients that can be differentiated again: for a linear function, constants."""
    outputs = listed(who, output)
    if len(outputs) != 1 or outputs[0].size != 1:
        shapes = [x.shape for x in outputs]
        raise ValueError(
            f"{who}: got outputs of shapes {shapes}, expected one that is a single number"
        )
    slopes = grad(outputs, inputs, create_graph=True, materialize_grads=True)
    return [g if g.requires_grad else g.requires_grad_() for g in slopes]
