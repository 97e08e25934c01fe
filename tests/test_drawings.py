"""What chapters draw: numbers on pixels, sliding windows, images and curves."""

import numpy as np
import pytest

from minidl import functional as F
from minidl.chapter import curves, gallery, numbers, sliding_pools
from minidl.inspect import plots

IMAGE = np.array([[1, 3, 2, 0], [5, 7, 1, 0], [4, 0, 8, 6], [2, 3, 6, 5]], float)
POOLS = {"max": F.max_pool2d, "average": F.avg_pool2d}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plots.pyplot().close("all")


def written(axes):
    return [text.get_text() for text in axes.texts]


def test_numbers_are_written_except_nan_and_a_window_is_framed():
    axes = plots.subplots()[1]
    numbers(axes, np.array([[1, np.nan], [0.25, 4]]), "title", frame=(1, 0, 2))
    assert written(axes) == ["1", "0.25", "4"]
    assert axes.patches[0].get_xy() == (-0.5, 0.5)
    numbers(axes, np.zeros((1, 1)))
    assert (written(axes), len(axes.patches)) == (["0"], 0)


def test_a_window_slides_and_makes_one_output_after_the_other():
    figure, draw, frames = sliding_pools(IMAGE, POOLS)
    assert frames == 4 + 9
    draw(1)
    assert [written(axes) for axes in figure.axes[1:]] == [["7", "2"], ["4", "0.75"]]
    draw(12)
    assert written(figure.axes[1]) == ["7", "7", "2", "7", "8", "8", "4", "8", "8"]


def test_gradients_go_back_and_add_up_where_windows_overlap():
    figure, draw, _ = sliding_pools(IMAGE, POOLS, backwards=True)
    draw(0)
    assert written(figure.axes[2])[:8] == ["0.25", "0.25", "0", "0"] * 2
    draw(12)
    of_max = np.array(written(figure.axes[1]), float).reshape(4, 4)
    assert (of_max[1, 1], of_max[2, 2], of_max.sum()) == (3, 4, 9)


def test_a_gallery_has_one_scale_and_hides_what_is_left_over():
    tiles = {"dark": np.zeros((2, 2)), "grey": np.full((2, 2), 0.25), "white": np.ones((2, 2))}
    figure = gallery(tiles, 2, "brightness")
    *panels, _ = figure.axes
    assert [axes.get_title() for axes in panels] == ["dark", "grey", "white", ""]
    assert {axes.images[0].get_clim() for axes in panels[:3]} == {(0, 1)}
    assert [axes.axison for axes in panels] == [True, True, True, False]


def test_curves_differ_in_more_than_colour():
    (axes,) = curves({"a": [1, 2], "b": [2, 1]}, [0, 1], "x", "y").axes
    assert len({line.get_marker() for line in axes.lines}) == 2
    assert len({line.get_color() for line in axes.lines}) == 2
