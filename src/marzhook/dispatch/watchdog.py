"""The watchdog: notices that nothing is delivered although everything runs.

It looks from outside, at what the database says is due, on a thread of its own: so it also notices a dispatcher that is stuck.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime

from marzhook.background import Background
from marzhook.clock import Clock
from marzhook.destinations.kinds import KINDS
from marzhook.dispatch import health
from marzhook.endpoint import Endpoint
from marzhook.errors import MarzhookError, NotFoundError
from marzhook.store import endpoints, stats
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox

log = logging.getLogger(__name__)

LATE = 60.0
"""Seconds for which a delivery may be due before something is wrong."""
EVERY = 5.0
SET = 5.0
"""Seconds by which the wall clock may go another way than the monotonic one before somebody has set it."""


class Watchdog(Background):
    """`trouble` says in words what is late."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        *,
        resting: Callable[[], set[int]],
        late: float = LATE,
        every: float = EVERY,
        mine: Callable[[], bool] = lambda: True,
    ) -> None:
        """`resting`: endpoints that are left alone on purpose; `late` and `every` in seconds."""
        super().__init__("watchdog", mine)
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._resting = resting
        self._late = late
        self._every = every
        self._told: set[int] = set()
        self._awake: dict[int, float] = {}
        """Since when (monotonic) each endpoint is not left alone: one that was away may be behind for a while after."""
        self._set_at: float | None = None
        """The wall clock less the monotonic one at the last look."""
        self.trouble: list[str] = []

    def look(self) -> None:
        """Compare what is due with what should be; tell once of each endpoint that is late."""
        now = self._clock.now()
        with self._database.read() as conn:
            ages = stats.oldest_due(conn, now)
            awake = endpoints.enabled_ids(conn) & ages.keys()
        awake -= self._resting()
        moment = self._clock.monotonic()
        if self._was_set(now, moment):
            # By the new time everything may have waited for an hour: all have time to show that they go on.
            self._awake = {}
        self._awake = {id_: self._awake.get(id_, moment) for id_ in awake}
        waited = {id_: min(ages[id_], moment - self._awake[id_]) for id_ in awake}
        late = {id_: ages[id_] for id_, seconds in waited.items() if seconds > self._late}
        known = {
            id_: endpoint
            for id_, endpoint in self._named(late).items()
            if waited[id_] > self._late + (KINDS[endpoint.kind].longest if endpoint.kind in KINDS else 0)
        }
        self.trouble = [
            f"endpoint {id_} ({endpoint.name}): its oldest due delivery has waited for {late[id_]:.0f} s"
            for id_, endpoint in known.items()
        ]
        fresh = known.keys() - self._told
        self._told = set(known)
        for id_ in sorted(fresh):
            log.error(health.STALLED, extra={"fields": {"endpoint": id_, "seconds": round(late[id_])}})
            why = f"its oldest due delivery has waited for {late[id_]:.0f} s"
            with self._database.write() as tx:
                self._outbox.publish(tx, [health.event(health.STALLED, known[id_], now, why)], now=now, except_for=id_)

    def _named(self, ids: Iterable[int]) -> dict[int, Endpoint]:
        """These endpoints, by id; one that was deleted meanwhile is left out."""
        found = {}
        for id_ in sorted(ids):
            with self._database.read() as conn, suppress(NotFoundError):
                found[id_] = endpoints.get(conn, id_)
        return found

    def _was_set(self, now: datetime, moment: float) -> bool:
        """Whether somebody set the wall clock since the last look."""
        before, self._set_at = self._set_at, now.timestamp() - moment
        return before is not None and abs(self._set_at - before) > SET

    def _run(self) -> None:
        while not self._stopping.wait(self._every):
            if not self._mine():
                self.trouble = []
                continue
            try:
                self.look()
            except MarzhookError as error:
                self.trouble = [f"the database cannot be looked at: {error}"]
            except Exception:
                log.exception("the watchdog stumbled")
