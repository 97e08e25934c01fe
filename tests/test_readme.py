"""What the README shows must run."""

import re
from pathlib import Path

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
