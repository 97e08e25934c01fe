"""Random pooling: which pixel of a window to keep, or where the windows lie.

Everything is drawn on the host, from `rng` or the seeded stream, so a seed gives the same windows
and pixels on every device.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np

from minidl.backends import Array, Windows, large, without_underflow
from minidl.checks import Pair, pair
from minidl.functional.activation import relu
from minidl.functional.geometry import check_images, pool_windows
from minidl.functional.pooling.basic import gather_winners
from minidl.functional.pooling.regions import Regions, Spans
from minidl.functional.pooling.scaled import powers
from minidl.functional.pooling.sized import check_output_size, max_of_regions, output_size_of
from minidl.random import below, drawn, generator, uniform
from minidl.tensor import Tensor

Ratio = float | tuple[float, float]
"""Output size divided by input size, `0 < ratio < 1`: one number, or (height, width)."""

# Which pixel ----------------------------------------------------------------------------------


def stochastic_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    training: bool = True,
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Return one random pixel of each window, with probability proportional to its value.

    In training, pixel i of a window is chosen with probability `p[i] = x[i] / sum(x)`, and gets all
    of the gradient; in evaluation the output is the expected value, `sum(p * x)`.

    Args:
        x: `(n, c, h, w)`, float32 or float64, usually the output of a ReLU. Negative values count
            as 0, and a window of zeros gives 0.
        kernel_size: size of the window, in pixels.
        stride: pixels from one window to the next; default `kernel_size`.
        padding: zeros on each side, at most half the window; they are never drawn.
        ceil_mode: see `max_pool2d`.
        training: True to draw, False to average.
        rng: host generator to draw from; default the seeded stream.

    Returns:
        `(n, c, out_h, out_w)`.

    Raises:
        ValueError: a size is not an integer in its range, or a window is larger than the image.
        TypeError: x is not a tensor of floats.

    Source: M. Zeiler and R. Fergus, Stochastic Pooling for Regularization of Deep Convolutional
    Neural Networks (2013), section 3.
    """
    windows = pool_windows("stochastic_pool2d", x, kernel_size, stride, padding, 1, ceil_mode)
    return _stochastic("stochastic_pool2d", x, windows, training, rng)


def stochastic_pool1d(
    x: Tensor,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    ceil_mode: bool = False,
    training: bool = True,
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Apply `stochastic_pool2d` to sequences: `(n, c, length)` to `(n, c, out_length)`."""
    op = "stochastic_pool1d"
    windows = pool_windows(op, x, kernel_size, stride, padding, 1, ceil_mode, axes=1)
    return _stochastic(op, x.expand_dims(2), windows, training, rng).squeeze(2)


def _stochastic(
    op: str, x: Tensor, windows: Windows, training: bool, rng: np.random.Generator | None
) -> Tensor:
    x = relu(x)
    if training:
        return gather_winners(x, _drawn_taps(x, windows, rng), windows)
    shares, total, _ = powers(op, x, 1, windows)
    whole = total(shares)
    mean: Tensor = total(shares * x) / (whole + (whole == 0))
    return mean


@without_underflow
def _drawn_taps(x: Tensor, windows: Windows, rng: np.random.Generator | None) -> Array:
    """Draw one tap of each window: the first whose running sum exceeds a random part of the sum.

    If the sum is 0 or not finite, take the largest pixel. In large windows, pixels race instead:
    each takes a standard exponential time divided by its value, so `x[i]` is first with probability
    `x[i] / sum(x)`. Windows that overlap then share these times.
    """
    xp = x.backend.xp
    if large.suits(windows):
        times = drawn(
            x.backend, rng, lambda stream: stream.standard_exponential(x.shape).astype(x.dtype)
        )
        times = xp.maximum(times, x.dtype.type(1e-30))  # roots, because the quotient may overflow
        return x.backend.max_windows(xp.sqrt(x.array) / xp.sqrt(times), windows)[1]
    padded = x.backend.pad_images(x.array, windows, 0)
    largest, winners = x.backend.max_windows(x.array, windows)
    total = xp.zeros_like(largest)
    for _, rows, columns in windows.taps():
        total += padded[:, :, rows, columns]
    shape, dtype = total.shape, x.dtype
    u = drawn(x.backend, rng, lambda stream: stream.random(shape, np.float32).astype(dtype))
    part, running = u * total, xp.zeros_like(total)
    passed = xp.zeros_like(winners)
    for _, rows, columns in windows.taps():
        running += padded[:, :, rows, columns]
        passed += (running <= part) & (running < total)  # `part` can be rounded up to the sum
    return xp.where((total > 0) & (total < np.inf), passed, winners)


# Where the windows lie ------------------------------------------------------------------------


@overload
def fractional_max_pool2d(
    x: Tensor,
    kernel_size: Pair | None = None,
    output_size: Pair | None = None,
    output_ratio: Ratio | None = None,
    return_indices: Literal[False] = False,
    _random_samples: Tensor | Array | None = None,
    *,
    mode: Literal["pseudorandom", "random"] = "pseudorandom",
    overlapping: bool = True,
    rng: np.random.Generator | None = None,
) -> Tensor: ...
@overload
def fractional_max_pool2d(
    x: Tensor,
    kernel_size: Pair | None = None,
    output_size: Pair | None = None,
    output_ratio: Ratio | None = None,
    *,
    return_indices: Literal[True],
    _random_samples: Tensor | Array | None = None,
    mode: Literal["pseudorandom", "random"] = "pseudorandom",
    overlapping: bool = True,
    rng: np.random.Generator | None = None,
) -> tuple[Tensor, Tensor]: ...
def fractional_max_pool2d(
    x: Tensor,
    kernel_size: Pair | None = None,
    output_size: Pair | None = None,
    output_ratio: Ratio | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | Array | None = None,
    *,
    mode: Literal["pseudorandom", "random"] = "pseudorandom",
    overlapping: bool = True,
    rng: np.random.Generator | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the largest pixel of windows at random distances, to shrink images by any ratio.

    Windows start at `a[0] = 0`, `a[1]`, ...; the increments have two neighbouring sizes, such as 1
    and 2, and add up to the size of the image. Their order is drawn for each channel of each image:

        pseudorandom    a[i] = floor(alpha * (i + u)) - floor(alpha * u), u uniform in [0, 1)
        random          the increments are shuffled

    Window i reaches from `a[i]` to `a[i + 1]`, inclusive if windows overlap, exclusive if they are
    disjoint. With `kernel_size` all windows have that size instead, as in PyTorch.

    Args:
        x: `(n, c, h, w)`, float32 or float64.
        kernel_size: size of all windows, in pixels; None for windows that reach to the next.
        output_size: `(out_h, out_w)`. Give either this or `output_ratio`.
        output_ratio: `out_h / h` and `out_w / w`, `0 < ratio < 1`; the sizes are rounded down.
        return_indices: also return the index `row * w + column` of each winner, int64.
        _random_samples: `(n, c, 2)`, `0 <= u < 1` for columns and rows, instead of drawing u (named
            as in PyTorch).
        mode: `"pseudorandom"` or `"random"`.
        overlapping: whether windows without `kernel_size` share a row and column with the next.
        rng: host generator to draw from; default the seeded stream.

    Returns:
        `(n, c, out_h, out_w)`; with `return_indices` also the indices, of the same shape.

    Raises:
        ValueError: both or neither of output_size and output_ratio are given, or an argument is out
            of range.
        TypeError: x is not a tensor of floats.

    Source: B. Graham, Fractional Max-Pooling (2014), section 2; windows of one size as in PyTorch.
    """
    op = "fractional_max_pool2d"
    check_fractional(op, kernel_size, output_size, output_ratio, mode)
    check_images(op, x)
    sizes, outs = output_size_of(op, x, _asked_size(op, x, output_size, output_ratio))
    kernel = (None, None) if kernel_size is None else pair(op, "kernel_size", kernel_size, 1)
    planes, source = x.shape[0] * x.shape[1], generator(rng)
    u = None if mode == "random" else _samples(op, x, _random_samples, source)
    spans = []
    for axis, (size, out, k) in enumerate(zip(sizes, outs, kernel, strict=True)):
        reach = (out + int(overlapping)) if k is None else out + k - 1
        if reach > size:
            raise ValueError(
                f"{op}: got input shape {x.shape}, kernel_size={kernel_size!r} and output size "
                f"{outs}, expected out + kernel_size - 1 <= the input's size (without kernel_size, "
                "out + 1 if windows overlap)"
            )
        own = source if u is None else u[:, 1 - axis, None]
        spans.append(_spans(size, out, k, overlapping, own, planes))
    best, places = max_of_regions(op, x, Regions(*sizes, *spans), return_indices)
    return best if places is None else (best, places)


def _asked_size(op: str, x: Tensor, output_size: Any, output_ratio: Any) -> Any:
    """Return the output size, as given or as a ratio of the input's."""
    if output_ratio is None:
        return output_size
    ratios = output_ratio if isinstance(output_ratio, (tuple, list)) else (output_ratio,) * 2
    asked = tuple(int(size * ratio) for size, ratio in zip(x.shape[2:], ratios, strict=True))
    if min(asked) < 1:
        raise ValueError(
            f"{op}: got output_ratio={output_ratio!r} for input shape {x.shape}, expected an "
            "output of at least one pixel"
        )
    return asked


def check_fractional(
    op: str, kernel_size: Any, output_size: Any, output_ratio: Any, mode: str
) -> None:
    """Raise ValueError unless these are valid arguments of fractional pooling."""
    if kernel_size is not None:
        pair(op, "kernel_size", kernel_size, 1)
    if (output_size is None) == (output_ratio is None):
        raise ValueError(
            f"{op}: got output_size={output_size!r} and output_ratio={output_ratio!r}, expected "
            "exactly one of them"
        )
    if output_size is not None:
        check_output_size(op, output_size)
    ratios = output_ratio if isinstance(output_ratio, (tuple, list)) else (output_ratio,) * 2
    if output_ratio is not None and (len(ratios) != 2 or not all(0 < r < 1 for r in ratios)):
        raise ValueError(
            f"{op}: got output_ratio={output_ratio!r}, expected 0 < output_ratio < 1, or a pair"
        )
    if mode not in ("pseudorandom", "random"):
        raise ValueError(f"{op}: got mode={mode!r}, expected 'pseudorandom' or 'random'")


def _samples(op: str, x: Tensor, given: Any, rng: np.random.Generator) -> Any:
    """Return u, given or drawn: `(planes, 2)`, on the host."""
    n, c = x.shape[:2]
    if given is None:
        return uniform(rng, (n * c, 2), x.dtype)
    host = given.numpy() if isinstance(given, Tensor) else np.asarray(given)
    if host.shape != (n, c, 2) or not ((host >= 0) & (host < 1)).all():
        raise ValueError(
            f"{op}: got _random_samples of shape {host.shape}, expected {(n, c, 2)} "
            "with values 0 <= u < 1"
        )
    return below(host.reshape(n * c, 2), x.dtype)


def _spans(size: int, out: int, k: int | None, overlapping: bool, u: Any, planes: int) -> Spans:
    """Place `out` windows along an axis of `size` pixels, for each plane."""
    if k is not None:
        starts = _cuts(size - k, out - 1, u, planes)
        return Spans(starts, starts + k)
    shared = int(overlapping)
    cuts = _cuts(size - shared, out, u, planes)
    return Spans(cuts[:, :-1], cuts[:, 1:] + shared)


def _cuts(total: int, steps: int, u: Any, planes: int) -> np.ndarray[Any, Any]:
    """Cut `total` into `steps` nearly equal increments; return their starts, and the end.

    `u` is an array `(planes, 1)` for a pseudorandom order, or the generator for a random one.
    """
    if isinstance(u, np.random.Generator):
        small, more = divmod(total, max(steps, 1))
        increments = np.tile(small + (np.arange(steps) < more), (planes, 1))
        inner = np.cumsum(u.permuted(increments, axis=1), axis=1)
        cuts = np.concatenate([np.zeros((planes, 1), np.int64), inner], axis=1)
    else:
        alpha = u.dtype.type(total) / u.dtype.type(max(steps, 1))  # in PyTorch's precision
        i = np.arange(steps + 1, dtype=u.dtype)
        cuts = np.floor((i + u) * alpha).astype(np.int64) - np.floor(u * alpha).astype(np.int64)
    cuts[:, -1] = total
    return cuts
