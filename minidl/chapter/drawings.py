"""What chapters draw more than once: arrays as numbers, sliding windows, images, curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minidl.derivatives import grad
from minidl.inspect import plots
from minidl.tensor import Tensor

if TYPE_CHECKING:  # Matplotlib is imported on use
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def numbers(
    axes: Axes,
    values: NDArray[Any],
    title: str = "",
    top: float | None = None,
    frame: tuple[float, float, float] | None = None,
) -> None:
    """Clear axes and write an array on them: one number on each pixel, large ones on dark blue.

    Args:
        axes: of a figure.
        values: `(h, w)`, non-negative; NaN leaves a pixel empty.
        title: of the axes.
        top: the value with the darkest colour; default: the largest. A quarter of it is half as
            dark.
        frame: first row, first column and width of a window to be framed.
    """
    axes.clear()
    most = top if top is not None else float(np.nanmax(values, initial=0)) or 1.0
    axes.imshow(np.sqrt(values / most), cmap="Blues", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[], title=title)
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            ink = "white" if value > 0.45 * most else "black"
            axes.text(column, row, f"{value:.3g}", ha="center", va="center", size=13, color=ink)
    if frame is not None:
        corner, width = (frame[1] - 0.5, frame[0] - 0.5), frame[2]
        box = axes.add_patch(plots.pyplot().Rectangle(corner, width, width, fill=False))
        box.set(linewidth=4, edgecolor=plots.COLOURS[1], clip_on=False)


def sliding_pools(
    image: NDArray[Any],
    pools: Mapping[str, Callable[..., Tensor]],
    strides: Sequence[int] = (2, 1),
    backwards: bool = False,
) -> tuple[Figure, Callable[[int], None], int]:
    """Slide a window of 2 x 2 pixels over an image: return what `Chapter.play` draws.

    Args:
        image: `(h, w)`, non-negative.
        pools: operations by name, called with a tensor `(1, 1, h, w)`, 2 and the stride.
        strides: the window passes over the image once with each.
        backwards: draw what the outputs so far, each with gradient 1, send back to the image,
            instead of these outputs.

    Returns:
        The figure, a function that draws a frame of it, and the number of frames.

    Example:
        >>> from minidl import functional as F
        >>> figure, draw, frames = sliding_pools(np.eye(4), {"max": F.max_pool2d})
        >>> frames  # 2 x 2 windows with stride 2, 3 x 3 windows with stride 1
        13
    """
    spans = {stride: [(n - 2) // stride + 1 for n in image.shape] for stride in strides}
    steps = [(stride, *place) for stride in strides for place in np.ndindex(*spans[stride])]
    figure, panels = plots.subplots(1, 1 + len(pools), figsize=(2 + 2 * len(pools), 2.4))

    def draw(step: int) -> None:
        stride, i, j = steps[step]
        window = (i * stride, j * stride, 2)
        numbers(panels[0], image, f"window 2, stride {stride}", frame=window)
        for axes, (name, pool) in zip(panels[1:], pools.items(), strict=True):
            x = Tensor(image[None, None].astype(np.float64), requires_grad=True)
            out = pool(x, 2, stride)
            done = np.arange(out.size).reshape(out.shape) <= i * out.shape[3] + j
            if backwards:
                (back,) = grad((out * Tensor(done.astype(np.float64))).sum(), [x])
                numbers(axes, back.numpy()[0, 0], f"gradient of {name}", 4, window)
            else:
                values = np.where(done, out.numpy(), np.nan)[0, 0]
                numbers(axes, values, name, float(image.max()), (i, j, 1))

    return figure, draw, len(steps)


def gallery(
    tiles: Mapping[str, NDArray[Any]], columns: int = 4, label: str = "", **look: Any
) -> Figure:
    """Draw images side by side on one scale, each below its title.

    Args:
        tiles: images `(h, w)` by title.
        columns: images in a row; the figure is 9 inches wide.
        label: of the colour bar; "" draws none.
        look: `cmap`, `vmin` and `vmax`; default: grey, 0 to 1.
    """
    rows = -(-len(tiles) // columns)
    lines = max(title.count("\n") for title in tiles) + 1
    width = (8 if label else 9) / columns
    size = (9, rows * (width + 0.17 * lines + 0.1))
    figure, grid = plots.subplots(rows, columns, figsize=size, squeeze=False)
    for axes, (title, tile) in zip(grid.flat, tiles.items(), strict=False):
        drawn = axes.imshow(tile, **{"cmap": "gray", "vmin": 0, "vmax": 1} | look)
        axes.set_title(title, size=10)
        axes.set(xticks=[], yticks=[])
    for axes in grid.flat[len(tiles) :]:
        axes.set_axis_off()
    if label:
        figure.colorbar(drawn, ax=grid, label=label, shrink=0.8)
    return figure


def curves(
    lines: Mapping[str, Sequence[float]],
    x: Sequence[float],
    xlabel: str,
    ylabel: str,
    yscale: str = "linear",
) -> Figure:
    """Draw named curves over x, in different colours and with different markers.

    Args:
        lines: for each name, one value for each x; up to six names.
        x: where they were measured; each gets a tick, if there are at most 12.
        xlabel: with the unit.
        ylabel: with the unit.
        yscale: "linear" or "log".
    """
    figure, axes = plots.subplots(figsize=(7, 3.6))
    for (name, values), colour, marker in zip(lines.items(), plots.COLOURS, "os^Dv*", strict=False):
        every = 1 + len(x) // 60
        axes.plot(x, values, marker=marker, markevery=every, color=colour, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale=yscale)
    if len(x) <= 12:
        axes.set_xticks(x)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
