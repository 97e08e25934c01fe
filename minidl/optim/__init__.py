"""Update rules that train parameters, schedules of learning rates, and gradient clipping."""

from typing import TYPE_CHECKING

from minidl.idioms import unknown
from minidl.optim.optimizer import Optimizer as Optimizer
from minidl.optim.optimizer import clip_grad_norm_ as clip_grad_norm_
from minidl.optim.rules import SGD as SGD
from minidl.optim.rules import Adam as Adam
from minidl.optim.rules import AdamW as AdamW
from minidl.optim.rules import RMSprop as RMSprop
from minidl.optim.schedules import CosineAnnealingLR as CosineAnnealingLR
from minidl.optim.schedules import LinearLR as LinearLR
from minidl.optim.schedules import MultiStepLR as MultiStepLR
from minidl.optim.schedules import OneCycleLR as OneCycleLR
from minidl.optim.schedules import Schedule as Schedule
from minidl.optim.schedules import SequentialLR as SequentialLR
from minidl.optim.schedules import StepLR as StepLR

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        raise unknown("minidl.optim", name)
