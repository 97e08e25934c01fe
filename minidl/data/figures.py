"""Draw figures on cluttered ground: what the embedded image sets are made of.

A shape is a signed distance in its own coordinates (about -1..1, x right, y down): negative
inside, positive outside, in units of the shape's radius. Distances make soft edges easy. Random
values have the shape (n, c, 1, 1), images (n, c, h, w), so that many images are drawn at once.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

# float32 arrays. NumPy's own stubs claim that `float32_array - 0.85` is float64, which it is not.
Floats: TypeAlias = Any
Distance: TypeAlias = Callable[[Floats, Floats], Floats]


def disc(x: Floats, y: Floats) -> Floats:
    """Return the distance to a disc."""
    return np.hypot(x, y) - 0.85


def ring(x: Floats, y: Floats) -> Floats:
    """Return the distance to a ring, 0.4 of its radius thick."""
    return np.abs(np.hypot(x, y) - 0.75) - 0.2


def _half_planes(x: Floats, y: Floats, first_angle: float, count: int, inradius: float) -> Floats:
    """Stack the distances to `count` lines around the centre: (count, *x.shape)."""
    angles = first_angle + np.arange(count) * (2 * np.pi / count)
    normals = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    return np.stack([x * n_x + y * n_y for n_x, n_y in normals]) - inradius


def triangle(x: Floats, y: Floats) -> Floats:
    """Return the distance to a triangle that stands on one side."""
    return _half_planes(x, y, np.pi / 2, 3, 0.55).max(axis=0)


def star(x: Floats, y: Floats) -> Floats:
    """Return the distance to a five-pointed star."""
    # A point inside a five-pointed star is beyond at most one of its five lines.
    return np.partition(_half_planes(x, y, -np.pi / 2, 5, 0.46), 3, axis=0)[3]


def cross(x: Floats, y: Floats) -> Floats:
    """Return the distance to a cross of two bars."""
    a, b = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(a - 1.1, b - 0.22), np.maximum(a - 0.22, b - 1.1))


def moon(x: Floats, y: Floats) -> Floats:
    """Return the distance to a crescent, open to the right."""
    return np.maximum(np.hypot(x, y) - 1, 0.8 - np.hypot(x - 0.5, y))


def uniform(rng: np.random.Generator, n: int, channels: int, low: float, high: float) -> Floats:
    """Draw float32 values `low <= x < high`, (n, channels, 1, 1)."""
    return rng.uniform(low, high, (n, channels, 1, 1)).astype(np.float32)


def centred(
    rng: np.random.Generator, n: int, side: int, reach: float | Floats
) -> tuple[Floats, Floats]:
    """Return pixel coordinates, x (n, 1, 1, w) and y (n, 1, h, 1), relative to a random point."""
    grid = np.arange(side, dtype=np.float32) - (side - 1) / 2
    x = grid - reach * uniform(rng, n, 1, -1, 1)
    return x, grid[:, None] - reach * uniform(rng, n, 1, -1, 1)


def turned(x: Floats, y: Floats, angle: Floats) -> tuple[Floats, Floats]:
    """Return coordinates (n, 1, h, w) that are turned by an angle in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def cover(image: Floats, coverage: Floats, colour: Floats) -> None:
    """Paint a colour over an image, where `coverage` says how much of each pixel."""
    image += coverage * (colour - image)


def bar(rng: np.random.Generator, n: int, side: int) -> Floats:
    """Return the coverage (n, 1, h, w) of a short round-ended bar at a random position."""
    x, y = centred(rng, n, side, side / 2)
    angle, half_length = uniform(rng, n, 1, 0, np.pi), uniform(rng, n, 1, 0, 5)
    cos, sin = np.cos(angle), np.sin(angle)
    along = np.clip(x * cos + y * sin, -half_length, half_length)
    distance = np.hypot(x - along * cos, y - along * sin) - uniform(rng, n, 1, 0.6, 1.6)
    return np.clip(0.5 - distance, 0, 1)


def mottle(rng: np.random.Generator, n: int, side: int) -> Floats:
    """Return soft random patches (n, c, h, w): a 5x5 grid of noise, scaled up bilinearly."""
    knots = np.arange(5)
    at = np.linspace(0, 4, side)[:, None]
    stretch = np.maximum(0, 1 - np.abs(at - knots)).astype(np.float32)  # (side, 5)
    return stretch @ rng.standard_normal((n, 3, 5, 5), dtype=np.float32) @ stretch.T


def light(rng: np.random.Generator, n: int, side: int) -> Floats:
    """Return a factor (n, 1, h, w): an overall brightness and a fall-off to one side."""
    x, y = centred(rng, n, side, 0.0)
    angle = uniform(rng, n, 1, 0, 2 * np.pi)
    slope = uniform(rng, n, 1, 0, 0.3) / (side * 0.7)  # per pixel; 0.7 reaches the corners
    slant = 1 + slope * (x * np.cos(angle) + y * np.sin(angle))
    return slant * uniform(rng, n, 1, 0.8, 1.1)
