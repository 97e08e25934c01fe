"""Read your own scenes: a folder of images, and one of masks with the class of each pixel."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.data.folders import files_of, square
from minidl.data.scenes import SceneSet
from minidl.files.regular import open_regular

_WHO = "load_scene_folder"


def load_scene_folder(
    folder: str | Path,
    size: int = 64,
    *,
    classes: Iterable[str] | None = None,
    ignore_index: int = 255,
) -> SceneSet:
    """Read images and their masks, as squares of one size; they belong together by file name.

    Each pair is scaled so that its shorter side has `size` pixels, the image with antialiased
    bilinear interpolation, the mask with the class at each pixel's centre; then the central square
    is cut out of both.

    Args:
        folder: with `images/a.jpg` (or .jpeg, .png; in sub-folders too) and `masks/a.png` for each:
            a PNG of one value per pixel, the class's number, or with a palette, whose indices are
            the numbers; colours do not matter. Hidden files and files of other types are skipped.
        size: height and width of the result in pixels, >= 1.
        classes: names of all classes in the order of their numbers, the background first; if None,
            "background", "class 1", ... up to the largest number found.
        ignore_index: masks may have this number where the class is unknown; see `cross_entropy`.

    Returns:
        Images uint8 `(n, 3, size, size)`, in the order of file names, masks, and no boxes.

    Raises:
        TypeError: `classes` is a string or a set, which has no order.
        ValueError: `size` is out of range; an image has no mask, a mask no image, or two images one
            name; a mask differs from its image in size, is not such a PNG, or has a number that is
            no class's; an image would have to be turned according to its EXIF data; or a file is
            damaged, or would take too much memory. The message names the file.
        FileNotFoundError: there is no such folder, or none of images or masks in it.
        ImportError: Pillow is missing.
    """
    if isinstance(classes, (str, set, frozenset)):
        raise TypeError(f"{_WHO}: got classes={classes!r:.60}, expected a tuple of names")
    if size < 1:
        raise ValueError(f"{_WHO}: got size={size}, expected an integer >= 1")
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        message = f"{_WHO} needs Pillow ({error}): python -m pip install pillow"
        raise ImportError(message) from error
    names = None if classes is None else tuple(map(str, classes))
    pairs = _pairs(Path(folder))
    images, masks = [], []
    for image, mask in pairs:
        images.append(square(_WHO, image, size, size))
        masks.append(_mask(image, mask, size, ignore_index, names))
    if names is None:
        largest = max(int(m[m != ignore_index].max(initial=0)) for m in masks)
        names = ("background", *(f"class {number}" for number in range(1, largest + 1)))
    return SceneSet(np.stack(images), np.stack(masks), (), (), names)


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return each image with its mask, in the order of the images' names."""
    found = []
    for name, suffixes in (("images", (".jpeg", ".jpg", ".png")), ("masks", (".png",))):
        place = folder / name
        if not place.is_dir():
            raise FileNotFoundError(
                f"{_WHO}: there is no folder {place}; expected {folder}/images and {folder}/masks"
            )
        by_name: dict[Path, Path] = {}
        for file in files_of(place, suffixes):
            key = file.relative_to(place).with_suffix("")
            if key in by_name:
                raise ValueError(f"{_WHO}: {by_name[key]} and {file} have one name; rename one")
            by_name[key] = file
        found.append(by_name)
    images, masks = found
    if not images:
        raise ValueError(f"{_WHO}: {folder}/images holds no .jpeg, .jpg, .png file")
    for own, others, kind in ((images, masks, "mask"), (masks, images, "image")):
        for key in own.keys() - others.keys():
            where = folder / f"{kind}s" / key
            raise ValueError(
                f"{_WHO}: {own[key]} has no {kind}; expected {where}.png, or remove it"
            )
    return [(images[key], masks[key]) for key in sorted(images)]


def _mask(
    image: Path, mask: Path, size: int, ignored: int, names: tuple[str, ...] | None
) -> NDArray[np.uint8]:
    from minidl.data.pictures import orientation_of, read_indices  # they need Pillow

    try:
        with open_regular(mask) as content, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's
            numbers = read_indices(content)
        with open_regular(image) as content:
            (width, height), is_turned = orientation_of(content)
    except Exception as error:  # Pillow does not document what a damaged file may raise
        raise ValueError(
            f"{_WHO}: {mask} is not a PNG of class numbers, or is damaged "
            f"({error or type(error).__name__})"
        ) from error
    if is_turned:
        raise ValueError(
            f"{_WHO}: the EXIF data of {image} say how to turn it, which masks do not; save it "
            "upright, without these data"
        )
    if numbers.shape != (height, width):
        raise ValueError(
            f"{_WHO}: got an image of {width} x {height} pixels and a mask of {numbers.shape[1]} x "
            f"{numbers.shape[0]}, expected the same size: {image}, {mask}"
        )
    limit = min(256, len(names)) if names else 256
    wrong = numbers[(numbers >= limit) & (numbers != ignored)]
    if wrong.size:
        raise ValueError(
            f"{_WHO}: got the number {wrong[0]} in {mask}, expected 0 to {limit - 1}, or "
            f"{ignored} for pixels to ignore; a palette's numbers are its indices"
        )
    classes: NDArray[np.uint8] = numbers[_centres(height, width, size)].astype(np.uint8)
    return classes


def _centres(height: int, width: int, size: int) -> Any:
    """Return the indices of the central square's pixels, as `read_picture` scales and cuts it."""
    shorter = min(height, width)
    found = []
    for side in (height, width):
        middle = min(side, 2 * shorter + side % 2)
        scaled = size * middle // shorter
        places = np.arange(size) + round((scaled - size) / 2)
        found.append((side - middle) // 2 + ((places + 0.5) * middle / scaled).astype(np.int64))
    return np.ix_(*found)
