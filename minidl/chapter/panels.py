"""Curves, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from minidl.inspect import plots

if TYPE_CHECKING:  # Matplotlib is imported on use
    from matplotlib.figure import Figure

STYLES = ("o-", "s--", "^:", "D-.", "v-", "P--")


def side_by_side(
    panels: Mapping[str, Mapping[str, Sequence[float] | Mapping[Any, float]]],
    share_y: bool = True,
    **settings: Any,
) -> Figure:
    """Draw panels of curves.

    In each panel, every curve has a colour, a marker and a line style of its own: none hides
    another, and nobody has to tell colours apart. A single point is a large black star. Labels
    that an earlier panel explained are not explained again.

    Args:
        panels: by title, the curves by label: a value for each of x = 1, 2, ..., such as one per
            epoch, or a mapping of x to y.
        share_y: whether the panels have one scale, with labels on the left only.
        settings: of every panel, as Matplotlib's `Axes.set` takes them: `xlabel`, `yscale`, ...

    Example:
        >>> figure = side_by_side({"Loss": {"training": [2.0, 1.0], "validation": {1: 2.1}}})
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['training', 'validation']
    """
    figure, row = plots.subplots(1, len(panels), figsize=(9, 3.6), sharey=share_y, squeeze=False)
    explained: set[str] = set()
    for axes, (title, curves) in zip(row[0], panels.items(), strict=True):
        for (label, curve), colour, style in zip(
            curves.items(), plots.COLOURS, STYLES, strict=False
        ):
            points = curve if isinstance(curve, Mapping) else dict(enumerate(curve, 1))
            x, y = [*points], [*points.values()]
            look = {"color": colour, "markersize": 5, "markerfacecolor": "none"}
            if len(points) == 1:
                style, look = "*", {"color": "black", "markersize": 11}
            axes.plot(x, y, style, label=label, zorder=3 if len(points) == 1 else 2, **look)
        axes.set(title=title, **settings)
        axes.grid(alpha=0.3)
        if share_y:
            axes.label_outer()
        if not curves.keys() <= explained:
            axes.legend()
        explained |= curves.keys()
    return figure
