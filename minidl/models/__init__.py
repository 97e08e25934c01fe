"""The reference networks."""

from minidl.models.cifar10_cnn import cifar10_cnn

__all__ = ["cifar10_cnn"]
