"""What happened: events, deliveries and attempts, read for people. Writes nothing.

Deliveries lie in two tables whose keys begin with the endpoint. A list over several endpoints is therefore read as one
short, index-ordered stream for each endpoint and table (each gives up after `limit` rows), and merged here. That stays fast
however long the history is, and needs no further index that every publish and every settle would pay for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa

from marzhook.clock import from_unix
from marzhook.delivery import DEAD, DELIVERED, PENDING, SETTLED_STATES, Attempt
from marzhook.errors import NotFoundError
from marzhook.event import Event
from marzhook.store import driver, schema
from marzhook.store.outbox import DeliveryFilter, conditions, filtered
from marzhook.store.statements import off_index

_pending, _settled, _events = schema.pending, schema.settled, schema.events
_endpoints, _attempts, _users = schema.endpoints, schema.attempts, schema.users

CLOCK_SLACK = 3600.0
"""Seconds by which the machine's clock may have been set back without a list by time missing an event."""

_TIME_OF: Final = "SELECT enqueued_at FROM events WHERE id >= :id ORDER BY id LIMIT 1"
_UNDELIVERED = sa.text("k.state <> 'delivered'")
"""Spelt as the partial index ix_settled_undelivered has it: SQLite takes that index for these very words only."""


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery as people look at it, with how its last attempt went."""

    endpoint_id: int
    endpoint_name: str
    event: Event
    state: str
    tries: int
    attempts: int
    due_at: datetime | None = None
    settled_at: datetime | None = None
    last_at: datetime | None = None
    last_status: int | None = None
    last_error: str | None = None
    last_duration: float | None = None
    """Seconds."""
    last_message: str | None = None

    @property
    def key(self) -> tuple[int, int]:
        """Where the next page begins: pass it as `before`."""
        return self.event.id, self.endpoint_id


def deliveries(
    conn: sa.Connection,
    which: DeliveryFilter,
    *,
    before: tuple[int, int] | None = None,
    limit: int = 100,
    within: tuple[int, int] | None = None,
    among: Sequence[int] | None = None,
) -> list[DeliveryRow]:
    """The newest `limit` deliveries behind `before` (event id, endpoint id), newest event first.

    `within`: ids of events, inclusive, that were found for `which` already. They are gone through in the order of the
    deliveries' keys; `among`: only these of them, which are known to be what `which` asks of events.
    """
    low, high = within or id_range(conn, which.since, which.until)
    query = sa.select(_endpoints.c.id).order_by(_endpoints.c.id)
    if which.endpoint_id is not None:
        query = query.where(_endpoints.c.id == which.endpoint_id)
    if which.alive or which.states == (DEAD,):
        # What died at an endpoint that was deleted since is no dead letter any more: nobody can do anything about it.
        query = query.where(_endpoints.c.deleted_at.is_(None))
    streams = _streams(conn, which, limit, by_key=within is not None, listed=among is not None)
    found: list[Any] = []
    for endpoint_id in conn.execute(query).scalars().all():
        top = high if before is None else min(high, before[0] - 1 if endpoint_id >= before[1] else before[0])
        values: dict[str, Any] = {"endpoint": endpoint_id, "low": low, "high": top}
        if among is not None:
            values = {"endpoint": endpoint_id, "among": [id_ for id_ in among if low <= id_ <= top]}
        for stream in streams:
            found += conn.execute(stream, values).all()
        if len(found) >= limit:
            # The page is full: of the other endpoints only what is newer belongs to it.
            found = sorted(found, key=_key, reverse=True)[:limit]
            low = found[-1].id if found else low
    return [_delivery_row(row) for row in sorted(found, key=_key, reverse=True)]


def delivery(conn: sa.Connection, endpoint_id: int, event_id: int) -> DeliveryRow:
    """One delivery. Raises NotFoundError."""
    rows = deliveries(conn, DeliveryFilter(endpoint_id=endpoint_id, event_id=event_id), limit=1)
    if not rows:
        raise NotFoundError(
            f"event {event_id} was never owed to endpoint {endpoint_id}, or is no longer kept",
            code="delivery_not_found",
        )
    return rows[0]


def attempts(conn: sa.Connection, endpoint_id: int, event_id: int) -> list[Attempt]:
    """Every try of one delivery, the first one first."""
    t = _attempts.c
    query = (
        sa.select(t.number, t.at, t.duration, t.status, t.error, t.message, t.response, t.schedule, t.timing, t.head)
        .where(t.endpoint_id == endpoint_id, t.event_id == event_id)
        .order_by(t.number)
    )
    return [Attempt(number, from_unix(at), *rest) for number, at, *rest in conn.execute(query)]


def events(
    conn: sa.Connection,
    *,
    action: str | None = None,
    username: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Event]:
    """The newest `limit` events with an id below `before`, newest first. Times are half-open: [since, until)."""
    low, high = id_range(conn, since, until)
    which = DeliveryFilter(actions=None if action is None else (action,), username=username, since=since, until=until)
    top = high if before is None else min(high, before - 1)
    e = _events.c
    query = sa.select(e.id, e.action, e.username, e.enqueued_at, e.detail, e.full_detail, e.traceparent).where(
        e.id.between(low, top), *about_event(which)
    )
    return [event_of(row) for row in conn.execute(query.order_by(e.id.desc()).limit(limit))]


def count_settled(conn: sa.Connection, which: DeliveryFilter) -> int:
    """How many deliveries a replay with this filter would take: those of endpoints that still exist."""
    alive = sa.select(_endpoints.c.id).where(_endpoints.c.deleted_at.is_(None))
    query = (
        sa.select(sa.func.count())
        .select_from(filtered(_settled, which, query_events=False))
        .where(*conditions(_settled, which), _settled.c.endpoint_id.in_(alive))
    )
    if which.states is not None and DELIVERED not in which.states:
        query = query.where(sa.text("settled.state <> 'delivered'"))
    return conn.execute(query).scalar_one()


def event(conn: sa.Connection, event_id: int) -> Event:
    """One event. Raises NotFoundError."""
    e = _events.c
    row = conn.execute(
        sa.select(e.id, e.action, e.username, e.enqueued_at, e.detail, e.full_detail, e.traceparent).where(
            e.id == event_id
        )
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no event {event_id}", code="event_not_found")
    return event_of(row)


def spelt(conn: sa.Connection, written: str) -> str:
    """The user that somebody means, as events call him: exactly so where any does, spaces and all, else without spaces around
    it, else as the registry spells who differs in case only."""
    name = written.strip()
    told = sa.select(_events.c.username).where(_events.c.username == sa.bindparam("name")).limit(1)
    for exactly in (written, name):
        if conn.execute(told, {"name": exactly}).first():
            return exactly
    known = sa.select(_users.c.username).where(_users.c.username_key == name.lower())
    return conn.execute(known).scalar() or name


def id_range(conn: sa.Connection, since: datetime | None, until: datetime | None) -> tuple[int, int]:
    """Between which ids (inclusive) the events of [since, until) lie, give or take CLOCK_SLACK.

    Ids grow with time, so a binary search over the key (some twenty look-ups) does what an index on the time would.
    """
    first, last = _ends(conn)
    if last is None:
        return 1, 0
    low = first if since is None else _first_at(conn, since.timestamp() - CLOCK_SLACK, first, last)
    high = last if until is None else _first_at(conn, until.timestamp() + CLOCK_SLACK, first, last) - 1
    return low, high


def first_ids(conn: sa.Connection, times: Sequence[float]) -> list[int]:
    """For each time (Unix seconds) the least id whose event is not before it, by the clock as it went."""
    first, last = _ends(conn)
    if last is None:
        return [1 for _ in times]
    return [_first_at(conn, time, first, last) for time in times]


def _ends(conn: sa.Connection) -> tuple[int, int | None]:
    """The least and the greatest id of an event; None: there is none."""
    # A look-up each: asked for both at once, SQLite walks through all of them.
    low, high = (sa.select(end(_events.c.id)).scalar_subquery() for end in (sa.func.min, sa.func.max))
    first, last = conn.execute(sa.select(low, high)).one()
    return first, last


def _first_at(conn: sa.Connection, time: float, first: int, last: int) -> int:
    """The least id whose event is not before `time`; last + 1 where all are."""
    last += 1
    while first < last:
        middle = (first + last) // 2
        found = driver.execute(conn, _TIME_OF, {"id": middle}).fetchone()
        if found is not None and found[0] < time:
            first = middle + 1
        else:
            last = middle
    return first


_key = itemgetter(0, 1)
"""Of a row of a stream: its event's id, its endpoint's id."""


def _streams(
    conn: sa.Connection, which: DeliveryFilter, limit: int, *, by_key: bool, listed: bool
) -> list[sa.Select[Any]]:
    """One query for each place where an :endpoint's deliveries that are meant may lie.

    Of events between the ids :low and :high (inclusive); `listed`: of those of :among, which are known to be what is asked
    of events. `by_key`: in the order of the deliveries' keys, also where an index on events would lead to fewer.
    """
    states = which.states if which.states is not None else (PENDING, *SETTLED_STATES)
    stream = partial(_stream, conn, which=which, limit=limit, by_key=by_key, listed=listed)
    found = []
    if PENDING in states:
        found.append(stream(_pending))
    settled = [state for state in SETTLED_STATES if state in states]
    if DELIVERED in settled:
        found.append(stream(_settled, states=settled))
    else:
        # One stream a state: so each comes out of the partial index in order, and is not sorted.
        found += [stream(_settled, states=[state]) for state in settled]
    return found


def _stream(
    conn: sa.Connection,
    table: sa.Table,
    *,
    which: DeliveryFilter,
    limit: int,
    by_key: bool,
    listed: bool,
    states: Sequence[str] | None = None,
) -> sa.Select[Any]:
    d, e, a = table.alias("d"), _events.alias("e"), _attempts.alias("a")
    # The rows are found through `k`, which is `d` itself, or for the few undelivered ones their small index alone: SQLite
    # takes that index only where it covers all that is asked of the table.
    undelivered = states is not None and DELIVERED not in states
    k = _settled.alias("k") if undelivered else d
    # One user's deliveries are found through his events, all others through the table's own key.
    by_event = which.username is not None and which.event_id is None and not by_key
    key = e.c.id if by_event else k.c.event_id
    wanted: list[sa.ColumnElement[bool] | sa.TextClause] = [k.c.endpoint_id == sa.bindparam("endpoint")]
    if listed:
        # Without a range: SQLite would take that for the better way in.
        wanted.append(key.in_(sa.bindparam("among", expanding=True)))
    else:
        wanted.append(key.between(sa.bindparam("low"), sa.bindparam("high")))
        wanted += about_event(which, e, username=off_index(conn, e.c.username) if by_key else None)
    if which.event_id is not None:
        wanted.append(key == which.event_id)
    if states is not None and len(states) < len(SETTLED_STATES):
        wanted.append(k.c.state == states[0] if len(states) == 1 else k.c.state.in_(states))
    source: sa.FromClause = d
    if undelivered:
        wanted.append(_UNDELIVERED)
        source = k.join(d, (d.c.endpoint_id == k.c.endpoint_id) & (d.c.event_id == k.c.event_id))
    source = (
        source.join(e, e.c.id == k.c.event_id)
        .join(_endpoints, _endpoints.c.id == k.c.endpoint_id)
        .outerjoin(
            a,
            (a.c.endpoint_id == d.c.endpoint_id) & (a.c.event_id == d.c.event_id) & (a.c.number == d.c.attempts),
        )
    )
    query = sa.select(
        e.c.id, d.c.endpoint_id, _endpoints.c.name,
        e.c.action, e.c.username, e.c.enqueued_at, e.c.detail, e.c.full_detail, e.c.traceparent,
        d.c.state if table is _settled else sa.literal(PENDING).label("state"),
        d.c.tries, d.c.attempts,
        d.c.due_at if table is _pending else sa.null().label("due_at"),
        d.c.settled_at if table is _settled else sa.null().label("settled_at"),
        a.c.at, a.c.status, a.c.error, a.c.duration, a.c.message,
    )  # fmt: skip
    return query.select_from(source).where(*wanted).order_by(key.desc()).limit(limit)


def about_event(
    which: DeliveryFilter, e: sa.FromClause = _events, *, username: sa.ColumnElement[Any] | None = None
) -> list[sa.ColumnElement[bool]]:
    """What is asked of the event itself; `username`: what is to be compared with the name, where not the column."""
    found: list[sa.ColumnElement[bool]] = []
    if which.actions is not None:
        found.append(e.c.action.in_(which.actions))
    if which.username is not None:
        found.append((e.c.username if username is None else username) == which.username)
    if which.since is not None:
        found.append(e.c.enqueued_at >= which.since.timestamp())
    if which.until is not None:
        found.append(e.c.enqueued_at < which.until.timestamp())
    return found


def event_of(row: Any) -> Event:
    """Of a row of id, action, username, enqueued_at, detail, full_detail and traceparent."""
    texts = (row.detail or "", row.full_detail or "", row.traceparent or "")
    return Event(row.id, row.action, row.username, row.enqueued_at, *texts)


def _delivery_row(row: Any) -> DeliveryRow:
    return DeliveryRow(
        endpoint_id=row.endpoint_id,
        endpoint_name=row.name,
        event=event_of(row),
        state=row.state,
        tries=row.tries,
        attempts=row.attempts,
        due_at=_time(row.due_at),
        settled_at=_time(row.settled_at),
        last_at=_time(row.at),
        last_status=row.status,
        last_error=row.error,
        last_duration=row.duration,
        last_message=row.message,
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else from_unix(seconds)
