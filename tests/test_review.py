"""The review: what time does to users, at its time, whatever else is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from holding import held
from marzhook.event import PANEL_ACTIONS
from marzhook.sources.registry import Registry
from marzhook.sources.review import Review
from marzhook.store import users
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.testing import counting, eventually
from marzhook.user import Thresholds

if TYPE_CHECKING:
    from registries import World

pytest_plugins = ["registries"]


@pytest.fixture
def running(world: World) -> Iterator[World]:
    world.review.start()
    yield world
    world.review.stop(10)


def test_users_expire_when_their_time_comes(world: World) -> None:
    """Not a microsecond before, and once."""
    world.add(expire=world.at + 5)
    world.clock.advance(4.999999)
    assert world.review.pass_once(world.clock.now()) == 0
    world.clock.advance(0.000001)
    assert world.review.pass_once(world.clock.now()) == 1
    assert world.review.pass_once(world.clock.now()) == 0
    assert world.actions()[-1] == "user_expired"
    at, detail = world.last()
    assert at == world.clock.now().timestamp()
    assert list(detail) == ["user"]


def test_a_users_whole_life_passes_by_itself(world: World) -> None:
    """Reminder, periodic reset, hold timeout, next plan, expiry and deletion come at their times."""
    world.add("bob", expire=world.at + 10 * 86400, auto_delete_in_days=2)
    world.add("carol", data_limit=5, data_limit_reset_strategy="week")
    world.add("dave", status="on_hold", on_hold_expire_duration=86400 * 30,
              on_hold_timeout=(world.clock.now() + timedelta(days=1)).isoformat())  # fmt: skip
    world.add("erin", expire=world.at + 86400 * 5, next_plan={"expire": 0, "data_limit": 7})
    world.registry.charge([("carol", 5)])
    while world.clock.now().day < 20:
        world.clock.advance(3600)
        world.review.pass_once(world.clock.now())
    assert world.actions("bob") == ["user_created", "reached_days_left", "user_expired", "user_deleted"]
    assert world.actions("carol") == ["user_created", "user_limited", "data_usage_reset", "user_enabled",
                                      "data_usage_reset"]  # fmt: skip
    assert world.actions("dave") == ["user_created", "user_enabled"]
    assert world.actions("erin") == ["user_created", "reached_days_left", "data_reset_by_next"]
    assert world.sql("SELECT count(*) FROM users") == [(3,)]


def test_one_broken_row_never_stops_the_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poisonous user, on whom the panel's review dies at every pass, is skipped, counted, and tried in an hour."""
    monkeypatch.setattr("marzhook.sources.review.BATCH", 4)
    for i in range(10):
        world.add(f"user{i}", expire=world.at + 60 + i)
    world.sql("UPDATE users SET proxies = '{\"id\":' WHERE username = 'user0'")
    world.sql("UPDATE users SET next_plan = '{\"surprise\": 1}' WHERE username = 'user5'")
    world.sql("UPDATE users SET links = '7' WHERE username = 'user9'")
    world.clock.advance(100)
    assert world.review.pass_once(world.clock.now()) == 10
    assert sum(action == "user_expired" for action, _ in world.events()) == 7
    assert world.errors() == 3
    assert world.review.pass_once(world.clock.now()) == 0
    world.sql("UPDATE users SET proxies = '{}' WHERE username = 'user0'")
    world.clock.advance(3600)
    world.review.pass_once(world.clock.now())
    assert world.actions("user0")[-1] == "user_expired"
    assert world.errors() == 5


def test_a_user_who_cannot_be_written_is_set_aside(world: World) -> None:
    """A row that the database itself refuses is undone alone; those of its batch are written."""
    for name in ("alice", "bad", "zoe"):
        world.add(name, expire=world.at + 60)
    if world.database.kind == "SQLite":
        world.sql(
            "CREATE TRIGGER refuse BEFORE UPDATE OF status ON users WHEN new.username = 'bad' AND new.status = 'expired'"
            " BEGIN SELECT raise(ABORT, 'refused'); END"
        )
    else:
        world.sql("ALTER TABLE users ADD CHECK (username <> 'bad' OR status <> 'expired')")
    world.clock.advance(60)
    world.review.pass_once(world.clock.now())
    assert [world.actions(name) for name in ("alice", "bad", "zoe")] == [
        ["user_created", "reached_days_left", "user_expired"],
        ["user_created", "reached_days_left"],
        ["user_created", "reached_days_left", "user_expired"],
    ]
    assert world.errors() == 1
    assert world.review.pass_once(world.clock.now()) == 0


def test_a_reminder_is_not_repeated(world: World) -> None:
    """Ten passes make one reached_days_left (the panel repeats one that it cannot save at every pass)."""
    world.add(expire=world.at + 4 * 86400)
    world.clock.advance(86400)
    for _ in range(10):
        world.review.pass_once(world.clock.now())
        world.clock.advance(60)
    assert world.actions().count("reached_days_left") == 1


def test_the_thread_expires_users_by_itself(running: World) -> None:
    """What becomes due while it sleeps is found within its polling time, without being told."""
    with counting("review.done") as done:
        running.add(expire=running.at + 3600)
        running.clock.advance(3600)
        done.wait(timeout=5)
    assert running.actions()[-1] == "user_expired"


def test_the_thread_survives_a_locked_database(reopen: Callable[..., Database], world: World) -> None:
    """While another program holds the database nothing is lost, and afterwards the review goes on."""
    impatient = reopen(busy_timeout=0.05)
    review = Review(impatient, Outbox(impatient), world.clock, published_actions=PANEL_ACTIONS, thresholds=Thresholds())
    world.add(expire=world.at + 60)
    with counting("review.done") as done:
        with held(impatient):
            review.start()
            world.clock.advance(60)
            with pytest.raises(TimeoutError):
                done.wait(timeout=0.7)
        done.wait(timeout=10)
    review.stop(10)
    assert world.actions()[-1] == "user_expired"


def test_new_thresholds_take_effect_at_the_next_start(world: World) -> None:
    """Users are asked anew when they are due; the same thresholds cost nothing; a broken row is no obstacle."""
    world.add(expire=world.at + 20 * 86400, data_limit=100)
    world.add("bad")
    world.sql("UPDATE users SET inbounds = '' WHERE username = 'bad'")
    assert world.review.refresh_thresholds() == 2
    assert world.review.refresh_thresholds() == 0
    values = {"published_actions": PANEL_ACTIONS, "thresholds": Thresholds((50,), (30, 5))}
    restarted = Review(world.database, world.outbox, world.clock, **values)
    assert restarted.refresh_thresholds() == 2
    assert restarted.pass_once(world.clock.now()) == 1
    Registry(world.database, world.outbox, world.clock, **values).charge([("alice", 50)])
    assert world.actions() == ["user_created", "reached_days_left", "reached_usage_percent"]


def test_the_thread_refreshes_thresholds_when_it_starts(running: World) -> None:
    """Starting the review writes down the thresholds that it works with."""

    def written() -> bool:
        with running.database.read() as conn:
            return running.database.meta(conn, "thresholds") is not None

    eventually(written)


@pytest.mark.sqlite
def test_the_plans_of_the_reviews_queries(world: World) -> None:
    """Who is due is found through the index on review_at: no scan, no sorting."""
    with world.database.read() as conn:
        due = users.DUE.compile(conn, compile_kwargs={"literal_binds": True}).string
        plans = [
            " | ".join(str(row[-1]) for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all())
            for query in (users.NEXT_REVIEW.text, due)
        ]
    for plan in plans:
        assert "ix_users_review_at" in plan
        assert "SCAN users" not in plan.replace("SCAN users USING COVERING INDEX ix_users_review_at", "")
        assert "TEMP B-TREE" not in plan
