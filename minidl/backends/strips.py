"""Convolution of images with 5 to 32 channels: columns of one kernel row, used for all three.

A window of 3 x 3 pixels shares its first row with two other windows, above it. So a strip, the
columns of windows one pixel high, is a third of what `convolution.py` copies; each kernel row finds
its own in it, one line of pixels further down. What is lost are sums: three products of the output
are added up, which pays as long as the kernels are few too.

Image by image, with the weights of kernel row k a matrix `(k_w * c, d)`:

    output    sum of strip[k:] @ weights[k]
    weights   strip[k:].T @ gradient, summed over the images
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from minidl.backends import winograd
from minidl.backends.windows import Windows

if TYPE_CHECKING:
    from minidl.backends.base import Backend

Array: TypeAlias = Any

MOST = 32
"""At most so many channels and kernels. 128x16x32x32 to 16, one core, ms: forward 5.5 for 7.4,
images 5.5 for 11.0, weights 5.3 for 9.4. From 32 to 64 channels, columns are faster."""


def suits(windows: Windows, groups: int, channels: int, kernels: int) -> bool:
    """Tell whether a convolution is the faster this way."""
    return groups == 1 and winograd.is_plain(windows) and max(channels, kernels) <= MOST


def convolve(
    backend: Backend, images: Array, weight: Array, bias: Array | None, windows: Windows
) -> Array:
    """Do `convolution.convolve`."""
    n, (d, c) = len(images), weight.shape[:2]
    matrices = weight.transpose(2, 3, 1, 0).reshape(3, 3 * c, d)
    out = backend.empty_images((n, d, windows.out_h, windows.out_w), images.dtype)

    def work(part: slice) -> None:
        rows = _rows(backend, images[part], windows)
        total = out[part].transpose(0, 2, 3, 1).reshape(len(rows[0]), -1, d)  # a view
        np.matmul(rows[0], matrices[0], out=total)
        for row, matrix in zip(rows[1:], matrices[1:], strict=True):
            total += np.matmul(row, matrix)
        if bias is not None:
            total += bias

    backend.over_batch(n, _bytes(windows, c, images), work)
    return out


def transpose_convolve(backend: Backend, gradient: Array, weight: Array, windows: Windows) -> Array:
    """Do `convolution.transpose_convolve`: convolve with turned weights, channels exchanged."""
    flipped = weight[:, :, ::-1, ::-1].swapaxes(0, 1)
    return convolve(backend, gradient, flipped, None, winograd.turned(windows))


def weight_gradient(backend: Backend, images: Array, gradient: Array, windows: Windows) -> Array:
    """Do `convolution.weight_gradient`."""
    c, d = images.shape[1], gradient.shape[1]

    def work(part: slice) -> Array:
        rows = _rows(backend, images[part], windows)
        pixels = gradient[part].transpose(0, 2, 3, 1).reshape(len(rows[0]), -1, d)
        return np.stack([np.matmul(pixels.swapaxes(1, 2), row).sum(0) for row in rows])

    total = backend.sum_over_batch(len(images), _bytes(windows, c, images), work)
    return total.reshape(3, d, 3, c).transpose(1, 3, 0, 2).copy()  # (d, c, k_h, k_w)


def _rows(backend: Backend, images: Array, windows: Windows) -> list[Array]:
    """Return what each kernel row sees of images: `(n, out_h * out_w, k_w * c)`, without copies."""
    n, c, *_ = images.shape
    padded = backend.pad_images(images, windows, 0).transpose(0, 2, 3, 1)
    padded = np.ascontiguousarray(padded)
    shape = (n, windows.padded_h, windows.out_w, windows.k_w * c)
    view = np.lib.stride_tricks.as_strided(padded, shape, padded.strides, writeable=False)
    strip = np.ascontiguousarray(view)
    rows = (strip[:, k : k + windows.out_h] for k in range(windows.k_h))
    return [row.reshape(n, -1, windows.k_w * c) for row in rows]


def _bytes(windows: Windows, channels: int, images: Array) -> int:
    """Return the size of one image's strip."""
    return windows.padded_h * windows.out_w * windows.k_w * channels * int(images.dtype.itemsize)
