"""Folders of pictures: as they are laid out, cut and refused."""

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


def test_grey_and_transparent_pictures_become_red_green_and_blue(tmp_path):
    save(tmp_path / "a" / "grey.png", np.full((8, 8), 7))
    Image.new("RGBA", (8, 8), (10, 20, 30, 128)).save(tmp_path / "a" / "half.png")
    Image.new("P", (8, 8), 0).save(tmp_path / "a" / "palette.png")
    grey, half, palette = load_image_folder(tmp_path, 4, 4).images[:, :, 0, 0]
    assert (grey.tolist(), half.tolist()) == ([7, 7, 7], [10, 20, 30])
    assert palette.shape == (3,)


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
        with pytest.raises(ValueError, match=rf"{name} is not an image, or is damaged \(.*fix or"):
            load_image_folder(tmp_path)
