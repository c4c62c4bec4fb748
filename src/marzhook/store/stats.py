"""Figures about the queue, for metrics and for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from marzhook.store import driver, schema
from marzhook.store.outbox_sql import LAST_ID

_pending, _settled, _events, _endpoints = schema.pending, schema.settled, schema.events, schema.endpoints

LOOKED_AT = 1000
"""Pending rows looked at for each endpoint: the oldest event is among the first, unless so many wait for a retry."""

# The first that is owed to each endpoint, in one statement: there may be thousands of endpoints, and this is asked often.
# CROSS JOIN fixes the order of the loops: SQLite would walk through all that is owed.
_FIRST = sa.text("""
    SELECT n.id, n.ordered, p.due_at, e.enqueued_at
    FROM endpoints n CROSS JOIN pending p CROSS JOIN events e
    WHERE n.deleted_at IS NULL AND p.endpoint_id = n.id
        AND p.event_id = (SELECT min(q.event_id) FROM pending q WHERE q.endpoint_id = n.id) AND e.id = p.event_id""")

_HEAD = sa.text("""
    SELECT e.username, head.due_at, e.enqueued_at
    FROM (SELECT event_id, due_at FROM pending WHERE endpoint_id = :endpoint ORDER BY event_id LIMIT :limit) head
    JOIN events e ON e.id = head.event_id
    ORDER BY head.event_id""")


def pending_counts(conn: sa.Connection) -> dict[int, int]:
    """Deliveries owed, by endpoint id; endpoints that are owed nothing have 0."""
    counted = sa.select(_pending.c.endpoint_id, sa.func.count()).group_by(_pending.c.endpoint_id)
    return _living(conn) | {row[0]: row[1] for row in conn.execute(counted)}


def oldest_due(conn: sa.Connection, now: datetime) -> dict[int, float]:
    """For how many seconds the longest-waiting delivery that is due has been due, by endpoint id; 0: none is.

    What waits behind an earlier one of its user is not due, whatever its own row says.
    """
    at = now.timestamp()
    ages = dict.fromkeys(_living(conn), 0.0)
    for endpoint_id, in_order, due_at, enqueued_at in conn.execute(_FIRST).all():
        if due_at is None:
            # Nothing behind it can have been due for longer.
            ages[endpoint_id] = max(0.0, at - enqueued_at)
        else:
            head = conn.execute(_HEAD, {"endpoint": endpoint_id, "limit": LOOKED_AT}).all()
            ages[endpoint_id] = _oldest(head, at, in_order)
    return ages


def _oldest(head: Sequence[Any], at: float, in_order: bool) -> float:
    blocked: set[str] = set()
    oldest = 0.0
    for username, due_at, enqueued_at in head:
        since = enqueued_at if due_at is None else due_at
        if username not in blocked and since <= at:
            oldest = max(oldest, at - since)
        if in_order:
            blocked.add(username)
    return oldest


def last_event(conn: sa.Connection) -> int:
    """The newest event's id, also of one that was pruned. Ids have no gaps, so this counts what was ever published; on
    PostgreSQL, what was rolled back, too."""
    return int(driver.execute(conn, LAST_ID).fetchone()[0])


def users_since(conn: sa.Connection, event_id: int) -> list[str]:
    """Of whom events newer than this one tell."""
    return list(conn.execute(sa.select(_events.c.username).where(_events.c.id > event_id).distinct()).scalars())


def settled_counts(conn: sa.Connection) -> dict[int, dict[str, int]]:
    """Deliveries at their end, by endpoint id and state. Walks the whole history: not for every scrape."""
    query = sa.select(_settled.c.endpoint_id, _settled.c.state, sa.func.count()).group_by(
        _settled.c.endpoint_id, _settled.c.state
    )
    counts: dict[int, dict[str, int]] = {}
    for endpoint_id, state, count in conn.execute(query):
        counts.setdefault(endpoint_id, {})[state] = count
    return counts


def _living(conn: sa.Connection) -> dict[int, int]:
    ids = conn.execute(sa.select(_endpoints.c.id).where(_endpoints.c.deleted_at.is_(None))).scalars()
    return dict.fromkeys(ids, 0)
