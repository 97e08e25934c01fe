"""Embedding: a vector for each word, learnt."""

from __future__ import annotations

import numpy as np

from minidl import functional as F
from minidl.array_functions import randn
from minidl.backends import Array
from minidl.functional.geometry import check_whole
from minidl.nn.module import Module, Parameter
from minidl.tensor import Tensor


class Embedding(Module):
    """Look up a vector for each index: `(...)` integers to `(..., embedding_dim)`.

    Args:
        num_embeddings: size of the vocabulary.
        embedding_dim: length of each vector.
        padding_idx: an index whose vector starts as zeros and is not trained.
        rng: where to draw initial weights from; the seeded stream where None.

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
        rng: np.random.Generator | None = None,
    ) -> None:
        check_whole("Embedding", 1, num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(
                f"Embedding: got padding_idx={padding_idx}, wants {-num_embeddings} to "
                f"{num_embeddings - 1}"
            )
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx
        self.weight = Parameter(randn(num_embeddings, embedding_dim, rng=rng))
        if padding_idx is not None:
            with self.weight.mutable() as array:
                array[padding_idx] = 0

    def forward(self, indices: Tensor | Array) -> Tensor:
        """Apply `functional.embedding`."""
        return F.embedding(indices, self.weight, self.padding_idx)
