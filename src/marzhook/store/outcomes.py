"""What became of deliveries, in figures for people: over time, how long it took, and how each endpoint's last tries went."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import sqlalchemy as sa

from marzhook.clock import from_unix
from marzhook.delivery import CANCELLED, DEAD, Attempt
from marzhook.store import driver, history
from marzhook.store.statements import joined, text

LOOKED_AT = 1000
"""Rows looked at for an endpoint's latencies and for its last tries: enough to judge, and the same work at any size."""
SETTLED_LOOKED_AT = 100
"""Of those, the newest deliveries that are settled, for its last tries."""

# CROSS JOIN fixes the order of the loops: for each endpoint a range of the key, or of the small index of the undelivered.
_SETTLED = """
    SELECT count(*) FROM endpoints n CROSS JOIN settled d
    WHERE d.endpoint_id = n.id AND d.event_id >= :low AND d.event_id < :high
        AND (CAST(:endpoint AS bigint) IS NULL OR n.id = CAST(:endpoint AS bigint))"""
_STILL_PENDING = _SETTLED.replace("settled d", "pending d")
# What died at an endpoint that was deleted since is owed to nobody, as what was cancelled then is.
_UNDELIVERED = """
    SELECT CASE WHEN n.deleted_at IS NULL THEN d.state ELSE 'cancelled' END, count(*) FROM endpoints n CROSS JOIN settled d
    WHERE d.state <> 'delivered' AND d.state IN ('dead', 'cancelled') AND d.endpoint_id = n.id
        AND d.event_id >= :low AND d.event_id < :high
        AND (CAST(:endpoint AS bigint) IS NULL OR n.id = CAST(:endpoint AS bigint))
    GROUP BY 1"""
_OWED = "SELECT endpoint_id, count(*), count(*) FILTER (WHERE attempts > 0) FROM pending GROUP BY endpoint_id"
_DEAD = "SELECT endpoint_id, count(*) FROM settled WHERE state <> 'delivered' AND state = 'dead' GROUP BY endpoint_id"
_OWED_ONE = _OWED.replace("GROUP BY", "WHERE endpoint_id = :endpoint GROUP BY")
_DEAD_ONE = _DEAD.replace("GROUP BY", "AND endpoint_id = :endpoint GROUP BY")
# What was sent again bears tries of its first life, and took as long as somebody took to want it.
_LATENCIES = joined("""
    SELECT d.settled_at - e.enqueued_at FROM (
        SELECT event_id, state, settled_at, tries, attempts FROM settled WHERE endpoint_id = :endpoint
        ORDER BY event_id DESC LIMIT :limit) d
    CROSS JOIN events e ON e.id = d.event_id WHERE d.state = 'delivered' AND d.attempts = d.tries + 1""")
_LAST_TRIES = joined("""
    SELECT a.number, a.at, a.duration, a.status, a.error, a.message, '' AS response, a.schedule FROM (
        SELECT event_id FROM (
            SELECT event_id, attempts FROM pending WHERE endpoint_id = :endpoint ORDER BY event_id LIMIT :limit) p
        WHERE attempts > 0
        UNION ALL
        SELECT event_id FROM (
            SELECT event_id FROM settled WHERE endpoint_id = :endpoint ORDER BY event_id DESC LIMIT :settled) s) d
    CROSS JOIN attempts a ON a.endpoint_id = :endpoint AND a.event_id = d.event_id
    ORDER BY a.at DESC, a.number DESC LIMIT :limit""")
# Where there is nothing among those, as after a backlog was skipped: of the newest tries, however long ago.
_OLDER_TRIES = joined("""
    SELECT number, at, duration, status, error, message, '' AS response, schedule FROM (
        SELECT * FROM attempts WHERE endpoint_id = :endpoint ORDER BY event_id DESC, number DESC LIMIT :limit) a
    ORDER BY at DESC, number DESC""")
_OLDER_LATENCIES = joined("""
    SELECT d.settled_at - e.enqueued_at FROM (
        SELECT event_id, number FROM attempts WHERE endpoint_id = :endpoint
        ORDER BY event_id DESC, number DESC LIMIT :limit) a
    CROSS JOIN settled d ON d.endpoint_id = :endpoint AND d.event_id = a.event_id AND d.attempts = a.number
    CROSS JOIN events e ON e.id = d.event_id WHERE d.state = 'delivered' AND d.attempts = d.tries + 1""")
_STATES = text(
    """
    SELECT d.endpoint_id, d.event_id, d.state FROM json_each(:events) j CROSS JOIN endpoints n
    CROSS JOIN settled d ON d.endpoint_id = n.id AND d.event_id = j.value
    UNION ALL
    SELECT d.endpoint_id, d.event_id, 'pending' FROM json_each(:events) j CROSS JOIN endpoints n
    CROSS JOIN pending d ON d.endpoint_id = n.id AND d.event_id = j.value""",
    """
    SELECT d.endpoint_id, d.event_id, d.state FROM endpoints n
    JOIN settled d ON d.endpoint_id = n.id AND d.event_id = ANY (CAST(:events AS bigint[]))
    UNION ALL
    SELECT d.endpoint_id, d.event_id, 'pending' FROM endpoints n
    JOIN pending d ON d.endpoint_id = n.id AND d.event_id = ANY (CAST(:events AS bigint[]))""",
    "events",
)


@dataclass(frozen=True, slots=True)
class Bucket:
    """How the deliveries of the events of [since, until) (Unix seconds) stand."""

    since: float
    until: float
    delivered: int = 0
    pending: int = 0
    dead: int = 0
    cancelled: int = 0
    complete: bool = True
    """Whether what is delivered was counted."""


@dataclass(frozen=True, slots=True)
class Owed:
    """How an endpoint stands now."""

    waiting: int = 0
    failing: int = 0
    """Of those, tried already, and not accepted."""
    dead: int = 0


class Hours:
    """Deliveries by state and time, for as often as one likes: what was ever owed of events that are over changes no more.

    So of each past stretch of time that number is kept, and what is waiting, dead or cancelled, which is little, taken off it.
    """

    CLOSED: Final = 60.0
    """Seconds after which no event of a past time comes in any more."""

    def __init__(self, endpoint_id: int | None = None) -> None:
        """Of this endpoint; None: of all."""
        self._endpoint_id = endpoint_id
        self._owed: dict[tuple[float, float], int] = {}
        self._ids: dict[float, int] = {}
        """For each past time the least id whose event is not before it."""

    def buckets(
        self, conn: sa.Connection, edges: Sequence[float], *, now: float, seconds: float, monotonic: Callable[[], float]
    ) -> list[Bucket]:
        """Deliveries between each two of these times (Unix seconds, rising).

        What is delivered is counted from the newest on: that of the last stretch, of one before it, and of more for no longer
        than `seconds`; the rest comes the next time. So however long the last one takes, all are counted some day.
        """
        deadline, counted = 0.0, 0
        new = [edge for edge in edges if edge not in self._ids]
        known = self._ids | dict(zip(new, history.first_ids(conn, new), strict=True))
        ids = [known[edge] for edge in edges]
        self._ids = {edge: known[edge] for edge in edges if edge <= now - self.CLOSED}
        found: list[Bucket] = []
        kept: dict[tuple[float, float], int] = {}
        for span, (low, high) in reversed([*zip(pairwise(edges), pairwise(ids), strict=True)]):
            values = {"low": low, "high": high, "endpoint": self._endpoint_id}
            pending = _count(conn, _STILL_PENDING, values)
            states = dict(driver.execute(conn, _UNDELIVERED, values).fetchall())
            owed = self._owed.get(span)
            if owed is None and (counted < 2 or monotonic() < deadline):
                owed = _count(conn, _SETTLED, values) + pending
                counted += 1
                if counted == 1:
                    deadline = monotonic() + seconds
            if owed is not None and span[1] <= now - self.CLOSED:
                kept[span] = owed
            delivered = None if owed is None else max(0, owed - pending - sum(states.values()))
            found.append(
                Bucket(*span, delivered or 0, pending, states.get(DEAD, 0), states.get(CANCELLED, 0), owed is not None)
            )
        self._owed = kept
        return found[::-1]


def _count(conn: sa.Connection, query: str, values: Mapping[str, int | None]) -> int:
    return int(driver.execute(conn, query, values).fetchone()[0])


def owed(conn: sa.Connection, endpoint_id: int | None = None) -> dict[int, Owed]:
    """What each endpoint, or this one, is owed now, and what died there; endpoints without either are missing."""
    values = {} if endpoint_id is None else {"endpoint": endpoint_id}
    of_all = endpoint_id is None
    pending = {row[0]: (row[1], row[2]) for row in driver.execute(conn, _OWED if of_all else _OWED_ONE, values)}
    dead = dict(driver.execute(conn, _DEAD if of_all else _DEAD_ONE, values).fetchall())
    return {id_: Owed(*pending.get(id_, (0, 0)), dead.get(id_, 0)) for id_ in pending.keys() | dead.keys()}


def latencies(conn: sa.Connection, endpoint_id: int) -> list[float]:
    """Seconds from an event to its delivery, of the newest, in rising order; without what was sent again, and without what an
    outage was probed with."""
    values = {"endpoint": endpoint_id, "limit": LOOKED_AT}
    rows = driver.execute(conn, _LATENCIES, values).fetchall()
    return sorted(max(0.0, row[0]) for row in rows or driver.execute(conn, _OLDER_LATENCIES, values))


def last_tries(conn: sa.Connection, endpoint_id: int) -> list[Attempt]:
    """The endpoint's newest tries, the newest first, without what was answered. Fewer than SETTLED_LOOKED_AT are all."""
    values = {"endpoint": endpoint_id, "limit": LOOKED_AT, "settled": SETTLED_LOOKED_AT}
    rows = driver.execute(conn, _LAST_TRIES, values).fetchall()
    if not rows:
        rows = driver.execute(conn, _OLDER_TRIES, {"endpoint": endpoint_id, "limit": SETTLED_LOOKED_AT}).fetchall()
    return [Attempt(number, from_unix(at), *rest) for number, at, *rest in rows]


def states_of(conn: sa.Connection, event_ids: Sequence[int]) -> dict[int, list[tuple[int, str]]]:
    """For each of these events: (endpoint id, state) of its deliveries, by endpoint."""
    found: dict[int, list[tuple[int, str]]] = {event_id: [] for event_id in event_ids}
    for endpoint_id, event_id, state in conn.execute(_STATES, {"events": event_ids}):
        found[event_id].append((endpoint_id, state))
    return {event_id: sorted(states) for event_id, states in found.items()}
