"""A database in which events have been published and settled, for tests of what becomes of it after months."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from marzhook.delivery import CANCELLED, DELIVERED
from marzhook.event import NewEvent
from marzhook.store import endpoints
from marzhook.store.database import Database
from marzhook.store.outbox import DeliveryFilter, Outbox
from marzhook.store.retention import Ages, Retention
from marzhook.testing import FakeClock
from settling import settlement

if TYPE_CHECKING:
    from marzhook.store.steps import Step

DAY: Final = 86_400
AGES: Final = Ages(settled=timedelta(days=30), dead=timedelta(days=90))


class World:
    """A database with two endpoints, its outbox, and a retention that is as small-stepped as it gets."""

    def __init__(self, database: Database, clock: FakeClock, ages: Ages = AGES, there: Sequence[int] = ()) -> None:
        """`there`: the two, where they are."""
        self.database, self.clock, self.outbox = database, clock, Outbox(database)
        self.retention = Retention(database, ages, monotonic=clock.monotonic)
        with database.write() as tx:
            self.one, self.two = there or (
                endpoints.create(tx, now=clock.now(), kind="webhook", url=f"https://shop{i}.example/").id
                for i in range(2)
            )

    def publish(self, count: int, detail: str = "") -> list[int]:
        events = [NewEvent("user_updated", f"user{i % 7}", {"text": detail} if detail else {}) for i in range(count)]
        with self.database.write() as tx:
            return self.outbox.publish(tx, events, now=self.clock.now())

    def settle(self, endpoint: int, state: str, event_ids: Sequence[int]) -> None:
        if state == CANCELLED:
            for event_id in event_ids:
                with self.database.write() as tx:
                    which = DeliveryFilter(endpoint_id=endpoint, event_id=event_id)
                    assert self.outbox.cancel(tx, which, now=self.clock.now()) == 1
            return
        found = [settlement(d, state, 200, self.clock) for d in self.outbox.load(endpoint, event_ids)]
        self.outbox.settle(found, now=self.clock.now())

    def live(self, count: int, state: str = DELIVERED, detail: str = "") -> list[int]:
        """Events that have come to the same end at both endpoints."""
        ids = self.publish(count, detail)
        for endpoint in (self.one, self.two):
            self.settle(endpoint, state, ids)
        return ids

    def prune(self) -> list[Step]:
        return list(self.retention.steps(self.clock.now()))

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with self.database.write() as tx:
            result = tx.conn.exec_driver_sql(statement)
            return [tuple(row) for row in result] if result.returns_rows else []

    def ids(self, table: str) -> list[int]:
        column = "id" if table == "events" else "event_id"
        return [row[0] for row in self.sql(f"SELECT DISTINCT {column} FROM {table} ORDER BY 1")]

    def counts(self) -> list[int]:
        return [self.sql(f"SELECT count(*) FROM {table}")[0][0] for table in ("settled", "attempts", "events")]

    def check(self) -> None:
        """What is there belongs together: nothing refers to an event that is gone, and no attempt is without a delivery."""
        assert set(self.ids("settled")) | set(self.ids("pending")) <= set(self.ids("events"))
        assert not self.sql("""
            SELECT * FROM attempts a WHERE NOT EXISTS (
                SELECT 1 FROM settled s WHERE (s.endpoint_id, s.event_id) = (a.endpoint_id, a.event_id)
                UNION ALL
                SELECT 1 FROM pending p WHERE (p.endpoint_id, p.event_id) = (a.endpoint_id, a.event_id))""")
        # The number of attempts that a delivery knows are on record.
        assert not self.sql("""
            SELECT * FROM settled s WHERE s.state <> 'cancelled' AND s.attempts <> (
                SELECT count(*) FROM attempts a WHERE (s.endpoint_id, s.event_id) = (a.endpoint_id, a.event_id))""")
        if self.database.kind == "SQLite":
            assert self.sql("PRAGMA integrity_check") == [("ok",)]
