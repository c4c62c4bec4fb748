"""What people are told about an endpoint that fails, and when. Pure.

An endpoint fails from the moment its breaker opens until something is accepted again. After 15 minutes its owner hears of
it, then at 50, 70 and 90 % of the way to being disabled, and when it is disabled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from marzhook.endpoint import Endpoint, masked_url
from marzhook.event import JSON, NewEvent

FAILING: Final = "endpoint_failing"
DISABLED: Final = "endpoint_disabled"
RECOVERED: Final = "endpoint_recovered"
STALLED: Final = "deliveries_stalled"
OPERATOR_ACTIONS: Final = (FAILING, DISABLED, RECOVERED, STALLED)

DISABLED_AFTER = timedelta(days=5)
_STAGES: Final = (
    (timedelta(minutes=15), FAILING),
    (DISABLED_AFTER * 0.5, FAILING),
    (DISABLED_AFTER * 0.7, FAILING),
    (DISABLED_AFTER * 0.9, FAILING),
    (DISABLED_AFTER, DISABLED),
)
LAST_STAGE: Final = len(_STAGES)
REASON: Final = "nothing was accepted for 5 days"
GONE: Final = "the receiver answered that it is gone (410)"


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell, after which the endpoint is in `stage`."""

    stage: int
    action: str


def notice(failing_since: datetime, stage: int, now: datetime) -> Notice | None:
    """What is to be told now to people who know of the first `stage` stages; of several at once, the latest."""
    reached = sum(now - failing_since >= after for after, _ in _STAGES)
    return Notice(reached, _STAGES[reached - 1][1]) if reached > stage else None


def event(action: str, endpoint: Endpoint, now: datetime, why: str = "") -> NewEvent:
    """The event that tells it. Its username is `endpoint-<id>`, so that one endpoint's notices stay in order."""
    detail: dict[str, JSON] = {
        "endpoint": {"id": endpoint.id, "name": endpoint.name, "kind": endpoint.kind, "url": masked_url(endpoint.url)}
    }
    since = endpoint.failing_since
    if since is not None:
        detail |= _times(since, now, action)
    if why:
        detail["reason"] = why
    return NewEvent(action, f"endpoint-{endpoint.id}", detail)


def _times(since: datetime, now: datetime, action: str) -> Mapping[str, JSON]:
    times: dict[str, JSON] = {"failing_since": since.timestamp()}
    if action == FAILING:
        times["disabled_at"] = (since + DISABLED_AFTER).timestamp()
        times["share_of_way"] = round((now - since) / DISABLED_AFTER, 2)
    return times
