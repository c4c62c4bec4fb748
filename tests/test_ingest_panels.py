"""What the adapters make of panels' requests: pure, from bytes to events and rejections."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marzhook.errors import InvalidError
from marzhook.event import MAX_DETAIL, detail_json
from marzhook.sources.panels import PANELS
from marzhook.sources.panels.base import Incoming, Rejection
from panel_requests import SECRET, again, body_of, captured, captured_events, deleted, parsed, taken

MARZBAN, PASARGUARD, MARZNESHIN, REMNAWAVE = (
    PANELS[name] for name in ("marzban", "pasarguard", "marzneshin", "remnawave")
)


# -- Marzban


def test_captured_events_keep_what_they_say() -> None:
    """Everything that the panel says comes through, in its order, but for credentials and what its sender counts."""
    for (headers, body), event in zip(captured(), captured_events(), strict=True):
        assert MARZBAN.authentic(SECRET, headers, body)
        [full] = MARZBAN.parse(body, credentials=True)
        assert isinstance(full, Incoming)
        assert (full.event.action, full.event.username) == (event["action"], event["username"])
        rest = {k: v for k, v in event.items() if k not in ("enqueued_at", "send_at", "tries", "username", "action")}
        assert list(full.event.detail.items()) == [*rest.items(), ("source_enqueued_at", event["enqueued_at"])]
        [safe] = MARZBAN.parse(body, credentials=False)
        assert isinstance(safe, Incoming)
        text = detail_json(safe.event.detail)
        for word in ("password", "links", "subscription_url", "discord_webhook", "yejDHECkeypE8VXu8CU6XA"):
            assert f'"{word}"' not in text
        if "user" in event:
            assert safe.event.detail["user"]["proxies"] == {"shadowsocks": {"method": "chacha20-ietf-poly1305"}}
            assert safe.event.detail["user"]["used_traffic"] == event["user"]["used_traffic"]
            owner = event["user"]["admin"]
            kept = owner and {name: value for name, value in owner.items() if name != "discord_webhook"}
            assert safe.event.detail["user"]["admin"] == kept


def test_the_single_object_of_old_panels_is_one_event() -> None:
    """Up to 0.3.0 the panel sent no list."""
    [one] = MARZBAN.parse(
        b'{"username": "marzban_test_user", "action": "user_updated", "enqueued_at": 1680506457.636369, "tries": 0}',
        credentials=False,
    )
    assert isinstance(one, Incoming)
    assert (one.event.action, one.event.username) == ("user_updated", "marzban_test_user")
    assert one.event.detail == {"source_enqueued_at": 1680506457.636369}


def test_unknown_actions_and_fields_come_through_as_they_are() -> None:
    """A newer panel's news are not lost on an older Marzhook."""
    one = taken(MARZBAN, {"username": "a", "action": "user_teleported", "to": ["Mars", None, 1.5], "id": 7})
    assert one.event.action == "user_teleported"
    assert one.event.detail == {"to": ["Mars", None, 1.5], "source_id": 7}


def test_a_retry_has_the_fingerprint_of_its_first_try() -> None:
    """`tries` and `send_at` are the sender's; all else tells the event."""
    for event in captured_events():
        first, second = taken(MARZBAN, event), taken(MARZBAN, again(event, 1))
        assert first.fingerprint == second.fingerprint
        assert (first.tries, second.tries) == (0, 1)
        assert first.fingerprint != taken(MARZBAN, {**event, "username": "other"}).fingerprint
        assert first.fingerprint != taken(MARZBAN, {**event, "enqueued_at": 1.0}).fingerprint
        assert first.fingerprint != taken(PASARGUARD, event).fingerprint


def test_events_with_a_subscription_token_are_dated() -> None:
    """The token of the subscription URL holds the second in which the panel made it; a deletion has none."""
    assert [taken(MARZBAN, event).dated for event in captured_events()] == [True] * 10 + [False]
    event = captured_events()[0]
    for url in ("", "/sub/", "/sub/notatoken", "/sub/eyJhbGciOi.eyJzdWIi.abc", 7, "/sub/" + "é" * 20):
        assert not taken(MARZBAN, {**event, "user": {**event["user"], "subscription_url": url}}).dated


@pytest.mark.parametrize("tries", [None, True, -1, 1.0, "1", 10**9, [1]])
def test_odd_tries_count_as_the_first(tries: Any) -> None:
    """What no panel writes makes nothing a retry."""
    assert taken(MARZBAN, {"username": "a", "action": "b", "tries": tries}).tries == 0


# -- what is refused, and how


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ({"action": "user_updated"}, "invalid_username"),
        ({"username": "alice"}, "invalid_action"),
        ({"username": "", "action": "user_updated"}, "invalid_username"),
        ({"username": "a" * 129, "action": "user_updated"}, "invalid_username"),
        ({"username": "a\u0000b", "action": "user_updated"}, "invalid_username"),
        ({"username": "a\ud800", "action": "user_updated"}, "invalid_username"),
        ({"username": ["a"], "action": "user_updated"}, "invalid_username"),
        ({"username": "a", "action": 'x", "username": "b'}, "invalid_action"),
        ({"username": "a", "action": "User Updated"}, "invalid_action"),
        ({"username": "a", "action": None}, "invalid_action"),
        ({"username": "a", "action": "user_updated", "note": "x" * MAX_DETAIL}, "event_too_large"),
        ([{"username": "a", "action": "user_updated"}], "invalid_event"),
        (None, "invalid_event"),
        (True, "invalid_event"),
        (17, "invalid_event"),
        ("alice", "invalid_event"),
    ],
)
def test_a_poisonous_item_is_put_aside_with_its_reason(item: Any, code: str) -> None:
    """Its neighbours are taken, and what it was can be read."""
    before, bad, after = parsed(MARZBAN, deleted("before"), item, deleted("after"))
    assert isinstance(before, Incoming)
    assert isinstance(after, Incoming)
    assert isinstance(bad, Rejection)
    assert bad.code == code
    assert bad.reason
    assert json.loads(bad.body) == item


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"username": "a", "username": "b", "action": "c"}', "a key occurs twice"),
        ('{"username": "a", "action": "c", "user": {"x": 1, "x": 1}}', "a key occurs twice"),
        ('{"username": "a", "action": "c", "n": NaN}', "NaN is not a JSON number"),
        ('{"username": "a", "action": "c", "n": [-Infinity]}', "-Infinity is not a JSON number"),
        ('{"username": "a", "action": "c", "n": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"username": "a", "action": "c", "n": ' + "9" * 5000 + "}", "a number in it is too long"),
        ('{"username": "a", "action": "c", "n": [1e999]}', "a number in it is larger than can be kept"),
        ('{"username": "a", "action": "c", "user": {"x": -2.5E+309}}', "a number in it is larger than can be kept"),
    ],
)
def test_an_item_that_cannot_be_read_stops_no_other(text: str, reason: str) -> None:
    """A list is taken apart where a single item is at fault."""
    body = f'[{{"username": "]}}, [\\"", "action": "first"}}, {text} , {{"username": "b", "action": "last"}}]'
    first, bad, last = MARZBAN.parse(body.encode(), credentials=False)
    assert isinstance(first, Incoming)
    assert first.event.username == ']}, ["'
    assert isinstance(last, Incoming)
    assert isinstance(bad, Rejection)
    assert reason in bad.reason
    assert bad.body == text
    [alone] = MARZBAN.parse(text.encode(), credentials=False) if text.startswith("{") else [bad]
    assert isinstance(alone, Rejection)


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"hello", b"[", b"[{]", b'[{"username": "a"', b'{"a": 1} {"b": 2}', b"[1,]", b'{"a": "\x01"}',
        b"\xff\xfe{}",
        '[{"username": "é", "action": "b"}]'.encode("latin-1"), '{"username": "a"}'.encode("utf-16"),
        b'{"username": "' + b"\x80" * 10 + b'"}', b"[" * 100_000, b'[{"x": NaN}, {]', b'[{"x": NaN}] tail', b'[{"x": NaN}, "',
    ],
)  # fmt: skip
def test_a_body_that_is_no_json_is_refused_as_a_whole(body: bytes) -> None:
    """Truncated, in another charset, or not JSON at all: the panel learns that it was not taken."""
    with pytest.raises(InvalidError) as refused:
        MARZBAN.parse(body, credentials=False)
    assert refused.value.code == "malformed_json"


def test_a_rejected_item_is_kept_without_credentials() -> None:
    """What is put aside gives nothing away, also where it could not be parsed."""
    user = captured_events()[0]["user"]
    item = {"action": "user_created", "user": user}
    [bad] = parsed(MARZBAN, item)
    assert isinstance(bad, Rejection)
    unreadable = json.dumps(item)[:-1] + ', "n": NaN}'
    [worse] = MARZBAN.parse(unreadable.encode(), credentials=False)
    assert isinstance(worse, Rejection)
    for one in (bad, worse):
        assert "user_created" in one.body
        for secret in (user["subscription_url"], user["proxies"]["shadowsocks"]["password"]):
            assert secret not in one.body
    [whole] = MARZBAN.parse(unreadable.encode(), credentials=True)
    assert isinstance(whole, Rejection)
    assert whole.body == unreadable


@pytest.mark.parametrize("credentials", [True, False])
def test_no_depth_breaks_more_than_its_own_item(credentials: bool) -> None:
    """Between what is read easily and what cannot be read at all there is no depth that fails later on."""
    for depth in range(50, 1500, 9):
        deep = "[" * depth + "]" * depth
        body = f'[{{"username": "a", "action": "b", "deep": {deep}}}, {{"username": "c", "action": "d"}}]'
        one, two = MARZBAN.parse(body.encode(), credentials=credentials)
        assert isinstance(two, Incoming)
        assert isinstance(one, Incoming) == (depth < 97)
        if isinstance(one, Rejection):
            assert (one.code, one.reason) == ("unreadable_event", "it is nested too deeply")
            assert deep in one.body
        else:
            assert json.loads(detail_json(one.event.detail)) == {"deep": json.loads(deep)}


def test_brackets_in_texts_are_no_nesting() -> None:
    """A note full of brackets, or a long list, is as flat as any."""
    for value in ("[" * 5000, ["{"] * 500, [[]] * 500, {str(n): {} for n in range(500)}):
        assert taken(MARZBAN, {"username": "a", "action": "b", "value": value}).event.detail["value"] == value


# -- anything at all

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["username", "action", "user", "by", "tries", "send_at", "enqueued_at", "id", "event", "scope", "data", "meta",
     "timestamp", "proxies", "proxy_settings", "links", "subscription_url", "created_at", "expire", "status", "userTraffic",
     "source_enqueued_at", "admin", "expireAt", "key"]
)  # fmt: skip
ITEMS = st.recursive(
    ANY | st.sampled_from(["user.created", "user_deactivated", "2026-01-01", "data_usage_reset", "user"]),
    lambda inner: st.dictionaries(FIELDS, inner, max_size=6),
    max_leaves=12,
)


@given(items=st.lists(ITEMS, max_size=5), name=st.sampled_from(sorted(PANELS)), credentials=st.booleans())
def test_whatever_a_panel_says_each_item_is_taken_or_put_aside(items: list[Any], name: str, credentials: bool) -> None:
    """No item crashes an adapter, none gets lost, and what is taken can be written."""
    found = PANELS[name].parse(json.dumps(items).encode(), credentials=credentials)
    assert len(found) == len(items)
    for one in found:
        if isinstance(one, Incoming):
            text = detail_json(one.event.detail)
            if not credentials:
                assert '"links":' not in text
                assert '"subscription_url":' not in text
        else:
            assert one.reason
            assert one.body.isascii()
            assert "\0" not in one.body


@given(body=st.binary(max_size=300) | st.text(alphabet='[]{}",:\\ua1eNnIty -', max_size=60).map(str.encode))
@example(body=b'[{"a":NaN},"\\"')
@example(body=b"\xef\xbb\xbf[]")
def test_whatever_bytes_come_the_answer_is_in_order(body: bytes) -> None:
    """Garbage is refused as garbage, and nothing else happens."""
    for panel in PANELS.values():
        try:
            found = panel.parse(body, credentials=False)
        except InvalidError as error:
            if error.code != "malformed_json":
                raise
        else:
            assert all(isinstance(one, Incoming | Rejection) for one in found)


@given(
    items=st.lists(st.dictionaries(st.text(max_size=4), ANY, max_size=3), min_size=1, max_size=5),
    bad=st.sampled_from(['{"a": 1, "a": 2}', "NaN", "9" * 5000, "1e999"]),
    data=st.data(),
)
def test_taking_a_list_apart_finds_the_same_items(items: list[Any], bad: str, data: st.DataObject) -> None:
    """However strange the other items' texts are, brackets and quotes within them do not mislead."""
    texts = [json.dumps({**item, "username": "u", "action": "a"}) for item in items]
    clean = [text for text in texts if "NaN" not in text and "Infinity" not in text]
    place = data.draw(st.integers(0, len(clean)))
    wanted = MARZBAN.parse(f"[{','.join(clean)}]".encode(), credentials=True)
    found = MARZBAN.parse(f"[{','.join([*clean[:place], bad, *clean[place:]])}]".encode(), credentials=True)
    assert isinstance(found.pop(place), Rejection)
    assert found == wanted


def test_ten_thousand_alike_are_ten_thousand() -> None:
    """A long list comes out as long."""
    assert len(MARZBAN.parse(body_of(*[deleted()] * 10_000), credentials=False)) == 10_000
