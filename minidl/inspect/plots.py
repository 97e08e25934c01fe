"""Plots of training and of trained networks; each function returns a Figure."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minidl.autograd import set_recording
from minidl.derivatives import grad
from minidl.tensor import Tensor

if TYPE_CHECKING:  # plots need only arrays: no network is imported
    from matplotlib.figure import Figure

    from minidl import nn
    from minidl.inspect.summary import Summary


# Matplotlib's backends that write files and open no windows.
FILES_ONLY = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")

# Okabe and Ito's colours, which colour-blind people can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def pyplot() -> Any:
    """Return `matplotlib.pyplot`; the first call imports it, which takes 0.4 s.

    Warns:
        UserWarning: the environment variable `MPLBACKEND` is misspelt, or its backend cannot open
            windows here; figures can then only be saved.

    Raises:
        ImportError: Matplotlib is missing or broken.
    """
    # If MPLBACKEND is misspelt, importing Matplotlib fails, and so does a second attempt.
    asked = "" if sys.modules.get("matplotlib") else os.environ.pop("MPLBACKEND", "")
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        message = f"plots need Matplotlib ({error}): python -m pip install matplotlib"
        raise ImportError(message) from error
    finally:
        os.environ |= {"MPLBACKEND": asked} if asked else {}
    try:
        if asked:
            plt.switch_backend(asked)
    except (ImportError, ValueError) as error:
        warnings.warn(f"MPLBACKEND={asked}: {error}; figures can only be saved", stacklevel=3)
        plt.switch_backend("agg")
    return plt


def subplots(*shape: int, **look: Any) -> tuple[Figure, Any]:
    """Return a figure and its axes, as `pyplot.subplots` does."""
    made: tuple[Figure, Any] = pyplot().subplots(*shape, layout="constrained", **look)
    return made


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG, creating its folder; keep it open for `show` if there is a screen.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    if not _has_screen():
        pyplot().close(figure)
    return path


def show() -> None:
    """Show the open figures and wait until they are closed; do nothing without a screen."""
    if sys.modules.get("matplotlib.pyplot") and _has_screen():
        pyplot().show()


def _has_screen() -> bool:
    return pyplot().get_backend().lower() not in FILES_ONLY


def training_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Draw loss and accuracy over epochs, side by side.

    Args:
        history: a value per epoch for any of `train_loss`, `train_accuracy`, `validation_loss`,
            `validation_accuracy`, `test_loss` and `test_accuracy`; `0 <= accuracy <= 1`. Other
            names are ignored.
    """
    figure, (losses, accuracies) = subplots(1, 2, figsize=(9, 3.6))
    looks = {"train": "o-", "validation": "s--", "test": "^:"}
    for name, values in history.items():
        part, _, quantity = name.partition("_")
        if part not in looks or quantity not in ("loss", "accuracy"):
            continue
        axes = losses if quantity == "loss" else accuracies
        shown = [100 * v for v in values] if quantity == "accuracy" else list(values)
        colour, label = COLOURS[list(looks).index(part)], part.replace("train", "training")
        axes.plot(range(1, len(shown) + 1), shown, looks[part], color=colour, label=label)
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

    Means that shrink by orders of magnitude towards the first layers are vanishing gradients. Text
    on the left marks gradients that are 0, not finite or missing, and frozen parameters.

    Args:
        model: after `backward`.

    Raises:
        ValueError: no parameter has a gradient.
    """
    gradients = dict(model.named_gradients())
    frozen = [not parameter.requires_grad for parameter in model.parameters()]
    if all(gradient is None for gradient in gradients.values()):
        why = "all its parameters are frozen" if frozen and all(frozen) else "run backward first"
        raise ValueError(f"gradient_flow: got a {type(model).__name__} without any gradient; {why}")
    drawn, words = [], {}
    for row, gradient in enumerate(gradients.values()):
        sizes = np.zeros(1) if gradient is None else np.abs(gradient.numpy())
        most = sizes.max(initial=0)
        if 0 < most < np.inf:
            drawn.append((row, sizes.mean(dtype=np.float64), most))
        else:  # cannot be drawn on a log scale
            missing = "frozen" if frozen[row] else "no gradient"
            words[row] = missing if gradient is None else f"{most:g}"
    rows, means, largest = np.array(drawn, np.float64).reshape(-1, 3).T
    size = (7.5, 1.2 + 0.26 * len(gradients))
    figure, axes = subplots(figsize=size)
    axes.hlines(rows, means, largest, color="#999999")
    axes.plot(means, rows, "o", color=COLOURS[0], label="mean")
    axes.plot(largest, rows, "D", color=COLOURS[1], label="largest")
    place = axes.get_yaxis_transform()  # x in axes units, y in rows
    for row, word in words.items():
        axes.text(0.01, row, word, transform=place, va="center", color=COLOURS[1], size=9)
    axes.set(xscale="log", xlabel="|gradient|", ylim=(len(gradients) - 0.5, -0.5))
    axes.set_title("Does every layer still learn?")
    axes.set_yticks(range(len(gradients)), list(gradients))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def confusion_matrix(matrix: NDArray[Any], classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix, in percent of each true class.

    The values are written in for up to 25 classes; for more, the figure grows to fit the names.

    Args:
        matrix: counts `(classes, classes)`, true classes in rows.
        classes: their names.

    Raises:
        ValueError: there are more or fewer names than classes.
    """
    _check_names("confusion_matrix", matrix, classes)
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    grown = max(1.0, len(classes) / 25)
    figure, axes = subplots(figsize=(6.4 * grown, 5.6 * grown))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if round(share) and grown == 1:
            colour = "white" if share > 55 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour, size=9)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    accuracy = matrix.trace() / max(1, matrix.sum())
    axes.set(xlabel="predicted class", ylabel="true class", title=f"Accuracy {accuracy:.1%}")
    figure.colorbar(image, label="% of the true class", shrink=0.85)
    return figure


def _check_names(who: str, array: NDArray[Any], classes: Sequence[str]) -> None:
    if array.shape[1] != len(classes):
        raise ValueError(
            f"{who}: got {len(classes)} names for {array.shape[1]} classes, expected one for each; "
            "does a test set lack a class? Read it with classes=train.classes"
        )


def architecture(table: Summary, image: Sequence[int]) -> Figure:
    """Draw a network from top to bottom: each layer's output as a pile of maps, with its shape.

    A layer without parameters that keeps the number of values, such as ReLU, shares the row of the
    layer before. Piles of layers with parameters are blue, others orange; twice as many maps are
    one sheet more.

    Args:
        table: of the network, from `inspect.summary`.
        image: shape of the input, `(c, h, w)`.
    """
    rows: list[tuple[list[str], tuple[int, ...], str]] = [(["image"], tuple(image), "#999999")]
    for layer in table.layers:
        if layer.parameters or math.prod(layer.output_shape) != math.prod(rows[-1][1]):
            rows.append(([layer.kind], layer.output_shape, COLOURS[not layer.parameters]))
        else:
            rows[-1][0].append(layer.kind)
    figure, axes = subplots(figsize=(5.6, 0.62 * len(rows)))
    for y, (kinds, shape, colour) in enumerate(rows):
        is_maps = len(shape) == 3
        side, step = (0.8 * (shape[-1] / image[-1]) ** 0.6, 0.06) if is_maps else (0.12, 0.17)
        sheets = 1 + math.ceil(math.log2(shape[0]))
        for sheet in range(sheets):
            x, lift = 0.8 + step * (sheet - sheets / 2), 0.04 * is_maps * (sheet - sheets / 2)
            place = (x - side / 2, y - side / 2 + lift)
            look: dict[str, Any] = {"facecolor": colour, "edgecolor": "white"}
            axes.add_patch(pyplot().Rectangle(place, side, side, **look))
        axes.text(1.9, y, " x ".join(map(str, shape)), va="center", size=12)
        axes.text(4.6, y, ", ".join(kinds), va="center", size=12)
    axes.set(xlim=(0, 9), ylim=(len(rows) - 0.4, -0.6), aspect="equal")
    axes.set_axis_off()
    return figure


def kernels(weight: NDArray[Any], title: str = "Kernels of the first layer") -> Figure:
    """Draw each kernel of a convolution as a small image, all on one scale.

    Args:
        weight: `(out_channels, in_channels, k_h, k_w)`; three input channels are shown as red,
            green and blue, any other number of them as their mean.
        title: of the figure.
    """
    tiles = weight.transpose(0, 2, 3, 1)  # (d, k_h, k_w, c)
    if tiles.shape[-1] != 3:
        tiles = tiles.mean(-1)
    limit = np.abs(tiles).max() or 1.0
    return _grid(0.5 + 0.5 * tiles / limit, 8, title, vmin=0, vmax=1)


def feature_maps(maps: NDArray[Any], title: str = "Feature maps") -> Figure:
    """Draw each channel of one image's feature maps, all on one scale: brighter is larger.

    Args:
        maps: `(c, h, w)`.
        title: of the figure.
    """
    return _grid(maps, 8, title, cmap="viridis", vmin=maps.min(), vmax=maps.max())


def image_rows(
    rows: Mapping[str, Sequence[NDArray[Any]]], title: str = "", scale: str = "value"
) -> Figure:
    """Draw small images in rows, with a name at the left of each row.

    Args:
        rows: for each name the images: pictures `(h, w, 3)`, or values `(h, w)`. Where none is
            negative, brighter is larger, from 0 to each image's own largest value. Those with
            negative values share one scale: orange is negative, violet positive.
        title: of the figure.
        scale: what the shared scale measures.
    """
    columns = max(map(len, rows.values()))
    figure, grid = subplots(
        len(rows), columns, figsize=(0.6 + 1.05 * columns, 0.4 + 1.1 * len(rows)), squeeze=False
    )
    signed = [tile for row in rows.values() for tile in row if tile.min() < 0]
    limit = max((float(np.abs(tile).max()) for tile in signed), default=0.0)
    for cells, (name, row) in zip(grid, rows.items(), strict=True):
        cells[0].set_ylabel(name, size=11)
        for axes, tile in zip(cells, row, strict=False):
            look = {"cmap": "viridis", "vmin": 0, "vmax": tile.max() or 1}
            if tile.min() < 0:
                look = {"cmap": "PuOr", "vmin": -limit, "vmax": limit}
            shown = axes.imshow(tile, interpolation="nearest", **look)
            if tile.min() < 0:
                bar = shown
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    if signed:
        figure.colorbar(bar, ax=list(grid.flat), label=scale, shrink=0.6)
    figure.suptitle(title)
    return figure


def images(
    pictures: NDArray[Any], captions: Sequence[str], title: str = "", columns: int = 5
) -> Figure:
    """Draw uint8 images `(n, 3, h, w)` in a grid, with a caption above each."""
    return _grid(pictures.transpose(0, 2, 3, 1), columns, title, captions=captions, size=1.5)


def misclassified(
    pictures: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    classes: Sequence[str],
    count: int = 15,
) -> Figure:
    """Draw the images that a network got wrong, the most confident mistakes first.

    Args:
        pictures: uint8 `(n, 3, h, w)`.
        scores: `(n, classes)`, before softmax.
        labels: `(n,)`.
        classes: their names.
        count: largest number of images to draw.

    Raises:
        ValueError: there are more or fewer names than classes.
    """
    _check_names("misclassified", scores, classes)
    predicted = scores.argmax(1)
    odds = np.exp(scores - scores.max(1, keepdims=True)).sum(1)  # 1 / probability of the highest
    wrong = np.flatnonzero(predicted != labels)
    drawn = wrong[np.argsort(odds[wrong], kind="stable")][:count]
    captions = [
        f"{classes[predicted[i]]}, {1 / odds[i]:.0%}\n(is {classes[labels[i]]})" for i in drawn
    ]
    title = f"{len(wrong):,} of {len(labels):,} are misclassified"
    if not len(drawn):
        drawn, captions = np.arange(1), ["a correct one"]
    return images(pictures[drawn], captions, title)


def grad_cam(
    pictures: NDArray[Any], maps: NDArray[Any], captions: Sequence[str], title: str = ""
) -> Figure:
    """Draw images above copies overlaid with their class's evidence: darker red is stronger.

    Args:
        pictures: uint8 `(n, 3, h, w)`.
        maps: `(n, map_h, map_w)`, as `inspect.grad_cam` returns them; each is drawn as shares of
            its largest value.
        captions: one for each image.
        title: of the figure.
    """
    figure, rows = _pairs(pictures, captions, title or "Evidence for the class (Grad-CAM)")
    height, width = pictures.shape[2:]
    for axes, picture, evidence in zip(rows[1], pictures, maps, strict=True):
        axes.imshow(picture.mean(0), cmap="gray", vmin=-255, vmax=255)  # light
        place = (-0.5, width - 0.5, height - 0.5, -0.5)
        look: dict[str, Any] = {"interpolation": "bilinear", "extent": place, "vmin": 0, "vmax": 1}
        share = evidence / (evidence.max() or 1)
        overlay = axes.imshow(share, cmap="YlOrRd", alpha=0.6, **look)
    figure.colorbar(overlay, ax=list(rows[1]), label="evidence", ticks=[0, 1])
    return figure


def saliency(
    pictures: NDArray[Any], maps: NDArray[Any], captions: Sequence[str], title: str = ""
) -> Figure:
    """Draw images above how much each pixel affects the class's score: darker is more.

    Args:
        pictures: uint8 `(n, 3, h, w)`.
        maps: `(n, h, w)`, as `inspect.saliency` returns them; each on its own scale.
        captions: one for each image.
        title: of the figure.
    """
    figure, rows = _pairs(pictures, captions, title or "Pixels that affect the score (saliency)")
    for axes, slopes in zip(rows[1], maps, strict=True):
        axes.imshow(slopes, cmap="Blues", vmin=0, vmax=np.quantile(slopes, 0.99) or 1)
    return figure


def _pairs(
    pictures: NDArray[Any], captions: Sequence[str], title: str
) -> tuple[Figure, NDArray[Any]]:
    """Return a figure with two rows, the images and captions in the first."""
    n = len(pictures)
    shape = (1.35 * n, 3.4)
    figure, rows = subplots(2, n, figsize=shape, squeeze=False)
    for axes, picture, caption in zip(rows[0], pictures, captions, strict=True):
        axes.imshow(picture.transpose(1, 2, 0), interpolation="nearest")
        axes.set_title(caption, size=11)
    for axes in rows.flat:
        axes.set_axis_off()
    figure.suptitle(title)
    return figure, rows


def pooling_routes(
    x: NDArray[Any], pool: Callable[[Tensor], Tensor], title: str = "Pooling"
) -> Figure:
    """Draw a map, its pooled output, and where the gradient flows back to.

    Args:
        x: `(h, w)`, preferably at most 12 x 12 pixels, whose values are written in.
        pool: from `(1, 1, h, w)` to `(1, 1, out_h, out_w)`, such as
            `lambda x: functional.max_pool2d(x, 3, 1)`.
        title: of the figure.
    """
    image = Tensor(np.asarray(x, np.float64)[None, None], requires_grad=True)
    with set_recording(True):
        out = pool(image)
        (back,) = grad(out.sum(), [image])
    panels = {
        "input; ringed pixels get a gradient": image.numpy()[0, 0],
        "output": out.numpy()[0, 0],
        "input gradient,\n1 from each output": back.numpy()[0, 0],
    }
    figure, row = subplots(1, 3, figsize=(10.5, 3.9))
    for (name, values), axes in zip(panels.items(), row, strict=True):
        axes.imshow(values, cmap="Blues", vmin=min(0, values.min()), vmax=values.max() or 1)
        axes.set_title(name, size=10)
        axes.set(xticks=[], yticks=[])
        low, high = axes.images[0].get_clim()
        for (r, c), value in np.ndenumerate(values):
            ink = "white" if value - low > 0.6 * (high - low) else "black"
            axes.text(c, r, f"{value:.2g}", ha="center", va="center", size=8, color=ink)
    r, c = np.nonzero(back.numpy()[0, 0])
    size = 21_600 / max(x.shape) ** 2  # in points squared, to fit a pixel
    row[0].scatter(c, r, s=size, facecolors="none", edgecolors=COLOURS[1], linewidths=1.8)
    figure.suptitle(title)
    return figure


def pooling_shares(
    x: Tensor, pools: Mapping[str, Callable[[Tensor], Tensor]], columns: int = 5
) -> Figure:
    """Draw how much each pixel of a window counts in each kind of pooling: the output's gradient.

    One scale of colours for all: red is positive, blue negative, full colour is 1.2 or more.

    Args:
        x: the window, `(1, 1, h, w)`.
        pools: names of kinds, and functions from `(1, 1, h, w)` to one number.
        columns: panels in a row.
    """
    rows = -(-len(pools) // columns)
    figure, grid = subplots(rows, columns, figsize=(9, 2.2 * rows), squeeze=False)
    for axes in grid.flat[len(pools) :]:
        axes.set_axis_off()
    for axes, (name, pool) in zip(grid.flat, pools.items(), strict=False):
        image = Tensor(x, requires_grad=True)
        with set_recording(True):
            out = pool(image).sum()
            shares = grad(out, [image])[0].numpy()[0, 0] + 0.0  # no -0
        axes.imshow(shares, cmap="RdBu_r", vmin=-1.2, vmax=1.2)
        axes.set(xticks=[], yticks=[], title=f"{name}: {out.item():.3g}")
        for (r, c), share in np.ndenumerate(shares):
            ink = "white" if abs(share) > 0.85 else "black"
            axes.text(c, r, f"{share:.2f}", ha="center", va="center", size=13, color=ink)
    return figure


def _grid(
    tiles: NDArray[Any],
    columns: int,
    title: str,
    *,
    captions: Sequence[str] = (),
    size: float = 0.95,
    cmap: str = "gray",
    **limits: Any,
) -> Figure:
    rows = -(-len(tiles) // columns)
    shape = (size * columns, (size + 0.25 * bool(captions)) * rows + 0.45)
    figure, grid = subplots(rows, columns, figsize=shape, squeeze=False)
    for place, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if place < len(tiles):
            axes.imshow(tiles[place], cmap=cmap, interpolation="nearest", **limits)
            if captions:
                axes.set_title(captions[place], size=9)
    figure.suptitle(title)
    return figure
