"""Learnable pooling: the max/mean mix, the power, or the weights are parameters.

Each parameter is an argument, a number or a tensor; a tensor gets a gradient.
"""

from __future__ import annotations

import functools

import numpy as np

from minidl.autograd import Gradients
from minidl.backends import Windows, without_underflow
from minidl.checks import Pair, check_fraction
from minidl.functional.activation import sigmoid, softmax
from minidl.functional.geometry import check_images, check_together, pool_windows
from minidl.functional.pooling.basic import divisors_of, max_over, mean_over
from minidl.functional.pooling.kinds import check_p
from minidl.functional.pooling.scaled import exponentials, powers
from minidl.tensor import Tensor, record

# Maximum and mean -----------------------------------------------------------------------------


def mixed_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    alpha: float | Tensor = 0.5,
) -> Tensor:
    """Mix the maximum and mean of each window: `alpha * max(w) + (1 - alpha) * mean(w)`.

    Args:
        x: `(n, c, h, w)`, float32 or float64.
        kernel_size: size of the window, in pixels.
        stride: pixels from one window to the next; default `kernel_size`.
        padding: pixels on each side, at most half the window; ignored by maximum and mean.
        ceil_mode: see `max_pool2d`.
        alpha: weight of the maximum, `0 <= alpha <= 1`; or a tensor that broadcasts to the output,
            such as `(c, 1, 1)`, whose values are not checked.

    Returns:
        `(n, c, out_h, out_w)`.

    Raises:
        ValueError: not `0 <= alpha <= 1`, or a size is out of range.
        TypeError: x is not a tensor of floats.

    Source: C.-Y. Lee et al., Generalizing Pooling Functions in Convolutional Neural Networks
    (2016), section 3.1, "mixed".
    """
    windows = pool_windows("mixed_pool2d", x, kernel_size, stride, padding, 1, ceil_mode)
    return _mixed("mixed_pool2d", x, windows, alpha)


def mixed_pool1d(
    x: Tensor,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    ceil_mode: bool = False,
    alpha: float | Tensor = 0.5,
) -> Tensor:
    """Apply `mixed_pool2d` to sequences: `(n, c, length)` to `(n, c, out_length)`."""
    op = "mixed_pool1d"
    windows = pool_windows(op, x, kernel_size, stride, padding, 1, ceil_mode, axes=1)
    return _mixed(op, x.expand_dims(2), windows, alpha).squeeze(2)


def gated_pool2d(
    x: Tensor, weight: Tensor, stride: Pair | None = None, padding: Pair = 0
) -> Tensor:
    """Mix the maximum and mean of each window by a gate: `alpha = sigmoid(sum(weight * w))`.

    Args:
        x: `(n, c, h, w)`, float32 or float64.
        weight: `(1, 1, k_h, k_w)`, one gate for all channels, or `(c, 1, k_h, k_w)`, one each;
            `(k_h, k_w)` is the window size.
        stride: pixels from one window to the next; default the window size.
        padding: pixels on each side, at most half the window; ignored by maximum and mean.

    Returns:
        `(n, c, out_h, out_w)`.

    Raises:
        ValueError: the weight has another shape, or a size is out of range.
        TypeError: x is not a tensor of floats, or dtypes or devices differ.

    Source: C.-Y. Lee et al., Generalizing Pooling Functions in Convolutional Neural Networks
    (2016), section 3.1, "gated".
    """
    op = "gated_pool2d"
    check_images(op, x)
    check_together(op, input=x, weight=weight)
    c = x.shape[1]
    if weight.ndim != 4 or weight.shape[1] != 1 or weight.shape[0] not in (1, c):
        raise ValueError(
            f"{op}: got a weight of shape {weight.shape} for input shape {x.shape}, expected "
            f"(1, 1, k_h, k_w) or ({c}, 1, k_h, k_w)"
        )
    windows = pool_windows(op, x, (weight.shape[2], weight.shape[3]), stride, padding)
    columns = _gather(x, windows)  # (n, out_h, out_w, k_h·k_w, c)
    scores = (columns * weight.reshape(len(weight), -1).T).sum(3)
    return _mixed(op, x, windows, sigmoid(scores.transpose(0, 3, 1, 2)))


def _mixed(op: str, x: Tensor, windows: Windows, alpha: float | Tensor) -> Tensor:
    if not isinstance(alpha, Tensor):
        check_fraction(op, "alpha", alpha)
    mean = mean_over(op, x, windows, count_include_pad=False)
    return mean + (max_over(op, x, windows)[0] - mean) * alpha


# Powers ---------------------------------------------------------------------------------------


def gem_pool2d(
    x: Tensor,
    p: float | Tensor = 3.0,
    kernel_size: Pair | None = None,
    stride: Pair | None = None,
    padding: Pair = 0,
    eps: float = 1e-6,
) -> Tensor:
    """Return the generalised mean `mean(x**p) ** (1 / p)` of each window or of the whole image.

    p = 1 is the mean; as p grows, the result approaches the maximum.

    Args:
        x: `(n, c, h, w)`, float32 or float64, usually the output of a ReLU.
        p: `p > 0`: a number, or a tensor `()`, `(1,)`, or `(c,)`, one for each channel.
        kernel_size: size of the window, in pixels; default the whole image.
        stride: pixels from one window to the next; default `kernel_size`.
        padding: pixels on each side, at most half the window, that are not counted.
        eps: smaller values are set to this; `eps > 0`, as the gradient of p takes their logarithm.

    Returns:
        `(n, c)` for whole images, or `(n, c, out_h, out_w)`.

    Raises:
        ValueError: p or eps is not > 0, p has another shape, or a size is out of range.
        TypeError: x is not a tensor of floats.

    Source: F. Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation (2018),
    section 3.2.
    """
    op = "gem_pool2d"
    if kernel_size is None:
        check_images(op, x)
        return _generalised(op, x, p, None, eps)
    return _generalised(op, x, p, pool_windows(op, x, kernel_size, stride, padding), eps)


def gem_pool1d(
    x: Tensor,
    p: float | Tensor = 3.0,
    kernel_size: int | None = None,
    stride: int | None = None,
    padding: int = 0,
    eps: float = 1e-6,
) -> Tensor:
    """Apply `gem_pool2d` to sequences: `(n, c, length)` to `(n, c)` or `(n, c, out_length)`."""
    op = "gem_pool1d"
    check_images(op, x, axes=1)
    if kernel_size is None:
        return _generalised(op, x.expand_dims(2), p, None, eps)
    windows = pool_windows(op, x, kernel_size, stride, padding, axes=1)
    return _generalised(op, x.expand_dims(2), p, windows, eps).squeeze(2)


def _wrong_power(op: str, p: Tensor) -> ValueError:
    return ValueError(f"{op}: got p={p.numpy().tolist()!r}, expected a positive number")


def _generalised(
    op: str, x: Tensor, p: float | Tensor, windows: Windows | None, eps: float
) -> Tensor:
    if not eps > 0:
        raise ValueError(f"{op}: got eps={eps!r}, expected a positive number")
    if isinstance(p, Tensor):
        check_together(op, input=x, p=p)
        if p.shape not in ((), (1,), (x.shape[1],)):
            raise ValueError(f"{op}: got p of shape {p.shape}, expected (1,) or ({x.shape[1]},)")
        x.backend.raise_if(~(p.array > 0), functools.partial(_wrong_power, op, p))
        p = p.reshape(-1, 1, 1)
    else:
        check_p(op, p)
        p = float(p)
    whole = windows is None
    if windows is None:
        windows = Windows(*x.shape[2:] * 3)
    terms, total, largest = powers(op, x.clip(float(eps)), p, windows)
    counts = divisors_of(x.backend, windows, False, x.dtype)
    out: Tensor = (total(terms) / counts) ** (1 / p) * largest
    return out.squeeze((2, 3)) if whole else out


# Weights --------------------------------------------------------------------------------------


def softmax_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    beta: float | Tensor = 1.0,
) -> Tensor:
    """Return the weighted mean of each window, with weights `softmax(beta * w)`.

    beta = 0 is the mean; as beta grows, the result approaches the maximum.

    Args:
        x: `(n, c, h, w)`, float32 or float64.
        kernel_size: size of the window, in pixels.
        stride: pixels from one window to the next; default `kernel_size`.
        padding: pixels on each side, at most half the window, that are not counted.
        ceil_mode: see `max_pool2d`.
        beta: a number, or a tensor `()`, `(1,)`, or `(c,)`, one for each channel.

    Returns:
        `(n, c, out_h, out_w)`.

    Raises:
        ValueError: a size is out of range, or beta has another shape.
        TypeError: x is not a tensor of floats.

    Source: Y.-L. Boureau et al., A Theoretical Analysis of Feature Pooling in Visual Recognition
    (2010), section 3.2; A. Stergiou et al., Refining activation downsampling with SoftPool (2021).
    """
    windows = pool_windows("softmax_pool2d", x, kernel_size, stride, padding, 1, ceil_mode)
    return _soft("softmax_pool2d", x, windows, beta)


def softmax_pool1d(
    x: Tensor,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    ceil_mode: bool = False,
    beta: float | Tensor = 1.0,
) -> Tensor:
    """Apply `softmax_pool2d` to sequences: `(n, c, length)` to `(n, c, out_length)`."""
    op = "softmax_pool1d"
    windows = pool_windows(op, x, kernel_size, stride, padding, 1, ceil_mode, axes=1)
    return _soft(op, x.expand_dims(2), windows, beta).squeeze(2)


@without_underflow
def _soft(op: str, x: Tensor, windows: Windows, beta: float | Tensor) -> Tensor:
    if isinstance(beta, Tensor):
        check_together(op, input=x, beta=beta)
        if beta.shape not in ((), (1,), (x.shape[1],)):
            raise ValueError(
                f"{op}: got beta of shape {beta.shape}, expected (1,) or ({x.shape[1]},)"
            )
        beta = beta.reshape(-1, 1, 1)
    centre = x.array.mean((2, 3), keepdims=True)  # shifting the pixels only shifts the result
    centre = Tensor.wrap(x.backend.xp.where(abs(centre) < np.inf, centre, x.dtype.type(0)))
    x = x - centre
    shares, total = exponentials(op, x * beta, windows)
    mean: Tensor = total(shares * x) / total(shares) + centre
    return mean


def _gather(images: Tensor, windows: Windows) -> Tensor:
    """Copy each window into one row."""

    def backward(outer: Tensor) -> Gradients:
        return (_scatter(outer, windows),)

    rows = images.backend.gather_windows(images.array, windows)
    return record("gather_windows", rows, (images,), backward)


def _scatter(rows: Tensor, windows: Windows) -> Tensor:
    """Add each row back to its window."""

    def backward(outer: Tensor) -> Gradients:
        return (_gather(outer, windows),)

    images = rows.backend.scatter_windows(rows.array, windows)
    return record("scatter_windows", images, (rows,), backward)


def attention_pool2d(x: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean of an image's pixels, with weights `softmax(weight . pixel)`.

    Args:
        x: `(n, c, h, w)`, float32 or float64.
        weight: `(c,)`; the score of a pixel is its dot product with this.

    Returns:
        `(n, c)`.

    Raises:
        ValueError: the shapes do not match.
        TypeError: x is not a tensor of floats, or dtypes or devices differ.

    Source: D. Bahdanau et al., Neural Machine Translation by Jointly Learning to Align and
    Translate (2015), section 3.1, with a linear score; M. Ilse et al., Attention-based Deep
    Multiple Instance Learning (2018), section 2.4.
    """
    check_images("attention_pool2d", x)
    return _attention("attention_pool2d", x.flatten(2), weight)


def attention_pool1d(x: Tensor, weight: Tensor) -> Tensor:
    """Apply `attention_pool2d` to sequences: `(n, c, length)` to `(n, c)`."""
    check_images("attention_pool1d", x, axes=1)
    return _attention("attention_pool1d", x, weight)


def _attention(op: str, pixels: Tensor, weight: Tensor) -> Tensor:
    check_together(op, input=pixels, weight=weight)
    if weight.shape != pixels.shape[1:2]:
        raise ValueError(
            f"{op}: got a weight of shape {weight.shape} for {pixels.shape[1]} channels, expected "
            f"({pixels.shape[1]},)"
        )
    centre = pixels.mean(2, keepdims=True).array  # shifting the pixels only shifts the result
    pixels = pixels - centre
    shares = softmax(weight @ pixels)  # (n, pixels)
    means: Tensor = (pixels * shares.expand_dims(1)).sum(2) + centre[:, :, 0]
    return means
