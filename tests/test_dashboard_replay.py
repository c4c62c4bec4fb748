"""Dead letters on the dashboard: counted, replayed with progress, and the replay stopped."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest

from dashboard_client import Form
from marzhook import operations
from marzhook.dashboard.replay import Replay
from marzhook.delivery import DEAD, PENDING
from marzhook.errors import DatabaseError
from marzhook.store import history
from marzhook.testing import eventually

if TYPE_CHECKING:
    from dashboard_client import Browser

pytest_plugins = ["api_client", "dashboard_client"]


def state(browser: Browser, endpoint: int, event: int) -> str:
    with browser.services.database.read() as conn:
        return history.delivery(conn, endpoint, event).state


def test_dead_letters_are_counted_and_replayed(browser: Browser) -> None:
    """First how many, then all of those, and no others."""
    api = browser.api
    endpoint = api.endpoint()
    events = [api.publish(username=name) for name in ("alice", "alice", "bob")]
    for event in events:
        api.settle(endpoint, event, DEAD)
    api.clock.advance(1)
    assert browser.page("/dead").count('href="/events/') == 3
    counted = browser.page("/dead?username=alice&count=yes")
    assert "2 deliveries match." in counted
    assert "Replay 2 deliveries" in counted
    assert state(browser, endpoint, events[0]) == DEAD
    assert browser.post("/dead/replay?username=alice&states=dead").headers["location"] == "/dead"
    eventually(lambda: "2 deliveries are owed again." in browser.page("/dead"))
    assert [state(browser, endpoint, event) for event in events] == [PENDING, PENDING, DEAD]
    assert re.search(r"2 deliveries are owed again\. <time ", browser.page("/dead"))
    api.clock.advance(601)
    assert "are owed again" not in browser.page("/dead"), "it is no news any more"
    refused = browser.post("/dead/replay?since=x&username=bob&states=dead&states=cancelled")
    page = browser.page(refused.headers["location"], 422)
    assert "A date is expected here." in page
    assert 'name="username" value="bob"' in page


def test_dead_letters_of_a_deleted_endpoint_are_in_no_figure(browser: Browser) -> None:
    """The list holds what is counted, and what can be replayed; what became of each stays in its event's story."""
    api = browser.api
    gone, left = api.endpoint(name="gone"), api.endpoint("https://left.example/", name="left")
    event = api.publish()
    for endpoint in (gone, left):
        api.settle(endpoint, event, DEAD)
    browser.post(f"/endpoints/{gone}/delete")
    page = browser.page("/dead?count=yes")
    assert "1 delivery matches." in page
    assert re.findall("<bdi>(gone|left)</bdi>", page) == ["left"]
    assert "1 of the last 24 hours" in browser.page("/")
    assert "<bdi>gone</bdi>" in browser.page(f"/events/{event}")


def test_a_filter_says_what_it_is_also_of_an_endpoint_that_was_deleted(browser: Browser) -> None:
    """A link to its events may be older: nothing is left of them to count, and no other endpoint's are meant."""
    api = browser.api
    gone, left = api.endpoint(name="gone"), api.endpoint("https://left.example/", name="left")
    api.settle(left, api.publish(), DEAD)
    browser.post(f"/endpoints/{gone}/delete")
    for path in ("/events", "/dead", "/dead?count=yes"):
        status = 422 if "count" in path else 200
        page = browser.page(f"{path}{'&' if '?' in path else '?'}endpoint={gone}", status)
        assert Form(page, "endpoint").fields["endpoint"] == str(gone)
        assert f">deleted endpoint {gone}</option>" in page
        assert ("There is no such endpoint." in page) == (status == 422)
        kept = browser.page(f"{path.partition('?')[0]}?endpoint={left}")
        assert Form(kept, "endpoint").fields["endpoint"] == str(left)
        assert "deleted endpoint" not in kept
    assert browser.post(f"/dead/replay?endpoint={gone}").headers["location"] == f"/dead?endpoint={gone}"


def test_older_letters_are_of_the_same_filter(browser: Browser) -> None:
    """Also where several states are wanted."""
    endpoint = browser.api.endpoint()
    for number in range(60):
        browser.api.settle(endpoint, browser.api.publish(username=f"user{number}"), DEAD)
    page = browser.page("/dead?states=dead&states=cancelled&username=")
    [older] = re.findall('rel="next" href="([^"]*)"', page)
    assert unescape(older).startswith("?states=dead&states=cancelled&before=")
    assert browser.page(f"/dead{unescape(older)}").count('href="/events/') == 10


def test_replays_run_one_at_a_time(browser: Browser) -> None:
    """A second one waits its turn."""
    browser.site.replays.last = Replay(10, moved=5)
    assert "Replaying: 5 of 10" in browser.page("/dead")
    refused = browser.post("/dead/replay")
    assert refused.status_code == 409
    assert "A replay is running" in refused.text


def dead_letters(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, moved: Callable[[int], None]
) -> Callable[[], list[str]]:
    """Six of them, which are replayed in chunks of two; before each is committed, `moved` is called with its number. Returns
    what tells their states."""
    endpoint = browser.api.endpoint()
    events = [browser.api.publish(username=f"user{i}") for i in range(6)]
    for event in events:
        browser.api.settle(endpoint, event, DEAD)
    browser.api.clock.advance(1)
    real, calls = browser.services.outbox.replay, iter(range(1, 9))

    def replay(*args: Any, **named: Any) -> int:
        count: int = real(*args, **named)
        moved(next(calls))
        return count

    monkeypatch.setattr(operations, "REPLAY_CHUNK", 2)
    monkeypatch.setattr(browser.services.outbox, "replay", replay)
    return lambda: [state(browser, endpoint, event) for event in events]


def test_a_replay_is_stopped(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the chunk that it is at: what it has moved stays moved, the rest stays dead, and another one takes the rest."""
    at_first, stopped = Event(), Event()

    def waits(_number: int) -> None:
        at_first.set()
        assert stopped.wait(20)

    states = dead_letters(browser, monkeypatch, waits)
    browser.post("/dead/replay")
    assert at_first.wait(20)
    running = browser.page("/dead")
    assert "Replaying: 0 of 6" in running
    assert 'action="/dead/stop"' in running
    assert browser.post("/dead/stop").headers["location"] == "/dead"
    stopped.set()
    eventually(lambda: "Stopped; 2 are owed again." in browser.page("/dead"))
    assert sorted(states()) == [DEAD] * 4 + [PENDING] * 2
    last = browser.site.replays.last
    assert last is not None
    assert (last.moved, last.total, last.stopped, last.running) == (2, 6, True, False)
    browser.api.clock.advance(1)
    browser.post("/dead/replay")
    eventually(lambda: "4 deliveries are owed again." in browser.page("/dead"))
    assert states() == [PENDING] * 6


@pytest.mark.parametrize(
    ("error", "said"),
    [(DatabaseError("the disk is full"), "the disk is full"), (ZeroDivisionError("a bug"), "internal")],
    ids=["told", "bug"],
)
def test_a_replay_that_fails_says_how_far_it_came(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    """With the reason, or with nothing of the inside where nobody expected it."""

    def breaks(number: int) -> None:
        if number == 2:
            raise error

    states = dead_letters(browser, monkeypatch, breaks)
    browser.post("/dead/replay")
    ended = "The replay ended early; 2 are owed again."
    eventually(lambda: ended in browser.page("/dead"))
    assert f">{said}</span>" in browser.page("/dead")
    assert "a bug" not in browser.page("/dead")
    assert sorted(states()) == [DEAD] * 4 + [PENDING] * 2
