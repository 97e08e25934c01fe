"""Small images drawn as grids of numbers, and windows that slide over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minidl.inspect import plots

if TYPE_CHECKING:  # Matplotlib is imported on use
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_pixels(
    axes: Axes,
    values: ArrayLike,
    left: float = 0,
    top: float = 0,
    *,
    title: str = "",
    most: float | None = None,
    size: float = 11,
) -> None:
    """Draw an image as pixels with their values: red is positive, blue negative.

    Args:
        axes: to draw in; a pixel is one unit wide, and y points downward.
        values: `(h, w)`; NaN is drawn as a question mark.
        left: where the image begins.
        top: where the image begins.
        title: what stands above it.
        most: the |value| of full colour; the largest one if None.
        size: of the text, in points.
    """
    numbers = np.asarray(values, float)
    width = numbers.shape[1]
    most = most or np.nanmax(np.abs(numbers), initial=1e-9)
    colours = plots.pyplot().get_cmap("RdBu_r")
    text: dict[str, Any] = {"ha": "center", "va": "center", "size": size}
    for (row, column), number in np.ndenumerate(numbers):
        known = not np.isnan(number)
        colour = colours(0.5 + 0.3 * number / most) if known else "white"
        _box(axes, left + column, top + row, 1, 1, facecolor=colour, edgecolor="gray")
        label = f"{number:.2g}" if known else "?"
        axes.text(left + column + 0.5, top + row + 0.5, label, **text)
    axes.text(left + width / 2, top - 0.45, title, **text)
    axes.autoscale_view()
    axes.set(aspect="equal", xticks=[], yticks=[], frame_on=False)
    axes.yaxis.set_inverted(True)


def draw_sliding(
    axes: Axes,
    number: int,
    image: NDArray[Any],
    out: NDArray[Any],
    window: int,
    stride: int = 1,
    *,
    kernel: NDArray[Any] | None = None,
    caption: str | None = None,
    size: float = 11,
) -> None:
    """Draw one step of a window that slides over an image: a frame for `Chapter.play`.

    The window and its output are framed; later outputs are question marks.

    Args:
        axes: to draw in; cleared first.
        number: which output, counted along the rows.
        image: `(h, w)`.
        out: all outputs, `(out_h, out_w)`.
        window: height and width of the window, in pixels.
        stride: by how many pixels it moves.
        kernel: `(window, window)`, drawn between image and output.
        caption: how the output is computed, below; with a kernel, the sum of products if None.
        size: of the text, in points.
    """
    axes.clear()
    order = np.arange(out.size).reshape(out.shape)
    parts = {"image": image, "output": np.where(order <= number, out, np.nan)}
    if kernel is not None:
        parts = {"image": image, "kernel": kernel, "output": parts["output"]}
    left, lefts = 0, {}
    for name, values in parts.items():
        most = np.abs(out if name == "output" else values).max()
        draw_pixels(axes, values, left, title=name, most=most, size=size)
        lefts[name] = left
        left += values.shape[1] + 1
    row, column = divmod(number, out.shape[1])
    _box(axes, stride * column, stride * row, window, window, fill=False, lw=3)
    _box(axes, lefts["output"] + column, row, 1, 1, fill=False, lw=3)
    height = max(len(values) for values in parts.values())
    if caption is None and kernel is not None:
        y, x = stride * row, stride * column
        pairs = zip(kernel.flat, image[y : y + window, x : x + window].flat, strict=True)
        products = " + ".join(f"({weight:g})({pixel:g})" for weight, pixel in pairs)
        caption = f"{products} = {out[row, column]:g}"
    axes.text(left / 2 - 0.5, height + 0.6, caption or "", ha="center", va="center", size=size)
    axes.set(xlim=(-0.1, left - 0.9), ylim=(height + 1, -0.8))


def draw_map(axes: Axes, values: ArrayLike, title: str = "") -> None:
    """Draw a feature map or a gradient without its values: red is positive, blue negative.

    Args:
        axes: to draw in.
        values: `(h, w)`; the scale, written below, reaches to the largest |value|.
        title: what stands above it.
    """
    numbers = np.asarray(values, float)
    most = np.abs(numbers).max() or 1.0
    axes.imshow(numbers, cmap="RdBu_r", vmin=-most, vmax=most)
    scale = f"blue {-most:.1f}, red {most:.1f}" if numbers.min() < 0 else f"red {most:.1f}"
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(scale, size=9)
    axes.set_title(title, size=10)


def draw_responses(
    images: NDArray[Any], kernels: Mapping[str, ArrayLike], maps: NDArray[Any]
) -> Figure:
    """Draw kernels in a row, and below each its feature maps of some images.

    Args:
        images: `(n, h, w)`, 0..1.
        kernels: `(k_h, k_w)` by name.
        maps: `(n, len(kernels), out_h, out_w)`.
    """
    figure, panels = plots.subplots(len(images) + 1, len(kernels) + 1, figsize=(9, 5.6))
    for axes, (name, kernel) in zip(panels[0, 1:], kernels.items(), strict=True):
        draw_pixels(axes, kernel, title=name, size=10)
    for row, image, responses in zip(panels[1:], images, maps, strict=True):
        row[0].imshow(image, cmap="gray", vmin=0, vmax=1)
        for axes, response in zip(row[1:], responses, strict=True):
            draw_map(axes, response)
    for axes in panels[:, 0]:
        axes.set_axis_off()
    return figure


def _box(axes: Axes, x: float, y: float, width: float, height: float, **look: Any) -> None:
    axes.add_patch(plots.pyplot().Rectangle((x, y), width, height, **look))
