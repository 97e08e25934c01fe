"""Losses as modules, each named after the function of `functional` that it calls."""

from __future__ import annotations

from typing import Any

from minidl import functional as F
from minidl.checks import check_fraction
from minidl.functional.loss import Reduction, check_reduction
from minidl.nn.module import Buffer, Module
from minidl.tensor import Operand, Tensor


def loss_buffer(weight: Any) -> Buffer | None:
    """Return weights as a Buffer, so that `Module.to` moves them."""
    return None if weight is None else Buffer(weight)


class Loss(Module):
    """Base of the losses: how the values of a batch are reduced to one."""

    def __init__(self, reduction: Reduction = "mean") -> None:
        check_reduction(type(self).__name__, reduction)
        self.reduction = reduction


class CrossEntropyLoss(Loss):
    """Apply `functional.cross_entropy` to logits and class indices or probabilities."""

    def __init__(
        self,
        weight: Operand = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction)
        check_fraction("CrossEntropyLoss", "label_smoothing", label_smoothing)
        self.weight, self.ignore_index = loss_buffer(weight), ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, target: Operand) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(
            logits, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )


class NLLLoss(Loss):
    """Apply `functional.nll_loss` to log-probabilities and class indices."""

    def __init__(
        self, weight: Operand = None, ignore_index: int = -100, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction)
        self.weight, self.ignore_index = loss_buffer(weight), ignore_index

    def forward(self, log_probabilities: Tensor, target: Operand) -> Tensor:
        """Return the loss."""
        return F.nll_loss(log_probabilities, target, self.weight, self.ignore_index, self.reduction)


class MSELoss(Loss):
    """Apply `functional.mse_loss`."""

    def forward(self, x: Tensor, target: Operand) -> Tensor:
        """Return the loss."""
        return F.mse_loss(x, target, self.reduction)


class L1Loss(Loss):
    """Apply `functional.l1_loss`."""

    def forward(self, x: Tensor, target: Operand) -> Tensor:
        """Return the loss."""
        return F.l1_loss(x, target, self.reduction)


class BCEWithLogitsLoss(Loss):
    """Apply `functional.binary_cross_entropy_with_logits`."""

    def __init__(
        self, weight: Operand = None, pos_weight: Operand = None, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction)
        self.weight, self.pos_weight = loss_buffer(weight), loss_buffer(pos_weight)

    def forward(self, logits: Tensor, target: Operand) -> Tensor:
        """Return the loss."""
        return F.binary_cross_entropy_with_logits(
            logits, target, self.weight, self.pos_weight, self.reduction
        )
