"""Explain a TextCNN's predictions: the windows that won, and each word's contribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minidl.autograd import no_grad, set_recording
from minidl.derivatives import grad
from minidl.inspect.plots import COLOURS, subplots
from minidl.nn.modes import evaluating
from minidl.tensor import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minidl.models import TextCNN


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


def word_bars(
    words: Sequence[str], panels: Mapping[str, NDArray[Any]], label: str, title: str
) -> Figure:
    """Draw a bar for each word, in panels side by side.

    Args:
        words: of one sentence, from top to bottom.
        panels: values `(len(words),)`, by the title of the panel.
        label: the class that positive values support.
        title: of the figure.
    """
    size = (4 * len(panels), 1.4 + 0.28 * len(words))
    figure, grid = subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for axes, (name, values) in zip(grid[0], panels.items(), strict=True):
        colours = [COLOURS[0] if value > 0 else COLOURS[1] for value in values]
        axes.barh(range(len(words)), values, color=colours)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(title=name, xlabel=f"for {label}")
    grid[0, 0].set_yticks(range(len(words)), words)
    grid[0, 0].invert_yaxis()
    figure.suptitle(title, size=10)
    return figure
