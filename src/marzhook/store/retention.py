"""What is old enough is removed, in steps so small that nobody who writes meanwhile notices.

A step looks for its rows in a read transaction, which holds up nobody, and reads there whatever the removal will touch:
pages that were not looked at for a month come from the disk now, and not while the writers wait. Its write transaction
then only removes by key, and asks again whether what it found still holds.

On PostgreSQL most deliveries go before that, with their whole partition (`store/partitions.py`).

Removed are deliveries with their attempts, then events to which no delivery refers any more. Each transaction leaves a
consistent history, so a crash in between leaves nothing to mend: the next pass goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import product
from typing import Any, Final

import sqlalchemy as sa

from marzhook.store import history, schema
from marzhook.store.database import Database
from marzhook.store.idempotency import LIFETIME
from marzhook.store.ingested import KEPT as INGESTED_KEPT
from marzhook.store.partitions import Partitions, Stretch
from marzhook.store.statements import BY_KEY, Many, delete_many, text
from marzhook.store.steps import BATCH, Step, Stepper

LOOKED_AT: Final = 256
"""Rows that one read looks at."""
TRAFFIC_KEPT: Final = timedelta(days=400)
"""A year's traffic, and the month before it, to compare with."""
SPARE: Final = 1024
"""Free pages that stay in the file (or an eighth of it, where that is more): what comes next would only ask for them again."""

# With each id goes its weight: how many rows its removal touches, and pages of 4096 bytes, for a long text lies on pages of
# its own. NULL: it is to be kept. Counting the attempts reads them.
SETTLED = sa.text("""
    SELECT d.event_id, CASE WHEN d.state <> 'dead' AND d.settled_at < :before THEN (
        SELECT 1 + count(*) + coalesce(sum(length(a.response) / 4096), 0)
        FROM attempts a WHERE a.endpoint_id = d.endpoint_id AND a.event_id = d.event_id) END
    FROM settled d
    WHERE d.endpoint_id = :endpoint AND d.event_id > :after AND d.event_id <= :last
    ORDER BY d.event_id LIMIT :limit""")

# Through the small index of the undelivered. SQLite takes it only where it covers all that is asked of `k`.
DEAD = text(
    """
    SELECT k.event_id, CASE WHEN d.settled_at < :before THEN (
        SELECT 1 + count(*) + coalesce(sum(length(a.response) / 4096), 0)
        FROM attempts a WHERE a.endpoint_id = k.endpoint_id AND a.event_id = k.event_id) END
    FROM settled k INDEXED BY ix_settled_undelivered
    CROSS JOIN settled d ON d.endpoint_id = k.endpoint_id AND d.event_id = k.event_id
    WHERE k.state <> 'delivered' AND k.state = 'dead'
        AND k.endpoint_id = :endpoint AND k.event_id > :after AND k.event_id <= :last
    ORDER BY k.event_id LIMIT :limit""",
    """
    SELECT d.event_id, CASE WHEN d.settled_at < :before THEN (
        SELECT 1 + count(*) + coalesce(sum(length(a.response) / 4096), 0)
        FROM attempts a WHERE a.endpoint_id = d.endpoint_id AND a.event_id = d.event_id) END
    FROM settled d
    WHERE d.state <> 'delivered' AND d.state = 'dead'
        AND d.endpoint_id = :endpoint AND d.event_id > :after AND d.event_id <= :last
    ORDER BY d.event_id LIMIT :limit""",
)

# Neither gives rows back: for each one, the driver would ask for the interpreter's lock, and wait for whoever computes, while
# it holds up the writers. So the attempts go first, of those deliveries of which the same then holds.
FORGET_ATTEMPTS = text(
    """
    DELETE FROM attempts
    WHERE endpoint_id = :endpoint AND event_id IN (
        SELECT s.event_id FROM json_each(:ids) j
        CROSS JOIN settled s ON s.endpoint_id = :endpoint AND s.event_id = j.value
        WHERE s.settled_at < :before AND (s.state = 'dead') = :dead)""",
    # Locked: what is replayed just now would lose its attempts, and stay.
    """
    DELETE FROM attempts
    WHERE endpoint_id = :endpoint AND event_id = ANY (CAST(:ids AS bigint[])) AND event_id IN (
        SELECT event_id FROM settled
        WHERE endpoint_id = :endpoint AND event_id = ANY (CAST(:ids AS bigint[]))
            AND settled_at < :before AND (state = 'dead') = :dead
        FOR UPDATE)""",
    "ids",
)
FORGET_SETTLED = text(
    """
    DELETE FROM settled
    WHERE endpoint_id = :endpoint AND event_id IN (SELECT value FROM json_each(:ids))
        AND settled_at < :before AND (state = 'dead') = :dead""",
    """
    DELETE FROM settled
    WHERE endpoint_id = :endpoint AND event_id = ANY (CAST(:ids AS bigint[]))
        AND settled_at < :before AND (state = 'dead') = :dead""",
    "ids",
)
# A delivery that was tried very often goes bit by bit, its oldest attempts first, unless it was replayed meanwhile.
FORGET_SOME_ATTEMPTS = sa.text("""
    DELETE FROM attempts
    WHERE endpoint_id = :endpoint AND event_id = :event AND number IN (
        SELECT number FROM attempts WHERE endpoint_id = :endpoint AND event_id = :event ORDER BY number LIMIT :limit)
        AND EXISTS (
            SELECT 1 FROM settled WHERE endpoint_id = :endpoint AND event_id = :event
                AND settled_at < :before AND (state = 'dead') = :dead)""")

NEXT_EVENT = sa.text("SELECT id FROM events WHERE id > :after AND id <= :last ORDER BY id LIMIT 1")
# To what nobody refers now, nobody ever will: publish refers to new events only, replay to what `settled` refers to. The last
# column is always 1: it reads the index's page, which a removal touches too.
EVENTS = text(
    """
    SELECT e.id, 1 + (coalesce(length(e.detail), 0) + coalesce(length(e.full_detail), 0)) / 4096, (
        SELECT 1 FROM events f INDEXED BY ix_events_username_id WHERE f.username = e.username AND f.id = e.id)
    FROM events e
    WHERE e.id BETWEEN :first AND :final AND e.enqueued_at < :before AND e.id NOT IN (
        SELECT s.event_id FROM endpoints n
        CROSS JOIN settled s ON s.endpoint_id = n.id AND s.event_id BETWEEN :first AND :final
        UNION ALL
        SELECT p.event_id FROM endpoints n
        CROSS JOIN pending p ON p.endpoint_id = n.id AND p.event_id BETWEEN :first AND :final)
    ORDER BY e.id""",
    """
    SELECT e.id, 1 + (coalesce(length(e.detail), 0) + coalesce(length(e.full_detail), 0)) / 4096, 1
    FROM events e
    WHERE e.id BETWEEN :first AND :final AND e.enqueued_at < :before AND e.id NOT IN (
        SELECT s.event_id FROM endpoints n
        JOIN settled s ON s.endpoint_id = n.id AND s.event_id BETWEEN :first AND :final
        UNION ALL
        SELECT p.event_id FROM endpoints n
        JOIN pending p ON p.endpoint_id = n.id AND p.event_id BETWEEN :first AND :final)
    ORDER BY e.id""",
)
FORGET_EVENTS = text(
    "DELETE FROM events WHERE id IN (SELECT value FROM json_each(:ids))",
    # Asked again: to the read's snapshot, what was moved into another partition just after it was taken is not there.
    """
    DELETE FROM events WHERE id = ANY (CAST(:ids AS bigint[])) AND id NOT IN (
        SELECT s.event_id FROM endpoints n
        JOIN settled s ON s.endpoint_id = n.id AND s.event_id BETWEEN :first AND :final
        UNION ALL
        SELECT p.event_id FROM endpoints n
        JOIN pending p ON p.endpoint_id = n.id AND p.event_id BETWEEN :first AND :final)""",
    "ids",
)

KEYS = sa.text("""
    SELECT owner, key, 1 + length(response) / 4096 FROM idempotency_keys
    WHERE created_at <= :before ORDER BY created_at LIMIT :limit""")
_FORGET_KEYS = Many(
    "DELETE FROM idempotency_keys WHERE owner = ? AND key = ? AND created_at <= ?",
    "DELETE FROM idempotency_keys AS t"
    " USING unnest(CAST(? AS text[]), CAST(? AS text[]), CAST(? AS float8[])) AS given (owner, key, before)"
    " WHERE t.owner = given.owner AND t.key = given.key AND t.created_at <= given.before",
)

NEXT_USERS = sa.text("SELECT id FROM users WHERE id > :after ORDER BY id LIMIT :limit")
# The hours have no index of their own, which every report would have to write: each user's oldest are looked for.
TRAFFIC = text(
    """
    SELECT t.user_id, t.hour FROM users u CROSS JOIN traffic t ON t.user_id = u.id AND t.hour < :before
    WHERE u.id > :after AND u.id <= :last LIMIT :limit""",
    """
    SELECT t.user_id, t.hour FROM traffic t
    WHERE t.user_id > :after AND t.user_id <= :last AND t.hour < :before LIMIT :limit""",
)
_FORGET_TRAFFIC = delete_many(schema.traffic, ("user_id", "hour"))

# The oldest of a table whose ids grow with time: whether one is too old, and its weight.
INGESTED = sa.text("SELECT id, seen_at < :before, 2 FROM ingested WHERE id > :after ORDER BY id LIMIT :limit")
REJECTED = sa.text(
    "SELECT id, at < :before, 1 + length(body) / 4096 FROM rejected WHERE id > :after ORDER BY id LIMIT :limit"
)


@dataclass(frozen=True, slots=True)
class Ages:
    """How long what has come to its end is kept."""

    settled: timedelta
    """Of delivered and cancelled deliveries, and of events."""
    dead: timedelta


class Retention:
    """Removes what is older than its age, and gives the space back."""

    def __init__(
        self,
        database: Database,
        ages: Ages,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        partitions: Partitions | None = None,
    ) -> None:
        """`partitions`: of history, where it is not in such as they come (on PostgreSQL)."""
        self._database = database
        self._ages = ages
        if partitions is None and database.kind == "PostgreSQL":
            partitions = Partitions(database)
        self._partitions = partitions
        self._stepper = Stepper(database, monotonic, begin=None if partitions is None else BY_KEY)

    def steps(self, now: datetime) -> Iterator[Step]:
        """One pass over all that is too old at `now`. Work is done as the steps are asked for: one may stop anywhere.

        Raises StoreBusyError when the database cannot be written.
        """
        if self._partitions is not None:
            yield from map(Step, self._partitions.steps(now, self._ages.settled, self._ages.dead))
        yield from self._deliveries(SETTLED, self._stretches(now), dead=False)
        before = now - self._ages.dead
        yield from self._deliveries(DEAD, [Stretch(1, self._last(before), before)], dead=True)
        yield from self._events(now - self._ages.settled)
        yield from self._keys(now - LIFETIME)
        yield from self._traffic(now - TRAFFIC_KEPT)
        yield from self._oldest("ingested", INGESTED, now - INGESTED_KEPT)
        yield from self._oldest("rejected", REJECTED, now - self._ages.dead)
        yield from self._free_pages()

    # -- deliveries

    def _stretches(self, now: datetime) -> list[Stretch]:
        before = now - self._ages.settled
        if self._partitions is None:
            return [Stretch(1, self._last(before), before)]
        return self._partitions.by_row(before, self._ages.settled, self._last)

    def _last(self, before: datetime) -> int:
        """What was settled before then was published before then."""
        with self._database.read() as conn:
            return history.id_range(conn, None, before)[1]

    def _deliveries(self, query: sa.TextClause, stretches: Sequence[Stretch], *, dead: bool) -> Iterator[Step]:
        with self._database.read() as conn:
            ids = conn.execute(sa.select(schema.endpoints.c.id).order_by(schema.endpoints.c.id)).scalars().all()
        for endpoint_id, stretch in product(ids, stretches):
            which = {"endpoint": endpoint_id, "before": stretch.before.timestamp()}
            after = stretch.first - 1
            while after < stretch.last:
                rows = self._stepper.read(query, **which, after=after, last=stretch.last, limit=LOOKED_AT)
                if not rows:
                    break
                after = rows[-1][0]
                yield from self._forget(which | {"dead": dead}, {id_: weight for id_, weight in rows if weight})

    def _forget(self, which: Mapping[str, Any], weights: dict[int, int]) -> Iterator[Step]:
        for event_id in weights:
            while weights[event_id] > self._stepper.limit:
                step = self._forget_some_attempts(which, event_id)
                yield step
                if not step.removed["attempts"]:
                    break
                weights[event_id] -= step.removed["attempts"]
        for batch in self._stepper.batches(weights):
            with self._stepper.batch() as (tx, step):
                values = {**which, "ids": batch}
                attempts, deliveries = (tx.conn.execute(query, values) for query in (FORGET_ATTEMPTS, FORGET_SETTLED))
                step.removed = {"deliveries": deliveries.rowcount, "attempts": attempts.rowcount}
            yield step
        yield Step()

    def _forget_some_attempts(self, which: Mapping[str, Any], event_id: int) -> Step:
        with self._stepper.batch() as (tx, step):
            # Each may have kept a long response, of some pages.
            limit = max(1, self._stepper.limit // 5)
            removed = tx.conn.execute(FORGET_SOME_ATTEMPTS, {**which, "event": event_id, "limit": limit})
            step.removed = {"attempts": removed.rowcount}
        return step

    # -- events

    def _events(self, before: datetime) -> Iterator[Step]:
        last, after = self._last(before), 0
        while after < last and (found := self._stepper.read(NEXT_EVENT, after=after, last=last)):
            first = found[0][0]
            # By id, not by number: where most are gone already, the next one may be far away.
            after = min(first + LOOKED_AT - 1, last)
            rows = self._stepper.read(EVENTS, first=first, final=after, before=before.timestamp())
            for batch in self._stepper.batches({row[0]: row[1] for row in rows}):
                with self._stepper.batch() as (tx, step):
                    removed = tx.conn.execute(FORGET_EVENTS, {"ids": batch, "first": batch[0], "final": batch[-1]})
                    step.removed = {"events": removed.rowcount}
                yield step
            yield Step()

    # -- the rest

    def _keys(self, before: datetime) -> Iterator[Step]:
        limit = before.timestamp()
        while rows := self._stepper.read(KEYS, before=limit, limit=LOOKED_AT):
            for batch in self._stepper.batches({(owner, key): weight for owner, key, weight in rows}):
                with self._stepper.batch() as (tx, step):
                    step.removed = {"idempotency_keys": _FORGET_KEYS(tx.conn, [(*key, limit) for key in batch])}
                yield step

    def _traffic(self, before: datetime) -> Iterator[Step]:
        after = 0
        while users := self._stepper.read(NEXT_USERS, after=after, limit=LOOKED_AT):
            last = users[-1][0]
            which = {"after": after, "last": last, "before": int(before.timestamp()), "limit": BATCH}
            while rows := self._stepper.read(TRAFFIC, **which):
                for batch in self._stepper.batches(dict.fromkeys(map(tuple, rows), 1)):
                    with self._stepper.batch() as (tx, step):
                        step.removed = {"traffic": _FORGET_TRAFFIC(tx.conn, batch)}
                    yield step
            after = last
            yield Step()

    def _oldest(self, name: str, query: sa.TextClause, before: datetime) -> Iterator[Step]:
        table, after = schema.metadata.tables[name], 0
        while rows := self._stepper.read(query, after=after, before=before.timestamp(), limit=LOOKED_AT):
            old = {id_: weight for id_, is_old, weight in rows if is_old}
            if not old:
                return
            after = rows[-1][0]
            for batch in self._stepper.batches(old):
                with self._stepper.batch() as (tx, step):
                    step.removed = {name: tx.conn.execute(sa.delete(table).where(table.c.id.in_(batch))).rowcount}
                yield step

    def _free_pages(self) -> Iterator[Step]:
        if self._database.kind != "SQLite":
            return  # autovacuum does
        while True:
            with self._database.read() as conn:
                mode, pages, free = (
                    conn.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                    for name in ("auto_vacuum", "page_count", "freelist_count")
                )
            # A file that was made without it (mode 0) uses its free pages again, but keeps them.
            surplus = free - max(SPARE, pages // 8)
            if mode != 2 or surplus <= 0:
                return
            with self._stepper.batch() as (tx, step):
                for _ in range(min(surplus, self._stepper.limit)):
                    # One page a call: the driver takes a single step of a statement that returns no columns.
                    tx.conn.exec_driver_sql("PRAGMA incremental_vacuum(1)")
                    if self._stepper.is_late():
                        break
            yield step
