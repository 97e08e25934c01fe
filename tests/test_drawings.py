"""What chapters draw: windows that slide over an image."""

import numpy as np
import pytest

from minidl import Tensor
from minidl import functional as F
from minidl.chapter import sliding_window
from minidl.inspect import plots

IMAGE = np.array([[1, 3, 2, 0], [5, 7, 1, 0], [4, 0, 8, 6], [2, 3, 6, 5]], float)
POOLS = {"max": F.max_pool2d, "average": F.avg_pool2d}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plots.pyplot().close("all")


def written(axes):
    return [text.get_text() for text in axes.texts]


def framed(axes):
    """Left, top and width of the framed parts."""
    return [(*box.get_xy(), box.get_width()) for box in axes.patches]


def test_a_window_slides_and_makes_one_output_after_the_other():
    figure, draw, frames = sliding_window(IMAGE, POOLS, (2, 1))
    (axes,) = figure.axes
    assert frames == 4 + 9
    draw(1)
    assert written(axes)[17:] == ["7", "2", "max", "4", "0.75", "average", "stride 2"]
    assert framed(axes) == [(2, 0, 2), (6, 0, 1), (10, 0, 1)]
    limits = axes.get_xlim(), axes.get_ylim()
    draw(12)
    assert written(axes)[17:26] == ["7", "7", "2", "7", "8", "8", "4", "8", "8"]
    assert (axes.get_xlim(), axes.get_ylim()) == limits  # nothing jumps


def test_gradients_go_back_and_add_up_where_windows_overlap():
    figure, draw, _ = sliding_window(IMAGE, POOLS, (2, 1), backwards=True)
    draw(0)
    assert written(figure.axes[0])[34:42] == ["0.25", "0.25", "0", "0"] * 2
    draw(12)
    of_max = np.array(written(figure.axes[0])[17:33], float).reshape(4, 4)
    assert (of_max[1, 1], of_max[2, 2], of_max.sum()) == (3, 4, 9)


def test_a_kernel_stands_between_image_and_output_with_the_products_below():
    kernel = np.array([[1.0, -1], [0, 2]])
    weight = Tensor(kernel[None, None].astype(np.float32))
    convolve = {"output": lambda x, size, stride: F.conv2d(x, weight, stride=stride)}
    _, draw, frames = sliding_window(np.arange(25.0).reshape(5, 5), convolve, (3,), kernel=kernel)
    axes = plots.subplots()[1]
    draw(1, axes, 9)
    assert framed(axes) == [(3, 0, 2), (10, 0, 1)]
    assert written(axes)[-4:-1] == ["11", "17", "output"]
    assert written(axes)[-1] == "(1)(3) + (-1)(4) + (0)(8) + (2)(9) = 17"
    assert (frames, {text.get_size() for text in axes.texts}) == (4, {9})
