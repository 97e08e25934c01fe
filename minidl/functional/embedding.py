"""Embedding: a table with one row of weights for each word of a vocabulary."""

from __future__ import annotations

import numpy as np

from minidl.autograd import Gradients
from minidl.backends import Array, asarray, backend_of
from minidl.functional.geometry import check_floats
from minidl.operands import check_device
from minidl.tensor import Tensor, record


def embedding(indices: Tensor | Array, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Look up a row of `weight` for each index; the gradient is added to the rows looked up.

    It is the product of one-hot rows with `weight`, without the multiplications.

    Args:
        indices: integers from 0 to below `num_embeddings`, any shape.
        weight: `(num_embeddings, embedding_dim)`.
        padding_idx: an index whose row gets no gradient, such as that of the word which fills up
            short sentences.

    Returns:
        `(*indices.shape, embedding_dim)`.

    Raises:
        TypeError: the indices are no integers, or are on another device.
        ValueError: the weight has not two axes, or an index is out of range.

    Example:
        >>> import minidl
        >>> table = minidl.arange(6, dtype="float32").reshape(3, 2)
        >>> embedding([2, 0], table)
        Tensor([[4., 5.],
                [0., 1.]], dtype=float32)
    """
    check_floats("embedding", weight)
    if weight.ndim != 2:
        raise ValueError(
            f"embedding: got a weight of shape {weight.shape}, wants (num_embeddings, "
            "embedding_dim)"
        )
    rows = _rows(indices, weight)
    if padding_idx is not None and not -len(weight) <= padding_idx < len(weight):
        raise ValueError(
            f"embedding: got padding_idx={padding_idx}, wants {-len(weight)} to {len(weight) - 1}"
        )

    def backward(gradient: Tensor) -> Gradients:
        if padding_idx is not None:
            gradient = gradient * (rows != padding_idx % len(weight))[..., None]
        return (_add_rows(gradient, rows, weight.shape),)

    return record("embedding", weight.data[rows], (weight,), backward)


def _rows(indices: Tensor | Array, weight: Tensor) -> Array:
    """Return the indices as an array beside `weight` that nobody else changes."""
    array = indices.data if isinstance(indices, Tensor) else indices
    if not hasattr(array, "dtype"):  # lists are on no device yet
        array = weight.backend.from_numpy(np.asarray(array))
    array = asarray(array).copy()
    if array.dtype.kind not in "iu":
        raise TypeError(f"embedding: got indices of dtype {array.dtype}, wants integers")
    check_device("embedding", backend_of(array), weight.backend)
    backend, shape = weight.backend, weight.shape

    def error() -> ValueError:
        found = backend.to_numpy(array)
        return ValueError(
            f"embedding: got indices from {found.min()} to {found.max()} for a weight of "
            f"shape {shape}, wants 0 to {shape[0] - 1}; is the vocabulary another one?"
        )

    backend.raise_if((array < 0) | (array >= shape[0]), error)
    return array


def _add_rows(values: Tensor, rows: Array, shape: tuple[int, ...]) -> Tensor:
    """Add each row of values to the row of a table of zeros that it was looked up from."""
    table = values.backend.xp.zeros(shape, values.dtype)
    values.backend.index_add(table, rows, values.data)

    def backward(outer: Tensor) -> Gradients:
        return (outer[rows],)

    return record("add_rows", table, (values,), backward)
