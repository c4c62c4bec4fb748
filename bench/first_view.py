"""The first view over a slow link: Chromium with an empty cache, on a phone's screen, behind a 3G connection.

The link is that of WebPageTest's profiles: 1.6 Mbit/s down, 768 kbit/s up, and 150 ms ("3G Fast") or 300 ms ("3G") until an
answer begins. The processor is this machine's.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.chrome.webdriver import WebDriver

from bench.figure import Figure, Measured, Options
from bench.pages import Reader
from bench.service import Service

KBIT = 1000 / 8
PROFILES = {"3G Fast, 150 ms": 150, "3G, 300 ms": 300}
PAINTED = """
const done = arguments[0];
new PerformanceObserver((list) => list.getEntriesByName("first-contentful-paint").forEach((one) => done(one.startTime)))
  .observe({ type: "paint", buffered: true });
"""
LOADED = "return performance.timing.loadEventEnd - performance.timing.navigationStart"


@contextmanager
def phone() -> Iterator[WebDriver]:
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and driver):
        raise RuntimeError("needs Debian's chromium and chromium-driver")
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for argument in (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=390,844",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        page = webdriver.Chrome(options=options, service=Driver(driver))
        try:
            yield page
        finally:
            page.quit()


def measure(options: Options) -> Measured:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made, Service(Path(made)) as service, phone() as page:
        base = f"http://127.0.0.1:{service.port}"
        page.get(f"{base}/sign-in")
        for what, path, cookies in (
            ("sign-in", "/sign-in", {}),
            ("overview", "/", dict(part.split("=", 1) for part in Reader(service.port).cookie.split("; "))),
        ):
            for name, value in cookies.items():
                page.add_cookie({"name": name, "value": value})
            for profile, latency in PROFILES.items():
                looks = [_look(page, base + path, latency) for _ in range(options.rounds)]
                painted, loaded, sizes = zip(*looks, strict=True)
                goal = {"at_most": 1000} if latency == min(PROFILES.values()) else {}
                figures.append(Figure.of(f"{what}: seen, {profile}", painted, "ms", **goal))
                figures.append(Figure.of(f"{what}: all of it there, {profile}", loaded, "ms"))
            figures.append(Figure.of(f"{what}: over the line in all", sizes, "KB", at_most=100))
    return Measured(figures)


def _look(page: WebDriver, url: str, latency: int) -> tuple[float, float, float]:
    """Milliseconds until something is seen, and until all of it is there; KB of answers with their heads."""
    page.get("about:blank")
    page.execute_cdp_cmd("Network.enable", {})
    page.execute_cdp_cmd("Network.clearBrowserCache", {})
    link = {"offline": False, "latency": latency, "downloadThroughput": 1600 * KBIT, "uploadThroughput": 768 * KBIT}
    page.execute_cdp_cmd("Network.emulateNetworkConditions", link)
    page.get_log("performance")
    page.get(url)
    messages: list[dict[str, Any]] = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    size = sum(m["params"]["encodedDataLength"] for m in messages if m["method"] == "Network.loadingFinished")
    return page.execute_async_script(PAINTED), page.execute_script(LOADED), size / 1000
