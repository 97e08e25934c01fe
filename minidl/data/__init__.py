"""Data: CIFAR-10, sentences, the embedded toy sets, image folders, batches, augmentation."""

from typing import TYPE_CHECKING

from minidl.data.augment import Compose as Compose
from minidl.data.augment import Cutout as Cutout
from minidl.data.augment import RandomCrop as RandomCrop
from minidl.data.augment import RandomHorizontalFlip as RandomHorizontalFlip
from minidl.data.cifar10 import load_cifar10 as load_cifar10
from minidl.data.folders import load_image_folder as load_image_folder
from minidl.data.images import ImageSet as ImageSet
from minidl.data.images import datasets_folder as datasets_folder
from minidl.data.loader import DataLoader as DataLoader
from minidl.data.loader import Normalize as Normalize
from minidl.data.masks import load_scene_folder as load_scene_folder
from minidl.data.reviews import TextSet as TextSet
from minidl.data.reviews import load_mr as load_mr
from minidl.data.reviews import read_lines as read_lines
from minidl.data.reviews import read_table as read_table
from minidl.data.scenes import SceneSet as SceneSet
from minidl.data.text import BucketLoader as BucketLoader
from minidl.data.text import Vocabulary as Vocabulary
from minidl.data.text import tokenize as tokenize
from minidl.data.toy10 import load_toy10 as load_toy10
from minidl.data.toy_reviews import load_toy_reviews as load_toy_reviews
from minidl.data.toy_scenes import load_toy_scenes as load_toy_scenes
from minidl.files.download import download as download
from minidl.idioms import unknown

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        raise unknown("minidl.data", name)
