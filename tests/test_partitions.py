"""History in partitions, on PostgreSQL: made ahead, dropped when too old, and nobody who writes has to know."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from former import working
from histories import AGES, DAY, World
from marzhook import signals
from marzhook.delivery import CANCELLED, DEAD, DELIVERED, PENDING
from marzhook.store import endpoints, history, migrations, partitions, retention
from marzhook.store.database import Database
from marzhook.store.outbox import DeliveryFilter
from marzhook.store.partitions import Partition, Partitions
from marzhook.store.retention import Retention
from marzhook.store.steps import Step
from marzhook.testing import FakeClock, eventually
from settling import settlement

pytestmark = pytest.mark.postgresql

SCRIPT = Path(__file__).with_name("retention_process.py")
LEAST, SMALL = 400, 2 * 8192
"""Partitions so small that some hundred events fill several: two pages hold some 250 deliveries."""


@pytest.fixture
def world(database: Database, clock: FakeClock) -> World:
    return partitioned(World(database, clock))


def partitioned(world: World) -> World:
    parts = Partitions(world.database, least=LEAST, small=SMALL)
    # By a clock that hardly moves, on which no machine is slow: steps are large, and one sees which rows went one by one, for
    # those steps held writers up.
    moments = count()
    world.retention = Retention(world.database, AGES, partitions=parts, monotonic=lambda: next(moments) * 1e-6)
    return world


def found(world: World) -> list[Partition]:
    """All partitions, of which each begins where the one before it ends."""
    found = Partitions(world.database).all()
    assert found[0].low is None
    assert found[-1].high is None
    assert [one.high for one in found[:-1]] == [one.low for one in found[1:]]
    assert len({one.number for one in found}) == len(found)
    for table in partitions.TABLES:
        names = world.sql(f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{table}'::regclass")
        assert sorted(names) == sorted((f"{table}_{one.number}",) for one in found)
    return found


def months(world: World, count: int, dead: int = 0) -> list[int]:
    """Ten days each, with a pass at the end of each, as an upkeep would; returns the dead ones."""
    kept = []
    for _ in range(count):
        world.live(500)
        kept += world.live(dead, DEAD) if dead else []
        world.prune()
        world.clock.advance(10 * DAY)
    return kept


def test_the_next_partition_is_there_before_it_is_needed(world: World) -> None:
    """With a pass now and then, ids never reach the last partition, which has no end; without any, all goes into that, and the
    next pass gives it an end behind them."""
    for _ in range(12):
        world.prune()
        assert found(world)[-1].low > world.live(150)[-1]  # type: ignore[operator]
    assert 4 <= len(found(world)) <= 6
    late = world.live(3000)
    last = found(world)[-1]
    assert last.size > 0
    world.prune()
    *_, full, empty = found(world)
    assert (full.number, full.low) == (last.number, last.low)
    assert full.high == empty.low > late[-1]
    assert empty.size == 0
    assert world.sql("SELECT conname FROM pg_constraint WHERE conname = 'within'") == []
    world.check()


def test_a_busy_service_gets_few_partitions(world: World) -> None:
    """A partition holds what is published in two days, where that is more than the least: there are never many."""
    for _ in range(30):
        world.live(700)
        world.prune()
        world.clock.advance(DAY)
    assert len(found(world)) <= partitions.SPANS + 3


def test_what_is_too_old_goes_as_a_table(world: World) -> None:
    """Where nothing of a partition is to be kept, no row is deleted one by one, and the events go, too."""
    months(world, 3)
    many = len(found(world))
    world.clock.advance(31 * DAY)
    deleted: Counter[str] = Counter()
    for step in world.prune():
        deleted.update(step.removed if step.held else {})
    # What lies in the partition that is filled just now is few.
    assert deleted["deliveries"] < 1000 < 3000 - deleted["deliveries"]
    assert world.counts() == [0, 0, 0]
    assert len(found(world)) < many
    world.check()


def test_what_was_settled_late_goes_as_a_table_too(world: World) -> None:
    """Behind a backlog of two days a partition is too old before most of its rows are: it waits, and is dropped then."""
    world.prune()
    backlog = deque([world.publish(150), world.publish(150)])
    by_row, in_all = Counter[str](), Counter[str]()
    for _ in range(40):
        world.clock.advance(DAY)
        backlog.append(world.publish(150))
        ids = backlog.popleft()
        for endpoint in (world.one, world.two):
            world.settle(endpoint, DELIVERED, ids)
        for step in world.prune():
            in_all.update(step.removed)
            by_row.update(step.removed if step.held else {})
    # What was still young when its partition went.
    assert by_row["deliveries"] * partitions.FEW < in_all["deliveries"]
    world.check()


def test_what_is_counted_is_what_went(world: World) -> None:
    """The passes tell of each row that went, once, however it went."""
    months(world, 3, dead=20)
    before = world.counts()
    world.clock.advance(31 * DAY)
    removed: Counter[str] = Counter()
    for step in world.prune():
        removed.update(step.removed)
    gone = [then - now for then, now in zip(before, world.counts(), strict=True)]
    assert [removed[what] for what in ("deliveries", "attempts", "events")] == gone


def test_dead_letters_move_together(world: World) -> None:
    """What is to be kept of old partitions comes to lie in one small one; it is found, replayed, settled anew, and goes in its
    own time."""
    dead = months(world, 4, dead=5)
    world.clock.advance(35 * DAY)
    world.prune()
    assert world.ids("settled") == world.ids("events") == dead
    first, *rest = found(world)
    assert 0 < first.size <= SMALL
    assert first.high is not None
    assert first.high > dead[-2]
    assert len(rest) <= 3
    world.check()
    with world.database.read() as conn:
        listed = history.deliveries(conn, DeliveryFilter(states=(DEAD,)), limit=1000)
    assert [row.key for row in listed] == [(i, e) for i in reversed(dead) for e in (world.two, world.one)]
    with world.database.write() as tx:
        assert world.outbox.replay(tx, DeliveryFilter(event_id=dead[0]), now=world.clock.now()) == 2
    world.settle(world.one, DELIVERED, dead[:1])
    world.settle(world.two, DEAD, dead[:1])
    assert world.sql(f"SELECT state, attempts FROM settled WHERE event_id = {dead[0]} ORDER BY 1") == [
        (DEAD, 2),
        (DELIVERED, 2),
    ]
    world.clock.advance(89 * DAY)
    world.prune()
    assert world.sql("SELECT event_id, state FROM settled") == [(dead[0], DEAD)]
    world.clock.advance(2 * DAY)
    world.prune()
    assert world.counts() == [0, 0, 0]


def test_where_much_is_to_be_kept_the_rest_goes_by_the_row(world: World) -> None:
    """An outage of days leaves more dead letters than are worth moving: the delivered go as on SQLite."""
    dead = months(world, 3, dead=250)
    before = {one.number for one in found(world)}
    world.clock.advance(34 * DAY)
    world.prune()
    assert world.ids("settled") == dead
    assert {one.number for one in found(world)} == before
    world.check()
    world.clock.advance(60 * DAY)
    world.prune()
    assert world.counts() == [0, 0, 0]


@pytest.mark.parametrize("enabled", [True, False])
def test_what_is_owed_keeps_its_event_and_its_tries(world: World, enabled: bool) -> None:
    """Of a partition that goes, what is still owed keeps all that it has; where it may be settled at any moment, the rows
    around it go one by one."""
    months(world, 1)
    owed = world.publish(10)
    world.settle(world.two, DELIVERED, owed)
    world.settle(world.one, PENDING, owed[:5])
    with world.database.write() as tx:
        if not enabled:
            endpoints.disable(tx, world.one, "on the dashboard")
    months(world, 3)
    before = [one for one in found(world) if (one.low or 0) <= owed[0] < (one.high or owed[0])]
    world.clock.advance(34 * DAY)
    world.prune()
    assert (before[0].number in {one.number for one in found(world)}) is enabled
    assert world.ids("pending") == world.ids("events") == owed
    assert world.sql("SELECT endpoint_id, event_id FROM attempts ORDER BY 2") == [(world.one, i) for i in owed[:5]]
    world.check()
    world.settle(world.one, DELIVERED, owed)
    assert world.ids("settled") == owed


@pytest.mark.parametrize("seed", range(2))
def test_nothing_goes_too_early_and_nothing_stays_too_long(world: World, seed: int) -> None:
    """Whatever became of each delivery and when, a pass leaves what is younger than its age, and nothing that is older by
    more than a tenth."""
    chance = random.Random(seed)
    settled_at: dict[tuple[int, int], tuple[str, float]] = {}
    open_: list[tuple[int, int]] = []
    for _ in range(16):
        for event_id in world.publish(chance.choice([50, 400])):
            open_ += [(world.one, event_id), (world.two, event_id)]
        for state, share in ((DELIVERED, 0.97), (DEAD, 0.3), (CANCELLED, 0.02)):
            for endpoint in (world.one, world.two):
                some = [key for key in open_ if key[0] == endpoint and chance.random() < share]
                some = some[:10] if state == CANCELLED else some
                world.settle(endpoint, state, [event_id for _, event_id in some])
                for key in some:
                    settled_at[key] = (state, world.clock.now().timestamp())
                    open_.remove(key)
        world.prune()
        now = world.clock.now().timestamp()
        there = {(e, i): state for e, i, state in world.sql("SELECT endpoint_id, event_id, state FROM settled")}
        for key, (state, at) in settled_at.items():
            age = (AGES.dead if state == DEAD else AGES.settled).total_seconds()
            if now - at <= age:
                assert there[key] == state
            elif now - at > age * (1.1 if state != DEAD else 1):
                assert key not in there
        assert sorted(world.sql("SELECT endpoint_id, event_id FROM pending")) == sorted(open_)
        world.check()
        found(world)
        world.clock.advance(chance.choice([1, 5, 20]) * DAY)


# -- others at the same time


def test_others_publish_and_settle_all_the_while(world: World) -> None:
    """While partitions are made and dropped, publishing, settling, replaying and reading go on without an error, and each
    delivery is there at the end."""
    months(world, 3, dead=5)
    old = world.ids("settled")
    world.clock.advance(35 * DAY)
    ids: list[int] = []
    failures: list[BaseException] = []
    over = threading.Event()

    def go_on(work: Callable[[], object]) -> None:
        try:
            while not over.is_set():
                work()
        except BaseException as error:
            failures.append(error)

    def replay() -> None:
        with world.database.write() as tx:
            which = DeliveryFilter(endpoint_id=world.one, states=(DEAD,))
            world.outbox.replay(tx, which, now=world.clock.now(), limit=3)
        owed = [d.event.id for d in world.outbox.window(world.one, after=0, limit=20) if d.event.id in old]
        world.settle(world.one, DEAD, owed)

    def read() -> None:
        with world.database.read() as conn:
            history.deliveries(conn, DeliveryFilter(), limit=50)

    work = (lambda: ids.extend(world.live(20)), replay, read)
    threads = [threading.Thread(target=go_on, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for _ in range(4):
        world.prune()
    over.set()
    for thread in threads:
        thread.join(30)
    assert failures == []
    world.prune()
    # Of what was dead some became owed again, and died anew; all of it is less than 90 days old.
    owed = world.sql("SELECT endpoint_id, event_id FROM pending")
    assert len(world.sql("SELECT * FROM settled WHERE state = 'dead'")) + len(owed) == 30
    assert set(ids) <= set(world.ids("settled"))
    assert world.sql(f"SELECT count(*) FROM settled WHERE event_id >= {ids[0]}") == [(2 * len(ids),)]
    world.check()
    found(world)


def test_who_settles_into_an_old_partition_waits_and_is_not_lost(world: World) -> None:
    """A settlement that comes while what is to be kept is copied waits until the partition gives way to it, and stays."""
    months(world, 1)
    (owed,) = world.publish(1)
    world.settle(world.two, DELIVERED, [owed])
    with world.database.write() as tx:
        endpoints.disable(tx, world.one, "on the dashboard")
    months(world, 3)
    world.clock.advance(34 * DAY)
    settling: list[threading.Thread] = []

    def settle() -> None:
        if not settling:
            settling.append(threading.Thread(target=world.settle, args=(world.one, DELIVERED, [owed])))
            settling[0].start()
            # It has begun, and waits for the tables that are copied.
            eventually(lambda: world.sql("SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'relation'"))

    with signals.listening("partitions.copied", settle):
        world.prune()
    settling[0].join(30)
    world.check()
    world.prune()
    assert world.sql("SELECT endpoint_id, event_id FROM settled") == [(world.one, owed)]
    world.check()


def test_a_failed_try_does_not_wait_for_what_is_replaced(world: World) -> None:
    """An endpoint that answers 500 meanwhile does not stop the settler, nor do its failures bring the replacing to nothing."""
    months(world, 3)
    before = found(world)
    world.clock.advance(34 * DAY)
    (owed,) = world.publish(1)
    tried: list[int] = []

    def fail() -> None:
        world.settle(world.one, PENDING, [owed])
        tried.append(owed)

    with signals.listening("partitions.copied", fail):
        world.prune()
    assert tried
    assert found(world) != before
    world.check()


def test_a_replay_does_not_wait_for_what_is_replaced(world: World) -> None:
    """Nor does a cancelled delivery's late answer: of history they touch the partitions of their own events alone."""
    months(world, 3)
    before = found(world)
    world.clock.advance(34 * DAY)
    dead, late = world.publish(2)
    world.settle(world.one, DEAD, [dead])
    [on_its_way] = world.outbox.load(world.one, [late])
    world.settle(world.one, CANCELLED, [late])
    done: list[int] = []

    def replay() -> None:
        world.outbox.settle([settlement(on_its_way, PENDING, 500, world.clock)], now=world.clock.now())
        with world.database.write() as tx:
            which = DeliveryFilter(event_id=dead)
            done.append(world.outbox.replay(tx, which, now=world.clock.now()))

    with signals.listening("partitions.copied", replay):
        world.prune()
    assert done[:1] == [1]
    assert found(world) != before
    world.check()


def test_a_long_reader_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody reads history in one long transaction (a dump, say) nothing is dropped, no writer is held up for long,
    and the next pass after it does what is due."""
    monkeypatch.setattr(partitions, "TRIES", 2)
    monkeypatch.setattr(partitions, "PAUSE", 0.05)
    months(world, 3)
    before = found(world)
    world.clock.advance(31 * DAY)
    with world.database.read() as reader:
        reader.exec_driver_sql("SELECT count(*) FROM settled")
        world.prune()
        assert {one.number for one in before} <= {one.number for one in found(world)}
        world.live(5)
    world.prune()
    assert world.counts() == [10, 10, 5]
    assert len(found(world)) < len(before)


def test_an_event_stays_that_an_old_snapshot_sees_no_delivery_of(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads in a snapshot from before a partition was replaced finds the new one empty: of two processes that both take
    themselves for the caretaker, the one must not remove the events of the dead letters that the other has just moved."""
    dead = []
    for _ in range(3):
        dead += world.live(5, DEAD)
        world.live(500)
        world.prune()
    world.clock.advance(31 * DAY)
    other = partitioned(World(world.database, world.clock)).retention
    before = found(world)
    # This one was kept from dropping any.
    parts = Partitions(world.database, least=LEAST, small=SMALL)
    monkeypatch.setattr(parts, "drop", lambda *_: iter(()))
    mine = Retention(world.database, AGES, partitions=parts)
    moved: list[Step] = []

    def late(conn: sa.Connection, statement: object, *_: object) -> None:
        if statement is retention.EVENTS and not moved:
            conn.exec_driver_sql("SELECT count(*) FROM users")
            moved.append(Step())
            moved.extend(other.steps(world.clock.now()))

    sa.event.listen(sa.Engine, "before_execute", late)
    try:
        for _ in mine.steps(world.clock.now()):
            pass
    finally:
        sa.event.remove(sa.Engine, "before_execute", late)
    assert found(world)[0].number > before[-1].number
    assert set(dead) <= set(world.ids("events"))
    world.check()


@pytest.mark.parametrize(
    ("point", "nth"),
    [("partitions.checked", 1), ("partitions.before_commit", 1), ("partitions.copied", 1), ("partitions.copied", 2),
     ("partitions.before_commit", 2), ("partitions.before_commit", 3)],
)  # fmt: skip
def test_a_kill_leaves_whole_tables(world: World, database_settings: dict[str, str], point: str, nth: int) -> None:
    """Killed while it makes a partition or puts one in the place of others, a process leaves all rows where they were, and
    the next pass goes on."""
    dead = months(world, 3, dead=5)
    fresh = world.live(500)
    world.clock.advance(31 * DAY - 10 * DAY)
    before = world.counts()
    arguments = [str(world.clock.now().timestamp()), point, str(nth), str(LEAST), str(SMALL)]
    child = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], env=os.environ | database_settings, check=False, timeout=60
    )
    assert child.returncode == -9
    world.check()
    found(world)
    # The first that is committed is the one that was made ahead.
    dropped = nth - 1 if point == "partitions.copied" else nth - 2
    assert (world.counts() == before) == (dropped <= 0)
    ids = world.live(10)
    world.prune()
    assert [i for i in world.ids("settled") if i in dead or i >= fresh[0]] == dead + fresh + ids
    world.check()
    assert len(found(world)) < 8


# -- the migration


@pytest.fixture
def old(reopen: Callable[..., Database]) -> Database:
    """At the version before partitions, in a database of its own."""
    database = reopen()
    with database.write() as tx:
        tx.conn.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        migrations.upgrade(tx.conn, migrations.revisions()[migrations.revisions().index("0010") - 1])
        tx.conn.exec_driver_sql("INSERT INTO meta (key, value) VALUES ('instance', 'abcd0123')")
        database.vault.found(tx.conn)
    return database


@pytest.mark.usefixtures("old")
def test_the_tables_that_were_there_become_the_first_partitions(
    database_settings: dict[str, str], reopen: Callable[..., Database], clock: FakeClock, tmp_path: Path
) -> None:
    """No row is copied: the files stay the same. A process of the version before goes on publishing, settling and pruning, and
    what it wrote is pruned by this one's."""
    with working(tmp_path, database_settings) as before:
        kept = before("live", 700) and before("live", 5, DEAD)
        owed = before("publish", 3)
        tables = ("settled", "attempts", "pending")
        rows = [sorted(before("sql", f"SELECT * FROM {table}")) for table in tables]
        files = [before("sql", f"SELECT pg_relation_filenode('{table}')") for table in tables[:2]]
        upgraded = reopen()
        upgraded.upgrade()
        assert [before("sql", f"SELECT pg_relation_filenode('{table}_1')") for table in tables[:2]] == files
        for table, were in zip(tables, rows, strict=True):
            # Columns that came later are the last ones.
            assert sorted(row[: len(were[0])] for row in before("sql", f"SELECT * FROM {table}")) == were
        # The old process, with the new one beside it.
        before("live", 10)
        world = World(upgraded, clock, there=[id_ for (id_,) in before("sql", "SELECT id FROM endpoints ORDER BY id")])
        before("settle", world.one, DELIVERED, owed)
        clock.advance(31 * DAY)
        before("advance", 31 * DAY)
        before("prune")
        assert world.ids("settled") == kept
        before("live", 600)
    partitioned(world).prune()
    assert len(found(world)) == 2
    world.live(1000)
    world.prune()
    clock.advance(34 * DAY)
    world.prune()
    assert world.ids("settled") == kept
    assert world.ids("pending") == owed
    world.check()
