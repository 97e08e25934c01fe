"""Padding with a constant, or with elements from inside: reflected, repeated, or wrapped around."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from minidl.autograd import Gradients
from minidl.tensor import functions
from minidl.tensor.operands import kind_of, operand_array
from minidl.tensor.operations import Tensor, record

Mode = Literal["constant", "reflect", "edge", "wrap"]
Pairs = tuple[tuple[int, int], ...]
Index = tuple[slice, ...]
TORCH = {"zeros": "constant", "replicate": "edge", "circular": "wrap"}


def pad(
    x: Tensor, widths: Sequence[tuple[int, int]], value: float = 0.0, mode: Mode = "constant"
) -> Tensor:
    """Pad a tensor with `value`, or with elements from inside.

    | mode | `a b c` padded by 2 at both ends | in PyTorch |
    | --- | --- | --- |
    | `"constant"` | `0 0 a b c 0 0` | `"constant"` |
    | `"reflect"` | `c b a b c b a` | `"reflect"` |
    | `"edge"` | `a a a b c c c` | `"replicate"` |
    | `"wrap"` | `b c a b c a b` | `"circular"` |

    An element gets the gradients of all its copies.

    Args:
        x: any shape.
        widths: for each axis, how many elements to add before and after: with `"reflect"`, fewer
            than the axis has; with `"wrap"`, at most as many.
        value: the value of these elements, in mode `"constant"`.
        mode: NumPy's names, as in `np.pad`.

    Returns:
        A tensor larger by the widths.

    Raises:
        ValueError: there is not one pair of widths per axis, a width is out of range, or the mode
            is unknown.
        TypeError: `x` is not a tensor.

    Example:
        >>> pad(Tensor([1.0, 2.0, 3.0]), [(1, 2)], mode="reflect")
        Tensor([2., 1., 2., 3., 2., 1.], dtype=float32)
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"pad: got a {kind_of(x)}, expected a Tensor")
    key = mode if isinstance(mode, str) else ""  # lists cannot be looked up
    if key == "constant":
        if (fill := operand_array("pad", value, x)).ndim:
            raise ValueError(f"pad: got a value of shape {fill.shape}, expected a number")
        return functions.pad(x, widths, fill)
    if key not in COPIES:
        hint = f"; in minidl, {mode!r} is {TORCH[key]!r}" if key in TORCH else ""
        raise ValueError(f"pad: got mode={mode!r}, expected one of {['constant', *COPIES]}{hint}")
    return _padded(x, widths, mode)


def _padded(x: Tensor, widths: Sequence[tuple[int, int]], mode: Mode) -> Tensor:
    """Pad with elements from inside."""
    padded = functions.pad(x.detach(), widths)  # checks the widths
    pairs = tuple((int(before), int(after)) for before, after in widths)
    for size, pair in zip(x.shape, pairs, strict=True):
        most = {"reflect": size - 1, "wrap": size}.get(mode, max(pair) if size else 0)
        if max(pair) > max(most, 0):
            raise ValueError(
                f"pad: got widths {pair} for an axis of size {size}, expected at most "
                f"{max(most, 0)} with mode={mode!r}"
            )
    with padded.mutable() as array:
        for target, source in _copies(x.shape, pairs, mode):
            array[target] = array[source]

    def backward(gradient: Tensor) -> Gradients:
        return (_folded(gradient, x.shape, pairs, mode),)

    return record("pad", padded.array, (x,), backward)


def _folded(values: Tensor, shape: tuple[int, ...], pairs: Pairs, mode: Mode) -> Tensor:
    """Add the padding to the elements that it was copied from: the transpose of `_padded`."""
    array = values.array.copy()
    for target, source in reversed(_copies(shape, pairs, mode)):
        copies = array[target]
        if mode == "edge":
            copies = copies.sum(len(target) - 1, keepdims=True)
        array[source] += copies

    def backward(outer: Tensor) -> Gradients:
        return (_padded(outer, pairs, mode),)

    inside = tuple(slice(w[0], w[0] + n) for w, n in zip(pairs, shape, strict=True))
    return record("folded", array[inside].copy(), (values,), backward)


def _copies(shape: tuple[int, ...], pairs: Pairs, mode: Mode) -> list[tuple[Index, Index]]:
    """Return where to copy to, and from, in the padded array, one axis after the other."""
    found: list[tuple[Index, Index]] = []
    for axis, (n, (before, after)) in enumerate(zip(shape, pairs, strict=True)):
        end = before + n
        sources = COPIES[mode](n, before, after)
        for target, source in zip(
            (slice(0, before), slice(end, end + after)), sources, strict=True
        ):
            if target.start < target.stop:
                others = (slice(None),) * axis
                found.append(((*others, target), (*others, source)))
    return found


def _backwards(last: int, count: int) -> slice:
    """Return the slice of `count` elements that starts at `last` and goes down."""
    return slice(last, None if last < count else last - count, -1)


# For an axis of n elements: the slices of the padded array to copy before and after them.
COPIES: dict[str, Callable[[int, int, int], tuple[slice, slice]]] = {
    "reflect": lambda n, b, a: (_backwards(2 * b, b), _backwards(b + n - 2, a)),
    "edge": lambda n, b, a: (slice(b, b + 1), slice(b + n - 1, b + n)),
    "wrap": lambda n, b, a: (slice(n, n + b), slice(b, b + a)),
}
