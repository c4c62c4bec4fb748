from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain, product
from typing import Any

import pytest
import sqlalchemy as sa

from marzhook.delivery import DEAD, DELIVERED, PENDING, STATES
from marzhook.errors import NotFoundError
from marzhook.event import NewEvent
from marzhook.store import endpoints, history, search, stats
from marzhook.store.database import Database
from marzhook.store.history import DeliveryRow
from marzhook.store.outbox import DeliveryFilter, Outbox
from marzhook.store.search import Counted
from marzhook.testing import FakeClock
from settling import settlement

ACTIONS = ("user_created", "user_updated")
NAMES = ("alice", "bob", "carol")
HOUR = 3600


@pytest.fixture
def shops(database: Database, clock: FakeClock) -> list[int]:
    """Three endpoints' ids."""
    with database.write() as tx:
        return [
            endpoints.create(tx, now=clock.now(), kind="webhook", url=f"https://shop{i}.example/", name=f"shop {i}").id
            for i in range(3)
        ]


@pytest.fixture
def lived(database: Database, outbox: Outbox, clock: FakeClock, shops: list[int]) -> list[DeliveryRow]:
    """24 events over two days, their deliveries in every state; all of them, newest first."""
    for i in range(24):
        with database.write() as tx:
            outbox.publish(tx, [NewEvent(ACTIONS[i % 2], NAMES[i % 3], {"i": i})], now=clock.now())
        clock.advance(2 * HOUR)
    for shop in shops:
        for delivery in outbox.window(shop, after=0, limit=100):
            kind = (delivery.event.id + shop) % 4
            if kind == 3:
                which = DeliveryFilter(endpoint_id=shop, event_id=delivery.event.id)
                with database.write() as tx:
                    outbox.cancel(tx, which, now=clock.now())
            elif kind:
                outbox.settle([settlement(delivery, (DELIVERED, DEAD)[kind - 1], 200, clock)], now=clock.now())
    with database.read() as conn:
        return history.deliveries(conn, DeliveryFilter(), limit=1000)


def matches(row: DeliveryRow, which: DeliveryFilter) -> bool:
    """The filter, said once more in plain Python."""
    time = row.event.time
    return (
        (which.endpoint_id is None or row.endpoint_id == which.endpoint_id)
        and (which.event_id is None or row.event.id == which.event_id)
        and (which.states is None or row.state in which.states)
        and (which.actions is None or row.event.action in which.actions)
        and (which.username is None or row.event.username == which.username)
        and (which.since is None or time >= which.since)
        and (which.until is None or time < which.until)
    )


def test_all_of_it(lived: list[DeliveryRow], shops: list[int]) -> None:
    """Every delivery is listed once, newest event first, in every state."""
    assert [row.key for row in lived] == [(event, shop) for event in range(24, 0, -1) for shop in reversed(shops)]
    assert {row.state for row in lived} == set(STATES)
    assert {row.endpoint_name for row in lived} == {"shop 0", "shop 1", "shop 2"}


def test_every_filter_and_page(database: Database, lived: list[DeliveryRow], shops: list[int]) -> None:
    """Whatever is combined, the pages together are what the filter says, in order."""
    day = datetime(2026, 1, 2, tzinfo=UTC)
    where = (None, shops[1])
    states = (None, (PENDING,), (DEAD, "cancelled"), (DELIVERED, PENDING))
    choices: Iterator[tuple[Any, ...]] = chain(
        product(where, (7,), states),
        product(
            where, (None,), states, (None, ACTIONS[:1]), (None, "bob"), (None, day), (None, day + timedelta(hours=9))
        ),
    )
    with database.read() as conn:
        for values in choices:
            which = DeliveryFilter(*values)
            found: list[DeliveryRow] = []
            before = None
            while page := history.deliveries(conn, which, before=before, limit=20):
                found += page
                before = page[-1].key
            assert found == [row for row in lived if matches(row, which)], which


def test_one_delivery(database: Database, outbox: Outbox, clock: FakeClock, shops: list[int]) -> None:
    """A delivery shows its last attempt, and its attempts are listed from the first one."""
    with database.write() as tx:
        [event_id] = outbox.publish(tx, [NewEvent("user_created", "alice")], now=clock.now())
    for state in (PENDING, DEAD):
        [delivery] = outbox.load(shops[0], [event_id])
        outbox.settle([settlement(delivery, state, 500 + delivery.tries, clock)], now=clock.now())
        clock.advance(5)

    with database.read() as conn:
        row = history.delivery(conn, shops[0], event_id)
        tries = history.attempts(conn, shops[0], event_id)
        assert history.attempts(conn, shops[1], event_id) == []
        with pytest.raises(NotFoundError):
            history.delivery(conn, shops[0], 99)

    assert (row.state, row.tries, row.attempts, row.last_status, row.last_duration) == (DEAD, 2, 2, 501, 0.25)
    assert row.settled_at == row.last_at == clock.now() - timedelta(seconds=5)
    assert [(attempt.number, attempt.status) for attempt in tries] == [(1, 500), (2, 501)]


def test_events(database: Database, lived: list[DeliveryRow]) -> None:
    """Events are listed newest first, by action, name and half-open time, page by page."""
    day = datetime(2026, 1, 2, tzinfo=UTC)
    with database.read() as conn:
        everything = history.events(conn, limit=1000)
        assert [event.id for event in everything] == [*range(24, 0, -1)]
        assert history.events(conn, limit=5, before=20) == everything[5:10]
        assert history.events(conn, action=ACTIONS[0], limit=99) == [e for e in everything if e.action == ACTIONS[0]]
        assert history.events(conn, username="bob", limit=99) == [e for e in everything if e.username == "bob"]
        assert history.events(conn, since=day, limit=99) == [e for e in everything if e.time >= day]
        assert history.events(conn, until=day, limit=99) == [e for e in everything if e.time < day]
        assert history.event(conn, 3) == everything[-3]
        with pytest.raises(NotFoundError):
            history.event(conn, 99)


def test_clock_set_back(database: Database, outbox: Outbox, clock: FakeClock) -> None:
    """A clock that was set back by less than an hour hides nothing from a list by time."""
    wanted = []
    for jump in (0, 50 * 60, -50 * 60, 10 * 60, 10 * 60):
        clock.jump(jump)
        with database.write() as tx:
            wanted += outbox.publish(tx, [NewEvent("user_created", "alice")], now=clock.now())
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with database.read() as conn:
        early = history.events(conn, until=start + timedelta(minutes=15))
        late = history.events(conn, since=start + timedelta(minutes=15))
    assert sorted(event.id for event in early) == [wanted[0], wanted[2], wanted[3]]
    assert sorted(event.id for event in late) == [wanted[1], wanted[4]]


def test_nothing_yet(database: Database) -> None:
    """An empty database has an empty history."""
    with database.read() as conn:
        assert history.deliveries(conn, DeliveryFilter()) == []
        assert history.events(conn, since=datetime(2026, 1, 1, tzinfo=UTC)) == []


def test_count_settled(database: Database, lived: list[DeliveryRow], clock: FakeClock, shops: list[int]) -> None:
    """What a replay would take is counted without the endpoints that were deleted."""
    which = DeliveryFilter(states=(DEAD,), username="bob")
    with database.write() as tx:
        assert history.count_settled(tx.conn, which) == len([row for row in lived if matches(row, which)])
        endpoints.delete(tx, shops[0], now=clock.now())
        left = [row for row in lived if matches(row, which) and row.endpoint_id != shops[0]]
        assert history.count_settled(tx.conn, which) == len(left)


# -- plans

LISTS = {
    "all": (DeliveryFilter(), "d USING PRIMARY KEY (endpoint_id=? AND event_id>? AND event_id<?)"),
    "delivered": (DeliveryFilter(states=(DELIVERED,)), "d USING PRIMARY KEY (endpoint_id=? AND event_id>? AND event_id<?)"),
    "dead": (DeliveryFilter(states=(DEAD,)), "USING COVERING INDEX ix_settled_undelivered (state=? AND endpoint_id=?"),
    "username": (DeliveryFilter(username="bob"), "e USING INDEX ix_events_username_id (username=? AND id>? AND id<?)"),
    "dead, username": (DeliveryFilter(states=(DEAD,), username="bob"), "e USING INDEX ix_events_username_id"),
    "event": (DeliveryFilter(event_id=3), "d USING PRIMARY KEY (endpoint_id=? AND event_id=?)"),
    "action": (DeliveryFilter(actions=("x",)), "d USING PRIMARY KEY (endpoint_id=? AND event_id>? AND event_id<?)"),
}  # fmt: skip


@pytest.mark.sqlite
@pytest.mark.parametrize("name", LISTS)
def test_plans_of_delivery_lists(database: Database, lived: list[DeliveryRow], name: str) -> None:
    """Each stream of a list comes out of an index in order: nothing is scanned, nothing is sorted."""
    which, expected = LISTS[name]
    with database.read() as conn:
        plans = plans_of(conn, lambda: history.deliveries(conn, which, before=(20, 2), limit=10), "deliveries")
    assert plans
    for plan in plans:
        assert expected in plan, plan
        assert not re.search(r"SCAN (d|k|e|a|settled|pending|events|attempts)\b|TEMP B-TREE", plan), plan


@pytest.mark.sqlite
def test_plan_of_listed_events(database: Database, lived: list[DeliveryRow]) -> None:
    """What became of events that were found already is looked up by key, and not by walking through all between them."""
    which = DeliveryFilter(states=(DELIVERED,), actions=("x",))
    with database.read() as conn:
        plans = plans_of(
            conn,
            lambda: history.deliveries(conn, which, limit=10, within=(1, 20), among=[2, 9, 17]),
            "deliveries",
        )
    for plan in plans:
        assert "d USING PRIMARY KEY (endpoint_id=? AND event_id=?)" in plan


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "SEARCH events USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        ({"username": "bob"}, "SEARCH events USING INDEX ix_events_username_id (username=? AND id>? AND id<?)"),
        ({"since": datetime(2026, 1, 2, tzinfo=UTC)}, "SEARCH events USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    ],
)
def test_plans_of_event_lists(database: Database, lived: list[DeliveryRow], values: Any, expected: str) -> None:
    """Events come out of an index in order."""
    with database.read() as conn:
        plans = plans_of(conn, lambda: history.events(conn, before=20, limit=10, **values), "events")
    assert expected in plans[-1]
    assert all("TEMP B-TREE" not in plan for plan in plans)


@pytest.mark.sqlite
def test_plan_of_count(database: Database, lived: list[DeliveryRow]) -> None:
    """A replay's dry run looks at the few undelivered ones only."""
    with database.read() as conn:
        [plan] = plans_of(conn, lambda: history.count_settled(conn, DeliveryFilter(states=(DEAD,))), "deliveries")
    assert "settled USING COVERING INDEX ix_settled_undelivered" in plan


@pytest.mark.sqlite
def test_plan_of_oldest_due(database: Database, lived: list[DeliveryRow]) -> None:
    """The oldest is looked for at the head of each endpoint's queue only, and in more than its first one where that waits."""
    with database.write() as tx:
        tx.conn.exec_driver_sql("UPDATE pending SET due_at = 1 WHERE endpoint_id = 1")
    with database.read() as conn:
        first, *rest = plans_of(conn, lambda: stats.oldest_due(conn, datetime(2026, 1, 5, tzinfo=UTC)), "pending")
    assert "SEARCH p USING PRIMARY KEY (endpoint_id=? AND event_id=?)" in first
    assert "SEARCH q USING PRIMARY KEY (endpoint_id=?)" in first
    assert len(rest) == 1
    assert "SEARCH pending USING PRIMARY KEY (endpoint_id=?)" in rest[0]
    for plan in (first, *rest):
        assert not re.search(r"SCAN (p|q|e|pending|events)\b", plan), plan


def plans_of(conn: sa.Connection, work: Any, about: str) -> list[str]:
    """The plans of the statements that `work` runs, apart from the list of endpoints."""
    seen: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if "settled" in statement or "pending" in statement or (about == "events" and "FROM events" in statement):
            seen.append((statement, parameters))

    sa.event.listen(conn, "before_cursor_execute", note)
    work()
    sa.event.remove(conn, "before_cursor_execute", note)
    return [
        "\n".join(row[3] for row in conn.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters))
        for statement, parameters in seen
    ]


# -- figures


def test_pending_and_settled_counts(database: Database, lived: list[DeliveryRow], shops: list[int]) -> None:
    """The figures are what the rows say; an endpoint that is owed nothing counts as 0."""
    with database.read() as conn:
        pending, settled = stats.pending_counts(conn), stats.settled_counts(conn)
    for shop in shops:
        of_shop = [row.state for row in lived if row.endpoint_id == shop]
        assert pending[shop] == of_shop.count(PENDING)
        assert settled[shop] == {state: of_shop.count(state) for state in STATES if state != PENDING}


def test_oldest_due(database: Database, outbox: Outbox, clock: FakeClock, shops: list[int]) -> None:
    """The age is that of the longest-waiting delivery that is due; one that waits for its retry does not count."""
    with database.write() as tx:
        outbox.publish(tx, [NewEvent("user_created", "alice")], now=clock.now())
    clock.advance(30)
    with database.write() as tx:
        outbox.publish(tx, [NewEvent("user_created", "bob")], now=clock.now())
    [first, second] = outbox.window(shops[0], after=0, limit=9)
    outbox.settle([settlement(first, PENDING, 500, clock)], now=clock.now())
    for delivery in outbox.window(shops[1], after=0, limit=9):
        outbox.settle([settlement(delivery, DELIVERED, 200, clock)], now=clock.now())
    clock.advance(12)

    with database.read() as conn:
        assert stats.oldest_due(conn, clock.now()) == {shops[0]: 12.0, shops[1]: 0.0, shops[2]: 42.0}
        assert stats.pending_counts(conn) == {shops[0]: 2, shops[1]: 0, shops[2]: 2}
    assert second.event.username == "bob"


# -- searches that have little time


class Ticking:
    """A clock by which each look at it takes a while."""

    def __init__(self, step: float) -> None:
        self._now, self._step = 0.0, step

    def __call__(self) -> float:
        self._now += self._step
        return self._now


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stretches and chunks as short as this history."""
    monkeypatch.setattr(search, "FIRST", 3)
    monkeypatch.setattr(search, "FIRST_OF_USER", 2)
    monkeypatch.setattr(search, "CHUNK", 2)
    monkeypatch.setattr(search, "FEW", 4)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("seconds", [0.0, 5.0, 1e6])
def test_a_search_finds_all_however_little_time_a_visit_has(
    database: Database, lived: list[DeliveryRow], shops: list[int], seconds: float
) -> None:
    """Visit after visit, each of which says how far it came: none twice, none missed, newest first."""
    choices = product((None, shops[1]), (None, (PENDING,), (DEAD, "cancelled"), (DELIVERED, DEAD)),
                      (None, ACTIONS[:1], ("user_deleted",)), (None, "bob", "nobody"))  # fmt: skip
    with database.read() as conn:
        for endpoint, states, actions, username in choices:
            which = DeliveryFilter(endpoint, None, states, actions, username)
            found: list[DeliveryRow] = []
            before: tuple[int, int] | None = (2**40, 1)
            visits = 0
            while before is not None:
                rows, reached = search.deliveries(
                    conn, which, before=before, limit=4, seconds=seconds, monotonic=Ticking(1.0)
                )
                found += rows
                before = rows[-1].key if len(rows) == 4 else None if reached is None else (reached, 1)
                visits += 1
            assert found == [row for row in lived if matches(row, which)], which
            if seconds == 0.0 and actions == ("user_deleted",) and username is None and states is None:
                assert visits == 8


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("seconds", [0.0, 1e6])
def test_events_are_searched_a_stretch_at_a_time(database: Database, lived: list[DeliveryRow], seconds: float) -> None:
    """The same for events."""
    for actions, username in product((None, ACTIONS[:1], ("user_deleted",)), (None, "bob")):
        which = DeliveryFilter(actions=actions, username=username)
        found: list[int] = []
        before: int | None = 2**40
        visits = 0
        with database.read() as conn:
            while before is not None:
                rows, before = search.events(
                    conn, which, before=before, limit=4, seconds=seconds, monotonic=Ticking(1.0)
                )
                found += [event.id for event in rows]
                before = rows[-1].id if len(rows) == 4 else before
                visits += 1
        if seconds == 0.0 and actions == ("user_deleted",) and username == "bob":
            # Two of his eight events at a visit, however far apart they are; and what is before the first.
            assert visits == 5
        assert found == sorted({row.event.id for row in lived if matches(row, which)}, reverse=True), which


@pytest.mark.usefixtures("short")
def test_deliveries_are_counted_as_far_as_there_is_time(
    database: Database, lived: list[DeliveryRow], clock: FakeClock, shops: list[int]
) -> None:
    """All of those that a replay would take, or so many at least."""
    with database.write() as tx:
        endpoints.delete(tx, shops[0], now=clock.now())
        # What it was owed was cancelled.
        now = history.deliveries(tx.conn, DeliveryFilter(), limit=1000)
    day = datetime(2026, 1, 2, tzinfo=UTC)
    choices = product((None, shops[1]), (None, (DEAD,), (DELIVERED,), (DEAD, "cancelled")), (None, ACTIONS[:1]),
                      (None, "bob"), (None, day))  # fmt: skip
    with database.read() as conn:
        for endpoint, states, actions, username, since in choices:
            which = DeliveryFilter(endpoint, None, states, actions, username, since)
            meant = [row for row in now if matches(row, which) and row.endpoint_id != shops[0] and row.state != PENDING]
            assert search.count(conn, which, seconds=1e6, monotonic=Ticking(1.0)) == Counted(len(meant), complete=True)
        hurried = search.count(conn, DeliveryFilter(), seconds=0.0, monotonic=Ticking(1.0))
        of_bob = search.count(conn, DeliveryFilter(username="bob"), seconds=0.0, monotonic=Ticking(1.0))
    assert hurried == Counted(
        len([row for row in now if row.event.id > 21 and row.state != PENDING and row.endpoint_id != shops[0]]),
        complete=False,
    )
    # Of one user's so many events, however many of others are between them.
    newest = {row.event.id for row in now if row.event.username == "bob"}
    newest = set(sorted(newest)[-2:])
    meant = [row for row in now if row.event.id in newest and row.state != PENDING and row.endpoint_id != shops[0]]
    assert of_bob == Counted(len(meant), complete=False)
