"""What an endpoint may get at once, and in a second, is kept by all workers together: counted where it arrives."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatching import House
from marzhook.clock import SystemClock
from marzhook.dispatch.pace import DIVIDED, Pace
from marzhook.event import SHARDS, shard_of
from marzhook.store.shards import fair_share
from marzhook.testing import eventually
from receivers import Receiver, events_of
from workers import Start, WorkerProcess, shares

postgresql = pytest.mark.postgresql
USERS = [f"user{number}" for number in range(64)]


def started(house: House, start: Start, count: int) -> list[WorkerProcess]:
    found = [start() for _ in range(count)]
    eventually(lambda: shares(house.database) == [SHARDS // count] * count, timeout=60)
    return found


def most_in_a_second(times: Sequence[float]) -> int:
    return max(bisect_left(times, at + 1.0) - index for index, at in enumerate(times))


def in_order(receiver: Receiver) -> None:
    """Each user's events came for the first time in their order; what a killed worker had not written down comes again."""
    seen: dict[str, list[int]] = {}
    for record in receiver.seen():
        for event in events_of(record["body"]):
            before = seen.setdefault(event["username"], [])
            assert event["n"] in before or event["n"] > max(before, default=-1), event
            before.append(event["n"])


@postgresql
@pytest.mark.parametrize("concurrency", [1, 3])
def test_few_at_once_over_many_workers(house: House, start: Start, receiver: Receiver, concurrency: int) -> None:
    """Four workers, a concurrency of 1 (and 3): never more at once, in order, also while one is killed and another joins; and
    nobody is left out."""
    house.endpoint(receiver.url, concurrency=concurrency)
    first, *_ = started(house, start, 4)
    receiver.do(delay=0.02)
    house.publish(USERS * 3)
    receiver.wait(60, timeout=60)
    # What a killed process has on its way, the receiver goes on with: so that it is no longer there when the next one comes.
    receiver.do(delay=0.0)
    first.kill()
    receiver.wait(100, timeout=60)
    receiver.do(delay=0.02)
    start()
    receiver.wait(len(USERS) * 3, timeout=60)
    eventually(lambda: house.count("pending") == 0, timeout=30)
    assert receiver.most_in_flight() == concurrency
    in_order(receiver)


@postgresql
def test_many_at_once_are_divided(house: House, start: Start, receiver: Receiver) -> None:
    """A concurrency of 32 over two workers, of whom one joins while the other has all of it on its way."""
    house.endpoint(receiver.url, concurrency=32)
    started(house, start, 1)
    receiver.do(delay=0.3)
    house.publish(USERS * 8)
    receiver.wait(64, timeout=60)
    second = start()
    eventually(lambda: shares(house.database) == [SHARDS // 2] * 2, timeout=30)
    receiver.do(delay=0.05)
    receiver.wait(300, timeout=60)
    assert receiver.most_in_flight() == 32
    # What was on its way from the one that is killed may still be at the receiver when the other takes over.
    second.kill()
    receiver.wait(len(USERS) * 8, timeout=60)


@postgresql
@pytest.mark.parametrize(("workers", "busy"), [(2, "all"), (4, "all"), (4, "one")])
def test_a_rate_is_kept_by_all_together(
    house: House, start: Start, receiver: Receiver, workers: int, busy: str
) -> None:
    """20 a second, over two and four workers, whether all of them have something to send or one; and it is used."""
    names = USERS if busy == "all" else [name for name in USERS if shard_of(name) < 8] * 8
    house.endpoint(receiver.url, rate_limit=20.0)
    started(house, start, workers)
    house.publish(names * 2)
    count = min(100, len(names) * 2)
    records = receiver.wait(count, timeout=90)
    times = sorted(record["at"] for record in records)
    # One more than 20 where two come exactly a second apart, and one where the clock of the machine stumbles.
    assert most_in_a_second(times) <= 22
    assert (len(times) - 1) / (times[-1] - times[0]) > 12


@given(st.integers(1, SHARDS // 2 + 8), st.integers(1, 1000))
def test_shares_never_come_to_more_than_the_whole(workers: int, concurrency: int) -> None:
    """Divided by fair shares, all slots together are no more than the endpoint allows, and whoever has shards has a slot."""
    slots = []
    for place in range(workers):
        pace, shards = Pace(SystemClock()), fair_share(place, workers)
        pace.limit(concurrency, None, shards / SHARDS)
        slots.append(0 if pace.takes_turns else pace.slots)
        assert pace.takes_turns == (concurrency < DIVIDED)
        assert pace.takes_turns or not shards or pace.slots >= 1
    assert sum(slots) <= concurrency
    assert sum(fair_share(place, workers) for place in range(workers)) == SHARDS
