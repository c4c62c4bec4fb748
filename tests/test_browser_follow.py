"""The dashboard under a person's hands and on a bad line: nothing acts twice, nothing is pulled away, and what is not up to
date says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from person import Person, calls
from service import Service

pytestmark = pytest.mark.timeout(120)

# Later, so that the driver does not wait for the page that the first click leads to.
TWICE = """
const button = arguments[0];
for (const later of [50, 200]) setTimeout(() => button.click(), later);
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("follow")) as service:
        yield service


@pytest.fixture
def person(page: WebDriver, service: Service) -> Person:
    """Who is signed in to the module's service."""
    person = Person(page, service)
    person.comes_back()
    person.complaints()
    return person


def test_a_second_click_sends_nothing_twice(person: Person) -> None:
    """On a slow line, where the first one's answer is still on its way; the next page's form acts again."""
    page = person.page
    calls(person.service, "POST", "/api/user", {"username": "clicked", "proxies": {"vless": {}}})
    person.opens("/user/clicked")
    page.execute_cdp_cmd("Network.enable", {})
    try:
        for charged in (1, 2):
            line = {"offline": False, "latency": 600, "downloadThroughput": -1, "uploadThroughput": -1}
            page.execute_cdp_cmd("Network.emulateNetworkConditions", line)
            person.types("amount", "1")
            before = page.find_element(By.TAG_NAME, "html")
            page.execute_script(TWICE, page.find_element(By.CSS_SELECTOR, "form[action$='/charge'] button"))
            person.goes_on(before, "Charge")
            page.execute_cdp_cmd("Network.emulateNetworkConditions", line | {"latency": 0})
            assert calls(person.service, "GET", "/api/user/clicked")["used_traffic"] == charged * 2**30
            person.sees(f"{charged} GiB")
    finally:
        page.execute_cdp_cmd("Network.emulateNetworkConditions", line | {"latency": 0})
    assert person.complaints() == []
