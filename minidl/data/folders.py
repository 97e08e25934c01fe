"""Read your own images: a folder with a sub-folder for each class."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minidl.data.classes import number_classes
from minidl.data.images import ImageSet
from minidl.files.regular import open_regular

_SUFFIXES = (".jpeg", ".jpg", ".png")


def load_image_folder(
    folder: str | Path,
    size: int = 224,
    resize: int | None = None,
    *,
    classes: Iterable[str | int] | None = None,
) -> ImageSet:
    """Read JPEG and PNG files as square images of one size; each sub-folder is a class.

    Each image is turned upright according to its EXIF data, and scaled with antialiased bilinear
    interpolation so that its shorter side has `resize` pixels. Then its central square is cut out,
    as networks trained on ImageNet expect. An image of 224 x 224 takes 150 kB of memory.

    All images are converted to RGB: grey and palette images, CMYK (its colour profile is ignored),
    and 16 bits per value (65535 becomes 255). Transparent parts become white.

    Args:
        folder: such as `pets`, with `pets/cat/1.jpg`, `pets/dog/a/2.png`. Hidden files and files
            of other types are skipped.
        size: height and width of the result in pixels, >= 1.
        resize: length of the shorter side in pixels, >= `size`; 8/7 of it if None: 256 for 224.
        classes: names of all classes in the order of their numbers; for a test set, those of the
            training set, `train.classes`. Some may have no sub-folder. If None, the sub-folders,
            sorted by name, or by value if all are integers.

    Returns:
        Images uint8 of shape (n, 3, size, size), in the order of classes and file names.

    Warns:
        UserWarning: without `classes`, a class has a different number than in the first set that
            was read from the same parent folder, such as the training set.

    Raises:
        TypeError: `classes` is a string or a set, which has no order.
        ValueError: `size` or `resize` is out of range, the folder has no sub-folders, a sub-folder
            has no images or is not among `classes`, or a file is not a JPEG or PNG image, is
            damaged, or would take too much memory; the message names it.
        FileNotFoundError: there is no such folder.
        ImportError: Pillow is missing.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        message = f"load_image_folder needs Pillow ({error}): python -m pip install pillow"
        raise ImportError(message) from error
    folder = Path(folder)
    resize = round(size * 8 / 7) if resize is None else resize
    if not 1 <= size <= resize:
        raise ValueError(
            f"load_image_folder: got size={size}, resize={resize}, expected 1 <= size <= resize"
        )
    if not folder.is_dir():
        raise FileNotFoundError(f"load_image_folder: there is no folder {folder}")
    places = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not places:
        raise ValueError(f"load_image_folder: {folder} needs a sub-folder for each class")
    numbers = number_classes(folder, {place.name: str(place) for place in places}, classes)
    images, labels = [], []
    for place in sorted(places, key=lambda place: numbers[place.name]):
        files = files_of(place)
        if not files:
            raise ValueError(f"load_image_folder: {place} holds no {', '.join(_SUFFIXES)} file")
        images += [square("load_image_folder", file, size, resize) for file in files]
        labels += [numbers[place.name]] * len(files)
    return ImageSet(np.stack(images), np.array(labels, np.int64), tuple(numbers))


def files_of(folder: Path, suffixes: tuple[str, ...] = _SUFFIXES) -> list[Path]:
    """Return the files in a folder with one of the endings, sorted, without hidden ones."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)  # as ._1.jpg
        and not path.is_dir()
    )


def square(who: str, file: Path, size: int, resize: int) -> NDArray[np.uint8]:
    """Read an image's central square `(3, size, size)`; errors begin with `who` and the file."""
    from minidl.data.pictures import read_picture  # imported on use: it needs Pillow

    try:
        with open_regular(file) as content, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, such as for damaged EXIF data
            picture = read_picture(content, resize)
    except Exception as error:  # Pillow does not document what a damaged file may raise
        raise ValueError(
            f"{who}: {file} is not a JPEG or PNG image, or is damaged "
            f"({error or type(error).__name__}); fix, shrink or remove it"
        ) from error
    left, top = (round((side - size) / 2) for side in picture.size)
    pixels: NDArray[np.uint8] = np.asarray(picture.crop((left, top, left + size, top + size)))
    return pixels.transpose(2, 0, 1)  # (h, w, 3) -> (3, h, w)
