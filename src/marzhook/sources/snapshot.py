"""The snapshot of a followed panel's users: compared with what polling sees and with what the panel's webhook tells, and
brought up to date in the same transaction as the events that come of it, so that both together tell each change once.

Of a change that the webhook told first, the snapshot shows no difference any more. What polling told first is noted in the
user's row (`Seen.told`): when the webhook then brings the same action, and what it is about is still as the snapshot has it,
it is the same event.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import sqlalchemy as sa

from marzhook import signals
from marzhook.clock import Clock
from marzhook.errors import InvalidError
from marzhook.event import JSON, USER_CREATED, USER_DELETED, NewEvent, detail_json
from marzhook.sources import seen
from marzhook.sources.panels.base import Incoming
from marzhook.sources.panels.credentials import without_credentials
from marzhook.sources.seen import State, state_of_text
from marzhook.store import endpoints, source_users, sources, telegram_ids
from marzhook.store.database import Database, Transaction
from marzhook.store.outbox import Outbox
from marzhook.store.source_users import Seen
from marzhook.telemetry import fields
from marzhook.user import Thresholds

log = logging.getLogger(__name__)

CHUNK = 1_000
"""Rows of a first snapshot in one transaction."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A user as a panel showed him."""

    state: State
    fields: Mapping[str, JSON] = field(repr=False)


def shown(page: Iterable[Mapping[str, JSON]]) -> dict[str, Shown]:
    """Those of a page who can be understood, by name; the others are logged and left out."""
    found = {}
    for one in page:
        try:
            username, state = seen.read(one)
        except (InvalidError, RecursionError) as error:
            log.warning("a panel shows a user who cannot be followed", extra=fields(reason=str(error)))
            continue
        found[username] = Shown(state, one)
    return found


class Snapshots:
    """Compares, tells, remembers."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        *,
        published_actions: Collection[str],
        thresholds: Thresholds,
        detail: str,
    ) -> None:
        """`published_actions`: those that polling tells. `detail`: WEBHOOK_DETAIL."""
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._published = frozenset(published_actions)
        self._thresholds = thresholds
        self._detail = detail

    def begin(self, source_id: int, users: Mapping[str, Shown]) -> None:
        """Write a first snapshot, of which nothing is told."""
        now = self._clock.now()
        rows = {
            username: Seen(kept.text())
            for username, one in users.items()
            if (kept := self._step(username, None, one.state, now, first=True)[0]) is not None
        }
        names = sorted(rows)
        for start in range(0, len(names), CHUNK):
            piece = {name: rows[name] for name in names[start : start + CHUNK]}
            self._database.transact(partial(source_users.put, source_id=source_id, rows=piece), repeatable=True)

    def look(self, source_id: int, users: Mapping[str, Shown | None], *, asked_at: datetime) -> int:
        """Tell what happened to these users since they were seen last, and remember them; return how many events that made.

        `users`: as the panel showed them when it was asked at `asked_at`; None: there is none of that name.
        """
        with self._database.read() as conn:
            rows, events = self._differences(conn, source_id, users, asked_at)
        if not rows and not events:
            return 0
        with self._database.write() as tx:
            # Again, and for good: the webhook may have told something meanwhile.
            source_users.hold(tx, source_id)
            if not sources.exists(tx.conn, source_id):
                return 0
            full = self._detail == "full" or endpoints.any_full(tx.conn)
            rows, events = self._differences(tx.conn, source_id, users, asked_at)
            source_users.put(tx, source_id, rows)
            now = self._clock.now()
            told = [self._with_user(one, users, full) for one in events]
            telegram_ids.learn(tx, [one.detail for one in told])
            self._outbox.publish(tx, told, now=now)
            signals.emit("poll.before_commit")
        signals.emit("poll.after_commit")
        return len(events)

    def missing(self, source_id: int, present: Collection[str]) -> list[str]:
        """Those of the snapshot who are not among the present."""
        with self._database.read() as conn:
            return [name for name in source_users.names(conn, source_id) if name not in present]

    def sift(self, tx: Transaction, source_id: int, incoming: Sequence[Incoming], *, now: datetime) -> list[bool]:
        """Of each event of the panel's webhook whether polling has not told it, in the transaction that takes it; the snapshot
        then has what it tells."""
        source_users.hold(tx, source_id)
        rows = source_users.find(tx.conn, source_id, [one.event.username for one in incoming])
        changed: dict[str, Seen] = {}
        verdicts = []
        for one in incoming:
            before = rows.get(one.event.username)
            after, is_new = _told(one, before, now.timestamp())
            verdicts.append(is_new)
            if after is not None and after != before:
                rows[one.event.username] = changed[one.event.username] = after
        source_users.put(tx, source_id, changed)
        return verdicts

    def _differences(
        self, conn: sa.Connection, source_id: int, users: Mapping[str, Shown | None], asked_at: datetime
    ) -> tuple[dict[str, Seen], list[NewEvent]]:
        now = self._clock.now()
        rows = source_users.find(conn, source_id, users)
        changed: dict[str, Seen] = {}
        events: list[NewEvent] = []
        for username, one in users.items():
            row = rows.get(username)
            if row is not None and row.touched_at >= asked_at.timestamp():
                continue  # what the panel showed may be older than what its webhook told
            before = None if row is None or row.state is None else state_of_text(row.state)
            after, made = self._step(username, before, None if one is None else one.state, now)
            made = [event for event in made if event.action in self._published]
            events += made
            if after != before or made:
                told = {} if row is None else {a: at for a, at in row.told.items() if row.was_told(a, now.timestamp())}
                told |= dict.fromkeys((event.action for event in made), now.timestamp())
                changed[username] = Seen(None if after is None else after.text(), told, row.touched_at if row else 0.0)
        return changed, events

    def _step(
        self, username: str, before: State | None, after: State | None, now: datetime, *, first: bool = False
    ) -> tuple[State | None, list[NewEvent]]:
        return seen.step(username, before, after, now=now, thresholds=self._thresholds, first=first)

    def _with_user(self, one: NewEvent, users: Mapping[str, Shown | None], full: bool) -> NewEvent:
        """The event with the user as the panel shows him; without him where that is more than an event can carry."""
        user = users[one.username]
        if "user" not in one.detail or user is None:
            return one
        whole = dict(user.fields)
        detail = {**one.detail, "user": whole if full else without_credentials(whole)}
        try:
            detail_json(detail)
        except InvalidError as error:
            log.warning("a user is left out of his event", extra=fields(user=one.username, reason=str(error)))
            del detail["user"]
        return NewEvent(one.action, one.username, detail)


def _told(one: Incoming, row: Seen | None, at: float) -> tuple[Seen | None, bool]:
    """What the user's row is after this event of the webhook, and whether that is news."""
    action = one.event.action
    known = row is not None and row.was_told(action, at)
    told = {} if row is None else {name: when for name, when in row.told.items() if name != action}
    before = None if row is None or row.state is None else state_of_text(row.state)
    if row is not None and known and (action == USER_DELETED or (action == USER_CREATED and before is None)):
        # Also when polling has since told that he was made anew, or deleted.
        return Seen(row.state, told, row.touched_at), False
    if action == USER_DELETED:
        return Seen(None, {}, at), True
    if row is not None and row.state is None and action != USER_CREATED and row.was_told(USER_DELETED, at):
        # Older than his deletion, which polling has told: whoever gets it now would take him for alive.
        return row, False
    try:
        after = None if one.user is None else seen.read(one.user)[1]
    except InvalidError:
        after = None
    if after is None:
        return row, True
    if action == USER_CREATED:
        if row is not None and before is not None and before.created == after.created:
            return Seen(row.state, told, row.touched_at), not known
        return Seen(after.text(), {}, at), True
    if row is None or before is None:
        # Polling has not seen him yet, and will tell of his creation.
        return row, True
    state = seen.applied(action, before, after, one.event.detail.get("days_left"))
    if state == before:
        return Seen(row.state, told, row.touched_at), not known
    return Seen(state.text(), told, at), True
