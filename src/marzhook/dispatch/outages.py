"""Outages of endpoints, shared with all processes that send to them: what each breaker finds out is written down, and what
others found out is followed. `store/outages.py` says what is written when, and why of all processes one probes at a time."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from marzhook.clock import Clock
from marzhook.dispatch import health
from marzhook.dispatch.sender import CLAIMED, Sender
from marzhook.dispatch.settler import Settler
from marzhook.errors import StoreBusyError
from marzhook.store import endpoints, outages
from marzhook.store.database import Database, Transaction
from marzhook.store.outages import Outage
from marzhook.store.outbox import Outbox

T = TypeVar("T")
log = logging.getLogger(__name__)


class Outages:
    """Belongs to the dispatcher's thread; what it writes, it writes on the settler's."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        settler: Settler,
        wake: Callable[[], None],
        *,
        probe_seconds: float,
    ) -> None:
        """`probe_seconds`: the longest that a probe can be on its way. `wake`: have the dispatcher look."""
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._settler = settler
        self._wake = wake
        self._lease = CLAIMED + probe_seconds
        self._done: queue.SimpleQueue[Callable[[], Sender]] = queue.SimpleQueue()

    def answered(self, sender: Sender, before: float | None, *, recovered: bool) -> None:
        """An answer came. `before`: when the next probe was to go until then; None: the breaker was closed."""
        breaker = sender.breaker
        if recovered:
            self._end(sender)
        elif breaker.open and before is None:
            self._begin(sender)
        elif breaker.open and breaker.probe_at != before and sender.shared:
            self._move(sender, breaker.probe_at - self._clock.monotonic())

    def claim(self, sender: Sender) -> None:
        """A probe is due: be the one who makes it, unless another process is."""

        def claimed() -> None:
            sender.claimed_until = self._clock.monotonic() + CLAIMED

        self._move(sender, self._lease, claimed)

    def follow(self, found: Mapping[int, tuple[int, Outage | None]], senders: Iterable[Sender]) -> list[Sender]:
        """What the database says of them, which others may have begun, probed, or ended; returns whose is over now."""
        told = ((sender, found.get(sender.endpoint.id, (0, None))[1]) for sender in senders)
        return [
            sender
            for sender, outage in told
            if (outage or sender.breaker.open or sender.failing_since) and self._follow(sender, outage)
        ]

    def _follow(self, sender: Sender, outage: Outage | None) -> bool:
        if sender.unwritten:
            return False  # it knows better
        if outage is None:
            sender.failing_since, sender.failing_stage = None, 0
        else:
            known = sender.failing_stage if outage.failing_since == sender.failing_since else 0
            sender.failing_since, sender.failing_stage = outage.failing_since, max(outage.stage, known)
        if outage is None or outage.probe_at is None:
            sender.probe_seen = None
            if sender.breaker.open:
                sender.breaker.end()
                sender.lanes.hasten(self._clock.monotonic())
                return True
        elif outage.probe_at != sender.probe_seen:
            sender.probe_seen = outage.probe_at
            sender.breaker.follow(self._clock.monotonic() + outage.wait, outage.probes)
        return False

    def take(self) -> list[Sender]:
        """Go on with what is written by now; returns whose."""
        return [self._done.get()() for _ in range(self._done.qsize())]

    def _begin(self, sender: Sender) -> None:
        endpoint = sender.endpoint
        wait = sender.breaker.probe_at - self._clock.monotonic()
        since = sender.failing_since = sender.failing_since or self._clock.now()

        def write(tx: Transaction) -> float | None:
            if not endpoints.still(tx.conn, endpoint):
                return None  # it has another address by now, or somebody says that it works again
            return outages.begin(tx, endpoint.id, since=since, wait=wait)

        def then(probe_at: float | None) -> None:
            if probe_at is None:
                self._wake()
            else:
                sender.probe_seen = probe_at
                log.warning("endpoint fails; probing", extra=_fields(sender))

        self._write(sender, write, then)

    def _move(self, sender: Sender, wait: float, moved: Callable[[], None] = lambda: None) -> None:
        """Have the next probe go in `wait` seconds, unless another process has moved it already."""
        endpoint_id, seen, probes = sender.endpoint.id, sender.probe_seen, sender.breaker.probes
        if seen is None:
            return  # others do not know of the outage: its beginning could not be written

        def write(tx: Transaction) -> float | None:
            return outages.move(tx, endpoint_id, seen=seen, wait=wait, probes=probes)

        def then(probe_at: float | None) -> None:
            if probe_at is None:
                self._wake()  # to see what others have made of it
            else:
                sender.probe_seen = probe_at
                moved()

        self._write(sender, write, then)

    def _end(self, sender: Sender) -> None:
        endpoint = sender.endpoint
        sender.failing_since, sender.failing_stage, sender.probe_seen = None, 0, None

        def write(tx: Transaction) -> Outage | None:
            ended = outages.end(tx, endpoint.id)
            if ended is not None and ended.stage > 0:
                # With what ends it, so nobody is told twice, whoever of us finds it out.
                now = self._clock.now()
                new = health.event(health.RECOVERED, replace(endpoint, failing_since=ended.failing_since), now)
                self._outbox.publish(tx, [new], now=now, except_for=endpoint.id)
            return ended

        def then(ended: Outage | None) -> None:
            if ended is not None:
                log.info("endpoint is back", extra=_fields(sender))

        self._write(sender, write, then)

    def _write(self, sender: Sender, work: Callable[[Transaction], T], then: Callable[[T], None]) -> None:
        sender.unwritten += 1

        def finish(result: T) -> Sender:
            sender.unwritten -= 1
            then(result)
            return sender

        def give_up() -> Sender:
            sender.unwritten -= 1
            return sender

        def write() -> None:
            try:
                with self._database.write(brief=True) as tx:
                    result = work(tx)
            except StoreBusyError:
                raise  # the settler tries again
            except BaseException:
                self._done.put(give_up)
                self._wake()
                raise
            self._done.put(lambda: finish(result))
            self._wake()

        self._settler.call(write)


def _fields(sender: Sender) -> dict[str, object]:
    return {"fields": {"endpoint": sender.endpoint.id, "name": sender.endpoint.name}}
