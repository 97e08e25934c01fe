"""The bytes that CPU kernels read and write as implemented, and their multiply-adds, by formulas.

A *pass* is a group of NumPy calls that a kernel makes for one purpose. A call counts the bytes of
each operand and of its result once; an operand given twice, or written in place, is read and
written once each. A view in which windows overlap counts each element as often as windows see it.
Not counted: operands with fewer than one value for each 64 of the result, and repeated reads of a
matrix within one product.

The formulas follow `minidl/backends`; tests/test_benchmarks.py compares them with a recount of
what the kernels do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidl.backends import Windows, backend_for, convolution, large
from minidl.backends.cpu import numpy_backend, planar, winograd
from minidl.backends.cpu.threads import blas
from minidl.backends.sums import BLOCK
from minidl.functional.channels import Channels

from .recorded import Call, arrays

TILE, OUT = winograd.TILE, winograd.OUT


@dataclass
class Work:
    """What a call of a kernel does.

    Attributes:
        form: how it is computed.
        passes: bytes read and written, by pass.
        multiply_adds: those of its matrix products; transforms are not counted.
    """

    form: str = ""
    passes: Counter[str] = field(default_factory=Counter)
    multiply_adds: int = 0

    @property
    def total(self) -> int:
        """Bytes of all passes."""
        return sum(self.passes.values())

    def add(self, other: Work) -> None:
        """Add a part's passes."""
        self.passes.update(other.passes)
        self.multiply_adds += other.multiply_adds


def work_of(call: Call) -> Work:
    """Return what a recorded call does; for a kernel without a formula, the least possible."""
    formula = FORMULAS.get(call.kernel)
    return Work("", Counter(all=least(call))) if formula is None else formula(call)


def least(call: Call) -> int:
    """Return the bytes of the inputs and outputs, each once."""
    if call.kernel == "update_all":  # parameters and state are read and written
        updates = call.operands[1]
        return sum(u.p.nbytes * (3 + 2 * len(u.for_kernel()[0])) for u in updates)
    return sum(a.nbytes for a in arrays([*call.operands, *call.options.values(), call.result]))


def slices(n: int, shape: Sequence[int], itemsize: int) -> list[int]:
    """Return the sizes of the slices into which the backend splits a batch."""
    found: list[int] = []
    backend = backend_for("cpu")
    backend.over_batch(n, shape, f"f{itemsize}", lambda part: found.append(part.stop - part.start))
    return found


# Convolution: all sizes in values; `_bytes` multiplies by the size of one -----------------------


@dataclass(frozen=True)
class Conv:
    """A convolution's sizes: n images, c to d channels, and whether its arrays are channels-last.

    `bias` and `relu` tell what `finish` does; `images_last` and `gradient_last` are false for
    channels-first arrays, which are copied.
    """

    n: int
    c: int
    d: int
    w: Windows
    bias: bool = False
    relu: bool = False
    images_last: bool = True
    gradient_last: bool = True
    itemsize: int = 4

    @property
    def images(self) -> int:
        """Values of the images."""
        return self.n * self.c * self.w.in_h * self.w.in_w

    @property
    def padded(self) -> int:
        """Values of the padded images."""
        return self.n * self.c * self.w.padded_h * self.w.padded_w

    @property
    def pixels(self) -> int:
        """Output pixels of all images."""
        return self.n * self.w.out_h * self.w.out_w

    @property
    def taps(self) -> int:
        """Taps of the kernel."""
        return self.w.k_h * self.w.k_w

    @property
    def grid(self) -> tuple[int, int]:
        """Winograd tiles down and across an image."""
        return -(-self.w.out_h // OUT), -(-self.w.out_w // OUT)


def pad(images: int, padded: int) -> int:
    """Count zeros written to all of the padded images, then the images read and written."""
    return padded + 2 * images if padded != images else 0


def measure(images: int, is_last: bool) -> int:
    """Count a copy to channels-last, if needed, and one reading for the sums of squares."""
    return (0 if is_last else 2 * images) + images


def rows(n: int, c: int, h: int, w: int, whole: Windows, size: int) -> int:
    """Count the rows of images that each tile reads, and their values written, zeros included."""
    down = (whole.padded_h - size) // OUT + 1
    starts = range(-whole.top, down * OUT - whole.top, OUT)
    seen = sum(len(range(h)[max(0, start) : max(0, start + size)]) for start in starts)
    return n * c * (seen * w + TILE * down * whole.padded_w)


def finish(k: Conv) -> int:
    """Count the bias added in place, and ReLU in place."""
    return 2 * k.pixels * k.d * (k.bias + k.relu)


def columns(k: Conv) -> int:
    """Count the windows read through an overlapping view, and written."""
    return 2 * k.pixels * k.taps * k.c


def scatter(k: Conv) -> int:
    """Count zeros, for each tap read, read and write, and the copy out of the padded images."""
    return k.padded + 3 * k.pixels * k.taps * k.c + 2 * k.images


def sums_of_slices(count: int, size: int) -> int:
    """Count the additions of one slice's result to another's, in place."""
    return 3 * (count - 1) * size


def by_columns(k: Conv) -> Work:
    """Count padding, columns, the weights reordered, and the product of both."""
    weight = k.taps * k.c * k.d
    passes = Counter(
        pad=(0 if k.images_last else 2 * k.images) + pad(k.images, k.padded),
        columns=columns(k),
        product=k.pixels * (k.taps * k.c + k.d) + len(_column_slices(k)) * weight,
        finish=finish(k),
        weights=2 * weight if k.w.k_w > 1 else 0,  # else, as if channels: a view
    )
    return _work("columns", passes, k, k.pixels * weight)


def by_columns_transposed(k: Conv) -> Work:
    """Count one product per tap, and its scatter."""
    weight = k.taps * k.c * k.d
    product = k.pixels * (k.d + k.taps * k.c) + len(_column_slices(k)) * weight
    return _work("columns", Counter(product=product, scatter=scatter(k)), k, k.pixels * weight)


def by_columns_weight(k: Conv) -> Work:
    """Count padding, columns, their product with the gradient, its sum, and the copy of that."""
    weight, count = k.taps * k.c * k.d, len(_column_slices(k))
    passes = Counter(
        pad=(0 if k.images_last else 2 * k.images) + pad(k.images, k.padded),
        columns=columns(k),
        product=k.pixels * (k.taps * k.c + k.d) + count * weight,
        sum=sums_of_slices(count, weight),
        copy=2 * weight,
    )
    return _work("columns", passes, k, k.pixels * weight)


def _column_slices(k: Conv) -> list[int]:
    return slices(k.n, convolution._scratch(k.c, k.w), k.itemsize)


def in_plane(k: Conv) -> Work:
    """Count padding, columns with a row of ones for the bias, and their product."""
    rows = k.taps * k.c + k.bias
    passes = Counter(
        pad=pad(k.images, k.padded),
        columns=columns(k) + k.pixels * k.bias,
        product=k.pixels * (rows + k.d),
        finish=2 * k.pixels * k.d * k.relu,
    )
    return _work("planar", passes, k, k.pixels * rows * k.d)


def in_plane_transposed(k: Conv) -> Work:
    """Count the product that makes columns, and their scatter."""
    product = k.pixels * (k.d + k.taps * k.c)
    multiply_adds = k.pixels * k.taps * k.c * k.d
    return _work("planar", Counter(product=product, scatter=scatter(k)), k, multiply_adds)


def in_plane_weight(k: Conv) -> Work:
    """Count padding, columns, a product for each image, their sum, and the copy of that."""
    weight = k.taps * k.c * k.d
    passes = Counter(
        pad=pad(k.images, k.padded),
        columns=columns(k),
        product=k.pixels * (k.taps * k.c + k.d) + k.n * weight,
        sum=k.n * weight,
        copy=2 * weight,
    )
    return _work("planar", passes, k, k.pixels * weight)


def in_tiles(k: Conv) -> Work:
    """Count one transform along each axis, 36 products, and one back along each axis."""
    (down, across), (n, c, d, w) = k.grid, (k.n, k.c, k.d, k.w)
    tiles, whole = n * down * across, winograd._covered(w, w, True)
    back = TILE * n * down * w.out_w * d  # without the columns beyond the image
    passes = Counter(
        measure=measure(k.images, k.images_last),
        values=rows(n, c, w.in_h, w.in_w, whole, TILE) + 2 * TILE**2 * tiles * c,
        product=TILE**2 * (tiles * (c + d) + len(_winograd_slices(k)) * c * d),
        outputs=TILE * (TILE + OUT) * tiles * d + back + _rows_out(k),
        finish=finish(k),
        weights=(2 + 1 + 3 + 6) * 9 * c * d,
    )
    return _work("tiles", passes, k, TILE**2 * tiles * c * d)


def in_strips(k: Conv) -> Work:
    """Count a transform of rows, the copy of strips, six products, and a transform back.

    Strips of two pixels are not copied, but some reach beyond the end of a line.
    """
    (down, _), (n, c, d, w) = k.grid, (k.n, k.c, k.d, k.w)
    side = 2 if max(c, d) <= winograd.PAIRS and w.out_w % 2 == 0 else 1
    length, count = (2 + side) * c, w.padded_w // 2 if side == 2 else w.out_w
    strips = TILE * n * down * count * length
    matrices, results = side * TILE * length * side * d, TILE * n * down * count * side * d
    passes = Counter(
        measure=measure(k.images, k.images_last),
        values=rows(n, c, w.in_h, w.in_w, winograd._covered(w, w, False), TILE),
        strips=2 * strips if side == 1 else 0,
        product=strips + len(_winograd_slices(k)) * matrices + results,
        outputs=TILE * n * down * w.out_w * d + _rows_out(k),
        finish=finish(k),
        weights=(2 + 1 + 3) * 9 * c * d + (9 * matrices // 12 if side == 2 else 0),
    )
    return _work("strips", passes, k, strips * side * d)


def _rows_out(k: Conv) -> int:
    """Count the outputs written, and their copy if the last tiles reach beyond the image."""
    written = k.n * k.grid[0] * OUT * k.w.out_w * k.d
    return written + (2 * k.pixels * k.d if k.w.out_h % OUT else 0)


def winograd_weight(k: Conv) -> Work:
    """Count transforms of the images and of the gradient, products, and the sum over slices."""
    (down, across), (n, c, d, w) = k.grid, (k.n, k.c, k.d, k.w)
    tiles, gradient = winograd.in_tiles(w, c, d), k.pixels * d
    whole = winograd._covered(Windows(w.out_h, w.out_w, 1, 1), w, tiles)
    passes = Counter(
        measure=measure(k.images, k.images_last) + measure(gradient, k.gradient_last),
        values=rows(n, c, w.in_h, w.in_w, winograd._covered(w, w, tiles), TILE)
        + rows(n, d, w.out_h, w.out_w, whole, OUT),
    )
    parts = slices(n, winograd.scratch(w, c, d, part=1 + c * d // 2**13), k.itemsize)
    if tiles:
        count, stack = n * down * across, TILE**2 * c * d
        passes["values"] += 2 * TILE**2 * count * c + TILE * (OUT + TILE) * count * d
        passes["product"] = TILE**2 * count * (c + d) + len(parts) * stack
        passes["sum"] = sums_of_slices(len(parts), stack)
        passes["weights"] = (36 + 18 + 2 * 18 + 18 + 9 + 2 * 9) * c * d
        return _work("tiles", passes, k, count * stack)
    count, stack = n * down * w.out_w, TILE * 3 * c * d
    products = sum(m // winograd._together(m, down * w.out_w * 3 * c * d) for m in parts) * stack
    passes["strips"] = 2 * TILE * count * 3 * c
    passes["product"] = TILE * count * (3 * c + d) + products
    passes["sum"] = products + len(parts) * stack + sums_of_slices(len(parts), stack)
    passes["weights"] = (18 + 9 + 2 * 9) * c * d
    return _work("strips", passes, k, count * stack)


def _winograd_slices(k: Conv) -> list[int]:
    return slices(k.n, winograd.scratch(k.w, k.c, k.d), k.itemsize)


def _work(form: str, passes: Counter[str], k: Conv, multiply_adds: int) -> Work:
    in_bytes = Counter({name: k.itemsize * values for name, values in passes.items() if values})
    return Work(form, in_bytes, multiply_adds)


# From a call's arguments to its work -------------------------------------------------------------


def convolved(
    images: np.ndarray, d: int, w: Windows, bias: bool, relu: bool, batch: int = 0
) -> Work:
    """Return the work of a convolution to d channels, of images from a batch of this size."""
    if numpy_backend._slides_down_only(w, 1):
        images, w = numpy_backend._as_channels(images), numpy_backend._narrow(w)
    (n, c), size = images.shape[:2], images.itemsize
    k = Conv(n, c, d, w, bias, relu, _is_last(images), itemsize=size)
    form = _form(w, (c, d), c, images, batch)
    if form is winograd:
        return by_winograd(k)
    return in_plane(k) if form is planar else by_columns(k)


def transposed(gradient: np.ndarray, c: int, w: Windows) -> Work:
    """Return the work of an input gradient of c channels."""
    if numpy_backend._slides_down_only(w, 1):
        c, w = c * w.k_w, numpy_backend._narrow(w)
    (n, d), size = gradient.shape[:2], gradient.itemsize
    turned = winograd.turned(w) if winograd.is_plain(w) else w
    form = _form(turned, (d, c), c, gradient, pixels=1.3 * w.out_h * w.out_w)
    if form is winograd:
        return by_winograd(Conv(n, d, c, turned, images_last=_is_last(gradient), itemsize=size))
    k = Conv(n, c, d, w, itemsize=size)
    return in_plane_transposed(k) if form is planar else by_columns_transposed(k)


def weighed(images: np.ndarray, gradient: np.ndarray, w: Windows, batch: int = 0) -> Work:
    """Return the work of a weight gradient, of images from a batch of this size."""
    if numpy_backend._slides_down_only(w, 1):
        images, w = numpy_backend._as_channels(images), numpy_backend._narrow(w)
    (n, c), d, size = images.shape[:2], gradient.shape[1], images.itemsize
    order = {"images_last": _is_last(images), "gradient_last": _is_last(gradient)}
    k = Conv(n, c, d, w, **order, itemsize=size)
    pixels = w.out_h * w.out_w * (0.85 if blas().is_narrow else 1)
    form = _form(w, (c, d), c, images, batch, pixels)
    if form is winograd:
        return winograd_weight(k)
    return in_plane_weight(k) if form is planar else by_columns_weight(k)


def by_winograd(k: Conv) -> Work:
    """Return the work of a convolution in tiles or strips."""
    return in_tiles(k) if winograd.in_tiles(k.w, k.c, k.d) else in_strips(k)


def _form(
    w: Windows,
    channels: tuple[int, int],
    c: int,
    images: np.ndarray,
    batch: int = 0,
    pixels: float | None = None,
) -> Any:
    """Return the module that the backend chooses; slices of a batch all have the same one."""
    whole = np.broadcast_to(images[:1], (batch or len(images), *images.shape[1:]))
    return numpy_backend._form(backend_for("cpu"), w, 1, channels, c, whole, pixels)  # type: ignore[arg-type]


def _is_last(images: np.ndarray) -> bool:
    return images.strides[1] == images.itemsize


def convolve(call: Call) -> Work:
    images, weight, bias, w, groups, *rest = call.operands
    if groups > 1:
        return Work("groups", Counter(all=least(call)))
    return convolved(images, len(weight), w, bias is not None, any(rest))


def transpose_convolve(call: Call) -> Work:
    gradient, weight, w, groups = call.operands
    if groups > 1:
        return Work("groups", Counter(all=least(call)))
    return transposed(gradient, weight.shape[1], w)


def weight_gradient(call: Call) -> Work:
    images, gradient, w, groups = call.operands
    if groups > 1:
        return Work("groups", Counter(all=least(call)))
    return weighed(images, gradient, w)


def fused_responses(call: Call) -> Work:
    """Add up, over slices, convolution and pool, the copies of their results, and ReLU."""
    x, weight, bias, w, groups, pool = call.operands
    outer = backend_for("cpu").scratch_to_fuse(weight.array, w, groups)
    work = Work()
    for count in slices(len(x), outer, x.array.itemsize):
        part = convolved(x.array[:count], len(weight), w, bias is not None, False, len(x))
        work.form = part.form
        work.add(part)
        values = count * len(weight) * pool.out_h * pool.out_w
        work.add(Work("", Counter(pool=maxima(values, pool, x.array.itemsize))))
        work.passes["copy"] += 2 * values * (x.array.itemsize + 1)
    work.passes["relu"] = 2 * len(x) * len(weight) * pool.out_h * pool.out_w * x.array.itemsize
    return work


def fused_slope(call: Call) -> Work:
    """Add up, over slices, the pool's scatter, the weight gradient, and the sum of the latter."""
    x, weight, gradient, _, w, groups, pool = call.operands
    outer, size = backend_for("cpu").scratch_to_fuse(weight.array, w, groups), gradient.itemsize
    work, parts = Work(), slices(len(x), outer, size)
    for count in parts:
        spread = np.empty((count, w.out_h, w.out_w, len(weight)), gradient.dtype)
        spread = spread.transpose(0, 3, 1, 2)
        work.add(Work("", Counter(scatter=scattered(spread, gradient[:count].size, pool))))
        part = weighed(x.array[:count], spread, w, len(x))
        work.form = part.form
        work.add(part)
    work.passes["sum"] += sums_of_slices(len(parts), weight.array.nbytes)
    return work


def maxima(m: int, w: Windows, itemsize: int) -> int:
    """Count the search for m winners: a copy of the first tap, four calls for each other, NaN."""
    first, each = 1 + 2 * itemsize, (2 * itemsize + 1) + 3 * itemsize + 2 + 3
    return m * (first + (w.k_h * w.k_w - 1) * each + itemsize)


def masked(itemsize: int) -> int:
    """Count, for each value, the mask negated into integers, and a bitwise "and"."""
    return (1 + itemsize) + 3 * itemsize


def max_windows(call: Call) -> Work:
    images, w = call.operands
    if large.suits(w):
        return Work("large", Counter(all=least(call)))
    size, m = images.itemsize, images[:, :, 0, 0].size * w.out_h * w.out_w
    padded = images[:, :, 0, 0].size * w.padded_h * w.padded_w
    passes = Counter(pad=size * pad(images.size, padded), pool=maxima(m, w, size))
    return Work("", +passes)


def scattered(images: np.ndarray, m: int, w: Windows) -> int:
    """Count, for each tap, a comparison and the masked values; for tiling windows, the edge too."""
    size = images.itemsize
    taps = w.k_h * w.k_w * m * (2 + masked(size))
    if w.is_tiling:
        return taps + (images.size - w.k_h * w.k_w * m) * size
    padded = images[:, :, 0, 0].size * w.padded_h * w.padded_w
    return taps + w.k_h * w.k_w * m * 3 * size + (padded + 2 * images.size) * size


def scatter_winners(call: Call) -> Work:
    values, _, w = call.operands
    if large.suits(w):
        return Work("large", Counter(all=least(call)))
    return Work("", Counter(scatter=scattered(call.result, values.size, w)))


# Batch norm, elements and the rest ---------------------------------------------------------------


def channel_sums(call: Call) -> Work:
    """Count the gradient reordered, a centre subtracted, the gate, and a reading for each sum."""
    _, images, centre, gradient, gate = (*call.arguments, None, None)[:5]
    order, table = Channels(images), images.nbytes
    passes: Counter[str] = Counter()
    if gradient is not None and not np.may_share_memory(order.table(gradient), gradient):
        passes["order"] = 2 * table
    if centre is not None:
        passes["centre"] = 2 * table
    if gate is not None:
        passes["gate"] = gated_bytes(images)
    passes["sums"] = table + (table if gradient is None else 2 * table)
    if not order.by_row:  # 32 rows at a time; then two rows for each slice, stored in float64
        row, count = order.columns * images.itemsize, len(_row_slices(order))
        partial = table // 32
        passes["sums"] += partial + summed(partial) + (12 * count + 12 * (count - 1)) * row
    return Work("backward" if gradient is not None else "forward", passes)


def _row_slices(order: Channels) -> list[int]:
    return slices(order.rows, (order.columns,), order.like.itemsize)


def summed(nbytes: int) -> int:
    """Count a sum over blocks of 16 values, and of their sums in the same way."""
    return nbytes + 2 * nbytes // 15


def total(call: Call) -> Work:
    """Count one reading, and sums of blocks unless the innermost axis in memory is summed."""
    array, axes = call.operands[:2]
    count = math.prod(array.shape[i] for i in axes)
    order = sorted(range(array.ndim), key=lambda i: -abs(array.strides[i]))
    in_blocks = count > 2 * BLOCK and order[-1] not in axes and array.dtype.kind == "f"
    return Work("", Counter(sums=summed(array.nbytes) if in_blocks else array.nbytes))


def channel_lines(call: Call) -> Work:
    """Count each operation of the line: the first reads images, and others work in place."""
    names = ("backend", "images", "centre", "slope", "offset", "gradient", "scale", "relu")
    given = dict(zip(names, call.arguments, strict=False)) | call.options
    in_place = [given.get("centre"), given.get("scale"), given.get("relu") or None]
    calls = 2 + sum(value is not None for value in in_place)
    added = given.get("gradient") is not None
    form = "backward" if given.get("scale") is not None else "forward"
    return Work(
        form + " + added" * added, Counter(line=(2 * calls + 3 * added) * given["images"].nbytes)
    )


def gated_bytes(values: np.ndarray) -> int:
    """Count a comparison, and the mask."""
    return values.size * (values.itemsize + 1 + masked(values.itemsize))


def gated(call: Call) -> Work:
    return Work("", Counter(gate=gated_bytes(call.operands[0])))


def elementwise(call: Call) -> Work:
    return Work(call.operands[0].__name__, Counter(all=least(call)))


def matmul(call: Call) -> Work:
    a, b = call.operands
    return Work("", Counter(product=least(call)), a.size * b.shape[-1])


def update_all(call: Call) -> Work:
    """Count the calls of the rule's formula, all arrays of the parameter's size."""
    rule, updates = call.operands
    work = Work(rule)
    for update in updates:
        _, numbers = update.for_kernel()
        work.passes["rule"] += RULES[rule](numbers()) * update.p.nbytes
    return work


def sgd(numbers: Sequence[float]) -> int:
    """Count weight decay, the velocity's decay and sum, Nesterov's step, and the update."""
    _, momentum, share, weight_decay, nesterov = numbers
    decayed = 2 + 3 if weight_decay else 0
    velocity = 2 + (3 if share == 1 else 5) if momentum else 0
    return decayed + velocity + (2 + 3 if nesterov else 0) + 2 + 3


def adam(numbers: Sequence[float]) -> int:
    """Count weight decay, the maximum, the two running means, and the update of five calls."""
    *_, weight_decay, shrink, amsgrad = numbers
    decayed = (2 if shrink != 1 else 0) + (2 + 3 if weight_decay else 0)
    return decayed + (3 if amsgrad else 0) + (2 + 2 + 3) + (2 + 2 + 2 + 3) + (2 + 2 + 3 + 2 + 3)


RULES: dict[str, Callable[[Sequence[float]], int]] = {"sgd": sgd, "adam": adam}

FORMULAS: dict[str, Callable[[Call], Work]] = {
    "convolve_whole": convolve,
    "transpose_convolve_whole": transpose_convolve,
    "weight_gradient_whole": weight_gradient,
    "_responses": fused_responses,
    "_weight_slope": fused_slope,
    "max_windows": max_windows,
    "scatter_winners": scatter_winners,
    "channel_sums": channel_sums,
    "channel_lines": channel_lines,
    "gated": gated,
    "elementwise": elementwise,
    "matmul": matmul,
    "sum": total,
    "update_all": update_all,
}
