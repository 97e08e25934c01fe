"""Moving pictures: GIF files, and players with buttons in notebooks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from minidl.inspect import plots

if TYPE_CHECKING:  # Matplotlib is imported on use
    from matplotlib.figure import Figure


def save_movie(
    figure: Figure, draw: Callable[[int], object], frames: int, path: Path, dpi: int = 80
) -> Path:
    """Write a moving picture as GIF, which repeats; in a notebook, show a player.

    Args:
        figure: to draw in; closed afterwards.
        draw: called with the number of each frame, `0 <= frame < frames`.
        frames: how many; each is shown for a second.
        path: of the file.
        dpi: pixels per inch.

    Returns:
        The path.
    """
    from matplotlib import animation

    def draw_frame(frame: int) -> list[object]:
        draw(frame)
        return []

    path.parent.mkdir(parents=True, exist_ok=True)
    movie = animation.FuncAnimation(figure, draw_frame, frames=frames, interval=1000)  # type: ignore[arg-type]
    movie.save(path, writer=animation.PillowWriter(fps=1), dpi=dpi)
    if "ipykernel" in sys.modules:
        from IPython.display import HTML, display

        display(HTML(movie.to_jshtml()))
    plots.pyplot().close(figure)
    return path
