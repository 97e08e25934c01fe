"""The Chinese pages, built after the English ones, and links on each page between the two."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cells
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

OTHERS = {"zh_CN": "中文"}
"""The languages beside English: the folder of their catalogues and pages, and their own name."""

WORDS = {
    "en": {"switch": "Language"},
    "zh_CN": {"switch": "语言", "untranslated": "本页正文暂为英文。"},
}
"""What the templates say beside the texts of catalogues."""

PROMPTS = {"zh_CN": ("展开代码", "收起代码")}
"""What the button of a folded cell says."""

DESCRIPTION = (
    '\n<meta name="description" '
    'content="minidl: a deep learning framework in NumPy, and a course that explains it">'
)

ENGLISH_ONLY = ("api", "_modules", "py-modindex")
"""Folders of pages that are built once, and that pages of all languages link to."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Build the other languages after English."""
    app.connect("config-inited", _leave_out)
    app.connect("html-page-context", _links)
    app.connect("build-finished", _build_others, priority=800)  # before the links are checked
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _leave_out(app: Sphinx, config: Config) -> None:
    cells.is_extraction = "texts" in app.tags
    if cells.is_extraction:
        config.nb_execution_mode = "off"
    if cells.is_extraction or config.language in OTHERS:
        config.exclude_patterns += [f"{folder}/**" for folder in ENGLISH_ONLY]
        config.suppress_warnings += ["toc.excluded"]
    if config.language == "zh_CN":
        _learn_words()
    if config.language in PROMPTS:
        config.nb_code_prompt_show, config.nb_code_prompt_hide = PROMPTS[config.language]


def _learn_words() -> None:
    """Have the search's index hold the glossary's Chinese terms, which jieba takes apart."""
    import jieba  # type: ignore[import-untyped]  # takes seconds; for Chinese pages only

    table = (Path(__file__).parent.parent / "GLOSSARY.md").read_text("utf-8")
    for column in re.findall(r"^\| [^|]+ \| ([^|]+) \|", table, re.M):
        for term in re.findall(r"[\u3400-\u9fff]{2,}", column):
            jieba.add_word(term)


def _links(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Give the template its links to the same page in other languages."""
    language = app.config.language
    context["words"] = WORDS[language]
    context["metatags"] = context.get("metatags", "") + DESCRIPTION
    up = "../" * page.count("/")
    if language in OTHERS:
        context["languages"] = [("en", "English", f"{up}../{page}.html")]
        progress = doctree.get("translation_progress", {}) if doctree else {}
        if progress.get("translated", 2) < 2:  # the title at most
            note = WORDS[language]["untranslated"]
            context["body"] = f'<p class="untranslated">{note}</p>\n{context["body"]}'
        if "body" in context:
            folders = "|".join(ENGLISH_ONLY)
            context["body"] = re.sub(
                rf'href="((?:\.\./)*)(?=(?:{folders})/)', r'href="\1../', context["body"]
            )
        return
    there = "index" if page.startswith(ENGLISH_ONLY) else page
    context["languages"] = [
        (code, name, f"{up}{code}/{there}.html") for code, name in OTHERS.items()
    ]


def _build_others(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.name != "html" or app.config.language in OTHERS:
        return
    inputs = _inputs(app)
    for code in OTHERS:
        built_from = Path(app.doctreedir) / f"{code}.inputs"
        if built_from.is_file() and built_from.read_text("utf-8") == inputs:
            continue  # a build without changes takes 10 s instead of 20
        built_from.unlink(missing_ok=True)
        # Another process: docutils keeps the first language's directives.
        command = [sys.executable, "-m", "sphinx", "-q", "-D", f"language={code}"]
        command += ["-W"] * app.warningiserror + [f"-t{tag}" for tag in app.tags if tag == "full"]
        command += ["-d", str(Path(app.doctreedir) / code)]
        command += ["-D", f"nb_execution_mode={app.config.nb_execution_mode}"]
        command += [str(app.srcdir), str(Path(app.outdir) / code)]
        if subprocess.run(command, env=os.environ, check=False).returncode:
            raise ExtensionError(f"the pages in {code} could not be built")
        built_from.write_text(inputs, "utf-8")


def _inputs(app: Sphinx) -> str:
    """Return a fingerprint of all that the pages in other languages are made of."""
    settings = f"{cells.package_hash()} {cells.is_full} {app.config.nb_execution_mode} {app.outdir}"
    digest = hashlib.sha256(settings.encode())
    for path in sorted(Path(app.srcdir).rglob("*")):
        if path.is_file() and path.suffix not in {".mo", ".pyc"}:
            digest.update(str(path).encode() + path.read_bytes())
    return digest.hexdigest()
