"""Normalisation: subtract the mean, divide by the standard deviation.

With the mean and biased variance of m values x, the output is

    y = (x - mean) / sqrt(var + eps) * weight + bias

| kind | values that share a mean and a variance |
| --- | --- |
| batch norm | a channel of all images of the batch |
| layer norm | the last axes: an example, or a word |
| group norm | some channels of one image |

Mean and variance depend on x too, so its gradient is not just a multiple of g, the gradient of y.
With `normal = (x - mean) / sqrt(var + eps)` and `inverse = 1 / sqrt(var + eps)`,

    gradient of x       weight * inverse * (g - mean(g) - normal * mean(g * normal))
    gradient of weight  sum(g * normal)
    gradient of bias    sum(g)

The bracket is g projected orthogonally to the ones vector and (up to eps) to `normal`: a linear map
of g that is its own transpose. So the first formula also gives its own gradient with respect to g,
and that of the second with respect to x.

Source: S. Ioffe and C. Szegedy, Batch Normalization (2015); J. L. Ba et al., Layer Normalization
(2016); Y. Wu and K. He, Group Normalization (2018); second derivatives: own derivation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from minidl.autograd import Gradients, is_recording, recomputing
from minidl.backends import Array, without_underflow
from minidl.checks import check_fraction, check_whole, is_number
from minidl.functional import channels as kernels
from minidl.functional.activation import gated
from minidl.functional.geometry import check_floats, check_together
from minidl.tensor import Tensor, record

FAR, FEW = 4.0, 512
"""If a mean is more than `FAR` standard deviations from 0, sums are taken about the mean instead.
Within this limit, `mean(x**2) - mean(x)**2` loses at most a factor of 17 in precision. Only many
values can spare that much, because their rounding errors average out: up to `FEW` values, the limit
is 1 standard deviation."""


class Ranks(Protocol):
    """Processes that each have a share of the batch: `minidl.distributed.World` is one."""

    size: int

    def all_reduce(self, value: Any, *, what: str) -> Any:
        """Return the sum over ranks of an array, or of a tensor, which can be differentiated."""


class Statistics(NamedTuple):
    """Mean and deviation of each channel, `(c,)`, in float64 except for `centre`.

    Attributes:
        centre: a value near the mean, in the images' dtype; None for 0, if that is near enough.
        mean: the mean minus `centre`.
        inverse: `1 / sqrt(var + eps)`.
        eps: added to the variance.
        fixed: whether they are independent of the images: given, or there are no images.
        values: how many there are per channel, on all ranks together.
        world: the ranks that have them; None for this process only.
    """

    centre: Array | None
    mean: Array
    inverse: Array
    eps: float
    fixed: bool
    values: int = 0
    world: Ranks | None = None


# What users call ------------------------------------------------------------------------------


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    world: Ranks | None = None,
) -> Tensor:
    """Normalise each channel, in training by its mean and variance over the batch.

    In training, running statistics, if given, move towards those of the batch:
    `running = (1 - momentum) * running + momentum * batch`, where the variance is the unbiased one,
    divided by m - 1. In evaluation, the running statistics normalise.

    If several processes each have a share of the batch, `world` lets all of them normalise by the
    mean and variance of the whole batch, however it is shared out. Gradients are then those of the
    sum of the ranks' losses, to any order; those of weight and bias are the rank's own part, whose
    sum over ranks is the gradient.

    Args:
        x: `(n, c)` or `(n, c, ...)`, float32 or float64.
        running_mean: `(c,)`, updated in training; None (only in training) to track none.
        running_var: `(c,)`, in the same way.
        weight: `(c,)`, or None for 1.
        bias: `(c,)`, or None for 0.
        training: see above.
        momentum: `0 <= momentum <= 1`.
        eps: added to the variance, >= 0.
        world: the ranks that share the batch, such as `minidl.distributed.world()`; in training,
            all of them must call this. None to normalise by this process's values.

    Returns:
        A tensor of the shape of `x`.

    Raises:
        ValueError: shapes do not fit each other, or there is only one value per channel
            in training, or there are no running statistics in evaluation, or the ranks' calls
            differ.
        TypeError: dtypes or devices differ.

    Example:
        >>> x = Tensor([[1.0, 5.0], [3.0, 5.0]])
        >>> batch_norm(x, None, None, training=True, eps=0.01).numpy().round(2)
        array([[-1.,  0.],
               [ 1.,  0.]], dtype=float32)
    """
    op = "batch_norm"
    statistics = channel_statistics(
        op, x, running_mean, running_var, weight, bias, training, momentum, eps, world
    )
    return normalize(op, x, weight, bias, statistics)


def channel_statistics(
    op: str,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    world: Ranks | None = None,
) -> Statistics:
    """Check all arguments of `batch_norm`; return the statistics that it normalises by."""
    _check(op, x, eps, 2, "(n, c) or (n, c, ...)")
    check_fraction(op, "momentum", momentum)
    running = {"running_mean": running_mean, "running_var": running_var}
    affine = {"weight": weight, "bias": bias}
    check_together(op, input=x, **running, **affine)
    _check_channels(op, x, x.shape[1:2], **running, **affine)
    if not training:
        return _given_statistics(op, running_mean, running_var, eps)
    if world is None or world.size == 1:
        world = None
        _check_count(op, x, _count(x))
    return _batch_statistics(x, (running_mean, running_var), momentum, eps, world)


def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last axes, each example by its mean and variance.

    Args:
        x: `(..., *normalized_shape)`, float32 or float64.
        normalized_shape: the sizes of the last axes, or of the last one.
        weight: of shape `normalized_shape`, or None for 1.
        bias: of shape `normalized_shape`, or None for 0.
        eps: added to the variance, >= 0.

    Returns:
        A tensor of the shape of `x`.

    Raises:
        ValueError: shapes do not fit each other.
        TypeError: dtypes or devices differ.

    Example:
        >>> layer_norm(Tensor([[1.0, 3.0], [5.0, 5.0]]), 2, eps=0.01).numpy().round(2)
        array([[-1.,  1.],
               [ 0.,  0.]], dtype=float32)
    """
    op = "layer_norm"
    shape = normal_shape(op, normalized_shape)
    _check(op, x, eps, len(shape), f"(..., {', '.join(map(str, shape))})")
    check_together(op, input=x, weight=weight, bias=bias)
    if x.shape[x.ndim - len(shape) :] != shape:
        raise ValueError(
            f"{op}: got an input of shape {x.shape}, expected its last axes to be {shape}"
        )
    _check_channels(op, x, shape, weight=weight, bias=bias)
    size = math.prod(shape)
    out = _normalize_rows(op, x, x.size // size, size, eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each image's channels in groups, each group by its mean and variance.

    One group is layer norm over an image; one group per channel is "instance norm".

    Args:
        x: `(n, c)` or `(n, c, ...)`, float32 or float64.
        num_groups: number of groups, of `c // num_groups` channels each.
        weight: `(c,)`, or None for 1.
        bias: `(c,)`, or None for 0.
        eps: added to the variance, >= 0.

    Returns:
        A tensor of the shape of `x`.

    Raises:
        ValueError: shapes do not fit each other, groups do not divide the channels, or there is
            only one value per group, in a single image.
        TypeError: dtypes or devices differ.

    Example:
        >>> group_norm(Tensor([[1.0, 3.0, 5.0, 5.0]]), 2, eps=0.01).numpy().round(2)
        array([[-1.,  1.,  0.,  0.]], dtype=float32)
    """
    op = "group_norm"
    _check(op, x, eps, 2, "(n, c) or (n, c, ...)")
    check_whole(op, 1, num_groups=num_groups)
    check_together(op, input=x, weight=weight, bias=bias)
    n, c = x.shape[:2]
    if c % num_groups:
        raise ValueError(
            f"{op}: got {c} channels, shape {x.shape}, expected a multiple of num_groups="
            f"{num_groups}"
        )
    _check_channels(op, x, (c,), weight=weight, bias=bias)
    size = c // num_groups * math.prod(x.shape[2:])
    _check_count(op, x, n * size)
    out = _normalize_rows(op, x, n * num_groups, size, eps)
    out = out if weight is None else out * _along_channels(weight, x)
    return out if bias is None else out + _along_channels(bias, x)


def normal_shape(op: str, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of layer norm's axes; ValueError if there are none, or one is not >= 1."""
    sizes = normalized_shape if isinstance(normalized_shape, Sequence) else (normalized_shape,)
    if not sizes:
        raise ValueError(f"{op}: got normalized_shape=(), expected at least one size")
    for size in sizes:
        check_whole(op, 1, normalized_shape=size)
    return tuple(int(size) for size in sizes)


# Statistics -----------------------------------------------------------------------------------


def _measured(x: Tensor, eps: float, world: Ranks | None = None) -> tuple[Statistics, Array]:
    """Return each channel's statistics and biased variance, over all ranks of a world."""
    xp, count = x.backend.xp, _count(x)

    def about(centre: Array | None, dtype: Any = x.dtype) -> tuple[Array, Array]:
        nonlocal count
        images = x.array.astype(dtype, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):  # handled below
            total, squares, _ = kernels.channel_sums(x.backend, images, centre)
        if world is not None:  # with the same sums, all ranks choose the same below
            own = xp.concatenate([total, squares, xp.full(1, _count(x))])
            found, c = world.all_reduce(own, what="batch_norm"), len(total)
            total, squares, count = found[:c], found[c:-1], int(found[-1])
            _check_count("batch_norm", x, count, " on this rank, and 1 value on all ranks")
        mean = total / max(1, count)
        return mean, xp.maximum(squares / max(1, count) - mean**2, 0)

    centre = None
    mean, variance = about(centre)
    # If checking would make the host wait for the device, make the second pass in any case.
    far = FAR if count > FEW else 1.0
    if x.backend.records or (mean**2 > far**2 * variance).any():
        centre = mean.astype(x.dtype)
        mean, variance = about(centre)
    # Squares of 1e20 or, without eps, of 1e-30 are out of float32's range.
    if not (x.backend.records or ((variance + eps > 0) & (variance < np.inf)).all()):
        mean, variance = about(centre, np.float64)
    inverse = (variance + eps) ** -0.5
    return Statistics(centre, mean, inverse, eps, not count, count, world), variance


@without_underflow
def _batch_statistics(
    x: Tensor, running: Sequence[Tensor | None], momentum: float, eps: float, world: Ranks | None
) -> Statistics:
    """Return the statistics of a batch, and update the running statistics."""
    statistics, variance = _measured(x, eps, world)
    if not statistics.fixed and not recomputing.get():
        centre, count = statistics.centre, statistics.values
        mean = statistics.mean if centre is None else statistics.mean + centre
        unbiased = variance * (count / (count - 1))
        pairs = zip(running, (mean, unbiased), strict=True)
        both = [(r, (1 - momentum) * r.array + momentum * b) for r, b in pairs if r is not None]
        for buffer, value in both:  # computed first: if memory runs out, neither changes
            buffer.data = value
    return statistics


def _given_statistics(
    op: str, running_mean: Tensor | None, running_var: Tensor | None, eps: float
) -> Statistics:
    """Return the running statistics; ValueError if they are missing."""
    if running_mean is None or running_var is None:
        raise ValueError(
            f"{op}: got no running statistics in evaluation, expected running_mean and "
            "running_var, or training=True to normalise by the batch's own"
        )
    mean, variance = (r.array.astype(np.float64) for r in (running_mean, running_var))
    return Statistics(None, mean, (variance + eps) ** -0.5, eps, fixed=True)


def _sums(
    gradient: Tensor, x: Tensor, statistics: Statistics, gate: Array | None = None
) -> tuple[Tensor, tuple[Array, Array]]:
    """Return the gated gradient g, and each channel's `sum(g)` and `sum(g * normal)`."""
    if gate is not None and is_recording():  # as an operation, which can be differentiated again
        gradient, gate = gated(gradient, gate), None
    total, products, passed = kernels.channel_sums(
        x.backend, x.array, statistics.centre, gradient.array, gate
    )
    g = gradient if gate is None else Tensor.wrap(passed)
    return g, (total, (products - statistics.mean * total) * statistics.inverse)


def _count(x: Tensor) -> int:
    """Return how many values a channel has."""
    return len(x) * math.prod(x.shape[2:])


# Maps and their gradients ---------------------------------------------------------------------


@without_underflow
def normalize(
    op: str,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Statistics,
    added: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Return `normal * weight + bias` of each channel; then `+ added` and ReLU, if given."""

    def backward(gradient: Tensor, out: Tensor) -> Gradients:
        learns, shifts = (p is not None and p.requires_grad for p in (weight, bias))
        adds = added is not None and added.requires_grad
        gate = out.array if relu else None
        if statistics.fixed and not learns and not shifts:
            g = gradient if gate is None else gated(gradient, gate)
            dx = _input_gradient(g, x, weight, statistics) if x.requires_grad else None
            return (dx, None, None, g if adds else None)
        g, sums = _sums(gradient, x, statistics, gate)
        return (
            _input_gradient(g, x, weight, statistics, sums) if x.requires_grad else None,
            _weight_gradient(g, x, statistics, sums) if learns else None,
            _bias_gradient(g, sums[0]) if shifts else None,
            g if adds else None,
        )

    slope, offset = line(statistics, weight, bias)
    other = None if added is None else added.array
    out = kernels.channel_lines(
        x.backend, x.array, statistics.centre, slope, offset, other, relu=relu
    )
    return record(op, out, (x, weight, bias, added), backward, takes_output=True)


def line(statistics: Statistics, weight: Tensor | None, bias: Tensor | None) -> tuple[Array, Array]:
    """Return `slope` and `offset` of each channel: `(x - centre) * slope + offset`; float64."""
    slope = statistics.inverse if weight is None else statistics.inverse * weight.array
    offset = -statistics.mean * slope
    return slope, offset if bias is None else offset + bias.array


def _normal(x: Tensor, statistics: Statistics) -> Tensor:
    return normalize("normalize", x, None, None, statistics)


def _input_gradient(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    statistics: Statistics,
    sums: tuple[Array, Array] | None = None,
) -> Tensor:
    """Return `weight * inverse * (g - mean(g) - normal * mean(g * normal))`.

    With fixed statistics this reduces to `weight * inverse * g`.
    """
    op, inverse = "normalize_input_gradient", Tensor.wrap(statistics.inverse.astype(x.dtype))
    if statistics.fixed:
        scale = inverse if weight is None else inverse * weight
        return gradient * _along_channels(scale, x)
    count, world, axes = statistics.values, statistics.world, (0, *range(2, x.ndim))

    def mean(values: Tensor) -> Tensor:
        total = values.sum(axes, keepdims=True)
        return (total if world is None else world.all_reduce(total, what=f"{op}, order 2")) / count

    def backward(outer: Tensor) -> Gradients:
        ours = _input_gradient(gradient, x, None, statistics)
        theirs = _input_gradient(outer, x, None, statistics)
        normal = _normal(x, statistics)
        change = normal * mean(outer * ours) + theirs * mean(gradient * normal)
        change = change + ours * mean(outer * normal)
        deviation = x - mean(x)
        scale = 1 / (mean(deviation * deviation) + statistics.eps).sqrt()
        scale = scale if weight is None else scale * _along_channels(weight, x)
        return (
            _input_gradient(outer, x, weight, statistics) if gradient.requires_grad else None,
            -scale * change,
            None if weight is None else (outer * ours).sum(axes),
        )

    total, along = _sums(gradient, x, statistics)[1] if sums is None else sums
    if world is not None:
        total, along = world.all_reduce(x.backend.xp.stack([total, along]), what=op)
    slope = -statistics.inverse * along / count
    offset = -statistics.mean * slope - total / count
    scale = statistics.inverse if weight is None else statistics.inverse * weight.array
    out = kernels.channel_lines(
        x.backend, x.array, statistics.centre, slope, offset, gradient.array, scale
    )
    return record(op, out, (gradient, x, weight), backward)


def _weight_gradient(
    gradient: Tensor, x: Tensor, statistics: Statistics, sums: tuple[Array, Array]
) -> Tensor:
    """Return `sum(g * normal)` of each channel."""

    def backward(outer: Tensor) -> Gradients:
        slope = _along_channels(outer, x)
        # Ranks may differ in `outer`: then it belongs inside the means.
        g, weight = (gradient * slope, None) if statistics.world else (gradient, outer)
        return (
            _normal(x, statistics) * slope if gradient.requires_grad else None,
            _input_gradient(g, x, weight, statistics) if x.requires_grad else None,
        )

    out = sums[1].astype(x.dtype)
    return record("normalize_weight_gradient", out, (gradient, x), backward)


def _bias_gradient(gradient: Tensor, total: Array) -> Tensor:
    """Return `sum(g)` of each channel, already computed as `total`."""

    def backward(outer: Tensor) -> Gradients:
        return (_along_channels(outer, gradient).broadcast_to(gradient.shape),)

    return record("normalize_bias_gradient", total.astype(gradient.dtype), (gradient,), backward)


@without_underflow
def _normalize_rows(op: str, x: Tensor, rows: int, size: int, eps: float) -> Tensor:
    """Normalise each row of `size` values, as a channel of a batch of one."""
    lines = x.reshape(1, rows, size)
    statistics, _ = _measured(lines, eps)
    return normalize(op, lines, None, None, statistics).reshape(x.shape)


def _along_channels(values: Tensor, x: Tensor) -> Tensor:
    """Return `(c,)` values in a shape that combines with `x`: `(c, 1, ...)`."""
    return values.reshape(len(values), *(1,) * (x.ndim - 2))


# Checks ---------------------------------------------------------------------------------------


def _check(op: str, x: Tensor, eps: float, least: int, axes: str) -> None:
    check_floats(op, x)
    if x.ndim < least:
        raise ValueError(f"{op}: got an input of shape {x.shape}, expected {axes}")
    check_eps(op, eps)


def check_eps(op: str, eps: float) -> None:
    """Raise ValueError unless `eps >= 0`."""
    if not is_number(eps) or not eps >= 0:
        raise ValueError(f"{op}: got eps={eps!r}, expected a number >= 0")


def _check_channels(op: str, x: Tensor, shape: tuple[int, ...], **given: Tensor | None) -> None:
    for name, values in given.items():
        if values is not None and values.shape != shape:
            raise ValueError(
                f"{op}: got {name} of shape {values.shape} for an input of shape {x.shape}, "
                f"expected {shape}"
            )


def _check_count(op: str, x: Tensor, count: int, place: str = "") -> None:
    """Raise ValueError if there is only one value, whose deviation is 0."""
    if count == 1:
        raise ValueError(
            f"{op}: got an input of shape {x.shape}{place}. Expected more than 1 value per channel "
            "when training: one has no spread; a last batch of one? Use DataLoader(drop_last=True)"
        )
