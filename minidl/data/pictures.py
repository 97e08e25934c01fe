"""Read an untrusted JPEG or PNG file in little memory."""

from __future__ import annotations

import math
import os
import re
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from minidl.files.budget import Budget

_BILINEAR = Image.Resampling.BILINEAR
_TURNS = dict(zip(range(2, 9), map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), strict=True))
"""How to turn each EXIF orientation upright; those >= 5 swap width and height."""
_DEPTHS = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}  # bytes per pixel in Pillow; else 4
_BAND = 1 << 18  # pixels converted at once
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # JPEG markers that are followed by a length
_MOST_SEGMENTS, _MOST_SCANS = 1000, 100  # in a JPEG; 20 and 10 are usual


def read_picture(file: BinaryIO, resize: int) -> Image.Image:
    """Return an image in RGB, upright, with its shorter side scaled to `resize` pixels.

    If one side is more than twice as long as the other, only the middle is returned. An image that
    would take too much memory is first reduced by an integer factor where possible: a JPEG while it
    is decoded; palettes, transparency, CMYK and 16 bits while they are converted to RGB.

    Raises:
        ValueError: decoding would take more memory than `Budget` allows.
        Exception: the file is damaged; Pillow does not document which error it raises.
    """
    budget = Budget(os.fstat(file.fileno()).st_size)
    # Not Image.open: it would try other formats, and it limits pixels, not memory.
    is_jpeg = file.read(3) == b"\xff\xd8\xff"
    picture = _open_jpeg(file, resize, budget) if is_jpeg else _open_png(file, budget)
    memory = _memory(*picture.size, picture.mode, resize)
    budget.make(memory, f"an image of {picture.width} x {picture.height} pixels, {picture.mode}")
    shorter = min(picture.size)
    width, height = (min(n, 2 * shorter + n % 2) for n in picture.size)  # keeps the middle
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    box: tuple[int, int, int, int] | None = (left, top, left + width, top + height)
    orientation = picture.getexif().get(0x0112)
    part: Image.Image = picture
    if picture.mode not in ("L", "RGB") or "transparency" in picture.info:
        factor = math.ceil(2 * math.sqrt(width * height / max(1, budget.left)))
        factor = max(1, min(factor, shorter // (2 * resize)))
        budget.make(4 * width * height // factor**2, f"{width} x {height} pixels in RGB")
        part, box = _converted(picture, left, top, width, height, factor), None
        width, height = part.size
    wide, high = (resize * n // min(width, height) for n in (width, height))
    if orientation in range(5, 9):  # scale first what becomes rows in the upright image
        part, box = part.resize((width, high), _BILINEAR, box), None
    part = part.resize((wide, high), _BILINEAR, box).convert("RGB")
    return part.transpose(_TURNS[orientation]) if orientation in _TURNS else part


def read_indices(file: BinaryIO) -> np.ndarray[Any, Any]:
    """Return the values `(h, w)` of a PNG with one value per pixel, or its palette's indices.

    Raises:
        ValueError: it has several values per pixel, or would take more memory than `Budget` allows.
        Exception: the file is damaged; Pillow does not document which error it raises.
    """
    budget = Budget(os.fstat(file.fileno()).st_size)
    picture = _open_png(file, budget)
    if picture.mode not in _DEPTHS:
        raise ValueError(f"got the mode {picture.mode}, expected one value or index per pixel")
    budget.make(9 * picture.width * picture.height, "a mask of so many pixels")
    scale = {"L;2": 85, "L;4": 17}.get(str(picture.tile[0][3]), 1)  # Pillow stretches few bits
    return np.asarray(picture).astype(np.int64) // scale


def orientation_of(file: BinaryIO) -> tuple[tuple[int, int], bool]:
    """Return width and height of a JPEG or PNG file, and whether EXIF data say to turn it."""
    with Image.open(file, formats=("JPEG", "PNG")) as picture:
        return picture.size, picture.getexif().get(0x0112) in _TURNS


def _memory(width: int, height: int, mode: str, resize: int) -> int:
    """Estimate the bytes that Pillow takes to decode an image, convert a band and scale it."""
    row = -(-width * _DEPTHS.get(mode, 4) // 4) * 4 + 8  # with a pointer to the row
    long = min(max(width, height), 2 * min(width, height))
    return height * row + 8 * resize * long + 16 * _BAND


def _open_png(file: BinaryIO, budget: Budget) -> ImageFile.ImageFile:
    """Open a PNG after counting the memory that Pillow takes for its chunks."""
    file.seek(0)
    if file.read(8) != b"\x89PNG\r\n\x1a\n":
        raise ValueError("it does not begin as JPEG and PNG files do")
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[:4], "big")
        if length > budget.size:  # Pillow would allocate as much
            raise ValueError(f"a chunk claims {length:,} bytes in a file of {budget.size:,}")
        budget.make_objects(8, "a PNG with more chunks than an image needs")
        if head[4:] in (b"zTXt", b"iTXt", b"iCCP"):  # Pillow reads up to 1 MB of each
            budget.make(4 * min(1 << 20, 1032 * length), "a PNG with compressed text")
        file.seek(length + 4, os.SEEK_CUR)
    file.seek(0)
    return PngImageFile(file)


def _open_jpeg(file: BinaryIO, resize: int, budget: Budget) -> ImageFile.ImageFile:
    """Open a JPEG; if it takes too much memory, decode it at 1/2, 1/4 or 1/8 of its size."""
    file.seek(0)
    progressive = _check_segments(file.read())
    file.seek(0)
    picture = JpegImageFile(file)
    if progressive:  # libjpeg keeps 16 bits for each coefficient of the full size
        areas = [wide * high for _, wide, high, _ in picture.layer]
        budget.make(
            2 * math.prod(picture.size) * sum(areas) // max(areas),
            f"a progressive JPEG of {picture.width} x {picture.height} pixels",
        )
    width, height = picture.size
    for scale in (1, 2, 4, 8):
        fits = _memory(width // scale, height // scale, picture.mode, resize) <= budget.left
        if fits or min(width, height) // (2 * scale) < resize:
            break
    picture.draft(None, (max(1, width // scale), max(1, height // scale)))
    return picture


def _check_segments(content: bytes) -> bool:
    """Return whether a JPEG has several scans; raise ValueError if they would take too long."""
    at, segments, scans, progressive, layers = 2, 0, 0, False, 0
    while (found := _MARKER.search(content, at)) and (kind := content[found.end() - 1]) != 0xD9:
        body = found.end() + 2
        segments += 1 if scans else found.end() - 1 - at  # Pillow reads padding byte by byte
        at = found.end() + int.from_bytes(content[found.end() : body], "big")
        scans += kind == 0xDA
        if segments > _MOST_SEGMENTS or scans > _MOST_SCANS:
            raise ValueError(
                f"got a JPEG with more than {_MOST_SEGMENTS} segments or {_MOST_SCANS} scans"
            )
        if kind in range(0xC0, 0xD0) and kind not in (0xC4, 0xC8, 0xCC):
            progressive, layers = progressive or kind & 3 == 2, content[body + 5]
        elif kind == 0xDA:
            progressive = progressive or content[body] < layers
            if not progressive:
                break
    return progressive


def _converted(
    picture: Image.Image, left: int, top: int, width: int, height: int, factor: int
) -> Image.Image:
    """Convert a part of an image to RGB on white, and reduce it by a factor, in bands."""
    result = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = factor * max(1, _BAND // (factor * width))
    for start in range(0, height, rows):
        end = min(start + rows, height)
        band = picture.crop((left, top + start, left + width, top + end))
        result.paste(_rgb(band).reduce(factor), (0, start // factor))
    return result


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits per value: `convert` would clip them at 255
        values = np.asarray(picture)
        values = np.where(values == picture.info.get("transparency"), 65535, values)
        picture = Image.fromarray(np.rint(values / np.float32(257)).astype(np.uint8))
    elif "transparency" in picture.info or "A" in picture.getbands():
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("RGB")
