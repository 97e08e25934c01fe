"""Several steps as one operation, so that what lies between them never leaves the cache.

A convolution's output is as large as anything in a network. ReLU reads all of it and writes as
much; a max pool reads that again, to keep a quarter of it; then the gradient takes the same way
back. Done image by image, from the convolution to the pool at one go, only the quarter is ever
written to memory, and only the quarter is kept for the gradient.
"""

from __future__ import annotations

from minidl.autograd import Gradients, is_recording
from minidl.functional.activation import gated
from minidl.functional.convolution import convolve_gradients
from minidl.functional.geometry import (
    Pair,
    check_channels,
    check_images,
    check_weight,
    conv_windows,
    pool_windows,
)
from minidl.functional.pooling import scatter_winners
from minidl.tensor import Tensor, record


def conv2d_relu_max_pool2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
    pool_size: Pair = 2,
    pool_stride: Pair | None = None,
    pool_padding: Pair = 0,
    pool_dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Return `max_pool2d(relu(conv2d(x, weight, bias, ...)), pool_size, ...)`.

    The largest number of a window is the same before ReLU and after it, so ReLU comes last, when
    there is less of it. Results are equal to those of the three steps, gradients but for rounding:
    sums over the batch are split otherwise. `Sequential` takes this way where it finds the three.

    Args:
        x: images `(n, c, h, w)`, float32 or float64.
        weight: `(d, c // groups, k_h, k_w)`, of the images' dtype.
        bias: `(d,)`, or None.
        stride: of the convolution, like the next three: see `conv2d`.
        padding: see `conv2d`.
        dilation: see `conv2d`.
        groups: see `conv2d`.
        pool_size: of the pool's window, in pixels of the convolution's output.
        pool_stride: of the pool, like the next three: see `max_pool2d`.
        pool_padding: see `max_pool2d`.
        pool_dilation: see `max_pool2d`.
        ceil_mode: see `max_pool2d`.

    Returns:
        `(n, d, pooled_h, pooled_w)`.

    Raises:
        ValueError: shapes, groups or geometry do not fit each other.
        TypeError: dtypes or devices differ.

    Source: own derivation.

    Example:
        >>> import minidl
        >>> image, edge = minidl.ones((1, 1, 3, 3)), minidl.Tensor([[[[-1.0, 2.0]]]])
        >>> conv2d_relu_max_pool2d(image, edge, pool_size=(3, 2))
        Tensor([[[[1.]]]], dtype=float32)
    """
    op = "conv2d_relu_max_pool2d"
    check_images(op, x)
    check_weight(op, x, weight, bias, groups)
    check_channels(op, x, weight, bias, groups)
    windows = conv_windows(op, x, weight.shape[2:], stride, padding, dilation)
    between = (len(x), len(weight), windows.out_h, windows.out_w)
    pool_geometry = (pool_size, pool_stride, pool_padding, pool_dilation, ceil_mode)
    pool = pool_windows(op, x, *pool_geometry, between)
    offset = None if bias is None else bias.data
    best, winners = x.backend.convolve_pool(x.data, weight.data, offset, windows, groups, pool)
    x.backend.xp.maximum(best, 0, out=best)

    def backward(gradient: Tensor, out: Tensor) -> Gradients:
        if is_recording():  # the two steps back, one by one: they can be differentiated again
            spread = scatter_winners(gated(gradient, out.data), winners, pool)
            return convolve_gradients(spread, x, weight, bias, windows, groups)
        passed, wanted = gated(gradient, out.data), (x.requires_grad, weight.requires_grad)
        slopes = x.backend.convolve_pool_gradients(
            x.data, weight.data, passed.data, winners, windows, groups, pool, wanted
        )
        by_bias = bias is not None and bias.requires_grad
        return (
            *[None if slope is None else Tensor.wrap(slope) for slope in slopes],
            # A winner's gradient reaches the bias whichever pixel it goes to.
            passed.sum(2).sum(2).sum(0) if by_bias else None,
        )

    return record(op, best, (x, weight, bias), backward, takes_output=True)
