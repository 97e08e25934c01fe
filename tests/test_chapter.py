"""What the chapters share: options, figures, moving pictures, data."""

import errno
import re
import subprocess
import sys
import types

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest

from minidl import Tensor
from minidl.chapter import IMAGES, Chapter, shortest
from minidl.data import ImageSet, load_toy10
from minidl.inspect import graph, plots

EPOCHS = ({"toy": 8, "cifar10": 20, "quick": 1}, "passes over the data")


@pytest.fixture(autouse=True)
def unchanged(monkeypatch):
    """A chapter wraps standard output; figures would stay open."""
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield
    plt.close("all")


@pytest.fixture
def begin(tmp_path):
    def start(*given, **declared):
        return Chapter("Chapter 0.", given=["--out", str(tmp_path), *given], **declared)

    return start


def ipython():
    """Return an empty module in IPython's place."""
    plt.close(plt.figure())  # before its first figure, Matplotlib looks for the true one
    return types.ModuleType("IPython")


@pytest.fixture
def notebook(monkeypatch, tmp_path):
    """A notebook's kernel is running, whose own arguments are no chapter's."""
    for name in ("ipykernel", "ipykernel.kernelapp"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    monkeypatch.delenv("MINIDL_CHAPTER_OPTIONS", raising=False)
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    monkeypatch.chdir(tmp_path)


# Options


def test_options_are_attributes_of_their_defaults_types(begin, tmp_path):
    chapter = begin(epochs=(5, "passes"), lr=(0.1, "rate"), data=(["toy", "cifar10"], "images"))
    assert (chapter.epochs, chapter.lr, chapter.data) == (5, 0.1, "toy")
    assert (chapter.seed, chapter.device, chapter.quick) == (0, "cpu", False)
    assert chapter.out == tmp_path
    chapter = begin("--epochs", "7", "--lr", "1", "--quick", epochs=(5, "passes"), lr=(0.1, "rate"))
    assert (chapter.epochs, chapter.lr, chapter.quick) == (7, 1.0, True)
    assert isinstance(chapter.lr, float)


def test_an_underscore_is_a_hyphen_and_a_type_has_no_default(begin):
    assert begin(data_dir=(str, "folder")).data_dir is None
    assert begin("--data-dir", "x", data_dir=(str, "folder")).data_dir == "x"
    assert begin("--width", "8", width=([4, 8], "of the network")).width == 8


def test_a_chapter_may_declare_another_default_for_a_common_option(begin):
    assert begin(seed=(3, "seed")).seed == 3


@pytest.mark.parametrize(
    ("given", "epochs"),
    [
        ([], 8),
        (["--quick"], 1),
        (["--data", "cifar10"], 20),
        (["--data", "cifar10", "--quick"], 1),
        (["--quick", "--epochs", "3"], 3),
    ],
)
def test_a_dictionary_has_a_default_for_each_case(given, epochs, begin):
    assert begin(*given, data=(["toy", "cifar10"], "images"), epochs=EPOCHS).epochs == epochs


def test_the_default_without_a_case_is_not_that_of_quick(begin):
    steps = ({"quick": 1, "full": 9}, "steps")
    assert (begin(steps=steps).steps, begin("--quick", steps=steps).steps) == (9, 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--epochs", "0"], "got --epochs 0, expected an integer >= 1"),
        (["--epochs", "-3"], "got --epochs -3, expected an integer >= 1"),
        (["--epochs", "x"], "argument --epochs: invalid int value: 'x'"),
        (["--lr", "0"], "got --lr 0.0, expected a finite number > 0"),
        (["--lr", "nan"], "got --lr nan, expected a finite number > 0"),
        (["--lr", "inf"], "got --lr inf, expected a finite number > 0"),
        (["--seed", "-1"], "got --seed -1, expected an integer >= 0"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--data-dir", "x", "--data", "mnist"], "argument --data: invalid choice: 'mnist'"),
        (["--speed", "9"], "unrecognized arguments: --speed 9"),
        (["--out", "/dev/null/here"], "/dev/null"),
    ],
)
def test_a_wrong_option_ends_the_program_with_a_message(given, message, begin, capsys):
    data, data_dir = (["toy", "cifar10"], "images"), (str, "folder")
    with pytest.raises(SystemExit) as end:
        begin(*given, epochs=EPOCHS, lr=(0.1, "rate"), data=data, data_dir=data_dir)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_help_lists_defaults_and_prints_percent_signs(begin, capsys):
    with pytest.raises(SystemExit):
        begin("--help", epochs=EPOCHS, share=(0.1, "of the images (10 % by default)"))
    printed = " ".join(capsys.readouterr().out.split())
    assert "Chapter 0." in printed
    assert "passes over the data (toy: 8, cifar10: 20, quick: 1)" in printed
    assert "of the images (10 % by default) (0.1)" in printed


def test_an_option_that_is_not_there_is_named(begin):
    with pytest.raises(AttributeError, match=r"no option 'epoch', expected one of \['epochs', "):
        _ = begin(epochs=EPOCHS).epoch


def test_an_option_cannot_hide_a_method(begin):
    with pytest.raises(ValueError, match="got an option images, which is a method; rename it"):
        begin(images=(40, "how many"))


def test_a_chapter_starts_without_docstrings(tmp_path):
    assert Chapter(None, given=["--out", str(tmp_path)]).seed == 0


def test_a_seed_decides_what_is_drawn(begin):
    first, again, other = (begin("--seed", seed).rng.random() for seed in "112")
    assert first == again != other


def test_in_a_notebook_options_have_their_defaults(notebook, tmp_path):
    chapter = Chapter("Chapter 0.", epochs=EPOCHS)
    assert (chapter.epochs, chapter.out.resolve()) == (8, tmp_path / "out" / "ch00")


@pytest.mark.parametrize(
    ("doc", "folder"),
    [
        ("Chapter 5. Pooling: 2 kinds.\n\nResult: 3.", "ch05"),
        ("Chapter 17. Deformable convolution.", "ch17"),
        ("Automatically created module for IPython interactive environment", "notebook"),
        (None, "notebook"),
    ],
)
def test_notebooks_of_two_chapters_keep_their_files_apart(doc, folder, notebook, tmp_path):
    assert Chapter(doc).out.resolve() == tmp_path / "out" / folder


def test_a_variable_names_a_notebooks_options_as_a_command_line_does(notebook, monkeypatch):
    monkeypatch.setenv("MINIDL_CHAPTER_OPTIONS", "--quick --seed 3 --out 'two words'")
    chapter = Chapter("Chapter 0.", epochs=EPOCHS)
    assert (chapter.quick, chapter.seed, chapter.epochs) == (True, 3, 1)
    assert chapter.out.name == "two words"
    assert Chapter("Chapter 0.", given=["--seed", "4"]).seed == 4  # `given` takes precedence


def test_a_wrong_option_of_a_notebook_names_the_variable(notebook, monkeypatch, capsys):
    monkeypatch.setenv("MINIDL_CHAPTER_OPTIONS", "--epochs 0")
    with pytest.raises(SystemExit):
        Chapter("Chapter 0.", epochs=EPOCHS)
    message = "MINIDL_CHAPTER_OPTIONS: error: got --epochs 0, expected an integer >= 1\n"
    assert capsys.readouterr().err.endswith(message)


def test_a_program_that_starts_kernels_is_no_notebook(notebook, monkeypatch, tmp_path, capsys):
    monkeypatch.delitem(sys.modules, "ipykernel.kernelapp")
    monkeypatch.setitem(sys.modules, "IPython", ipython())
    chapter = Chapter("Chapter 0.", given=["--out", str(tmp_path)])
    chapter.keep(plots.subplots()[0], "curves", "they part after epoch 3")
    assert capsys.readouterr().out.startswith("figure: ")


def test_a_script_does_not_read_the_notebooks_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIDL_CHAPTER_OPTIONS", "--quick")
    monkeypatch.setattr(sys, "argv", ["ch00.py", "--out", str(tmp_path)])
    assert not Chapter("Chapter 0.").quick


# Files


@pytest.mark.parametrize("kind", [OSError, ValueError, RuntimeError, ImportError])
def test_files_that_cannot_be_loaded_end_the_program_with_a_message(kind, begin, capsys):
    def load(path):
        raise kind(f"{path} is damaged")

    with pytest.raises(SystemExit):
        begin().load(load, "here.npz")
    assert "error: here.npz is damaged" in capsys.readouterr().err


def test_a_mistake_in_a_loader_is_not_hidden(begin):
    with pytest.raises(TypeError):
        begin().load(len, 3)


def test_images_are_split_into_training_validation_and_test_set(begin):
    train, validation, test = begin(**IMAGES).images()
    whole, toy_test = load_toy10()
    assert len(train.labels) == 9 * len(validation.labels) == len(whole.labels) * 9 // 10
    np.testing.assert_array_equal(np.concatenate([train.images, validation.images]), whole.images)
    np.testing.assert_array_equal(test.labels, toy_test.labels)
    assert set(validation.labels.tolist()) == set(range(10))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--data-dir", "x"], "got --data-dir with --data toy, expected --data cifar10"),
        (["--data", "cifar10", "--data-dir", "nowhere"], "nowhere"),
    ],
)
def test_images_that_are_not_there_end_the_program(given, message, begin, capsys):
    chapter = begin(*given, **IMAGES)
    with pytest.raises(SystemExit):
        chapter.images()
    assert message in capsys.readouterr().err


def test_an_image_set_is_split_in_order():
    images = ImageSet(np.zeros((5, 3, 2, 2), np.uint8), np.arange(5), tuple("abcde"))
    first, rest = images.split(3)
    assert (first.labels.tolist(), rest.labels.tolist()) == ([0, 1, 2], [3, 4])
    assert (len(first.images), len(rest.images), rest.classes) == (3, 2, images.classes)
    for count in (0, 5, 6, -1):
        with pytest.raises(ValueError, match=f"split: got {count} of 5 images, expected at least"):
            images.split(count)


def test_images_are_chosen_by_index_by_class_and_few_of_each():
    labels = np.array([2, 0, 1, 2, 0, 2])
    images = ImageSet(np.arange(6, dtype=np.uint8)[:, None, None, None], labels, tuple("abc"))
    assert images.take([4, 0]).images.ravel().tolist() == [4, 0]
    assert images.take(labels == 2).labels.tolist() == [2, 2, 2]
    kept = images.only(["c", "a"])  # in another order than the set's
    assert (kept.images.ravel().tolist(), kept.labels.tolist()) == (
        [0, 1, 3, 4, 5],
        [0, 1, 0, 1, 0],
    )
    assert kept.classes == ("c", "a")
    few = images.few(2)
    assert (few.images.ravel().tolist(), few.labels.tolist()) == ([1, 4, 2, 0, 3], [0, 0, 1, 2, 2])
    with pytest.raises(
        ValueError, match=r"only: got the class 'd', expected one of \('a', 'b', 'c'\)"
    ):
        images.only(["a", "d"])


def test_a_tensor_is_float32_on_the_chapters_device(begin):
    x = begin().tensor(np.arange(6).reshape(2, 3).T, requires_grad=True)
    assert (x.dtype, x.shape, x.requires_grad, x.device) == (np.float32, (3, 2), True, "cpu")


# Figures


def test_a_figure_is_saved_with_its_path_and_what_to_look_at(begin, tmp_path, capsys):
    look = "the two curves part " + "after epoch 3 and " * 8 + "stay apart"
    begin().keep(plots.subplots()[0], "curves", look)
    printed = capsys.readouterr().out
    path, words = re.fullmatch(r"figure: (\S+)\n  Look: (.*)\n", printed, re.DOTALL).groups()
    assert path == str(tmp_path / "curves.png")
    assert " ".join(words.split()) == look
    assert max(map(len, printed.splitlines()[1:])) <= 100
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_notebook_shows_no_paths(notebook, capsys):
    Chapter("Chapter 0.").keep(plots.subplots()[0], "curves", "they part after epoch 3")
    assert capsys.readouterr().out == "  Look: they part after epoch 3\n"


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_or_no_matplotlib_is_only_reported(begin, monkeypatch, tmp_path, capsys):
    chapter, figure = begin(), plots.subplots()[0]
    monkeypatch.setattr(plt.Figure, "savefig", full_disk)
    chapter.keep(figure, "curves", "they part")
    chapter.play(figure, lambda frame: None, 2, "steps", "it moves")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    chapter.keep(plots.subplots, "curves", "they part")
    chapter.result("accuracy 1%")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[1] == "no figure: [Errno 28] No space left on device"
    assert lines[2].startswith("no figure: plots need Matplotlib")
    assert re.fullmatch(r"result: accuracy 1%; \d+ s", lines[3])
    assert not list(tmp_path.glob("*.gif"))


# Moving pictures


def moving(chapter, frames=4, name="steps"):
    """Play a grid in which one pixel after the other turns from white to red."""
    figure, axes = plots.subplots(figsize=(3, 3))

    def draw(frame):
        axes.clear()
        plots.draw_pixels(axes, np.eye(frames)[frame][None], signed=True)

    chapter.play(figure, draw, frames, name, "one pixel after the other turns red")
    return figure


def test_a_moving_picture_is_a_gif_with_all_frames_that_repeats(begin, tmp_path, capsys):
    figure = moving(begin(), 4)
    assert "steps.gif\n  Look: one pixel after" in capsys.readouterr().out
    with PIL.Image.open(tmp_path / "steps.gif") as movie:
        assert (movie.n_frames, movie.size, movie.info["loop"]) == (4, (360, 360), 0)
        pictures, seconds = [], []
        for frame in range(4):
            movie.seek(frame)
            seconds.append(movie.info["duration"] / 1000)
            pictures.append(np.asarray(movie.convert("RGB"), int))
    assert seconds == [2, 1, 1, 3]  # time to find the beginning, and to see the result
    redness = [(p[..., 0] - p[..., 2] > 80).nonzero()[1].mean() for p in pictures]
    assert redness == sorted(redness)  # the red pixel moves to the right, and stays red
    assert redness[-1] - redness[0] > 150
    assert (tmp_path / "steps.gif").stat().st_size < 20_000
    assert not plt.fignum_exists(figure.number)


def test_one_frame_is_a_picture_and_none_is_a_mistake(begin, tmp_path):
    moving(begin(), 1)
    with PIL.Image.open(tmp_path / "steps.gif") as picture:
        assert getattr(picture, "n_frames", 1) == 1
    figure = plots.subplots()[0]
    with pytest.raises(ValueError, match="got 0 frames, expected at least 1"):
        begin().play(figure, print, 0, "steps", "nothing")
    assert not plt.fignum_exists(figure.number)


def test_a_frame_that_cannot_be_drawn_keeps_the_older_file_and_closes_the_figure(begin, tmp_path):
    moving(begin())
    before = (tmp_path / "steps.gif").read_bytes()
    figure = plots.subplots()[0]
    with pytest.raises(ZeroDivisionError):
        begin().play(figure, lambda frame: 1 / (1 - frame), 2, "steps", "it fails in frame 1")
    assert [path.name for path in tmp_path.iterdir()] == ["steps.gif"]
    assert (tmp_path / "steps.gif").read_bytes() == before
    assert not plt.fignum_exists(figure.number)


@pytest.fixture
def shown(notebook, monkeypatch):
    """What a notebook shows."""
    found = []
    display = types.ModuleType("IPython.display")
    display.HTML, display.Image, display.display = str, dict, found.append
    monkeypatch.setitem(sys.modules, "IPython", ipython())
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return found


def test_a_notebook_shows_a_figure_once_with_words_for_those_who_cannot_see_it(shown, tmp_path):
    figure = plots.subplots(figsize=(5, 3))[0]
    Chapter("Chapter 0.").keep(figure, "curves", "they part after epoch 3")
    (picture,) = shown
    assert (picture["width"], picture["alt"]) == (480, "they part after epoch 3")
    with PIL.Image.open(picture["filename"]) as file:
        assert file.size == (600, 360)  # sharp on a fine screen
    assert not plt.fignum_exists(figure.number)  # or the cell would show it again


def test_a_notebook_shows_a_player_with_buttons(shown, tmp_path, capsys):
    figure = moving(Chapter("Chapter 0."), 3)
    (player,) = shown
    assert not re.search(r"https?:|\$", player)  # it works without a network
    assert player.count('alt="one pixel after the other turns red"') == 1
    assert len(re.findall(r"frames\[\d+\] = ", player)) == 3
    assert 'title="Play"' in player
    assert 'title="Next frame"' in player
    assert not plt.fignum_exists(figure.number)
    assert capsys.readouterr().out.startswith("  Look: one pixel")
    assert (tmp_path / "out" / "ch00" / "steps.gif").is_file()


def test_a_graph_is_saved_as_a_page(begin, tmp_path, capsys):
    x = Tensor(3.0, requires_grad=True)
    begin().explore(graph(x * x), "graph", "two arrows lead from x to its square")
    path = tmp_path / "graph.html"
    words = "two arrows lead from x to its square"
    assert capsys.readouterr().out == f"page: {path}\n  Look: {words}\n"
    assert path.read_text(encoding="utf-8") == graph(x * x).html()


def test_a_page_that_cannot_be_written_is_only_reported(begin, tmp_path, capsys):
    (tmp_path / "graph.html").mkdir()
    begin().explore(graph(Tensor(3.0)), "graph", "nothing")
    assert capsys.readouterr().out.startswith("no page: ")


def test_a_notebook_shows_the_page_of_a_graph(shown, tmp_path, capsys):
    found = graph(Tensor(3.0))
    Chapter("Chapter 0.").explore(found, "graph", "it is a single number")
    assert shown == [found]
    assert capsys.readouterr().out == "  Look: it is a single number\n"
    assert (tmp_path / "out" / "ch00" / "graph.html").is_file()


def test_a_notebook_without_ipython_gets_the_file(notebook, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    moving(Chapter("Chapter 0."))
    assert (tmp_path / "out" / "ch00" / "steps.gif").is_file()


# Times


def test_the_shortest_of_several_times_is_returned_with_the_last_result(monkeypatch):
    ticks = iter([0.0, 3.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr("minidl.chapter.timing.time.perf_counter", lambda: next(ticks))
    results = iter("abc")
    assert shortest(lambda: next(results), 3) == ("c", 1.0)
    with pytest.raises(ValueError, match="shortest: got repeats=0"):
        shortest(print, 0)


@pytest.mark.parametrize(
    ("error", "shown"), [("KeyboardInterrupt", "stopped\n"), ("ZeroDivisionError", "Traceback")]
)
def test_ctrl_c_ends_a_chapter_with_a_word_and_a_mistake_with_a_traceback(error, shown, tmp_path):
    code = f"from minidl.chapter import Chapter; Chapter('0.'); raise {error}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert done.stderr.startswith(shown)
    assert ("Traceback" in done.stderr) == (shown == "Traceback")
