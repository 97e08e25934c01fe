"""Update rules. `p` is a parameter, `g` its gradient, `t` the step number, `>= 1`.

Every rule has one `formula`, which updates any part of a parameter in place, together with the same
part of the rule's state arrays. `Optimizer.update` calls it on slices small enough for temporaries
to stay in cache. The CUDA kernels in `backends/cuda/kernels.cu` have the same formulas, and take
the same arrays and numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minidl.backends import Array, backend_of
from minidl.optim.optimizer import Group, Numbers, Optimizer
from minidl.tensor import Tensor

Parameters = Iterable[Tensor] | Iterable[Mapping[str, Any]]


class SGD(Optimizer):
    """Stochastic gradient descent: `v = momentum * v + (1 - dampening) * g`, `p -= lr * v`.

    The first step starts with `v = g`. With `nesterov` the step is `lr * (g + momentum * v)`.
    Weight decay adds `weight_decay * p` to the gradient first.

    Args:
        parameters: tensors, or groups.
        lr: learning rate, `>= 0`.
        momentum: the factor on the previous velocity, `>= 0`.
        dampening: reduces the new gradient's share to `1 - dampening`.
        weight_decay: `>= 0`.
        nesterov: look ahead along the momentum; needs momentum and no dampening.

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
        options = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov}
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, **options)

    kernel = "sgd"

    def checked_options(self, options: Mapping[str, Any]) -> Group:
        """Return a group's options; raise ValueError for invalid ones."""
        checked = super().checked_options(options)
        if checked["nesterov"] and (checked["momentum"] == 0 or checked["dampening"] != 0):
            raise ValueError("SGD: got nesterov=True, expected momentum > 0 and dampening 0")
        return checked

    def keeps(self, group: Group) -> Sequence[str]:
        """Keep the velocity, if there is momentum."""
        return ["velocity"] if group["momentum"] else []

    def numbers(self, group: Group, step: int, is_first: bool) -> Numbers:
        """Return the options, and the share of the gradient that enters the velocity."""
        share = 1.0 if is_first else 1 - group["dampening"]
        return [group["lr"], group["momentum"], share, group["weight_decay"], group["nesterov"]]

    def formula(self, p: Array, g: Array, arrays: Sequence[Array], numbers: Numbers) -> None:
        """Do one step."""
        lr, momentum, share, weight_decay, nesterov = numbers
        if weight_decay:
            g = g + weight_decay * p
        if not momentum:
            p -= lr * g
            return
        (velocity,) = arrays
        velocity *= momentum
        velocity += g if share == 1 else share * g
        p -= lr * (g + momentum * velocity if nesterov else velocity)


class Adam(Optimizer):
    """Adam: steps of about `lr`, whatever the scale of the gradient.

    `m = b1 * m + (1 - b1) * g`, `v = b2 * v + (1 - b2) * g**2`,
    `p -= lr * (m / (1 - b1**t)) / (sqrt(v / (1 - b2**t)) + eps)`.
    Weight decay adds `weight_decay * p` to the gradient first; `AdamW` decouples it. With `amsgrad`
    the step has the largest v so far in place of v, so that it never grows again where gradients
    become small.

    Args:
        parameters: tensors, or groups.
        lr: learning rate, `>= 0`.
        betas: b1 and b2, `0 <= b < 1`.
        eps: keeps the division finite.
        weight_decay: `>= 0`.
        amsgrad: divide by the largest running mean of squares.

    Source: D. Kingma and J. Ba, Adam: A Method for Stochastic Optimization (2014), algorithm 1;
    `amsgrad`: S. Reddi et al., On the Convergence of Adam and Beyond (2018), in the form of
    PyTorch, which takes the maximum before the bias correction.
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
        amsgrad: bool = False,
    ) -> None:
        options = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        super().__init__(parameters, lr=lr, **options)

    def keeps(self, group: Group) -> Sequence[str]:
        """Keep both running means, and with amsgrad the largest `square`, else that again."""
        return ["mean", "square", "largest" if group["amsgrad"] else "square"]

    def numbers(self, group: Group, step: int, is_first: bool) -> Numbers:
        """Return the options, with the bias corrections of the means."""
        lr, (b1, b2), decay = group["lr"], group["betas"], group["weight_decay"]
        added, shrink = (0.0, 1 - lr * decay) if self.decoupled else (decay, 1.0)
        rate, root = lr / (1 - b1**step), math.sqrt(1 - b2**step)
        return [rate, b1, 1 - b1, b2, 1 - b2, root, group["eps"], added, shrink, group["amsgrad"]]

    def formula(self, p: Array, g: Array, arrays: Sequence[Array], numbers: Numbers) -> None:
        """Do one step."""
        mean, square, largest = arrays
        rate, b1, rest1, b2, rest2, root, eps, weight_decay, shrink, amsgrad = numbers
        if shrink != 1:
            p *= shrink
        if weight_decay:
            g = g + weight_decay * p
        mean *= b1
        mean += rest1 * g
        square *= b2
        square += rest2 * (g * g)
        xp = backend_of(p).xp
        if amsgrad:
            xp.maximum(largest, square, out=largest)
        # Numerator and denominator times `root`: one pass less. Brackets: only two temporaries.
        p -= (rate * root) * (mean / (xp.sqrt(largest) + eps * root))


class AdamW(Adam):
    """Adam with decoupled weight decay: `p *= 1 - lr * weight_decay` before each step.

    Args:
        parameters: tensors, or groups.
        lr: learning rate, `>= 0`.
        betas: b1 and b2, `0 <= b < 1`.
        eps: keeps the division finite.
        weight_decay: `>= 0`.
        amsgrad: see `Adam`.

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
        amsgrad: bool = False,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay, amsgrad)


class RMSprop(Optimizer):
    """RMSprop: `v = alpha * v + (1 - alpha) * g**2`, `p -= lr * g / (sqrt(v) + eps)`.

    `centered` subtracts the square of the gradient's running mean from v. With momentum,
    `b = momentum * b + g / (sqrt(v) + eps)` and `p -= lr * b`.

    Args:
        parameters: tensors, or groups.
        lr: learning rate, `>= 0`.
        alpha: decay factor of the running means.
        eps: keeps the division finite.
        weight_decay: adds `weight_decay * p` to the gradient.
        momentum: `>= 0`.
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
        options = {"alpha": alpha, "eps": eps, "momentum": momentum, "centered": centered}
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, **options)

    kernel = "rmsprop"

    def keeps(self, group: Group) -> Sequence[str]:
        """Keep up to three arrays; the kernel gets `square` in place of those it does not use."""
        mean = "mean" if group["centered"] else "square"
        return ["square", mean, "velocity" if group["momentum"] else "square"]

    def numbers(self, group: Group, step: int, is_first: bool) -> Numbers:
        """Return the options."""
        alpha = group["alpha"]
        options = (group["eps"], group["weight_decay"], group["momentum"], group["centered"])
        return [group["lr"], alpha, 1 - alpha, *options]

    def formula(self, p: Array, g: Array, arrays: Sequence[Array], numbers: Numbers) -> None:
        """Do one step."""
        xp = backend_of(p).xp
        square, mean, velocity = arrays
        lr, alpha, rest, eps, weight_decay, momentum, centered = numbers
        if weight_decay:
            g = g + weight_decay * p
        square *= alpha
        square += rest * (g * g)
        spread = square
        if centered:
            mean *= alpha
            mean += rest * g
            # Rounding can make a variance of 0 negative.
            spread = xp.maximum(square - mean * mean, 0)
        direction = g / (xp.sqrt(spread) + eps)
        if momentum:
            velocity *= momentum
            velocity += direction
            direction = velocity
        p -= lr * direction
