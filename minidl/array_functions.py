"""Functions that make tensors or join several: NumPy's names, with their gradients."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.autograd import Gradients
from minidl.backends import Array, backend_for
from minidl.random import generator
from minidl.tensor import Operand, Tensor, as_operands, record

# New tensors ----------------------------------------------------------------------------------


def full(
    shape: Sequence[int] | int, value: float, dtype: Any = None, device: str = "cpu"
) -> Tensor:
    """Make a tensor of `shape` filled with `value`; float32 where no dtype is given.

    Example:
        >>> full((2, 2), 0.5)
        Tensor([[0.5, 0.5],
                [0.5, 0.5]], dtype=float32)
    """
    array = backend_for(device).xp.full(shape, value, np.float32 if dtype is None else dtype)
    return Tensor.wrap(array)


def zeros(shape: Sequence[int] | int, dtype: Any = None, device: str = "cpu") -> Tensor:
    """Make a tensor of zeros; float32 where no dtype is given."""
    return full(shape, 0, dtype, device)


def ones(shape: Sequence[int] | int, dtype: Any = None, device: str = "cpu") -> Tensor:
    """Make a tensor of ones; float32 where no dtype is given."""
    return full(shape, 1, dtype, device)


def arange(*bounds: int, dtype: Any = None, device: str = "cpu") -> Tensor:
    """Make a tensor of evenly spaced numbers: `arange(stop)` or `arange(start, stop[, step])`."""
    return Tensor(np.arange(*bounds), dtype, device)


def rand(
    *shape: int,
    dtype: Any = np.float32,
    device: str = "cpu",
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Draw numbers evenly from 0 to 1, on the host, from `rng` or the seeded stream."""
    return Tensor(generator(rng).random(shape), dtype, device)


def randn(
    *shape: int,
    dtype: Any = np.float32,
    device: str = "cpu",
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Draw numbers from the standard normal distribution, on the host.

    Example:
        >>> import numpy as np
        >>> randn(2, 3, rng=np.random.default_rng(0)).shape
        (2, 3)
    """
    return Tensor(generator(rng).standard_normal(shape), dtype, device)


# Choosing element by element ------------------------------------------------------------------


def where(condition: Array, a: Operand, b: Operand) -> Tensor:
    """Take elements of `a` where `condition` holds and of `b` elsewhere, with broadcasting.

    Args:
        condition: bool array (such as a comparison gives), not differentiated.
        a: tensor, array or number.
        b: tensor, array or number; at least one of the two a tensor.

    Raises:
        TypeError: the condition is not of bools, or neither `a` nor `b` is a tensor.
    """
    if isinstance(condition, Tensor):
        condition = condition.data
    if getattr(condition, "dtype", None) != bool:
        raise TypeError(f"where: got a condition {condition!r:.80}, wants an array of bools")
    a, b = as_operands("where", a, b)

    def backward(gradient: Tensor) -> Gradients:
        return (
            where(condition, gradient, 0) if a.requires_grad else None,
            where(condition, 0, gradient) if b.requires_grad else None,
        )

    return record("where", a.backend.xp.where(condition, a.data, b.data), (a, b), backward)


def maximum(a: Operand, b: Operand) -> Tensor:
    """Return the larger of each two elements; equal ones get half the gradient each, as in PyTorch.

    NaN beats every number.
    """
    return _larger("maximum", a, b)


def minimum(a: Operand, b: Operand) -> Tensor:
    """Return the smaller of each two elements; equal ones get half the gradient each."""
    return _larger("minimum", a, b)


def _larger(op: str, a: Operand, b: Operand) -> Tensor:
    a, b = as_operands(op, a, b)

    def backward(gradient: Tensor) -> Gradients:
        won = a > b if op == "maximum" else a < b
        share = won + 0.5 * (a == b)  # 1, a half, or 0
        return (
            gradient * share.astype(gradient.dtype) if a.requires_grad else None,
            gradient * (1 - share).astype(gradient.dtype) if b.requires_grad else None,
        )

    return record(op, getattr(a.backend.xp, op)(a.data, b.data), (a, b), backward)


# Joining --------------------------------------------------------------------------------------


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors along an axis that exists; each gets its own piece of the gradient.

    Raises:
        ValueError: there are none, or their shapes differ elsewhere than at `axis`.

    Example:
        >>> concatenate([ones(2), zeros(1)])
        Tensor([1., 1., 0.], dtype=float32)
    """
    if not tensors:
        raise ValueError("concatenate: got no tensors")
    first, *rest = tensors
    tensors = [first, *(as_operands("concatenate", first, other)[1] for other in rest)]
    shapes = [x.shape for x in tensors]
    place = axis + first.ndim if axis < 0 else axis
    if not 0 <= place < first.ndim or any(
        s[:place] + s[place + 1 :] != shapes[0][:place] + shapes[0][place + 1 :] for s in shapes
    ):
        raise ValueError(
            f"concatenate: got shapes {shapes} and axis {axis}; wants equal sizes but at that axis"
        )
    ends = np.cumsum([s[place] for s in shapes]).tolist()
    before = (slice(None),) * place

    def backward(gradient: Tensor) -> Gradients:
        return [
            gradient[(*before, slice(end - shape[place], end))] if x.requires_grad else None
            for x, shape, end in zip(tensors, shapes, ends, strict=True)
        ]

    array = first.backend.xp.concatenate([x.data for x in tensors], place)
    return record("concatenate", array, tensors, backward)


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis."""
    if not tensors:
        raise ValueError("stack: got no tensors")
    if any(x.shape != tensors[0].shape for x in tensors):
        raise ValueError(f"stack: got shapes {[x.shape for x in tensors]}, wants all equal")
    place = axis + tensors[0].ndim + 1 if axis < 0 else axis
    return concatenate([x.expand_dims(place) for x in tensors], place)


def pad(x: Tensor, widths: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Put elements of `value` around a tensor.

    Args:
        x: any shape.
        widths: for each axis, how many elements come before and after.
        value: what they are.

    Raises:
        ValueError: not one pair of widths per axis, or a negative one.

    Example:
        >>> pad(ones((1, 1)), [(0, 0), (1, 2)])
        Tensor([[0., 1., 0., 0.]], dtype=float32)
    """
    if len(widths) != x.ndim or any(len(w) != 2 or min(w) < 0 for w in widths):
        raise ValueError(
            f"pad: got widths {list(widths)} for shape {x.shape}, wants a (before, after) pair of "
            "numbers from 0 for each axis"
        )
    inside = tuple(slice(w[0], w[0] + size) for w, size in zip(widths, x.shape, strict=True))
    shape = [sum(w) + size for w, size in zip(widths, x.shape, strict=True)]
    array = x.backend.xp.full(shape, value, x.dtype)
    array[inside] = x.data

    def backward(gradient: Tensor) -> Gradients:
        return (gradient[inside],)

    return record("pad", array, (x,), backward)


# Sums of products -----------------------------------------------------------------------------


def einsum(subscripts: str, *operands: Tensor) -> Tensor:
    """Sum products of elements as subscripts say (Einstein's convention).

    Args:
        subscripts: a letter per axis, operands separated by commas: `"ij,jk->ik"`. Without `->`,
            letters that come once remain, in alphabetical order. A letter repeated within one
            operand takes its diagonal; `...` stands for leading axes, broadcast.
        operands: one tensor per group of letters.

    Raises:
        ValueError: subscripts and operands do not fit.

    Example:
        >>> a = arange(4, dtype=np.float32).reshape(2, 2)
        >>> einsum("ii->", a).item(), einsum("ij,ij->", a, a).item()
        (3.0, 14.0)
    """
    terms, output = _subscripts(subscripts, operands)
    reduced: list[Tensor] = []
    for place, x in enumerate(operands):
        term, x = _diagonal(terms[place], x)
        # Letters that nothing else has are summed away first: then every gradient is an einsum.
        elsewhere = "".join(terms[:place] + terms[place + 1 :]) + output
        alone = tuple(i for i, letter in enumerate(term) if letter not in elsewhere)
        terms[place] = "".join(letter for letter in term if letter in elsewhere)
        reduced.append(x.sum(alone) if alone else x)
    return _contract(terms, output, reduced)


def _contract(terms: Sequence[str], output: str, operands: Sequence[Tensor]) -> Tensor:
    """Do einsum where each letter comes once in a term, and in another term or the output."""

    def gradient_of(place: int, gradient: Tensor) -> Tensor:
        others = [i for i in range(len(terms)) if i != place]
        return _contract(
            [output, *(terms[i] for i in others)],
            terms[place],
            [gradient, *(operands[i] for i in others)],
        )

    def backward(gradient: Tensor) -> Gradients:
        return [
            gradient_of(place, gradient) if x.requires_grad else None
            for place, x in enumerate(operands)
        ]

    xp = operands[0].backend.xp
    array = xp.einsum(f"{','.join(terms)}->{output}", *(x.data for x in operands))
    return record("einsum", array.copy(), operands, backward)


def _diagonal(term: str, x: Tensor) -> tuple[str, Tensor]:
    """Replace axes of equal letters by their diagonal."""
    for letter in dict.fromkeys(term):
        first = term.index(letter)
        while (second := term.find(letter, first + 1)) > 0:
            if x.shape[first] != x.shape[second]:
                raise ValueError(f"einsum: axes {letter!r} of {term!r} differ in shape {x.shape}")
            order = [i for i in range(x.ndim) if i not in (first, second)]
            steps = np.arange(x.shape[first])
            x = x.transpose(first, second, *order)[steps, steps]
            term = letter + "".join(term[i] for i in order)
            first = 0
    return term, x


def _subscripts(subscripts: str, operands: Sequence[Tensor]) -> tuple[list[str], str]:
    """Split subscripts into a term per operand and the output's, with letters for `...`."""
    left, arrow, output = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(operands) or not operands:
        raise ValueError(f"einsum: {subscripts!r} names {len(terms)} operands, got {len(operands)}")
    spare = [letter for letter in string.ascii_letters if letter not in subscripts]
    ranks = [
        x.ndim - len(term.replace("...", "")) if "..." in term else 0
        for term, x in zip(terms, operands, strict=True)
    ]
    leading = "".join(spare[: max(0, *ranks, 0)])
    for place, (term, x) in enumerate(zip(terms, operands, strict=True)):
        terms[place] = term.replace("...", leading[len(leading) - ranks[place] :])
        if ranks[place] < 0 or len(terms[place]) != x.ndim:
            raise ValueError(f"einsum: term {term!r} does not fit shape {x.shape}")
    if not arrow:
        letters = "".join(terms)
        output = "..." + "".join(
            sorted(s for s in set(letters) - set(leading) if letters.count(s) == 1)
        )
    output = output.replace("...", leading)
    if len(set(output)) != len(output) or not set(output) <= set("".join(terms)):
        raise ValueError(f"einsum: output of {subscripts!r} repeats or invents a letter")
    return terms, output
