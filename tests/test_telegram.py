"""What Telegram gets: readable in four languages, within its limits, literally what the event says, and to the right chat."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzhook.delivery import Delivery, Outcome, Verdict
from marzhook.destinations import telegram
from marzhook.destinations.languages import LANGUAGES, jalali
from marzhook.destinations.markup import plain
from marzhook.destinations.telegram import Telegram, escape
from marzhook.dispatch.health import OPERATOR_ACTIONS
from marzhook.endpoint import Endpoint, masked_url
from marzhook.errors import InvalidError, RenderError
from marzhook.event import PANEL_ACTIONS, TEST_ACTION, Event, detail_json
from marzhook.request import Response

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
URL = "https://api.telegram.org/bot123456789:AAE-fake_token_of_a_bot_that_is_none0"
USER = {
    "status": "active", "used_traffic": 1 << 30, "data_limit": 10 << 30, "expire": 1800000000,
    "admin": {"username": "shop1"},
}  # fmt: skip
ACTIONS = [*PANEL_ACTIONS, TEST_ACTION, *OPERATOR_ACTIONS]


def bot(**options: Any) -> Telegram:
    return Telegram(Endpoint(1, "bot", "telegram", URL, options={"chat": 5, **options}), instance="i")


def event(action: str = "user_created", username: str = "alice", **detail: Any) -> Event:
    return Event(1, action, username, 1800000000.5, detail_json(detail))


def item(target: Telegram, one: Event) -> str:
    return target.item(Delivery(1, one), NOW)


def message(target: Telegram, *events: Event) -> dict[str, Any]:
    items = [item(target, one) for one in events]
    request = target.request(items, [1], NOW, mode=target.mode(items))
    assert request.url == URL + "/sendMessage"
    value: dict[str, Any] = json.loads(request.body)
    return value


def text(target: Telegram, one: Event) -> str:
    return plain(message(target, one)["text"])


def answer(status: int, description: str = "", **parameters: int) -> Response:
    body = {"ok": False, "error_code": status, "description": description, "parameters": parameters}
    return Response(NOW, 0.1, status, body=json.dumps(body).encode())


# -- what is shown


def test_a_message_reads_well() -> None:
    """Title, name and facts, the name to be copied with a tap."""
    shown = message(bot(), event(user=USER, by={"username": "root"}))
    assert shown == {
        "chat_id": 5,
        "text": "<b>🆕 User created</b>\n\u2068<code>alice</code>\u2069\nStatus: \u2068active\u2069"
        "\nTraffic: \u20681.0 GB of 10.0 GB\u2069\nExpires: \u20682027-01-15 08:00\u2069"
        "\nBelongs to: \u2068shop1\u2069\nBy: \u2068root\u2069",
        "parse_mode": "HTML",
        "link_preview_options": {"is_disabled": True},
    }


def test_persian_has_its_own_calendar_digits_and_units() -> None:
    """Dates are Jalali, in Tehran's time, with Persian digits."""
    shown = text(bot(language="fa"), event(user=USER))
    assert "۱۴۰۵/۱۰/۲۵ ۱۱:۳۰" in shown
    assert "۱.۰ گیگابایت از ۱۰.۰ گیگابایت" in shown


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_has_words_in_every_language(language: str, action: str) -> None:
    """No action falls back to its name, and no language to another one's words."""
    titles = LANGUAGES[language].titles
    assert titles[action] in text(bot(language=language), event(action, user=USER, reason="r"))
    assert language == "en" or titles[action] != LANGUAGES["en"].titles[action]


def test_languages_have_the_same_words() -> None:
    """What one language can say, each can."""
    for language in LANGUAGES.values():
        for part in ("titles", "words", "statuses"):
            assert getattr(language, part).keys() == getattr(LANGUAGES["en"], part).keys()


def test_jalali_agrees_with_known_days() -> None:
    """Nowruz of leap and common years, and the last days before it."""
    known = {
        (1979, 2, 11): (1357, 11, 22), (2000, 3, 20): (1379, 1, 1), (2021, 3, 20): (1399, 12, 30),
        (2021, 3, 21): (1400, 1, 1), (2024, 3, 19): (1402, 12, 29), (2025, 3, 20): (1403, 12, 30),
        (2025, 3, 21): (1404, 1, 1), (2026, 11, 25): (1405, 9, 4),
    }  # fmt: skip
    assert {day: jalali(*day) for day in known} == known


@given(st.dates(date(1900, 1, 1), date(2200, 1, 1)))
def test_jalali_counts_every_day_once(day: date) -> None:
    """The next day is the next of the month, or the first of the next one."""
    today, after = day.timetuple()[:3], (day + timedelta(1)).timetuple()[:3]
    (y, m, d), (y2, m2, d2) = jalali(*today), jalali(*after)
    assert (y2, m2, d2) in ((y, m, d + 1), (y, m + 1, 1), (y + 1, 1, 1))
    assert 1 <= m <= 12
    assert 1 <= d <= (31 if m <= 6 else 30)


@given(st.text(min_size=1, max_size=128), st.text(max_size=400))
def test_whatever_is_in_an_event_is_shown_literally(username: str, note: str) -> None:
    """No name or reason becomes markup, turns text around, or makes a message that cannot be sent."""
    shown = message(bot(), event(username=username, reason=note))["text"]
    assert re.sub(r"</?(?:b|code)>", "", shown).count("<") == 0
    assert shown.count("<") == 4
    assert not re.search("[\u202a-\u202e\u2066\u2067\u200e\u200f\x00-\x09\ud800-\udfff]", shown)
    assert shown.count("\u2068") == shown.count("\u2069")


def test_values_of_any_kind_make_a_message() -> None:
    """A panel's strange values are shown as they are, and nothing fails."""
    strange = {"status": 7, "used_traffic": 10**400, "data_limit": "much", "expire": 10**18, "admin": []}
    assert "alice" in text(bot(), event(user=strange, by="x", used_percent=True, days_left=[1]))
    assert "never" in text(bot(), event(user={"expire": 0}))


# -- templates


def test_a_template_of_ones_own() -> None:
    """By action or for all; values in it are literal, whatever they hold."""
    target = bot(templates={"*": "any {{ username }}", "user_created": "<i>{{ user.note }}</i> & {{ traffic }}"})
    assert message(target, event(user=USER | {"note": "<b>x"}))["text"] == "<i>&lt;b&gt;x</i> & 1.0 GB of 10.0 GB"
    assert message(target, event("user_deleted"))["text"] == "any alice"


@pytest.mark.parametrize("source", ["{{ user.note|upper|replace(1) }}", "{{ 1 / 0 }}", "{% if user %}x{% endif %}"])
def test_what_a_template_makes_nothing_of_is_that_events_end(source: str) -> None:
    """The reason is told; it is the sender that makes a dead delivery of it."""
    with pytest.raises(RenderError):
        item(bot(templates={"*": source}), event())


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({}, "a chat is a number"),
        ({"chat": True}, "a chat is a number"),
        ({"chat": "@x"}, "a chat is a number"),
        ({"chat": 5, "chats": {"a": "b"}}, "a chat is a number"),
        ({"chat": 5, "chats": [1]}, "chats maps"),
        ({"chat": 5, "language": "de"}, "language must be one of"),
        ({"chat": 5, "timezone": "Mars/Base"}, "timezone"),
        ({"chat": 5, "timezone": "../../etc/passwd"}, "timezone"),
        ({"chat": 5, "colour": 1}, "there is no option 'colour'"),
        ({"chat": 5, "templates": {"*": "{{ x"}}, "template, line 1"),
        ({"chat": 5, "templates": {"*": "<b>{{ title }}"}}, "<b> is not closed"),
        ({"chat": 5, "templates": {"*": "<h1>{{ title }}</h1>"}}, "knows no <h1>"),
        ({"chat": 5, "templates": {"no action": "x"}}, "is not a name"),
        ({"chat": 5, "templates": {"*": "{{ ''|trim }}"}}, "makes no text"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], part: str) -> None:
    """When the endpoint is made, not when an event is to be sent."""
    with pytest.raises(InvalidError, match=re.escape(part)):
        Telegram.checked_options(options)


def test_options_are_kept_as_they_are_meant() -> None:
    """Numbers as numbers, and nothing that says nothing."""
    given_ = {"chat": " -100123 ", "chats": {"shop1": "7"}, "language": "", "templates": {}, "timezone": "Asia/Tehran"}
    assert Telegram.checked_options(given_) == {"chat": -100123, "chats": {"shop1": 7}, "timezone": "Asia/Tehran"}


def test_a_token_is_enough_of_an_address() -> None:
    """A bare token is completed, and another server's address is taken; the token is never shown."""
    token = URL.rpartition("/bot")[2]
    assert Telegram.checked_url(token) == URL
    assert Telegram.checked_url("http://127.0.0.1:81/x/bot1:a/") == "http://127.0.0.1:81/x/bot1:a"
    assert token not in masked_url(URL)
    for wrong in ("https://api.telegram.org", URL + "?x=1", URL + "/sendMessage", "1:", None):
        with pytest.raises(InvalidError):
            Telegram.checked_url(wrong)


# -- chats


def test_each_admins_users_are_told_of_in_his_own_chat() -> None:
    """The user's admin counts, else who did it; all others go to the endpoint's chat, and no request has two chats."""
    target = bot(chats={"Shop1": -7, "root": 8})
    chats = [
        target.mode([item(target, one)])
        for one in (
            event(user=USER, by={"username": "root"}),
            event("user_deleted", by={"username": "root"}),
            event(user=USER | {"admin": {"username": "other"}}),
            event(),
        )
    ]
    assert chats == ["-7", "8", "5", "5"]
    assert target.together(item(target, event()), item(target, event("user_deleted")))
    assert not target.together(item(target, event()), item(target, event(user=USER)))


def test_the_pace_is_that_of_the_slowest_chat() -> None:
    """One a second to people, 20 a minute where a group or a channel is among them."""
    assert bot().rate_limit == bot(chats={"a": 9}).rate_limit == 1.0
    assert bot(chats={"a": -9}).rate_limit == bot(chat="@news").rate_limit == 20 / 60


@given(st.text(min_size=1, max_size=128), st.lists(st.text(max_size=400), min_size=1, max_size=30))
def test_no_message_is_longer_than_telegram_takes(username: str, parts: list[str]) -> None:
    """4,096 UTF-16 units, of one event however long, and of as many as a request may carry."""
    long = bot(templates={"*": "<b>{{ username }}</b>{% for p in detail.parts %}{{ p }}{% endfor %}"})
    items = [item(long, event(username=username, parts=parts * 9)) for _ in range(3)]
    assert units(long, items[:1]) <= 4096
    packed = [one for i, one in enumerate(items) if sum(len(x) + 2 for x in items[:i]) + len(one) <= Telegram.max_bytes]
    assert not packed or units(long, packed) <= 4096


def units(target: Telegram, items: list[str]) -> int:
    body = json.loads(target.request(items, [1], NOW, mode=target.mode(items)).body)
    return len(plain(body["text"]).encode("utf-16-le")) // 2


# -- what answers mean


def test_answers_mean_what_telegram_means() -> None:
    """429 lets the endpoint rest for as long as it says; 400 speaks of the event only where it names the text."""
    target = bot()
    assert target.judge(Response(NOW, 0.1, 200, body=b'{"ok":true}'), NOW).verdict is Verdict.ACCEPTED
    assert target.judge(answer(429, retry_after=9), NOW) == Outcome(Verdict.FAILED, 9.0, 9.0)
    assert target.judge(Response(NOW, 0.1, 429, body=b"<html>"), NOW) == Outcome(Verdict.FAILED, 1.0, 1.0)
    for status, words in ((400, "Bad Request: chat not found"), (401, "Unauthorized"), (403, "Forbidden"), (502, "")):
        assert target.judge(answer(status, words), NOW).verdict is Verdict.FAILED
    for words in ("can't parse entities: x", "message is too long", "message text is empty"):
        assert target.judge(answer(400, f"Bad Request: {words}"), NOW).verdict is Verdict.REJECTED


def test_a_group_that_became_a_supergroup_is_followed() -> None:
    """The same message goes to its new number at once, and that is remembered wherever the old one stood."""
    target = bot(chat=-5, chats={"a": -5, "b": 7})
    moved = answer(400, "Bad Request: group chat was upgraded to a supergroup chat", migrate_to_chat_id=-1005)
    assert target.other_mode("-5", moved) == "-1005"
    learned = target.learned(["-5\nx"], "-1005")
    assert learned == {"options": {"chat": -1005, "chats": {"a": -1005, "b": 7}}}
    assert target.learned(["-5\nx"], "-5") == {}


def test_what_an_admins_chat_does_not_take_goes_to_all_s() -> None:
    """An admin who blocked the bot holds nobody up, and nothing is lost; where the text is at fault, it stays."""
    target = bot(chats={"a": 7})
    for refusal in (answer(403, "Forbidden: bot was blocked by the user"), answer(400, "Bad Request: chat not found")):
        assert target.other_mode("7", refusal) == "5"
        assert target.other_mode("5", refusal) is None
    assert target.other_mode("7", answer(400, "Bad Request: can't parse entities")) is None
    assert target.other_mode("7", answer(429, retry_after=1)) is None
    assert target.learned(["7\nx"], "5") == {}


def test_escaped_is_what_html_shows() -> None:
    """Also within an attribute."""
    assert escape('<a href="x">') == "&lt;a href=&quot;x&quot;&gt;"
    assert escape(None) == ""
    assert telegram.escape(3) == "3"
