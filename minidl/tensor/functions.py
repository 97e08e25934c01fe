"""Functions that make tensors or join several: NumPy's names, with their gradients."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.autograd import Gradients, is_recording
from minidl.backends import Array, backend_for, backend_of
from minidl.random import generator
from minidl.tensor.operands import check_device, tensor_dtype, unpacked
from minidl.tensor.operations import Operand, Tensor, as_operands, record

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
    return _full("full", (shape,), value, dtype, device)


def zeros(*shape: Any, dtype: Any = None, device: str = "cpu") -> Tensor:
    """Make a tensor of zeros, `zeros(2, 3)` or `zeros((2, 3))`; float32 where no dtype is given."""
    return _full("zeros", shape, 0, dtype, device)


def ones(*shape: Any, dtype: Any = None, device: str = "cpu") -> Tensor:
    """Make a tensor of ones, `ones(2, 3)` or `ones((2, 3))`; float32 where no dtype is given."""
    return _full("ones", shape, 1, dtype, device)


def _full(op: str, shape: Sequence[Any], value: float, dtype: Any, device: str) -> Tensor:
    kind = np.float32 if dtype is None else tensor_dtype(op, dtype)
    return Tensor.wrap(backend_for(device).xp.full(_sizes(op, shape), value, kind))


def _sizes(op: str, shape: Sequence[Any]) -> tuple[int, ...]:
    """Return a shape given as one tuple or as separate numbers."""
    sizes = tuple(unpacked(shape))
    if not all(isinstance(size, (int, np.integer)) and size >= 0 for size in sizes):
        raise TypeError(
            f"{op}: got shape {sizes}, expected integers >= 0; dtype and device go by name"
        )
    return sizes


def arange(*bounds: float, dtype: Any = None, device: str = "cpu") -> Tensor:
    """Make a tensor of evenly spaced numbers: `arange(stop)` or `arange(start, stop[, step])`.

    Whole numbers give integers, others float32, where no dtype is given.
    """
    array = np.arange(*bounds)
    return Tensor(array, np.float32 if dtype is None and array.dtype.kind == "f" else dtype, device)


def rand(
    *shape: Any,
    dtype: Any = np.float32,
    device: str = "cpu",
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Draw numbers evenly from 0 to 1, on the host, from `rng` or the seeded stream."""
    return Tensor(generator(rng).random(_sizes("rand", shape)), dtype, device)


def randn(
    *shape: Any,
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
    return Tensor(generator(rng).standard_normal(_sizes("randn", shape)), dtype, device)


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
    if getattr(condition, "dtype", None) != np.bool_:
        raise TypeError(f"where: got a condition {condition!r:.80}, expected an array of bools")
    a, b = as_operands("where", a, b)
    if isinstance(condition, np.generic):  # what a comparison of single numbers gives
        condition = a.backend.scalar(bool(condition), np.bool_)
    check_device("where", backend_of(condition), a.backend)
    chosen = condition.copy() if is_recording() else condition  # its owner may change it

    def backward(gradient: Tensor) -> Gradients:
        return (
            where(chosen, gradient, 0) if a.requires_grad else None,
            where(chosen, 0, gradient) if b.requires_grad else None,
        )

    return record("where", a.backend.xp.where(chosen, a.data, b.data), (a, b), backward)


def maximum(a: Operand, b: Operand) -> Tensor:
    """Return the larger of each two elements; equal ones get half the gradient each, as in PyTorch.

    NaN beats every number; both elements then get the whole gradient, again as in PyTorch.
    """
    return _larger("maximum", a, b)


def minimum(a: Operand, b: Operand) -> Tensor:
    """Return the smaller of each two elements; equal ones get half the gradient each."""
    return _larger("minimum", a, b)


def _larger(op: str, a: Operand, b: Operand) -> Tensor:
    a, b = as_operands(op, a, b)

    def backward(gradient: Tensor) -> Gradients:
        # What the loser lacks of the gradient: all, or half where the two are equal.
        half = gradient.dtype.type(0.5) * (a == b)
        a_less, b_less = (a < b, a > b) if op == "maximum" else (a > b, a < b)
        return (
            gradient * (1 - half - a_less) if a.requires_grad else None,
            gradient * (1 - half - b_less) if b.requires_grad else None,
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
    tensors = _alike("concatenate", tensors)
    first = tensors[0]
    shapes = [x.shape for x in tensors]
    place = axis + first.ndim if axis < 0 else axis
    if not 0 <= place < first.ndim or any(
        s[:place] + s[place + 1 :] != shapes[0][:place] + shapes[0][place + 1 :] for s in shapes
    ):
        raise ValueError(
            f"concatenate: got shapes {shapes} and axis {axis}; expected equal sizes but at "
            f"that axis"
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
    tensors = _alike("stack", tensors)
    if any(x.shape != tensors[0].shape for x in tensors):
        raise ValueError(f"stack: got shapes {[x.shape for x in tensors]}, expected all equal")
    place = axis + tensors[0].ndim + 1 if axis < 0 else axis
    return concatenate([x.expand_dims(place) for x in tensors], place)


def _alike(op: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors of one device in one dtype: NumPy's choice, but integers widen no float."""
    if isinstance(tensors, Tensor):
        raise TypeError(f"{op}: got a Tensor, expected a list of tensors, as in {op}([a, b])")
    tensors = list(tensors)
    if not tensors:
        raise ValueError(f"{op}: got no tensors")
    for x in tensors:
        if not isinstance(x, Tensor):
            raise TypeError(f"{op}: got a {type(x).__name__}, expected tensors")
        check_device(op, x.backend, tensors[0].backend)
    dtypes = [x.dtype for x in tensors]
    dtype = np.result_type(*([kind for kind in dtypes if kind.kind == "f"] or dtypes))
    return [x.to(dtype=dtype) for x in tensors]


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
    pairs = widths if np.iterable(widths) else [widths]
    fit = [np.shape(pair) == (2,) and min(pair) >= 0 for pair in pairs]
    if len(fit) != x.ndim or not all(fit):
        raise ValueError(
            f"pad: got widths {widths} for shape {x.shape}, expected a (before, after) pair of "
            "numbers from 0 for each axis"
        )
    inside = tuple(slice(w[0], w[0] + size) for w, size in zip(widths, x.shape, strict=True))
    shape = [sum(w) + size for w, size in zip(widths, x.shape, strict=True)]
    array = x.backend.xp.full_like(x.data, value, shape=shape)  # in the same memory order
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
    operands = tuple(_alike("einsum", operands))
    _check_sizes(subscripts, terms, operands)
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
    formula = f"{','.join(terms)}->{output}"
    array = xp.einsum(formula, *(x.data for x in operands), optimize=True)
    return record("einsum", array, operands, backward)


def _diagonal(term: str, x: Tensor) -> tuple[str, Tensor]:
    """Replace axes of equal letters by their diagonal."""
    for letter in dict.fromkeys(term):
        first = term.index(letter)
        while (second := term.find(letter, first + 1)) > 0:
            order = [i for i in range(x.ndim) if i not in (first, second)]
            steps = np.arange(x.shape[first])
            x = x.transpose(first, second, *order)[steps, steps]
            term = letter + "".join(term[i] for i in order)
            first = 0
    return term, x


def _check_sizes(subscripts: str, terms: Sequence[str], operands: Sequence[Tensor]) -> None:
    """Raise ValueError where a letter stands for two sizes; axes that `...` names broadcast."""
    sizes: dict[str, int] = {}
    for term, x in zip(terms, operands, strict=True):
        for letter, size in zip(term, x.shape, strict=True):
            if letter in subscripts and sizes.setdefault(letter, size) != size:
                raise ValueError(
                    f"einsum: letter {letter!r} of {subscripts!r} stands for {sizes[letter]} "
                    f"and {size}"
                )


def _subscripts(subscripts: str, operands: Sequence[Tensor]) -> tuple[list[str], str]:
    """Split subscripts into a term per operand and the output's, with letters for `...`."""
    wrong = re.sub(r"[a-zA-Z, ]|\.\.\.|->(?!.*->)", "", subscripts)
    if wrong:
        raise ValueError(
            f"einsum: subscripts {subscripts!r} hold {wrong!r}; expected letters, commas, '...' "
            f"and "
            "one '->'"
        )
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
