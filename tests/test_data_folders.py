"""Folders of images: layout, cropping, errors, and every kind of JPEG and PNG."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from minidl.data import load_image_folder


def save(path, pixels):
    """Write uint8 pixels (h, w, 3) or (h, w)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


def plain(height, width, colour):
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3))


def test_sub_folders_are_classes_in_the_order_of_their_names(tmp_path):
    save(tmp_path / "dog" / "b.png", plain(20, 30, (1, 2, 3)))
    save(tmp_path / "dog" / "a" / "1.PNG", plain(30, 20, (4, 5, 6)))
    save(tmp_path / "cat" / "x.jpg", plain(16, 16, (90, 90, 90)))
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "cat" / "._x.jpg").write_bytes(b"what macOS keeps beside x.jpg")
    for hidden in (tmp_path / ".hidden", tmp_path / "cat" / ".thumbnails"):
        save(hidden / "x.png", plain(9, 9, (0, 0, 0)))
    found = load_image_folder(tmp_path, 8)
    assert found.classes == ("cat", "dog")
    assert found.labels.tolist() == [0, 1, 1]
    assert (found.images.dtype, found.images.shape) == (np.uint8, (3, 3, 8, 8))
    np.testing.assert_array_equal(found.images[:, :, 3, 3], [[90] * 3, [4, 5, 6], [1, 2, 3]])


def test_the_middle_is_cut_out_after_scaling(tmp_path):
    pixels = np.zeros((10, 40, 3), np.uint8)
    pixels[:, 15:25] = np.arange(10)[:, None, None] * 20  # the square in the middle
    save(tmp_path / "a" / "x.png", pixels)
    whole = load_image_folder(tmp_path, 10, 10).images[0]
    np.testing.assert_array_equal(whole, pixels[:, 15:25].transpose(2, 0, 1))
    cut = load_image_folder(tmp_path, 6, 10).images[0]
    np.testing.assert_array_equal(cut, whole[:, 2:8, 2:8])
    larger = load_image_folder(tmp_path, 20, 20).images[0]
    assert larger.shape == (3, 20, 20)
    assert np.all(np.diff(larger[0, :, 10].astype(int)) >= 0)


GREYS = np.linspace(0, 255, 16).round().astype(np.uint8).reshape(4, 4)
COLOURS = np.stack([GREYS, GREYS[::-1], GREYS.T], 2)
IN_GREY = np.stack([GREYS] * 3, 2)


def placed(folder, image, name="x.png", **options):
    """Save an image as the only image of a folder's only class."""
    (folder / "a").mkdir()
    image.save(folder / "a" / name, **options)
    return folder


def pixels_of(folder):
    """Read the only image of a folder, of 4 x 4 pixels, as (h, w, 3)."""
    return load_image_folder(folder, 4, 4).images[0].transpose(1, 2, 0)


def png(bits, kind, rows, **chunks):
    """Return the bytes of a PNG of any depth and colour type; Pillow cannot write all of them."""
    head = struct.pack(">IIBBBBB", 4, 4, bits, kind, 0, 0, 0)
    scanlines = b"".join(b"\0" + row.tobytes() for row in rows)  # 0: no filter
    parts = {"IHDR": head, **chunks, "IDAT": zlib.compress(scanlines), "IEND": b""}
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in parts.items():
        body = name.encode() + data
        content += struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    return content


@pytest.mark.parametrize(
    ("mode", "name", "wanted"),
    [
        ("1", "x.png", IN_GREY // 128 * 255),
        ("L", "x.png", IN_GREY),
        ("LA", "x.png", IN_GREY),
        ("P", "x.png", IN_GREY),
        ("RGB", "x.png", COLOURS),
        ("RGBA", "x.png", COLOURS),
        ("1", "x.jpg", IN_GREY // 128 * 255),
        ("L", "x.jpg", IN_GREY),
        ("RGB", "x.jpg", COLOURS),
        ("RGBX", "x.jpg", COLOURS),
        ("YCbCr", "x.jpg", COLOURS),
        ("CMYK", "x.jpg", COLOURS),
    ],
)
def test_every_mode_of_jpeg_and_png_becomes_red_green_and_blue(mode, name, wanted, tmp_path):
    image = Image.fromarray(wanted if mode not in ("L", "LA", "P", "1") else wanted[..., 0])
    image = image.convert(mode, dither=Image.Dither.NONE)
    placed(tmp_path, image, name, **({"quality": 100, "subsampling": 0} if "jpg" in name else {}))
    loss = 6 if name == "x.jpg" else 0  # of JPEG's compression
    np.testing.assert_allclose(pixels_of(tmp_path), wanted, atol=loss)


def test_the_ink_of_cmyk_is_subtracted_from_white(tmp_path):
    for name, ink in {"a": (255, 0, 0, 0), "b": (0, 0, 0, 255), "c": (0, 128, 0, 128)}.items():
        (tmp_path / "x").mkdir(exist_ok=True)
        Image.new("CMYK", (8, 8), ink).save(tmp_path / "x" / f"{name}.jpg", quality=100)
    found = load_image_folder(tmp_path, 4, 4).images[:, :, 2, 2]
    np.testing.assert_allclose(found, [[0, 255, 255], [0, 0, 0], [127, 63, 127]], atol=2)


@pytest.mark.parametrize("mode", ["F", "I", "I;16B", "LAB", "PA", "CMYK"])
def test_other_formats_are_refused_whatever_their_name(mode, tmp_path):
    (tmp_path / "a").mkdir()
    with (tmp_path / "a" / "x.png").open("wb") as file:
        Image.new(mode, (4, 4)).save(file, "TIFF")
    with pytest.raises(ValueError, match=r"x\.png is not a JPEG or PNG image, or is damaged"):
        load_image_folder(tmp_path)


def test_a_phone_s_jpeg_of_two_images_is_its_first(tmp_path):
    first, second = (Image.new("RGB", (4, 4), grey) for grey in ("white", "black"))
    placed(tmp_path, first, "x.jpg", format="MPO", save_all=True, append_images=[second])
    assert pixels_of(tmp_path).min() == 255


def test_no_program_is_started_for_an_image(tmp_path, monkeypatch):
    def start(*_, **__):
        raise AssertionError("started a program")

    monkeypatch.setattr("subprocess.Popen", start)
    (tmp_path / "a").mkdir()
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n"
    (tmp_path / "a" / "x.png").write_bytes(text)
    with pytest.raises(ValueError, match=r"x\.png is not a JPEG or PNG image"):
        load_image_folder(tmp_path)


def test_16_bits_per_value_are_scaled_to_8(tmp_path):
    wide = COLOURS.astype(">u2") * 257  # 0..65535
    alpha = np.full((4, 4, 1), 65535, ">u2")
    kinds = {
        "grey": (0, wide[..., 0]),
        "rgb": (2, wide),
        "grey and alpha": (4, np.dstack([wide[..., :1], alpha]).astype(">u2")),
        "rgb and alpha": (6, np.dstack([wide, alpha]).astype(">u2")),
    }
    (tmp_path / "a").mkdir()
    for name, (kind, rows) in kinds.items():
        (tmp_path / "a" / "x.png").write_bytes(png(16, kind, rows))
        wanted = np.dstack([COLOURS[..., 0]] * 3) if "grey" in name else COLOURS
        np.testing.assert_array_equal(pixels_of(tmp_path), wanted, err_msg=name)
    between = np.array([[0, 128, 129, 30_069], [65_407, 65_534, 65_535, 300]] * 2, ">u2")
    (tmp_path / "a" / "x.png").write_bytes(png(16, 0, between))
    np.testing.assert_array_equal(
        pixels_of(tmp_path)[:2, :, 0], [[0, 0, 1, 117], [255, 255, 255, 1]]
    )


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_per_value_reach_from_black_to_white(bits, tmp_path):
    values = np.arange(16).reshape(4, 4) % 2**bits
    weights = 2 ** (bits * np.arange(4)[::-1])
    packed = (values * weights).sum(1).astype(np.uint16)[:, None]  # (4, 1)
    rows = packed.astype(">u2").view(np.uint8) if bits == 4 else packed.astype(np.uint8)
    rows = rows << 4 if bits == 1 else rows
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(png(bits, 0, rows))
    np.testing.assert_array_equal(pixels_of(tmp_path)[..., 0], values * (255 // (2**bits - 1)))


def test_transparent_parts_are_shown_on_white(tmp_path):
    ink = np.zeros((4, 4, 4), np.uint8)  # a black letter on a transparent ground is all black
    ink[1:3, 1:3, 3] = 255
    ink[0, 0] = 10, 20, 30, 128
    found = pixels_of(placed(tmp_path, Image.fromarray(ink)))
    assert found[1:3, 1:3].max() == 0
    assert found[3].min() == 255
    np.testing.assert_allclose(found[0, 0], [132, 137, 142], atol=1)


@pytest.mark.parametrize(
    ("mode", "transparency"),
    [("P", 0), ("P", bytes([0])), ("L", 0), ("RGB", (0, 0, 0)), ("1", 0)],
)
def test_a_colour_that_stands_for_transparent_is_white(mode, transparency, tmp_path):
    image = Image.fromarray(np.arange(4, 20, dtype=np.uint8).reshape(4, 4) // 8 * 100)
    image = image.convert(mode, dither=Image.Dither.NONE)
    found = pixels_of(placed(tmp_path, image, transparency=transparency))
    assert found[0].min() == 255  # black in the file
    if mode != "1":
        assert found[1].max() == 100


def test_a_transparent_grey_of_16_bits_is_white(tmp_path):
    (tmp_path / "a").mkdir()
    rows = np.tile(np.array([0, 257, 514, 65_535], ">u2"), (4, 1))
    content = png(16, 0, rows, tRNS=struct.pack(">H", 257))
    (tmp_path / "a" / "x.png").write_bytes(content)
    assert pixels_of(tmp_path)[0, :, 0].tolist() == [0, 255, 2, 255]


@pytest.mark.parametrize(
    ("name", "mode"),
    [*(("x.png", mode) for mode in ("L", "P", "RGBA", "I;16")), ("x.jpg", "L"), ("x.jpg", "CMYK")],
)
def test_images_are_turned_upright_before_they_are_cut(name, mode, tmp_path):
    upright = np.zeros((12, 6), np.uint8)  # a bright quarter at the top left
    upright[:6, :3] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }
    (tmp_path / "a").mkdir()
    for orientation, values in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(np.ascontiguousarray(values))
        if mode == "I;16":
            image = Image.fromarray(values.astype(np.uint16) * 257)
        elif mode == "CMYK":
            image = image.convert("RGB")
        image.convert(mode).save(tmp_path / "a" / name, exif=exif)
        found = load_image_folder(tmp_path, 6, 6).images[0, 0] > 128
        wanted = np.zeros((6, 6), bool)  # the middle of 12 x 6
        wanted[:3, :3] = True
        np.testing.assert_array_equal(found, wanted, err_msg=f"orientation {orientation}")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (7, 224), (255, 257), (333, 500)])
def test_pictures_of_any_size_fit(height, width, tmp_path):
    save(tmp_path / "a" / "x.png", plain(height, width, (50, 100, 150)))
    found = load_image_folder(tmp_path).images
    assert found.shape == (1, 3, 224, 224)
    np.testing.assert_array_equal(found[0].mean((1, 2)), [50, 100, 150])


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        load_image_folder(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"load_image_folder: .* needs a sub-folder for each class"
    ):
        load_image_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no \.jpeg, \.jpg, \.png file"):
        load_image_folder(tmp_path)
    for size, resize in ((0, None), (9, 8)):
        with pytest.raises(ValueError, match=rf"got size={size}, resize=.*, expected 1 <= size"):
            load_image_folder(tmp_path, size, resize)


@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
def test_a_file_that_is_no_picture_is_named(name, tmp_path):
    path = save(tmp_path / "a" / name, plain(64, 64, (1, 2, 3)))
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"no picture", b""):
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError,
            match=rf"{name} is not a JPEG or PNG image, or is damaged \(.*fix, shrink or",
        ):
            load_image_folder(tmp_path)
