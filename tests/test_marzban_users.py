"""The panel's users API, as its clients speak it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from marzhook.store import schema

if TYPE_CHECKING:
    from api_client import Api

pytest_plugins = ["api_client"]

# What aiomarzban sends: every field, mostly null.
SENT: dict[str, Any] = {
    "proxies": {"vless": {"flow": ""}}, "expire": None, "data_limit": None, "data_limit_reset_strategy": "no_reset",
    "inbounds": {}, "note": None, "sub_updated_at": None, "sub_last_user_agent": None, "online_at": None,
    "on_hold_expire_duration": None, "on_hold_timeout": None, "auto_delete_in_days": None, "next_plan": None,
    "username": "aio_1", "status": "active",
}  # fmt: skip

SHOWN = [
    "proxies", "expire", "data_limit", "data_limit_reset_strategy", "inbounds", "note", "sub_updated_at",
    "sub_last_user_agent", "online_at", "on_hold_expire_duration", "on_hold_timeout", "auto_delete_in_days",
    "next_plan", "username", "status", "used_traffic", "lifetime_used_traffic", "created_at", "links",
    "subscription_url", "excluded_inbounds", "admin",
]  # fmt: skip


def add(api: Api, username: str = "alice", **fields: Any) -> dict[str, Any]:
    answer = api.post("/api/user", json={"username": username, **fields})
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def actions(api: Api, username: str) -> list[str]:
    with api.services.database.read() as conn:
        rows = conn.execute(schema.events.select().order_by("id")).all()
    return [row.action for row in rows if row.username == username]


def test_a_client_that_sends_every_field_gets_the_panels_answer(api: Api) -> None:
    """200 with all keys in the panel's order; what was given comes back as given."""
    answer = api.post("/api/user", json=SENT | {"data_limit": 5368709120, "links": ["vless://x"]})
    assert answer.status_code == 200
    shown = answer.json()
    assert list(shown) == SHOWN
    assert shown["proxies"] == {"vless": {"flow": ""}}
    assert shown["links"] == ["vless://x"]
    assert shown["created_at"] == "2026-01-01T00:00:00"
    assert shown["admin"]["username"] == "boss"
    assert list(shown["admin"]) == ["username", "is_sudo", "telegram_id", "discord_webhook", "users_usage"]
    assert api.get("/api/user/AIO_1").json() == shown


def test_statuses_and_texts_are_the_panels(api: Api) -> None:
    """409, 404, 403, 422 and the texts that clients compare."""
    add(api)
    again = api.post("/api/user", json={"username": "Alice"})
    assert (again.status_code, again.json()["detail"]) == (409, "User already exists")
    missing = api.get("/api/user/nobody")
    assert (missing.status_code, missing.json()["detail"]) == (404, "User not found")
    other = api.admin("other", is_sudo=False)
    for method, path in (
        ("GET", "/api/user/alice"),
        ("PUT", "/api/user/alice"),
        ("DELETE", "/api/user/alice"),
        ("POST", "/api/user/alice/reset"),
        ("POST", "/api/user/alice/revoke_sub"),
        ("GET", "/api/user/alice/usage"),
        ("PUT", "/api/user/alice/set-owner?admin_username=other"),
        ("POST", "/api/users/reset"),
        ("POST", "/api/admin/boss/users/disable"),
        ("POST", "/api/admin/boss/users/activate"),
    ):
        answer = api.call(method, path, headers=other, json={} if path == "/api/user/alice" else None)
        assert (answer.status_code, answer.json()["detail"]) == (403, "You're not allowed"), path
    wrong = api.post("/api/user", json={"username": "x", "expire": "never"})
    assert wrong.status_code == 422
    assert wrong.json()["detail"].keys() == {"username", "expire"}
    assert wrong.json()["detail"]["username"].startswith("Value error, ")
    assert api.call("GET", "/api/user/alice", headers={"Authorization": "Bearer x"}).status_code == 401


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"null", b"\xff", b"[" * 100_000, b'{"username": NaN}'])
def test_bodies_that_are_no_object_are_refused(api: Api, body: bytes) -> None:
    """Malformed bodies are 4xx with a code, never a 500."""
    for method, path in (("POST", "/api/user"), ("PUT", "/api/user/alice")):
        answer = api.call(method, path, content=body, headers={"Content-Type": "application/json"})
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.json()["code"]


def test_modify_disables_enables_and_renews(api: Api) -> None:
    """PUT changes what is given; null changes nothing; 0 is unlimited."""
    add(api, expire=2**31, data_limit=9, note="x")
    off = api.call("PUT", "/api/user/alice", json=dict.fromkeys(SENT) | {"status": "disabled"}).json()
    assert (off["status"], off["expire"], off["note"]) == ("disabled", 2**31, "x")
    on = api.call("PUT", "/api/user/alice", json={"status": "active", "expire": 0, "data_limit": 0}).json()
    assert (on["status"], on["expire"], on["data_limit"]) == ("active", None, None)
    assert actions(api, "alice") == [
        "user_created", "user_updated", "user_disabled", "user_updated", "user_enabled",
    ]  # fmt: skip
    assert api.call("PUT", "/api/user/alice", json={"status": "limited"}).status_code == 422


def test_reset_and_revoke_take_an_octet_stream(api: Api) -> None:
    """Some clients send an empty body of application/octet-stream; a limited user is active after a reset."""
    first = add(api, data_limit=10, proxies={"vless": {"id": "old"}})
    api.post("/api/v1/usage", json=[{"username": "alice", "bytes": 10}])
    assert api.get("/api/user/alice").json()["status"] == "limited"
    octets = {"Content-Type": "application/octet-stream"}
    reset = api.post("/api/user/alice/reset", headers=octets).json()
    assert (reset["status"], reset["used_traffic"], reset["lifetime_used_traffic"]) == ("active", 0, 10)
    revoked = api.post("/api/user/alice/revoke_sub", headers=octets).json()
    assert revoked["subscription_url"] != first["subscription_url"]
    assert revoked["proxies"]["vless"]["id"] != "old"
    assert actions(api, "alice")[1:] == [
        "user_limited", "data_usage_reset", "user_enabled", "subscription_revoked",
    ]  # fmt: skip


def test_a_deleted_user_is_gone_and_the_name_free(api: Api) -> None:
    """200 with the panel's text, then 404; also for users of the environment's admin, whom the panel deletes silently."""
    add(api)
    gone = api.call("DELETE", "/api/user/alice")
    assert (gone.status_code, gone.json()) == (200, {"detail": "User successfully deleted"})
    assert api.call("DELETE", "/api/user/alice").status_code == 404
    assert actions(api, "alice") == ["user_created", "user_deleted"]
    add(api)


def test_usage_of_a_user(api: Api) -> None:
    """Empty start and end mean the last 30 days; others are ISO 8601 or Unix seconds."""
    add(api)
    api.post("/api/v1/usage", json=[{"username": "alice", "bytes": 7}])
    node = {"node_id": None, "node_name": "Master", "used_traffic": 7}
    # Beside the panel's keys, those that aiomarzban looks for.
    expected = {"username": "alice", "usages": [node], **node}
    assert api.get("/api/user/alice/usage?start=&end=").json() == expected
    assert api.get("/api/user/alice/usage").json() == expected
    at = int(api.clock.now().timestamp())
    assert api.get(f"/api/user/alice/usage?start={at - 60}&end={at}").json() == expected
    old = api.get("/api/user/alice/usage?start=2025-01-01T00:00:00&end=2025-01-02T00:00:00Z").json()
    assert old["usages"][0]["used_traffic"] == 0
    for query in ("start=yesterday", "start=2026-01-02&end=2026-01-01", "start=99999999999999"):
        assert api.get(f"/api/user/alice/usage?{query}").status_code == 400


def test_the_list_answers_users_and_total(api: Api) -> None:
    """Filters, pages and sorting by query; an unknown sort is 400."""
    for name in ("carla", "berta", "anna"):
        add(api, name)
    api.call("PUT", "/api/user/berta", json={"status": "disabled"})
    page = api.get("/api/users?limit=1&offset=1&sort=username").json()
    assert ([user["username"] for user in page["users"]], page["total"]) == (["berta"], 3)
    assert list(page["users"][0]) == SHOWN
    some = api.get("/api/users?username=anna&username=CARLA&status=active&admin=boss&search=a").json()
    assert some["total"] == 2
    assert api.get("/api/users?sort=password").status_code == 400
    assert api.get("/api/users?status=happy").status_code == 422
    assert api.get("/api/users?limit=-1").status_code == 422


def test_set_owner(api: Api) -> None:
    """The user belongs to the other admin from then on, and receivers are told."""
    add(api)
    api.admin("ann", is_sudo=False)
    given = api.call("PUT", "/api/user/alice/set-owner?admin_username=ann")
    assert given.json()["admin"]["username"] == "ann"
    assert actions(api, "alice") == ["user_created", "user_updated"]
    assert api.call("PUT", "/api/user/alice/set-owner?admin_username=nobody").status_code == 404


def test_expired_users_are_listed_and_deleted(api: Api) -> None:
    """GET answers names, DELETE those that it deleted."""
    at = int(api.clock.now().timestamp())
    add(api, expire=at - 5)
    add(api, "bob", expire=at + 99)
    assert api.get("/api/users/expired").json() == ["alice"]
    assert api.get(f"/api/users/expired?expired_after={at - 4}&expired_before=").json() == []
    assert api.call("DELETE", "/api/users/expired").json() == ["alice"]
    assert api.call("DELETE", "/api/users/expired").json() == []
    assert actions(api, "alice") == ["user_created", "user_expired", "user_deleted"]


def test_bulk_calls(api: Api) -> None:
    """Reset, disable and activate of many users answer the panel's texts and make events."""
    add(api)
    for path, text in (
        ("/api/users/reset", "Users successfully reset."),
        ("/api/admin/boss/users/disable", "Users successfully disabled"),
        ("/api/admin/boss/users/activate", "Users successfully activated"),
    ):
        answer = api.post(path)
        assert (answer.status_code, answer.json()) == (200, {"detail": text})
    assert actions(api, "alice") == ["user_created", "data_usage_reset", "user_disabled", "user_enabled"]
    assert api.post("/api/admin/nobody/users/disable").status_code == 404


def test_the_routes_are_documented(api: Api) -> None:
    """Every route of the panel's users API is in OpenAPI, with an example of its answer."""
    paths = api.get("/openapi.json").json()["paths"]
    routes = {path: operations for path, operations in paths.items() if "/api/user" in path or "/users/" in path}
    assert len(routes) >= 11
    for operations in routes.values():
        for operation in operations.values():
            assert "example" in operation["responses"]["200"]["content"]["application/json"]
