from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from api_client import Api

pytest_plugins = ["api_client"]


def test_report(api: Api) -> None:
    """Traffic is charged to those who are known; the other names come back."""
    api.services.registry.create({"username": "alice"}, None)
    rows = [{"username": "alice", "bytes": 5}, {"username": "Bob", "bytes": 1}, {"username": "ALICE", "bytes": 7}]

    answered = api.post("/api/v1/usage", json=rows, headers=api.key("usage:write"))

    assert (answered.status_code, answered.json()) == (200, {"accepted": 2, "unknown": ["Bob"]})
    assert api.services.registry.get("alice", None).used_traffic == 12


def test_report_once(api: Api) -> None:
    """With an Idempotency-Key a repeated report charges nothing; without one it charges again."""
    api.services.registry.create({"username": "alice"}, None)
    rows = [{"username": "alice", "bytes": 5}]
    headers = {"Idempotency-Key": "node3-1700000000"}

    answers = [api.post("/api/v1/usage", json=rows, headers=headers) for _ in range(3)]
    api.post("/api/v1/usage", json=rows)

    assert [a.json() for a in answers] == [{"accepted": 1, "unknown": []}] * 3
    assert [a.headers.get("Idempotency-Replayed") for a in answers] == [None, "true", "true"]
    assert api.services.registry.get("alice", None).used_traffic == 10


def test_limit_is_reached_in_the_same_call(api: Api) -> None:
    """Who runs over the limit is limited when the answer comes, and the event is published."""
    api.services.registry.create({"username": "alice", "data_limit": 100}, None)

    api.post("/api/v1/usage", json=[{"username": "alice", "bytes": 100}])

    actions = [event["action"] for event in api.get("/api/v1/events").json()["events"]]
    assert "user_limited" in actions
    assert api.services.registry.get("alice", None).status == "limited"


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"username": "alice"}, "invalid_row"),
        ({"bytes": 1}, "invalid_row"),
        ("alice", "invalid_row"),
        (["alice", 1], "invalid_row"),
        (None, "invalid_row"),
        ({"username": "alice", "bytes": True}, "invalid_bytes"),
        ({"username": "alice", "bytes": -1}, "invalid_bytes"),
        ({"username": "alice", "bytes": 1.0}, "invalid_bytes"),
        ({"username": "alice", "bytes": "1"}, "invalid_bytes"),
        ({"username": "alice", "bytes": 2**60 + 1}, "invalid_bytes"),
        ({"username": "", "bytes": 1}, "invalid_username"),
        ({"username": 5, "bytes": 1}, "invalid_username"),
    ],
)
def test_bad_row(api: Api, row: Any, code: str) -> None:
    """One wrong row refuses the whole report, and says which it is; nobody is charged."""
    api.services.registry.create({"username": "alice"}, None)
    answered = api.post("/api/v1/usage", json=[{"username": "alice", "bytes": 1}, row])

    assert (answered.status_code, answered.json()["code"]) == (422, code)
    assert answered.json()["detail"].startswith("row 1: ")
    assert api.services.registry.get("alice", None).used_traffic == 0


@pytest.mark.parametrize("body", [{}, [], [{"username": "a", "bytes": 1}] * 10_001, None])
def test_bad_report(api: Api, body: Any) -> None:
    """A report is an array of 1 to 10,000 rows."""
    answered = api.post("/api/v1/usage", json=body)
    assert (answered.status_code, answered.json()["code"]) in ((422, "invalid_batch"), (400, "malformed_json"))
