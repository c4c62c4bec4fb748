"""Searching a long history in a short time: stretch by stretch, from the newest event backwards, until the time is up.

What an index leads to straight away is found in the first stretches. Everything else (a rare action, one user's few dead
letters) would need an index that every publish and every settle pays for. Instead a search says how far it came, and goes on
from there.

Where a filter is about events and delivered ones are meant, too, the events are looked for first, once for all endpoints, and
then what became of them. What is pending, dead or cancelled is little, and lies in order in tables and indexes of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from marzhook.delivery import DELIVERED, SETTLED_STATES
from marzhook.event import Event
from marzhook.store import driver, history, schema
from marzhook.store.history import DeliveryRow
from marzhook.store.outbox import DeliveryFilter

_events = schema.events

_BACK: Final = """
    SELECT id FROM events WHERE username = :username AND id BETWEEN :low AND :top ORDER BY id DESC LIMIT 1 OFFSET :size"""

FIRST: Final = 2_000
"""Event ids in the first stretch: a page full of what is not rare is found there."""
FIRST_OF_USER: Final = 50
"""Events in the first stretch through those of one user."""
GROWTH: Final = 4
"""How many times as long as the one before a stretch is at the most."""
SHARE: Final = 4
"""A stretch is to take one part in so many of the time that is left: older rows may be as much slower to get at."""
FEW: Final = 500
"""Events of one user that are looked up one by one, whatever their deliveries' state."""
CHUNK: Final = 200
"""Events far apart that are looked up at once: each may have to come from the disk."""


@dataclass(frozen=True, slots=True)
class Counted:
    """How many were found; with `complete` false, there may be more."""

    number: int
    complete: bool


class Stretches:
    """Ranges of ids from `high` down to `low`, each as long as there is time for, judged by the one before.

    `back`: from an id so many events back, where ids alone do not tell how much there is to look at.
    """

    def __init__(
        self,
        low: int,
        high: int,
        seconds: float,
        monotonic: Callable[[], float],
        *,
        first: int | None = None,
        most: int = sys.maxsize,
        back: Callable[[int, int], int] = lambda top, size: top - size + 1,
    ) -> None:
        self._low, self._first, self._most, self._back = low, first or FIRST, most, back
        self._monotonic = monotonic
        self._deadline = monotonic() + seconds
        self.top = high
        """What has not been looked at yet: ids up to this one."""

    @classmethod
    def of_user(
        cls, conn: sa.Connection, username: str, low: int, high: int, seconds: float, monotonic: Callable[[], float]
    ) -> Stretches:
        """Measured in this user's events: an index has them in order, however far apart or close together they are."""

        def back(top: int, size: int) -> int:
            values = {"username": username, "low": low, "top": top, "size": size - 1}
            found = driver.execute(conn, _BACK, values).fetchone()
            return int(found[0]) if found else low

        return cls(low, high, seconds, monotonic, first=FIRST_OF_USER, most=CHUNK, back=back)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        size = self._first
        while self.top >= self._low:
            began = self._monotonic()
            bottom = max(self._low, self._back(self.top, size))
            yield bottom, self.top
            self.top = bottom - 1
            now = self._monotonic()
            if now >= self._deadline:
                return
            possible = size * (self._deadline - now) / max(now - began, 1e-6) / SHARE
            size = max(self._first, int(min(size * GROWTH, possible, self._most)))

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return self._monotonic() >= self._deadline

    @property
    def reached(self) -> int | None:
        return self.top + 1 if self.top >= self._low else None


def events(
    conn: sa.Connection,
    which: DeliveryFilter,
    *,
    before: int | None = None,
    limit: int,
    seconds: float,
    monotonic: Callable[[], float],
) -> tuple[list[Event], int | None]:
    """The newest `limit` events with an id below `before`, and the id below which none was looked at yet; None: all were.

    What `which` says of states and endpoints does not count.
    """
    low, high = history.id_range(conn, which.since, which.until)
    top = high if before is None else min(high, before - 1)
    e = _events.c
    wanted = sa.select(e.id, e.action, e.username, e.enqueued_at, e.detail, e.full_detail, e.traceparent).where(
        *history.about_event(which)
    )

    def read(bottom: int, top: int) -> list[Event]:
        query = wanted.where(e.id.between(bottom, top)).order_by(e.id.desc()).limit(limit)
        return [history.event_of(row) for row in conn.execute(query)]

    if which.actions is None:
        # Straight from an index, in order.
        return read(low, top), None
    stretches = _stretches(conn, which, low, top, seconds, monotonic)
    found: list[Event] = []
    for bottom, top in stretches:
        found += read(bottom, top)
        if len(found) >= limit:
            return found[:limit], None
    return found, stretches.reached


def deliveries(
    conn: sa.Connection,
    which: DeliveryFilter,
    *,
    before: tuple[int, int] | None = None,
    limit: int,
    seconds: float,
    monotonic: Callable[[], float],
) -> tuple[list[DeliveryRow], int | None]:
    """The newest `limit` deliveries behind `before` (event id, endpoint id), and the event below which none was looked at."""
    if not (which.username or which.actions) or which.event_id is not None:
        return history.deliveries(conn, which, before=before, limit=limit), None
    low, high = history.id_range(conn, which.since, which.until)
    if before is not None:
        # Endpoints are numbered from 1: of that event itself nothing is left before its first one, and to look there again
        # would not get on.
        high = min(high, before[0] if before[1] > 1 else before[0] - 1)
    by_event = _by_event(conn, which)
    stretches = _stretches(conn, which if by_event else None, low, high, seconds, monotonic)
    found: list[DeliveryRow] = []
    for bottom, top in stretches:
        for among in _event_ids(conn, which, bottom, top, limit) if by_event else (None,):
            found += history.deliveries(
                conn, which, before=before, limit=limit - len(found), within=(bottom, top), among=among
            )
            if len(found) >= limit:
                return found, None
            if among and stretches.late:
                return found, among[-1]
    return found, stretches.reached


def count(conn: sa.Connection, which: DeliveryFilter, *, seconds: float, monotonic: Callable[[], float]) -> Counted:
    """How many settled deliveries of endpoints that still exist are meant: what a replay would take."""
    low, high = history.id_range(conn, which.since, which.until)
    stretches = _stretches(conn, None if _undelivered(which) else which, low, high, seconds, monotonic)
    query, values = _counting(which)
    number = 0
    for bottom, top in stretches:
        number += conn.execute(query, {**values, "bottom": bottom, "top": top}).scalar_one()
    return Counted(number, stretches.reached is None)


def _stretches(
    conn: sa.Connection,
    which: DeliveryFilter | None,
    low: int,
    high: int,
    seconds: float,
    monotonic: Callable[[], float],
) -> Stretches:
    """`which`: by what the events are found; None: by ids alone."""
    if which is None or which.username is None:
        return Stretches(low, high, seconds, monotonic)
    return Stretches.of_user(conn, which.username, low, high, seconds, monotonic)


def _undelivered(which: DeliveryFilter) -> bool:
    """Whether only what is little is meant, which lies in order in an index of its own."""
    return which.states is not None and DELIVERED not in which.states


def _by_event(conn: sa.Connection, which: DeliveryFilter) -> bool:
    """Whether to begin with the events, rather than with the deliveries."""
    if not _undelivered(which):
        return True
    if which.username is None:
        return False
    few = sa.select(_events.c.id).where(_events.c.username == which.username).limit(FEW).subquery()
    return conn.execute(sa.select(sa.func.count()).select_from(few)).scalar_one() < FEW


def _event_ids(
    conn: sa.Connection, which: DeliveryFilter, bottom: int, top: int, first: int
) -> Iterator[Sequence[int]]:
    """Ids of the events that are meant, newest first: `first` of them, and then up to CHUNK at a time."""
    e = _events.c
    query = sa.select(e.id).where(*history.about_event(which)).order_by(e.id.desc())
    size = min(first, CHUNK)
    while True:
        ids = conn.execute(query.where(e.id.between(bottom, top)).limit(size)).scalars().all()
        if ids:
            yield ids
        if len(ids) < size:
            return
        top, size = ids[-1] - 1, min(size * GROWTH, CHUNK)


def _counting(which: DeliveryFilter) -> tuple[sa.TextClause, dict[str, Any]]:
    """Counts between the ids :bottom and :top; and what else it is to be given.

    CROSS JOIN fixes the order of the loops on SQLite; PostgreSQL finds its own.
    """
    wanted = ["n.deleted_at IS NULL", "settled.endpoint_id = n.id"]
    values: dict[str, Any] = {}
    about: list[str] = []

    def add(to: list[str], condition: str, **given: Any) -> None:
        to.append(condition)
        values.update(given)

    def one_of(to: list[str], column: str, name: str, choices: Sequence[str]) -> None:
        names = [f"{name}{index}" for index in range(len(choices))]
        add(to, f"{column} IN ({', '.join(f':{one}' for one in names)})", **dict(zip(names, choices, strict=True)))

    if which.endpoint_id is not None:
        add(wanted, "n.id = :endpoint", endpoint=which.endpoint_id)
    if which.states is not None and set(which.states) != set(SETTLED_STATES):
        one_of(wanted, "settled.state", "state", which.states)
    if which.actions is not None:
        one_of(about, "e.action", "action", which.actions)
    if which.username is not None:
        add(about, "e.username = :username", username=which.username)
    if which.since is not None:
        add(about, "e.enqueued_at >= :since", since=which.since.timestamp())
    if which.until is not None:
        add(about, "e.enqueued_at < :until", until=which.until.timestamp())
    few = _undelivered(which)
    if few:
        # Spelt as the partial index has it.
        wanted.append("settled.state <> 'delivered'")
    if about:
        wanted += ["e.id = settled.event_id", *about]
    if about and not few:
        tables, lead = "events e CROSS JOIN endpoints n CROSS JOIN settled", "e.id"
    else:
        tables, lead = f"endpoints n CROSS JOIN settled{' CROSS JOIN events e' if about else ''}", "settled.event_id"
    conditions = " AND ".join([f"{lead} BETWEEN :bottom AND :top", *wanted])
    return sa.text(f"SELECT count(*) FROM {tables} WHERE {conditions}"), values  # noqa: S608 - our own names
