"""Traffic reports: counters, buckets, and the events that follow in the same transaction."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marzhook.errors import InvalidError
from marzhook.store import traffic
from marzhook.user import Thresholds, next_review_traffic

if TYPE_CHECKING:
    from registries import World

pytest_plugins = ["registries"]


def test_a_report_charges_users_and_their_admin(world: World) -> None:
    """Duplicates are summed, case does not matter, unknown names are returned, and the owner's total grows."""
    ann = world.admin("ann")
    world.add(by=ann)
    world.add("bob")
    assert world.registry.charge([("alice", 5), ("ALICE", 6), ("Nobody", 7), ("bob", 0), ("nobody", 1)]) == ["Nobody"]
    alice, bob = world.registry.get("alice", None), world.registry.get("bob", None)
    assert (alice.used_traffic, alice.lifetime_used_traffic, alice.online_at) == (11, 11, world.clock.now())
    assert (bob.used_traffic, bob.online_at) == (0, None)
    assert alice.admin is not None
    assert alice.admin.users_usage == 11
    assert world.actions() == ["user_created"]


def test_limit_and_reminder_come_in_the_reports_own_transaction(world: World) -> None:
    """reached_usage_percent once, user_limited once, each in the transaction of the report that caused it."""
    world.add(data_limit=1000)
    for amount in (799, 1, 50, 149):
        world.registry.charge([("alice", amount)])
    assert world.actions() == ["user_created", "reached_usage_percent"]
    assert world.last()[1]["used_percent"] == 80.0
    with world.database.write() as tx:
        world.registry.charge([("alice", 1)], tx=tx)
        statuses = tx.conn.exec_driver_sql("SELECT status, (SELECT max(action) FROM events) FROM users").one()
        assert tuple(statuses) == ("limited", "user_limited")
    world.registry.charge([("alice", 500)])
    assert world.actions()[2:] == ["user_limited"]
    assert world.last()[1]["user"]["used_traffic"] == 1000
    assert world.registry.get("alice", None).used_traffic == 1500


def test_the_first_traffic_begins_a_users_time(world: World) -> None:
    """A user on hold becomes active with his first byte, not with an empty report."""
    world.add(status="on_hold", on_hold_expire_duration=3600)
    world.registry.charge([("alice", 0)])
    assert world.actions() == ["user_created"]
    world.registry.charge([("alice", 1)])
    user = world.registry.get("alice", None)
    assert (user.status, user.expire) == ("active", world.at + 3600)
    assert world.actions() == ["user_created", "user_enabled", "reached_days_left"]


def test_a_broken_row_stops_nobody(world: World) -> None:
    """A user whose row cannot be read is counted and logged; the others of the report are limited as they should."""
    for name in ("alice", "bad", "zoe"):
        world.add(name.ljust(3, "x"), data_limit=10)
    world.sql("UPDATE users SET proxies = '{' WHERE username = 'bad'")
    assert world.registry.charge([("alice", 10), ("bad", 10), ("zoe", 10)]) == []
    assert [world.actions(name)[-1] for name in ("alice", "zoe")] == ["user_limited"] * 2
    assert world.sql("SELECT used_traffic FROM users JOIN counters ON user_id = id WHERE username = 'bad'") == [(10,)]
    assert world.errors() == 1
    world.sql("UPDATE users SET proxies = '{}' WHERE username = 'bad'")
    world.clock.advance(3601)
    assert world.review.pass_once(world.clock.now()) == 1
    assert world.actions("bad")[-1] == "user_limited"


def test_usage_is_summed_by_the_hour(world: World) -> None:
    """Usage between two moments counts the hours that they touch; a deleted user's traffic is gone."""
    world.add()
    for _ in range(3):
        world.registry.charge([("alice", 10)])
        world.clock.advance(3600)
    now = world.clock.now()
    assert world.registry.usage("alice", now - timedelta(days=1), now, None)[1] == 30
    assert world.registry.usage("alice", now - timedelta(minutes=60), now, None)[1] == 10
    world.registry.delete("alice", None)
    assert world.sql("SELECT count(*) FROM traffic") == [(0,)]


def test_impossible_amounts_are_refused(world: World) -> None:
    """Negative and absurd amounts charge nobody; counters stop before they overflow."""
    world.add()
    for rows in ([("alice", -1)], [("alice", 2**60), ("Alice", 1)]):
        with pytest.raises(InvalidError, match="cannot charge"):
            world.registry.charge(rows)
    for _ in range(9):
        world.registry.charge([("alice", 2**60)])
    assert world.registry.get("alice", None).used_traffic == 2**62


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reports=st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), max_size=5), max_size=6))
def test_reports_split_in_any_way_come_to_the_same(world: World, reports: list[list[tuple[str, int]]]) -> None:
    """However traffic is cut into reports, counters agree with its sum, and a limit is told exactly once."""
    for name in "abc":
        world.add(f"user-{name}", data_limit=100)
    total = dict.fromkeys("abc", 0)
    for report in reports:
        world.registry.charge([(f"user-{name}", amount) for name, amount in report])
        for name, amount in report:
            total[name] += amount
    for name in "abc":
        user = world.registry.get(f"user-{name}", None)
        assert user.used_traffic == total[name]
        assert user.status == ("limited" if total[name] >= 100 else "active")
        assert world.actions(user.username).count("user_limited") == (total[name] >= 100)
        world.registry.delete(user.username, None)
    world.sql("DELETE FROM events")


_STEPS = st.one_of(
    st.tuples(st.just("charge"), st.integers(1, 60)),
    st.tuples(st.just("limit"), st.integers(0, 120)),
    st.tuples(st.just("expire"), st.sampled_from((0, 1, 10))),
    st.tuples(st.just("status"), st.sampled_from(("active", "disabled"))),
    st.tuples(st.just("reset"), st.just(0)),
    st.tuples(st.just("time"), st.integers(1, 5)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_STEPS, max_size=12))
def test_no_traffic_passes_a_threshold_unseen(world: World, steps: list[tuple[str, Any]]) -> None:
    """Whatever happened to a user, the traffic at which his next report is looked at closely is never above the one that
    changes something, and what was already reached is looked at once, not at every report."""
    world.add(data_limit=100)
    for what, value in steps:
        if what == "charge":
            world.registry.charge([("alice", value)])
        elif what == "limit":
            world.registry.modify("alice", {"data_limit": value}, None)
        elif what == "expire":
            world.registry.modify("alice", {"expire": world.at + value if value else 0}, None)
        elif what == "status":
            world.registry.modify("alice", {"status": value}, None)
        elif what == "reset":
            world.registry.reset("alice", None)
        else:
            world.clock.advance(value)
            world.review.pass_once(world.clock.now())
        user = world.registry.get("alice", None)
        exact = next_review_traffic(user, Thresholds())
        [(stored,)] = world.sql("SELECT review_traffic FROM counters")
        ahead = stored is not None and user.used_traffic < stored and (exact is None or stored <= exact)
        assert stored == exact or ahead
    world.registry.delete("alice", None)


@pytest.mark.sqlite
def test_the_plans_of_a_reports_queries(world: World) -> None:
    """Names are found through their index, users through their key: no scan, no sorting."""
    with world.database.read() as conn:
        named = conn.execute(sa.text(f"EXPLAIN QUERY PLAN {traffic.NAMED.text}"), {"names": "[]"}).all()
        charge = conn.exec_driver_sql("EXPLAIN QUERY PLAN " + traffic.CHARGE.words.sqlite, (1, 1, 1)).all()
    plan = " | ".join(str(row[-1]) for row in [*named, *charge])
    assert "uq_users_username_key" in plan
    assert "SEARCH counters USING INTEGER PRIMARY KEY" in plan
    assert "SCAN u" not in plan
    assert "TEMP B-TREE" not in plan
