"""What is remembered of a user of a followed panel, and which events the step from one look to the next makes.

A panel shows how its users are, not what was done to them: neither when one was edited nor when his traffic was reset. That
follows from what differs, and `user.changes`, which the registry lives by, then says what it means.

    differs                                                     means
    note, proxies, excluded_inbounds, owner, limit, expiry, …   user_updated
    all ids and passwords of his proxies                        subscription_revoked
    lifetime_used_traffic - used_traffic; or used_traffic fell  data_usage_reset
    the same, and his next plan is gone                         data_reset_by_next
    created_at                                                  user_deleted, user_created

`inbounds`, `links` and `subscription_url` follow from the panel's own configuration, or from the second in which it is asked,
and tell nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from marzhook import event
from marzhook.errors import InvalidError
from marzhook.event import JSON, NewEvent, check_username
from marzhook.user import ACTIVE, MAX_TRAFFIC, ON_HOLD, Thresholds, User, changes

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = 86_400
_COARSE: Final = 16
"""`used` is written anew when it has grown by a sixteenth: of 100,000 busy users that is a few rows a look."""
_HARMLESS: Final = frozenset({"flow", "method", "encryption"})
_PLAIN: Final = ("data_limit_reset_strategy", "note", "auto_delete_in_days", "excluded_inbounds")


@dataclass(frozen=True, slots=True)
class State:
    """A user as far as events tell of him; without credentials, of which only hashes are kept."""

    created: str | None
    status: str
    expire: int | None
    data_limit: int | None
    used: int
    base: int
    """Bytes used before the last reset: it changes with a reset, and with nothing else."""
    plan: JSON
    hold: JSON
    """on_hold_expire_duration, on_hold_timeout."""
    shape: str
    """Hash of the other things that people edit."""
    keys: Mapping[str, str]
    """For each of his proxies the hash of its credentials; without proxies, that of his subscription."""
    days: int | None = None
    """The smallest days-left threshold that was announced for this expiry."""

    def text(self) -> str:
        return json.dumps([getattr(self, name) for name in State.__slots__], separators=(",", ":"))


def state_of_text(text: str) -> State:
    """What `State.text` wrote."""
    return State(*json.loads(text))


def read(fields: Mapping[str, JSON]) -> tuple[str, State]:
    """Name and state of a user as the panel's API or webhook shows him. Raises InvalidError."""
    username = check_username(fields.get("username"))
    status = fields.get("status")
    if not isinstance(status, str):
        raise InvalidError("status is missing", code="invalid_status")
    used = _whole(fields, "used_traffic")
    lifetime = _whole(fields, "lifetime_used_traffic") if fields.get("lifetime_used_traffic") is not None else used
    admin, proxies = fields.get("admin"), fields.get("proxies")
    proxies = proxies if isinstance(proxies, dict) else {}
    shape = [admin.get("username") if isinstance(admin, dict) else None, *(fields.get(name) or None for name in _PLAIN),
             {kind: _part(settings, harmless=True) for kind, settings in proxies.items()}]  # fmt: skip
    keys = {kind: _hash(_part(settings, harmless=False)) for kind, settings in proxies.items()}
    created = fields.get("created_at")
    return username, State(
        created=created if isinstance(created, str) else None,
        status=status,
        expire=_whole(fields, "expire") or None,
        data_limit=_whole(fields, "data_limit") or None,
        used=used,
        base=max(0, lifetime - used),
        plan=fields.get("next_plan") or None,
        hold=[fields.get("on_hold_expire_duration") or None, fields.get("on_hold_timeout") or None],
        shape=_hash(shape),
        keys=keys or {"": _hash(fields.get("subscription_url"))},
    )


def step(
    username: str,
    before: State | None,
    after: State | None,
    *,
    now: datetime,
    thresholds: Thresholds,
    first: bool = False,
) -> tuple[State | None, list[NewEvent]]:
    """What is to be remembered from now on (`before` itself, where nothing is worth it), and what happened since.

    The events' `user` is only a placeholder. `first`: the first look at this user, of which nothing is told.
    """
    if before is not None and after is not None and before.created != after.created:
        gone = step(username, before, None, now=now, thresholds=thresholds)[1]
        kept, new = step(username, None, after, now=now, thresholds=thresholds)
        return kept, gone + new
    if after is not None:
        after = _announced(before, after, now, thresholds)
    events = [] if first else _changes(username, before, after, now, thresholds)
    if before is not None and after is not None and not events and _is_much_the_same(before, after):
        return before, []
    return after, events


def applied(action: str, before: State, after: State, days_left: JSON = None) -> State:
    """`before` with what this action of the panel's webhook tells taken from `after`; what it does not tell stays, and is
    polling's to tell where the webhook keeps silent."""
    kept: dict[str, Any] = {"days": None if before.expire != after.expire else before.days}
    if action == event.USER_UPDATED:
        held: dict[str, Any] = {} if _has_begun(before, after) else {"expire": after.expire, "hold": after.hold, **kept}
        return replace(before, shape=after.shape, keys=after.keys, data_limit=after.data_limit, plan=after.plan, **held)
    if action in (event.USER_ENABLED, event.USER_DISABLED, event.USER_LIMITED, event.USER_EXPIRED):
        begun: dict[str, Any] = (
            {"expire": after.expire, "hold": after.hold, **kept} if _has_begun(before, after) else {}
        )
        return replace(before, status=after.status, **begun)
    if action == event.DATA_USAGE_RESET:
        return replace(before, used=after.used, base=after.base)
    if action == event.DATA_RESET_BY_NEXT:
        return replace(
            before, used=after.used, base=after.base, plan=after.plan, data_limit=after.data_limit, expire=after.expire, **kept
        )  # fmt: skip
    if action == event.SUBSCRIPTION_REVOKED:
        return replace(before, keys=after.keys)
    if action == event.REACHED_USAGE_PERCENT:
        return replace(before, used=max(before.used, after.used))
    if action == event.REACHED_DAYS_LEFT and type(days_left) is int:
        return replace(before, days=days_left if before.days is None else min(before.days, days_left))
    return before


# -- parts of the above


def _changes(
    username: str, before: State | None, after: State | None, now: datetime, thresholds: Thresholds
) -> list[NewEvent]:
    then = None if before is None else _user(username, before)
    if after is None or before is None:
        return changes(then, None if after is None else _user(username, after), by=None, now=now, thresholds=thresholds)
    revoked, reset = _is_revoked(before, after), after.base != before.base or after.used < before.used
    planned = reset and before.plan is not None and after.plan is None
    changed = _user(
        username, after,
        edited_at=now if _is_edited(before, after, revoked=revoked, planned=planned) else None,
        sub_revoked_at=now if revoked else None,
        traffic_reset_at=now if reset else None,
        plan_changed_at=now if planned else None,
    )  # fmt: skip
    return changes(then, changed, by=None, now=now, thresholds=thresholds)


def _user(username: str, state: State, **times: Any) -> User:
    return User(
        username, _EPOCH, status=state.status, expire=state.expire, data_limit=state.data_limit, used_traffic=state.used,
        announced_days_left=state.days, **times,
    )  # fmt: skip


def _is_edited(before: State, after: State, *, revoked: bool, planned: bool) -> bool:
    if before.shape != after.shape or (before.keys != after.keys and not revoked):
        return True
    # The next plan brings a limit and an expiry with it, and the first traffic an expiry.
    if not planned and (before.data_limit, before.plan) != (after.data_limit, after.plan):
        return True
    return not planned and not _has_begun(before, after) and (before.expire, before.hold) != (after.expire, after.hold)


def _has_begun(before: State, after: State) -> bool:
    return before.status == ON_HOLD and after.status != ON_HOLD and after.expire is not None


def _is_revoked(before: State, after: State) -> bool:
    return before.keys.keys() == after.keys.keys() and all(before.keys[kind] != key for kind, key in after.keys.items())


def _is_much_the_same(before: State, after: State) -> bool:
    if before.used != after.used and (not before.used or after.used - before.used >= before.used // _COARSE):
        return False
    return replace(before, used=after.used) == after


def _announced(before: State | None, after: State, now: datetime, thresholds: Thresholds) -> State:
    days = before.days if before is not None and before.expire == after.expire else None
    if after.expire is not None and after.status == ACTIVE:
        left = after.expire - now.timestamp()
        reached = min((day for day in thresholds.days_left if left <= day * _DAY), default=None)
        if reached is not None and (days is None or reached < days):
            days = reached
    return replace(after, days=days)


def _whole(fields: Mapping[str, JSON], name: str) -> int:
    value: Any = fields.get(name) or 0
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value <= MAX_TRAFFIC:
        raise InvalidError(f"{name} is no amount", code=f"invalid_{name}")
    return value


def _part(settings: JSON, *, harmless: bool) -> JSON:
    if not isinstance(settings, dict):
        return None if harmless else settings
    return {name: value or None for name, value in settings.items() if (name in _HARMLESS) == harmless}


def _hash(value: JSON) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
