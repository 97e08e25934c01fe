"""How Sphinx builds the course's pages; see README.md here for the commands."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

SITE = Path(__file__).parent
ROOT = SITE.parent.parent
sys.path.insert(0, str(SITE))  # the extensions below lie here

logging.getLogger("jieba").setLevel(logging.WARNING)  # it tells where its dictionary is

project = "minidl"
author = copyright = "The minidl authors"
language = "en"  # -D language=zh_CN for the Chinese pages; `languages` builds both

extensions = ["myst_nb", "reference", "pages", "mathml", "languages", "links"]
exclude_patterns = ["*.py", "README.md", "locale", "**/notebooks", "Thumbs.db", ".DS_Store"]
templates_path = ["templates"]
nitpicky = False
suppress_warnings = ["mystnb.unknown_mime_type"]  # the players of moving pictures

# Chapters: scripts in the percent format, run once and kept until the code changes.
nb_custom_formats = {".py": "cells.read"}
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "out" / "site-runs")
nb_execution_timeout = 3600  # seconds for one cell; -t full trains for minutes
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "text/markdown", None)]  # captions: `cells` makes figures

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
myst_dmath_allow_labels = False

html_theme = "furo"
html_title = "minidl"
html_favicon = "static/icon.svg"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_extra_path = ["explorer.html", "explorer.css", "explorer.js", "kinds.js", "pooling.js"]
html_math_renderer = "mathml"
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "languages.html",
        "downloads.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_copy_source = False
html_show_sphinx = False
html_permalinks_icon = "#"
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"

locale_dirs = ["locale"]
gettext_compact = False  # one catalogue for each page
gettext_uuid = False
gettext_location = False
figure_language_filename = "{root}.{language}{ext}"
