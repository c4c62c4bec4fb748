"""The receiver kit: who is called with what, and what the sender is answered."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from marzhook.receiver import Answer, EventRefused, ReceivedEvent, Receiver
from marzhook.testing import FakeClock, webhook_request

SECRET = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
CREATED = {"action": "user_created", "username": "alice"}


def send(receiver: Receiver, *events: dict[str, Any], **how: Any) -> Answer:
    request = webhook_request(*events, **{"secret": SECRET, **how})
    return receiver.receive(request.headers, request.body)


def whats(answer: Answer) -> list[str]:
    return [result.what for result in answer.results]


def test_handlers_get_the_events_that_they_asked_for() -> None:
    """A handler is called for its actions, one for "*" for all, in the order of their registration; an action without a
    handler is accepted."""
    receiver, called = Receiver(SECRET), list[tuple[str, str]]()
    receiver.on("user_created", "user_deleted")(lambda event: called.append(("some", event.action)))
    assert whats(send(receiver, {**CREATED, "action": "user_limited"})) == ["ignored"]
    receiver.on("*")(lambda event: called.append(("all", event.action)))
    for action in ("user_created", "user_limited", "user_deleted"):
        assert send(receiver, {**CREATED, "action": action}).status == 200
    assert called == [
        ("some", "user_created"), ("all", "user_created"), ("all", "user_limited"),
        ("some", "user_deleted"), ("all", "user_deleted"),
    ]  # fmt: skip


@pytest.mark.parametrize("format", ["event", "list", "standard"])
def test_an_event_is_the_same_in_every_format(format: str) -> None:
    """All that Marzhook sends of an event arrives typed, whatever the body's form; its repr shows no credentials."""
    receiver, seen = Receiver(SECRET), list[ReceivedEvent]()
    receiver.on("*")(seen.append)
    user, by = {"username": "alice", "links": ["vless://password"]}, {"username": "boss", "is_sudo": True}
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    event = {**CREATED, "enqueued_at": moment.timestamp(), "by": by, "user": user, "days_left": 3}
    assert send(receiver, event, format=format, tries=2, first_id=7).status == 200
    (got,) = seen
    assert (got.action, got.username, got.tries, got.time) == ("user_created", "alice", 2, moment)
    assert (got.by, got.user, got.extra) == (by, user, {"days_left": 3})
    assert (got.format, got.message_id) == (format, "msg_testing_7")
    assert got.id == "msg_testing_7" or (format == "list" and got.id is not None)
    assert "password" not in repr(got)


def test_events_and_answers_are_equal_where_their_fields_are() -> None:
    """As people's own tests compare them."""
    one = ReceivedEvent("user_created", "alice", extra={"days_left": 3})
    assert one == ReceivedEvent("user_created", "alice", extra={"days_left": 3})
    assert one != ReceivedEvent("user_created", "alice")
    assert one != "user_created"
    answers = [send(Receiver(SECRET), CREATED) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0] != send(Receiver("another"), CREATED)


def test_a_failing_handler_is_answered_500_and_called_again(caplog: pytest.LogCaptureFixture) -> None:
    """An exception is logged with its traceback; the sender learns its name alone; the next try is handled."""
    receiver, left = Receiver(SECRET), [RuntimeError("password=hunter2")]

    @receiver.on("*")
    def fails_once(event: ReceivedEvent) -> None:
        if left:
            raise left.pop()

    first = send(receiver, CREATED, first_id=1)
    assert (first.status, whats(first)) == (500, ["failed"])
    assert json.loads(first.body) == {
        "results": {"failed": 1},
        "items": [{"index": 0, "result": "failed", "reason": "RuntimeError"}],
    }
    assert "hunter2" in caplog.text
    assert whats(send(receiver, CREATED, first_id=1, tries=1)) == ["done"]
    assert whats(send(receiver, CREATED, first_id=1, tries=2)) == ["duplicate"]


def test_a_refusing_handler_is_answered_422() -> None:
    """EventRefused tells the sender, with its words, that this event will never be good."""
    receiver = Receiver(SECRET)

    @receiver.on("*")
    def refuses(event: ReceivedEvent) -> None:
        raise EventRefused("no such customer")

    answer = send(receiver, CREATED)
    assert answer.status == 422
    assert json.loads(answer.body)["items"] == [{"index": 0, "result": "refused", "reason": "no such customer"}]


def test_one_bad_event_does_not_hold_a_list() -> None:
    """Of a list, the good ones are handled once, while the bad one alone comes again: in the same list, in a part of it,
    and by itself. The later events of its user wait for it, those of others do not."""
    receiver, called = Receiver(SECRET), list[tuple[str, str]]()
    bad = {"bob"}

    @receiver.on("*")
    def handle(event: ReceivedEvent) -> None:
        if event.username in bad:
            raise ValueError
        called.append((event.username, event.action))

    def event(username: str, action: str) -> dict[str, Any]:
        return {"username": username, "action": action, "enqueued_at": 1767225600.25}

    alice, bob, later, carol = (
        event("alice", "user_created"), event("bob", "user_created"), event("bob", "user_limited"),
        event("carol", "user_created"),
    )  # fmt: skip
    whole = send(receiver, alice, bob, later, carol, format="list", first_id=1)
    assert (whole.status, whats(whole)) == (422, ["done", "failed", "held", "done"])
    again = send(receiver, alice, bob, later, carol, format="list", first_id=1, tries=1)
    assert (again.status, whats(again)) == (422, ["duplicate", "failed", "held", "duplicate"])
    half = send(receiver, alice, bob, format="list", first_id=1, tries=1)
    assert (half.status, whats(half)) == (422, ["duplicate", "failed"])
    alone = send(receiver, bob, format="list", first_id=2, tries=1)
    assert (alone.status, whats(alone)) == (500, ["failed"])
    bad.clear()
    assert whats(send(receiver, bob, format="list", first_id=2, tries=2)) == ["done"]
    other_half = send(receiver, later, carol, format="list", first_id=3, tries=1)
    assert (other_half.status, whats(other_half)) == (200, ["done", "duplicate"])
    assert called == [
        ("alice", "user_created"), ("carol", "user_created"), ("bob", "user_created"), ("bob", "user_limited"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ("dd", 200), ("ff", 500), ("rr", 422), ("fr", 422), ("df", 422), ("dr", 422),
    ],
)  # fmt: skip
def test_the_status_says_whether_the_list_is_to_be_taken_apart(outcomes: str, status: int) -> None:
    """200 when all went well; 500 when everything failed, which is no event's fault; else 422, at which Marzhook sends
    smaller lists."""
    receiver = Receiver(SECRET)

    @receiver.on("*")
    def handle(event: ReceivedEvent) -> None:
        match event.extra["outcome"]:
            case "f":
                raise OSError
            case "r":
                raise EventRefused

    events = [
        {"username": f"user{n}", "action": "user_created", "outcome": outcome} for n, outcome in enumerate(outcomes)
    ]
    assert send(receiver, *events, format="list").status == status


def test_async_handlers_run_to_their_end() -> None:
    """An `async` handler is awaited before the answer, its exception counts, and it stands beside plain ones."""
    receiver, called = Receiver(SECRET), list[str]()

    @receiver.on("user_created")
    async def handle(event: ReceivedEvent) -> None:
        called.append("async")

    @receiver.on("*")
    def plain(event: ReceivedEvent) -> None:
        called.append("plain")

    @receiver.on("user_deleted")
    async def fail(event: ReceivedEvent) -> None:
        raise ValueError

    assert send(receiver, CREATED).status == 200
    assert called == ["async", "plain"]
    assert send(receiver, {**CREATED, "action": "user_deleted"}).status == 500


def test_what_a_handler_returns_does_not_matter() -> None:
    """A handler that returns something is not a failure."""
    receiver = Receiver(SECRET)
    receiver.on("*")(lambda event: True)
    assert send(receiver, CREATED).status == 200


def test_a_receiver_without_a_secret_is_refused() -> None:
    """No secret, an empty one, a malformed one, and the sender's private key are errors at the start, which do not show it."""
    for secret in ("", [], ["good", ""], "whsec_", "whsec_not base64", "whpk_AAAA", "whsk_AAAA"):
        with pytest.raises(ValueError) as caught:
            Receiver(secret)
        assert "AAAA" not in str(caught.value)
        assert "not base64" not in str(caught.value)


def test_on_without_an_action_is_refused() -> None:
    """Forgetting the action, or the brackets, is an error at the start and not silence later."""
    receiver = Receiver(SECRET)
    with pytest.raises(TypeError):
        receiver.on()
    with pytest.raises(TypeError):
        receiver.on(lambda event: None)  # type: ignore[arg-type]


def test_the_clock_is_the_receivers() -> None:
    """A signature is as old as the receiver's clock says: tests need not wait."""
    clock = FakeClock()
    receiver = Receiver(SECRET, clock=lambda: clock.now().timestamp(), tolerance=60)
    receiver.on("*")(lambda event: None)
    assert send(receiver, CREATED, now=clock.now()).status == 200
    request = webhook_request(CREATED, secret=SECRET, now=clock.now())
    clock.advance(61)
    assert receiver.receive(request.headers, request.body).status == 403


def test_only_post_is_taken() -> None:
    """Another method is answered 405 and told which one."""
    request = webhook_request(CREATED, secret=SECRET)
    answer = Receiver(SECRET).receive(request.headers, request.body, method="PUT")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


def test_logs_hold_no_secrets(caplog: pytest.LogCaptureFixture) -> None:
    """Refused requests are logged with their code, and with nothing of what came."""
    caplog.set_level(logging.DEBUG)
    request = webhook_request(CREATED, secret="the-secret-that-came")
    answer = Receiver("the-secret-that-is-wanted").receive(request.headers, request.body)
    assert answer.status == 403
    assert "wrong_secret" in caplog.text
    assert "the-secret" not in caplog.text + answer.body.decode()
