"""Update rules that train parameters, and gradient clipping."""

from minidl.optim.optimizer import Optimizer, clip_grad_norm_
from minidl.optim.rules import SGD, Adam, AdamW, RMSprop

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_grad_norm_"]
