"""`Chapter`: three lines at the top of a chapter instead of sixty."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shlex
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from minidl import distributed
from minidl.chapter import options
from minidl.chapter.movies import save_movie
from minidl.chapter.shown import can_show, in_notebook, show_picture
from minidl.data import (
    ImageSet,
    TextSet,
    load_cifar10,
    load_mr,
    load_toy10,
    load_toy_reviews,
    read_table,
)
from minidl.distributed import mpi
from minidl.inspect import Graph, plots
from minidl.random import manual_seed
from minidl.tensor import Tensor
from minidl.tensor.functions import zeros
from minidl.training import Output

if TYPE_CHECKING:  # Matplotlib is imported on use
    from matplotlib.figure import Figure

Loaded = TypeVar("Loaded")

OPTIONS = "MINIDL_CHAPTER_OPTIONS"  # the environment variable that stands for a command line

IMAGES: dict[str, tuple[Any, str]] = {
    "data": (["toy", "cifar10"], "which images: built in, or CIFAR-10 (170 MB, downloaded once)"),
    "data_dir": (Path, "CIFAR-10, as an archive or a folder"),
}
"""The options that `Chapter.images` reads, for `Chapter(__doc__, **IMAGES)`."""

SENTENCES: dict[str, tuple[Any, str]] = {
    "data": ("toy", "toy, mr, or a .csv, .tsv or .jsonl file"),
    "data_dir": (Path, "folder of MR's two files"),
    "text_column": ("text", "column of the texts"),
    "label_column": ("label", "column of the labels"),
    "encoding": ("utf-8", "encoding of your file"),
}
"""The options that `Chapter.sentences` reads, for `Chapter(__doc__, **SENTENCES)`."""


class Chapter:
    """Read the options, check that device and disk are there, and seed the random numbers.

    Every chapter has `--seed`, `--device`, `--quick` and `--out`. Further options, and other
    defaults for these, are keyword arguments: a pair of a default and a help text. The default's
    type is the option's; numbers must be positive. Special defaults:

    * a list: the choices, the first one being the default;
    * a dictionary: one default for `--quick` ("quick") or for each choice of `--data`;
    * False: a flag; a type such as `Path`: no default.

    The options' values are attributes. In a notebook, figures appear below their cells, and options
    have their defaults, unless the environment variable `MINIDL_CHAPTER_OPTIONS` names others, as a
    command line does: `%env MINIDL_CHAPTER_OPTIONS=--quick --seed 1` in a cell before this one.

    Args:
        doc: the chapter's `__doc__`; its first line is what `--help` prints (None: Python runs with
            -OO), and names the folder in a notebook.
        given: the arguments; None stands for the command line's, in a notebook for the environment
            variable's.
        declared: the options.

    `mpiexec -n 2 python chapters/ch07_cifar10_cnn.py` starts two processes, which both run the
    chapter; only rank 0 prints and keeps figures.

    Attributes:
        rng: the default generator of random numbers, seeded by `--seed`.
        out: the folder of the chapter's files, `out/chNN` unless `--out` names one. Other ranks
            than 0 have a temporary one.
        world: the ranks that train together, for `DataLoader` and `fit`; usually this one only.

    Raises:
        SystemExit: a wrong option, no GPU, or a folder that cannot be created.
        ValueError: an option has the name of one of the methods below.

    Example:
        >>> import tempfile
        >>> passes = ({"toy": 5, "quick": 1}, "passes over the training images")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     chapter = Chapter("Chapter 0.", epochs=passes, given=["--out", folder])
        >>> chapter.epochs, chapter.seed, chapter.device, chapter.quick
        (5, 0, 'cpu', False)
    """

    def __init__(
        self,
        doc: str | None,
        *,
        given: list[str] | None = None,
        **declared: tuple[Any, str],
    ) -> None:
        taken = [name for name in declared if hasattr(type(self), name)]
        if taken:
            raise ValueError(f"Chapter: got an option {taken[0]}, which is a method; rename it")
        self._in_notebook = in_notebook()
        if not self._in_notebook and not isinstance(sys.stdout, Output):
            sys.stdout = Output(sys.stdout)  # print in any encoding, and go on when nobody reads
        if getattr(sys.excepthook, "__module__", "") != __name__:
            _shorten_errors()
        is_alone = mpi.launched()[1] == 1  # then MPI need not start
        self.world = distributed.World() if is_alone else distributed.world()
        if self.world.rank:
            sys.stdout = Output(None)
        self._started = time.perf_counter()
        out = Path("out", self._folder(doc or ""))
        common = options.COMMON | {"out": (out, "folder for figures and results")}
        program = None
        if self._in_notebook and given is None:
            program = OPTIONS
            given = shlex.split(os.environ.get(OPTIONS, ""))
        declared = declared | common | declared  # the chapter's own come first, and take precedence
        errors: Any = sys.stdout if self.world.rank else sys.stderr
        with contextlib.redirect_stderr(errors):
            first = (doc or "").partition("\n")[0]
            self._parser, self._values = options.read(first, declared, given, program)
        self.out: Path = self._values["out"]
        if self.world.rank:
            self.out = Path(tempfile.mkdtemp())
            atexit.register(shutil.rmtree, self.out, ignore_errors=True)
        self.load(zeros, 1, device=self.device)  # fail early: no GPU, or a full disk
        self.load(self.out.mkdir, parents=True, exist_ok=True)
        self.rng = manual_seed(self.seed)

    def _folder(self, doc: str) -> str:
        """Return the name of the chapter's folder: `chNN`."""
        script = getattr(sys.modules["__main__"], "__file__", None)
        if script and not self._in_notebook:
            return Path(script).stem[:4]
        found = re.match(r"Chapter (\d+)\.", doc)
        return f"ch{int(found[1]):02}" if found else "notebook"

    def __getattr__(self, name: str) -> Any:
        """Return an option's value."""
        values = self.__dict__.get("_values", {})
        if name not in values:
            raise AttributeError(f"Chapter: no option {name!r}, expected one of {list(values)}")
        return values[name]

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    def error(self, message: str) -> NoReturn:
        """End the program with a message about its options."""
        if self.world.rank:  # rank 0 says it
            sys.exit(2)
        self._parser.error(message)

    def load(self, function: Callable[..., Loaded], *args: Any, **kwargs: Any) -> Loaded:
        """Call a function that reads files; end the program with a message if it fails.

        Example: `train, test = chapter.load(load_cifar10, "folder")`.
        """
        try:
            return function(*args, **kwargs)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            self.error(str(error))

    @contextlib.contextmanager
    def interruptible(self, advice: str) -> Iterator[None]:
        """Train in a `with` block that ends the program with a message, without a traceback.

        It does so for Ctrl-C (status 130), for a loss that is NaN or infinite, and for a checkpoint
        that `--resume` cannot use.

        Args:
            advice: printed after Ctrl-C; says how to continue.
        """
        try:
            yield
        except KeyboardInterrupt:
            print(advice)
            sys.exit(130)
        except FloatingPointError as error:
            words = f"{error}\ntry a smaller --lr than {self._values.get('lr')}"
            sys.exit(1 if self.world.rank else words)
        except ValueError as error:
            if not self._values.get("resume"):
                raise
            sys.exit(
                1 if self.world.rank else str(error)
            )  # the checkpoint is damaged, or has other settings

    def images(self) -> tuple[ImageSet, ImageSet, ImageSet]:
        """Return the training, validation and test set that the options `IMAGES` name.

        The last tenth of the training images becomes the validation set: choose whatever is to be
        chosen on it, and measure on the test set once, at the end.
        """
        if self.data_dir and self.data != "cifar10":
            self.error(f"got --data-dir with --data {self.data}, expected --data cifar10")
        if self.data == "cifar10":
            train, test = self.load(load_cifar10, self.data_dir, download=self.data_dir is None)
        else:
            train, test = self.load(load_toy10)
        return *train.split(len(train.labels) * 9 // 10), test

    def sentences(self) -> tuple[TextSet, TextSet, TextSet]:
        """Return the training, validation and test set that the options `SENTENCES` name.

        A tenth of your own sentences, or of MR's, drawn at random, becomes the test set, and a
        tenth of the others the validation set.
        """
        if self.data_dir and self.data != "mr":
            self.error(f"got --data-dir with --data {self.data}, expected --data mr")
        if self.data == "toy":
            train, test = load_toy_reviews()
        else:
            if self.data == "mr":
                found = self.load(load_mr, self.data_dir, download=self.data_dir is None)
            else:
                columns = (self.text_column, self.label_column, self.encoding)
                found = self.load(read_table, self.data, *columns)
            train, test = self.load(found.split, 0.1, self.rng)
        if len(train.classes) < 2:
            self.error(f"{self.data}: got a single label, {train.classes[0]}, expected at least 2")
        return *self.load(train.split, 0.1, self.rng), test

    def tensor(self, array: Any, **kwargs: Any) -> Tensor:
        """Return an array as a float32 tensor on the chapter's device."""
        numbers = np.asarray(array, np.float32, order="C")
        return Tensor(numbers, device=self.device, **kwargs)

    def keep(self, figure: Figure | Callable[[], Figure], name: str, look: str) -> None:
        """Save a figure as `name`.png in the folder, and print its path and what to look at.

        In a notebook, show the figure instead of its path.

        Args:
            figure: a figure, or a function that draws one: a missing Matplotlib is then reported.
            name: of the file.
            look: what to see in it, in one sentence.
        """
        path = self.out / f"{name}.png"

        def write() -> Path:
            drawn = figure() if callable(figure) else figure
            plots.save(drawn, path)
            if can_show():  # here, not below the whole cell: next to its words
                show_picture(path, drawn.get_figwidth(), look)
                plots.pyplot().close(drawn)
            return path

        self._show(write, look)

    def play(
        self, figure: Figure, draw: Callable[[int], object], frames: int, name: str, look: str
    ) -> None:
        """Save a moving picture as `name`.gif; in a notebook, show a player instead.

        Args:
            figure: the figure to draw in.
            draw: called with the number of each frame, `0 <= frame < frames`; draws it.
            frames: how many.
            name: of the file.
            look: what to see in it, in one sentence.
        """
        path = self.out / f"{name}.gif"
        self._show(lambda: save_movie(figure, draw, frames, path, look), look)

    def explore(self, graph: Graph, name: str, look: str) -> None:
        """Save the interactive page of a graph as `name`.html; in a notebook, show it as well.

        Args:
            graph: what `minidl.inspect.graph` returned.
            name: of the file.
            look: what to see in it, in one sentence.
        """
        path = self.out / f"{name}.html"

        def write() -> Path:
            graph.html(path)
            if can_show():
                from IPython.display import display

                display(graph)
            return path

        self._show(write, look, "page")

    def _show(self, write: Callable[[], Path], look: str, kind: str = "figure") -> None:
        if self.world.rank:
            return
        try:
            path = write()
        except (ImportError, OSError) as error:  # Matplotlib is missing, or the disk is full
            print(f"no {kind}:", error)
            return
        if not self._in_notebook:  # a reader of a page cannot open the writer's files
            print(f"{kind}: {path.resolve()}")
        print(textwrap.fill(f"Look: {look}", 100, initial_indent="  ", subsequent_indent="    "))

    def result(self, text: str) -> None:
        """Print the chapter's result, which its first lines promise, and show the open figures."""
        if self.quick:
            print("with --quick, figures need not show yet what the Look lines say")
        print(f"result: {text}; {self.seconds:.0f} s")
        plots.show()


def _shorten_errors() -> None:
    """Let Ctrl-C end the program with a word; other errors are shown as before."""
    before = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        # Another handler may have to act, such as one that ends all ranks.
        if issubclass(kind, KeyboardInterrupt) and before is sys.__excepthook__:
            print("stopped", file=sys.stderr)
        else:
            before(kind, error, trace)

    sys.excepthook = show
