"""/api/v1/events: publish events, and read what was published.

Publishing is the hot path: the body is parsed once and checked by hand (a model object for each of a thousand events
would cost more than storing them), and all of it is written in one transaction.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from marzhook.api.auth import Caller, EventWriter, Reader
from marzhook.api.context import (
    MAX_ID,
    Id,
    Limit,
    Patient,
    ServicesDep,
    Since,
    Until,
    answer,
    answer_text,
    example,
    parse_json,
)
from marzhook.api.once import IdempotencyKey, once
from marzhook.api.shown import delivery_shown, detail_level, event_shown, instance_of
from marzhook.errors import InvalidError
from marzhook.event import WIRE_KEYS, NewEvent, check_action, check_username, detail_json
from marzhook.runtime import Services
from marzhook.store import history
from marzhook.store.database import Transaction
from marzhook.store.outbox import DeliveryFilter

router = APIRouter(route_class=Patient, prefix="/api/v1/events", tags=["Events"])

MAX_EVENTS: Final = 1000
DROPPED: Final = WIRE_KEYS | {"id"}
"""Keys that a publisher cannot set: the name and the action stand elsewhere, and time, tries and id are ours."""

_SHOWN = {"id": 7, "webhook_id": "msg_1f3a_7", "action": "user_updated", "username": "marzban_test_user"}
_PUBLISHED = _SHOWN | {
    "enqueued_at": 1680506457.636369, "detail": {"by": {"username": "admin", "is_sudo": True}}, "traceparent": None
}  # fmt: skip
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "example": [
                    {"username": "marzban_test_user", "action": "user_updated"},
                    {"username": "alice", "action": "user_created", "user": {"note": "from the shop"}},
                ],
                "schema": {"anyOf": [{"type": "object"}, {"type": "array", "maxItems": MAX_EVENTS}]},
            }
        },
    }
}


@router.post(
    "",
    summary="Publish events",
    status_code=202,
    responses=example({"events": [_SHOWN]}, "On disk, and owed to every endpoint that wants them", 202),
    openapi_extra=_BODY,
)
async def publish(
    request: Request, services: ServicesDep, caller: EventWriter, idempotency_key: IdempotencyKey = None
) -> Response:
    """One object or an array of up to 1,000 `{username, action, …}`, all of them or none. Further fields follow the
    four documented keys on the wire, in their order. With an `Idempotency-Key`, a repeated call changes nothing. Headers
    `traceparent` and `tracestate` (W3C Trace Context) are kept, and sent on with each request that follows."""
    raw = await request.body()
    return await run_in_threadpool(_publish, services, caller, idempotency_key, raw)


@router.get("", summary="List events", responses=example({"events": [_PUBLISHED], "next_before": 7}))
def list_events(
    services: ServicesDep,
    caller: Reader,
    action: str | None = None,
    username: str | None = None,
    since: Since = None,
    until: Until = None,
    before: Annotated[int | None, Query(ge=1, le=MAX_ID, description="`next_before` of the page before")] = None,
    limit: Limit = 100,
) -> Response:
    """Newest first. Credentials within an event are for the scope `admin`."""
    with services.database.read() as conn:
        found = history.events(
            conn, action=action, username=username, since=since, until=until, before=before, limit=limit
        )
        instance = instance_of(services, conn)
    level = detail_level(caller)
    events = [event_shown(event, instance, level) for event in found]
    return answer({"events": events, "next_before": found[-1].id if len(found) == limit else None})


@router.get("/{event_id}", summary="Show an event and its deliveries")
def show(services: ServicesDep, caller: Reader, event_id: Id) -> Response:
    """One event, and what became of it at each endpoint."""
    with services.database.read() as conn:
        event = history.event(conn, event_id)
        rows = history.deliveries(conn, DeliveryFilter(event_id=event_id), limit=1000)
        instance = instance_of(services, conn)
    deliveries = [delivery_shown(row, instance, with_event=False) for row in rows]
    return answer(event_shown(event, instance, detail_level(caller)) | {"deliveries": deliveries})


def _publish(services: Services, caller: Caller, key: str | None, raw: bytes) -> Response:
    events = _events_of(parse_json(raw))

    def work(tx: Transaction) -> str:
        ids = services.outbox.publish(tx, events, now=services.clock.now())
        prefix = f"msg_{instance_of(services, tx.conn)}_"
        return json.dumps(
            {
                "events": [
                    {"id": id_, "webhook_id": f"{prefix}{id_}", "action": e.action, "username": e.username}
                    for id_, e in zip(ids, events, strict=True)
                ]
            }
        )

    try:
        text, replayed = once(services, caller, key, "/api/v1/events", raw, work)
    except InvalidError as error:
        raise _placed(error, events) from None
    return answer_text(text, 202, replayed)


def _events_of(body: Any) -> list[NewEvent]:
    """The events in the body. Raises InvalidError, naming the first that is wrong."""
    items = body if isinstance(body, list) else [body]
    if not 1 <= len(items) <= MAX_EVENTS:
        raise InvalidError(f"an array has 1 to {MAX_EVENTS} events, not {len(items)}", code="invalid_batch")
    events = []
    for index, item in enumerate(items):
        try:
            if not isinstance(item, dict):
                raise InvalidError('an event is an object: {"username": …, "action": …}', code="invalid_event")
            for name in ("username", "action"):
                if name not in item:
                    raise InvalidError(f"{name} is missing", code=f"invalid_{name}")
            action, username = check_action(item["action"]), check_username(item["username"])
        except InvalidError as error:
            raise InvalidError(f"event {index}: {error}; nothing was published", code=error.code) from None
        events.append(NewEvent(action, username, {k: v for k, v in item.items() if k not in DROPPED}))
    return events


def _placed(error: InvalidError, events: list[NewEvent]) -> InvalidError:
    """The outbox's complaint about an event's fields, with the place of the event. Only the unlucky pay for the search."""
    for index, event in enumerate(events):
        try:
            detail_json(event.detail)
        except InvalidError as found:
            return InvalidError(f"event {index}: {found}; nothing was published", code=found.code)
    return error
