"""Recurrent networks: GRU and LSTM over whole sequences.

The inputs of all steps are multiplied by their weight at once; only the product with the hidden
state has to wait for the step before. On a backend that fuses, the recurrence is one kernel, whose
gradient is written by hand; otherwise, and for gradients that are differentiated again, it is
composed of small operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.autograd import Gradients, is_recording
from minidl.backends import Array
from minidl.functional import cells
from minidl.functional.activation import sigmoid
from minidl.functional.composed import composed_gradients, may_use_kernel
from minidl.functional.geometry import check_floats, check_given, check_together
from minidl.functional.linear import linear
from minidl.tensor import Tensor, record
from minidl.tensor.functions import stack, where
from minidl.tensor.operands import array_beside


def gru(
    x: Tensor,
    h0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    mask: Tensor | Array | None = None,
    reverse: bool = False,
) -> Tensor:
    """Return the hidden state after each step of a gated recurrent unit, one layer, one direction.

    With gates `r, z` and a candidate `n`, in this order in weights and biases:

        r = sigmoid(W_r x + b_r + U_r h + c_r)      z = sigmoid(W_z x + b_z + U_z h + c_z)
        n = tanh(W_n x + b_n + r * (U_n h + c_n))   h = (1 - z) * n + z * h

    Args:
        x: `(length, n, features)`.
        h0: the state before the first step, `(n, hidden)`.
        weight_ih: W, `(3 * hidden, features)`.
        weight_hh: U, `(3 * hidden, hidden)`.
        bias_ih: b, `(3 * hidden,)`, or None.
        bias_hh: c, `(3 * hidden,)`, or None.
        mask: bools `(length, n)`; a step where it is False leaves the state as it is.
        reverse: go from the last step to the first.

    Returns:
        `(length, n, hidden)`; with `reverse`, the final state is that of step 0.

    Raises:
        ValueError: shapes do not fit each other.
        TypeError: dtypes or devices differ, or the mask is not of bools.

    Source: K. Cho et al., Learning Phrase Representations using RNN Encoder-Decoder (2014), section
    2.3, with the reset gate where cuDNN and PyTorch have it.

    Example:
        >>> import minidl
        >>> x, h0 = minidl.ones(3, 1, 2), minidl.ones(1, 1)
        >>> gru(x, h0, minidl.zeros(3, 2), minidl.zeros(3, 1)).reshape(3)
        Tensor([0.5  , 0.25 , 0.125], dtype=float32)
    """
    weights = {"weight_ih": weight_ih, "weight_hh": weight_hh}
    off = _check("gru", 3, x, h0, mask, {"bias_ih": bias_ih, "bias_hh": bias_hh}, **weights)
    inputs = (linear(x, weight_ih, bias_ih), h0, weight_hh, bias_hh)

    def composed(gates: Tensor, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        states: list[Tensor] = []
        size = h.shape[1]
        for step in _order(len(gates), reverse):
            part, inner = gates[step], linear(h, weight, bias)
            opened = sigmoid(part[:, : 2 * size] + inner[:, : 2 * size])
            r, z = opened[:, :size], opened[:, size:]
            n = (part[:, 2 * size :] + r * inner[:, 2 * size :]).tanh()
            h = _kept(off, step, n + z * (h - n), h)
            states.append(h)
        return stack(states[::-1] if reverse else states)

    return _recurrence("gru", composed, inputs, off, reverse)


def lstm(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    mask: Tensor | Array | None = None,
    reverse: bool = False,
) -> Tensor:
    """Return the hidden and cell states after each step of long short-term memory, one layer.

    With gates `i, f, o` and a candidate `g`, in the order `i, f, g, o` in weights and biases:

        i, f, o = sigmoid(W x + b + U h + u)        g = tanh(W_g x + b_g + U_g h + u_g)
        c = f * c + i * g                           h = o * tanh(c)

    Args:
        x: `(length, n, features)`.
        h0: the hidden state before the first step, `(n, hidden)`.
        c0: the cell state before the first step, `(n, hidden)`.
        weight_ih: W, `(4 * hidden, features)`.
        weight_hh: U, `(4 * hidden, hidden)`.
        bias_ih: b, `(4 * hidden,)`, or None.
        bias_hh: u, `(4 * hidden,)`, or None.
        mask: bools `(length, n)`; a step where it is False leaves the states as they are.
        reverse: go from the last step to the first.

    Returns:
        `(2, length, n, hidden)`: hidden states, then cell states.

    Raises:
        ValueError: shapes do not fit each other.
        TypeError: dtypes or devices differ, or the mask is not of bools.

    Source: S. Hochreiter and J. Schmidhuber, Long Short-Term Memory (1997), with the forget gate of
    F. Gers et al., Learning to Forget (2000).

    Example:
        >>> import minidl
        >>> x, h0, c0 = minidl.ones(2, 1, 2), minidl.zeros(1, 1), minidl.ones(1, 1)
        >>> lstm(x, h0, c0, minidl.zeros(4, 2), minidl.zeros(4, 1))[1].reshape(2)
        Tensor([0.5 , 0.25], dtype=float32)
    """
    given = {"c0": c0, "weight_ih": weight_ih, "weight_hh": weight_hh}
    off = _check("lstm", 4, x, h0, mask, {"bias_ih": bias_ih, "bias_hh": bias_hh}, **given)
    inputs = (linear(x, weight_ih, bias_ih), h0, c0, weight_hh, bias_hh)

    def composed(
        gates: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        states: list[tuple[Tensor, Tensor]] = []
        size = h.shape[1]
        for step in _order(len(gates), reverse):
            sums = gates[step] + linear(h, weight, bias)
            i, f, g, o = (sums[:, size * k : size * (k + 1)] for k in range(4))
            new = sigmoid(f) * c + sigmoid(i) * g.tanh()
            h = _kept(off, step, sigmoid(o) * new.tanh(), h)
            c = _kept(off, step, new, c)
            states.append((h, c))
        states = states[::-1] if reverse else states
        return stack([stack([h for h, _ in states]), stack([c for _, c in states])])

    return _recurrence("lstm", composed, inputs, off, reverse)


def _check(
    op: str,
    count: int,
    x: Tensor,
    h0: Tensor,
    mask: Any,
    biases: dict[str, Tensor | None],
    **needed: Tensor,
) -> Array | None:
    """Check all arguments; return where the mask is False, `(length, n, 1)`, or None."""
    check_given(op, input=x, h0=h0, **needed)
    given = {**needed, **biases}
    check_together(op, input=x, h0=h0, **given)
    check_floats(op, x)
    if x.ndim != 3 or h0.ndim != 2 or h0.shape[0] != x.shape[1] or not len(x):
        raise ValueError(
            f"{op}: got an input of shape {x.shape} and h0 of shape {h0.shape}, expected "
            "(length >= 1, n, features) and (n, hidden); is the batch the first axis?"
        )
    rows = count * h0.shape[1]
    shapes: dict[str, tuple[int, ...]] = {"bias_ih": (rows,), "bias_hh": (rows,)}
    shapes |= {"weight_ih": (rows, x.shape[2]), "weight_hh": (rows, h0.shape[1]), "c0": h0.shape}
    for name, tensor in given.items():
        if tensor is not None and tensor.shape != shapes[name]:
            raise ValueError(f"{op}: got {name} of shape {tensor.shape}, expected {shapes[name]}")
    if mask is None:
        return None
    array = array_beside(op, mask, x)
    if array.dtype != np.bool_:
        raise TypeError(f"{op}: got a mask of dtype {array.dtype}, expected bools")
    if array.shape != x.shape[:2]:
        raise ValueError(
            f"{op}: got a mask of shape {array.shape}, expected (length, n) = {x.shape[:2]}"
        )
    return ~array[:, :, None]


def _order(length: int, reverse: bool) -> range:
    return range(length - 1, -1, -1) if reverse else range(length)


def _kept(off: Array | None, step: int, new: Tensor, old: Tensor) -> Tensor:
    """Return the new state, or the old one where the step is masked."""
    return new if off is None else where(off[step], old, new)


def _recurrence(
    op: str,
    composed: Callable[..., Tensor],
    inputs: tuple[Tensor | None, ...],
    off: Array | None,
    reverse: bool,
) -> Tensor:
    """Run the kernel of `op`, or its composed form where the kernel cannot be used."""
    gates, *others = inputs
    assert gates is not None
    if not may_use_kernel(gates) or not gates.size:
        return composed(*inputs)
    backend, axis = gates.backend, 0 if op == "gru" else 1
    flip = (slice(None),) * axis + (slice(None, None, -1 if reverse else 1),)
    start = [None if x is None else x.array for x in others]
    steps_off = None if off is None else off[:: -1 if reverse else 1]
    forward: Any = cells.gru_forward if op == "gru" else cells.lstm_forward
    run = gates.array[:: -1 if reverse else 1]
    states, saved = forward(backend, run, *start, steps_off)
    start.pop()  # the bias

    def backward(gradient: Tensor) -> Gradients:
        if is_recording():
            return composed_gradients(composed, inputs, gradient)
        rule: Any = cells.gru_backward if op == "gru" else cells.lstm_backward
        arrays = rule(backend, gradient.array[flip], *start, steps_off, states, saved)
        dx, *found = map(Tensor.wrap, (arrays[0][:: -1 if reverse else 1], *arrays[1:]))
        return dx, *(d if x is not None else None for d, x in zip(found, others, strict=True))

    return record(op, states[flip], inputs, backward)
