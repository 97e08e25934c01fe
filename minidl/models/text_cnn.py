"""The reference network of chapter 9: convolutions over the words of a sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidl import functional as F
from minidl import nn
from minidl.backends import Array, asarray, backend_of
from minidl.checks import check_whole
from minidl.tensor import Tensor
from minidl.tensor.functions import concatenate


class TextCNN(nn.Module):
    """Classify sentences by their strongest phrases.

    Words become vectors, so a sentence is an image with a row for each word. Filters as wide as the
    image and a few words tall slide down it; ReLU and the maximum over time keep each filter's
    strongest response; a linear layer weights these. Vectors are drawn uniformly from -0.25 to 0.25
    as in Kim's program: those of `nn.Embedding` cost five points of accuracy on MR.

    Args:
        vocab_size: number of known words.
        embedding_dim: length of a word's vector.
        num_filters: filters of each size.
        filter_sizes: heights of the filters, in words.
        num_classes: number of classes.
        dropout: share of the strongest responses that training drops.
        padding_idx: index of the padding word; None for none.
        sparse: see `nn.Embedding`.
        pooling: `"max"` over time, or `"average"`, over padding as well.
        rng: generator for the initial weights and dropout; the seeded stream if None.

    It maps word indices `(n, length)` to logits `(n, num_classes)`. Sentences shorter than the
    largest filter are padded to its size.

    Raises:
        ValueError: a size is not an integer >= 1, or there are no filters; when called: the input
            is not a batch of sentences, is too short without a `padding_idx`, or has words that
            are not in the vocabulary.

    Source: Y. Kim, Convolutional Neural Networks for Sentence Classification (2014), CNN-rand.

    Example:
        >>> TextCNN(1000, 16)([[5, 8, 999], [4, 0, 0]]).shape
        (2, 2)
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int = 128,
        num_filters: int = 100,
        filter_sizes: Sequence[int] = (3, 4, 5),
        num_classes: int = 2,
        dropout: float = 0.5,
        *,
        padding_idx: int | None = 0,
        sparse: bool = False,
        pooling: str = "max",
        rng: np.random.Generator | None = None,
    ) -> None:
        check_whole("TextCNN", 1, num_filters=num_filters, num_classes=num_classes)
        if not filter_sizes:
            raise ValueError(
                "TextCNN: got no filter_sizes, expected at least one, such as in (3, 4, 5)"
            )
        for size in filter_sizes:
            check_whole("TextCNN", 1, filter_size=size)
        if pooling not in ("max", "average"):
            raise ValueError(f'TextCNN: got pooling={pooling!r}, expected "max" or "average"')
        self.filter_sizes = tuple(filter_sizes)
        self.padding_idx, self.pooling = padding_idx, pooling
        self.embedding = nn.Embedding(
            vocab_size, embedding_dim, padding_idx=padding_idx, sparse=sparse, rng=rng
        )
        nn.init.uniform_(self.embedding.weight, -0.25, 0.25, rng=rng)
        if padding_idx is not None:
            with self.embedding.weight.mutable() as array:
                array[padding_idx] = 0
        self.convs = nn.ModuleList(
            [nn.Conv2d(1, num_filters, (size, embedding_dim), rng=rng) for size in filter_sizes]
        )
        self.dropout = nn.Dropout(dropout, rng=rng)
        self.fc = nn.Linear(num_filters * len(self.filter_sizes), num_classes, rng=rng)

    def forward(self, words: Tensor | Array) -> Tensor:
        """Return the logits of sentences."""
        return self.classify(self.embedding(self.padded(words)))

    def padded(self, words: Tensor | Array) -> Array:
        """Return sentences as an array at least as long as the largest filter."""
        array = words.array if isinstance(words, Tensor) else asarray("TextCNN", words)
        if array.ndim != 2:
            raise ValueError(
                f"TextCNN: got words of shape {array.shape}, expected sentences (n, length); "
                "put a single sentence in a list"
            )
        missing = max(self.filter_sizes) - array.shape[1]
        if missing <= 0:
            return array
        if self.padding_idx is None:
            raise ValueError(
                f"TextCNN: got sentences of {array.shape[1]} words, expected at least "
                f"{max(self.filter_sizes)} (the largest filter), or a padding_idx to pad them with"
            )
        xp = backend_of(array).xp
        return xp.pad(array, ((0, 0), (0, missing)), constant_values=self.padding_idx)

    def classify(self, vectors: Tensor) -> Tensor:
        """Return the logits of sentences given as vectors `(n, length, embedding_dim)`."""
        pooled = [
            maps.max(2) if self.pooling == "max" else maps.mean(2)  # (n, filters)
            for maps in self.responses(vectors)
        ]
        logits: Tensor = self.fc(self.dropout(concatenate(pooled, 1)))
        return logits

    def responses(self, vectors: Tensor) -> list[Tensor]:
        """Return how strongly each filter responds to each phrase.

        Returns:
            For each of `filter_sizes`, `(n, num_filters, length - size + 1)`, `>= 0`.
        """
        images = vectors.expand_dims(1)  # (n, 1, length, embedding_dim)
        return [F.relu(conv(images)).squeeze(3) for conv in self.convs]


class BagOfWords(nn.Module):
    """Add up a score per word and class, and a bias: a linear model of word counts.

    Args:
        vocab_size: number of known words; padding, index 0, scores 0.
        num_classes: number of classes.

    It maps word indices `(n, length)` to logits `(n, num_classes)`; all scores are 0 at first.

    Example:
        >>> BagOfWords(1000)([[5, 8, 999], [4, 0, 0]]).shape
        (2, 2)
    """

    def __init__(self, vocab_size: int, num_classes: int = 2) -> None:
        nothing = np.zeros((vocab_size, num_classes), np.float32)
        self.scores = nn.Embedding.from_pretrained(nothing, freeze=False, padding_idx=0)
        self.bias = nn.Parameter(nothing[0])

    def forward(self, words: Tensor | Array) -> Tensor:
        """Return the logits of sentences."""
        logits: Tensor = self.scores(words).sum(1) + self.bias
        return logits
