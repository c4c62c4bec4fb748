"""Events and their deliveries: searching them, and the story of one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from starlette.responses import Response

from marzhook import operations
from marzhook.dashboard import words
from marzhook.dashboard.languages import Language
from marzhook.dashboard.preview import Shown, preview
from marzhook.dashboard.visit import MAX_ID, Pages, Visit, moment, one_of
from marzhook.delivery import COUNTED, PENDING, STATES, Attempt
from marzhook.dispatch.health import OPERATOR_ACTIONS
from marzhook.endpoint import Endpoint
from marzhook.errors import InvalidError
from marzhook.event import PANEL_ACTIONS, TEST_ACTION, Event, check_action, check_username
from marzhook.store import endpoints, history, outcomes, search
from marzhook.store.history import DeliveryRow
from marzhook.store.outbox import DeliveryFilter

pages = Pages()

PAGE = 50
ACTIONS = (*PANEL_ACTIONS, TEST_ACTION, *OPERATOR_ACTIONS)
"""Of events that a filter offers."""
MANY = 200
"""Deliveries of one event that its page shows."""
SECONDS = 0.08
"""That a page takes to search, at the most; then it says how far it came."""
AT_ONCE = 5.0
"""Seconds from an event to its first try within which that is made at once."""
TRIES = 20
"""Tries of one delivery that its page shows: the newest."""


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


def search_of(visit: Visit) -> Search:
    """The search in the query. What makes no sense there is left out, and said beside its field."""
    return Search(
        username=_username(visit),
        action=visit.understood("action", _action),
        endpoint_id=visit.understood("endpoint", _endpoint),
        state=visit.understood("state", one_of(STATES)),
        since=visit.understood("since", moment),
        until=visit.understood("until", moment),
    )


def _username(visit: Visit) -> str | None:
    """The user in the query, as events call him."""
    if visit.understood("username", check_username) is None:
        return None
    with visit.services.database.read() as conn:
        return history.spelt(conn, visit.request.query_params["username"])


def _action(text: str) -> str:
    try:
        return check_action(text)
    except InvalidError as error:
        raise InvalidError(str(error), code="invalid_choice") from None


def _endpoint(text: str) -> int:
    if (number := whole(text)) is None:
        raise InvalidError("no endpoint has this number", code="endpoint_not_found")
    return number


@pages.get("/events")
def list_(visit: Visit) -> Response:
    wanted = search_of(visit)
    with visit.services.database.read() as conn:
        names = endpoint_names(visit.language, conn)
        found = _find(conn, wanted, visit.asked("before"), visit.services.clock.monotonic)
    return visit.page(
        "events.html",
        422 if visit.wrong else 200,
        found=found,
        wanted=wanted,
        names=names,
        actions=ACTIONS,
        states=[(state, words.state(visit.language, state)) for state in STATES],
    )


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of a list, and how it goes on."""

    rows: list[Any]
    older: str | None
    """The `before` of the next page; None: there is none."""
    unfinished: bool = False
    """Whether the time was up before the page was full."""


def _find(conn: sa.Connection, wanted: Search, before: str, monotonic: Callable[[], float]) -> Page:
    """A page of (event, [(endpoint id, state)])."""
    if wanted.of_deliveries:
        page = deliveries_page(conn, wanted.filter(), before, monotonic)
        return replace(page, rows=[(row.event, [(row.endpoint_id, row.state)]) for row in page.rows])
    events, reached = search.events(
        conn,
        wanted.filter(),
        before=whole(before.partition("-")[0]),
        limit=PAGE,
        seconds=SECONDS,
        monotonic=monotonic,
    )
    states = outcomes.states_of(conn, [event.id for event in events])
    older = events[-1].id if len(events) == PAGE else reached
    rows = [(event, states[event.id]) for event in events]
    return Page(rows, None if older is None else str(older), reached is not None)


def deliveries_page(
    conn: sa.Connection,
    which: DeliveryFilter,
    before: str,
    monotonic: Callable[[], float],
    seconds: float = SECONDS,
) -> Page:
    """A page of deliveries, behind the one that `before` names, found in this time."""
    event_id, _, endpoint_id = before.partition("-")
    start = whole(event_id), whole(endpoint_id)
    key = (start[0], start[1]) if start[0] and start[1] else None
    rows, reached = search.deliveries(conn, which, before=key, limit=PAGE, seconds=seconds, monotonic=monotonic)
    if len(rows) == PAGE:
        return Page(rows, "-".join(map(str, rows[-1].key)))
    # Endpoints' ids begin with 1: behind the first one there is nothing left of this event.
    return Page(rows, None if reached is None else f"{reached}-1", reached is not None)


# -- one event


@dataclass(frozen=True, slots=True)
class Chapter:
    """What became of the event at one endpoint."""

    row: DeliveryRow
    tries: list[tuple[Attempt, Shown | None]]
    """With the request that was sent; None: it could not be made, in time or at all, or the endpoint was deleted."""
    earlier: int
    """Tries that are not shown."""
    accepted: int
    """How often: what was delivered can be sent once more."""
    request: Shown | None
    """The next one; None: there was no time to make it, or the endpoint was deleted."""
    endpoint: Endpoint | None
    behind: int | None
    """The event of the same user that it waits for, where one was found in time."""

    @property
    def at_once(self) -> bool:
        """Whether the first try was made at once, and was enough."""
        tried = self.row.last_at or self.row.settled_at
        return self.row.attempts == 1 and tried is not None and tried.timestamp() - self.row.event.enqueued_at < AT_ONCE


@pages.get("/events/{event_id:int}")
def show(visit: Visit) -> Response:
    event_id = visit.id("event_id")
    with visit.services.database.read() as conn:
        event = history.event(conn, event_id)
        rows = history.deliveries(conn, DeliveryFilter(event_id=event_id), limit=MANY)
        tries = {row.endpoint_id: history.attempts(conn, row.endpoint_id, event_id) for row in rows}
        alive = {endpoint.id: endpoint for endpoint in endpoints.all_endpoints(conn)}
        behind = _behind(conn, rows, alive, visit.services.clock.monotonic)
    until = visit.services.clock.monotonic() + SECONDS
    # Of all requests together; once the time is up, nobody looks any more.
    in_time = iter(lambda: visit.services.clock.monotonic() < until, False)
    chapters = [
        _chapter(visit, event, row, tries[id_], alive.get(id_), behind.get(id_), in_time)
        for id_, row in sorted({row.endpoint_id: row for row in rows}.items())
    ]
    by = event.detail.get("by")
    return visit.page(
        "event.html",
        event=event,
        chapters=chapters,
        names=called(visit.language, alive.values()),
        now=visit.services.clock.now(),
        by=by.get("username") if isinstance(by, dict) else None,
        # Also for a sudo admin: a page is looked at over shoulders, and credentials are not what it is about.
        detail=json.dumps(event.detail, indent=2, ensure_ascii=False) if event.detail_json else "",
    )


def _behind(
    conn: sa.Connection, rows: Sequence[DeliveryRow], alive: Mapping[int, Endpoint], monotonic: Callable[[], float]
) -> dict[int, int]:
    """By endpoint, the nearest earlier event of its user that is still owed to it, where that is what the delivery waits for.

    As far as can be found in this time for all of them.
    """
    until, found = monotonic() + SECONDS, dict[int, int]()
    for row in rows:
        endpoint = alive.get(row.endpoint_id)
        if row.state != PENDING or row.attempts or not endpoint or not endpoint.ordered or endpoint.failing_since:
            continue
        if (left := until - monotonic()) <= 0:
            break
        which = DeliveryFilter(endpoint_id=endpoint.id, states=(PENDING,), username=row.event.username)
        earlier, _ = search.deliveries(conn, which, before=row.key, limit=1, seconds=left, monotonic=monotonic)
        if earlier:
            found[endpoint.id] = earlier[0].event.id
    return found


def _chapter(
    visit: Visit,
    event: Event,
    row: DeliveryRow,
    tries: list[Attempt],
    endpoint: Endpoint | None,
    behind: int | None,
    in_time: Iterator[bool],
) -> Chapter:
    def made(failed: int, at: datetime | None = None, *, number: int) -> Shown | None:
        if endpoint is None or not next(in_time, False):
            return None
        return preview(visit, endpoint, event, failed, at, number=number)

    request = made(row.tries, number=row.attempts + 1)
    newest = [*zip(tries, failed_before(tries, row.tries), strict=True)][: -TRIES - 1 : -1]
    shown = [
        (one, None if one.error == "render" else made(failed, one.at, number=one.number)) for one, failed in newest
    ][::-1]
    accepted = sum(one.schedule is None for one in tries)
    return Chapter(row, shown, len(tries) - len(shown), accepted, request, endpoint, behind)


def failed_before(tries: Sequence[Attempt], failed: int) -> list[int]:
    """What each try's request said of failed tries before it; `failed`: how many the delivery has now.

    Those since the last replay are reckoned backwards: a replay begins anew, and leaves no row of its own. Those before
    it are counted from the first one, or from the last success, so of a delivery that died several times some may differ.
    """
    found, count = [], 0
    for one in tries:
        found.append(count)
        count = 0 if one.schedule is None else count + (one.schedule in COUNTED)
    for index in reversed(range(len(tries))):
        failed -= tries[index].schedule in COUNTED
        if failed < 0 or (tries[index].schedule is None and index < len(tries) - 1):
            break
        found[index] = failed
    return found


@pages.post("/events/{event_id:int}/{endpoint_id:int}/retry")
def retry(visit: Visit) -> Response:
    force = visit.given("force") == "yes"
    operations.retry(visit.services, visit.id("endpoint_id"), visit.id("event_id"), force=force)
    return visit.to(f"/events/{visit.id('event_id')}")


@pages.post("/events/{event_id:int}/{endpoint_id:int}/cancel")
def cancel(visit: Visit) -> Response:
    operations.cancel(visit.services, visit.id("endpoint_id"), visit.id("event_id"))
    return visit.to(f"/events/{visit.id('event_id')}")


def endpoint_names(language: Language, conn: sa.Connection) -> dict[int, str]:
    """Each as it is called; where several are called the same, with its number."""
    return called(language, endpoints.all_endpoints(conn))


def called(language: Language, alive: Iterable[Endpoint]) -> dict[int, str]:
    """As `endpoint_names`, of these, which are all that there are."""
    names = {one.id: operations.name_shown(words.called(language, one)) for one in alive}
    often = Counter(names.values())
    return {id_: name if often[name] == 1 else f"{name} · {id_}" for id_, name in names.items()}


def whole(text: str) -> int | None:
    """A number that a row can have; None for anything else."""
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    return value if 1 <= value <= MAX_ID else None
