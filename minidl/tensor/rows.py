"""Row-sparse gradients, for large tables of which a step uses few rows."""

from __future__ import annotations

from typing import Any, NoReturn

from minidl.backends import Array, backend_of
from minidl.tensor.operations import Tensor


class RowGradient(Tensor):
    """The gradient of a table that is zero except in some rows; only these are stored.

    It is a tensor of the table's shape like any other: accessing `.array` builds the dense array.
    Optimisers and `clip_grad_norm_` use the rows, and adding two row gradients gives another one.

    Sizes do not depend on how often a row occurs, which avoids a GPU sync: for a row that occurs k
    times, the first of its k entries holds the sum, and the others hold zeros.

    Args:
        rows: indices of the rows, in any order; duplicates allowed.
        values: the contribution of each, `(*rows.shape, *shape[1:])`.
        shape: the table's shape.

    Attributes:
        rows: the indices, `(n,)`, sorted.
        first: for each entry of `rows`, the position of the first equal one.
        values: `(n, *shape[1:])`: sums at first positions, zeros elsewhere.

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
        """The dense table, rebuilt on every access."""
        table = self.backend.xp.zeros(self._shape, self.dtype)
        table[self.rows] = self.values.array[self.first]
        self.backend.set_writeable(table, False)
        return table

    @property
    def stored(self) -> Tensor:
        """What is stored: `values`."""
        return self.values

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the table's axes."""
        return self._shape

    @property
    def dtype(self) -> Any:
        """The NumPy dtype of the elements."""
        return self.values.dtype

    def mutable(self) -> NoReturn:
        """Refuse: what is written to a table built on demand would be lost."""
        raise ValueError(
            "RowGradient.mutable: the table is built on access and not stored; change .values, "
            "or replace the gradient by a dense copy: p.grad = minidl.Tensor(p.grad.data)"
        )

    def copy(self) -> RowGradient:
        """Return a copy with its own memory."""
        return RowGradient(self.rows, self.values.array, self._shape)

    def __add__(self, other: Any) -> Tensor:
        """Add; the sum of two row gradients has the rows of both."""
        if not isinstance(other, RowGradient):
            return super().__add__(other)
        xp = self.backend.xp
        rows = xp.concatenate([self.rows, other.rows])
        values = xp.concatenate([self.values.array, other.values.array])
        return RowGradient(rows, values, self._shape)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let `copy` and `pickle` make a dense tensor."""
        return Tensor, (self.numpy(), None, self.device)
