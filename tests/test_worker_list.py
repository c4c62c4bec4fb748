"""Who delivers and how it fares, as operators see it: on one file, on a server, and beside processes of an older version."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path

import pytest

from api_client import Api
from command_line import as_json, marzhook
from dispatching import CLOCK, House
from marzhook import __version__
from marzhook.dispatch.reporter import Reporter
from marzhook.event import SHARDS
from marzhook.runtime import worker_name
from marzhook.store import workers
from marzhook.store.database import Database
from marzhook.store.postgresql import WORKER, PostgreSQLDatabase
from marzhook.store.sharing import MOST
from marzhook.store.workers import Figures, Process
from marzhook.testing import FakeClock, eventually
from receivers import Receiver
from workers import shards_of

pytest_plugins = ["api_client"]

NAME = worker_name("worker")


def process(id_: str, name: str = NAME) -> Process:
    return Process(id_, name, CLOCK.now())


def report(database: Database, who: Process, figures: Figures, *, ago: timedelta = timedelta()) -> None:
    with database.write() as tx:
        workers.report(tx, who, figures, CLOCK.now() - ago)


def test_a_dispatcher_is_seen_with_its_rate_and_lag(house: House, receiver: Receiver) -> None:
    """What waits at a receiver that does not answer makes it late, by the second; what was accepted makes its rate."""
    if house.database.kind == "SQLite":
        house.database.claim()
    house.endpoint(receiver.url, concurrency=1)
    receiver.do(hold=True)
    shared = "" if house.database.kind == "SQLite" else NAME
    with house.dispatching(shared=shared, timeout=60.0) as dispatcher:
        reporter = Reporter(house.database, CLOCK, dispatcher, NAME)
        if shared:
            eventually(lambda: len(shards_of(house.database, shared)) == SHARDS)
        house.publish(["ann", "bob", "eve"])
        receiver.wait(1)
        reporter.look()
        before = CLOCK.monotonic()
        [late] = workers.seen(house.database, CLOCK.now())
        eventually(lambda: dispatcher.figures(CLOCK.now().timestamp())[2] > 1)
        receiver.do(status=200)
        eventually(lambda: house.count("pending") == 0)
        eventually(lambda: dispatcher.figures(CLOCK.now().timestamp())[1:] == (3, 0.0))
        most = 3 / (CLOCK.monotonic() - before)
        reporter.look()
        [seen] = workers.seen(house.database, CLOCK.now())
        assert (late.rate, late.lag is not None and 0 < late.lag < 10) == (0.0, True)
        assert (seen.rate is not None and 0 < seen.rate < most + 0.1, seen.lag) == (True, 0.0)
        assert (seen.host, seen.process, seen.version) == (socket.gethostname(), os.getpid(), __version__)
        assert (len(seen.shards), seen.gone) == (SHARDS, False)
        assert abs((seen.last_seen - CLOCK.now()).total_seconds()) < 10


def test_who_does_nothing_writes_nothing(house: House) -> None:
    """A report stands for a minute where there is no news."""
    clock = FakeClock()
    shared = "" if house.database.kind == "SQLite" else NAME
    with house.dispatching(shared=shared) as dispatcher:
        eventually(lambda: not shared or dispatcher.figures(0.0)[0] is not None)
        reporter = Reporter(house.database, clock, dispatcher, NAME)
        for seconds in (0, 5, 50, 6):
            clock.advance(seconds)
            reporter.look()
            with house.database.read() as conn:
                [seen_at] = conn.exec_driver_sql("SELECT seen_at FROM workers").scalars()
            assert clock.now().timestamp() - seen_at == {0: 0, 5: 5, 50: 55, 6: 0}[seconds]


def test_who_ended_without_a_word_is_told_of_for_an_hour(database: Database) -> None:
    """And is not when it was told to end, or when that is longer ago."""
    report(database, process("1"), Figures(77, 5.0, 0.0))
    [gone] = workers.seen(database, CLOCK.now())
    assert (gone.gone, gone.rate, gone.lag, gone.shards, gone.name) == (True, None, None, (), NAME)
    assert workers.seen(database, CLOCK.now() + workers.GONE_FOR) == []
    with database.write() as tx:
        workers.leave(tx, "1")
    assert workers.seen(database, CLOCK.now()) == []


def test_a_process_of_an_older_version_is_seen_without_figures(database: Database) -> None:
    """It reports nothing; what its session says is told. Its number may be one that another had: that one is gone."""
    if database.kind == "SQLite":
        database.claim()
        version = None
        report(
            database,
            process("other", worker_name("run").replace(f"process {os.getpid()}", "process 1")),
            Figures(None, 1.0, 1.0),
        )
        seen, other = workers.seen(database, CLOCK.now())
    else:
        version = "0.0.1"
        with closing(database.shards(f"marzhook 0.0.1 worker, process 7 on {'h' * 60}")) as holder:
            report(database, process("other"), Figures(holder.session, 1.0, 1.0))
            holder.sweep()
            seen, other = workers.seen(database, CLOCK.now())
    assert (seen.version, seen.rate, seen.lag, len(seen.shards), seen.gone) == (version, None, None, SHARDS, False)
    assert seen.host is not None
    assert other.gone


@pytest.mark.postgresql
def test_one_too_many_says_that_it_waits(
    house: House, database_settings: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In its log and in the list; and it takes over from the next one that ends."""
    caplog.set_level("INFO", "marzhook")
    with ExitStack() as others:
        first, *rest = [house.database.shards(f"marzhook 1.0.0 worker, process {n} on other") for n in range(MOST)]
        for holder in (first, *rest):
            others.enter_context(closing(holder))
            holder.sweep()
        assert "waits until" not in marzhook(tmp_path, "workers", **database_settings).stderr
        with house.dispatching(shared=NAME):
            eventually(lambda: "32 processes send already" in caplog.text)
            assert "who has no shards waits until" in marzhook(tmp_path, "workers", **database_settings).stderr
            first.close()
            eventually(lambda: len(shards_of(house.database, NAME)) == 2)


@pytest.mark.postgresql
def test_who_came_first_keeps_its_shards(house: House) -> None:
    """Of more than can have some, whatever numbers the server gives to their sessions."""
    database = house.database
    assert isinstance(database, PostgreSQLDatabase)
    with ExitStack() as ended:
        holders = [database.shards(f"marzhook 1.0.0 worker, process {n} on other") for n in range(MOST)]
        for holder in holders:
            ended.enter_context(closing(holder))
        for holder in holders:
            holder.sweep()
        had = [holder.held for holder in holders]
        late = ended.enter_context(database.connect_directly())
        # The lowest number that there is: one of a server that has come to the end of its numbers and begun anew.
        late.execute("SELECT pg_advisory_lock(%s, 1)", (WORKER,))
        for holder in holders:
            holder.sweep()
            assert (holder.fair, holder.surplus) == (2, frozenset())
        assert [holder.held for holder in holders] == had


def test_the_api_lists_them(api: Api) -> None:
    """To whom may read."""
    database = api.services.database
    with database.write() as tx:
        workers.report(tx, process("1"), Figures(77, 5.0, 0.0), api.clock.now())
    [one] = api.get("/api/v1/workers", headers=api.key("read")).json()["workers"]
    assert (one["host"], one["process"], one["gone"]) == (socket.gethostname(), os.getpid(), True)
    assert one["last_seen"].endswith("Z")
    assert api.get("/api/v1/workers", headers=api.key("usage:write")).status_code == 403


def test_the_table(database: Database, database_settings: dict[str, str], tmp_path: Path) -> None:
    """A line for each, also for one whose name is longer than PostgreSQL keeps; as JSON with all that is known."""
    assert "Nobody delivers" in marzhook(tmp_path, "workers", **database_settings).stdout
    name = f"marzhook 1.2.3 worker, process 4711 on {'h' * 50}"
    report(database, process("1", name), Figures(77, 1234.5, 0.0))
    shown = marzhook(tmp_path, "workers", **database_settings).stdout
    assert "h" * 50 in shown
    assert "gone" in shown
    [one] = as_json(tmp_path, "workers", **database_settings)
    assert (one["name"], one["version"], one["process"], one["shards"]) == (name, "1.2.3", 4711, [])
