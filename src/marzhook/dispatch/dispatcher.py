"""The dispatcher: the thread that sends. It reads windows, fills connections, and hands what came of it to the settler."""

from __future__ import annotations

import logging
import queue
import random as random_module
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from marzhook import signals
from marzhook.clock import Clock
from marzhook.delivery import Settlement, Verdict
from marzhook.dispatch import health
from marzhook.dispatch.limits import DRAIN_SECONDS, IN_A_TURN, MAX_UNSETTLED, SETTLE_SECONDS, SETTLER_LOOK, Limits
from marzhook.dispatch.notices import Notices
from marzhook.dispatch.outages import Outages
from marzhook.dispatch.ownership import Ownership
from marzhook.dispatch.sender import Sender
from marzhook.dispatch.settler import Settler
from marzhook.dispatch.shipment import Shipment
from marzhook.dispatch.telling import tell
from marzhook.dispatch.timers import Timers
from marzhook.dispatch.turns import Turns
from marzhook.dispatch.watching import Watching
from marzhook.endpoint import Endpoint
from marzhook.request import Response
from marzhook.store import endpoints, outages
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.telemetry import Metrics, log_failure, words_of
from marzhook.transport.carriers import Carriers

if TYPE_CHECKING:
    from marzhook.otel.spans import Spans

log = logging.getLogger(__name__)

HEALTH_EVERY = 1.0
"""Seconds between two looks at how endpoints fare."""


class Dispatcher:
    """Start, `wake`, stop. Everything else happens on its own thread."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        metrics: Metrics,
        *,
        transport: Carriers,
        limits: Limits | None = None,
        interval: float | None = None,
        random: Callable[[], float] = random_module.random,
        shared: str = "",
        spans: Spans | None = None,
    ) -> None:
        """The transport is the dispatcher's from now on, which also closes it. `spans` records each try.

        `interval`: seconds between two looks at the queue (JOB_SEND_NOTIFICATIONS_INTERVAL); None: at once.
        `shared`: as what other processes that send from this database know this one; empty: there are none.
        """
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._metrics = metrics
        self._spans = spans
        self._limits = limits or Limits()
        self._interval = interval
        self._random = random
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._settler = Settler(outbox, clock, self._on_committed)
        self._committed: queue.SimpleQueue[Sequence[Settlement]] = queue.SimpleQueue()
        self._stop_at: float | None = None
        self._woken = True
        self._max_in_flight = 1000
        self._transport = transport
        self._instance = ""
        self._senders: dict[int, Sender] = {}
        self._active: dict[int, Sender] = {}
        self._timers = Timers()
        self._unsettled = 0
        self._last_look = float("-inf")
        self._next_health = 0.0
        self._horizon = database.horizon()
        self._ownership = Ownership(database, outbox, self._settler, shared, ring=transport.wake) if shared else None
        self._turns = Turns(self._ownership) if self._ownership is not None else None
        # A probe may go out twice, with the secret in its other mode.
        self._outages = Outages(
            database, outbox, clock, self._settler, self.wake, probe_seconds=2 * self._limits.timeout
        )
        self._notices = Notices(database, outbox, clock, self._settler, self.wake)
        self.trouble: str | None = None
        """Why the dispatcher cannot work just now, in words."""

    # -- from other threads

    def start(self) -> None:
        with self._database.read() as conn:
            self._instance = self._database.meta(conn, "instance") or ""
        self._max_in_flight = self._limits.at_once()
        self._outbox.on_publish(self.wake)
        self._settler.start()
        self._thread.start()

    def wake(self) -> None:
        """There may be something new to send."""
        if not self._woken:
            self._woken = True
            self._transport.wake()

    def stop(self, *, timeout: float = DRAIN_SECONDS) -> None:
        """Take nothing more, let requests in flight end (at most `timeout` seconds), write what is known of them.

        What has not ended stays owed: it is made again at the next start.
        """
        self._stop_at = self._clock.monotonic() + timeout
        self._transport.wake()
        self._thread.join(timeout + SETTLE_SECONDS)
        if not self._settler.stop(timeout=SETTLE_SECONDS):
            log.error("some answers could not be written; their deliveries will be made again")
        self._transport.close()
        if self._ownership is not None:
            self._ownership.end()

    @property
    def not_ready(self) -> list[str]:
        """Reasons, in words, why nothing can be delivered."""
        reasons = [f"settling: {self._settler.trouble}"] if self._settler.trouble else []
        if self.trouble:
            reasons.append(f"dispatcher: {self.trouble}")
        if self._thread.ident is not None and not self._thread.is_alive() and self._stop_at is None:
            reasons.append("dispatcher: its thread has ended")
        elif self._thread.is_alive() and self._silent:
            reasons.append("dispatcher: the database that says what is ours to send does not answer")
        if self._thread.ident is not None and not self._settler.alive and self._stop_at is None:
            reasons.append("settling: its thread has ended")
        return reasons

    @property
    def _silent(self) -> bool:
        return self._ownership is not None and self._ownership.silent

    def resting(self) -> set[int]:
        """Endpoints left alone on purpose: disabled, not understood, paused, an open breaker, or another process's turn."""
        shared = self._ownership is not None and self._ownership.processes > 1
        return {id_ for id_, one in list(self._senders.items()) if one.resting or (shared and not one.pace.turn)}

    def figures(self, now: float) -> tuple[int | None, int, float]:
        """The session that has its shards, what it has delivered since it started, and its lag in seconds (as
        `store.workers.Figures` has them); `now`: Unix seconds."""
        session = None if self._ownership is None else self._ownership.session
        lags = [sender.lanes.lag(now) for sender in list(self._senders.values()) if not sender.resting]
        return session, self._settler.delivered, max(lags, default=0.0)

    # -- the thread

    def _run(self) -> None:
        while self._stop_at is None:
            try:
                self._work()
            except Exception as error:
                # All that matters is on disk: begin anew from there, as after a restart.
                if (trouble := words_of(error)) != self.trouble:
                    log_failure(log, "the dispatcher starts anew", error)
                self.trouble = trouble
                self._transport.reset()  # first: by now it may be another process's to send
                self._await_settler()
                if self._stop_at is None:
                    self._transport.poll(1.0)

    def _await_settler(self) -> None:
        """However long it takes: what was answered must be on disk before windows are read anew, or it would be sent again."""
        written = threading.Event()
        self._settler.call(written.set)
        while not written.wait(SETTLER_LOOK) and self._stop_at is None and self._settler.alive:
            pass

    def _work(self) -> None:
        self._senders, self._active, self._timers, self._unsettled = {}, {}, Timers(), 0
        self._committed = queue.SimpleQueue()
        if self._ownership is not None:
            self._ownership.end()  # at once: to connect anew may take long
        watching = Watching(self._database.watch(), self._transport, self._ownership)
        try:
            if self._ownership is not None:
                self._ownership.begin()
            if self._turns is not None:
                self._turns.begin()
            self._woken = True
            while not self._drained():
                self._take_commits()
                now = self._clock.monotonic()
                if self._ownership is not None and self._ownership.turn(now, within=self._within):
                    for sender in self._senders.values():
                        sender.own(self._ownership.share)
                    self._active.update(self._senders)
                if self._turns is not None:
                    self._awaken(self._turns.keep(now, self._senders))
                if watching.changed(now):
                    self._woken = True
                if self._woken and not self._silent and self._may_look(now):
                    self._look()
                if now >= self._next_health:
                    self._next_health = now + HEALTH_EVERY
                    self._notices.watch(self._senders.values())
                self._awaken(self._senders[id_] for id_ in self._timers.ringing(now) if id_ in self._senders)
                self._fill()
                self._settler.flush(now)
                if self.trouble is not None:
                    log.info("the dispatcher works again")
                    self.trouble = None
                busy = self._stop_at is None and any(sender.wants_reading for sender in self._active.values())
                self._collect(0.0 if busy else self._until(watching.next))
        finally:
            watching.close()

    def _may_look(self, now: float) -> bool:
        if self._interval is None:
            return True
        if now < self._last_look + self._interval:
            return False
        self._last_look = now
        return True

    def _until(self, next_watch: float) -> float:
        look = self._last_look + self._interval if self._woken and self._interval is not None else None
        moments = (next_watch, self._settler.due, self._timers.next, look)
        return max(0.0, min(moment for moment in moments if moment is not None) - self._clock.monotonic())

    def _drained(self) -> bool:
        if self._stop_at is None:
            return False
        signals.emit("dispatcher.draining")
        return self._transport.in_flight == 0 or self._clock.monotonic() >= self._stop_at

    def _look(self) -> None:
        """Notice changed endpoints and new events."""
        self._woken = False
        with self._database.read(own=True) as conn:
            found = outages.look(conn)
            known = {id_: sender.endpoint.revision for id_, sender in self._senders.items()}
            if {id_: revision for id_, (revision, _) in found.items()} != known:
                self._reload({endpoint.id: endpoint for endpoint in endpoints.all_endpoints(conn)})
        self._awaken(self._outages.follow(found, self._senders.values()))
        floor = self._horizon.floor
        self._horizon.advance()
        for sender in self._senders.values():
            sender.look_behind(floor)
        waiting = {id_: sender.cursor for id_, sender in self._senders.items() if sender.exhausted and sender.sends}
        for endpoint_id in self._outbox.behind(waiting):
            self._senders[endpoint_id].exhausted = False
            self._active[endpoint_id] = self._senders[endpoint_id]

    def _reload(self, current: dict[int, Endpoint]) -> None:
        for endpoint_id in self._senders.keys() - current.keys():
            # Deleted: what is on its way comes back to the sender, which nobody asks for more.
            self._senders.pop(endpoint_id)
            self._active.pop(endpoint_id, None)
        for endpoint in current.values():
            if (sender := self._senders.get(endpoint.id)) is None:
                self._senders[endpoint.id] = sender = Sender(
                    endpoint, self._outbox, self._clock,
                    instance=self._instance, limits=self._limits, random=self._random,
                    share=self._ownership.share if self._ownership is not None else None, traced=self._spans is not None,
                )  # fmt: skip
            elif sender.endpoint.revision != endpoint.revision:
                sender.reload(endpoint)
            else:
                continue
            self._active[endpoint.id] = sender

    def _fill(self) -> None:
        """Start requests, one endpoint after the other, until each has what it may have."""
        if self._stop_at is not None or self._silent:
            return
        now = self._clock.monotonic()
        for endpoint_id, sender in list(self._active.items()):
            sender.refill()
            if sender.shared:
                self._ask_for(endpoint_id, sender, now)
            if not sender.room(now) and not sender.wants_reading:
                self._rest(endpoint_id, sender, now)
        turn, last = list(self._active.values()), None
        while turn:
            again = []
            for sender in turn:
                room = sender.room(now)
                for _ in range(min(room, IN_A_TURN)):
                    if self._transport.in_flight >= self._max_in_flight or self._unsettled >= MAX_UNSETTLED:
                        self._begin_behind(last)
                        return
                    self._ship(sender)
                    last = sender.endpoint.id
                if room:
                    again.append(sender)
            turn = again
        now = self._clock.monotonic()
        for endpoint_id, sender in list(self._active.items()):
            if not sender.room(now) and not sender.wants_reading:
                # Now, and not at the next turn: a rate limit or a retry may be due long before anything else happens.
                self._rest(endpoint_id, sender, now)

    def _begin_behind(self, last: int | None) -> None:
        """The next turn is of those that had none in this one, where there was room for a few only."""
        if last in self._active:
            order = list(self._active)
            place = order.index(last) + 1
            self._active = {id_: self._active[id_] for id_ in order[place:] + order[:place]}

    def _ask_for(self, endpoint_id: int, sender: Sender, now: float) -> None:
        """What of all processes only one may have."""
        if sender.wants_claim(now):
            self._outages.claim(sender)
        if self._turns is not None and sender.wants_turn(now):
            self._turns.want(endpoint_id)

    def _within(self) -> bool:
        return all(sender.pace.in_flight <= sender.pace.slots for sender in self._senders.values())

    def _rest(self, endpoint_id: int, sender: Sender, now: float) -> None:
        """Nothing to do here until an answer, a publish or a timer."""
        del self._active[endpoint_id]
        if (when := sender.next_look(now)) is not None:
            self._timers.set(endpoint_id, when)

    def _awaken(self, senders: Iterable[Sender]) -> None:
        for sender in senders:
            # Of an endpoint that was deleted, or from before a new beginning, nobody asks for more.
            if self._senders.get(sender.endpoint.id) is sender:
                self._active[sender.endpoint.id] = sender

    def _ship(self, sender: Sender) -> None:
        shipment, request = sender.ship()
        if self._ownership is not None:
            self._ownership.sent(shipment.deliveries)
        if request is None:
            self._answered(shipment, Response(self._clock.now(), 0.0, error="render", message=shipment.problem or ""))
            return
        self._transport.send(request, shipment)
        signals.emit("send.started")

    def _collect(self, timeout: float) -> None:
        finished = self._transport.poll(timeout)
        for shipment, response in finished:
            signals.emit("send.answered")
            self._answered(shipment, response)
        if not finished and not self._active and self._transport.in_flight == 0 and self._unsettled == 0:
            signals.emit("dispatcher.idle")

    def _answered(self, shipment: Shipment, response: Response) -> None:
        sender = shipment.sender
        if response.error is None and not self._silent:
            request = sender.resend(shipment, response)
            if request is not None:
                self._transport.send(request, shipment)
                return
        before = sender.breaker.probe_at if sender.breaker.open else None
        answer = sender.answered(shipment, response)
        endpoint = sender.endpoint
        self._awaken([sender])
        self._unsettled += len(answer.settlements)
        self._settler.put(answer.settlements)
        self._outages.answered(sender, before, recovered=answer.recovered)
        if answer.learned:
            self._notices.change(endpoint, **answer.learned)
        if answer.outcome.verdict is Verdict.GONE and endpoint.enabled:
            self._notices.disable(sender, health.GONE)

    # -- settling

    def _take_commits(self) -> None:
        self._awaken(self._outages.take())
        while not self._committed.empty():
            batch = self._committed.get()
            self._unsettled -= len(batch)
            if self._ownership is not None:
                self._ownership.settled(batch)
            ids: dict[int, list[int]] = {}
            for settlement in batch:
                ids.setdefault(settlement.delivery.endpoint_id, []).append(settlement.delivery.event.id)
            for endpoint_id, event_ids in ids.items():
                if (sender := self._senders.get(endpoint_id)) is not None:
                    sender.lanes.committed(event_ids)
                    self._active[endpoint_id] = sender

    def _on_committed(self, batch: Sequence[Settlement]) -> None:
        """On the settler's thread: tell the dispatcher, then the log and the metrics."""
        self._committed.put(batch)
        self._transport.wake()
        known = {id_: sender.endpoint for id_, sender in list(self._senders.items())}
        tell(batch, known, self._metrics, now=self._clock.now().timestamp())
        if self._spans is not None:
            self._spans.tries(batch, known)
