"""What webhooks carry, byte for byte, and what receivers' answers mean."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzhook import signing
from marzhook.admin import Admin
from marzhook.clock import from_unix
from marzhook.delivery import Delivery, Verdict
from marzhook.destinations.kinds import problem
from marzhook.destinations.webhook import Webhook
from marzhook.endpoint import Endpoint
from marzhook.event import Event, NewEvent, detail_json, details_json
from marzhook.request import Request, Response
from marzhook.store.endpoints import Wanted

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECRET = "something-very-very-secret"
CAPTURES: dict[str, str] = json.loads(Path(__file__).with_name("golden").joinpath("marzban_list.json").read_text())
USER = {
    "proxies": {"vless": {"id": "uuid"}}, "expire": 5, "links": ["vless://uuid@h"], "subscription_url": "/sub/token",
    "admin": {"username": "shop1", "is_sudo": False, "telegram_id": 7, "discord_webhook": "https://d/tok", "users_usage": 1},
}  # fmt: skip
BY = {"username": "root", "is_sudo": True, "telegram_id": 8, "discord_webhook": "https://d/tok2", "users_usage": 2}


def webhook(**values: Any) -> Webhook:
    values = {"secret": SECRET, "signing_secret": signing.new_secret(), **values}
    return Webhook(Endpoint(1, "n", "webhook", "http://x/", **values), instance="abcd")


def event(
    detail: dict[str, Any] | None = None, *, username: str = "marzban_test_user", at: float = 1680506457.636369
) -> Event:
    return Event(7, "user_updated", username, at, *details_json(detail or {}, full=True))


def sent(hook: Webhook, *events: Event, tries: int = 0, now: datetime = NOW, mode: str = "plain") -> Request:
    items = [hook.item(Delivery(1, one, tries, tries), now) for one in events]
    return hook.request(items, [one.id for one in events], now, mode=mode)


def answer(status: int, **headers: str) -> Response:
    return Response(NOW, 0.1, status, {name.replace("_", "-"): value for name, value in headers.items()})


VALUES = st.none() | st.text(max_size=20) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.text(
    st.characters(min_codepoint=0xA0, exclude_categories=["Cs"]) | st.characters(min_codepoint=32, max_codepoint=126),
    min_size=1,
    max_size=40,
)
DATES = r"[A-Z][a-z]{2}, [0-9]{1,3} Jan [0-9]{1,6} [0-9:]{1,9} [-+]?[0-9A-Z]{1,12}"


# -- formats


def test_the_documented_request_byte_for_byte() -> None:
    """With nothing more known, the body is the one that the panel's page shows, with its header."""
    request = sent(webhook(), event())
    assert request.body == (
        b'{"username": "marzban_test_user", "action": "user_updated", "enqueued_at": 1680506457.636369, "tries": 0}'
    )
    assert request.headers[0] == ("x-webhook-secret", SECRET)
    assert ("Content-Type", "application/json") in request.headers
    assert sent(webhook(), event(), tries=3).body.endswith(b'"tries": 3}')


@pytest.mark.parametrize("action", sorted(CAPTURES))
def test_the_list_format_is_what_the_real_panel_sends(action: str) -> None:
    """An event with a capture's values renders exactly the body that was on the wire."""
    (wanted,) = json.loads(CAPTURES[action])
    detail = {
        key: value
        for key, value in wanted.items()
        if key not in ("enqueued_at", "send_at", "tries", "username", "action")
    }
    captured = Event(1, wanted["action"], wanted["username"], wanted["enqueued_at"], *details_json(detail, full=True))
    hook = webhook(format="list", detail="full")
    assert sent(hook, captured, now=from_unix(wanted["send_at"])).body.decode() == CAPTURES[action]


def test_a_list_carries_several_events_in_order() -> None:
    """The list format puts many events into one request; the others take one each."""
    hook = webhook(format="list")
    many = [Event(i, "user_created", f"u{i}", float(i)) for i in range(1, 4)]
    assert [one["username"] for one in json.loads(sent(hook, *many).body)] == ["u1", "u2", "u3"]
    assert (hook.max_items, hook.max_bytes) == (100, 256 * 1024)
    assert webhook().max_items == webhook(format="standard").max_items == 1


def test_the_standard_format() -> None:
    """Standard Webhooks: type, ISO timestamp in UTC, and the documented object as data."""
    body = json.loads(sent(webhook(format="standard"), event({"days_left": 3})).body)
    assert body == {
        "type": "user_updated",
        "timestamp": "2023-04-03T07:20:57.636369Z",
        "data": {
            "username": "marzban_test_user", "action": "user_updated", "enqueued_at": 1680506457.636369, "tries": 0,
            "days_left": 3,
        },
    }  # fmt: skip
    assert list(body) == ["type", "timestamp", "data"]


@given(
    username=NAMES,
    microseconds=st.integers(0, 4_000_000_000_000_000),
    extra=st.dictionaries(st.sampled_from(["note", "reason", "days_left"]), VALUES),
    kind=st.sampled_from(["event", "list", "standard"]),
)  # fmt: skip
def test_every_body_is_json_that_says_the_same(
    username: str, microseconds: int, extra: dict[str, Any], kind: str
) -> None:
    """Whatever the name, the time and the extras, the body is ASCII JSON from which the very same values are read."""
    at = microseconds / 1e6
    body = sent(webhook(format=kind, detail="full"), event(extra, username=username, at=at)).body
    value = json.loads(body.decode("ascii"))
    value = value[0] if kind == "list" else value["data"] if kind == "standard" else value
    assert (value["username"], value["enqueued_at"], value["action"]) == (username, at, "user_updated")
    assert {key: value[key] for key in extra} == extra


# -- detail


def test_detail_none_sends_the_documented_keys_only() -> None:
    """With WEBHOOK_DETAIL=none nothing follows the four keys."""
    body = json.loads(sent(webhook(detail="none"), event({"by": BY, "user": USER, "x": 1})).body)
    assert list(body) == ["username", "action", "enqueued_at", "tries"]


def test_detail_safe_has_no_credentials_anywhere() -> None:
    """With WEBHOOK_DETAIL=safe neither a proxy, a link, the subscription URL nor an admin's Discord URL leaves, also not
    under user.admin; everything else does, in its order."""
    text = sent(webhook(detail="safe"), event({"by": BY, "user": USER, "shop_order": 12})).body.decode()
    for secret in ("uuid", "vless", "token", "discord_webhook", "tok", "telegram_id", "users_usage"):
        assert secret not in text
    body = json.loads(text)
    assert list(body)[4:] == ["by", "user", "shop_order"]
    assert body["by"] == {"username": "root", "is_sudo": True}
    assert body["user"] == {"expire": 5, "admin": {"username": "shop1", "is_sudo": False}}


@pytest.mark.parametrize("value", [None, "x", 3, [1], {}])
def test_detail_safe_bears_whatever_publishers_bring(value: Any) -> None:
    """`by`, `user` and user.admin need not be objects."""
    body = json.loads(sent(webhook(), event({"by": value, "user": {"admin": value}, "z": 1})).body)
    assert (body["by"], body["user"], body["z"]) == (value, {"admin": value}, 1)
    assert json.loads(sent(webhook(), event({"user": value})).body)["user"] == value


def test_detail_full_is_passed_on_untouched() -> None:
    """With WEBHOOK_DETAIL=full the detail's text goes to the wire as it was stored."""
    detail = detail_json({"by": BY, "user": USER, "name": "é"})
    assert sent(webhook(detail="full"), event({"by": BY, "user": USER, "name": "é"})).body.endswith(
        f", {detail[1:]}".encode()
    )


# -- headers and secrets


def test_secret_modes() -> None:
    """`plain` sends the secret itself, `hmac` the hex HMAC of the very body, and without a secret there is no header."""
    request = sent(webhook(), event(), mode="hmac")
    expected = hmac.new(SECRET.encode(), request.body, hashlib.sha256).hexdigest()
    assert dict(request.headers)["x-webhook-secret"] == expected
    assert "x-webhook-secret" not in dict(sent(webhook(secret=None), event()).headers)
    assert webhook(secret_mode="hmac").mode([]) == "hmac"
    assert webhook().mode([]) == webhook(secret_mode="plain").mode([]) == "plain"
    assert webhook(learned_mode="hmac").mode([]) == "hmac"
    assert webhook(secret_mode="plain", learned_mode="hmac").mode([]) == "plain"


def test_the_other_mode_is_tried_where_the_secret_is_refused() -> None:
    """Only `auto`, only after 401 or 403, and only with a secret does the same body go out the other way, back too."""
    for status in (401, 403):
        assert webhook().other_mode("plain", answer(status)) == "hmac"
        assert webhook().other_mode("hmac", answer(status)) == "plain"
        assert webhook(secret=None).other_mode("plain", answer(status)) is None
        assert webhook(secret_mode="plain").other_mode("plain", answer(status)) is None
    for status in (200, 400, 404, 410, 500):
        assert webhook().other_mode("plain", answer(status)) is None
    assert webhook().other_mode("plain", Response(NOW, 1.0, error="timeout")) is None


@pytest.mark.parametrize("bad", ["a\r\nx-admin: 1", "a\nb", "a\0", "a\x7f", "a\x85b", "پ"])
def test_a_secret_cannot_smuggle_a_header(bad: str) -> None:
    """A secret with what no header can carry makes no request at all, and the error does not show it."""
    with pytest.raises(ValueError, match="x-webhook-secret") as caught:
        sent(webhook(secret=bad), event())
    assert bad not in str(caught.value)


@pytest.mark.parametrize("name", ["format", "secret_mode", "detail", "signatures"])
def test_what_a_newer_version_chose_is_not_guessed(name: str) -> None:
    """Its endpoint rests and says why, rather than be sent to in a form, or with a secret, that nobody chose."""
    endpoint = replace(webhook(secret="s").endpoint, **{name: "v9"})
    reason = problem(endpoint)
    assert reason is not None
    assert reason.startswith(f"{name} must be one of ")
    assert reason.endswith(", not 'v9'")


def test_names_stay_out_of_headers() -> None:
    """Whatever a user is called, the headers hold only ASCII of our own making."""
    request = sent(webhook(), event(username="x\u2028\u202ey: \u06af"))
    assert all(f"{name}{value}".isascii() and f"{name}{value}".isprintable() for name, value in request.headers)


def test_message_ids_are_stable_and_distinct() -> None:
    """The same events have the same id at every attempt; other events, batches and instances have another."""
    hook = webhook(format="list")
    assert dict(sent(hook, event()).headers)["webhook-id"] == "msg_abcd_7"
    later = sent(hook, event(), tries=2, now=NOW + timedelta(hours=5), mode="hmac")
    assert dict(later.headers)["webhook-id"] == "msg_abcd_7"
    assert dict(later.headers)["webhook-timestamp"] == str(int((NOW + timedelta(hours=5)).timestamp()))
    batches = [[1], [2], [12], [1, 2], [2, 1], [1, 2, 3], [1, 23], [12, 3], [123]]
    ids = [hook.message_id(batch) for batch in batches]
    assert len(set(ids)) == len(batches)
    assert ids == [hook.message_id(batch) for batch in batches]
    other = Webhook(Endpoint(2, "n", "webhook", "http://x/", signing_secret=signing.new_secret()), instance="efgh")
    assert other.message_id([1]) != hook.message_id([1])


def test_a_request_shows_no_secret_in_its_repr() -> None:
    """Neither an endpoint's nor a request's nor a delivery's repr holds what is secret: a traceback or a log line may
    show it."""
    url = "https://user:hunter2@shop.example/hook?token=hunter2"
    hook = Webhook(replace(webhook(detail="full").endpoint, url=url), instance="abcd")
    delivery = Delivery(1, event({"user": {"proxies": {"vless": {"id": "hunter2"}}}}))
    new = NewEvent("user_created", "alice", {"user": {"subscription_url": "hunter2"}})
    admin = Admin(1, "root", True, discord_webhook="https://discord.com/api/webhooks/1/hunter2")
    wanted = Wanted("webhook", url, {"secret": SECRET})
    for value in (hook.endpoint, sent(hook, delivery.event), delivery, new, admin, wanted):
        for secret in (SECRET, "whsec_", "hunter2"):
            assert secret not in repr(value)


# -- judge


def test_what_a_status_means() -> None:
    """2xx is success, 410 means gone, a 4xx that speaks of the event rejects it, all else, redirects too, is a failure."""
    about_the_sender = {401, 403, 404, 407, 408, 421, 423, 425, 426, 429}
    for status in range(100, 600):
        expected = Verdict.ACCEPTED if 200 <= status < 300 else Verdict.GONE if status == 410 else Verdict.FAILED
        if 400 <= status < 500 and status != 410 and status not in about_the_sender:
            expected = Verdict.REJECTED
        assert webhook().judge(answer(status), NOW).verdict is expected, status
    for name in ("location", "retry-after", "x"):
        assert webhook().judge(Response(NOW, 0.1, 302, {name: "http://elsewhere/"}), NOW).verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0), ("0", 0.0), (" 7 ", 7.0), ("1.5", 1.5), ("", None), ("-5", None), ("soon", None), ("nan", None),
        ("99999999999999999999", 86400.0), ("inf", 86400.0), ("1e400", 86400.0), ("-inf", None),
        ("Thu, 01 Jan 2026 12:01:00 GMT", 60.0), ("Thu, 01 Jan 2026 13:01:00 +0100", 60.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", None), ("Fri, 01 Jan 2038 00:00:00 GMT", 86400.0),
        ("Thu, 01 Jan 2026 12:01:00 -0000", None), ("Thu, 99 Jan 2026 12:01:00 GMT", None),
        ("Thu, 01 Jan 2026 12:01:00 +99999999999999999999", None), (", , ,", None), ("x" * 5000, None),
    ],
)  # fmt: skip
def test_retry_after(text: str, seconds: float | None) -> None:
    """Seconds or a date, at most a day; what is garbage or past asks for nothing."""
    for status in (429, 503):
        assert webhook().judge(answer(status, retry_after=text), NOW).retry_after == seconds


@given(text=st.text(st.characters(max_codepoint=255), max_size=60) | st.from_regex(DATES, fullmatch=True))
def test_no_retry_after_makes_judging_stumble(text: str) -> None:
    """Any header value comes to nothing or to seconds from 0 to a day."""
    seconds = webhook().judge(answer(503, retry_after=text), NOW).retry_after
    assert seconds is None or 0 <= seconds <= 86400
