"""NumPy on the CPU: the default backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from minidl.backends.base import Array
from minidl.backends.cpu import depthwise, grouped, planar, winograd
from minidl.backends.cpu.machine import slice_bytes
from minidl.backends.cpu.runs import overlapping, spread
from minidl.backends.cpu.threads import (
    blas,
    current,
    memory,
    prepared,
    share,
    side_by_side,
)
from minidl.backends.large import LargeBackend
from minidl.backends.windows import Windows

CACHE_BYTES = slice_bytes(2**21)
"""Scratch memory for one slice of a batch. 2 MiB was the best of 1/4 to 16 MiB on 2 cores (Zen 4,
1 MiB of L2 cache each): a max pool of 64x32x30x30 takes 1.0 ms; 3.4 with 1/4 MiB, because short
calls contend for the interpreter lock; 1.3 with 16 MiB, because the data leave the cache. Work that
fits in one slice stays on one thread: a pool over 54 taps of 1 MiB takes 0.55 ms instead of 2.2 on
two threads.

This is no multiple of the L2 cache, so that all machines cut the same slices and sum in one order.
With 512 KiB of L2 (Zen 3), 2 MiB is as good: 1 and 4 MiB are better for some kernels and worse for
others, mostly by less than 10 %; 1/4 and 8 MiB are up to 40 and 30 % slower."""


SPLIT_PRODUCTS = 2**24
"""The gradients of a convolution with fewer multiplications are computed one after the other."""


class NumpyBackend(LargeBackend):
    """Kernels run on slices of the batch, one Python thread per core, with BLAS on one thread.

    A slice's gathered windows then stay in the core's cache until they are multiplied, and copying,
    which NumPy does on one thread, also runs on all cores.
    """

    fuses = True

    def __init__(self, kernels: str = "fast") -> None:
        self.kernels = kernels  # "exact": without Winograd

    def over_batch(
        self, n: int, shape: Sequence[int], dtype: Any, work: Callable[[slice], None]
    ) -> None:
        """Call `work` on slices of the batch whose scratch memory fits in cache, on all cores.

        The slices depend only on the sizes, never on the number of threads; so do the results.
        """
        count = -(-n * math.prod(shape) * np.dtype(dtype).itemsize // CACHE_BYTES)
        count = -(-count // 4) * 4 if count > 1 else 1  # equal, for 2 or 4 threads to end together
        size = max(1, -(-n // count))
        parts = [slice(start, min(start + size, n)) for start in range(0, max(n, 1), size)]
        if current.is_worker:  # inside a slice of other work: all threads are busy already
            for part in parts:
                work(part)
            return
        before = prepared.set({"n": n})
        try:
            with blas().single_threaded(), np.errstate(under="ignore"):
                if len(parts) > 1:
                    memory.keep()
                    share(parts, work)
                else:
                    work(slice(0, n))
        finally:
            prepared.reset(before)

    @contextmanager
    def rows(self, length: int) -> Iterator[None]:
        """Stop NumPy from copying long rows to a buffer first.

        By default it does so if an operand is broadcast and several rows fit into the buffer of
        8,192 values: multiplying 512 rows of 1,024 values by one value each takes 0.07 ms instead
        of 0.16 (one core).
        """
        before = np.setbufsize(512 if length >= 512 else 8192)  # per thread
        try:
            yield
        finally:
            np.setbufsize(before)

    def matmul(self, a: Array, b: Array) -> Array:
        """Multiply matrices on minidl's threads, large ones in four blocks of rows or columns.

        BLAS's own threads spin for a while after each product and take a core from the next
        convolution. A step of the CIFAR-10 CNN takes 34 ms instead of 45 (2 cores, median of 40).
        The longer side is split, because BLAS copies the whole other matrix for each block.

        Warnings of invalid values are off: some OpenBLAS kernels read memory beyond small matrices
        and discard the result, but NumPy still sees the flag that a NaN there sets.
        """
        if a.ndim > 2 or b.ndim > 2 or a.size * b.shape[1] < 2**25:
            with blas().single_threaded(), np.errstate(invalid="ignore", under="ignore"):
                return np.matmul(a, b)
        out = np.empty((len(a), b.shape[1]), np.result_type(a, b))
        by_rows = len(a) >= b.shape[1]

        def work(part: slice) -> None:
            if by_rows:
                np.matmul(a[part], b, out=out[part])
            else:
                np.matmul(a, b[:, part], out=out[:, part])

        length = max(out.shape)
        self.over_batch(length, (CACHE_BYTES // -(-length // 4),), np.uint8, work)
        return out

    def convolve_whole(
        self,
        images: Array,
        weight: Array,
        bias: Array | None,
        windows: Windows,
        groups: int,
        relu: bool = False,
    ) -> Array:
        """Convolve in the form that is fastest for these sizes: see `_form`."""
        if _slides_down_only(windows, groups):
            images, weight, windows = _as_channels(images), _as_channels(weight), _narrow(windows)
        d, c = weight.shape[:2]
        form = _form(self, windows, groups, (c, d), c, images)
        if form is None:
            return super().convolve_whole(images, weight, bias, windows, groups, relu)
        return form.convolve(self, images, weight, bias, windows, relu, groups)

    def transpose_convolve_whole(
        self, gradient: Array, weight: Array, windows: Windows, groups: int
    ) -> Array:
        """Use the fastest form; the input gradient is a convolution with flipped kernels."""
        if _slides_down_only(windows, groups):
            narrow = self.transpose_convolve_whole(
                gradient, _as_channels(weight), _narrow(windows), groups
            )
            return _as_columns(narrow, windows.k_w)
        d, c = weight.shape[:2]
        turned = winograd.turned(windows) if winograd.is_plain(windows) else windows
        # Columns multiply each of the gradient's pixels, and add the products to the image's.
        pixels = 1.3 * windows.out_h * windows.out_w
        form = _form(self, turned, groups, (d, c), c, gradient, pixels)
        if form is None:
            return super().transpose_convolve_whole(gradient, weight, windows, groups)
        return form.transpose_convolve(self, gradient, weight, windows, groups)

    def weight_gradient_whole(
        self, images: Array, gradient: Array, windows: Windows, groups: int
    ) -> Array:
        """Use the fastest form."""
        if _slides_down_only(windows, groups):
            narrow = self.weight_gradient_whole(
                _as_channels(images), gradient, _narrow(windows), groups
            )
            return _as_columns(narrow, windows.k_w)
        c, d = images.shape[1] // groups, gradient.shape[1]
        # With AVX2, strips gain less here: 128x16x32x32 takes 16.9 ms, and 16.2 by columns; forward
        # 13.6 and 17.2 (one core).
        pixels = windows.out_h * windows.out_w * (0.85 if blas().is_narrow else 1)
        form = _form(self, windows, groups, (c, d), c, images, pixels)
        if form is None:
            return super().weight_gradient_whole(images, gradient, windows, groups)
        return form.weight_gradient(self, images, gradient, windows, groups)

    def convolution_gradients(
        self, gradient: Array, images: Array, weight: Array, windows: Windows, groups: int
    ) -> tuple[Array, Array]:
        """Compute both at the same time, each on its own thread; the first to finish helps.

        Threads wait for each other only once: a step of ResNet-20 takes 155 ms instead of 160.
        """
        dx, dw = side_by_side(
            gradient.size * weight[0].size >= SPLIT_PRODUCTS,
            lambda: self.transpose_convolve(gradient, weight, windows, groups),
            lambda: self.weight_gradient(images, gradient, windows, groups),
        )
        return dx, dw

    def finish(self, images: Array, bias: Array | None, relu: bool) -> None:
        """Add and compare whole rows of images, as long as NumPy's functions need.

        256 x 512 values: ReLU takes 0.033 ms instead of 0.070 with the number 0; adding a bias to
        pixels of 32 values takes three times as long as to rows (one core, AVX2).
        """
        n, d, h, w = images.shape
        pixels = images.transpose(0, 2, 3, 1)
        if not pixels.flags.c_contiguous:
            super().finish(images, bias, relu)
            return
        rows = pixels.reshape(n, h, w * d)
        if bias is not None:
            rows += np.tile(bias, w)
        if relu:
            np.maximum(rows, np.zeros(w * d, rows.dtype), out=rows)

    def scratch_to_fuse(self, weight: Array, windows: Windows, groups: int) -> Sequence[int]:
        """Return the shape of one image's columns, or of its output if that is larger.

        For Winograd, return half of its scratch array, so that there are fewer slices; with many
        channels `()`, because the weights are transformed again for each slice.
        """
        d, c, k_h, k_w = weight.shape
        pixels = windows.out_h * windows.out_w
        if self.kernels == "fast" and winograd.suits(
            windows, groups, c, d, weight.dtype, math.inf, pixels
        ):
            return () if min(c, d) >= 64 else winograd.scratch(windows, c, d, part=2)
        return windows.out_h, windows.out_w, max(d, c * k_h * k_w)

    def gather_windows(self, images: Array, windows: Windows) -> Array:
        """Copy every window into its own row, in one copy of an overlapping view.

        In ms, instead of the generic loop over taps (one core, float32, channels-last, slices as in
        the CIFAR-10 CNN): 0.19 instead of 0.51 (8x3x32x32), 0.048 instead of 0.081 (4x32x15x15),
        0.019 instead of 0.034 (16x64x6x6).
        """
        n, c = images.shape[:2]
        padded = self.pad_images(spread(images), windows, 0)
        if padded.strides[1] != padded.itemsize:  # 0.23 ms instead of 0.46 (8x3x32x32)
            padded = np.ascontiguousarray(spread(padded).transpose(0, 2, 3, 1)).transpose(
                0, 3, 1, 2
            )
        step_n, step_c, step_h, step_w = padded.strides
        shape = (n, windows.out_h, windows.out_w, windows.k_h)
        across = (step_n, step_h * windows.stride_h, step_w * windows.stride_w)
        strides = (*across, step_h * windows.dilation_h)
        if step_w == c * step_c and windows.dilation_w == 1:  # a row of the window is contiguous
            gathered = overlapping(padded, (*shape, windows.k_w * c), (*strides, step_c))
        else:
            taps = (step_w * windows.dilation_w, step_c)
            gathered = overlapping(padded, (*shape, windows.k_w, c), (*strides, *taps))
        return gathered.reshape(*shape[:3], windows.k_h * windows.k_w, c)

    def find_winners(self, padded: Array, windows: Windows, best: Array, winners: Array) -> None:
        """Keep the largest value and its tap, tap after tap, without branches.

        A tap's number, times whether it is larger than all before (0 or 1), is above the numbers
        before or 0, so the largest one is the winner's. This takes 0.15 ms; 1.2 with `where` (one
        core, 8x32x30x30, window 2).
        """
        if windows.k_h * windows.k_w >= 255:
            super().find_winners(padded, windows, best, winners)
            return
        larger, code = np.empty_like(best, np.bool_), np.empty_like(winners)
        winners[...] = 0
        for tap, rows, columns in windows.taps():
            value = padded[:, :, rows, columns]
            if tap == 0:
                np.copyto(best, value)
                continue
            np.greater(value, best, out=larger)
            np.maximum(best, value, out=best)
            np.multiply(larger.view(np.uint8), np.uint8(tap), out=code)
            np.maximum(winners, code, out=winners)
        lost_in_padding = windows.is_padded and bool((best == -np.inf).any())
        if lost_in_padding or (best.size and np.isnan(best.max())):
            super().find_winners(padded, windows, best, winners)

    def largest(self, taps: Array) -> tuple[Array, Array]:
        """Search for the last NaN only if there is one: 0.3 ms instead of 1.6 (64 x 41 x 999)."""
        index = taps.argmax(-1)
        best = np.take_along_axis(taps, index[..., None], -1)[..., 0]
        return super().largest(taps) if np.isnan(best).any() else (best, index)

    def masked(self, values: Array, mask: Array, out: Array | None = None) -> Array:
        """Keep the bits of `values` where `mask` is true, and clear the others.

        This takes 0.08 ms instead of 0.83 with `where` (one core, 8x32x30x30). True is 1; negated
        it is -1, with all bits set, so a bitwise "and" with it changes nothing.
        """
        bits = np.dtype(f"i{values.dtype.itemsize}")
        kept: Array = np.empty_like(mask, values.dtype) if out is None else out
        # An array without gaps first holds the mask: `gated` takes 1.35 ms instead of 1.67.
        reach = sum(step * (size - 1) for step, size in zip(kept.strides, kept.shape, strict=True))
        gaps = reach + kept.itemsize != kept.nbytes
        keep = np.empty_like(kept, bits) if gaps else kept.view(bits)
        np.negative(mask.view(np.int8), out=keep, casting="unsafe")
        np.bitwise_and(values.view(bits), keep, out=kept.view(bits))
        return kept

    def column_sums(self, a: Array, b: Array | None = None) -> Array:
        """Sum up to 512 long rows with BLAS; multiply and add long rows in one pass, 32 at a time.

        For 256 x 2048 on one core, sums take 0.03 ms instead of 0.06, products 0.07 instead of
        0.13.
        """
        rows, columns = a.shape
        if columns < 512 or (b is None and rows > 512):
            return super().column_sums(a, b)
        if b is None:
            return self.product(np.ones((1, rows), a.dtype), a)[0]
        whole = rows - rows % 32
        x, y = (table[:whole].reshape(-1, 32, columns) for table in (a, b))
        total = super().column_sums(np.einsum("bij,bij->bj", x, y))
        return total + np.einsum("ij,ij->j", a[whole:], b[whole:]) if whole < rows else total

    def magnitudes(self, array: Array) -> tuple[float, float]:
        """Find the smallest positive magnitude as an integer: bits of floats >= 0 sort like them.

        After subtracting 1, zeros come last: they wrap around to the largest integer.
        """
        if not array.size:
            return 1.0, 1.0
        least, most = float(array.min()), float(array.max())
        high = max(-least, most)
        if least > 0 or not high > 0:
            return least, high
        bits = abs(array).view(f"u{array.itemsize}")
        bits -= 1
        lowest = np.array([bits.min()]) + bits.dtype.type(1)
        return float(lowest.view(array.dtype)[0]), high

    def elementwise(self, function: Callable[..., Array], *operands: Array) -> Array:
        """Share large arrays among threads: adding two of 8 MiB takes 0.45 ms instead of 0.82.

        The result has the memory order of the first operand that is not broadcast. The first axis
        is split, if it is the outermost in memory.
        """
        if all(x.nbytes <= CACHE_BYTES for x in operands):
            return function(*operands)
        shape = np.broadcast_shapes(*(x.shape for x in operands))
        full = (x for x in operands if x.shape == shape and 0 not in x.strides)
        like = next(full, None)
        if (
            like is None
            or not like.ndim
            or like.dtype.kind != "f"
            or any(x.dtype != like.dtype for x in operands)
            or max(like.strides) != like.strides[0]
        ):
            return function(*operands)
        n, ndim, out = len(like), like.ndim, np.empty_like(like)

        def work(part: slice) -> None:
            parts = (x[part] if x.ndim == ndim and len(x) == n else x for x in operands)
            function(*parts, out=out[part])

        self.over_batch(n, like.shape[1:], like.dtype, work)
        return out

    def index_add(self, target: Array, index: Any, values: Array) -> None:
        """Add float32 values at places that repeat often in float64, one after the other.

        500,000 single values in 1,000 rows of 1,000: 21 ms, not 132; 100,000 in a row of 1,000: 0.8
        instead of 22 ms. 300,000 rows of 12 values in a table of 8,192 rows: 11 ms instead of 210.
        Float64, and few values in a large array, are added as before. Counting passes over all the
        target, once for each column of rows. In ms, the generic form's first (Zen 3, 2 cores),
        as many values as 1/64, 1/16 and 1/4 of the target's: 0.13 and 0.11, 0.72 and 0.13, 3.3 and
        0.29 (100,000); as many rows as 1/2, 1 and 2 times the target's: 0.16 and 0.39, 0.63 and
        0.52, 1.4 and 0.98 (1,000 rows of 64); 0.76 and 0.36, 1.8 and 0.51, 3.8 and 0.81 (8,192 rows
        of 12). Both limits below are where counting wins for any width.
        """
        parts = index if isinstance(index, tuple) else (index,)
        kinds = {getattr(getattr(part, "dtype", None), "kind", None) for part in parts}
        rest, is_whole = target.shape[len(parts) :], target.flags.c_contiguous
        few = len(rest) > 1 or values.size * (0.5 if rest else 16) < max(1, target.size)
        if few or not (parts and is_whole and kinds <= {"i", "u"} and target.dtype == np.float32):
            super().index_add(target, index, values)
            return
        sizes, width = target.shape[: len(parts)], math.prod(rest)
        places = np.ravel_multi_index(np.broadcast_arrays(*parts), sizes, mode="wrap")
        columns = np.broadcast_to(values, (*places.shape, *rest)).reshape(places.size, width).T
        for column, sums in zip(columns, target.reshape(-1, width).T, strict=True):
            sums += np.bincount(places.reshape(-1), column, len(sums)).astype(np.float32)

    def gated(self, values: Array, x: Array, out: Array | None = None) -> Array:
        """Compare and mask slice by slice, in cache: 0.74 ms, not 1.9 (64x32x30x30, 2 cores)."""

        def cut(x: Array, values: Array, out: Array | None = None) -> Array:
            return self.masked(values, x > 0, out)

        return self.elementwise(cut, x, values) if out is None else cut(x, values, out)


def _slides_down_only(w: Windows, groups: int) -> bool:
    """Tell whether a kernel is as wide as the image, so that its columns can become channels.

    A few taps of many channels are faster than many taps of one channel: the input gradients of a
    TextCNN take 12 ms instead of 41 (50 sentences of 56 words, 128 values each, 2 cores).
    """
    return w.k_w == w.padded_w == w.in_w > 1 and groups == 1


def _narrow(windows: Windows) -> Windows:
    return replace(windows, in_w=1, k_w=1)


def _as_channels(images: Array) -> Array:
    """Turn `(n, c, h, w)` into `(n, c * w, h, 1)`."""
    n, c, h, w = images.shape
    return images.transpose(0, 1, 3, 2).reshape(n, c * w, h, 1)


def _as_columns(images: Array, w: int) -> Array:
    """Turn `(n, c * w, h, 1)` back into `(n, c, h, w)`."""
    n, channels, h, _ = images.shape
    return images.reshape(n, channels // w, w, h).transpose(0, 1, 3, 2)


def _form(
    backend: NumpyBackend,
    windows: Windows,
    groups: int,
    channels: tuple[int, int],
    c: int,
    images: Array,
    pixels: float | None = None,
) -> Any:
    """Return the module with the fastest form of a convolution; None for the one by columns.

    `depthwise` for groups of one channel; `planar` for few channels `c` per image or group; for
    more, `grouped`, or Winograd's tiles or strips. With a stride, groups of 8 to 32 go through
    columns: 16x128x28x28, 3x3, stride 2, forward and both gradients take 14 ms instead of 17 in
    groups of 16, and 16 instead of 20 in groups of 32.

    `pixels` is the number of an image's pixels for which columns would do as much work: see
    `winograd.suits`. The default is those of the output.
    """
    if depthwise.suits(windows, groups, c, max(channels) // groups):
        return depthwise
    if planar.suits(windows, groups, c):
        return planar
    if grouped.suits(windows, groups, c):
        return grouped
    pixels = windows.out_h * windows.out_w if pixels is None else pixels
    shared = prepared.get()
    n = len(images) if shared is None else shared["n"]  # slices share the transformed weights
    suits = backend.kernels == "fast" and winograd.suits(
        windows, groups, *channels, images.dtype, n, pixels
    )
    return winograd if suits else None
