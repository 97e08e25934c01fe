"""Folders of images and masks: which belong together, how they are cut, and every mistake."""

import numpy as np
import pytest
from PIL import Image

from minidl.data import load_scene_folder

from .test_data_folders import png, save

NUMBERS = np.arange(16, dtype=np.uint8).reshape(4, 4) % 3


def pair(folder, name="a", numbers=NUMBERS, suffix=".png"):
    """Write an image whose red is 50 times the class, and its mask."""
    numbers = np.asarray(numbers, np.uint8)
    image = np.stack([numbers % 5 * 50] * 3, 2)
    path = folder / "images" / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=100, subsampling=0)
    save(folder / "masks" / f"{name}.png", numbers)
    return folder


def test_images_and_masks_belong_together_by_name(tmp_path):
    pair(tmp_path, "b", NUMBERS[::-1], ".jpg")
    pair(tmp_path, "a/10", NUMBERS.T)
    pair(tmp_path, "a/2", NUMBERS)
    (tmp_path / "images" / "notes.txt").write_text("no picture")
    (tmp_path / "masks" / "._b.png").write_bytes(b"what macOS keeps")
    found = load_scene_folder(tmp_path, 4, classes=("ground", "cat", "dog"))
    np.testing.assert_array_equal(found.masks, [NUMBERS.T, NUMBERS, NUMBERS[::-1]])
    assert (found.images.dtype, found.masks.dtype) == (np.uint8, np.uint8)
    np.testing.assert_allclose(found.images[:, 0], found.masks * 50.0, atol=12)  # JPEG's loss
    assert (found.boxes, found.labels) == ((), ())
    assert found.classes == ("ground", "cat", "dog")
    assert found.first(2).boxes == ()


def test_classes_are_numbered_without_names(tmp_path):
    numbers = NUMBERS.copy()
    numbers[0, 0] = 255
    found = load_scene_folder(pair(tmp_path, numbers=numbers), 4)
    assert found.classes == ("background", "class 1", "class 2")
    assert found.masks[0, 0, 0] == 255
    empty = load_scene_folder(pair(tmp_path / "b", numbers=0 * NUMBERS), 4)
    assert empty.classes == ("background",)


@pytest.mark.parametrize(
    ("height", "width"), [(8, 8), (16, 24), (24, 16), (9, 31), (31, 9), (7, 5)]
)
@pytest.mark.parametrize("size", [4, 8])
def test_masks_are_scaled_and_cut_as_their_images(height, width, size, tmp_path):
    """Four quarters: scaled by the same rule, image and mask have their edges at one place."""
    y, x = np.mgrid[:height, :width]
    numbers = 2 * (y >= height / 2) + (x >= width / 2)
    found = load_scene_folder(pair(tmp_path, numbers=numbers), size)
    image, mask = found.images[0, 0] / 50, found.masks[0]
    assert mask.shape == (size, size)
    clear = np.abs(image - np.rint(image)) < 0.1  # away from the edges, which are blurred
    assert clear.mean() > 0.2
    assert (np.abs(np.rint(image) - mask)[clear] > 0).mean() < 0.2
    centre = size // 2
    np.testing.assert_array_equal(mask[[0, 0, -1, -1], [0, -1, 0, -1]], [0, 1, 2, 3])
    if height % 2 == width % 2 == 0:
        assert (mask[:centre, :centre] == 0).all()
        assert (mask[centre:, centre:] == 3).all()


def test_a_palette_s_indices_are_the_classes_whatever_its_colours(tmp_path):
    pair(tmp_path)
    mask = Image.fromarray(NUMBERS)
    mask.putpalette([9, 8, 7, 255, 0, 0, 0, 255, 0])
    assert mask.mode == "P"
    mask.save(tmp_path / "masks" / "a.png")
    np.testing.assert_array_equal(load_scene_folder(tmp_path, 4).masks[0], NUMBERS)


@pytest.mark.parametrize("bits", [1, 2, 4, 16])
def test_masks_of_other_depths_hold_the_numbers_themselves(bits, tmp_path):
    pair(tmp_path)
    values = NUMBERS % min(2**bits, 128)
    if bits == 16:
        rows = values.astype(">u2")
    else:
        weights = 2 ** (bits * np.arange(4)[::-1])
        packed = (values * weights).sum(1).astype(np.uint16)[:, None]
        rows = packed.astype(">u2").view(np.uint8) if bits == 4 else packed.astype(np.uint8)
        rows = rows << 4 if bits == 1 else rows
    (tmp_path / "masks" / "a.png").write_bytes(png(bits, 0, rows))
    np.testing.assert_array_equal(load_scene_folder(tmp_path, 4).masks[0], values)


def refused(folder, message, error=ValueError, **options):
    with pytest.raises(error, match=f"^load_scene_folder: {message}"):
        load_scene_folder(folder, 4, **options)


def test_what_is_missing_is_said(tmp_path):
    refused(tmp_path / "nowhere", r"there is no folder .*images; expected", FileNotFoundError)
    (tmp_path / "images").mkdir()
    refused(tmp_path, r"there is no folder .*masks; expected", FileNotFoundError)
    (tmp_path / "masks").mkdir()
    refused(tmp_path, r".*images holds no \.jpeg, \.jpg, \.png file")
    pair(tmp_path)
    pair(tmp_path, "b")
    (tmp_path / "masks" / "b.png").rename(tmp_path / "masks" / "c.png")
    refused(tmp_path, r".*images/b\.png has no mask; expected .*masks/b\.png")
    (tmp_path / "images" / "b.png").unlink()
    refused(tmp_path, r".*masks/c\.png has no image; expected .*images/c\.png")
    (tmp_path / "masks" / "c.png").unlink()
    pair(tmp_path, "a", suffix=".jpg")
    refused(tmp_path, r".*a\.jpg and .*a\.png have one name; rename one")


def test_what_does_not_fit_is_said(tmp_path):
    pair(tmp_path)
    save(tmp_path / "masks" / "a.png", NUMBERS[:3])
    refused(tmp_path, "got an image of 4 x 4 pixels and a mask of 4 x 3, expected the same size")
    save(tmp_path / "masks" / "a.png", NUMBERS + 200)
    refused(
        tmp_path,
        r"got the number 20\d in .*, expected 0 to 2, or 255",
        classes=("a", "b", "c"),
    )
    save(tmp_path / "masks" / "a.png", np.stack([NUMBERS] * 3, 2))
    refused(tmp_path, r".*masks/a\.png is not a PNG of class numbers.*got the mode RGB")
    for content in (b"", b"no picture", b"\xff\xd8\xff"):
        (tmp_path / "masks" / "a.png").write_bytes(content)
        refused(tmp_path, r".*masks/a\.png is not a PNG of class numbers, or is damaged")
    save(tmp_path / "masks" / "a.png", NUMBERS)
    (tmp_path / "images" / "a.png").write_bytes(b"no picture")
    refused(tmp_path, r".*images/a\.png is not a JPEG or PNG image")


def test_a_number_beyond_a_byte_is_refused(tmp_path):
    pair(tmp_path)
    rows = (NUMBERS.astype(np.uint16) + 256).astype(">u2")
    (tmp_path / "masks" / "a.png").write_bytes(png(16, 0, rows))
    refused(tmp_path, "got the number 25[678] in .*, expected 0 to 255")


def test_an_image_to_be_turned_is_refused(tmp_path):
    pair(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "images" / "a.png", exif=exif)
    refused(tmp_path, r"the EXIF data of .*a\.png say how to turn it")


def test_wrong_arguments_are_refused(tmp_path):
    pair(tmp_path)
    refused(tmp_path, "got classes='ab', expected a tuple of names", TypeError, classes="ab")
    refused(tmp_path, "got classes={'a'}, expected a tuple", TypeError, classes={"a"})
    with pytest.raises(ValueError, match="got size=0, expected an integer >= 1"):
        load_scene_folder(tmp_path, 0)
