"""A form acts once, however often it is sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from dashboard_client import Form
from marzhook.dashboard import once
from marzhook.errors import InvalidError, OutcomeUnknownError, StoreBusyError
from marzhook.event import TEST_ACTION
from marzhook.store import endpoints, history
from marzhook.testing import Counter

if TYPE_CHECKING:
    import httpx2

    from dashboard_client import Browser

pytest_plugins = ["api_client", "dashboard_client"]

CHARGE = "/user/alice", "amount", "/user/alice/charge"
LOST = (500, 503)


@pytest.fixture
def alice(browser: Browser) -> Browser:
    browser.services.registry.create({"username": "alice"}, None)
    return browser


def used(browser: Browser) -> int:
    return browser.services.registry.get("alice", None).used_traffic // 2**30


def test_what_is_sent_again_is_answered_as_the_first_time(alice: Browser) -> None:
    """And nothing is done, whatever the form does; another page's form, and another text in it, mean what they say."""
    api, service = alice.api, alice.services
    endpoint = api.endpoint()
    sent = [
        alice.sends(*CHARGE, amount="1"),
        alice.sends("/users/new", "username", "/users/new", username="bob"),
        alice.sends("/endpoints/new", "url", "/endpoints/new", url="https://new.example/", which="all"),
        alice.sends(f"/endpoints/{endpoint}", "form_key", f"/endpoints/{endpoint}/test"),
    ]
    for again in sent:
        first, second = again(), again()
        assert first.status_code == second.status_code == 303
        # With what belongs to it: a new signing secret is seen also by who only gets the second answer.
        assert first.headers.multi_items() == second.headers.multi_items()
    with service.database.read() as conn:
        assert len(endpoints.all_endpoints(conn)) == 2
        assert [one.action for one in history.events(conn, limit=10)].count(TEST_ACTION) == 1
    assert used(alice) == 1
    alice.sends(*CHARGE, amount="1")()
    assert used(alice) == 2
    for amount in ("3", "4"):
        data = Form(alice.page("/user/alice").partition("<main")[2], "amount").fields | {"form_key": "of one page"}
        alice.client.post("/user/alice/charge", data=data | {"amount": amount})
    assert used(alice) == 2 + 3 + 4


def test_what_is_sent_again_at_the_same_time_waits(alice: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the first one's answer."""
    waits, answers = threading.Event(), []
    again = alice.sends(*CHARGE, amount="1")
    second = threading.Thread(target=lambda: answers.append(again()))
    real, sleep = alice.services.registry.charge, once.sleep

    def charge(*given: object) -> object:
        second.start()
        assert waits.wait(10)
        return real(*given)  # type: ignore[arg-type]

    def noted(seconds: float) -> None:
        waits.set()
        sleep(seconds)

    monkeypatch.setattr(alice.services.registry, "charge", charge)
    monkeypatch.setattr(once, "sleep", noted)
    answers.append(again())
    second.join(10)
    assert [one.headers["location"] for one in answers] == ["/user/alice"] * 2
    assert used(alice) == 1


@pytest.mark.parametrize("error", [RuntimeError("half done"), OutcomeUnknownError("no answer")])
def test_where_nobody_knows_whether_it_was_done_it_is_not_done_again(
    alice: Browser, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(once, "PATIENCE", 0.0)
    again = lost(alice, monkeypatch, error)
    refused = again()
    assert refused.status_code == 409
    assert "whether it was done is not known yet" in refused.text
    assert used(alice) == 0


def test_nobody_waits_for_one_who_cannot_be_acting_any_more(alice: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service was killed in the middle of it: that this was done is not known, and will not be."""
    again = lost(alice, monkeypatch, RuntimeError("killed"))
    alice.api.clock.advance(once.PATIENCE + 1)
    monkeypatch.setattr(once, "sleep", raising(AssertionError("waited")))
    assert again().status_code == 409
    assert used(alice) == 0


def test_what_was_refused_can_be_sent_again(alice: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has changed nothing; and the form that shows what is wrong has a key of its own."""
    again = alice.sends(*CHARGE, amount="1")
    with monkeypatch.context() as refusing:
        refusing.setattr(alice.services.registry, "charge", raising(InvalidError("not now")))
        refused = again()
    assert refused.status_code == 422
    first, second = (
        Form(page.partition("<main")[2], "amount").fields for page in (alice.page("/user/alice"), refused.text)
    )
    assert first["form_key"] != second["form_key"]
    assert first["form_token"] == second["form_token"]
    assert again().status_code == 303
    assert used(alice) == 1


def test_what_was_refused_can_be_sent_again_though_that_could_not_be_noted(
    alice: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full for the note, too; and once it is done it is done."""
    again = alice.sends(*CHARGE, amount="1")
    with monkeypatch.context() as full:
        full.setattr(alice.services.registry, "charge", raising(StoreBusyError("no space left", code="disk_full")))
        full.setattr(once.idempotency, "answer", raising(StoreBusyError("no space left", code="disk_full")))
        assert again().status_code in LOST
    assert again().status_code == again().status_code == 303
    assert used(alice) == 1


def test_who_waits_for_the_first_answer_writes_nothing(alice: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whoever is waited for can write."""
    again = lost(alice, monkeypatch, RuntimeError("half done"))
    looks, wrote, write = iter(range(5)), Counter(), alice.services.database.write

    def noted(_seconds: float) -> None:
        if next(looks) == 3:
            monkeypatch.setattr(once, "PATIENCE", 0.0)

    def counted(**how: bool) -> object:
        wrote()
        return write(**how)

    monkeypatch.setattr(once, "sleep", noted)
    monkeypatch.setattr(alice.services.database, "write", counted)
    assert again().status_code == 409
    assert wrote.count == 1


def lost(browser: Browser, monkeypatch: pytest.MonkeyPatch, error: Exception) -> Callable[[], httpx2.Response]:
    """Sends a form whose work ends in this error; returns what sends it again."""
    again = browser.sends(*CHARGE, amount="1")
    with monkeypatch.context() as broken:
        broken.setattr(browser.services.registry, "charge", raising(error))
        assert again().status_code in LOST
    return again


def raising(error: Exception) -> object:
    def raised(*_given: object) -> None:
        raise error

    return raised
