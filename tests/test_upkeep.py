"""The upkeep: the files stay small, and the thread that keeps them so is in nobody's way."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from histories import AGES, DAY, World
from holding import held
from marzhook import settings, signals
from marzhook.dispatch.upkeep import PAUSE, Upkeep
from marzhook.runtime import Runtime
from marzhook.store import retention
from marzhook.store.database import Database
from marzhook.telemetry import Metrics
from marzhook.testing import FakeClock, counting


@pytest.fixture
def world(database: Database, clock: FakeClock) -> World:
    return World(database, clock)


@pytest.mark.sqlite
def test_the_files_stay_small(world: World) -> None:
    """However often much is published, delivered and pruned, the database is no longer after ten times than after two, and
    gives back what it does not need; the log is emptied."""
    path = Path(world.database.name)
    log = path.with_name(path.name + "-wal")
    sizes = []
    for cycle in range(10):
        world.live(1500, detail="d" * (8_000 if cycle == 0 else 800))
        world.clock.advance(31 * DAY)
        world.prune()
        assert world.database.checkpoint(keep=0)
        assert log.stat().st_size == 0
        sizes.append(path.stat().st_size)
        if cycle == 0:
            # A spare is kept, of what was some 13 MB.
            assert retention.SPARE * 4096 <= sizes[0] < 2 * retention.SPARE * 4096
            world.check()
    assert max(sizes[2:]) <= sizes[1] * 1.1
    assert world.counts() == [0, 0, 0]


def test_an_older_file_is_left_as_it_is(tmp_path: Path, clock: FakeClock) -> None:
    """A database that was made without auto_vacuum is pruned all the same, and uses its free pages again; it becomes shorter
    only after a VACUUM."""
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        # As a version before made it: in WAL mode from its first page on.
        connection.execute("PRAGMA journal_mode=WAL")
    database = Database.open(f"sqlite:///{path}")
    database.upgrade()
    world = World(database, clock)
    sizes = []
    for cycle in range(3):
        world.live(1500, detail="d" * 8_000)
        clock.advance(31 * DAY)
        world.prune()
        assert database.checkpoint(keep=0)
        sizes.append(path.stat().st_size)
        if cycle == 1:
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
                connection.execute("VACUUM")
    assert sizes[1] <= sizes[0] * 1.01
    assert sizes[2] < sizes[1] / 2
    database.close()


@pytest.mark.sqlite
def test_a_checkpoint_waits_for_nobody(database: Database) -> None:
    """While a reader looks at an older state, or another process writes, a checkpoint does what it can and returns; later it
    empties the log."""
    log = Path(f"{database.name}-wal")
    with closing(sqlite3.connect(database.name, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM meta").fetchall()
        with database.write() as tx:
            database.set_meta(tx, "x", "y" * 100_000)
        assert not database.checkpoint(keep=0)
        other.execute("ROLLBACK")
        other.execute("BEGIN IMMEDIATE")
        assert not database.checkpoint(keep=0)
        assert database.checkpoint(keep=10**6)
        assert log.stat().st_size > 100_000
        other.execute("ROLLBACK")
    assert database.checkpoint(keep=0)
    assert log.stat().st_size == 0


# -- the thread


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def upkeep(world: World, metrics: Metrics) -> Iterator[Upkeep]:
    upkeep = Upkeep(world.database, world.clock, ages=AGES, metrics=metrics)
    yield upkeep
    upkeep.stop(10)


def test_the_thread_prunes_by_itself(
    world: World, upkeep: Upkeep, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins with a pass, makes the next one when its time has come, and counts what it removed."""
    monkeypatch.setattr("marzhook.dispatch.upkeep.CHECK", 0.01)
    world.live(10)
    world.clock.advance(31 * DAY)
    with counting("upkeep.done") as done:
        upkeep.start()
        done.wait(1)
        assert world.counts() == [0, 0, 0]
        world.live(5)
        world.clock.advance(31 * DAY)
        done.wait(2)
    assert world.counts() == [0, 0, 0]
    text = metrics.render()[0].decode()
    assert 'marzhook_pruned_total{what="deliveries"} 30.0' in text
    assert 'marzhook_pruned_total{what="events"} 15.0' in text


@pytest.mark.sqlite
def test_the_log_stays_short_during_a_long_pass(world: World, upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody else writes, a pass over a long history does not let the log grow with it."""
    monkeypatch.setattr("marzhook.dispatch.upkeep.COPIED_AFTER", 10)
    monkeypatch.setattr("marzhook.dispatch.upkeep.LOG_KEPT", 400_000)
    log = Path(f"{world.database.name}-wal")
    world.live(3000, detail="d" * 800)
    world.database.checkpoint(keep=0)
    world.clock.advance(31 * DAY)
    longest = []
    with signals.listening("prune.after_commit", lambda: longest.append(log.stat().st_size)):
        upkeep.pass_once()
    assert world.counts() == [0, 0, 0]
    assert max(longest) < 2_000_000


def test_the_thread_survives_a_locked_database(
    world: World, reopen: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another program holds the database nothing is removed, and afterwards the upkeep goes on."""
    monkeypatch.setattr("marzhook.dispatch.upkeep.CHECK", 0.01)
    world.live(10)
    world.clock.advance(31 * DAY)
    upkeep = Upkeep(reopen(busy_timeout=0.02), world.clock, ages=AGES)
    with counting("upkeep.done") as done:
        with held(world.database):
            upkeep.start()
            with pytest.raises(TimeoutError):
                done.wait(timeout=0.3)
        done.wait(timeout=10)
    upkeep.stop(10)
    assert world.counts() == [0, 0, 0]


def test_a_stop_interrupts_a_long_pass(world: World, upkeep: Upkeep) -> None:
    """Told to stop, it finishes the step at hand and no other; what it removed is counted."""
    world.live(1000)
    world.clock.advance(31 * DAY)
    with counting("prune.after_commit") as committed, counting("upkeep.done") as done:
        upkeep.start()
        committed.wait(3)
        upkeep.stop(10)
        at_stop = committed.count
    assert done.count == 1
    assert at_stop < 15
    assert world.counts()[0] > 1000
    world.check()


def test_a_pass_that_was_broken_off_is_made_anew_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it was another process's for a moment, what was left is removed as soon as it is this one's again."""
    monkeypatch.setattr("marzhook.dispatch.upkeep.CHECK", 0.01)
    monkeypatch.setattr("marzhook.dispatch.upkeep.COPIED_AFTER", 1)
    world.live(1000)
    world.clock.advance(31 * DAY)
    answers = iter([True, False, False])
    upkeep = Upkeep(world.database, world.clock, ages=AGES, mine=lambda: next(answers, True))
    with counting("upkeep.done") as done:
        upkeep.start()
        done.wait(2)
        upkeep.stop(10)
    assert world.counts() == [0, 0, 0]


def test_writers_who_had_to_wait_have_their_turn(world: World, upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a step kept them out (on SQLite), the next one is three times as long in coming; on PostgreSQL nobody waits."""
    world.live(300)
    world.clock.advance(31 * DAY)
    pauses: list[float] = []

    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return False

    monkeypatch.setattr(upkeep, "_stopping", Impatient())
    assert upkeep.pass_once()
    assert world.counts() == [0, 0, 0]
    assert (max(pauses) > PAUSE) == world.database.one_writer


def test_the_service_prunes_by_its_settings(world: World, database_settings: dict[str, str]) -> None:
    """A running service removes what is older than MARZHOOK_RETENTION_DAYS."""
    kept_for_two_days = {**database_settings, "MARZHOOK_RETENTION_DAYS": "2"}
    world.live(5)
    world.clock.advance(1.5 * DAY)
    fresh = world.live(5)
    world.clock.advance(DAY)
    with counting("upkeep.done") as done:
        runtime = Runtime(settings.load(kept_for_two_days, None), clock=world.clock)
        runtime.start()
        done.wait()
        runtime.stop()
    assert world.ids("events") == world.ids("settled") == fresh
