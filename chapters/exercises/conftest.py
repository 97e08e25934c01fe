"""Shared by the checks of all exercises: call an answer, and report the result in plain words.

Check a chapter's exercises, then the answers that come with them:

    python -m pytest chapters/exercises -k ch04
    python -m pytest chapters/exercises -k ch04 --answers chapters/solutions

The report says what is right and what is not yet, and, if it recognises a mistake, which:

    not yet  receptive field grows faster after a stride
             receptive_field([(3, 1), (2, 2), (5, 1)])
               got      8
               expected 12
               hint: the strides are not used: after a stride of 2, neighbours are 2 pixels
                     apart

An exercise is a function without a body. This file and the checks never import a file of answers:
they read it at the first call, so that an error in it becomes a readable message too.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import textwrap
import traceback
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import minidl
from minidl.inspect import GradcheckError

HERE = Path(__file__).resolve().parent
BLANK = "not filled in yet"

collect_ignore_glob = ["ch*.py"]


def pytest_addoption(parser):
    parser.addoption("--answers", type=Path, default=HERE, help="folder with the answers to check")


@pytest.fixture
def exercise(request):
    """The file of answers that the checks in `test_<its name>` belong to."""
    folder = request.config.getoption("--answers", HERE)
    return Exercise(folder / request.path.name.removeprefix("test_"))


def pytest_pyfunc_call(pyfuncitem):
    """Run a check of an exercise."""
    judge(pyfuncitem.obj, pyfuncitem.funcargs["exercise"])
    return True


def judge(check, exercise):
    """Run a check; if the check itself raises on an answer, the answer is wrong."""
    try:
        check(exercise)
    except Exception as error:
        said, got = exercise.last
        lines = [said, f"  got {words(got)}", f"  then {type(error).__name__}: {error}"]
        exercise.fail(*lines, usual="does it have the type and shape that the exercise asks for?")


def pytest_configure(config):
    """Find the checks of a file of answers; report failures only in the list at the end.

    If other tests run too, or `--tb` is given, pytest reports as usual.
    """
    places = [Path(arg.partition("::")[0]).resolve() for arg in config.args]
    for i, place in enumerate(places):
        if place.match(f"{HERE.name}/ch*.py"):
            config.args[i] = str(place.with_name(f"test_{place.name}"))
    if all(HERE in (place, *place.parents) for place in places) and config.option.tbstyle == "auto":
        config.option.tbstyle = "no"


def pytest_terminal_summary(terminalreporter, config):
    """List which answers are right and which are not yet, with the messages of the checks."""
    if config.option.tbstyle != "no":
        return
    terminalreporter.reportchars = ""  # pytest's own list of failures
    stats, before, said = terminalreporter.stats, "", ""
    reports = [r for outcome in ("passed", "failed", "error") for r in stats.get(outcome, [])]
    for report in sorted(reports, key=lambda report: report.location[:2]):
        chapter = Path(report.location[0]).stem.removeprefix("test_")
        if chapter != before:
            terminalreporter.section(chapter, "-")
        text, before = str(report.longrepr or ""), chapter
        word = "right" if report.passed else "blank" if text.startswith(BLANK) else "not yet"
        name = report.location[2].removeprefix("test_").replace("_", " ")
        terminalreporter.line(f"{word:8} {name}", green=report.passed, red=report.failed)
        if text not in ("", said):  # report a file that cannot be read once
            terminalreporter.line(textwrap.indent(text, " " * 9))
        if report.failed and report.capstdout:
            printed = textwrap.indent(report.capstdout.rstrip(), " " * 13)
            terminalreporter.line(f"           printed\n{printed}")
        said = text


class Exercise:
    """A file of answers.

    Args:
        path: the file; read at the first call, so that an error in it fails every check.
    """

    def __init__(self, path):
        self.path = path
        self.last = "", None  # the last call and its result

    @functools.cached_property
    def answers(self):
        """The names that the file defines."""
        names = {"__name__": self.path.stem}
        with self.in_words(f"{self.path.name} cannot be read, so none of it can be checked"):
            source = self.path.read_text(encoding="utf-8")
            exec(compile(source, str(self.path), "exec", dont_inherit=True), names)
        return SimpleNamespace(**names)

    def expect(self, name, *arguments, expected, hints=None, usual=""):
        """Call an answer and compare its result; see `call` and `compare`."""
        got = self.call(name, *arguments, usual=usual)
        self.compare(f"{name}({words_of(arguments)})", got, expected, hints, usual)

    def call(self, name, *arguments, usual=""):
        """Return the result of the answer `name`; fail with a message if it is None or raises."""
        function = getattr(self.answers, name, None)
        said = f"{name}({words_of(arguments)})"
        if not callable(function):
            self.fail(f"{self.path.name} has no function `{name}`", usual="was it renamed?")
        before = copy.deepcopy(tuple(x for x in arguments if isinstance(x, (np.ndarray, list))))
        with self.in_words(said, usual):
            result = function(*arguments)
            result = list(result) if inspect.isgenerator(result) else result
        self.last = said, result
        after = tuple(x for x in arguments if isinstance(x, (np.ndarray, list)))
        if result is None or result is ...:
            self.fail(said, "  returned nothing", usual="is a `return` missing?")
        if not same(after, before):
            usual = "work on a copy: x = x - 1, not x -= 1"
            self.fail(said, "  modified its arguments", usual=usual)
        return result

    def compare(self, said, got, expected, hints=None, usual=""):
        """Fail unless `got` equals `expected`.

        `hints` maps hints to the results of mistakes. The hint whose result equals `got` is shown,
        otherwise `usual`. In a tuple, some parts may be right.
        """
        if same(got, expected):
            return
        mistakes = (hints or {}).items()
        hint = [hint for hint, mistake in mistakes if same(got, mistake)]
        hint += [hint for hint, mistake in mistakes if explains(mistake, got, expected)]
        shapes, where = (shape_of(got), shape_of(expected)), ""
        if shapes[0] == shapes[1]:
            shapes = "", ""
            if isinstance(expected, np.ndarray) and expected.size > 20:
                place = tuple(np.argwhere(~np.isclose(got, expected, 1e-5, 1e-5))[0].tolist())
                got, expected, where = got[place], expected[place], f" at {place}"
        given = f"  got      {words(got)}{shapes[0]}{where}"
        self.fail(said, given, f"  expected {words(expected)}{shapes[1]}", usual=[*hint, usual][0])

    def gradients(self, name, *arguments, gradient, usual=""):
        """Call an operation on float64 tensors; return the gradients of inputs given as lists."""
        usual = usual or "backward returns a list or pair: one tensor per input, of its shape"
        inputs = [tensor(x) if isinstance(x, list) else x for x in arguments]
        out = self.call(name, *inputs, usual=usual)
        said = f"backward of {name}({words_of(arguments)}), given the gradient {words(gradient)}"
        with self.in_words(said, usual):
            out.backward(tensor(gradient))
        found = tuple(x.grad for x in inputs if isinstance(x, minidl.Tensor))
        if any(x is None for x in found):
            self.fail(said, "  an input got no gradient", usual="return one gradient per input")
        return said, tuple(x.numpy() for x in found)

    def gradcheck(self, name, inputs, *options, usual=""):
        """Compare first and second derivatives of an operation with finite differences."""
        inputs = [*map(tensor, inputs), *options]
        self.call(name, *inputs)
        with self.in_words(f"gradcheck of {name}", usual):
            try:
                minidl.gradcheck(getattr(self.answers, name), inputs, order=2)
            except GradcheckError as error:
                if not any(check.wrong for check in error.report.checks if check.order == 1):
                    usual = (
                        "right, but wrong when differentiated again: backward must compute with "
                        "the tensors themselves, not with their arrays (.array)"
                    )
                self.fail(str(error), usual=usual)

    @contextlib.contextmanager
    def in_words(self, said, usual=""):
        """Turn an error inside a `with` block into a failure that names the line it came from."""
        try:
            yield
            return
        except NotImplementedError as error:
            lines, usual = [f"{BLANK}: {said.partition('(')[0]} ({self.place_of(error)})"], ""
        except SyntaxError as error:
            place = f"{Path(error.filename or self.path).name}, line {error.lineno}"
            line = f"  {place}: {(error.text or '').strip()}"
            lines = [said, line, f"  {type(error).__name__}: {error.msg}"]
        except Exception as error:
            place = f"  raised in {self.place_of(error, with_text=True)}"
            lines = [said, place, f"  {type(error).__name__}: {error}"]
        self.fail(*lines, usual=usual)

    def place_of(self, error, with_text=False):
        """Return which line of the answers an error came from."""
        trace = traceback.extract_tb(error.__traceback__)
        lines = [frame for frame in trace if frame.filename == str(self.path)]
        if not lines:
            return self.path.name
        text = f": {lines[-1].line}" if with_text else ""
        return f"{self.path.name}, line {lines[-1].lineno}{text}"

    def fail(self, *lines, usual=""):
        """Fail with lines of text and a hint, without a traceback through these checks."""
        hint = textwrap.wrap(f"hint: {usual}", 80, initial_indent="  ", subsequent_indent=" " * 8)
        message = "\n".join([*lines, *(hint if usual else [])])
        raise pytest.fail.Exception(message, pytrace=False) from None


def tensor(values):
    return minidl.Tensor(np.array(values, np.float64), requires_grad=True)


def words_of(arguments):
    return ", ".join(words(x) for x in arguments)


def words(value):
    """Return a short text for a value."""
    if isinstance(value, minidl.Tensor):
        return words(value.data)  # .numpy() would count as a sync
    if isinstance(value, np.ndarray) and value.ndim:
        if value.size > 20:
            return f"an array of shape {value.shape}"
        return " ".join(np.array2string(value, precision=4, separator=", ").split())
    if isinstance(value, (list, tuple)):
        inside = words_of(value) if len(value) < 10 else f"{words_of(value[:3])}, ..."
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    if isinstance(value, (np.ndarray, np.generic)):
        return words(value.item())
    if isinstance(value, np.random.Generator):
        return "rng"
    name = getattr(value, "__name__", None) or repr(value)
    return type(value).__name__ if "\n" in name or name.startswith("<") else name


def same(a, b):
    """Tell whether `a` equals `b`: numbers up to rounding, tuples part by part."""
    if isinstance(b, tuple):
        alike = isinstance(a, (tuple, list, np.ndarray)) and len(a) == len(b)
        return alike and all(same(x, y) for x, y in zip(a, b, strict=True))
    try:
        a, b = (x.numpy() if isinstance(x, minidl.Tensor) else np.asarray(x) for x in (a, b))
    except ValueError:  # lists of different lengths
        return a == b
    if a.shape != b.shape:
        return False
    if a.dtype.kind in "OSU" or b.dtype.kind in "OSU":
        return bool((a == b).all())
    return np.allclose(a, b, rtol=1e-5, atol=1e-5)


def explains(mistake, got, expected):
    """Tell whether every wrong part of `got` is the result of a mistake."""
    if not isinstance(expected, tuple):
        return same(got, mistake)
    if not isinstance(got, (tuple, list, np.ndarray)) or len(got) != len(expected):
        return False
    parts = zip(mistake, got, expected, strict=True)
    return all(same(found, wrong) or same(found, right) for wrong, found, right in parts)


def shape_of(value):
    """Describe the shape of an array, or the length of a list or tuple."""
    if not isinstance(value, (tuple, list, np.ndarray, minidl.Tensor)):
        return ""
    try:
        shape = np.shape(value)
    except ValueError:  # lists of different lengths
        shape = (len(value),)
    if isinstance(value, tuple) or len(shape) == 1:
        return f", of length {len(value)}"
    return f", of shape {shape}" if shape else ""
