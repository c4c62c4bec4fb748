from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from marzhook.store import endpoints

if TYPE_CHECKING:
    from api_client import Api

pytest_plugins = ["api_client"]


def states(api: Api, **params: Any) -> list[tuple[int, int, str]]:
    rows = api.get("/api/v1/deliveries", params=params).json()["deliveries"]
    return [(row["endpoint_id"], row["event_id"], row["state"]) for row in rows]


def test_list_shows_the_last_attempt(api: Api) -> None:
    """A delivery comes with its event, its state and how its last try went."""
    endpoint = api.endpoint(name="shop")
    event_id = api.publish()
    api.settle(endpoint, event_id, "pending")

    [shown] = api.get("/api/v1/deliveries").json()["deliveries"]

    assert shown["event"]["id"] == shown["event_id"] == event_id
    assert (shown["endpoint_name"], shown["state"], shown["tries"]) == ("shop", "pending", 1)
    assert shown["due_at"] == "2030-01-01T00:00:00Z"
    assert shown["last_attempt"] == {
        "at": "2026-01-01T00:00:00Z", "duration": 0.25, "status": 503, "error": None, "message": "",
    }  # fmt: skip


def test_pages_meet(api: Api) -> None:
    """Page by page every delivery comes once, newest event first, whatever table it lies in."""
    endpoints = [api.endpoint() for _ in range(3)]
    events = [api.publish() for _ in range(5)]
    for endpoint in endpoints[:2]:
        for event_id in events[::2]:
            api.settle(endpoint, event_id, "delivered" if endpoint == 1 else "dead")

    seen, cursor = [], None
    while True:
        params = {"limit": 4} | ({"cursor": cursor} if cursor else {})
        page = api.get("/api/v1/deliveries", params=params).json()
        seen += [(row["event_id"], row["endpoint_id"]) for row in page["deliveries"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert seen == sorted(((event, endpoint) for event in events for endpoint in endpoints), reverse=True)


def test_filters(api: Api) -> None:
    """Deliveries are found by endpoint, state, action, name and time, also in combination."""
    one, two = api.endpoint(), api.endpoint()
    first = api.publish("user_created", "alice")
    api.clock.advance(86400)
    second = api.publish("user_deleted", "bob")
    api.settle(one, first, "dead")
    api.settle(two, first, "delivered")

    assert states(api, state="dead") == [(one, first, "dead")]
    assert states(api, state=["dead", "delivered"]) == [(two, first, "delivered"), (one, first, "dead")]
    assert states(api, state="pending", endpoint=one) == [(one, second, "pending")]
    assert states(api, action="user_deleted", endpoint=two) == [(two, second, "pending")]
    assert states(api, username="alice", state="dead") == [(one, first, "dead")]
    assert states(api, username="alice", state="pending") == []
    assert states(api, since="2026-01-02") == [(two, second, "pending"), (one, second, "pending")]
    assert states(api, until="2026-01-02", state="dead") == [(one, first, "dead")]


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"state": "lost"}, "invalid_state"),
        ({"cursor": "nonsense"}, "invalid_cursor"),
        ({"cursor": "_" * 22}, "invalid_cursor"),
        ({"cursor": "é"}, "invalid_cursor"),
        ({"limit": 501}, "invalid"),
        ({"since": "yesterday"}, "invalid"),
        ({"since": "1e300"}, "invalid"),
        ({"endpoint": 2**63}, "invalid"),
    ],
)
def test_bad_filters(api: Api, params: Any, code: str) -> None:
    """A filter that cannot be meant is refused."""
    answered = api.get("/api/v1/deliveries", params=params)
    assert (answered.status_code, answered.json()["code"]) == (422, code)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_times_at_the_ends(api: Api, time: str) -> None:
    """The first and the last time that can be written are times like any other."""
    api.endpoint()
    api.publish()
    assert api.get("/api/v1/deliveries", params={"since": time}).status_code == 200
    assert api.get("/api/v1/deliveries", params={"until": time}).status_code == 200


def test_show_attempts(api: Api) -> None:
    """One delivery comes with every try, in order, and with the head of each answer."""
    endpoint = api.endpoint()
    event_id = api.publish(note="x")
    api.settle(endpoint, event_id, "pending")
    api.settle(endpoint, event_id, "delivered", 200)

    shown = api.get(f"/api/v1/deliveries/{endpoint}/{event_id}").json()

    assert (shown["state"], shown["tries"], shown["attempts"]) == ("delivered", 1, 2)
    assert shown["settled_at"] == "2026-01-01T00:00:00Z"
    assert shown["event"]["detail"] == {"note": "x"}
    assert [(a["number"], a["status"], a["response"]) for a in shown["attempt_log"]] == [
        (1, 503, "answer 1"),
        (2, 200, "answer 2"),
    ]
    assert api.get(f"/api/v1/deliveries/{endpoint}/99").json()["code"] == "delivery_not_found"


def test_retry_hastens_what_waits(api: Api) -> None:
    """A delivery that waits for its next try is due now; its tries stay counted, and the dispatcher is told."""
    endpoint = api.endpoint()
    event_id = api.publish()
    api.settle(endpoint, event_id, "pending")
    woken: list[bool] = []
    api.services.outbox.on_publish(lambda: woken.append(True))

    shown = api.post(f"/api/v1/deliveries/{endpoint}/{event_id}/retry").json()

    assert (shown["state"], shown["tries"], shown["due_at"]) == ("pending", 1, "2026-01-01T00:00:00Z")
    assert woken


@pytest.mark.parametrize("state", ["dead", "cancelled"])
def test_retry_replays_what_ended(api: Api, state: str) -> None:
    """A dead or cancelled delivery is owed again from its first try, and goes at once also in a pause; its attempts stay."""
    endpoint = api.endpoint()
    event_id = api.publish()
    path = f"/api/v1/deliveries/{endpoint}/{event_id}"
    if state == "cancelled":
        assert api.post(f"{path}/cancel").json()["state"] == "cancelled"
    else:
        api.settle(endpoint, event_id, "dead")

    shown = api.post(f"{path}/retry").json()

    assert (shown["state"], shown["tries"], shown["due_at"]) == ("pending", 0, "2026-01-01T00:00:00Z")
    assert shown["attempts"] == (1 if state == "dead" else 0)
    with api.services.database.read() as conn:
        assert endpoints.get(conn, endpoint).hastened_at == api.clock.now()


def test_retry_of_a_delivered_one(api: Api) -> None:
    """What arrived is sent again only when that is said twice."""
    endpoint = api.endpoint()
    event_id = api.publish()
    api.settle(endpoint, event_id, "delivered", 200)
    path = f"/api/v1/deliveries/{endpoint}/{event_id}/retry"

    assert (api.post(path).status_code, api.post(path).json()["code"]) == (409, "already_delivered")
    assert api.post(path, params={"force": "true"}).json()["state"] == "pending"


def test_cancel(api: Api) -> None:
    """Only what is pending can be cancelled."""
    endpoint = api.endpoint()
    event_id = api.publish()
    path = f"/api/v1/deliveries/{endpoint}/{event_id}/cancel"

    assert api.post(path).json()["state"] == "cancelled"
    assert (api.post(path).status_code, api.post(path).json()["code"]) == (409, "not_pending")
    assert api.post(f"/api/v1/deliveries/{endpoint}/99/cancel").status_code == 404


@pytest.fixture
def history(api: Api) -> tuple[int, int]:
    """Two endpoints, and of each a delivery that is dead, one that is cancelled, and one that is delivered."""
    ids = api.endpoint(), api.endpoint()
    for action, state in (("user_created", "dead"), ("user_updated", "cancelled"), ("user_deleted", "delivered")):
        event_id = api.publish(action, username=f"of-{state}")
        for endpoint in ids:
            if state == "cancelled":
                api.post(f"/api/v1/deliveries/{endpoint}/{event_id}/cancel")
            else:
                api.settle(endpoint, event_id, state)
        api.clock.advance(86400)
    return ids


@pytest.mark.parametrize(
    ("which", "count"),
    [
        ({}, 4),
        ({"endpoint_id": 1}, 2),
        ({"states": ["dead"]}, 2),
        ({"states": ["delivered", "dead"]}, 4),
        ({"actions": ["user_updated"]}, 2),
        ({"username": "of-dead", "endpoint_id": 2}, 1),
        ({"since": "2026-01-02T00:00:00Z"}, 2),
        ({"until": "2026-01-02T00:00:00Z", "endpoint_id": 1}, 1),
        ({"username": "nobody"}, 0),
    ],
)
def test_replay(api: Api, history: tuple[int, int], which: Any, count: int) -> None:
    """A replay owes exactly what the filter says again, a dry run counts the same, and a second one finds nothing."""
    dry = api.post("/api/v1/replay", json={**which, "dry_run": True})
    assert dry.json() == {"matched": count}
    assert states(api, state="pending") == []

    assert api.post("/api/v1/replay", json=which).json() == {"replayed": count}
    assert len(states(api, state="pending")) == count
    assert api.post("/api/v1/replay", json=which).json() == {"replayed": 0}


@pytest.mark.parametrize(
    ("which", "status", "code"),
    [
        ({"states": ["pending"]}, 422, "invalid_state"),
        ({"states": []}, 422, "invalid_filter"),
        ({"actions": []}, 422, "invalid_filter"),
        ({"actions": ["X"]}, 422, "invalid_action"),
        ({"endpoint_id": 9}, 404, "endpoint_not_found"),
        ({"sinse": "2026-01-01"}, 422, "invalid"),
    ],
)
def test_bad_replay(api: Api, which: Any, status: int, code: str) -> None:
    """A filter that is misspelt does not silently mean everything."""
    answered = api.post("/api/v1/replay", json=which)
    assert (answered.status_code, answered.json()["code"]) == (status, code)
