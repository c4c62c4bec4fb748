"""Whatever panels send, each item is an event that can be stored and sent, or a rejection with its reason."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marzhook.errors import InvalidError
from marzhook.event import check_action, check_username, details_json
from marzhook.sources.panels import PANELS
from marzhook.sources.panels.base import Incoming, Rejection

EXAMPLES = int(os.environ.get("FUZZ", "150"))
SECRET = "c0ffee-credential"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just(SECRET),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
LIKELY = st.sampled_from(
    ["alice", "user_updated", "user.modified", "user_activated", "user", 1795423342.04, 0, "2026-01-01T00:00:00.000Z",
     True, {"username": "boss", "discord_webhook": SECRET}]
)  # fmt: skip
USERS = st.dictionaries(
    st.sampled_from(
        ["username", "status", "expire", "expire_date", "expireAt", "enabled", "admin", "owner_username", "userTraffic",
         "usedTrafficBytes", "lastTriggeredThreshold", "trafficLimitBytes", "trafficLimitStrategy", "user", "note"]
    ),
    LIKELY | JSON, max_size=8,
)  # fmt: skip
HIDDEN = st.sampled_from([SECRET, {"vless": {"id": SECRET}}, [SECRET], {"a": [{"b": SECRET}]}])
EVERYWHERE = ("proxies", "proxy_settings", "links", "subscription_url")
ITEMS = st.dictionaries(
    st.sampled_from(["username", "action", "enqueued_at", "send_at", "tries", "by", "user", "scope", "event", "timestamp",
                     "data", "meta", "created_at", "id", "extra"]),
    LIKELY | USERS | JSON, max_size=9,
)  # fmt: skip
VALUES = ITEMS | st.lists(ITEMS | JSON, max_size=4) | JSON


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """JSON with pieces cut out, repeated, or put in."""
    text = bytearray(json.dumps(draw(VALUES), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass"))
    noise = st.sampled_from(
        [b'"', b"{", b"[" * 120, b"[" * 20000, b"\\", b"\\ud800", b"1e999", b"NaN", b'"a":1,"a":2,', b"\xff", b"\x00",
         b"9" * 5000, b"]", b",,"]
    )  # fmt: skip
    for _ in range(draw(st.integers(0, 4))):
        start, length = draw(st.integers(0, len(text))), draw(st.integers(0, 8))
        text[start : start + length] = draw(noise | st.binary(max_size=4) | st.just(bytes(text[start : start + 8])))
    return bytes(text)


def taken_apart(name: str, body: bytes, credentials: bool) -> list[Incoming | Rejection]:
    """Its items; none of what is no JSON. Anything else that is raised is a fault."""
    try:
        return PANELS[name].parse(body, credentials=credentials)
    except InvalidError as error:
        if error.code != "malformed_json":
            raise
        return []


def check(item: Incoming | Rejection) -> None:
    """It can be stored in either database, and sent."""
    if isinstance(item, Rejection):
        assert item.reason
        assert item.code
        item.body.encode()
        assert "\0" not in item.body
        return
    check_action(item.event.action)
    check_username(item.event.username)
    for text in details_json(item.event.detail, full=True):
        assert "\0" not in text
        assert not text or isinstance(json.loads(text, parse_constant=pytest.fail), dict)
    assert item.fingerprint is None or len(item.fingerprint) == 16
    assert item.tries >= 0


@pytest.mark.parametrize("name", PANELS)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
@given(body=st.binary(max_size=200) | broken(), credentials=st.booleans())
def test_the_parser_withstands_anything(name: str, body: bytes, credentials: bool) -> None:
    """Every body is read as a whole, refused as no JSON, or taken apart; nothing else is raised, and the same body is read
    the same way again, so that its retry is known."""
    items = taken_apart(name, body, credentials)
    for item in items:
        check(item)
    assert taken_apart(name, body, credentials) == items


@pytest.mark.parametrize("name", PANELS)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
@given(item=ITEMS, user=USERS, data=st.data())
def test_no_credential_gets_through(name: str, item: dict[str, Any], user: dict[str, Any], data: st.DataObject) -> None:
    """Wherever a user stands in an item, what gives access to him is in no event and in no rejection that is kept."""
    clean = json.loads(json.dumps([item, user]).replace(SECRET, "harmless"))
    names = st.sampled_from([*EVERYWHERE, *PANELS[name].credentials])
    hidden = data.draw(st.dictionaries(names, HIDDEN, max_size=3))
    body = json.dumps([{**clean[0], "user": {**clean[1], **hidden}, "data": {**clean[1], **hidden}}]).encode()
    for one in PANELS[name].parse(body, credentials=False):
        kept = one.body if isinstance(one, Rejection) else json.dumps(one.event.detail)
        assert SECRET not in kept, kept
