"""Gradients to look at, drawn beside what they belong to, and to check against literal loops."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minidl import Tensor

# Gradients to look at -------------------------------------------------------------------------

WIDTH, GAP = 108, 4  # of a line, and between two blocks side by side, in characters
MOST_ROWS, MOST_COLUMNS, MOST_MATRICES = 6, 6, 3


def drawn_gradients(
    title: str,
    fn: Callable[..., Tensor],
    inputs: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray],
) -> str:
    """Run `fn` forward and backward; draw what went in and what came out side by side.

    The incoming gradient is 1, 2, 3, ...: one sees where each of its elements went.
    """
    tensors = [Tensor(array, requires_grad=True) for array in inputs.values()]
    output = fn(*tensors)
    incoming = 1.0 + np.arange(output.size).reshape(output.shape)
    output.backward(Tensor(incoming))
    x, *others = (
        [drawn(name, t.numpy()), drawn(f"gradient of {name}", t.grad.numpy(), hollow=True)]
        for name, t in zip(inputs, tensors, strict=True)
    )
    blocks = [x[0], *(drawn(name, array) for name, array in constants.items())]
    blocks += [drawn("output", output.numpy()), drawn("incoming gradient", incoming), x[1]]
    rows = [*side_by_side(blocks), *side_by_side([block for pair in others for block in pair])]
    return "\n\n".join([title, *rows])


Block = list[list[str]]
"""An array as text: for each of its matrices, lines."""


def drawn(name: str, array: np.ndarray, hollow: bool = False) -> Block:
    """Draw an array in aligned columns under its name; `hollow` draws 0 as a dot.

    Of more than two axes, the first few matrices are drawn, to stand below each other.
    """
    stack = np.atleast_2d(array).reshape(-1, *np.atleast_2d(array).shape[-2:])
    shown = stack[:MOST_MATRICES, :MOST_ROWS, :MOST_COLUMNS]
    places = list(np.ndindex(array.shape[:-2]))
    names = [f"{name}{list(place)}" if place else name for place in places]
    decimals = next((d for d in (0, 1, 2) if np.allclose(shown, np.round(shown, d))), 3)
    cells = np.vectorize(lambda v: _cell(v, decimals, hollow), otypes=[object])(shown)
    width = max(map(len, cells.flat), default=0)
    block = []
    for caption, rows in zip(names, cells, strict=False):
        more = "  ..." if stack.shape[2] > MOST_COLUMNS else ""
        lines = ["  ".join(cell.rjust(width) for cell in row) + more for row in rows]
        block.append([caption, *lines, *["..."] * (stack.shape[1] > MOST_ROWS)])
    return block + [["..."]] * (len(stack) > MOST_MATRICES)


def _cell(value: Any, decimals: int, hollow: bool) -> str:
    if hollow and value == 0:
        return ".".ljust(1 + decimals)  # where the others have their point
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # -0.0 + 0.0 is 0.0


def side_by_side(blocks: list[Block]) -> Iterator[str]:
    """Yield rows of blocks, each no wider than a screen."""
    row: list[Block] = []
    for block in blocks:
        if sum(map(_width, [*row, block])) > WIDTH:
            yield _joined(row)
            row = []
        row.append(block)
    if row:
        yield _joined(row)


def _width(block: Block) -> int:
    return GAP + max(len(line) for lines in block for line in lines)


def _joined(row: list[Block]) -> str:
    """Set blocks beside each other, their first matrices in line, their second ones, ..."""
    text = []
    for matrices in itertools.zip_longest(*row, fillvalue=[]):
        for lines in itertools.zip_longest(*matrices, fillvalue=""):
            parts = (line.ljust(_width(b)) for line, b in zip(lines, row, strict=True))
            text.append("  " + "".join(parts).rstrip())
        text.append("")
    return "\n".join(text[:-1])


# Gradients to check ---------------------------------------------------------------------------


def check_affine(
    fn: Callable[..., Tensor],
    literal: Callable[..., np.ndarray],
    inputs: Sequence[np.ndarray],
    device: str,
) -> None:
    """Check value and gradients of a function that is affine in each of its inputs, in float64.

    It then changes by exactly `sum(gradient * v)`, weighted with the incoming gradient, when v is
    added to one input; how much it changes is asked of `literal`, a loop that has no gradient.
    """
    tensors = [Tensor(array, device=device, requires_grad=True) for array in inputs]
    output, value = fn(*tensors), literal(*inputs)
    assert output.shape == value.shape
    np.testing.assert_allclose(output.numpy(), value, atol=1e-12)
    rng = np.random.default_rng(1)
    incoming = rng.normal(size=output.shape)
    output.backward(Tensor(incoming, device=device))
    for place, (array, x) in enumerate(zip(inputs, tensors, strict=True)):
        step = rng.normal(size=array.shape)
        moved = literal(*inputs[:place], array + step, *inputs[place + 1 :])
        change, said = (incoming * (moved - value)).sum(), (x.grad.numpy() * step).sum()
        np.testing.assert_allclose(said, change, atol=1e-10, err_msg=f"gradient of input {place}")
