"""Which of a panel's events were taken before: retries once, and events that only look alike both."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marzhook.store import ingested, rejected, schema
from marzhook.store.database import Database
from marzhook.store.ingested import Arrival
from marzhook.store.rejected import NewRejected
from marzhook.store.retention import Ages, Retention
from marzhook.store.steps import BATCH
from marzhook.testing import FakeClock

ALIKE, OTHER = b"a" * 16, b"b" * 16


def sift(database: Database, clock: FakeClock, *arrivals: Arrival) -> list[bool]:
    with database.write() as tx:
        return ingested.sift(tx, arrivals, now=clock.now())


def at(tries: int, fingerprint: bytes | None = ALIKE, *, dated: bool = False) -> Arrival:
    return Arrival(fingerprint, tries, dated)


def test_two_events_that_look_alike_are_two(database: Database, clock: FakeClock) -> None:
    """A user is deleted, made again and deleted again: the panel writes both deletions with the same bytes, at their first
    try, and both are taken."""
    assert sift(database, clock, at(0)) == [True]
    assert sift(database, clock, at(0)) == [True]
    assert sift(database, clock, at(0), at(0)) == [True, True]


def test_a_retry_is_known(database: Database, clock: FakeClock) -> None:
    """The same event at its second, third and fourth try is the one that was taken at the first."""
    assert sift(database, clock, at(0)) == [True]
    for tries in (1, 2, 3):
        clock.advance(200)
        assert sift(database, clock, at(tries)) == [False]


def test_a_retry_whose_first_try_never_came_is_new(database: Database, clock: FakeClock) -> None:
    """Marzhook was down for the first try: the second is what brings the event in."""
    assert sift(database, clock, at(1)) == [True]
    clock.advance(200)
    assert sift(database, clock, at(2)) == [False]


def test_two_that_look_alike_retry_together(database: Database, clock: FakeClock) -> None:
    """Two retries need two events that they can be retries of."""
    assert sift(database, clock, at(1), at(1)) == [True, True]
    clock.advance(200)
    assert sift(database, clock, at(2), at(2), at(2)) == [False, False, True]


def test_a_retry_does_not_reach_back_to_yesterday(database: Database, clock: FakeClock) -> None:
    """The same user was deleted yesterday; today's deletion, of which only a later try arrives, is another event."""
    assert sift(database, clock, at(0)) == [True]
    clock.advance(ingested.A_TRY.total_seconds() + 1)
    assert sift(database, clock, at(1)) == [True]


def test_a_dated_event_is_taken_once_whatever_its_tries(database: Database, clock: FakeClock) -> None:
    """What bears its own time is recognised also when somebody on the way sends the whole request again."""
    assert sift(database, clock, at(0, dated=True), at(0, OTHER)) == [True, True]
    clock.advance(3600)
    assert sift(database, clock, at(0, dated=True), at(0, OTHER)) == [False, False]
    # By itself the undated one tells nothing.
    assert sift(database, clock, at(0, OTHER)) == [True]


def test_a_panel_without_retries_leaves_no_trace(database: Database, clock: FakeClock) -> None:
    """Where a panel sends each event once, nothing is compared and nothing kept."""
    assert sift(database, clock, at(0, None), at(0, None)) == [True, True]
    with database.read() as conn:
        assert conn.execute(schema.ingested.select()).all() == []


OUTCOMES = st.sampled_from(["answered", "answer lost", "answer lost", "request lost"])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    told=st.lists(st.sampled_from([ALIKE, OTHER, b"c" * 16]), max_size=12),
    outcomes=st.lists(OUTCOMES, min_size=30, max_size=30),
    alike=st.booleans(),
)
def test_the_panels_sender_against_a_bad_network(
    database: Database, told: list[bytes], outcomes: list[str], alike: bool
) -> None:
    """As the panel's sender works (four tries, the waiting ones together with the new ones), whatever is lost on the way:
    nothing is taken twice, and nothing that arrived is missing, as long as no two events look alike of which one was
    lost on its way here."""
    with database.write() as tx:
        tx.conn.execute(schema.ingested.delete())
    _run(database, FakeClock(), told, outcomes, alike=alike)


def _run(database: Database, clock: FakeClock, told: list[bytes], outcomes: list[str], *, alike: bool) -> None:
    events = [content if alike else bytes([n]) * 16 for n, content in enumerate(told)]
    queue: list[tuple[int, int, float]] = []  # event, tries, send_at
    stored: Counter[bytes] = Counter()
    arrived: set[int] = set()
    lost = False
    waiting = list(range(len(events)))
    for outcome in outcomes:
        taken = [waiting.pop(0) for _ in range(min(2, len(waiting)))]
        queue += [(event, 0, 0.0) for event in taken]
        now = clock.now().timestamp()
        batch = [one for one in queue if one[2] <= now]
        queue = [one for one in queue if one[2] > now]
        if batch:
            if outcome != "request lost":
                arrivals = [Arrival(events[event], tries, False) for event, tries, _ in batch]
                verdicts = sift(database, clock, *arrivals)
                stored.update(events[event] for (event, _, _), new in zip(batch, verdicts, strict=True) if new)
                arrived |= {event for event, _, _ in batch}
            else:
                lost = True
            if outcome != "answered":
                queue += [(event, tries + 1, now + 180) for event, tries, _ in batch if tries < 3]
        clock.advance(30)
    there = Counter(events[event] for event in arrived)
    assert stored <= there  # nothing twice
    if not (alike and lost):
        assert stored == there


def test_what_is_remembered_stays_small(database: Database, clock: FakeClock) -> None:
    """However much comes in, only so many are remembered, and only for so long."""
    rows = [Arrival(n.to_bytes(16, "big"), 0, True) for n in range(50)]
    with database.write() as tx:
        ingested.sift(tx, rows, now=clock.now())
        ingested.forget_all_but(tx, schema.ingested, 20)
    assert sift(database, clock, rows[-1], rows[0]) == [False, True]
    clock.advance(ingested.KEPT.total_seconds() + 1)
    sift(database, clock, at(0, OTHER))
    list(Retention(database, Ages(timedelta(days=30), timedelta(days=90))).steps(clock.now()))
    with database.read() as conn:
        assert [row.fingerprint for row in conn.execute(schema.ingested.select())] == [OTHER]


def test_what_was_rejected_is_kept_for_a_while(database: Database, clock: FakeClock) -> None:
    """The newest are there to be looked at, long ones cut; old ones go as dead letters do."""
    with database.write() as tx:
        rejected.keep(
            tx, "marzban", [NewRejected("invalid", f"reason {n}", "x" * n) for n in range(1200)], now=clock.now()
        )
        rejected.keep(tx, "marzban", [NewRejected("invalid", "long", "y" * 100_000)], now=clock.now())
    with database.read() as conn:
        found = rejected.newest(conn, limit=2000)
        assert len(found) == rejected.KEPT_ROWS
        assert (found[0].reason, len(found[0].body), found[0].length) == ("long", rejected.KEPT_BODY, 100_000)
        assert rejected.newest(conn, before=found[0].id, limit=1)[0].reason == "reason 1199"
    ages = Ages(timedelta(days=30), timedelta(days=90))
    list(Retention(database, ages).steps(clock.now()))
    clock.advance(91 * 86_400)
    steps = list(Retention(database, ages).steps(clock.now()))
    assert sum(step.removed.get("rejected", 0) for step in steps) == rejected.KEPT_ROWS
    assert max(sum(step.removed.values()) for step in steps) <= BATCH


@pytest.mark.sqlite
def test_a_fingerprint_is_found_by_its_index(database: Database) -> None:
    """Recognising a retry costs a look-up, however many events came before."""
    with database.read() as conn:
        plan = conn.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT id FROM ingested WHERE fingerprint IN (?, ?) ORDER BY id", (ALIKE, OTHER)
        ).all()
    assert any("ix_ingested_fingerprint (fingerprint=?)" in row[3] for row in plan), plan
