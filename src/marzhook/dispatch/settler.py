"""The thread that writes what came of tries, while the dispatcher's thread goes on sending.

Settlements are committed in the order in which they came, many in one transaction: a commit waits for the disk, and the
more it takes along, the less each delivery pays for that.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from marzhook.clock import Clock
from marzhook.delivery import DELIVERED, Settlement
from marzhook.errors import MarzhookError, OwnershipLostError, StoreBusyError
from marzhook.store.outbox import Outbox
from marzhook.telemetry import log_failure

log = logging.getLogger(__name__)

BATCH = 500
LINGER = 0.1
"""Seconds that the first settlement of a batch waits for others. A crash within them repeats a delivery that was made."""
RETRY_EVERY = 0.5
"""Seconds between two tries to write, while the database is locked or its disk is full."""

Committed = Callable[[Sequence[Settlement]], None]


def _nothing() -> None:
    """There is no session to keep."""


class Settler:
    """Start, `put`, `flush`, stop. All but `stop` belong to the dispatcher's thread; `committed` is called on the settler's
    after each commit."""

    def __init__(self, outbox: Outbox, clock: Clock, committed: Committed) -> None:
        self._outbox = outbox
        self._clock = clock
        self._committed = committed
        # Handed over by the batch: every hand-over wakes the other thread, which then wants the interpreter.
        self._batch: list[Settlement] = []
        self.due: float | None = None
        """Monotonic time at which `flush` has something to do; None: nothing waits."""
        self._queue: queue.SimpleQueue[list[Settlement] | Callable[[], None] | None] = queue.SimpleQueue()
        self._gave_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="settler", daemon=True)
        self.trouble: str | None = None
        """Why nothing can be written just now, in words; None: all is well."""
        self.meanwhile: Callable[[], None] = _nothing
        """Done on this thread between two tries to write a note: the session that settles must not seem to hang."""
        self.delivered = 0
        """Deliveries that were accepted, and are on disk as such, since the start."""

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether anything will be written."""
        return self._thread.is_alive()

    def put(self, settlements: Sequence[Settlement]) -> None:
        """Write these soon. What came of one request is committed together."""
        if self.due is None:
            self.due = self._clock.monotonic() + LINGER
        self._batch.extend(settlements)
        if len(self._batch) >= BATCH:
            self._hand_over()

    def flush(self, now: float) -> None:
        """Hand over what has waited long enough."""
        if self.due is not None and now >= self.due:
            self._hand_over()

    def call(self, action: Callable[[], None]) -> None:
        """Do another small write, in its turn."""
        self._hand_over()
        self._queue.put(action)

    def stop(self, *, timeout: float) -> bool:
        """Write what was put so far and end. False when it could not be written within `timeout` seconds: what is lost is
        only the knowledge of these answers; the deliveries stay owed and are made again."""
        self._hand_over()
        self._queue.put(None)
        self._thread.join(timeout)
        self._gave_up.set()
        return not self._thread.is_alive()

    def _hand_over(self) -> None:
        batch, self._batch, self.due = self._batch, [], None
        if batch:
            self._queue.put(batch)

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            if callable(entry):
                self._call(entry)
            else:
                self._attempt(entry)
            self.trouble = None  # what was given up waits no more

    def _attempt(self, batch: list[Settlement]) -> None:
        """Write the batch, however long it takes until that is possible."""
        while batch:
            try:
                self._outbox.settle(batch, now=self._clock.now())
            except OwnershipLostError as error:
                # Others may have sent them by now. They stay owed.
                told = {"fields": {"dropped": len(batch)}}
                log.warning("settlements are dropped; what they were of is sent again: %s", error, extra=told)
                return
            except MarzhookError as error:
                self._waits("settlements wait for the database", error)
                if self._gave_up.wait(RETRY_EVERY):
                    return
            except Exception:
                if len(batch) == 1:
                    # It would hold up all others for ever. Its delivery stays owed, and is made again when it is read again.
                    log.exception(
                        "a settlement cannot be written", extra={"fields": {"event": batch[0].delivery.event.id}}
                    )
                    self._tell(batch)
                    return
                for settlement in batch:
                    self._attempt([settlement])
                return
            else:
                self._written()
                self._tell(batch)
                return

    def _waits(self, what: str, error: MarzhookError) -> None:
        """Each reason is told once, until something can be written again or there is another one."""
        if str(error) != self.trouble:
            log_failure(log, what, error)
        self.trouble = str(error)

    def _written(self) -> None:
        if self.trouble is not None:
            log.info("what waited for the database is written")
        self.trouble = None

    def _tell(self, batch: list[Settlement]) -> None:
        self.delivered += sum(settlement.state == DELIVERED for settlement in batch)
        try:
            self._committed(batch)
        except Exception:
            # What is told after the commit (logs, metrics) must not end the thread that commits.
            log.exception("what was settled could not be told")

    def _call(self, action: Callable[[], None]) -> None:
        while True:
            try:
                action()
            except StoreBusyError as error:
                self._waits("a note waits for the database", error)
                with suppress(Exception):  # what is lost, its owner finds out
                    self.meanwhile()
                if self._gave_up.wait(RETRY_EVERY):
                    return
            except Exception as error:
                # Without this thread nothing would ever be settled again.
                log_failure(log, "a note could not be written", error)
                return
            else:
                self._written()
                return
