"""The outbox: the only writer of deliveries and attempts. Its verbs are the transitions drawn in `marzhook.delivery`.

Set-based: a batch is a handful of statements, however many rows it has. Bulk inserts go to the driver's own
`executemany` (through Core, each row would cost five times as much).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from marzhook import signals
from marzhook.clock import from_unix
from marzhook.delivery import CANCELLED, DEAD, DELIVERED, PENDING, Delivery, Settlement
from marzhook.endpoint import REMOVED
from marzhook.event import Event, NewEvent, details_json
from marzhook.store import driver, schema
from marzhook.store.database import Database, Transaction

_pending, _settled, _events, _endpoints = schema.pending, schema.settled, schema.events, schema.endpoints

WINDOW = """
    SELECT p.event_id, e.action, e.username, e.enqueued_at, e.detail, e.full_detail, p.tries, p.attempts, p.due_at
    FROM pending p JOIN events e ON e.id = p.event_id
    WHERE p.endpoint_id = :endpoint AND p.event_id > :after
    ORDER BY p.event_id LIMIT :limit"""

# CROSS JOIN fixes the order of the loops, here and below: from each id straight to its row. Left to itself, SQLite walks
# through all that is owed to the endpoint and looks each row up among the ids. The ids come sorted, and so does the answer.
LOAD = """
    SELECT p.event_id, e.action, e.username, e.enqueued_at, e.detail, e.full_detail, p.tries, p.attempts, p.due_at
    FROM json_each(:ids) j
    CROSS JOIN pending p ON p.endpoint_id = :endpoint AND p.event_id = j.value
    CROSS JOIN events e ON e.id = p.event_id"""

# For each [username, after] the next events owed to the endpoint. CROSS JOIN fixes the order of the loops: names first,
# and from each name straight into the index on (username, id).
FOLLOWING = """
    SELECT p.event_id, e.action, e.username, e.enqueued_at, e.detail, e.full_detail, p.tries, p.attempts, p.due_at
    FROM json_each(:lanes) lane
    CROSS JOIN pending p ON p.endpoint_id = :endpoint AND p.event_id IN (
        SELECT q.event_id FROM events f INDEXED BY ix_events_username_id
        CROSS JOIN pending q ON q.endpoint_id = :endpoint AND q.event_id = f.id
        WHERE f.username = lane.value ->> 0 AND f.id > lane.value ->> 1
        ORDER BY f.id LIMIT :limit)
    CROSS JOIN events e ON e.id = p.event_id
    ORDER BY p.event_id"""

# Which endpoints have something behind the event that their window has reached: one probe of the key for each.
BEHIND = """
    SELECT CAST(j.key AS INTEGER) FROM json_each(:cursors) j
    WHERE EXISTS (SELECT 1 FROM pending p WHERE p.endpoint_id = CAST(j.key AS INTEGER) AND p.event_id > j.value)"""

_LAST_ID = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)"
_INSERT_EVENTS = "INSERT INTO events (id, action, username, enqueued_at, detail, full_detail) VALUES"
_INSERT_PENDING = "INSERT INTO pending (endpoint_id, event_id) VALUES"
_OWED = "SELECT id, actions, detail = 'full' FROM endpoints WHERE deleted_at IS NULL AND disabled_reason IS NOT ?"
_INSERT_SETTLED = "INSERT INTO settled (endpoint_id, event_id, state, tries, attempts, settled_at) VALUES"
# OR IGNORE: what is settled twice (a commit whose answer was lost) leaves one attempt.
_INSERT_ATTEMPTS = (
    "INSERT OR IGNORE INTO attempts (endpoint_id, event_id, number, at, duration, status, error, message, response, schedule)"
    " VALUES"
)
_UPDATE_FAILED = "UPDATE pending SET tries = ?, attempts = ?, due_at = ? WHERE endpoint_id = ? AND event_id = ?"
_DELETE_SETTLED = """
    DELETE FROM pending
    WHERE endpoint_id = :endpoint AND event_id IN (SELECT value FROM json_each(:ids))
    RETURNING event_id"""
# The answer of a delivery that was cancelled while it was on its way: the attempt counts, the state stays.
_COUNT_LATE = "UPDATE settled SET attempts = max(attempts, ?) WHERE endpoint_id = ? AND event_id = ?"

CANCEL_ALL_OF_ENDPOINT = (
    sa.text("""
    INSERT INTO settled (endpoint_id, event_id, state, tries, attempts, settled_at)
    SELECT endpoint_id, event_id, 'cancelled', tries, attempts, :now FROM pending WHERE endpoint_id = :endpoint"""),
    sa.text("DELETE FROM pending WHERE endpoint_id = :endpoint"),
)


_CHUNKS = (256, 16, 1)


def insert_rows(conn: sa.Connection, insert: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """`INSERT … VALUES` and rows, hundreds in one statement.

    The driver's `executemany` gives up the interpreter's lock and asks for it back at every row, and each time another
    thread that computes keeps it for as long as it may. Few sizes, so that the driver's cache knows all the statements.
    """
    start, one = 0, ""
    for size in _CHUNKS:
        while len(rows) - start >= size:
            one = one or f" ({', '.join('?' * len(rows[0]))})"
            values = tuple(value for row in rows[start : start + size] for value in row)
            driver.execute(conn, insert + ",".join([one] * size), values)
            start += size


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


class Outbox:
    """Publish, window, settle, replay, cancel."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wakers: list[Callable[[], None]] = []

    def on_publish(self, wake: Callable[[], None]) -> None:
        """Call `wake` after each commit that left something to send (on the thread that committed)."""
        self._wakers.append(wake)

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
        are owed too (kept for them), those that left the settings or were deleted are not.
        `only_to`: owed to that endpoint alone, whatever its filter (a test event). `except_for`: not to that one.
        """
        if not new_events:
            return []
        conn = tx.conn
        # The write lock is held, so the ids from here on are ours, in commit order.
        [last] = driver.execute(conn, _LAST_ID).fetchone()
        at = now.timestamp()
        owed_to = self._owed_to(conn, only_to)
        full = any(wants_full for _, _, wants_full in owed_to)
        rows = []
        for event_id, new in enumerate(new_events, start=last + 1):
            shown, whole = details_json(new.detail, full=full)
            rows.append((event_id, new.action, new.username, at, shown or None, whole or None))
        insert_rows(conn, _INSERT_EVENTS, rows)
        for endpoint_id, actions, _ in owed_to:
            if endpoint_id == except_for:
                continue
            ids = [(endpoint_id, row[0]) for row in rows if actions is None or row[1] in actions]
            if ids:
                insert_rows(conn, _INSERT_PENDING, ids)
        signals.emit("publish.before_commit")
        tx.after_commit(self._published)
        return [row[0] for row in rows]

    def _owed_to(self, conn: sa.Connection, only_to: int | None) -> list[tuple[int, frozenset[str] | None, bool]]:
        """Endpoints, with the actions that they want (None: all) and whether they get credentials."""
        if only_to is not None:
            return [(only_to, None, True)]
        rows = driver.execute(conn, _OWED, (REMOVED,))
        return [
            (id_, None if actions is None else frozenset(json.loads(actions)), bool(full))
            for id_, actions, full in rows
        ]

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
        return self._deliveries(WINDOW, endpoint=endpoint_id, after=after, limit=limit)

    def behind(self, cursors: Mapping[int, int]) -> list[int]:
        """Of these endpoints (with the newest event that was read for each), those that are owed newer ones."""
        if not cursors:
            return []
        with self._database.read() as conn:
            return [row[0] for row in driver.execute(conn, BEHIND, {"cursors": json.dumps(cursors)})]

    def following(self, endpoint_id: int, lanes: Sequence[tuple[str, int]], *, limit: int) -> list[Delivery]:
        """For each (username, event id): the next `limit` deliveries of that user behind that event."""
        return self._deliveries(FOLLOWING, endpoint=endpoint_id, lanes=json.dumps(lanes), limit=limit)

    def load(self, endpoint_id: int, event_ids: Sequence[int]) -> list[Delivery]:
        """These deliveries, those that are still owed."""
        return self._deliveries(LOAD, endpoint=endpoint_id, ids=json.dumps(sorted(event_ids)))

    def _deliveries(self, query: str, **values: Any) -> list[Delivery]:
        with self._database.read() as conn:
            rows = driver.execute(conn, query, values).fetchall()
        signals.emit("window.read")
        endpoint = values["endpoint"]
        return [
            Delivery(
                endpoint, Event(id_, action, username, at, detail or "", full or ""), tries, attempts,
                None if due is None else from_unix(due),
            )
            for id_, action, username, at, detail, full, tries, attempts, due in rows
        ]  # fmt: skip

    # -- settle

    def settle(self, settlements: Sequence[Settlement], *, now: datetime) -> None:
        """Write what came of tries, in one transaction: nothing of it, or all."""
        with self._database.write() as tx:
            by_endpoint = sorted(settlements, key=lambda s: s.delivery.endpoint_id)
            for endpoint_id, group in groupby(by_endpoint, key=lambda s: s.delivery.endpoint_id):
                self._settle_endpoint(tx.conn, endpoint_id, list(group), now.timestamp())
            signals.emit("settle.before_commit")
        signals.emit("settle.after_commit")

    def _settle_endpoint(self, conn: sa.Connection, endpoint_id: int, group: list[Settlement], now: float) -> None:
        ended = [s for s in group if s.state != PENDING]
        if ended:
            ids = json.dumps([s.delivery.event.id for s in ended])
            removed = set(conn.exec_driver_sql(_DELETE_SETTLED, {"endpoint": endpoint_id, "ids": ids}).scalars())
            rows: list[tuple[Any, ...]] = []
            late: list[tuple[Any, ...]] = []
            for s in ended:
                event_id = s.delivery.event.id
                if event_id in removed:
                    rows.append((endpoint_id, event_id, s.state, s.tries, s.attempt.number, now))
                    removed.discard(event_id)
                else:
                    late.append((s.attempt.number, endpoint_id, event_id))
            if rows:
                insert_rows(conn, _INSERT_SETTLED, rows)
            if late:
                conn.exec_driver_sql(_COUNT_LATE, late)
        failed: list[tuple[Any, ...]] = [
            (s.tries, s.attempt.number, s.due_at.timestamp() if s.due_at else None, endpoint_id, s.delivery.event.id)
            for s in group
            if s.state == PENDING
        ]
        if failed:
            conn.exec_driver_sql(_UPDATE_FAILED, failed)
            # Cancelled meanwhile: this try counts there, or the first one after a replay would bear its number.
            conn.exec_driver_sql(_COUNT_LATE, [(number, endpoint, event) for _, number, _, endpoint, event in failed])
        tries = [
            (endpoint_id, delivery.event.id, number, at.timestamp(), *rest)
            for delivery, (number, at, *rest), *_ in group
        ]
        insert_rows(conn, _INSERT_ATTEMPTS, tries)

    # -- replay and cancel

    def cancel(self, tx: Transaction, which: DeliveryFilter, *, now: datetime, limit: int = 5000) -> int:
        """Owe these no longer; return how many. Call again until it returns 0. What is not pending is not meant."""
        rows = self._matching(tx.conn, _pending, which, limit)
        self._move(tx.conn, rows, _pending, _settled, state=CANCELLED, settled_at=now.timestamp())
        self._touch(tx, rows)
        return len(rows)

    def hasten(self, tx: Transaction, which: DeliveryFilter, *, now: datetime, limit: int = 5000) -> int:
        """Try these at once, whatever their schedule says; return how many. Their tries stay counted."""
        rows = self._matching(tx.conn, _pending, which, limit)
        if rows:
            tx.conn.exec_driver_sql(
                "UPDATE pending SET due_at = ? WHERE endpoint_id = ? AND event_id = ?",
                [(now.timestamp(), row.endpoint_id, row.event_id) for row in rows],
            )
        self._touch(tx, rows)
        return len(rows)

    def replay(self, tx: Transaction, which: DeliveryFilter, *, settled_before: datetime, limit: int = 5000) -> int:
        """Owe these again, from their first try; return how many. Call again until it returns 0.

        `settled_before` (the time of the first call) keeps what is delivered meanwhile from being replayed once more.
        Default states: dead and cancelled. Events replayed are sent behind whatever of their user was sent since.
        """
        if which.states is None:
            which = DeliveryFilter(**{**_fields(which), "states": (DEAD, CANCELLED)})
        rows = self._matching(tx.conn, _settled, which, limit, settled_before)
        # Due from now on, not since its event: it did not wait all that time.
        self._move(tx.conn, rows, _settled, _pending, due_at=settled_before.timestamp())
        self._touch(tx, rows)
        return len(rows)

    def _matching(
        self, conn: sa.Connection, table: sa.Table, which: DeliveryFilter, limit: int, before: datetime | None = None
    ) -> Sequence[Any]:
        if table is _pending and which.states is not None:
            if PENDING not in which.states:
                return []
            which = DeliveryFilter(**{**_fields(which), "states": None})
        query = sa.select(table.c.endpoint_id, table.c.event_id, table.c.tries, table.c.attempts)
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
        return conn.execute(query.order_by(table.c.event_id).limit(limit)).all()

    def _move(
        self, conn: sa.Connection, rows: Sequence[Any], source: sa.Table, target: sa.Table, **values: Any
    ) -> None:
        if not rows:
            return
        conn.exec_driver_sql(
            f"DELETE FROM {source.name} WHERE endpoint_id = ? AND event_id = ?",  # noqa: S608 - a table's own name
            [(row.endpoint_id, row.event_id) for row in rows],
        )
        # A replayed delivery starts its schedule anew; what it went through before stays counted in `attempts`.
        conn.execute(
            sa.insert(target),
            [
                {
                    "endpoint_id": row.endpoint_id,
                    "event_id": row.event_id,
                    "tries": row.tries if target is _settled else 0,
                    "attempts": row.attempts,
                    **values,
                }
                for row in rows
            ],
        )

    def _touch(self, tx: Transaction, rows: Sequence[Any]) -> None:
        """Tell dispatchers that something changed behind their window's cursor."""
        ids = sorted({row.endpoint_id for row in rows})
        if ids:
            tx.conn.execute(
                sa.update(_endpoints).where(_endpoints.c.id.in_(ids)).values(revision=_endpoints.c.revision + 1)
            )
            tx.after_commit(self.wake)


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
