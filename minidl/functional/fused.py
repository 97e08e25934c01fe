"""Several steps as one operation, so that what lies between them never leaves the cache.

A convolution's output is as large as anything in a network. ReLU reads all of it and writes as
much; a max pool reads that again, to keep a quarter of it; then the gradient takes the same way
back. Done image by image, from the convolution to ReLU at one go, there is one array to be written
and kept for the gradient where there were two; on to the pool, only its quarter is. On a GPU, bias
and ReLU are one kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidl.autograd import Gradients, is_recording, set_recording
from minidl.backends import Array, Windows
from minidl.backends.base import winner_type
from minidl.checks import Pair
from minidl.functional.activation import gated, relu
from minidl.functional.convolution import convolve_gradients
from minidl.functional.geometry import conv_windows, pool_windows
from minidl.functional.normalization import channel_statistics, normalize
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
    """Return `relu(conv2d(x, weight, bias, ...))`; results and gradients are equal to theirs.

    `Sequential` takes this way where it finds the two.

    Args:
        x: images `(n, c, h, w)`, float32 or float64.
        weight: `(d, c // groups, k_h, k_w)`, of the images' dtype.
        bias: `(d,)`, or None.
        stride: see `conv2d`, like the next three.
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
    offset = None if bias is None else bias.data
    response = x.backend.convolve(x.data, weight.data, offset, windows, groups, relu=True)

    def backward(gradient: Tensor, out: Tensor) -> Gradients:
        passed = gated(gradient, out.data)
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
    windows = conv_windows(op, x, weight, bias, stride, padding, dilation, groups)
    between = (len(x), len(weight), windows.out_h, windows.out_w)
    pool_geometry = (pool_size, pool_stride, pool_padding, pool_dilation, ceil_mode)
    pool = pool_windows(op, x, *pool_geometry, shape=between)
    best, winners = _responses(x, weight, bias, windows, groups, pool)

    def backward(gradient: Tensor, out: Tensor) -> Gradients:
        passed = gated(gradient, out.data)
        if is_recording():  # the two steps back, one by one: they can be differentiated again
            spread = scatter_winners(passed, winners, pool)
            return convolve_gradients(spread, x, weight, bias, windows, groups)
        dx, dw = _slopes(x, weight, passed.data, winners, windows, groups, pool)
        by_bias = bias is not None and bias.requires_grad
        # A winner's gradient reaches the bias whichever pixel it goes to.
        return dx, dw, passed.sum(2).sum(2).sum(0) if by_bias else None

    return record(op, best, (x, weight, bias), backward, takes_output=True)


PARTS = ("_data", "_grad", "_requires_grad", "hooks", "node", "retains_grad", "version")
"""What a pending tensor does not have: all but its backend."""


class PendingNorm(Tensor):
    """The result of batch norm, not computed yet, so that what follows can join its pass.

    A residual block ends in `relu(norm(y) + x)`. Step by step, that writes three arrays as large as
    the images and keeps them for the gradient; in one pass, it writes one. So the sum of this and a
    tensor of its shape is another pending result, and `joined_relu` computes all of it. Anything
    else that is asked of it computes it first, as if it had been a plain tensor from the start.

    `nn.BatchNorm2d` returns one to the module around it; what leaves that module is computed.

    Args:
        x: the input of the norm.
        compute: takes what to add, or None, and whether to do ReLU; returns the result.
        added: what to add.
    """

    __slots__ = ("_added", "_compute", "_dtype", "_recording", "_shape", "_version", "_x")

    def __init__(
        self,
        x: Tensor,
        compute: Callable[[Tensor | None, bool], Tensor],
        added: Tensor | None = None,
    ) -> None:
        self.backend, self._shape, self._dtype = x.backend, x.shape, x.dtype
        self._x: Tensor | None = x
        self._compute, self._added = compute, added
        self._recording, self._version = is_recording(), x.version.count

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self._shape

    @property
    def dtype(self) -> Any:
        """NumPy's name for the kind of number."""
        return self._dtype

    def __getattr__(self, name: str) -> Any:
        """Compute the result when a part of it is asked for that is not there yet."""
        if name not in PARTS or self._x is None:
            raise AttributeError(f"'Tensor' object has no attribute {name!r}")
        self.settle()
        return getattr(self, name)

    def settle(self) -> None:
        """Compute the result now, if it is still pending."""
        if self._x is not None:
            result = self._computed(self._x, relu=False)
            for part in PARTS:
                setattr(self, part, getattr(result, part))
            self._x = self._added = None

    def joined_relu(self) -> Tensor:
        """Return the ReLU of it, in the same pass if it is still pending."""
        if self._x is None or self._recording != is_recording():
            return relu(self)
        return self._computed(self._x, relu=True)

    def _computed(self, x: Tensor, relu: bool) -> Tensor:
        if x.version.count != self._version:
            raise RuntimeError(
                f"batch_norm: its input, of shape {self.shape}, was changed in place before the "
                "result was used; change a copy() instead, or use the result first"
            )
        with set_recording(self._recording):
            result: Tensor = self._compute(self._added, relu)
        return result

    def __add__(self, other: Any) -> Tensor:
        """Add; the first tensor of the same shape joins the pass."""
        joins = (
            self._x is not None
            and self._added is None
            and self._recording == is_recording()
            and isinstance(other, Tensor)
            and (other.shape, other.dtype, other.backend) == (self.shape, self.dtype, self.backend)
        )
        if self._x is None or not joins:
            return super().__add__(other)
        total = PendingNorm(self._x, self._compute, other)
        total._version = self._version
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
) -> PendingNorm:
    """Take the statistics of `batch_norm` now, and leave its pass over memory for later.

    Arguments, errors and source: see `batch_norm`.
    """
    op = "batch_norm"
    statistics = channel_statistics(
        op, x, running_mean, running_var, weight, bias, training, momentum, eps
    )

    def compute(added: Tensor | None, relu: bool) -> Tensor:
        return normalize(op, x, weight, bias, statistics, added, relu)

    return PendingNorm(x, compute)


def _responses(
    x: Tensor, weight: Tensor, bias: Tensor | None, windows: Windows, groups: int, pool: Windows
) -> tuple[Array, Array]:
    """Return the largest positive response of each window of the pool, or 0, and where it is.

    A slice of the batch is pooled while its convolution is in cache. Against three steps (ms, 2
    cores): 2.3 for 4.6 (first layer of the CIFAR-10 CNN), 4.0 for 4.8 (second).
    """
    backend, n = x.backend, len(x)
    shape = (n, len(weight), pool.out_h, pool.out_w)
    best = backend.empty_images(shape, x.dtype)
    winners = backend.empty_images(shape, winner_type(pool))
    offset = None if bias is None else bias.data

    def work(part: slice) -> None:
        response = backend.convolve(x.data[part], weight.data, offset, windows, groups)
        best[part], winners[part] = backend.max_windows(response, pool)

    scratch = backend.scratch_to_fuse(weight.data, windows, groups)
    backend.over_batch(n, scratch, x.dtype, work)
    backend.xp.maximum(best, 0, out=best)
    return best, winners


def _slopes(
    x: Tensor,
    weight: Tensor,
    gradient: Array,
    winners: Array,
    windows: Windows,
    groups: int,
    pool: Windows,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of images and weight, each if it is wanted, from that of the winners.

    It is spread over a slice of the batch, and used, in cache. Against three steps (ms, 2 cores):
    3.0 for 5.1 (first layer of the CIFAR-10 CNN), 9.8 for 10.2 (second).
    """
    backend = x.backend
    images = backend.empty_images(x.shape, x.dtype) if x.requires_grad else None

    def work(part: slice) -> Array:
        spread = backend.scatter_winners(gradient[part], winners[part], pool)
        if images is not None:
            images[part] = backend.transpose_convolve(spread, weight.data, windows, groups)
        if weight.requires_grad:
            return backend.weight_gradient(x.data[part], spread, windows, groups)
        return backend.xp.zeros(1)

    scratch = backend.scratch_to_fuse(weight.data, windows, groups)
    total = backend.sum_over_batch(len(x), scratch, x.dtype, work)
    return (
        None if images is None else Tensor.wrap(images),
        Tensor.wrap(total) if weight.requires_grad else None,
    )
