"""Data: CIFAR-10, the embedded toy images, folders of pictures, batches."""

from minidl.data.cifar10 import load_cifar10
from minidl.data.download import download
from minidl.data.folders import load_image_folder
from minidl.data.images import ImageSet, datasets_folder
from minidl.data.loader import DataLoader, Normalize
from minidl.data.toy10 import load_toy10

__all__ = [
    "DataLoader",
    "ImageSet",
    "Normalize",
    "datasets_folder",
    "download",
    "load_cifar10",
    "load_image_folder",
    "load_toy10",
]
