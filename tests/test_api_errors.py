from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from holding import held
from marzhook import errors
from marzhook.api.errors import MAX_BODY, MAX_BODY_OF
from marzhook.store import schema
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox

if TYPE_CHECKING:
    from api_client import Api

pytest_plugins = ["api_client"]


def every_error() -> list[type[errors.MarzhookError]]:
    found, new = [], [errors.MarzhookError]
    while new:
        found += new
        new = [sub for kind in new for sub in kind.__subclasses__()]
    return found


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_its_status(kind: type[errors.MarzhookError]) -> None:
    """The error tree's own drawing says which status each error has; those of the start never meet a request."""
    error = kind({"x": "y"}) if kind is errors.InvalidUserError else kind("x")  # type: ignore[arg-type]
    expected = {
        "invalid": 422,
        "invalid_user": 422,
        "not_found": 404,
        "conflict": 409,
        "unauthorized": 401,
        "forbidden": 403,
        "throttled": 429,
        "store_busy": 503,
        "outcome_unknown": 503,
        "database_unusable": 503,
    }
    assert errors.http_status(error) == expected.get(kind.code, 500)


def test_unknown_route_and_method(api: Api) -> None:
    """What is not there says so with a code, in JSON."""
    missing, wrong = api.get("/api/nothing"), api.call("PUT", "/api/v1/events")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert "/api/nothing" in missing.json()["detail"]
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")


def test_malformed_json_body(api: Api) -> None:
    """A body that is no JSON is a 400, not a 422."""
    answered = api.post("/api/v1/keys", content=b"{nope", headers={"Content-Type": "application/json"})
    assert (answered.status_code, answered.json()["code"]) == (400, "malformed_json")


def test_a_body_without_its_content_type(api: Api) -> None:
    """JSON that was sent as a form (as curl does unless told otherwise) is answered with how to send it."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answered = api.post("/api/user", content=b'{"username": "alice"}', headers=headers)
    assert answered.status_code == 422
    assert "Content-Type: application/json" in answered.json()["detail"]["body"]


@pytest.mark.parametrize("raw", [b'{"name": "\xff"}', b"[" * 100_000])
def test_unreadable_body(api: Api, raw: bytes) -> None:
    """A body that is not UTF-8 or has no end of depth is a 400 as well."""
    answered = api.post("/api/v1/keys", content=raw, headers={"Content-Type": "application/json"})
    assert (answered.status_code, answered.json()["code"]) == (400, "malformed_body")


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/v1/keys", "name"),
        ("/api/v1/endpoints", "url"),
        ("/api/v1/endpoints", "name"),
        ("/api/v1/endpoints", "secret"),
        ("/api/v1/replay", "username"),
        ("/api/admin", "username"),
        ("/api/admin", "discord_webhook"),
    ],
)
def test_text_that_no_database_takes(api: Api, path: str, field: str) -> None:
    """JSON can escape half a character; wherever it comes, it is refused, and nothing breaks."""
    right = {
        "/api/v1/keys": {"scopes": ["read"]},
        "/api/v1/endpoints": {"url": "https://shop.example/"},
        "/api/v1/replay": {},
        "/api/admin": {"username": "x", "password": "x"},
    }
    body = json.dumps({**right[path], field: "x\ud800"})
    answered = api.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answered.status_code == 422


def test_wrong_fields_are_named(api: Api) -> None:
    """Wrong fields come back by name, and their values do not come back at all."""
    answered = api.post("/api/v1/endpoints", json={"url": "https://x.example/", "secret": ["hush"], "colour": "red"})
    assert (answered.status_code, answered.json()["code"]) == (422, "invalid")
    assert set(answered.json()["detail"]) == {"secret", "colour"}
    assert "hush" not in answered.text


@pytest.mark.parametrize("path", ["/api/v1/events/0", "/api/v1/events/99999999999999999999", "/api/v1/events/x"])
def test_ids_that_cannot_be(api: Api, path: str) -> None:
    """An id that no database could hold is the caller's mistake."""
    assert api.get(path).status_code == 422


@pytest.mark.parametrize("path", ["/api/v1/events", "/api/v1/usage", "/api/v1/keys"])
def test_body_too_large(api: Api, path: str) -> None:
    """A body over the limit is refused by its length, or where it comes in chunks, as soon as it is too long."""
    limit = MAX_BODY_OF.get(path, MAX_BODY)
    headers = {"Content-Type": "application/json"}

    def chunks(size: int) -> Iterator[bytes]:
        for _ in range(size // 65536):
            yield b" " * 65536
        yield b" " * (size % 65536)

    for content in (b" " * (limit + 1), chunks(limit + 1)):
        answered = api.post(path, content=content, headers=headers)
        assert (answered.status_code, answered.json()["code"]) == (413, "body_too_large")
    for content in (b" " * limit, chunks(limit)):
        assert api.post(path, content=content, headers=headers).json()["code"] == "malformed_json"


def test_failed_statement_hides_its_values(api: Api) -> None:
    """What a statement was to write may be secret: its error, which is logged, does not show it."""
    with pytest.raises(sa.exc.IntegrityError) as raised, api.services.database.write() as tx:
        tx.conn.execute(sa.insert(schema.meta), [{"key": "token_key", "value": "hush"}])
    assert "hush" not in str(raised.value)


def test_unexpected_error_shows_nothing(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """What nobody expected is a 500 without details; the log has the traceback."""

    def broken() -> list[str]:
        raise RuntimeError("the inner thing")

    with caplog.at_level(logging.ERROR):
        answered = api.over(replace(api.services, not_ready=broken)).get("/readyz")

    assert (answered.status_code, answered.json()["code"]) == (500, "internal")
    assert "inner thing" not in answered.text
    assert "the inner thing" in caplog.text


def test_busy_database(api: Api, reopen: Callable[..., Database]) -> None:
    """While another program holds the database, a write is a 503 that says when to come back."""
    database = reopen(busy_timeout=0.05)
    hurried = api.over(replace(api.services, database=database, outbox=Outbox(database)))
    with held(database):
        answered = hurried.post("/api/v1/events", json={"username": "alice", "action": "user_created"})

    assert (answered.status_code, answered.json()["code"]) == (503, "store_busy")
    assert answered.headers["Retry-After"] == "1"


def test_health(api: Api) -> None:
    """Anybody may ask whether it lives and how it does; nothing secret is shown."""
    api.endpoint("https://user:hush@shop.example/?token=hush", secret="hush")
    nobody = {"Authorization": ""}
    assert api.get("/healthz", headers=nobody).json() == {"status": "ok"}
    assert api.get("/readyz", headers=nobody).json() == {"status": "ready"}
    metrics = api.get("/metrics", headers=nobody)
    assert metrics.status_code == 200
    assert metrics.headers["Content-Type"].startswith("text/plain")
    assert "hush" not in metrics.text


def test_head_asks_for_the_status_alone(api: Api) -> None:
    """Monitors that ask with HEAD get the status of GET, and no body."""
    for path in ("/healthz", "/readyz"):
        answered = api.call("HEAD", path)
        assert (answered.status_code, answered.headers["content-type"]) == (200, "application/json")
    assert api.over(replace(api.services, not_ready=lambda: ["starting"])).call("HEAD", "/readyz").status_code == 503


def test_not_ready(api: Api) -> None:
    """While it should be left alone it says why."""
    answered = api.over(replace(api.services, not_ready=lambda: ["starting"])).get("/readyz")
    assert (answered.status_code, answered.json()["reasons"]) == (503, ["starting"])


def test_openapi(api: Api) -> None:
    """Every route has a summary, and /docs is served."""
    schema = api.get("/openapi.json").json()
    assert schema["info"]["title"] == "Marzhook"
    page = api.get("/docs")
    assert page.status_code == 200
    # Nothing is fetched, from here or elsewhere: no script, no style sheet, no picture.
    assert not re.search(r"<(script|link|img|iframe)|https?://", page.text)
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<td>data_limit</td><td>body</td>" in page.text or "<td>limit</td><td>query</td>" in page.text
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            assert route.get("summary"), (method, path)
            assert f"{method.upper()} {html.escape(path)}</code>" in page.text
