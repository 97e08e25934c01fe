"""Update rules. `p` is a parameter, `g` its gradient, `t` the number of the step, from 1.

Every rule works in place: results go into the parameter and into arrays that are kept from step to
step, so that after the first step nothing is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from minidl.backends import Array, backend_of
from minidl.optim.optimizer import Group, Optimizer, kept
from minidl.tensor import Tensor

Parameters = Iterable[Tensor] | Iterable[Mapping[str, Any]]
ForKernel = tuple[Sequence[Array], Callable[[], Sequence[float]]]


class SGD(Optimizer):
    """Stochastic gradient descent: `v = momentum * v + (1 - dampening) * g`, `p -= lr * v`.

    The first step starts with `v = g`. With `nesterov` the step is `lr * (g + momentum * v)`.
    Weight decay adds `weight_decay * p` to the gradient first.

    Args:
        parameters: tensors, or groups.
        lr: learning rate, from 0.
        momentum: how much of the last direction is kept, from 0.
        dampening: how much less of the new gradient enters it.
        weight_decay: from 0.
        nesterov: look ahead along the momentum; wants momentum and no dampening.

    Source: I. Sutskever et al., On the importance of initialization and momentum (2013), in the
    form of PyTorch, where the learning rate multiplies the velocity.

    Example:
        >>> import minidl
        >>> w = minidl.Tensor(1.0, requires_grad=True)
        >>> sgd = SGD([w], lr=0.1)
        >>> (w * w).backward(); sgd.step(); round(w.item(), 4)
        0.8
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            parameters,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
        )

    kernel = "sgd"

    def checked_options(self, options: Mapping[str, Any]) -> Group:
        """Return a group's options; ValueError for impossible ones."""
        checked = super().checked_options(options)
        if checked["nesterov"] and (checked["momentum"] == 0 or checked["dampening"] != 0):
            raise ValueError("SGD: nesterov=True expected momentum above 0 and dampening 0")
        return checked

    def update(self, p: Array, g: Array, state: dict[str, Any], group: Group) -> None:
        """Do one step."""
        xp, scratch = backend_of(p).xp, kept(state, "_scratch", p)
        lr, momentum, dampening = group["lr"], group["momentum"], group["dampening"]
        g = _decayed(p, g, state, group)
        if not momentum:
            p -= xp.multiply(g, lr, out=scratch)
            return
        first = "velocity" not in state or state["step"] == 1
        velocity = kept(state, "velocity", p)
        velocity *= momentum
        velocity += xp.multiply(g, 1 - dampening, out=scratch) if dampening and not first else g
        if group["nesterov"]:
            p -= xp.multiply(g, lr, out=scratch)
            p -= xp.multiply(velocity, lr * momentum, out=scratch)
        else:
            p -= xp.multiply(velocity, lr, out=scratch)

    def for_kernel(self, p: Array, state: dict[str, Any], group: Group) -> ForKernel:
        """Return what `kernels.cu` takes: the velocity, if there is momentum; the numbers."""
        is_new = "velocity" not in state

        def numbers() -> list[float]:
            nonlocal is_new
            share = 1.0 if is_new or state["step"] == 1 else 1 - group["dampening"]
            is_new = False
            options = (group["momentum"], share, group["weight_decay"], group["nesterov"])
            return [group["lr"], *options]

        return [kept(state, "velocity", p)] if group["momentum"] else [], numbers


class Adam(Optimizer):
    """Adam: steps of about `lr`, whatever the scale of the gradient.

    `m = b1 * m + (1 - b1) * g`, `v = b2 * v + (1 - b2) * g**2`,
    `p -= lr * (m / (1 - b1**t)) / (sqrt(v / (1 - b2**t)) + eps)`.
    Weight decay adds `weight_decay * p` to the gradient first; see `AdamW` for the other way.

    Args:
        parameters: tensors, or groups.
        lr: learning rate, from 0.
        betas: b1 and b2, from 0 to below 1.
        eps: keeps the division finite.
        weight_decay: from 0.

    Source: D. Kingma and J. Ba, Adam: A Method for Stochastic Optimization (2014), algorithm 1.
    """

    kernel = "adam"
    decoupled = False

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, p: Array, g: Array, state: dict[str, Any], group: Group) -> None:
        """Do one step."""
        xp, scratch = backend_of(p).xp, kept(state, "_scratch", p)
        mean, square = kept(state, "mean", p), kept(state, "square", p)
        lr, t, (b1, b2) = group["lr"], state["step"], group["betas"]
        if self.decoupled:
            p *= 1 - lr * group["weight_decay"]
        else:
            g = _decayed(p, g, state, group)
        mean *= b1
        mean += xp.multiply(g, 1 - b1, out=scratch)
        square *= b2
        xp.multiply(g, g, out=scratch)
        scratch *= 1 - b2
        square += scratch
        xp.sqrt(square, out=scratch)
        scratch /= math.sqrt(1 - b2**t)
        scratch += group["eps"]
        xp.divide(mean, scratch, out=scratch)
        scratch *= lr / (1 - b1**t)
        p -= scratch

    def for_kernel(self, p: Array, state: dict[str, Any], group: Group) -> ForKernel:
        """Return what `kernels.cu` takes: both running means; the numbers."""

        def numbers() -> list[float]:
            t, lr, (b1, b2) = state["step"], group["lr"], group["betas"]
            decay = group["weight_decay"]
            added, shrink = (0.0, 1 - lr * decay) if self.decoupled else (decay, 1.0)
            step, root = lr / (1 - b1**t), math.sqrt(1 - b2**t)
            return [step, b1, 1 - b1, b2, 1 - b2, root, group["eps"], added, shrink]

        return [kept(state, "mean", p), kept(state, "square", p)], numbers


class AdamW(Adam):
    """Adam with decoupled weight decay: `p *= 1 - lr * weight_decay` before each step.

    Args:
        parameters: tensors, or groups.
        lr: learning rate, from 0.
        betas: b1 and b2, from 0 to below 1.
        eps: keeps the division finite.
        weight_decay: from 0.

    Source: I. Loshchilov and F. Hutter, Decoupled Weight Decay Regularization (2017).
    """

    decoupled = True

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay)


class RMSprop(Optimizer):
    """RMSprop: `v = alpha * v + (1 - alpha) * g**2`, `p -= lr * g / (sqrt(v) + eps)`.

    `centered` subtracts the square of the gradient's running mean from v. With momentum,
    `b = momentum * b + g / (sqrt(v) + eps)` and `p -= lr * b`.

    Args:
        parameters: tensors, or groups.
        lr: learning rate, from 0.
        alpha: how much of the running means is kept.
        eps: keeps the division finite.
        weight_decay: adds `weight_decay * p` to the gradient.
        momentum: from 0.
        centered: divide by the standard deviation instead of the root mean square.

    Source: T. Tieleman and G. Hinton, Lecture 6.5 (2012); `centered`: A. Graves, Generating
    Sequences With Recurrent Neural Networks (2013), equations 38 to 45.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(
            parameters,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
        )

    kernel = "rmsprop"

    def update(self, p: Array, g: Array, state: dict[str, Any], group: Group) -> None:
        """Do one step."""
        xp, scratch, alpha = backend_of(p).xp, kept(state, "_scratch", p), group["alpha"]
        g = _decayed(p, g, state, group)
        square = kept(state, "square", p)
        square *= alpha
        xp.multiply(g, g, out=scratch)
        scratch *= 1 - alpha
        square += scratch
        if group["centered"]:
            mean = kept(state, "mean", p)
            mean *= alpha
            mean += xp.multiply(g, 1 - alpha, out=scratch)
            xp.multiply(mean, mean, out=scratch)
            xp.subtract(square, scratch, out=scratch)
            xp.maximum(scratch, 0, out=scratch)  # rounding can make a variance of 0 negative
            xp.sqrt(scratch, out=scratch)
        else:
            xp.sqrt(square, out=scratch)
        scratch += group["eps"]
        xp.divide(g, scratch, out=scratch)
        if group["momentum"]:
            velocity = kept(state, "velocity", p)
            velocity *= group["momentum"]
            velocity += scratch
            xp.multiply(velocity, group["lr"], out=scratch)
        else:
            scratch *= group["lr"]
        p -= scratch

    def for_kernel(self, p: Array, state: dict[str, Any], group: Group) -> ForKernel:
        """Return what `kernels.cu` takes: up to three running means; the numbers."""
        square = kept(state, "square", p)
        mean = kept(state, "mean", p) if group["centered"] else square
        velocity = kept(state, "velocity", p) if group["momentum"] else square

        def numbers() -> list[float]:
            alpha = group["alpha"]
            options = (group["eps"], group["weight_decay"], group["momentum"], group["centered"])
            return [group["lr"], alpha, 1 - alpha, *options]

        return [square, mean, velocity], numbers


def _decayed(p: Array, g: Array, state: dict[str, Any], group: Group) -> Array:
    """Return `g + weight_decay * p` in memory of its own, or `g` itself without decay."""
    if not group["weight_decay"]:
        return g
    total = kept(state, "_decayed", p)
    backend_of(p).xp.multiply(p, group["weight_decay"], out=total)
    total += g
    return total
