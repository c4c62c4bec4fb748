"""Retention: what is too old goes, in small steps, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from histories import AGES, DAY, World
from marzhook import signals
from marzhook.delivery import CANCELLED, DEAD, DELIVERED, PENDING
from marzhook.event import NewEvent
from marzhook.store import endpoints, retention, schema
from marzhook.store.database import Database
from marzhook.store.outbox import DeliveryFilter, Outbox
from marzhook.store.retention import Retention
from marzhook.store.steps import BATCH, LEAST
from marzhook.testing import FakeClock
from settling import settlement

SCRIPT = Path(__file__).with_name("retention_process.py")


@pytest.fixture
def world(database: Database, clock: FakeClock) -> World:
    return World(database, clock)


@pytest.mark.parametrize(("state", "days"), [(DELIVERED, 30), (CANCELLED, 30), (DEAD, 90)])
def test_each_end_has_its_age(world: World, state: str, days: int) -> None:
    """A delivery goes with its attempts when it was settled longer ago than its setting says, not a moment before, and its
    event with it."""
    early = world.live(3, state)
    world.clock.advance(DAY)
    late = world.live(3, state)
    world.clock.advance((days - 1) * DAY)
    world.prune()
    assert world.ids("settled") == early + late
    world.clock.advance(0.001)
    world.prune()
    assert world.ids("settled") == world.ids("events") == late
    assert set(world.ids("attempts")) <= set(late)
    world.check()


def test_what_is_still_owed_stays_whatever_its_age(world: World) -> None:
    """An event that one endpoint has had is kept for years while another is owed it; with its last delivery it goes."""
    ids = world.publish(5)
    world.settle(world.one, DELIVERED, ids)
    world.settle(world.two, PENDING, ids[:1])
    world.clock.advance(1000 * DAY)
    world.prune()
    assert world.ids("settled") == []
    assert world.ids("pending") == world.ids("events") == ids
    assert world.sql("SELECT endpoint_id, event_id FROM attempts") == [(world.two, ids[0])]
    assert [d.event.id for d in world.outbox.window(world.two, after=0, limit=10)] == ids
    world.settle(world.two, DELIVERED, ids)
    world.clock.advance(30 * DAY + 1)
    world.prune()
    assert world.counts() == [0, 0, 0]
    # Receivers know events by their ids: those that are gone are not used again.
    assert world.publish(1)[0] > ids[-1]


def test_an_event_that_nobody_wanted_goes_too(database: Database, outbox: Outbox, clock: FakeClock) -> None:
    """Without any endpoint events are kept for the same time."""
    with database.write() as tx:
        outbox.publish(tx, [NewEvent("user_created", "u")] * 300, now=clock.now())
    pruner = Retention(database, AGES)
    clock.advance(30 * DAY)
    assert sum(step.removed.get("events", 0) for step in pruner.steps(clock.now())) == 0
    clock.advance(1)
    assert sum(step.removed.get("events", 0) for step in pruner.steps(clock.now())) == 300


def test_the_deliveries_of_a_deleted_endpoint_go(world: World) -> None:
    """An endpoint that was deleted long ago holds nothing back."""
    world.publish(4)
    with world.database.write() as tx:
        endpoints.delete(tx, world.one, now=world.clock.now())
    world.settle(world.two, DELIVERED, world.ids("events"))
    world.clock.advance(31 * DAY)
    world.prune()
    assert world.counts() == [0, 0, 0]


def test_dead_letters_can_be_kept_shorter(database: Database, clock: FakeClock) -> None:
    """Where dead letters' age is the shorter one, they go first, and their events when these are old enough."""
    world = World(database, clock, replace(AGES, dead=timedelta(days=2)))
    delivered, dead = world.live(3), world.live(3, DEAD)
    clock.advance(3 * DAY)
    world.prune()
    assert world.ids("settled") == delivered
    assert world.ids("events") == delivered + dead
    clock.advance(30 * DAY)
    world.prune()
    assert world.counts() == [0, 0, 0]


def test_a_replay_takes_a_delivery_out_of_retention(world: World) -> None:
    """What is replayed before its turn is owed again and stays; afterwards its age counts anew. What was pruned cannot be
    replayed, and does not come back."""
    ids = world.live(300, DEAD)
    world.clock.advance(91 * DAY)
    steps = world.retention.steps(world.clock.now())
    # Between two steps: some were found, and not yet removed.
    next(step for step in steps if step.removed)
    with world.database.write() as tx:
        replayed = world.outbox.replay(tx, DeliveryFilter(), now=world.clock.now(), limit=10**6)
    assert 0 < replayed < 600
    owed = world.sql("SELECT endpoint_id, event_id FROM pending ORDER BY 1, 2")
    list(steps)
    assert world.sql("SELECT endpoint_id, event_id FROM pending ORDER BY 1, 2") == owed
    assert world.ids("settled") == []
    assert world.ids("events") == sorted({event_id for _, event_id in owed})
    world.check()
    for endpoint in (world.one, world.two):
        rows = world.outbox.window(endpoint, after=0, limit=1000)
        assert [d.attempts for d in rows] == [1] * len(rows)
        world.settle(endpoint, DELIVERED, [d.event.id for d in rows])
    world.clock.advance(29 * DAY)
    world.prune()
    assert world.counts()[0] == replayed
    assert world.counts()[2] <= len(ids)
    world.check()


def test_a_step_removes_few_rows_and_the_others_go_on(world: World) -> None:
    """With months of history, no transaction of retention removes more than its batch; between any two of them others
    publish and settle, and all that they wrote is there at the end."""
    kept: list[int] = []
    for _ in range(4):
        world.live(500)
        kept += world.live(20, DEAD)
        world.clock.advance(10 * DAY)
    kept += world.live(30)
    world.clock.advance(29 * DAY)
    before, fresh = sum(world.counts()), []
    for step in world.retention.steps(world.clock.now()):
        now = sum(world.counts())
        assert before - now == sum(step.removed.values()) <= BATCH
        if step.removed and len(fresh) < 60:
            fresh += world.live(1)
        before = sum(world.counts())
    assert len(fresh) == 60
    assert world.ids("events") == world.ids("settled") == kept + fresh
    world.check()


def test_an_endless_story_goes_bit_by_bit(world: World) -> None:
    """A delivery with more attempts, or longer responses, than one transaction may remove goes over several, the oldest first;
    one that is replayed between them keeps what it has left."""
    for _ in range(2):
        (id_,) = world.publish(1)
        world.settle(world.one, DELIVERED, [id_])
        for number in range(300):
            (delivery,) = world.outbox.load(world.two, [id_])
            state = DEAD if number == 299 else PENDING
            failed = settlement(delivery, state, 500, world.clock)
            attempt = failed.attempt._replace(response="x" * 16_384 if number % 3 else "")
            world.outbox.settle([failed._replace(attempt=attempt)], now=world.clock.now())
    first, second = world.ids("events")
    world.clock.advance(91 * DAY)
    attempts = 0
    for step in world.retention.steps(world.clock.now()):
        assert sum(step.removed.values()) <= BATCH // 5 or "events" in step.removed
        attempts += step.removed.get("attempts", 0)
        left = world.sql(
            f"SELECT number FROM attempts WHERE event_id = {second} AND endpoint_id = {world.two} ORDER BY 1"
        )
        if 0 < len(left) < 200:
            with world.database.write() as tx:
                which = DeliveryFilter(event_id=second)
                world.outbox.replay(tx, which, now=world.clock.now())
            replayed = left
    assert attempts > 300
    assert world.ids("events") == [second]
    assert first not in world.ids("attempts")
    assert world.sql("SELECT number FROM attempts ORDER BY 1") == replayed
    assert replayed[-1] == (300,)


def test_a_slow_disk_gets_smaller_steps(world: World) -> None:
    """Where a step kept the others waiting for too long the next ones are smaller, and larger again when that is over."""
    world.live(800)
    world.clock.advance(31 * DAY)
    sizes: list[int] = []
    slow = True

    def take_time() -> None:
        # What a step's commit does on a disk that has other things to do.
        world.clock.advance(0.2 if slow else 0.001)

    with signals.listening("prune.before_commit", take_time):
        for step in world.retention.steps(world.clock.now()):
            if step.removed:
                assert step.held == pytest.approx(0.2 if slow else 0.001)
                sizes.append(sum(step.removed.values()))
            slow = len(sizes) < 20
    assert max(sizes[6:20]) <= LEAST
    assert max(sizes[20:]) > BATCH // 2
    world.check()


@pytest.mark.parametrize("nth", [1, 4, 9])
@pytest.mark.parametrize("point", ["prune.before_commit", "prune.after_commit"])
def test_a_kill_leaves_a_consistent_history(
    world: World, database_settings: dict[str, str], point: str, nth: int
) -> None:
    """Killed in the middle of a transaction of retention or between two, a process leaves whole deliveries, and the next pass
    removes the rest."""
    world.live(150)
    kept = world.live(10, DEAD)
    world.clock.advance(31 * DAY)
    arguments = [str(world.clock.now().timestamp()), point, str(nth)]
    child = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], env=os.environ | database_settings, check=False, timeout=60
    )
    assert child.returncode == -9
    left = sum(world.counts())
    # What was not committed is there, what was is gone.
    assert (left == 800) == (point == "prune.before_commit" and nth == 1)
    assert left > 50
    world.check()
    world.prune()
    assert world.ids("events") == world.ids("settled") == kept
    assert world.counts() == [20, 20, 10]


# -- what else grows


def test_old_keys_and_old_traffic_go(world: World) -> None:
    """Idempotency keys go after a day, hours of traffic after 400, a few rows at a time."""
    hour = int(world.clock.now().timestamp()) // 3600 * 3600
    with world.database.write() as tx:
        texts = dict.fromkeys(("proxies", "inbounds", "excluded_inbounds", "links", "subscription_url"), "")
        tx.conn.execute(
            sa.insert(schema.users),
            [
                {"id": n, "username": f"u{n}", "username_key": f"u{n}", "status": "active", "created_at": 0.0,
                 "data_limit_reset_strategy": "no_reset", **texts}
                for n in range(1, 600)
            ],
        )  # fmt: skip
        tx.conn.execute(
            sa.insert(schema.traffic),
            [{"user_id": n, "hour": hour + 3600 * j, "bytes": 1} for n in range(1, 600) for j in range(3)],
        )
        now = world.clock.now().timestamp()
        tx.conn.execute(
            sa.insert(schema.idempotency_keys),
            [
                {"owner": "me", "key": str(n), "request_hash": b"\0", "response": "", "created_at": now + n}
                for n in range(1000)
            ],
        )
    world.clock.advance(DAY + 499.5)
    steps = world.prune()
    assert world.sql("SELECT count(*), min(CAST(key AS INTEGER)) FROM idempotency_keys") == [(500, 500)]
    world.clock.advance(399 * DAY)
    steps += world.prune()
    assert world.sql("SELECT count(*) FROM idempotency_keys") == [(0,)]
    assert world.sql("SELECT hour, count(*) FROM traffic GROUP BY 1 ORDER BY 1") == [
        (hour + 3600, 599),
        (hour + 7200, 599),
    ]
    assert max(sum(step.removed.values()) for step in steps) <= BATCH


# -- plans

ANYWHERE = {"endpoint": 1, "after": 0, "last": 10**6, "limit": 100, "before": 1e12, "ids": "[1]", "event": 1}
ATTEMPTS, SETTLED = (
    "attempts {} USING PRIMARY KEY (endpoint_id=? AND event_id=?",
    "USING PRIMARY KEY (endpoint_id=? AND",
)


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (retention.SETTLED, ["d USING PRIMARY KEY (endpoint_id=? AND event_id>? AND event_id<?)",
                             "a USING PRIMARY KEY (endpoint_id=? AND event_id=?)"]),
        (retention.DEAD, ["ix_settled_undelivered (state=? AND endpoint_id=? AND event_id>? AND event_id<?)",
                          "d USING PRIMARY KEY (endpoint_id=? AND event_id=?)",
                          "a USING PRIMARY KEY (endpoint_id=? AND event_id=?)"]),
        (retention.FORGET_SETTLED, ["settled USING PRIMARY KEY (endpoint_id=? AND event_id=?)"]),
        (retention.FORGET_ATTEMPTS, ["attempts USING PRIMARY KEY (endpoint_id=? AND event_id=?)",
                                     "s USING PRIMARY KEY (endpoint_id=? AND event_id=?)"]),
        (retention.FORGET_SOME_ATTEMPTS, ["attempts USING PRIMARY KEY (endpoint_id=? AND event_id=? AND number=?)",
                                          "settled USING PRIMARY KEY (endpoint_id=? AND event_id=?)"]),
        (retention.NEXT_EVENT, ["events USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"]),
        (retention.EVENTS, ["e USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",
                            "f USING COVERING INDEX ix_events_username_id (username=? AND id=?",
                            "s USING PRIMARY KEY (endpoint_id=? AND event_id>? AND event_id<?)",
                            "p USING PRIMARY KEY (endpoint_id=? AND event_id>? AND event_id<?)"]),
        (retention.FORGET_EVENTS, ["events USING INTEGER PRIMARY KEY (rowid=?)"]),
        (retention.KEYS, ["ix_idempotency_keys_created_at (created_at<?)"]),
        (retention.NEXT_USERS, ["users USING INTEGER PRIMARY KEY (rowid>?)"]),
        (retention.TRAFFIC, ["u USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",
                             "t USING PRIMARY KEY (user_id=? AND hour<?)"]),
    ],
    ids=["settled", "dead", "forget settled", "forget attempts", "forget some", "next", "events", "forget events", "keys",
         "users", "traffic"],
)  # fmt: skip
def test_the_plans_of_retention(world: World, query: sa.TextClause, wanted: list[str]) -> None:
    """Everything is found and removed by its key: no table that grows is scanned, nothing is sorted, ANALYZE or not."""
    world.live(300)
    world.live(3, DEAD)
    values = {"first": 1, "final": 100, "dead": False, **ANYWHERE}
    for _ in range(2):
        with world.database.read() as conn:
            plan = [row[3] for row in conn.execute(sa.text(f"EXPLAIN QUERY PLAN {query.text}"), values)]
        steps = "\n".join(plan)
        for part in wanted:
            assert any(part in step and step.startswith("SEARCH") for step in plan), steps
        assert "TEMP B-TREE" not in steps, steps
        # Endpoints are few, and each has its own stretch of the key; the ids come from a table function.
        scans = [step.split()[1] for step in plan if step.startswith("SCAN")]
        assert set(scans) <= {"n", "j", "json_each"}, steps
        world.sql("ANALYZE")
