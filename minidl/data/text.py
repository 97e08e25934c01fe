"""Turn sentences into arrays: words, their indices, batches of sentences of similar length."""

from __future__ import annotations

import functools
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.data.classes import brief
from minidl.data.loader import DataLoader
from minidl.files.jsons import parse_json
from minidl.files.regular import open_regular
from minidl.files.whole import whole_file

PADDING, UNKNOWN = "<pad>", "<unk>"
"""The words with indices 0 and 1: padding of short sentences, and any unknown word."""


def tokenize(text: str) -> list[str]:
    """Split a text into lower-case words, contraction endings, numbers and punctuation marks.

    Words may have letters and accents of any alphabet: the text is first brought to Unicode's form
    NFC, so that each letter has one spelling. Languages without spaces between words need another
    tokeniser.

    Raises:
        TypeError: the text is not a string.

    Example:
        >>> tokenize("It's GREAT, don't miss it...")
        ['it', "'s", 'great', ',', 'do', "n't", 'miss', 'it', '...']
    """
    if not isinstance(text, str):
        raise TypeError(f"tokenize: got a {type(text).__name__}, expected a string")
    token, piece = _patterns()
    pieces = piece.findall(text) if len(text) > 1000 else [text]
    plain = "".join(unicodedata.normalize("NFC", piece) for piece in pieces)
    return token.findall(plain.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns for a token, and for a piece that is normalised at once.

    A piece has at most 30 marks in a row: normalising takes time quadratic in their number, and no
    language has as many.
    """
    every = map(chr, range(0x300, 0x10000))
    marks = "".join(c for c in every if unicodedata.category(c)[0] == "M")
    letter = rf"[\w{marks}]"  # \w lacks some marks, such as vowel signs in Hindi
    parts = (
        rf"n't(?!{letter})",
        rf"'(?:s|m|d|re|ve|ll)(?!{letter})",
        rf"\d+(?:[.,]\d+)*(?!{letter})",
        rf"{letter}+?(?=n't(?!{letter}))",
        rf"{letter}+",
        r"\.{2,}",
        r"\S",
    )
    rare = "\U00010000-\U0010ffff"  # one range: `re` is slow with many characters beyond 16 bits
    return re.compile("|".join(parts)), re.compile(f"[^{marks}{rare}]*[{marks}{rare}]{{0,30}}")


class Vocabulary:
    """Map words to indices: 0 is padding, 1 any unknown word, then come the known words.

    Args:
        words: the known words, in the order of their indices, which start at 2.

    Raises:
        ValueError: a word occurs twice, or is a special one.
        TypeError: a word is not a string.

    Example:
        >>> vocabulary = Vocabulary.build([["a", "good", "film"], ["a", "film"]], min_count=2)
        >>> vocabulary.words
        ['<pad>', '<unk>', 'a', 'film']
        >>> vocabulary.encode([["a", "fine", "film"], ["film"]])
        array([[2, 1, 3],
               [3, 0, 0]])
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = [PADDING, UNKNOWN, *words]
        for word in self.words:
            if not isinstance(word, str):
                raise TypeError(f"Vocabulary: got {brief(word)} among the words, expected strings")
        self._numbers = {word: number for number, word in enumerate(self.words)}
        if len(self._numbers) < len(self.words):
            twice = [word for word, count in Counter(self.words).items() if count > 1]
            raise ValueError(
                f"Vocabulary: got {brief(twice[0])} more than once, expected each word once"
            )

    @classmethod
    def build(
        cls, sentences: Iterable[Sequence[str]], min_count: int = 1, max_size: int | None = None
    ) -> Vocabulary:
        """Collect the words of sentences, the most frequent first, ties in alphabetical order.

        The two special words may occur in a prepared corpus; they keep their indices.

        Args:
            sentences: lists of words, as `tokenize` returns them, of the training set only.
            min_count: how often a word must occur, >= 1.
            max_size: the most words, including the two special ones, >= 2; no limit if None.

        Raises:
            ValueError: `min_count` or `max_size` is out of range.
            TypeError: a sentence is a string.
        """
        if min_count < 1 or (max_size is not None and max_size < 2):
            raise ValueError(
                f"Vocabulary.build: got min_count={min_count}, max_size={max_size}, expected "
                "min_count >= 1, and max_size >= 2 or None"
            )
        counts: Counter[str] = Counter()
        for sentence in sentences:
            _check_sentence("Vocabulary.build", sentence)
            counts.update(sentence)
        ordered = sorted(counts.keys() - {PADDING, UNKNOWN}, key=lambda word: (-counts[word], word))
        found = [word for word in ordered if counts[word] >= min_count]
        return cls(found[: None if max_size is None else max_size - 2])

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._numbers

    def encode(self, sentences: Sequence[Sequence[str]], ending: int = 0) -> NDArray[Any]:
        """Turn sentences into indices, padded to the length of the longest.

        With `ending` as large as a TextCNN's largest filter, every sentence has a window of padding
        only, so its output does not depend on further padding.

        Args:
            sentences: lists of words.
            ending: how much padding follows every sentence, including the longest.

        Returns:
            int64 `(n, length)`, with at least one column. A sentence without words is all padding.

        Raises:
            TypeError: a sentence is a string.
        """
        for sentence in sentences:
            _check_sentence("Vocabulary.encode", sentence)
        longest = max(map(len, sentences), default=0) + ending
        table = np.zeros((len(sentences), max(longest, 1)), np.int64)
        for row, sentence in zip(table, sentences, strict=True):
            row[: len(sentence)] = [self._numbers.get(word, 1) for word in sentence]
        return table

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Return the words of one sentence's indices, without padding.

        Raises:
            IndexError: an index is outside the vocabulary.
        """
        found = [int(number) for number in numbers]
        beyond = [number for number in found if not 0 <= number < len(self)]
        if beyond:
            raise IndexError(
                f"Vocabulary.decode: got index {beyond[0]}, expected 0 <= index <= "
                f"{len(self) - 1}; is it of another vocabulary?"
            )
        return [self.words[number] for number in found if number]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the words as JSON and return the path; a crash leaves an older file intact."""
        path = Path(path)
        with whole_file(path) as file:
            text = json.dumps({"words": self.words}, ensure_ascii=False)
            file.write(text.encode("utf-8", "backslashreplace"))  # lone surrogates, as in JSON
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds something else, or is damaged.
        """
        try:
            with open_regular(Path(path)) as file:
                words = parse_json(file.read())["words"]
            if not isinstance(words, list) or words[:2] != [PADDING, UNKNOWN]:
                raise ValueError(
                    f"got {brief(words)}, expected the words {PADDING}, {UNKNOWN}, ..."
                )
            return cls(words[2:])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f"Vocabulary.load: {path} is not a vocabulary, or is damaged ({error}); save it "
                "again with Vocabulary.save"
            ) from error


def _check_sentence(who: str, sentence: Sequence[str]) -> None:
    if isinstance(sentence, str):
        raise TypeError(
            f"{who}: got the string {sentence!r:.40}, expected a list of words; use tokenize"
        )


class BucketLoader(DataLoader):
    """Load batches of sentences of similar length, each cut to its longest, to save padding.

    With `shuffle`, sentences are drawn into pools of `pool` batches; each pool is sorted by length
    and cut into batches, and the batches are shuffled again. Otherwise they keep their order.

    Args:
        words: sentences, integers `(n, length)`, padded with 0 at the end.
        labels: `(n,)`.
        ending: how many columns of padding follow a batch's longest sentence, as far as there are.
        pool: how many batches are sorted together, >= 1; with 1, lengths stay mixed.
        options: those of `DataLoader`, except `transform`.

    Example:
        >>> import numpy as np
        >>> words = np.array([[5, 6, 7, 0, 0], [8, 0, 0, 0, 0]])
        >>> [batch.shape for batch, labels in BucketLoader(words, np.array([1, 0]), batch_size=1)]
        [(1, 3), (1, 1)]
    """

    def __init__(
        self,
        words: NDArray[Any],
        labels: NDArray[Any],
        *,
        ending: int = 0,
        pool: int = 50,
        **options: Any,
    ) -> None:
        super().__init__(words, labels, transform=None, **options)
        if words.ndim != 2 or words.dtype.kind not in "iu":
            raise ValueError(
                f"BucketLoader: got words of {words.dtype} and shape {words.shape}, expected "
                "integers of shape (n, length), as from Vocabulary.encode"
            )
        if ending < 0 or pool < 1:
            raise ValueError(
                f"BucketLoader: got ending={ending}, pool={pool}, expected ending >= 0, pool >= 1"
            )
        self.ending, self.pool = ending, pool
        self._lengths = _lengths(words)

    def _shuffled(self, rng: np.random.Generator) -> NDArray[Any]:
        """Draw an order in which every batch has sentences of similar length."""
        order, size = super()._shuffled(rng), self.batch_size
        count = len(order) // size
        full, rest = order[: count * size], order[count * size :]
        pools = [full[i : i + self.pool * size] for i in range(0, len(full), self.pool * size)]
        by_length = [pool[np.argsort(self._lengths[pool], kind="stable")] for pool in pools]
        batches = np.concatenate([full[:0], *by_length]).reshape(count, size)
        return np.concatenate([batches[rng.permutation(count)].ravel(), rest])

    def _batch(self, order: NDArray[Any], number: int) -> list[NDArray[Any]]:
        """Return a batch, or a rank's share of it, cut to the longest sentence of the batch."""
        words, labels = super()._batch(order, number)
        chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
        longest = int(self._lengths[chosen].max(initial=0)) + self.ending
        return [words[:, : max(longest, 1)], labels]


def _lengths(words: NDArray[Any]) -> NDArray[Any]:
    """Return the length of each sentence, up to its last word."""
    places = np.arange(1, words.shape[1] + 1)
    lengths: NDArray[Any] = ((words != 0) * places).max(axis=1, initial=0)
    return lengths
