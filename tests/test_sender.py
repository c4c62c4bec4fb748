"""One endpoint's sender, without a dispatcher around it: its pace and its pauses, by the clock of the test."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dispatching import House
from marzhook.clock import from_unix
from marzhook.dispatch.limits import Limits
from marzhook.dispatch.sender import Sender
from marzhook.request import Response
from marzhook.store import endpoints
from marzhook.store.database import Database
from marzhook.store.outbox import DeliveryFilter, Outbox
from marzhook.testing import FakeClock


@pytest.fixture
def house(database: Database, outbox: Outbox) -> House:
    return House(database, outbox)


def sender(house: House, clock: FakeClock, **values: Any) -> Sender:
    made = house.endpoint("http://127.0.0.1:9/", **values)
    with house.database.read() as conn:
        endpoint = endpoints.get(conn, made.id)
    return Sender(endpoint, house.outbox, clock, instance="x", limits=Limits(), random=lambda: 0.5)


def answer(one: Sender, clock: FakeClock, status: int, **headers: str) -> None:
    """Send what may go, and have all of it answered so."""
    one.refill()
    flying = [one.ship()[0] for _ in range(one.room(clock.monotonic()))]
    for shipment in flying:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        done = one.answered(shipment, Response(clock.now(), 0.01, status, named))
        house_commit(one, done.settlements)


def house_commit(one: Sender, settlements: list[Any]) -> None:
    one._outbox.settle(settlements, now=from_unix(1_800_000_000))
    one.lanes.committed([s.delivery.event.id for s in settlements])


def test_looks_that_come_late_do_not_slow_a_rate_limit_down(house: House, clock: FakeClock) -> None:
    """100 a second are 100 a second, also where each look is some milliseconds late; and never more in any second."""
    one = sender(house, clock, rate_limit=100.0)
    house.publish([f"user{n}" for n in range(600)])
    begun, sent = clock.monotonic(), []
    while clock.monotonic() < begun + 4:
        one.refill()
        while one.room(clock.monotonic()):
            shipment, _ = one.ship()
            sent.append(clock.monotonic() - begun)
            house_commit(one, one.answered(shipment, Response(clock.now(), 0.001, 200)).settlements)
        clock.advance(0.013)
    assert 395 <= len(sent) <= 401
    assert all(later - earlier >= 0.97 for earlier, later in zip(sent, sent[100:], strict=False))


def test_an_idle_time_gives_no_credit(house: House, clock: FakeClock) -> None:
    """After an hour without events, the limit holds from the first second on."""
    one = sender(house, clock, rate_limit=10.0)
    clock.advance(3600)
    house.publish([f"user{n}" for n in range(50)])
    one.refill()
    one.ship()
    assert one.room(clock.monotonic()) == 0


def test_the_second_mode_of_a_secret_counts_in_the_rate_limit(house: House, clock: FakeClock) -> None:
    """What is asked once more with an HMAC is a request like any other."""
    one = sender(house, clock, rate_limit=10.0, secret="s", secret_mode="auto")
    house.publish(["user", "friend"])
    one.refill()
    shipment, _ = one.ship()
    assert one.resend(shipment, Response(clock.now(), 0.01, 401)) is not None
    house_commit(one, one.answered(shipment, Response(clock.now(), 0.01, 200)).settlements)
    clock.advance(0.15)
    assert one.room(clock.monotonic()) == 0
    clock.advance(0.051)
    assert one.room(clock.monotonic()) == 1


def test_a_receiver_that_only_ever_asks_for_pauses_is_an_outage(house: House, clock: FakeClock) -> None:
    """Maintenance behind 503 and Retry-After opens the breaker after five pauses, so days of it use up nobody's tries."""
    one = sender(house, clock)
    house.publish([f"user{n}" for n in range(40)])
    for _ in range(4):
        answer(one, clock, 503, retry_after="60")
        assert not one.breaker.open, "32 answers of one moment are one pause"
        clock.advance(61)
    for _ in range(30):
        clock.advance(3600)
        answer(one, clock, 503, retry_after="60")
    assert one.breaker.open
    with house.database.read() as conn:
        [most] = conn.exec_driver_sql("SELECT max(tries) FROM pending").one()
    assert most <= 5
    assert house.count("pending") == 40


def hasten(house: House, one: Sender, event_id: int, clock: FakeClock, *, ahead: float = 0.0) -> None:
    """Somebody wants it tried now, on a machine whose clock is so many seconds ahead."""
    with house.database.write() as tx:
        which = DeliveryFilter(one.endpoint.id, event_id)
        assert house.outbox.hasten(tx, which, now=clock.now() + timedelta(seconds=ahead)) == 1
    one.reload(house.load(one.endpoint.id))
    one.refill()
    one.refill()


def test_what_is_hastened_does_not_hold_up_first_tries_behind_retries_that_hang(house: House, clock: FakeClock) -> None:
    """It waits until another retry has come back, as retries do; the places kept for first tries stay theirs."""
    one = sender(house, clock, concurrency=4)
    *_, dora = house.publish(["anna", "bob", "carl", "dora"])
    answer(one, clock, 500)
    clock.advance(60)
    one.refill()
    hung = [one.ship()[0] for _ in range(one.room(clock.monotonic()))]
    assert len(hung) == one.pace.again_slots == 3
    waits = ({1, 2, 3, 4} - {shipment.deliveries[0].event.id for shipment in hung}).pop()
    assert waits == dora
    house.publish(["emil"])
    hasten(house, one, waits, clock)
    assert one.lanes.urgent
    assert one.room(clock.monotonic()) == 1
    shipment, _ = one.ship()
    assert shipment.deliveries[0].event.username == "emil"
    assert one.room(clock.monotonic()) == 0
    one.answered(hung[0], Response(clock.now(), 0.01, 200))
    assert one.room(clock.monotonic()) == 1
    assert one.ship()[0].deliveries[0].event.id == waits


def test_what_is_hastened_and_waits_for_a_place_keeps_nobody_from_the_end_of_a_pause(
    house: House, clock: FakeClock
) -> None:
    """First tries go when the pause is over, however long the retries hang whose place it waits for."""
    one = sender(house, clock, concurrency=4)
    house.publish(["anna", "bob", "carl", "dora"])
    answer(one, clock, 500)
    clock.advance(60)
    one.refill()
    hung = [one.ship()[0] for _ in range(one.room(clock.monotonic()))]
    waits = ({1, 2, 3, 4} - {shipment.deliveries[0].event.id for shipment in hung}).pop()
    house.publish(["emil"])
    one.pace.pause(30)
    hasten(house, one, waits, clock)
    assert one.lanes.urgent
    now = clock.monotonic()
    assert one.room(now) == 0
    assert one.next_look(now) == pytest.approx(now + 30)


def test_what_is_hastened_by_a_clock_that_is_ahead_goes_at_once(house: House, clock: FakeClock) -> None:
    """It is known by its time, which is not waited for."""
    one = sender(house, clock)
    [anna] = house.publish(["anna"])
    answer(one, clock, 429, retry_after="3600")
    hasten(house, one, anna, clock, ahead=30)
    assert one.room(clock.monotonic()) == 1


def test_what_was_sent_again_goes_at_once_whatever_its_time(house: House, clock: FakeClock) -> None:
    """A version of before put it off by a day, and found it so on disk after an upgrade."""
    one = sender(house, clock)
    house.publish(["anna"])
    answer(one, clock, 200)
    with house.database.write() as tx:
        tomorrow = clock.now() + timedelta(days=1)
        assert house.outbox.replay(tx, DeliveryFilter(states=("delivered",)), now=tomorrow) == 1
    one.reload(house.load(one.endpoint.id))
    one.refill()
    one.refill()
    assert one.room(clock.monotonic()) == 1


def test_what_is_hastened_puts_no_probe_off(house: House, clock: FakeClock) -> None:
    """However often somebody tries during an outage, the next probe goes when it would have."""
    one = sender(house, clock, concurrency=1)
    anna, *_ = house.publish([f"user{n}" for n in range(9)])
    for _ in range(5):
        answer(one, clock, 500)
    assert one.breaker.open
    probe_at = one.breaker.probe_at
    for _ in range(9):
        hasten(house, one, anna, clock)
        answer(one, clock, 500)
        clock.advance(0.1)
    assert house.count("attempts", f"event_id = {anna}") == 10
    assert (one.breaker.probe_at, one.breaker.probes) == (probe_at, 0)
    clock.advance(probe_at - clock.monotonic())
    assert one.room(clock.monotonic()) == 1


def test_what_is_hastened_goes_also_while_others_want_the_turn(house: House, clock: FakeClock) -> None:
    """In a pause the turn cannot be given on, so there is time for it."""
    one = sender(house, clock, concurrency=1)
    [anna] = house.publish(["anna"])
    answer(one, clock, 429, retry_after="3600")
    one.pace.yielding = True
    hasten(house, one, anna, clock)
    assert one.room(clock.monotonic()) == 1


@pytest.mark.parametrize("when", ["on its way", "answered", "written"])
@pytest.mark.parametrize("before", [False, True])
def test_no_moment_is_too_early_to_hasten_what_fails(
    house: House, clock: FakeClock, *, when: str, before: bool
) -> None:
    """Also while a try of it is on its way, or its answer not on disk yet, or not known to be: it is tried once more, and
    once; also where that try was hastened itself, a moment ago."""
    one = sender(house, clock, concurrency=1)
    [anna] = house.publish(["anna"])
    if before:
        answer(one, clock, 429, retry_after="3600")
        hasten(house, one, anna, clock)
    one.refill()

    def at(moment: str) -> None:
        if moment == when:
            clock.advance(1)
            hasten(house, one, anna, clock)

    shipment, _ = one.ship()
    at("on its way")
    done = one.answered(shipment, Response(clock.now(), 0.01, 429, {"retry-after": "3600"}))
    at("answered")
    assert one.room(clock.monotonic()) == 0
    house.outbox.settle(done.settlements, now=clock.now())
    at("written")
    one.lanes.committed([anna])
    for _ in range(2):
        one.refill()
    assert one.room(clock.monotonic()) == 1
    answer(one, clock, 429, retry_after="3600")
    for _ in range(2):
        one.refill()
    assert one.room(clock.monotonic()) == 0


def test_what_is_hastened_is_found_after_another_one_was(house: House, clock: FakeClock) -> None:
    """Within the same minute: the first in the first window, the second behind it."""
    one = sender(house, clock, concurrency=1)
    [first] = house.publish(["first"])
    answer(one, clock, 429, retry_after="3600")
    house.publish([f"user{n}" for n in range(3000)])
    [anna] = house.publish(["anna"])
    for event_id in (first, anna):
        clock.advance(1)
        hasten(house, one, event_id, clock)
        assert one.room(clock.monotonic()) == 1
        shipment, _ = one.ship()
        assert [delivery.event.id for delivery in shipment.deliveries] == [event_id]
        done = one.answered(shipment, Response(clock.now(), 0.01, 429, {"retry-after": "3600"}))
        house_commit(one, done.settlements)


@pytest.mark.parametrize("tried", [False, True])
def test_what_is_hastened_is_found_behind_any_backlog(house: House, clock: FakeClock, *, tried: bool) -> None:
    """In a pause, behind thousands that may not go; and behind the earlier ones of its user, which go first."""
    one = sender(house, clock, concurrency=1)
    house.publish(["first"])
    answer(one, clock, 429, retry_after="3600")
    house.publish([f"user{n}" for n in range(3000)])
    earlier, anna = house.publish(["anna", "anna"])
    bob, _ = house.publish(["bob", "bob"])
    if tried:
        with house.database.write() as tx:
            tx.conn.exec_driver_sql("UPDATE pending SET tries = 1, attempts = 1")
    hasten(house, one, anna, clock)
    assert one.room(clock.monotonic()) == 0, "an earlier one of that user was not asked for"
    for event_id in (bob, earlier, anna):
        hasten(house, one, event_id, clock)
        assert one.room(clock.monotonic()) == 1
        shipment, _ = one.ship()
        assert [delivery.event.id for delivery in shipment.deliveries] == [event_id]
        house_commit(one, one.answered(shipment, Response(clock.now(), 0.01, 200)).settlements)
        assert one.room(clock.monotonic()) == 0, "once, and nothing else"


def test_of_many_that_are_hastened_each_goes(house: House, clock: FakeClock) -> None:
    """Somebody lists what waits in a pause, and wants each of it tried now, behind thousands that he does not."""
    one = sender(house, clock, concurrency=1)
    house.publish(["first"])
    answer(one, clock, 429, retry_after="3600")
    house.publish([f"user{n}" for n in range(1200)])
    *some, last = house.publish([f"wanted{n}" for n in range(150)])
    with house.database.write() as tx:
        for event_id in some:
            house.outbox.hasten(tx, DeliveryFilter(one.endpoint.id, event_id), now=clock.now())
    hasten(house, one, last, clock)
    while one.room(clock.monotonic()):
        answer(one, clock, 200)
        one.refill()
    assert house.states() == {"delivered": 150}


def test_who_takes_no_turns_any_more_is_not_held_up_by_another_ones_pause(house: House, clock: FakeClock) -> None:
    """An endpoint that is allowed so much meanwhile that workers divide it: nobody would say that the pause is over."""
    made = house.endpoint("http://127.0.0.1:9/", concurrency=1)
    one = Sender(house.load(made.id), house.outbox, clock, instance="x", limits=Limits(), random=lambda: 0.5, share=0.5)
    one.pace.held_up = True
    with house.database.write() as tx:
        endpoints.update(tx, made.id, concurrency=64)
    one.reload(house.load(made.id))
    house.publish(["anna"])
    one.refill()
    assert one.room(clock.monotonic()) == 1
