"""The built site in a real browser: every page opens without a message, and without barriers.

Set `MINIDL_SITE` to the folder that Sphinx wrote (`out/site`); without it, all is skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers.browser import barriers, chromium

SITE = os.environ.get("MINIDL_SITE", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SITE, reason="needs a built site, named by MINIDL_SITE"),
]

CHECKED = (  # a page of each kind, for axe-core
    "index",
    "explore",
    "explorer",
    "course/ch01_tensors_and_gradients",
    "course/ch05_pooling",
    "course/exercises/ch05_pooling",
    "course/glossary",
    "course/faq",
    "course/results",
    "api/index",
    "api/minidl.functional.pooling.kinds",
    "api/minidl.tensor",
    "search",
    "genindex",
    "zh_CN/index",
    "zh_CN/course/ch05_pooling",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def show(browser, page, width=1440, theme="light"):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.get((Path(SITE).resolve() / f"{page}.html").as_uri())
    # The explorer reads its theme from the root element, pages of the course from the body.
    for place in ("body", "documentElement"):
        browser.execute_script(f"document.{place}.dataset.theme = arguments[0]", theme)


def test_every_page_opens_without_a_message(browser):
    paths = sorted(path for path in Path(SITE).rglob("*.html") if "_static" not in path.parts)
    assert len(paths) > 200
    for path in paths:
        browser.get(path.resolve().as_uri())
        messages = [entry["message"] for entry in browser.get_log("browser")]
        assert messages == [], path
        # What a page loads, it loads from its own folder: it also works without a network.
        loaded = browser.execute_script(
            "return performance.getEntriesByType('resource').map(entry => entry.name)"
        )
        assert [name for name in loaded if not name.startswith(("file:", "data:"))] == [], path
    print(f"\n{len(paths)} pages opened, no message in the console")


@pytest.mark.parametrize("page", CHECKED)
def test_a_phone_shows_the_page_without_scrolling_sideways(browser, page):
    show(browser, page, width=390)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", CHECKED)
def test_axe_finds_no_barrier(browser, page, theme, width):
    show(browser, page, width, theme)
    assert barriers(browser) == []


def test_the_search_finds_an_operation(browser):
    show(browser, "search")
    browser.get((Path(SITE).resolve() / "search.html").as_uri() + "?q=lp_pool2d")
    found = browser.execute_async_script(
        "const done = arguments[0]; const look = () => {"
        "const links = [...document.querySelectorAll('#search-results li a')];"
        "links.length > 1 ? done(links.map(link => link.getAttribute('href')))"
        ": setTimeout(look, 100); }; look();"
    )
    assert any("api/minidl.functional.pooling.kinds.html" in link for link in found)


def test_each_language_links_to_the_other(browser):
    show(browser, "course/ch05_pooling")
    browser.find_element("css selector", ".languages a").click()
    assert browser.current_url.endswith("/zh_CN/course/ch05_pooling.html")
    assert browser.execute_script("return document.documentElement.lang") == "zh-CN"
    browser.find_element("css selector", ".languages a").click()
    assert browser.current_url.endswith("/course/ch05_pooling.html")
    assert "zh_CN" not in browser.current_url
