"""The reference networks."""

from minidl.models.cifar10_cnn import cifar10_cnn
from minidl.models.text_cnn import TextCNN

__all__ = ["TextCNN", "cifar10_cnn"]
