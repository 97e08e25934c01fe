"""Every kind of pooling but max and mean as literal loops over windows, in float64.

Arguments are minidl's own, on plain arrays; nothing here is shared with minidl.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from . import formulas, loops
from .formulas import as_pair

Window = list[tuple[int, int]]
"""The row and column of each of a window's pixels that lie on the image, row by row."""

# Where windows lie ----------------------------------------------------------------------------


def sliding(
    size: Sequence[int],
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> list[list[Window]]:
    """Return the windows of one image, row by row."""
    kernel, steps, pads, gaps = (
        as_pair(v) for v in (kernel_size, stride or kernel_size, padding, dilation)
    )
    axes = []
    for length, k, s, p, d in zip(size, kernel, steps, pads, gaps, strict=True):
        starts = loops.window_starts(length, d * (k - 1) + 1, s, p, ceil_mode)
        taps = [[start + d * i for i in range(k)] for start in starts]
        axes.append([[i for i in each if 0 <= i < length] for each in taps])
    return crossed(*axes)


def adaptive(size: Sequence[int], output_size: Any) -> list[list[Window]]:
    both = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    axes = []
    for length, out in zip(size, both, strict=True):
        n = length if out is None else out
        bounds = [(math.floor(i * length / n), math.ceil((i + 1) * length / n)) for i in range(n)]
        axes.append([list(range(*each)) for each in bounds])
    return crossed(*axes)


def crossed(rows: list[list[int]], columns: list[list[int]]) -> list[list[Window]]:
    return [[[(r, q) for r in down for q in across] for across in columns] for down in rows]


def each_window(x: np.ndarray, windows: Any) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yield the place of every output and its window's pixels; `windows(n, c)` differ by plane."""
    for n, c in np.ndindex(x.shape[:2]):
        for y, row in enumerate(windows(n, c)):
            for z, window in enumerate(row):
                yield (n, c, y, z), np.array([x[n, c, r, q] for r, q in window])


def pooled(x: np.ndarray, windows: Any, of: Callable[[np.ndarray, tuple], float]) -> np.ndarray:
    """Pool with `of(pixels, place)`; `windows` are one image's, or a function of n and c."""
    by_plane = windows if callable(windows) else lambda n, c: windows
    first = by_plane(0, 0) if callable(windows) and x.shape[0] else windows
    if callable(first):  # an empty batch
        first = windows(0, 0)
    out = np.zeros((*x.shape[:2], len(first), len(first[0])))
    for place, pixels in each_window(x, by_plane):
        out[place] = of(pixels, place)
    return out


def of_sequences(fn: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Make a reference for sequences of one for images; geometry becomes pairs."""
    ones = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1, "output_size": 1}

    def of_sequence(x: np.ndarray, *others: np.ndarray, **options: Any) -> np.ndarray:
        pairs = {
            name: (ones[name], value) if name in ones and value is not None else value
            for name, value in options.items()
        }
        out = fn(x[:, :, None], *others, **pairs)
        return out[:, :, 0] if out.ndim == 4 else out

    return of_sequence


# Minimum, norms, adaptive ---------------------------------------------------------------------


def min_pool2d(x: np.ndarray, **geometry: Any) -> np.ndarray:
    return pooled(x, sliding(x.shape[2:], **geometry), lambda w, _: w.min())


def lp_pool2d(x: np.ndarray, norm_type: float, kernel_size: Any, **geometry: Any) -> np.ndarray:
    k_h, k_w = as_pair(kernel_size)

    def norm(w: np.ndarray, _: tuple) -> float:
        if math.isinf(norm_type):
            return np.abs(w).max()
        return ((w**norm_type).sum() * (k_h * k_w / len(w))) ** (1 / norm_type)

    return pooled(x, sliding(x.shape[2:], kernel_size, **geometry), norm)


def adaptive_max_pool2d(x: np.ndarray, output_size: Any) -> np.ndarray:
    return pooled(x, adaptive(x.shape[2:], output_size), lambda w, _: w.max())


def adaptive_avg_pool2d(x: np.ndarray, output_size: Any) -> np.ndarray:
    return pooled(x, adaptive(x.shape[2:], output_size), lambda w, _: w.mean())


def adaptive_places(x: np.ndarray, output_size: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest pixels of adaptive windows, and their places."""
    return winners(x, adaptive(x.shape[2:], output_size))


def winners(x: np.ndarray, windows: Any) -> tuple[np.ndarray, np.ndarray]:
    """The first of equals wins, the last NaN, and the first pixel where all are -inf."""
    by_plane = windows if callable(windows) else lambda n, c: windows
    first = by_plane(0, 0)
    values = np.zeros((*x.shape[:2], len(first), len(first[0])))
    places = np.zeros(values.shape, np.int64)
    for n, c, y, z in np.ndindex(values.shape):
        best, place = -np.inf, None
        for r, q in by_plane(n, c)[y][z]:
            pixel = x[n, c, r, q]
            if place is None or pixel > best or np.isnan(pixel):
                best, place = pixel, r * x.shape[3] + q
        values[n, c, y, z], places[n, c, y, z] = best, place
    return values, places


def spatial_pyramid_pool2d(
    x: np.ndarray, levels: Sequence[int] = (1, 2, 4), mode: str = "max"
) -> np.ndarray:
    pool = adaptive_max_pool2d if mode == "max" else adaptive_avg_pool2d
    return np.concatenate([pool(x, k).reshape(len(x), x.shape[1] * k * k) for k in levels], axis=1)


# Channels, blur, convolution ------------------------------------------------------------------


def channel_pool(x: np.ndarray, size: int, of: Callable[..., Any]) -> np.ndarray:
    groups = [of(x[:, i : i + size], axis=1) for i in range(0, x.shape[1], size)]
    return np.stack(groups, axis=1)


def blur_pool2d(x: np.ndarray, stride: Any = 2, filter_size: int = 4) -> np.ndarray:
    """Multiply every window of the mirrored image with the outer product of binomials."""
    row = np.array([math.comb(filter_size - 1, i) for i in range(filter_size)], float)
    kernel = np.outer(row, row) / row.sum() ** 2
    before = (filter_size - 1) // 2
    (n, c, h, w), (s_h, s_w) = x.shape, as_pair(stride)
    out = np.zeros((n, c, -(-h // s_h), -(-w // s_w)))
    for a, b, y, z in np.ndindex(out.shape):
        for i, j in np.ndindex(kernel.shape):
            r, q = y * s_h + i - before, z * s_w + j - before
            r, q = (2 * (m - 1) - v if v >= m else abs(v) for v, m in ((r, h), (q, w)))
            out[a, b, y, z] += kernel[i, j] * x[a, b, r, q]
    return out


def max_blur_pool2d(
    x: np.ndarray, kernel_size: Any = 2, stride: Any = 2, filter_size: int = 4
) -> np.ndarray:
    largest = formulas.max_pool2d(x, kernel_size=kernel_size, stride=1)
    return blur_pool2d(largest, stride, filter_size)


def conv_pool2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    pool_size: Any = 2,
    pool_stride: Any = None,
    mode: str = "max",
    **geometry: Any,
) -> np.ndarray:
    maps = formulas.conv2d(x, weight, bias, **geometry)
    pool = formulas.max_pool2d if mode == "max" else formulas.avg_pool2d
    return pool(maps, kernel_size=pool_size, stride=pool_stride)


def max_unpool2d(
    x: np.ndarray,
    indices: np.ndarray,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> np.ndarray:
    geometry = zip(
        x.shape[2:],
        as_pair(kernel_size),
        as_pair(stride or kernel_size),
        as_pair(padding),
        strict=True,
    )
    least = tuple((size - 1) * s - 2 * p + k for size, k, s, p in geometry)
    h, w = output_size or least
    out = np.zeros((*x.shape[:2], h, w))
    for n, c, y, z in np.ndindex(x.shape):
        place = indices[n, c, y, z]
        out[n, c, place // w, place % w] = x[n, c, y, z]
    return out


# Drawn ----------------------------------------------------------------------------------------


def stochastic_pool2d(
    x: np.ndarray, seed: int = 0, training: bool = True, **geometry: Any
) -> np.ndarray:
    """Walk along each window until the sum exceeds a drawn part of the whole."""
    x = np.maximum(x, 0)
    windows = sliding(x.shape[2:], **geometry)
    n, c, out_h, out_w = (*x.shape[:2], len(windows), len(windows[0]))
    drawn = np.random.default_rng(seed).random((n, c, out_h, out_w), np.float32).astype(float)

    def of(w: np.ndarray, place: tuple) -> float:
        if w.sum() == 0:
            return 0.0
        if not training:
            return float((w / w.sum() * w).sum())
        part, passed = drawn[place] * w.sum(), 0.0
        for pixel in w:
            passed += pixel
            if passed > part:
                return float(pixel)
        raise AssertionError("the whole window was passed")

    return pooled(x, windows, of)


def graham(total: int, steps: int, u: float) -> list[int]:
    """Return `a[0]`, ..., `a[steps]` of fractional pooling's pseudorandom order."""
    alpha = total / max(steps, 1)
    return [math.floor(alpha * (i + u)) - math.floor(alpha * u) for i in range(steps)] + [total]


def fractional(
    size: Sequence[int], outs: Sequence[int], kernel_size: Any, u: Sequence[float], shared: int
) -> list[list[Window]]:
    """Return the windows of one plane; u is for rows, then columns."""
    axes = []
    for axis, (length, out) in enumerate(zip(size, outs, strict=True)):
        if kernel_size is None:
            cuts = graham(length - shared, out, u[axis])
            spans = [(a, b + shared) for a, b in itertools.pairwise(cuts)]
        else:
            k = as_pair(kernel_size)[axis]
            spans = [(a, a + k) for a in graham(length - k, out - 1, u[axis])]
        axes.append([list(range(a, b)) for a, b in spans])
    return crossed(*axes)


def fractional_windows(
    x: np.ndarray,
    kernel_size: Any = None,
    output_size: Any = None,
    output_ratio: Any = None,
    overlapping: bool = True,
    samples: np.ndarray | None = None,
) -> Callable[[int, int], list[list[Window]]]:
    ratios = output_ratio if isinstance(output_ratio, tuple) else (output_ratio,) * 2
    outs = (
        as_pair(output_size)
        if output_size
        else tuple(int(s * r) for s, r in zip(x.shape[2:], ratios, strict=True))
    )

    def windows(n: int, c: int) -> list[list[Window]]:
        u = samples[n, c, ::-1] if len(samples) else (0.0, 0.0)
        return fractional(x.shape[2:], outs, kernel_size, u, int(overlapping))

    return windows


def fractional_max_pool2d(x: np.ndarray, samples: np.ndarray, **options: Any) -> np.ndarray:
    return winners(x, fractional_windows(x, samples=samples, **options))[0]


# Learned --------------------------------------------------------------------------------------


def mixed_pool2d(x: np.ndarray, alpha: Any = 0.5, **geometry: Any) -> np.ndarray:
    windows = sliding(x.shape[2:], **geometry)
    largest = pooled(x, windows, lambda w, _: w.max())
    return alpha * largest + (1 - alpha) * pooled(x, windows, lambda w, _: w.mean())


def gated_pool2d(
    x: np.ndarray, weight: np.ndarray, stride: Any = None, padding: Any = 0
) -> np.ndarray:
    kernel = weight.shape[2:]
    weights = np.repeat(weight, x.shape[1] // len(weight), axis=0)
    pads = as_pair(padding)
    steps = as_pair(stride or kernel)
    sides = (pads[0], pads[0], pads[1], pads[1])
    scores = loops.conv2d(x, weights, None, steps, sides, groups=x.shape[1])
    gate = formulas.sigmoid(scores)
    return mixed_pool2d(x, gate, kernel_size=kernel, stride=steps, padding=padding)


def gem_pool2d(
    x: np.ndarray, p: Any = 3.0, kernel_size: Any = None, eps: float = 1e-6, **geometry: Any
) -> np.ndarray:
    powers = np.broadcast_to(p, x.shape[1])
    whole = kernel_size is None
    windows = sliding(x.shape[2:], x.shape[2:] if whole else kernel_size, **geometry)
    of = lambda w, place: (np.maximum(w, eps) ** powers[place[1]]).mean() ** (1 / powers[place[1]])  # noqa: E731
    out = pooled(x, windows, of)
    return out[:, :, 0, 0] if whole else out


def softmax_pool2d(x: np.ndarray, beta: Any = 1.0, **geometry: Any) -> np.ndarray:
    betas = np.broadcast_to(beta, x.shape[1])

    def of(w: np.ndarray, place: tuple) -> float:
        return float((formulas.softmax(betas[place[1]] * w) * w).sum())

    return pooled(x, sliding(x.shape[2:], **geometry), of)


def attention_pool2d(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    out = np.zeros(x.shape[:2])
    for n, image in enumerate(x):
        pixels = image.reshape(len(weight), image[0].size)
        shares = formulas.softmax(np.array([weight @ pixel for pixel in pixels.T]))
        out[n] = sum(share * pixel for share, pixel in zip(shares, pixels.T, strict=True))
    return out
