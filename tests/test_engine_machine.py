"""The engine as a state machine: the real SQLite store, the real lanes and senders, a clock that obeys, and no network.

Whatever happens in whatever order (answers, commits, crashes, replays, cancellations, changed endpoints), no delivery is
lost, no lane has two on their way, users' events are accepted in order, and what is terminal stays so.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Hashable
from datetime import datetime
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from marzhook.delivery import Delivery, Settlement
from marzhook.dispatch.limits import Limits
from marzhook.dispatch.sender import Sender
from marzhook.dispatch.shipment import Shipment
from marzhook.event import NewEvent
from marzhook.request import Response
from marzhook.retry import RetryPolicy
from marzhook.store import endpoints, stats
from marzhook.store.database import Database
from marzhook.store.outbox import DeliveryFilter, Outbox
from marzhook.testing import FakeClock

LIMITS = Limits(RetryPolicy((5.0, 60.0, 300.0), jitter=0.0), RetryPolicy((5.0,), jitter=0.0))
Row = tuple[int, str]
SPOILT = "spoilt"
"""The action of events that cannot be rendered."""


class Spoils:
    """A destination that cannot render some events."""

    def __init__(self, destination: Any) -> None:
        self._destination = destination

    def __getattr__(self, name: str) -> Any:
        return getattr(self._destination, name)

    def item(self, delivery: Delivery, now: datetime) -> str:
        if delivery.event.action == SPOILT:
            raise ValueError("spoilt")
        return str(self._destination.item(delivery, now))


class EngineMachine(RuleBasedStateMachine):
    @initialize(
        form=st.sampled_from(["event", "list"]),
        ordered=st.sampled_from([True, True, False]),
        concurrency=st.sampled_from([3, 1]),
        rate_limit=st.sampled_from([None, 2.0]),
    )
    def begin(self, form: str, ordered: bool, concurrency: int, rate_limit: float | None) -> None:
        self.ordered = ordered
        self.folder = tempfile.mkdtemp()
        self.clock = FakeClock()
        self.database = Database.open(f"sqlite:///{self.folder}/marzhook.db")
        self.database.upgrade()
        self.outbox = Outbox(self.database)
        with self.database.write() as tx:
            made = endpoints.create(
                tx, now=self.clock.now(), kind="webhook", url="http://127.0.0.1:9/", source="environment", format=form,
                ordered=ordered, concurrency=concurrency, rate_limit=rate_limit,
            )  # fmt: skip
        self.endpoint_id = made.id
        self.owner: dict[int, str] = {}
        self.flying: list[Shipment] = []
        self.uncommitted: list[list[Settlement]] = []
        self.written: list[list[Settlement]] = []
        self.accepted: list[int] = []
        self.disturbed: set[int] = set()
        """Events that were replayed: they come when they come."""
        self.terminal: dict[int, str] = {}
        self.attempts = 0
        self.start()

    def start(self) -> None:
        with self.database.read() as conn:
            endpoint = endpoints.get(conn, self.endpoint_id)
        self.sender = Sender(endpoint, self.outbox, self.clock, instance="machine", limits=LIMITS, random=lambda: 0.0)
        self.spoil()

    def spoil(self) -> None:
        self.sender.destination = Spoils(self.sender.destination)

    def rows(self, table: str, column: str) -> list[Row]:
        with self.database.read() as conn:
            return [(row[0], row[1]) for row in conn.exec_driver_sql(f"SELECT event_id, {column} FROM {table}")]

    # -- what happens

    @rule(users=st.lists(st.sampled_from("ab"), min_size=1, max_size=40), action=st.sampled_from(["x", "y", SPOILT]))
    def publish(self, users: list[str], action: str) -> None:
        with self.database.write() as tx:
            ids = self.outbox.publish(tx, [NewEvent(action, name) for name in users], now=self.clock.now())
        self.owner.update(zip(ids, users, strict=True))
        self.sender.exhausted = False

    @rule()
    def refill(self) -> None:
        self.sender.refill()

    @rule(times=st.integers(1, 4))
    def ship(self, times: int) -> None:
        for _ in range(times):
            if not self.sender.room(self.clock.monotonic()):
                return
            self.ship_one()

    def ship_one(self) -> Shipment | None:
        """The shipment that is on its way now; None: it cannot be rendered, and is dead without a request."""
        shipment, request = self.sender.ship()
        self.check_lanes(shipment)
        spoilt = [d.event.action == SPOILT for d in shipment.deliveries]
        assert (request is None) == any(spoilt)
        if request is not None:
            self.flying.append(shipment)
            return shipment
        assert spoilt == [True], "others are not to blame"
        answer = self.sender.answered(shipment, Response(self.clock.now(), 0.0, error="render", message="spoilt"))
        assert [s.state for s in answer.settlements] == ["dead"]
        self.uncommitted.append(answer.settlements)
        return None

    def check_lanes(self, shipment: Shipment) -> None:
        ids = [d.event.id for d in shipment.deliveries]
        assert ids, "an empty request"
        others = {self.lane(d) for s in self.flying for d in s.deliveries}
        assert not others & {self.lane(d) for d in shipment.deliveries}, "two requests in one lane"
        assert len(self.flying) < self.sender.endpoint.concurrency
        answered = {s.delivery.event.id for batch in self.uncommitted for s in batch if s.state != "pending"}
        assert not answered & set(ids), "sent again though it was answered"

    def lane(self, delivery: Delivery) -> Hashable:
        return delivery.event.username if self.ordered else delivery.event.id

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), status=st.sampled_from([200, 200, 200, 500, 422, 410, 429, None]))
    def answer(self, data: st.DataObject, status: int | None) -> None:
        shipment = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.take_answer(shipment, status)

    def take_answer(self, shipment: Shipment, status: int | None) -> None:
        headers = {"retry-after": "7"} if status == 429 else {}
        error = "timeout" if status is None else None
        answer = self.sender.answered(shipment, Response(self.clock.now(), 0.1, status, headers, error=error))
        if status == 200:
            self.accepted += [d.event.id for d in shipment.deliveries]
        self.uncommitted.append(answer.settlements)

    @precondition(lambda self: self.uncommitted)
    @rule()
    def commit(self) -> None:
        batch = self.uncommitted.pop(0)
        self.outbox.settle(batch, now=self.clock.now())
        self.sender.lanes.committed([s.delivery.event.id for s in batch])
        self.written.append(batch)

    @precondition(lambda self: self.written)
    @rule(data=st.data())
    def settle_twice(self, data: st.DataObject) -> None:
        """A commit whose answer was lost is written again."""
        batch = self.written[-1]
        before = (self.rows("pending", "tries"), self.rows("settled", "state"), self.rows("attempts", "number"))
        if {s.delivery.event.id for s in batch} & self.disturbed:
            return
        done = [s for s in batch if s.state != "pending"]
        self.outbox.settle(done, now=self.clock.now())
        assert before == (self.rows("pending", "tries"), self.rows("settled", "state"), self.rows("attempts", "number"))

    @rule(seconds=st.sampled_from([0.1, 5.0, 60.0, 3600.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(hours=st.sampled_from([-1, 1]))
    def jump(self, hours: int) -> None:
        self.clock.jump(hours * 3600)

    @rule()
    def crash(self) -> None:
        """SIGKILL: what was in memory is gone. Requests on their way may or may not have arrived."""
        self.flying, self.uncommitted = [], []
        self.start()

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        owed = [event_id for event_id, _ in self.rows("pending", "tries")]
        if owed:
            event_id = data.draw(st.sampled_from(owed))
            with self.database.write() as tx:
                assert self.outbox.cancel(tx, DeliveryFilter(event_id=event_id), now=self.clock.now()) == 1
            self.reload()

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        ended = [event_id for event_id, _ in self.rows("settled", "state")]
        if ended:
            event_id = data.draw(st.sampled_from(ended))
            which = DeliveryFilter(event_id=event_id, states=("delivered", "dead", "cancelled"))
            self.clock.advance(0.001)
            with self.database.write() as tx:
                # A clock that was set back may hide it: then nothing is replayed.
                if self.outbox.replay(tx, which, now=self.clock.now()):
                    self.disturbed.add(event_id)
                    self.terminal.pop(event_id, None)
            self.reload()

    @rule(enabled=st.booleans())
    def switch(self, enabled: bool) -> None:
        with self.database.write() as tx:
            endpoints.update(tx, self.endpoint_id, enabled=enabled)
        self.reload()

    @rule(actions=st.sampled_from([None, frozenset({"x"}), frozenset({"x", "y"})]))
    def change_filter(self, actions: frozenset[str] | None) -> None:
        with self.database.write() as tx:
            endpoints.update(tx, self.endpoint_id, actions=actions)
        self.reload()

    def reload(self) -> None:
        with self.database.read() as conn:
            self.sender.reload(endpoints.get(conn, self.endpoint_id))
        self.spoil()

    # -- what must hold

    @invariant()
    def nothing_is_in_two_places_and_attempts_only_grow(self) -> None:
        if not hasattr(self, "sender"):
            return
        pending, ended = self.rows("pending", "tries"), dict(self.rows("settled", "state"))
        assert not ended.keys() & {event_id for event_id, _ in pending}
        for event_id, state in self.terminal.items():
            assert ended.get(event_id) == state, "terminal stays terminal unless replayed"
        self.terminal = ended
        tries = self.rows("attempts", "number")
        assert len(tries) >= self.attempts
        self.attempts = len(tries)
        with self.database.read() as conn:
            assert stats.pending_counts(conn) == {self.endpoint_id: len(pending)}
            counted = stats.settled_counts(conn).get(self.endpoint_id, {})
        by_state: dict[str, int] = defaultdict(int)
        for state in ended.values():
            by_state[state] += 1
        assert {k: v for k, v in counted.items() if v} == dict(by_state)

    @invariant()
    def users_are_accepted_in_order(self) -> None:
        if not hasattr(self, "sender") or not self.ordered:
            return
        first: dict[str, list[int]] = defaultdict(list)
        seen: set[int] = set()
        for event_id in self.accepted:
            if event_id not in seen and event_id not in self.disturbed:
                first[self.owner[event_id]].append(event_id)
            seen.add(event_id)
        for name, ids in first.items():
            assert ids == sorted(ids), f"{name}: {ids}"

    def teardown(self) -> None:
        """With a receiver in good health, all that is owed is delivered in the end, by one who looks only when there is
        something to see: after an answer, a commit, or at the moment that the sender named."""
        if not hasattr(self, "sender"):
            return
        while self.flying:
            self.take_answer(self.flying.pop(0), 200)
        with self.database.write() as tx:
            endpoints.update(tx, self.endpoint_id, enabled=True)
        self.reload()
        for _ in range(3000):
            self.sender.refill()
            while self.sender.room(self.clock.monotonic()):
                if self.ship_one():
                    self.take_answer(self.flying.pop(), 200)
            if self.uncommitted:
                while self.uncommitted:
                    self.commit()
            elif not self.sender.wants_reading:
                now = self.clock.monotonic()
                when = self.sender.next_look(now)
                if when is None:
                    break
                self.clock.advance(max(0.0, when - now) + 1e-6)
        left = self.rows("pending", "tries")
        self.users_are_accepted_in_order()
        self.database.close()
        shutil.rmtree(self.folder)
        assert not left, f"never delivered: {left}"


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
