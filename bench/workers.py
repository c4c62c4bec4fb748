"""PostgreSQL: events a second with one, two and four workers, beside SQLite and beside job queues that make the same call.

And what a delivery writes, and how long a window takes with ten million deliveries pending.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from bench import queue_peers
from bench.figure import Figure, Measured, Options, alternating, ratio
from bench.receiver import receiver
from bench.service import Backlog
from marzhook.cli.bench import PATIENCE, BenchError, environment_for, fill, percentile, settings_for
from marzhook.cli.sink import Sink
from marzhook.event import SHARDS
from marzhook.store import endpoints
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from postgresql import Server

KEY = "bWFyemhvb2stYmVuY2gtYmVuY2gtYmVuY2gtYmVuY2g="
REAL = {
    "fsync": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "max_connections": "100",
}
"""As an operator's server runs: what it has committed is on the disk."""
SQLITE = "SQLite, one process"
ONE = "PostgreSQL, 1 worker"
WORKERS = {ONE: 1, "PostgreSQL, 2 workers": 2, "PostgreSQL, 4 workers": 4}
ENDPOINTS = 1_000


def measure(options: Options) -> Measured:
    written: list[tuple[float, float]] = []
    # What is slow tells as much with fewer.
    few = max(1000, options.events // 10)
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made, receiver() as sink, server() as postgresql:
        ours = Shared(postgresql, Path(made), options.events, sink.url)
        backlog = Backlog(Path(made, "sqlite"), options.events, sink.url)
        contenders = {SQLITE: lambda: backlog.drain(sink)[0]}
        for name, number in WORKERS.items():
            contenders[name] = lambda number=number: ours.drain(sink, number, written)  # type: ignore[misc]
        for name, missing in queue_peers.PEERS.items():
            if not missing():
                contenders[name] = lambda name=name: queue_peers.rate(name, postgresql, sink, few)  # type: ignore[misc]
        rates = alternating(options.rounds, contenders)
        windows = _windows(postgresql, options)
    figures = [Figure.of(name, found, "events/s") for name, found in rates.items()]
    for name, missing in queue_peers.PEERS.items():
        if name not in rates:
            figures.append(Figure(name, None, "events/s", note=f"not installed: {missing()}"))
    figures.append(Figure("one worker over SQLite", ratio(rates[ONE], rates[SQLITE]), "x", at_least=0.6))
    figures += [
        Figure(f"one worker over {name.split(',')[0]}", ratio(rates[ONE], found), "x",
               at_least=5 if name.startswith("procrastinate") else None)
        for name, found in rates.items() if name in queue_peers.PEERS
    ]  # fmt: skip
    figures += [
        Figure(f"{name.split(', ')[1]} over one", ratio(rates[name], rates[ONE]), "x")
        for name in WORKERS
        if name != ONE
    ]
    figures += [
        Figure.of("rows written for a delivery", [rows for rows, _ in written], "rows"),
        Figure.of("WAL written for a delivery", [wal for _, wal in written], "bytes"),
    ]
    return Measured(figures + windows)


@contextmanager
def server(**more: str) -> Iterator[Server]:
    found = Server(**REAL | more)
    try:
        yield found
    finally:
        found.stop()


class Shared:
    """A filled database on the server, of which each measurement gets a copy."""

    def __init__(self, postgresql: Server, folder: Path, events: int, url: str) -> None:
        self._server, self._folder, self._events, self._url = postgresql, folder, events, url
        self._copies = count(1)
        postgresql.sql("CREATE DATABASE {}", "filled")
        fill(settings_for(folder, url, **self._settings("filled")), events)
        # Until all workers have their shares.
        with self._opened("filled") as database, database.write() as tx:
            endpoints.disable(tx, 1, "on the dashboard")

    def _settings(self, database: str) -> dict[str, str]:
        return {"MARZHOOK_DATABASE_URL": self._server.url(database), "MARZHOOK_SECRET_KEY": KEY}

    def _processors(self, pids: list[int]) -> tuple[float, float]:
        """Seconds of a core that the workers and the server's processes have used."""
        children = Path(f"/proc/{self._server.process.pid}/task/{self._server.process.pid}/children").read_text()
        return sum(map(_seconds, pids)), sum(map(_seconds, map(int, children.split())))

    @contextmanager
    def _opened(self, name: str) -> Iterator[Database]:
        database = Database.open(self._server.url(name), secret_keys=[KEY])
        try:
            yield database
        finally:
            database.close()

    def drain(
        self,
        sink: Sink,
        workers: int,
        written: list[tuple[float, float]],
        spent: list[tuple[float, float, float]] | None = None,
    ) -> float:
        """Events a second from the first arrival until nothing is owed; with one worker, `written` gets the rows and the bytes
        of the log for each. `spent` gets the seconds of a core that workers, server and receiver needed."""
        name = f"copy_{next(self._copies)}"
        self._server.sql("CREATE DATABASE {} TEMPLATE {}", name, "filled")
        environment = {"PATH": os.environ["PATH"], **environment_for(self._folder, self._url, **self._settings(name))}
        sink.report()
        with ExitStack() as ending, psycopg.connect(self._server.url(name), autocommit=True) as looking:
            before = _written(looking)
            pids = [ending.enter_context(worker(self._folder, environment)) for _ in range(workers)]
            with self._opened(name) as database:
                shared(database, workers)
                then = [*self._processors(pids), sink.report()["cpu"]]
                with database.write() as tx:
                    endpoints.update(tx, 1, enabled=True, disabled_reason=None)
                    tx.announce()
            end = drained(looking)
            if spent is not None:
                report = sink.report()
                ended = [*self._processors(pids), report["cpu"]]
                workers_, server_, receiver_ = (late - early for late, early in zip(ended, then, strict=True))
                spent.append((workers_, server_, receiver_))
            ending.close()
            if workers == 1:
                rows, wal = (now - then for now, then in zip(_written(looking), before, strict=True))
                written.append((rows / self._events, wal / self._events))
        if spent is None:
            report = sink.report()
        self._server.sql("DROP DATABASE {} WITH (FORCE)", name)
        return float(report["count"]) / (end - float(report["first"]))


def _seconds(pid: int) -> float:
    """Of a core that the process has used; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def worker(folder: Path, environment: dict[str, str]) -> Iterator[int]:
    """Its pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", "marzhook", "worker"], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def shared(database: Database, workers: int) -> None:
    """Wait until each of the workers has its share."""
    deadline = time.monotonic() + PATIENCE
    while sorted(len(worker.shards) for worker in database.workers()) != [SHARDS // workers] * workers:
        if time.monotonic() > deadline:
            raise BenchError(f"{workers} workers did not share the shards within {PATIENCE:g} s")
        time.sleep(0.05)


def drained(looking: psycopg.Connection[Any]) -> float:
    deadline = time.monotonic() + PATIENCE
    # From the end, where the rows are that go last: from the beginning each look would pass all that were deleted.
    last = "SELECT event_id FROM pending ORDER BY endpoint_id DESC, event_id DESC LIMIT 1"
    while looking.execute(last).fetchone() is not None:
        if time.monotonic() > deadline:
            raise BenchError(f"not everything was delivered within {PATIENCE:g} s")
        time.sleep(0.01)
    return time.monotonic()


def _written(looking: psycopg.Connection[Any]) -> tuple[float, float]:
    """Rows and bytes of the log so far. The server counts a session's rows at its end at the latest."""
    rows = looking.execute(
        "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables"
    ).fetchone()
    wal = looking.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')").fetchone()
    assert rows is not None
    assert wal is not None
    return float(rows[0]), float(wal[0])


def _windows(postgresql: Server, options: Options) -> list[Figure]:
    """The next thousand of one endpoint, for all shards and for a quarter of them."""
    events = options.scaled(10_000, 500)
    name = "windows"
    postgresql.sql("CREATE DATABASE {}", name)
    database = Database.open(postgresql.url(name), secret_keys=[KEY])
    database.upgrade()
    with psycopg.connect(postgresql.url(name), autocommit=True) as connection:
        begun = time.monotonic()
        connection.execute(
            "INSERT INTO events (id, action, username, enqueued_at)"
            " SELECT n, 'user_updated', 'user' || n %% 5000, 1.8e9 + n FROM generate_series(1, %s) n",
            (events,),
        )
        # As if each worker had published: rows of one endpoint lie in the order of their events, among those of all others.
        connection.execute("SET session_replication_role = replica")  # the endpoints' own rows are of no interest here
        connection.execute(
            "INSERT INTO pending (endpoint_id, event_id, shard)"
            " SELECT e, n, (n * 7) %% 64 FROM generate_series(1, %s) n, generate_series(1, %s) e",
            (events, ENDPOINTS),
        )
        connection.execute("VACUUM ANALYZE")
        filled = time.monotonic() - begun
    outbox, chance = Outbox(database), random.Random(1)
    figures = []
    for what, shards in (("all shards", range(SHARDS)), ("a quarter of the shards", range(0, SHARDS, 4))):
        outbox.own(shards)
        times = []
        for _ in range(options.scaled(300, 50)):
            endpoint, after = chance.randint(1, ENDPOINTS), chance.randint(0, max(1, events - 4000))
            begun = time.perf_counter()
            outbox.window(endpoint, after=after, limit=1000)
            times.append((time.perf_counter() - begun) * 1000)
        note = f"{events * ENDPOINTS:,} pending for {ENDPOINTS:,} endpoints, made in {filled:.0f} s"
        figures += [
            Figure(f"a window of 1,000 for {what}, p50", percentile(times, 0.5), "ms", note=note),
            Figure(f"a window of 1,000 for {what}, p99", percentile(times, 0.99), "ms"),
        ]
    database.close()
    postgresql.sql("DROP DATABASE {} WITH (FORCE)", name)
    return figures
