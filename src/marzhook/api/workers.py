"""/api/v1/workers: the processes that deliver."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Response

from marzhook.api.auth import Reader
from marzhook.api.context import Patient, ServicesDep, answer, example, iso
from marzhook.store import workers

router = APIRouter(route_class=Patient, prefix="/api/v1/workers", tags=["Workers"])

_SHOWN = {
    "name": "marzhook 1.0.0 worker, process 4711 on server-1", "host": "server-1", "process": 4711, "version": "1.0.0",
    "address": "10.0.0.5", "since": "2026-01-01T00:00:00Z", "shards": [0, 1, 2], "rate": 812.4, "lag": 0.012,
    "last_seen": "2026-01-01T08:00:00Z", "gone": False,
}  # fmt: skip


@router.get("", summary="List the processes that deliver", responses=example({"workers": [_SHOWN]}))
def list_workers(services: ServicesDep, _caller: Reader) -> Response:
    """The eldest first. `rate`: deliveries a second; `lag`: for how many seconds what it sends next has been due, at the
    endpoint where that is longest. `gone`: it ended without a word, within the last hour. What nobody knows is null."""
    found = workers.seen(services.database, services.clock.now())
    shown = [asdict(one) | {"since": iso(one.since), "last_seen": iso(one.last_seen)} for one in found]
    return answer({"workers": shown})
