"""Shards that several workers share on PostgreSQL: who holds which, by advisory locks of one session, which also settles.

Whoever loses the session has lost its shards, and cannot settle any more: the database lets others have them at once. So
there are no leases, and nothing is to be mended after a crash.
"""

# ruff: noqa: S608 - put together of our own numbers

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import psycopg
import sqlalchemy as sa

from marzhook.errors import MarzhookError, OwnershipLostError, StartError
from marzhook.event import SHARDS
from marzhook.store.database import Transaction
from marzhook.store.postgresql import (
    NAMED,
    PAUSED,
    PROOF,
    SHARD,
    TURN,
    WANTED,
    WORKER,
    PostgreSQLDatabase,
    name_lock,
    writer_engine,
)
from marzhook.store.sessions import dropped_when_cut_off
from marzhook.store.sharing import MOST, Horizon, ShardHolder
from marzhook.store.workers import Worker

_OURS: Final = (
    "l.locktype = 'advisory' AND l.objsubid = 2"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_TAKEN: Final = f"""
    SELECT l.classid, l.objid FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE {_OURS} AND l.granted AND (l.classid IN ({SHARD}, {WORKER})
        OR (l.classid IN ({WANTED}, {PAUSED}) AND l.pid <> pg_backend_pid()))
    ORDER BY a.backend_start, l.objid"""
"""Who came first is first: where there are more than can have shards, a new one waits, whatever its number."""
_WORKERS: Final = f"""
    SELECT a.application_name, coalesce(host(a.client_addr), 'local'), a.backend_start,
        array_agg(l.objid::integer ORDER BY l.objid) FILTER (WHERE l.classid = {SHARD}), a.pid, a.state_change
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE {_OURS} AND l.granted AND l.classid IN ({SHARD}, {WORKER})
    GROUP BY 1, 2, 3, 5, 6 ORDER BY a.backend_start, a.pid"""


def workers(database: PostgreSQLDatabase) -> list[Worker]:
    """Who sends just now, the eldest first."""
    with database.read() as conn:
        rows = conn.exec_driver_sql(_WORKERS)
        return [
            Worker(name, address, at, tuple(shards or ()), *session) for name, address, at, shards, *session in rows
        ]


def holding_session(database: PostgreSQLDatabase, told: str) -> psycopg.Connection[Any]:
    """A session that keeps locks, and loses them when its process is cut off or hangs. `told`: how others see it.

    Raises StartError behind a pooler, which gives each transaction another session, and where the server's own address leads
    elsewhere than `database`'s.
    """
    with database.explained(database.direct), ExitStack() as failed:
        connection = database.connect_directly(application_name=told[:63])
        failed.callback(connection.close)
        if connection.execute("SELECT pg_backend_pid()").fetchone() != (connection.info.backend_pid,):
            raise StartError(
                f"{database.direct.name} is reached through a pooler, which cannot keep the locks of a worker;"
                " set MARZHOOK_WORKER_DATABASE_URL to the server's own address"
            )
        if database.direct is not database.address and not _seen_by(database, connection):
            raise StartError(
                f"MARZHOOK_WORKER_DATABASE_URL ({database.direct.name}) leads to another database than"
                f" MARZHOOK_DATABASE_URL ({database.name}): what a worker sends from one it would settle in the other; set it"
                " to the server's own address of the same database"
            )
        dropped_when_cut_off(connection)
        failed.pop_all()
    return connection


def _seen_by(database: PostgreSQLDatabase, session: psycopg.Connection[Any]) -> bool:
    """Whether both mean the same table of one server: no name or number says so, for a copy has them too. A lock does."""
    lot = secrets.randbelow(2**31)
    here = session.execute(f"SELECT CAST(to_regclass('pending') AS oid), pg_advisory_lock({PROOF}, {lot})").fetchone()
    with database.read() as conn:
        there = conn.exec_driver_sql(
            f"SELECT CAST(to_regclass('pending') AS oid) FROM pg_locks l"
            f" WHERE {_OURS} AND l.granted AND l.classid = {PROOF} AND l.objid = {lot}"
        ).scalar()
    session.execute(f"SELECT pg_advisory_unlock({PROOF}, {lot})")
    return here is not None and there is not None and here[0] == there


class ShardSession(ShardHolder):
    """One session that holds shards and writes. Use it from one thread; `close` from any."""

    def __init__(self, database: PostgreSQLDatabase, told: str) -> None:
        """`told`: how others see it. Raises what `holding_session` raises."""
        self._database = database
        self.held: frozenset[int] = frozenset()
        self.lost: str | None = None
        """Why it is of no use any more."""
        self.fair = SHARDS
        self.processes = 1
        self.turns: frozenset[int] = frozenset()
        self.wanted: frozenset[int] = frozenset()
        self.paused: frozenset[int] = frozenset()
        self._said: dict[int, frozenset[int]] = {WANTED: frozenset(), PAUSED: frozenset()}
        """What others are told of which endpoints."""
        self._connection = holding_session(database, told)
        self.session = self._connection.info.backend_pid
        with database.explained(database.direct):
            self._row("SELECT pg_advisory_lock(%s, %s)", WORKER, self.session)
        self._engine = writer_engine(database, lambda: self._connection)
        # Now: a host that does not answer may have taken its time before the one that does.
        self._reached_at = time.monotonic()

    def sweep(self) -> None:
        """Take free shards up to a fair share. Raises OwnershipLostError."""
        with self._kept():
            taken: dict[int, list[int]] = defaultdict(list)
            for kind, number in self._connection.execute(_TAKEN):
                taken[kind].append(number)
            self.processes = len(taken[WORKER])
            self.wanted, self.paused = frozenset(taken[WANTED]), frozenset(taken[PAUSED])
            # Everybody sees the same list, and finds himself in it.
            self.fair = fair_share(taken[WORKER].index(self.session), len(taken[WORKER]))
            for shard in sorted(set(range(SHARDS)).difference(taken[SHARD]))[: max(0, self.fair - len(self.held))]:
                # Somebody else may have been quicker.
                if self._row("SELECT pg_try_advisory_lock(%s, %s)", SHARD, shard)[0]:
                    self.held |= {shard}

    @property
    def surplus(self) -> frozenset[int]:
        """What is to be given up, because others have less than their share."""
        return frozenset(sorted(self.held)[self.fair :])

    def silent_for(self) -> float:
        return time.monotonic() - self._reached_at

    def keep(self) -> None:
        with self._kept():
            self._row("SELECT 1")

    def release(self, shards: Iterable[int]) -> None:
        """Let others have these; nothing of them may be on its way. Raises OwnershipLostError."""
        with self._kept():
            for shard in shards:
                self._row("SELECT pg_advisory_unlock(%s, %s)", SHARD, shard)
                self.held -= {shard}

    def exchange(self, give: Sequence[int], want: Sequence[int], pauses: frozenset[int]) -> None:
        with self._kept():
            self._say(PAUSED, pauses)  # first: who gets a turn from us looks for it
            self._locks("pg_advisory_unlock", TURN, give)
            got = self._locks("pg_try_advisory_lock", TURN, want)
            self.turns = self.turns.difference(give) | got
            self._say(WANTED, frozenset(want) - got)
            unpaused = self._locks("pg_try_advisory_lock", PAUSED, got)
            self._locks("pg_advisory_unlock", PAUSED, unpaused)
            self.paused = self.paused - unpaused | (got - unpaused)

    def _say(self, kind: int, endpoints: frozenset[int]) -> None:
        """By shared locks, which several can have, and which keep nobody out."""
        said = self._said[kind]
        self._locks("pg_advisory_lock_shared", kind, endpoints - said)
        self._locks("pg_advisory_unlock_shared", kind, said - endpoints)
        self._said[kind] = endpoints

    def _locks(self, function: str, kind: int, numbers: Iterable[int]) -> frozenset[int]:
        """Call it with each of these numbers; returns those for which it said yes."""
        if not (numbers := sorted(numbers)):
            return frozenset()
        statement = f"SELECT number, {function}(%s, number) FROM unnest(CAST(%s AS integer[])) AS number"
        return frozenset(number for number, yes in self._connection.execute(statement, (kind, numbers)) if yes is True)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction on this very session: it fails when the shards are lost. Raises OwnershipLostError."""
        with self._kept():
            with self._database.explained(self._database.direct), self._engine.begin() as conn:
                tx = self._database.transaction(conn)
                yield tx
            tx._committed()

    def close(self) -> None:
        """Let go of all shards."""
        self.lost = self.lost or "closed"
        self._connection.close()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        if self.lost is not None:
            raise OwnershipLostError(self.lost)
        try:
            yield
        except (MarzhookError, psycopg.Error, sa.exc.DBAPIError) as error:
            if not (self._connection.closed or self._connection.broken):
                # It is the server that says no: somebody keeps a lock, its disk is full.
                self._reached_at = time.monotonic()
                raise
            self.lost = f"the session with {self._database.name} was lost: {' '.join(str(error).split())[:200]}"
            raise OwnershipLostError(self.lost) from error
        self._reached_at = time.monotonic()

    def _row(self, statement: str, *values: Any) -> Any:
        return self._connection.execute(statement, values).fetchone()


def fair_share(place: int, count: int) -> int:
    """How many shards the worker at this place (from 0) among `count` is to have.

    Never 1: with 2 everybody has a part of what an endpoint may get at once (`dispatch/pace.py`).
    """
    count = min(count, MOST)
    if place >= count:
        return 0
    return SHARDS // count + (place < SHARDS % count)


class PublishHorizon(Horizon):
    """Up to which event id all is visible. PostgreSQL's ids become visible out of order: who takes one may commit late."""

    def __init__(self, database: PostgreSQLDatabase) -> None:
        self._database = database
        self.floor = 0
        self._next = 0
        self._publishing: set[str] = set()

    def advance(self) -> None:
        """Look who is publishing. Every id that was taken before they began belongs to one of them, or is visible."""
        with self._database.read(own=True) as conn:
            # In this order: who took an id and is not among the publishers has committed.
            [last] = conn.exec_driver_sql(
                "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM events_id_seq"
            ).one()
            publishing = {
                row[0]
                for row in conn.exec_driver_sql(
                    f"SELECT l.virtualtransaction FROM pg_locks l WHERE {_OURS} AND l.granted AND l.mode = 'ShareLock'"
                    " AND l.classid = %s AND l.objid = %s",
                    (NAMED, name_lock("endpoints") % 2**32),
                )
            }
        if not self._publishing & publishing:
            self.floor, self._next, self._publishing = self._next, last, publishing
        if not publishing:
            self.floor = max(self.floor, last)
