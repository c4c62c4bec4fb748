"""/api/v1/replay: owe many deliveries again."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from marzhook import operations
from marzhook.api.auth import Manager
from marzhook.api.context import MAX_ID, Patient, ServicesDep, Time, answer, example
from marzhook.delivery import CANCELLED, DEAD, SETTLED_STATES

router = APIRouter(route_class=Patient, prefix="/api/v1/replay", tags=["Deliveries"])


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
    chosen = operations.replay_filter(
        endpoint_id=which.endpoint_id,
        states=tuple(which.states),
        actions=None if which.actions is None else tuple(which.actions),
        username=which.username,
        since=which.since,
        until=which.until,
    )
    if which.dry_run:
        return answer({"matched": operations.replayable(services, chosen)})
    return answer({"replayed": sum(operations.replay(services, chosen))})
