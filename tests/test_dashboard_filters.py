"""What the lists' filters say of what makes no sense in them: nothing else is lost, and nothing means "any" in silence."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from dashboard_client import Form
from marzhook.dashboard.languages import NAMES
from marzhook.delivery import DEAD

if TYPE_CHECKING:
    from dashboard_client import Browser

pytest_plugins = ["api_client", "dashboard_client"]

DATE, CHOICE, ENDPOINT, NAME = (
    "A date is expected here.", "Choose one of these.", "There is no such endpoint.", "No user has such a name.",
)  # fmt: skip
WRONG = [
    ("/events", "since", "yesterday", DATE),
    ("/events", "until", "2026-13-01", DATE),
    ("/events", "state", "lost", CHOICE),
    ("/events", "endpoint", "abc", ENDPOINT),
    ("/events", "endpoint", str(2**63), ENDPOINT),
    ("/events", "action", "<script>", CHOICE),
    ("/events", "action", "a\0", CHOICE),
    ("/events", "username", "a\0b", NAME),
    ("/events", "username", "a" * 129, NAME),
    ("/dead", "since", "yesterday", DATE),
    ("/dead", "endpoint", "abc", ENDPOINT),
    ("/dead", "action", "A b", CHOICE),
    ("/dead", "states", "pending", CHOICE),
    ("/dead", "username", "a\0b", NAME),
    ("/users", "status", "lost", CHOICE),
    ("/users", "search", "a\0b", NAME),
]
RIGHT = {
    "/events": {"username": "alice", "action": "user_updated", "state": "dead", "since": "2026-01-01T00:00:00"},
    "/dead": {"username": "alice", "action": "user_updated", "since": "2026-01-01T00:00:00"},
    "/users": {"search": "al", "status": "active"},
}


def told(page: str) -> dict[str, str]:
    """What is said beside which field."""
    return dict(re.findall(r'<small class="wrong" id="wrong-(\w+)" role="alert">([^<]+)</small>', page))


@pytest.mark.parametrize(("path", "name", "value", "said"), WRONG)
def test_what_makes_no_sense_is_said_beside_its_field(
    browser: Browser, path: str, name: str, value: str, said: str
) -> None:
    """And the other fields stay as they were written."""
    browser.post("/users/new", {"username": "alice"})
    right = {field: text for field, text in RIGHT[path].items() if field != name}
    page = browser.page(f"{path}?{urlencode(right | {name: value})}", 422)
    assert told(page) == {name: said}
    fields = Form(page.partition("<main")[2], next(iter(right))).fields
    assert {field: fields[field] for field in right} == right
    if name != "states":
        assert fields[name] == value
        assert f'name="{name}"' in page
    assert f'aria-describedby="wrong-{name}"' in page or name == "states"
    assert "<script>" not in page.partition("<main")[2]


@pytest.mark.parametrize("code", NAMES)
def test_all_that_is_wrong_is_said_at_once(browser: Browser, code: str) -> None:
    """In the reader's language."""
    browser.client.cookies.set("marzhook_language", code)
    query = urlencode({"since": "x", "until": "x", "state": "x", "endpoint": "x", "action": "-", "username": "\1"})
    page = browser.page(f"/events?{query}", 422)
    said = told(page)
    assert said.keys() == {"since", "until", "state", "endpoint", "action", "username"}
    assert (DATE in said.values()) == (code == "en")


def test_what_makes_no_sense_is_not_replayed_as_any(browser: Browser) -> None:
    """Who mistypes an endpoint in the address does not send all of them again, nor is it counted."""
    api = browser.api
    endpoint, event = api.endpoint(), api.publish()
    api.settle(endpoint, event, DEAD)
    api.clock.advance(1)
    for query in ("endpoint=abc", "states=lost", "states=dead&states=lost", "since=x"):
        page = browser.page(f"/dead?{query}&count=yes", 422)
        assert "matches." not in page
        refused = browser.post(f"/dead/replay?{query}")
        assert unescape(refused.headers["location"]) == f"/dead?{query}"
        assert browser.site.replays.last is None
