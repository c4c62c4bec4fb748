"""A panel's users become the registry's: what differs is found, shown and taken over, and no event tells of it.

Who receives events has been told of these users by the panel. What happens to them from now on is the registry's to tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from marzhook.admin import Admin
from marzhook.clock import Clock, from_unix
from marzhook.errors import InvalidUserError
from marzhook.event import JSON
from marzhook.sources import user_fields
from marzhook.store import admins, user_lists, users
from marzhook.store.database import Database, Transaction
from marzhook.store.user_lists import UserQuery
from marzhook.user import EXPIRED, STATUSES, Thresholds, User

NEW: Final = "new"
DIFFERENT: Final = "different"
SAME: Final = "same"
INVALID: Final = "invalid"

_TIMES: Final = ("created_at", "sub_updated_at", "online_at", "traffic_reset_at", "status_changed_at")
_TRAFFIC: Final = frozenset({"used_traffic", "lifetime_used_traffic"})
_TEXTS: Final = ("sub_last_user_agent", "subscription_url")
_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Found:
    """What becomes of one of the panel's users."""

    username: str
    outcome: str
    """NEW, DIFFERENT, SAME or INVALID."""
    differences: Mapping[str, tuple[Any, Any]] = field(default_factory=dict, repr=False)
    """Field -> (here, in the panel); some are credentials."""
    reason: str = ""
    """Of an invalid one."""
    unknown_admin: str | None = None
    """His owner there, of whom there is none here: he has no owner, or keeps the one that he has."""


class UserImport:
    """Compares and takes over users, as the panel's API shows them. Where a field is missing, what is here stays."""

    def __init__(self, database: Database, clock: Clock, thresholds: Thresholds) -> None:
        self._database = database
        self._clock = clock
        self._thresholds = thresholds

    def compare(self, shown: Iterable[Mapping[str, JSON]]) -> list[Found]:
        """What `take` would do; changes nothing."""
        with self._database.read() as conn:
            return [found for found, _, _ in self._each(conn, shown)]

    def take(self, shown: Iterable[Mapping[str, JSON]], *, update: bool) -> list[Found]:
        """Store new users and, with `update`, make those that differ what they are in the panel; all in one transaction.

        The same again changes nothing. Raises StoreBusyError.
        """
        shown = list(shown)

        def work(tx: Transaction) -> list[Found]:
            results = []
            changed = []
            for found, before, after in self._each(tx.conn, shown):
                results.append(found)
                if found.outcome == NEW and after is not None:
                    users.insert(tx, after, self._thresholds)
                elif found.outcome == DIFFERENT and update and before is not None and after is not None:
                    changed.append((before, after))
            users.update(tx, changed, self._thresholds)
            return results

        return self._database.transact(work)

    def _each(self, conn: Any, shown: Iterable[Mapping[str, JSON]]) -> Iterator[tuple[Found, User | None, User | None]]:
        """Each user once, also where pages overlap or names differ by case."""
        now = self._clock.now()
        owners = {admin.username: admin for admin in admins.find(conn)}
        by_name = {str(fields.get("username")).lower(): fields for fields in shown}
        known, _ = user_lists.find(conn, UserQuery(usernames=[*by_name]))
        here = {user.username.lower(): user for user in known}
        for key, fields in by_name.items():
            name = str(fields.get("username"))
            try:
                values = _values(fields)
            except InvalidUserError as error:
                yield Found(name[:128], INVALID, reason=str(error)), None, None
                continue
            owner, unknown = _owner(fields, owners)
            before = here.get(key)
            if before is None:
                after = self._new(values, owner, now)
                yield Found(after.username, NEW, unknown_admin=unknown), None, after
                continue
            values.pop("username")
            if "admin" in fields and unknown is None:
                values["admin"] = owner
            differences = {
                name: (getattr(before, name), value)
                for name, value in values.items()
                if not _alike(before, name, value)
            }
            after = replace(before, **values) if differences else before
            if "status" in differences and "status_changed_at" not in values:
                after = replace(after, status_changed_at=now)
            if "expire" in differences:
                after = self._announced(after, now)
            outcome = DIFFERENT if differences else SAME
            yield Found(before.username, outcome, differences, unknown_admin=unknown), before, after

    def _new(self, values: Mapping[str, Any], owner: Admin | None, now: datetime) -> User:
        user = User(**{"created_at": now, **values}, admin=owner)
        # The panel's API does not say when it reset the traffic last, only that it did. Counting from the user's creation
        # would give everybody a reset now.
        if "traffic_reset_at" not in values and user.lifetime_used_traffic > user.used_traffic:
            user = replace(user, traffic_reset_at=now)
        # From then on count the days until he is deleted.
        if user.status == EXPIRED and user.status_changed_at is None and user.expire is not None:
            user = replace(user, status_changed_at=from_unix(user.expire))
        return self._announced(user, now)

    def _announced(self, user: User, now: datetime) -> User:
        """What the panel has announced is not announced again."""
        left = None if user.expire is None else user.expire - now.timestamp()
        passed = [days for days in self._thresholds.days_left if left is not None and left <= days * _DAY]
        return replace(user, announced_days_left=min(passed, default=None))


def _values(fields: Mapping[str, JSON]) -> dict[str, Any]:
    """Attributes of a User, of the fields that are there. Raises InvalidUserError, naming what is wrong."""
    name = user_fields.for_creation({"username": fields.get("username")})["username"]
    values = user_fields.for_change({key: value for key, value in fields.items() if key != "status"})
    # There null and omitted mean unchanged; here a null is what the panel has.
    for key in user_fields.NULLABLE:
        if key in fields:
            values.setdefault(key, None)
    errors: dict[str, str] = {}
    status = fields.get("status", "active")
    if status not in STATUSES:
        errors["status"] = f"must be one of {', '.join(STATUSES)}"
    values |= {"username": name, "status": status}
    for key in _TIMES:
        if key in fields:
            try:
                values[key] = user_fields.read_time(fields[key] or 0)
            except ValueError as error:
                errors[key] = str(error)
    for key in _TRAFFIC & fields.keys():
        amount = fields[key] or 0
        if type(amount) is not int or not 0 <= amount <= user_fields.MAX_BYTES:
            errors[key] = "must be a whole number of bytes"
        values[key] = amount
    for key in _TEXTS:
        text = fields.get(key)
        if isinstance(text, str):
            values[key] = text
        elif text is not None:
            errors[key] = "must be text"
    if errors:
        raise InvalidUserError(errors)
    if values.get("created_at", 0) is None:
        del values["created_at"]
    if values.keys() >= _TRAFFIC:
        values["lifetime_used_traffic"] = max(values["lifetime_used_traffic"], values["used_traffic"])
    return values


def _owner(fields: Mapping[str, JSON], owners: Mapping[str, Admin]) -> tuple[Admin | None, str | None]:
    """His admin here; and that admin's name, where there is none of that name here."""
    shown = fields.get("admin")
    name = shown.get("username") if isinstance(shown, dict) else None
    if not isinstance(name, str):
        return None, None
    return (owners[name], None) if name in owners else (None, name)


def _alike(before: User, name: str, value: Any) -> bool:
    mine = getattr(before, name)
    if name == "admin":
        mine, value = mine and mine.id, value and value.id
    return bool(mine == value)
