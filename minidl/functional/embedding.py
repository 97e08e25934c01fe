"""Embedding: a table with one row of weights per word of a vocabulary."""

from __future__ import annotations

from minidl.autograd import Gradients, is_recording, recomputing
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

    This equals the product of one-hot rows and `weight`, without the multiplications.

    Args:
        indices: integers, `0 <= index < num_embeddings`, any shape.
        weight: `(num_embeddings, embedding_dim)`.
        padding_idx: an index whose row gets no gradient, such as that of the word that pads short
            sentences.
        max_norm: scale rows of a larger norm down to this norm before the lookup, in training and
            in evaluation. This modifies the weight, so backward through an earlier lookup raises;
            do one lookup per step.
        norm_type: p of that norm.
        sparse: make the gradient a `RowGradient`, which takes memory and time only for the rows
            looked up, however large the weight; optimisers then skip the other rows (see
            `Optimizer.step`). With `create_graph` the gradient is dense, as without `sparse`.

    Returns:
        `(*indices.shape, embedding_dim)`.

    Raises:
        TypeError: the indices are not integers, or are on another device.
        ValueError: the weight is not 2-d, an index is out of range, or a norm is not positive.

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
    if max_norm is not None and not recomputing.get():
        _shorten(weight, rows, max_norm, norm_type)

    def backward(gradient: Tensor) -> Gradients:
        if padding_idx is not None:
            gradient = gradient * (rows != padding_idx % len(weight))[..., None]
        if sparse and not is_recording():
            return (RowGradient(rows, gradient.array, weight.shape),)
        return (_add_rows(gradient, rows, weight.shape),)

    return record("embedding", weight.array[rows], (weight,), backward)


def check_padding_idx(op: str, padding_idx: int | None, count: int) -> None:
    """Raise ValueError unless `padding_idx` is None or the index of one of `count` rows."""
    if padding_idx is not None and not -count <= padding_idx < count:
        raise ValueError(f"{op}: got padding_idx={padding_idx}, expected {-count} to {count - 1}")


def _shorten(weight: Tensor, rows: Array, max_norm: float, norm_type: float) -> None:
    """Scale rows of the weight whose norm exceeds `max_norm` down to it."""
    if not (max_norm > 0 and norm_type > 0):
        raise ValueError(
            f"embedding: got max_norm={max_norm}, norm_type={norm_type}, expected positive numbers"
        )
    xp, found = weight.backend.xp, weight.array[rows]
    norms = Tensor.wrap(found).norm(norm_type, -1, keepdims=True).array
    with weight.mutable() as array:  # duplicate rows are written twice, with equal values
        array[rows] = xp.where(norms > max_norm, found * (max_norm / (norms + 1e-7)), found)


def _rows(indices: Tensor | Array, weight: Tensor) -> Array:
    """Return a copy of the indices as an array on the device of `weight`."""
    array = check_indices("embedding", indices, weight).copy()
    backend, shape = weight.backend, weight.shape

    def error() -> ValueError:
        found = backend.to_numpy(array)
        return ValueError(
            f"embedding: got indices from {found.min()} to {found.max()} for a weight of "
            f"shape {shape}, expected 0 to {shape[0] - 1}; is this another vocabulary?"
        )

    backend.raise_if((array < 0) | (array >= shape[0]), error)
    return array


def _add_rows(values: Tensor, rows: Array, shape: tuple[int, ...]) -> Tensor:
    """Add each row of values, in a table of zeros, to the row that it was looked up from."""
    table = values.backend.xp.zeros(shape, values.dtype)
    values.backend.index_add(table, rows, values.array)

    def backward(outer: Tensor) -> Gradients:
        return (outer[rows],)

    return record("add_rows", table, (values,), backward)
