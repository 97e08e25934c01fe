"""Images that are large, long, rotated, or made to fill the memory."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from minidl.data import load_image_folder
from minidl.data.pictures import read_picture
from minidl.files import budget


def placed(folder, content, name="x.png"):
    (folder / "a").mkdir(exist_ok=True)
    if isinstance(content, Image.Image):
        content.save(folder / "a" / name)
    else:
        (folder / "a" / name).write_bytes(content)
    return folder


def png(width, height, scanlines, *extra, bits=8, kind=2):
    """Return a PNG of any header, with extra chunks before its pixels."""
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, data in ((b"IHDR", head), *extra, (b"IDAT", scanlines), (b"IEND", b"")):
        body = name + data
        parts += [struct.pack(">I", len(data)), body, struct.pack(">I", zlib.crc32(body))]
    return b"".join(parts)


def jpeg(image, **options):
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def smooth(height, width):
    """Return an image whose colours hardly change from one pixel to the next."""
    y, x = np.mgrid[0:height, 0:width]
    planes = (255 * x / width, 255 * y / height, 255 * (x + y) / (width + height))
    return Image.fromarray(np.stack(planes, 2).astype(np.uint8))


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000), (4_001, 2), (3, 5_000)])
def test_only_the_middle_of_a_strip_is_scaled(size, tmp_path, monkeypatch):
    made = []
    resize = Image.Image.resize

    def recorded(self, size, *rest):
        made.append(size)
        return resize(self, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    image = Image.new("RGB", size, "red")
    middle = np.array(size) // 2
    image.paste("blue", (*(middle - 9).tolist(), *(middle + 9).tolist()))
    found = load_image_folder(placed(tmp_path, image)).images
    np.testing.assert_array_equal(found[0].max((1, 2)), [0, 0, 255])
    assert max(wide * high for wide, high in made) <= 256 * 256 * 3


def test_the_middle_of_a_strip_is_where_it_was_in_the_whole(tmp_path):
    pixels = np.zeros((8, 101, 3), np.uint8)
    pixels[:, 47:54] = 255  # symmetric about column 50
    found = load_image_folder(placed(tmp_path, Image.fromarray(pixels)), 64, 64).images[0]
    np.testing.assert_array_equal(found, found[:, :, ::-1])


@pytest.mark.parametrize(
    ("bits", "kind"), [(1, 0), (8, 0), (8, 2), (16, 2), (8, 3), (16, 4), (8, 6)]
)
def test_pixels_are_counted_before_they_are_decoded(bits, kind, tmp_path):
    content = png(13_000, 13_000, zlib.compress(b""), bits=bits, kind=kind)
    with pytest.raises(
        ValueError,
        match=r"x\.png .*got an image of 13000 x 13000 pixels.* at most [\d,]+ bytes.*shrink",
    ):
        load_image_folder(placed(tmp_path, content))


def test_rows_are_counted_though_they_have_few_pixels(tmp_path):
    content = png(1, 20_000_000, zlib.compress(b""), kind=0)
    with pytest.raises(ValueError, match="got an image of 1 x 20000000 pixels"):
        load_image_folder(placed(tmp_path, content))


@pytest.mark.parametrize(
    ("chunk", "count", "message"),
    [
        ((b"prVt", b""), 100_000, "more chunks than an image needs"),
        ((b"tEXt", b"name\0x"), 100_000, "more chunks than an image needs"),
        ((b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"a" * 10**6)), 20, "compressed text"),
        ((b"zTXt", b"a\0\0" + zlib.compress(b"a" * 10**6)), 20, "compressed text"),
    ],
)
def test_texts_and_other_chunks_are_limited(chunk, count, message, tmp_path):
    content = png(2, 2, zlib.compress(b"\0" * 14), *[chunk] * count)
    with pytest.raises(ValueError, match=message):
        load_image_folder(placed(tmp_path, content))
    few = png(2, 2, zlib.compress(b"\0" * 14), *[chunk] * 3)
    assert load_image_folder(placed(tmp_path, few)).images.max() == 0


def test_a_chunk_is_no_longer_than_its_file(tmp_path):
    content = png(2, 2, zlib.compress(bytes(14)))
    at = content.index(b"IDAT") - 4
    content = content[:at] + struct.pack(">I", 1 << 29) + content[at + 4 :]
    with pytest.raises(ValueError, match="a chunk claims 536,870,912 bytes in a file of"):
        load_image_folder(placed(tmp_path, content), 8)


def test_padding_between_segments_is_limited(tmp_path):
    content = jpeg(smooth(20, 20))
    for count in (900, 1100):
        placed(tmp_path, content[:2] + b"\xff" * count + content[2:], "x.jpg")
        limited = pytest.raises(ValueError, match=r"more than 1000 segments")
        with limited if count > 1000 else contextlib.nullcontext():
            load_image_folder(tmp_path, 8)


def test_other_files_are_refused_before_their_chunks_are_counted(tmp_path):
    with (placed(tmp_path, b"") / "a" / "x.png").open("wb") as file:
        file.truncate(1 << 32)
    with pytest.raises(ValueError, match="does not begin as JPEG and PNG files do"):
        load_image_folder(tmp_path, 8)


def test_damaged_exif_data_neither_warn_nor_refuse_an_image(tmp_path):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03"
    content = jpeg(smooth(20, 20))
    content = content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert load_image_folder(placed(tmp_path, content, "x.jpg"), 8).images.any()
    assert not heard


def test_segments_and_scans_of_a_jpeg_are_limited(tmp_path):
    content = jpeg(smooth(40, 40), progressive=True)
    exif = b"\xff\xe1\x00\x08Exif\0\0" * 1001
    with pytest.raises(ValueError, match="got a JPEG with more than 1000 segments or 100 scans"):
        load_image_folder(placed(tmp_path, content[:2] + exif + content[2:], "x.jpg"))
    last = content.rindex(b"\xff\xda")
    scans = content[:-2] + content[last:-2] * 100 + content[-2:]
    with pytest.raises(ValueError, match="more than 1000 segments or 100 scans"):
        load_image_folder(placed(tmp_path, scans, "x.jpg"))


# With less room, images of ordinary size are too large --------------------------------------------


def read(content, resize=64):
    path = os.path.join(os.environ["PYTEST_FOLDER"], "x")
    with open(path, "wb") as file:
        file.write(content)
    with open(path, "rb") as file:
        return np.asarray(read_picture(file, resize)).astype(int)


@pytest.fixture
def little_room(tmp_path, monkeypatch):
    """Return a function that leaves a reader so many bytes."""
    monkeypatch.setenv("PYTEST_FOLDER", str(tmp_path))
    return lambda room: monkeypatch.setattr(budget, "ROOM", room)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_large_jpeg_is_decoded_at_a_fraction(mode, little_room):
    content = jpeg(smooth(1200, 1600).convert(mode), quality=95)
    exact = read(content)
    assert exact.shape == (64, 85, 3)
    for room in (5 << 20, 6 << 20, 9 << 20):
        little_room(room)
        np.testing.assert_allclose(read(content), exact, atol=4)
    little_room(1 << 20)
    with pytest.raises(ValueError, match=r"got an image of 200 x 150 pixels, .* at most"):
        read(content)


def test_the_coefficients_of_progressive_and_split_jpegs_are_counted(little_room):
    little_room(5 << 20)
    image = smooth(1200, 1600)
    read(jpeg(image))
    with pytest.raises(ValueError, match="got a progressive JPEG of 1600 x 1200 pixels"):
        read(jpeg(image, progressive=True))
    split = bytearray(jpeg(image))
    at = split.rindex(b"\xff\xda")  # a scan of one component instead of three
    split[at + 2 : at + 14] = b"\0\x08\1\1\0\0\x3f\0"
    with pytest.raises(ValueError, match="got a progressive JPEG of 1600 x 1200 pixels"):
        read(bytes(split))


def alpha():
    image = smooth(1200, 1600)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


LARGE = {
    "palette": lambda: smooth(1200, 1600).quantize(64),
    "alpha": alpha,
    "grey and alpha": lambda: alpha().convert("LA"),
    "16 bits": lambda: Image.fromarray(np.asarray(smooth(1200, 1600))[..., 0].astype("u2") * 257),
    "1 bit": lambda: smooth(1200, 1600).convert("1"),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_png_is_reduced_while_it_is_converted(kind, little_room):
    out = io.BytesIO()
    LARGE[kind]().save(out, "PNG")
    exact = read(out.getvalue())
    needed = 0 if "alpha" in kind else 4 << 20
    little_room((13 << 20) - needed - 3 * len(out.getvalue()))
    np.testing.assert_allclose(read(out.getvalue()), exact, atol=16 if kind == "1 bit" else 3)


@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_a_fifo_is_refused_and_a_folder_with_the_name_of_an_image_is_a_folder(name, tmp_path):
    placed(tmp_path, smooth(8, 8), "y.png")
    (tmp_path / "a" / name).mkdir()
    smooth(8, 8).save(tmp_path / "a" / name / "z.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert len(load_image_folder(tmp_path, 4).images) == 2
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "a" / ("b" + name))
        with pytest.raises(ValueError, match=rf"b{name} .*got a FIFO, expected a regular file"):
            load_image_folder(tmp_path, 4)


def test_links_that_lead_nowhere_are_named(tmp_path):
    placed(tmp_path, smooth(8, 8), "y.png")
    for name, target in (("gone.png", "nothing"), ("self.png", "self.png")):
        (tmp_path / "a" / name).symlink_to(target)
        with pytest.raises(ValueError, match=name):
            load_image_folder(tmp_path, 4)
        (tmp_path / "a" / name).unlink()
