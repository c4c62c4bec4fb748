"""Events as they are received: typed, checked, with the id by which they are recognised when they come again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from marzhook.receiver.refusal import EventRefused

# What has no other use than to be read is not imported: `typing` alone is an eighth of it, `dataclasses` and `logging` would
# double it. Type checkers take the name for typing's own.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any, Final, Literal

    Format = Literal["event", "list", "standard"]
    """One object; a list of them, as the panel sends since 0.4; Standard Webhooks' `{type, timestamp, data}`."""

MAX_NAME = 255
YEAR_10000 = 253402300800
_SHOWN: Final = ("action", "username", "enqueued_at", "tries", "id", "message_id", "format")
_OWN_FIELDS: Final = frozenset({"username", "action", "enqueued_at", "tries", "send_at", "id", "by", "user"})


class Fields:
    """Two are equal where all that they have is: people's tests compare what they expect with what came."""

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)


class ReceivedEvent(Fields):
    """One event. The same one has the same `id` at every try, also in another list; `tries` is how often it failed before."""

    __slots__ = (*_SHOWN, "by", "connection", "extra", "user")

    def __init__(
        self, action: str, username: str, enqueued_at: float | None = None, tries: int = 0,
        by: Mapping[str, Any] | None = None, user: Mapping[str, Any] | None = None, extra: Mapping[str, Any] | None = None,
        id: str | None = None, message_id: str | None = None, format: Format = "event", connection: Any = None,
    ) -> None:  # fmt: skip
        self.action = action
        self.username = username
        self.enqueued_at = enqueued_at
        """When it happened, Unix seconds; the panel itself sends the time of its own start. None: it was not said."""
        self.tries = tries
        self.by = by
        """The admin who did it, at least `username` and `is_sudo`; None: nobody, or it was not said."""
        self.user = user
        """The user as the panel's API shows him, after the change; None: it was not said."""
        self.extra = extra or {}
        """What else came: `reason`, `used_percent`, `days_left`, the publisher's own fields."""
        self.id = id
        """None: the sender gives none (the panel itself), so it cannot be recognised."""
        self.message_id = message_id
        """The request's `webhook-id`."""
        self.format: Format = format
        self.connection = connection
        """The database connection whose transaction holds this event's mark (`marzhook.receiver.database`): what a handler
        writes there is committed together with it, by the receiver. None: there is no such database."""

    @property
    def time(self) -> datetime | None:
        """`enqueued_at` as an aware UTC datetime."""
        from datetime import UTC, datetime

        return None if self.enqueued_at is None else datetime.fromtimestamp(self.enqueued_at, UTC)

    def __repr__(self) -> str:
        """Without what is long or holds a user's credentials."""
        return f"ReceivedEvent({', '.join(f'{name}={getattr(self, name)!r}' for name in _SHOWN)})"


def event_of(item: object, *, format: Format, id: str | None, message_id: str | None, connection: Any) -> ReceivedEvent:
    """One item of a body as an event. Raises EventRefused with what is wrong."""
    if not isinstance(item, dict):
        raise EventRefused("an event is a JSON object")
    user, by = item.get("user"), item.get("by")
    username = item.get("username")
    if username is None and isinstance(user, dict):
        username = user.get("username")
    return ReceivedEvent(
        action=_name("action", item.get("action")),
        username=_name("username", username),
        enqueued_at=_time(item.get("enqueued_at")),
        tries=_tries(item.get("tries", 0)),
        by=by if isinstance(by, dict) else None,
        user=user if isinstance(user, dict) else None,
        extra={name: value for name, value in item.items() if name not in _OWN_FIELDS},
        id=id,
        message_id=message_id,
        format=format,
        connection=connection,
    )


def content_id(item: object) -> str:
    """The id of an event that brings none of its own: all of it but what changes from try to try."""
    if isinstance(item, dict):
        item = {name: value for name, value in item.items() if name not in ("tries", "send_at")}
    return "content_" + hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()[:40]


def _name(what: str, value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME:
        raise EventRefused(f"{what} must be a text of 1 to {MAX_NAME} characters")
    if not value.isprintable() and any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) <= 0xDFFF for c in value):
        raise EventRefused(f"{what} contains control characters or halves of characters")
    return value


def _time(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < YEAR_10000:
        raise EventRefused("enqueued_at must be Unix seconds")
    return float(value)


def _tries(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise EventRefused("tries must be a whole number from 0 up")
    return value
