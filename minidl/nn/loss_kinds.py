"""More losses as modules, each named after the function of `functional` that it calls."""

from __future__ import annotations

from minidl import functional as F
from minidl.functional.loss import Reduction
from minidl.nn.loss import Loss, loss_buffer
from minidl.tensor import Operand, Tensor


class SmoothL1Loss(Loss):
    """Apply `functional.smooth_l1_loss`."""

    def __init__(self, reduction: Reduction = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = beta

    def forward(self, x: Tensor, target: Operand) -> Tensor:
        """Return the loss."""
        return F.smooth_l1_loss(x, target, self.reduction, self.beta)


class HuberLoss(Loss):
    """Apply `functional.huber_loss`."""

    def __init__(self, reduction: Reduction = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = delta

    def forward(self, x: Tensor, target: Operand) -> Tensor:
        """Return the loss."""
        return F.huber_loss(x, target, self.reduction, self.delta)


class SigmoidFocalLoss(Loss):
    """Apply `functional.sigmoid_focal_loss`; unlike it, return the mean by default."""

    def __init__(
        self, alpha: float = 0.25, gamma: float = 2.0, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction)
        self.alpha, self.gamma = alpha, gamma

    def forward(self, logits: Tensor, target: Operand) -> Tensor:
        """Return the loss."""
        return F.sigmoid_focal_loss(logits, target, self.alpha, self.gamma, self.reduction)


class FocalLoss(Loss):
    """Apply `functional.focal_loss` to logits and class indices."""

    def __init__(
        self,
        weight: Operand = None,
        gamma: float = 2.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction)
        self.weight, self.gamma = loss_buffer(weight), gamma
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Operand) -> Tensor:
        """Return the loss."""
        return F.focal_loss(
            logits, target, self.weight, self.gamma, self.ignore_index, self.reduction
        )


class DiceLoss(Loss):
    """Apply `functional.dice_loss` to logits and class indices."""

    def __init__(
        self, ignore_index: int = -100, smooth: float = 1.0, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction)
        self.ignore_index, self.smooth = ignore_index, smooth

    def forward(self, logits: Tensor, target: Operand) -> Tensor:
        """Return the loss."""
        return F.dice_loss(logits, target, self.ignore_index, self.smooth, self.reduction)
