from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from api_client import Api

pytest_plugins = ["api_client"]


EVENT = {"username": "alice", "action": "user_created"}


def test_publish_one(api: Api) -> None:
    """One object is stored, is owed to the endpoints, and answered with the id that receivers will see."""
    endpoint = api.endpoint()

    answered = api.post("/api/v1/events", json=EVENT)

    assert answered.status_code == 202
    [event] = answered.json()["events"]
    [delivery] = api.services.outbox.window(endpoint, after=0, limit=10)
    with api.services.database.read() as conn:
        instance = api.services.database.meta(conn, "instance")
    assert event == {"id": delivery.event.id, "webhook_id": f"msg_{instance}_{delivery.event.id}", **EVENT}
    assert delivery.event.enqueued_at == api.clock.now().timestamp()


def test_publish_keeps_unknown_fields_in_order(api: Api) -> None:
    """What is not ours follows in the order in which it came; what only Marzhook may say is dropped."""
    endpoint = api.endpoint()
    body = {
        "zeta": 1, "tries": 9, "username": "alice", "by": {"username": "root"}, "enqueued_at": 1, "action": "user_created",
        "send_at": 2, "id": 3, "alpha": [None, "\u00e9\ud800"],
    }  # fmt: skip

    assert api.post("/api/v1/events", content=json.dumps(body)).status_code == 202

    [delivery] = api.services.outbox.window(endpoint, after=0, limit=10)
    assert delivery.event.detail_json == '{"zeta": 1, "by": {"username": "root"}, "alpha": [null, "\\u00e9\\ud800"]}'


def test_publish_array(api: Api) -> None:
    """An array is published whole, in its order."""
    events = [{"username": f"user{i}", "action": "user_updated"} for i in range(1000)]

    answered = api.post("/api/v1/events", json=events).json()["events"]

    assert [event["username"] for event in answered] == [event["username"] for event in events]
    assert [event["id"] for event in answered] == sorted({event["id"] for event in answered})


@pytest.mark.parametrize(
    ("bad", "code", "what"),
    [
        ({"username": "alice"}, "invalid_action", "action is missing"),
        ({"action": "user_created"}, "invalid_username", "username is missing"),
        ({"action": "User Created", "username": "alice"}, "invalid_action", "User Created"),
        ({"action": None, "username": "alice"}, "invalid_action", "None"),
        ({"action": "user_created", "username": "a\nb"}, "invalid_username", "control characters"),
        ({"action": "user_created", "username": "\ud800"}, "invalid_username", "control characters"),
        ({"action": "user_created", "username": "x" * 129}, "invalid_username", "128"),
        ({"action": "user_created", "username": 7}, "invalid_username", "7"),
        ("user_created", "invalid_event", "object"),
        ({"action": "user_created", "username": "alice", "big": "x" * 300_000}, "event_too_large", "262144"),
    ],
)
def test_bad_event_is_named_and_nothing_is_stored(api: Api, bad: Any, code: str, what: str) -> None:
    """One wrong event refuses the whole array, says which it is and why, and leaves nothing behind."""
    answered = api.post("/api/v1/events", content=json.dumps([EVENT, EVENT, bad]))

    assert (answered.status_code, answered.json()["code"]) == (422, code)
    assert answered.json()["detail"].startswith("event 2: ")
    assert what in answered.json()["detail"]
    assert api.get("/api/v1/events").json()["events"] == []


@pytest.mark.parametrize("body", [[], [EVENT] * 1001])
def test_batch_size(api: Api, body: list[Any]) -> None:
    """An empty array and one of more than 1,000 are refused."""
    answered = api.post("/api/v1/events", json=body)
    assert (answered.status_code, answered.json()["code"]) == (422, "invalid_batch")


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b'{"username": "a", "action": "user_created", "x": NaN}', b"[Infinity]", b"\xff", b"[" * 100_000,
     b'{"x": ' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_malformed_json(api: Api, raw: bytes) -> None:
    """What is not strict JSON is a 400 with a code."""
    answered = api.post("/api/v1/events", content=raw)
    assert (answered.status_code, answered.json()["code"]) == (400, "malformed_json")


def test_idempotency_key(api: Api) -> None:
    """The same key and body get the first answer and publish nothing; another body is a conflict; after a day it is new."""
    headers = {"Idempotency-Key": "order-17"}
    first = api.post("/api/v1/events", json=EVENT, headers=headers)
    again = api.post("/api/v1/events", json=EVENT, headers=headers)
    other = api.post("/api/v1/events", json=[EVENT], headers=headers)

    assert (again.status_code, again.json()) == (202, first.json())
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert len(api.get("/api/v1/events").json()["events"]) == 1

    api.clock.advance(timedelta(hours=24).total_seconds())
    fresh = api.post("/api/v1/events", json=EVENT, headers=headers)
    assert "Idempotency-Replayed" not in fresh.headers


def test_idempotency_key_belongs_to_its_owner(api: Api) -> None:
    """Two callers may choose the same key without meeting."""
    mine = {**api.key("events:write"), "Idempotency-Key": "1"}
    theirs = {**api.key("events:write"), "Idempotency-Key": "1"}

    ids = [api.post("/api/v1/events", json=EVENT, headers=h).json()["events"][0]["id"] for h in (mine, theirs)]

    assert ids[0] != ids[1]


def test_idempotency_key_of_a_failed_call_is_free(api: Api) -> None:
    """A call that was refused has stored nothing, so its key can be used for the mended one."""
    headers = {"Idempotency-Key": "k"}
    assert api.post("/api/v1/events", json={"username": "alice"}, headers=headers).status_code == 422
    assert api.post("/api/v1/events", json=EVENT, headers=headers).status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_bad_idempotency_key(api: Api, key: str) -> None:
    """A key that is empty or longer than 255 characters is refused."""
    answered = api.post("/api/v1/events", json=EVENT, headers={"Idempotency-Key": key})
    assert (answered.status_code, answered.json()["code"]) == (422, "invalid_idempotency_key")


def test_list_pages_and_filters(api: Api) -> None:
    """Events are listed newest first, page by page, by action, name and time."""
    ids = []
    for i in range(6):
        ids.append(api.publish("user_created" if i % 2 else "user_deleted", username=f"user{i % 3}"))
        api.clock.advance(7200)

    page = api.get("/api/v1/events", params={"limit": 4}).json()
    rest = api.get("/api/v1/events", params={"limit": 4, "before": page["next_before"]}).json()

    def listed(**params: str) -> list[int]:
        return [event["id"] for event in api.get("/api/v1/events", params=params).json()["events"]]

    assert [event["id"] for event in page["events"] + rest["events"]] == ids[::-1]
    assert rest["next_before"] is None
    assert listed(action="user_created") == [ids[5], ids[3], ids[1]]
    assert listed(username="user0") == [ids[3], ids[0]]
    assert listed(since="2026-01-01T02:00:00Z", until="2026-01-01T06:00:00") == [ids[2], ids[1]]
    assert listed(since=str(int(api.clock.now().timestamp()) - 7200)) == [ids[5]]


def test_show_event(api: Api) -> None:
    """One event comes with its detail and with what became of it at each endpoint."""
    api.endpoint(name="shop")
    event_id = api.publish(user={"note": "vip"})

    shown = api.get(f"/api/v1/events/{event_id}").json()

    assert shown["detail"] == {"user": {"note": "vip"}}
    assert [(d["endpoint_name"], d["state"]) for d in shown["deliveries"]] == [("shop", "pending")]
    assert api.get("/api/v1/events/999").json()["code"] == "event_not_found"


def test_reader_sees_no_credentials(api: Api) -> None:
    """What gives access to a proxy is kept where an endpoint is to get it, and shown to the scope admin only."""
    api.endpoint(detail="full")
    event_id = api.publish(user={"note": "vip", "proxies": {"vless": {"id": "hush"}}, "links": ["vless://hush"]})
    reader = api.key("read")

    for path in ("/api/v1/events", f"/api/v1/events/{event_id}"):
        assert "hush" not in api.get(path, headers=reader).text
        assert "hush" in api.get(path).text
