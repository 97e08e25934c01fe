"""Shared by the checks of all exercises: call an answer, and report the result in plain words.

Install the `test` extra first (`pip install -e '.[test]'`, the README's second command). Then check
a chapter's exercises, or the answers that come with them:

    python -m pytest chapters/exercises -k ch04
    python -m pytest chapters/exercises -k ch04 --answers chapters/solutions

The report says which answers are right and which are not there yet, and, if it recognises a
mistake, which:

    not yet  receptive field grows faster after a stride
             receptive_field([(3, 1), (2, 2), (5, 1)])
               got      8
               expected 12
               hint: the strides are not used: after a stride of 2, neighbours are 2 pixels
                     apart

An exercise is a function without a body. This file and the checks never import a file of answers:
they read it at the first call, so that an error in it becomes a readable message too.

A loop without an end is stopped after 20 s (`--seconds`), or when it has filled 2 GB of memory, and
the other checks go on. Python can only stop between two of its own steps: a single call of NumPy,
or of a C function such as `list(itertools.count())`, has to be ended from outside. In a debugger,
`--seconds inf` sets no limit.
"""

from __future__ import annotations

import _thread
import contextlib
import copy
import functools
import inspect
import linecache
import signal
import sys
import textwrap
import threading
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import minidl
from minidl.inspect import GradcheckError
from minidl.tensor import record

try:
    import resource
except ImportError:  # Windows
    resource = None

HERE = Path(__file__).resolve().parent
BLANK = "not filled in yet"

collect_ignore_glob = ["ch*.py"]


def pytest_addoption(parser):
    parser.addoption("--answers", type=Path, default=HERE, help="folder with the answers to check")
    parser.addoption("--seconds", type=float, default=20.0, help="time limit of each check")


@pytest.fixture
def exercise(request):
    """The file of answers that the checks in `test_<its name>` belong to."""
    folder = request.config.getoption("--answers", HERE)
    seconds = request.config.getoption("--seconds", 20.0)
    return Exercise(folder / request.path.name.removeprefix("test_"), seconds)


def pytest_pyfunc_call(pyfuncitem):
    """Run a check of an exercise; note which functions it called."""
    exercise = pyfuncitem.funcargs["exercise"]
    try:
        judge(pyfuncitem.obj, exercise)
    finally:
        pyfuncitem.user_properties += [("exercise", name) for name in exercise.called]
    return True


def judge(check, exercise):
    """Run a check; if the check itself raises on an answer, the answer is wrong."""
    try:
        with limited(exercise.path, exercise.seconds, exercise.memory):
            check(exercise)
    except TimeUp as error:
        exercise.time_up(exercise.last[0] or exercise.path.name, error)
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
    """List which answers are right and which are not there yet, with the messages of the checks."""
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
    overview(terminalreporter, reports)


def overview(terminalreporter, reports):
    """Say how many exercises of each chapter are right: those whose checks all pass."""
    chapters = {}
    for report in sorted(reports, key=lambda report: report.location[0]):
        exercises = chapters.setdefault(Path(report.location[0]).stem.removeprefix("test_"), {})
        for _, name in report.user_properties:
            exercises[name] = exercises.get(name, True) and report.passed
    if not chapters:
        return
    terminalreporter.section("progress", "-")
    every = [right for exercises in chapters.values() for right in exercises.values()]
    rows = {chapter: list(exercises.values()) for chapter, exercises in chapters.items()}
    for chapter, rights in (rows | {"together": every} if len(rows) > 1 else rows).items():
        terminalreporter.line(f"{chapter:28} {sum(rights)} of {len(rights)} right")


class TimeUp(BaseException):
    """An answer took too long; no Exception, which an answer might catch."""


@contextlib.contextmanager
def limited(path, seconds, memory):
    """Raise `TimeUp` in a `with` block when code in the file `path` takes too long or too much.

    A thread watches the clock and the memory. When it is time, it calls for the handler of Ctrl-C,
    again and again until the block ends: the handler raises only while the file's code is running,
    so not while the error is being reported.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can be interrupted
        return
    start, before = time.monotonic(), peak_memory()
    over, reasons = threading.Event(), []

    def watch():
        while not over.wait(0.05):
            if time.monotonic() - start > seconds:
                reasons.append(f"took more than {seconds:g} s")
            elif peak_memory() - before > memory:
                reasons.append(f"took more than {memory / 1e9:g} GB of memory")
            if reasons:
                _thread.interrupt_main()

    def interrupted(number, frame):
        if not reasons:  # Ctrl-C
            if previous is not signal.SIG_IGN:
                (previous if callable(previous) else signal.default_int_handler)(number, frame)
        elif any(f.f_code.co_filename == str(path) for f, _ in traceback.walk_stack(frame)):
            raise TimeUp(reasons[0])

    previous = signal.signal(signal.SIGINT, interrupted)
    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
        signal.signal(signal.SIGINT, signal.SIG_DFL if previous is None else previous)


def peak_memory():
    """Return the most memory that this process has used, in bytes, or on Windows an estimate."""
    if resource is None:
        return 64 * sys.getallocatedblocks()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


class Exercise:
    """A file of answers.

    Args:
        path: the file; read at the first call, so that an error in it fails every check.
        seconds: how long a check may take.
        memory: by how many bytes a check may raise the memory in use.
    """

    def __init__(self, path, seconds=20.0, memory=2e9):
        self.path, self.seconds, self.memory = path, seconds, memory
        self.last = "", None  # the last call and its result
        self.called = {}  # the names of the functions called so far

    @functools.cached_property
    def answers(self):
        """The names that the file defines."""
        names = {"__name__": self.path.stem}
        with self.in_words(f"{self.path.name} cannot be read, so none of it can be checked"):
            source = self.path.read_text(encoding="utf-8")
            exec(compile(source, str(self.path), "exec", dont_inherit=True), names)
        if names.get("record") is record:
            names["record"] = self.record
        return SimpleNamespace(**names)

    def record(self, op, array, inputs, backward, takes_output=False):
        """Call minidl's `record`, with a `backward` that must return a list or tuple of tensors."""

        def checked(*arguments):
            found = backward(*arguments)
            if not isinstance(found, (list, tuple)):
                usual = (
                    f"record expects a list or tuple, got {kind_of(found)}: return [dx] or dx, dy"
                )
            elif strange := [x for x in found if not isinstance(x, (minidl.Tensor, type(None)))]:
                usual = (
                    f"record expects tensors, got {kind_of(strange[0])}: compute with tensors such "
                    "as gradient itself, not with their arrays (.array, .numpy())"
                )
            else:
                return found
            line = returning_line(backward, arguments)
            linecache.checkcache(str(self.path))
            text = linecache.getline(str(self.path), line).strip()
            place = f"  returned in {self.path.name}, line {line}: {text}"
            return self.fail(f"backward of {op}", place, usual=usual)

        return record(op, array, inputs, checked, takes_output)

    def expect(self, name, *arguments, expected, hints=None, usual=""):
        """Call an answer and compare its result; see `call` and `compare`."""
        got = self.call(name, *arguments, usual=usual)
        self.compare(f"{name}({words_of(arguments)})", got, expected, hints, usual)

    def call(self, name, *arguments, usual=""):
        """Return the result of the answer `name`; fail with a message if it is None or raises."""
        said = f"{name}({words_of(arguments)})"
        self.called[name] = self.last = said, None
        function = getattr(self.answers, name, None)
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
                index = tuple(np.argwhere(~np.isclose(got, expected, 1e-5, 1e-5))[0].tolist())
                got, expected, where = got[index], expected[index], f" at {index}"
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
        shapes = " and ".join(str(x.shape) for x in inputs if isinstance(x, minidl.Tensor))
        raised = (
            "an error was raised before any value was compared: does it work for inputs of shape "
            f"{shapes}?"
        )
        with self.in_words(f"gradcheck of {name}", raised):
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
        except TimeUp as error:
            self.time_up(said, error)
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

    def time_up(self, said, error):
        """Fail because an answer ran too long; name the line that was running."""
        place, _, text = self.place_of(error, with_text=True).partition(": ")
        traceback.clear_frames(error.__traceback__)  # free what filled the memory
        usual = f"does the loop end? {place} was running: {text}"
        self.fail(said, f"  {error}", usual=usual)

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


def kind_of(value):
    """Return what kind of thing `value` is, with its article."""
    if isinstance(value, np.ndarray):
        return "an array"
    return "None" if value is None else f"a {type(value).__name__.lower()}"


def returning_line(function, arguments):
    """Call a function again; return the number of the line in which it returns."""
    lines, before = [function.__code__.co_firstlineno], sys.getprofile()

    def note(frame, event, _):
        if event == "return" and frame.f_code is function.__code__:
            lines.append(frame.f_lineno)

    sys.setprofile(note)
    try:
        function(*arguments)
    finally:
        sys.setprofile(before)
    return lines[-1]


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
