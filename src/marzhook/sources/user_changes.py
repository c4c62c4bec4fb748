"""Writing what happened to users: their rows and their events, in the transaction of whoever caused it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from marzhook.admin import Admin
from marzhook.store import users
from marzhook.store.database import Transaction
from marzhook.store.driver import Row
from marzhook.store.outbox import Outbox
from marzhook.telemetry import Metrics, fields
from marzhook.user import Thresholds, User, changes

log = logging.getLogger(__name__)

Change = tuple[User | None, User | None]
"""A user before and after; None: does not exist."""

POSTPONED: Final = timedelta(hours=1)
"""How long a user whose row is broken is left alone."""


class UserChanges:
    """The one way in which users are written: no change without its events, no events without their change."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        published_actions: Collection[str],
        thresholds: Thresholds,
        metrics: Metrics | None = None,
    ) -> None:
        self.thresholds = thresholds
        self._outbox = outbox
        self._published = frozenset(published_actions)
        self._metrics = metrics

    def record(self, tx: Transaction, made: Sequence[Change], *, now: datetime, by: Admin | None) -> None:
        """Write these changes and publish what they mean, as far as it is to be published."""
        for before, after in made:
            if before is None and after is not None:
                users.insert(tx, after, self.thresholds)
        users.update(tx, [(before, after) for before, after in made if before and after], self.thresholds)
        users.delete(tx, [before.id for before, after in made if before and not after])
        events = [
            event
            for before, after in made
            for event in changes(before, after, by=by, now=now, thresholds=self.thresholds)
            if event.action in self._published
        ]
        self._outbox.publish(tx, events, now=now)

    def record_each(
        self,
        tx: Transaction,
        rows: Iterable[Row],
        step: Callable[[User], User | None],
        *,
        now: datetime,
        by: Admin | None,
    ) -> int:
        """Take the step with each of these users, and record it; return for how many that went well.

        A user for whom it does not, because his row is broken, stops nobody else: that is logged and counted, and the
        review leaves him alone for an hour.
        """
        made: list[tuple[User, User | None]] = []
        for row in rows:
            try:
                before = users.read(row)
                made.append((before, step(before)))
            except Exception:
                self._skip(tx, row["id"], row["username"], now)
        try:
            with tx.part() as part:
                self.record(part, made, now=now, by=by)
            return len(made)
        except sa.exc.OperationalError:
            raise  # the database's trouble (busy, disk full), not a user's
        except Exception:
            return sum(self._record_alone(tx, change, now, by) for change in made)

    def _record_alone(self, tx: Transaction, change: tuple[User, User | None], now: datetime, by: Admin | None) -> bool:
        try:
            with tx.part() as part:
                self.record(part, [change], now=now, by=by)
        except sa.exc.OperationalError:
            raise
        except Exception:
            self._skip(tx, change[0].id, change[0].username, now)
            return False
        return True

    def _skip(self, tx: Transaction, user_id: int, username: str, now: datetime) -> None:
        # On the way out of an exception; its text could show the row's credentials, so only its kind is logged.
        log.error(
            "a user's row is broken: skipped, and looked at again in an hour; mend it with PUT, or delete the user",
            extra=fields(user=username, user_id=user_id, reason=_reason()),
        )
        if self._metrics is not None:
            self._metrics.count_review_error()
        users.postpone(tx, user_id, now + POSTPONED)


def _reason() -> str:
    return type(sys.exception()).__name__
