"""A database that follows: a table `users` with each user's state, and a table `events` with what happened, also to others.

The endpoint's URL is SQLAlchemy's. What goes there is one transaction for all events of a request, each event once (its id is
the key), and a user's row never goes back to an older state: `transport.tables` writes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from marzhook.delivery import Delivery, Outcome
from marzhook.destinations.base import Destination, done
from marzhook.endpoint import CUT_PASSWORD, NO_DATABASE, NO_PREFIX, cut_password, unusable, wrong_option
from marzhook.event import JSON, PANEL_ACTIONS, USER_DELETED
from marzhook.request import Job, Response, Rows

_STATUS_AFTER: Final = {
    "user_limited": "limited", "user_expired": "expired", "user_disabled": "disabled", "user_enabled": "active",
}  # fmt: skip
MAX_WHOLE: Final = (1 << 63) - 1


class Sql(Destination):
    """The tables of one database."""

    known_options = ("prefix",)
    max_items = 200
    max_bytes = 1 << 20
    # One after the other: it is one database, and its rows are locked meanwhile.
    concurrency = 1

    @classmethod
    def checked_url(cls, url: object) -> str:
        if not isinstance(url, str) or not re.fullmatch(r"[a-z0-9]+(\+[a-z0-9_]+)?://[\x21-\x7e]{1,2000}", url):
            raise unusable(NO_DATABASE)
        if cut_password(url):
            raise unusable(CUT_PASSWORD)
        return url

    @classmethod
    def _checked(cls, options: Mapping[str, JSON]) -> dict[str, JSON]:
        prefix = options.get("prefix") or ""
        if not isinstance(prefix, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,30}|", prefix):
            raise wrong_option("prefix", NO_PREFIX)
        return {"prefix": prefix} if prefix else {}

    def item(self, delivery: Delivery, now: datetime) -> str:
        event = delivery.event
        row = {
            "id": f"msg_{self._instance}_{event.id}", "number": event.id, "action": event.action,
            "username": event.username, "enqueued_at": event.enqueued_at,
            "detail": event.detail_at(self.endpoint.detail) or None, "user": state(event.action, event.detail),
        }  # fmt: skip
        return json.dumps(row)

    def request(self, items: Sequence[str], ids: Sequence[int], now: datetime, *, mode: str) -> Job:
        return self._job(Rows(self._url, str(self.endpoint.options.get("prefix", "")), tuple(items)))

    def judge(self, response: Response, now: datetime) -> Outcome:
        return done(response)


def state(action: str, detail: Mapping[str, JSON]) -> dict[str, Any] | None:
    """What the event says of the user's row: columns that it does not name stay as they were. None: it is about no user, or
    not about what he is."""
    user = detail.get("user")
    if action not in PANEL_ACTIONS and not isinstance(user, dict):
        return None
    found: dict[str, Any] = {"deleted": action == USER_DELETED}
    if action in _STATUS_AFTER:
        found["status"] = _STATUS_AFTER[action]
    if not isinstance(user, dict):
        return found
    if isinstance(user.get("status"), str):
        found["status"] = _storable(user["status"])[:32]
    for key in ("used_traffic", "data_limit", "expire"):
        if key in user:
            value = user[key]
            found[key] = value if type(value) is int and abs(value) <= MAX_WHOLE else None
    if "admin" in user:
        admin = user["admin"]
        name = admin.get("username") if isinstance(admin, dict) else None
        found["admin"] = _storable(name)[:128] if isinstance(name, str) else None
    if "note" in user:
        found["note"] = _storable(user["note"]) if isinstance(user["note"], str) else None
    return found


def _storable(text: str) -> str:
    """Without what some databases take from nobody: NUL, and halves of characters."""
    return text.replace("\0", "�").encode("utf-8", "replace").decode()
