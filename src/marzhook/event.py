"""Events: what happened to a user, an immutable fact.

On the wire an event is the four keys that the panel's page documents, and behind them its *detail*, in the order in
which it was given: `by` (the admin), `user` (a snapshot), and whatever else the action or the publisher brings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple
from zlib import crc32

from marzhook.clock import from_unix
from marzhook.errors import InvalidError

JSON = Any
"""What `json` reads: None, bool, int, float, str, list or dict of these."""

USER_CREATED: Final = "user_created"
USER_UPDATED: Final = "user_updated"
USER_DELETED: Final = "user_deleted"
USER_LIMITED: Final = "user_limited"
USER_EXPIRED: Final = "user_expired"
USER_DISABLED: Final = "user_disabled"
USER_ENABLED: Final = "user_enabled"
DATA_USAGE_RESET: Final = "data_usage_reset"
DATA_RESET_BY_NEXT: Final = "data_reset_by_next"
SUBSCRIPTION_REVOKED: Final = "subscription_revoked"
REACHED_USAGE_PERCENT: Final = "reached_usage_percent"
REACHED_DAYS_LEFT: Final = "reached_days_left"

DOCUMENTED_ACTIONS: Final = (
    USER_CREATED, USER_UPDATED, USER_DELETED, USER_LIMITED, USER_EXPIRED, USER_DISABLED, USER_ENABLED,
)  # fmt: skip
PANEL_ACTIONS: Final = (
    *DOCUMENTED_ACTIONS,
    DATA_USAGE_RESET, DATA_RESET_BY_NEXT, SUBSCRIPTION_REVOKED, REACHED_USAGE_PERCENT, REACHED_DAYS_LEFT,
)  # fmt: skip
TEST_ACTION: Final = "marzhook_test"

WIRE_KEYS: Final = frozenset({"username", "action", "enqueued_at", "tries", "send_at", "id"})
"""Keys that Marzhook itself writes; a published event cannot bring its own."""

SHARDS: Final = 64
MAX_USERNAME = 128
MAX_DETAIL = 256 * 1024
"""Bytes of JSON that may follow an event's four keys."""

_ACTION = re.compile(r"[a-z][a-z0-9_.]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that is about to be published: it has no id and no time yet."""

    action: str
    username: str
    detail: Mapping[str, JSON] = field(default_factory=dict, repr=False)
    owner: str | None = None
    """The admin whose user it is, where the detail does not say so: filters ask for him, the wire does not have him."""


class Event(NamedTuple):
    """A published event. `enqueued_at` is when the change was committed; `id` grows with it."""

    # A named tuple, like all values of which a delivery makes one or more: it is made in a fifth of a frozen dataclass' time.

    id: int
    action: str
    username: str
    enqueued_at: float
    """Unix seconds, exact to the microsecond: it goes to the wire as it stands here."""
    detail_json: str = ""
    """The detail without credentials as JSON text, as the wire has it; empty: nothing follows the four keys. Text, because
    most events pass through without anybody looking inside."""
    full_json: str = ""
    """The same with credentials, where there are any and an endpoint was to get them; empty: no other than `detail_json`."""
    traceparent: str = ""
    """To which trace it belongs, as `trace_context.kept` has it; empty: to none."""

    def __repr__(self) -> str:
        # Without the detail, which can hold credentials.
        return (
            f"Event(id={self.id}, action={self.action!r}, username={self.username!r}, enqueued_at={self.enqueued_at})"
        )

    @property
    def detail(self) -> dict[str, JSON]:
        return json.loads(self.detail_json) if self.detail_json else {}

    def detail_at(self, level: str) -> str:
        """What of the detail a reader gets (WEBHOOK_DETAIL), as JSON text of an object; empty: nothing."""
        if level == "none":
            return ""
        return (self.full_json or self.detail_json) if level == "full" else self.detail_json

    @property
    def time(self) -> datetime:
        return from_unix(self.enqueued_at)


def shard_of(username: str) -> int:
    """Which of the SHARDS all events of this user are in: who owns that shard sends them."""
    return crc32(username.encode()) % SHARDS


CREDENTIALS: Final = frozenset({"proxies", "links", "subscription_url"})
"""What of a user gives access."""
_ADMIN_SHOWN: Final = ("username", "is_sudo")


def safe(detail: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """The detail without credentials: of `by` and a user's `admin` name and rank, of `user` all but CREDENTIALS."""
    if not detail.keys() & {"by", "user"}:
        return detail
    return {key: _safe(key, value) for key, value in detail.items()}


def _safe(key: str, value: JSON) -> JSON:
    if not isinstance(value, dict):
        return value
    if key == "by":
        return {name: value[name] for name in _ADMIN_SHOWN if name in value}
    if key == "user":
        shown = {name: part for name, part in value.items() if name not in CREDENTIALS}
        if "admin" in shown:
            shown["admin"] = _safe("by", shown["admin"])
        return shown
    return value


def details_json(detail: Mapping[str, JSON], *, full: bool) -> tuple[str, str]:
    """`Event.detail_json` and `Event.full_json` (`full`: whether anybody is to get that). Raises InvalidError."""
    shown = safe(detail)
    text = detail_json(shown)
    if not full or shown is detail:
        return text, ""
    whole = detail_json(detail)
    return text, "" if whole == text else whole


def detail_json(detail: Mapping[str, JSON]) -> str:
    """The detail as JSON text with the panel's separators. Raises InvalidError when it is too large or not JSON."""
    if not detail:
        return ""
    try:
        text = json.dumps(detail, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidError(f"the event's fields cannot be written as JSON: {error}", code="invalid_detail") from None
    if len(text) > MAX_DETAIL:
        raise InvalidError(
            f"the event's fields take {len(text)} bytes; at most {MAX_DETAIL} are carried", code="event_too_large"
        )
    return text


def check_action(action: object) -> str:
    """Return the action, or raise InvalidError with what is expected."""
    if not isinstance(action, str) or not _ACTION.fullmatch(action):
        raise InvalidError(
            f"action {_shown(action)} is not a name like user_updated (a-z, 0-9, _ and ., at most 64 characters)",
            code="invalid_action",
        )
    return action


def check_username(username: object) -> str:
    """Return the name under which an event travels; control characters and lone surrogates are refused."""
    if not isinstance(username, str) or not 1 <= len(username) <= MAX_USERNAME:
        raise InvalidError(
            f"username {_shown(username)} must have 1 to {MAX_USERNAME} characters", code="invalid_username"
        )
    # Most names are printable, and that is known in one call.
    if not username.isprintable() and any(
        ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) <= 0xDFFF for c in username
    ):
        raise InvalidError(f"username {_shown(username)} contains control characters", code="invalid_username")
    return username


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
