"""/api/v1/endpoints: where events go.

What is secret is write-only: `secret` never comes back (`has_secret` does), and a signing secret is shown once, in the
answer to the call that made it. Whole URLs, which may hold tokens, are for the scope `admin`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from marzhook.api.auth import Manager, Reader
from marzhook.api.context import Id, ServicesDep, answer, example
from marzhook.api.shown import endpoint_shown, event_shown, instance_of, name_shown
from marzhook.endpoint import (
    DETAILS,
    FORMATS,
    KINDS,
    REMOVED,
    SECRET_MODES,
    Endpoint,
    check_choice,
    check_url,
    masked_url,
)
from marzhook.errors import ConflictError, InvalidError
from marzhook.event import TEST_ACTION, NewEvent, check_action
from marzhook.store import endpoints, history

router = APIRouter(prefix="/api/v1/endpoints", tags=["Endpoints"])

Backlog = Literal["send", "skip"]
MAX_NAME = 200
MAX_SECRET = 1024
TEST_USERNAME = "marzhook_test"

_SHOWN = {
    "id": 1, "name": "shop", "kind": "webhook", "url": "https://shop.example/hook", "format": "event",
    "has_secret": True, "secret_mode": "auto", "learned_mode": "hmac", "detail": "safe",
    "actions": ["user_expired", "user_limited"], "ordered": True, "concurrency": 32,
    "rate_limit": None, "enabled": True, "disabled_reason": None, "failing_since": None,
    "source": "api", "previous_secret_expires_at": None, "created_at": "2026-01-01T00:00:00Z",
}  # fmt: skip
_ONCE = _SHOWN | {"signing_secret": "whsec_…"}


class EndpointChange(BaseModel):
    """What is missing stays as it is; `secret: null` sends none, `actions: null` sends all."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = Field(default=None, repr=False)
    name: str | None = None
    format: str | None = Field(default=None, description=" | ".join(FORMATS))
    secret: str | None = Field(default=None, repr=False, description="sent in x-webhook-secret")
    secret_mode: str | None = Field(default=None, description=" | ".join(SECRET_MODES))
    detail: str | None = Field(default=None, description=" | ".join(DETAILS))
    actions: list[str] | None = Field(default=None, description="only these; null: all")
    ordered: bool | None = Field(default=None, description="one user's events one after the other")
    concurrency: Annotated[int | None, Field(ge=1, le=1000)] = None
    rate_limit: Annotated[float | None, Field(gt=0, le=100_000, description="requests a second; null: no limit")] = None


class NewEndpoint(EndpointChange):
    """An endpoint to be made; all but `url` has a default."""

    kind: str = Field(default="webhook", description=" | ".join(KINDS))
    enabled: bool = True


@router.post(
    "",
    summary="Make an endpoint",
    status_code=201,
    responses=example(_ONCE, "The signing secret is shown this once", 201),
)
def create(services: ServicesDep, _caller: Manager, new: NewEndpoint) -> Response:
    """From now on it is owed every event that it wants. It reaches public addresses only, unless the operator
    allows more (MARZHOOK_ALLOW_ADDRESSES)."""
    kind = check_choice("kind", new.kind, KINDS)
    url = check_url(new.url)
    values = _checked(new)
    del values["url"]
    values.setdefault("name", masked_url(url))
    values["enabled"] = new.enabled
    values.setdefault("concurrency", services.settings.endpoint_concurrency)
    if not new.enabled:
        values["disabled_reason"] = "made disabled"
    with services.database.write() as tx:
        made = endpoints.create(tx, now=services.clock.now(), kind=kind, url=url, **values)
        tx.after_commit(services.outbox.wake)
    return answer(endpoint_shown(made, full=True) | {"signing_secret": made.signing_secret}, 201)


@router.get("", summary="List endpoints", responses=example({"endpoints": [_SHOWN]}))
def list_endpoints(services: ServicesDep, caller: Reader) -> Response:
    """All endpoints, those of the settings too."""
    with services.database.read() as conn:
        found = endpoints.all_endpoints(conn)
    return answer({"endpoints": [endpoint_shown(endpoint, full=caller.may("admin")) for endpoint in found]})


@router.get("/{endpoint_id}", summary="Show an endpoint", responses=example(_SHOWN))
def show(services: ServicesDep, caller: Reader, endpoint_id: Id) -> Response:
    """One endpoint."""
    with services.database.read() as conn:
        return answer(endpoint_shown(endpoints.get(conn, endpoint_id), full=caller.may("admin")))


@router.patch("/{endpoint_id}", summary="Change an endpoint", responses=example(_SHOWN))
def change(services: ServicesDep, _caller: Manager, endpoint_id: Id, change: EndpointChange) -> Response:
    """Change what is given. Endpoints of the settings are changed there."""
    values = _checked(change)
    with services.database.write() as tx:
        before = endpoints.get(tx.conn, endpoint_id)
        if before.source == "environment":
            raise ConflictError(
                f"endpoint {endpoint_id} comes from the settings; change {_settings_of(before)} and restart Marzhook",
                code="endpoint_from_environment",
            )
        after = endpoints.update(tx, endpoint_id, **values) if values else before
        tx.after_commit(services.outbox.wake)
    return answer(endpoint_shown(after, full=True))


@router.delete("/{endpoint_id}", summary="Delete an endpoint", status_code=204)
def delete(services: ServicesDep, _caller: Manager, endpoint_id: Id) -> Response:
    """Cancel what it is owed and take it off the list; its history stays readable."""
    with services.database.write() as tx:
        endpoints.delete(tx, endpoint_id, now=services.clock.now())
        tx.after_commit(services.outbox.wake)
    return Response(status_code=204)


@router.post("/{endpoint_id}/enable", summary="Enable an endpoint", responses=example(_SHOWN))
def enable(services: ServicesDep, _caller: Manager, endpoint_id: Id, backlog: Backlog = "send") -> Response:
    """Send again. What was kept for it goes out first; with `backlog=skip` it is cancelled instead, and can be replayed."""
    with services.database.write() as tx:
        before = endpoints.get(tx.conn, endpoint_id)
        if before.disabled_reason == REMOVED:
            raise ConflictError(
                f"the settings name endpoint {endpoint_id} no longer; put it back into {_address_setting(before)}",
                code="endpoint_from_environment",
            )
        after = before if before.enabled else endpoints.enable(tx, endpoint_id)
        if backlog == "skip" and not before.enabled:
            endpoints.cancel_all(tx, endpoint_id, now=services.clock.now())
        tx.after_commit(services.outbox.wake)
    return answer(endpoint_shown(after, full=True))


@router.post("/{endpoint_id}/disable", summary="Disable an endpoint", responses=example(_SHOWN))
def disable(services: ServicesDep, _caller: Manager, endpoint_id: Id) -> Response:
    """Stop sending. What is owed, and what comes meanwhile, is kept for it."""
    with services.database.write() as tx:
        before = endpoints.get(tx.conn, endpoint_id)
        # One that is disabled keeps its reason: "no longer in the settings" must not become "over the API".
        after = endpoints.disable(tx, endpoint_id, "over the API") if before.enabled else before
        tx.after_commit(services.outbox.wake)
    return answer(endpoint_shown(after, full=True))


@router.post(
    "/{endpoint_id}/rotate-secret",
    summary="Make a new signing secret",
    responses=example(_ONCE, "The new signing secret is shown this once"),
)
def rotate_secret(services: ServicesDep, _caller: Manager, endpoint_id: Id) -> Response:
    """For 24 hours requests carry the signatures of both secrets, so that the receiver can change over. A second rotation
    within that time ends the older one's at once: who has lost two secrets does not want the first to live on."""
    with services.database.write() as tx:
        after = endpoints.rotate_secret(tx, endpoint_id, now=services.clock.now())
        tx.after_commit(services.outbox.wake)
    return answer(endpoint_shown(after, full=True) | {"signing_secret": after.signing_secret})


@router.post(
    "/{endpoint_id}/test",
    summary="Send a test event",
    status_code=202,
    responses=example(
        {
            "event": {"id": 7, "webhook_id": "msg_1f3a_7", "action": "marzhook_test", "username": "marzhook_test"},
            "delivery": {"endpoint_id": 1, "event_id": 7, "state": "pending"},
        },
        "Queued",
        202,
    ),
)
def test(services: ServicesDep, _caller: Manager, endpoint_id: Id) -> Response:
    """Publish a `marzhook_test` to this endpoint alone, whatever its filter; GET the delivery to see what came of it."""
    with services.database.write() as tx:
        endpoint = endpoints.get(tx.conn, endpoint_id)
        if not endpoint.enabled:
            raise ConflictError(
                f"endpoint {endpoint_id} is disabled ({endpoint.disabled_reason}); enable it first",
                code="endpoint_disabled",
            )
        new = NewEvent(TEST_ACTION, TEST_USERNAME)
        [event_id] = services.outbox.publish(tx, [new], now=services.clock.now(), only_to=endpoint_id)
        event = history.event(tx.conn, event_id)
        instance = instance_of(services, tx.conn)
    delivery = {"endpoint_id": endpoint_id, "event_id": event_id, "state": "pending"}
    return answer({"event": event_shown(event, instance), "delivery": delivery}, 202)


def _checked(change: EndpointChange) -> dict[str, Any]:
    """The columns that were given. Raises InvalidError for the first wrong one."""
    values = {name: getattr(change, name) for name in EndpointChange.model_fields if name in change.model_fields_set}
    # These mean something as null; for the others null is the same as missing.
    values = {k: v for k, v in values.items() if v is not None or k in ("secret", "actions", "rate_limit")}
    if "url" in values:
        check_url(values["url"])
    for name, choices in (("format", FORMATS), ("secret_mode", SECRET_MODES), ("detail", DETAILS)):
        if name in values:
            check_choice(name, values[name], choices)
    if "name" in values and (not 1 <= len(values["name"]) <= MAX_NAME or not values["name"].isprintable()):
        raise InvalidError(f"name must have 1 to {MAX_NAME} printable characters", code="invalid_name")
    if "name" in values:
        # Names go to logs and metrics, which anybody may read; URLs may hold tokens.
        values["name"] = name_shown(values["name"])
    secret = values.get("secret")
    if secret is not None and not (1 <= len(secret) <= MAX_SECRET and secret.isascii() and secret.isprintable()):
        raise InvalidError(
            f"secret must have 1 to {MAX_SECRET} printable ASCII characters: it travels in a header",
            code="invalid_secret",
        )
    if values.get("actions") is not None:
        if not values["actions"]:
            raise InvalidError("actions is empty; null means all of them", code="invalid_action")
        values["actions"] = frozenset(check_action(action) for action in values["actions"])
    return values


def _address_setting(endpoint: Endpoint) -> str:
    return "DISCORD_WEBHOOK_URL" if endpoint.kind == "discord" else "WEBHOOK_ADDRESS"


def _settings_of(endpoint: Endpoint) -> str:
    if endpoint.kind == "discord":
        return "DISCORD_WEBHOOK_URL"
    return "WEBHOOK_ADDRESS, WEBHOOK_SECRET, WEBHOOK_SECRET_MODE, WEBHOOK_DETAIL or WEBHOOK_FORMAT"
