"""Figures and moving pictures below the cells of a notebook."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import string
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported on use
    from PIL.Image import Image

# Pixels of a page per inch of a figure: its text is then about as large as the page's. Pictures
# have more pixels, which makes them sharp on fine screens.
SCALE = 96


def in_notebook() -> bool:
    """Return whether a notebook is running this code."""
    # Programs that start kernels import other parts of ipykernel.
    return "ipykernel.kernelapp" in sys.modules


def can_show() -> bool:
    """Return whether a notebook is running this code, and can show pictures."""
    return in_notebook() and "IPython" in sys.modules


def show_picture(path: Path, inches: float, words: str) -> None:
    """Show a picture below the cell that runs.

    Args:
        path: of a PNG file; the notebook gets a copy.
        inches: its width.
        words: what it shows, for readers who cannot see it.
    """
    from IPython.display import Image, display

    display(Image(filename=str(path), width=round(SCALE * inches), alt=words))


def show_player(images: Sequence[Image], inches: float, words: str) -> None:
    """Show a moving picture below the cell that runs, with buttons to play and to step.

    The player needs no network, and does not play by itself. Where scripts are not allowed, as in a
    notebook that is not trusted, it is a picture of the first frame.

    Args:
        images: the frames.
        inches: their width.
        words: what they show, for readers who cannot see it.
    """
    from IPython.display import HTML, display

    frames = [_address(image) for image in images]
    template = string.Template(Path(__file__).with_name("player.html").read_text(encoding="utf-8"))
    player = template.substitute(
        name=f"player-{hashlib.sha256(''.join(frames).encode()).hexdigest()[:12]}",
        words=html.escape(words),
        width=round(SCALE * inches),
        count=len(frames),
        first=frames[0],
        frames="\n  ".join(f'frames[{i}] = "{frame}";' for i, frame in enumerate(frames)),
    )
    display(HTML(player))


def _address(image: Image) -> str:
    """Return a picture as an address that contains it."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
