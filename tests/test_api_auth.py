from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from api_client import Api

pytest_plugins = ["api_client"]


MANAGED = [
    ("POST", "/api/v1/endpoints", {"url": "https://shop.example/"}),
    ("PATCH", "/api/v1/endpoints/1", {}),
    ("DELETE", "/api/v1/endpoints/1", None),
    ("POST", "/api/v1/endpoints/1/test", None),
    ("POST", "/api/v1/endpoints/1/enable", None),
    ("POST", "/api/v1/endpoints/1/disable", None),
    ("POST", "/api/v1/endpoints/1/rotate-secret", None),
    ("POST", "/api/v1/deliveries/1/1/retry", None),
    ("POST", "/api/v1/deliveries/1/1/cancel", None),
    ("POST", "/api/v1/replay", {}),
    ("POST", "/api/v1/keys", {"name": "x", "scopes": ["read"]}),
    ("GET", "/api/v1/keys", None),
    ("DELETE", "/api/v1/keys/1", None),
]
READ = [
    ("GET", "/api/v1/endpoints", None),
    ("GET", "/api/v1/endpoints/1", None),
    ("GET", "/api/v1/events", None),
    ("GET", "/api/v1/events/1", None),
    ("GET", "/api/v1/deliveries", None),
    ("GET", "/api/v1/deliveries/1/1", None),
]
WRITE = [("POST", "/api/v1/events", []), ("POST", "/api/v1/usage", [])]


def log_in(api: Api, username: str, password: str, **fields: str) -> Any:
    form = {"username": username, "password": password, **fields}
    return api.client.post("/api/admin/token", data=form, headers={"Authorization": ""})


@pytest.fixture
def alice(api: Api) -> dict[str, str]:
    """The headers of alice, who is sudo and has a password."""
    made = api.post("/api/admin", json={"username": "alice", "password": "tea & biscuits", "is_sudo": True})
    assert made.status_code == 200, made.text
    return {"Authorization": f"Bearer {log_in(api, 'alice', 'tea & biscuits').json()['access_token']}"}


@pytest.mark.parametrize("fields", [{}, {"grant_type": "", "scope": ""}, {"grant_type": "password", "scope": "x"}])
def test_log_in(api: Api, alice: dict[str, str], fields: dict[str, str]) -> None:
    """A name and password give a bearer token, whatever clients send as grant_type and scope."""
    answered = log_in(api, "alice", "tea & biscuits", **fields)

    assert answered.status_code == 200
    assert list(answered.json()) == ["access_token", "token_type"]
    assert answered.json()["token_type"] == "bearer"
    headers = {"Authorization": f"Bearer {answered.json()['access_token']}"}
    assert api.get("/api/admin", headers=headers).json()["username"] == "alice"


@pytest.mark.parametrize(("name", "password"), [("alice", "wrong"), ("bob", "tea & biscuits"), ("alice", "x" * 5000)])
def test_wrong_password(api: Api, alice: dict[str, str], name: str, password: str) -> None:
    """A wrong name and a wrong password are answered alike, in the panel's words."""
    answered = log_in(api, name, password)
    assert (answered.status_code, answered.json()["detail"]) == (401, "Incorrect username or password")
    assert answered.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer nonsense", "Basic YTpi", "Bearer a.b.c"])
def test_bad_token(api: Api, value: str) -> None:
    """Whatever is no token gets the text on which clients log in again."""
    for path in ("/api/admin", "/api/v1/events"):
        answered = api.get(path, headers={"Authorization": value})
        assert (answered.status_code, answered.json()["detail"]) == (401, "Could not validate credentials")
        assert answered.headers["WWW-Authenticate"] == "Bearer"


def test_token_expires(api: Api, alice: dict[str, str]) -> None:
    """A token is good for as many minutes as the settings say."""
    api.clock.advance(api.services.settings.token_minutes * 60 - 1)
    assert api.get("/api/admin", headers=alice).status_code == 200
    api.clock.advance(2)
    assert api.get("/api/admin", headers=alice).status_code == 401


def test_new_password_voids_tokens(api: Api, alice: dict[str, str]) -> None:
    """Tokens from before a password change are void, also within the same second; later ones are good."""
    api.clock.advance(0.25)
    assert api.call("PUT", "/api/admin/alice", json={"password": "coffee"}).status_code == 200
    assert api.get("/api/admin", headers=alice).status_code == 401

    api.clock.advance(0.25)
    token = log_in(api, "alice", "coffee").json()["access_token"]
    assert api.get("/api/admin", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_deleted_admin_is_out(api: Api, alice: dict[str, str]) -> None:
    """A deleted admin's token opens nothing, also after somebody else took the name."""
    assert api.call("DELETE", "/api/admin/alice").json() == {"detail": "Admin successfully deleted"}
    assert api.get("/api/admin", headers=alice).status_code == 401
    api.clock.advance(1)
    api.post("/api/admin", json={"username": "alice", "password": "other"})
    assert api.get("/api/admin", headers=alice).status_code == 401


@pytest.mark.parametrize(("method", "path", "body"), [*MANAGED, *READ, *WRITE])
def test_v1_needs_a_login(api: Api, method: str, path: str, body: Any) -> None:
    """No route of /api/v1 is open; an admin without sudo is told what is needed."""
    assert api.call(method, path, json=body, headers={"Authorization": ""}).status_code == 401
    refused = api.call(method, path, json=body, headers=api.admin("clerk", is_sudo=False))
    assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")
    assert "sudo" in refused.json()["detail"]


@pytest.mark.parametrize(("method", "path", "body"), MANAGED)
def test_scope_admin(api: Api, method: str, path: str, body: Any) -> None:
    """What changes things needs the scope admin; the others together are not enough."""
    others = api.key("read", "events:write", "usage:write")
    assert api.call(method, path, json=body, headers=others).json()["code"] == "missing_scope"
    assert api.call(method, path, json=body, headers=api.key("admin")).status_code not in (401, 403)


@pytest.mark.parametrize(("method", "path", "body"), READ)
def test_scope_read(api: Api, method: str, path: str, body: Any) -> None:
    """Reading needs the scope read, or admin, which includes it."""
    assert api.call(method, path, headers=api.key("events:write")).json()["code"] == "missing_scope"
    for scope in ("read", "admin"):
        assert api.call(method, path, headers=api.key(scope)).status_code in (200, 404)


@pytest.mark.parametrize(("path", "scope"), [("/api/v1/events", "events:write"), ("/api/v1/usage", "usage:write")])
def test_scope_write(api: Api, path: str, scope: str) -> None:
    """Each kind of writing has its own scope."""
    assert api.post(path, json=[], headers=api.key(scope)).json()["code"] == "invalid_batch"
    other = ({"events:write", "usage:write"} - {scope}).pop()
    assert api.post(path, json=[], headers=api.key(other, "read")).status_code == 403


def test_api_keys_do_not_open_the_panels_routes(api: Api) -> None:
    """The panel's routes know admins only, and say where to get a token."""
    refused = api.get("/api/admin", headers=api.key("admin"))
    assert (refused.status_code, refused.json()["code"]) == (403, "api_key_not_accepted")


def test_key_is_made_listed_and_revoked(api: Api) -> None:
    """A key is shown when it is made and never again; once revoked it opens nothing."""
    made = api.post("/api/v1/keys", json={"name": "node 3", "scopes": ["read", "usage:write"]})
    key = made.json()["key"]
    headers = {"Authorization": f"Bearer {key}"}

    assert made.status_code == 201
    assert key.startswith("mzk_")
    assert api.get("/api/v1/endpoints", headers=headers).status_code == 200
    listed = api.get("/api/v1/keys")
    assert key not in listed.text
    assert [(one["name"], one["scopes"]) for one in listed.json()["keys"]] == [("node 3", ["read", "usage:write"])]

    revoked = api.call("DELETE", f"/api/v1/keys/{made.json()['id']}")
    assert revoked.json()["revoked_at"] == "2026-01-01T00:00:00Z"
    assert api.get("/api/v1/endpoints", headers=headers).status_code == 401
    assert api.call("DELETE", "/api/v1/keys/99").json()["code"] == "key_not_found"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"name": "x", "scopes": []}, "invalid_scopes"),
        ({"name": "x", "scopes": ["root"]}, "invalid_scopes"),
        ({"name": "", "scopes": ["read"]}, "invalid_name"),
        ({"name": "x\n", "scopes": ["read"]}, "invalid_name"),
        ({"name": "x"}, "invalid"),
    ],
)
def test_bad_key(api: Api, body: Any, code: str) -> None:
    """A key without a name or with unknown scopes is refused."""
    answered = api.post("/api/v1/keys", json=body)
    assert (answered.status_code, answered.json()["code"]) == (422, code)
