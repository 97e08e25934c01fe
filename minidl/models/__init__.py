"""The reference networks."""

from minidl.models.cifar10_cnn import cifar10_cnn
from minidl.models.resnet import (
    CifarResNet,
    ResNet,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet44,
    resnet50,
    resnet56,
)

__all__ = [
    "CifarResNet",
    "ResNet",
    "cifar10_cnn",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
]
