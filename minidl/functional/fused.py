"""Fused operations: several steps in one, whose intermediate results never leave the cache.

A convolution's output is among the largest arrays of a network. ReLU reads all of it and writes as
much; a max pool reads that again and keeps a quarter of it; and the backward pass touches the same
memory again. If convolution and ReLU run image by image in one pass, one array is written and saved
for the gradient instead of two; if the pool is included too, only a quarter of one. On a GPU, bias
and ReLU are one kernel.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from minidl.autograd import Gradients, is_recording, set_recording
from minidl.backends import Array, Windows, without_underflow
from minidl.backends.base import winner_type
from minidl.checks import Pair
from minidl.functional.activation import gated, relu
from minidl.functional.convolution import conv2d, convolve_gradients
from minidl.functional.geometry import conv_windows, pool_windows
from minidl.functional.normalization import Ranks, channel_statistics, line, normalize
from minidl.functional.pooling.basic import scatter_winners
from minidl.tensor import Tensor, record


def conv2d_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Return `relu(conv2d(x, weight, bias, ...))`; with equal results and gradients.

    `Sequential` calls this when a ReLU follows a convolution.

    Args:
        x: images `(n, c, h, w)`, float32 or float64.
        weight: `(d, c // groups, k_h, k_w)`, of the images' dtype.
        bias: `(d,)`, or None.
        stride: see `conv2d`.
        padding: see `conv2d`.
        dilation: see `conv2d`.
        groups: see `conv2d`.

    Returns:
        `(n, d, out_h, out_w)`.

    Raises:
        ValueError: shapes, groups or geometry do not fit each other.
        TypeError: dtypes or devices differ.

    Source: own derivation.

    Example:
        >>> import minidl
        >>> image, edge = minidl.Tensor([[[[1.0, 3.0, 2.0]]]]), minidl.Tensor([[[[-1.0, 1.0]]]])
        >>> conv2d_relu(image, edge)
        Tensor([[[[2., 0.]]]], dtype=float32)
    """
    op = "conv2d_relu"
    windows = conv_windows(op, x, weight, bias, stride, padding, dilation, groups)
    offset = None if bias is None else bias.array
    response = x.backend.convolve(x.array, weight.array, offset, windows, groups, relu=True)

    def backward(gradient: Tensor, out: Tensor) -> Gradients:
        passed = gated(gradient, out.array)
        return convolve_gradients(passed, x, weight, bias, windows, groups)

    return record(op, response, (x, weight, bias), backward, takes_output=True)


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

    Max pooling and ReLU commute, so ReLU comes last, on the smaller array. Results equal those of
    the three steps; gradients agree up to rounding, because batch sums are split differently.
    `Sequential` calls this when a ReLU and a max pool follow a convolution.

    Args:
        x: images `(n, c, h, w)`, float32 or float64.
        weight: `(d, c // groups, k_h, k_w)`, of the images' dtype.
        bias: `(d,)`, or None.
        stride: of the convolution: see `conv2d`.
        padding: see `conv2d`.
        dilation: see `conv2d`.
        groups: see `conv2d`.
        pool_size: the pool's window, in pixels of the convolution's output.
        pool_stride: see `max_pool2d`.
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
    windows = conv_windows(op, x, weight, bias, stride, padding, dilation, groups)
    between = (len(x), len(weight), windows.out_h, windows.out_w)
    pool_geometry = (pool_size, pool_stride, pool_padding, pool_dilation, ceil_mode)
    pool = pool_windows(op, x, *pool_geometry, shape=between)
    best, winners = _responses(x, weight, bias, windows, groups, pool)

    def backward(gradient: Tensor, out: Tensor) -> Gradients:
        passed = gated(gradient, out.array)
        if is_recording() or x.requires_grad:  # as two operations
            spread = scatter_winners(passed, winners, pool)
            dx, dw, _ = convolve_gradients(spread, x, weight, None, windows, groups)
        else:
            dx, dw = None, _weight_slope(x, weight, passed.array, winners, windows, groups, pool)
        # The bias gets every winner's gradient, whichever pixel won.
        return dx, dw, passed.sum((0, 2, 3)) if bias is not None and bias.requires_grad else None

    return record(op, best, (x, weight, bias), backward, takes_output=True)


PARTS = ("_data", "_grad", "_requires_grad", "hooks", "node", "retains_grad", "version")
"""The attributes that a pending tensor does not have yet: all but its backend."""


FEW = 2**16
"""Weights that are always scaled by batch norm's slopes: an array of so few values is in cache."""


class Pending(Tensor):
    """The result of a layer, computed lazily so that the next operations can join its pass.

    A residual block ends in `relu(norm(y) + x)`. Step by step, this writes three arrays as large as
    the images and saves them for the gradient; in one pass, it writes one. So the sum of this and a
    tensor of its shape is another pending result, and `joined_relu` computes all of it. Any other
    access computes the result first, as if it had been a plain tensor from the start.

    `nn.BatchNorm2d` returns one to its parent module, which computes what is left when it ends. So
    does `nn.Conv2d` in evaluation under `no_grad`: then batch norm, too, joins its pass.

    Args:
        compute: takes the tensor to add, or None, and whether to apply ReLU; returns the result.
        inputs: the tensors that it reads; the first one has the result's dtype and backend.
        shape: the result's.
        added: the tensor to add, or None.
        values: how many values a line per channel would scale if `compute` took it as an argument,
            `line`: it is then included in the weights. None if `compute` does not take it.
    """

    __slots__ = (
        *("_added", "_compute", "_dtype", "_inputs", "_is_joined", "_recording", "_shape"),
        *("_values", "_versions", "_waiting"),
    )

    def __init__(
        self,
        compute: Callable[..., Tensor],
        inputs: Sequence[Tensor],
        shape: tuple[int, ...],
        added: Tensor | None = None,
        values: int | None = None,
    ) -> None:
        self.backend, self._shape, self._dtype = inputs[0].backend, shape, inputs[0].dtype
        self._compute: Callable[..., Tensor] | None = compute
        self._inputs, self._added, self._values = tuple(inputs), added, values
        self._versions = [tensor.version.count for tensor in inputs]
        self._recording, self._is_joined = is_recording(), False
        self._waiting: list[weakref.ref[Any]] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self._shape

    @property
    def dtype(self) -> Any:
        """The NumPy dtype of the elements."""
        return self._dtype

    def __getattr__(self, name: str) -> Any:
        """Compute the result when a missing part of it is first accessed."""
        if name not in PARTS or self._compute is None:
            raise AttributeError(f"'Tensor' object has no attribute {name!r}")
        self.settle()
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Compute the result before a part of it is set, such as a hook."""
        if name in PARTS:
            if self._is_joined:
                raise RuntimeError(
                    "batch_norm or conv2d: this result has no gradient of its own, because the "
                    "addition or ReLU after it joined its pass; ask for its gradient, or set a "
                    'hook, before that operation, or call minidl.set_kernels("plain")'
                )
            self.settle()
        super().__setattr__(name, value)

    def wait_in(self, waiting: list[weakref.ref[Any]]) -> Pending:
        """Note this result, and sums with it, in a list of results that are to be settled."""
        self._waiting = waiting
        waiting.append(weakref.ref(self))
        return self

    def settle(self) -> None:
        """Compute the result now, if it is still pending."""
        if self._compute is not None:
            result = self._computed(relu=False)
            self._compute, self._added, self._inputs = None, None, ()
            for part in PARTS:
                super().__setattr__(part, getattr(result, part))

    def settle_before(self, version: Any) -> None:
        """Compute the result now if it reads a tensor of this version, which is to change."""
        if any(tensor.version is version for tensor in self._inputs):
            self.settle()

    def joined_relu(self) -> Tensor:
        """Return its ReLU, in the same pass if it is still pending."""
        if self._compute is None or self._recording != is_recording():
            return relu(self)
        self._is_joined = self._recording
        return self._computed(relu=True)

    def _computed(self, relu: bool) -> Tensor:
        assert self._compute is not None
        if self._versions != [tensor.version.count for tensor in self._inputs]:
            raise RuntimeError(
                f"batch_norm or conv2d: a tensor that its result, of shape {self.shape}, is "
                "computed from was changed in place before the result was used; change a copy() "
                "instead, or use the result first"
            )
        with set_recording(self._recording):
            return self._compute(self._added, relu)

    def __add__(self, other: Any) -> Tensor:
        """Add `other`; the first tensor of the same shape joins the pass."""
        if (
            self._compute is None
            or self._added is not None
            or self._recording != is_recording()
            or not isinstance(other, Tensor)
            or (other.shape, other.dtype, other.backend) != (self.shape, self.dtype, self.backend)
        ):
            return super().__add__(other)
        total = Pending(self._compute, (*self._inputs, other), self.shape, other)
        total._versions[:-1] = self._versions
        if self._waiting is not None:
            total.wait_in(self._waiting)
        self._is_joined = self._recording
        return total

    def __radd__(self, other: Any) -> Tensor:
        """Add from the left: the sum is the same."""
        return self.__add__(other)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let `copy` and `pickle` make a plain tensor."""
        rebuild, (_, *state) = super().__reduce__()
        return rebuild, (Tensor, *state)


def pending_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    world: Ranks | None = None,
) -> Pending:
    """Compute the statistics of `batch_norm` now, and postpone its pass over the images.

    If the images are themselves the pending result of a convolution, and the statistics fixed, the
    line is included in the convolution's weights: `(w * x) * slope + offset = (w * slope) * x +
    offset`. This differs by rounding. Weights larger than the images, and `FEW`, stay as they are.

    Arguments, errors and source: see `batch_norm`.
    """
    op = "batch_norm"
    statistics = channel_statistics(
        op, x, running_mean, running_var, weight, bias, training, momentum, eps, world
    )
    affine = [p for p in (weight, bias) if p is not None]
    if isinstance(x, Pending) and statistics.fixed and not is_recording():
        conv, values = x._compute, x._values
        if conv is not None and values is not None and values <= max(x.size, FEW):
            conv = partial(conv, line=line(statistics, weight, bias))
            return Pending(conv, (*x._inputs, *affine), x.shape)

    def compute(added: Tensor | None, relu: bool) -> Tensor:
        return normalize(op, x, weight, bias, statistics, added, relu)

    return Pending(compute, (x, *affine), x.shape)


def pending_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Pending:
    """Check the arguments of `conv2d`, and postpone its pass over the images.

    If the result is used twice, it is computed twice. Arguments, errors and source: see `conv2d`.
    """
    geometry = (stride, padding, dilation, groups)
    windows = conv_windows("conv2d", x, weight, bias, *geometry)
    shape = (len(x), len(weight), windows.out_h, windows.out_w)
    backend, given = x.backend, [t for t in (x, weight, bias) if t is not None]

    @without_underflow
    def compute(added: Tensor | None, rectified: bool, line: Any = None) -> Tensor:
        if is_recording():
            out = conv2d(x, weight, bias, *geometry)
            out = out if added is None else out + added
            return relu(out) if rectified else out
        taps, offset = weight.array, None if bias is None else bias.array
        if line is not None:
            slope, moved = line
            offset = (moved if offset is None else offset * slope + moved).astype(x.dtype)
            taps = taps * slope.astype(x.dtype)[:, None, None, None]
        at_once = rectified and added is None
        response = backend.convolve(x.array, taps, offset, windows, groups, relu=at_once)

        def add(part: slice) -> None:
            assert added is not None
            backend.xp.add(response[part], added.array[part], out=response[part])
            if rectified:
                backend.xp.maximum(response[part], 0, out=response[part])

        if added is not None:  # it is no faster slice by slice with the convolution
            backend.over_batch(len(x), shape[1:], x.dtype, add)
        return record("conv2d", response, given, lambda gradient: ())

    return Pending(compute, given, shape, values=weight.size)


def _responses(
    x: Tensor, weight: Tensor, bias: Tensor | None, windows: Windows, groups: int, pool: Windows
) -> tuple[Array, Array]:
    """Return the largest positive response of each pool window, or 0, and its index.

    Each slice of the batch is pooled while its convolution is in cache. This takes 2.3 ms instead
    of 4.6 for three steps (first layer of the CIFAR-10 CNN), 4.0 instead of 4.8 (second; 2 cores).
    """
    backend, n = x.backend, len(x)
    shape = (n, len(weight), pool.out_h, pool.out_w)
    best = backend.empty_images(shape, x.dtype)
    winners = backend.empty_images(shape, winner_type(pool))
    offset = None if bias is None else bias.array

    def work(part: slice) -> None:
        response = backend.convolve(x.array[part], weight.array, offset, windows, groups)
        best[part], winners[part] = backend.max_windows(response, pool)

    scratch = backend.scratch_to_fuse(weight.array, windows, groups)
    backend.over_batch(n, scratch, x.dtype, work)
    backend.finish(best, None, relu=True)
    return best, winners


def _weight_slope(
    x: Tensor,
    weight: Tensor,
    gradient: Array,
    winners: Array,
    windows: Windows,
    groups: int,
    pool: Windows,
) -> Tensor | None:
    """Return the gradient of the weight, if required, given that of the winners.

    The winners' gradient is scattered and used slice by slice, in cache. This takes 3.0 ms instead
    of 5.1 for two steps (first layer of the CIFAR-10 CNN). With the gradient of the images, two
    steps are faster: each gradient then has a thread of its own, and a convolution is not set up
    again for each slice.
    """
    if not weight.requires_grad:
        return None
    backend = x.backend

    def work(part: slice) -> Array:
        spread = backend.scatter_winners(gradient[part], winners[part], pool)
        return backend.weight_gradient(x.array[part], spread, windows, groups)

    scratch = backend.scratch_to_fuse(weight.array, windows, groups)
    return Tensor.wrap(backend.sum_over_batch(len(x), scratch, x.dtype, work))
