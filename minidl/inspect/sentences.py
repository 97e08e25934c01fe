"""Explain a TextCNN's predictions: the windows that won, and each word's contribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minidl.autograd import no_grad, set_recording
from minidl.data import tokenize
from minidl.derivatives import grad
from minidl.inspect.plots import COLOURS, pyplot, subplots
from minidl.nn.modes import evaluating
from minidl.tensor import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minidl.models import SentenceClassifier, TextCNN


class Votes(NamedTuple):
    """The windows that the filters of one size picked in some sentences.

    Attributes:
        size: number of words that these filters span.
        places: int64 `(n, filters)`: index of the first word of the winning window.
        values: `(n, filters, classes)`: what that window contributed to each class's score.
    """

    size: int
    places: NDArray[Any]
    values: NDArray[Any]


def votes(model: TextCNN, words: Tensor) -> list[Votes]:
    """Return where each filter of a max-over-time TextCNN fired, and how it voted.

    A vote is the strongest response times the filter's weight in the last layer, which only sums
    the votes and its bias. The part common to all classes is subtracted: it does not affect the
    decision.

    Args:
        model: in training mode, its own sums differ because of dropout.
        words: sentences `(n, length)`.

    Returns:
        The `Votes` of each filter size.

    Raises:
        ValueError: the model averages over time, so no window wins.
    """
    if model.pooling != "max":
        raise ValueError(f"votes: got a TextCNN with pooling={model.pooling!r}, expected 'max'")
    weight = model.fc.weight.numpy().T  # (all filters, classes)
    weight = weight - weight.mean(1, keepdims=True)
    parts = weight.reshape(len(model.filter_sizes), -1, weight.shape[1])
    with no_grad():
        maps = [found.numpy() for found in model.responses(model.embedding(model.padded(words)))]
    return [
        Votes(size, found.argmax(2), found.max(2)[..., None] * part)
        for size, found, part in zip(model.filter_sizes, maps, parts, strict=True)
    ]


def strongest_phrases(
    model: TextCNN, words: Tensor, texts: Sequence[Sequence[str]], label: int, count: int = 8
) -> dict[str, float]:
    """Return the windows with the largest votes for a class in some sentences.

    Args:
        model: see `votes`.
        words: sentences `(n, length)`.
        texts: the same sentences as lists of words, without padding.
        label: of the class.
        count: how many.

    Returns:
        The largest vote for each phrase, in descending order.

    Raises:
        ValueError: see `votes`.

    Example:
        >>> from minidl.models import TextCNN
        >>> model = TextCNN(5, 8, rng=np.random.default_rng(0)).eval()
        >>> words = Tensor(np.array([[2, 3, 4, 0, 0, 0, 0, 0]]))
        >>> found = strongest_phrases(model, words, [["not", "a", "film"]], label=1, count=2)
        >>> len(found), all(phrase in "not a film" for phrase in found)
        (2, True)
    """
    found: dict[str, float] = {}
    for size, places, values in votes(model, words):
        for n, f in zip(*np.nonzero(values[..., label] > 0), strict=True):
            phrase = " ".join(texts[n][places[n, f] : places[n, f] + size])
            found[phrase] = max(found.get(phrase, 0), float(values[n, f, label]))
    found.pop("", None)  # only padding
    return dict(sorted(found.items(), key=lambda pair: -pair[1])[:count])


def word_votes(model: TextCNN, words: Tensor, label: int) -> NDArray[Any]:
    """Return each word's share of the votes for a class: `(n, length)`.

    A vote is split evenly among the words of its window.
    """
    shape = model.padded(words).shape
    total = np.zeros(shape)
    for size, places, values in votes(model, words):
        for i in range(size):
            np.add.at(total, (np.arange(shape[0])[:, None], places + i), values[..., label] / size)
    return total


def gradient_times_input(model: TextCNN, words: Tensor, label: int) -> NDArray[Any]:
    """Return, per word, how fast the class's lead falls as the word's vector starts to shrink.

    The lead is the class's score minus the mean of all scores; its gradient is multiplied by the
    vector and summed over the vector's values: `(n, length)`. The model is run in evaluation mode,
    which does not change it; it may be frozen.

    Source: M. Denil et al., Extraction of Salient Sentences from Labelled Documents (2014).
    """
    vectors = model.embedding(model.padded(words)).detach().requires_grad_()
    with evaluating(model), set_recording(True):
        scores = model.classify(vectors)
        (gradient,) = grad((scores[:, label] - scores.mean(1)).sum(), vectors)
    slope: NDArray[Any] = (gradient.numpy() * vectors.numpy()).sum(2)
    return slope


def word_bars(reader: SentenceClassifier, texts: Sequence[str], label: int = -1) -> Figure:
    """Draw what each word contributes to a class's lead: `gradient_times_input`.

    Args:
        reader: the classifier; its answer is the title of each panel.
        texts: one panel each, side by side, with the words from top to bottom.
        label: of the class that positive values support.
    """
    name, longest = reader.classes[label], max(len(tokenize(text)) for text in texts)
    size = (4 * len(texts), 1.8 + 0.28 * longest)
    figure, grid = subplots(1, len(texts), figsize=size, sharex=True, squeeze=False)
    for axes, text in zip(grid[0], texts, strict=True):
        words = tokenize(text)
        values = gradient_times_input(reader.network, reader.encode(text), label)[0, : len(words)]
        rows = range(len(words))
        axes.barh(rows, np.maximum(values, 0), color=COLOURS[0], label=f"for {name}")
        look: dict[str, Any] = {"color": COLOURS[1], "hatch": "///", "edgecolor": "white"}
        axes.barh(rows, np.minimum(values, 0), label=f"against {name}", **look)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(reader.answer(text), size=10)
        axes.set(xlabel=f"contribution to the lead of {name}")
        axes.set_yticks(rows, words)
        axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def anatomy(reader: SentenceClassifier, text: str, filters: int = 4) -> Figure:
    """Draw a sentence on its way through a max-over-time TextCNN, from left to right.

    First come the words' vectors (12 values of each); then, for each filter size, the responses of
    the filters with the largest votes, each filter's winner framed; then the scores. The sign below
    a filter is that of its vote for the last class.

    Args:
        reader: the classifier.
        text: the sentence.
        filters: how many to draw of each size.

    Raises:
        ValueError: the network averages over time, so no window wins.
    """
    model, numbers, last = reader.network, reader.encode(text), reader.classes[-1]
    with no_grad(), evaluating(model):
        embedded = model.embedding(numbers)
        maps = [found.numpy()[0] for found in model.responses(embedded)]
        vectors, scores = embedded.numpy()[0], model.classify(embedded).numpy()[0]
    widths = [2.2, *[filters / 2 for _ in maps], 1.3]
    look: dict[str, Any] = {"figsize": (9, 1.9 + 0.17 * len(vectors)), "width_ratios": widths}
    figure, panels = subplots(1, len(widths), **look)
    panels[0].imshow(vectors[:, :12], "coolwarm", aspect="auto")
    panels[0].set(title="words as\nvectors", xticks=[], xlabel="12 of the\nnumbers")
    words = [*tokenize(text), *["(padding)"] * len(vectors)]
    panels[0].set_yticks(range(len(vectors)), words[: len(vectors)])
    for axes, found, vote in zip(panels[1:-1], maps, votes(model, numbers), strict=True):
        drawn = np.argsort(-np.abs(vote.values[0, :, -1]), kind="stable")[:filters]
        axes.imshow(found[drawn].T, "Blues", aspect="auto", vmin=0, vmax=found.max() * 1.4 or 1)
        for column, place in enumerate(vote.places[0, drawn]):
            edge: dict[str, Any] = {"fill": False, "edgecolor": COLOURS[1], "linewidth": 2.5}
            axes.add_patch(pyplot().Rectangle((column - 0.5, place - 0.5), 1, 1, **edge))
        axes.set(title=f"responses,\n{vote.size} words", xlabel=f"for (+) or against\n{last}")
        signs = ["+" if value > 0 else "-" for value in vote.values[0, drawn, -1]]
        axes.set_xticks(range(len(drawn)), signs)
        axes.set(ylim=panels[0].get_ylim(), yticks=[])
    rows = range(len(scores))
    bars = panels[-1].barh(rows, scores, color=COLOURS[4], height=0.6)
    panels[-1].bar_label(bars, fmt="%.2f", label_type="center")
    panels[-1].set_yticks(rows, reader.classes)
    panels[-1].set(title="scores", ylim=(len(scores), -1), xticks=[])
    panels[-1].yaxis.tick_right()
    return figure
