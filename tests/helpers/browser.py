"""A headless Chromium for tests of pages, and axe-core in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-prefers-reduced-motion",
)


@contextmanager
def chromium(folder: Path) -> Iterator[Any]:
    """Open a browser whose profile lies in a folder; skip the test where there is none."""
    selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install it")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = program
    for argument in (*ARGUMENTS, f"--user-data-dir={folder}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = selenium.ChromeService(executable_path=driver)
    opened = selenium.Chrome(options=options, service=service)
    opened.set_script_timeout(120)  # axe-core takes half a minute for a large page
    try:
        yield opened
    finally:
        opened.quit()


def barriers(browser: Any) -> list[str]:
    """Return what axe-core finds in the opened page; skip the test where axe-core is absent."""
    axe = pytest.importorskip("axe_core_python.base", reason="needs axe-core-python")
    browser.execute_script(axe.AXE_SCRIPT)
    # A frame is a page of its own and checked as one; a sandboxed frame would never answer.
    found = browser.execute_async_script(
        "const [options, done] = arguments;"
        "axe.run(document, options).then(done, error => done({failed: String(error)}));",
        {"iframes": False},
    )
    assert "failed" not in found, found
    assert found["passes"], "axe-core checked nothing"
    return [
        f"{violation['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"][:3]
    ]
