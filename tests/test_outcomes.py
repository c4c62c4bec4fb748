from __future__ import annotations

from collections.abc import Sequence

import pytest
import sqlalchemy as sa

from histories import World
from marzhook.delivery import CANCELLED, DEAD, DELIVERED, PENDING
from marzhook.runtime import environment_endpoints
from marzhook.settings import load
from marzhook.store import endpoints, history, inbox, outcomes, user_lists, users
from marzhook.store.database import Database
from marzhook.store.outbox import DeliveryFilter
from marzhook.store.outcomes import LOOKED_AT, Bucket, Owed
from marzhook.testing import FakeClock
from marzhook.user import Thresholds, User


@pytest.fixture
def world(database: Database, clock: FakeClock) -> World:
    return World(database, clock)


def test_deliveries_are_counted_by_the_hour_of_their_event(world: World) -> None:
    """The chart says how the events of each hour fared, at all endpoints together."""
    began = world.clock.now().timestamp()
    first = world.publish(4)
    world.settle(world.one, DELIVERED, first)
    world.settle(world.two, DEAD, first[:1])
    world.settle(world.two, CANCELLED, first[1:3])
    world.clock.advance(3600)
    world.publish(2)
    edges = [began, began + 3600, began + 7200, began + 10_800]
    with world.database.read() as conn:
        hours = outcomes.Hours()
        now = edges[2]
        # With no time to count, the newest and one before it are counted all the same, and the others at the next visits.
        hurried = hours.buckets(conn, edges, now=now, seconds=0.0, monotonic=world.clock.monotonic)
        assert [bucket.complete for bucket in hurried] == [False, True, True]
        again = outcomes.Hours()
        for complete in (False, True):
            hurried = again.buckets(conn, edges, now=edges[3] - 1, seconds=0.0, monotonic=world.clock.monotonic)
            assert [bucket.complete for bucket in hurried] == [complete, True, True]
        found = hours.buckets(conn, edges, now=now, seconds=1.0, monotonic=world.clock.monotonic)
    assert found == [
        Bucket(edges[0], edges[1], 4, 1, 1, 2),
        Bucket(edges[1], edges[2], 0, 4),
        Bucket(edges[2], edges[3]),
    ]
    # What becomes of an hour that was counted is still seen: a waiting one is delivered, and one of the next hour, too.
    world.settle(world.two, DELIVERED, first[3:])
    world.settle(world.one, DELIVERED, [first[3] + 1])
    with world.database.read() as conn:
        found = hours.buckets(conn, edges, now=now, seconds=1.0, monotonic=world.clock.monotonic)
    assert [(bucket.delivered, bucket.pending) for bucket in found] == [(5, 0), (1, 3), (0, 0)]


def test_what_died_at_an_endpoint_that_was_deleted_is_no_dead_letter(world: World) -> None:
    """Nobody owes it any more, as what was waiting there: in the chart both are cancelled, and what arrived has arrived."""
    began = world.clock.now().timestamp()
    ids = world.publish(4)
    world.settle(world.one, DEAD, ids[:1])
    world.settle(world.two, DEAD, ids[:2])
    world.settle(world.two, DELIVERED, ids[2:3])
    with world.database.write() as tx:
        endpoints.delete(tx, world.two, now=world.clock.now())
    with world.database.read() as conn:
        [hour] = outcomes.Hours().buckets(
            conn, [began, began + 3600], now=began, seconds=1.0, monotonic=world.clock.monotonic
        )
        assert (hour.delivered, hour.pending, hour.dead, hour.cancelled) == (1, 3, 1, 3)
        rows = history.deliveries(conn, DeliveryFilter(states=(DEAD,)))
        assert [(row.endpoint_id, row.event.id) for row in rows] == [(world.one, ids[0])]
        rows = history.deliveries(conn, DeliveryFilter(endpoint_id=world.two))
        assert [row.state for row in rows].count(DEAD) == 2


def test_where_a_past_hour_begins_is_looked_up_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is fetched again and again asks for the hours that have begun since, and for no other."""
    began = world.clock.now().timestamp()
    asked: list[int] = []
    real = history.first_ids

    def noted(conn: sa.Connection, times: Sequence[float]) -> list[int]:
        asked.append(len(times))
        return real(conn, times)

    monkeypatch.setattr(history, "first_ids", noted)
    hours = outcomes.Hours()
    for _ in range(3):
        world.publish(2)
        edges = [began + 3600 * hour for hour in (-1, 0, 1)]
        now = world.clock.now().timestamp()
        with world.database.read() as conn:
            found = hours.buckets(conn, edges, now=now, seconds=1.0, monotonic=world.clock.monotonic)
        world.clock.advance(60)
    assert [bucket.pending for bucket in found] == [0, 12]
    # The hour that has begun counts as past after a minute.
    assert asked == [3, 2, 1]


def test_what_is_owed_is_told_apart_by_how_it_went(world: World) -> None:
    """Waiting, failing and dead are different things to an operator."""
    ids = world.publish(5)
    world.settle(world.one, PENDING, ids[:2])
    world.settle(world.one, DEAD, ids[2:3])
    with world.database.read() as conn:
        assert outcomes.owed(conn) == {world.one: Owed(4, 2, 1), world.two: Owed(5, 0, 0)}
        assert outcomes.owed(conn, world.one) == {world.one: Owed(4, 2, 1)}


def test_latency_is_from_the_event_to_its_delivery(world: World) -> None:
    """Seconds, in rising order; what was not delivered has none."""
    for seconds in (3.0, 1.0):
        ids = world.publish(1)
        world.clock.advance(seconds)
        world.settle(world.one, DELIVERED, ids)
    world.settle(world.one, DEAD, world.publish(1))
    with world.database.read() as conn:
        assert outcomes.latencies(conn, world.one) == pytest.approx([1.0, 3.0])


@pytest.mark.parametrize("skipped", [0, 1 + LOOKED_AT], ids=["newest", "behind a skipped backlog"])
def test_what_is_sent_again_was_not_late(world: World, skipped: int) -> None:
    """Its event may be of last week: only deliveries at their first life say how long it takes, with the tries that failed."""
    retried, at_once, dead, never = (world.publish(1) for _ in range(4))
    world.settle(world.one, PENDING, retried)
    world.clock.advance(2)
    world.settle(world.one, DELIVERED, [*retried, *at_once])
    world.settle(world.one, DEAD, dead)
    world.clock.advance(604_800)
    for state, event_id in ((DELIVERED, *at_once), (DEAD, *dead)):
        with world.database.write() as tx:
            which = DeliveryFilter(world.one, event_id, (state,))
            assert world.outbox.replay(tx, which, now=world.clock.now()) == 1
        world.settle(world.one, DELIVERED, [event_id])
    world.settle(world.one, DEAD, never)
    world.publish(skipped)
    with world.database.write() as tx:
        endpoints.cancel_all(tx, world.one, now=world.clock.now())
    with world.database.read() as conn:
        assert outcomes.latencies(conn, world.one) == pytest.approx([2.0])


def test_the_last_tries_come_newest_first_whatever_became_of_them(world: World) -> None:
    """Tries of what is still owed and of what is settled, in one list."""
    ids = world.publish(2)
    world.settle(world.one, DELIVERED, ids[:1])
    for _ in range(2):
        world.clock.advance(5)
        world.settle(world.one, PENDING, ids[1:])
    with world.database.read() as conn:
        tries = outcomes.last_tries(conn, world.one)
    assert [one.number for one in tries] == [2, 1, 1]
    assert tries[0].at > tries[1].at > tries[2].at


def test_a_skipped_backlog_hides_neither_tries_nor_latencies(world: World) -> None:
    """What was cancelled untried, however much, says nothing about an endpoint: its last tries are those before."""
    for seconds, state in ((3.0, DELIVERED), (1.0, DELIVERED), (1.0, DEAD)):
        ids = world.publish(1)
        world.clock.advance(seconds)
        world.settle(world.one, state, ids)
    world.publish(1 + LOOKED_AT)
    with world.database.write() as tx:
        endpoints.cancel_all(tx, world.one, now=world.clock.now())
    with world.database.read() as conn:
        assert [one.schedule is None for one in outcomes.last_tries(conn, world.one)] == [False, True, True]
        assert outcomes.latencies(conn, world.one) == pytest.approx([1.0, 3.0])
        assert outcomes.last_tries(conn, world.two) == outcomes.latencies(conn, world.two) == []


def test_states_of_a_page_of_events(world: World) -> None:
    """A list of events says where each of them stands, with one question."""
    ids = world.publish(2)
    world.settle(world.one, DELIVERED, ids[:1])
    with world.database.read() as conn:
        assert outcomes.states_of(conn, ids) == {
            ids[0]: [(world.one, DELIVERED), (world.two, PENDING)],
            ids[1]: [(world.one, PENDING), (world.two, PENDING)],
        }


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("status", "rare", "index"),
    [(None, 3, "uq_users_username_key"), ("active", 3, "uq_users_username_key"), ("active", 5, "ix_users_status")],
)
def test_a_page_of_users_is_read_from_an_index(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, status: str | None, rare: int, index: str
) -> None:
    """A million users stay fast: no page walks through those before it, and only few are ever sorted."""
    monkeypatch.setattr(user_lists, "RARE", rare)
    with database.write() as tx:
        for name in ("bob", "Alice", "alan", "carol"):
            users.insert(tx, User(name, clock.now()), Thresholds())
    seen: list[str] = []

    def note(conn: object, cursor: object, statement: str, *rest: object) -> None:
        seen.append(statement)

    with database.read() as conn:
        sa.event.listen(conn, "before_cursor_execute", note)
        found = user_lists.page(conn, begins="AL", status=status, limit=5)
        assert [user.username for user in found] == ["alan", "Alice"]
        assert [user.username for user in user_lists.page(conn, after="Alice", status=status, limit=1)] == ["bob"]
        assert [user.username for user in user_lists.page(conn, after="Alan", begins="al", status=status)] == ["Alice"]
        pages = [statement for statement in seen if "ORDER BY" in statement]
        explained = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {pages[0]}", (0,) * pages[0].count("?"))
        plan = " / ".join(row[3] for row in explained)
    assert index in plan
    # One bound below: SQLite would read from the other one on, which is where the names begin.
    assert all(page.count("username_key >") == 1 for page in pages)
    assert ("TEMP B-TREE" in plan) == (index == "ix_users_status")


def test_the_inbox_stays_an_endpoint_over_a_restart(database: Database, clock: FakeClock) -> None:
    """It is no setting's endpoint, and must not be taken for one that was removed from them."""
    settings = load({}, env_file=None)
    with database.write() as tx:
        assert inbox.address(database, tx.conn) is None
        inbox.remember(database, tx, "http://127.0.0.1:8787")
        url = inbox.address(database, tx.conn)
        assert url
        assert url.startswith("http://127.0.0.1:8787/inbox/")
        for _ in range(2):
            wanted = environment_endpoints(settings, inbox_url=inbox.address(database, tx.conn))
            endpoints.sync_environment(tx, wanted, now=clock.now())
        [one] = endpoints.all_endpoints(tx.conn)
    assert (one.url, one.enabled, one.guarded) == (url, True, False)


def test_the_inbox_moves_with_the_service(database: Database, clock: FakeClock) -> None:
    """On another port it is the same endpoint, so what waits for it arrives; where it is none, it is not made one."""
    settings = load({}, env_file=None)
    with database.write() as tx:
        inbox.move(database, tx, "http://127.0.0.1:1")
        assert inbox.address(database, tx.conn) is None
        inbox.remember(database, tx, "http://127.0.0.1:8787")
        url = inbox.address(database, tx.conn)
        assert url
        made = endpoints.create(tx, now=clock.now(), kind="webhook", url=url, source="environment")
        inbox.move(database, tx, "http://[::1]:9999")
        wanted = environment_endpoints(settings, inbox_url=inbox.address(database, tx.conn))
        endpoints.sync_environment(tx, wanted, now=clock.now())
        [one] = endpoints.all_endpoints(tx.conn)
    assert (one.id, one.enabled, one.url) == (made.id, True, url.replace("127.0.0.1:8787", "[::1]:9999"))
