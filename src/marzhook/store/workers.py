"""Which processes deliver, and how each fares: what the database knows of them, and what they report of themselves.

That one lives is known by the lock that it holds, not by its reports: those are for people, and nothing is decided by them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from marzhook.clock import from_unix
from marzhook.store import schema
from marzhook.store.driver import is_postgresql

if TYPE_CHECKING:
    from marzhook.store.database import Database, Transaction

GONE_FOR: Final = timedelta(hours=1)
"""So long one that has ended without a word is still told of."""

_reports = schema.workers
_NAME: Final = re.compile(r"marzhook (?:(\S+) )?\w+, process (\d+) on (.*)")


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that delivers, as the database knows it."""

    name: str
    address: str
    since: datetime | None
    shards: tuple[int, ...]
    session: int | None = None
    """PostgreSQL's number of the session that has the shards."""
    seen_at: datetime | None = None
    """When it last asked for something there."""


@dataclass(frozen=True, slots=True)
class Process:
    """One that delivers. `id`: drawn by lot at its start; `name` as in `Worker`, whole however long."""

    id: str
    name: str
    started_at: datetime


class Figures(NamedTuple):
    """How it fares."""

    session: int | None
    """As in `Worker`."""
    rate: float
    """Deliveries a second, of late."""
    lag: float
    """For how many seconds what it sends next has been due, at the endpoint where that is longest."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A process that delivers, or did so until lately. What nobody knows is None, as of processes of an older version."""

    name: str
    host: str | None
    process: int | None
    version: str | None
    address: str | None
    since: datetime | None
    shards: tuple[int, ...]
    rate: float | None
    lag: float | None
    last_seen: datetime
    gone: bool
    """Whether it has ended without a word; what it had is others' by now."""


def report(tx: Transaction, process: Process, figures: Figures, now: datetime) -> None:
    """Keep what a process says of itself, instead of what it said before."""
    values = {"seen_at": now.timestamp(), **figures._asdict()}
    if tx.conn.execute(sa.update(_reports).where(_reports.c.id == process.id).values(values)).rowcount:
        return
    # On SQLite all others are gone, or this one could not have the file.
    others = _reports.c.seen_at < (now - GONE_FOR).timestamp() if is_postgresql(tx.conn) else sa.true()
    tx.conn.execute(sa.delete(_reports).where(others))
    values |= {"id": process.id, "name": process.name, "started_at": process.started_at.timestamp()}
    tx.conn.execute(sa.insert(_reports).values(values))


def leave(tx: Transaction, id_: str) -> None:
    """It ends, as it was told to."""
    tx.conn.execute(sa.delete(_reports).where(_reports.c.id == id_))


def seen(database: Database, now: datetime) -> list[Seen]:
    """Who delivers, the eldest first, and behind them who has gone without a word within GONE_FOR."""
    living = database.workers()
    with database.read() as conn:
        statement = sa.select(_reports).where(_reports.c.seen_at >= (now - GONE_FOR).timestamp())
        reports = conn.execute(statement.order_by(_reports.c.seen_at.desc())).all()
    found, matched = [], set()
    for worker in living:
        # Numbers of sessions and processes come again; both at once hardly do.
        row = next((r for r in reports if r.session == worker.session and _same(r.name, worker.name)), None)
        matched.add(row and row.id)
        # Who holds the file of a SQLite database lives just now.
        found.append(_seen(row, worker, worker.seen_at or now))
    gone = sorted((row for row in reports if row.id not in matched), key=lambda row: row.started_at)
    return found + [_seen(row, None, from_unix(row.seen_at)) for row in gone]


def _seen(row: Any, worker: Worker | None, last_seen: datetime) -> Seen:
    name = row.name if row else worker.name if worker else ""
    version, process, host = _told(name)
    since = from_unix(row.started_at) if row else worker.since if worker else None
    return Seen(
        name, host, process, version,
        address=worker.address if worker else None,
        since=since and since.astimezone(UTC),
        shards=worker.shards if worker else (),
        rate=row.rate if row and worker else None,
        lag=row.lag if row and worker else None,
        last_seen=last_seen.astimezone(UTC),
        gone=worker is None,
    )  # fmt: skip


def _same(one: str, other: str) -> bool:
    """SQLite's lock names no version, PostgreSQL's session has the first 63 bytes."""
    return _told(one)[1] == _told(other)[1]


def _told(name: str) -> tuple[str | None, int | None, str | None]:
    """Version, process and host."""
    found = _NAME.fullmatch(name)
    return (found[1], int(found[2]), found[3]) if found else (None, None, None)
