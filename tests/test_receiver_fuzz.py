"""Whatever comes in, the receiver answers, and its handlers see well-formed events alone."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marzhook.receiver import ReceivedEvent, Receiver
from marzhook.testing import webhook_request

SECRET = "something-very-very-secret"
KEY = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
EXAMPLES = int(os.environ.get("FUZZ", "300"))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["username", "action", "enqueued_at", "tries", "send_at", "id", "by", "user", "type", "timestamp", "data", "extra"]
)
LIKELY = st.sampled_from(
    ["alice", "user_created", 1767225600.5, 0, "msg_1", {"username": "boss"}, "2026-01-01T00:00:00Z"]
)
EVENTS = st.dictionaries(NAMES, LIKELY | JSON, max_size=9)
STANDARD = st.fixed_dictionaries({"type": LIKELY | JSON, "timestamp": LIKELY | JSON, "data": EVENTS | JSON})
VALUES = EVENTS | st.lists(EVENTS | JSON, max_size=4) | STANDARD | JSON
TEXTS = st.builds(
    lambda value, ascii, indent: json.dumps(value, ensure_ascii=ascii, indent=indent).encode("utf-8", "surrogatepass"),
    VALUES, st.booleans(), st.sampled_from([None, 1]),
)  # fmt: skip


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """JSON with pieces cut out, repeated, or put in."""
    text = bytearray(draw(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        start, length = draw(st.integers(0, len(text))), draw(st.integers(0, 8))
        noise = st.sampled_from(
            [b'"', b"{", b"[" * 70, b"\\", b"\\ud800", b"1e999", b"NaN", b'"a":1,', b"\xff", b"\x00"]
        )
        text[start : start + length] = draw(noise | st.binary(max_size=4) | st.just(bytes(text[start : start + 8])))
    return bytes(text)


def uses(event: ReceivedEvent) -> None:
    """What handlers do: none of it may fail because of what came."""
    event.username.encode()
    event.action.encode()
    assert event.username.splitlines() == [event.username] or "\u2028" in event.username or "\u2029" in event.username
    assert event.time is None or event.time.year < 10000
    assert event.tries >= 0
    assert event.user is None or isinstance(event.user, dict)
    assert event.by is None or isinstance(event.by, dict)
    assert event.id is None or (event.id.isascii() and len(event.id) <= 255)
    json.dumps({**event.extra, "user": event.user, "by": event.by}, allow_nan=False)
    repr(event)


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
@given(body=st.binary(max_size=200) | TEXTS | broken(), hmac=st.booleans(), message_id=st.none() | st.text(max_size=20))
def test_the_parser_withstands_anything(body: bytes, hmac: bool, message_id: str | None) -> None:
    """Every body, proven, is answered with one of the documented statuses and a reason; handlers never get anything that
    they could stumble over, and what they get is what any JSON parser reads."""
    from marzhook.signing import hex_hmac

    receiver, seen = Receiver(SECRET), list[ReceivedEvent]()

    @receiver.on("*")
    def handle(event: ReceivedEvent) -> None:
        uses(event)
        seen.append(event)

    headers = {"x-webhook-secret": hex_hmac(SECRET, body) if hmac else SECRET}
    if message_id is not None:
        headers["webhook-id"] = message_id
    answer = receiver.receive(headers, body)
    content = json.loads(answer.body)
    assert answer.status in (200, 400, 422)
    assert bool(content.get("code")) == (answer.status == 400)
    assert not {result.what for result in answer.results} & {"failed", "held"}, answer.body
    assert len(seen) == sum(result.what == "done" for result in answer.results)
    if seen:
        check_against_json(body, seen)


def check_against_json(body: bytes, seen: list[ReceivedEvent]) -> None:
    """What the handlers got is somewhere in the body, as any parser reads it."""
    value: Any = json.loads(body)
    if isinstance(value, dict) and "action" not in value:
        value = {**value["data"], "action": value["type"]}
    items = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]
    users = [item["user"] for item in items if isinstance(item.get("user"), dict)]
    assert all(any(event.username == item.get("username") for item in items + users) for event in seen)
    assert all(any(event.action == item.get("action") for item in items) for event in seen)


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_a_changed_request_is_never_handled(data: st.DataObject) -> None:
    """One byte of a signed request's body, or one character of its id, time or signature, changed, left out or doubled: 403,
    and no handler was called."""
    receiver, seen = Receiver(KEY, clock=NOW.timestamp), list[ReceivedEvent]()
    receiver.on("*")(seen.append)
    event = {"action": "user_created", "username": "alice"}
    request = webhook_request(event, secret=KEY, format="list", first_id=1, now=NOW)
    headers, body = dict(request.headers), request.body
    name = data.draw(st.sampled_from(["body", "webhook-id", "webhook-timestamp", "webhook-signature"]))
    old = body if name == "body" else headers[name].encode()
    place = data.draw(st.integers(0, len(old) - 1))
    put = data.draw(st.sampled_from([b"", old[place : place + 1] * 2]) | st.binary(min_size=1, max_size=1))
    new = old[:place] + put + old[place + 1 :]
    if new == old:
        return
    if name == "body":
        body = new
    else:
        headers[name] = new.decode("latin-1")
    answer = receiver.receive(headers, body)
    assert (answer.status, seen) == (403, []), (name, new)


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
@given(headers=st.dictionaries(
    st.sampled_from([
        "x-webhook-secret", "webhook-id", "webhook-timestamp", "webhook-signature", "content-type", "content-length",
        "content-encoding", "transfer-encoding",
    ]),
    st.text(max_size=40) | st.sampled_from([SECRET, "application/json; charset=utf-8", "identity", "v1,AAAA", "1767225600"]),
))  # fmt: skip
def test_no_header_makes_it_stumble(headers: dict[str, str]) -> None:
    """Whatever the headers hold, also what is no text, is answered."""
    receiver, body = Receiver([SECRET, KEY]), b'{"username": "alice", "action": "user_created"}'
    assert receiver.receive(headers, body).status in (200, 400, 403, 415)
