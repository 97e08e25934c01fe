"""What the README shows must run."""

import doctest
import re
from pathlib import Path

from minidl import functional

from . import test_ops
from .helpers import op_table

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


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


def test_files_that_the_readme_links_to_exist():
    root = Path(__file__).resolve().parent.parent
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (root / target).is_file(), target


def test_the_readme_gives_one_command_to_train_and_one_to_test():
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert [command.rpartition(" && ")[2] for command in commands] == [
        ".venv/bin/python chapters/ch06_cifar10_cnn.py",
        ".venv/bin/python -m pytest",
    ]


def test_the_operation_that_the_readme_adds_passes_the_tests_of_every_operation(
    device, monkeypatch
):
    section = README.partition("\n## Adding an operation\n")[2].partition("\n## ")[0]
    (text,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    (row,) = re.findall(r"^```py\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(text, "README.md", "exec"), names)
    name = re.search(r"^def (\w+)", text, re.MULTILINE)[1]
    assert not hasattr(functional, name), f"minidl has {name} now; choose another example"
    monkeypatch.setattr(functional, name, names[name], raising=False)
    op = eval(row, vars(op_table))
    assert op.name == f"functional.{name}"

    for of in op.cases:
        test_ops.test_value_is_that_of_the_reference(op, of, device)
        test_ops.test_gradients_to_order_two_are_those_of_differences(
            op, of, device, lambda *_: None
        )
        for dtype in test_ops.FLOATS:
            test_ops.test_dtype_of_inputs_is_that_of_output_and_gradients(op, of, dtype, device)
    (example,) = doctest.DocTestFinder().find(names[name], name, globs=dict(names), module=False)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
