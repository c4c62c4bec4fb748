"""/api/v1/deliveries: what is owed, what became of it, and every attempt."""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from sqlalchemy import Connection

from marzhook import operations
from marzhook.api.auth import Manager, Reader
from marzhook.api.context import MAX_ID, Id, Limit, Patient, ServicesDep, Since, Until, answer, example
from marzhook.api.shown import attempt_shown, delivery_shown, detail_level, instance_of
from marzhook.delivery import STATES
from marzhook.endpoint import check_choice
from marzhook.errors import InvalidError
from marzhook.runtime import Services
from marzhook.store import history
from marzhook.store.outbox import DeliveryFilter

router = APIRouter(route_class=Patient, prefix="/api/v1/deliveries", tags=["Deliveries"])

_ATTEMPT = {
    "number": 1, "at": "2026-01-01T00:00:00Z", "duration": 0.012, "status": 503, "error": None,
    "message": "", "response": "try again later",
}  # fmt: skip
_SHOWN = {
    "endpoint_id": 1, "endpoint_name": "shop", "event_id": 7,
    "event": {"id": 7, "webhook_id": "msg_1f3a_7", "action": "user_updated", "username": "marzban_test_user"},
    "state": "pending", "tries": 1, "attempts": 1, "due_at": "2026-01-01T00:00:05Z", "settled_at": None,
    "last_attempt": {k: _ATTEMPT[k] for k in ("at", "duration", "status", "error", "message")},
}  # fmt: skip


@router.get("", summary="List deliveries", responses=example({"deliveries": [_SHOWN], "next_cursor": "AAAA…"}))
def list_deliveries(
    services: ServicesDep,
    _caller: Reader,
    endpoint: Annotated[int | None, Query(ge=1, le=MAX_ID, description="the endpoint's id")] = None,
    state: Annotated[list[str] | None, Query(description=", ".join(STATES) + "; may be repeated")] = None,
    action: Annotated[list[str] | None, Query(description="may be repeated")] = None,
    username: str | None = None,
    since: Since = None,
    until: Until = None,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
    limit: Limit = 100,
) -> Response:
    """Newest event first; times are the event's. What died at an endpoint that was deleted since is no dead letter: with
    `state=dead` alone it is left out."""
    which = DeliveryFilter(
        endpoint_id=endpoint,
        states=tuple(check_choice("state", one, STATES) for one in state) if state else None,
        actions=tuple(action) if action else None,
        username=username,
        since=since,
        until=until,
    )
    before = None if cursor is None else _read_cursor(cursor)
    with services.database.read() as conn:
        rows = history.deliveries(conn, which, before=before, limit=limit)
        instance = instance_of(services, conn)
    following = _cursor(rows[-1].key) if len(rows) == limit else None
    return answer({"deliveries": [delivery_shown(row, instance) for row in rows], "next_cursor": following})


@router.get(
    "/{endpoint_id}/{event_id}",
    summary="Show a delivery and its attempts",
    responses=example(_SHOWN | {"attempt_log": [_ATTEMPT]}),
)
def show(services: ServicesDep, caller: Reader, endpoint_id: Id, event_id: Id) -> Response:
    """One delivery: its event, its state, and every try with the head of the receiver's answer."""
    return answer(_whole(services, endpoint_id, event_id, detail_level(caller)))


@router.post("/{endpoint_id}/{event_id}/retry", summary="Send a delivery again, now", responses=example(_SHOWN))
def retry(services: ServicesDep, caller: Manager, endpoint_id: Id, event_id: Id, force: bool = False) -> Response:
    """One that waits for its next try is due at once; a dead or cancelled one is owed again; one that was delivered
    is owed again only with `force=true`, because the receiver would get it twice."""
    operations.retry(services, endpoint_id, event_id, force=force)
    return answer(_whole(services, endpoint_id, event_id, detail_level(caller)))


@router.post("/{endpoint_id}/{event_id}/cancel", summary="Cancel a delivery", responses=example(_SHOWN))
def cancel(services: ServicesDep, caller: Manager, endpoint_id: Id, event_id: Id) -> Response:
    """Owe it no longer; the next event of the same user may pass. One that is on its way may still arrive."""
    operations.cancel(services, endpoint_id, event_id)
    return answer(_whole(services, endpoint_id, event_id, detail_level(caller)))


def _whole(services: Services, endpoint_id: int, event_id: int, level: str) -> dict[str, Any]:
    def shown(conn: Connection) -> dict[str, Any]:
        tries = history.attempts(conn, endpoint_id, event_id)
        row = delivery_shown(history.delivery(conn, endpoint_id, event_id), instance_of(services, conn), level=level)
        return row | {"attempt_log": [attempt_shown(one) for one in tries]}

    # Also after a change that was made: that its answer cannot be read at once must not look as if it were not.
    return services.database.look(shown)


def _cursor(key: tuple[int, int]) -> str:
    """Opaque, so that nobody builds their own and the order may change one day."""
    return base64.urlsafe_b64encode(struct.pack(">QQ", *key)).decode().rstrip("=")


def _read_cursor(text: str) -> tuple[int, int]:
    try:
        event_id, endpoint_id = struct.unpack(">QQ", base64.urlsafe_b64decode(text + "=="))
        if max(event_id, endpoint_id) > MAX_ID:
            raise ValueError
    except (ValueError, binascii.Error, struct.error):
        raise InvalidError(
            "cursor is not one that this API gave; begin again without it", code="invalid_cursor"
        ) from None
    return event_id, endpoint_id
