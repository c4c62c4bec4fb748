"""The lanes of one endpoint: which deliveries may go now, which wait, and who has more on disk. Pure: no I/O, no clock.

A lane is the events of one username on their way to the endpoint (of one event, where the endpoint is not ordered). Only
its head may be on the way. A lane holds a few deliveries behind its head, and of all further ones remembers just that they
exist (`more`), so memory is bounded by how many users are owed something, not by how much they are owed. One that waits
for its next try is no object at all, but a few numbers (`marzhook.dispatch.waiting`).

Life of a lane, apart from being gone (nothing of that user is known to be owed):

    ready --take--> flying --answered, accepted or dead--> ready (held some) | hungry (more on disk) | gone
                       +---answered, tried again later---> parked --committed--> waiting --due--> loading --load--> ready
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress

from marzhook.delivery import PENDING, Delivery, Settlement
from marzhook.dispatch.waiting import Waiting, WaitingLanes

KEEP = 16
"""Deliveries that a lane holds behind its head."""
MAX_HELD = 4000
"""Deliveries in memory, of one endpoint; above, lanes keep nothing behind their heads."""
LONG_AGO = 0.0


class _Lane:
    __slots__ = ("changed", "due", "flying", "key", "last", "more", "patient", "queue", "request", "retrying")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.queue: list[Delivery] = []
        self.flying = 0
        """How many from the front of the queue are on their way."""
        self.retrying: tuple[int, ...] = ()
        """Event ids that are to be tried again, once the disk knows it."""
        self.due = 0.0
        """When they are due."""
        self.patient = False
        """Whether it waits out its time also when the endpoint has recovered."""
        self.request = 0
        """Lanes that failed in one request have the same number; 0: none that is known."""
        self.last = 0
        """The newest event known in this lane."""
        self.more = False
        """Whether newer ones were seen on disk and not kept."""
        self.changed = False
        """Whether what was on its way may have been changed on disk since."""


class Lanes:
    """What one endpoint is owed. Times are monotonic seconds; deliveries come in by `admit`, go out by `take`."""

    def __init__(self, *, ordered: bool = True) -> None:
        self._ordered = ordered
        self._lanes: dict[Hashable, _Lane] = {}
        # Two queues, so that neither a backlog of retries nor one of first tries can starve the other.
        self._first: deque[_Lane] = deque()
        self._again: deque[_Lane] = deque()
        self._waiting = WaitingLanes()
        self._parked: dict[int, _Lane] = {}
        """Lanes whose next try the disk does not know yet, by the newest event that is retried: what could be read of them
        is out of date. What came of one request is committed together, so it also comes due together."""
        self._loading: list[Waiting] = []
        self._hungry: dict[Hashable, _Lane] = {}
        self._unsettled: set[int] = set()
        self._requests = 0
        self.astray = False
        """Whether a user's events on disk can be found only by `rewind`: what his lane waited for was gone."""
        self.held = 0
        """Deliveries in memory."""

    # -- coming in

    def admit(self, deliveries: Iterable[Delivery], due_in: Callable[[Delivery], float | None]) -> None:
        """Take up deliveries that were read from disk, oldest first. Known ones are left alone.

        `due_in(delivery)`: at which monotonic time it may be tried, None: now.
        """
        for delivery in deliveries:
            event_id = delivery.event.id
            if event_id in self._unsettled:
                continue  # answered; that it is still on disk means only that the settlement is not yet
            key: Hashable = delivery.event.username if self._ordered else event_id
            lane = self._lanes.get(key)
            if lane is None:
                if self._waiting and key in self._waiting:
                    self._waiting.seen(key, event_id)
                    continue
                if delivery.hastened_at is not None:
                    # Before all others, and by whichever clock: that of who asked may be ahead.
                    self._waiting.add(key, (event_id,), LONG_AGO - 1)
                elif (due := due_in(delivery)) is not None:
                    # Who asked for that time is not on disk; it may have been the receiver, whom nobody may hurry.
                    self._waiting.add(key, (event_id,), due, patient=True)
                elif delivery.attempts:
                    # Not held yet: many that failed before must not fill the room of those that were never tried.
                    self._waiting.add(key, (event_id,), LONG_AGO)
                else:
                    lane = self._lanes[key] = _Lane(key)
                    lane.last = event_id
                    self._hold(lane, delivery)
                    self._make_ready(lane)
            elif event_id > lane.last:
                if not lane.more and not lane.retrying and len(lane.queue) < KEEP and self.held < MAX_HELD:
                    self._hold(lane, delivery)
                    lane.last = event_id
                else:
                    lane.more = True
            elif event_id not in lane.retrying and all(known.event.id != event_id for known in lane.queue):
                self._slip_in(lane, delivery)

    def rewind(self, *, changed: bool = False) -> None:
        """Forget all that is not on its way or answered and unsettled; the window starts again at the oldest. `changed`:
        something on disk was, so the others are read again, too, when they have failed and that is written."""
        for key, lane in list(self._lanes.items()):
            lane.changed = lane.changed or changed
            self.held -= len(lane.queue) - lane.flying
            del lane.queue[lane.flying :]
            lane.more = False
            if lane.flying:
                lane.last = lane.queue[-1].event.id
            elif self._unsettled.isdisjoint(lane.retrying):
                del self._lanes[key]
            # else it is parked.
        self._first.clear()
        self._again.clear()
        self._hungry.clear()
        self._waiting = WaitingLanes()
        self.astray = False

    # -- going out

    def lag(self, now: float) -> float:
        """For how many seconds what goes next has been due (`now`: Unix seconds). Also from other threads."""
        longest = 0.0
        for queue in (self._first, self._again):
            with suppress(IndexError):  # nothing is there, or not any more
                head = queue[0].queue[0]
                since = head.event.enqueued_at if head.due_at is None else head.due_at.timestamp()
                longest = max(longest, now - since)
        return longest

    @property
    def ready(self) -> int:
        """Lanes whose head may go."""
        return len(self._first) + len(self._again)

    @property
    def ready_first(self) -> int:
        """Those of them whose head was never tried."""
        return len(self._first)

    @property
    def ready_again(self) -> int:
        """Those of them whose head failed before."""
        return len(self._again)

    @property
    def idle(self) -> bool:
        """Nothing is known to be owed."""
        return not self._lanes and not self._waiting

    @property
    def urgent(self) -> bool:
        """Whether the next retry is one that is hastened."""
        return bool(self._again) and self._again[0].queue[0].hastened_at is not None

    def take(self, fits: Callable[[Delivery], bool], *, limit: int = 1, again: bool = False) -> list[Delivery]:
        """The next request's deliveries: heads of ready lanes and what follows them in their order, while `fits` says yes.

        `again`: from the lanes whose head failed before, else from the others.
        They are on their way from now on; `answered` must be told of each.
        """
        taken: list[Delivery] = []
        ready = self._again if again else self._first
        while ready and len(taken) < limit:
            lane = ready[0]
            for delivery in lane.queue[lane.flying : lane.flying + limit - len(taken)]:
                if not fits(delivery):
                    break
                taken.append(delivery)
                lane.flying += 1
            if not lane.flying:
                break  # full
            ready.popleft()
        return taken

    def take_one(self, *, again: bool = False) -> Delivery:
        """`take` where a request carries a single delivery: whether that is to be sent needs no asking."""
        lane = (self._again if again else self._first).popleft()
        lane.flying = 1
        return lane.queue[0]

    def release(self, deliveries: Sequence[Delivery]) -> None:
        """These were taken but never sent."""
        for lane in self._lanes_of(deliveries):
            lane.flying = 0
            self._make_ready(lane)

    def answered(self, settlements: Sequence[Settlement], due: float, *, patient: bool = False) -> None:
        """A request came back. What is settled leaves its lane; the rest of the request waits until `due`, also through
        `hasten` if it is `patient`."""
        if len(settlements) == 1 and settlements[0].state != PENDING:
            # By far the most, so without the tables that tell several lanes and deliveries apart.
            delivery = settlements[0].delivery
            self._unsettled.add(delivery.event.id)
            lane = self._lanes[delivery.event.username if self._ordered else delivery.event.id]
            lane.flying = 0
            del lane.queue[0]
            self.held -= 1
            self._advance(lane)
            return
        by_id = {s.delivery.event.id: s for s in settlements}
        self._unsettled.update(by_id)
        self._requests += 1
        for lane in self._lanes_of([s.delivery for s in settlements]):
            flown = [by_id[d.event.id] for d in lane.queue[: lane.flying]]
            again = [s for s in flown if s.state == PENDING]
            self.held -= lane.flying
            del lane.queue[: lane.flying]
            lane.flying = 0
            if again:
                # Drop what is behind too: a lane that waits for hours should hold nothing.
                lane.more = lane.more or bool(lane.queue)
                self.held -= len(lane.queue)
                lane.queue.clear()
                lane.patient = patient
                lane.request = self._requests
                lane.retrying = tuple(s.delivery.event.id for s in again)
                lane.last = lane.retrying[-1]
                lane.due = due
                self._parked[lane.last] = lane
            else:
                self._advance(lane)

    def committed(self, event_ids: Iterable[int]) -> None:
        """The settlements of these are on disk."""
        event_ids = tuple(event_ids)
        self._unsettled.difference_update(event_ids)
        if self._parked:
            for event_id in event_ids:
                lane = self._parked.pop(event_id, None)
                if lane is not None:
                    del self._lanes[lane.key]
                    if lane.changed:
                        self.astray = True
                        continue
                    self._waiting.add(
                        lane.key, lane.retrying, lane.due, more=lane.more, patient=lane.patient, request=lane.request
                    )

    @property
    def unsettled(self) -> int:
        return len(self._unsettled)

    # -- waiting and reading on

    @property
    def waiting(self) -> bool:
        """Whether any lane waits for a time."""
        return bool(self._waiting)

    @property
    def next_due(self) -> float | None:
        """When the next waiting lane is due."""
        return self._waiting.next_due

    def due(self, now: float, *, limit: int) -> list[int]:
        """Event ids whose time has come, to be loaded and given to `loaded`. About `limit`: what failed in one request comes
        whole."""
        self._loading = self._waiting.pop_due(now, limit=limit)
        return [event_id for lane in self._loading for event_id in lane.event_ids]

    def loaded(self, deliveries: Sequence[Delivery]) -> None:
        """What `due` named, read from disk. One that is missing was cancelled: its lane goes on without it."""
        found = {delivery.event.id: delivery for delivery in deliveries}
        for event_ids, more in self._loading:
            there = [found[event_id] for event_id in event_ids if event_id in found]
            if not there:
                self.astray = self.astray or more
                continue
            key: Hashable = there[0].event.username if self._ordered else there[0].event.id
            lane = self._lanes[key] = _Lane(key)
            for delivery in there:
                self._hold(lane, delivery)
            lane.last, lane.more = event_ids[-1], more
            self._make_ready(lane)
        self._loading = []

    def hasten(self, now: float) -> None:
        """The endpoint is back: what waits only because of its outage is due now."""
        self._waiting.hasten()
        for lane in self._parked.values():
            if not lane.patient:
                lane.due = min(lane.due, now)

    @property
    def starving(self) -> bool:
        """Whether `hungry` would name any."""
        return bool(self._hungry)

    def hungry(self, *, limit: int) -> list[tuple[str, int]]:
        """Lanes that ran out but have more on disk: (username, newest event known). Give what is found to `fed`."""
        return [(str(lane.key), lane.last) for lane, _ in zip(self._hungry.values(), range(limit), strict=False)]

    def fed(self, asked: Sequence[tuple[str, int]], deliveries: Sequence[Delivery], *, limit: int) -> None:
        """What `hungry` lanes have next, at most `limit` each."""
        found: dict[str, list[Delivery]] = {}
        for delivery in deliveries:
            found.setdefault(delivery.event.username, []).append(delivery)
        for username, _ in asked:
            lane = self._hungry.pop(username)
            got = found.get(username, [])
            lane.more = len(got) == limit
            for delivery in got:
                if delivery.event.id not in self._unsettled:
                    self._hold(lane, delivery)
                lane.last = delivery.event.id
            self._advance(lane)

    # -- inside

    def _advance(self, lane: _Lane) -> None:
        lane.changed = False
        if lane.queue:
            self._make_ready(lane)
        elif lane.more:
            self._hungry[lane.key] = lane
        else:
            del self._lanes[lane.key]

    def _make_ready(self, lane: _Lane) -> None:
        head = lane.queue[0]
        if head.hastened_at is not None:
            self._again.appendleft(lane)
        else:
            (self._again if head.attempts else self._first).append(lane)

    def _hold(self, lane: _Lane, delivery: Delivery) -> None:
        lane.queue.append(delivery)
        self.held += 1

    def _slip_in(self, lane: _Lane, delivery: Delivery) -> None:
        """An older event than this lane has seen: replayed. It goes before everything that is not on its way."""
        event_id = delivery.event.id
        if lane.retrying:
            lane.retrying = tuple(sorted((*lane.retrying, event_id)))
            return
        place = lane.flying
        while place < len(lane.queue) and lane.queue[place].event.id < event_id:
            place += 1
        lane.queue.insert(place, delivery)
        self.held += 1
        if self._hungry.pop(lane.key, None):
            self._make_ready(lane)

    def _lanes_of(self, deliveries: Sequence[Delivery]) -> list[_Lane]:
        keys = dict.fromkeys(d.event.username if self._ordered else d.event.id for d in deliveries)
        return [self._lanes[key] for key in keys]
