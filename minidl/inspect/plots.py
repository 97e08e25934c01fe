"""Pictures of training and of what a network has learnt; each function returns a Figure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:  # pictures are made of numbers: this module runs without any network
    from minidl import nn

Array = np.ndarray[Any, Any]

# Okabe and Ito's colours, which people with colour-blindness can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG, making its folder; keep it open for `show` where there is a screen.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    if not _has_screen():
        plt.close(figure)
    return path


def show() -> None:
    """Show the open figures and wait until they are closed; do nothing without a screen."""
    if _has_screen():
        plt.show()


def _has_screen() -> bool:
    return mpl.get_backend().lower() != "agg"


def training_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Draw loss and accuracy over epochs, side by side.

    Args:
        history: a number per epoch for any of `train_loss`, `test_loss`, `train_accuracy` and
            `test_accuracy`; accuracies from 0 to 1.
    """
    figure, (losses, accuracies) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, values in history.items():
        part, _, quantity = name.partition("_")
        axes = losses if quantity == "loss" else accuracies
        shown = [100 * v for v in values] if quantity == "accuracy" else list(values)
        colour = COLOURS[0] if part == "train" else COLOURS[1]
        labels = {"train": "training", "test": "test"}
        epochs = range(1, len(shown) + 1)
        axes.plot(epochs, shown, marker="o", color=colour, label=labels[part])
    losses.set(xlabel="epoch", ylabel="cross-entropy", title="Loss")
    accuracies.set(xlabel="epoch", ylabel="accuracy (%)", title="Accuracy")
    for axes in (losses, accuracies):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    return figure


def gradient_flow(model: nn.Module) -> Figure:
    """Draw the mean and the largest |gradient| of each parameter, in the model's order, log scale.

    Means that shrink by orders of magnitude towards the first layers are vanishing gradients. A
    gradient that is 0, not finite, or not there is written in words at the left.

    Args:
        model: after `backward`.

    Raises:
        ValueError: no parameter has a gradient.
    """
    gradients = dict(model.named_gradients())
    if all(gradient is None for gradient in gradients.values()):
        raise ValueError(
            f"gradient_flow: got a {type(model).__name__} without any gradient; run backward first"
        )
    drawn, words = [], {}
    for row, gradient in enumerate(gradients.values()):
        sizes = np.zeros(1) if gradient is None else np.abs(gradient.numpy())
        most = sizes.max(initial=0)
        if 0 < most < np.inf:
            drawn.append((row, sizes.mean(dtype=np.float64), most))
        else:  # what a log scale has no place for
            words[row] = "no gradient" if gradient is None else f"{most:g}"
    rows, means, largest = np.array(drawn, np.float64).reshape(-1, 3).T
    size = (7.5, 1.2 + 0.26 * len(gradients))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.hlines(rows, means, largest, color="#999999")
    axes.plot(means, rows, "o", color=COLOURS[0], label="mean")
    axes.plot(largest, rows, "D", color=COLOURS[1], label="largest")
    place = axes.get_yaxis_transform()  # across in the axes' own units, down in rows
    for row, word in words.items():
        axes.text(0.01, row, word, transform=place, va="center", color=COLOURS[1], size=9)
    axes.set(xscale="log", xlabel="|gradient|", ylim=(len(gradients) - 0.5, -0.5))
    axes.set_yticks(range(len(gradients)), list(gradients))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def confusion_matrix(matrix: Array, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix: shares of each true class in percent, with the numbers written in.

    Args:
        matrix: counts `(classes, classes)`, true classes in rows.
        classes: their names.
    """
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(6.4, 5.6), layout="constrained")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.5:
            colour = "white" if share > 55 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour, size=8)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    accuracy = matrix.trace() / max(1, matrix.sum())
    axes.set(xlabel="predicted class", ylabel="true class", title=f"Accuracy {accuracy:.1%}")
    figure.colorbar(image, label="% of the true class", shrink=0.85)
    return figure


def kernels(weight: Array, title: str = "Kernels of the first layer") -> Figure:
    """Draw each kernel of a convolution as a small picture, all on one scale.

    Args:
        weight: `(out_channels, in_channels, k_h, k_w)`; three input channels are shown as red,
            green and blue, any other number as its mean.
        title: of the figure.
    """
    tiles = weight.transpose(0, 2, 3, 1)  # (d, k_h, k_w, c)
    if tiles.shape[-1] != 3:
        tiles = tiles.mean(-1)
    limit = np.abs(tiles).max() or 1.0
    return _grid(0.5 + 0.5 * tiles / limit, 8, title, value_range=(0, 1))


def feature_maps(maps: Array, title: str = "Feature maps") -> Figure:
    """Draw each channel of one image's feature maps, all on one scale: bright is strong.

    Args:
        maps: `(c, h, w)`.
        title: of the figure.
    """
    return _grid(maps, 8, title, cmap="viridis", value_range=(float(maps.min()), float(maps.max())))


def images(pictures: Array, captions: Sequence[str], title: str = "", columns: int = 5) -> Figure:
    """Draw uint8 images `(n, 3, h, w)` in a grid with a caption above each."""
    return _grid(pictures.transpose(0, 2, 3, 1), columns, title, captions=captions, size=1.5)


def _grid(
    tiles: Array,
    columns: int,
    title: str,
    *,
    captions: Sequence[str] = (),
    size: float = 0.95,
    cmap: str = "gray",
    value_range: tuple[float, float] | None = None,
) -> Figure:
    rows = -(-len(tiles) // columns)
    shape = (size * columns, (size + 0.25 * bool(captions)) * rows + 0.45)
    figure, grid = plt.subplots(rows, columns, figsize=shape, layout="constrained", squeeze=False)
    low, high = (None, None) if value_range is None else value_range
    for place, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if place < len(tiles):
            axes.imshow(tiles[place], cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
            if captions:
                axes.set_title(captions[place], size=8)
    figure.suptitle(title)
    return figure
