"""What a user is, and how the panel shows one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from marzhook.admin import Admin
from marzhook.event import JSON

ACTIVE: Final = "active"
DISABLED: Final = "disabled"
LIMITED: Final = "limited"
EXPIRED: Final = "expired"
ON_HOLD: Final = "on_hold"
STATUSES: Final = (ACTIVE, DISABLED, LIMITED, EXPIRED, ON_HOLD)

RESET_DAYS: Final[dict[str, int | None]] = {"no_reset": None, "day": 1, "week": 7, "month": 30, "year": 365}
"""How many days the panel counts for each data_limit_reset_strategy."""

DAY: Final = 86_400
MAX_TRAFFIC: Final = 2**62
"""Bytes at which counters stop, so that no sum overflows the database's integers."""
DURATIONS_BELOW: Final = 1_000_000_000
"""A next plan's `expire` below this is a duration in seconds, else Unix seconds (this one was in 2001)."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When to remind: at these percents of the data limit, at these many days before expiry."""

    usage_percents: tuple[int, ...] = (80,)
    days_left: tuple[int, ...] = (3,)


@dataclass(frozen=True, slots=True)
class NextPlan:
    """What takes over when the present plan is used up. None means unlimited."""

    data_limit: int | None = None
    expire: int | None = None
    """Seconds from then where it is below DURATIONS_BELOW, else Unix seconds."""
    add_remaining_traffic: bool = False
    fire_on_either: bool = True

    def shown(self) -> dict[str, JSON]:
        return {
            "data_limit": self.data_limit,
            "expire": self.expire,
            "add_remaining_traffic": self.add_remaining_traffic,
            "fire_on_either": self.fire_on_either,
        }


@dataclass(frozen=True, slots=True)
class User:
    """A user of the panel. Amounts are bytes; `expire` is Unix seconds; None in either means unlimited."""

    username: str
    created_at: datetime
    id: int = 0
    """0: not stored yet."""
    status: str = ACTIVE
    proxies: Mapping[str, JSON] = field(default_factory=dict, repr=False)
    inbounds: Mapping[str, JSON] = field(default_factory=dict)
    excluded_inbounds: Mapping[str, JSON] = field(default_factory=dict)
    links: tuple[str, ...] = field(default=(), repr=False)
    subscription_url: str = field(default="", repr=False)
    expire: int | None = None
    data_limit: int | None = None
    data_limit_reset_strategy: str = "no_reset"
    used_traffic: int = 0
    lifetime_used_traffic: int = 0
    note: str | None = None
    sub_updated_at: datetime | None = None
    sub_last_user_agent: str | None = None
    online_at: datetime | None = None
    on_hold_expire_duration: int | None = None
    """Seconds that the user lasts once he is active."""
    on_hold_timeout: datetime | None = None
    """Then he is made active, traffic or not."""
    auto_delete_in_days: int | None = None
    """Days from expiry to deletion; None or negative: never."""
    next_plan: NextPlan | None = None
    admin: Admin | None = None
    edited_at: datetime | None = None
    status_changed_at: datetime | None = None
    traffic_reset_at: datetime | None = None
    """When the current traffic period began; None: with the user."""
    sub_revoked_at: datetime | None = None
    plan_changed_at: datetime | None = None
    announced_days_left: int | None = None
    """The smallest days-left threshold that was announced for this expiry."""

    def shown(self) -> dict[str, JSON]:
        """As the panel's API and events show a user, in the order of its keys; with credentials."""
        return {
            "proxies": self.proxies,
            "expire": self.expire,
            "data_limit": self.data_limit,
            "data_limit_reset_strategy": self.data_limit_reset_strategy,
            "inbounds": self.inbounds,
            "note": self.note,
            "sub_updated_at": _naive(self.sub_updated_at),
            "sub_last_user_agent": self.sub_last_user_agent,
            "online_at": _naive(self.online_at),
            "on_hold_expire_duration": self.on_hold_expire_duration,
            "on_hold_timeout": _naive(self.on_hold_timeout),
            "auto_delete_in_days": self.auto_delete_in_days,
            "next_plan": self.next_plan.shown() if self.next_plan else None,
            "username": self.username,
            "status": self.status,
            "used_traffic": self.used_traffic,
            "lifetime_used_traffic": self.lifetime_used_traffic,
            "created_at": _naive(self.created_at),
            "links": list(self.links),
            "subscription_url": self.subscription_url,
            "excluded_inbounds": self.excluded_inbounds,
            "admin": self.admin.shown() if self.admin else None,
        }

    def has_used(self, percent: int) -> bool:
        """Whether that much of the data limit is used; exact, and never where there is no limit."""
        return self.data_limit is not None and self.used_traffic * 100 >= percent * self.data_limit


def _naive(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).replace(tzinfo=None).isoformat()
