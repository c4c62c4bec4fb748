"""Which events a change of a user makes."""

from __future__ import annotations

from datetime import datetime

from marzhook import event
from marzhook.admin import Admin
from marzhook.event import JSON, NewEvent
from marzhook.user.model import ACTIVE, DAY, DISABLED, EXPIRED, LIMITED, Thresholds, User


def changes(
    before: User | None, after: User | None, *, by: Admin | None, now: datetime, thresholds: Thresholds
) -> list[NewEvent]:
    """The events that the step from `before` to `after` makes, in their order; None is a user who does not exist.

    `by` is who did it, None where time or traffic did; `now` is when. Details follow the panel's order of keys, and
    their snapshot is the final state.
    """
    if after is None:
        if before is None:
            return []
        owner = before.admin.username if before.admin else None
        return [NewEvent(event.USER_DELETED, before.username, {"by": by.shown() if by else None}, owner)]
    author = {"by": by.shown() if by else None}
    user = {"user": after.shown()}
    found: list[tuple[str, dict[str, JSON]]] = []
    if before is None:
        found.append((event.USER_CREATED, author | user))
    else:
        if before.edited_at != after.edited_at:
            found.append((event.USER_UPDATED, author | user))
        if before.sub_revoked_at != after.sub_revoked_at:
            found.append((event.SUBSCRIPTION_REVOKED, author | user))
        if before.plan_changed_at != after.plan_changed_at:
            found.append((event.DATA_RESET_BY_NEXT, user))
        elif before.traffic_reset_at != after.traffic_reset_at:
            found.append((event.DATA_USAGE_RESET, author | user))
    # A new user is active or on hold; anything else is news.
    if after.status != (before.status if before else ACTIVE):
        if after.status == ACTIVE:
            found.append((event.USER_ENABLED, author | user))
        elif after.status == DISABLED:
            found.append((event.USER_DISABLED, author | user | {"reason": None}))
        elif after.status == LIMITED:
            found.append((event.USER_LIMITED, user))
        elif after.status == EXPIRED:
            found.append((event.USER_EXPIRED, user))
    if after.status in (ACTIVE, DISABLED) and any(
        after.has_used(percent) and not _was_told(before, percent) for percent in thresholds.usage_percents
    ):
        assert after.data_limit
        found.append(
            (event.REACHED_USAGE_PERCENT, user | {"used_percent": after.used_traffic * 100 / after.data_limit})
        )
    if _announced_more(before, after):
        assert after.expire is not None
        # A minute's grace: announced at 3 days less a moment, it still says 3.
        found.append((event.REACHED_DAYS_LEFT, user | {"days_left": int(after.expire - now.timestamp() + 60) // DAY}))
    return [NewEvent(action, after.username, detail) for action, detail in found]


def _was_told(before: User | None, percent: int) -> bool:
    """Whether it is known that he has used so much. Who comes back after a limit or an expiry begins anew: he may have
    crossed it in one step with the limit, or while he was neither active nor disabled, when nothing is said of it."""
    return before is not None and before.status not in (LIMITED, EXPIRED) and before.has_used(percent)


def _announced_more(before: User | None, after: User) -> bool:
    if after.announced_days_left is None or after.expire is None:
        return False
    if before is None or before.announced_days_left is None or before.expire != after.expire:
        return True
    return after.announced_days_left < before.announced_days_left
