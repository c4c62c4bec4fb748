"""A real browser for tests: Debian's Chromium, driven by Selenium."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.remote.webdriver import WebDriver

PACKAGES = ("chromium", "chromium-driver")
INSTALL = f"apt-get install -y --no-install-recommends {' '.join(PACKAGES)}"
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1280,900", "--lang=en",
)  # fmt: skip


def installed() -> tuple[str, str]:
    """The browser's program and its driver's. Installs them where that may be done; else fails with the line to type."""
    found = _found()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in ("apt-get update", INSTALL):
            subprocess.run(command.split(), env=environment, capture_output=True, check=False, timeout=600)
        found = _found()
    assert found, f"the browser tests need Chromium and its driver; type: sudo {INSTALL}"
    return found


def _found() -> tuple[str, str] | None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextmanager
def chromium(*arguments: str) -> Iterator[WebDriver]:
    """A browser with a profile of its own, which is gone afterwards."""
    browser, driver = installed()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for argument in (*ARGUMENTS, f"--user-data-dir={Path(profile)}", *arguments):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        page = webdriver.Chrome(options=options, service=Driver(driver))
        try:
            page.set_page_load_timeout(30)
            yield page
        finally:
            page.quit()


@contextmanager
def with_script(page: WebDriver, source: str) -> Iterator[None]:
    """On each page that is opened, before its own."""
    added = page.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    try:
        yield
    finally:
        page.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
