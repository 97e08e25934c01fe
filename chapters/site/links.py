"""Check every link of the written pages: one that leads nowhere fails the build."""

from __future__ import annotations

import os
import re
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

logger = logging.getLogger(__name__)


LINK = re.compile(r"""<\w[^<>]*?\s(?:href|src)=["']([^"'<>]+)["']""")
ANCHOR = re.compile(r"""<\w[^<>]*?\sid=["']([^"'<>]+)["']""")


def broken_links(folder: Path) -> list[str]:
    """Return a line for each link within a folder of pages that leads nowhere.

    Regular expressions, because Python's parser of HTML takes 15 s for 15 MB. They need what Sphinx
    writes: no quotes and angle brackets in text or attributes other than their own.
    """
    folder = folder.resolve()
    pages = {str(path): path.read_text("utf-8") for path in sorted(folder.rglob("*.html"))}
    anchors = {path: set(map(unescape, ANCHOR.findall(text))) for path, text in pages.items()}
    files = {str(path) for path in folder.rglob("*") if path.is_file()}
    found = []
    for path, text in pages.items():
        for link in map(unescape, dict.fromkeys(LINK.findall(text))):
            complaint = _complaint(link, path, files, anchors)
            if complaint:
                found.append(f"{os.path.relpath(path, folder)}: {link}: {complaint}")
    return found


def _complaint(link: str, path: str, files: set[str], anchors: dict[str, set[str]]) -> str:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return ""
    if parts.path.startswith("/"):
        return "not relative: it breaks where the site is not at the top of its host"
    target = path
    if parts.path:
        target = os.path.normpath(os.path.join(os.path.dirname(path), unquote(parts.path)))
    target = target if target in files else os.path.join(target, "index.html")
    if target not in files:
        return "no such file"
    if parts.fragment and unquote(parts.fragment) not in anchors.get(target, {parts.fragment}):
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
