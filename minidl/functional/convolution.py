"""Convolution: multiply every window of an image by the same weights.

With `x` an image of c channels, `w` the weights and `b` the bias, output channel d at pixel (y, x)

    out[d, y, x] = b[d] + sum over c, i, j of w[d, c, i, j] * padded_x[c, y * stride + i, ...]

(strictly a cross-correlation: the kernel is not flipped, as everywhere in deep learning).

Write each window's pixels as a row of a matrix, usually called `columns`, and the weights as a
matrix too. Convolution is then `columns @ matrix`, and the two gradients are those of a matrix
product:

    gradient of the input    gradient @ matrix.T, every row added back at its window's position
    gradient of the weights  columns.T @ gradient

Each of these three is linear in each of its inputs, and its gradients are the other two. So
`_convolve`, `_transpose_convolve` and `_weight_gradient` are defined in terms of each other and
can be differentiated any number of times.

How they are computed is up to the backend: `backends/convolution.py` uses the form above.

Source (geometry): V. Dumoulin and F. Visin, A guide to convolution arithmetic for deep
learning (2016).
"""

from __future__ import annotations

from minidl.autograd import Gradients, is_recording
from minidl.backends import Windows
from minidl.checks import Pair
from minidl.functional.geometry import check_images, check_weight, conv_windows, transpose_windows
from minidl.tensor import Tensor, record
from minidl.tensor.functions import pad


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve images with weights.

    Args:
        x: images `(n, c, h, w)`, float32 or float64.
        weight: `(d, c // groups, k_h, k_w)`, of the images' dtype.
        bias: `(d,)`, or None.
        stride: pixels from one window to the next, >= 1.
        padding: zeros on each side, in pixels; `"valid"` is 0; `"same"` keeps h and w at stride 1.
        dilation: pixels from one tap of the kernel to the next, >= 1.
        groups: split the channels into this many groups that are convolved separately; `groups=c`
            is a depthwise convolution.

    On a CPU, 3x3 kernels over 5 or more float32 channels share intermediate values between pixels
    (Winograd): errors are within 1e-5 of the largest result, so 0 can become 1e-6; where kernels
    cancel the mean of images far from 0, of the largest sum of magnitudes. If an image has NaN,
    infinity or parts 1,000 times as large as over a quarter of it, or all weights of a kernel are
    >= 0, all are <= 0 or all are integers, each output is summed from its own window only. This is
    always so in float64, and after `minidl.set_kernels("exact")`.

    Returns:
        `(n, d, out_h, out_w)` with
        `out_h = (h + 2 * padding - dilation * (k_h - 1) - 1) // stride + 1`; likewise for `out_w`.

    Raises:
        ValueError: shapes, groups or geometry do not fit each other.
        TypeError: dtypes or devices differ.

    Example:
        >>> import minidl
        >>> image, edge = minidl.ones((1, 1, 3, 3)), minidl.Tensor([[[[-1.0, 1.0]]]])
        >>> conv2d(image, edge).shape
        (1, 1, 3, 2)
    """
    windows = conv_windows("conv2d", x, weight, bias, stride, padding, dilation, groups)
    return _convolve(x, weight, bias, windows, groups)


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int | str = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve sequences with weights: `conv2d` on images one pixel tall.

    Args:
        x: `(n, c, length)`.
        weight: `(d, c // groups, k)`.
        bias: `(d,)`, or None.
        stride: steps from one window to the next.
        padding: zeros at each end, `"valid"` or `"same"`.
        dilation: steps from one tap to the next.
        groups: see `conv2d`.

    Returns:
        `(n, d, out_length)`.

    Raises:
        ValueError: shapes, groups or geometry do not fit each other.
        TypeError: dtypes or devices differ.
    """
    windows = conv_windows("conv1d", x, weight, bias, stride, padding, dilation, groups, axes=1)
    return _convolve(x.expand_dims(2), weight.expand_dims(2), bias, windows, groups).squeeze(2)


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
) -> Tensor:
    """Apply the transpose of a convolution, the map that carries gradients back through `conv2d`.

    Each input pixel, times the kernel, is added to the window from which a convolution with the
    same arguments would compute that pixel. This enlarges images; it does not invert a convolution.

    Args:
        x: `(n, d, h, w)`.
        weight: `(d, c // groups, k_h, k_w)`: the weight of a convolution from c channels to d.
        bias: `(c,)`, or None.
        stride: of that convolution.
        padding: of that convolution: this many pixels are cut from each side of the output.
        output_padding: rows and columns added at the bottom and right, `< max(stride, dilation)`.
            Outputs of several sizes convolve to h and w; this is added to the smallest of them.
        groups: see `conv2d`.
        dilation: of that convolution.

    Returns:
        `(n, c, out_h, out_w)` with `out_h = (h - 1) * stride - 2 * padding
        + dilation * (k_h - 1) + 1 + output_padding`; likewise for `out_w`.

    Raises:
        ValueError: shapes, groups or geometry do not fit each other.
        TypeError: dtypes or devices differ.
    """
    op = "conv_transpose2d"
    check_images(op, x)
    check_weight(op, x, weight, bias, groups, transposed=True)
    kernel = (weight.shape[2], weight.shape[3])
    windows, zeros = transpose_windows(op, x, kernel, stride, padding, output_padding, dilation)
    result = _transpose_convolve(x, weight, windows, groups)
    if any(zeros):
        result = pad(result, [(0, 0), (0, 0), (0, zeros[0]), (0, zeros[1])])
    return result if bias is None else result + bias.reshape(1, -1, 1, 1)


# The three linear maps: each one's gradients are the other two -------------------------------


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, windows: Windows, groups: int
) -> Tensor:
    def backward(gradient: Tensor) -> Gradients:
        return convolve_gradients(gradient, x, weight, bias, windows, groups)

    offset = None if bias is None else bias.array
    out = x.backend.convolve(x.array, weight.array, offset, windows, groups)
    return record("conv2d", out, (x, weight, bias), backward)


def convolve_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, windows: Windows, groups: int
) -> Gradients:
    """Return the gradients of a convolution's inputs, given that of its output."""
    dx: Tensor | None
    dw: Tensor | None
    if x.requires_grad and weight.requires_grad and not is_recording():
        arrays = (gradient.array, x.array, weight.array)
        dx, dw = map(Tensor.wrap, x.backend.convolution_gradients(*arrays, windows, groups))
    else:  # as operations, which can be differentiated again
        dx = _transpose_convolve(gradient, weight, windows, groups) if x.requires_grad else None
        dw = _weight_gradient(x, gradient, windows, groups) if weight.requires_grad else None
    db = gradient.sum((0, 2, 3)) if bias is not None and bias.requires_grad else None
    return dx, dw, db


def _transpose_convolve(gradient: Tensor, weight: Tensor, windows: Windows, groups: int) -> Tensor:
    def backward(outer: Tensor) -> Gradients:
        return (
            _convolve(outer, weight, None, windows, groups) if gradient.requires_grad else None,
            _weight_gradient(outer, gradient, windows, groups) if weight.requires_grad else None,
        )

    out = gradient.backend.transpose_convolve(gradient.array, weight.array, windows, groups)
    return record("conv_transpose2d", out, (gradient, weight), backward)


def _weight_gradient(x: Tensor, gradient: Tensor, windows: Windows, groups: int) -> Tensor:
    def backward(outer: Tensor) -> Gradients:
        return (
            _transpose_convolve(gradient, outer, windows, groups) if x.requires_grad else None,
            _convolve(x, outer, None, windows, groups) if gradient.requires_grad else None,
        )

    out = x.backend.weight_gradient(x.array, gradient.array, windows, groups)
    return record("conv2d_weight_gradient", out, (x, gradient), backward)
