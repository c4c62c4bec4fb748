"""/api/v1/endpoints: where events go.

What is secret is write-only: `secret` never comes back (`has_secret` does), and a signing secret is shown once, in the
answer to the call that made it. Whole URLs and templates, which may hold tokens, are for the scope `admin`.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from marzhook import operations
from marzhook.api.auth import Manager, Reader
from marzhook.api.context import Id, Patient, ServicesDep, answer, example
from marzhook.api.shown import endpoint_shown, event_shown, instance_of
from marzhook.endpoint import DETAILS, FORMATS, KINDS, SECRET_MODES, SIGNATURES, Endpoint
from marzhook.preflight import trouble
from marzhook.runtime import Services, programs
from marzhook.store import endpoints

router = APIRouter(route_class=Patient, prefix="/api/v1/endpoints", tags=["Endpoints"])

Backlog = Literal["send", "skip"]

_SHOWN = {
    "id": 1, "name": "shop", "kind": "webhook", "url": "https://shop.example/hook", "format": "event",
    "has_secret": True, "secret_mode": "auto", "learned_mode": "hmac", "signatures": "both",
    "public_key": "whpk_…", "detail": "safe",
    "actions": ["user_expired", "user_limited"], "admins": None, "usernames": ["vip_*", "!vip_test"],
    "condition": "user.status != 'on_hold'", "has_template": True, "template": '{"text": "{{ username }}: {{ action }}"}',
    "ordered": True, "concurrency": 32,
    "rate_limit": None, "options": {}, "enabled": True, "disabled_reason": None, "problem": None, "warning": None,
    "failing_since": None,
    "source": "api", "previous_secret_expires_at": None, "created_at": "2026-01-01T00:00:00Z",
}  # fmt: skip
_ONCE = _SHOWN | {"signing_secret": "whsec_…"}


class EndpointChange(BaseModel):
    """What is missing stays as it is; `secret: null` sends none; `null` as a part of the filter (`actions`, `admins`,
    `usernames`, `condition`) means any, `template: null` sends the format's own body, and `name: null` calls it by its
    address."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = Field(default=None, repr=False)
    name: str | None = Field(default=None, description="null: its address, masked")
    format: str | None = Field(default=None, description=" | ".join(FORMATS))
    secret: str | None = Field(default=None, repr=False, description="sent in x-webhook-secret")
    secret_mode: str | None = Field(default=None, description=" | ".join(SECRET_MODES))
    signatures: str | None = Field(default=None, description=" | ".join(SIGNATURES))
    detail: str | None = Field(default=None, description=" | ".join(DETAILS))
    actions: list[str] | None = Field(default=None, description="only these; null: all")
    admins: list[str] | None = Field(
        default=None, description="only events of these admins' users, and what these admins did; null: all"
    )
    usernames: list[str] | None = Field(
        default=None,
        description="only of users whose names match a pattern (vip_*), and none with a ! (!test_*); null: all",
    )
    condition: str | None = Field(default=None, description="only where this JMESPath expression is true; null: always")
    template: str | None = Field(
        default=None,
        repr=False,
        description="Jinja that makes each event's JSON, for the kind webhook; null: the format's",
    )
    ordered: bool | None = Field(default=None, description="one user's events one after the other")
    concurrency: Annotated[int | None, Field(ge=1, le=1000)] = None
    rate_limit: Annotated[float | None, Field(gt=0, le=100_000, description="requests a second; null: no limit")] = None
    options: dict[str, Any] | None = Field(default=None, description="what else the kind takes, all of it anew")


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
    allows more (MARZHOOK_ALLOW_ADDRESSES). `warning` says why nothing could be sent to it from this machine as it is now, as
    far as that is known without trying; null: nothing is known."""
    made = operations.create_endpoint(
        services, kind=new.kind, url=new.url, enabled=new.enabled, values=_given(new, apart=("url",))
    )
    return answer(_shown(services, made) | {"signing_secret": made.signing_secret}, 201)


@router.get("", summary="List endpoints", responses=example({"endpoints": [_SHOWN]}))
def list_endpoints(services: ServicesDep, caller: Reader) -> Response:
    """All endpoints, those of the settings too."""
    with services.database.read() as conn:
        found = endpoints.all_endpoints(conn)
    return answer({"endpoints": [_shown(services, endpoint, full=caller.may("admin")) for endpoint in found]})


@router.get("/{endpoint_id}", summary="Show an endpoint", responses=example(_SHOWN))
def show(services: ServicesDep, caller: Reader, endpoint_id: Id) -> Response:
    """One endpoint."""
    with services.database.read() as conn:
        return answer(_shown(services, endpoints.get(conn, endpoint_id), full=caller.may("admin")))


@router.patch("/{endpoint_id}", summary="Change an endpoint", responses=example(_SHOWN))
def change(services: ServicesDep, _caller: Manager, endpoint_id: Id, change: EndpointChange) -> Response:
    """Change what is given. Endpoints of the settings are changed there."""
    return answer(_shown(services, operations.change_endpoint(services, endpoint_id, _given(change))))


@router.delete("/{endpoint_id}", summary="Delete an endpoint", status_code=204)
def delete(services: ServicesDep, _caller: Manager, endpoint_id: Id) -> Response:
    """Cancel what it is owed and take it off the list; its history stays readable."""
    operations.delete_endpoint(services, endpoint_id)
    return Response(status_code=204)


@router.post("/{endpoint_id}/enable", summary="Enable an endpoint", responses=example(_SHOWN))
def enable(services: ServicesDep, _caller: Manager, endpoint_id: Id, backlog: Backlog = "send") -> Response:
    """Send again. What was kept for it goes out first; with `backlog=skip` it is cancelled instead, and can be replayed."""
    after = operations.enable_endpoint(services, endpoint_id, skip_backlog=backlog == "skip")
    return answer(_shown(services, after))


@router.post("/{endpoint_id}/disable", summary="Disable an endpoint", responses=example(_SHOWN))
def disable(services: ServicesDep, _caller: Manager, endpoint_id: Id) -> Response:
    """Stop sending. What is owed, and what comes meanwhile, is kept for it."""
    return answer(_shown(services, operations.disable_endpoint(services, endpoint_id, "over the API")))


@router.post(
    "/{endpoint_id}/rotate-secret",
    summary="Make a new signing secret",
    responses=example(_ONCE, "The new signing secret is shown this once"),
)
def rotate_secret(services: ServicesDep, _caller: Manager, endpoint_id: Id) -> Response:
    """For 24 hours requests carry the signatures of both secrets, so that the receiver can change over. A second rotation
    within that time ends the older one's at once: who has lost two secrets does not want the first to live on."""
    after = operations.rotate_secret(services, endpoint_id)
    return answer(_shown(services, after) | {"signing_secret": after.signing_secret})


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
    event = operations.test_endpoint(services, endpoint_id)
    instance = services.database.look(partial(instance_of, services))
    delivery = {"endpoint_id": endpoint_id, "event_id": event.id, "state": "pending"}
    return answer({"event": event_shown(event, instance), "delivery": delivery}, 202)


def _shown(services: Services, endpoint: Endpoint, *, full: bool = True) -> dict[str, Any]:
    """`warning` is of this machine, which need not be the one that sends."""
    found = trouble(endpoint.kind, endpoint.url, programs(services.settings))
    return endpoint_shown(endpoint, full=full) | {"warning": found and found.told}


def _given(change: EndpointChange, *, apart: tuple[str, ...] = ()) -> dict[str, Any]:
    """The columns that the call names."""
    names = (name for name in EndpointChange.model_fields if name in change.model_fields_set and name not in apart)
    return {name: getattr(change, name) for name in names}
