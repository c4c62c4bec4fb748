"""Lanes that wait, in their arrays, against a plain dictionary."""

from __future__ import annotations

import tracemalloc

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from marzhook.dispatch.waiting import WIDTH, Waiting, WaitingLanes

# Most of these meet in the table, whose size is a power of two.
KEYS = st.one_of(st.integers(0, 40).map(lambda n: n * 64), st.integers(0, 100), st.sampled_from("abcdef"))


class WaitingMachine(RuleBasedStateMachine):
    """Keys that collide, times that share buckets or lie far apart, and everything that can be asked of what waits."""

    @initialize()
    def begin(self) -> None:
        self.waiting = WaitingLanes()
        self.now = 0.0
        self.requests = 0
        self.known: dict[object, tuple[tuple[int, ...], float, bool, bool, int]] = {}
        """ids, due, more, patient, request"""
        self.last_id = 0

    def ids(self, count: int) -> tuple[int, ...]:
        self.last_id += 2 * count
        return tuple(range(self.last_id - 2 * count + 2, self.last_id + 2, 2))

    @rule(keys=st.sets(KEYS, min_size=1, max_size=60), wait=st.floats(0, 6 * WIDTH), count=st.integers(1, 3),
          more=st.booleans(), patient=st.booleans(), together=st.booleans())  # fmt: skip
    def add(self, keys: set[object], wait: float, count: int, more: bool, patient: bool, together: bool) -> None:
        self.requests += 1
        request = self.requests if together else 0
        for key in keys:
            if key in self.known:
                assert key in self.waiting
                continue
            ids, due = self.ids(count), self.now + wait
            self.waiting.add(key, ids, due, more=more, patient=patient, request=request)
            self.known[key] = (ids, due, more, patient, request)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), newer=st.booleans())
    def see(self, data: st.DataObject, newer: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.known, key=str)))
        ids, due, more, patient, request = self.known[key]
        if newer:
            self.last_id += 2
            self.waiting.seen(key, self.last_id)
            self.known[key] = (ids, due, True, patient, request)
        else:
            older = data.draw(st.integers(1, ids[-1]))
            self.waiting.seen(key, older)
            self.known[key] = (tuple(sorted({*ids, older})), due, more, patient, request)

    @rule(seconds=st.floats(0, 4 * WIDTH))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(limit=st.integers(1, 70))
    def pop(self, limit: int) -> None:
        due = {key: one for key, one in self.known.items() if one[1] <= self.now}
        found = self.waiting.pop_due(self.now, limit=limit)
        by_ids = {one[0]: key for key, one in due.items()}
        taken = [by_ids[ids] for ids, _ in found]
        assert len(set(taken)) == len(taken)
        assert all(more == due[key][2] for key, (_, more) in zip(taken, found, strict=True))
        if sum(len(ids) for ids, _ in found) < limit:
            assert len(found) == len(due), "there was room for more"
        for request in {due[key][4] for key in taken} - {0}:
            whole = [key for key, one in due.items() if one[4] == request]
            # Between two requests that are due at the same moment nothing is promised, within one it is.
            assert set(whole) <= set(taken), "a request came in parts"
        for key in taken:
            del self.known[key]

    @rule()
    def hasten(self) -> None:
        self.waiting.hasten()
        for key, (ids, _, more, patient, request) in list(self.known.items()):
            if not patient:
                self.known[key] = (ids, 0.0, more, patient, request)

    @invariant()
    def both_agree(self) -> None:
        if not hasattr(self, "waiting"):
            return
        assert len(self.waiting) == len(self.known)
        assert all(key in self.waiting for key in self.known)
        assert "nobody" not in self.waiting
        assert self.waiting.next_due == min((one[1] for one in self.known.values()), default=None)


TestWaiting = WaitingMachine.TestCase
TestWaiting.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_they_come_in_the_order_of_their_times() -> None:
    """Also across buckets, and those of one moment in the order in which they came."""
    waiting = WaitingLanes()
    for number, due in enumerate([25.0, 3.0, 14.0, 3.0, 90.0, 14.5]):
        waiting.add(f"user{number}", (number + 1,), due, patient=number % 2 == 0)
    popped = [ids for ids, _ in waiting.pop_due(30.0, limit=100)]
    assert popped == [(2,), (4,), (3,), (6,), (1,)]
    assert waiting.next_due == 90.0


def test_a_hundred_thousand_users_who_wait_take_a_few_megabytes() -> None:
    """An outage leaves as many lanes as there are users, and their events wait for hours."""
    count = 100_000
    waiting = WaitingLanes()
    tracemalloc.start()
    for number in range(1, count + 1):
        waiting.add(f"user{number}", (number,), number % 40_000 + number / 7)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / count < 80
    assert waiting.pop_due(5.0, limit=1) == [Waiting((1,), False)]
