"""As a person uses the dashboard: the service as a process of its own, and a real Chromium before it."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from chromium import with_script
from marzhook.testing import eventually
from person import Person, calls
from service import Service

pytest_plugins = ["person"]
pytestmark = pytest.mark.timeout(180)


# Looks away and back so many times: each time the page follows along anew, not knowing since when, and is exchanged.
FOLLOWED = """
const [times, done] = arguments;
let hidden = false, fetched = 0;
Object.defineProperty(document, "hidden", { get: () => hidden, configurable: true });
const turn = () => document.dispatchEvent(new Event("visibilitychange"));
const plain = window.fetch;
window.fetch = async (...given) => {
  const answer = await plain(...given);
  // The figures differ each time, so that all of them are exchanged.
  const text = (await answer.text()).replace("</h2>", `${Math.random()}</h2>`);
  if (++fetched === times) { window.fetch = plain; setTimeout(() => done(fetched), 100); }
  else setTimeout(() => { document.body.dataset.state = ""; hidden = true; turn(); hidden = false; turn(); }, 0);
  const made = new Response(text, { status: answer.status });
  return made;
};
document.body.dataset.state = ""; hidden = true; turn(); hidden = false; turn();
"""
# How often a page is fetched again, and its streams. Nothing waits for long.
COUNTED = """
window.fetched = window.opened = 0;
const plain = window.fetch, Stream = window.EventSource, later = window.setTimeout;
window.setTimeout = (what, time) => later(what, Math.min(time, 50));
window.fetch = (...given) => { window.fetched += 1; return plain(...given); };
window.EventSource = class extends Stream {
  constructor(...given) {
    super(...given);
    window.stream = this;
    this.addEventListener("open", () => { window.opened += 1; });
  }
};
"""


def test_from_a_fresh_start_to_a_delivery_that_failed_and_was_mended(page: WebDriver, tmp_path: Path) -> None:
    """In Persian: sign in, use the inbox, create a user, watch the event arrive; break, see why, mend, replay."""
    page.delete_all_cookies()
    with Service(tmp_path, MARZHOOK_REJECTED_SCHEDULE="1") as service:
        person = Person(page, service, "fa")
        person.signs_in()
        person.complaints()
        person.sees("Events go nowhere yet")
        person.clicks("Use the inbox")
        person.sees("Nothing has arrived yet.")
        inbox = page.current_window_handle

        page.switch_to.new_window("tab")
        person.opens("/users/new")
        person.types("username", "first_user")
        person.types("data_limit", "10")
        person.clicks("Save")
        person.sees("User created")
        # Delivered, seen on a page that nobody touches.
        person.sees("delivered")
        users = page.current_window_handle
        page.switch_to.window(inbox)
        person.sees("first_user")
        assert '"action": "user_created"' in page.page_source

        person.chooses("status", "400")
        person.clicks("Set")
        page.switch_to.window(users)
        person.clicks("Disable")
        person.sees("dead")
        person.clicks("User disabled")
        refused = {"status": person.language.number(400, "0")}
        person.sees("refuses the event (%(status)s)", **refused)
        person.sees("no tries were left")
        assert page.find_element(By.CSS_SELECTOR, ".curl").get_attribute("textContent").startswith("curl -i")
        person.opens("/")
        person.sees("refuses the event (%(status)s)", **refused)

        page.switch_to.window(inbox)
        person.chooses("status", "200")
        person.clicks("Set")
        page.switch_to.window(users)
        person.opens("/dead")
        person.clicks("Show and count")
        dead = calls(service, "POST", "/api/v1/replay", {"states": ["dead"], "dry_run": True})["matched"]
        assert dead >= 1
        person.sees_count("%(number)s delivery matches.", "%(number)s deliveries match.", dead)
        person.clicks_count("Replay %(number)s delivery", "Replay %(number)s deliveries", dead)
        person.sees_count("%(number)s delivery is owed again.", "%(number)s deliveries are owed again.", dead)
        person.sees("There are none.")
        person.opens("/events")
        eventually(lambda: not calls(service, "GET", "/api/v1/deliveries?state=pending&state=dead")["deliveries"])
        assert person.complaints() == []
        page.close()
        page.switch_to.window(inbox)


def test_the_keyboard_alone_suffices(page: WebDriver, tmp_path: Path) -> None:
    """The whole story in English without a mouse: what the Tab key reaches is seen, and nothing holds it fast."""
    page.delete_all_cookies()
    with Service(tmp_path, MARZHOOK_REJECTED_SCHEDULE="1") as service:
        person = Person(page, service)
        person.opens("/")
        person.complaints()  # those of the page before, whose service has ended
        assert person.focused.get_attribute("name") == "username"
        person.focused.send_keys("root")
        person.writes("password", "toor-toor")
        person.presses("Sign in")
        person.presses("Use the inbox")
        # One that is accepted: who refuses everything is taken for broken, and kept waiting.
        person.presses("Send a test event")
        person.sees("delivered")
        person.opens("/inbox")
        person.tabs_to("status")
        person.focused.send_keys("400")
        person.presses("Set")
        # The first stop is the way past what is on every page.
        person.opens("/users")
        first = person.tabs()
        assert first
        assert (first["called"], first["shown"]) == ("Skip to the content", True)
        person.focused.send_keys(Keys.ENTER)
        assert page.current_url.endswith("#main")
        after = person.tabs()
        assert after
        assert after["inside"]
        person.presses("Create a user")
        person.writes("username", "typed_user")
        person.presses("Save")
        person.sees("dead")
        person.presses("User created")
        person.sees("refuses the event (400)")
        # Unfolded and folded again.
        person.tabs_to("What is known about it")
        person.focused.send_keys(Keys.ENTER)
        person.sees('"by": {')
        # Its name is also that of its endpoint, so it is chosen from the top.
        person.opens("/inbox")
        person.tabs_to("status")
        person.focused.send_keys("200")
        person.presses("Set")
        person.presses("Dead letters")
        person.presses("Show and count")
        dead = calls(service, "POST", "/api/v1/replay", {"states": ["dead"], "dry_run": True})["matched"]
        person.presses("Replay 1 delivery" if dead == 1 else f"Replay {dead} deliveries")
        person.sees("There are none.")
        eventually(lambda: not calls(service, "GET", "/api/v1/deliveries?state=pending&state=dead")["deliveries"])
        # Endpoints, too; asked before it is deleted, and answered with the keyboard.
        person.presses("Endpoints")
        person.presses("Make an endpoint")
        person.writes("url", "https://shop.example/hook")
        person.presses("Save")
        person.sees("whsec_")
        person.tabs_to("Delete")
        before = page.find_element(By.TAG_NAME, "html")
        person.focused.send_keys(Keys.ENTER)
        page.switch_to.alert.accept()
        person.goes_on(before, "Delete")
        # Round once more, and out of the page again: nothing holds the focus fast.
        person.tabs_to("Skip to the content")
        assert person.complaints() == []


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
    person.sees("what happens meanwhile is kept for it")
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


def test_the_first_view_is_light(person: Person) -> None:
    """With all that belongs to it, what goes over the line is far less than 100 KB, and nothing is asked for twice.
    A page that follows along is fetched again at every change, which comes later."""
    home, messages = f"{person.base}/", list[dict[str, Any]]()

    def asked() -> dict[str, str]:
        """Addresses by request, until now."""
        messages.extend(json.loads(entry["message"])["message"] for entry in person.page.get_log("performance"))
        sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return {one["requestId"]: one["request"]["url"] for one in sent}

    person.page.execute_cdp_cmd("Network.clearBrowserCache", {})
    person.page.get_log("performance")
    person.opens("/")
    person.sees("of the events of the last 24 hours")
    for _ in range(3):
        times = [*asked().values()].count(home)
        calls(person.service, "POST", "/api/v1/events", {"username": "early", "action": "user_updated"})
        eventually(lambda times=times: [*asked().values()].count(home) > times)
    # But for the icon: the page's and its tab's are asked for at the same moment.
    once = [url for url in asked().values() if "/static/" in url and "/icon.svg" not in url]
    assert len(once) == len(set(once)) >= 5, "\n".join(once)
    addresses, sizes = asked(), dict[str, int]()
    for ended in (one["params"] for one in messages if one["method"] == "Network.loadingFinished"):
        if ended["requestId"] in addresses:  # else the page before asked for it
            sizes.setdefault(addresses[ended["requestId"]], ended["encodedDataLength"])
    assert sizes.keys() >= {home, *once}
    assert sum(sizes.values()) < 50_000, sizes


def test_nothing_is_asked_of_other_hosts_and_nothing_foreign_runs(person: Person) -> None:
    """No page of it sends a request elsewhere, and a name that is a script is read, not run."""
    calls(person.service, "POST", "/api/v1/events", {"username": "<script>alert(1)</script>", "action": "user_updated"})
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


def test_it_reads_without_javascript(person: Person) -> None:
    """Where scripts are off, every page says the same, with times in UTC, and forms work."""
    person.page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        person.page.delete_all_cookies()
        person.signs_in()
        person.opens("/events")
        person.sees("UTC")
        person.opens("/users/new")
        person.sees("Expires (UTC)")
        person.types("username", "without_script")
        person.clicks("Save")
        person.sees("without_script")
        person.sees("UTC")
    finally:
        person.page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize(
    ("zone", "written", "utc"),
    [
        ("Asia/Tehran", "2027-01-31T10:00", "2027-01-31T06:30"),
        # In winter and in summer; and the second of the two hours of the night in which the clocks go back.
        ("America/New_York", "2027-01-31T10:00", "2027-01-31T15:00"),
        ("America/New_York", "2027-07-31T10:00", "2027-07-31T14:00"),
        ("America/New_York", None, "2027-11-07T06:30"),
    ],
)
def test_a_time_is_written_as_it_is_shown_in_the_readers_zone(
    person: Person, zone: str, written: str | None, utc: str
) -> None:
    """A user's end and the time of a search are the reader's local ones, and what nobody touched stays the same moment."""
    page, name = person.page, f"until_{utc[:13].lower()}"
    page.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": zone})
    try:
        if written:
            person.opens("/users/new")
            person.types("username", name)
            person.sets("expire", written)
            assert "UTC" not in person.screen()
            person.clicks("Save")
            person.sees(name)
        else:
            calls(
                person.service, "POST", "/api/user", {"username": name, "expire": unix(utc), "proxies": {"vless": {}}}
            )
        assert calls(person.service, "GET", f"/api/user/{name}")["expire"] == unix(utc)
        person.opens(f"/user/{name}/edit")
        shown = person.held("expire")
        assert shown == (written or "2027-11-07T01:30")
        person.types("note", "touched")
        person.clicks("Save")
        person.sees("touched")
        assert calls(person.service, "GET", f"/api/user/{name}")["expire"] == unix(utc)
        for path, button in (("/events", "Search"), ("/dead", "Show and count")):
            person.opens(path)
            person.sets("since", shown)
            person.clicks(button)
            assert person.held("since") == shown
            if written:
                assert f"since={utc}:00" in unquote(page.current_url)
        assert person.complaints() == []
    finally:
        page.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})


def unix(utc: str) -> int:
    return int(datetime.fromisoformat(utc).replace(tzinfo=UTC).timestamp())


def test_a_service_that_moves_ends_at_once_and_takes_its_inbox_along(tmp_path: Path, page: WebDriver) -> None:
    """An open page that follows along is no reason to wait. Started again on another port, the inbox gets what is sent to it,
    as the endpoint that it was."""
    page.delete_all_cookies()
    with Service(tmp_path) as service:
        person = Person(page, service)
        person.signs_in()
        person.clicks("Use the inbox")
        person.opens("/")
        person.sees("of the events of the last 24 hours")
        before = service.port
        assert service.stop(timeout=8) == 0
    # So that it cannot be the same port again.
    with socket.create_server(("127.0.0.1", before)), Service(tmp_path) as service:
        page.delete_all_cookies()  # they are the host's, whatever the port
        person = Person(page, service)
        person.signs_in()
        person.opens("/inbox")
        person.clicks("Send a test event")
        person.sees("delivered")
        [endpoint] = calls(service, "GET", "/api/v1/endpoints")["endpoints"]
        assert f":{service.port}/" in endpoint["url"]
        person.opens("/inbox")
        person.sees("Test event")


def test_a_page_is_fetched_again_only_for_what_changed_since(page: WebDriver, tmp_path: Path) -> None:
    """Once for each change, also where it changed while nobody looked, and once when it can follow along again after the
    browser has given its stream up."""
    page.delete_all_cookies()
    with Service(tmp_path) as service:
        person = Person(page, service)
        person.signs_in()
        with with_script(page, COUNTED):
            person.opens("/events")

        def count() -> list[int]:
            found: list[int] = page.execute_script("return [window.opened, window.fetched]")
            return found

        eventually(lambda: count() == [1, 0], what="a stream")
        calls(service, "POST", "/api/v1/events", {"username": "seen_at_once", "action": "user_updated"})
        person.sees("seen_at_once")
        assert count() == [1, 1]
        looks_away = "Object.defineProperty(document, 'hidden', { value: %s, configurable: true });"
        turns = "document.dispatchEvent(new Event('visibilitychange'));"
        page.execute_script(looks_away % "true" + turns + looks_away % "false" + turns)
        eventually(lambda: count() == [2, 1], what="a second stream")
        page.execute_script(looks_away % "true" + turns)
        calls(service, "POST", "/api/v1/events", {"username": "seen_later", "action": "user_updated"})
        page.execute_script(looks_away % "false" + turns)
        person.sees("seen_later")
        assert count() == [3, 2]
        # What the browser does when it gets an answer that is no stream.
        page.execute_script("window.stream.close(); window.stream.dispatchEvent(new Event('error'));")
        eventually(lambda: count() == [4, 3], what="another stream")


def test_a_page_that_stays_open_does_not_grow(person: Person) -> None:
    """After many changes it has as many elements, listeners and as much memory as after a few."""
    person.opens("/")
    person.page.execute_cdp_cmd("Performance.enable", {})

    def size() -> dict[str, float]:
        person.page.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
        found = person.page.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        names = ("Nodes", "JSEventListeners", "JSHeapUsedSize")
        return {one["name"]: one["value"] for one in found if one["name"] in names}

    person.page.execute_async_script(FOLLOWED, 10)
    before = size()
    assert person.page.execute_async_script(FOLLOWED, 60) == 60
    # What is no longer shown, of the pages before this one too, may wait for more than one round of the collector.
    eventually(lambda: size()["Nodes"] < before["Nodes"] * 1.3, what=f"about {before['Nodes']} nodes again")
    after = size()
    assert after["JSEventListeners"] <= before["JSEventListeners"] + 5, (before, after)
    assert after["JSHeapUsedSize"] < before["JSHeapUsedSize"] * 1.3 + 200_000, (before, after)
