"""Check every link of the written pages: one that leads nowhere fails the build."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

logger = logging.getLogger(__name__)


class Page(HTMLParser):
    """The links and anchors of a page; the files it loads count as links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the addresses and names of an element."""
        for name, value in attrs:
            if name in {"href", "src"} and value:
                self.links.append(value)
            elif name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value or "")


def broken_links(folder: Path) -> list[str]:
    """Return a line for each link within a folder of pages that leads nowhere.

    A file that a page loads from the network counts as broken too.
    """
    pages = {path: Page(path.read_text("utf-8")) for path in sorted(folder.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for link in dict.fromkeys(page.links):
            complaint = _complaint(link, path, pages)
            if complaint:
                found.append(f"{path.relative_to(folder)}: {link}: {complaint}")
    return found


def _complaint(link: str, path: Path, pages: dict[Path, Page]) -> str:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return ""
    if parts.path.startswith("/"):
        return "not relative: it breaks where the site is not at the top of its host"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        return "no such file"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return "no such anchor"
    return ""


def _check(app: Sphinx, error: Exception | None) -> None:
    # English is built last: the pages of other languages then lie in a folder within.
    if error is not None or app.builder.name != "html" or app.config.language != "en":
        return
    found = broken_links(Path(app.outdir).resolve())
    for line in found:
        logger.error("broken link: %s", line)
    if found:
        raise ExtensionError(f"{len(found)} broken links")


def setup(app: Sphinx) -> dict[str, Any]:
    """Check after everything is written, the other languages included."""
    app.connect("build-finished", _check, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
