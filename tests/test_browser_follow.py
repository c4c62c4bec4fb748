"""Open pages of the dashboard on a bad line and under a person's hands: what is not up to date says so, and nothing is pulled
away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from chromium import with_script
from gateway import Gateway
from marzhook.testing import eventually
from person import Person, calls
from service import Service

pytest_plugins = ["person"]
pytestmark = pytest.mark.timeout(120)

# Nothing waits for long.
HASTE = """
const later = window.setTimeout;
window.setTimeout = (what, time) => later(what, Math.min(time, 200));
"""
# What the tests of a hidden page turn, count and break.
HIDDEN = """
const Stream = window.EventSource, plain = window.fetch, soon = window.setTimeout;
let hidden = false;
window.streams = [];
window.fired = [];
window.setTimeout = (what, time) => soon(() => { what(); window.fired.push(what.name); }, time);
window.EventSource = class extends Stream {
  constructor(...given) {
    super(...given);
    window.streams.push(hidden);
    window.stream = this;
  }
};
Object.defineProperty(document, "hidden", { get: () => hidden });
window.turns = (away) => { hidden = away; document.dispatchEvent(new Event("visibilitychange")); };
window.breaks = (answered) => {
  window.fetch = async (...given) => {
    window.fetch = plain;
    const answer = await plain(...given);
    return answered(answer);
  };
};
"""
FOLLOWS = "return window.stream?.readyState === EventSource.OPEN && !document.getElementById('following').textContent"
# So many of the next fetches fail; how long is waited for the next ones, in milliseconds, is noted and not done.
FAILING = """
const fetched = window.fetch, timed = window.setTimeout;
window.fails = 0;
window.waits = [];
window.fetch = (...given) => window.fails-- > 0 ? Promise.reject(new Error("the line was down")) : fetched(...given);
window.setTimeout = (what, time) => {
  window.waits.push(time);
  return timed(what, Math.min(time, 200));
};
"""
# How long it was asleep, in milliseconds, nobody tells a page but the clock; it looks at it often.
ASLEEP = """
const now = Date.now, every = window.setInterval;
window.asleep = window.looks = 0;
Date.now = () => now() + window.asleep;
window.setInterval = (what, time) => every(() => { what(); window.looks += 1; }, Math.min(time, 100));
"""
RETRIES = (2000, 4000, 8000, 16000, 32000, 60000)
# Waits until the page could have been exchanged: a stream of its own tells of the change, and the page is fetched.
TOLD = """
const done = arguments[0];
const stream = new EventSource(`/live?since=${document.body.dataset.state}`);
stream.addEventListener("change", async () => {
  stream.close();
  await (await fetch(document.body.dataset.here)).text();
  setTimeout(done, 200);
});
"""


def test_a_user_is_shown_as_he_is_while_somebody_types(person: Person) -> None:
    """What the panel reports is seen at once, also among all users, with the buttons of now; the typed amount stays."""
    page, service = person.page, person.service
    calls(service, "POST", "/api/user", {"username": "reported", "proxies": {"vless": {}}, "data_limit": 1000})
    person.opens("/user/reported")
    person.types("amount", "0.25")
    calls(service, "POST", "/api/v1/usage", [{"username": "reported", "bytes": 2000}])
    person.sees("(200%)")
    assert page.find_elements(By.CSS_SELECTOR, "h1 .badge.limited")
    calls(service, "PUT", "/api/user/reported", {"status": "disabled"})
    eventually(lambda: page.find_elements(By.CSS_SELECTOR, "form[action$='/enable'] button"))
    assert person.held("amount") == "0.25"
    person.opens("/users?search=reported")
    calls(service, "PUT", "/api/user/reported", {"status": "active", "data_limit": 0})
    eventually(lambda: page.find_elements(By.CSS_SELECTOR, "td .badge.active"))
    assert person.complaints() == []


def test_an_endpoint_has_the_buttons_of_how_it_is_now(person: Person) -> None:
    """One that somebody else has resumed meanwhile can be tested, and not be resumed once more."""
    page, service = person.page, person.service
    made = calls(service, "POST", "/api/v1/endpoints", {"url": "https://shop.example/", "enabled": False})
    person.opens(f"/endpoints/{made['id']}")
    person.sees("Resume")
    calls(service, "POST", f"/api/v1/endpoints/{made['id']}/enable")
    person.sees("Send a test event")
    assert not page.find_elements(By.CSS_SELECTOR, "form[action$='/resume'] button")
    calls(service, "POST", f"/api/v1/endpoints/{made['id']}/disable")
    assert person.complaints() == []


def happens(person: Person, username: str) -> None:
    calls(person.service, "POST", "/api/v1/events", {"username": username, "action": "user_updated"})


@pytest.mark.parametrize("lost", ["502 Bad Gateway", "404 Not Found"])
def test_a_page_that_cannot_follow_along_says_so_and_tries_again(page: WebDriver, service: Service, lost: str) -> None:
    """Where a gateway answers in the service's place, which ends a stream for good, until it is back: then what happened
    meanwhile is seen by itself."""
    with Gateway(service.port, lost) as gateway, with_script(page, HASTE):
        person = Person(page, service)
        person.base = f"http://127.0.0.1:{gateway.port}"
        person.comes_back()
        happens(person, f"before_it_{lost[:3]}")
        person.opens("/events")
        person.sees(f"before_it_{lost[:3]}")
        notice = page.find_element(By.ID, "following")
        assert notice.text == ""
        gateway.loses()
        eventually(lambda: notice.text.startswith("Not up to date since "))
        happens(person, f"meanwhile_{lost[:3]}")
        assert f"meanwhile_{lost[:3]}" not in person.screen()
        gateway.finds()
        person.sees(f"meanwhile_{lost[:3]}")
        eventually(lambda: not notice.text, what="nothing more to say")
        happens(person, f"after_it_{lost[:3]}")
        person.sees(f"after_it_{lost[:3]}")


def test_a_stream_that_is_dead_without_a_word_is_opened_anew(page: WebDriver, service: Service) -> None:
    """The connection stands, as the page sees it; after a minute and a half of silence it is not waited for any more."""
    with Gateway(service.port) as gateway, with_script(page, ASLEEP):
        person = Person(page, service)
        person.base = f"http://127.0.0.1:{gateway.port}"
        person.comes_back()
        person.opens("/events")
        happens(person, "before_sleep")
        person.sees("before_sleep")
        gateway.forgets()
        happens(person, "meanwhile_gone")
        looks = page.execute_script("window.asleep = 50_000; return window.looks")
        eventually(lambda: page.execute_script("return window.looks") > looks + 4, what="a look at the clock")
        assert "meanwhile_gone" not in person.screen()
        page.execute_script("window.asleep = 95_000")
        person.sees("meanwhile_gone")
        assert page.find_element(By.ID, "following").text == ""
        happens(person, "after_sleep")
        person.sees("after_sleep")


def test_a_page_on_which_nothing_happens_grows_no_older(page: WebDriver, service: Service) -> None:
    """What the clock alone changes is on the open page a minute later, though nothing was committed; on one that was hidden
    meanwhile, when somebody looks at it."""
    made = calls(service, "POST", "/api/v1/endpoints", {"url": "https://quiet.example/", "enabled": False})
    with with_script(page, ASLEEP + HIDDEN):
        person = Person(page, service)
        person.comes_back()
        happens(person, "waits")
        eventually(lambda: (person.opens("/"), oldest(page))[1], what="since when the oldest waits")
        eventually(lambda: page.execute_script(FOLLOWS), what="a page that follows")
        page.execute_script("document.querySelector('.tiles .pending small').textContent = ''; window.asleep = 61_000")
        eventually(lambda: oldest(page), what="the figures of now")
        asked = "return performance.getEntriesByType('resource').filter((one) => one.initiatorType === 'fetch').length"
        fetched = page.execute_script(f"window.turns(true); window.asleep = 200_000; {asked}")
        looks = page.execute_script("return window.looks")
        eventually(lambda: page.execute_script("return window.looks") > looks + 4, what="a look at the clock")
        assert page.execute_script(asked) == fetched, "nobody looks"
        page.execute_script("window.turns(false)")
        eventually(lambda: page.execute_script(asked) > fetched, what="what is so now")
    calls(service, "DELETE", f"/api/v1/endpoints/{made['id']}")


def test_a_page_that_nobody_tells_looks_for_itself(page: WebDriver, service: Service) -> None:
    """An admin who is not sudo is told of nothing that others do; his page is not older than a minute all the same, nor than
    his coming back to it, and says so where it is."""
    calls(service, "POST", "/api/admin", {"username": "seller", "password": "seller-word", "is_sudo": False})
    with Gateway(service.port) as gateway, with_script(page, ASLEEP + HIDDEN):
        person = Person(page, service)
        person.base = f"http://127.0.0.1:{gateway.port}"
        person.opens("/sign-in")
        page.delete_cookie("marzhook_session")
        person.opens("/sign-in?next=/users/new")
        person.types("username", "seller")
        person.types("password", "seller-word")
        person.clicks("Sign in")
        try:
            person.types("username", "sellers_own")
            person.clicks("Save")
            for status, comes in (("disabled", "asleep = 61_000"), ("active", "turns(true); window.turns(false)")):
                calls(service, "PUT", "/api/user/sellers_own", {"status": status})
                looks = page.execute_script("return window.looks")
                eventually(lambda: page.execute_script("return window.looks") > looks + 4, what="a look at the clock")  # noqa: B023
                assert not page.find_elements(By.CSS_SELECTOR, f"h1 .badge.{status}")
                page.execute_script(f"window.{comes}")
                eventually(lambda: page.find_elements(By.CSS_SELECTOR, f"h1 .badge.{status}"))  # noqa: B023
            notice = page.find_element(By.ID, "following")
            assert (notice.text, page.execute_script("return window.streams.length")) == ("", 0)
            gateway.loses()
            page.execute_script("window.asleep = 200_000")
            eventually(lambda: notice.text.startswith("Not up to date since "))
            gateway.finds()
            eventually(lambda: not notice.text, timeout=30, what="nothing more to say")
        finally:
            page.delete_cookie("marzhook_session")


def oldest(page: WebDriver) -> str:
    """What the overview says of the oldest that waits."""
    text: str = page.execute_script("return document.querySelector('.tiles .pending small').textContent")
    return text if text.startswith("the oldest since") else ""


def test_one_stream_is_enough_for_all_windows_of_a_browser(page: WebDriver, service: Service) -> None:
    """It has six connections to a host: the seventh window opens, too, and all follow along, whichever of them is closed, and
    when the service is back."""
    with Gateway(service.port) as gateway:
        person = Person(page, service)
        person.base = f"http://127.0.0.1:{gateway.port}"
        person.comes_back()
        person.opens("/events")
        windows = [page.current_window_handle]
        try:
            for _ in range(7):
                page.switch_to.new_window("window")
                windows.append(page.current_window_handle)
                person.opens("/events")
            for left in (8, 2):
                while len(windows) > left:
                    page.close()
                    windows.pop()
                    page.switch_to.window(windows[-1])
                    eventually(lambda: gateway.streams == 1, what="one stream")
                happens(person, f"to_{left}_windows")
                for window in windows:
                    page.switch_to.window(window)
                    person.sees(f"to_{left}_windows")
            gateway.loses()
            for window in windows:
                page.switch_to.window(window)
                person.sees("the service cannot be reached just now")
            gateway.finds()
            happens(person, "found_again")
            for window in windows:
                page.switch_to.window(window)
                person.sees("found_again")
            eventually(lambda: gateway.streams == 1, what="one stream")
        finally:
            for window in windows[1:]:
                page.switch_to.window(window)
                page.close()
            page.switch_to.window(windows[0])
        eventually(lambda: not page.find_element(By.ID, "following").text, what="nothing more to say")


def test_a_page_says_that_the_session_has_ended(person: Person) -> None:
    """And leads to the sign-in and from there back to itself."""
    person.opens("/events?state=pending")
    person.page.delete_cookie("marzhook_session")
    happens(person, "unseen")
    person.sees("Your session has ended, so this page follows along no longer.")
    notice = person.page.find_element(By.ID, "following")
    before = person.page.find_element(By.TAG_NAME, "html")
    notice.find_element(By.TAG_NAME, "a").click()
    person.goes_on(before, "the notice")
    person.types("username", "root")
    person.types("password", "toor-toor")
    person.clicks("Sign in")
    assert person.page.current_url.endswith("/events?state=pending")


def test_who_signs_in_anew_in_another_window_goes_on_in_this_one(person: Person) -> None:
    """With what was typed there: its forms are those of the new session."""
    page = person.page
    calls(person.service, "POST", "/api/user", {"username": "goes_on", "proxies": {"vless": {}}})
    person.opens("/user/goes_on")
    person.types("amount", "3")
    window = page.current_window_handle
    page.switch_to.new_window("window")
    try:
        person.opens("/users")
        person.clicks("Sign out")
        happens(person, "signs_in_anew")
        page.switch_to.window(window)
        person.sees("Your session has ended, so this page follows along no longer.")
        page.switch_to.window(page.window_handles[-1])
        person.types("username", "root")
        person.types("password", "toor-toor")
        person.clicks("Sign in")
        page.switch_to.window(window)
        eventually(lambda: not page.find_element(By.ID, "following").text, what="following again")
        person.clicks("Charge")
        person.sees("3 GiB")
    finally:
        page.switch_to.window(page.window_handles[-1])
        page.close()
        page.switch_to.window(window)


def test_a_page_of_what_is_deleted_says_so(person: Person) -> None:
    """Instead of what it showed."""
    calls(person.service, "POST", "/api/user", {"username": "deleted_soon", "proxies": {"vless": {}}})
    url = {"url": "https://gone.example/"}
    endpoint = calls(person.service, "POST", "/api/v1/endpoints", url)["id"]
    for page, path, said in (
        ("/user/deleted_soon", "/api/user/deleted_soon", "There is no such user."),
        (f"/endpoints/{endpoint}", f"/api/v1/endpoints/{endpoint}", "There is no such endpoint."),
    ):
        person.opens(page)
        calls(person.service, "DELETE", path)
        person.sees(said)
        assert person.page.current_url.endswith(page)


def test_a_page_that_says_what_is_wrong_with_it_follows_along(person: Person) -> None:
    """It is the service's own answer, as it was the first time: nothing is opened anew, and what was typed stays."""
    page = person.page
    for path, said in (
        ("/events?since=garbage", "A date is expected here."),
        ("/dead?since=garbage", "A date is expected here."),
        ("/dead?endpoint=77&count=yes", "There is no such endpoint."),
    ):
        person.opens(path)
        person.sees(said)
        person.types("username", "typed")
        happens(person, "beside_it")
        page.execute_async_script(TOLD)
        assert person.held("username") == "typed"
        assert page.find_element(By.ID, "following").text == ""
        assert path.startswith("/dead") or "beside_it" in person.screen()


def test_a_page_that_is_left_is_not_fetched_anew(page: WebDriver, service: Service) -> None:
    """Its form is on the way, and what it acts on may be gone: the form's answer comes next, whatever happens meanwhile."""
    calls(service, "POST", "/api/user", {"username": "left", "proxies": {"vless": {}}})
    with Gateway(service.port) as gateway, with_script(page, HASTE):
        person = Person(page, service)
        person.base = f"http://127.0.0.1:{gateway.port}"
        person.comes_back()
        person.opens("/user/left")
        eventually(lambda: any(line.startswith("GET /live?") for line in gateway.asked), what="a stream")
        before, asked = page.find_element(By.TAG_NAME, "html"), len(gateway.asked)
        with gateway.holding():
            page.execute_script("setTimeout(() => document.querySelector('form[action$=disable] button').click(), 50)")
            eventually(lambda: gateway.posted(asked), what="the form")
            for name in ("left_once", "left_twice"):
                told = gateway.told
                happens(person, name)
                eventually(lambda told=told: gateway.told > told, what="a change")
            assert not [line for line in gateway.asked[asked:] if line.startswith("GET /user/")]
        person.goes_on(before, "Disable")
        person.sees("disabled")


def test_a_page_that_was_hidden_while_it_was_fetched_follows_again(person: Person) -> None:
    """With no stream while nobody looks; and where the fetch failed, it is made up for though nothing has changed since."""
    page = person.page
    with with_script(page, HIDDEN + HASTE):
        person.opens("/events")
        for answered, after in (("return answer;", "check"), ("throw new Error('the line was down');", "refresh")):
            eventually(lambda: page.execute_script(FOLLOWS), what="following")
            page.execute_script(
                f"window.breaks((answer) => {{ window.fired = []; window.turns(true); {answered} }});"
                "window.stream.dispatchEvent(new Event('change'));"
            )
            fired = "return document.hidden ? window.fired : []"
            eventually(lambda: after in page.execute_script(fired), what=f"{after} while nobody looks")  # noqa: B023
            page.execute_script("window.turns(false)")
        eventually(lambda: page.execute_script(FOLLOWS), what="following again, and no notice")
        assert page.execute_script("return window.streams") == [False] * 3


def test_a_fetch_that_fails_is_soon_tried_again_whatever_failed_before(person: Person) -> None:
    """The stream stood all the time; what grew while nothing could be fetched begins anew."""
    page = person.page
    with with_script(page, HIDDEN + FAILING):
        person.opens("/events")
        for fails, waits in ((5, [2000, 4000, 8000, 16000, 32000]), (1, [2000])):
            eventually(lambda: page.execute_script(FOLLOWS), what="following")
            change = "window.waits = []; window.stream.dispatchEvent(new Event('change'))"
            page.execute_script(f"window.fails = {fails}; {change}")
            eventually(lambda: page.execute_script("return window.fails < 0"), what="what was fetched")
            assert [wait for wait in page.execute_script("return window.waits") if wait in RETRIES] == waits


def test_a_session_that_was_begun_anew_is_noticed_on_a_bad_line(person: Person) -> None:
    """That it has ended is said no longer, and the page tries again."""
    page = person.page
    with with_script(page, HIDDEN + HASTE):
        person.opens("/events")
        eventually(lambda: page.execute_script(FOLLOWS), what="following")
        cookie = page.get_cookie("marzhook_session")
        page.delete_cookie("marzhook_session")
        happens(person, "signed_out")
        person.sees("Your session has ended, so this page follows along no longer.")
        page.add_cookie({key: cookie[key] for key in ("name", "value", "path", "httpOnly", "sameSite")})
        page.execute_script(
            "window.breaks(() => { throw new Error('the line was down'); }); window.turns(true); window.turns(false)"
        )
        person.sees("signed_out")
        eventually(lambda: page.execute_script(FOLLOWS), what="following again, and no notice")


def test_what_is_under_a_readers_hands_stays(person: Person) -> None:
    """A click in which the page would be exchanged acts; a text that is marked stays marked; and then the page goes on."""
    page = person.page
    happens(person, "pressed")
    person.opens("/events?username=pressed")
    link = page.find_element(By.CSS_SELECTOR, "#list tbody a")
    leads_to = link.get_attribute("href")
    ActionChains(page, duration=0).click_and_hold(link).perform()
    happens(person, "pressed")
    page.execute_async_script(TOLD)
    ActionChains(page, duration=0).release().perform()
    eventually(lambda: page.current_url == leads_to, what="a click")
    person.opens("/events")
    marks(page, "#list tbody td:nth-child(2)")
    marked = page.execute_script("return String(getSelection())")
    happens(person, "after_marking")
    page.execute_async_script(TOLD)
    assert page.execute_script("return String(getSelection())") == marked != ""
    page.execute_script("getSelection().removeAllRanges()")
    person.sees("after_marking")


def marks(page: WebDriver, where: str) -> None:
    """With the pointer, the text of what this selector finds first."""
    page.execute_script("getSelection().selectAllChildren(document.querySelector(arguments[0]))", where)


@contextmanager
def shows_use(person: Person, username: str) -> Iterator[Callable[[int], object]]:
    """The page of a new user with a limit of 1000 bytes; yields what uses some of them."""
    service = person.service
    calls(service, "POST", "/api/user", {"username": username, "proxies": {"vless": {}}, "data_limit": 1000})
    with with_script(person.page, ASLEEP):
        person.opens(f"/user/{username}")
        yield lambda used: calls(service, "POST", "/api/v1/usage", [{"username": username, "bytes": used}])


def test_a_text_that_somebody_forgot_to_unmark_holds_up_nothing_for_ever(person: Person) -> None:
    """After a minute all parts of the page go on, also the one that it is marked in, whichever was looked at before it."""
    page = person.page
    with shows_use(person, "marked") as uses:
        marks(page, "#events tbody td:nth-child(2)")
        uses(2000)
        page.execute_async_script(TOLD)
        assert "(200%)" not in person.screen()
        page.execute_script("window.asleep = 61_000")
        person.sees("(200%)")
        eventually(lambda: "Data limit reached" in page.find_element(By.ID, "events").text)


def test_a_text_marked_anew_stays_whatever_was_forgotten_before(person: Person) -> None:
    """What was marked elsewhere, long ago, takes nothing from what is marked now."""
    page = person.page
    with shows_use(person, "anew") as uses:
        marks(page, "nav")
        uses(500)
        person.sees("(50%)")
        page.execute_script("window.asleep = 61_000")
        marks(page, "#events tbody td:nth-child(2)")
        uses(2000)
        page.execute_async_script(TOLD)
        assert "(250%)" not in person.screen()
        assert page.execute_script("return String(getSelection())")


def test_the_focus_stays_on_what_it_was_on(person: Person) -> None:
    """Events that come in before it move the focused one down; Enter still opens that one."""
    for name in ("third", "second", "first"):
        happens(person, name)
    person.opens("/events")
    focused = "return document.activeElement.href"
    page = person.page
    for row in (2, 1):
        page.execute_script("document.querySelectorAll('#list tbody tr')[arguments[0]].querySelector('a').focus()", row)
        leads_to = page.execute_script(focused)
        assert "/events/" in leads_to
        happens(person, f"newer_{row}")
        person.sees(f"newer_{row}")
        assert page.execute_script(focused) == leads_to


def test_what_was_unfolded_stays_where_it_is_read(person: Person) -> None:
    """What arrives above it moves it nowhere on the screen, nor the long text in it back to its beginning."""
    page = person.page
    person.opens("/inbox")
    person.clicks("Use the inbox")
    for name in ("read_before", "read_after"):
        note = {"username": name, "action": "user_updated", "user": {"note": "long " * 2000}}
        calls(person.service, "POST", "/api/v1/events", note)
        person.sees(name)
    unfolded = "const details = document.querySelector('#received article:last-child details');"
    page.execute_script(
        f"{unfolded} details.open = true; details.scrollIntoView(); details.lastElementChild.scrollTop = 300"
    )
    where = (
        f"{unfolded} return [details.open, Math.round(details.getBoundingClientRect().top), "
        "details.lastElementChild.scrollTop]"
    )
    before = page.execute_script(where)
    assert before[0]
    assert before[2] == 300
    happens(person, "arrives_above")
    person.sees("arrives_above")
    assert page.execute_script(where) == before
