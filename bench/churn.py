"""What months of deliveries leave behind on PostgreSQL: publish, window and settle, from the first day to the last.

Sixty days go by in minutes, on a clock of ours; each day events are published, windows read, what is in them settled, and then
retention goes over it, all by the code that serves. A tenth of the deliveries fail first, one in a thousand dies, and the same
backlog is always ahead. Two databases take turns, day by day: one as it is, and one without partitions, where retention
deletes row by row, with the server's own settings for autovacuum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median

import psycopg

from bench.figure import Figure, Measured, Options
from bench.workers import KEY, server
from marzhook.clock import from_unix
from marzhook.delivery import DEAD, DELIVERED, PENDING, Attempt, Delivery, Settlement
from marzhook.event import NewEvent
from marzhook.store import endpoints
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.store.partitions import Partitions
from marzhook.store.retention import Ages, Retention
from postgresql import Server

BEGAN = 1_800_000_000.0
DAYS = 60
"""That go by: twice as many as are kept."""
AGES = Ages(settled=timedelta(days=30), dead=timedelta(days=90))
EARLY, LATE = range(10, 31), range(43, DAYS + 1)
"""Days that are compared: before retention finds anything, and long after."""
NAPTIME = "10s"
"""From one look of autovacuum to the next: a minute by default, for what here is packed into seconds."""
ENDPOINTS, USERS = 4, 5_000
WINDOW, BATCH = 1000, 500
FAILING, DYING = 10, 1000
PARTITIONS, ROWS = "partitions", "row by row"
DETAIL = {"by": {"username": "root", "is_sudo": True}, "user": {"status": "active", "data_limit": 10_737_418_240}}


@dataclass
class Day:
    """What was measured on it: milliseconds of each call, seconds of retention of deliveries, and bytes at its end."""

    number: int
    publish: list[float] = field(default_factory=list)
    window: list[float] = field(default_factory=list)
    settle: list[float] = field(default_factory=list)
    retention: float = 0.0
    removed: int = 0
    """Deliveries."""
    pending: int = 0
    history: int = 0


class Months:
    """One database that days go by in."""

    def __init__(self, postgresql: Server, name: str, partitions: Callable[[Database], Partitions], a_day: int) -> None:
        """`a_day`: so many events are published, and as many are owed in the morning."""
        database = name.replace(" ", "_")
        postgresql.sql("CREATE DATABASE {}", database)
        self._url, self._a_day = postgresql.url(database), a_day
        self.database = Database.open(self._url, secret_keys=[KEY])
        self.database.upgrade()
        self.partitions = partitions(self.database)
        self._retention = Retention(self.database, AGES, partitions=self.partitions)
        self._outbox = Outbox(self.database)
        # As a worker does: on the session that holds the shards.
        self._holder = self.database.shards("bench")
        self._outbox.settle_on(self._holder.write)
        with self.database.write() as tx:
            self._endpoints = [
                endpoints.create(tx, now=from_unix(BEGAN), kind="webhook", url=f"https://shop{i}.example/").id
                for i in range(ENDPOINTS)
            ]
        self._cursors = dict.fromkeys(self._endpoints, 0)
        self._failed: dict[int, list[int]] = {id_: [] for id_ in self._endpoints}
        self.days: list[Day] = []
        self._publish(Day(0), from_unix(BEGAN))

    def pass_day(self, number: int) -> None:
        day = Day(number)
        now = from_unix(BEGAN + number * 86_400)
        self._publish(day, now)
        for endpoint in self._endpoints:
            self._settle(day, endpoint, now)
        begun = time.perf_counter()
        for step in self._retention.steps(now):
            day.removed += step.removed.get("deliveries", 0)
            ended = time.perf_counter()
            # Events go by the row here and there.
            day.retention += 0.0 if "events" in step.removed else ended - begun
            begun = ended
        with psycopg.connect(self._url) as connection:
            sizes = "SELECT pg_total_relation_size('pending'), sum(pg_total_relation_size(inhrelid)) FROM pg_inherits"
            day.pending, day.history = map(int, connection.execute(sizes).fetchone() or ())
        self.days.append(day)

    def run_sql(self, statement: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(statement)

    def close(self) -> None:
        self._holder.close()
        self.database.close()

    def _publish(self, day: Day, now: datetime) -> None:
        for start in range(0, self._a_day, BATCH):
            new = [
                NewEvent("user_updated", f"user{n * 7919 % USERS}", DETAIL)
                for n in range(start, min(start + BATCH, self._a_day))
            ]
            with _timed(day.publish), self.database.write() as tx:
                self._outbox.publish(tx, new, now=now)

    def _settle(self, day: Day, endpoint: int, now: datetime) -> None:
        """What failed on the day before, and then as much as was published today."""
        again = self._outbox.load(endpoint, self._failed.pop(endpoint))
        failed = self._failed[endpoint] = []
        left = self._a_day
        owed = again
        while left:
            with _timed(day.window):
                owed += self._outbox.window(endpoint, after=self._cursors[endpoint], limit=min(left, WINDOW))
            left -= min(left, WINDOW)
            self._cursors[endpoint] = owed[-1].event.id
            while owed:
                batch = [_tried(delivery, now) for delivery in owed[:BATCH]]
                del owed[:BATCH]
                with _timed(day.settle):
                    self._outbox.settle(batch, now=now)
                failed += [one.delivery.event.id for one in batch if one.state == PENDING]


def _tried(delivery: Delivery, now: datetime) -> Settlement:
    number, id_ = delivery.attempts + 1, delivery.event.id
    if number == 1 and id_ % FAILING == 0:
        attempt = Attempt(number, now, 0.01, 503, None, "", "busy", "standard")
        return Settlement(delivery, attempt, PENDING, 1, now + timedelta(days=1))
    attempt = Attempt(number, now, 0.01, 200, None, "", "ok")
    return Settlement(delivery, attempt, DEAD if id_ % DYING == 0 else DELIVERED, delivery.tries)


@contextmanager
def _timed(found: list[float]) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    found.append((time.perf_counter() - begun) * 1000)


def measure(options: Options) -> Measured:
    a_day = options.scaled(2000, 100)
    # A partition is a fifteenth of what is kept, as with the real sizes, and what is left of one is small.
    sizes = {"least": a_day * AGES.settled.days // 15, "small": a_day * ENDPOINTS * 32}
    with ExitStack() as stack:
        postgresql = stack.enter_context(server(autovacuum_naptime=NAPTIME))
        found: dict[str, Months] = {}
        for name, partitions in (
            (PARTITIONS, lambda database: Partitions(database, **sizes)),
            # All are small, and so pruned by the row, and there is one.
            (ROWS, lambda database: Partitions(database, least=2**40, small=2**60)),
        ):
            found[name] = Months(postgresql, name, partitions, a_day)
            stack.callback(found[name].close)
        found[ROWS].run_sql(
            "ALTER TABLE pending RESET (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,"
            " autovacuum_vacuum_cost_delay)"
        )
        for number in range(1, DAYS + 1):
            for months in found.values():
                months.pass_day(number)
        live = len(found[PARTITIONS].partitions.all())
    return Measured(_figures(found[PARTITIONS].days, found[ROWS].days, DAYS * a_day * ENDPOINTS, live))


def _figures(ours: list[Day], theirs: list[Day], deliveries: int, live: int) -> list[Figure]:
    figures = [
        Figure(
            "deliveries, in each database", float(deliveries), "", note=f"{DAYS} days; {AGES.settled.days} are kept"
        ),
        Figure("partitions at the end", float(live), ""),
    ]
    for what, of in (
        (f"publish {BATCH} for {ENDPOINTS} endpoints", lambda day: day.publish),
        (f"a window of {WINDOW:,}", lambda day: day.window),
        (f"a settlement of {BATCH}", lambda day: day.settle),
    ):
        early, late, early_there, late_there = (
            median(value for day in days for value in of(day) if day.number in which)
            for days in (ours, theirs)
            for which in (EARLY, LATE)
        )
        figures += [
            Figure(f"{what}, days {EARLY[0]} to {EARLY[-1]}", early, "ms"),
            Figure(f"  days {LATE[0]} to {LATE[-1]}", late, "ms"),
            Figure("  late over early", late / early, "x", at_most=1.25),
            Figure(f"  {ROWS}, days {LATE[0]} to {LATE[-1]}", late_there, "ms"),
            Figure(f"  {ROWS}, late over early", late_there / early_there, "x"),
        ]
    for name, days in ((PARTITIONS, ours), (ROWS, theirs)):
        found = [day for day in days if day.number in LATE]
        seconds = sum(day.retention for day in found) / sum(day.removed for day in found)
        figures.append(Figure(f"retention, {name}, for each delivery removed", seconds * 1e6, "us"))
    for what, size in (("pending", lambda day: day.pending), ("history", lambda day: day.history)):
        for name, days in ((PARTITIONS, ours), (ROWS, theirs)):
            early, late = (median(size(day) / 2**20 for day in days if day.number in which) for which in (EARLY, LATE))
            figures.append(
                Figure(f"{what}, {name}, days {LATE[0]} to {LATE[-1]}", late, "MB", note=f"early {early:.1f}")
            )
    return figures
