"""What chapters draw more than once: windows that slide over an image."""

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


def sliding_window(
    image: NDArray[Any],
    operations: Mapping[str, Callable[..., Tensor]],
    strides: Sequence[int] = (1,),
    *,
    kernel: NDArray[Any] | None = None,
    backwards: bool = False,
) -> tuple[Figure, Callable[..., None], int]:
    """Slide a window of 2 x 2 pixels over an image: return what `Chapter.play` draws.

    The window and its outputs are framed; later outputs are empty.

    Args:
        image: `(h, w)`.
        operations: by name, called with a float32 tensor `(1, 1, h, w)`, 2 and the stride.
        strides: the window passes over the image once with each.
        kernel: `(2, 2)`, drawn between image and outputs, with the sum of products below; without
            one, the stride stands there.
        backwards: draw what the outputs so far, each with gradient 1, send back to the image,
            instead of these outputs.

    Returns:
        The figure, a function that draws a frame of it, or one on other axes with another size of
        the text (`draw(frame, axes, 9)`), and the number of frames.

    Example:
        >>> from minidl import functional as F
        >>> figure, draw, frames = sliding_window(np.eye(4), {"max": F.max_pool2d}, (2, 1))
        >>> frames  # 2 x 2 windows with stride 2, 3 x 3 windows with stride 1
        13
    """
    x = Tensor(image[None, None].astype(np.float32), requires_grad=True)
    outs = {s: {name: f(x, 2, s) for name, f in operations.items()} for s in strides}
    spans = {s: [(n - 2) // s + 1 for n in image.shape] for s in strides}
    steps = [(s, *place) for s in strides for place in np.ndindex(*spans[s])]
    fixed = {"image": image} if kernel is None else {"image": image, "kernel": kernel}
    shown = [*fixed.values(), *(out.numpy() for made in outs.values() for out in made.values())]
    low, most = min(v.min() for v in shown), float(max(np.abs(v).max() for v in shown))
    width = image.shape[1] if backwards else spans[min(strides)][1]
    units = sum(values.shape[1] + 1 for values in fixed.values()) + len(operations) * (width + 1)
    figure, own = plots.subplots(figsize=(units / 2, len(image) / 2 + 0.7))

    def draw(step: int, axes: Axes = own, size: float = 13) -> None:
        stride, i, j = steps[step]
        window = (i * stride, j * stride, 2, 2)
        axes.clear()
        left = 0
        look: dict[str, Any] = {"signed": bool(low < 0), "size": size}
        for name, values in fixed.items():
            frame = window if name == "image" else None
            plots.draw_pixels(axes, values, name, left=left, most=most, frame=frame, **look)
            left += values.shape[1] + 1
        for name, out in outs[stride].items():
            done = np.arange(out.size).reshape(out.shape) <= i * out.shape[3] + j
            values, frame, scale = np.where(done, out.numpy(), np.nan), (i, j, 1, 1), most
            if backwards:
                (back,) = grad(out, [x], [Tensor(done.astype(np.float32))], retain_graph=True)
                name, values, frame, scale = f"gradient of {name}", back.numpy(), window, 4
            plots.draw_pixels(axes, values[0, 0], name, left=left, most=scale, frame=frame, **look)
            left += width + 1
        axes.set(xlim=(-0.1, left - 0.9), ylim=(len(image) + 0.8, -0.6))
        caption = f"stride {stride}" if kernel is None else _products(image, kernel, *window[:2])
        axes.text(left / 2 - 0.5, len(image) + 0.5, caption, ha="center", va="center", size=size)

    return figure, draw, len(steps)


def _products(image: NDArray[Any], kernel: NDArray[Any], row: int, column: int) -> str:
    """Return the sum that makes an output, such as "(-1)(0) + (1)(2) = 2"."""
    seen = image[row : row + len(kernel), column : column + kernel.shape[1]]
    products = [f"({w:g})({x:g})" for w, x in zip(kernel.flat, seen.flat, strict=True)]
    return " + ".join(products) + f" = {(kernel * seen).sum():g}"
