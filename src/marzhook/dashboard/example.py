"""An event that could happen, to preview a request with: one that the endpoint's filter lets pass, where it can be made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import chain, islice, product
from string import ascii_lowercase, digits
from typing import Final

from marzhook.admin import Admin
from marzhook.endpoint import Endpoint
from marzhook.errors import ConditionError
from marzhook.event import MAX_USERNAME, Event, NewEvent, detail_json
from marzhook.filter import EXCLUDES, Filter, Offered

_NAMES: Final = ("marzban_test_user", "user1", "alice", "42")
"""Where no pattern says more. Of several, since each may be one that is left out."""
_PART: Final = re.compile(r"\*+|\?|\[!?]?[^]]*]|.", re.DOTALL)
"""Of a pattern, as `fnmatch` reads it."""
_MOST: Final = 200
"""Names that are tried."""


def example(endpoint: Endpoint, who: Admin) -> tuple[Event, str | None]:
    """The event, and the part of the filter that does not let it pass all the same: an example cannot know what makes every
    condition true."""
    action = min(endpoint.actions or {"user_updated"}, key=lambda one: (one != "user_updated", one))
    by = {"username": who.username, "is_sudo": who.is_sudo}
    if endpoint.admins and who.username not in endpoint.admins:
        by = {"username": min(endpoint.admins), "is_sudo": False}
    detail = {"by": by, "user": {"status": "active"}}
    usernames = Filter(usernames=endpoint.usernames)

    def named(name: str) -> Event:
        return Event(1, action, name, 1680506457.636369, detail_json(detail))

    names = islice(chain(_NAMES, _named(endpoint.usernames or ())), _MOST)
    found = next((name for name in names if usernames.passes(_offered(named(name)))), _NAMES[0])
    event = named(found)
    try:
        return event, endpoint.filter.refused_by(_offered(event))
    except ConditionError:
        # It is delivered all the same.
        return event, None


def _offered(event: Event) -> Offered:
    return Offered(NewEvent(event.action, event.username, event.detail), event.enqueued_at, event.detail_json)


def _named(patterns: tuple[str, ...]) -> Iterator[str]:
    """Names like these patterns, which need not be let pass."""
    wanted = [_PART.findall(pattern) for pattern in patterns if not pattern.startswith(EXCLUDES)]
    for some, one, parts in product(("test_user", "user", "1", ""), ("1", "a"), wanted):
        name = "".join(_like(part, some, one) for part in parts)
        if 1 <= len(name) <= MAX_USERNAME:
            yield name


def _like(part: str, some: str, one: str) -> str:
    if part.startswith("*"):
        return some
    if part == "?":
        return one
    if len(part) > 1:
        return next((c for c in ascii_lowercase + digits + "_-.@" if fnmatchcase(c, part.lower())), "")
    return part
