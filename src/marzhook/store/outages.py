"""Outages of endpoints, as all processes that send to them share them.

Written when an outage begins, before and after each probe, and when it ends; of an endpoint that is well nothing is written.
Whoever is to probe says so first: he puts the probe's time off by as long as one may take, and only where it is still what he
saw. So of all processes one probes at a time, and one that dies meanwhile leaves nothing but a time that passes.

Times are the database's, which all share; a process waits for `wait` seconds by its own monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from marzhook.clock import from_unix
from marzhook.store import driver
from marzhook.store.database import Transaction
from marzhook.store.driver import Statement


@dataclass(frozen=True, slots=True)
class Outage:
    """How an endpoint fares that is not well."""

    failing_since: datetime | None
    stage: int
    """How many of the notices about it were published."""
    probe_at: float | None
    """When the next probe may go, Unix seconds; by this number probes are told apart. None: no breaker is open."""
    probes: int
    """Probes that failed."""
    wait: float
    """Seconds from when this was read until `probe_at`."""


def _both(sql: str) -> Statement:
    return Statement(
        sql.replace("NOW", "((julianday('now') - 2440587.5) * 86400.0)"),
        sql.replace("NOW", "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"),
    )


_LOOK: Final = _both(
    "SELECT id, revision, failing_since, failing_stage, probe_at, probes, probe_at - NOW FROM endpoints"
    " WHERE deleted_at IS NULL"
)
_BEGIN: Final = _both(
    "UPDATE endpoints SET probe_at = NOW + :wait, probes = 0, failing_since = coalesce(failing_since, :since)"
    " WHERE id = :id AND probe_at IS NULL RETURNING probe_at"
)
_MOVE: Final = _both(
    "UPDATE endpoints SET probe_at = NOW + :wait, probes = :probes WHERE id = :id AND probe_at = :seen RETURNING probe_at"
)
_FOUND: Final = Statement(
    "SELECT failing_since, failing_stage FROM endpoints WHERE id = :id AND coalesce(probe_at, failing_since) IS NOT NULL",
    "SELECT failing_since, failing_stage FROM endpoints WHERE id = :id AND coalesce(probe_at, failing_since) IS NOT NULL"
    " FOR NO KEY UPDATE",
)
_END: Final = "UPDATE endpoints SET probe_at = NULL, probes = 0, failing_since = NULL, failing_stage = 0 WHERE id = :id"
_TOLD: Final = (
    "UPDATE endpoints SET failing_stage = :stage"
    " WHERE id = :id AND failing_since IS NOT NULL AND failing_stage < :stage"
)


def look(conn: sa.Connection) -> dict[int, tuple[int, Outage | None]]:
    """Of each endpoint its revision, to see cheaply what changed, and how it fares; None: it is well."""
    return {
        row[0]: (row[1], None if row[2] is None and row[4] is None else _read(*row[2:]))
        for row in driver.execute(conn, _LOOK)
    }


def begin(tx: Transaction, endpoint_id: int, *, since: datetime, wait: float) -> float | None:
    """An endpoint's breaker has opened; it is probed in `wait` seconds. Returns `probe_at`; None: others were before us."""
    values = {"id": endpoint_id, "since": since.timestamp(), "wait": wait}
    rows = driver.execute(tx.conn, _BEGIN, values).fetchall()
    tx.announce()
    return float(rows[0][0]) if rows else None


def move(tx: Transaction, endpoint_id: int, *, seen: float, wait: float, probes: int) -> float | None:
    """Put the probe off that is due at `seen`: to make it now, or because it failed. Returns when the next one may go; None:
    others were before us."""
    values = {"id": endpoint_id, "seen": seen, "wait": wait, "probes": probes}
    rows = driver.execute(tx.conn, _MOVE, values).fetchall()
    return float(rows[0][0]) if rows else None


def end(tx: Transaction, endpoint_id: int) -> Outage | None:
    """The endpoint has accepted something. Returns the outage that this ended; None: others were before us."""
    row = driver.execute(tx.conn, _FOUND, {"id": endpoint_id}).fetchone()
    if row is None:
        return None
    driver.execute(tx.conn, _END, {"id": endpoint_id})
    tx.announce()
    return _read(row[0], row[1], None, 0, None)


def told(tx: Transaction, endpoint_id: int, stage: int) -> bool:
    """People are told of this stage with this transaction; False: they were before, or the endpoint is back."""
    return driver.execute(tx.conn, _TOLD, {"id": endpoint_id, "stage": stage}).rowcount == 1


def _read(since: float | None, stage: int, probe_at: float | None, probes: int, wait: float | None) -> Outage:
    return Outage(None if since is None else from_unix(since), stage, probe_at, probes, wait or 0.0)
