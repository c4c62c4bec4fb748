"""/ingest/… over the API: who may send, what is answered, what is stored, and what of it can be seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from marzhook import settings, signing
from marzhook.api.app import create_app
from marzhook.runtime import Services, build_services
from marzhook.store import schema
from marzhook.testing import FakeClock
from panel_requests import SECRET, again, body_of, captured, captured_events, deleted

if TYPE_CHECKING:
    from api_client import Api

pytest_plugins = ["api_client"]

ROUTES = ("marzban", "pasarguard", "marzneshin", "remnawave")


@pytest.fixture
def environ() -> dict[str, str]:
    return {"MARZHOOK_INGEST_SECRET": SECRET}


@pytest.fixture
def services(tmp_path: Path, clock: FakeClock, environ: dict[str, str]) -> Iterator[Services]:
    environ = {"MARZHOOK_DATABASE_URL": f"sqlite:///{tmp_path}/marzhook.db", **environ}
    services = build_services(settings.load(environ, env_file=None), clock=clock)
    yield services
    services.database.close()


def send(
    services: Services, body: bytes, route: str = "marzban", *, client: str = "203.0.113.9", **headers: str | bytes
) -> httpx2.Response:
    """A request from that address; without other headers, with the secret."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()} or {"x-webhook-secret": SECRET}
    with TestClient(create_app(services), client=(client, 5000)) as http:
        answered: httpx2.Response = http.post(f"/ingest/{route}", content=body, headers=sent)
        return answered


def signed(body: bytes) -> dict[str, str]:
    return {"x_remnawave_signature": signing.hex_hmac(SECRET, body)}


def stored(services: Services) -> list[tuple[str, str]]:
    with services.database.read() as conn:
        return [(row.action, row.username) for row in conn.execute(schema.events.select().order_by("id"))]


def everything(services: Services) -> str:
    """All text in the tables that ingest writes."""
    with services.database.read() as conn:
        tables = (schema.events, schema.rejected)
        return json.dumps([[str(v) for v in row] for table in tables for row in conn.execute(table.select())])


# -- who may send


@pytest.mark.parametrize("route", ROUTES)
def test_each_route_wants_the_secret(services: Services, route: str) -> None:
    """No route is a way in for strangers, also not from this machine."""
    body = json.dumps({"scope": "user", "event": "user.created", "data": {"username": "alice"}, "action": "user_created",
                       "username": "alice", "user": {"username": "alice"}}).encode()  # fmt: skip
    for headers in ({"accept": "*/*"}, {"x_webhook_secret": ""}, {"x_webhook_secret": "\xe9".encode("latin-1")},
                    {"authorization": SECRET},
                    {"x_remnawave_signature": SECRET},
                    {"x_remnawave_signature": signing.hex_hmac("other", body)}):  # fmt: skip
        for client in ("203.0.113.9", "127.0.0.1"):
            answered = send(services, body, route, client=client, **headers)
            assert (answered.status_code, answered.json()["code"]) == (403, "wrong_secret")
            assert SECRET not in answered.text
    assert stored(services) == []
    good = signed(body) if route == "remnawave" else {"x_webhook_secret": SECRET}
    assert send(services, body, route, **good).json() == {"accepted": 1, "duplicates": 0, "rejected": 0}
    assert stored(services) == [("user_created", "alice")]


@pytest.mark.parametrize("environ", [{"WEBHOOK_SECRET": SECRET}])
def test_the_webhook_secret_is_the_default(services: Services) -> None:
    """Whoever copies the panel's `.env` has the same secret on both sides."""
    assert send(services, body_of(deleted())).status_code == 200
    assert send(services, body_of(deleted()), client="127.0.0.1", x_webhook_secret="no").status_code == 403


@pytest.mark.parametrize("environ", [{}])
@pytest.mark.parametrize(
    ("client", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("127.8.8.8", {}, 200),
        ("::1", {}, 200),
        ("::ffff:127.0.0.1", {}, 200),
        ("127.0.0.1", {"x_webhook_secret": "whatever"}, 200),
        ("203.0.113.9", {}, 403),
        ("10.0.0.1", {}, 403),
        ("::ffff:10.0.0.1", {}, 403),
        ("fe80::1", {}, 403),
        ("0.0.0.0", {}, 403),
        ("unix", {}, 403),
        ("203.0.113.9", {"x_forwarded_for": "127.0.0.1"}, 403),
        ("127.0.0.1", {"x_forwarded_for": "127.0.0.1"}, 403),
        ("127.0.0.1", {"x_forwarded_for": "203.0.113.9"}, 403),
        ("127.0.0.1", {"forwarded": "for=127.0.0.1"}, 403),
        ("127.0.0.1", {"x_real_ip": "127.0.0.1"}, 403),
        ("127.0.0.1", {"via": "1.1 proxy"}, 403),
        ("127.0.0.1", {"origin": "https://evil.example"}, 403),
        ("127.0.0.1", {"origin": "null"}, 403),
        ("127.0.0.1", {"sec_fetch_site": "cross-site"}, 403),
    ],
)
def test_without_a_secret_only_this_machine_may(
    services: Services, client: str, headers: dict[str, str], status: int
) -> None:
    """Where nothing is set, only who is here may send; what a proxy claims about somebody else counts for nothing."""
    answered = send(services, body_of(deleted()), client=client, **headers or {"accept": "*/*"})
    assert answered.status_code == status, answered.text
    if status == 403:
        assert answered.json()["code"] == "secret_needed"
        assert "set MARZHOOK_INGEST_SECRET" in answered.json()["detail"]
    assert len(stored(services)) == (status == 200)


# -- what is stored


def test_all_of_a_request_or_nothing(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that cannot be written leaves nothing, so that the panel's retry brings all of it."""
    body = body_of(deleted(), deleted("bob"), {"no": "event"})

    def fails(*_args: Any, **_values: Any) -> None:
        raise RuntimeError("the disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr("marzhook.store.rejected.keep", fails)
        assert send(services, body).status_code == 500
    assert stored(services) == []
    retry = body_of(deleted(tries=1), deleted("bob", tries=1), {"no": "event"})
    assert send(services, retry).json() == {"accepted": 2, "duplicates": 0, "rejected": 1}


def test_credentials_are_not_stored(services: Services, clock: FakeClock) -> None:
    """A copy of the database gives nobody access to the panel's users, nor to its admins' Discord."""
    event = captured_events()[0]
    event["by"]["discord_webhook"] = "https://discord.com/api/webhooks/1/tok"
    event["user"]["links"] = ["vless://35e4e39c@example:443"]
    assert send(services, body_of(event, {"user": event["user"]})).json()["rejected"] == 1
    text = everything(services)
    assert event["user"]["note"] is None
    for secret in ("discord.com", "35e4e39c", event["user"]["subscription_url"],
                   event["user"]["proxies"]["shadowsocks"]["password"]):  # fmt: skip
        assert secret not in text
    assert "chacha20-ietf-poly1305" in text


def test_credentials_are_stored_for_an_endpoint_that_wants_them(api: Api, services: Services) -> None:
    """An endpoint that was made with detail=full gets what it asks for."""
    api.endpoint(detail="full")
    event = captured_events()[0]
    send(services, body_of(event))
    assert event["user"]["subscription_url"] in everything(services)


def test_the_panels_filter_is_the_filter(tmp_path: Path, clock: FakeClock) -> None:
    """What the panel was told to send comes through; our own NOTIFY settings are about our own users."""
    environ = {
        "MARZHOOK_DATABASE_URL": f"sqlite:///{tmp_path}/m.db",
        "WEBHOOK_SECRET": SECRET,
        "NOTIFY_USER_DELETED": "false",
    }
    services = build_services(settings.load(environ, env_file=None), clock=clock)
    try:
        assert send(services, body_of(deleted())).json()["accepted"] == 1
    finally:
        services.database.close()


def test_a_request_that_comes_twice_is_stored_once(services: Services, clock: FakeClock) -> None:
    """All captured requests in one, sent again by the panel, and once more by something on the way."""
    first = captured_events()
    assert send(services, body_of(*first)).json() == {"accepted": 11, "duplicates": 0, "rejected": 0}
    clock.advance(1)
    assert send(services, body_of(*first)).json() == {"accepted": 0, "duplicates": 11, "rejected": 0}
    clock.advance(200)
    retry = [again(event, 1) for event in first] + [deleted("new")]
    assert send(services, body_of(*retry)).json() == {"accepted": 1, "duplicates": 11, "rejected": 0}


def test_remnawaves_retry_is_stored_once(services: Services) -> None:
    """Remnawave sends the same body again, and another event a millisecond later is another event."""
    item = {
        "scope": "user",
        "event": "user.deleted",
        "timestamp": "2026-11-23T08:43:17.123Z",
        "data": {"username": "alice"},
    }
    body = json.dumps(item).encode()
    assert send(services, body, "remnawave", **signed(body)).json()["accepted"] == 1
    assert send(services, body, "remnawave", **signed(body)).json() == {"accepted": 0, "duplicates": 1, "rejected": 0}
    later = json.dumps({**item, "timestamp": "2026-11-23T08:43:17.124Z"}).encode()
    assert send(services, later, "remnawave", **signed(later)).json()["accepted"] == 1


def test_times_are_those_of_receipt(api: Api, services: Services, clock: FakeClock) -> None:
    """The panel's time is that of its start, so ours counts, and the panel's can be looked up."""
    clock.advance(12.5)
    for headers, body in captured():
        assert send(services, body, **headers).status_code == 200
    for event in api.get("/api/v1/events").json()["events"]:
        assert event["enqueued_at"] == clock.now().timestamp()
        assert event["detail"]["source_enqueued_at"] == 1795423342.044399


# -- bodies


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "the body is not JSON"),
        (b"username=alice&action=user_updated", "the body is not JSON"),
        (b'[{"username": "alice", "action": "user_up', "the body is not JSON"),
        ('[{"username": "Алиса", "action": "user_updated"}]'.encode("cp1251"), "the body is not UTF-8"),
        ('[{"username": "علی", "action": "user_updated"}]'.encode("utf-16"), "the body is not UTF-8"),
    ],
)
def test_what_is_no_json_is_answered_with_a_reason(services: Services, body: bytes, detail: str) -> None:
    """A 400 that says why; the log and the metrics know of it."""
    answered = send(services, body)
    assert (answered.status_code, answered.json()["code"]) == (400, "malformed_json")
    assert answered.json()["detail"].startswith(detail)
    assert stored(services) == []
    metrics = services.metrics.render()[0].decode()
    assert 'marzhook_ingest_refused_total{code="malformed_json",source="marzban"} 1.0' in metrics


@pytest.mark.parametrize("given", ["7", "abc", "1.5", "-1", "١"])
def test_a_source_that_is_none_is_warned_of(services: Services, caplog: pytest.LogCaptureFixture, given: str) -> None:
    """A number that is followed by nobody, and what is no number: the events are taken all the same."""
    body = b'[{"username": "alice", "action": "user_updated"}]'
    assert send(services, body, f"marzban?source={given}").json()["accepted"] == 1
    assert "`marzhook source list` shows them" in caplog.text
    caplog.clear()
    assert send(services, body.replace(b"alice", b"bob"), "marzban?source=").json()["accepted"] == 1
    assert caplog.text == ""


def test_names_in_any_script_come_through(services: Services) -> None:
    """Escaped as the panel writes them, or as UTF-8, with a byte order mark or without."""
    text = '[{"username": "علی", "action": "user_updated"}]'
    for body in (text.encode(), text.encode("utf-8-sig"), json.dumps(json.loads(text)).encode()):
        assert send(services, body).json()["accepted"] == 1
    assert stored(services) == [("user_updated", "علی")] * 3


@pytest.mark.parametrize(("route", "limit"), [("marzban", 32), ("pasarguard", 32), ("marzneshin", 4), ("remnawave", 4)])
def test_a_body_without_bounds_is_refused(services: Services, route: str, limit: int) -> None:
    """Nobody fills the memory, with a length that is announced or without."""
    size = limit * 1024 * 1024 + 1
    answered = send(services, b" " * size, route)
    assert (answered.status_code, answered.json()["code"]) == (413, "body_too_large")
    with TestClient(create_app(services)) as http:
        pieces = (b" " * 2**20 for _ in range(limit + 1))
        answered = http.post(f"/ingest/{route}", content=pieces, headers={"x-webhook-secret": SECRET})
    assert (answered.status_code, answered.json()["code"]) == (413, "body_too_large")


def test_an_empty_list_is_no_mistake(services: Services) -> None:
    """A panel with nothing to say is answered all the same."""
    assert send(services, b"[]").json() == {"accepted": 0, "duplicates": 0, "rejected": 0}


def test_deep_nesting_costs_its_own_item_only(services: Services) -> None:
    """Whatever the depth, the neighbours are stored."""
    for number, depth in enumerate(range(100, 1300, 100)):
        deep = '{"username": "deep", "action": "a", "x": ' + "[" * depth + "]" * depth + "}"
        body = f'[{deep}, {{"username": "next{number}", "action": "b"}}]'
        answered = send(services, body.encode()).json()
        assert answered["accepted"] + answered["rejected"] == 2
        assert stored(services)[-1] == ("b", f"next{number}")
    assert answered["rejected"] == 1


# -- what was rejected


def test_what_was_rejected_can_be_looked_at(api: Api, services: Services) -> None:
    """Reason and body, the newest first, page by page; a key that may only read sees no body."""
    send(services, body_of({"username": "a"}, {"action": "user_updated"}, 7))
    found = api.get("/api/v1/ingest/rejected", params={"limit": 2}).json()
    assert [(one["code"], json.loads(one["body"])) for one in found["rejected"]] == [
        ("invalid_event", 7),
        ("invalid_username", {"action": "user_updated"}),
    ]
    page = api.get("/api/v1/ingest/rejected", params={"limit": 2, "before": found["next_before"]}).json()
    assert [(one["source"], one["code"], one["length"]) for one in page["rejected"]] == [
        ("marzban", "invalid_action", 17)
    ]
    assert page["next_before"] is None
    shown = api.get("/api/v1/ingest/rejected", headers=api.key("read")).json()["rejected"]
    assert [one["body"] for one in shown] == [None] * 3
    assert api.get("/api/v1/ingest/rejected", headers=api.key("events:write")).status_code == 403
    assert api.get("/api/v1/ingest/rejected", headers={"Authorization": ""}).status_code == 401
