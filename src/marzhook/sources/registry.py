"""The built-in user registry: what the panel's users API does, each change in one transaction with its events."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final

from marzhook import user as transitions
from marzhook.admin import Admin
from marzhook.clock import Clock
from marzhook.errors import ForbiddenError, InvalidError, NotFoundError
from marzhook.event import JSON
from marzhook.sources import user_fields
from marzhook.sources.user_changes import UserChanges
from marzhook.store import admins, traffic, user_lists, users
from marzhook.store.database import Database, Transaction
from marzhook.store.driver import Row
from marzhook.store.group_commit import GroupCommit
from marzhook.store.outbox import Outbox
from marzhook.store.user_lists import UserQuery
from marzhook.telemetry import Metrics
from marzhook.user import Thresholds, User, assessed, charged

CHUNK: Final = 1000
"""Users a transaction in bulk work, so that nobody waits long for the writer's turn."""
MAX_AMOUNT: Final = 2**60
"""Bytes that one report may charge a user with."""


class Registry:
    """Create, change, charge and delete users.

    `by` is the admin who asks, None for the operator of this machine. Everywhere: NotFoundError for a user who does not
    exist, ForbiddenError for one who belongs to somebody else (unless `by` is sudo), StoreBusyError as the store says.
    """

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        *,
        published_actions: Collection[str],
        thresholds: Thresholds,
        metrics: Metrics | None = None,
    ) -> None:
        self._database = database
        self._together = GroupCommit(database)
        self._clock = clock
        self._thresholds = thresholds
        self._changes = UserChanges(outbox, published_actions=published_actions, thresholds=thresholds, metrics=metrics)

    # -- one user

    def create(self, fields: Mapping[str, JSON], by: Admin | None) -> User:
        """A new user, owned by `by`, from fields as the API takes them. Raises InvalidUserError, ConflictError."""
        values = user_fields.for_creation(fields)

        def work(tx: Transaction) -> User:
            now = self._clock.now()
            user = assessed(transitions.created(values, now, by), now, self._thresholds)
            self._changes.record(tx, [(None, user)], now=now, by=by)
            return user

        return self._together.write(work)

    def get(self, username: str, by: Admin | None) -> User:
        with self._database.read() as conn:
            return _owned(users.get(conn, username), by)

    def modify(self, username: str, fields: Mapping[str, JSON], by: Admin | None) -> User:
        """Change the fields that are given and not null; 0 means unlimited. Raises InvalidUserError."""
        values = user_fields.for_change(fields)
        return self._change(username, by, lambda user, now: transitions.modified(user, values, now))

    def reset(self, username: str, by: Admin | None) -> User:
        """Nothing used any more; who was limited by it is active again."""
        return self._change(username, by, transitions.reset)

    def revoke_sub(self, username: str, by: Admin | None) -> User:
        """New credentials and a new subscription address."""
        return self._change(username, by, transitions.revoked)

    def set_owner(self, username: str, admin_username: str, by: Admin | None) -> User:
        """Raises NotFoundError also for an unknown admin, ForbiddenError for who is not sudo."""
        _sudo_only(by)

        def work(tx: Transaction) -> User:
            admin = admins.get(tx.conn, admin_username)
            return self._change_in(tx, username, by, lambda user, now: transitions.owned(user, admin, now))

        return self._together.write(work)

    def delete(self, username: str, by: Admin | None) -> None:
        def work(tx: Transaction) -> None:
            users.hold(tx, username)
            user = _owned(users.identify(tx.conn, username), by)
            self._changes.record(tx, [(user, None)], now=self._clock.now(), by=by)

        self._together.write(work)

    # -- many users

    def list(self, query: UserQuery, by: Admin | None) -> tuple[Sequence[User], int]:
        """The users asked for, of those whom `by` may see, and how many there are without offset and limit.

        Raises InvalidError for an unknown sort.
        """
        if not _sees_all(by):
            query = replace(query, admins=[by.username] if by else [])
        with self._database.read() as conn:
            return user_lists.find(conn, query)

    def usage(self, username: str, start: datetime, end: datetime, by: Admin | None) -> tuple[User, int]:
        """The user, and the bytes that he used in the hours of [start, end]."""
        with self._database.read() as conn:
            user = _owned(users.get(conn, username), by)
            return user, traffic.between(conn, user.id, start, end)

    def expired(self, after: datetime | None, before: datetime | None, by: Admin | None) -> Sequence[str]:
        """Names of users whose time ended in [after, before] (None: ever; until now)."""
        with self._database.read() as conn:
            return [row["username"] for row in users.ended(conn, **self._span(after, before, by))]

    def delete_expired(self, after: datetime | None, before: datetime | None, by: Admin | None) -> Sequence[str]:
        """Delete them; return their names."""
        span = self._span(after, before, by)

        def work(tx: Transaction) -> list[str]:
            gone = [users.read_identity(row) for row in users.ended_held(tx, CHUNK, **span)]
            self._changes.record(tx, [(user, None) for user in gone], now=self._clock.now(), by=by)
            return [user.username for user in gone]

        names: list[str] = []
        while True:
            gone = self._database.transact(work)
            names += gone
            if len(gone) < CHUNK:
                return names

    def reset_all(self, by: Admin | None) -> int:
        """Reset the traffic of all users; return of how many. ForbiddenError for who is not sudo."""
        _sudo_only(by)
        return self._in_chunks(users.after, transitions.reset, by)

    def disable_all(self, admin_username: str, by: Admin | None) -> int:
        """Disable the active users, and those on hold, of an admin; return how many. Raises as `set_owner`."""
        return self._of_admin(admin_username, (transitions.ACTIVE, transitions.ON_HOLD), transitions.disabled, by)

    def activate_all(self, admin_username: str, by: Admin | None) -> int:
        """Activate the disabled users of an admin; return how many. Raises as `set_owner`."""
        return self._of_admin(admin_username, (transitions.DISABLED,), transitions.activated, by)

    # -- traffic

    def charge(self, rows: Sequence[tuple[str, int]], *, tx: Transaction | None = None) -> Sequence[str]:
        """Add (username, bytes) to users' traffic, with the events that follow; return the names that nobody has.

        All in one transaction, `tx` where it is given. Names may come more than once. Raises InvalidError for an
        amount below 0, or above MAX_AMOUNT a user.
        """
        amounts: dict[str, int] = {}
        spelt: dict[str, str] = {}
        for name, amount in rows:
            key = name.lower()
            amounts[key] = total = amounts.get(key, 0) + amount
            spelt.setdefault(key, name)
            if amount < 0 or total > MAX_AMOUNT:
                raise InvalidError(
                    f"cannot charge {name} with {amount} bytes (in all {total}); expected 0 to {MAX_AMOUNT}",
                    code="invalid_bytes",
                )
        if tx is not None:
            found = self._charge(tx, amounts)
        else:
            found = self._database.transact(lambda own: self._charge(own, amounts))
        return [name for key, name in spelt.items() if key not in found] if len(found) < len(spelt) else []

    def _charge(self, tx: Transaction, amounts: Mapping[str, int]) -> Collection[str]:
        """Returns the names that there are."""
        now = self._clock.now()
        found: set[str] = set()
        charges: list[tuple[int, int]] = []
        owners: dict[int, int] = {}
        crossing: dict[int, int] = {}
        for name, id_, admin_id, used, review_traffic in traffic.named(tx, [*amounts]):
            found.add(name)
            amount = amounts[name]
            if not amount:
                continue
            charges.append((id_, amount))
            if admin_id is not None:
                owners[admin_id] = owners.get(admin_id, 0) + amount
            if review_traffic is not None and used + amount >= review_traffic:
                crossing[id_] = amount
        traffic.charge_admins(tx, owners)
        # Read before the counters move: what comes of it is decided by the step from before to after.
        rows = users.by_ids(tx.conn, [*crossing]) if crossing else []
        traffic.charge(tx, charges, now)
        if rows:
            self._changes.record_each(
                tx,
                rows,
                lambda user: assessed(charged(user, crossing[user.id], now), now, self._thresholds),
                now=now,
                by=None,
            )
        return found

    # -- parts of the above

    def _change(self, username: str, by: Admin | None, step: Callable[[User, datetime], User]) -> User:
        return self._together.write(lambda tx: self._change_in(tx, username, by, step))

    def _change_in(
        self, tx: Transaction, username: str, by: Admin | None, step: Callable[[User, datetime], User]
    ) -> User:
        users.hold(tx, username)
        before = _owned(users.get(tx.conn, username), by)
        now = self._clock.now()
        after = assessed(step(before, now), now, self._thresholds)
        self._changes.record(tx, [(before, after)], now=now, by=by)
        return after

    def _of_admin(
        self,
        admin_username: str,
        statuses: Sequence[str],
        step: Callable[[User, datetime], User],
        by: Admin | None,
    ) -> int:
        _sudo_only(by)
        admin = self._database.look(lambda conn: admins.get(conn, admin_username))
        return self._in_chunks(partial(users.after, statuses=statuses, admin_id=admin.id), step, by)

    def _in_chunks(
        self,
        rows_after: Callable[[Transaction, int, int], Sequence[Row]],
        step: Callable[[User, datetime], User],
        by: Admin | None,
    ) -> int:
        def work(last_id: int, tx: Transaction) -> tuple[Sequence[Row], int]:
            rows = rows_after(tx, last_id, CHUNK)
            now = self._clock.now()
            return rows, self._changes.record_each(tx, rows, partial(self._step, step, now), now=now, by=by)

        done = last_id = 0
        while True:
            # Each chunk anew where the database took it back: those before it are done, and stay so.
            rows, changed = self._database.transact(partial(work, last_id))
            done += changed
            if len(rows) < CHUNK:
                return done
            last_id = rows[-1]["id"]

    def _step(self, step: Callable[[User, datetime], User], now: datetime, user: User) -> User:
        return assessed(step(user, now), now, self._thresholds)

    def _span(self, after: datetime | None, before: datetime | None, by: Admin | None) -> dict[str, Any]:
        return {
            "since": after.timestamp() if after else None,
            "until": (before or self._clock.now()).timestamp(),
            "admin_id": None if _sees_all(by) or by is None else by.id,
        }


def _sees_all(by: Admin | None) -> bool:
    return by is None or by.is_sudo


def _owned(user: User | None, by: Admin | None) -> User:
    if user is None:
        raise NotFoundError("User not found", code="user_not_found")
    if by is not None and not by.is_sudo and (user.admin is None or user.admin.id != by.id):
        raise ForbiddenError("You're not allowed")
    return user


def _sudo_only(by: Admin | None) -> None:
    if not _sees_all(by):
        raise ForbiddenError("You're not allowed")
