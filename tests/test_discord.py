"""What Discord gets: within its limits, without markup, mentions or credentials, and obedient to its rate limits."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marzhook.delivery import Delivery, Outcome, Verdict
from marzhook.destinations.discord import Discord, escape, readable_bytes
from marzhook.endpoint import Endpoint
from marzhook.event import PANEL_ACTIONS, Event, detail_json
from marzhook.request import Request, Response

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DISCORD = Discord(Endpoint(1, "Discord", "discord", "https://discord.com/api/webhooks/1/tok"), instance="i")
BY = {"username": "root", "is_sudo": True, "discord_webhook": "https://discord/tok2"}
USER = {
    "proxies": {"vless": {"id": "uuid-1"}}, "links": ["vless://uuid-1"], "subscription_url": "/sub/abc", "note": "private",
    "status": "active", "used_traffic": 1 << 30, "data_limit": 10 << 30, "expire": 1800000000,
    "data_limit_reset_strategy": "month", "admin": {"username": "shop1", "discord_webhook": "https://discord/tok3"},
}  # fmt: skip


def event(detail: dict[str, Any] | None = None, *, action: str = "user_created", username: str = "alice") -> Event:
    return Event(1, action, username, 1800000000.5, detail_json(detail or {}))


def embed(one: Event) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(DISCORD.item(Delivery(1, one), NOW))
    return value


def sent(*events: Event) -> Request:
    return DISCORD.request([DISCORD.item(Delivery(1, one), NOW) for one in events], [1], NOW, mode="plain")


def fields(one: Event) -> dict[str, str]:
    return {field["name"]: field["value"] for field in embed(one)["fields"]}


def length(text: str) -> int:
    """The longer of the ways to count: UTF-16 units, as JavaScript does."""
    return len(text.encode("utf-16-le")) // 2


def counted(embeds: list[dict[str, Any]]) -> int:
    """What Discord adds up: title, description, fields' names and values, footer's text, author's name."""
    return sum(
        length(one.get("title", "")) + length(one.get("description", "")) + length(one.get("footer", {}).get("text", ""))
        + sum(length(field["name"]) + length(field["value"]) for field in one["fields"])
        for one in embeds
    )  # fmt: skip


# -- what is shown


def test_an_event_reads_well() -> None:
    """Title, colour, the user's facts and who did it, in Discord's own terms."""
    assert embed(event({"by": BY, "user": USER})) == {
        "title": "🆕 Created",
        "color": 65280,
        "fields": [
            {"name": "Username", "value": "alice", "inline": True},
            {"name": "Traffic", "value": "1.0 GB of 10.0 GB", "inline": True},
            {"name": "Expires", "value": "<t:1800000000:f>", "inline": True},
            {"name": "Status", "value": "active", "inline": True},
            {"name": "Traffic resets every", "value": "month", "inline": True},
        ],
        "timestamp": "2027-01-15T08:00:00.500000+00:00",
        "footer": {"text": "Belongs to: shop1\nBy: root"},
    }


def test_the_numbers_of_warnings() -> None:
    """A percentage has its sign, whole or not; days have none."""
    assert fields(event({"used_percent": 80.5}))["Used"] == "80.5 %"
    assert fields(event({"used_percent": 80}))["Used"] == "80 %"
    assert fields(event({"days_left": 3.0}))["Days left"] == "3"
    assert fields(event({"days_left": 3}))["Days left"] == "3"
    assert fields(event({"user": {"used_traffic": 5, "data_limit": None, "expire": None}})) == {
        "Username": "alice", "Traffic": "5 B of unlimited", "Expires": "never",
    }  # fmt: skip


@pytest.mark.parametrize("action", [*PANEL_ACTIONS, "something_else"])
def test_every_action_has_a_title(action: str) -> None:
    """The panel's actions and any other have a title and a colour that Discord takes."""
    one = embed(event(action=action))
    assert 0 < length(one["title"]) <= 256
    assert 0 <= one["color"] <= 0xFFFFFF


def test_a_message_mentions_nobody_and_tells_no_secret() -> None:
    """No mention is parsed, and neither credentials nor Discord URLs leave, whatever the snapshot holds."""
    body = sent(event({"by": BY, "user": USER})).body.decode()
    assert json.loads(body)["allowed_mentions"] == {"parse": []}
    for secret in ("uuid-1", "vless", "/sub/", "tok", "private"):
        assert secret not in body
    assert "x-webhook-secret" not in dict(sent(event()).headers)


# -- escaping


@pytest.mark.parametrize(
    "name", ["@everyone", "<@123>", "**bold**", "__u__", "~~s~~", "||spoiler||", "`code`", "[a](http://evil.example)",
     "# h", "- li", "> q", "http://evil.example", ":smile:"]
)  # fmt: skip
def test_markup_in_a_name_is_shown_literally(name: str) -> None:
    """Every character that Discord could take for markup is escaped, and without the escapes the name is as it was."""
    shown = fields(event(username=name))["Username"]
    assert re.sub(r"\\(.)", r"\1", shown) == name
    assert not re.search(r"(?<!\\)(?:\\\\)*[*_~`|<>@#\[\]()]", re.sub(r"\\.", "", shown))


@pytest.mark.parametrize(
    "character",
    ["\u202e", "\u202a", "\u2066", "\u2069", "\u200b", "\u200d", "\u200f",
     "\u061c", "\u00ad", "\ufeff", "\u2028", "\u3164", "\U000e0041", "\ud800", "\x1b", "\x85"],
)  # fmt: skip
def test_invisible_characters_are_made_visible(character: str) -> None:
    """What turns the direction of text or takes no room cannot disguise a name, neither in a field nor in the footer."""
    assert escape(f"a{character}b") == "a�b"
    footer = embed(event({"by": {"username": f"a{character}b"}}))["footer"]["text"]
    assert footer == "By: a�b"


def test_half_a_surrogate_pair_does_not_stop_a_message() -> None:
    """Lone surrogates, which JSON can bring, come out as text that can be sent."""
    lone = json.loads('"\\ud83d"')
    user = {"status": lone, "data_limit_reset_strategy": lone, "admin": {"username": lone}}
    body = sent(event({"by": {"username": lone}, "user": user, "reason": lone, "used_percent": lone})).body
    assert "�" in body.decode()


@pytest.mark.parametrize("value", [None, "x", 3, 1.5, True, [], {}, 10**400, -(10**400), 1e308, ["a"], {"a": [1]}])
def test_no_snapshot_makes_rendering_stumble(value: Any) -> None:
    """Whatever type or size a published snapshot's values have, the event is rendered."""
    keys = ("used_traffic", "data_limit", "expire", "status", "data_limit_reset_strategy", "admin")
    sent(
        event(
            {
                "user": dict.fromkeys(keys, value),
                "by": value,
                "used_percent": value,
                "days_left": value,
                "reason": value,
            }
        )
    )
    sent(event({"user": value, "by": {"username": value}}))
    assert readable_bytes(1536) == "1.5 KB"


# -- limits

WORST = [
    "@" * 128, "\U0001f600" * 128, "*\U0001f600" * 64, "ض" * 128, "\\" * 128, "\u202e" * 128, "\x22" * 128,
]  # fmt: skip
LONG = {
    "user": {
        "status": "\U0001f600" * 300, "data_limit_reset_strategy": "\U0001f600" * 300, "used_traffic": 1, "expire": 10**300,
        "admin": {"username": "\U0001f600" * 128},
    },
    "by": {"username": "\U0001f600" * 128}, "used_percent": "\U0001f600" * 300, "days_left": "\U0001f600" * 300,
    "reason": "\U0001f600" * 5000,
}  # fmt: skip


def packed(events: list[Event]) -> list[dict[str, Any]]:
    """The embeds of one request, filled as a sender fills it."""
    items: list[str] = []
    size = 0
    for one in events[: DISCORD.max_items]:
        item = DISCORD.item(Delivery(1, one), NOW)
        if items and size + len(item) > DISCORD.max_bytes:
            break
        size += len(item) + 2
        items.append(item)
    embeds: list[dict[str, Any]] = json.loads(DISCORD.request(items, [1], NOW, mode="plain").body)["embeds"]
    return embeds


@pytest.mark.parametrize("username", WORST)
@pytest.mark.parametrize("detail", [{}, {"by": BY, "user": USER}, LONG])
def test_a_full_message_stays_within_discords_limits(username: str, detail: dict[str, Any]) -> None:
    """Ten embeds, 6,000 characters in all, 1,024 a value, 2,048 the footer, 25 fields: also with the worst of names."""
    embeds = packed([event(detail, username=username, action="x" * 64)] * 20)
    assert 1 <= len(embeds) <= 10
    assert counted(embeds) <= 6000
    for one in embeds:
        assert len(one["fields"]) <= 25
        assert length(one.get("footer", {}).get("text", "")) <= 2048
        for field in one["fields"]:
            assert 1 <= length(field["name"]) <= 256
            assert 1 <= length(field["value"]) <= 1024


TEXT = st.text(max_size=300) | st.integers(1, 300).map(lambda n: "\U0001f600" * n)


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(
        st.builds(
            lambda name, text, status: event(
                {"user": {"status": status, "used_traffic": 1, "admin": {"username": name}}, "reason": text}, username=name
            ),
            st.text(st.characters(min_codepoint=32), min_size=1, max_size=128), TEXT, TEXT,
        ),
        min_size=1, max_size=12,
    )
)  # fmt: skip
def test_no_events_exceed_the_limit(events: list[Event]) -> None:
    """Whatever is packed into one message, Discord counts at most 6,000 characters."""
    assert counted(packed(events)) <= 6000


def test_ordinary_events_go_ten_a_message() -> None:
    """With everyday names and snapshots, the limits leave room for ten embeds."""
    assert len(packed([event({"by": BY, "user": USER})] * 10)) == 10


# -- judge


def judged(status: int, body: str = "", **headers: str) -> Outcome:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return DISCORD.judge(Response(NOW, 0.1, status, named, body.encode()), NOW)


def test_a_rate_limit_is_obeyed() -> None:
    """429 rests the whole webhook for as long as Discord says: in the JSON, else in the header, else for a second."""
    for body, headers, seconds in (
        ('{"message": "limited", "retry_after": 0.35, "global": false}', {"retry_after": "1"}, 0.35),
        ('{"retry_after": 64.57, "global": true}', {}, 64.57),
        ("<html>", {"retry_after": "12"}, 12.0),
        ("", {}, 1.0),
        ('{"retry_after": -1}', {}, 1.0),
        ('{"retry_after": NaN}', {}, 1.0),
        ('{"retry_after": Infinity}', {}, 86400.0),
        ('{"retry_after": 1' + "0" * 400 + "}", {}, 86400.0),
        ('{"retry_after": "5"}', {"retry_after": "3"}, 3.0),
        ("[1]", {}, 1.0),
        ("[" * 16384, {}, 1.0),
        ("\x00\xff", {}, 1.0),
    ):
        assert judged(429, body, **headers) == Outcome(Verdict.FAILED, seconds, seconds), body


def test_the_end_of_a_window_is_waited_for() -> None:
    """After a success that was the last one of Discord's window, the webhook rests until the next one."""
    for remaining, reset, pause in (
        ("0", "1.25", 1.25), ("0", "", None), ("0", "soon", None), ("0", "-1", None), ("0", "nan", None),
        ("0", "1e9", 86400.0), ("3", "1.25", None), ("", "1.25", None),
    ):  # fmt: skip
        outcome = judged(204, x_ratelimit_remaining=remaining, x_ratelimit_reset_after=reset)
        assert outcome == Outcome(Verdict.ACCEPTED, pause=pause)


def test_a_deleted_webhook_is_gone() -> None:
    """404 with Discord's code 10015, and 410, mean that nobody wants more; any other 404 may pass."""
    assert judged(404, '{"message": "Unknown Webhook", "code": 10015}').verdict is Verdict.GONE
    assert judged(410).verdict is Verdict.GONE
    for body in ("", "<html>", '{"code": 0}', "[10015]", "[" * 16384):
        assert judged(404, body).verdict is Verdict.FAILED
    for status in (301, 401, 403, 500, 502):
        assert judged(status).verdict is Verdict.FAILED
    assert judged(400).verdict is Verdict.REJECTED
