"""History on PostgreSQL lies in partitions by event id, which grows with time: what is too old goes as a whole table.

`settled` and `attempts` have the same partitions. The last one has no end, so there is always a place for whatever is
published and settled; it is given an end, and a next one made, long before ids get there. Nothing that writes has to know.

What is to be kept of an old partition (dead letters, what was settled late, the tries of what is still owed) is copied into
a small one, which takes its place, and that of a small one before it. All of that is one transaction: a process that dies
leaves things as they were. For as long as it copies, nobody writes into the old partitions, where nearly nobody would; only
at its end, for some milliseconds, it has the tables for itself. Who reads for long keeps it from that: then it gives way at
once, and the next pass tries again.

Small partitions, and what cannot be dropped, are pruned by the row as on SQLite.
"""
# ruff: noqa: S608 - put together of our own words

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from marzhook import signals
from marzhook.errors import StoreBusyError
from marzhook.store import history
from marzhook.store.database import Database, Transaction
from marzhook.store.stats import last_event

log = logging.getLogger(__name__)

TABLES: Final = ("settled", "attempts")
LEAST: Final = 1_000_000
"""Ids that a partition spans at the least. One more costs every statement that cannot name the ids it wants."""
SPANS: Final = 15
"""So many partitions hold what was published within the age of the delivered."""
SMALL: Final = 64 * 2**20
"""Bytes of `settled` up to which a partition is pruned by the row, in time; a larger one waits until all of it is too old."""
LATE: Final = 10
"""By this part of their age rows may be late to go, because their partition is not to be dropped yet."""
FEW: Final = 4
"""A partition is dropped when no more than this part of its rows is to be kept."""
PATIENCE: Final = 0.1
"""Seconds that it waits for the tables, and everybody behind it for that long."""
TRIES: Final = 10
PAUSE: Final = 0.3
"""Seconds from one try to the next."""
_PATIENCE: Final = f"SET LOCAL lock_timeout = {int(PATIENCE * 1000)}"
LOCKED: Final = "55P03"
SLACK: Final = timedelta(hours=2)
"""By which ids may differ from the order of time, see `history.CLOCK_SLACK`."""

_LIST = sa.text("""
    SELECT c.relname, pg_get_expr(c.relpartbound, c.oid), pg_relation_size(c.oid)
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass('settled')""")
_BOUND: Final = re.compile(r"MINVALUE|MAXVALUE|\d+")
_OLD: Final = "CASE WHEN s.state = 'dead' THEN s.settled_at < :dead ELSE s.settled_at < :before END"
# A disabled endpoint is sent nothing, so nothing of what it is owed is settled meanwhile.
_BUSY = sa.text("""
    SELECT EXISTS (
        SELECT 1 FROM endpoints n CROSS JOIN LATERAL (
            SELECT 1 FROM pending WHERE endpoint_id = n.id AND event_id >= :low AND event_id < :high LIMIT 1) p
        WHERE n.enabled AND n.deleted_at IS NULL)""")

_AWAITED = sa.text("""
    SELECT EXISTS (
        SELECT 1 FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
        WHERE NOT l.granted AND c.relname = ANY (:names) AND c.relnamespace = current_schema()::regnamespace)""")


@dataclass(frozen=True, slots=True)
class Partition:
    """The rows with `low <= event_id < high`; None: all that are less, or more."""

    number: int
    low: int | None
    high: int | None
    size: int
    """Bytes of its part of `settled`, without indexes."""

    @property
    def bounds(self) -> dict[str, int]:
        return {
            "low": -(2**63) if self.low is None else self.low,
            "high": 2**63 - 1 if self.high is None else self.high,
        }


@dataclass(frozen=True, slots=True)
class Stretch:
    """Event ids, both inclusive, whose deliveries are pruned by the row when they were settled before a time."""

    first: int
    last: int
    before: datetime


class Partitions:
    """Makes them ahead, drops them, and says what is left to be pruned by the row."""

    def __init__(self, database: Database, *, least: int = LEAST, small: int = SMALL) -> None:
        self._database = database
        self._least, self._small = least, small

    def all(self) -> list[Partition]:
        """The oldest first. Together they hold every id there can be."""
        with self._database.read() as conn:
            return _found(conn)

    def steps(self, now: datetime, settled: timedelta, dead: timedelta) -> Iterator[dict[str, int]]:
        """Make them ahead, and drop what is older than these ages; each step tells the rows that went, by what they are."""
        try:
            self.ahead(now, settled)
        except StoreBusyError as error:
            # There is room for a long while yet.
            log.info("the next partition is made later: %s", error)
        yield {}
        yield from self.drop(now - settled, now - dead)

    # -- ahead

    def ahead(self, now: datetime, age: timedelta) -> bool:
        """Where ids come near to the last one's beginning, give that an end, and make a next one; return whether it was done.

        Raises StoreBusyError where the tables could not be had for a moment.
        """
        with self._database.read() as conn:
            last, [then] = last_event(conn), history.first_ids(conn, [(now - age / SPANS).timestamp()])
            open_ = _found(conn)[-1]
        span = max(self._least, last - then + 1)
        if open_.low is not None and open_.low - last > span // 2:
            return False
        high = max(open_.low or 0, last) + span
        # As a constraint it is checked while others write. (Nobody's ids come near it before the end is set.)
        low = "" if open_.low is None else f"event_id >= {open_.low} AND "
        for table in TABLES:
            name = f"{table}_{open_.number}"
            with self._exclusively() as tx:
                tx.conn.exec_driver_sql(f"ALTER TABLE {name} DROP CONSTRAINT IF EXISTS within")
                tx.conn.exec_driver_sql(
                    f"ALTER TABLE {name} ADD CONSTRAINT within CHECK ({low}event_id < {high}) NOT VALID"
                )
            with self._database.write() as tx:
                tx.conn.exec_driver_sql(f"ALTER TABLE {name} VALIDATE CONSTRAINT within")
        signals.emit("partitions.checked")
        number = _next(self.all())
        with self._exclusively() as tx:
            for table in TABLES:
                name = f"{table}_{open_.number}"
                for words in (
                    f"ALTER TABLE {table} DETACH PARTITION {name}",
                    f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({_or(open_.low, 'MINVALUE')}) TO ({high})",
                    f"CREATE TABLE {table}_{number} PARTITION OF {table} FOR VALUES FROM ({high}) TO (MAXVALUE)",
                    f"ALTER TABLE {name} DROP CONSTRAINT within",
                ):
                    tx.conn.exec_driver_sql(words)
            signals.emit("partitions.before_commit")
        return True

    # -- behind

    def drop(self, settled_before: datetime, dead_before: datetime) -> Iterator[dict[str, int]]:
        """Drop the large ones of which nearly all is too old; yields the rows that went with each, by what they are."""
        ages = {"before": settled_before.timestamp(), "dead": dead_before.timestamp()}
        passed: set[int] = set()
        while True:
            found = self.all()
            old = (i for i, one in enumerate(found) if one.number not in passed and self._is_old(one, settled_before))
            place = next(old, None)
            if place is None:
                return
            passed.add(found[place].number)
            try:
                removed = self._drop(found[max(0, place - 1) : place + 1], ages)
            except StoreBusyError as error:
                log.info("an old partition is dropped later: %s", error)
                continue
            if removed is not None:
                yield removed

    def _drop(self, found: Sequence[Partition], ages: Mapping[str, float]) -> dict[str, int] | None:
        """The last one of these, and what is before it where that is small: so there is never a row of small ones."""
        one = found[-1]
        with self._database.read() as conn:
            if conn.execute(_BUSY, one.bounds).scalar():
                return None
            rows = _rows(conn, "settled", [one])
            kept = conn.execute(
                sa.text(f"SELECT count(*) FROM settled_{one.number} s WHERE NOT {_OLD}"), ages
            ).scalar_one()
            if kept * FEW > rows:
                return None
            old = found if found[0].size <= self._small and not conn.execute(_BUSY, found[0].bounds).scalar() else [one]
            before = [_rows(conn, table, old) for table in TABLES]
        left = self._replace(old, ages)
        if left is None:
            return None
        return {what: max(0, b - a) for what, b, a in zip(("deliveries", "attempts"), before, left, strict=True)}

    def by_row(self, before: datetime, age: timedelta, last: Callable[[datetime], int]) -> list[Stretch]:
        """What is pruned by the row: what is small, and what is late because it waited for `drop`.

        Also what that has left waits: most of it was settled late (a backlog), or somebody was in the way, and in a day or
        two it goes as a whole. `last`: the last id that was published before a time; nothing behind it is looked at.
        """
        late = before - age / LATE
        lasts = {until: last(until) for until in (before, late)}
        found = []
        for one in self.all():
            until = late if one.size > self._small else before
            low, high = max(1, one.bounds["low"]), min(lasts[until], one.bounds["high"] - 1)
            if low <= high:
                found.append(Stretch(low, high, until))
        return found

    def _is_old(self, one: Partition, settled_before: datetime) -> bool:
        """Whether it is large, and all of its events were published before then."""
        if one.high is None or one.size <= self._small:
            return False
        with self._database.read() as conn:
            [first] = history.first_ids(conn, [(settled_before - SLACK).timestamp()])
        return one.high <= first

    def _replace(self, old: Sequence[Partition], ages: Mapping[str, float]) -> list[int] | None:
        """Put one with what is to be kept in the place of these neighbours; returns how many rows it has of each table.

        None: somebody settles into them just now. Raises StoreBusyError where the tables could not be had.
        """
        whole = {"low": old[0].bounds["low"], "high": old[-1].bounds["high"]}
        with self._database.write() as tx:
            conn = tx.conn
            tx.lock("partitions")
            # Long enough for an autovacuum to be sent away, which the server does after a second.
            conn.exec_driver_sql("SET LOCAL lock_timeout = 3000")
            olds = [f"{table}_{one.number}" for table in TABLES for one in old]
            # Those who read go on. From here on nothing that is in them changes.
            conn.exec_driver_sql(f"LOCK TABLE {', '.join(olds)} IN SHARE ROW EXCLUSIVE MODE")
            if conn.execute(_BUSY, whole).scalar():
                return None
            number = _next(_found(conn))
            bounds = f"event_id < {old[-1].high}" + (f" AND event_id >= {old[0].low}" if old[0].low is not None else "")
            for table in TABLES:
                conn.exec_driver_sql(f"CREATE TABLE {table}_{number} (LIKE {table} INCLUDING ALL)")
                # It says the same as its bounds, and saves a look at every row when it is attached, when nobody can settle.
                conn.exec_driver_sql(f"ALTER TABLE {table}_{number} ADD CONSTRAINT within CHECK ({bounds})")
            for one in old:
                words = f"INSERT INTO settled_{number} SELECT * FROM settled_{one.number} s WHERE NOT {_OLD}"
                conn.execute(sa.text(words), ages)
            conn.exec_driver_sql(f"ANALYZE settled_{number}")
            for one in old:
                words = f"""
                    INSERT INTO attempts_{number} SELECT * FROM attempts_{one.number} a
                    WHERE (a.endpoint_id, a.event_id) IN (SELECT endpoint_id, event_id FROM settled_{number})
                        OR (a.endpoint_id, a.event_id) IN (
                            SELECT endpoint_id, event_id FROM pending
                            WHERE attempts > 0 AND event_id >= :low AND event_id < :high)"""
                conn.execute(sa.text(words), whole)
            new = [Partition(number, old[0].low, old[-1].high, 0)]
            left = [_rows(conn, table, new) for table in TABLES]
            signals.emit("partitions.copied")
            conn.exec_driver_sql(_PATIENCE)
            place = f"FROM ({_or(old[0].low, 'MINVALUE')}) TO ({old[-1].high})"
            self._patiently(
                tx,
                olds,
                f"DROP TABLE {', '.join(olds)}",
                *(f"ALTER TABLE {table} ATTACH PARTITION {table}_{number} FOR VALUES {place}" for table in TABLES),
                *(f"ALTER TABLE {table}_{number} DROP CONSTRAINT within" for table in TABLES),
            )
            signals.emit("partitions.before_commit")
        return left

    @staticmethod
    def _patiently(tx: Transaction, olds: Sequence[str], *statements: str) -> None:
        """Try again and again, and let the others go on in between, without doing the whole transaction anew.

        Raises StoreBusyError where somebody waits to write into the old ones: he may have what we wait for.
        """
        for more in reversed(range(TRIES)):
            if tx.conn.execute(_AWAITED, {"names": olds}).scalar():
                raise StoreBusyError("somebody writes to it")
            try:
                with tx.part() as part:
                    for words in statements:
                        part.conn.exec_driver_sql(words)
                return
            except sa.exc.DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != LOCKED or not more:
                    raise
            time.sleep(PAUSE)

    @contextmanager
    def _exclusively(self) -> Iterator[Transaction]:
        with self._database.write() as tx:
            tx.lock("partitions")
            tx.conn.exec_driver_sql(_PATIENCE)
            yield tx


def _found(conn: sa.Connection) -> list[Partition]:
    found = []
    for name, bound, size in conn.execute(_LIST):
        low, high = (None if edge.endswith("VALUE") else int(edge) for edge in _BOUND.findall(bound))
        found.append(Partition(int(name.rpartition("_")[2]), low, high, size))
    return sorted(found, key=lambda one: one.bounds["low"])


def _rows(conn: sa.Connection, table: str, found: Sequence[Partition]) -> int:
    return sum(conn.exec_driver_sql(f"SELECT count(*) FROM {table}_{one.number}").scalar_one() for one in found)


def _next(found: Sequence[Partition]) -> int:
    return max(one.number for one in found) + 1


def _or(edge: int | None, other: str) -> str:
    return other if edge is None else str(edge)
