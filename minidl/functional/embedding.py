"""Embedding: a table with one row of weights for each word of a vocabulary."""

from __future__ import annotations

import math

from minidl.autograd import Gradients, is_recording
from minidl.backends import Array
from minidl.functional.geometry import check_floats, check_indices
from minidl.tensor import Tensor, record
from minidl.tensor.rows import RowGradient


def embedding(
    indices: Tensor | Array,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    sparse: bool = False,
) -> Tensor:
    """Look up a row of `weight` for each index; the gradient is added to the rows looked up.

    It is the product of one-hot rows with `weight`, without the multiplications.

    Args:
        indices: integers from 0 to below `num_embeddings`, any shape.
        weight: `(num_embeddings, embedding_dim)`.
        padding_idx: an index whose row gets no gradient, such as that of the word which fills up
            short sentences.
        max_norm: before they are looked up, rows of a larger norm are scaled down to it, in the
            weight itself, whether training or not. An earlier look-up of the same weight can then
            not be differentiated any more: look up all words of a step at once.
        norm_type: p of that norm.
        sparse: let the gradient be a `RowGradient`, which costs memory and time for the rows looked
            up and no others, however large the weight; optimisers then leave the others alone (see
            `Optimizer.step`). With `create_graph` the gradient is whole, as without it.

    Returns:
        `(*indices.shape, embedding_dim)`.

    Raises:
        TypeError: the indices are no integers, or are on another device.
        ValueError: the weight has not two axes, an index is out of range, or a norm not positive.

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
            f"embedding: got a weight of shape {weight.shape}, expected (num_embeddings, "
            "embedding_dim)"
        )
    rows = _rows(indices, weight)
    check_padding_idx("embedding", padding_idx, len(weight))
    if max_norm is not None:
        _shorten(weight, rows, max_norm, norm_type)

    def backward(gradient: Tensor) -> Gradients:
        if padding_idx is not None:
            gradient = gradient * (rows != padding_idx % len(weight))[..., None]
        if sparse and not is_recording():
            return (RowGradient(rows, gradient.data, weight.shape),)
        return (_add_rows(gradient, rows, weight.shape),)

    return record("embedding", weight.data[rows], (weight,), backward)


def check_padding_idx(op: str, padding_idx: int | None, count: int) -> None:
    """Raise ValueError unless an index is None or that of one of `count` rows."""
    if padding_idx is not None and not -count <= padding_idx < count:
        raise ValueError(f"{op}: got padding_idx={padding_idx}, expected {-count} to {count - 1}")


def _shorten(weight: Tensor, rows: Array, max_norm: float, norm_type: float) -> None:
    """Scale rows of the weight that are longer than `max_norm` down to it."""
    if not (max_norm > 0 and norm_type > 0):
        raise ValueError(
            f"embedding: got max_norm={max_norm}, norm_type={norm_type}, expected a positive number"
        )
    xp, found = weight.backend.xp, weight.data[rows]
    sizes = abs(found)
    if norm_type == math.inf:
        norms = sizes.max(-1, keepdims=True)
    else:
        norms = (sizes**norm_type).sum(-1, keepdims=True) ** (1 / norm_type)
    with weight.mutable() as array:  # a row that comes twice is written twice, and alike
        array[rows] = xp.where(norms > max_norm, found * (max_norm / (norms + 1e-7)), found)


def _rows(indices: Tensor | Array, weight: Tensor) -> Array:
    """Return the indices as an array beside `weight` that nobody else changes."""
    array = check_indices("embedding", indices, weight).copy()
    backend, shape = weight.backend, weight.shape

    def error() -> ValueError:
        found = backend.to_numpy(array)
        return ValueError(
            f"embedding: got indices from {found.min()} to {found.max()} for a weight of "
            f"shape {shape}, expected 0 to {shape[0] - 1}; is the vocabulary another one?"
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
