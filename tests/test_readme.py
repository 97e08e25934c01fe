"""What the README and the other pages show must run, and what they link to must exist."""

import doctest
import re
from pathlib import Path

import pytest

from minidl import functional

from . import test_ops
from .helpers import op_table

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ADDING = (ROOT / "minidl" / "functional" / "README.md").read_text(encoding="utf-8")
PAGES = [
    "README.md",
    "chapters/FAQ.md",
    "chapters/GLOSSARY.md",
    "datasets/README.md",
    "minidl/functional/README.md",
    "tests/README.md",
    "tests/benchmarks/NOTES.md",
    "tests/benchmarks/PRECISION.md",
    "tests/benchmarks/RESULTS.md",
]
WORDS = 1_500  # of the README; more belongs on a page of its own


def test_the_python_of_the_readme_runs_and_prints_what_it_says(capsys, tmp_path, monkeypatch):
    """What it says: in comments behind `print(...)`, or in a block of text right after."""
    monkeypatch.chdir(tmp_path)
    fence = r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?"
    blocks = re.findall(fence, README, re.MULTILINE | re.DOTALL)
    assert blocks
    for block, text in blocks:
        promised = text or "\n".join(re.findall(r"print\(.*\)  # (.*)", block))
        exec(compile(block, "README.md", "exec"), {})
        printed = [line.rstrip() for line in capsys.readouterr().out.strip().splitlines()]
        assert printed == promised.strip().splitlines()


def _anchors(text):
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_links_to_exists(page):
    for link in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.is_file(), link
        assert not anchor or anchor in _anchors(target.read_text(encoding="utf-8")), link


def test_the_readme_is_short():
    text = re.sub(r"^```text\n.*?^```\n", "", README, flags=re.MULTILINE | re.DOTALL)
    assert len(text.split()) < WORDS


def test_the_readme_gives_one_command_to_train_and_one_to_test():
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert [command.rpartition(" && ")[2] for command in commands] == [
        ".venv/bin/python chapters/ch07_cifar10_cnn.py",
        ".venv/bin/python -m pytest",
    ]


def test_the_operation_that_is_added_passes_the_tests_of_every_operation(device, monkeypatch):
    (text,) = re.findall(r"^```python\n(.*?)^```", ADDING, re.MULTILINE | re.DOTALL)
    (row,) = re.findall(r"^```py\n(.*?)^```", ADDING, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(text, "minidl/functional/README.md", "exec"), names)
    name = re.search(r"^def (\w+)", text, re.MULTILINE)[1]
    assert not hasattr(functional, name), f"minidl has {name} now; choose another example"
    monkeypatch.setattr(functional, name, names[name], raising=False)
    op = eval(row, vars(op_table))
    assert op.name == f"functional.{name}"

    test_ops.test_value_is_that_of_the_reference(op, device=device)
    for dtype in test_ops.FLOATS:
        test_ops.test_dtype_of_inputs_is_that_of_output_and_gradients(
            op, dtype=dtype, device=device
        )
    for of in op.cases:
        test_ops.test_gradients_to_order_two_are_those_of_differences(
            op, of, False, device, lambda *_: None
        )
    (example,) = doctest.DocTestFinder().find(names[name], name, globs=dict(names), module=False)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
