"""Normalisation layers: they hold weights and running statistics; `functional` does the work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidl import functional as F
from minidl.autograd import recomputing
from minidl.checks import check_fraction, check_whole
from minidl.functional.geometry import check_floats
from minidl.functional.normalization import Ranks, check_eps, normal_shape
from minidl.nn.module import Buffer, Module, Parameter, pending_results
from minidl.tensor import Tensor
from minidl.tensor.functions import ones, zeros


class _BatchNorm(Module):
    """Base of the batch normalisation layers, whatever axes follow the channels."""

    axes: tuple[tuple[str, ...], ...]  # for each kind of input, those after the channels

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        world: Ranks | None = None,
    ) -> None:
        who = type(self).__name__
        check_whole(who, 1, num_features=num_features)
        if momentum is not None:
            check_fraction(who, "momentum", momentum)
        check_eps(who, eps)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        if not hasattr(world, "all_reduce") and world is not None:
            raise TypeError(f"{who}: got world={world!r}, expected distributed.world() or None")
        self.affine, self.track_running_stats, self.world = affine, track_running_stats, world
        self.weight = Parameter(ones(num_features)) if affine else None
        self.bias = Parameter(zeros(num_features)) if affine and bias else None
        self.running_mean = self.running_var = self.num_batches_tracked = None
        if track_running_stats:
            self.running_mean = Buffer(zeros(num_features))
            self.running_var = Buffer(ones(num_features))
            self.num_batches_tracked = Buffer(np.zeros((), np.int64))

    @property
    def is_frozen(self) -> bool:
        """Whether there is a weight, and neither it nor the bias is trained."""
        given = [p for p in (self.weight, self.bias) if p is not None]
        return bool(given) and not any(p.requires_grad for p in given)

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.batch_norm`; in training, count the batch."""
        who = type(self).__name__
        check_floats(who, x)
        wanted = [f"({', '.join(('n', str(self.num_features), *rest))})" for rest in self.axes]
        if x.ndim - 2 not in map(len, self.axes) or x.shape[1] != self.num_features:
            raise ValueError(
                f"{who}: got an input of shape {x.shape}, expected {' or '.join(wanted)}"
            )
        momentum, seen = self.momentum, self.num_batches_tracked
        if momentum is None:
            momentum = 0.0 if seen is None else 1 / (seen.item() + 1)
        training = self.training and not self.is_frozen
        own = training or self.running_mean is None
        given = (self.running_mean, self.running_var, self.weight, self.bias)
        options = (own, momentum, self.eps, self.world if training else None)
        pending = pending_results(x)
        if pending is None:
            out = F.batch_norm(x, *given, *options)
        else:
            out = F.pending_batch_norm(x, *given, *options).wait_in(pending)
        if training and seen is not None and not recomputing.get():
            with seen.mutable() as count:
                count += 1
        return out


class BatchNorm2d(_BatchNorm):
    """Normalise each channel of images `(n, num_features, h, w)`: see `functional.batch_norm`.

    Training uses the batch's own mean and variance, and updates the running ones; evaluation uses
    the running ones. A layer frozen by `requires_grad_(False)` stays in evaluation while the
    network trains, because later layers were trained with its statistics. PyTorch's does not.

    Args:
        num_features: number of channels.
        eps: added to the variance, `>= 0`.
        momentum: how far running statistics move towards those of a batch,
            `0 <= momentum <= 1`; None for the mean of all batches so far.
        affine: whether there is a weight.
        track_running_stats: whether there are running statistics; without them evaluation uses
            the batch's own too.
        bias: whether there is a bias, if there is a weight.
        world: the ranks that share each batch, such as `distributed.world()`: in training, its mean
            and variance are those over all ranks, which must all call the layer. None for those of
            this rank's share. `distributed.synchronize_batch_norm` sets it in a whole model.

    Attributes:
        weight: `(num_features,)`, initially 1; or None.
        bias: `(num_features,)`, initially 0; or None.
        running_mean: a buffer `(num_features,)`, initially 0; or None.
        running_var: a buffer `(num_features,)` of unbiased variances, initially 1; or None.
        num_batches_tracked: a 0-d int64 buffer; or None.

    Raises:
        ValueError: an argument is out of range; when called, the input has the wrong shape, or
            in training a single value per channel.
        TypeError: `world` is something else.

    Example:
        >>> layer = BatchNorm2d(8)
        >>> [name for name, _ in layer.named_buffers()]
        ['running_mean', 'running_var', 'num_batches_tracked']
    """

    axes = (("h", "w"),)


class BatchNorm1d(_BatchNorm):
    """Normalise each feature of `(n, num_features)`, or channel of `(n, num_features, length)`.

    Arguments and attributes as for `BatchNorm2d`.

    Example:
        >>> BatchNorm1d(4, momentum=None)
        BatchNorm1d(4, momentum=None)
    """

    axes = ((), ("length",))


class LayerNorm(Module):
    """Normalise each example over the last axes: see `functional.layer_norm`.

    Args:
        normalized_shape: the sizes of the last axes, or of the last one.
        eps: added to the variance, `>= 0`.
        elementwise_affine: whether there is a weight.
        bias: whether there is a bias, if there is a weight.

    Attributes:
        weight: of shape `normalized_shape`, initially 1; or None.
        bias: of shape `normalized_shape`, initially 0; or None.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> LayerNorm(4).weight.shape
        (4,)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        check_eps("LayerNorm", eps)
        self.normalized_shape = normal_shape("LayerNorm", normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        shape = self.normalized_shape
        self.weight = Parameter(ones(shape)) if elementwise_affine else None
        self.bias = Parameter(zeros(shape)) if elementwise_affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.layer_norm`."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class GroupNorm(Module):
    """Normalise each image's channels in groups: see `functional.group_norm`.

    Args:
        num_groups: a divisor of `num_channels`.
        num_channels: channels of the input.
        eps: added to the variance, `>= 0`.
        affine: whether there is a weight.
        bias: whether there is a bias, if there is a weight.

    Attributes:
        weight: `(num_channels,)`, initially 1; or None.
        bias: `(num_channels,)`, initially 0; or None.

    Raises:
        ValueError: an argument is out of range, or the groups do not divide the channels.

    Example:
        >>> GroupNorm(2, 6)
        GroupNorm(2, 6)
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
    ) -> None:
        check_whole("GroupNorm", 1, num_groups=num_groups, num_channels=num_channels)
        check_eps("GroupNorm", eps)
        if num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: got num_channels={num_channels} and num_groups={num_groups}, "
                "expected channels divisible by groups"
            )
        self.num_groups, self.num_channels = num_groups, num_channels
        self.eps, self.affine = eps, affine
        self.weight = Parameter(ones(num_channels)) if affine else None
        self.bias = Parameter(zeros(num_channels)) if affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply `functional.group_norm`."""
        check_floats("GroupNorm", x)
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(
                f"GroupNorm: got an input of shape {x.shape}, "
                f"expected (n, {self.num_channels}, ...)"
            )
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
