"""Recurrent layers: GRU and LSTM, in one or two directions, several layers deep."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import functional as F
from minidl.backends import Array
from minidl.checks import check_fraction, check_whole
from minidl.functional.geometry import check_floats, check_given
from minidl.nn import init
from minidl.nn.module import Module, Parameter
from minidl.tensor import Tensor
from minidl.tensor.functions import concatenate, stack, where, zeros
from minidl.tensor.operands import array_beside, kind_of


class Recurrent(Module):
    """What `GRU` and `LSTM` share: weights, directions, and layers on top of each other."""

    _gates = 0

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        check_whole(type(self).__name__, 1, **sizes)
        check_fraction(type(self).__name__, "dropout", dropout)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, dropout
        self.bidirectional, self._rng = bidirectional, rng
        bound, rows = hidden_size**-0.5, self._gates * hidden_size
        directions = 2 if bidirectional else 1
        for layer, end in self._names():
            features = input_size if layer == 0 else directions * hidden_size
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (rows, features),
                "weight_hh": (rows, hidden_size),
            }
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
            for name, shape in shapes.items():
                values = init.uniform_(zeros(shape), -bound, bound, rng)
                setattr(self, f"{name}_{end}", Parameter(values))

    def _names(self) -> list[tuple[int, str]]:
        """Return each layer's number, and the end of its weights' names, for each direction."""
        ends = ("", "_reverse") if self.bidirectional else ("",)
        return [(i, f"l{i}{end}") for i in range(self.num_layers) for end in ends]

    def _weights(self, end: str) -> tuple[Any, Any, Any, Any]:
        """Return the weights and biases, which may be None, of one direction of one layer."""
        wi, wh = getattr(self, f"weight_ih_{end}"), getattr(self, f"weight_hh_{end}")
        if not self.bias:
            return wi, wh, None, None
        return wi, wh, getattr(self, f"bias_ih_{end}"), getattr(self, f"bias_hh_{end}")

    def _run(
        self, x: Tensor, starts: list[Tensor | None], mask: Tensor | Array | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return all outputs, and the final states of each kind.

        Args:
            x: the sequences.
            starts: a state of each kind, `(layers * directions, n, hidden)`, or None for zeros.
            mask: True where a step counts, of the first two axes of x; or None.
        """
        op = type(self).__name__
        check_floats(op, x)
        if x.ndim != 3 or x.shape[2] != self.input_size:
            axes = "(n, length" if self.batch_first else "(length, n"
            raise ValueError(f"{op}: got shape {x.shape}, expected {axes}, {self.input_size})")
        on = None if mask is None else array_beside(op, mask, x)
        if on is not None and (on.dtype != np.bool_ or on.shape != x.shape[:2]):
            raise ValueError(
                f"{op}: got a mask of shape {on.shape} and dtype {on.dtype}, expected bools of "
                f"shape {x.shape[:2]}"
            )
        if self.batch_first:
            x, on = x.transpose(1, 0, 2), None if on is None else on.swapaxes(0, 1)
        first = self._starts(x, starts)
        ends: list[list[Tensor]] = []
        names = self._names()
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout, self.training, self._rng)
            outputs = []
            for place, (_, end) in enumerate(names):
                if names[place][0] == layer:
                    out, last = self._direction(x, [s[place] for s in first], end, on)
                    outputs.append(out if on is None else where(on[:, :, None], out, 0))
                    ends.append(last)
            x = outputs[0] if len(outputs) == 1 else concatenate(outputs, 2)
        finals = [stack(list(kind)) for kind in zip(*ends, strict=True)]
        return x.transpose(1, 0, 2) if self.batch_first else x, finals

    def _starts(self, x: Tensor, starts: list[Tensor | None]) -> list[Tensor]:
        """Return the states before the first step, zeros if they are not given."""
        shape = (len(self._names()), x.shape[1], self.hidden_size)
        for start in (given for given in starts if given is not None):
            check_given(type(self).__name__, state=start)
            if start.shape != shape:
                raise ValueError(
                    f"{type(self).__name__}: got a state of shape {start.shape}, expected {shape}: "
                    "(layers * directions, n, hidden_size)"
                )
        nothing = zeros(shape, dtype=x.dtype, device=x.device)
        return [nothing if start is None else start for start in starts]

    def _direction(
        self, x: Tensor, starts: list[Tensor], end: str, mask: Array | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return one direction's outputs of one layer, and its final states."""
        raise NotImplementedError


class GRU(Recurrent):
    """Gated recurrent units: see `functional.gru`.

    Args:
        input_size: features of each step.
        hidden_size: size of the state.
        num_layers: layers; each reads the outputs of the one before.
        bias: whether there are biases.
        batch_first: whether sequences are `(n, length, c)` instead of `(length, n, c)`.
        dropout: probability of dropout between layers, in training.
        bidirectional: also run from the end; outputs are both directions' side by side.
        rng: generator for the initial weights and dropout; the seeded stream if None.

    Attributes:
        weight_ih_l0: `(3 * hidden_size, input_size)`; for layer k and the way back,
            `weight_ih_lk_reverse`.
        weight_hh_l0: `(3 * hidden_size, hidden_size)`.
        bias_ih_l0: `(3 * hidden_size,)`.
        bias_hh_l0: `(3 * hidden_size,)`.

    Example:
        >>> import minidl
        >>> out, h = GRU(3, 4, bidirectional=True, batch_first=True)(minidl.ones(2, 5, 3))
        >>> out.shape, h.shape
        ((2, 5, 8), (2, 2, 4))
    """

    _gates = 3

    def forward(
        self, x: Tensor, h0: Tensor | None = None, mask: Tensor | Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the last layer's outputs, and the final state of each layer and direction.

        Args:
            x: `(length, n, input_size)`, or `(n, length, input_size)` with `batch_first`.
            h0: `(layers * directions, n, hidden_size)`; default zeros.
            mask: bools of the first two axes of x. Steps where it is False are skipped: their
                output is 0, and the state stays. For sequences of different lengths, padded at
                the end, this equals PyTorch's packed sequences.

        Returns:
            Outputs, with `directions * hidden_size` channels, and `(layers * directions, n,
            hidden_size)`.

        Raises:
            ValueError: shapes do not fit each other.
        """
        out, (last,) = self._run(x, [h0], mask)
        return out, last

    def _direction(
        self, x: Tensor, starts: list[Tensor], end: str, mask: Array | None
    ) -> tuple[Tensor, list[Tensor]]:
        back = end.endswith("_reverse")
        states = F.gru(x, starts[0], *self._weights(end), mask, back)
        return states, [states[0 if back else -1]]


class LSTM(Recurrent):
    """Long short-term memory: see `functional.lstm`, and `GRU` for the arguments.

    Its weights have four gates instead of three.

    Example:
        >>> import minidl
        >>> out, (h, c) = LSTM(3, 4, num_layers=2)(minidl.ones(5, 2, 3))
        >>> out.shape, h.shape, c.shape
        ((5, 2, 4), (2, 2, 4), (2, 2, 4))
    """

    _gates = 4

    def forward(
        self,
        x: Tensor,
        state: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | Array | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the last layer's outputs, and final states `(h, c)`: see `GRU.forward`.

        Args:
            x: `(length, n, input_size)`, or `(n, length, input_size)` with `batch_first`.
            state: h and c, each `(layers * directions, n, hidden_size)`; default zeros.
            mask: bools of the first two axes of x; False for steps to skip.
        """
        starts = [None, None] if state is None else state
        if not isinstance(starts, (tuple, list)) or len(starts) != 2:
            raise TypeError(f"LSTM: got a {kind_of(state)} as state, expected two tensors: (h, c)")
        out, (h, c) = self._run(x, list(starts), mask)
        return out, (h, c)

    def _direction(
        self, x: Tensor, starts: list[Tensor], end: str, mask: Array | None
    ) -> tuple[Tensor, list[Tensor]]:
        h, c = starts
        back = end.endswith("_reverse")
        states = F.lstm(x, h, c, *self._weights(end), mask, back)
        return states[0], [states[0, 0 if back else -1], states[1, 0 if back else -1]]
