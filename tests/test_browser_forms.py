"""The dashboard's forms in a real browser: nothing acts twice, and what is shown is what is meant."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from gateway import Gateway
from marzhook.testing import eventually
from person import Person, calls
from service import Service

pytest_plugins = ["person"]
pytestmark = pytest.mark.timeout(120)

# Later, so that the driver does not wait for the page that the first click leads to.
TWICE = """
const button = arguments[0];
for (const later of [50, 200]) setTimeout(() => button.click(), later);
"""
# The page's own script comes, and shows a moment in the reader's time zone.
BETWEEN = """
const button = arguments[0];
const field = document.querySelector("input[type=datetime-local]");
const before = field.value;
const script = document.createElement("script");
script.type = "module";
script.src = `${document.querySelector("script[type=module]").src}&late`;
setTimeout(() => {
  button.click();
  document.head.append(script);
  const waits = setInterval(() => {
    if (field.value === before) return;
    clearInterval(waits);
    button.click();
  }, 20);
}, 50);
"""
# Sent, given up, and sent again: the time after which the first could be sent again ends while the second is on its way.
PERSISTENT = """
const form = document.querySelector("form[action$='/charge']");
const sends = () => form.dispatchEvent(new SubmitEvent("submit", { bubbles: true, cancelable: true }));
const [later, never] = [window.setTimeout, window.clearTimeout];
const waits = new Map();
window.setTimeout = (what, time) => {
  const id = later(what, time);
  waits.set(id, what);
  return id;
};
window.clearTimeout = (id) => { waits.delete(id); never(id); };
const passed = [sends()];
const firsts = [...waits.keys()];
window.navigation.dispatchEvent(new Event("navigateerror"));
passed.push(sends());
for (const id of firsts) waits.get(id)?.();
passed.push(sends());
[window.setTimeout, window.clearTimeout] = [later, never];
return passed;
"""
# The first answer is kept back until a later one has been shown.
OVERTAKEN = """
const plain = window.fetch;
let first = true;
window.fetch = async (...given) => {
  const answer = plain(...given);
  if (first) { first = false; await new Promise((go) => { window.letGo = go; }); }
  return answer;
};
"""

# Copied twice, before that this is told has ended.
COPIED = """
const done = arguments[0];
const button = document.querySelector("[data-copy]"), later = window.setTimeout, ends = [];
window.setTimeout = async (what) => {
  ends.push(what);
  if (ends.length < 2) return button.click();
  window.setTimeout = later;
  const told = button.textContent;
  for (const end of ends) end();
  done([told, button.textContent, await navigator.clipboard.readText()]);
};
button.click();
"""


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


def test_a_form_that_was_given_up_lets_no_later_one_be_sent_twice(person: Person) -> None:
    """The half minute after which a form can be sent again is that of the form on its way."""
    calls(person.service, "POST", "/api/user", {"username": "given_up", "proxies": {"vless": {}}})
    person.opens("/user/given_up")
    assert person.page.execute_script(PERSISTENT) == [True, True, False]


def test_a_second_click_acts_no_second_time_before_the_script_has_come(page: WebDriver, service: Service) -> None:
    """The browser sends both, and follows the answer to the second; what is sent from the next page acts."""
    calls(service, "POST", "/api/user", {"username": "unwatched", "proxies": {"vless": {}}})
    with Gateway(service.port) as gateway:
        person = Person(page, service)
        person.base = f"http://127.0.0.1:{gateway.port}"
        page.execute_cdp_cmd("Network.enable", {})
        page.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/page.js*"]})
        try:
            person.comes_back()
            for charged in (1, 2):
                person.opens("/user/unwatched")
                person.types("amount", "1")
                before, asked = page.find_element(By.TAG_NAME, "html"), len(gateway.asked)
                with gateway.holding():
                    page.execute_script(TWICE, page.find_element(By.CSS_SELECTOR, "form[action$='/charge'] button"))
                    eventually(lambda asked=asked: len(gateway.posted(asked)) == 2, what="both of them")
                person.goes_on(before, "Charge")
                person.sees(f"{charged} GiB")
                assert calls(service, "GET", "/api/user/unwatched")["used_traffic"] == charged * 2**30
        finally:
            page.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})


def test_a_second_click_acts_no_second_time_when_the_script_has_come_in_between(
    page: WebDriver, service: Service
) -> None:
    """Though it then shows the date in the reader's time zone: what is sent is the same."""
    with Gateway(service.port) as gateway:
        person = Person(page, service)
        person.base = f"http://127.0.0.1:{gateway.port}"
        page.execute_cdp_cmd("Network.enable", {})
        page.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Tehran"})
        page.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/page.js*"]})
        try:
            person.comes_back()
            person.opens("/users/new")
            person.types("username", "in_between")
            person.sets("expire", "2027-01-31T10:00")
            before, asked = page.find_element(By.TAG_NAME, "html"), len(gateway.asked)
            with gateway.holding():
                page.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
                page.execute_script(BETWEEN, page.find_element(By.CSS_SELECTOR, "main form[method=post] button.main"))
                eventually(lambda: len(gateway.posted(asked)) == 2, what="both of them")
            person.goes_on(before, "Save")
            assert page.current_url.endswith("/user/in_between")
        finally:
            page.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
            page.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})


def test_a_year_that_is_none_is_shown_again_as_it_was_written(person: Person) -> None:
    """It is refused, the field keeps it, and the rest of the page's script still works. The last minute of the years that
    there are stays what it was, also where it is the next year's."""
    page = person.page
    page.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Tehran"})
    try:
        person.opens("/users/new")
        person.types("username", "for_ever")
        person.sets("expire", "12026-01-31T10:00")
        person.clicks("Save")
        assert page.find_elements(By.CSS_SELECTOR, "[name=expire][aria-invalid]")
        assert person.held("expire") == "12026-01-31T10:00"
        assert "UTC" not in person.screen()
        person.opens("/events?since=9999-12-31T23:59")
        assert person.held("since") == "9999-12-31T23:59"
        person.clicks("Search")
        assert "9999-12-31" in page.current_url
        assert not [told for told in person.complaints() if "Uncaught" in told]
    finally:
        page.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})


def test_an_answer_that_was_overtaken_is_not_shown(person: Person) -> None:
    """The preview is that of the form as it is, whichever request for it was answered last."""
    page = person.page
    person.opens("/endpoints/new")
    page.execute_script(OVERTAKEN)
    person.types("url", "https://earlier.example/")
    eventually(lambda: page.execute_script("return Boolean(window.letGo)"), what="a request for the preview")
    person.types("url", "https://later.example/")
    person.sees("POST https://later.example/")
    page.execute_async_script("window.letGo(); setTimeout(arguments[0], 200)")
    assert "POST https://later.example/" in person.screen()


def test_ticks_that_are_out_of_sight_are_not_sent(person: Person) -> None:
    """Ticked, and then all chosen after all: that is what is meant; the ticks are still there for who goes back to them."""
    page = person.page
    person.opens("/endpoints/new")
    person.types("url", "https://ticked.example/")
    page.find_element("css selector", "[name=which][value=some]").click()
    box = page.find_element("css selector", "[name=actions][value=user_deleted]")
    box.click()
    page.find_element("css selector", "[name=which][value=all]").click()
    eventually(lambda: not box.is_displayed(), what="no boxes")
    person.clicks("Save")
    person.sees("The signing secret")
    [made] = [one for one in calls(person.service, "GET", "/api/v1/endpoints")["endpoints"] if "ticked" in one["url"]]
    assert made["actions"] is None


def test_going_back_shows_what_is_so_now(person: Person) -> None:
    """A form that was sent is made anew, so that writing what it showed at first changes it back; what was typed and not sent
    is still there."""
    page = person.page
    calls(person.service, "POST", "/api/user", {"username": "edited", "note": "before", "proxies": {"vless": {}}})

    def note() -> str:
        found: str = calls(person.service, "GET", "/api/user/edited")["note"]
        return found

    person.opens("/user/edited/edit")
    page.execute_script("window.kept = true")
    person.types("note", "after")
    person.clicks("Save")
    assert note() == "after"
    page.back()
    eventually(lambda: not page.execute_script("return window.kept"), what="the page made anew")
    person.types("note", "before")
    person.clicks("Save")
    assert note() == "before"
    person.opens("/user/edited/edit")
    page.execute_script("window.kept = true")
    person.types("note", "unsent")
    person.clicks("Users")
    page.back()
    eventually(lambda: page.execute_script("return window.kept"), what="the page as it was left")
    assert person.held("note") == "unsent"
    assert person.complaints() == []


def test_back_to_a_form_that_was_refused_opens_it(person: Person) -> None:
    """The browser does not ask whether to send it again; nor at its reload."""
    page = person.page
    calls(person.service, "POST", "/api/user", {"username": "charged", "proxies": {"vless": {}}})
    person.opens("/user/charged")
    person.types("amount", "abc")
    person.clicks("Charge")
    person.sees("A number is expected here.")
    person.types("amount", "2")
    person.clicks("Charge")
    assert calls(person.service, "GET", "/api/user/charged")["used_traffic"] == 2 * 1024**3
    for leave in (page.back, page.refresh):
        leave()
        eventually(lambda: page.find_elements("name", "amount"), what="the user's page")
        assert page.execute_script("return location.pathname") == "/user/charged"
    person.types("amount", "abc")
    person.clicks("Charge")
    page.refresh()
    person.sees("2 GiB")
    assert all("422" in told for told in person.complaints())


def test_that_something_was_copied_is_told_for_a_moment(person: Person) -> None:
    """However often it is copied meanwhile: then the button says again what it does."""
    page = person.page
    person.opens("/endpoints/new")
    origin = {"origin": person.base, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.execute_cdp_cmd("Browser.grantPermissions", origin)
    shown = page.execute_script("return document.getElementById('curl').textContent")
    assert page.execute_async_script(COPIED) == ["Copied", "Copy as curl", shown]


def test_what_is_wrong_in_a_filter_is_seen_at_its_fields(person: Person) -> None:
    """A choice is marked like any other field, and what is said below one moves no other out of the row."""
    person.measures(1280)
    person.opens("/events?endpoint=abc&since=x")
    borders, tops = person.page.execute_script("""
        const all = (which, read) => [...document.querySelectorAll(which)].map(read);
        return [
          all("[aria-invalid]", (field) => getComputedStyle(field).borderTopWidth),
          all(".search > label", (label) => label.getBoundingClientRect().top).slice(0, 5),
        ];
    """)
    person.page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert borders == ["2px", "2px"]
    assert len(set(tops)) == 1
