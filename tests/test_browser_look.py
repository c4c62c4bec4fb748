"""How the pages look, in each language, light and dark, on a phone and on a desk: nothing sticks out, nothing is cut off, and
nothing keeps out who reads with the keyboard or a screen reader."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from axe import faults, ready
from eventful import Eventful, eventful
from marzhook.dashboard.languages import NAMES
from person import Person
from unfit import unfit, unfold

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def page(page: WebDriver) -> WebDriver:
    ready(page)
    return page


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Eventful]:
    with eventful(tmp_path_factory.mktemp("look")) as panel:
        yield panel


def person(page: WebDriver, panel: Eventful, code: str) -> Person:
    person = Person(page, panel.service, code)
    person.comes_back()
    return person


@pytest.mark.parametrize("code", NAMES)
def test_every_page_fits_and_keeps_nobody_out(page: WebDriver, panel: Eventful, code: str) -> None:
    """With everything unfolded, nothing is cut off or sticks out at 390 and at 1280 pixels, in Russian, whose words are long,
    also on the narrowest phones and where lists become tables; each page reads in its language's direction. axe-core finds
    nothing serious: names of fields, landmarks and what a screen reader is told, on the main pages in each language, on all
    in one of each direction; the contrast in light and in dark, on all pages as wide as on a desk, and on the main ones as
    on a phone."""
    reader = person(page, panel, code)
    # How the other pages are made differs in no language but by its direction; the API's own has one language.
    thoroughly = {"en": panel.paths, "fa": panel.paths[:-1]}.get(code, panel.main)
    # And colours differ by no language at all.
    contrasted = {"en": panel.paths, "fa": panel.main}.get(code, [])
    found: dict[str, list[str]] = {}
    # The widest last, so that axe-core looks at a phone's page in Persian and at a desk's in English.
    widths = {"fa": (1280, 390), "ru": (320, 390, 801, 1280)}.get(code, (390, 1280))
    for path in panel.paths:
        if path == "/sign-in":
            page.delete_cookie("marzhook_session")
        reader.opens(path)
        if path in panel.wrong:
            reader.is_refused(panel.wrong[path])
        unfold(page)
        told = []
        for width in widths:
            reader.measures(width)
            told += [f"at {width}: {what}" for what in unfit(page)]
        if path in thoroughly:
            told += faults(page, contrast=path in contrasted)
        # The API's own page has no colours to choose.
        if path in contrasted and path != "/docs":
            page.execute_script("document.documentElement.dataset.theme = 'dark'")
            told += [f"in dark: {what}" for what in faults(page, contrast=True, others=False)]
        if path != "/docs":
            direction = page.find_element(By.TAG_NAME, "html").get_attribute("dir")
            assert direction == ("rtl" if code == "fa" else "ltr")
        found[path] = told
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert {place: told for place, told in found.items() if told} == {}


def test_times_are_of_the_readers_calendar(page: WebDriver, panel: Eventful) -> None:
    """In Persian a user's last day is one of the Persian calendar, in Persian digits: 2030-01-01 is the 11th of Dey 1408."""
    reader = person(page, panel, "fa")
    reader.opens("/users")
    shown = page.find_element(By.CSS_SELECTOR, "time").text
    assert re.fullmatch("[\u2066-\u2069\u200e\u200f]*۱[۱۲] دی ۱۴۰۸[\u2066-\u2069\u200e\u200f]*", shown), shown
    reader.opens("/user/bob_with_a_name_of_32_characters")
    assert "دی ۱۴۰۸" in page.find_element(By.CSS_SELECTOR, "dd time").text
    # The field itself is the browser's, which knows the Gregorian calendar alone.
    reader.opens("/user/bob_with_a_name_of_32_characters/edit")
    assert "دی ۱۴۰۸" in page.find_element(By.CSS_SELECTOR, "label:has([name=expire]) small").text
    reader.sets("expire", "2026-03-20T12:00")
    assert "۲۹ اسفند ۱۴۰۴" in page.find_element(By.CSS_SELECTOR, "label:has([name=expire]) small").text


@pytest.mark.parametrize("code", NAMES)
def test_sizes_keep_their_order_in_every_direction(page: WebDriver, panel: Eventful, code: str) -> None:
    """The number stands before its unit from left to right, what was used before the limit in the way that the page reads."""
    reader = person(page, panel, code)
    reader.opens("/user/alice")
    boxes = page.execute_script(
        "const place = (node, from, to) => { const r = document.createRange(); r.setStart(node, from); r.setEnd(node, to);"
        " return r.getBoundingClientRect().left; };"
        "return [...document.querySelectorAll('dd bdi[dir=ltr]')].slice(0, 2).map((e) =>"
        " [place(e.firstChild, 0, 1), place(e.firstChild, e.textContent.length - 1, e.textContent.length)])"
    )
    (used, used_unit), (limit, limit_unit) = boxes
    assert used < used_unit
    assert limit < limit_unit
    assert (used < limit) == (code != "fa")
