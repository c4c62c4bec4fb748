"""Dead letters on the dashboard: counted, replayed with progress, and the replay stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marzhook.dashboard.replay import Replay
from marzhook.delivery import DEAD, PENDING
from marzhook.store import history
from marzhook.store.outbox import DeliveryFilter
from marzhook.store.search import Counted
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
    fields = {"username": "alice", "states": ["dead"]}
    assert browser.post("/dead/replay", fields).headers["location"] == "/dead"
    eventually(lambda: "2 deliveries are owed again." in browser.page("/dead"))
    assert [state(browser, endpoint, event) for event in events] == [PENDING, PENDING, DEAD]
    refused = browser.post("/dead/replay", {"since": "x", "username": "bob", "states": ["dead", "cancelled"]})
    page = browser.page(refused.headers["location"], 422)
    assert "A date is expected here." in page
    assert 'name="username" value="bob"' in page


def test_a_replay_is_stopped_and_runs_alone(browser: Browser) -> None:
    """What it has moved stays moved, and a second one waits its turn."""
    replays = browser.site.replays
    replays.last = Replay(10, moved=5)
    assert "Replaying: 5 of 10" in browser.page("/dead")
    refused = browser.post("/dead/replay")
    assert refused.status_code == 409
    assert "A replay is running" in refused.text
    replays.last = None
    replays.stop()
    replays.start(DeliveryFilter(states=(DEAD,)), Counted(0, complete=True))
    replays.close()
    assert replays.last is not None
    assert not replays.last.running
