"""The Chinese catalogues: complete, up to date, with the code, formulas and numbers of the texts.

A page that changes fails here until its translation is updated (chapters/site/README.md).
Skipped without Babel, which comes with Sphinx.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SITE = Path(__file__).parent.parent / "chapters" / "site"
CATALOGUES = SITE / "locale" / "zh_CN" / "LC_MESSAGES"

WHOLE = (
    "index",
    "explore",
    "course/glossary",
    "course/exercises/index",
    "course/ch01_tensors_and_gradients",
    "course/ch04_convolution",
    "course/ch05_pooling",
    "course/ch06_kinds_of_pooling",
)
"""Pages that are translated in full; of the others, the title is, for the navigation."""

BRACKET = "\uff08"  # as Chinese writes it; the second word for a term follows
HAN = r"[\u3400-\u9fff]"
# What a translation repeats unchanged: code, formulas, targets of links, HTML, file names.
KEPT = re.compile(r"`[^`]+`|\$[^$]+\$|\]\([^)]+\)|<[^>]+>|chapters/[\w/.]+|minidl/[\w/.]+")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e-?\d+)?")


def pages() -> list[str]:
    """Return the names of all catalogues of pages."""
    found = (path.relative_to(CATALOGUES).with_suffix("") for path in CATALOGUES.rglob("*.po"))
    return sorted(path.as_posix() for path in found if path.name != "sphinx")


def entries(path: Path) -> dict[str, str]:
    """Return the texts of a catalogue with their translations, which are not fuzzy."""
    read_po = pytest.importorskip("babel.messages.pofile").read_po
    with path.open("rb") as file:
        catalogue = read_po(file)
    found = [message for message in catalogue if message.id]
    fuzzy = [message.id for message in found if message.fuzzy]
    assert not fuzzy, f"{path.name}: to be corrected: {fuzzy}"
    return {message.id: message.string for message in found}


def prose(text: str) -> str:
    """Return a text without what stays as it is."""
    return KEPT.sub(" ", text)


def mistakes(text: str, translation: str) -> list[str]:
    """Return what is wrong with a translation, apart from its words."""
    found = []
    if not translation.strip():
        return ["empty"]
    if Counter(KEPT.findall(text)) != Counter(KEPT.findall(translation)):
        found.append("code, formulas, links or files differ")
    numbers = (Counter(NUMBER.findall(prose(part))) for part in (text, translation))
    if len(set(map(repr, map(sorted, (n.elements() for n in numbers))))) > 1:
        found.append("numbers differ")
    if text.count("**") != translation.count("**"):
        found.append("terms in bold differ")
    if re.search(rf"{HAN}[,.;:!?]|[,.;:!?]{HAN}", prose(translation)):
        found.append("a half-width mark next to Chinese")
    if re.search(rf"{HAN}[A-Za-z0-9]|[A-Za-z0-9]{HAN}", prose(translation).replace("\\", "")):
        found.append("no space between Chinese and Latin letters or digits")
    if re.match(r"\d+\. |[-+] ", translation):
        found.append("Markdown takes it for a list: escape the mark, as in 5\\.")
    return found


@pytest.mark.parametrize("page", pages())
def test_entries_are_translated(page: str) -> None:
    """No entry is empty or fuzzy; code, links, formulas and numbers are those of the text."""
    found = entries(CATALOGUES / f"{page}.po")
    assert found
    assert page in WHOLE or len(found) == 1
    wrong = {text: said for text, new in found.items() if (said := mistakes(text, new))}
    assert not wrong


def test_glossary_terms_are_used() -> None:
    """A bold term of a translated chapter has its glossary's Chinese name there."""
    table = (SITE.parent / "GLOSSARY.md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", table, re.M)
    names = {term.lower(): chinese.partition(BRACKET)[0] for term, chinese in rows[2:]}
    count = 0
    for page in WHOLE:
        for text, new in entries(CATALOGUES / f"{page}.po").items():
            for term in re.findall(r"\*\*([^*:]+)\*\*", text) if "course/ch" in page else ():
                name = names.get(term.lower())
                if name is not None:
                    count += 1
                    assert name.replace(" ", "") in new.replace(" ", ""), (page, term, name)
    assert count > 30


@pytest.mark.parametrize(
    ("text", "translation", "said"),
    [
        ("**Padding** of 1", "**填充**为 1", []),
        ("a `mul`", "一个乘法", ["code, formulas, links or files differ"]),
        ("$x$ is 3", "$x$ 是 4", ["numbers differ"]),
        ("a, b", "甲,乙", ["a half-width mark next to Chinese"]),
        ("with NumPy", "用NumPy", ["no space between Chinese and Latin letters or digits"]),
        ("5. Pooling", "5. 池化", ["Markdown takes it for a list: escape the mark, as in 5\\."]),
        ("5. Pooling", "5\\. 池化", []),
        ("a kernel", "", ["empty"]),
    ],
)
def test_mistakes_are_found(text: str, translation: str, said: list[str]) -> None:
    """The check above recognises each kind of mistake."""
    assert mistakes(text, translation) == said


@pytest.mark.slow
def test_terms_can_be_searched() -> None:
    """The index holds whole terms: a browser looks for what is typed, not for its parts."""
    for module in ("sphinx", "jupytext"):
        pytest.importorskip(module)
    pytest.importorskip("jieba")
    script = "import jieba, languages; languages._learn_words(); print(*jieba.cut_for_search({!r}))"
    command = [sys.executable, "-c", script.format("感受野与反向传播")]
    done = subprocess.run(command, cwd=SITE, check=True, capture_output=True, encoding="utf-8")
    assert {"感受野", "反向传播"} <= set(done.stdout.split())


@pytest.mark.slow
def test_texts_are_those_of_the_pages(tmp_path: Path) -> None:
    """The catalogues have the texts that the English pages have now, and no others."""
    for module in ("sphinx", "myst_nb", "furo", "jupytext", "latex2mathml"):
        pytest.importorskip(module)
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "gettext", "-t", "texts"]
    subprocess.run([*command, str(SITE), str(tmp_path)], check=True, timeout=1800)
    for page in pages():
        texts, found = entries(tmp_path / f"{page}.pot"), entries(CATALOGUES / f"{page}.po")
        now = set(texts) if page in WHOLE else set(list(texts)[:1])
        assert set(found) == now, f"{page}: update the catalogue, see chapters/site/README.md"
