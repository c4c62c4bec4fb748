"""Outages, refusals and limits: what an endpoint does to its own deliveries, and to nobody else's."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any

import pytest

from dispatching import CLOCK, House
from marzhook.dispatch import health
from marzhook.request import Response
from marzhook.retry import RetryPolicy
from marzhook.store import endpoints, history
from marzhook.store.outbox import DeliveryFilter
from marzhook.testing import eventually
from marzhook.transport.http import HttpTransport
from receivers import Receiver, events_of, header_of


def test_an_outage_burns_no_tries_and_ends_with_the_whole_backlog(house: House, receiver: Receiver) -> None:
    """With a schedule of one retry a long outage would kill everything; the breaker keeps it, and drains it after."""
    house.endpoint(receiver.url)
    receiver.do(status=500)
    house.publish([f"user{i}" for i in range(300)])
    with house.dispatching(RetryPolicy((0.01,) * 2, jitter=0.0)):
        eventually(lambda: house.count("attempts", "schedule = 'outage'") >= 3)
        assert house.count("pending") >= 290
        receiver.do(status=200)
        eventually(lambda: house.count("pending") == 0)
    assert house.states()["delivered"] >= 290
    with house.database.read() as conn:
        schedules = {row[0] for row in conn.exec_driver_sql("SELECT DISTINCT schedule FROM attempts")}
    assert schedules == {None, "standard", "outage"}


def test_order_per_user_holds_through_an_outage(house: House, receiver: Receiver) -> None:
    """What waits for the breaker keeps its place."""
    house.endpoint(receiver.url)
    receiver.do(status=503)
    users = [f"user{i % 5}" for i in range(100)]
    house.publish(users)
    with house.dispatching():
        receiver.wait(8)
        receiver.do(status=200)
        eventually(lambda: house.count("pending") == 0)
    accepted = receiver.accepted()
    for user in set(users):
        numbers = [event["n"] for event in accepted if event["username"] == user]
        assert numbers == sorted(numbers)
        assert len(numbers) == 20


def test_a_poison_event_is_dead_after_its_short_schedule_and_its_user_goes_on(house: House, receiver: Receiver) -> None:
    """Where one event is refused (422) while others are accepted, the short schedule applies and says so."""
    endpoint = house.endpoint(receiver.url)
    receiver.do(refuse="poison")
    house.publish(["fine"] * 3)
    with house.dispatching(RetryPolicy((3600.0,)), rejected_policy=RetryPolicy((0.02, 0.02, 0.02))):
        receiver.wait(3)
        (poison,) = house.publish(["anna"], note="poison")
        house.publish(["anna"])
        eventually(lambda: house.states() == {"delivered": 4, "dead": 1})
    with house.database.read() as conn:
        found = history.attempts(conn, endpoint.id, poison)
    assert [(a.status, a.schedule) for a in found] == [(422, "rejected")] * 4


def test_a_receiver_that_refuses_everything_is_an_outage(house: House, receiver: Receiver) -> None:
    """When nothing is accepted, 400 says nothing about an event: nothing dies of it."""
    house.endpoint(receiver.url)
    receiver.do(status=400)
    house.publish([f"user{i}" for i in range(50)])
    with house.dispatching(RetryPolicy((3600.0,)), rejected_policy=RetryPolicy(())):
        receiver.wait(12)
        receiver.do(status=200)
        eventually(lambda: house.states().get("delivered", 0) >= 45)
    assert "dead" not in house.states()


def test_one_poison_event_does_not_hold_its_batch(house: House, receiver: Receiver) -> None:
    """`list`: the refused batch comes again as it was, with the same id, then in halves, until the poison is alone."""
    endpoint = house.endpoint(receiver.url, format="list", concurrency=1)
    house.publish(["warm-up"])
    with house.dispatching(RetryPolicy((0.05,) * 9), rejected_policy=RetryPolicy((0.05, 0.05, 0.05))):
        receiver.wait(1)
        receiver.do(refuse="poison")
        with house.database.write() as tx:
            good = [house.event(f"user{i % 20}", n=i) for i in range(63)]
            good.insert(40, house.event("user3", n=99, note="poison"))
            ids = house.outbox.publish(tx, good, now=CLOCK.now())
        eventually(lambda: house.states() == {"delivered": 64, "dead": 1})
    records = receiver.seen()[1:]
    sizes = [len(events_of(r["body"])) for r in records]
    assert sizes[:2] == [64, 64]
    assert header_of(records[0], "webhook-id") == header_of(records[1], "webhook-id")
    # The second half lacks what waits behind the first half of its own user.
    assert sizes[2] == 32
    assert 16 <= sizes[3] <= 32
    with house.database.read() as conn:
        poison = history.delivery(conn, endpoint.id, ids[40])
        others = [history.delivery(conn, endpoint.id, i) for i in ids if i != ids[40]]
    assert poison.state == "dead"
    assert all(other.state == "delivered" and other.tries <= 1 for other in others)
    accepted = receiver.accepted()
    for user in {e["username"] for e in accepted}:
        numbers = [e["n"] for e in accepted if e["username"] == user]
        assert numbers == sorted(numbers), user


def test_retry_after_lets_the_whole_endpoint_rest(house: House, receiver: Receiver) -> None:
    """After a 429 with Retry-After nothing is sent to the endpoint until then, and no breaker opens for it."""
    house.endpoint(receiver.url, concurrency=1)
    receiver.do(status=429, headers={"Retry-After": "1"}, times=1)
    house.publish([f"user{i}" for i in range(5)])
    with house.dispatching():
        eventually(lambda: house.count("pending") == 0)
    times = [r["at"] for r in receiver.seen()]
    assert times[1] - times[0] >= 0.95


def test_what_is_hastened_is_tried_once_in_a_pause(house: House, receiver: Receiver) -> None:
    """Somebody wants one delivery to be tried now: it is, once, whatever Retry-After said; all others wait on."""
    endpoint = house.endpoint(receiver.url, concurrency=1)
    receiver.do(status=429, headers={"Retry-After": "3600"}, times=2)
    anna, _ = house.publish(["anna", "bob"])
    with house.dispatching(RetryPolicy((3600.0,) * 3)):
        for tries in (1, 2):
            eventually(lambda tries=tries: house.count("pending", f"tries = {tries}") == 1)
            assert len(receiver.seen()) == tries
            hasten(house, anna)
        eventually(lambda: house.states() == {"delivered": 1})
    assert [status for _, status, _ in house.attempts(endpoint, anna)] == [429, 429, 200]
    assert len(receiver.seen()) == 3
    assert house.count("pending", "attempts = 0") == 1


def test_what_is_hastened_in_an_outage_is_its_next_probe(house: House, receiver: Receiver) -> None:
    """It goes at once, though the next probe is an hour away, and by itself; a failure uses up no try, a success ends all."""
    endpoint = house.endpoint(receiver.url, concurrency=1)
    receiver.do(status=500, times=6)
    *_, dora, _ = ids = house.publish(["anna", "bob", "carl", "dave", "dora", "emil"])
    with house.dispatching(RetryPolicy((3600.0,)), first_probe=3600.0) as dispatcher:
        eventually(lambda: house.count("endpoints", "probe_at IS NOT NULL") == 1)
        hasten(house, dora)
        eventually(lambda: house.count("pending", f"event_id = {dora} AND attempts = 2 AND tries = 1") == 1)
        assert len(receiver.seen()) == 6
        hasten(house, dora)
        eventually(lambda: house.states() == {"delivered": 2})
        assert dispatcher.trouble is None
    assert [status for _, status, _ in house.attempts(endpoint, dora)] == [500, 500, 200]
    # What was never tried follows; the others wait for their own time.
    assert house.count("attempts", f"event_id = {ids[-1]} AND status = 200") == 1


def test_of_several_that_are_hastened_each_goes(house: House, receiver: Receiver) -> None:
    """Also where the next one is asked for before the first has gone: its place is taken, or it is another worker's turn."""
    endpoint = house.endpoint(receiver.url)
    receiver.do(status=429, headers={"Retry-After": "3600"})
    house.publish(["anna"])
    with house.dispatching(RetryPolicy((3600.0,) * 3)):
        eventually(lambda: house.count("pending", "tries = 1") == 1)
        bob, carl = house.publish(["bob", "carl"])
        with house.database.write() as tx:
            for event_id in (bob, carl):
                house.outbox.hasten(tx, DeliveryFilter(event_id=event_id), now=CLOCK.now())
        eventually(lambda: house.count("pending", "tries = 1") == 3)
    assert [status for event in (bob, carl) for _, status, _ in house.attempts(endpoint, event)] == [429, 429]


def hasten(house: House, event_id: int) -> None:
    with house.database.write() as tx:
        assert house.outbox.hasten(tx, DeliveryFilter(event_id=event_id), now=CLOCK.now()) == 1


def test_a_rate_limit_is_kept(house: House, receiver: Receiver) -> None:
    """rate_limit=20: a backlog of 20 takes a second, evenly."""
    house.endpoint(receiver.url, rate_limit=20.0)
    house.publish([f"user{i}" for i in range(20)])
    with house.dispatching():
        eventually(lambda: house.count("pending") == 0)
    times = [r["at"] for r in receiver.seen()]
    assert times[-1] - times[0] >= 0.9


def test_retries_that_hang_leave_slots_for_first_tries(house: House, receiver: Receiver) -> None:
    """While all retries hang, an event that was never tried still goes out at once."""
    house.endpoint(receiver.url, concurrency=4, ordered=False)
    with house.database.write() as tx:
        tx.conn.exec_driver_sql("UPDATE endpoints SET concurrency = 4")
    old = house.publish(["old"] * 20)
    with house.database.write() as tx:
        tx.conn.exec_driver_sql("UPDATE pending SET tries = 1, attempts = 1")
    receiver.do(mode="hang", only="old")
    with house.dispatching(timeout=30.0):
        receiver.wait(3)
        house.publish(["new"])
        eventually(lambda: [e["username"] for e in receiver.accepted()] == ["new"])
    assert house.count("pending") == len(old)


def test_others_hear_once_of_an_endpoint_that_is_gone(house: House, receiver: Receiver) -> None:
    """Eight answers of 410 at once are one event; what the address was owed stays."""
    with Receiver() as gone:
        gone.do(status=410)
        sick = house.endpoint(gone.url, concurrency=8)
        house.endpoint(receiver.url)
        owed = house.publish([f"user{n}" for n in range(8)])
        with house.dispatching():
            eventually(lambda: not house.load(sick.id).enabled)
            house.publish(["after"])
            eventually(lambda: "after" in [e["username"] for e in receiver.accepted()])
        told = [e for e in receiver.accepted() if e["action"] == "endpoint_disabled"]
        assert [(e["endpoint"]["id"], "410" in e["reason"]) for e in told] == [(sick.id, True)]
        assert house.count("pending", f"endpoint_id = {sick.id}") == len(owed) + 1


def test_a_replay_meanwhile_does_not_keep_a_gone_endpoint_enabled(house: House, receiver: Receiver) -> None:
    """A replay raises the endpoint's revision, but says nothing about its address."""
    sick = house.endpoint(receiver.url)
    house.publish(["user"])
    receiver.do(hold=True, status=410)
    with house.dispatching():
        receiver.wait(1)
        with house.database.write() as tx:
            # Unseen by the dispatcher, as when it comes in the same moment.
            tx.conn.exec_driver_sql("UPDATE endpoints SET revision = revision + 1")
            receiver.do(status=410)
        eventually(lambda: not house.load(sick.id).enabled)
    assert len(receiver.seen()) == 1


def test_an_endpoint_that_fails_for_days_is_disabled_and_everybody_else_is_told(
    house: House, receiver: Receiver
) -> None:
    """After five days without a success it is disabled; the other endpoint hears of it; what it is owed stays."""
    with Receiver() as sick_receiver:
        sick_receiver.do(status=500)
        sick = house.endpoint(sick_receiver.url)
        house.endpoint(receiver.url)
        house.fails(sick, CLOCK.now() - health.DISABLED_AFTER - timedelta(seconds=1), stage=4)
        house.publish(["anna"])
        with house.dispatching():
            records = receiver.wait(2)
            eventually(lambda: not house.load(sick.id).enabled)
    told = [json.loads(r["body"]) for r in records]
    (notice,) = [e for e in told if e["action"] == "endpoint_disabled"]
    assert notice["username"] == f"endpoint-{sick.id}"
    assert notice["endpoint"]["id"] == sick.id
    assert house.count("pending", f"endpoint_id = {sick.id}") == 1


def test_who_was_not_tried_for_days_is_not_disabled_for_it(house: House, receiver: Receiver) -> None:
    """An outage was noted; then nothing ran for days, or no version that understood the endpoint: it is tried before."""
    rests = house.endpoint(receiver.url + "rests", kind="pigeon")
    tried = house.endpoint(receiver.url)
    for endpoint in (rests, tried):
        house.fails(endpoint, CLOCK.now() - health.DISABLED_AFTER - timedelta(seconds=1), stage=4)
    house.publish(["anna"])
    with house.dispatching() as dispatcher:
        eventually(lambda: house.load(tried.id).failing_since is None)
        with house.database.write() as tx:
            endpoints.update(tx, rests.id, kind="webhook")
        dispatcher.wake()
        eventually(lambda: house.load(rests.id).failing_since is None)
    assert house.count("events", "action = 'endpoint_disabled'") == 0


def test_what_failed_before_an_endpoint_rested_says_nothing_of_now(house: House, receiver: Receiver) -> None:
    """It is not understood for a while, in the midst of an outage: no failure from before disables it afterwards."""
    receiver.do(status=500)
    endpoint = house.endpoint(receiver.url)
    house.publish([f"user{i}" for i in range(8)])
    with house.dispatching(first_probe=3600.0) as dispatcher:
        eventually(lambda: house.count("endpoints", "probe_at IS NOT NULL") == 1)
        sender = dispatcher._senders[endpoint.id]
        assert sender.breaker.failing
        for kind in ("pigeon", "webhook"):
            with house.database.write() as tx:
                endpoints.update(tx, endpoint.id, kind=kind)
            dispatcher.wake()
            eventually(lambda kind=kind: sender.destination.endpoint.kind == kind)
        assert not sender.breaker.failing


def test_a_recovery_is_told_where_the_failure_was(house: House, receiver: Receiver) -> None:
    """Whoever was told that an endpoint fails is told that it is back; its record is clean again."""
    with Receiver() as sick_receiver:
        sick_receiver.do(status=500)
        sick = house.endpoint(sick_receiver.url)
        house.endpoint(receiver.url)
        house.fails(sick, CLOCK.now() - timedelta(minutes=20), stage=0)
        house.publish([f"user{i}" for i in range(8)])
        with house.dispatching():
            eventually(lambda: any(e["action"] == "endpoint_failing" for e in receiver.accepted()))
            sick_receiver.do(status=200)
            eventually(lambda: any(e["action"] == "endpoint_recovered" for e in receiver.accepted()))
            eventually(lambda: house.load(sick.id).failing_since is None)
        assert not any(e["action"].startswith("endpoint_") for e in sick_receiver.accepted())


def test_an_outage_that_a_restart_cut_short_ends_with_the_first_success(house: House, receiver: Receiver) -> None:
    """Its breaker was never open in this life of the service; still, who is well must not be disabled after five days."""
    endpoint = house.endpoint(receiver.url)
    house.fails(endpoint, CLOCK.now() - timedelta(minutes=10))
    house.publish(["anna"])
    with house.dispatching():
        eventually(lambda: house.states() == {"delivered": 1})
        eventually(lambda: house.load(endpoint.id).failing_since is None)


def test_a_probe_that_cannot_be_rendered_does_not_end_the_probing(house: House, receiver: Receiver) -> None:
    """The event after it is the probe."""
    house.endpoint(receiver.url, format="standard", concurrency=1)
    receiver.do(status=500)
    ids = house.publish([f"user{i}" for i in range(10)])
    with house.database.write() as tx:
        # The sixth is the first probe; its time is in no calendar.
        tx.conn.exec_driver_sql(f"UPDATE events SET enqueued_at = 1e20 WHERE id = {ids[5]}")
    with house.dispatching(RetryPolicy((3600.0,))):
        receiver.wait(6)
        receiver.do(status=200)
        eventually(lambda: house.states() == {"dead": 1, "delivered": 9})


def test_many_retries_that_are_due_do_not_hide_a_first_try(house: House, receiver: Receiver) -> None:
    """Not even after a restart, when there are more of them than is kept in memory."""
    house.endpoint(receiver.url, concurrency=4)
    house.publish([f"old{i}" for i in range(6000)])
    with house.database.write() as tx:
        tx.conn.exec_driver_sql("UPDATE pending SET tries = 1, attempts = 1")
    receiver.do(delay=0.2)
    with house.dispatching():
        receiver.wait(3)
        house.publish(["new"])
        eventually(lambda: "new" in {e["username"] for e in receiver.accepted()})
    assert len(receiver.accepted()) < 1000


def test_fewer_may_be_on_their_way_than_are(house: House, receiver: Receiver) -> None:
    """Somebody lowers an endpoint's concurrency while its batches hang: the others go on."""
    with Receiver() as hanging:
        hanging.do(mode="hang")
        sick = house.endpoint(hanging.url, format="list", concurrency=3)
        house.endpoint(receiver.url)
        house.publish([f"user{i}" for i in range(400)])
        with house.dispatching(timeout=3.0):
            hanging.wait(3)
            receiver.wait(400)
            with house.database.write() as tx:
                endpoints.update(tx, sick.id, concurrency=1)
            eventually(lambda: house.count("settled") == 400)
            house.publish(["late"])
            receiver.wait(401)
            assert hanging.most_in_flight() == 3


def test_who_can_do_nothing_sleeps(house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """While all slots hang, neither hundreds of retries that came due nor new lanes keep the dispatcher busy."""
    turns, asleep = 0, 0.0
    poll = HttpTransport.poll

    def counted(transport: HttpTransport, timeout: float) -> list[tuple[Any, Response]]:
        nonlocal turns, asleep
        began = time.monotonic()
        try:
            return poll(transport, timeout)
        finally:
            turns, asleep = turns + 1, asleep + time.monotonic() - began

    def turns_while_asleep(seconds: float) -> int:
        """How many it makes until it has slept for so long, all together: who is busy never gets there."""
        turns_before, asleep_before = turns, asleep
        eventually(lambda: asleep - asleep_before >= seconds)
        return turns - turns_before

    monkeypatch.setattr(HttpTransport, "poll", counted)
    endpoint = house.endpoint(receiver.url)
    house.publish([f"user{i}" for i in range(1000)])
    with house.database.write() as tx:
        due = CLOCK.now().timestamp() + 0.5
        tx.conn.exec_driver_sql(f"UPDATE pending SET tries = 1, attempts = 1, due_at = {due!r}")
    receiver.do(mode="hang")
    with house.dispatching(timeout=30.0):
        receiver.wait(24)
        for change in ({}, {"ordered": False}):
            if change:
                with house.database.write() as tx:
                    endpoints.update(tx, endpoint.id, **change)
            turns_while_asleep(0.2)
            assert turns_while_asleep(0.5) < 50


def test_near_timers_leave_no_far_ones_behind(house: House, receiver: Receiver) -> None:
    """Beside a retry of tomorrow, a rate limit that rings again and again: memory stays bounded."""
    house.endpoint(receiver.url, rate_limit=500.0)
    house.publish(["far"])
    with house.database.write() as tx:
        due = CLOCK.now().timestamp() + 80_000
        tx.conn.exec_driver_sql(f"UPDATE pending SET tries = 1, attempts = 1, due_at = {due!r}")
    with house.dispatching() as dispatcher:
        for number in range(120):
            house.publish([f"user{number}", f"friend{number}"])
            receiver.wait(2 * number + 2)
        assert len(dispatcher._timers) <= 70
