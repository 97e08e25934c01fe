"""The interface to an array library: array functions, transfers and data movement.

`functional` defines what an operation *computes*; a backend defines how its data are *moved*. The
kernels here are generic: they use only array functions that NumPy and CuPy share. A backend
overrides a kernel only where a measurement justifies it, with the same signature, and one
parametrised test compares all forms with each other and with literal loops.

Used directly, this class is NumPy on the CPU without threads: `minidl.set_kernels("plain")`
selects it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.backends import convolution, sums
from minidl.backends.windows import Array as Array
from minidl.backends.windows import Windows


@dataclass(frozen=True)
class Update:
    """One parameter's part in a step of an optimiser.

    Attributes:
        p: the parameter, modified in place.
        g: its gradient.
        count: adds to the number of steps done.
        for_kernel: returns the arrays that the rule's kernel keeps for the parameter, and a
            function that returns the kernel's numbers for the current step.
        plain: does the step without a kernel, after `count`.
    """

    p: Array
    g: Array
    count: Callable[[int], None]
    for_kernel: Callable[[], tuple[Sequence[Array], Callable[[], Sequence[float]]]]
    plain: Callable[[], None]


without_underflow = np.errstate(under="ignore")
"""Decorates functions whose values may underflow to 0, as exp(-200) does in float32. This is
harmless, so it must not raise an error even after `np.seterr(all="raise")`."""


class Backend:
    """An array library on one device.

    Attributes:
        device: the device's name for users: `"cpu"` or `"cuda"`.
        kernels: the name of a CPU backend's kernels: see `minidl.set_kernels`.
        xp: the array module, `numpy` or `cupy`.
        records: whether `record` is supported.
        fuses: whether consecutive layers may run in one pass: see `nn.fusion`.

    Images have shape `(n, c, h, w)`. In memory, a kernel's results are *channels-last*: an
    `(n, c, h, w)` view of an `(n, h, w, c)` array, so that the channels of a pixel are contiguous.
    Kernels accept any memory order.
    """

    device = "cpu"
    kernels = "plain"
    xp: Any = np
    records = False
    fuses = False

    # Transfer ---------------------------------------------------------------------------------

    def from_numpy(self, array: np.ndarray[Any, Any]) -> Array:
        """Copy a NumPy array to this device."""
        return np.array(array)

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """Copy an array of this device into a new NumPy array."""
        return np.array(array)

    def number(self, array: Array) -> Any:
        """Return the only element as a Python number, waiting until it is computed."""
        return array.item()

    def scalar(self, value: float, dtype: Any) -> Array:
        """Return a number as a 0-d array."""
        return self.xp.asarray(value, dtype)

    def fresh(
        self, make: Callable[[], np.ndarray[Any, Any]], undo: Callable[[], None] | None = None
    ) -> Array:
        """Copy the array that `make()` draws or counts on the host to this device.

        When recorded work is repeated, `make` is called again and its new values replace the old;
        `undo` reverts one call of `make` if recording fails.
        """
        return self.from_numpy(make())

    def send(self, array: np.ndarray[Any, Any]) -> Callable[[], Array]:
        """Start copying an array here, from any thread; return a function that returns the copy."""
        moved = self.from_numpy(array)
        return lambda: moved

    def connect(self, ranks: Any) -> Any:
        """Return what sums and sends arrays from device to device, without the host, or None.

        Args:
            ranks: the `World` whose devices it connects; every rank calls this at once.
        """

    def raise_if(self, wrong: Array, error: Callable[[], Exception]) -> None:
        """Raise `error()` if any element of `wrong` is true.

        An asynchronous device raises it later: when a result is next read.
        """
        if wrong.any():
            raise error()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do work once, recording it on the device; return a function that replays it."""
        raise NotImplementedError

    def set_writeable(self, array: Array, writeable: bool) -> None:
        """Allow or forbid writing into an array; ValueError for a view of a read-only one."""
        array.setflags(write=writeable)

    # Splitting work ---------------------------------------------------------------------------

    @without_underflow
    def over_batch(
        self, n: int, shape: Sequence[int], dtype: Any, work: Callable[[slice], None]
    ) -> None:
        """Call `work` on slices that together cover a batch of `n` images.

        Args:
            n: number of images in the batch.
            shape: approximate shape of the scratch array that `work` needs for one image. A backend
                that splits the batch chooses slices whose scratch memory stays in cache.
            dtype: dtype of that array.
            work: writes the results of its slice; slices may run concurrently.
        """
        work(slice(0, n))

    def sum_over_batch(
        self, n: int, shape: Sequence[int], dtype: Any, work: Callable[[slice], Array]
    ) -> Array:
        """Add up `work(part)` over slices of a batch, always in the same order."""
        parts: dict[int, Array] = {}

        def store(part: slice) -> None:
            parts[part.start] = work(part)

        self.over_batch(n, shape, dtype, store)
        found = [parts[start] for start in sorted(parts)]
        while len(found) > 1:  # pairwise: errors of a sequential sum grow with the number of parts
            for first, second in zip(found[::2], found[1::2], strict=False):
                first += second
            found = found[::2]
        return found[0]

    def sum(self, array: Array, axes: Sequence[int], keepdims: bool = False) -> Array:
        """Sum over axes, which are >= 0; the error is only a few roundings: see `sums`."""
        total = sums.blocked_sum(self.xp, array, axes)
        if not keepdims:
            return total
        return total.reshape([1 if i in axes else size for i, size in enumerate(array.shape)])

    def rows(self, length: int) -> AbstractContextManager[None]:
        """Prepare for element-wise functions of rows this long, and of values broadcast to them."""
        return nullcontext()

    @without_underflow
    def matmul(self, a: Array, b: Array) -> Array:
        """Multiply matrices, or stacks of them over leading axes; both have at least two axes."""
        return self.product(a, b)

    def product(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """Do `matmul` as part of the work on one slice."""
        return self.xp.matmul(a, b, out=out)

    def tap_products(self, pixels: Array, matrices: Array) -> Array:
        """Multiply `(groups, m, d)` with `(groups, taps, d, c)`: `(groups, taps, m, c)`."""
        return self.product(pixels[:, None], matrices)

    # Convolution ------------------------------------------------------------------------------

    # These functions are methods: their first argument is this backend.
    convolve = convolution.convolve
    transpose_convolve = convolution.transpose_convolve
    weight_gradient = convolution.weight_gradient

    def convolution_gradients(
        self, gradient: Array, images: Array, weight: Array, windows: Windows, groups: int
    ) -> tuple[Array, Array]:
        """Return the gradients of `convolve` with respect to its images and its weight."""
        return (
            self.transpose_convolve(gradient, weight, windows, groups),
            self.weight_gradient(images, gradient, windows, groups),
        )

    def finish(self, images: Array, bias: Array | None, relu: bool) -> None:
        """Add a bias `(d,)`, if given, to channels-last images in place; apply ReLU if `relu`."""
        pixels = images.transpose(0, 2, 3, 1)
        if bias is not None:
            pixels += bias
        if relu:
            self.xp.maximum(pixels, 0, out=pixels)

    def scratch_to_fuse(self, weight: Array, windows: Windows, groups: int) -> Sequence[int]:
        """Return the scratch shape of one image when other layers are fused with a convolution.

        `()`: do not split the batch.
        """
        return ()

    # Images -----------------------------------------------------------------------------------

    def empty_images(self, shape: tuple[int, ...], dtype: Any, like: Array | None = None) -> Array:
        """Allocate `(n, c, h, w)` images with undefined contents, channels-last in memory.

        If `like` is given and stores whole channels one after the other, so does the result:
        pooling in the same memory order takes half the time of changing the order.
        """
        n, c, h, w = shape
        if like is not None and like.strides[1] > like.strides[3]:
            return self.xp.empty(shape, dtype)
        return self.xp.empty((n, h, w, c), dtype).transpose(0, 3, 1, 2)

    def pad_images(
        self, images: Array, windows: Windows, fill: float, like: Array | None = None
    ) -> Array:
        """Return images padded as the windows require, with value `fill`.

        Without padding this is `images` itself: treat the result as read-only.
        """
        if not windows.is_padded:
            return images
        shape = (*images.shape[:2], windows.padded_h, windows.padded_w)
        padded = self.empty_images(shape, images.dtype, like)
        padded[...] = fill
        padded[:, :, *windows.inside] = images
        return padded

    def zero_images(
        self, images: Array, windows: Windows, like: Array | None = None
    ) -> tuple[Array, Array]:
        """Allocate padded zeros for window results `images`; return all, and the part inside."""
        shape = (*images.shape[:2], windows.padded_h, windows.padded_w)
        padded = self.empty_images(shape, images.dtype, like)
        padded[...] = 0
        return padded, padded[:, :, *windows.inside]

    # Windows: gather and its transpose --------------------------------------------------------

    def gather_windows(self, images: Array, windows: Windows) -> Array:
        """Copy every window into its own row ("im2col"); padding is 0.

        Args:
            images: `(n, c, in_h, in_w)`.
            windows: the geometry of the windows.

        Returns:
            `(n, out_h, out_w, k_h * k_w, c)`.
        """
        n, c = images.shape[:2]
        padded = self.pad_images(images, windows, 0)
        shape = (n, windows.out_h, windows.out_w, windows.k_h * windows.k_w, c)
        gathered = self.xp.empty(shape, images.dtype)
        for tap, rows, columns in windows.taps():
            gathered[:, :, :, tap] = padded[:, :, rows, columns].transpose(0, 2, 3, 1)
        return gathered

    def scatter_windows(self, gathered: Array, windows: Windows) -> Array:
        """Add every window's row back to the pixels it was gathered from ("col2im").

        The transpose (adjoint) of `gather_windows`: `(n, out_h, out_w, k_h * k_w, c)` in,
        `(n, c, in_h, in_w)` out.
        """
        taps_last = gathered.transpose(0, 4, 1, 2, 3)  # (n, c, out_h, out_w, k_h·k_w)
        padded, images = self.zero_images(taps_last, windows, taps_last)
        for tap, rows, columns in windows.taps():
            padded[:, :, rows, columns] += taps_last[..., tap]
        return images

    # Pooling by sums --------------------------------------------------------------------------

    def sum_windows(self, images: Array, windows: Windows) -> Array:
        """Add up each window: `(n, c, in_h, in_w)` to `(n, c, out_h, out_w)`; padding is 0."""
        shape = (*images.shape[:2], windows.out_h, windows.out_w)
        total = self.empty_images(shape, images.dtype, images)

        def work(part: slice) -> None:
            padded, out = self.pad_images(images[part], windows, 0, images), total[part]
            out[...] = 0
            for _, rows, columns in windows.taps():
                out += padded[:, :, rows, columns]

        self.over_batch(len(images), _padded(images, windows), images.dtype, work)
        return total

    def spread_windows(self, values: Array, windows: Windows) -> Array:
        """Add each window's value to all its pixels: the transpose of `sum_windows`."""
        n, c = values.shape[:2]
        images = self.empty_images((n, c, windows.in_h, windows.in_w), values.dtype, values)

        def work(part: slice) -> None:
            if windows.is_tiling:
                self.clear_rest(images[part], windows)
                for _, rows, columns in windows.taps():
                    images[part][:, :, rows, columns] = values[part]
                return
            padded, inside = self.zero_images(values[part], windows, values)
            for _, rows, columns in windows.taps():
                padded[:, :, rows, columns] += values[part]
            images[part] = inside

        self.over_batch(n, _padded(values, windows), values.dtype, work)
        return images

    def clear_rest(self, images: Array, windows: Windows) -> None:
        """Write 0 to the pixels at the far edges that tiling windows do not cover."""
        images[:, :, windows.out_h * windows.k_h :] = 0
        images[:, :, :, windows.out_w * windows.k_w :] = 0

    # Pooling by winners -----------------------------------------------------------------------

    def max_windows(self, images: Array, windows: Windows) -> tuple[Array, Array]:
        """Find each window's largest value and the tap that holds it; padding is -inf.

        As in PyTorch, the first of several equal values wins, NaN beats every number, and the last
        of several NaNs wins.

        Returns:
            The largest values and the winning tap numbers, both `(n, c, out_h, out_w)`.
        """
        shape = (*images.shape[:2], windows.out_h, windows.out_w)
        best = self.empty_images(shape, images.dtype, images)
        winners = self.empty_images(shape, winner_type(windows), images)

        def work(part: slice) -> None:
            padded = self.pad_images(images[part], windows, -np.inf, images)
            self.find_winners(padded, windows, best[part], winners[part])

        self.over_batch(len(images), _padded(images, windows), images.dtype, work)
        return best, winners

    def find_winners(self, padded: Array, windows: Windows, best: Array, winners: Array) -> None:
        """Write the largest values and the taps that hold them into `best` and `winners`."""
        xp = self.xp
        best[...] = -np.inf
        winners[...] = first_tap_inside(xp, windows).astype(winners.dtype)
        for tap, rows, columns in windows.taps():
            value = padded[:, :, rows, columns]
            better = (value > best) | xp.isnan(value)
            best[...] = xp.where(better, value, best)
            winners[...] = xp.where(better, winners.dtype.type(tap), winners)

    def largest(self, taps: Array) -> tuple[Array, Array]:
        """Return the maximum over the last axis, and its index: the first one, or the last NaN."""
        xp, index = self.xp, taps.argmax(-1)
        best = xp.take_along_axis(taps, index[..., None], -1)[..., 0]
        last_nan = taps.shape[-1] - 1 - xp.isnan(taps)[..., ::-1].argmax(-1)
        return best, xp.where(xp.isnan(best), last_nan, index)

    def scatter_winners(self, values: Array, winners: Array, windows: Windows) -> Array:
        """Add each window's value to the pixel that won it: `(n, c, in_h, in_w)`."""
        n, c = values.shape[:2]
        images = self.empty_images((n, c, windows.in_h, windows.in_w), values.dtype, values)

        def work(part: slice) -> None:
            if windows.is_tiling:  # no pixel is written twice
                self.clear_rest(images[part], windows)
                for tap, rows, columns in windows.taps():
                    place = images[part][:, :, rows, columns]
                    self.masked(values[part], winners[part] == tap, place)
                return
            padded, inside = self.zero_images(values[part], windows, values)
            for tap, rows, columns in windows.taps():
                padded[:, :, rows, columns] += self.masked(values[part], winners[part] == tap)
            images[part] = inside

        self.over_batch(n, _padded(values, windows), values.dtype, work)
        return images

    def gather_winners(self, images: Array, winners: Array, windows: Windows) -> Array:
        """Look up the pixel that won each window: the transpose of `scatter_winners`."""
        values = self.empty_images(winners.shape, images.dtype, images)

        def work(part: slice) -> None:
            padded, out = self.pad_images(images[part], windows, 0, images), values[part]
            out[...] = 0
            for tap, rows, columns in windows.taps():
                out += self.masked(padded[:, :, rows, columns], winners[part] == tap)

        self.over_batch(len(winners), _padded(images, windows), images.dtype, work)
        return values

    # Elements and rows ------------------------------------------------------------------------

    @without_underflow
    def column_sums(self, a: Array, b: Array | None = None) -> Array:
        """Sum each column of `a`, or of `a * b`, both `(rows, columns)`: `(columns,)`."""
        return self.sum(a if b is None else a * b, (0,))

    def magnitudes(self, array: Array) -> tuple[float, float]:
        """Return a lower bound of non-zero `abs(array)` and an upper bound of all; (0, inf) here.

        Better bounds would make a GPU synchronise.
        """
        return 0.0, np.inf

    def elementwise(self, function: Callable[..., Array], *operands: Array) -> Array:
        """Apply an element-wise function, which takes `out` like those of `xp`; broadcast."""
        return function(*operands)

    def masked(self, values: Array, mask: Array, out: Array | None = None) -> Array:
        """Return `values` where `mask` is true, else 0, even where `values` is inf or NaN."""
        kept = self.xp.where(mask, values, values.dtype.type(0))
        if out is not None:
            out[...] = kept
        return kept

    def gated(self, values: Array, x: Array, out: Array | None = None) -> Array:
        """Return `values` where `x > 0` and 0 elsewhere; both arrays have the same shape."""
        return self.masked(values, x > 0, out)

    def index_add(self, target: Array, index: Any, values: Array) -> None:
        """Do `target[index] += values` in place; repeated indices count each time."""
        parts = index if isinstance(index, tuple) else (index,)
        kinds = {getattr(getattr(part, "dtype", None), "kind", None) for part in parts}
        if not target.flags.c_contiguous or not kinds <= {"i", "u"}:
            np.add.at(target, index, values)
            return
        lengths, width = target.shape[: len(parts)], target.shape[len(parts) :]
        rows = np.ravel_multi_index(np.broadcast_arrays(*parts), lengths, mode="wrap").reshape(-1)
        table = target.reshape(math.prod(lengths), *width)
        sums.add_rows(table, rows, values.reshape(len(rows), *width))

    def update_all(self, rule: str | None, updates: Sequence[Update]) -> None:
        """Do one step of an optimiser for all parameters of one dtype.

        Args:
            rule: the rule's name in `kernels.cu`; None if it has no kernel there.
            updates: one entry for each parameter.
        """
        for update in updates:
            update.count(1)
            update.plain()


def winner_type(windows: Windows) -> type:
    """Return the smallest integer type that holds every tap number, and one more."""
    return np.uint8 if windows.k_h * windows.k_w < 255 else np.int32


def first_tap_inside(xp: Any, windows: Windows) -> Array:
    """Return, per window, the first tap that is not in the padding: `(out_h, out_w)`.

    It wins if no value is larger than -inf, so that no gradient is lost in the padding.
    """
    first_row = xp.arange(windows.out_h) * windows.stride_h - windows.top
    first_column = xp.arange(windows.out_w) * windows.stride_w - windows.left
    i = xp.maximum(0, -(first_row // windows.dilation_h))  # ceil(-first / dilation)
    j = xp.maximum(0, -(first_column // windows.dilation_w))
    return i[:, None] * windows.k_w + j


def _padded(images: Array, windows: Windows) -> tuple[int, ...]:
    """Return the shape of one padded image."""
    return images.shape[1], windows.padded_h, windows.padded_w
