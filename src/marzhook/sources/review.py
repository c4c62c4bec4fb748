"""The review: what time alone does to users, done when it is time.

It sleeps until the next known moment, and never longer than POLL, so that it also sees what other processes commit and
when somebody sets the clock. Its cost grows with the users who cross something, not with all of them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Final

from marzhook import signals
from marzhook.background import Background
from marzhook.clock import Clock
from marzhook.sources.user_changes import UserChanges
from marzhook.store import users
from marzhook.store.database import Database
from marzhook.store.driver import Row
from marzhook.store.outbox import Outbox
from marzhook.telemetry import Metrics, fields, log_failure
from marzhook.user import Thresholds, User, assessed, is_forgotten

log = logging.getLogger(__name__)

POLL: Final = 0.5
"""Seconds between two looks at when the next user is due."""
BATCH: Final = 500
"""Users a transaction, so that nobody waits long for the writer's turn."""
RETRY: Final = 1.0
"""Seconds after which a pass that failed as a whole is tried again."""


class Review(Background):
    """A thread that expires, reminds, resets and deletes users when their time has come."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        *,
        published_actions: Collection[str],
        thresholds: Thresholds,
        metrics: Metrics | None = None,
        mine: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__("review", mine)
        self._database = database
        self._clock = clock
        self._thresholds = thresholds
        self._changes = UserChanges(outbox, published_actions=published_actions, thresholds=thresholds, metrics=metrics)

    def pass_once(self, now: datetime) -> int:
        """Review everybody who is due at `now`; return how many were."""
        done = 0
        while not self._stopping.is_set():
            with self._database.read() as conn:
                due_at = users.next_due(conn)
            if due_at is None or due_at > now:
                break
            with self._database.write() as tx:
                rows = users.due(tx, now, BATCH)
                self._changes.record_each(tx, rows, partial(self._step, now), now=now, by=None)
            done += len(rows)
        if done:
            log.debug("reviewed users", extra=fields(users=done))
            signals.emit("review.done")
        return done

    def refresh_thresholds(self) -> int:
        """Where the thresholds are not those of the last start, find out anew when users are due; return of how many."""
        return sum(self._refreshed_chunks())

    def _refreshed_chunks(self) -> Iterator[int]:
        wanted = json.dumps(asdict(self._thresholds))
        with self._database.read() as conn:
            if self._database.meta(conn, "thresholds") == wanted:
                return
        last_id, rows_left = 0, True
        while rows_left and not self._stopping.is_set():
            with self._database.write() as tx:
                rows = users.after(tx, last_id, BATCH)
                rows_left = len(rows) == BATCH
                users.refresh_reviews(tx, [user for row in rows if (user := _readable(row))], self._thresholds)
                if not rows_left:
                    # Only now: a start that was cut short begins again.
                    self._database.set_meta(tx, "thresholds", wanted)
            if rows:
                last_id = rows[-1]["id"]
            yield len(rows)

    def _step(self, now: datetime, user: User) -> User | None:
        return None if is_forgotten(user, now) else assessed(user, now, self._thresholds)

    def _run(self) -> None:
        refreshing: Iterator[int] | None = self._refreshed_chunks()
        while not self._stopping.is_set():
            if not self._mine():
                self._stopping.wait(POLL)
                continue
            try:
                # In turns with the passes: a million users take a minute, and nobody is to expire late for it.
                if refreshing is not None and next(refreshing, None) is None:
                    refreshing = None
                now = self._clock.now()
                self.pass_once(now)
                pause = 0.0 if refreshing is not None else self._pause()
            except Exception as error:
                log_failure(log, "the review failed, and tries again", error)
                pause, refreshing = RETRY, self._again(refreshing)
            self._stopping.wait(pause)

    def _again(self, refreshing: Iterator[int] | None) -> Iterator[int] | None:
        # A generator that has raised is at its end.
        return None if refreshing is None else self._refreshed_chunks()

    def _pause(self) -> float:
        """Seconds to sleep: until the next user is due, and POLL at most."""
        with self._database.read() as conn:
            due_at = users.next_due(conn)
        wait = POLL if due_at is None else (due_at - self._clock.now()).total_seconds()
        return min(POLL, max(0.0, wait))


def _readable(row: Row) -> User | None:
    try:
        return users.read(row)
    except Exception:
        # It was skipped before, and is again when it is due.
        return None
