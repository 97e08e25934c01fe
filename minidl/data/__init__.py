"""Data: CIFAR-10, the embedded toy images, folders of pictures, batches, augmentation."""

from minidl.data.augment import Compose, Cutout, RandomCrop, RandomHorizontalFlip
from minidl.data.cifar10 import load_cifar10
from minidl.data.download import download
from minidl.data.folders import load_image_folder
from minidl.data.images import ImageSet, datasets_folder
from minidl.data.loader import DataLoader, Normalize
from minidl.data.toy10 import load_toy10

__all__ = [
    "Compose",
    "Cutout",
    "DataLoader",
    "ImageSet",
    "Normalize",
    "RandomCrop",
    "RandomHorizontalFlip",
    "datasets_folder",
    "download",
    "load_cifar10",
    "load_image_folder",
    "load_toy10",
]
