"""Functions that create or join tensors: NumPy's names, with gradients."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.autograd import Gradients, is_recording
from minidl.backends import Array, backend_for, backend_of, without_underflow
from minidl.random import generator, uniform
from minidl.tensor.operands import check_device, tensor_dtype, unpacked
from minidl.tensor.operations import Operand, Tensor, as_operands, record

# New tensors ----------------------------------------------------------------------------------


def full(
    shape: Sequence[int] | int, value: float, dtype: Any = None, device: str = "cpu"
) -> Tensor:
    """Return a tensor of `shape` filled with `value`; float32 by default.

    Example:
        >>> full((2, 2), 0.5)
        Tensor([[0.5, 0.5],
                [0.5, 0.5]], dtype=float32)
    """
    return _full("full", (shape,), value, dtype, device)


def from_dlpack(x: Any) -> Tensor:
    """Return a tensor that shares the memory of another library's array or tensor, on its device.

    minidl never writes to this memory: `mutable()` and optimisers refuse. Its owner must not write
    to it while a `backward` may need it, because `backward` cannot notice. `Tensor(x)` copies.

    Args:
        x: an object with `__dlpack__`: an array or tensor of NumPy, CuPy, PyTorch, JAX and others.

    Returns:
        A tensor with the dtype of `x`, which requires no gradient.

    Raises:
        AttributeError: `x` has no `__dlpack_device__`.
        TypeError: tensors do not support its dtype.
        BufferError: its library does not export it, such as a PyTorch tensor that requires a
            gradient.

    Example:
        >>> import numpy as np
        >>> pixels = np.zeros((2, 3))
        >>> np.shares_memory(from_dlpack(pixels).array, pixels)
        True
    """
    device = "cpu" if x.__dlpack_device__()[0] == 1 else "cuda"
    array = backend_for(device).xp.from_dlpack(x)
    tensor_dtype("from_dlpack", array.dtype)
    return Tensor.wrap(array)


def zeros(*shape: Any, dtype: Any = None, device: str = "cpu") -> Tensor:
    """Return a tensor of zeros, `zeros(2, 3)` or `zeros((2, 3))`; float32 by default."""
    return _full("zeros", shape, 0, dtype, device)


def ones(*shape: Any, dtype: Any = None, device: str = "cpu") -> Tensor:
    """Return a tensor of ones, `ones(2, 3)` or `ones((2, 3))`; float32 by default."""
    return _full("ones", shape, 1, dtype, device)


def _full(op: str, shape: Sequence[Any], value: float, dtype: Any, device: str) -> Tensor:
    kind = np.float32 if dtype is None else tensor_dtype(op, dtype)
    return Tensor.wrap(backend_for(device).xp.full(_sizes(op, shape), value, kind))


def _sizes(op: str, shape: Sequence[Any]) -> tuple[int, ...]:
    """Return a shape given as one tuple or as separate integers."""
    sizes = tuple(unpacked(shape))
    if not all(isinstance(size, (int, np.integer)) and size >= 0 for size in sizes):
        raise TypeError(
            f"{op}: got shape {sizes}, expected integers >= 0; pass dtype and device by name"
        )
    return sizes


def arange(*bounds: float, dtype: Any = None, device: str = "cpu") -> Tensor:
    """Return evenly spaced values: `arange(stop)` or `arange(start, stop[, step])`.

    By default, integer arguments give integers, others float32.
    """
    array = np.arange(*bounds)
    return Tensor(array, np.float32 if dtype is None and array.dtype.kind == "f" else dtype, device)


def rand(
    *shape: Any,
    dtype: Any = np.float32,
    device: str = "cpu",
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Draw values uniformly from `0 <= x < 1` on the host, from `rng` or the global stream."""
    kind = tensor_dtype("rand", dtype)
    return Tensor(uniform(rng, _sizes("rand", shape), kind), kind, device)


def randn(
    *shape: Any,
    dtype: Any = np.float32,
    device: str = "cpu",
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Draw values from the standard normal distribution on the host.

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
        condition: bool array, such as a comparison returns; not differentiated.
        a: tensor, array or number.
        b: tensor, array or number; at least one of the two a tensor.

    Raises:
        TypeError: the condition is not a bool array, or neither `a` nor `b` is a tensor.
    """
    if isinstance(condition, Tensor):
        condition = condition.array
    if getattr(condition, "dtype", None) != np.bool_:
        raise TypeError(f"where: got a condition {condition!r:.80}, expected an array of bools")
    a, b = as_operands("where", a, b)
    if isinstance(condition, np.generic):  # from a comparison of 0-d arrays
        condition = a.backend.scalar(bool(condition), np.bool_)
    check_device("where", backend_of(condition), a.backend)
    chosen = condition.copy() if is_recording() else condition  # its owner may change it

    def backward(gradient: Tensor) -> Gradients:
        return (
            where(chosen, gradient, 0) if a.requires_grad else None,
            where(chosen, 0, gradient) if b.requires_grad else None,
        )

    return record("where", a.backend.xp.where(chosen, a.array, b.array), (a, b), backward)


def maximum(a: Operand, b: Operand) -> Tensor:
    """Return the elementwise maximum; equal elements get half the gradient each, as in PyTorch.

    NaN propagates; both elements then get the whole gradient, again as in PyTorch.
    """
    return _larger("maximum", a, b)


def minimum(a: Operand, b: Operand) -> Tensor:
    """Return the elementwise minimum; equal elements get half the gradient each."""
    return _larger("minimum", a, b)


def _larger(op: str, a: Operand, b: Operand) -> Tensor:
    a, b = as_operands(op, a, b)

    def backward(gradient: Tensor) -> Gradients:
        # The loser misses the whole gradient, or half of it if the two are equal.
        half = gradient.dtype.type(0.5) * (a == b)
        a_less, b_less = (a < b, a > b) if op == "maximum" else (a > b, a < b)
        return (
            gradient * (1 - half - a_less) if a.requires_grad else None,
            gradient * (1 - half - b_less) if b.requires_grad else None,
        )

    return record(op, getattr(a.backend.xp, op)(a.array, b.array), (a, b), backward)


# Joining --------------------------------------------------------------------------------------


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors along an existing axis; each gets its slice of the gradient.

    Raises:
        ValueError: there are no tensors, or their shapes differ outside `axis`.

    Example:
        >>> concatenate([ones(2), zeros(1)])
        Tensor([1., 1., 0.], dtype=float32)
    """
    tensors = _alike("concatenate", tensors)
    first = tensors[0]
    shapes = [x.shape for x in tensors]
    place = axis + first.ndim if axis < 0 else axis
    others = [s[:place] + s[place + 1 :] for s in shapes]
    if not 0 <= place < first.ndim or any(sizes != others[0] for sizes in others):
        raise ValueError(
            f"concatenate: got shapes {shapes} and axis {axis}; expected equal sizes except "
            "at that axis"
        )
    ends = np.cumsum([s[place] for s in shapes]).tolist()
    before = (slice(None),) * place

    def backward(gradient: Tensor) -> Gradients:
        return [
            gradient[(*before, slice(end - shape[place], end))] if x.requires_grad else None
            for x, shape, end in zip(tensors, shapes, ends, strict=True)
        ]

    array = first.backend.xp.concatenate([x.array for x in tensors], place)
    return record("concatenate", array, tensors, backward)


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors of equal shape along a new axis."""
    tensors = _alike("stack", tensors)
    if any(x.shape != tensors[0].shape for x in tensors):
        raise ValueError(f"stack: got shapes {[x.shape for x in tensors]}, expected all equal")
    place = axis + tensors[0].ndim + 1 if axis < 0 else axis
    return concatenate([x.expand_dims(place) for x in tensors], place)


def _alike(op: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors on one device in a common dtype: NumPy's, but integers never widen floats."""
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
    """Pad a tensor with `value`.

    Args:
        x: any shape.
        widths: for each axis, how many elements to add before and after.
        value: the value of these elements.

    Raises:
        ValueError: there is not one pair of widths per axis, or a width is negative.

    Example:
        >>> pad(ones((1, 1)), [(0, 0), (1, 2)])
        Tensor([[0., 1., 0., 0.]], dtype=float32)
    """
    pairs = widths if np.iterable(widths) else [widths]
    fit = [np.shape(pair) == (2,) and min(pair) >= 0 for pair in pairs]
    if len(fit) != x.ndim or not all(fit):
        raise ValueError(
            f"pad: got widths {widths} for shape {x.shape}, expected a (before, after) pair of "
            "integers >= 0 for each axis"
        )
    inside = tuple(slice(w[0], w[0] + size) for w, size in zip(widths, x.shape, strict=True))
    shape = [sum(w) + size for w, size in zip(widths, x.shape, strict=True)]
    array = x.backend.xp.full_like(x.array, value, shape=shape)  # in the same memory order
    array[inside] = x.array

    def backward(gradient: Tensor) -> Gradients:
        return (gradient[inside],)

    return record("pad", array, (x,), backward)


# Sums of products -----------------------------------------------------------------------------


def einsum(subscripts: str, *operands: Tensor) -> Tensor:
    """Sum products of elements as the subscripts specify (Einstein's convention).

    Args:
        subscripts: a letter per axis, operands separated by commas: `"ij,jk->ik"`. Without `->`,
            letters that occur once remain, in alphabetical order. A letter repeated within one
            operand takes its diagonal; `...` stands for leading axes, which broadcast.
        operands: one tensor per group of letters.

    Raises:
        ValueError: subscripts and operands do not match.

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
        # First sum over letters that occur nowhere else: then every gradient is an einsum.
        elsewhere = "".join(terms[:place] + terms[place + 1 :]) + output
        alone = tuple(i for i, letter in enumerate(term) if letter not in elsewhere)
        terms[place] = "".join(letter for letter in term if letter in elsewhere)
        reduced.append(x.sum(alone) if alone else x)
    return _contract(terms, output, reduced)


@without_underflow
def _contract(terms: list[str], output: str, operands: list[Tensor]) -> Tensor:
    """Compute an einsum whose letters occur once per term, and in another term or the output."""

    def gradient_of(place: int, gradient: Tensor) -> Tensor:
        others = operands[:place] + operands[place + 1 :]
        names = terms[:place] + terms[place + 1 :]
        return _contract([output, *names], terms[place], [gradient, *others])

    def backward(gradient: Tensor) -> Gradients:
        return [
            gradient_of(place, gradient) if x.requires_grad else None
            for place, x in enumerate(operands)
        ]

    xp = operands[0].backend.xp
    formula = f"{','.join(terms)}->{output}"
    array = xp.einsum(formula, *(x.array for x in operands), optimize=True)
    return record("einsum", array, operands, backward)


def _diagonal(term: str, x: Tensor) -> tuple[str, Tensor]:
    """Replace axes with equal letters by their diagonal."""
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
    """Raise ValueError if a letter stands for two sizes; axes under `...` broadcast."""
    sizes: dict[str, int] = {}
    for term, x in zip(terms, operands, strict=True):
        for letter, size in zip(term, x.shape, strict=True):
            if letter in subscripts and sizes.setdefault(letter, size) != size:
                raise ValueError(
                    f"einsum: letter {letter!r} of {subscripts!r} stands for sizes "
                    f"{sizes[letter]} and {size}"
                )


def _subscripts(subscripts: str, operands: Sequence[Tensor]) -> tuple[list[str], str]:
    """Split subscripts into one term per operand and one for the output, with letters for `...`."""
    wrong = re.sub(r"[a-zA-Z, ]|\.\.\.|->(?!.*->)", "", subscripts)
    if wrong:
        raise ValueError(
            f"einsum: subscripts {subscripts!r} contain {wrong!r}; expected letters, commas, "
            "'...' and one '->'"
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
        single = [s for s in set(letters) - set(leading) if letters.count(s) == 1]
        output = "..." + "".join(sorted(single))
    output = output.replace("...", leading)
    if len(set(output)) != len(output) or not set(output) <= set("".join(terms)):
        raise ValueError(f"einsum: output of {subscripts!r} has a repeated or unknown letter")
    return terms, output
