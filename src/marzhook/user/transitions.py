"""How people, time and traffic change users: each transition takes a user and the time, and returns a new user."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from marzhook.admin import Admin
from marzhook.clock import from_unix
from marzhook.errors import InvalidUserError
from marzhook.event import JSON
from marzhook.user.model import (
    ACTIVE,
    DAY,
    DISABLED,
    DURATIONS_BELOW,
    EXPIRED,
    LIMITED,
    MAX_TRAFFIC,
    ON_HOLD,
    RESET_DAYS,
    NextPlan,
    Thresholds,
    User,
)  # fmt: skip

_TICK: Final = timedelta(microseconds=1)

# -- what people do


def created(fields: Mapping[str, Any], now: datetime, admin: Admin | None) -> User:
    """A new user from checked fields (attributes of User); `admin` owns him. His subscription address is made up."""
    user = User(
        **{"subscription_url": _new_subscription(), **fields}, created_at=now, status_changed_at=now, admin=admin
    )
    return user if user.status != ON_HOLD else replace(user, expire=None)


def modified(user: User, fields: Mapping[str, Any], now: datetime) -> User:
    """The user with these checked fields changed. Whether he is then limited or expired is for `assessed` to say.

    Raises InvalidUserError when he is put on hold without an on_hold_expire_duration.
    """
    values = dict(fields)
    status = values.pop("status", user.status)
    if values.get("expire", user.expire) != user.expire:
        values["announced_days_left"] = None
    after = replace(user, **values, edited_at=_tick(user.edited_at, now))
    if status == user.status:
        return after
    if status == ON_HOLD:
        if after.on_hold_expire_duration is None:
            raise InvalidUserError(
                {"status": "Value error, on_hold needs an on_hold_expire_duration above 0 (seconds)"}
            )
        # His time has not begun, so it cannot have an end.
        return _turned(replace(after, expire=None, announced_days_left=None), ON_HOLD, now)
    if status == ACTIVE and _is_waiting(user):
        return _activated(after, now, keep_expire="expire" in fields)
    return _turned(after, status, now)


def owned(user: User, admin: Admin, now: datetime) -> User:
    """The user, given to `admin`."""
    return replace(user, admin=admin, edited_at=_tick(user.edited_at, now))


def reset(user: User, now: datetime) -> User:
    """Nothing used; a new traffic period begins now."""
    return replace(user, used_traffic=0, traffic_reset_at=_tick(user.traffic_reset_at, now))


def revoked(user: User, now: datetime) -> User:
    """Everything that lets him in is made anew: ids and passwords of proxies, and the subscription address."""
    return replace(
        user,
        proxies={name: _renewed(settings) for name, settings in user.proxies.items()},
        subscription_url=_new_subscription(),
        sub_revoked_at=_tick(user.sub_revoked_at, now),
    )


def disabled(user: User, now: datetime) -> User:
    """Disabled, in bulk: nothing else about him is edited."""
    return _turned(user, DISABLED, now) if user.status in (ACTIVE, ON_HOLD) else user


def activated(user: User, now: datetime) -> User:
    """A disabled user is active again, in bulk; on hold, if he was and has not begun yet."""
    if user.status != DISABLED:
        return user
    if _is_waiting(user):
        # No action is named after on_hold, so that receivers learn of it this counts as an edit.
        return replace(_turned(user, ON_HOLD, now), edited_at=_tick(user.edited_at, now))
    return _turned(user, ACTIVE, now)


# -- what time and traffic do


def charged(user: User, amount: int, now: datetime) -> User:
    """The user after `amount` bytes more; the first ones begin the time of a user on hold."""
    if amount <= 0:
        return user
    user = replace(
        user,
        used_traffic=min(user.used_traffic + amount, MAX_TRAFFIC),
        lifetime_used_traffic=min(user.lifetime_used_traffic + amount, MAX_TRAFFIC),
        online_at=now,
    )
    return _activated(user, now) if user.status == ON_HOLD else user


def assessed(user: User, now: datetime, thresholds: Thresholds) -> User:
    """What time and traffic make of the user by `now`. A disabled user stays as he is.

    Expiry weighs more than the limit: who is past both is expired, since a higher limit would not help him.
    """
    at = now.timestamp()
    if user.status == ON_HOLD and user.on_hold_timeout is not None and user.on_hold_timeout <= now:
        user = _activated(user, now)
    if user.status in (DISABLED, ON_HOLD):
        return user
    if not _is_expired(user, at):
        user = _reset_by_period(user, now)
    if user.next_plan is not None and _plan_fires(user, user.next_plan, at):
        user = _on_next_plan(user, user.next_plan, now)
    status = EXPIRED if _is_expired(user, at) else LIMITED if _is_limited(user) else ACTIVE
    user = _turned(user, status, now)
    return _reminded(user, at, thresholds) if status == ACTIVE else user


def is_forgotten(user: User, now: datetime) -> bool:
    """Whether the user expired so long ago that he is to be deleted."""
    at = _forgotten_at(user)
    return at is not None and at <= now


def next_review_at(user: User, thresholds: Thresholds) -> datetime | None:
    """Before this time, time alone changes nothing about the user; None: it never does."""
    if user.status == DISABLED:
        return None
    if user.status == ON_HOLD:
        return user.on_hold_timeout
    if user.status == EXPIRED:
        return _forgotten_at(user)
    times: list[datetime] = []
    if user.expire is not None:
        times.append(from_unix(user.expire))
        if user.status == ACTIVE:
            ahead = [
                d for d in thresholds.days_left if user.announced_days_left is None or d < user.announced_days_left
            ]
            if ahead:
                times.append(from_unix(max(0, user.expire - max(ahead) * DAY)))
    period = RESET_DAYS[user.data_limit_reset_strategy]
    if period is not None:
        times.append((user.traffic_reset_at or user.created_at) + timedelta(days=period))
    return min(times, default=None)


def next_review_traffic(user: User, thresholds: Thresholds) -> int | None:
    """Below this used_traffic, more traffic changes nothing but the counters; None: it never does."""
    if user.status == ON_HOLD:
        return 0
    if user.data_limit is None or user.status == LIMITED:
        return None
    if user.status == EXPIRED:
        waits_for_limit = user.next_plan is not None and not _is_limited(user)
        return user.data_limit if waits_for_limit else None
    # Rounded up: 80 % of 7 bytes are reached with the sixth.
    steps = [
        -(-percent * user.data_limit // 100) for percent in thresholds.usage_percents if not user.has_used(percent)
    ]
    if user.status != DISABLED:
        # Of a disabled user the thresholds are told, and nothing else becomes of him.
        steps.append(user.data_limit)
    return min(steps, default=None)


# -- parts of the above


def _is_waiting(user: User) -> bool:
    """On hold, or disabled while he was."""
    if user.status == DISABLED:
        return user.on_hold_expire_duration is not None and user.expire is None and user.online_at is None
    return user.status == ON_HOLD


def _is_expired(user: User, at: float) -> bool:
    return user.expire is not None and user.expire <= at


def _is_limited(user: User) -> bool:
    return user.data_limit is not None and user.used_traffic >= user.data_limit


def _plan_fires(user: User, plan: NextPlan, at: float) -> bool:
    reached = _is_expired(user, at), _is_limited(user)
    return any(reached) if plan.fire_on_either else all(reached)


def _on_next_plan(user: User, plan: NextPlan, now: datetime) -> User:
    limit = plan.data_limit
    if limit is not None and plan.add_remaining_traffic and user.data_limit is not None:
        limit += max(0, user.data_limit - user.used_traffic)
    expire = plan.expire
    if expire is not None and expire < DURATIONS_BELOW:
        expire += int(now.timestamp())
    user = replace(
        user, data_limit=limit, expire=expire, next_plan=None, announced_days_left=None,
        plan_changed_at=_tick(user.plan_changed_at, now),
    )  # fmt: skip
    return reset(user, now)


def _reset_by_period(user: User, now: datetime) -> User:
    """One reset, however many periods went by; the next period begins where it would have begun anyway."""
    days = RESET_DAYS[user.data_limit_reset_strategy]
    if days is None:
        return user
    period = timedelta(days=days)
    began = user.traffic_reset_at or user.created_at
    periods = (now - began) // period
    return replace(user, used_traffic=0, traffic_reset_at=began + periods * period) if periods >= 1 else user


def _reminded(user: User, at: float, thresholds: Thresholds) -> User:
    if user.expire is None:
        return user
    reached = min((d for d in thresholds.days_left if user.expire - at <= d * DAY), default=None)
    if reached is None or (user.announced_days_left is not None and user.announced_days_left <= reached):
        return user
    return replace(user, announced_days_left=reached)


def _activated(user: User, now: datetime, *, keep_expire: bool = False) -> User:
    """Off hold: his time begins."""
    if user.on_hold_expire_duration is not None and not keep_expire:
        expire = int(now.timestamp()) + user.on_hold_expire_duration
        user = replace(user, expire=expire, announced_days_left=None)
    return _turned(replace(user, on_hold_expire_duration=None, on_hold_timeout=None), ACTIVE, now)


def _turned(user: User, status: str, now: datetime) -> User:
    return user if user.status == status else replace(user, status=status, status_changed_at=now)


def _forgotten_at(user: User) -> datetime | None:
    if user.status != EXPIRED or user.auto_delete_in_days is None or user.auto_delete_in_days < 0:
        return None
    return (user.status_changed_at or user.created_at) + timedelta(days=user.auto_delete_in_days)


def _renewed(settings: JSON) -> JSON:
    if not isinstance(settings, Mapping):
        return settings
    fresh = dict(settings)
    if "id" in fresh:
        fresh["id"] = str(uuid.uuid4())
    if "password" in fresh:
        fresh["password"] = secrets.token_urlsafe(16)
    return fresh


def _new_subscription() -> str:
    return "/sub/" + secrets.token_urlsafe(24)


def _tick(previous: datetime | None, now: datetime) -> datetime:
    """`now`, but never the same as last time: that it differs is how `changes` sees that it happened."""
    return now + _TICK if now == previous else now
