"""The form of the chapters, glossary and FAQ: what a reader can rely on in each of them."""

import ast
import re

import pytest

from .test_promises import CHAPTERS, ROOT, by_name, cells

PAGES = sorted((ROOT / "chapters").glob("*.md"))


def text_of(path):
    return path.read_text(encoding="utf-8")


def prose(path):
    """Return the text of a chapter's Markdown cells, without the comment signs."""
    found = [cell for _, cell in cells(text_of(path)) if cell.startswith("# %% [markdown]")]
    lines = [line[2:] for cell in found for line in cell.splitlines()[1:]]
    return "\n".join(lines)


@by_name
def test_a_chapter_is_short_and_begins_with_its_idea(chapter):
    lines = text_of(chapter).splitlines()
    assert len(lines) < 250
    first = next(i for i, line in enumerate(lines) if line == "# %% [markdown]")
    number = int(chapter.stem[2:4])
    assert lines[first + 1].startswith(f"# # {number}. ")
    idea = " ".join(line[2:] for line in lines[first + 2 : 20] if line.startswith("# "))
    assert len(idea.split()) > 25, f"the idea within 20 lines, got {idea!r}"
    assert "**What you will learn:**" in prose(chapter)


@by_name
def test_prose_stands_in_markdown_cells_and_code_in_others(chapter):
    for number, cell in cells(text_of(chapter))[1:]:
        head, *rest = cell.splitlines()
        assert head in ("# %% [markdown]", "# %%", '# %% tags=["hide-input"]'), f"line {number}"
        if head == "# %% [markdown]":
            assert all(line.startswith("#") or not line for line in rest), f"line {number}"
        else:
            assert ast.parse(cell).body, f"a cell without code in line {number}"


@by_name
def test_every_figure_says_what_to_look_at(chapter):
    calls = [
        node
        for node in ast.walk(ast.parse(text_of(chapter)))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") in ("keep", "play", "explore")
    ]
    assert calls
    for call in calls:
        look = ast.unparse(call.args[-1])
        assert len(look.split()) > 5, f"line {call.lineno}: {look}"


@by_name
def test_a_chapter_asks_and_says_where_to_read_on(chapter):
    words = prose(chapter)
    assert "**Predict, then run" in words
    assert "**Change this and explain" in words
    assert re.search(r"Further reading.*\]\(https://", words, re.DOTALL)


def glossary():
    """Yield (term, Chinese, meaning, chapter) from the table of the glossary."""
    rows = re.findall(r"^\|.*\|$", text_of(ROOT / "chapters" / "GLOSSARY.md"), re.MULTILINE)
    for row in rows[2:]:  # below the head and its line
        term, chinese, meaning, link = (cell.strip() for cell in row.strip("|").split("|"))
        yield term, chinese, meaning, int(re.fullmatch(r"\[(\d+)\]\(ch.*\.py\)", link)[1])


def test_the_glossary_has_each_term_once_in_order_and_in_chinese():
    terms = list(glossary())
    names = [term.lower() for term, *_ in terms]
    assert len(terms) > 50
    assert names == sorted(set(names))
    for term, chinese, meaning, _ in terms:
        assert re.search(r"[\u4e00-\u9fff]", chinese), term
        assert len(meaning.split()) > 3, term


def test_the_glossary_and_the_chapters_agree():
    """A term is bold once, in the chapter that the glossary names; nothing else is, but labels."""
    bold = []
    for chapter in CHAPTERS:
        for found in re.findall(r"\*\*([^*]+?)\*\*", prose(chapter).replace("\n", " ")):
            if not re.search(r"[:.?]$", found) and not found.startswith(("Predict", "Change")):
                bold.append((found.lower(), int(chapter.stem[2:4])))
    assert sorted(bold) == sorted((term.lower(), number) for term, _, _, number in glossary())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_of_the_pages_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?://)([^)#]*)", text_of(page))
    assert links
    for link in links:
        assert not link or (page.parent / link).exists(), link
