"""Draw toy_reviews, sentences that need no download, in which word order matters.

The label of every sentence is its verdict: an opinion, negated in two of five. Half of the
sentences also quote somebody else's opinion, which does not count, and most add facts, some of them
with negations. So the words say little without their order: to a bag of words, "good" and "not"
may mean either class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidl.data.reviews import TextSet

# Negative, then positive words, separated by spaces.
_ADJECTIVES = (
    "bad dull weak boring clumsy stale tedious awful shallow messy flat silly",
    "good great brilliant moving funny charming clever gripping fresh warm superb witty",
)
_NOUNS = (
    "disaster mess failure bore waste disappointment",
    "masterpiece triumph delight gem treat success",
)
_VERBS = ("fail drag disappoint annoy", "work shine delight convince")

_SUBJECTS = ["film", "movie", "plot", "acting", "script", "ending", "cast", "music", "story"]
_INTENSIFIERS = ["", "", "", "very", "really", "truly", "quite", "so"]
_NEGATIONS = [
    *("not", "not", "never", "hardly"),
    *("far from", "anything but", "in no way", "not at all"),
]
_PEOPLE = ["my brother", "one critic", "the poster", "everybody", "the trailer", "my neighbour"]
_FACTS = (
    "the plot follows a young detective in paris",
    "it runs for two hours and ten minutes",
    "i saw it on a rainy evening",
    "i have not read the book",
    "the director had never made a film before",
    "there is hardly any music in it",
    "the cast came from television",
    "it is set far from home , in a small town",
    "nobody in it is younger than forty",
    "it was shot in black and white",
)


def load_toy_reviews(
    seed: int = 0, *, train: int = 4_000, test: int = 1_000
) -> tuple[TextSet, TextSet]:
    """Draw toy_reviews: sentences about films, half of them positive, no two of them the same.

    Args:
        seed: chooses the sentences, >= 0.
        train: number of training sentences, even, >= 2.
        test: number of test sentences, even, >= 2.

    Returns:
        Training and test set, shuffled, with equally many sentences of each class.

    Raises:
        ValueError: an argument is out of range.

    Source: own design; its difficulty is measured in `datasets/README.md`.

    Example:
        >>> train, test = load_toy_reviews(train=20, test=10)
        >>> train.texts[0][46:80], train.classes[train.labels[0]]
        ('the script is hardly a masterpiece', 'negative')
    """
    for name, value in (("train", train), ("test", test)):
        if value < 2 or value % 2:
            raise ValueError(f"load_toy_reviews: got {name}={value}, expected an even integer >= 2")
    if seed < 0:
        raise ValueError(f"load_toy_reviews: got seed={seed}, expected an integer >= 0")
    rng, seen = np.random.default_rng(seed), set[str]()
    splits = []
    for count in (train, test):
        labels = rng.permutation(np.arange(count) % 2)
        texts = tuple(_unseen(rng, int(label), seen) for label in labels)
        splits.append(TextSet(texts, labels.astype(np.int64), ("negative", "positive")))
    return splits[0], splits[1]


def _unseen(rng: np.random.Generator, label: int, seen: set[str]) -> str:
    while (text := _sentence(rng, label)) in seen:
        pass
    seen.add(text)
    return text


def _sentence(rng: np.random.Generator, label: int) -> str:
    """Draw facts, a verdict, and perhaps a quotation, in random order."""
    parts = [_verdict(rng, label)]
    if rng.random() < 0.5:
        polarity = int(rng.integers(2))
        people, word = _one(rng, _PEOPLE), _one(rng, _ADJECTIVES[polarity].split())
        quoted = f"{people} calls it {_phrase(_one(rng, _INTENSIFIERS), word)}"
        parts = [quoted, "but " + parts[0]] if rng.random() < 0.5 else [parts[0], "yet " + quoted]
    for place in rng.permutation(len(_FACTS))[: rng.integers(3)]:
        parts.insert(int(rng.integers(2)) * len(parts), _FACTS[place])
    return " , ".join(parts) + " ."


def _verdict(rng: np.random.Generator, label: int) -> str:
    """Draw an opinion: plain, or the opposite words negated."""
    negated = rng.random() < 0.4
    polarity = label ^ negated
    subject = f"the {_one(rng, _SUBJECTS)}"
    negation = _one(rng, _NEGATIONS) if negated else ""
    intensifier = _one(rng, _INTENSIFIERS)
    kind = rng.integers(4)
    if kind == 0:
        verb = _one(rng, _VERBS[polarity].split())
        if not negated:
            return _phrase(subject, _one(rng, ["", "really", "truly"]), verb + "s")
        return f"{subject} {_one(rng, ['does not', 'never seems to', 'hardly manages to'])} {verb}"
    if kind == 1:
        return _phrase(subject, "is", negation, "a", _one(rng, _NOUNS[polarity].split()))
    adjective = _one(rng, _ADJECTIVES[polarity].split())
    if kind == 2:
        return _phrase(subject, "is", negation, "a", intensifier, adjective, "one")
    return _phrase(subject, "is", negation, intensifier, adjective)


def _one(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _phrase(*words: str) -> str:
    return " ".join(word for word in words if word)
