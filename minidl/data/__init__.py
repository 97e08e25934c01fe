"""Data: CIFAR-10, sentences, the embedded toy sets, folders of pictures, batches, augmentation."""

from minidl.data.augment import Compose, Cutout, RandomCrop, RandomHorizontalFlip
from minidl.data.cifar10 import load_cifar10
from minidl.data.download import download
from minidl.data.folders import load_image_folder
from minidl.data.images import ImageSet, datasets_folder
from minidl.data.loader import DataLoader, Normalize
from minidl.data.reviews import TextSet, load_mr, read_lines, read_table
from minidl.data.text import BucketLoader, Vocabulary, tokenize
from minidl.data.toy10 import load_toy10
from minidl.data.toy_reviews import load_toy_reviews

__all__ = [
    "BucketLoader",
    "Compose",
    "Cutout",
    "DataLoader",
    "ImageSet",
    "Normalize",
    "RandomCrop",
    "RandomHorizontalFlip",
    "TextSet",
    "Vocabulary",
    "datasets_folder",
    "download",
    "load_cifar10",
    "load_image_folder",
    "load_mr",
    "load_toy10",
    "load_toy_reviews",
    "read_lines",
    "read_table",
    "tokenize",
]
