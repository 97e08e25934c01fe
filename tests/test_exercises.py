"""Exercises: blanks fail, answers pass, and common mistakes get their hints."""

import ast
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from .helpers.mistakes import MISTAKES
from .test_architecture import test_chapters_use_public_names_only as check_public_names

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "chapters").glob("ch*.py"))
EXERCISES = sorted((ROOT / "chapters" / "exercises").glob("ch*.py"))
SOLUTIONS = sorted((ROOT / "chapters" / "solutions").glob("*.py"))
BY_CHAPTER = {path.stem[:4]: path for path in SOLUTIONS}


def load(path):
    spec = importlib.util.spec_from_file_location(f"exercises_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


shared = load(ROOT / "chapters" / "exercises" / "conftest.py")
CHECKS = {}
for path in EXERCISES:
    module = load(path.with_name(f"test_{path.name}"))
    CHECKS[path.stem[:4]] = [f for name, f in vars(module).items() if name.startswith("test_")]


def patient(path):
    """Return answers whose checks have time enough on the busiest machine."""
    return shared.Exercise(path, seconds=600)


def failures(path, exercise=patient, only=""):
    """Run a chapter's checks on a file of answers; return what each says, None where it passes."""
    said = {}
    for check in [check for check in CHECKS[path.stem[:4]] if only in check.__name__]:
        try:
            shared.judge(check, exercise(path))
            said[check.__name__] = None
        except pytest.fail.Exception as failure:
            said[check.__name__] = str(failure)
    return said


def functions(path):
    return {
        node.name: ast.unparse(node.args)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }


def test_every_chapter_has_exercises():
    names = [path.name for path in CHAPTERS]
    assert [name[:4] for name in names] == [f"ch{n:02}" for n in range(1, 1 + len(names))]
    for found in (EXERCISES, SOLUTIONS):
        assert [path.name for path in found] == names
    assert list(CHECKS) == list(MISTAKES) == [name[:4] for name in names]
    for of_one in (*CHECKS.values(), *MISTAKES.values()):
        assert len(of_one) >= 3


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_a_chapter_has_three_exercises_with_the_same_arguments_in_the_answers(path):
    asked, answered = functions(path), functions(BY_CHAPTER[path.stem[:4]])
    assert len(asked) >= 3
    assert asked.items() <= answered.items()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    head = ast.get_docstring(tree)
    assert f"pytest chapters/exercises -k {path.stem[:4]}" in head
    assert "pip install -e '.[test]'" in head
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            assert re.search(r"\n\nDifficulty: [123] of 3\.$", ast.get_docstring(node)), node.name


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_every_answer_says_why_and_every_question_has_an_answer(path):
    text = path.read_text(encoding="utf-8")
    answers = BY_CHAPTER[path.stem[:4]].read_text(encoding="utf-8")
    for name in functions(path):
        assert re.search(rf"^# Why: .+\n(# .*\n)*def {name}\(", answers, re.MULTILINE), name
    for kind in ("Predict, then run", "Change this and explain"):
        assert re.search(rf"^# {kind}: (.*\n# )*?.*\?", text, re.MULTILINE), kind
        assert re.search(rf"^# {kind}\. .+\n# ", answers, re.MULTILINE), kind


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_a_blank_fails_every_check_and_says_that_it_is_blank(path):
    said = failures(path)
    for name, text in said.items():
        assert text is not None, f"{name} passes on a blank"
        assert re.fullmatch(rf"not filled in yet: .* \({path.name}, line \d+\)", text), text
    checked = {name for name in functions(path) if any(name in text for text in said.values())}
    assert checked == set(functions(path))


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_an_answer_passes_every_check(path):
    assert set(failures(path).values()) == {None}


@pytest.mark.parametrize("path", [*EXERCISES, *SOLUTIONS], ids=lambda path: path.parent.name)
def test_exercises_and_answers_use_public_names_only(path):
    check_public_names(path)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("import numpie\n", r"line 1: import numpie\n  ModuleNotFoundError: No module named"),
        ("x = 1\ndef f(:\n", r"line 2: def f\(:\n  SyntaxError: invalid syntax"),
        ("\n\n1 / 0\n", r"line 3: 1 / 0\n  ZeroDivisionError: division by zero"),
        (None, r"FileNotFoundError: "),
    ],
)
@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_no_check_passes_on_a_file_that_cannot_be_read(path, broken, says, tmp_path):
    file = tmp_path / path.name
    if broken is not None:
        file.write_text(broken + path.read_text(encoding="utf-8"), encoding="utf-8")
    for text in failures(file).values():
        assert text.startswith(f"{path.name} cannot be read, so none of it can be checked\n")
        assert re.search(says, text), text


@pytest.mark.parametrize(
    "body", ["return None", "return ...", "pass", "return 0", "return []", "raise OSError"]
)
@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_no_check_passes_on_an_answer_that_does_nothing(path, body, tmp_path):
    """Not even where the check compares little: every function of the file does the same."""
    file = tmp_path / path.name
    file.write_text("".join(f"def {n}({a}):\n    {body}\n" for n, a in functions(path).items()))
    assert None not in failures(file).values()


def test_a_missing_function_is_asked_for(tmp_path):
    file = tmp_path / "ch01_tensors_and_gradients.py"
    file.write_text("def slop(f, x, h):\n    return x\n")
    assert (
        "ch01_tensors_and_gradients.py has no function `slope`"
        in failures(file)["test_slope_of_a_cube_by_hand"]
    )


class Listening(shared.Exercise):
    """Notes the hints that its checks have, and those that they give."""

    def __init__(self, path, has, gives):
        super().__init__(path, seconds=600)
        self.has, self.gives = has, gives

    def compare(self, said, got, expected, hints=None, usual=""):
        self.has.update(hint for hint in [*(hints or {}), usual] if hint)
        super().compare(said, got, expected, hints, usual)

    def fail(self, *lines, usual=""):
        self.gives.add(usual)
        super().fail(*lines, usual=usual)


@pytest.mark.parametrize("chapter", BY_CHAPTER)
def test_usual_mistakes_get_their_hints_and_every_hint_its_mistake(chapter, tmp_path):
    """A hint that no mistake gets would be a mistake of its own."""
    right = BY_CHAPTER[chapter].read_text(encoding="utf-8")
    file = tmp_path / BY_CHAPTER[chapter].name
    has, every = set(), set()
    for old, new, hint in MISTAKES[chapter]:
        assert right.count(old) == 1, old
        file.write_text(right.replace(old, new), encoding="utf-8")
        gives = set()
        said = failures(file, lambda path, gives=gives: Listening(path, has, gives))
        assert any(hint in given for given in gives), (old, new, hint, said)
        every |= gives
    assert has <= every


ENDLESS = "    while best < len(losses):\n        pass\n"


def with_loop(folder, loop, before="    best = 0\n"):
    """Write chapter 3's answers with a loop in `stopping`; return the file and the loop's lines."""
    path = BY_CHAPTER["ch03"]
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1
    file = folder / path.name
    file.write_text(text.replace(before, before + loop), encoding="utf-8")
    first = text[: text.index(before)].count("\n") + before.count("\n") + 1
    return file, range(first, first + loop.count("\n"))


def in_a_moment(path):
    return shared.Exercise(path, seconds=0.2)


@pytest.mark.parametrize(
    "loop",
    [
        ENDLESS,
        "    while True:\n        try:\n            best += 1\n        except Exception: pass\n",
        "    while True:\n        try:\n            best += 1\n        except: pass\n",
        "    import itertools\n    for best in itertools.count():\n        str(best)\n",
    ],
    ids=["plain", "excepting exceptions", "excepting all", "for"],
)
def test_a_loop_without_end_is_stopped_and_the_other_checks_go_on(loop, tmp_path):
    path, lines = with_loop(tmp_path, loop)
    assert set(failures(path, only="adam").values()) == {None}
    for text in failures(path, in_a_moment, only="stopping").values():
        start = (
            r"stopping\(.*\)\n  took more than 0.2 s\n  hint: does the loop end\? ch03_training.py,"
        )
        assert re.match(start, text), text
        text = " ".join(text.split())
        number, line = re.search(r"line (\d+) was running: (.*)", text).groups()
        assert int(number) in lines
        assert line == path.read_text(encoding="utf-8").splitlines()[int(number) - 1].strip()


def test_a_loop_without_end_outside_all_functions_is_stopped(tmp_path):
    file = tmp_path / BY_CHAPTER["ch03"].name
    file.write_text("while True:\n    pass\n")
    (text,) = failures(file, in_a_moment, only="stopping_waits").values()
    assert "took more than 0.2 s\n  hint: does the loop end? ch03_training.py, line" in text


@pytest.mark.parametrize("system", ["here", "Windows"])
def test_a_loop_that_fills_the_memory_is_stopped(tmp_path, system):
    """In a process of its own: the peak of memory is that of all tests before."""
    path, _ = with_loop(tmp_path, "    kept = []\n    while True:\n        kept.append([best])\n")
    code = f"""
from tests.test_exercises import failures, shared
from pathlib import Path
if {system!r} == "Windows":
    shared.resource = None
path = Path({str(path)!r})
greedy = shared.Exercise(path, seconds=600, memory=3e7)
(text,) = failures(path, lambda path: greedy, only="stopping_waits").values()
print(text)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    words = "took more than 0.03 GB of memory\n  hint: does the loop end? ch03_training.py"
    assert words in done.stdout, done.stdout


def test_a_loop_is_stopped_even_if_ctrl_c_is_ignored(tmp_path):
    """As in a program that a shell runs in the background."""
    path, _ = with_loop(tmp_path, ENDLESS)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        (text,) = failures(path, in_a_moment, only="stopping_waits").values()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        quiet, _ = with_loop(
            tmp_path, "    import signal\n    signal.raise_signal(signal.SIGINT)\n"
        )
        assert set(failures(quiet).values()) == {None}
    finally:
        signal.signal(signal.SIGINT, before)
    assert "took more than 0.2 s" in text


def test_checks_in_another_thread_run_without_a_limit():
    found = []
    thread = threading.Thread(target=lambda: found.append(failures(BY_CHAPTER["ch03"])))
    thread.start()
    thread.join()
    assert set(found[0].values()) == {None}


@pytest.fixture
def heeded():
    """A shell's background jobs ignore Ctrl-C, and so do the processes that they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
def test_ctrl_c_stops_a_check_at_once(tmp_path):
    path, _ = with_loop(tmp_path, "    import signal\n    signal.raise_signal(signal.SIGINT)\n")
    with pytest.raises(KeyboardInterrupt):
        failures(path)


def run_pytest(folder, *arguments):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"COLUMNS": "80"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_pytest_says_what_is_blank_from_any_folder(tmp_path):
    done = run_pytest(tmp_path, str(ROOT / "chapters" / "exercises"), "-k", "ch04")
    assert done.returncode == 1, done.stderr
    blank = "blank    columns are windows as rows\n         not filled in yet: columns (ch04_"
    assert "- ch04_convolution -" in done.stdout
    assert blank in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    count = len(CHECKS["ch04"])
    assert re.search(rf"^{count} failed, \d+ deselected", done.stdout, re.MULTILINE)


@pytest.mark.usefixtures("heeded")
def test_pytest_says_after_ctrl_c_what_was_right_so_far(tmp_path):
    with_loop(tmp_path, "    import signal\n    signal.raise_signal(signal.SIGINT)\n")
    arguments = ["chapters/exercises", "-k", "ch03", "--answers", str(tmp_path)]
    done = run_pytest(ROOT, *arguments)
    assert done.returncode == 2, done.stderr
    assert "\nright    adam step moves by lr at first\n" in done.stdout
    assert "ch03_training                2 of 2 right" in done.stdout


def test_pytest_takes_the_time_limit_as_an_option(tmp_path):
    with_loop(tmp_path, ENDLESS)
    chosen = ["-k", "stopping_waits or milliseconds"]
    arguments = ["chapters/exercises", *chosen, "--answers", str(tmp_path), "--seconds", "3"]
    for path in SOLUTIONS:
        if not (tmp_path / path.name).exists():
            (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    done = run_pytest(ROOT, *arguments)
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("took more than 3 s") == 1
    assert "ch03_training                0 of 1 right" in done.stdout
    assert "ch12_gpu                     1 of 1 right" in done.stdout
    assert "together                     1 of 2 right" in done.stdout


def test_pytest_says_what_is_right_and_what_is_not_yet(tmp_path):
    for path in SOLUTIONS:
        text = path.read_text(encoding="utf-8")
        if path.stem == "ch04_convolution":
            text = text.replace("        step *= stride\n", "        print(size, step)\n")
        if path.stem == "ch08_pooling_experiments":
            text += "\nimport numpie\n"
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    done = run_pytest(ROOT, "chapters/exercises", "--answers", str(tmp_path))
    assert done.returncode == 1, done.stderr
    checks = sum(map(len, CHECKS.values()))
    wrong = 1 + len(CHECKS["ch08"])
    assert f"\n{wrong} failed, {checks - wrong} passed in" in done.stdout
    assert done.stdout.count("cannot be read, so none of it can be checked") == 1
    assert (
        """right    receptive field without strides
not yet  receptive field grows faster after a stride
         receptive_field([(3, 1), (2, 2), (5, 1)])
           got      8
           expected 12
           hint: the strides are not used: after a stride of 2, neighbours are 2 pixels
                 apart
           printed
             3 1
             2 1
             5 1
"""
        in done.stdout
    )


def test_a_file_to_fill_in_can_be_named_in_place_of_its_checks():
    option = SimpleNamespace(tbstyle="auto")
    config = SimpleNamespace(args=[str(EXERCISES[3])], option=option)
    shared.pytest_configure(config)
    assert config.args == [str(EXERCISES[3].with_name("test_ch04_convolution.py"))]
    assert option.tbstyle == "no"


def test_beside_other_tests_pytest_reports_as_ever():
    config = SimpleNamespace(
        args=["tests", str(EXERCISES[3])], option=SimpleNamespace(tbstyle="auto")
    )
    shared.pytest_configure(config)
    assert config.option.tbstyle == "auto"
