"""Filters: which events an endpoint is owed. Decided once, when an event is published.

All that a filter names must hold: the action, the user's name, the admin, the condition.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any, Final

from marzhook.errors import ConditionError, InvalidError
from marzhook.event import JSON, MAX_USERNAME, NewEvent, check_action

MOST: Final = 100
"""Names or patterns in one filter."""
TOO_MANY, UNUSABLE = FILTER_PROBLEMS = (
    f"at most {MOST} of them are possible",
    f"each of them has 1 to {MAX_USERNAME} printable characters",
)
EXCLUDES: Final = "!"
"""What a pattern begins with that says who is not meant."""


class Offered:
    """An event that is about to be owed, as filters look at it. What they need of it is made once, and only if they do."""

    def __init__(self, event: NewEvent, enqueued_at: float, detail_json: str) -> None:
        """`detail_json`: without credentials. What a condition finds out is not to depend on what its endpoint may see."""
        self.event = event
        self._enqueued_at = enqueued_at
        self._detail_json = detail_json
        self._verdicts: dict[Filter, bool] = {}

    @cached_property
    def wire(self) -> dict[str, JSON]:
        """The object that goes to the wire in the `event` format."""
        return {
            "username": self.event.username,
            "action": self.event.action,
            "enqueued_at": self._enqueued_at,
            "tries": 0,
            **(json.loads(self._detail_json) if self._detail_json else {}),
        }

    @cached_property
    def name(self) -> str:
        # As the registry has it: names do not differ by case alone.
        return self.event.username.lower()

    @cached_property
    def admins(self) -> frozenset[str]:
        """Whose user it is, and who did it."""
        detail, found = self.event.detail, [self.event.owner]
        user = detail.get("user")
        for admin in (detail.get("by"), user.get("admin") if isinstance(user, dict) else None):
            if isinstance(admin, dict):
                found.append(admin.get("username"))
        return frozenset(name for name in found if isinstance(name, str))

    def meets(self, wanted: Filter) -> bool:
        """Whether the filter lets it pass; the same filter of a thousand endpoints is asked once. Raises ConditionError."""
        known = self._verdicts.get(wanted)
        if known is None:
            known = self._verdicts[wanted] = wanted.passes(self)
        return known


class Filter:
    """What an endpoint is owed, ready to be asked. None: any."""

    def __init__(
        self,
        actions: Collection[str] | None = None,
        admins: Collection[str] | None = None,
        usernames: Sequence[str] | None = None,
        condition: str | None = None,
    ) -> None:
        """The values are those that `check_…` let pass."""
        self.actions = None if actions is None else frozenset(actions)
        self._admins = None if admins is None else frozenset(admins)
        self._matches = None if usernames is None else _matcher(usernames)
        self._holds = None if condition is None else _condition(condition)
        self.by_action = self._admins is None and self._matches is None and self._holds is None
        """Whether nothing but the action matters."""

    def passes(self, one: Offered) -> bool:
        """Raises ConditionError where the condition cannot be evaluated for this event."""
        return self.refused_by(one) is None

    def refused_by(self, one: Offered) -> str | None:
        """The part that does not let it pass, the cheapest asked first. Raises ConditionError as `passes` does."""
        if self.actions is not None and one.event.action not in self.actions:
            return "actions"
        if self._matches is not None and not self._matches(one.name):
            return "usernames"
        if self._admins is not None and not one.admins & self._admins:
            return "admins"
        if self._holds is not None and not self._holds(one.wire):
            return "condition"
        return None


def _condition(expression: str) -> Callable[[JSON], bool]:
    # Most endpoints have none, and most commands never publish.
    from marzhook.condition import Condition

    try:
        return Condition(expression).holds
    except InvalidError as error:
        # It was looked at when it was written, by another version perhaps. Nobody's events are to fail for it.
        reason = str(error)

    def unreadable(_event: JSON) -> bool:
        raise ConditionError(reason)

    return unreadable


def _matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a name (in lower case) is one that is meant: by some pattern, where there are any but exclusions, and by no
    exclusion, whatever the order."""
    wanted = [_matching(pattern) for pattern in patterns if not pattern.startswith(EXCLUDES)]
    excluded = [_matching(pattern[1:]) for pattern in patterns if pattern.startswith(EXCLUDES)]

    def matches(name: str) -> bool:
        meant = not wanted or any(match(name) for match in wanted)
        return meant and not any(match(name) for match in excluded)

    return matches


def _matching(pattern: str) -> Callable[[str], Any]:
    return re.compile(fnmatch.translate(pattern.lower())).match


def check_actions(actions: object) -> frozenset[str]:
    """Return the actions, or raise InvalidError with what is expected."""
    return frozenset(check_action(action) for action in _checked_list("actions", actions, "invalid_action"))


def check_admins(admins: object) -> frozenset[str]:
    """Return the admins' names, or raise InvalidError with what is expected."""
    names = _checked_list("admins", admins, "invalid_admins")
    for name in names:
        _check_text("admins", name, "invalid_admins")
    return frozenset(names)


def check_usernames(patterns: object) -> tuple[str, ...]:
    """Return patterns of users' names, in their order, or raise InvalidError with what is expected."""
    found = _checked_list("usernames", patterns, "invalid_usernames")
    for pattern in found:
        _check_text(
            "usernames", pattern.removeprefix(EXCLUDES) if isinstance(pattern, str) else pattern, "invalid_usernames"
        )
    return tuple(dict.fromkeys(found))


def _checked_list(name: str, values: object, code: str) -> list[Any]:
    if not isinstance(values, list | tuple | set | frozenset) or not values:
        raise InvalidError(f"{name} is empty; null means all of them", code=code)
    if len(values) > MOST:
        raise InvalidError(f"{name} has {len(values)} entries; at most {MOST} are possible", code=code, reason=TOO_MANY)
    return list(values)


def _check_text(name: str, value: object, code: str) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_USERNAME or not value.isprintable():
        told = f"{name}: {ascii(value)[:60]} must have 1 to {MAX_USERNAME} printable characters"
        raise InvalidError(told, code=code, reason=UNUSABLE)
