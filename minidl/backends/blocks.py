"""Convolve large images in blocks: the columns of a whole image would take too much memory.

A batch is split into images, and a large image into blocks of its pixels. Each block is convolved
like an image of its own that overlaps its neighbours: its `Windows` have padding only where the
image ends. Blocks of a result never overlap, so they can be computed in any order, on any thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from minidl.backends.base import Array, Backend
from minidl.backends.windows import Windows

LEAST = 4096
"""A block has at least this many output pixels, because some forms transform the weights again for
each block: with 512 channels, blocks of 1,024 pixels take 1.9 times as long as the whole image."""

SIDE = 16
"""A block has at least this many rows and columns, unless the result has fewer."""

SUMS = 16
"""The largest number of partial weight gradients that are held at the same time."""

Span: TypeAlias = tuple[slice, slice, int, int, int]
"""A block along one axis: the pixels that it writes, those that it reads, their number, and the
padding before and after them."""


class Block(NamedTuple):
    """Indices of a block of one image's result, and of what it reads; and its geometry."""

    target: Any
    source: Any
    windows: Windows


class BlockedBackend(Backend):
    """A backend that splits large images; subclasses override `convolve_whole` and its gradients.

    Attributes:
        block_bytes: scratch memory for one block.
    """

    block_bytes = 2**23

    def convolve(
        self,
        images: Array,
        weight: Array,
        bias: Array | None,
        windows: Windows,
        groups: int,
        relu: bool = False,
    ) -> Array:
        """Convolve in blocks if the images are large."""
        (n, c), d = images.shape[:2], len(weight)
        if not self._needs_blocks(images, windows, c, d):
            return self.convolve_whole(images, weight, bias, windows, groups, relu)
        out = self.empty_images((n, d, windows.out_h, windows.out_w), images.dtype)

        def work(block: Block) -> None:
            arguments = (weight, bias, block.windows, groups, relu)
            out[block.target] = self.convolve_whole(images[block.source], *arguments)

        self._over_blocks(
            _blocks(n, windows, self._size(images, windows, c, d), _output_spans), work
        )
        return out

    def transpose_convolve(
        self, gradient: Array, weight: Array, windows: Windows, groups: int
    ) -> Array:
        """Compute the returned images in blocks if they are large."""
        (n, d), c = gradient.shape[:2], weight.shape[1] * groups
        if not self._needs_blocks(gradient, windows, c, d):
            return self.transpose_convolve_whole(gradient, weight, windows, groups)
        images = self.empty_images((n, c, windows.in_h, windows.in_w), gradient.dtype)
        rows, columns = self._size(gradient, windows, c, d)
        size = rows * windows.stride_h, columns * windows.stride_w

        def work(block: Block) -> None:
            part = gradient[block.source]
            found = self.transpose_convolve_whole(part, weight, block.windows, groups)
            images[block.target] = found

        self._over_blocks(_blocks(n, windows, size, _input_spans), work)
        return images

    def weight_gradient(
        self, images: Array, gradient: Array, windows: Windows, groups: int
    ) -> Array:
        """Sum the gradients of blocks, in a fixed order, if the images are large."""
        (n, c), d = images.shape[:2], gradient.shape[1]
        if not self._needs_blocks(images, windows, c, d):
            return self.weight_gradient_whole(images, gradient, windows, groups)
        blocks = _blocks(n, windows, self._size(images, windows, c, d), _output_spans)
        sums = min(SUMS, len(blocks))

        def work(part: slice) -> Array:
            own = [block for first in range(sums)[part] for block in blocks[first::sums]]
            return sum(
                self.weight_gradient_whole(images[b.source], gradient[b.target], b.windows, groups)
                for b in own
            )

        return self.sum_over_batch(sums, (self.block_bytes,), np.uint8, work)

    def convolve_whole(
        self,
        images: Array,
        weight: Array,
        bias: Array | None,
        windows: Windows,
        groups: int,
        relu: bool = False,
    ) -> Array:
        """Compute `convolve` for images, or blocks of images, that are small enough."""
        return super().convolve(images, weight, bias, windows, groups, relu)

    def transpose_convolve_whole(
        self, gradient: Array, weight: Array, windows: Windows, groups: int
    ) -> Array:
        """Compute `transpose_convolve` for images, or blocks of images, that are small enough."""
        return super().transpose_convolve(gradient, weight, windows, groups)

    def weight_gradient_whole(
        self, images: Array, gradient: Array, windows: Windows, groups: int
    ) -> Array:
        """Compute `weight_gradient` for images, or blocks of images, that are small enough."""
        return super().weight_gradient(images, gradient, windows, groups)

    def _needs_blocks(self, images: Array, windows: Windows, c: int, d: int) -> bool:
        """Tell whether to split each image of a convolution from c channels to d.

        Images that take the memory of up to eight blocks are not split, because splitting takes
        time: 4x128x112x112 to 128 takes 235 ms whole instead of 282 in four blocks per image (two
        threads).
        """
        pixels = windows.out_h * windows.out_w
        return len(images) > 0 and pixels > _pixels(8 * self.block_bytes, images, windows, c, d)

    def _size(self, images: Array, windows: Windows, c: int, d: int) -> tuple[int, int]:
        """Return the height and width of blocks of equal size: whole rows if `SIDE` of them fit."""
        pixels = _pixels(self.block_bytes, images, windows, c, d)
        rows = _part_size(windows.out_h, max(SIDE, pixels // windows.out_w))
        return rows, _part_size(windows.out_w, max(SIDE, pixels // rows))

    def _over_blocks(self, blocks: list[Block], work: Callable[[Block], None]) -> None:
        """Call `work` on every block, on all threads."""

        def some(part: slice) -> None:
            for block in blocks[part]:
                work(block)

        self.over_batch(len(blocks), (self.block_bytes,), np.uint8, some)


# Geometry, the same for rows and columns ------------------------------------------------------


def _pixels(limit: int, images: Array, windows: Windows, c: int, d: int) -> int:
    """Return how many output pixels, >= `LEAST`, have columns and results of `limit` bytes."""
    each: int = (windows.k_h * windows.k_w * c + d) * images.itemsize
    return max(LEAST, limit // each)


def _part_size(size: int, most: int) -> int:
    """Return the size of equal parts of at most this many pixels, rounded up to multiples of 4."""
    parts = -(-size // most)
    return min(size, -(-size // (4 * parts)) * 4)


def _blocks(
    n: int, w: Windows, size: tuple[int, int], along: Callable[..., list[Span]]
) -> list[Block]:
    """Split the results of n images into blocks of this size."""
    down = along(size[0], w.in_h, w.out_h, w.k_h, w.stride_h, w.dilation_h, w.top)
    across = along(size[1], w.in_w, w.out_w, w.k_w, w.stride_w, w.dilation_w, w.left)
    blocks = []
    for i, vertical, horizontal in itertools.product(range(n), down, across):
        rows, from_rows, in_h, top, bottom = vertical
        columns, from_columns, in_w, left, right = horizontal
        image, sides = slice(i, i + 1), {"top": top, "bottom": bottom, "left": left, "right": right}
        target, source = (image, ..., rows, columns), (image, ..., from_rows, from_columns)
        blocks.append(Block(target, source, replace(w, in_h=in_h, in_w=in_w, **sides)))
    return blocks


def _output_spans(
    step: int, size: int, out: int, k: int, stride: int, dilation: int, before: int
) -> list[Span]:
    """Split the output; each part reads the image's pixels that its windows cover."""
    spans = []
    for start in range(0, out, step):
        stop = min(start + step, out)
        first, end = start * stride - before, (stop - 1) * stride + dilation * (k - 1) + 1 - before
        low = max(first, 0)
        high = max(low, min(end, size))
        padding = min(max(-first, 0), end - first)  # no more than the windows cover
        after = end - first - padding - (high - low)
        spans.append((slice(start, stop), slice(low, high), high - low, padding, after))
    return spans


def _input_spans(
    step: int, size: int, out: int, k: int, stride: int, dilation: int, before: int
) -> list[Span]:
    """Split the image; each part reads the gradients of all windows that cover it."""
    spans = []
    for start in range(0, size, step):
        stop = min(start + step, size)
        low = min(max(0, (start + before - dilation * (k - 1)) // stride), out - 1)
        high = min(out, (stop - 1 + before) // stride + 1)
        end = (high - 1) * stride + dilation * (k - 1) + 1 - before
        padding, after = start + before - low * stride, max(0, end - stop)
        spans.append((slice(start, stop), slice(low, high), stop - start, padding, after))
    return spans
