"""As a person uses the dashboard: the service as a process of its own, and a real Chromium before it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement

from chromium import chromium
from marzhook.dashboard.languages import NAMES
from marzhook.testing import eventually
from service import Service

pytestmark = pytest.mark.timeout(180)


class Person:
    """Sees what is on the screen, clicks and types."""

    def __init__(self, page: WebDriver, service: Service) -> None:
        self.page, self.service = page, service
        self.base = f"http://127.0.0.1:{service.port}"

    def opens(self, path: str) -> None:
        self.page.get(self.base + path)

    def clicks(self, text: str) -> None:
        """The button or link with this text. Waits until the page that it leads to is there."""
        before = self.page.find_element(By.TAG_NAME, "html")
        self._of_text(text).click()
        eventually(lambda: _gone(before), what=f"going on after {text!r}")

    def types(self, name: str, text: str) -> None:
        field = self.page.find_element(By.NAME, name)
        field.clear()
        field.send_keys(text)

    def sees(self, text: str) -> None:
        """Sooner or later, without doing anything."""
        eventually(lambda: text in self.screen(), timeout=30, what=f"{text!r} on {self.page.current_url}")

    def screen(self) -> str:
        try:
            return self.page.find_element(By.TAG_NAME, "body").text
        except WebDriverException:
            return ""  # between two pages

    def signs_in(self) -> None:
        self.opens("/")
        self.types("username", "root")
        self.types("password", "toor-toor")
        self.clicks("Sign in")

    def complaints(self) -> list[str]:
        """What the browser itself found wrong: refused by the policy, scripts that failed, addresses that were not there."""
        return [entry["message"] for entry in self.page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def _of_text(self, text: str) -> WebElement:
        path = f"//button[normalize-space()='{text}'] | //a[normalize-space()='{text}']"
        eventually(lambda: self.page.find_elements(By.XPATH, path), what=f"something to click with the text {text!r}")
        return self.page.find_elements(By.XPATH, path)[0]


def _gone(element: WebElement) -> bool:
    try:
        element.is_enabled()
    except StaleElementReferenceException:
        return True
    except WebDriverException:
        return False
    return False


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    # Refused twice, and an event is dead: nobody waits for the usual minutes here.
    with Service(tmp_path_factory.mktemp("browser"), MARZHOOK_REJECTED_SCHEDULE="1") as service:
        yield service


@pytest.fixture(scope="module")
def page(service: Service) -> Iterator[WebDriver]:
    with chromium() as page:
        yield page


@pytest.fixture
def person(page: WebDriver, service: Service) -> Person:
    page.delete_all_cookies()
    person = Person(page, service)
    person.signs_in()
    person.complaints()
    return person


def calls(person: Person, method: str, path: str, body: Any = None) -> Any:
    status, answer = person.service.call(method, path, body)
    assert status < 300, answer
    return answer


def test_from_a_fresh_start_to_a_delivery_that_failed_and_was_mended(person: Person) -> None:
    """Sign in, use the inbox, create a user, watch the event arrive; break the receiver, see why, mend it, replay."""
    person.sees("Events go nowhere yet")
    person.clicks("Use the inbox")
    person.sees("Nothing has arrived yet.")
    inbox = person.page.current_window_handle

    person.page.switch_to.new_window("tab")
    person.opens("/users/new")
    person.types("username", "first_user")
    person.types("data_limit", "10")
    person.clicks("Save")
    person.sees("User created")
    # Delivered, seen on a page that nobody touches.
    person.sees("delivered")
    users = person.page.current_window_handle
    person.page.switch_to.window(inbox)
    person.sees("first_user")
    assert '"action": "user_created"' in person.page.page_source

    person.page.find_element(By.CSS_SELECTOR, "select[name=status] option[value='400']").click()
    person.clicks("Set")
    person.page.switch_to.window(users)
    person.clicks("Disable")
    person.sees("dead")
    person.clicks("User disabled")
    person.sees("refuses the event (400)")
    person.sees("no tries were left")
    assert person.page.find_element(By.CSS_SELECTOR, ".curl").get_attribute("textContent").startswith("curl -i")
    person.opens("/")
    person.sees("refuses the event (400)")

    person.page.switch_to.window(inbox)
    person.page.find_element(By.CSS_SELECTOR, "select[name=status] option[value='200']").click()
    person.clicks("Set")
    person.page.switch_to.window(users)
    person.opens("/dead")
    person.clicks("Show and count")
    dead = calls(person, "POST", "/api/v1/replay", {"states": ["dead"], "dry_run": True})["matched"]
    assert dead >= 1
    person.sees("1 delivery matches." if dead == 1 else f"{dead} deliveries match.")
    person.clicks("Replay 1 delivery" if dead == 1 else f"Replay {dead} deliveries")
    person.sees("owed again.")
    person.sees("There are none.")
    person.opens("/events")
    eventually(lambda: not calls(person, "GET", "/api/v1/deliveries?state=pending&state=dead")["deliveries"])
    assert person.complaints() == []
    person.page.close()
    person.page.switch_to.window(inbox)


def test_an_endpoint_is_made_with_its_request_in_sight(person: Person) -> None:
    """What is chosen is seen in the preview at once; the signing secret is shown, and gone on the next page."""
    person.opens("/endpoints/new")
    person.types("url", "https://shop.example/hook")
    person.page.find_element(By.CSS_SELECTOR, "select[name=format] option[value=standard]").click()
    person.sees('"type": "user_updated"')
    person.sees("POST https://shop.example/hook")
    person.clicks("Save")
    person.sees("whsec_")
    person.clicks("Pause")
    person.sees("paused; what happens meanwhile is kept for it")
    assert "whsec_" not in person.page.page_source
    assert person.complaints() == []
    # Asked before it is deleted; declined first.
    buttons = person.page.find_elements(By.CSS_SELECTOR, "button.danger")
    buttons[0].click()
    person.page.switch_to.alert.dismiss()
    assert "/endpoints/" in person.page.current_url
    buttons[0].click()
    person.page.switch_to.alert.accept()
    eventually(lambda: person.page.current_url.endswith("/endpoints"))


def test_nothing_is_asked_of_other_hosts_and_nothing_foreign_runs(person: Person) -> None:
    """No page of it sends a request elsewhere, and a name that is a script is read, not run."""
    calls(person, "POST", "/api/v1/events", {"username": "<script>alert(1)</script>", "action": "user_updated"})
    person.page.get_log("performance")
    for path in ("/", "/events", "/endpoints", "/users", "/dead", "/inbox", "/settings"):
        person.opens(path)
    person.opens("/events")
    person.sees("<script>alert(1)</script>")
    messages = [json.loads(entry["message"])["message"] for entry in person.page.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert len(asked) > 10
    assert {urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {urlsplit(person.base).netloc}
    assert person.complaints() == []


@pytest.mark.parametrize("code", NAMES)
def test_pages_fit_a_phone_in_each_language(person: Person, code: str) -> None:
    """At 390 and at 1280 pixels nothing has to be moved sideways; times are those of the language's calendar and digits."""
    calls(person, "POST", "/api/v1/events", {"username": f"{code}_" + "x" * 120, "action": "user_updated"})
    person.opens(f"/look?language={code}")
    for width in (390, 1280):
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
        person.page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for path in (
            "/",
            "/endpoints",
            "/endpoints/new",
            "/events",
            "/dead",
            "/users",
            "/users/new",
            "/inbox",
            "/settings",
        ):
            person.opens(path)
            wide = person.page.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, path
    person.page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    person.opens("/events")
    shown = person.page.find_element(By.CSS_SELECTOR, "time").text
    assert re.search("[۰-۹]{2}:[۰-۹]{2}" if code == "fa" else r"\d{2}:\d{2}", shown), shown
    assert person.page.find_element(By.TAG_NAME, "html").get_attribute("dir") == ("rtl" if code == "fa" else "ltr")
    assert person.complaints() == []


def test_the_keyboard_alone_suffices(person: Person) -> None:
    """Everything that can be clicked is reached by the Tab key, and what has it is marked."""
    person.opens("/users")
    body: Callable[[], WebElement] = lambda: person.page.switch_to.active_element  # noqa: E731
    reached = []
    for _ in range(40):
        body().send_keys(Keys.TAB)
        active = body()
        if active.tag_name == "body":
            break
        reached.append(active.get_attribute("name") or active.text)
        assert person.page.execute_script("return getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert reached[0] == "Skip to the content"
    assert {"Overview", "Sign out", "Create a user", "search", "status", "Search", "中文"} <= set(reached)


def test_it_reads_without_javascript(person: Person) -> None:
    """Where scripts are off, every page says the same, with times in UTC, and forms work."""
    with chromium("--blink-settings=scriptEnabled=false") as plain:
        reader = Person(plain, person.service)
        reader.signs_in()
        reader.opens("/events")
        reader.sees("UTC")
        reader.opens("/users/new")
        reader.types("username", "without_script")
        reader.clicks("Save")
        reader.sees("without_script")


def test_the_service_stops_at_once_while_pages_follow_along(tmp_path: Path, page: WebDriver) -> None:
    """An open page is no reason to wait, and it goes on by itself when the service is back."""
    with Service(tmp_path) as service:
        person = Person(page, service)
        page.delete_all_cookies()
        person.signs_in()
        person.sees("delivered in 24 hours")
        assert service.stop(timeout=8) == 0
