"""Marzneshin: one object a request, `{created_at, user, action, by}` (read from the panel, 0.7).

It sends an event once, whatever is answered, so nothing has to be recognised. `created_at` is that of the panel's start.
"""

from __future__ import annotations

from typing import ClassVar, Final

from marzhook.errors import InvalidError
from marzhook.event import JSON, USER_DISABLED, USER_ENABLED, USER_EXPIRED, USER_LIMITED
from marzhook.sources.panels.base import Panel, Reading, detail_of, field_of, unix_of

ACTIVATED: Final = "user_activated"
DEACTIVATED: Final = "user_deactivated"
"""The user's own doing, or time's; `user_enabled` and `user_disabled` are an admin's. The other actions are Marzban's."""
_OWN: Final = frozenset({"created_at", "key"})


class Marzneshin(Panel):
    name: ClassVar[str] = "marzneshin"
    credentials: ClassVar[frozenset[str]] = frozenset({"key"})

    def read(self, item: dict[str, JSON]) -> Reading:
        user = field_of(item, "user")
        if not isinstance(user, dict):
            raise InvalidError("user is not an object", code="invalid_user")
        sent = field_of(item, "action")
        detail = detail_of(item, without=_OWN)
        detail["user"] = _user(user)
        if "created_at" in item:
            detail["source_enqueued_at"] = item["created_at"]
        action: JSON = sent
        if sent == ACTIVATED:
            action = USER_ENABLED
        elif sent == DEACTIVATED:
            action = _why_inactive(user)
        if action != sent:
            detail["source_action"] = sent
        return Reading(action, field_of(user, "username"), detail)


def _why_inactive(user: dict[str, JSON]) -> str:
    if user.get("enabled") is not False:
        if user.get("expired") is True:
            return USER_EXPIRED
        if user.get("data_limit_reached") is True:
            return USER_LIMITED
    return USER_DISABLED


def _user(user: dict[str, JSON]) -> dict[str, JSON]:
    """With Marzban's fields before its own: where there is no field for them (`status`), they follow from others."""
    own = {name: value for name, value in user.items() if name not in ("expire_date", "key")}
    mapped: dict[str, JSON] = {"status": _status(user), "expire": unix_of(user.get("expire_date"))}
    if "usage_duration" in user:
        mapped["on_hold_expire_duration"] = user["usage_duration"]
    if "owner_username" in user:
        # Every user of the panel's has the field: null means nobody's, and not that nothing is said of it.
        owner = user["owner_username"]
        mapped["admin"] = {"username": owner} if isinstance(owner, str) else None
    if "key" in user:
        # All its proxies' ids and passwords follow from it.
        mapped["proxies"] = {"marzneshin": {"key": user["key"]}}
    return mapped | own


def _status(user: dict[str, JSON]) -> str:
    if user.get("enabled") is False:
        return "disabled"
    if user.get("expired") is True:
        return "expired"
    if user.get("data_limit_reached") is True:
        return "limited"
    return "on_hold" if user.get("expire_strategy") == "start_on_first_use" else "active"
