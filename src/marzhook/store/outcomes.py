"""What became of deliveries, in figures for people: over time, how long it took, and how each endpoint's last tries went."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import sqlalchemy as sa

from marzhook.clock import from_unix
from marzhook.delivery import CANCELLED, DEAD, DELIVERED, PENDING, Attempt
from marzhook.store import history, schema
from marzhook.store.statements import joined, text

LOOKED_AT = 1000
"""Rows looked at for an endpoint's latencies and for its last tries: enough to judge, and the same work at any size."""

# CROSS JOIN: for each hour a range of the table's key. Left to itself, SQLite may walk the table once for all of them.
_BUCKETS = {
    table: text(
        f"""
        SELECT j.key, {state}, count(*) FROM json_each(:buckets) j
        CROSS JOIN {table} d ON d.endpoint_id = :endpoint
            AND d.event_id >= j.value ->> 0 AND d.event_id < j.value ->> 1
        GROUP BY j.key, {state}""",  # noqa: S608 - our own names
        f"""
        SELECT CAST(j.number - 1 AS integer), {state}, count(*)
        FROM json_array_elements(CAST(:buckets AS json)) WITH ORDINALITY AS j (value, number)
        JOIN {table} d ON d.endpoint_id = :endpoint
            AND d.event_id >= CAST(j.value ->> 0 AS bigint) AND d.event_id < CAST(j.value ->> 1 AS bigint)
        GROUP BY 1, 2""",  # noqa: S608 - our own names
    )
    for table, state in (("settled", "d.state"), ("pending", "'pending'"))
}
_OWED = "SELECT endpoint_id, count(*), count(*) FILTER (WHERE attempts > 0) FROM pending GROUP BY endpoint_id"
_DEAD = "SELECT endpoint_id, count(*) FROM settled WHERE state <> 'delivered' AND state = 'dead' GROUP BY endpoint_id"
_LATENCIES = joined("""
    SELECT d.settled_at - e.enqueued_at FROM (
        SELECT event_id, state, settled_at FROM settled WHERE endpoint_id = :endpoint
        ORDER BY event_id DESC LIMIT :limit) d
    CROSS JOIN events e ON e.id = d.event_id WHERE d.state = 'delivered'""")
_LAST_TRIES = joined("""
    SELECT a.number, a.at, a.duration, a.status, a.error, a.message, '' AS response, a.schedule FROM (
        SELECT event_id FROM (
            SELECT event_id, attempts FROM pending WHERE endpoint_id = :endpoint ORDER BY event_id LIMIT :limit) p
        WHERE attempts > 0
        UNION ALL
        SELECT event_id FROM (
            SELECT event_id FROM settled WHERE endpoint_id = :endpoint ORDER BY event_id DESC LIMIT 100) s) d
    CROSS JOIN attempts a ON a.endpoint_id = :endpoint AND a.event_id = d.event_id
    ORDER BY a.at DESC, a.number DESC LIMIT :limit""")
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


@dataclass(frozen=True, slots=True)
class Owed:
    """How an endpoint stands now."""

    waiting: int = 0
    failing: int = 0
    """Of those, tried already, and not accepted."""
    dead: int = 0


def buckets(conn: sa.Connection, edges: Sequence[float]) -> list[Bucket]:
    """Deliveries of all endpoints by state, between each two of these times (Unix seconds, rising)."""
    ids = history.first_ids(conn, edges)
    ranges = json.dumps([*pairwise(ids)])
    counts: list[dict[str, int]] = [{} for _ in edges[1:]]
    for endpoint_id in conn.execute(sa.select(schema.endpoints.c.id)).scalars().all():
        for query in _BUCKETS.values():
            for index, state, count in conn.execute(query, {"buckets": ranges, "endpoint": endpoint_id}):
                counts[index][state] = counts[index].get(state, 0) + count
    return [
        Bucket(since, until, *(found.get(state, 0) for state in (DELIVERED, PENDING, DEAD, CANCELLED)))
        for since, until, found in zip(edges, edges[1:], counts, strict=False)
    ]


def owed(conn: sa.Connection) -> dict[int, Owed]:
    """What each endpoint is owed now, and what died there; endpoints without either are missing."""
    pending = {row[0]: (row[1], row[2]) for row in conn.exec_driver_sql(_OWED)}
    dead = {row[0]: row[1] for row in conn.exec_driver_sql(_DEAD)}
    return {id_: Owed(*pending.get(id_, (0, 0)), dead.get(id_, 0)) for id_ in pending.keys() | dead.keys()}


def latencies(conn: sa.Connection, endpoint_id: int) -> list[float]:
    """Seconds from an event to its delivery, of the newest, in rising order."""
    rows = conn.execute(_LATENCIES, {"endpoint": endpoint_id, "limit": LOOKED_AT}).scalars()
    return sorted(max(0.0, seconds) for seconds in rows)


def last_tries(conn: sa.Connection, endpoint_id: int) -> list[Attempt]:
    """The endpoint's newest tries, the newest first, without what was answered."""
    rows: Any = conn.execute(_LAST_TRIES, {"endpoint": endpoint_id, "limit": LOOKED_AT})
    return [Attempt(number, from_unix(at), *rest) for number, at, *rest in rows]


def states_of(conn: sa.Connection, event_ids: Sequence[int]) -> dict[int, list[tuple[int, str]]]:
    """For each of these events: (endpoint id, state) of its deliveries, by endpoint."""
    found: dict[int, list[tuple[int, str]]] = {event_id: [] for event_id in event_ids}
    for endpoint_id, event_id, state in conn.execute(_STATES, {"events": event_ids}):
        found[event_id].append((endpoint_id, state))
    return {event_id: sorted(states) for event_id, states in found.items()}
