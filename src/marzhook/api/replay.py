"""/api/v1/replay: owe many deliveries again."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from marzhook.api.auth import Manager
from marzhook.api.context import MAX_ID, ServicesDep, Time, answer, example
from marzhook.delivery import CANCELLED, DEAD, SETTLED_STATES
from marzhook.endpoint import check_choice
from marzhook.errors import InvalidError
from marzhook.event import check_action, check_username
from marzhook.store import endpoints, history
from marzhook.store.outbox import DeliveryFilter

router = APIRouter(prefix="/api/v1/replay", tags=["Deliveries"])

CHUNK = 5000
"""Deliveries moved in one transaction: publishing waits for no longer than one of these takes."""


class Which(BaseModel):
    """Which deliveries; what is missing or null means any. Times are the event's: [since, until)."""

    model_config = ConfigDict(extra="forbid")

    endpoint_id: int | None = Field(default=None, ge=1, le=MAX_ID)
    since: Time | None = None
    until: Time | None = None
    actions: list[str] | None = None
    states: list[str] = Field(default=[DEAD, CANCELLED], description=" | ".join(SETTLED_STATES))
    username: str | None = None
    dry_run: bool = Field(default=False, description="only count them")


@router.post("", summary="Replay deliveries", responses=example({"replayed": 42}))
def replay(services: ServicesDep, _caller: Manager, which: Which) -> Response:
    """Owe dead and cancelled deliveries (and where `states` says so, delivered ones) again, from their first try.

    Answers `{"replayed": n}`, or with `dry_run` `{"matched": n}`. Deleted endpoints are left out. It works in chunks:
    where it is interrupted, the rest is replayed by the same call.
    """
    chosen = DeliveryFilter(
        endpoint_id=which.endpoint_id,
        states=tuple(check_choice("state", state, SETTLED_STATES) for state in which.states),
        actions=None if which.actions is None else tuple(check_action(action) for action in which.actions),
        username=None if which.username is None else check_username(which.username),
        since=which.since,
        until=which.until,
    )
    if not chosen.states or chosen.actions == ():
        raise InvalidError("states and actions must not be empty; leave them out to mean any", code="invalid_filter")
    with services.database.read() as conn:
        if which.endpoint_id is not None:
            endpoints.get(conn, which.endpoint_id)
        if which.dry_run:
            return answer({"matched": history.count_settled(conn, chosen)})
    began, replayed = services.clock.now(), 0
    while True:
        with services.database.write() as tx:
            count = services.outbox.replay(tx, chosen, settled_before=began, limit=CHUNK)
        replayed += count
        if count < CHUNK:
            return answer({"replayed": replayed})
