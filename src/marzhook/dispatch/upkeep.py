"""The upkeep: what keeps the database small, done in the background, and always last in the queue of writers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from marzhook import signals
from marzhook.background import Background
from marzhook.clock import Clock
from marzhook.store.database import Database
from marzhook.store.retention import Ages, Retention
from marzhook.telemetry import Metrics, fields, log_failure

log = logging.getLogger(__name__)

EVERY: Final = 3600.0
"""Seconds between two passes over what is too old."""
CHECK: Final = 10.0
"""Seconds between two looks at how long the log is, and after which a pass that failed or was broken off is tried again."""
LOG_KEPT: Final = 16 * 2**20
"""Bytes of the log that need not be given back: it grows to some megabytes with any work."""
COPIED_AFTER: Final = 100
"""Steps of a pass after which the log is copied into the file, and it is asked whether another process does this now."""
PAUSE: Final = 0.002
"""Seconds between two steps, at the least."""
SHARE: Final = 3
"""For how many times as long as a step kept the writers waiting they then have the database for themselves. A pause is also
what lets them in at all: who asks again at once for a lock that he has just given back, gets it before those who wait."""


class Upkeep(Background):
    """A thread that removes what is too old, and keeps the files short."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        ages: Ages,
        metrics: Metrics | None = None,
        mine: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__("upkeep", mine)
        self._database = database
        self._clock = clock
        self._retention = Retention(database, ages)
        self._metrics = metrics

    def pass_once(self) -> bool:
        """Remove what is too old now. Returns whether that was all of it: `stop` from another thread, or another process
        that does this now, ends it early.

        Raises StoreBusyError when the database cannot be written.
        """
        removed: Counter[str] = Counter()
        all_of_it = False
        try:
            for number, step in enumerate(self._retention.steps(self._clock.now()), start=1):
                removed.update(step.removed)
                if number % COPIED_AFTER == 0:
                    # Its steps leave that to others, and there may be none.
                    self._database.checkpoint(LOG_KEPT)
                    if not self._mine():
                        break
                # On PostgreSQL nobody has waited for it.
                held = step.held if self._database.one_writer else 0.0
                if self._stopping.wait(max(PAUSE, SHARE * held)):
                    break
            else:
                all_of_it = True
        finally:
            self._tell(removed)
        signals.emit("upkeep.done")
        return all_of_it

    def _tell(self, removed: Counter[str]) -> None:
        if self._metrics is not None:
            for what, rows in removed.items():
                self._metrics.count_pruned(what, rows)
        if removed.total():
            log.info("removed what was too old", extra=fields(**+removed))

    def _run(self) -> None:
        due = self._clock.monotonic()
        while not self._stopping.is_set():
            try:
                # One that was broken off is still due, for whoever does it next, and that may be this process again.
                if self._clock.monotonic() >= due and self._mine() and self.pass_once():
                    due = self._clock.monotonic() + EVERY
                # After a pass too: the file becomes shorter when its log is copied into it.
                self._database.checkpoint(LOG_KEPT)
            except Exception as error:
                log_failure(log, "the upkeep failed, and tries again", error)
            self._stopping.wait(CHECK)
