"""Following panels over their API: their users are looked at again and again, page by page, and what differs is told.

Marzban's API can be asked neither for what changed since, nor in an order of changes, so a pass looks at everybody. Pages are
counted by offset and shift when a user is deleted meanwhile: who was on none of them is asked for by name, and only when the
panel says that there is none he is told as deleted. So a pass may also be interrupted, and go on where it was.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from marzhook import signals
from marzhook.background import Background
from marzhook.clock import Clock
from marzhook.errors import PanelError, StoreBusyError
from marzhook.sources.marzban_api import PanelApi
from marzhook.sources.snapshot import Shown, Snapshots, shown
from marzhook.store import source_users, sources
from marzhook.store.database import Database
from marzhook.store.sources import Source
from marzhook.telemetry import Metrics, fields, log_failure

log = logging.getLogger(__name__)

CHECK: Final = 1.0
"""Seconds between two looks at which sources there are."""
TIMEOUT: Final = 30.0
"""Seconds without a byte from a panel."""
FIRST_RETRY: Final = 5.0
LONGEST_RETRY: Final = 600.0
"""Seconds from one failure to the next try: twice as long each time, up to this, less up to a half by chance."""
AFTER_FAULT: Final = 30.0
"""Seconds to wait after a fault of our own."""
REST: Final = 1.0
"""A panel has as long for itself after a request as that took: half of its time at the most is ours."""


class Following:
    """One source, one request at a time. Use it from one thread."""

    def __init__(
        self, source: Source, database: Database, snapshots: Snapshots, clock: Clock, *, interval: float,
        metrics: Metrics, ca_file: Path | None,
    ) -> None:  # fmt: skip
        self.source = source
        self.due = clock.monotonic()
        """When to take the next step, in monotonic seconds."""
        self._api = PanelApi(
            source.url, source.username or "", source.password or "", token=source.token or "", ca_file=ca_file,
            timeout=TIMEOUT,
        )  # fmt: skip
        self._database = database
        self._snapshots = snapshots
        self._clock = clock
        self._interval = interval
        self._metrics = metrics
        self._failures = 0
        self._was_failing = source.error is not None
        self._begin()

    def _begin(self) -> None:
        self._offset = 0
        self._present: set[str] = set()
        self._missing: list[str] | None = None
        """Whom to ask for by name, once all pages have been seen."""

    def step(self) -> bool:
        """Ask the panel once and take in what it says; return whether that ended a pass. Sets `due`. Raises StoreBusyError."""
        began = self._clock.monotonic()
        try:
            ended = self._ask(self._clock.now())
        except PanelError as error:
            self._failed(error)
            return False
        now = self._clock.monotonic()
        self._failures = 0
        self.due = now + (self._interval if ended else REST * (now - began))
        return ended

    def _ask(self, at: datetime) -> bool:
        if self._missing is None:
            page, seen, total = self._api.page(self._offset)
            users = shown(page)
            self._present |= {name for one in page if isinstance(name := one.get("username"), str)}
            self._take(users, at)
            self._offset += seen
            if seen and self._offset < total:
                return False
            self._missing = self._snapshots.missing(self.source.id, self._present)
        elif self._missing:
            self._confirm(self._missing[-1], at)
            self._missing.pop()
        if self._missing:
            return False
        self._passed()
        return True

    def _confirm(self, username: str, at: datetime) -> None:
        try:
            user = self._api.user(username)
        except PanelError as error:
            if error.code != "panel_hidden":
                raise
            # He belongs to another admin now: neither deleted nor ours to tell of.
            with self._database.write() as tx:
                source_users.drop(tx, self.source.id, username)
            return
        if user is None:
            self._take({username: None}, at)
        elif user["username"] == username:
            self._take(shown([user]), at)
        else:
            # Another spelling of a name that is gone.
            self._take({username: None}, at)

    def _take(self, users: Mapping[str, Shown | None], at: datetime) -> None:
        told = self._snapshots.look(self.source.id, users, asked_at=at)
        if told:
            self._metrics.count_polled(self.source.name, told)
            log.info("a panel's users have changed", extra=fields(source=self.source.name, events=told))

    def _passed(self) -> None:
        now = self._clock.now()
        with self._database.write() as tx:
            source_users.forget_deleted(tx, self.source.id, now=now.timestamp())
            sources.note(tx, self.source.id, passed_at=now, failing_since=None, error=None)
        if self._was_failing:
            log.info("a panel can be followed again", extra=fields(source=self.source.name))
        self._was_failing = False
        self._begin()
        signals.emit("poll.done")

    def _failed(self, error: PanelError) -> None:
        wait = min(FIRST_RETRY * 2**self._failures, LONGEST_RETRY)
        self._failures = min(self._failures + 1, 30)
        self.due = self._clock.monotonic() + wait * random.uniform(0.5, 1.0)  # noqa: S311 - nobody has to be kept from guessing it
        with self._database.write() as tx:
            since = {} if self._was_failing else {"failing_since": self._clock.now()}
            sources.note(tx, self.source.id, error=str(error), **since)
        if not self._was_failing:
            log.warning(
                "a panel cannot be followed; it is tried again, and nothing is lost",
                extra=fields(source=self.source.name, code=error.code, reason=str(error)),
            )
        self._was_failing = True
        signals.emit("poll.failed")


class Follower(Background):
    """A thread that follows all sources that are not paused, one request after the other."""

    def __init__(
        self,
        database: Database,
        snapshots: Snapshots,
        clock: Clock,
        *,
        interval: float,
        metrics: Metrics,
        ca_file: Path | None = None,
        mine: Callable[[], bool] = lambda: True,
    ) -> None:
        """`interval`: seconds from the end of a pass to the next."""
        super().__init__("follower", mine)
        self._database = database
        self._snapshots = snapshots
        self._clock = clock
        self._interval = interval
        self._metrics = metrics
        self._ca_file = ca_file
        self._following: dict[int, Following] = {}

    def _run(self) -> None:
        while not self._stopping.is_set():
            pause = CHECK
            try:
                if self._mine():
                    pause = self._round()
                else:
                    self._following.clear()
            except StoreBusyError as error:
                log_failure(log, "what a panel shows could not be written; it is asked again", error)
            except Exception as error:
                # Perhaps what was remembered in between is at fault; what is on disk is not.
                log_failure(log, "following a panel failed, and is tried again", error)
                self._following.clear()
                pause = AFTER_FAULT
            self._stopping.wait(pause)

    def _round(self) -> float:
        """Take a step with each source that is due; return for how long to sleep."""
        self._refresh()
        for one in sorted(self._following.values(), key=lambda one: one.due):
            if one.due <= self._clock.monotonic() and not self._stopping.is_set():
                one.step()
        soonest = min((one.due for one in self._following.values()), default=float("inf"))
        return min(CHECK, max(0.0, soonest - self._clock.monotonic()))

    def _refresh(self) -> None:
        with self._database.read() as conn:
            wanted = {
                source.id: source
                for source in sources.all_sources(conn)
                if not source.paused and source.snapshot_at is not None
            }
        for source_id, one in list(self._following.items()):
            now = wanted.get(source_id)
            if now is None or now.login != one.source.login:
                del self._following[source_id]
        for source_id in wanted.keys() - self._following.keys():
            self._following[source_id] = Following(
                wanted[source_id], self._database, self._snapshots, self._clock, interval=self._interval,
                metrics=self._metrics, ca_file=self._ca_file,
            )  # fmt: skip
