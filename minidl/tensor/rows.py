"""Gradients of large tables of which a step touches few rows."""

from __future__ import annotations

from typing import Any, NoReturn

from minidl.backends import Array, backend_of
from minidl.tensor.operations import Tensor


class RowGradient(Tensor):
    """The gradient of a table that is zero but for some rows, of which it keeps nothing else.

    It is a tensor of the table's shape like any other: whoever asks for its array has it made, with
    all the zeros. Optimisers and `clip_grad_norm_` ask for the rows, and adding two of these gives
    another one.

    Sizes do not depend on how often a row comes, so that a GPU need not be waited for: a row that
    comes k times has its sum at the first of its k places, and zeros at the others.

    Args:
        rows: numbers of the rows, in any order, repeated at will.
        values: what each adds to the gradient, `(*rows.shape, *shape[1:])`.
        shape: of the table.

    Attributes:
        rows: the numbers, `(n,)`, sorted.
        first: for each of them, the first place with the same number.
        values: `(n, *shape[1:])`: sums at first places, zeros elsewhere.

    Example:
        >>> import numpy as np
        >>> gradient = RowGradient(np.array([3, 0, 3]), np.ones((3, 2)), (4, 2))
        >>> gradient.values
        Tensor([[1., 1.],
                [2., 2.],
                [0., 0.]], dtype=float64)
        >>> gradient.sum(1)
        Tensor([2., 0., 0., 4.], dtype=float64)
    """

    __slots__ = ("_shape", "first", "rows", "values")

    def __init__(self, rows: Array, values: Array, shape: tuple[int, ...]) -> None:
        backend = backend_of(values)
        found = rows.reshape(-1)
        self.rows = backend.xp.sort(found)
        self.first = backend.xp.searchsorted(self.rows, self.rows)
        sums = backend.xp.zeros((len(self.rows), *shape[1:]), values.dtype)
        slots = backend.xp.searchsorted(self.rows, found)
        backend.index_add(sums, slots, values.reshape(sums.shape))
        self.values, self._shape = Tensor.wrap(sums), shape
        self._begin(backend)

    @property
    def _data(self) -> Array:
        """The whole table, made anew whenever it is asked for."""
        table = self.backend.xp.zeros(self._shape, self.dtype)
        table[self.rows] = self.values.data[self.first]
        self.backend.set_writeable(table, False)
        return table

    @property
    def stored(self) -> Tensor:
        """What is kept: `values`."""
        return self.values

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the table's axes."""
        return self._shape

    @property
    def dtype(self) -> Any:
        """NumPy's name for the kind of number."""
        return self.values.dtype

    def mutable(self) -> NoReturn:
        """Refuse: what is written to a table made on demand would be lost."""
        raise ValueError(
            "RowGradient.mutable: the table is made when asked for, and not kept; change .values, "
            "or put a copy of the whole in its place: p.grad = minidl.Tensor(p.grad.data)"
        )

    def copy(self) -> RowGradient:
        """Return another one with memory of its own."""
        return RowGradient(self.rows, self.values.data, self._shape)

    def __add__(self, other: Any) -> Tensor:
        """Add; the sum of two row gradients has the rows of both."""
        if not isinstance(other, RowGradient):
            return super().__add__(other)
        xp = self.backend.xp
        rows = xp.concatenate([self.rows, other.rows])
        values = xp.concatenate([self.values.data, other.values.data])
        return RowGradient(rows, values, self._shape)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let `copy` and `pickle` make a tensor of the whole."""
        return Tensor, (self.numpy(), None, self.device)
