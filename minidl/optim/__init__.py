"""Update rules that train parameters, schedules of learning rates, and gradient clipping."""

from minidl.optim.optimizer import Optimizer, clip_grad_norm_
from minidl.optim.rules import SGD, Adam, AdamW, RMSprop
from minidl.optim.schedules import (
    CosineAnnealingLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    Schedule,
    SequentialLR,
    StepLR,
)

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "Optimizer",
    "RMSprop",
    "Schedule",
    "SequentialLR",
    "StepLR",
    "clip_grad_norm_",
]
