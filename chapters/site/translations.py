"""Update the catalogues of translated texts after the English pages changed.

    python -m sphinx -q -b gettext -t texts chapters/site out/gettext
    python chapters/site/translations.py out/gettext

A text that changed a little keeps its translation, marked "fuzzy", to be corrected by hand; the
pages show it in English until then. A catalogue with one entry translates a page's title, for the
navigation; name a page, such as course/ch07_cifar10_cnn, to get the entries of all its texts.
`sphinx.po` has words of the theme: no page has those texts.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

LOCALE = Path(__file__).parent / "locale"

HEADER = """\
msgid ""
msgstr ""
"Language: {language}\\n"
"Content-Type: text/plain; charset=utf-8\\n"

"""


def read(path: Path) -> Catalog:
    """Return a catalogue, or a template of one; an empty one if there is no file."""
    if not path.is_file():
        return Catalog()
    with path.open("rb") as file:
        return read_po(file)


def write(path: Path, catalogue: Catalog) -> None:
    """Write a catalogue: a line for each text and one for its translation, no dates."""
    language = path.relative_to(LOCALE).parts[0]
    written = io.BytesIO()
    write_po(written, catalogue, width=0, omit_header=True, ignore_obsolete=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = HEADER.format(language=language) + written.getvalue().decode().strip() + "\n"
    path.write_text(text, "utf-8", newline="\n")


def updated(catalogue: Catalog, template: Catalog, whole: bool) -> Catalog:
    """Return the template's entries with the catalogue's translations.

    Args:
        catalogue: with translations; an entry whose text changed a little becomes fuzzy.
        template: the page's texts.
        whole: whether to return all entries, instead of the first: the page's title.
    """
    texts = [message.id for message in template if message.id]
    kept = Catalog(charset="utf-8")
    for text in texts if whole else texts[:1]:
        kept.add(text)
    catalogue.update(kept)
    return catalogue


def main() -> None:
    """Update every catalogue of every language."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("templates", type=Path, help="what the first command wrote")
    parser.add_argument("pages", nargs="*", help="pages whose catalogues are to hold all texts")
    arguments = parser.parse_args()
    for folder in sorted(LOCALE.glob("*/LC_MESSAGES")):
        pages = {path.relative_to(folder).with_suffix("") for path in folder.rglob("*.po")}
        pages.discard(Path("sphinx"))
        for page in sorted(pages | {Path(page) for page in arguments.pages}):
            path, catalogue = folder / f"{page}.po", read(folder / f"{page}.po")
            whole = len(catalogue) > 1 or str(page) in arguments.pages
            template = read(arguments.templates / f"{page}.pot")
            write(path, updated(catalogue, template, whole))
            texts = [message for message in read(path) if message.id]  # the head has none
            done = sum(bool(text.string) and not text.fuzzy for text in texts)
            print(f"{path.relative_to(LOCALE)}: {done} of {len(texts)} translated")


if __name__ == "__main__":
    main()
