"""Events and their deliveries: searching them, and the story of one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from starlette.responses import Response

from marzhook import operations
from marzhook.dashboard.preview import Shown, preview
from marzhook.dashboard.visit import MAX_ID, Pages, Visit, moment
from marzhook.delivery import STATES, Attempt
from marzhook.endpoint import Endpoint
from marzhook.errors import InvalidError, MarzhookError
from marzhook.event import PANEL_ACTIONS, TEST_ACTION
from marzhook.store import endpoints, history, outcomes
from marzhook.store.history import DeliveryRow
from marzhook.store.outbox import DeliveryFilter

pages = Pages()

PAGE = 50
MANY = 200
"""Deliveries of one event that its page shows."""


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for; None means any."""

    username: str | None
    action: str | None
    endpoint_id: int | None
    state: str | None
    since: datetime | None
    until: datetime | None

    @property
    def of_deliveries(self) -> bool:
        return self.endpoint_id is not None or self.state is not None

    def filter(self) -> DeliveryFilter:
        return DeliveryFilter(
            endpoint_id=self.endpoint_id,
            states=(self.state,) if self.state else None,
            actions=(self.action,) if self.action else None,
            username=self.username,
            since=self.since,
            until=self.until,
        )


def search(visit: Visit) -> Search:
    """The search in the query. What makes no sense there is left out; a time that is none raises InvalidError."""
    state = visit.asked("state")
    return Search(
        username=visit.asked("username")[:128] or None,
        action=visit.asked("action")[:64] or None,
        endpoint_id=whole(visit.asked("endpoint")),
        state=state if state in STATES else None,
        since=moment(visit.asked("since")),
        until=moment(visit.asked("until")),
    )


@pages.get("/events")
def list_(visit: Visit) -> Response:
    problem: MarzhookError | None = None
    try:
        wanted = search(visit)
    except InvalidError as error:
        problem, wanted = error, Search(None, None, None, None, None, None)
    with visit.services.database.read() as conn:
        names = endpoint_names(conn)
        rows, older = _rows(conn, wanted, visit.asked("before"))
    return visit.page(
        "events.html",
        422 if problem else 200,
        rows=rows,
        older=older,
        wanted=wanted,
        names=names,
        actions=(*PANEL_ACTIONS, TEST_ACTION),
        states=STATES,
        problem=visit.problem(problem) if problem else None,
    )


def _rows(conn: sa.Connection, wanted: Search, before: str) -> tuple[list[Any], str | None]:
    """(event, [(endpoint id, state)]) of a page, and the `before` of the next one."""
    event_id, _, endpoint_id = before.partition("-")
    if wanted.of_deliveries:
        start = whole(event_id), whole(endpoint_id)
        key = (start[0], start[1]) if start[0] and start[1] else None
        found = history.deliveries(conn, wanted.filter(), before=key, limit=PAGE)
        older = "-".join(map(str, found[-1].key)) if len(found) == PAGE else None
        return [(row.event, [(row.endpoint_id, row.state)]) for row in found], older
    events = history.events(
        conn,
        action=wanted.action,
        username=wanted.username,
        since=wanted.since,
        until=wanted.until,
        before=whole(event_id),
        limit=PAGE,
    )
    states = outcomes.states_of(conn, [event.id for event in events])
    return [(event, states[event.id]) for event in events], str(events[-1].id) if len(events) == PAGE else None


# -- one event


@dataclass(frozen=True, slots=True)
class Chapter:
    """What became of the event at one endpoint."""

    row: DeliveryRow
    attempts: list[Attempt]
    endpoint: Endpoint | None
    """None: it was deleted."""
    request: Shown | None


@pages.get("/events/{event_id:int}")
def show(visit: Visit) -> Response:
    event_id = visit.id("event_id")
    with visit.services.database.read() as conn:
        event = history.event(conn, event_id)
        rows = history.deliveries(conn, DeliveryFilter(event_id=event_id), limit=MANY)
        tries = {row.endpoint_id: history.attempts(conn, row.endpoint_id, event_id) for row in rows}
        alive = {endpoint.id: endpoint for endpoint in endpoints.all_endpoints(conn)}
    chapters = [
        Chapter(row, tries[row.endpoint_id], endpoint, preview(visit, endpoint, event, row.tries) if endpoint else None)
        for row in sorted(rows, key=lambda row: row.endpoint_id)
        for endpoint in [alive.get(row.endpoint_id)]
    ]
    by = event.detail.get("by")
    return visit.page(
        "event.html",
        event=event,
        chapters=chapters,
        by=by.get("username") if isinstance(by, dict) else None,
        # Also for a sudo admin: a page is looked at over shoulders, and credentials are not what it is about.
        detail=json.dumps(event.detail, indent=2, ensure_ascii=False) if event.detail_json else "",
    )


@pages.post("/events/{event_id:int}/{endpoint_id:int}/retry")
def retry(visit: Visit) -> Response:
    force = visit.given("force") == "yes"
    operations.retry(visit.services, visit.id("endpoint_id"), visit.id("event_id"), force=force)
    return visit.to(f"/events/{visit.id('event_id')}")


@pages.post("/events/{event_id:int}/{endpoint_id:int}/cancel")
def cancel(visit: Visit) -> Response:
    operations.cancel(visit.services, visit.id("endpoint_id"), visit.id("event_id"))
    return visit.to(f"/events/{visit.id('event_id')}")


def endpoint_names(conn: sa.Connection) -> dict[int, str]:
    return {one.id: operations.name_shown(one.name) for one in endpoints.all_endpoints(conn)}


def whole(text: str) -> int | None:
    """A number that a row can have; None for anything else."""
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    return value if 1 <= value <= MAX_ID else None
