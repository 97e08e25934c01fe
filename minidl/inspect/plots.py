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
from numpy.typing import ArrayLike, NDArray

from minidl.autograd import set_recording
from minidl.derivatives import grad
from minidl.tensor import Tensor

if TYPE_CHECKING:  # plots need only arrays: no network is imported
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from minidl import nn
    from minidl.inspect.summary import Summary


# Matplotlib's backends that write files and open no windows.
FILES_ONLY = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")

# Okabe and Ito's colours, which colour-blind people can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")

# Markers and line styles, for the same number of curves.
STYLES = ("o-", "s--", "^:", "D-.", "v-", "P--")


def pyplot() -> Any:
    """Return `matplotlib.pyplot`; the first call imports it, which takes 0.4 s.

    Warns:
        UserWarning: the environment variable `MPLBACKEND` is misspelt, or its backend cannot open
            windows here; figures can then only be saved.

    Raises:
        ImportError: Matplotlib is missing or broken.
    """
    # If MPLBACKEND is misspelt, importing Matplotlib fails, and so does a second attempt. Not so in
    # a notebook: its backend shows figures only if Matplotlib finds it while it is imported.
    imported = sys.modules.get("matplotlib") or "ipykernel" in sys.modules
    asked = "" if imported else os.environ.pop("MPLBACKEND", "")
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
    panels: dict[str, dict[str, list[float]]] = {"Loss": {}, "Accuracy": {}}
    for name, values in history.items():
        part, _, quantity = name.partition("_")
        if part in ("train", "validation", "test") and quantity.capitalize() in panels:
            factor = 100 if quantity == "accuracy" else 1
            shown = [factor * value for value in values]
            panels[quantity.capitalize()][part.replace("train", "training")] = shown
    figure = side_by_side(panels, share_y=False, xlabel="epoch")
    for axes, label in zip(figure.axes, ("cross-entropy", "accuracy (%)"), strict=True):
        axes.set_ylabel(label)
    return figure


def side_by_side(
    panels: Mapping[str, Mapping[str, Sequence[float] | Mapping[Any, float]]],
    share_y: bool = True,
    **settings: Any,
) -> Figure:
    """Draw panels of curves.

    In each panel, every curve has a colour, a marker and a line style of its own: none hides
    another, and nobody has to tell colours apart. A single point beside curves is a large black
    star. Labels that an earlier panel explained are not explained again.

    Args:
        panels: by title, the curves by label, at most six: a value for each of x = 1, 2, ..., such
            as one per epoch, or a mapping of x to y.
        share_y: whether the panels have one scale, with labels on the left only.
        settings: of every panel, as Matplotlib's `Axes.set` takes them: `xlabel`, `yscale`, ...

    Raises:
        ValueError: a panel has more curves than there are looks.

    Example:
        >>> figure = side_by_side({"Loss": {"training": [2.0, 1.0], "validation": {1: 2.1}}})
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['training', 'validation']
    """
    count = max(map(len, panels.values()))
    if count > len(STYLES):
        raise ValueError(f"side_by_side: got {count} curves, expected at most {len(STYLES)}")
    figure, row = subplots(1, len(panels), figsize=(9, 3.6), sharey=share_y, squeeze=False)
    explained: set[str] = set()
    for axes, (title, curves) in zip(row[0], panels.items(), strict=True):
        whole, longest = True, max(map(len, curves.values()), default=0)
        for (label, curve), colour, style in zip(curves.items(), COLOURS, STYLES, strict=False):
            points = curve if isinstance(curve, Mapping) else dict(enumerate(curve, 1))
            whole = whole and all(float(x).is_integer() for x in points)
            look = {"color": colour, "markersize": 5, "markerfacecolor": "none", "zorder": 2}
            look["markevery"] = 1 + len(points) // 60
            if len(points) == 1 < longest:
                style, look = "*", {"color": "black", "markersize": 11, "zorder": 3}
            axes.plot([*points], [*points.values()], style, label=label, **look)
        axes.xaxis.get_major_locator().set_params(integer=whole)
        axes.set(title=title, **settings)
        axes.grid(alpha=0.3)
        if share_y:
            axes.label_outer()
        if not curves.keys() <= explained:
            axes.legend()
        explained |= curves.keys()
    return figure


def draw_pixels(
    axes: Axes,
    values: ArrayLike,
    title: str = "",
    *,
    left: float = 0,
    most: float | None = None,
    signed: bool | None = None,
    frame: tuple[float, float, float, float] | None = None,
    size: float = 11,
) -> None:
    """Draw an array as pixels: darker blue is larger or, with signs, red positive, blue negative.

    Up to 100 pixels have their values written in, to two decimals; more have their range below.
    Colours follow the square root of |value|: next to a 4, even 1/4 looks different from 0, which
    is white.

    Args:
        axes: to draw in; a pixel is one unit wide, and y points downward.
        values: `(h, w)`; NaN leaves a pixel empty.
        title: what stands above it.
        left: x of the left edge, so that several arrays fit on the same axes.
        most: the |value| with the strongest colour; by default, the largest.
        signed: whether colours distinguish signs; by default, only if a value is negative.
        frame: first row, first column, height and width of a part to draw a frame around.
        size: of the text, in points.

    Example:
        >>> _, axes = subplots()
        >>> draw_pixels(axes, [[1, 0.5], [0, 4]], "image", frame=(1, 1, 1, 1))
        >>> [text.get_text() for text in axes.texts]
        ['1', '0.5', '0', '4', 'image']
    """
    pixels = np.asarray(values, np.float64)
    height, width = pixels.shape
    signed = bool((pixels < 0).any()) if signed is None else signed
    most = most or float(np.nanmax(np.abs(pixels), initial=0)) or 1.0
    shares = np.sign(pixels) * np.sqrt(np.abs(pixels) / most)
    x, y, is_small = left + np.arange(width + 1), np.arange(height + 1), pixels.size <= 100
    cmap, low = ("RdBu_r", -1.3) if signed else ("Blues", 0)
    look: dict[str, Any] = {"cmap": cmap, "vmin": low, "vmax": 1.3, "clip_on": False, "lw": 0.5}
    look["edgecolors"] = "gray" if is_small else "none"
    mesh = axes.pcolormesh(x, y, np.ma.masked_equal(shares, 0), **look)  # 0 is white
    for place, value in np.ndenumerate(pixels if is_small else np.empty(0)):
        if not np.isnan(value):
            brightness = np.dot(mesh.to_rgba(shares[place])[:3], (0.3, 0.6, 0.1))
            ink: dict[str, Any] = {"color": "white" if brightness < 0.5 else "black", "size": size}
            number = f"{np.round(value, 2) + 0:g}"  # no -0
            row, column = place
            axes.text(left + column + 0.5, row + 0.5, number, ha="center", va="center", **ink)
    text: dict[str, Any] = {"ha": "center", "textcoords": "offset points", "size": size}
    axes.annotate(title, (left + width / 2, 0), (0, 4), va="bottom", **text)
    if not is_small:
        scale = f"{np.nanmin(pixels):.2g} to {np.nanmax(pixels):.2g}"
        axes.annotate(scale, (left + width / 2, height), (0, -4), va="top", **text | {"size": 9})
    if frame is not None:
        box = pyplot().Rectangle((left + frame[1], frame[0]), frame[3], frame[2], fill=False)
        box.set(lw=3, edgecolor="black" if signed else COLOURS[1], clip_on=False, zorder=3)
        axes.add_patch(box)
    axes.set(aspect="equal", xticks=[], yticks=[], frame_on=False)
    axes.yaxis.set_inverted(True)


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
    previous layer. Piles of layers with parameters are blue, others orange; doubling the number of
    maps adds one sheet.

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


def image_rows(
    rows: Mapping[str, Sequence[NDArray[Any]]], title: str = "", scale: str = "value"
) -> Figure:
    """Draw small images in rows, with a name at the left of each row.

    Args:
        rows: for each name the images: pictures `(h, w, 3)`, or values `(h, w)`. Where none is
            negative, brighter is larger, from 0 to each image's own largest value. Those with
            negative values share one scale: red is positive, blue negative.
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
                look = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
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
    pictures: NDArray[Any] | Mapping[str, NDArray[Any]],
    captions: Sequence[str] = (),
    title: str = "",
    columns: int = 5,
    label: str = "",
    **look: Any,
) -> Figure:
    """Draw images in a grid, with captions above them; the figure is 9 inches wide.

    Args:
        pictures: uint8 `(n, 3, h, w)`, or values `(n, h, w)` on one scale, such as feature maps; or
            a mapping of captions to images.
        captions: one for each image, or none.
        title: of the figure.
        columns: images in a row.
        label: of a bar that explains the scale of values; "" draws none.
        look: of values: `cmap`, `vmin` and `vmax`; default: grey, 0 to 1.
    """
    if isinstance(pictures, Mapping):
        captions, pictures = list(pictures), np.stack(list(pictures.values()))
    tiles = pictures.transpose(0, 2, 3, 1) if pictures.ndim == 4 else pictures
    look = {"vmin": 0, "vmax": 1} | look
    return _grid(tiles, columns, title, captions=captions, label=label, **look)


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


def pooling_shares(
    x: Tensor, pools: Mapping[str, Callable[[Tensor], Tensor]], columns: int = 5
) -> Figure:
    """Draw how much each pixel of a window counts in each kind of pooling: the output's gradient.

    All panels share one scale: red is positive, blue negative.

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
            shares = grad(out, [image])[0].numpy()[0, 0]
        title = f"{name}: {out.item():.3g}"
        draw_pixels(axes, shares, title, most=1, signed=True, size=13)
    return figure


def _grid(
    tiles: NDArray[Any],
    columns: int,
    title: str,
    *,
    captions: Sequence[str] = (),
    label: str = "",
    cmap: str = "gray",
    **limits: Any,
) -> Figure:
    rows = -(-len(tiles) // columns)
    width = (8 if label else 9) / columns
    lines = max((caption.count("\n") + 1.5 for caption in captions), default=0)
    shape = (9, rows * (width + 0.17 * lines) + 0.4 * bool(title))
    figure, grid = subplots(rows, columns, figsize=shape, squeeze=False)
    for place, axes in enumerate(grid.flat):
        axes.set(xticks=[], yticks=[])
        if place >= len(tiles):
            axes.set_axis_off()
            continue
        drawn = axes.imshow(tiles[place], cmap=cmap, interpolation="nearest", **limits)
        if captions:
            axes.set_title(captions[place], size=10)
    if label:
        figure.colorbar(drawn, ax=grid, label=label, shrink=0.8)
    if title:
        figure.suptitle(title)
    return figure
