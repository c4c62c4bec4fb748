"""One endpoint as its dispatcher sees it: what it is owed, what is on its way, and when to look again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from marzhook import trace_context
from marzhook.clock import Clock
from marzhook.delivery import OUTAGE, REJECTED, SPLIT, STANDARD, Delivery, Outcome, Settlement, Verdict, settle
from marzhook.destinations.kinds import destination
from marzhook.dispatch.breaker import Breaker
from marzhook.dispatch.groups import Groups
from marzhook.dispatch.lanes import KEEP, MAX_HELD, Lanes
from marzhook.dispatch.limits import Limits
from marzhook.dispatch.pace import Pace
from marzhook.dispatch.shipment import Answer, Shipment
from marzhook.endpoint import Endpoint
from marzhook.errors import MarzhookError
from marzhook.request import Job, Request, Response
from marzhook.retry import RetryPolicy
from marzhook.store.outbox import Outbox

log = logging.getLogger(__name__)

WINDOW = 1000
"""Deliveries read at once."""
LOW_WATER = 256
"""Ready lanes below which more is read."""
LOOKUPS = 200
"""Lanes looked up at once: due for a retry, or with more on disk."""
CLAIMED = 5.0
"""Seconds within which a probe has to go out that this process may make."""
GONE_REST = 60.0
"""Seconds within which it is on disk that an endpoint is gone; nothing goes there meanwhile."""
NEVER = RetryPolicy(delays=())


class Sender:
    """Reads windows, keeps the lanes, renders, judges. Belongs to the dispatcher's thread."""

    def __init__(
        self,
        endpoint: Endpoint,
        outbox: Outbox,
        clock: Clock,
        *,
        instance: str,
        limits: Limits,
        random: Callable[[], float],
        share: float | None = None,
        traced: bool = False,
    ) -> None:
        """`share`: of all users, where other processes send to the others; None: there are none. `traced`: whether each try
        becomes a span."""
        self._outbox, self._clock, self._random = outbox, clock, random
        self._instance, self._limits = instance, limits
        self._share = share
        self.shared = share is not None
        self._traced = traced
        self.pace = Pace(clock)
        self._groups = Groups()
        self.breaker = Breaker(random, first_probe=limits.first_probe)
        self.probe_seen: float | None = None
        """The shared outage's `probe_at`, as far as this process knows it."""
        self.claimed_until = 0.0
        """Until then (monotonic) this process, of all, may send the probe."""
        self.unwritten = 0
        """What of the outage is on its way to the database; until it is there, what is read there is older."""
        self._reordered: Lanes | None = None
        self.lanes = Lanes(ordered=endpoint.ordered)
        self.cursor = 0
        """The newest event that a window has shown."""
        self._unsure = float("inf")
        """Behind this event some may have become visible since a window passed them."""
        self.exhausted = False
        """Whether the last window reached the end: nothing more until somebody publishes."""
        self._sought: datetime | None = None
        """`endpoint.hastened_at`, where nothing was hastened behind the first window."""
        self.endpoint = endpoint
        self.failing_since, self.failing_stage = endpoint.failing_since, endpoint.failing_stage
        self._begin(endpoint)

    def reload(self, endpoint: Endpoint) -> None:
        """The endpoint was changed, or something behind the cursor was: read anew."""
        if endpoint.ordered != self.endpoint.ordered:
            # What is on its way is known by the old lanes' keys; the new ones begin when it has landed.
            self._reordered = Lanes(ordered=endpoint.ordered)
        anew = endpoint.url != self.endpoint.url or (endpoint.enabled and not self.endpoint.enabled)
        if anew or self.destination.problem is not None:
            # Another address, or somebody says that it works again, or it has rested: it is not judged by what was.
            self.breaker = Breaker(self._random, first_probe=self._limits.first_probe)
            self.pace.paused_until = 0.0
            self.probe_seen, self.claimed_until = None, 0.0
            self.failing_since, self.failing_stage = endpoint.failing_since, endpoint.failing_stage
        self.endpoint = endpoint
        self._begin(endpoint)

    def _begin(self, endpoint: Endpoint) -> None:
        limits = self._limits
        self.destination = destination(
            endpoint, instance=self._instance, connect_timeout=limits.connect_timeout, timeout=limits.timeout
        )
        rates = [rate for rate in (endpoint.rate_limit, self.destination.rate_limit) if rate]
        self.pace.limit(min(endpoint.concurrency, self.destination.concurrency), min(rates, default=None), self._share)
        self._rewind(changed=True)

    def own(self, share: float) -> None:
        """This process has another share of all users from now on: so much of what the endpoint may get, too. Read anew."""
        self._share, self._sought = share, None
        self._begin(self.endpoint)

    def look_behind(self, floor: float) -> None:
        """What was published behind the event `floor` may become visible only now: read it again when all else is read."""
        if self.cursor > floor:
            self._unsure = min(self._unsure, floor)
        # Not before, or the windows would begin there again and again and never come to an end.
        if self.exhausted and self._unsure < self.cursor:
            self.cursor, self._unsure = int(self._unsure), float("inf")

    def _rewind(self, *, changed: bool = False) -> None:
        self.lanes.rewind(changed=changed)
        self.cursor = 0
        self._unsure = float("inf")
        self.exhausted = False

    # -- reading

    def refill(self) -> None:
        """Read what is due, what lanes lack, and the next window, so that there is enough to send."""
        if not self.sends:
            return
        if self._reordered is not None:
            if self._awaits_landing:
                return
            self.lanes, self._reordered = self._reordered, None
            self._rewind()
        lanes, endpoint_id = self.lanes, self.endpoint.id
        lacks_due = lanes.waiting and lanes.ready_again < LOW_WATER
        due = lanes.due(self._clock.monotonic(), limit=LOOKUPS) if lacks_due else []
        if due:
            found = self._outbox.load(endpoint_id, due)
            lanes.loaded(found)
            if self._groups and len(found) < len(due):
                self._groups.forget(set(due).difference(delivery.event.id for delivery in found))
        if lanes.astray:
            self._rewind()
        if lanes.starving:
            hungry = lanes.hungry(limit=LOOKUPS)
            lanes.fed(hungry, self._outbox.following(endpoint_id, hungry, limit=KEEP), limit=KEEP)
        if self._lacks_window:
            rows = self._outbox.window(endpoint_id, after=self.cursor, limit=WINDOW)
            self.exhausted = len(rows) < WINDOW
            found = rows
            if not (self.cursor or self.exhausted or self.endpoint.hastened_at == self._sought):
                found = rows + self._outbox.hastened(self.endpoint, rows, limit=KEEP)
                self._sought = self.endpoint.hastened_at if found == rows else None
            # What has not failed waits for nothing: it was sent again by a clock ahead, or put off by an older version.
            lanes.admit(found, lambda it: self._monotonic(it.due_at) if it.due_at and it.tries else None)
            if rows:
                self.cursor = rows[-1].event.id

    @property
    def _lacks_window(self) -> bool:
        return not self.exhausted and self.lanes.ready_first < LOW_WATER and self.lanes.held < MAX_HELD

    def _monotonic(self, due_at: datetime) -> float | None:
        """Durations are waited on the monotonic clock: somebody who sets the wall clock neither hastens nor delays them."""
        left = (due_at - self._clock.now()).total_seconds()
        return self._clock.monotonic() + left if left > 0 else None

    # -- sending

    def room(self, now: float) -> int:
        """How many requests may go out now (monotonic seconds), as far as is known before the first of them."""
        return self._room(now) if self.pace.turn else 0

    def wants_turn(self, now: float) -> bool:
        """Whether something would go out if it were this process's turn."""
        return not self.pace.turn and self._room(now) > 0

    def wants_claim(self, now: float) -> bool:
        """Whether a probe is due, and something to probe with."""
        if not (self.breaker.open and self.shared) or self.unwritten or self.claimed_until > now:
            return False
        return self.sends and self.lanes.ready > 0 and self.breaker.may_send(now)

    def _room(self, now: float) -> int:
        first, again = self.lanes.ready_first, self.lanes.ready_again
        if not (first or again) or not self.sends or self._reordered is not None:
            return 0
        if self.lanes.urgent and self.pace.room(0, 1, now, hastened=True) > 0:
            return 1
        if not self.breaker.may_send(now) or (self.breaker.open and self.shared and self.claimed_until <= now):
            return 0
        room = self.pace.room(first, again, now)
        # What a batch takes along, a probe or a rate limit leaves over is known after each.
        by_one = self.destination.max_items > 1 or self.breaker.open or self.pace.rate is not None
        return max(0, min(room, 1) if by_one else room)

    @property
    def sends(self) -> bool:
        """Whether anything may go there at all."""
        return self.endpoint.enabled and self.destination.problem is None

    @property
    def resting(self) -> bool:
        """Whether it is left alone on purpose just now: disabled, not understood, paused, or its breaker open."""
        return not self.sends or self.breaker.open or self.pace.pauses(self._clock.monotonic())

    @property
    def wants_reading(self) -> bool:
        """Whether `refill` would find something to read right now."""
        if not self.sends or self._awaits_landing:
            return False
        return self._reordered is not None or self._lacks_window or self.lanes.starving

    @property
    def _awaits_landing(self) -> bool:
        """Whether new lanes wait until all that the old ones sent is answered and written."""
        return self._reordered is not None and bool(self.pace.in_flight or self.lanes.unsettled)

    def next_look(self, now: float) -> float | None:
        """Monotonic time at which something happens by itself (a retry is due, a pause ends); None: nothing will.

        `now`: the moment at which there was no `room`. A pause that has ended since is still to be looked at.
        """
        if not self.sends:
            return None
        due = self.lanes.next_due
        # Where enough are ready, those that are due are not read; an answer makes room first.
        times = [] if due is None or self.lanes.ready_again >= LOW_WATER else [due]
        if self.lanes.ready:
            slot, probe = self.pace.next_slot, self.breaker.probe_at if self.breaker.open else 0.0
            times += [when for when in (slot, max(slot, self.pace.paused_until, probe)) if when > now]
        return min(times, default=None)

    def ship(self) -> tuple[Shipment, Request | Job | None]:
        """The next request, to be sent now; where it cannot be made, the shipment says why and the request is None."""
        now = self._clock.now()
        urgent = self.lanes.urgent
        again = self.pace.takes_again(self.lanes.ready_first, self.lanes.ready_again, hastened=urgent)
        kind = self.destination
        deliveries, items, problem = (self._one if kind.max_items == 1 else self._batch)(now, again)
        shipment = Shipment(self, deliveries, items, "", None, again, problem)
        self.pace.left(again=again)
        if not (urgent and again):  # that is no probe, and puts none off
            self.breaker.sent()
            self.claimed_until = 0.0
        if problem is not None:
            return shipment, None
        try:
            shipment.mode = kind.mode(items)
            return shipment, self._request(shipment, now)
        except Exception as error:
            shipment.problem = _named(error)
            return shipment, None

    def _one(self, now: datetime, again: bool) -> tuple[list[Delivery], list[str], str | None]:
        delivery = self.lanes.take_one(again=again)
        try:
            return [delivery], [self.destination.item(delivery, now)], None
        except Exception as error:
            return [delivery], [], _named(error)

    def _batch(self, now: datetime, again: bool) -> tuple[list[Delivery], list[str], str | None]:
        kind = self.destination
        items: list[str] = []
        size = 0
        problem: str | None = None
        group: int | None = None

        def fits(delivery: Delivery) -> bool:
            nonlocal size, problem, group
            if problem is not None:
                return False
            # What failed together is tried again together: the same request, with the same id.
            if not items:
                group = self._groups.of(delivery.event.id)
            elif self._groups.of(delivery.event.id) != group:
                return False
            try:
                item = kind.item(delivery, now)
            except Exception as error:
                # One event that cannot be rendered goes alone, and nowhere: the others of the batch are not to blame.
                if not items:
                    problem = _named(error)
                return not items
            if items and (size + len(item) > kind.max_bytes or not kind.together(items[0], item)):
                return False
            size += len(item) + 2
            items.append(item)
            return True

        deliveries = self.lanes.take(fits, limit=kind.max_items, again=again)
        return deliveries, items, problem

    def _request(self, shipment: Shipment, now: datetime) -> Request | Job:
        ids = [delivery.event.id for delivery in shipment.deliveries]
        request = self.destination.request(shipment.items, ids, now, mode=shipment.mode)
        first = shipment.traced
        if first is None or not isinstance(request, Request):
            return request
        text, span = first.event.traceparent, ""
        if self._traced:
            span = trace_context.span_id(text, first.endpoint_id, first.event.id, first.attempts + 1)
        return request._replace(lines=(*request.lines, *trace_context.lines(text, span)))

    def resend(self, shipment: Shipment, response: Response) -> Request | Job | None:
        """The same items in another mode, where the answer asks for that; None: the answer stands."""
        if shipment.first is not None:
            return None
        mode = self.destination.other_mode(shipment.mode, response)
        if mode is None:
            return None
        shipment.first, shipment.mode = response, mode
        self.pace.take_slot()
        return self._request(shipment, self._clock.now())

    # -- judging

    def answered(self, shipment: Shipment, response: Response) -> Answer:
        """Decide what becomes of the shipment; its lanes go on."""
        self.pace.landed(again=shipment.again)
        outcome = self._judge(response)
        if outcome.verdict is Verdict.ACCEPTED:
            return self._accepted(shipment, response, outcome)
        # What fails while the breaker is open (probes, and what was on its way when it opened) uses up nobody's tries.
        counted = not self.breaker.open
        fault = outcome.verdict is Verdict.REJECTED and self.breaker.accepts_others
        if shipment.problem is None:
            self._tell_breaker(shipment, outcome)
        else:
            self.breaker.not_sent()
            self.claimed_until = self._clock.monotonic() + CLAIMED if self.breaker.open else 0.0
        policy, schedule = self._schedule(shipment, counted=counted, fault=fault)
        settlements = settle(shipment.deliveries, response, outcome, policy, random=self._random(), schedule=schedule)
        self._regroup(settlements, schedule)
        asked = outcome.retry_after is not None
        self.lanes.answered(settlements, self._due(settlements), patient=asked or schedule == REJECTED)
        self.pace.pause(outcome.pause)
        if outcome.verdict is Verdict.GONE:
            self.pace.pause(GONE_REST)
        return Answer(settlements, outcome)

    def _accepted(self, shipment: Shipment, response: Response, outcome: Outcome) -> Answer:
        recovered = self.breaker.succeeded()
        settlements = settle(shipment.deliveries, response, outcome, None, random=0.0)
        self._regroup(settlements)
        self.lanes.answered(settlements, 0.0)
        self.pace.pause(outcome.pause)
        if recovered:
            self.lanes.hasten(self._clock.monotonic())
        # An outage that began before a restart is known from the disk alone, and ends here too.
        recovered = recovered or self.failing_since is not None
        return Answer(settlements, outcome, self.destination.learned(shipment.items, shipment.mode), recovered)

    def _judge(self, response: Response) -> Outcome:
        if response.error is not None:
            return Outcome(Verdict.FAILED, pause=response.pause)
        try:
            return self.destination.judge(response, self._clock.now())
        except Exception:
            # A receiver's strange answer is that receiver's trouble alone.
            log.exception("an answer could not be judged", extra={"fields": {"endpoint": self.endpoint.id}})
            return Outcome(Verdict.FAILED)

    def _tell_breaker(self, shipment: Shipment, outcome: Outcome) -> None:
        now = self._clock.monotonic()
        if outcome.verdict is Verdict.REJECTED:
            self.breaker.rejected(shipment.deliveries[0].event.id, now)
        elif outcome.pause is None or self.breaker.open or now >= self.pace.paused_until:
            # Asking for a pause is an answer in good health, unless it is all that ever comes: each pause counts once.
            self.breaker.failed(now, retry_after=outcome.retry_after)

    def _schedule(self, shipment: Shipment, *, counted: bool, fault: bool) -> tuple[RetryPolicy | None, str]:
        if shipment.problem is not None:
            return NEVER, REJECTED
        if fault and len(shipment.deliveries) > 1 and shipment.again:
            return None, SPLIT
        if fault and counted:
            return self._limits.rejected_policy, REJECTED
        return (self._limits.policy, STANDARD) if counted else (None, OUTAGE)

    def _regroup(self, settlements: list[Settlement], schedule: str = STANDARD) -> None:
        if self.destination.max_items > 1:
            self._groups.answered(settlements, split=schedule == SPLIT)

    def _due(self, settlements: list[Settlement]) -> float:
        """When what was left of a request is due, one moment for all of it: so it stays together, and in its order."""
        wanted = next((s.due_at for s in settlements if s.due_at is not None), None)
        return (self._monotonic(wanted) if wanted else None) or self._clock.monotonic()


def _named(error: Exception) -> str:
    return str(error) if isinstance(error, MarzhookError) else f"{type(error).__name__}: {error}"
