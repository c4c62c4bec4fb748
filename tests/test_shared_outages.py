"""An outage is one outage for all workers together: whoever finds it out, all keep to it, one at a time probes, and the first
success is everybody's."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest

from dispatching import CLOCK, House
from marzhook.dispatch.dispatcher import Dispatcher
from marzhook.event import SHARDS, shard_of
from marzhook.store import outages
from marzhook.store.outbox import DeliveryFilter, Outbox
from marzhook.testing import eventually
from receivers import Receiver, events_of
from workers import Start, shards_of, shares

pytestmark = pytest.mark.postgresql

USERS = [f"user{number}" for number in range(120)]


def several(house: House, count: int, stack: ExitStack, **limits: float) -> list[Dispatcher]:
    """So many dispatchers that share what is owed, each with its fair share of the shards."""
    found = [
        stack.enter_context(House(house.database, Outbox(house.database)).dispatching(shared=f"number {n}", **limits))
        for n in range(count)
    ]
    eventually(
        lambda: len(shares(house.database)) == count and min(shares(house.database)) >= SHARDS // count, timeout=30
    )
    return found


def of_action(receiver: Receiver, action: str) -> list[dict[str, Any]]:
    return [event for event in receiver.accepted() if event["action"] == action]


def test_workers_probe_one_at_a_time_and_drain_together(house: House, start: Start, receiver: Receiver) -> None:
    """Four processes on a receiver that fails: after 5 s one request goes out, after 10 more another one, not one of each; the
    probe that is accepted lets all four go on at once. Nobody's tries are used up meanwhile."""
    endpoint = house.endpoint(receiver.url)
    for _ in range(4):
        start()
    eventually(lambda: shares(house.database) == [SHARDS // 4] * 4, timeout=60)
    receiver.do(status=500)
    house.publish(USERS)
    receiver.wait(5)
    eventually(lambda: house.count("endpoints", "probe_at IS NOT NULL") == 1)
    # The second probe fails, the third is accepted.
    eventually(lambda: house.count("endpoints", "probes = 2") == 1, timeout=40)
    seen = [record["at"] for record in receiver.seen()]
    opened = min(seen) + 3
    probes = [at for at in seen if at > opened]
    assert len(probes) == 2, [at - seen[0] for at in seen]
    assert 9.5 < probes[1] - probes[0] < 13
    # Each of the four had its own requests on their way when the first of them found it out, and few more.
    assert len(seen) - len(probes) <= 60
    # So that the test need not wait for 20 s more: it is due now.
    with house.database.write() as tx:
        tx.conn.exec_driver_sql("UPDATE endpoints SET probe_at = extract(epoch FROM clock_timestamp())")
        tx.announce()
    receiver.do(status=200, delay=0.05)
    receiver.wait(len(seen) + 1)
    eventually(lambda: house.states() == {"delivered": len(USERS)}, timeout=20)
    after = [record["at"] for record in receiver.seen()[len(seen) :]]
    assert after[-1] - after[0] < 4
    assert house.load(endpoint.id).failing_since is None
    with house.database.read() as conn:
        assert set(outages.look(conn).values()) == {(1, None)}


def test_a_worker_killed_while_it_probes_is_replaced(house: House, start: Start, receiver: Receiver) -> None:
    """Of two processes, the one with the probe on its way (and the endpoint's turn, which a concurrency of 4 is taken in) is
    killed: when the time for its probe is up, the other one probes, once, and drains everybody's backlog in order."""
    endpoint = house.endpoint(receiver.url, concurrency=4)
    patience = {"MARZHOOK_REQUEST_TIMEOUT": "2"}
    both = [start(**patience), start(**patience)]
    eventually(lambda: shares(house.database) == [SHARDS // 2] * 2, timeout=60)
    receiver.do(status=500)
    for number in range(3):
        house.publish(USERS[:40], number=number)
    # By then both know of the outage, and what was on its way has come back.
    soon = "probe_at - extract(epoch FROM clock_timestamp()) BETWEEN 0 AND 2"
    eventually(lambda: house.count("endpoints", soon) == 1)
    eventually(lambda: house.count("attempts") == len(receiver.seen()))
    before = len(receiver.seen())
    receiver.do(mode="hang")
    [probe] = receiver.wait(before + 1)[before:]
    [event] = events_of(probe["body"])
    [prober] = [one for one in both if shard_of(event["username"]) in shards_of(house.database, one.told)]
    prober.kill()
    receiver.do(status=200, delay=0.2)
    # By its claim it had 5 s to send the probe, and twice the request's 2 s for the answer.
    second, third, *_ = receiver.wait(before + 3, timeout=20)[before + 1 :]
    assert third["at"] - second["at"] > 0.15, "the probe goes alone"
    receiver.do(status=200)
    eventually(lambda: house.states() == {"delivered": 120}, timeout=40)
    assert shares(house.database) == [SHARDS]
    assert house.load(endpoint.id).failing_since is None
    for user in USERS[:40]:
        assert [one["number"] for one in receiver.accepted() if one["username"] == user] == [0, 1, 2]


def test_an_outage_is_noticed_by_those_who_have_not_met_it(house: House, receiver: Receiver) -> None:
    """Nobody sends while another one's breaker is open; when somebody says that it works again, all do at once."""
    endpoint = house.endpoint(receiver.url)
    with ExitStack() as stack:
        dispatchers = several(house, 3, stack)
        with house.database.write() as tx:
            outages.begin(tx, endpoint.id, since=CLOCK.now(), wait=3600.0)
        eventually(lambda: all(one.resting() == {endpoint.id} for one in dispatchers))
        house.publish(USERS)
        with house.database.write() as tx:
            assert outages.end(tx, endpoint.id) is not None
            assert outages.end(tx, endpoint.id) is None
        receiver.wait(len(USERS))
        assert [one.resting() for one in dispatchers] == [set()] * 3


def test_what_another_process_has_the_turn_of_is_left_alone(house: House, receiver: Receiver) -> None:
    """It may rest there, after an alert say, which only that process knows: the watchdog is told nothing of a stall."""
    endpoint = house.endpoint(receiver.url, concurrency=1)
    receiver.do(hold=True)
    with ExitStack() as stack:
        both = several(house, 2, stack)
        house.publish(USERS)
        receiver.wait(1)
        eventually(lambda: sorted((one.resting() for one in both), key=len) == [set(), {endpoint.id}])
        receiver.do(status=200)


def test_what_is_hastened_waits_for_no_pause_of_another_process(house: House, receiver: Receiver) -> None:
    """Whichever of them the endpoint has asked for a pause: it goes at once, one at a time, and nothing else of anybody."""
    house.endpoint(receiver.url, concurrency=1)
    receiver.do(status=429, headers={"Retry-After": "3600"})
    with ExitStack() as stack:
        several(house, 2, stack)
        house.publish(USERS)
        eventually(lambda: house.count("pending", "attempts = 1") == 1)
        pressed = [names[n] for n in range(2) for names in users_of_each(house)]
        for count, name in enumerate(pressed, start=2):
            with house.database.write() as tx:
                assert house.outbox.hasten(tx, DeliveryFilter(username=name), now=CLOCK.now()) == 1
            receiver.wait(count, timeout=5)
    assert [event["username"] for record in receiver.seen()[1:] for event in events_of(record["body"])] == pressed


def test_a_pause_is_kept_by_those_who_get_the_turn_in_it(house: House, receiver: Receiver) -> None:
    """Two processes with a backlog each want the turn while it lasts; when it is over, both send."""
    house.endpoint(receiver.url, concurrency=1)
    receiver.do(status=429, headers={"Retry-After": "4"}, times=1)
    with ExitStack() as stack:
        both = several(house, 2, stack)
        house.publish(USERS)
        # Nobody's turn: it was given on, to somebody who then knows of the pause.
        eventually(lambda: not any(one._turns is None or one._turns._had_since for one in both))
        eventually(lambda: house.count("pending") == 0, timeout=20)
    first, *others = [record["at"] for record in receiver.seen()]
    assert min(others) - first > 3.9
    assert len(others) == len(USERS)


def users_of_each(house: House) -> list[list[str]]:
    """Of each process those who have only waited so far."""
    untried = "SELECT e.username FROM pending p JOIN events e ON e.id = p.event_id WHERE p.attempts = 0 ORDER BY e.id"
    with house.database.read() as conn:
        names = conn.exec_driver_sql(untried).scalars().all()
    return [[name for name in names if shard_of(name) in worker.shards] for worker in house.database.workers()]


def test_others_are_told_once(house: House, receiver: Receiver) -> None:
    """Three processes see an endpoint fail for 20 minutes and recover: one notice of each."""
    with Receiver() as sick_receiver, ExitStack() as stack:
        sick_receiver.do(status=500)
        sick = house.endpoint(sick_receiver.url)
        house.endpoint(receiver.url)
        house.fails(sick, CLOCK.now() - timedelta(minutes=20))
        house.publish(USERS)
        several(house, 3, stack)
        eventually(lambda: len(of_action(receiver, "endpoint_failing")) > 0)
        eventually(lambda: house.count("endpoints", "probes > 0") == 1)
        sick_receiver.do(status=200)
        eventually(lambda: len(of_action(receiver, "endpoint_recovered")) > 0)
        eventually(lambda: house.count("pending") == 0)
    assert len(of_action(receiver, "endpoint_failing")) == 1
    assert len(of_action(receiver, "endpoint_recovered")) == 1


def test_a_restart_does_not_forget_an_outage(house: House, receiver: Receiver) -> None:
    """Who starts while an endpoint is out of order goes on probing, and does not begin with five failures."""
    endpoint = house.endpoint(receiver.url)
    receiver.do(status=500)
    house.publish(USERS)
    with house.dispatching(shared="first", first_probe=3600.0):
        eventually(lambda: house.count("endpoints", "probe_at IS NOT NULL") == 1)
    seen = len(receiver.seen())
    with house.dispatching(shared="second") as second:
        eventually(lambda: second.resting() == {endpoint.id})
        eventually(lambda: shares(house.database) == [SHARDS])
        house.publish(["anna"])
        eventually(lambda: second.resting() == {endpoint.id})
    assert len(receiver.seen()) == seen
