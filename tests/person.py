"""A person before the dashboard in a real browser: sees what is on the screen, clicks and types.

A test module asks for the fixtures with `pytest_plugins = ["person"]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement

from marzhook.dashboard.languages import load
from marzhook.testing import eventually
from service import Service

LANGUAGES = load()

# Later, so that the script's answer comes back before the page goes; whatever the browser itself thinks of the fields.
SEND = """
const form = document.querySelector("main form[method=post]");
for (const [name, value] of Object.entries(arguments[0])) form.elements[name].value = value;
setTimeout(() => form.submit());
"""

# What has the focus, asked in one go: the Tab key has hundreds of stops.
STOP = """
const e = document.activeElement, s = getComputedStyle(e), b = e.getBoundingClientRect();
if (e === document.body || e === document.documentElement) return null;
return {
  called: (e.matches("input, select, textarea") && e.name) || e.innerText.trim(),
  shown: s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2 && b.width * b.height > 0,
  html: e.outerHTML.slice(0, 200),
  inside: document.getElementById("main").contains(e),
};
"""


class Person:
    """Texts are given in English, and looked for in the person's language."""

    def __init__(self, page: WebDriver, service: Service, code: str = "en") -> None:
        self.page, self.service = page, service
        self.base = f"http://127.0.0.1:{service.port}"
        self.language = LANGUAGES[code]

    def opens(self, path: str) -> None:
        self.page.get(self.base + path)

    def clicks(self, text: str) -> None:
        """The button or link with this text. Waits until the page that it leads to is there."""
        before = self.page.find_element(By.TAG_NAME, "html")
        self._of_text(self.language.gettext(text)).click()
        self.goes_on(before, text)

    def goes_on(self, before: WebElement, after: str) -> None:
        """From the page with this element to the next one."""
        eventually(lambda: _gone(before), what=f"going on after {after!r}")

    def chooses(self, name: str, value: str) -> None:
        self.page.find_element(By.CSS_SELECTOR, f"select[name={name}] option[value='{value}']").click()

    def types(self, name: str, text: str) -> None:
        field = self.page.find_element(By.NAME, name)
        field.clear()
        field.send_keys(text)

    def sets(self, name: str, moment: str) -> None:
        """In a field of a date and a time, which each language is typed into in another way."""
        set_ = "[field] = document.getElementsByName(arguments[0]); field.value = arguments[1];"
        self.page.execute_script(
            f"const {set_} field.dispatchEvent(new Event('input', {{bubbles: true}}))", name, moment
        )

    def held(self, name: str) -> str:
        """What a field holds now."""
        value: str = self.page.execute_script("return document.getElementsByName(arguments[0])[0].value", name)
        return value

    def is_refused(self, fields: dict[str, str]) -> None:
        """Sends the page's form with these fields, of which one is wrong, and gets it back."""
        before = self.page.find_element(By.TAG_NAME, "html")
        self.page.execute_script(SEND, fields)
        self.goes_on(before, "what was refused")
        assert self.page.find_elements(By.CSS_SELECTOR, "[aria-invalid]:focus + .wrong")

    def sees(self, text: str, **fields: str) -> None:
        """Sooner or later, without doing anything."""
        wanted = self.language.gettext(text)
        wanted = wanted % fields if fields else wanted
        eventually(lambda: wanted in self.screen(), timeout=30, what=f"{wanted!r} on {self.page.current_url}")

    def sees_count(self, one: str, many: str, number: int) -> None:
        text = self.language.ngettext(one, many, number) % {"number": self.language.number(number)}
        eventually(lambda: text in self.screen(), timeout=30, what=f"{text!r} on {self.page.current_url}")

    def clicks_count(self, one: str, many: str, number: int) -> None:
        self.clicks(self.language.ngettext(one, many, number) % {"number": self.language.number(number)})

    def screen(self) -> str:
        try:
            return self.page.find_element(By.TAG_NAME, "body").text
        except WebDriverException:
            return ""  # between two pages

    def comes_back(self) -> None:
        """Reads in the person's language, signed in: by hand, unless the browser still is."""
        self.opens(f"/look?language={self.language.code}")
        if "/sign-in" in self.page.current_url:
            self._signs_in()

    def signs_in(self) -> None:
        self.opens(f"/look?language={self.language.code}&next=/sign-in")
        self._signs_in()

    def _signs_in(self) -> None:
        self.types("username", "root")
        self.types("password", "toor-toor")
        self.clicks("Sign in")

    def complaints(self) -> list[str]:
        """What the browser itself found wrong: refused by the policy, scripts that failed, addresses that were not there."""
        return [entry["message"] for entry in self.page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def measures(self, width: int, height: int = 844) -> None:
        """From now on the window is so large, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    # -- with the keyboard alone

    @property
    def focused(self) -> WebElement:
        return self.page.switch_to.active_element

    def tabs_to(self, text: str) -> None:
        """With the Tab key to the field of this name, or to the button or link with this text; each one on the way shows
        that it is reached."""
        wanted = self.language.gettext(text)
        seen: list[str] = []
        for _ in range(150):
            stop = self.tabs()
            if stop is None:
                continue  # the browser's own part comes between the last and the first
            assert stop["shown"], f"nobody sees that {stop['html']!r} is reached"
            seen.append(stop["called"])
            if wanted == stop["called"]:
                return
        raise AssertionError(f"the Tab key never reaches {wanted!r}, only {seen}")

    def tabs(self) -> dict[str, Any] | None:
        """One stop further with the Tab key: how that is `called`, whether it is `shown` to have the focus, its `html`, and
        whether it is in the content (`inside`). None: it is the browser's own."""
        ActionChains(self.page, duration=0).send_keys(Keys.TAB).perform()
        stop: dict[str, Any] | None = self.page.execute_script(STOP)
        return stop

    def presses(self, text: str) -> None:
        """Reaches the button or link, presses Enter, and waits for the page that it leads to."""
        self.tabs_to(text)
        before = self.page.find_element(By.TAG_NAME, "html")
        self.focused.send_keys(Keys.ENTER)
        self.goes_on(before, text)

    def writes(self, name: str, text: str) -> None:
        self.tabs_to(name)
        self.focused.send_keys(text)

    def _of_text(self, text: str) -> WebElement:
        path = f"//button[normalize-space()='{text}'] | //a[normalize-space()='{text}']"
        eventually(lambda: self.page.find_elements(By.XPATH, path), what=f"something to click with the text {text!r}")
        return self.page.find_elements(By.XPATH, path)[0]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    # Refused twice, and an event is dead: nobody waits for the usual minutes here.
    with Service(tmp_path_factory.mktemp("browser"), MARZHOOK_REJECTED_SCHEDULE="1") as service:
        yield service


@pytest.fixture
def person(page: WebDriver, service: Service) -> Person:
    """Who is signed in to the module's service."""
    person = Person(page, service)
    person.comes_back()
    person.complaints()
    return person


def _gone(element: WebElement) -> bool:
    try:
        element.is_enabled()
    except StaleElementReferenceException:
        return True
    except WebDriverException:
        return False
    return False


def calls(service: Service, method: str, path: str, body: Any = None) -> Any:
    """The API's answer."""
    status, answer = service.call(method, path, body)
    assert status < 300, answer
    return answer
