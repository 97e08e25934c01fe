"""Moving pictures: GIF files, and players with buttons in notebooks."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from minidl.chapter.shown import can_show, show_player
from minidl.files.whole import whole_file
from minidl.inspect import plots

if TYPE_CHECKING:  # imported on use
    from matplotlib.figure import Figure
    from PIL.Image import Image


def save_movie(
    figure: Figure,
    draw: Callable[[int], object],
    frames: int,
    path: Path,
    words: str = "",
    dpi: int = 120,
) -> Path:
    """Write a moving picture as a GIF that repeats; in a notebook, show a player as well.

    Each frame is shown for a second, the first one for two and the last one for three: the eye
    has to find the beginning, and the result.

    Args:
        figure: to draw in; closed afterwards, in any case.
        draw: called with the number of each frame in turn, `0 <= frame < frames`; changes the
            figure so that it shows this frame.
        frames: how many, >= 1.
        path: of the file.
        words: what the picture shows, for readers of a notebook who cannot see it.
        dpi: pixels per inch.

    Returns:
        The path.

    Raises:
        ValueError: there are no frames.
        OSError: the file cannot be written; an older one stays as it was.
    """
    try:
        if frames < 1:
            raise ValueError(f"save_movie: got {frames} frames, expected at least 1")
        first, *others = _one_palette([_image(figure, draw, frame, dpi) for frame in range(frames)])
        times = [2000] + [1000] * len(others)
        times[-1] = 3000
        look = {"duration": times, "loop": 0, "append_images": others}
        with whole_file(path) as file:
            first.save(file, "GIF", save_all=True, **look)
        if can_show():
            show_player([first, *others], figure.get_figwidth(), words)
    finally:
        plots.pyplot().close(figure)
    return path


def _image(figure: Figure, draw: Callable[[int], object], frame: int, dpi: int) -> Image:
    import PIL.Image

    draw(frame)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return PIL.Image.open(buffer).convert("RGB")


def _one_palette(images: list[Image]) -> list[Image]:
    """Reduce all images to the same 64 colours: without flicker, and a third of the size."""
    import PIL.Image

    width, height = images[0].size
    sheet = PIL.Image.new("RGB", (width, height * len(images)))
    for number, image in enumerate(images):
        sheet.paste(image, (0, number * height))
    # Not by how often colours occur: a red that is rare must not become grey.
    few = sheet.quantize(64, PIL.Image.Quantize.MAXCOVERAGE, dither=PIL.Image.Dither.NONE)
    tops = range(0, few.height, height)
    return [few.crop((0, top, width, top + height)) for top in tops]
