"""The outbox: the only writer of deliveries and attempts. Its verbs are the transitions drawn in `marzhook.delivery`.

Set-based: a batch is a handful of statements, however many rows it has, and they go to the driver itself (through Core, each
row would cost five times as much).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import sqlalchemy as sa

from marzhook import signals, trace_context
from marzhook.clock import from_unix
from marzhook.delivery import CANCELLED, DEAD, DELIVERED, PENDING, Delivery, Settlement
from marzhook.endpoint import Endpoint
from marzhook.event import SHARDS, Event, NewEvent, details_json, shard_of
from marzhook.store import driver, schema
from marzhook.store import outbox_sql as sql
from marzhook.store.database import Database, Transaction
from marzhook.store.driver import Statement, is_postgresql
from marzhook.store.owed import Publication, Row, creditors
from marzhook.store.statements import as_list

if TYPE_CHECKING:
    from marzhook.otel.spans import Spans

LANE_LOCKS: Final = 1024
NONE: Final = "{}"
"""No shard, as PostgreSQL writes an array. Asked for what is in none of them, it would walk through all that is owed."""
LEAVING: Final = "endpoints"
"""Who takes an endpoint from those that are owed events locks this name, after the endpoint; who publishes shares it."""

_pending, _settled, _events, _endpoints = schema.pending, schema.settled, schema.events, schema.endpoints


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries are meant; None means any. Times are of the event, half-open [since, until)."""

    endpoint_id: int | None = None
    event_id: int | None = None
    states: tuple[str, ...] | None = None
    actions: tuple[str, ...] | None = None
    username: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    alive: bool = False
    """Whether history, too, leaves out the endpoints that were deleted: nothing is ever moved there, nor counted to be."""


class Outbox:
    """Publish, window, settle, replay, cancel."""

    def __init__(self, database: Database, spans: Spans | None = None) -> None:
        """`spans`: records what is published."""
        self._database = database
        self._spans = spans
        self._wakers: list[Callable[[], None]] = []
        self._shards = _list(range(SHARDS))
        self._settling: Callable[[], AbstractContextManager[Transaction]] = database.write

    def on_publish(self, wake: Callable[[], None]) -> None:
        """Call `wake` after each commit that left something to send (on the thread that committed)."""
        self._wakers.append(wake)

    def own(self, shards: Iterable[int]) -> None:
        """From now on `window`, `load` and `behind` show these shards only. On SQLite there is nobody to share with."""
        self._shards = _list(shards)

    def settle_on(self, write: Callable[[], AbstractContextManager[Transaction]]) -> None:
        """From now on `settle` writes in these transactions: of the session that owns the shards."""
        self._settling = write

    # -- publish

    def publish(
        self,
        tx: Transaction,
        new_events: Sequence[NewEvent],
        *,
        now: datetime,
        only_to: int | None = None,
        except_for: int | None = None,
    ) -> list[int]:
        """Write the events and what is owed of them to each endpoint; return their ids, in order.

        Runs in the caller's transaction: a change and its events are committed together or not at all. Disabled endpoints
        are owed too (kept for them), those that left the settings or were deleted are not. They belong to the trace of whoever
        calls (`trace_context.current`).
        An endpoint's filter (`marzhook.filter`) is asked here and never again; where its condition cannot be evaluated for
        an event, that is owed. `only_to`: owed to that endpoint alone, whatever its filter (a test event). `except_for`: not
        to that one.
        """
        if not new_events:
            return []
        conn = tx.conn
        ids = self._take_ids(tx, new_events)
        at = now.timestamp()
        owed_to = creditors(conn) if only_to is None else [(only_to, True, None)]
        full = any(wants_full for _, wants_full, _ in owed_to)
        rows: list[Row] = []
        for event_id, new in zip(ids, new_events, strict=True):
            shown, whole = details_json(new.detail, full=full)
            rows.append((event_id, new.action, new.username, at, shown or None, whole or None))
        traceparent = trace_context.current.get()
        if self._spans is not None:
            traceparent = self._spans.publishing(new_events, tx.after_commit)
        if traceparent:
            sql.INSERT_TRACED(conn, [(*row, traceparent) for row in rows])
        else:
            sql.INSERT_EVENTS(conn, rows)
        published = Publication(new_events, rows)
        for endpoint_id, _, wanted in owed_to:
            if endpoint_id != except_for:
                self._owe(conn, endpoint_id, published.owed_to(endpoint_id, wanted))
        signals.emit("publish.before_commit")
        tx.announce()
        tx.after_commit(self._published)
        return ids

    @staticmethod
    def _owe(conn: sa.Connection, endpoint_id: int, rows: Sequence[Any]) -> None:
        if is_postgresql(conn):
            sql.INSERT_SHARDED(conn, [(endpoint_id, row[0], shard_of(row[2])) for row in rows])
        else:
            sql.INSERT_PENDING(conn, [(endpoint_id, row[0]) for row in rows])

    def _take_ids(self, tx: Transaction, new_events: Sequence[NewEvent]) -> list[int]:
        if not is_postgresql(tx.conn):
            # The write lock is held, so the ids from here on are ours, in commit order.
            [last] = driver.execute(tx.conn, sql.LAST_ID).fetchone()
            return list(range(last + 1, last + 1 + len(new_events)))
        # An id is taken when its user is locked, so in commit order within each lane. Names share locks: a transaction
        # cannot have 10,000 of them.
        tx.lock(*{f"lane {crc32(new.username.encode()) % LANE_LOCKS}" for new in new_events})
        # No endpoint goes between our look at who is owed and our commit.
        tx.lock(LEAVING, shared=True)
        return [row[0] for row in driver.execute(tx.conn, sql.NEXT_IDS, (len(new_events),))]

    def _published(self) -> None:
        signals.emit("publish.after_commit")
        self.wake()

    def wake(self) -> None:
        """Tell this process's dispatcher to look at the outbox now."""
        for wake in self._wakers:
            wake()

    # -- window

    def window(self, endpoint_id: int, *, after: int, limit: int) -> list[Delivery]:
        """What is owed to the endpoint behind event id `after`, oldest first. Writes nothing."""
        return self._deliveries(sql.WINDOW, endpoint_id, after=after, limit=limit)

    def behind(self, cursors: Mapping[int, int]) -> list[int]:
        """Of these endpoints (with the newest event that was read for each), those that are owed newer ones."""
        if not cursors or self._shards == NONE:
            return []
        with self._database.read(by_key=True) as conn:
            return [row[0] for row in self._read(conn, sql.BEHIND, cursors=json.dumps(cursors))]

    def following(self, endpoint_id: int, lanes: Sequence[tuple[str, int]], *, limit: int) -> list[Delivery]:
        """For each (username, event id): the next `limit` deliveries of that user behind that event."""
        return self._deliveries(sql.FOLLOWING, endpoint_id, lanes=json.dumps(lanes), limit=limit)

    def hastened(self, endpoint: Endpoint, window: Sequence[Delivery], *, limit: int) -> list[Delivery]:
        """Behind its first window, what `hasten` was asked for, with what its users are owed before it: `limit` each."""
        values = {"endpoint": endpoint.id, "after": window[-1].event.id}
        with self._database.read(by_key=True) as conn:
            found = self._read(conn, sql.HASTENED, limit=1000, **values).fetchall()
        if not endpoint.ordered:
            return self.load(endpoint.id, [event_id for event_id, _ in found])
        first = window[0].event.id - 1
        names = sorted({name for _, name in found})
        # Of very many users fewer each: the dispatcher waits for it.
        most = min(limit, max(2, 100 * limit // max(1, len(names))))
        return self.following(endpoint.id, [(name, first) for name in names], limit=most)

    def load(self, endpoint_id: int, event_ids: Sequence[int]) -> list[Delivery]:
        """These deliveries, those that are still owed."""
        return self._deliveries(sql.LOAD, endpoint_id, ids=sorted(event_ids))

    def _deliveries(self, query: Statement, endpoint: int, **values: Any) -> list[Delivery]:
        if self._shards == NONE:
            return []
        with self._database.read(by_key=True) as conn:
            if "ids" in values:
                values["ids"] = as_list(conn, values["ids"])
            rows = self._read(conn, query, endpoint=endpoint, **values).fetchall()
        signals.emit("window.read")
        return [
            Delivery(
                endpoint, Event(id_, action, username, at, detail or "", full or "", trace or ""), tries, attempts,
                None if due is None else from_unix(due), hastened,
            )
            for id_, action, username, at, detail, full, trace, tries, attempts, due, hastened in rows
        ]  # fmt: skip

    def _read(self, conn: sa.Connection, query: Statement, **values: Any) -> driver.Cursor:
        if is_postgresql(conn):
            values["shards"] = self._shards
        return driver.execute(conn, query, values)

    # -- settle

    def settle(self, settlements: Sequence[Settlement], *, now: datetime) -> None:
        """Write what came of tries, in one transaction: nothing of it, or all."""
        with self._settling() as tx:
            by_endpoint = sorted(settlements, key=lambda s: s.delivery.endpoint_id)
            for endpoint_id, group in groupby(by_endpoint, key=lambda s: s.delivery.endpoint_id):
                self._settle_endpoint(tx.conn, endpoint_id, list(group), now.timestamp())
            signals.emit("settle.before_commit")
        signals.emit("settle.after_commit")

    def _settle_endpoint(self, conn: sa.Connection, endpoint_id: int, group: list[Settlement], now: float) -> None:
        late: dict[int, int] = {}
        ended = [s for s in group if s.state != PENDING]
        if ended:
            ids = [s.delivery.event.id for s in ended]
            which = {"endpoint": endpoint_id, "ids": as_list(conn, ids), "first": min(ids), "last": max(ids)}
            gone = driver.execute(conn, sql.DELETE_SETTLED, which).fetchall()
            removed = {row[0] for row in gone}
            rows: list[tuple[Any, ...]] = []
            for s in ended:
                event_id = s.delivery.event.id
                if event_id in removed:
                    rows.append((endpoint_id, event_id, s.state, s.tries, s.attempt.number, now))
                    removed.discard(event_id)
                else:
                    late[event_id] = max(s.attempt.number, late.get(event_id, 0))
            sql.INSERT_SETTLED(conn, rows)
        # Of several failures of one delivery, the last one counts.
        failed = {s.delivery.event.id: s for s in group if s.state == PENDING}
        touched = sql.UPDATE_FAILED(
            conn,
            [
                (
                    s.tries,
                    s.attempt.number,
                    made := s.delivery.hastened_at,
                    s.due_at.timestamp() if s.due_at else None,
                    made,
                    endpoint_id,
                    event_id,
                )
                for event_id, s in failed.items()
            ],
        )
        # Cancelled meanwhile: this try counts there, or the first one after a replay would bear its number. Asked only where
        # that has happened.
        if touched < len(failed):
            for event_id, s in failed.items():
                late[event_id] = max(s.attempt.number, late.get(event_id, 0))
        sql.COUNT_LATE(conn, [(number, endpoint_id, event_id) for event_id, number in late.items()])
        tries = [
            (endpoint_id, delivery.event.id, number, at.timestamp(), *rest)
            for delivery, (number, at, *rest), *_ in group
        ]
        sql.INSERT_ATTEMPTS(conn, tries)

    # -- replay and cancel

    def cancel(self, tx: Transaction, which: DeliveryFilter, *, now: datetime, limit: int = 5000) -> int:
        """Owe these no longer; return how many. Call again until it returns 0. What is not pending is not meant."""
        rows = self._matching(tx.conn, _pending, which, limit)
        self._move(tx.conn, rows, _pending, _settled, state=CANCELLED, settled_at=now.timestamp())
        self._touch(tx, rows)
        return len(rows)

    def hasten(self, tx: Transaction, which: DeliveryFilter, *, now: datetime, limit: int = 5000) -> int:
        """Try these at once, and once, whatever their schedule, a pause or an outage says; return how many. Their tries stay
        counted. What is on its way just now and fails is tried once more."""
        rows = self._matching(tx.conn, _pending, which, limit)
        moment = now.timestamp()
        self._touch(tx, rows, hastened_at=moment)
        sql.HASTEN(tx.conn, [(moment, moment, row.endpoint_id, row.event_id) for row in rows])
        return len(rows)

    def replay(
        self,
        tx: Transaction,
        which: DeliveryFilter,
        *,
        now: datetime,
        settled_before: datetime | None = None,
        limit: int = 5000,
    ) -> int:
        """Owe these again, due at once and from their first try; return how many. Call again until it returns 0.

        `settled_before` (the time of the first call) keeps what is delivered meanwhile from being replayed once more.
        Default states: dead and cancelled. Events replayed are sent behind whatever of their user was sent since.
        """
        if which.states is None:
            which = DeliveryFilter(**{**_fields(which), "states": (DEAD, CANCELLED)})
        rows = self._matching(tx.conn, _settled, which, limit, settled_before)
        # Due from now on, not since its event: it did not wait all that time.
        self._move(tx.conn, rows, _settled, _pending, due_at=now.timestamp())
        self._touch(tx, rows)
        return len(rows)

    def _matching(
        self, conn: sa.Connection, table: sa.Table, which: DeliveryFilter, limit: int, before: datetime | None = None
    ) -> Sequence[Any]:
        if table is _pending and which.states is not None:
            if PENDING not in which.states:
                return []
            which = DeliveryFilter(**{**_fields(which), "states": None})
        query = sa.select(table.c.endpoint_id, table.c.event_id, table.c.tries, table.c.attempts, _events.c.username)
        query = query.select_from(filtered(table, which, query_events=True)).where(*conditions(table, which))
        if before is not None:
            query = query.where(table.c.settled_at < before.timestamp())
        if which.states is not None and DELIVERED not in which.states:
            # Straight from the small index of the undelivered: the write lock is held, and history may be long.
            k = _settled.alias("k")
            found = sa.select(k.c.endpoint_id, k.c.event_id).where(sa.text("k.state <> 'delivered'"))
            query = query.where(sa.tuple_(table.c.endpoint_id, table.c.event_id).in_(found))
        alive = sa.select(_endpoints.c.id).where(_endpoints.c.deleted_at.is_(None))
        query = query.where(table.c.endpoint_id.in_(alive))
        # On PostgreSQL what was found could be settled meanwhile; SQLite knows no FOR UPDATE, and needs none.
        return conn.execute(query.order_by(table.c.event_id).limit(limit).with_for_update(of=table)).all()

    def _move(
        self, conn: sa.Connection, rows: Sequence[Any], source: sa.Table, target: sa.Table, **values: Any
    ) -> None:
        if not rows:
            return
        sql.REMOVE[source](conn, [(row.endpoint_id, row.event_id) for row in rows])
        # A replayed delivery starts its schedule anew; what it went through before stays counted in `attempts`.
        conn.execute(
            sa.insert(target),
            [
                {
                    "endpoint_id": row.endpoint_id,
                    "event_id": row.event_id,
                    "tries": row.tries if target is _settled else 0,
                    "attempts": row.attempts,
                    **({"shard": shard_of(row.username)} if target is _pending and is_postgresql(conn) else {}),
                    **values,
                }
                for row in rows
            ],
        )

    def _touch(self, tx: Transaction, rows: Sequence[Any], **values: Any) -> None:
        """Tell dispatchers that something changed behind their window's cursor."""
        ids = sorted({row.endpoint_id for row in rows})
        if ids:
            values["revision"] = _endpoints.c.revision + 1
            tx.conn.execute(sa.update(_endpoints).where(_endpoints.c.id.in_(ids)).values(**values))
            tx.announce()
            tx.after_commit(self.wake)


def _list(shards: Iterable[int]) -> str:
    """As PostgreSQL writes an array."""
    return f"{{{','.join(map(str, sorted(shards)))}}}"


def filtered(table: sa.Table, which: DeliveryFilter, *, query_events: bool) -> sa.FromClause:
    """The table, joined with events where the filter or the caller looks at them."""
    if query_events or which.actions or which.username or which.since or which.until:
        return table.join(_events, _events.c.id == table.c.event_id)
    return table


def conditions(table: sa.Table, which: DeliveryFilter) -> list[sa.ColumnElement[bool]]:
    """The filter as SQL conditions on `table` (pending or settled) joined with events."""
    found: list[sa.ColumnElement[bool]] = []
    if which.endpoint_id is not None:
        found.append(table.c.endpoint_id == which.endpoint_id)
    if which.event_id is not None:
        found.append(table.c.event_id == which.event_id)
    if which.states is not None and table is _settled:
        found.append(table.c.state.in_(which.states))
    if which.actions is not None:
        found.append(_events.c.action.in_(which.actions))
    if which.username is not None:
        found.append(_events.c.username == which.username)
    if which.since is not None:
        found.append(_events.c.enqueued_at >= which.since.timestamp())
    if which.until is not None:
        found.append(_events.c.enqueued_at < which.until.timestamp())
    return found


def _fields(which: DeliveryFilter) -> dict[str, Any]:
    return {name: getattr(which, name) for name in DeliveryFilter.__slots__}
