"""Embedding: a trained vector for each word."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import functional as F
from minidl.backends import Array
from minidl.checks import check_whole
from minidl.functional.embedding import check_padding_idx
from minidl.nn.module import Module, Parameter
from minidl.tensor import Tensor
from minidl.tensor.functions import randn


class Embedding(Module):
    """Look up a vector for each index: `(...)` integers to `(..., embedding_dim)`.

    Args:
        num_embeddings: size of the vocabulary.
        embedding_dim: length of each vector.
        padding_idx: an index whose vector starts as zeros and is not trained.
        max_norm: the largest norm of a vector that is looked up; longer ones are scaled down, in
            the weight itself.
        norm_type: p of that p-norm.
        sparse: store the gradient only for the vectors looked up: the cost of a step then depends
            on its words, not on the size of the vocabulary. See `functional.embedding`.
        rng: generator for the initial weights; the seeded stream if None.

    Attributes:
        weight: `(num_embeddings, embedding_dim)`, drawn from the standard normal distribution.

    Example:
        >>> Embedding(10, 3)([[1, 2, 2, 9]]).shape
        (1, 4, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        sparse: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        check_whole("Embedding", 1, num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        check_padding_idx("Embedding", padding_idx, num_embeddings)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx, self.sparse = padding_idx, sparse
        self.max_norm, self.norm_type = max_norm, norm_type
        self.weight = Parameter(randn(num_embeddings, embedding_dim, rng=rng))
        if padding_idx is not None:
            with self.weight.mutable() as array:
                array[padding_idx] = 0

    @classmethod
    def from_pretrained(cls, vectors: Any, freeze: bool = True, **options: Any) -> Embedding:
        """Make a layer from existing vectors, such as GloVe's.

        Args:
            vectors: floats `(num_embeddings, embedding_dim)`: an array, nested list or tensor;
                copied unchanged, including the one at `padding_idx`.
            freeze: do not train them.
            options: further arguments of the layer, such as `padding_idx`.

        Raises:
            ValueError: the vectors are not 2-d.
            TypeError: they are not floats.

        Example:
            >>> layer = Embedding.from_pretrained([[0.0, 0.0], [1.5, 2.5]], padding_idx=0)
            >>> layer([1]), layer.weight.requires_grad
            (Tensor([[1.5, 2.5]], dtype=float32), False)
        """
        weight = Parameter(vectors, requires_grad=not freeze)
        if weight.ndim != 2:
            raise ValueError(
                f"Embedding.from_pretrained: got vectors of shape {weight.shape}, expected "
                "(num_embeddings, embedding_dim)"
            )
        options.setdefault("rng", np.random.default_rng(0))  # the draws are overwritten below
        count, width = weight.shape
        layer = cls(count, width, **options)
        layer.weight = weight
        return layer

    def forward(self, indices: Tensor | Array) -> Tensor:
        """Apply `functional.embedding`."""
        options = (self.padding_idx, self.max_norm, self.norm_type, self.sparse)
        return F.embedding(indices, self.weight, *options)
