"""The lanes against a model: whatever happens, nothing is lost, doubled or out of order."""

from __future__ import annotations

import tracemalloc
from collections import defaultdict
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from marzhook.clock import from_unix
from marzhook.delivery import DEAD, DELIVERED, PENDING, Attempt, Delivery, Settlement
from marzhook.dispatch.lanes import KEEP, Lanes
from marzhook.event import Event

NOW = from_unix(1_800_000_000)
ATTEMPT = Attempt(1, NOW, 0.1, 200, None, "", "")


def owed(event_id: int, username: str, due: float | None = None, tries: int = 0) -> Delivery:
    event = Event(event_id, "user_updated", username, 1_800_000_000.0)
    return Delivery(1, event, tries, tries, None if due is None else NOW + timedelta(seconds=due))


class LanesMachine(RuleBasedStateMachine):
    """A disk (`pending`, by event id) that is read and settled exactly as the dispatcher does it; requests of up to three
    deliveries; answers and commits come in any order (commits in the order of the answers, as the settler does)."""

    flying = Bundle("flying")

    @initialize(ordered=st.booleans())
    def begin(self, ordered: bool) -> None:
        self.ordered = ordered
        self.lanes = Lanes(ordered=ordered)
        self.now = 0.0
        self.cursor = 0
        self.last_id = 0
        self.pending: dict[int, Delivery] = {}
        self.settled: dict[int, str] = {}
        self.cancelled: set[int] = set()
        self.names: dict[int, str] = {}
        self.in_flight: list[list[Delivery]] = []
        self.uncommitted: list[list[Settlement]] = []
        self.replayed: set[int] = set()

    # -- the disk

    def window(self, limit: int) -> list[Delivery]:
        return [self.pending[i] for i in sorted(self.pending) if i > self.cursor][:limit]

    def due_in(self, delivery: Delivery) -> float | None:
        left = None if delivery.due_at is None else (delivery.due_at - NOW).total_seconds()
        return left if left is not None and left > self.now else None

    def commit_one(self) -> None:
        batch = self.uncommitted.pop(0)
        for s in batch:
            event_id = s.delivery.event.id
            if event_id not in self.pending:
                continue
            if s.state == PENDING:
                event = s.delivery.event
                self.pending[event_id] = Delivery(1, event, s.tries, s.tries, s.due_at)
            else:
                del self.pending[event_id]
                self.settled[event_id] = s.state
        self.lanes.committed([s.delivery.event.id for s in batch])

    # -- what happens

    @rule(users=st.lists(st.sampled_from("ab"), min_size=1, max_size=KEEP * 2))
    def publish(self, users: list[str]) -> None:
        for name in users:
            self.last_id += 1
            self.names[self.last_id] = name
            self.pending[self.last_id] = owed(self.last_id, name)

    @rule(limit=st.integers(1, 40))
    def read_window(self, limit: int) -> None:
        rows = self.window(limit)
        self.lanes.admit(rows, self.due_in)
        if rows:
            self.cursor = rows[-1].event.id

    @rule()
    def read_on(self) -> None:
        due = self.lanes.due(self.now, limit=10)
        self.lanes.loaded([self.pending[i] for i in due if i in self.pending])
        if self.lanes.astray:
            self.restart_window(changed=False)
        hungry = self.lanes.hungry(limit=10)
        found = [
            delivery
            for name, after in hungry
            for delivery in [self.pending[i] for i in sorted(self.pending) if i > after and self.names[i] == name][
                :KEEP
            ]
        ]
        self.lanes.fed(hungry, found, limit=KEEP)

    @rule(target=flying, limit=st.integers(1, 3), room=st.integers(1, 3), again=st.booleans())
    def take(self, limit: int, room: int, again: bool) -> object:
        left = [room]

        def fits(_: Delivery) -> bool:
            left[0] -= 1
            return left[0] >= 0

        taken = self.lanes.take(fits, limit=limit, again=again)
        if not taken:
            return multiple()
        on_the_way = [d for request in self.in_flight for d in request]
        for delivery in taken:
            assert delivery.event.id not in {d.event.id for d in on_the_way}, "sent twice at once"
            if self.ordered:
                assert delivery.event.username not in {d.event.username for d in on_the_way}, "two in one lane"
            answered = {s.delivery.event.id for batch in self.uncommitted for s in batch if s.state != PENDING}
            assert delivery.event.id not in answered, "sent again though answered"
        if self.ordered:
            by_user = defaultdict(list)
            for delivery in taken:
                by_user[delivery.event.username].append(delivery.event.id)
            done = {s.delivery.event.id for batch in self.uncommitted for s in batch if s.state != PENDING}
            for name, ids in by_user.items():
                earlier = [
                    i
                    for i, d in self.pending.items()
                    if d.event.username == name and i < ids[-1] and i not in ids and i not in done
                    and i not in self.replayed
                ]  # fmt: skip
                assert not earlier, f"{ids} went before {earlier}"
        self.in_flight.append(taken)
        return taken

    @rule(taken=consumes(flying), state=st.sampled_from([DELIVERED, DELIVERED, DEAD, PENDING]), wait=st.floats(0, 5))
    def answer(self, taken: list[Delivery], state: str, wait: float) -> None:
        self.in_flight.remove(taken)
        due = NOW + timedelta(seconds=self.now + wait)
        settlements = [
            Settlement(d, ATTEMPT, state, d.tries + (state != DELIVERED), due if state == PENDING else None)
            for d in taken
        ]
        self.uncommitted.append(settlements)
        self.lanes.answered(settlements, self.now + wait)

    @rule(taken=consumes(flying))
    def release(self, taken: list[Delivery]) -> None:
        self.in_flight.remove(taken)
        self.lanes.release(taken)

    @precondition(lambda self: self.uncommitted)
    @rule()
    def commit(self) -> None:
        self.commit_one()

    @rule(seconds=st.floats(0, 10))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.pending:
            event_id = data.draw(st.sampled_from(sorted(self.pending)))
            del self.pending[event_id]
            self.settled[event_id] = "cancelled"
            self.restart_window(changed=True)

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        if self.settled:
            event_id = data.draw(st.sampled_from(sorted(self.settled)))
            del self.settled[event_id]
            self.pending[event_id] = owed(event_id, self.names[event_id])
            self.replayed.add(event_id)
            self.restart_window(changed=True)

    @rule()
    def hasten(self) -> None:
        self.lanes.hasten(self.now)

    @rule(changed=st.booleans())
    def restart_window(self, *, changed: bool) -> None:
        self.lanes.rewind(changed=changed)
        self.cursor = 0

    # -- what must hold

    @invariant()
    def memory_is_accounted_for(self) -> None:
        if hasattr(self, "lanes"):
            assert self.lanes.held == sum(len(lane.queue) for lane in self.lanes._lanes.values())

    def teardown(self) -> None:
        """Let everything be answered well: all that was published must come to an end."""
        if not hasattr(self, "lanes"):
            return
        for taken in self.in_flight:
            settlements = [Settlement(d, ATTEMPT, DELIVERED, d.tries) for d in taken]
            self.uncommitted.append(settlements)
            self.lanes.answered(settlements, self.now)
        self.in_flight = []
        for _ in range(10_000):
            while self.uncommitted:
                self.commit_one()
            if not self.pending:
                break
            self.now += 1
            self.read_on()
            self.read_window(50)
            for again in (False, True):
                taken = self.lanes.take(lambda _: True, limit=3, again=again)
                if not taken:
                    continue
                settlements = [Settlement(d, ATTEMPT, DELIVERED, d.tries) for d in taken]
                self.uncommitted.append(settlements)
                self.lanes.answered(settlements, self.now)
        assert not self.pending, f"never sent: {sorted(self.pending)}"
        self.read_on()
        assert set(self.settled) == set(self.names)


TestLanes = LanesMachine.TestCase
TestLanes.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_a_lane_keeps_a_bounded_number_behind_its_head() -> None:
    """A user who is owed 100,000 events takes as much memory as one who is owed a few."""
    lanes = Lanes()
    for start in range(0, 100_000, 1000):
        lanes.admit([owed(start + i + 1, "busy") for i in range(1000)], lambda _: None)
    assert lanes.held <= KEEP
    assert lanes.ready == 1


def test_a_user_who_waits_takes_little_memory() -> None:
    """Of each user whose first event waits for its retry less than a hundred bytes are kept, whatever the event holds."""
    count = 20_000
    lanes = Lanes()
    tracemalloc.start()
    for start in range(1, count, 1000):
        ids = range(start, start + 1000)
        events = [Event(i, "user_updated", f"user{i}", 1_800_000_000.0, f'{{"note": "{"x" * 2000}{i}"}}') for i in ids]
        lanes.admit([Delivery(1, event, 1, 1, NOW) for event in events], lambda _: 3600.0)
        del events
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert lanes.held == 0
    assert kept / count < 100


def test_other_users_pass_one_who_waits() -> None:
    """While a user's event waits for its retry, the events of others go out."""
    lanes = Lanes()
    lanes.admit([owed(1, "a"), owed(2, "a"), owed(3, "b")], lambda d: 60.0 if d.event.id == 1 else None)
    assert [d.event.id for d in lanes.take(lambda _: True, limit=10)] == [3]
    assert lanes.next_due == 60.0


def test_unordered_lanes_do_not_wait_for_each_other() -> None:
    """Where order is given up, events of one user are on their way at the same time."""
    lanes = Lanes(ordered=False)
    lanes.admit([owed(1, "a"), owed(2, "a")], lambda _: None)
    assert [d.event.id for _ in range(2) for d in lanes.take(lambda _: True)] == [1, 2]


def test_what_failed_in_one_request_comes_due_together_once_it_is_on_disk() -> None:
    """However short the delay: before the commit what could be read is out of date, and a batch must not come in parts."""
    lanes = Lanes()
    lanes.admit([owed(i, f"user{i}") for i in range(1, 65)], lambda _: None)
    taken = lanes.take(lambda _: True, limit=100)
    lanes.answered([Settlement(d, ATTEMPT, PENDING, 1) for d in taken], 0.0)
    assert lanes.due(1.0, limit=200) == []
    assert lanes.next_due is None
    lanes.committed(d.event.id for d in taken)
    assert lanes.due(1.0, limit=200) == list(range(1, 65))


def test_what_failed_in_one_request_is_read_again_whole() -> None:
    """Also where more is due than is read at once."""
    lanes = Lanes()
    lanes.admit([owed(i, f"user{i}") for i in range(1, 241)], lambda _: None)
    batches = [lanes.take(lambda _: True, limit=60) for _ in range(4)]
    for taken in batches:
        lanes.answered([Settlement(d, ATTEMPT, PENDING, 1) for d in taken], 0.0)
        lanes.committed(d.event.id for d in taken)
    assert len(lanes.due(1.0, limit=150)) == 180


def test_what_failed_before_is_not_held_until_its_turn_comes() -> None:
    """However many retries are due, there is room for first tries."""
    lanes = Lanes()
    lanes.admit([owed(i, f"user{i}", tries=1) for i in range(1, 5001)], lambda _: None)
    assert lanes.held == 0
    assert len(lanes.due(0.0, limit=200)) == 200


def test_a_time_that_was_read_from_disk_is_kept_also_when_the_endpoint_recovers() -> None:
    """After a restart nobody knows who asked for the wait; a receiver's Retry-After may only delay, never hasten."""
    lanes = Lanes()
    lanes.admit([owed(1, "a", due=60.0, tries=1), owed(2, "b", tries=1)], lambda d: 60.0 if d.due_at else None)
    lanes.hasten(1.0)
    assert lanes.due(1.0, limit=10) == [2]
    assert lanes.due(60.0, limit=10) == [1]


def test_a_user_whose_waiting_event_is_gone_is_found_again() -> None:
    """Cancelled between two looks: of a lane that waits the name is not kept, so the window has to begin anew."""
    lanes = Lanes()
    rows = [owed(1, "a", due=5.0, tries=1), owed(2, "a")]
    lanes.admit(rows, lambda d: 5.0 if d.due_at else None)
    assert lanes.due(5.0, limit=10) == [1]
    lanes.loaded([])
    assert lanes.astray
    lanes.rewind()
    assert not lanes.astray
    lanes.admit(rows[1:], lambda _: None)
    assert [d.event.id for d in lanes.take(lambda _: True)] == [2]
