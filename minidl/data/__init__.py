"""Data: CIFAR-10, sentences, the embedded toy sets, batches."""

from minidl.data.cifar10 import load_cifar10
from minidl.data.download import download
from minidl.data.images import ImageSet, datasets_folder
from minidl.data.loader import DataLoader, Normalize
from minidl.data.reviews import TextSet, load_mr, read_lines, read_table
from minidl.data.text import BucketLoader, Vocabulary, tokenize
from minidl.data.toy10 import load_toy10
from minidl.data.toy_reviews import load_toy_reviews

__all__ = [
    "BucketLoader",
    "DataLoader",
    "ImageSet",
    "Normalize",
    "TextSet",
    "Vocabulary",
    "datasets_folder",
    "download",
    "load_cifar10",
    "load_mr",
    "load_toy10",
    "load_toy_reviews",
    "read_lines",
    "read_table",
    "tokenize",
]
